"""What only the genuine firmware can show: console, resets, the flash over a power cycle, a Wi-Fi that is not there."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing

from board import Board, TftpError, Wire, fetch

pytestmark = pytest.mark.skipif(bool(missing("esp32_c3")), reason=missing("esp32_c3"))
HELLO = b"Hello from your board.\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/hello.txt").write_bytes(HELLO)
    (tmp_path / "files/large").write_bytes(bytes(range(256)) * 200)
    return tmp_path / "files"


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def c3(files: Path, port: int) -> Iterator[Board]:
    with Board("--board", "esp32_c3", "--serial", str(port), "--set", "log=debug", files=files) as board:
        yield board


def mpremote(port: int, *command: str) -> str:
    whole = [sys.executable, "-m", "mpremote", "connect", f"socket://127.0.0.1:{port}", *command]
    result = subprocess.run(whole, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_mpremote_stops_the_server_and_lists_the_files(c3: Board, port: int):
    listed = mpremote(port, "fs", "ls", ":/")
    assert "boot.py" in listed and "files/" in listed and "settings.json" in listed
    c3.wait_for("stopped")


def test_a_reset_in_the_middle_of_a_transfer(c3: Board, port: int):
    with Wire(c3.address) as wire:
        wire.ask("large")
        wire.ack(1)
        seen = len(c3.console)
        mpremote(port, "reset")
        c3.wait_for(" ready on ", 30, after=seen)
        while (packet := wire.receive())[:2] != b"\0\5":  # copies of block 2
            assert packet[:4] == b"\0\3\0\2"
        assert "the server stops" in str(TftpError(packet))  # Ctrl-C goes before mpremote's reset
    assert fetch(c3.address, "large") == bytes(range(256)) * 200


def test_safe_mode_starts_no_server(c3: Board, port: int):
    seen = len(c3.console)
    mpremote(port, "fs", "touch", ":/safe", "+", "reset")
    c3.wait_for("safe mode: the server is not started", 30, after=seen)


def test_an_upload_is_there_after_a_power_cycle(files: Path, tmp_path: Path):
    arguments = ("--board", "esp32_c3", "--writable", "--save", str(tmp_path / "flash"))
    with Board(*arguments, files=files) as board:
        with Wire(board.address) as wire:
            assert wire.ask("new", opcode=2) == b"\0\4\0\0"
            wire.send(b"\0\3\0\1" + b"kept")
            assert wire.receive() == b"\0\4\0\1"
        assert board.stop() == 0
    with Board(*arguments, files=files) as board:
        assert fetch(board.address, "new") == b"kept" and fetch(board.address, "hello.txt") == HELLO


def test_a_wifi_that_is_not_there_is_told_and_looked_for_again(files: Path):
    with Board("--board", "esp32_c3", "--set", "ssid=nowhere", "--set", "join_timeout=2", files=files) as board:
        board.wait_for("link: not up after 2 s, still trying", 30)
        board.wait_for(" ready on ", 30)
        with pytest.raises(TimeoutError):
            fetch(board.address, "hello.txt")


def test_it_serves_within_ten_seconds_and_64_kb_within_one(files: Path):
    content = bytes(range(256)) * 256
    (files / "64k").write_bytes(content)
    with Board("--board", "esp32_c3", files=files) as board:
        for _ in range(25):
            assert fetch(board.address, "64k", ("blksize", 1428), ("windowsize", 4)) == content
