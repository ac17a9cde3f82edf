"""The host's end of TCP connections to an emulated board.

RFC 9293, as much of it as a client needs on a wire that seldom drops and never reorders: cumulative ACKs, the windows
of both sides, retransmission from the first unacknowledged byte, FIN and RST. No congestion control, and no option but
the MSS. rp2040py packs and parses the segments.
"""

import contextlib
import random
import selectors
import socket
import struct
import time
from collections.abc import Callable

from rp2040py.external.cyw43 import net

_MSS = 1460
_DEFAULT_MSS = 536  # RFC 9293 section 3.7.1, of a board that tells none
_WINDOW = 0xFFFF
_AGAIN_S = 3  # without progress; also between probes of a closed window
_MODULO = 1 << 32
_BUFFER = 8 << 10  # bytes for the host's socket, so that the board soon learns of a client that takes nothing

Segment = net.TcpSegment
# Sends a segment to the board: sequence number, acknowledgement, flags, window, data, MSS.
Transmit = Callable[[int, int, int, int, bytes, int | None], None]


class Connection:
    """A client's end. Subclasses replace received(), ended() and lost()."""

    def __init__(self, transmit: Transmit) -> None:
        self._transmit = transmit
        self._data = bytearray()  # what the board has not acknowledged
        self._base = random.getrandbits(32)  # sequence number of its first byte; first that of the SYN
        self._sent = 0  # bytes of it that were sent, the FIN being the last
        self._room = 0  # the board's window
        self._mss = _MSS
        self._next = 0  # sequence number that the board sends next
        self._taken = 0  # bytes of the board since the last ACK
        self._due = False  # an ACK is due
        self._open = False
        self._finishing = self._finished = False  # no more data comes for the board; its ACK of the FIN has come
        self._ended = False  # the board's FIN has come
        self._lost = False
        self._since = time.monotonic()  # when there was progress, or a retransmission
        self._push()

    # For the client

    def received(self, data: bytes) -> None:
        """The board has sent `data`."""

    def ended(self) -> None:
        """The board sends no more."""

    def lost(self) -> None:
        """One side has reset the connection."""

    def close(self) -> None:
        """The connection is over: release what it holds."""

    def window(self) -> int:
        """How many bytes the client takes now."""
        return _WINDOW

    def send(self, data: bytes) -> None:
        self._data += data
        if self._open:
            self._push()

    def finish(self) -> None:
        """Send no more."""
        self._finishing = True
        if self._open:
            self._push()

    def reset(self) -> None:
        """Break the connection off."""
        if not self._lost:
            self._segment(net.TCP_RST | net.TCP_ACK)
            self._lose()

    # For the bridge

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self._lost or (self._ended and self._finished)

    def turn(self) -> None:
        """Send what is due: an ACK, or what has not been acknowledged for a while."""
        if self._due:
            self._acknowledge()
        now = time.monotonic()
        if self._open and not self._left():
            self._since = now
        elif now - self._since > _AGAIN_S:
            self._since = now
            self._sent = 0
            self._room = max(self._room, 1)  # a probe, if the window is closed
            self._push()

    def take(self, segment: Segment) -> None:
        """The board has sent `segment`."""
        if segment.flags & net.TCP_RST:
            if not (self._ended and self._finished):
                self._lose()
            return
        if segment.flags & net.TCP_SYN:
            self._due = True
            if not self._open and segment.ack == (self._base + 1) % _MODULO:
                self._open = True
                self._base = segment.ack
                self._next = (segment.seq + 1) % _MODULO
                self._mss = min(segment.mss or _DEFAULT_MSS, _MSS)
        if self._open:
            self._take_ack(segment)
            self._take_data(segment)

    def _left(self) -> int:
        """Bytes that have not been acknowledged, with the FIN."""
        return len(self._data) + (self._finishing and not self._finished)

    def _take_ack(self, segment: Segment) -> None:
        count = (segment.ack - self._base) % _MODULO
        if count > self._left():  # an old one
            return
        if count:
            self._since = time.monotonic()
            self._finished = self._finished or count > len(self._data)
            del self._data[:count]
            self._base = segment.ack
            self._sent = max(self._sent - count, 0)
        self._room = segment.window
        self._push()

    def _take_data(self, segment: Segment) -> None:
        finished = bool(segment.flags & net.TCP_FIN)
        if not segment.payload and not finished:
            return
        known = (self._next - segment.seq) % _MODULO  # bytes of it that have come before
        data = segment.payload[known:]
        if known > len(segment.payload) or self._ended or len(data) > self.window():
            self._acknowledge()
            return
        self._due = True
        self._next = (self._next + len(data) + finished) % _MODULO
        self._taken += len(data)
        if data:
            self.received(data)
        if finished:
            self._ended = True
            self.ended()
        if self._taken >= 2 * self._mss or finished:  # RFC 9293 section 3.8.6.3
            self._acknowledge()

    def _push(self) -> None:
        """Send what may be sent."""
        if not self._open:
            self._segment(net.TCP_SYN)
            return
        while self._sent < min(len(self._data), self._room):
            left = len(self._data) - self._sent
            size = min(self._mss, left, self._room - self._sent)
            if size < min(self._mss, left) and self._sent:  # RFC 9293 section 3.8.6.2.1
                break
            data = bytes(self._data[self._sent : self._sent + size])
            self._segment(net.TCP_ACK | net.TCP_PSH, data)
            self._sent += size
        if self._finishing and not self._finished and self._sent == len(self._data):
            self._segment(net.TCP_ACK | net.TCP_FIN)
            self._sent += 1

    def _acknowledge(self) -> None:
        if not self._lost:
            self._segment(net.TCP_ACK)

    def _segment(self, flags: int, data: bytes = b"") -> None:
        seq = (self._base + self._sent) % _MODULO
        syn = flags == net.TCP_SYN
        if not syn:
            self._due = False
            self._taken = 0
        self._transmit(seq, self._next, flags, self.window(), data, _MSS if syn else None)

    def _lose(self) -> None:
        self._lost = True
        self._due = False
        self.lost()


class Forwarded(Connection):
    """A connection that a client on the host has opened."""

    def __init__(self, selector: selectors.BaseSelector, client: socket.socket, transmit: Transmit) -> None:
        """
        selector  the data of its keys are functions to call when the socket is ready
        client    its socket
        """
        self._selector = selector
        self._client = client
        self._received = bytearray()  # what the client has not taken
        self._watched = 0  # events of the selector
        self._told = False  # that the board sends no more
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(transmit)
        self._watch()

    @property
    def over(self) -> bool:
        return super().over and not self._received

    def window(self) -> int:
        return _WINDOW - len(self._received)

    def received(self, data: bytes) -> None:
        self._received += data
        self._ready()

    def ended(self) -> None:
        self._ready()

    def lost(self) -> None:
        self._received.clear()
        self._watch()
        with contextlib.suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets it

    def turn(self) -> None:
        super().turn()
        self._watch()

    def close(self) -> None:
        self._watch()
        self._client.close()

    def _ready(self) -> None:
        """Give the client what the board has sent, and take what it sends."""
        try:
            if self._received:
                full = self.window() < self._mss
                del self._received[: self._client.send(self._received)]
                self._due = self._due or (full and not self._ended)
            if self._ended and not self._received and not self._told:
                self._told = True
                self._client.shutdown(socket.SHUT_WR)
            if self._watched & selectors.EVENT_READ:
                data = self._client.recv(_WINDOW)
                if data:
                    self.send(data)
                else:
                    self.finish()
        except BlockingIOError:
            pass
        except OSError:  # the client is gone
            self.reset()
        self._watch()

    def _watch(self) -> None:
        """Have the selector wait for what this connection can use."""
        events = 0
        if not self._lost and not self._finishing and len(self._data) < _WINDOW:
            events |= selectors.EVENT_READ
        if self._received:
            events |= selectors.EVENT_WRITE
        if events != self._watched:
            if self._watched:
                self._selector.unregister(self._client)
            if events:
                self._selector.register(self._client, events, self._ready)
            self._watched = events
