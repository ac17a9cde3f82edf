"""Downloads deliver the exact bytes under any schedule of loss, duplication, reordering and delay (hypothesis)."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from tftpd.files import ReadAhead
from tftpd.netascii import NetasciiSource
from tftpd.options import Agreed
from tftpd.transfer import DONE

from schedule import FATES, play
from simulated import Bench, Client


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(0, 400),
    blksize=st.integers(8, 24),
    windowsize=st.integers(1, 9),
    acks_all=st.booleans(),
    alone=st.booleans(),
    fates=FATES,
)
def test_every_schedule_delivers_the_exact_bytes(size, blksize, windowsize, acks_all, alone, fates):
    data = bytes(i * 7 & 255 for i in range(size))
    asked = (b"blksize", b"%d" % blksize), (b"windowsize", b"%d" % windowsize)
    bench = Bench(data, *asked, alone=alone, retries=100)
    client = Client(blksize, windowsize, oack=True, acks_all=acks_all)
    sent = play(bench, client, fates, most=10_000)
    assert bench.transfer.outcome == DONE
    assert client.data == data
    # The traffic is bounded: each lost or delayed datagram costs at most two windows in each direction.
    assert sent <= 4 * (size // blksize + 3) + 2 * (windowsize + 2) * 2 * len(fates)


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from([b"\r", b"\n", b"a", b"bc"]), max_size=80).map(b"".join),
    windowsize=st.integers(1, 6),
    alone=st.booleans(),
    fates=FATES,
)
def test_every_schedule_delivers_the_exact_netascii_text(text, windowsize, alone, fates):
    asked = ((b"blksize", b"8"), (b"windowsize", b"%d" % windowsize))
    source = NetasciiSource(io.BytesIO(text), Agreed(asked, 65464, 64, None))
    bench = Bench(b"", *asked, retries=100, source=source, ahead=ReadAhead(200), alone=alone)
    client = Client(8, windowsize, oack=True)
    play(bench, client, fates, most=10_000)
    assert client.data == text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=8) | st.integers(0, 70_000).map(lambda b: bytes((0, 4, b >> 8 & 255, b & 255)))))
def test_no_datagram_breaks_the_state_machine(datagrams):
    bench = Bench(bytes(1000), (b"blksize", b"8"), (b"windowsize", b"4"))
    bench.flush()
    for datagram in datagrams:
        bench.receive(datagram)
        assert bench.transfer.base <= bench.transfer.top
        assert bench.transfer.next <= bench.transfer.top + 1
