"""`make release`: what it builds, twice the same, and what it refuses. The boards have synthetic MicroPython files, but
for the C3, which is booted."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import tools
from board import ROOT, Board, missing
from made import FACTORY, NVS, VFS, made_esp, made_uf2, table
from tools import ToolError, boards, firmware, image, release

VERSION = tools.version()
BASES = {"rpi_pico_w": made_uf2(), "esp32_c3": made_esp("esp32c3", table(NVS, FACTORY, VFS))}
NEW = f"## {VERSION} - 2030-01-01\n\n### Added\n\n- This."
TIME = 1_700_000_001  # of the commit


def git(tree: Path, *words: str) -> str:
    environment = os.environ | {"GIT_AUTHOR_DATE": f"{TIME} +0000", "GIT_COMMITTER_DATE": f"{TIME} +0000"}
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words]
    return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files of this one, whose boards are those of BASES, another that can't be released, and
    the everyday board; its version is ready for a release."""
    tree = tmp_path_factory.mktemp("origin")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git clone")
    for name in listed.stdout.splitlines():
        another = name.startswith("board/") and name.split("/")[1] not in {*BASES, "unix", "sparkfun_thingplus_rp2350"}
        if not another and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    for name, base in BASES.items():
        facts = boards.load(name)
        facts["firmware"] = [{**facts["firmware"][0], "sha256": hashlib.sha256(base).hexdigest()}]
        del facts["emulator"]
        (tree / f"board/{name}/board.json").write_text(json.dumps(facts))
    (tree / "CHANGELOG.md").write_text(f"# Changelog\n\n{NEW}\n\n## {VERSION}9 - 2029-01-01\n\n- Old.\n")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "Release")
    return tree


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", str(origin), "clone")
    return tmp_path / "clone"


def make_release(tree: Path, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Make a release with MicroPython's files of BASES in the folder `cache`."""
    (cache / "firmware").mkdir(parents=True, exist_ok=True)
    for name, base in BASES.items():
        (cache / "firmware" / boards.load(name)["firmware"][0]["file"]).write_bytes(base)
    everything = os.environ | {"MICROPYTHON_TFTPD_CACHE": str(cache), **environment}
    command = [sys.executable, "-m", "tools.release"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=100, env=everything)


def refused(tree: Path, cache: Path) -> str:
    """The one line of a release that must fail; nothing is left of it."""
    result = make_release(tree, cache)
    assert result.returncode == 1 and result.stdout == "" and not (tree / "build").exists(), result
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_builds_give_the_same_bytes(origin: Path, tmp_path: Path):
    made = []
    for name, zone, mask in ("a", "UTC", 0o022), ("another-folder", "Asia/Tokyo", 0o002):
        git(tmp_path, "clone", "-q", str(origin), name)
        before = os.umask(mask)
        try:
            result = make_release(tmp_path / name, tmp_path / "cache", TZ=zone, PYTHONHASHSEED=str(mask))
        finally:
            os.umask(before)
        assert result.returncode == 0, result.stderr
        made.append(contents(tmp_path / name / "build/release"))
        time.sleep(2.1)  # a zip file counts in steps of two seconds
    first, second = made
    images = {"rpi_pico_w": f"micropython-tftpd-{VERSION}-rpi_pico_w.uf2"}
    images["esp32_c3"] = f"micropython-tftpd-{VERSION}-esp32_c3.bin"
    packages = {f"micropython_tftpd-{VERSION}-py3-none-any.whl", f"micropython_tftpd-{VERSION}.tar.gz"}
    texts = {"LICENSES.txt", "NOTES.md", "SHA256SUMS"}
    assert first.keys() == {*images.values(), *packages, *texts, f"micropython-tftpd-{VERSION}-mpy.zip"}
    assert [name for name in first if first[name] != second.get(name)] == []

    listed = "".join(f"{hashlib.sha256(first[name]).hexdigest()}  {name}\n" for name in sorted(first.keys() - texts))
    sums = first["SHA256SUMS"].decode()
    assert sums.replace(f"{hashlib.sha256(first['LICENSES.txt']).hexdigest()}  LICENSES.txt\n", "") == listed
    for board, name in images.items():
        path = tmp_path / "a/build/release" / name
        files = image.files_in(firmware.read_base(path.read_bytes(), path))
        assert files["/settings.json"] == b"{}" and files["/files/hello.txt"], f"{board}: no settings, so no secrets"
    notes = first["NOTES.md"].decode()
    assert notes.startswith(f"{NEW}\n\n## The images\n") and "Old" not in notes
    assert "| rpi_pico_w | v1.26.1 | not booted |" in notes
    assert "| sparkfun_thingplus_rp2350 | | no image: the SHA-256 of MicroPython v1.26.1 for it is not known |" in notes
    assert re.search(r"\bhatchling==\S+ .*\bmpy-cross==\S+ ", notes)
    assert b"Damien P. George" in first["LICENSES.txt"]
    with zipfile.ZipFile(tmp_path / "a/build/release" / f"micropython_tftpd-{VERSION}-py3-none-any.whl") as wheel:
        assert {entry.date_time for entry in wheel.infolist()} == {time.gmtime(TIME - 1)[:6]}
        assert "mptftpd/release.py" not in wheel.namelist() and "mptftpd/image.py" in wheel.namelist()


def test_a_tree_that_is_not_clean_is_refused(clone: Path, tmp_path: Path):
    (clone / "forgotten.py").write_text("")
    assert refused(clone, tmp_path) == "the tree is not clean: commit or remove forgotten.py"
    with (clone / "boot.py").open("a") as file:
        file.write("# changed\n")
    assert refused(clone, tmp_path) == "the tree is not clean: commit or remove boot.py and 1 more"


def test_versions_that_differ_are_refused(clone: Path, tmp_path: Path):
    git(clone, "tag", "v9.9.9")
    assert refused(clone, tmp_path) == (
        f"this commit has the tag v9.9.9, but firmware/tftpd/__init__.py the version {VERSION}"
    )
    git(clone, "tag", "-d", "v9.9.9")
    for file, old, new in (
        ("package.json", f'"version": "{VERSION}"', '"version": "9.9.9"'),
        ("firmware/manifest.py", f'version="{VERSION}"', 'version="9.9.9"'),
        ("CHANGELOG.md", f"## {VERSION}", "## Unreleased"),
    ):
        text = (clone / file).read_text()
        assert old in text
        (clone / file).write_text(text.replace(old, new))
        git(clone, "commit", "-qam", "Wrong")
        said = refused(clone, tmp_path)
        if file == "CHANGELOG.md":
            assert said == f'CHANGELOG.md has no section "## {VERSION}": give what is unreleased that title'
        else:
            assert said == f"{file} has the version 9.9.9, but firmware/tftpd/__init__.py {VERSION}"
        git(clone, "reset", "-q", "--hard", "HEAD~")


def test_outside_of_a_clone_it_is_refused(clone: Path, tmp_path: Path):
    clone.joinpath(".git").rename(tmp_path / "away")
    assert refused(clone, tmp_path).startswith("a release is made in a clone of the repository: fatal: not a git")


def test_no_folder_but_an_earlier_release_is_replaced(clone: Path, tmp_path: Path):
    (clone / "build/release").mkdir(parents=True)
    (clone / "build/release/mine").write_text("mine")
    result = make_release(clone, tmp_path)
    assert result.returncode == 1 and "is no earlier release" in result.stderr
    assert (clone / "build/release/mine").read_text() == "mine"


def test_a_board_whose_emulator_is_missing_must_be_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("QEMU_ESP32", str(tmp_path))
    with pytest.raises(ToolError, match=r"has no qemu-system-riscv32.* say so: NOT_BOOTED=esp32_c3"):
        release._check_emulators({"esp32_c3", "rpi_pico_w"})
    monkeypatch.setattr(release, "_check_clone", lambda: TIME)
    monkeypatch.setattr(release, "_notes", lambda *_: "")
    assert release.main(["--output", str(tmp_path / "out"), "--not-booted", "um_pros3"]) == 1
    assert "--not-booted um_pros3: that board has no emulator" in capsys.readouterr().err


@pytest.mark.skipif(bool(missing("esp32_c3")), reason=missing("esp32_c3"))
def test_an_image_is_booted_before_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "image.bin"
    path.write_bytes(image.make(boards.load("esp32_c3"), ROOT / "files", {}).data)
    release._boot("esp32_c3", path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ToolError, match=r"image\.bin does not boot: error: .* is truncated"):
        release._boot("esp32_c3", path)


def test_a_board_that_serves_other_files_or_another_version_is_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Board(files=ROOT / "files") as board:
        release._check_served("unix", board.ready)
        monkeypatch.setattr(release, "version", lambda: "9.9.9")
        with pytest.raises(ToolError, match=r"is not of version 9\.9\.9, but "):
            release._check_served("unix", board.ready)
        (tmp_path / "more.txt").write_text("more")
        monkeypatch.setattr(release, "_FILES", tmp_path)
        with pytest.raises(ToolError, match=r"does not serve its files: hello\.txt: only on the board"):
            release._check_served("unix", board.ready)
    with pytest.raises(ToolError, match=r"does not join the emulator's Wi-Fi: set-up http"):
        release._check_served("unix", "set-up http://192.168.4.1/")
