"""The host's end of TCP to an emulated board (tools/emulators/tcp.py), against segments made by hand."""

import random
import selectors
import socket
import time
from collections.abc import Callable

import pytest
from rp2040py.external.cyw43 import net

from tools.emulators import tcp
from tools.emulators.bridge import BOARD, Bridge

CLIENT = bytes((10, 0, 0, 1))
ISS = 4_294_967_290  # of the board: its numbers wrap soon


class Board:
    """The board's end, at the other side of a wire that loses what `loses` says."""

    def __init__(self, loses: Callable[[tcp.Segment], bool] = lambda segment: False, window: int = 4000):
        self.loses, self.window = loses, window
        self.got = b""
        self.ended = self.reset = False
        self.next = 0
        self.seq = ISS
        self.answers: list[tcp.Segment] = []

    def transmit(self, seq: int, ack: int, flags: int, window: int, data: bytes, mss: int | None) -> None:
        """A segment of the client."""
        segment = tcp.Segment(1, 2, seq, ack, flags, window, mss, data)
        if self.loses(segment):
            return
        if flags & net.TCP_RST:
            self.reset = True
        elif flags & net.TCP_SYN:
            self.next = seq + 1
            self.say(net.TCP_SYN | net.TCP_ACK)
            self.seq = (self.seq + 1) % (1 << 32)
        elif data or flags & net.TCP_FIN:
            if seq == self.next % (1 << 32) and len(data) <= self.window:
                self.got += data
                self.next += len(data)
                if flags & net.TCP_FIN:
                    self.ended = True
                    self.next += 1
            self.say(net.TCP_ACK)

    def say(self, flags: int, data: bytes = b"", seq: int | None = None) -> None:
        seq = self.seq if seq is None else seq
        self.answers.append(tcp.Segment(2, 1, seq, self.next % (1 << 32), flags, self.window, 800, data))

    def send(self, data: bytes, flags: int = 0) -> None:
        self.say(net.TCP_ACK | flags, data)
        self.seq = (self.seq + len(data) + bool(flags & net.TCP_FIN)) % (1 << 32)


class Client(tcp.Connection):
    def __init__(self, board: Board):
        self.got = b""
        self.end = self.broken = False
        self.board = board
        super().__init__(board.transmit)

    def received(self, data: bytes) -> None:
        self.got += data

    def ended(self) -> None:
        self.end = True

    def lost(self) -> None:
        self.broken = True

    def run(self) -> None:
        """Until neither side has anything to say."""
        while self.board.answers:
            while self.board.answers:
                self.take(self.board.answers.pop(0))
            self.turn()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved by hand."""
    at = [0.0]
    monkeypatch.setattr(tcp.time, "monotonic", lambda: at[0])
    return at


def test_a_whole_connection():
    board = Board()
    client = Client(board)
    client.send(b"x" * 10_000)
    client.run()
    assert board.got == b"x" * 10_000
    for _ in range(10):
        board.send(b"y" * 800)
    client.run()
    client.finish()
    client.run()
    assert board.ended and not client.over
    board.send(b"z", net.TCP_FIN)
    client.run()
    assert client.got == b"y" * 8000 + b"z" and client.end and client.over and not client.broken


def test_whatever_is_lost_comes_again(now: list[float]):
    dice = random.Random(1)
    board = Board(lambda segment: dice.random() < 0.3)
    client = Client(board)
    client.send(bytes(range(256)) * 40)
    client.finish()
    for _ in range(200):
        client.run()
        now[0] += 4
        client.turn()
    assert board.got == bytes(range(256)) * 40 and board.ended


def test_a_segment_that_comes_twice_or_overlaps_is_taken_once():
    board = Board()
    client = Client(board)
    client.run()
    first = board.seq
    board.send(b"abc")
    board.say(net.TCP_ACK, b"abc", first)
    board.say(net.TCP_ACK, b"bcdef", (first + 1) % (1 << 32))
    board.say(net.TCP_ACK, b"later", (first + 100) % (1 << 32))
    client.run()
    assert client.got == b"abcdef"


def test_a_closed_window_is_waited_for_and_probed(now: list[float]):
    sent: list[int] = []
    board = Board(lambda segment: bool(sent.append(len(segment.payload))), window=1000)
    client = Client(board)
    client.run()
    board.window = 0
    client.send(b"x" * 3000)
    client.run()
    count = len(sent)
    client.turn()
    assert len(sent) == count
    now[0] += 4
    client.turn()
    assert sent[count:] == [1]
    client.run()
    board.window = 5000
    now[0] += 4
    client.turn()
    client.run()
    assert board.got == b"x" * 3000


def test_a_reset_ends_it_on_both_sides():
    board = Board()
    client = Client(board)
    client.run()
    board.say(net.TCP_RST)
    client.run()
    assert client.broken and client.over and not board.reset
    other = Client(board)
    other.run()
    other.reset()
    assert board.reset and other.over


def test_a_board_that_does_not_listen_resets_its_client_on_the_host():
    selector = selectors.DefaultSelector()
    frames: list[bytes] = []
    bridge = Bridge(selector, "127.0.0.1", 0, 69, frames.append, None)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    bridge.forward(port)
    bridge._mac = bytes(6)  # pyright: ignore[reportPrivateUsage]  # the board has an address
    with socket.create_connection(("127.0.0.1", port)) as client:
        end = time.monotonic() + 5
        while not frames and time.monotonic() < end:
            for key, _ in selector.select(0.1):
                key.data()
        packet = net.parse_ipv4(frames[0][14:])
        assert packet and packet.src_ip == CLIENT and packet.dst_ip == BOARD
        syn = net.parse_tcp(packet.payload)
        assert syn and syn.flags == net.TCP_SYN and syn.dst_port == port and syn.mss == 1460
        ack, flags = (syn.seq + 1) % (1 << 32), net.TCP_RST | net.TCP_ACK
        answer = net.pack_tcp(BOARD, CLIENT, port, syn.src_port, seq=0, ack=ack, flags=flags, window=0)
        bridge.frame(net.pack_ethernet(bytes(6), bytes(6), 0x0800, net.pack_ipv4(BOARD, CLIENT, 6, answer)))
        bridge.turn()
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
