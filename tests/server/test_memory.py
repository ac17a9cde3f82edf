"""Heap and code on the everyday board: nothing allocated per block, budgets kept, no leak over 2,000 transfers."""

import socket

import pytest
import requests

from board import Board
from client import TftpError, Wire, fetch
from served import SERVED
from tools.bench import measures, peers


@pytest.fixture(scope="module")
def budgets() -> dict[str, measures.Budget]:
    """The budgets of heap and code by name, as `make bench` measures them."""
    return {budget.what: budget for budget in measures.heap(peers.free_port())}


@pytest.mark.parametrize("kind", ["lock-step", "windowed"])
def test_a_block_allocates_nothing(budgets, kind: str):
    assert budgets[f"heap allocated per DATA block, {kind}"].figure == 0


def test_one_more_transfer_takes_at_most_4_kb(budgets):
    assert 1468 < budgets["heap of one more transfer at blksize 1468"].figure <= 4096


def test_what_is_loaded_with_all_options_off_is_at_most_27_kb(budgets):
    loaded, everything = (budgets[f"compiled firmware, {what}"].figure for what in ("loaded with all off", "all of it"))
    assert 8000 < loaded <= 27 << 10
    assert loaded < everything - 3000, "uploads, netascii and crash.py are loaded when they are needed"


@pytest.mark.timeout(300)
def test_thousands_of_transfers_leave_the_heap_flat(start):
    board: Board = start("--set", "log=debug")
    fetch(board.address, "text.txt", mode="netascii")  # loads the netascii code
    used = [board.heap_when_idle() for _ in range(5)]
    for number in range(2000):
        kind = number % 5
        if kind == 0:
            fetch(board.address, "size-5000", ("blksize", 1468), ("windowsize", 4))
        elif kind == 1:
            fetch(board.address, "text.txt", mode="netascii")
        elif kind == 2:
            with pytest.raises(TftpError):
                fetch(board.address, f"missing-{number}")
        elif kind == 3:
            with Wire(board.address) as wire:  # ends in the middle with an ERROR
                wire.ask("size-100000", ("tsize", 0), ("windowsize", 16))
                wire.ack(0)
        else:
            assert fetch(board.address, "size-513") == SERVED["size-513"]
    after = [board.heap_when_idle() for _ in range(5)]
    assert min(after) <= max(used) + 1024, (used, after)


def test_names_of_all_of_unicode_take_no_heap(start):
    """MicroPython keeps each string of one character that it makes by an index or a loop."""
    port = peers.free_port(socket.SOCK_STREAM)
    board: Board = start("--set", "log=debug", "--writable", "--set", f"http_port={port}")
    board.wait_for("http: port")
    characters = [chr(code) for code in range(0x100, 0x9FFF)]
    names = ["/".join(characters[at : at + 80]) for at in range(0, len(characters), 80)]

    def ask(name: str) -> None:
        for opcode in (1, 2):
            with Wire(board.address) as wire:
                assert wire.ask(name, opcode=opcode)[:2] == b"\0\5"
        assert requests.get(f"http://127.0.0.1:{port}/{name}").status_code == 404
        assert requests.get(f"http://127.0.0.1:{port}/tftpd/status.json").status_code == 200

    for name in names[:30]:
        ask(name)
    used = [board.heap_when_idle() for _ in range(5)]
    for name in names[30:]:
        ask(name)
    after = [board.heap_when_idle() for _ in range(5)]
    assert min(after) <= max(used) + 1024, (used, after)


def test_a_board_that_is_short_of_memory_says_so_and_keeps_serving(start):
    board: Board = start("--heap", "120K", "--set", "read_ahead=0", "--set", "log=debug")
    wires = [Wire(board.address) for _ in range(32)]
    answers = [wire.ask("size-5000", ("blksize", 1468)) for wire in wires]
    refusals = [TftpError(answer) for answer in answers if answer[:2] == b"\0\5"]
    assert refusals and {(error.code, error.text) for error in refusals} == {(0, "no memory just now, try again")}
    for wire in wires:
        wire.__exit__()
    board.wait_for("idle,")
    assert fetch(board.address, "size-5000") == SERVED["size-5000"]
