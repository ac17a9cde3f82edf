"""Test doubles for the transfers: files in memory, packets in a list, a clock that the test moves, strict clients."""

from tftpd.files import ReadAhead
from tftpd.options import Agreed
from tftpd.packet import DISK_FULL, Refused
from tftpd.rrq import ReadTransfer
from tftpd.wrq import WriteTransfer


class Data:
    """A source of blocks in memory that records the numbers of the first hundred blocks read."""

    def __init__(self, data, blksize):
        self.data = data
        self.blksize = blksize
        self.block = 1
        self.reads = []

    def seek(self, block):
        self.block = block

    def readinto(self, payload):
        size = len(payload)
        count = size // self.blksize
        if len(self.reads) < 100:
            self.reads += range(self.block, self.block + count)
        at = (self.block - 1) * self.blksize
        part = self.data[at : at + size]
        payload[: len(part)] = part
        self.block += count
        return len(part)


class Files:
    """What deflate.py asks of files.Files."""

    def __init__(self, **settings):
        self.settings = {"blksize": 16, "windowsize": 3, "read_ahead": 32}
        self.settings.update(settings)
        self.readers = {}


class Zeros:
    """`size` zero bytes that take no memory, so that large files fit on a board."""

    def __init__(self, size):
        self._size = size

    def __len__(self):
        return self._size

    def __getitem__(self, part):
        return bytes(max(min(part.stop, self._size) - part.start, 0))


def ack(block):
    return bytes((0, 4, block >> 8 & 255, block & 255))


def numbers(packets) -> list:
    return ["OACK" if packet[1] == 6 else packet[2] << 8 | packet[3] for packet in packets]


class _Bench:
    """A transfer, its clock, and a list of the packets that it sends."""

    def __init__(self, agreed, transfer, *arguments, timeout=3, retries=8):
        self.now = 1000
        self.took = 0  # ms that the file reads or writes take
        self.blksize = agreed.blksize
        self.windowsize = agreed.windowsize
        self.transfer = transfer(*arguments, agreed, timeout, retries, self.clock)
        self.transfer.attach(self._send, self._hear)
        self._sent = []

    def clock(self):
        return self.now + self.took

    def _hear(self, inbox) -> "int | None":
        return None

    def _send(self, packet):
        if len(self._sent) < self._room:
            self._sent.append(bytes(packet))
            return len(packet)
        return None

    def flush(self, room=1000, word=None):
        """Run pump() after `word` (bytes or None) has arrived, on a network that takes `room` packets; returns the
        packets sent (list of bytes)."""
        self._room = room
        self._sent = []
        if self.transfer.outcome is None:
            told = self.transfer.pump(word)
            assert told or not (self.transfer.outcome or self.transfer.blocked), "its caller would not know"
        return self._sent

    def blocks(self, room=1000) -> list:
        """The wire numbers of the DATA or ACKs sent now; an OACK shows as "OACK"."""
        return numbers(self.flush(room))

    def answer(self, datagram):
        """Deliver `datagram` from the client; returns the packets sent in answer (list of bytes)."""
        return self.flush(word=datagram)

    def receive(self, datagram) -> list:
        """As answer(), but returns the wire numbers."""
        return numbers(self.answer(datagram))

    def wait(self, ms):
        """Move the clock; returns the blocks that the timer makes the transfer send."""
        self.now += ms
        if self.transfer.outcome is None and self.now >= self.transfer.due:
            self.transfer.expired(self.now)
        return self.blocks()

    def wait_until_due(self):
        return self.wait(max(self.transfer.due - self.now, 0))


class Bench(_Bench):
    """A ReadTransfer; `alone`: no other transfer is active, so it may serve its client in a loop."""

    def __init__(self, data, *asked, source=None, ahead=None, alone=False, **limits):
        agreed = Agreed(asked, 65464, 64, len(data))
        self.source = source or Data(data, agreed.blksize)
        self.ahead = ahead or ReadAhead(max(agreed.blksize, 40))
        self.alone = alone
        super().__init__(agreed, ReadTransfer, self.source, self.ahead, **limits)

    def answer(self, datagram):
        if self.alone:
            self.transfer.until = self.now + 40
            if len(datagram) >= 4:  # as read from a connected socket
                self.ahead.inbox[:] = datagram[:4]
                datagram = self.ahead.inbox
        return super().answer(datagram)

    def ack(self, block):
        return self.receive(ack(block))


class Client:
    """A receiver by RFC 1350 and RFC 7440. On a gap it acknowledges the last good block once (U-Boot), or, with
    `acks_all`, for every datagram out of order (edk2)."""

    def __init__(self, blksize, windowsize, oack, acks_all=False):
        self.blksize = blksize
        self.windowsize = windowsize
        self.acks_all = acks_all
        self.data = b""
        self.block = 0  # last block received in order
        self.acked = -1 if oack else 0
        self.done = False
        self.gap_reported = False
        self._last_sent = None  # None: its request

    def receive(self, packet):
        """The client's answer to `packet` (bytes): a list of datagrams."""
        answer = self._answer(packet)
        if answer is None:
            return []
        self._last_sent = answer
        return [answer]

    def again(self):
        """The datagrams that it retransmits after a second of silence; None stands for its request."""
        return [self._last_sent]

    def _answer(self, packet):
        if packet[1] == 6:
            if self.block:
                return None
            self.acked = 0
            return ack(0)
        number = packet[2] << 8 | packet[3]
        if number == (self.block + 1) & 0xFFFF and not self.done:
            self.gap_reported = False
            self.block += 1
            self.data += packet[4:]
            self.done = len(packet) - 4 < self.blksize
            if self.done or self.block - self.acked >= self.windowsize:
                self.acked = self.block
                return ack(self.block)
            return None
        ahead = (number - self.block) & 0xFFFF < 0x8000
        if self.acks_all or not ahead or not self.gap_reported:
            self.gap_reported = ahead
            self.acked = self.block
            return ack(self.block)
        return None


def data(block, payload=b""):
    return bytes((0, 3, block >> 8 & 255, block & 255)) + payload


class Memory:
    """A sink in memory for up to `room` bytes that records whether it was committed."""

    def __init__(self, room=None):
        self.data = b""
        self.size = 0
        self.room = room
        self.path = "/files/new"
        self.committed = False

    def write(self, data):
        assert not self.committed
        self.size += len(data)
        if self.room is not None and self.size > self.room:
            raise Refused(DISK_FULL, "the filesystem is full")
        if self.size < 100_000:
            self.data += bytes(data)

    def commit(self):
        assert not self.committed
        self.committed = True

    def close(self):
        pass


class UploadBench(_Bench):
    """A WriteTransfer."""

    def __init__(self, *asked, sink=None, **limits):
        self.sink = sink or Memory()
        super().__init__(Agreed(asked, 65464, 64, upload=True), WriteTransfer, self.sink, None, **limits)

    def data(self, block, payload=bytes(512)):
        return self.receive(data(block, payload))


def three_datagrams_for_each_request(bench, reply):
    """A client that never answers gets `reply` three times, three times more when it repeats its request, and then the
    transfer is given up."""
    sent = bench.blocks()
    for _ in range(20):
        sent += bench.wait(300)
    assert sent == [reply] * 3
    asked_again = bench.now
    assert bench.transfer.repeat_request(bench.now)
    sent = bench.blocks()
    for _ in range(20):
        sent += bench.wait(300)
    assert sent == [reply] * 3
    while bench.transfer.outcome is None:
        assert bench.wait_until_due() == []
    assert bench.transfer.outcome == "the client does not answer"
    assert bench.now - asked_again == 24_000  # timeout x retries


def karn(bench, step, repeated):
    """Karn's rule: after a retransmission of block `repeated` the doubled timeout holds until a packet that was sent
    only once is answered. step(n) is the client's answer to block n."""
    bench.now += 10
    step(1)
    assert bench.wait_until_due() == [repeated]
    doubled = bench.transfer.due - bench.now
    bench.now += 10
    step(2)
    assert bench.transfer.due - bench.now == doubled
    bench.now += 10
    step(3)
    assert bench.transfer.due - bench.now < doubled


def waits_until_given_up(bench):
    """The times (ms) between retransmissions to a silent client, with a timeout of 2 s and 8 retries."""
    waits = []
    while bench.transfer.outcome is None:
        before = bench.now
        bench.wait_until_due()
        waits.append(bench.now - before)
    assert waits[:8] == [20, 40, 80, 160, 320, 640, 1280, 2000]
    assert 16_000 <= sum(waits) <= 18_000
    assert bench.transfer.outcome == "the client does not answer"
    return waits


class Sender:
    """A client that uploads by RFC 1350 and RFC 7440: it sends a window after each new ACK, and starts again after an
    ACK inside the window."""

    def __init__(self, content, blksize, windowsize):
        self.content = content
        self.blksize = blksize
        self.windowsize = windowsize
        self.last = len(content) // blksize + 1
        self.base = -1  # last block that was acknowledged; the OACK or ACK 0 is still to come
        self.sent = 0  # highest block sent
        self.done = False

    def block(self, number):
        return data(number, self.content[(number - 1) * self.blksize : number * self.blksize])

    def window(self):
        """The DATA packets of the current window."""
        self.sent = min(self.base + self.windowsize, self.last)
        return [self.block(number) for number in range(self.base + 1, self.sent + 1)]

    def again(self):
        """The datagrams that it retransmits after a second of silence; None stands for its request."""
        if self.done:
            return []
        return [None] if self.base < 0 else self.window()

    def receive(self, packet):
        """The client's answer to `packet`: a list of datagrams."""
        if packet[1] == 6:
            number = 0
        else:
            assert packet[1] == 4, packet
            number = packet[2] << 8 | packet[3]
        if self.base < 0:
            if number:
                return []
            self.base = 0
            return self.window()
        ahead = (number - self.base) & 0xFFFF
        if self.done or not ahead <= self.sent - self.base or (not ahead and self.windowsize == 1):
            return []  # stale, or a duplicate ACK (RFC 1123 4.2.3.1)
        self.base += ahead
        if self.base == self.last:
            self.done = True
            return []
        return self.window()
