"""The SD card of a whole board: mounted, served, pulled out, put back; no card, and one that holds nothing known."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from board import Board
from client import TftpError, Wire, ack, blocks, fetch, patient_fetch, request, store
from served import SERVED, content
from tools import ToolError, boards, card

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("mformat"), reason="no mtools (Debian: apt install mtools)"),
]

FILES = {
    "size-5000": content(5000, 1),
    "A long name with spaces.BIN": content(70_001, 2),
    "boot/deeper/kernel.img": content(1_000_003, 3),
    "empty": b"",
}


@pytest.fixture
def insert(start: Callable[..., Board], board_name: str, tmp_path: Path) -> Callable[..., Board]:
    """insert(image, *arguments) starts a board that serves its card alone."""
    if board_name == "hardware" or "card" not in boards.load(board_name)["emulator"]:
        pytest.skip("no card can be put into this board")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    return lambda image, *arguments: start("--card", str(image), "--set", "root=/card", *arguments, files=nothing)


def make(path: Path, files: dict[str, bytes] = FILES, size: int = 64 << 20) -> Path:
    folder = path.with_suffix(".files")
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    card.make(folder, path, size)
    return path


def get(board: Board, name: str) -> bytes:
    options = (("blksize", 1428), ("windowsize", 4))
    return patient_fetch(board.address, name, *options, patience=0.5 if board.name == "unix" else 10)


def soon(board: Board, name: str, data: bytes | None, seconds: float) -> None:
    """`name` is served with that content, or not any more, within so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            got = get(board, name)
        except (TftpError, TimeoutError):
            got = None
        if got == data:
            return
        assert time.monotonic() < end, (name, got and len(got))
        time.sleep(0.5)


@pytest.mark.also_on_pico
def test_a_card_is_served_pulled_out_in_a_transfer_and_put_back(insert: Callable[..., Board], tmp_path: Path):
    image = make(tmp_path / "card.img")
    away = tmp_path / "away.img"
    board = insert(image)
    slow = board.name != "unix"
    if board.name == "esp32":  # its emulator has no slot that can be opened
        pytest.skip("no card can be pulled out of QEMU")
    assert "FAT of 64 MB" in board.wait_for("card: ", 30)
    names = list(FILES) if not slow else ["size-5000", "A long name with spaces.BIN", "empty"]
    for name in names:
        assert get(board, name) == FILES[name]
    assert get(board, "a LONG name with spaces.bin") == FILES["A long name with spaces.BIN"]
    patience = 60 if slow else 5
    with Wire(board.address, timeout=patience) as wire:
        assert wire.ask("boot/deeper/kernel.img")[:4] == b"\0\3\0\1"
        seen = len(board.console)
        image.rename(away)
        board.wait_for("card: pulled out", patience, seen)
        wire.send(ack(1))
        packet = wire.receive()
        while packet[:2] == b"\0\3":  # what was read ahead
            packet = wire.ack(packet[2] << 8 | packet[3])
        assert packet[:4] == b"\0\5\0\0" and b"card" in packet, packet
    soon(board, "size-5000", None, patience)
    seen = len(board.console)
    away.rename(image)
    board.wait_for("card: FAT of 64 MB", patience, seen)
    soon(board, "size-5000", FILES["size-5000"], patience)
    assert sum("card: " in line and "can't read" not in line for line in board.console) == 3, board.console
    assert board.stop() == 0


@pytest.mark.genuine("rpi_pico_w")
def test_bit_errors_on_the_way_from_the_card_are_found_and_read_again(insert: Callable[..., Board], tmp_path: Path):
    board = insert(make(tmp_path / "card.img"), "--card-as", "flip=20")
    assert get(board, "A long name with spaces.BIN") == FILES["A long name with spaces.BIN"]


@pytest.mark.genuine("rpi_pico_w")
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_old_and_slow_cards_are_served_by_the_genuine_firmware(insert: Callable[..., Board], tmp_path: Path, kind: str):
    slow = ("--card-as", f"kind={kind}", "--card-as", "answer=300", "--card-as", "start=60")
    board = insert(make(tmp_path / "card.img"), *slow)
    if not any("card: FAT" in line for line in board.console):
        board.wait_for("card: FAT", 120)
    assert get(board, "size-5000") == FILES["size-5000"]


@pytest.mark.genuine("esp32")
def test_an_sdmmc_card_is_served_by_the_genuine_firmware_of_an_esp32(insert: Callable[..., Board], tmp_path: Path):
    board = insert(make(tmp_path / "card.img"))
    assert get(board, "A long name with spaces.BIN") == FILES["A long name with spaces.BIN"]


def test_without_a_card_the_board_serves_what_there_is(start: Callable[..., Board], tmp_path: Path):
    image = make(tmp_path / "card.img", {"late": b"late"})
    board = start("--card", str(image))
    assert fetch(board.address, "size-5000")
    image.rename(tmp_path / "away.img")
    board.wait_for("card: pulled out")
    seen = len(board.console)
    assert fetch(board.address, "size-5000")
    time.sleep(3)
    assert not any("card: " in line for line in board.console[seen:])  # not each second


def files_on(image: Path) -> list[str]:
    said = subprocess.run(["mdir", "-i", image, "-/", "-b", "::"], capture_output=True, text=True, check=True).stdout
    return said.split("\n")


def test_uploads_to_a_fat_card_are_whole_or_not_there(insert, tmp_path: Path):
    image = make(tmp_path / "card.img")
    board: Board = insert(image, "--writable", "--set", "overwrite=true", "--set", "blksize=1468")
    assert "a power cut during an upload may damage" in board.wait_for("card: FAT")
    data = content(300_000, 7)
    store(board.address, "boot/New File.bin", data)
    assert fetch(board.address, "boot/new file.bin") == data
    with Wire(board.address) as wire:  # who reads the old one can go on
        first = wire.ask("size-5000")
        store(board.address, "size-5000", b"new")
        assert b"".join(blocks(wire, first)) == FILES["size-5000"]
    assert fetch(board.address, "size-5000") == b"new"
    with pytest.raises(TftpError) as refused:
        store(board.address, "boot/huge", b"", ("tsize", 65 << 20))
    assert refused.value.code == 3
    with Wire(board.address) as wire:
        assert wire.ask("boot/broken", opcode=2) == ack(0)
        wire.send(b"\0\3\0\1" + bytes(512))
        assert wire.receive() == ack(1)
        wire.send(b"\0\5\0\0enough\0")
    assert board.stop() == 0
    there = files_on(image)
    assert any("New File.bin" in path for path in there)
    assert not any(".uploads/0" in path or "broken" in path or "huge" in path for path in there), there


def test_with_a_card_and_flash_uploads_go_where_write_to_says(start: Callable[..., Board], tmp_path: Path):
    image = make(tmp_path / "card.img")
    board = start("--card", str(image), "--writable", "--set", 'write_to=["/card/incoming", "/own"]')
    board.wait_for("card: FAT")
    store(board.address, "incoming/kept", b"on the card")
    store(board.address, "own/kept", b"in the flash")
    assert fetch(board.address, "incoming/kept") == b"on the card"
    assert fetch(board.address, "size-5000") == SERVED["size-5000"], "the first folder that has the name"
    for name in ("boot/no", "no"):
        with pytest.raises(TftpError) as refused:
            store(board.address, name, b"")
        assert refused.value.code == 2, name
    assert board.stop() == 0
    there = files_on(image)
    assert any("incoming/kept" in path for path in there) and not any("own" in path for path in there)


def test_what_an_upload_left_on_a_card_is_removed_when_it_is_put_in(insert, tmp_path: Path):
    image = make(tmp_path / "card.img", {"old": b"old"})
    board: Board = insert(image, "--writable")
    board.wait_for("card: FAT")
    image.rename(tmp_path / "away.img")
    board.wait_for("card: pulled out")
    other = make(tmp_path / "other.img")
    (tmp_path / "half").write_bytes(b"half")
    subprocess.run(["mmd", "-i", other, "::/.uploads"], check=True)
    subprocess.run(["mcopy", "-i", other, tmp_path / "half", "::/.uploads/00000001"], check=True)
    assert any(".uploads/0" in path for path in files_on(other))
    other.rename(image)
    soon(board, "size-5000", FILES["size-5000"], 10)
    store(board.address, "boot/new", b"new")
    assert board.stop() == 0
    assert not any(".uploads/0" in path for path in files_on(image))


@pytest.mark.parametrize("filled", [b"\0", b"\xff", b"EXFAT   "], ids=["zeros", "ones", "other"])
def test_a_card_without_a_known_filesystem_is_told_once_and_may_be_changed(insert, tmp_path: Path, filled: bytes):
    image = tmp_path / "card.img"
    image.write_bytes(filled * (1 << 20))
    board: Board = insert(image)
    assert "no FAT32 or LittleFS" in board.wait_for("card: ")
    with pytest.raises(TftpError, match="not found"):
        fetch(board.address, "size-5000")
    time.sleep(2.5)
    assert sum("card: " in line for line in board.console) == 1
    image.rename(tmp_path / "away.img")
    board.wait_for("card: pulled out")
    make(image)
    board.wait_for("card: FAT")
    soon(board, "size-5000", FILES["size-5000"], 5)


def test_a_littlefs_card_with_larger_blocks_is_served(insert, tmp_path: Path):
    from littlefs import LittleFS

    filesystem = LittleFS(block_size=4096, block_count=512, read_size=512, prog_size=512, disk_version=0x00020000)
    with filesystem.open("size-5000", "wb") as file:
        file.write(FILES["size-5000"])
    image = tmp_path / "card.img"
    image.write_bytes(filesystem.context.buffer)
    board: Board = insert(image)
    assert "LittleFS of 2 MB" in board.wait_for("card: ")
    assert fetch(board.address, "size-5000") == FILES["size-5000"]


def test_block_numbers_roll_over_in_a_file_of_32_megabytes_on_a_card(insert, tmp_path: Path):
    data = content(65_537 * 512 + 100, 5)
    board: Board = insert(make(tmp_path / "card.img", {"large": data}, 128 << 20))
    assert get_512(board, "large") == data


@pytest.mark.genuine("rpi_pico_w")
@pytest.mark.timeout(7200)
@pytest.mark.skipif("SOAK" not in os.environ, reason="takes most of an hour: SOAK=1")
def test_the_genuine_firmware_serves_32_megabytes_from_a_card_whole(insert: Callable[..., Board], tmp_path: Path):
    data = content(65_537 * 512 + 100, 5)
    board = insert(make(tmp_path / "card.img", {"large": data}, 128 << 20))
    assert get_512(board, "large") == data


def get_512(board: Board, name: str) -> bytes:
    with Wire(board.address, timeout=5 if board.name == "unix" else 60) as wire:
        return b"".join(blocks(wire, wire.ask(name, ("windowsize", 16))))


@pytest.mark.parametrize(
    "value", [{"sck": 18}, {"sck": 18, "mosi": 18, "miso": 16, "cs": 17}, {"slot": 9}, {"slot": 1, "speed": 3}, [], 5]
)
def test_a_wrong_setting_is_refused_on_the_host(value: object):
    with pytest.raises(ToolError, match="card must be four pins such as"):
        boards.check_settings({"card": value}, [])


def test_a_datagram_for_the_card_while_it_is_out_gets_an_answer(insert, tmp_path: Path):
    image = make(tmp_path / "card.img")
    board: Board = insert(image)
    board.wait_for("card: FAT")
    image.rename(tmp_path / "away.img")
    with Wire(board.address, timeout=5) as wire:  # before the board has seen it
        wire.socket.sendto(request("boot/deeper/kernel.img"), board.address)
        assert wire.error().code in (0, 1)


def test_the_settings_of_emulated_cards_are_good():
    for name in boards.names():
        if wired := boards.load(name).get("emulator", {}).get("card"):
            assert boards.check_settings({"card": wired}, []) == {"card": wired}, json.dumps(wired)
