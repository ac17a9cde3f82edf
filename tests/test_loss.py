"""Whole files through a relay that loses, repeats, reorders and delays datagrams by a seed."""

import time

import pytest
from conftest import SERVED

from board import Board, TftpError, Wire, ack, fetch, request
from tools.relay import Relay

SIZE = "size-100000"


def patient_fetch(address: tuple[str, int], name: str, blksize: int, windowsize: int, mode: str = "octet") -> bytes:
    """As fetch(), but says its last word again after half a second of silence, as every client does."""
    options = (("blksize", blksize), ("windowsize", windowsize))
    with Wire(address, timeout=0.5) as wire:
        word, data, last, acked = request(name, *options, mode=mode), b"", 0, 0
        wire.send(word)
        for _ in range(20_000):
            try:
                packet = wire.receive()
            except TimeoutError:
                wire.send(word)
                continue
            if packet[:2] == b"\0\6":
                if last == 0:
                    word = ack(0)
                    wire.send(word)
                continue
            if packet[:2] != b"\0\3":
                raise TftpError(packet)
            number = packet[2] << 8 | packet[3]
            if number == (last + 1) & 0xFFFF:
                last += 1
                data += packet[4:]
                if len(packet) - 4 < blksize or last - acked >= windowsize:
                    acked, word = last, ack(last)
                    wire.send(word)
                if len(packet) - 4 < blksize:
                    return data
            elif (number - last) & 0xFFFF >= 0x8000 or number == last & 0xFFFF or acked != last:
                acked, word = last, ack(last)  # for each old block again, for a gap once
                wire.send(word)
    raise AssertionError("no end to it")


@pytest.mark.parametrize("percent", [0, 1, 2, 5, 10])
@pytest.mark.parametrize("windowsize", [1, 8])
@pytest.mark.parametrize("blksize", [512, 1428])
def test_files_arrive_whole_over_a_bad_network(board: Board, blksize: int, windowsize: int, percent: int):
    chance = percent / 100
    with Relay(board.address[1], loss=chance, duplicate=chance, reorder=chance, delay_ms=1, seed=percent) as relay:
        for _ in range(3):
            assert patient_fetch(("127.0.0.1", relay.port), SIZE, blksize, windowsize) == SERVED[SIZE]
        assert (relay.lost > 0) == (percent > 0)


def test_netascii_arrives_whole_over_a_bad_network(board: Board):
    wanted = SERVED["text.txt"].replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    with Relay(board.address[1], loss=0.1, duplicate=0.1, reorder=0.1, seed=3) as relay:
        for windowsize in (1, 8):
            got = patient_fetch(("127.0.0.1", relay.port), "text.txt", 512, windowsize, mode="netascii")
            assert got == wanted


def test_a_duplicating_network_does_not_double_the_traffic(board: Board):
    # Sorcerer's Apprentice: with every datagram sent twice by the network, the server must not answer each copy.
    seen = len(board.console)
    with Relay(board.address[1], duplicate=1) as relay:
        assert patient_fetch(("127.0.0.1", relay.port), SIZE, 512, 1) == SERVED[SIZE]
    line = board.wait_for("size-100000", after=seen)
    assert int(line.split(", ")[-1].split()[0]) <= 3, line


def test_losses_cost_tens_of_milliseconds_and_not_seconds(board: Board):
    with Relay(board.address[1], loss=(0, 0.05), seed=11) as relay:
        started = time.monotonic()
        assert patient_fetch(("127.0.0.1", relay.port), SIZE, 512, 1) == SERVED[SIZE]
        seconds = time.monotonic() - started
        assert relay.lost >= 5
        assert seconds < 0.3 * relay.lost


def test_a_link_that_is_gone_for_two_seconds_ends_nothing(board: Board):
    with Wire(board.address) as wire:
        wire.ask("size-5000")
        wire.ack(1)
        time.sleep(2)  # deaf and dumb
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


def test_a_lossy_path_leaves_the_direct_one_alone(board: Board):
    with Relay(board.address[1], loss=0.5, seed=5) as relay, Wire(("127.0.0.1", relay.port)) as stuck:
        stuck.send(request("size-5000"))
        assert fetch(board.address, "size-5000") == SERVED["size-5000"]
