"""Uploads store the exact bytes under any schedule of loss, duplication, reordering and delay, and no sequence of
datagrams breaks the state machines or the parser (hypothesis)."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tftpd.netascii import NetasciiSink
from tftpd.options import Agreed
from tftpd.packet import Refused, parse_request
from tftpd.transfer import DONE

from schedule import FATES, play
from simulated import Bench, Memory, Sender, UploadBench, ack, data


@settings(max_examples=300, deadline=None)
@given(size=st.integers(0, 400), blksize=st.integers(8, 24), windowsize=st.integers(1, 9), fates=FATES)
def test_every_schedule_stores_the_exact_bytes(size: int, blksize: int, windowsize: int, fates: list[list[int]]):
    content = bytes(i * 7 & 255 for i in range(size))
    bench = UploadBench((b"blksize", b"%d" % blksize), (b"windowsize", b"%d" % windowsize), timeout=2, retries=60)
    client = Sender(content, blksize, windowsize)
    sent = play(bench, client, fates, most=20_000)
    assert bench.transfer.outcome == DONE
    assert bench.sink.committed and bench.sink.data == content
    assert bench.transfer.delivered() == size
    # The traffic is bounded: each lost or delayed datagram costs at most two windows in each direction.
    assert sent <= 4 * (size // blksize + 3) + 2 * (windowsize + 2) * 2 * len(fates) + 20


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from([b"\r", b"\n", b"a", b"bc"]), max_size=80).map(b"".join),
    windowsize=st.integers(1, 6),
    fates=FATES,
)
def test_every_schedule_stores_the_exact_netascii_text(text: bytes, windowsize: int, fates: list[list[int]]):
    memory = Memory()
    stream = text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    asked = ((b"blksize", b"8"), (b"windowsize", b"%d" % windowsize))
    bench = UploadBench(*asked, timeout=2, retries=60, sink=NetasciiSink(memory))
    play(bench, Sender(stream, 8, windowsize), fates, most=20_000)
    assert memory.committed and memory.data == text


# -- any event in any order --------------------------------------------------------------------------------------------

BLOCK_NUMBERS = st.integers(0, 12) | st.integers(65_520, 65_535) | st.integers(0, 65_535)
PACKETS = (
    st.binary(max_size=12)
    | BLOCK_NUMBERS.map(ack)
    | st.builds(data, BLOCK_NUMBERS, st.binary(max_size=9))
    | st.builds(data, st.integers(0, 12), st.just(bytes(8)))
    | st.builds(lambda code, text: b"\0\5\0" + bytes((code,)) + text, st.integers(0, 9), st.binary(max_size=8))
)


class Anything(RuleBasedStateMachine):
    """A transfer that receives any packet, timer or repeated request at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def new_bench(self) -> Bench | UploadBench:
        raise NotImplementedError

    def begin(self) -> None:
        self.bench: Any = self.new_bench()
        self.room = 1000  # packets that the network takes
        self.asked = 1  # requests, each worth three datagrams until the client has proved its address
        self.sent = 0
        self.refused = False
        self.flush()

    @precondition(lambda self: not self.going())
    @rule()
    def another_begins(self) -> None:
        self.begin()

    def going(self) -> bool:
        return self.bench.transfer.outcome is None and not self.refused

    def flush(self) -> None:
        unproven = not self.bench.transfer.proven
        try:
            sent = self.bench.flush(self.room)
        except Refused:
            self.refused = True
            return
        assert all(3 < len(packet) <= 12 or packet[1] == 6 for packet in sent)
        if unproven:
            self.sent += len(sent)
            assert self.sent <= 3 * self.asked

    @precondition(lambda self: self.going())
    @rule(packet=PACKETS, room=st.sampled_from((0, 1, 1000)))
    def packet_comes(self, packet: bytes, room: int) -> None:
        self.room = room
        self.bench.transfer.receive(packet, len(packet), self.bench.now)
        self.flush()

    @precondition(lambda self: self.going())
    @rule(ms=st.integers(0, 4000))
    def time_goes(self, ms: int) -> None:
        self.bench.now += ms
        if self.bench.now >= self.bench.transfer.due:
            self.bench.transfer.expired(self.bench.now)
        self.flush()

    @precondition(lambda self: self.going())
    @rule()
    def request_comes_again(self) -> None:
        if self.bench.transfer.repeat_request(self.bench.now):
            self.asked += 1
            self.flush()

    @invariant()
    def is_not_stuck(self) -> None:
        if self.going():
            assert self.bench.transfer.due - self.bench.now <= 3000 * 8
            assert 1 <= self.bench.transfer._rto <= 3000


class AnythingToAnUpload(Anything):
    def new_bench(self) -> UploadBench:
        return UploadBench((b"blksize", b"8"), (b"windowsize", b"4"))

    @invariant()
    def writes_no_more_than_it_tells(self) -> None:
        assert self.bench.sink.size == self.bench.transfer.delivered()
        if self.bench.sink.committed:
            assert self.bench.sink.size % 8 != 0 or self.bench.transfer.base > self.bench.sink.size // 8


class AnythingToADownload(Anything):
    def new_bench(self) -> Bench:
        return Bench(bytes(100), (b"blksize", b"8"), (b"windowsize", b"4"))

    @invariant()
    def sends_no_more_than_the_window(self) -> None:
        transfer = self.bench.transfer
        assert transfer.base <= transfer.top <= transfer.base + 4 + 1
        assert transfer.next <= transfer.top + 1


TestAnythingToAnUpload = AnythingToAnUpload.TestCase
TestAnythingToAnUpload.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestAnythingToADownload = AnythingToADownload.TestCase
TestAnythingToADownload.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


# -- requests and options ----------------------------------------------------------------------------------------------

NUMBERS = st.integers(-3, 70_000).map(lambda n: b"%d" % n) | st.binary(max_size=14)
NAMES = st.sampled_from([b"blksize", b"BLKSIZE", b"windowsize", b"timeout", b"tsize", b"TSize", b"x", b""])


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=600) | st.lists(NAMES | NUMBERS, max_size=12).map(lambda fields: b"\0\2" + b"\0".join(fields))
)
def test_no_datagram_breaks_the_parser(datagram: bytes):
    try:
        request = parse_request(datagram)
    except Refused as refusal:
        assert refusal.code == 4
        return
    if request:
        opcode, name, _, options = request
        assert opcode in (1, 2) and b"\0" not in name
        for upload in (False, True):
            Agreed(options, 1468, 16, 100, upload)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(NAMES, NUMBERS), max_size=8), st.booleans(), st.integers(8, 65_464), st.integers(1, 64))
def test_only_what_was_asked_is_granted_and_within_its_limits(
    asked: list[tuple[bytes, bytes]], upload: bool, blksize: int, windowsize: int
):
    agreed = Agreed(asked, blksize, windowsize, None if upload else 12_345, upload)
    assert 8 <= agreed.blksize <= max(blksize, 512)
    assert 1 <= agreed.windowsize <= windowsize
    assert agreed.timeout is None or 1 <= agreed.timeout <= 255
    fields = agreed.oack[2:-1].split(b"\0") if agreed.oack else []
    granted = list(zip(fields[::2], fields[1::2], strict=True))
    names = [name.lower() for name, _ in granted]
    assert len(names) == len(set(names))
    order = [name for name, _ in asked]
    assert all(name in order for name, _ in granted)
    values = dict(asked)
    for name, value in granted:
        if name.lower() in (b"blksize", b"windowsize") and order.count(name) == 1:
            assert int(value) <= int(values[name])
