"""Faults of any kind inside one transfer end that transfer, with an ERROR to its client, and nothing else."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from board import ROOT
from client import TftpError, Wire, ack, blocks, fetch, store
from served import content
from tools.bench.peers import free_port
from tools.boards import micropython

KINDS = ["ValueError", "MemoryError", "OSError", "StopIteration", "RuntimeError"]
DATA = content(20_000)
Address = tuple[str, int]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Address, Path]]:
    """The server of faults.py and what it serves."""
    root, port = tmp_path_factory.mktemp("served"), free_port()
    for name in ["good"] + [f"{where}-{kind}" for where in ("open", "read") for kind in KINDS]:
        (root / name).write_bytes(DATA)
    firmware = root.parent / "firmware"
    shutil.copytree(ROOT / "firmware", firmware)
    source = firmware / "tftpd/files.py"
    text = source.read_text()
    assert 'const("/.uploads")' in text  # otherwise in the root of the host
    source.write_text(text.replace('const("/.uploads")', f'const("{root.parent}/uploads")'))
    command = [micropython(), "-X", "heapsize=1M", "tests/server/faults.py", str(firmware), str(root), str(port)]
    console = root.parent / "faults.console"
    with console.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as server:
        while "ready on" not in console.read_text():
            assert server.poll() is None
            time.sleep(0.01)
        yield ("127.0.0.1", port), root
        assert server.poll() is None, console.read_text()[-2000:]
        server.send_signal(signal.SIGINT)
        server.wait(5)


def alive(address: Address) -> None:
    assert fetch(address, "good", ("blksize", 1428), ("windowsize", 4)) == DATA
    store(address, "new", DATA, ("windowsize", 4))
    assert fetch(address, "new") == DATA


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["open", "read"])
def test_a_fault_in_a_download_ends_it_with_an_error(faulty, where: str, kind: str):
    address, _ = faulty
    with Wire(address) as other:
        first = other.ask("good")
        with pytest.raises(TftpError, match="ERROR 0") as refusal:
            fetch(address, f"{where}-{kind}", ("blksize", 1428))
        assert refusal.value.text
        alive(address)
        assert b"".join(blocks(other, first)) == DATA


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["write", "commit", "receive"])
def test_a_fault_in_an_upload_ends_it_with_an_error(faulty, where: str, kind: str):
    address, root = faulty
    name = f"{where}-{kind}"
    (root / name).write_bytes(b"old")
    for data in (DATA, b""):
        with Wire(address) as other:
            assert other.ask(f"other-{kind}", opcode=2) == ack(0)
            with pytest.raises(TftpError, match="ERROR 0"):
                store(address, name, data)
            alive(address)
            other.send(b"\0\3\0\1end")
            assert other.receive() == ack(1)
        assert (root / name).read_bytes() == b"old"


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_in_a_timer_ends_its_transfer_with_an_error(faulty, kind: str):
    address, _ = faulty
    with Wire(address) as wire, Wire(address) as other:
        first = other.ask("good")
        assert wire.ask(f"timer-{kind}", opcode=2) == ack(0)
        assert wire.error().code == 0
        alive(address)
        assert b"".join(blocks(other, first)) == DATA


@pytest.mark.everyday_only("--heap is for the everyday board")
def test_a_board_that_is_short_of_memory_refuses_uploads_and_keeps_serving(start):
    board = start(
        "--heap", "120K", "--set", "made_files=false", "--set", "read_ahead=0", "--set", "log=debug", "--writable"
    )
    wires = [Wire(board.address) for _ in range(32)]
    answers = [wire.ask(f"new-{number}", ("blksize", 1468), opcode=2) for number, wire in enumerate(wires)]
    refusals = {(error.code, error.text) for error in (TftpError(a) for a in answers if a[:2] == b"\0\5")}
    assert refusals == {(0, "no memory just now, try again")}
    for wire, answer in zip(wires, answers, strict=True):
        if answer[:2] == b"\0\6":
            wire.send(b"\0\3\0\1" + bytes(1468))
    for wire in wires:
        wire.__exit__()
    board.wait_for("idle,", seconds=40)
    store(board.address, "new", DATA)
    assert fetch(board.address, "new") == DATA
