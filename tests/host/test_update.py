"""`python -m tools image --update`: what is the user's in an earlier image, or in a copy of a board's flash, stays."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from board import ROOT, Board
from client import fetch, store
from command import complain
from made import FACTORY, NVS, VFS, made_esp, made_uf2, table
from tools import ToolError, boards, filesystem, firmware, image, uf2
from tools.__main__ import make_parser

SETTINGS = {
    "ssid": "lab",
    "password": "open sesame",
    "rules": [{"name": "*.cfg", "give": "cfg/{file}"}],
    "root": ["/files", "/more"],
    "write_from": ["10.0.0.0/8"],
}
# What a board has after long use, besides the server that it was made with.
USERS = {
    "/files/hello.txt": b"Hello.\n",
    "/files/deep/er/file.bin": random.Random(1).randbytes(50_000),
    "/files/uploaded": b"by a client",
    "/files/.hidden": b"by mpremote",
    "/files/packed.gz": b"\x1f\x8b",
    "/more/Grüße.txt": b"Umlaute",
    "/notes": b"of the user",
    "/safe": b"",
    "/lib/own.py": b"import tftpd",
    "/lib/package/link.mpy": b"M\x06 another's",
}
OLD = {
    "/boot.py": b"old",
    "/main.py": b"old",
    "/board.json": b'{"transfers": 3}',
    "/settings.json": json.dumps(SETTINGS).encode(),
    "/crash.log": b"Traceback",
    "/.deploy-3": b"half a file",
    "/.uploads/00000007": b"half a file",
    "/lib/link.py": b"goes before link.mpy",
    "/lib/settings.mpy": b"old",
    "/lib/tftpd/gone.mpy": b"of a module that there is no more",
    "/lib/tftpd/page.css": b"from mip",
}
BASES = {
    "rpi_pico_w": lambda: made_uf2(),
    "rpi_pico2_w": lambda: made_uf2("rp2350", (0x180000, 0x280000)),
    "esp32": lambda: made_esp("esp32", table(NVS, FACTORY, VFS)),
    "esp32_c3": lambda: made_esp("esp32c3", table(NVS, FACTORY)),
    "esp32_s3": lambda: made_esp("esp32s3", table(NVS, FACTORY, VFS)),
}


def copied(board: str, folder: Path, files: dict[str, bytes], kind: str = "whole") -> Path:
    """A file with the flash of a board that holds `files`: a copy of the whole, or of a UF2 what is used."""
    facts, data = boards.load(board), BASES[board]()
    base = firmware.read_base(data, "made")
    offset, size = image.place(facts, base)
    lfs = filesystem.build(facts["filesystem"], size, files, folders=["/files/empty", "/.uploads"])
    path = folder / "old"
    if kind == "uf2":
        used = filesystem.used_blocks(facts["filesystem"], lfs)
        path.write_bytes(image._join_uf2(uf2.read(data, "made"), offset, lfs, used))
    elif base.chip.startswith("rp2"):
        path.write_bytes(base.flash.ljust(offset, b"\xff") + lfs)
    else:
        path.write_bytes(image.join_esp(base, offset, lfs, facts["flash_size"]))
    return path


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    compiled = filesystem.compile_firmware(tmp_path_factory.mktemp("compiled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filesystem, "compile_firmware", lambda _: compiled)
        yield


def run(*words: object) -> None:
    """`python -m tools image WORDS`, in this process. Raises ToolError."""
    arguments = make_parser(["image"]).parse_args(["image", *map(str, words)])
    assert arguments.run(arguments) == 0


def update(board: str, base: bytes, old: Path, output: Path, *options: object) -> tuple[dict[str, bytes], list[str]]:
    """Returns the files and folders of the new image."""
    path = output.with_name("base")
    path.write_bytes(base)
    run("--board", board, "--base", path, "--update", old, "-o", output, *options)
    return image._tree(firmware.read_base(output.read_bytes(), output))


def check(files: dict[str, bytes], users: dict[str, bytes], board: str, settings: dict) -> None:
    lib = filesystem.board_files(settings, boards.load(board)["settings"])
    assert {path: data for path, data in files.items() if path not in lib} == users
    assert {path: files[path] for path in lib if path != "/settings.json"} == {
        path: data for path, data in lib.items() if path != "/settings.json"
    }
    assert json.loads(files["/settings.json"]) == settings


@pytest.mark.parametrize(
    ("board", "kind"), [*((board, "whole") for board in BASES), ("rpi_pico_w", "uf2"), ("rpi_pico2_w", "uf2")]
)
def test_all_of_the_user_stays_and_the_old_server_goes(board: str, kind: str, tmp_path: Path):
    old = copied(board, tmp_path, OLD | USERS, kind)
    output = tmp_path / "new"
    files, folders = update(board, BASES[board](), old, output)
    check(files, USERS, board, SETTINGS)
    assert "/files/empty" in folders and "/.uploads" not in folders
    assert output.stat().st_mode & 0o777 == 0o600, "it has a password"
    # The result is an image as any other.
    again, _ = update(board, BASES[board](), output, tmp_path / "again", "--set", "port=70", "--set", "password=null")
    check(again, USERS, board, SETTINGS | {"port": 70, "password": None})


@pytest.mark.parametrize(
    ("board", "larger"),
    [
        ("rpi_pico_w", lambda: made_uf2(place=(0x100000, 0x100000))),
        ("esp32_c3", lambda: made_esp("esp32c3", table(NVS, FACTORY, VFS))),
    ],
)
def test_the_new_micropython_may_have_its_files_elsewhere(board: str, larger: Callable[[], bytes], tmp_path: Path):
    old = copied(board, tmp_path, OLD | USERS)
    files, _ = update(board, larger(), old, tmp_path / "new")
    check(files, USERS, board, SETTINGS)


@pytest.mark.parametrize("seen", [4 << 20, 16 << 20], ids=["header", "detected"])
def test_a_flash_may_be_larger_than_its_header_says(seen: int, tmp_path: Path):
    facts = boards.load("esp32_c3")
    base = firmware.read_base(BASES["esp32_c3"](), "made")
    offset, size = image.place(facts, base, seen)
    lfs = filesystem.build(facts["filesystem"], size, OLD | USERS)
    old = tmp_path / "old"
    old.write_bytes((base.flash.ljust(offset, b"\xff") + lfs).ljust(16 << 20, b"\xff"))
    files, _ = update("esp32_c3", BASES["esp32_c3"](), old, tmp_path / "new", "--flash-size", "16M")
    check(files, USERS, "esp32_c3", SETTINGS)


def test_a_file_that_was_being_replaced_when_the_copy_was_made_is_back(tmp_path: Path):
    aside = {
        "/.uploads/00000001": b"/files/replaced",
        "/.uploads/00000001.old": b"oldest",
        "/.uploads/00000002": b"/files/replaced",
        "/.uploads/00000002.old": b"newest",
        "/.uploads/00000003": b"/files/hello.txt",  # its successor is in place
        "/.uploads/00000003.old": b"old",
        "/.uploads/00000004": b"",  # removed while it was read
        "/.uploads/00000004.old": b"removed",
        "/.uploads/00000005.old": b"without a note",
    }
    files, _ = update("esp32", BASES["esp32"](), copied("esp32", tmp_path, OLD | USERS | aside), tmp_path / "new")
    check(files, USERS | {"/files/replaced": b"newest"}, "esp32", SETTINGS)


def test_files_of_a_folder_are_added_and_go_before_the_earlier_ones(tmp_path: Path):
    (tmp_path / "files").mkdir()
    added = {"hello.txt": b"new", "added": b"added", "uploaded": b"compresses well " * 999}
    for name, data in added.items():
        (tmp_path / "files" / name).write_bytes(data)
    old = copied("esp32", tmp_path, OLD | USERS)
    options = ("--files", tmp_path / "files", "--compress", "auto")
    files, _ = update("esp32", BASES["esp32"](), old, tmp_path / "new", *options)
    assert files.keys() >= {"/files/uploaded.gz", "/files/.hidden"} and "/files/uploaded" not in files
    assert files["/files/hello.txt"] == b"new" and files["/files/added"] == b"added"


def test_other_settings_take_the_place_of_the_earlier_ones(tmp_path: Path):
    old = copied("esp32", tmp_path, OLD | USERS | {"/settings.json": b'{"ssid": "lab", "nosuch": 1}'})
    (tmp_path / "base").write_bytes(BASES["esp32"]())
    said = complain(
        *("image", "--board", "esp32", "--base", tmp_path / "base", "--update", old, "-o", tmp_path / "new.bin")
    )  # as a user sees it
    assert f'{old}: no setting is called "nosuch"' in said and "give others with --settings FILE" in said
    (tmp_path / "settings.json").write_text('{"ssid": "other"}')
    files, _ = update(
        "esp32", BASES["esp32"](), old, tmp_path / "new", "--settings", tmp_path / "settings.json", "--set", "port=70"
    )
    check(files, USERS, "esp32", {"ssid": "other", "port": 70})


def test_a_bad_foreign_or_too_large_earlier_image_is_one_line(tmp_path: Path):
    esp = BASES["esp32"]()

    def bad(old: bytes, board: str = "esp32", base: bytes = esp, *options: object) -> str:
        (tmp_path / "base").write_bytes(base)
        (tmp_path / "bad").write_bytes(old)
        command = ("--board", board, "--base", tmp_path / "base", "--update", tmp_path / "bad")
        with pytest.raises(ToolError) as raised:
            run(*command, "-o", tmp_path / "out", *options)
        assert not (tmp_path / "out").exists()
        assert "\n" not in str(raised.value)
        return str(raised.value)

    good = copied("esp32", tmp_path, OLD | USERS).read_bytes()
    pico = copied("rpi_pico_w", tmp_path, OLD | USERS).read_bytes()
    assert "is not firmware for any supported board" in bad(b"")
    assert "is not firmware for any supported board" in bad(pico[0x12C000:], "rpi_pico_w", made_uf2())
    assert "bad is for the rp2040, but the ESP32 / WROOM has the esp32" in bad(pico)
    assert "bad is for the esp32, but the Pico W has the rp2040" in bad(good, "rpi_pico_w", made_uf2())
    assert "bad has no server in it: give an image" in bad(esp)
    assert "has no server in it" in bad(copied("esp32", tmp_path, {"/main.py": b"another's"}).read_bytes())
    for cut in (len(good) - len(good) // 4, 0x201000):
        assert "truncated or damaged: its filesystem is not whole" in bad(good[:cut])
    assert "is truncated" in bad(good[:0x10010])
    assert "is truncated or damaged: its filesystem is not whole" in bad(
        pico[: 0x12C000 + 8192], "rpi_pico_w", made_uf2()
    )
    assert "bad are not JSON" in bad(copied("esp32", tmp_path, OLD | {"/settings.json": b"{"}).read_bytes())
    large = copied("esp32", tmp_path, OLD | {"/files/large": random.Random(2).randbytes(1_500_000)}).read_bytes()
    said = bad(large, "esp32", made_esp("esp32", table(NVS, FACTORY, ("vfs", 1, 0x81, 0x200000, 0x100000))))
    assert "bytes more than the 1,048,576 bytes of flash" in said
    (tmp_path / "files" / "notes").mkdir(parents=True)
    (tmp_path / "files" / "notes" / "x").write_bytes(b"")
    said = bad(good, "esp32", esp, "--files", tmp_path / "files", "--set", "root=/")
    assert "root must be" in said
    (tmp_path / "files" / "uploaded").mkdir()
    (tmp_path / "files" / "uploaded" / "x").write_bytes(b"")
    assert "has a file where a folder should be" in bad(good, "esp32", esp, "--files", tmp_path / "files")
    with pytest.raises(ToolError, match="-o is missing"):
        run("--board", "esp32", "--update", tmp_path / "bad")


@pytest.mark.timeout(600)
@pytest.mark.genuine("esp32_c3", "rpi_pico_w")
def test_what_a_client_has_uploaded_is_served_after_the_update(
    start: Callable[..., Board], board_name: str, tmp_path: Path
):
    saved, output = tmp_path / "saved", tmp_path / ("new.uf2" if board_name == "rpi_pico_w" else "new.bin")
    (tmp_path / "files").mkdir()
    board = start("--writable", "--save", str(saved), "--set", "windowsize=7", files=tmp_path / "files")
    data = random.Random(3).randbytes(20_000)
    store(board.address, "uploaded", data)
    assert board.stop() == 0
    command = [sys.executable, "-m", "tools", "image", "--board", board_name, "--update", saved, "-o", output]
    made = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "/files/uploaded" in json.loads(made.stdout)["kept"], made.stderr
    new = start("--image", str(output))
    assert fetch(new.address, "uploaded") == data
    assert new.stop() == 0
