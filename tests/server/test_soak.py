"""Long runs: fuzzed datagrams at a board that takes uploads, and mixed transfers over a bad network. Afterwards heap,
sockets and files are as before.

The suite runs a small part; `make soak` (SOAK=1) runs a million datagrams and 10,000 transfers.
"""

import os
import random
import time
from pathlib import Path

import pytest

from board import Board, flash_files
from client import TftpError, Wire, ack, fetch, patient_fetch, request, store
from fuzz import SEEDS, bombard
from served import SERVED, content
from tools.relay import Relay

WHOLE = bool(os.environ.get("SOAK"))
PARTS = 4 if WHOLE else 1
DATAGRAMS = 250_000 if WHOLE else 10_000  # in each part
TRANSFERS = 10_000 if WHOLE else 150
pytestmark = [
    pytest.mark.everyday_only("its process and its flash are looked into"),
    pytest.mark.timeout(3600 if WHOLE else 120),
]

UPLOADS = [
    request("fuzz-1", opcode=2),
    request("fuzz-2", ("blksize", 8), ("windowsize", 4), opcode=2),
    request("Fuzz-3", ("tsize", 100), ("timeout", 1), mode="netascii", opcode=2),
    request("hello.txt", opcode=2),
    *(b"\0\3\0" + bytes((block,)) + bytes(size) for block in (1, 2, 3) for size in (0, 7, 8, 512)),
]


def open_files(board: Board) -> int:
    """How many files and sockets the board's MicroPython has open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) == board.process.pid:
                return len(list((process / "fd").iterdir()))
        except (OSError, IndexError):  # the process has ended
            continue
    raise AssertionError("no process of the board")


def before(board: Board) -> tuple[int, int]:
    """Bytes of heap and open files of the idle board, once its tables have grown."""
    board.fill(uploads=True)
    store(board.address, "first", b"")  # allocates what the first upload needs
    return max(board.heap_when_idle(seconds=60) for _ in range(3)), open_files(board)


def check(board: Board, heap: int, opened: int) -> None:
    """Fail unless heap and open files are as before."""
    after = min(board.heap_when_idle(seconds=60) for _ in range(3))
    assert after <= heap + 1024, f"{after - heap} bytes of heap are gone"
    assert open_files(board) == opened
    assert not any("Traceback" in line or "internal error" in line for line in board.console)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_datagram_harms_a_board_that_takes_uploads(start, tmp_path: Path, part: int):
    arguments = ["--writable", "--set", "log=debug", "--set", "timeout=1", "--set", "retries=1"]
    with start(*arguments, "--save", str(tmp_path / "flash")) as board:
        heap, opened = before(board)
        opcodes = bombard(board, random.Random(1350 + part), DATAGRAMS, SEEDS + UPLOADS, fresh=0.2)
        assert opcodes[4] > DATAGRAMS // 1000
        check(board, heap, opened)
        board.console.clear()
    files = flash_files(tmp_path / "flash")
    assert not any(name.startswith("/.uploads/") for name in files)
    assert all(files[f"/files/{name}"] == data for name, data in SERVED.items())


def test_mixed_transfers_leave_everything_as_it_was(start, tmp_path: Path):
    arguments = ["--writable", "--set", "overwrite=true", "--set", "log=debug", "--set", "timeout=1"]
    arguments += ["--set", "retries=1", "--set", "transfers=8"]
    chance = random.Random(7440)
    uploaded: dict[str, bytes] = {}
    with start(*arguments, "--save", str(tmp_path / "flash")) as board:
        heap, opened = before(board)
        with Relay(board.address[1], loss=0.02, duplicate=0.02, reorder=0.02, seed=1) as relay:
            for number in range(TRANSFERS):
                one_transfer(board, ("127.0.0.1", relay.port), number, chance, uploaded)
                if number % 1000 == 999:
                    check(board, heap, opened)
                    board.console.clear()
        time.sleep(2.5)  # unfinished transfers are given up
        check(board, heap, opened)
        for name, data in uploaded.items():
            assert fetch(board.address, name, ("blksize", 1468), ("windowsize", 8)) == data
    files = flash_files(tmp_path / "flash")
    assert not any(name.startswith("/.uploads/") for name in files)
    wanted = {f"/files/{name}": data for name, data in {**SERVED, **uploaded, "first": b""}.items()}
    assert {name: data for name, data in files.items() if name.startswith("/files/")} == wanted


def one_transfer(
    board: Board, bad: tuple[str, int], number: int, chance: random.Random, uploaded: dict[str, bytes]
) -> None:
    """One transfer of a random kind. `bad` is the board behind a bad network; `uploaded` records the uploaded files."""
    options = (("blksize", chance.choice((60, 512, 1428, 1468))), ("windowsize", chance.choice((1, 2, 8))))
    data = content(chance.choice((0, 1, 511, 512, 3000, 6000)), number)
    name = f"upload-{number % 7}"
    kind = number % 12
    if kind < 3:
        assert fetch(board.address, "size-5000", *options) == SERVED["size-5000"]
    elif kind == 3:
        fetch(board.address, "text.txt", *options, mode="netascii")
    elif kind == 4:
        with pytest.raises(TftpError):
            fetch(board.address, chance.choice(("missing", "../boot.py", "folder", b"\xff", "x" * 300)))
    elif kind < 8:
        store(board.address, name, data, *options)
        uploaded[name] = data
    elif kind == 8:
        assert (
            patient_fetch(bad, "size-5000", ("windowsize", chance.choice((1, 4))), patience=0.03) == SERVED["size-5000"]
        )
    elif kind == 9:
        store(bad, name, data, ("windowsize", chance.choice((1, 4))), patience=0.03)
        uploaded[name] = data
    elif kind == 10:
        with pytest.raises(TftpError):
            store(board.address, chance.choice(("folder", "missing/x", "../x", ".x")), data)
    else:  # goes away in the middle, with an ERROR or without
        wire = Wire(board.address)
        wire.ask(name, opcode=chance.choice((1, 2)))
        wire.send(chance.choice((ack(1), b"\0\3\0\1" + bytes(512))))
        if chance.random() < (0.95 if WHOLE else 0.97):
            wire.send(b"\0\5\0\0enough\0")
            time.sleep(0.002)
        else:
            time.sleep(2.5)  # until it is given up: nobody else can write that file before
        wire.socket.close()
