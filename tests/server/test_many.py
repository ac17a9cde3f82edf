"""Many clients at once: few sockets, the limit of transfers, clients that go away."""

import threading
import time

import pytest

from board import Board
from client import TftpError, Wire, ack, blocks, fetch, patient_fetch
from served import SERVED
from tools import boards


def fetch_all(board: Board, count: int, name: str, *options: tuple[str, object], patience: float = 0.5) -> list[float]:
    """Fetch `name` with `count` clients at once; returns the seconds that each took."""
    seconds: list[float] = []
    wrong: list[object] = []
    gate = threading.Barrier(count)

    def one() -> None:
        gate.wait()
        start = time.monotonic()
        try:
            # With retransmission: a board's queue of 4 or 6 datagrams drops some of many requests at once.
            if patient_fetch(board.address, name, *options, patience=patience) != SERVED[name]:
                wrong.append("other bytes")
        except Exception as error:
            wrong.append(error)
        seconds.append(time.monotonic() - start)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    return seconds


@pytest.mark.parametrize("options", [(), (("blksize", 1468), ("windowsize", 4))])
def test_as_many_clients_at_once_as_the_board_allows_are_served_fairly(start, options: tuple):
    board: Board = start()
    count = boards.load(board.name)["settings"]["transfers"]
    assert count == {"unix": 32, "esp32_c3": 12}[board.name]
    seconds = fetch_all(board, count, "size-100000", *options)
    assert max(seconds) < 3 * sum(seconds) / len(seconds)


@pytest.mark.also_on_pico
def test_eight_clients_at_once_are_served(board: Board):
    """A Pico W has only 3 sockets for them; the other boards have enough."""
    patience = 8 if board.name in ("rpi_pico_w", "w5500_evb_pico") else 2
    fetch_all(board, 8, "size-5000", ("blksize", 1468), ("windowsize", 4), patience=patience)


@pytest.mark.parametrize("sockets", [1, 2, 3, 4, 10])
def test_32_clients_are_served_with_few_sockets(start, sockets: int):
    with start("--sockets", str(sockets)) as board:
        fetch_all(board, 32, "size-5000", ("blksize", 1468))
        fetch_all(board, 8, "size-100000", ("blksize", 512), ("windowsize", 4))


def test_clients_that_share_a_socket_are_told_apart_and_strangers_still_get_error_5(start):
    with start("--sockets", "3") as board:
        wires = [Wire(board.address) for _ in range(8)]
        firsts = [wire.ask("size-5000") for wire in wires]
        assert len({wire.tid for wire in wires}) < 8
        with Wire(board.address) as stranger:
            stranger.socket.sendto(ack(1), wires[-1].tid)
            assert stranger.error().code == 5
        for wire, first in reversed(list(zip(wires, firsts, strict=True))):
            assert b"".join(blocks(wire, first)) == SERVED["size-5000"]


def test_a_request_beyond_the_limit_gets_a_clear_error(start):
    with start("--set", "transfers=3") as board:
        wires = [Wire(board.address) for _ in range(4)]
        for wire in wires[:3]:
            assert wire.ask("size-5000")[:2] == b"\0\3"
        error = TftpError(wires[3].ask("size-5000"))
        # U-Boot asks again after code 0, as it should when the server is busy.
        assert error.code == 0 and "busy: 3 transfers" in error.text
        with wires[0]:
            pass  # an ERROR ends it and makes room
        board.wait_for("ended by the client")
        assert wires[3].ask("size-5000")[:2] == b"\0\3"


def test_a_client_that_goes_away_frees_its_transfer(start):
    with start("--set", "transfers=1", "--set", "timeout=1", "--set", "retries=3") as board:
        wire = Wire(board.address)
        wire.ask("size-5000")
        wire.ack(1)
        with pytest.raises(TftpError, match="busy"):
            fetch(board.address, "hello.txt")
        assert "512 bytes" in board.wait_for("the client does not answer", seconds=5)
        assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]


def test_a_client_whose_last_ack_was_lost_makes_room_for_another(start):
    with start("--set", "transfers=1") as board, Wire(board.address) as wire:
        wire.ask("size-513")
        wire.ack(1)
        with pytest.raises(TftpError, match="busy"):
            fetch(board.address, "hello.txt")
        time.sleep(1.2)
        assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]
        assert ": done, 513 bytes" in board.wait_for("size-513")


def test_a_slow_client_does_not_delay_others(board: Board):
    with Wire(board.address) as slow:
        slow.ask("size-100000", ("blksize", 1468), ("windowsize", 16))
        started = time.monotonic()
        assert fetch(board.address, "mebi.bin", ("blksize", 1468), ("windowsize", 16)) == SERVED["mebi.bin"]
        assert time.monotonic() - started < 2
