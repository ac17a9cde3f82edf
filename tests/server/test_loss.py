"""Files arrive whole through a relay that loses, duplicates, reorders and delays datagrams, by a seed."""

import time

import pytest

from board import Board
from client import Wire, fetch, patient_fetch, request
from served import SERVED
from tools.relay import Relay

SIZE = "size-100000"


@pytest.mark.parametrize("percent", [0, 1, 2, 5, 10])
@pytest.mark.parametrize("windowsize", [1, 8])
@pytest.mark.parametrize("blksize", [512, 1428])
def test_files_arrive_whole_over_a_bad_network(board: Board, blksize: int, windowsize: int, percent: int):
    chance = percent / 100
    with Relay(board.address[1], loss=chance, duplicate=chance, reorder=chance, delay_ms=1, seed=percent) as relay:
        for _ in range(3 if percent < 5 else 1):
            assert (
                patient_fetch(("127.0.0.1", relay.port), SIZE, ("blksize", blksize), ("windowsize", windowsize))
                == SERVED[SIZE]
            )
        assert (relay.lost > 0) == (percent > 0)


def test_netascii_arrives_whole_over_a_bad_network(board: Board):
    wanted = SERVED["text.txt"].replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    with Relay(board.address[1], loss=0.1, duplicate=0.1, reorder=0.1, seed=3) as relay:
        for windowsize in (1, 8):
            got = patient_fetch(("127.0.0.1", relay.port), "text.txt", ("windowsize", windowsize), mode="netascii")
            assert got == wanted


def test_a_duplicating_network_does_not_double_the_traffic(board: Board):
    # Sorcerer's Apprentice: the network duplicates every datagram, and the server must not answer each copy.
    seen = board.lines_when_silent()
    with Relay(board.address[1], duplicate=1) as relay:
        assert patient_fetch(("127.0.0.1", relay.port), SIZE, ("blksize", 512)) == SERVED[SIZE]
    line = board.wait_for(
        'size-100000" octet blksize=512:', after=seen
    )  # not of an earlier transfer whose last ACK was lost
    assert int(line.split(", ")[-1].split()[0]) < 20, line  # of 196 blocks; a busy machine delays a few


def test_losses_cost_tens_of_milliseconds_and_not_seconds(board: Board):
    with Relay(board.address[1], loss=(0, 0.05), seed=11) as relay:
        started = time.monotonic()
        assert patient_fetch(("127.0.0.1", relay.port), SIZE, ("blksize", 512)) == SERVED[SIZE]
        seconds = time.monotonic() - started
        assert relay.lost >= 5
        assert seconds < 0.3 * relay.lost


def test_a_transfer_survives_two_seconds_without_a_link(board: Board):
    with Wire(board.address) as wire:
        wire.ask("size-5000")
        wire.ack(1)
        time.sleep(2)  # nothing passes in either direction
        wire.socket.setblocking(False)
        try:
            while True:
                wire.receive()
        except BlockingIOError:
            wire.socket.settimeout(2)
        packet = wire.ack(2)
        while packet[3] != 3:
            packet = wire.receive()
        assert packet[4:] == SERVED["size-5000"][1024:1536]


def test_a_client_on_a_lossy_path_does_not_block_another(board: Board):
    with Relay(board.address[1], loss=0.5, seed=5) as relay, Wire(("127.0.0.1", relay.port)) as stuck:
        stuck.send(request("size-5000"))
        assert fetch(board.address, "size-5000") == SERVED["size-5000"]
