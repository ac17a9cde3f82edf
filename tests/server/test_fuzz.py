"""Random and mutated datagrams at a running board: it must serve a correct file afterwards, its heap as before."""

import os
import random

import pytest

from board import Board
from client import fetch
from fuzz import SEEDS, bombard
from served import SERVED

DATAGRAMS = int(os.environ.get("FUZZ_DATAGRAMS", "100000"))  # to the everyday board; a genuine one gets a 20th


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sockets", [(), ("--sockets", "3")], ids=["all sockets", "3 sockets"])
def test_no_datagram_harms_the_board(start, sockets: tuple[str, ...]):
    board: Board = start(*sockets, "--set", "log=debug", "--set", "timeout=1", "--set", "retries=1")
    count = DATAGRAMS if board.name == "unix" else DATAGRAMS // 20
    board.fill()
    before = max(board.heap_when_idle() for _ in range(3))
    bombard(board, random.Random(2347), count // 2, SEEDS, fresh=0.05)
    board.heap_when_idle(seconds=60)  # the unfinished transfers time out first
    assert fetch(board.address, "size-5000", ("blksize", 1428), ("windowsize", 4)) == SERVED["size-5000"]
    after = min(board.heap_when_idle() for _ in range(3))
    assert after <= before + 1024, f"{after - before} bytes of heap are gone"
    assert not any("Traceback" in line or "internal error" in line for line in board.console)
    assert board.stop() == 0
