"""`tools image --card`: a FAT32 card of a folder, as a file and on a device; what is refused."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from board import ROOT
from tools import ToolError, card

needs_mtools = pytest.mark.skipif(not shutil.which("mformat"), reason="no mtools (Debian: apt install mtools)")


def tools(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools", "image", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=typed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "boot"
    (top / "A Long Folder" / "deeper").mkdir(parents=True)
    (top / "A Long Folder" / "deeper" / "Kernel 8.img").write_bytes(b"kernel" * 100_000)
    (top / "empty").write_bytes(b"")
    (top / ".hidden").write_bytes(b"hidden")
    return top


@needs_mtools
def test_a_card_has_the_files_under_their_long_names_and_is_fat32(folder: Path, tmp_path: Path):
    image = tmp_path / "card.img"
    result = tools("--card", str(folder), "-o", str(image))
    assert result.returncode == 0 and "600,006 bytes of files" in result.stdout, result.stderr + result.stdout
    assert image.stat().st_size == 256 << 20 and image.stat().st_blocks * 512 < 8 << 20  # mostly a hole
    with image.open("rb") as file:
        assert file.read(90)[82:87] == b"FAT32"
    command = ["mcopy", "-i", str(image), "::/A Long Folder/deeper/Kernel 8.img", "-"]
    assert subprocess.run(command, capture_output=True).stdout == b"kernel" * 100_000
    listing = subprocess.run(["mdir", "-b", "-/", "-i", str(image), "::"], capture_output=True, text=True).stdout
    assert "::/empty" in listing and "hidden" not in listing


@needs_mtools
@pytest.mark.parametrize("size, cluster", [(64 << 20, 1), (1 << 30, 16), (4 << 30, 64), (32 << 30, 64)])
def test_clusters_are_as_large_as_fat32_and_the_size_allow(folder: Path, tmp_path: Path, size: int, cluster: int):
    card.make(folder, tmp_path / "card.img", size)
    with (tmp_path / "card.img").open("rb") as file:
        assert file.read(14)[13] == cluster


@pytest.mark.parametrize(
    "name, said",
    [
        ("a:b", "FAT has no such names"),
        ("dot.", "FAT has no such names"),
        ("Grüße", "but of ASCII letters"),
        ("EMPTY", "differ only in case"),
    ],
)
def test_what_fat_can_not_hold_is_refused_in_one_line(folder: Path, tmp_path: Path, name: str, said: str):
    (folder / name).write_bytes(b"")
    result = tools("--card", str(folder), "-o", str(tmp_path / "card.img"))
    assert result.returncode == 1 and said in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "card.img").exists()


def test_it_wants_a_folder_and_one_place_for_the_card(folder: Path, tmp_path: Path):
    for arguments, said in (
        (("--card", str(folder)), "either -o FILE or --device"),
        (("--card", str(folder), "-o", "x", "--device", "y"), "either -o FILE or --device"),
        (("--card", str(tmp_path / "none"), "-o", str(tmp_path / "x")), "is not a folder"),
        (("--device", "/dev/sdb"), "--device is for --card"),
        (("--card", str(folder), "--device", str(tmp_path / "none")), "no card at"),
        (("--card", str(folder), "--device", str(folder / "empty")), "is no disk"),
        (("--card", str(folder), "--device", "/dev/null"), "is no disk"),
    ):
        result = tools(*arguments)
        assert result.returncode == 1 and said in result.stderr and result.stderr.count("\n") == 1, result.stderr


# A computer with disks: a card sdb with one partition, and the system's sda.


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for disk, removable, sectors, parts in (
        ("sda", 0, 1 << 30, ["sda1"]),
        ("sdb", 1, 1 << 17, ["sdb1"]),
        ("sdc", 1, 0, []),
    ):
        entry = tmp_path / "sys" / disk
        for part in parts:
            (entry / part).mkdir(parents=True)
            (entry / part / "partition").write_text("1\n")
            (tmp_path / "sys" / part / "holders").mkdir(parents=True)
            (tmp_path / "sys" / part / "partition").write_text("1\n")
            (tmp_path / "sys" / part / "dev").write_text("8:17\n" if part == "sdb1" else "8:1\n")
        (entry / "holders").mkdir(parents=True)
        (entry / "dev").write_text("8:0\n")
        (entry / "removable").write_text(f"{removable}\n")
        (entry / "size").write_text(f"{sectors}\n")
        (entry / "device").mkdir()
        (entry / "device" / "model").write_text("CARD READER \n")
    (tmp_path / "mounts").write_text("26 1 259:9 / / rw shared:1 - ext4 /dev/root rw\n")
    (tmp_path / "swaps").write_text("Filename Type\n")
    (tmp_path / "dev").mkdir()
    for name in ("sda", "sdb", "sdb1", "sdc"):
        (tmp_path / "dev" / name).write_bytes(b"")
    monkeypatch.setattr(card, "_SYS", tmp_path / "sys")
    monkeypatch.setattr(card, "_MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(card, "_SWAPS", tmp_path / "swaps")
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    return tmp_path


def write(computer: Path, folder: Path, device: str) -> int:
    return card.run(SimpleNamespace(card=folder, output=None, device=computer / "dev" / device))  # type: ignore[arg-type]


@needs_mtools
def test_a_real_card_is_written_after_a_yes(computer: Path, folder: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=lambda: "yes\n"))
    assert write(computer, folder, "sdb") == 0
    assert "CARD READER, 0.1 GB. All that is on it will be lost." in capsys.readouterr().out
    image = computer / "dev" / "sdb"
    command = ["mcopy", "-i", str(image), "::/A Long Folder/deeper/Kernel 8.img", "-"]
    assert subprocess.run(command, capture_output=True, env={"MTOOLS_SKIP_CHECK": "1"}).stdout == b"kernel" * 100_000


@pytest.mark.parametrize("typed", ["\n", "", "y\n", "no\n"])
def test_nothing_is_written_without_a_yes(computer: Path, folder: Path, monkeypatch, typed: str):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=lambda: typed))
    with pytest.raises(ToolError, match="nothing was written"):
        write(computer, folder, "sdb")
    assert (computer / "dev" / "sdb").read_bytes() == b""


def test_no_disk_of_the_system_and_nothing_mounted_is_written(computer: Path, folder: Path):
    with pytest.raises(ToolError, match="is a disk of this computer"):
        write(computer, folder, "sda")
    with pytest.raises(ToolError, match="is a part of a disk"):
        write(computer, folder, "sdb1")
    with pytest.raises(ToolError, match="there is no card in"):
        write(computer, folder, "sdc")
    for source in (f"0:40 / / rw - btrfs {computer}/dev/sdb1 rw", "8:17 / / rw - ext4 /dev/root rw"):
        (computer / "mounts").write_text(f"26 1 {source}\n")
        with pytest.raises(ToolError, match="sdb1 is mounted"):
            write(computer, folder, "sdb")
    (computer / "mounts").write_text("")
    (computer / "sys" / "sdb1" / "holders" / "dm-0").mkdir()
    with pytest.raises(ToolError, match="is mounted or in use"):
        write(computer, folder, "sdb")
