"""`python -m tools image`, on every genuine MicroPython file in the cache and on synthetic ones. Other code checks the
images than the code that makes them: a UF2 parser in this file, esptool's image-info, littlefs-python."""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import socket
import stat
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from littlefs import LittleFS

from board import ROOT
from command import complain
from made import FACTORY, NVS, VFS, XIP, made_esp, made_uf2, table
from tools import ToolError, boards, filesystem, firmware, flash, image

SECTOR = 4096


SERVED = {
    "hello.txt": b"Hello from your board.\n",
    "empty": b"",
    "large.bin": random.Random(1).randbytes(200_000),
    "deep/er/file.bin": random.Random(2).randbytes(5000),
    "Grüße.txt": b"Umlaute",
}
GENUINE = [
    (name, entry)
    for name in boards.names()
    for entry in boards.load(name).get("firmware", ())
    if entry["sha256"] or name == "esp32_s3"
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with SERVED in it."""
    for name, data in SERVED.items():
        path = tmp_path / "served" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "served"


def genuine(board: str, entry: dict) -> Path:
    """MicroPython's own file in the cache, or the test is skipped."""
    path = firmware.cache() / "firmware" / entry["file"]
    if not path.is_file():
        pytest.skip(f"no {entry['file']} in the cache: python -m tools firmware --board {board}")
    if entry["sha256"]:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    return path


def make(*arguments: object) -> tuple[str, str]:
    """Run the command, which must succeed; returns its standard output and standard error."""
    command = [sys.executable, "-m", "tools", "image", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def tree(lfs: bytes) -> dict[str, bytes]:
    """All files of a LittleFS of disk version 2.0 with 4096-byte blocks that is as large as `lfs`."""
    filesystem = LittleFS(block_size=SECTOR, block_count=len(lfs) // SECTOR, mount=False)
    filesystem.context.buffer = bytearray(lfs)
    filesystem.mount()
    stat = filesystem.fs_stat()
    assert (stat.disk_version, stat.block_size, stat.block_count) == (0x20000, SECTOR, len(lfs) // SECTOR)
    found = {}
    for where, _, names in filesystem.walk("/"):
        for name in names:
            with filesystem.open(f"{where.rstrip('/')}/{name}", "rb") as file:
                found[f"{where.rstrip('/')}/{name}"] = file.read()
    return found


def check_tree(lfs: bytes, board: str, settings: dict) -> None:
    found = tree(lfs)
    assert {name: data for name, data in found.items() if name.startswith("/files/")} == {
        f"/files/{name}": data for name, data in SERVED.items()
    }
    for name in ("boot.py", "main.py"):
        assert found[f"/{name}"] == (ROOT / name).read_bytes()
    assert json.loads(found["/settings.json"]) == settings
    assert json.loads(found["/board.json"]) == boards.load(board)["settings"]
    sources = {f"/lib/{path.relative_to(ROOT / 'firmware')}" for path in (ROOT / "firmware").rglob("*.py")}
    compiled = {name.replace(".mpy", ".py") for name in found if name.startswith("/lib/")}
    page = {"/lib/tftpd/page.css.gz", "/lib/tftpd/page.js.gz"}
    assert compiled == sources - {"/lib/manifest.py"} | page
    assert all(data[:2] == b"M\x06" for name, data in found.items() if name.endswith(".mpy"))


def used_flash(size: int) -> bytes:
    """A filesystem after long use: other files, and metadata of high revisions in many blocks."""
    filesystem = LittleFS(block_size=SECTOR, block_count=size // SECTOR, prog_size=256, read_size=256)
    for number in range(300):
        filesystem.makedirs(f"/files/folder{number % 8}", exist_ok=True)
        with filesystem.open(f"/files/folder{number % 8}/old{number % 20}", "wb") as file:
            file.write(b"old" * number)
    return bytes(filesystem.context.buffer)


# RP2


def parse_uf2(data: bytes) -> list[tuple[int, int, bytes, int, int, bytes]]:
    """Family, address, payload, number, total and all 512 bytes of each block."""
    assert len(data) % 512 == 0
    blocks = []
    for start in range(0, len(data), 512):
        one = data[start : start + 512]
        first, second, flags, address, length, number, total, family = struct.unpack("<8I", one[:32])
        assert (first, second, one[508:]) == (0x0A324655, 0x9E5D5157, b"\x30\x6f\xb1\x0a") and flags & 0x2000
        assert length == 256 and address % 256 == 0
        blocks.append((family, address, one[32:288], number, total, one))
    return blocks


def check_uf2(made: bytes, base: bytes, offset: int, size: int, board: str, settings: dict, whole: bool) -> None:
    blocks, original = parse_uf2(made), parse_uf2(base)
    families = [block[0] for block in original]
    main = max(families, key=families.count)
    strange = [(n, block[5]) for n, block in enumerate(original) if block[0] != main]
    assert [(n, block[5]) for n, block in enumerate(blocks) if block[0] != main] == strange, "another family is changed"
    ours = [block for block in blocks if block[0] == main]
    assert [block[3] for block in ours] == list(range(len(ours))), "the numbers have gaps"
    assert {block[4] for block in ours} == {len(ours)}
    addresses = [block[1] for block in ours]
    assert addresses == sorted(set(addresses)), "the addresses are not in order"
    before = [block for block in original if block[0] == main]
    assert [block[1:3] for block in ours[: len(before)]] == [block[1:3] for block in before], "the base is changed"
    start = XIP + offset
    pages = {block[1] - start: block[2] for block in ours[len(before) :]}
    assert all(0 <= address < size for address in pages)
    sectors = {address // SECTOR for address in pages}
    assert len(pages) == len(sectors) * 16, "a sector is erased but not written in full"
    assert {0, 1} <= sectors and (len(sectors) == size // SECTOR) == whole
    for old in (b"\xff" * size, random.Random(3).randbytes(size), used_flash(size)):
        flash = bytearray(old)
        for address, page in pages.items():
            flash[address : address + 256] = page
        check_tree(bytes(flash), board, settings)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("board", "entry"), [one for one in GENUINE if one[1]["file"].endswith(".uf2")], ids=lambda one: str(one)[:40]
)
def test_uf2_on_genuine_micropython_has_all_files(board: str, entry: dict, whole: bool, folder: Path, tmp_path: Path):
    base = genuine(board, entry)
    output = tmp_path / "out.uf2"
    facts = boards.load(board)["filesystem"]
    said, _ = make(
        *("--board", board, "--version", entry["version"], "--files", folder, "--set", "ssid=lab", "-o", output),
        *(["--whole"] if whole else []),
    )
    assert entry["version"] in said and "BOOTSEL" in said
    check_uf2(
        output.read_bytes(), base.read_bytes(), facts["offset"], facts["size"], board, {"ssid": "lab"}, whole=whole
    )
    if board == "rpi_pico2_w":
        first = parse_uf2(output.read_bytes())[0]
        assert first[:2] == (0xE48BFF57, 0x10FFFF00), "the absolute block (erratum E10) comes first"


@pytest.mark.parametrize("whole", [False, True])
def test_uf2_on_a_synthetic_base_has_all_files(folder: Path, tmp_path: Path, whole: bool):
    # The filesystem's place is that in the base, not that in board.json.
    place = (0x100000, 0xE0000)
    base = tmp_path / "base.uf2"
    base.write_bytes(made_uf2(place=place))
    board = boards.load("rpi_pico_w")
    data = image.make(board, folder, {"port": 70}, base=base, whole=whole).data
    check_uf2(data, base.read_bytes(), *place, "rpi_pico_w", {"port": 70}, whole)
    assert data == image.make(board, folder, {"port": 70}, base=base, whole=whole).data, "not the same twice"
    base.write_bytes(made_uf2(place=None))
    facts = board["filesystem"]
    data = image.make(board, folder, {}, base=base, whole=whole).data
    check_uf2(data, base.read_bytes(), facts["offset"], facts["size"], "rpi_pico_w", {}, whole)


@pytest.mark.parametrize(
    ("board", "options"), [("rpi_pico2_w", {"flash_size": 16 << 20}), ("sparkfun_thingplus_rp2350", {})]
)
def test_a_microcontroller_with_16_mb_of_flash(board: str, options: dict, folder: Path, tmp_path: Path):
    (folder / "large.img").write_bytes(random.Random(3).randbytes(11 << 20))
    base = tmp_path / "base.uf2"
    place = (0x200000, 14 << 20)
    base.write_bytes(made_uf2("rp2350", place))
    data = image.make(boards.load(board), folder, {}, base=base, **options).data
    files = image.files_in(firmware.read_base(data, "made"))
    assert files["/files/large.img"] == (folder / "large.img").read_bytes()
    (folder / "large.img").unlink()
    data = image.make(boards.load(board), folder, {"port": 70}, base=base, **options).data
    check_uf2(data, base.read_bytes(), *place, board, {"port": 70}, whole=False)


# ESP32 family


def parse_table(data: bytes) -> dict[str, tuple[int, int]]:
    """Offset and size of each partition, by name."""
    found = {}
    while data[:2] == b"\xaa\x50":
        name = data[12:28].rstrip(b"\0").decode()
        found[name] = (int.from_bytes(data[4:8], "little"), int.from_bytes(data[8:12], "little"))
        data = data[32:]
    return found


def check_program(data: bytes, chip: str, flash_size: str, folder: Path) -> None:
    """Let esptool check the program at the start of `data`."""
    path = folder / "program.bin"
    path.write_bytes(data)
    command = [sys.executable, "-m", "esptool", "--chip", chip, "image-info", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert f"Flash size: {flash_size}" in said.stdout
    assert "Checksum: 0x" in said.stdout and said.stdout.count("(valid)") == 2 and "invalid" not in said.stdout


def check_esp(made: bytes, base: bytes, chip: str, place: tuple[int, int], flash_size: int, folder: Path) -> bytes:
    """Check an image; returns its filesystem, padded with 0xff."""
    boot = 0x1000 if chip == "esp32" else 0
    offset, size = place
    assert made[:boot] == b"\xff" * boot
    header = base[:3] + bytes([made[boot + 3]]) + base[4:]
    now = made[boot : boot + len(base)]
    changed = [n for n in range(len(base)) if now[n] != header[n]]
    assert len(changed) <= 32 and (not changed or changed[-1] - changed[0] < 32), "more than a hash is changed"
    assert set(made[boot + len(base) : offset]) <= {0xFF}
    check_program(now[: 0x8000 - boot], chip, f"{flash_size >> 20}MB", folder)
    assert made[boot + 2] == base[2] and made[boot + 3] & 0x0F == base[3] & 0x0F, "mode or frequency is changed"
    assert len(made) <= offset + size
    return made[offset:].ljust(size, b"\xff")


@pytest.mark.parametrize(
    ("board", "entry"), [one for one in GENUINE if one[1]["file"].endswith(".bin")], ids=lambda one: str(one)[:40]
)
def test_bin_on_genuine_micropython_has_all_files(board: str, entry: dict, folder: Path, tmp_path: Path):
    base = genuine(board, entry).read_bytes()
    facts = boards.load(board)
    chip, flash_size = facts["mcu"], facts["flash_size"]
    place = (facts["filesystem"]["offset"], facts["filesystem"]["size"])
    partitions = parse_table(base[0x8000 - (0x1000 if chip == "esp32" else 0) :])
    has_vfs = "vfs" in partitions
    assert has_vfs == (entry["version"] < "v1.26")
    end = max(sum(where) for where in partitions.values())
    assert place == (partitions["vfs"] if has_vfs else (end, flash_size - end)), "board.json has it elsewhere"
    output = tmp_path / "out.bin"
    options = ("--board", board, "--version", entry["version"], "--files", folder, "--set", "ssid=lab", "-o", output)
    said, _ = make(*options)
    assert f"--chip {chip} " in said and f"write-flash 0 {output}" in said
    lfs = check_esp(output.read_bytes(), base, chip, place, flash_size, tmp_path)
    check_tree(lfs, board, {"ssid": "lab"})
    boot = 0x1000 if chip == "esp32" else 0
    assert output.read_bytes()[boot:][: len(base)] == base or flash_size != 4 << 20, "no byte of the base is changed"
    check_program(output.read_bytes()[0x10000 : 0x10000 + 0x1F0000], chip, "4MB", tmp_path)
    # For a larger flash: a `vfs` partition keeps its size; without one the filesystem grows.
    make(*options, "--whole", "--flash-size", "16M")
    assert output.stat().st_size == (place[0] + place[1] if has_vfs else 16 << 20)
    place = place if has_vfs else (place[0], (16 << 20) - place[0])
    check_tree(check_esp(output.read_bytes(), base, chip, place, 16 << 20, tmp_path), board, {"ssid": "lab"})


# MicroPython's partition tables up to v1.25, and two later ones.
@pytest.mark.parametrize(
    "partitions", [(FACTORY, VFS), (FACTORY,), (("factory", 0, 0, 0x10000, 0x210000),)], ids=["vfs", "rest", "longer"]
)
@pytest.mark.parametrize(("board", "chip"), [("esp32", "esp32"), ("esp32_s3", "esp32s3"), ("esp32_c3", "esp32c3")])
def test_bin_on_a_synthetic_base_has_all_files(board: str, chip: str, partitions: tuple, folder: Path, tmp_path: Path):
    base = tmp_path / "base.bin"
    base.write_bytes(made_esp(chip, table(NVS, *partitions)))
    output = tmp_path / "out.bin"
    vfs, end = VFS in partitions, sum(partitions[-1][3:])
    for flash_size in (4 << 20, 8 << 20):
        place = VFS[3:] if vfs else (end, flash_size - end)
        size = boards.format_size(flash_size)
        options = ("--board", board, "--base", base, "--files", folder, "--flash-size", size, "-o", output)
        said, warned = make(*options)
        assert "v9.9.9 for Test board" in said and "board.json does not list" in warned
        shown = re.search("There is no Wi-Fi in it, .*, with the password ([a-z2-8]{10})", said)
        assert shown, said
        assert ("must really have" in warned) == (not vfs)
        lfs = check_esp(output.read_bytes(), base.read_bytes(), chip, place, flash_size, tmp_path)
        check_tree(lfs, board, {"setup_password": shown[1]})
        make(*options, "--whole", "--set", f"setup_password={shown[1]}")
        assert output.stat().st_size == place[0] + place[1]
        assert output.read_bytes()[place[0] :] == lfs


# The same for all boards


def pico(tmp_path: Path, **how) -> Path:
    path = tmp_path / "made.uf2"
    path.write_bytes(made_uf2(**how))
    return path


def test_names_that_clients_cannot_ask_for_are_left_out_with_a_warning(folder: Path, tmp_path: Path):
    (folder / ".git").mkdir()
    for name in (".git/config", ".hidden", "back\\slash", "HELLO.txt", "Deep"):
        (folder / name).write_bytes(b"x")
    raw = os.path.join(os.fsencode(folder), b"not-utf-8-\xff")
    with open(raw, "wb") as file:
        file.write(b"x")
    output = tmp_path / "out.uf2"
    _, warned = make("--board", "rpi_pico_w", "--base", pico(tmp_path), "--files", folder, "-o", output)
    assert "hidden, so not served: .git, .hidden" in warned
    assert "a backslash, which the server reads as /, so not served: back\\slash" in warned
    assert "not UTF-8, so not served: not-utf-8-" in warned
    assert "HELLO.txt and hello.txt" in warned and "Deep and deep" in warned
    pages = {block[1]: block[2] for block in parse_uf2(output.read_bytes())}
    flash = b"".join(pages.get(address, b"\xff" * 256) for address in range(XIP + 0x12C000, XIP + 0x200000, 256))
    names = {name.removeprefix("/files/") for name in tree(flash) if name.startswith("/files/")}
    assert names == {*SERVED, "HELLO.txt", "Deep"}


def test_outside_links_special_files_and_control_characters_are_left_out_with_a_warning(folder: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    for name, target in {
        "inside": "hello.txt",
        "inside-folder": "deep",
        "outside": tmp_path / "secret",
        "outside-folder": tmp_path / "outside",
        "dangling": "nowhere",
        "round": "round",
        "deep/up": "..",
    }.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    for name in ("new\nline", "esc\x1b[31m", "c1\x9b"):
        (folder / name).write_bytes(b"x")
    served = filesystem.served(folder, {})
    assert served.files.keys() == {
        *(f"/files/{name}" for name in SERVED),
        *("/files/inside", "/files/inside-folder/er/file.bin"),
    }
    assert sorted(served.warnings) == [
        "a control character in the name, so not served: c1\x9b, esc\x1b[31m, new\nline",
        "a link out of the folder, so not served: outside, outside-folder",
        "a link to a folder that contains it, so not served: deep/up, inside-folder/up",
        "a link to nothing, so not served: dangling, round",
        "neither a file nor a folder, so not served: fifo, socket",
    ]
    output = tmp_path / "out.uf2"
    _, warned = make("--board", "rpi_pico_w", "--base", pico(tmp_path), "--files", folder, "-o", output)
    assert "not served: c1\\x9b, esc\\x1b[31m, new\\nline\n" in warned and "\x1b" not in warned


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("settings.json", "{}", True),
        ("sub/Settings.JSON", "", True),
        ("lab.json", '{"ssid": "lab", "password": "open sesame"}', True),
        ("package.json", '{"name": "x"}', False),
        ("passwd", '"password"', False),
    ],
)
def test_settings_among_the_served_files_cause_a_warning(folder: Path, name: str, text: str, told: bool):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    told_of = [warning for warning in filesystem.served(folder, {}).warnings if "every client can fetch" in warning]
    assert told_of == [f"every client can fetch what looks like a board's settings: {name}"] * told


def test_a_folder_too_large_for_any_flash_is_refused_before_it_is_read(folder: Path):
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ToolError, match="holds more than any flash"):
        filesystem.served(folder, {})


@pytest.mark.parametrize(
    ("settings", "folders"),
    [
        ({}, set()),
        ({"write_from": ["0.0.0.0/0"]}, {"/files/deep", "/files/deep/er", "/files/empty-folder", "/files/in"}),
        ({"write_to": ["/in", "/new/er/"]}, {"/files/in", "/files/new/er"}),
        (
            {"write_to": ["/new", "/in"], "write_from": ["0.0.0.0/0"], "root": "/srv"},
            {"/srv/new", "/srv/in", "/srv/in/er"},
        ),
    ],
)
def test_folders_for_uploads_are_created_empty(folder: Path, tmp_path: Path, settings: dict, folders: set[str]):
    for name in ("empty-folder", "in", ".hidden"):
        (folder / name).mkdir()
    if "root" in settings:
        (folder / "in/er").mkdir()
    root = settings.get("root", "/files")
    assert set(filesystem.served(folder, settings).folders) == {root, *folders}
    data = image.make(boards.load("rpi_pico_w"), folder, settings, base=pico(tmp_path), whole=True).data
    lfs = LittleFS(block_size=SECTOR, block_count=868_352 // SECTOR, mount=False)
    lfs.context.buffer = bytearray(b"".join(block[2] for block in parse_uf2(data) if block[1] >= XIP + 0x12C000))
    lfs.mount()
    assert all(lfs.stat(name).type == 2 for name in folders)


@pytest.mark.parametrize(
    ("write_to", "complaint"),
    [
        ("/hello.txt", "write_to names the folder /hello.txt, but hello.txt in .* is a file"),
        ("/deep/er/file.bin/x", "but deep/er/file.bin in .* is a file"),
        ("/in/../x", r"no client can ask for \(hidden\): in/../x"),
        ("/.in", r"no client can ask for \(hidden\): .in"),
    ],
)
def test_an_impossible_folder_for_uploads_is_refused(folder: Path, write_to: str, complaint: str):
    with pytest.raises(ToolError, match=complaint):
        filesystem.served(folder, {"write_to": ["/", write_to]})


def test_a_component_of_more_than_255_bytes_is_left_out():
    assert filesystem.unservable("x" * 255) is None
    assert filesystem.unservable("folder/" + "x" * 256) == "a name of more than 255 bytes"
    assert filesystem.unservable("ü" * 128) == "a name of more than 255 bytes"
    assert filesystem.unservable(f"{'x' * 251}/{'x' * 251}") is None
    assert (
        filesystem.unservable(f"{'x' * 251}/{'x' * 252}")
        == "longer than a request can hold, 503 bytes with its folders"
    )


def test_files_are_in_the_folder_of_the_setting_root(folder: Path, tmp_path: Path):
    data = image.make(boards.load("rpi_pico_w"), folder, {"root": "/srv/tftp"}, base=pico(tmp_path), whole=True).data
    flash = b"".join(block[2] for block in parse_uf2(data) if block[1] >= XIP + 0x12C000)
    assert tree(flash)["/srv/tftp/hello.txt"] == SERVED["hello.txt"]


def test_kept_files_take_precedence_over_the_folder(folder: Path, tmp_path: Path):
    board, base = boards.load("rpi_pico_w"), pico(tmp_path)
    data = image.make(board, folder, {}, base=base, whole=True).data
    earlier = b"".join(block[2] for block in parse_uf2(data) if block[1] >= XIP + 0x12C000)
    (folder / "hello.txt").write_bytes(b"changed")
    (folder / "new").write_bytes(b"new")
    data = image.make(board, folder, {"port": 70}, base=base, whole=True, kept=earlier).data
    found = tree(b"".join(block[2] for block in parse_uf2(data) if block[1] >= XIP + 0x12C000))
    assert found["/files/hello.txt"] == SERVED["hello.txt"] and found["/files/new"] == b"new"
    assert json.loads(found["/settings.json"]) == {"port": 70}


def test_inspect_lists_what_is_in_an_image_and_hides_the_password(folder: Path, tmp_path: Path):
    esp = tmp_path / "base.bin"
    esp.write_bytes(made_esp("esp32c3", table(NVS, FACTORY)))
    (tmp_path / "settings.json").write_text('{"ssid": "lab", "password": "open sesame", "port": 69}')
    for board, base in (("rpi_pico_w", pico(tmp_path)), ("esp32_c3", esp)):
        output = tmp_path / "out"
        options = ("--settings", tmp_path / "settings.json", "--set", "port=70", "-o", output)
        make("--board", board, "--base", base, "--files", folder, *options)
        said, _ = make("--inspect", output)
        assert "v9.9.9 for Test board" in said and '"ssid": "lab"' in said and '"port": 70' in said
        assert "sesame" not in said and "/files/large.bin" in said and "200,000" in said and "/lib/tftpd/" in said
        said, _ = make("--inspect", base)
        assert "no files in it" in said


@pytest.mark.parametrize("board", ["rpi_pico_w", "esp32"])
def test_only_the_owner_can_read_an_image_with_a_password(folder: Path, tmp_path: Path, board: str):
    base = tmp_path / "base"
    base.write_bytes(made_uf2() if board == "rpi_pico_w" else made_esp("esp32", table(NVS, FACTORY, VFS)))
    (tmp_path / "settings.json").write_text('{"ssid": "lab", "password": "open sesame"}')
    output, link = tmp_path / "out", tmp_path / "link"
    output.write_bytes(b"an earlier image")
    output.chmod(0o644)
    link.symlink_to(output)
    make("--board", board, "--base", base, "--files", folder, "--settings", tmp_path / "settings.json", "-o", link)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600 and link.is_symlink()
    before = os.umask(0o027)
    try:
        make("--board", board, "--base", base, "--files", folder, "--set", "ssid=lab", "-o", output)
    finally:
        os.umask(before)
    assert stat.S_IMODE(output.stat().st_mode) == 0o640


def test_no_setting_appears_on_a_command_line(folder: Path, tmp_path: Path):
    spy = tmp_path / "micropython"
    spy.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/seen\nexec {boards.micropython()} "$@"\n')
    spy.chmod(0o755)
    (tmp_path / "settings.json").write_text('{"ssid": "lab", "password": "sesame-open"}')
    command = [sys.executable, "-m", "tools", "image", "--board", "rpi_pico_w", "--base", pico(tmp_path)]
    command += ["--files", folder, "--settings", tmp_path / "settings.json", "--set", "hostname=door-open"]
    environment = {**os.environ, "MICROPYTHON": str(spy)}
    subprocess.run([*command, "-o", tmp_path / "out.uf2"], cwd=ROOT, env=environment, check=True, capture_output=True)
    seen = (tmp_path / "seen").read_text()
    assert "check_settings.py" in seen and "open" not in seen


def test_only_a_regular_file_is_replaced(folder: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/full")

    def bad(output: Path, board: str = "rpi_pico_w") -> str:
        return complain("image", "--board", board, "--base", pico(tmp_path), "--files", folder, "-o", output)

    for name in ("/dev/full", "fifo", "device"):
        kind = (tmp_path / name).stat().st_mode
        assert f"can't write {tmp_path / name}: it is not a regular file" in bad(tmp_path / name)
        assert (tmp_path / name).stat().st_mode == kind
    assert "it is a folder; give the name of a file" in bad(tmp_path)
    assert f"there is no folder {tmp_path / 'no'}" in bad(tmp_path / "no" / "out.uf2")
    assert f"an image for the Pico W is a .uf2 file: -o {tmp_path / 'i.uf2'}" in bad(tmp_path / "i.bin")
    assert f"is a .bin file: -o {tmp_path / 'i.bin'}" in bad(tmp_path / "i.UF2", board="esp32")


def test_free_space_is_offered_for_uploads_only_if_they_are_on(folder: Path, tmp_path: Path):
    options = ("--board", "rpi_pico_w", "--base", pico(tmp_path), "--files", folder, "-o", tmp_path / "out.uf2")
    assert "for uploads" not in make(*options)[0] and "\n free " in make(*options)[0]
    assert "free for uploads" in make(*options, "--set", 'write_from=["10.0.0.0/8"]')[0]


def test_inspect_escapes_unprintable_characters(tmp_path: Path, capsys: pytest.CaptureFixture):
    names = {"esc\x1b[31m": "esc\\x1b[31m", "rtl\u202etxt": "rtl\\u202etxt", "zero\u200bwidth": "zero\\u200bwidth"}
    layout = boards.load("rpi_pico_w")["filesystem"]
    files = {f"/files/{name}": b"" for name in names}
    lfs = filesystem.build(layout, layout["size"], files)
    made = image._join_uf2(image.uf2.read(made_uf2(), "made"), layout["offset"], lfs, set(range(212)))
    (tmp_path / "image").write_bytes(made)
    assert image._inspect(tmp_path / "image") == 0
    said = capsys.readouterr().out
    assert all(shown in said and name not in said for name, shown in names.items())


def changed_uf2(**fields: int) -> bytes:
    """A UF2 file whose first block has other `fields`."""
    words = ("first", "second", "flags", "address", "length", "number", "total", "family")
    data = bytearray(made_uf2())
    for name, value in fields.items():
        struct.pack_into("<I", data, 4 * words.index(name), value)
    return bytes(data)


ESP = made_esp("esp32", table(NVS, FACTORY, VFS))
DAMAGED: dict[str, tuple[bytes, str]] = {
    "far away": (changed_uf2(address=0x70000000), "is not for a flash: block 0 goes to 0x70000000"),
    "one block far away": (
        struct.pack("<8I", 0x0A324655, 0x9E5D5157, 0x2000, 0x70000000, 256, 0, 1, 0xE48BFF56).ljust(508, b"\0")
        + b"\x30\x6f\xb1\x0a",
        "is not for a flash",
    ),
    "in memory": (changed_uf2(address=0x20000000), "is not for a flash"),
    "before the flash": (changed_uf2(address=0), "is not for a flash"),
    "over the end": (changed_uf2(address=XIP + (16 << 20) - 255), "is not for a flash"),
    "of many blocks": (changed_uf2(total=0xFFFFFFFF), "is not whole: it has 156 of 4,294,967,295 blocks"),
    "a block twice": (changed_uf2(number=1), "is not whole"),
    "too long a block": (changed_uf2(length=477), "block 0 claims an impossible length"),
    "cut between blocks": (made_uf2()[:-512], "is not whole: it has 155 of 156 blocks"),
    "cut in a block": (made_uf2()[:-1], "block 155 is damaged or truncated"),
    "a filesystem beyond the flash": (
        made_uf2(place=(0x12C000, 0xFFFFF000)),
        "claims a filesystem of 4,294,963,200",
    ),
    "a filesystem out of step": (made_uf2(place=(0x12C001, 0x10000)), "is damaged: it claims a filesystem of"),
    "empty": (b"", "is not firmware for any supported board"),
    "one byte": (b"\xe9", "is truncated: it ends before its partition table"),
    "cut in the table": (ESP[:0x7100], "is truncated: it ends before its partition table"),
    "cut before the program": (ESP[:0xF000], "its program at 0x10000 is not whole"),
    "cut in the program": (ESP[:-40], "its program at 0x10000 is not whole"),
    "cut in the hash": (ESP[:-1], "the SHA-256 of its program at 0x10000 is wrong"),
    "a huge partition": (
        made_esp("esp32", table(NVS, FACTORY, ("vfs", 1, 0x81, 0x200000, 0xFFE00000))),
        "ends at 4096M, but the flash has 4M",
    ),
    "a partition out of step": (
        made_esp("esp32", table(NVS, FACTORY, ("vfs", 1, 0x81, 0x200001, 0x1000))),
        "a partition is at 0x200001",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_one_line_and_uses_little_memory(what: str, tmp_path: Path):
    data, complaint = DAMAGED[what]
    (tmp_path / "damaged").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ToolError, match=complaint):
            image._inspect(tmp_path / "damaged")
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of MicroPython and images made of them, by name."""
    where = tmp_path_factory.mktemp("images")
    (where / "served").mkdir()
    (where / "served" / "file").write_bytes(SERVED["large.bin"])
    made = {"uf2": made_uf2(), "esp32": ESP, "esp32_c3": made_esp("esp32c3", table(NVS, FACTORY))}
    for board, name in (("rpi_pico_w", "uf2"), ("esp32", "esp32"), ("esp32_c3", "esp32_c3")):
        (where / name).write_bytes(made[name])
        made[f"{name} image"] = image.make(boards.load(board), where / "served", {}, base=where / name).data
    return made


@pytest.mark.parametrize("name", ["uf2 image", "esp32 image", "esp32_c3 image"])
def test_a_truncated_image_is_reported_at_any_length(name: str, images: dict[str, bytes], tmp_path: Path):
    whole = images[name]
    bare = len(images[name.split()[0]]) + (0x1000 if name == "esp32 image" else 0)
    path = tmp_path / "cut"
    ends = [*range(0, len(whole), 50_021), len(whole) - 1, len(whole) - SECTOR, bare + 2 * SECTOR]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(ToolError, match=r"truncated|not whole|is not firmware"):
            image._inspect(path)
    path.write_bytes(whole)
    assert image._inspect(path) == 0


@hypothesis_settings(deadline=5000, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["uf2", "esp32", "esp32_c3", "uf2 image", "esp32 image", "esp32_c3 image"]),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    region=st.sampled_from(
        [(0, 64), (0x7000, 0x7100), (0x8000, 0x8100), (0x10000, 0x10040), (0x200000, 0x202000), (0, -1)]
    ),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6),
)
def test_any_file_is_read_or_raises_a_tool_error(images, tmp_path: Path, monkeypatch, name, cut, region, changes):
    data = bytearray(images[name])
    first, last = region if region[1] > 0 and region[1] < len(data) else (0, len(data))
    for place, new in changes:
        at = first + int(place * (last - first - 1))
        data[at : at + len(new)] = new
    path, served = tmp_path / "file", tmp_path / "served"
    served.mkdir(exist_ok=True)
    path.write_bytes(data if cut is None else data[: int(cut * len(data))])
    monkeypatch.setenv("MICROPYTHON_TFTPD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(flash, "_agreed", lambda question: False)
    board = {"u": "rpi_pico_w", "e": "esp32"}[name[0]]
    (tmp_path / "INFO_UF2.TXT").write_text("Board-ID: RPI-RP2\n")
    drive = tmp_path if board == "rpi_pico_w" else None
    work: list[Callable[[], object]] = [
        lambda: image._inspect(path),
        lambda: image.make(boards.load(board), served, {}, base=path),
        lambda: flash.run(argparse.Namespace(board=board, image=path, device="x", drive=drive, yes=False, json=False)),
        lambda: firmware._adopt(boards.load(board), path, True),
    ]
    for one in work:
        with contextlib.suppress(ToolError):
            one()


def test_bad_input_is_one_line_and_leaves_no_file(folder: Path, tmp_path: Path):
    output = tmp_path / "out" / "image"
    output.parent.mkdir()
    output.write_bytes(b"an earlier image")
    uf2 = pico(tmp_path)

    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    vfs = file("vfs.bin", made_esp("esp32", table(NVS, FACTORY, VFS)))
    rest = file("rest.bin", made_esp("esp32", table(NVS, FACTORY)))
    wrong_md5 = table(NVS, FACTORY).replace(b"factory", b"factorx")
    made = file("made.bin", image.make(boards.load("esp32"), folder, {}, base=vfs).data)
    big = tmp_path / "big"
    big.mkdir()
    (big / "big.bin").write_bytes(bytes(1_000_000))

    def bad(*arguments: object, board: str = "rpi_pico_w", base: Path = uf2, files: Path = folder) -> str:
        said = complain("image", "--board", board, "--base", base, "--files", files, "-o", output, *arguments)
        assert [path.name for path in output.parent.iterdir()] == ["image"]
        assert output.read_bytes() == b"an earlier image"
        return said

    assert "no board is called 'nope'" in bad(board="nope")
    assert "nothing to flash" in bad(board="unix")
    assert "is not a folder" in bad(files=tmp_path / "missing")
    said = bad(files=big)
    missing = int(said.split("need ")[1].split(" bytes")[0].replace(",", ""))
    assert "the 868,352 bytes of flash" in said and "--flash-size" not in said
    (big / "big.bin").write_bytes(bytes(1_000_000 - missing))
    make("--board", "rpi_pico_w", "--base", uf2, "--files", big, "-o", tmp_path / "fits")
    (big / "big.bin").write_bytes(bytes(3_000_000))
    assert bad(board="esp32", base=vfs, files=big).endswith(
        "the 2,097,152 bytes of flash: try --compress auto, or leave some out"
    )
    assert "--flash-size (make run FLASH=)" in bad(board="esp32", base=rest, files=big)
    make("--board", "esp32", "--base", rest, "--files", big, "-o", tmp_path / "fits", "--flash-size", "8M")

    assert "is for the esp32, but the Pico W has the rp2040" in bad(base=vfs)
    assert "is for the esp32, but the ESP32-C3 has the esp32c3" in bad(board="esp32_c3", base=vfs)
    assert "is for the rp2040, but the Pico 2 W has the rp2350" in bad(board="rpi_pico2_w")
    assert "can't read" in bad(base=tmp_path / "missing")
    assert "is not firmware" in bad(base=file("text", b"a text"))
    assert "is not firmware" in bad(base=file("nothing", b""))
    assert "not a whole UF2 file" in bad(base=file("cut", uf2.read_bytes()[:-1]))
    assert "1,024 bytes into its own filesystem" in bad(base=file("long", made_uf2(size=0x12C000 + 1024)))
    assert "give MicroPython's original file" in bad(board="esp32", base=made)
    assert "its MD5 is wrong" in bad(board="esp32", base=file("md5", made_esp("esp32", wrong_md5)))
    assert "no partition table" in bad(board="esp32", base=file("none", made_esp("esp32", b"\xff" * 0xC00)))
    damaged = bytearray(vfs.read_bytes())
    damaged[1] = 99  # segments
    assert "boot is damaged: esptool does not recognize it" in bad(
        "--flash-size", "8M", board="esp32", base=file("boot", bytes(damaged))
    )

    assert "built for a flash of 2M, not 16M: --base FILE takes one that was" in bad("--flash-size", "16M")
    large = file("large", made_uf2("rp2350", (0x200000, 14 << 20)))
    assert "ends at 16M, but the flash has 4M: --flash-size" in bad(board="rpi_pico2_w", base=large)
    assert "ends at 4M, but the flash has 2M" in bad("--flash-size", "2M", board="esp32", base=vfs)
    assert "has no room" in bad("--flash-size", "2M", board="esp32", base=rest)
    assert "there is no esp32 with 5M of flash" in bad("--flash-size", "5M", board="esp32", base=rest)
    assert "filesystem of this MicroPython ends at 4M" in bad(base=file("far", made_uf2(place=(0x200000, 0x200000))))

    assert "can't read" in bad("--settings", tmp_path / "missing.json")
    assert "are not JSON" in bad("--settings", file("broken.json", b'{"ssid": '))
    assert "are not UTF-8 text" in bad("--settings", file("latin.json", b'{"ssid": "\xff"}'))
    assert "are not a JSON object" in bad("--settings", file("list.json", b"[]"))
    assert "bad.json: windowsize must be a whole number" in bad("--settings", file("bad.json", b'{"windowsize": "x"}'))
    assert "takes KEY=VALUE" in bad("--set", "ssid")
    assert bad("--set", "nosuch=1") == 'error: no setting is called "nosuch" (docs/settings.md lists them)'
    assert bad("--set", "windowsise=1") == 'error: no setting is called "windowsise"; did you mean windowsize?'
    assert "takes KEY=VALUE" in bad("--set", "=lab") and "takes UTF-8" in bad(
        "--set", b"ssid=\xff".decode(errors="surrogateescape")
    )
    assert 'twice.json are not JSON: "ssid" appears more than once' in bad(
        "--settings", file("twice.json", b'{"ssid": "a", "port": 69, "ssid": "b"}')
    )
    assert "are not JSON" in bad("--settings", file("deep.json", b"[" * 60_000))
    assert "NaN is not JSON" in bad("--settings", file("nan.json", b'{"port": NaN}'))
    assert "are not UTF-8" in bad("--settings", file("half.json", b'{"ssid": "\\ud800"}'))
    assert "has more than 65,536 bytes" in bad("--settings", "/dev/zero")
    said = bad("--settings", file("both.json", b'{"blksize": 1, "retires": 7}'), "--set", "port=0")
    for complaint in (
        f"{tmp_path / 'both.json'}: blksize must be a whole number from 8 to 65464, not 1",
        f'{tmp_path / "both.json"}: no setting is called "retires"; did you mean retries?',
        " port must be a whole number from 1 to 65535, not 0",
    ):
        assert complaint in said
    bom = file("bom.json", b'\xef\xbb\xbf{"ssid": "lab"}')
    make("--board", "rpi_pico_w", "--base", uf2, "--files", folder, "--settings", bom, "-o", tmp_path / "fits")

    assert "no firmware v0.1 is known" in complain(
        *("image", "--board", "rpi_pico_w", "--files", folder, "--version", "0.1", "-o", output)
    )
    assert "not allowed with" in bad("--version", "v1.26.1")
    assert "-o is missing" in complain("image", "--board", "rpi_pico_w", "--files", folder)
    assert "--files is missing" in complain("image", "--board", "rpi_pico_w", "-o", output)
    assert "can't write" in complain(
        *("image", "--board", "rpi_pico_w", "--base", uf2, "--files", folder, "-o", tmp_path / "no" / "where")
    )
    assert "can't write" in complain(
        *("image", "--board", "rpi_pico_w", "--base", uf2, "--files", folder, "-o", uf2 / "where")
    )
    assert "is not firmware" in complain("image", "--inspect", tmp_path / "text")
    assert "can't read" in complain("image", "--inspect", tmp_path / "missing")


@pytest.mark.parametrize(
    ("board", "given", "said"),
    [
        ("esp32_c3", ["ssid=lab"], None),
        ("esp32_c3", ["setup_password=a phone knows it"], "with the password a phone knows it."),
        ("esp32_c3", ["setup_password="], "without a password."),
        ("esp32_c3", ["setup_password=null"], "with a password that it shows on its console."),
        ("wt32_eth01", [], None),
        ("wt32_eth01", ["wired=null"], "with the password "),
    ],
)
def test_an_image_without_wifi_says_how_to_set_it_up(
    board: str, given: list[str], said: str | None, folder: Path, tmp_path: Path
):
    base = tmp_path / "base.bin"
    base.write_bytes(made_esp("esp32c3" if board == "esp32_c3" else "esp32", table(NVS, FACTORY, VFS)))
    sets = [word for pair in given for word in ("--set", pair)]
    shown, _ = make("--board", board, "--base", base, "--files", folder, "-o", tmp_path / "out.bin", *sets)
    assert ("opens one of its own, tftpd-XXXX" in shown) == bool(said) and (said or "") in shown
