"""Any schedule of loss, duplication and reordering that ends delivers the exact bytes (hypothesis)."""

import heapq
import io
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "pure"))

from simulated import Bench, Client
from tftpd.netascii import NetasciiSource
from tftpd.options import Agreed
from tftpd.transfer import DONE

# What happens to a datagram: the delays (ms) of its copies; none means that it is lost.
FATES = st.lists(st.lists(st.integers(0, 40), max_size=3), max_size=120)


def play(bench, client, fates):
    """Let the two talk over a network that treats datagram number i as fates[i] says, and all later ones well.

    The client says its last word again after a second of silence, as every client does. Returns the datagrams sent.
    """
    queue = []
    count = 0
    last_word = None  # of the client; None is its request
    heard = bench.now

    def put(datagrams, to_client):
        nonlocal count
        for datagram in datagrams:
            for delay in fates[count] if count < len(fates) else [1]:
                heapq.heappush(queue, (bench.now + delay, count, len(queue), to_client, datagram))
            count += 1

    put(bench.flush(), True)
    while bench.transfer.outcome is None:
        assert count < 10_000, "runs away"
        next_event = min(bench.transfer.due, heard + 1000)
        if queue and queue[0][0] <= next_event:
            when, _, _, to_client, datagram = heapq.heappop(queue)
            bench.now = max(bench.now, when)
            if to_client:
                heard = bench.now
                answer = client.receive(datagram)
                last_word = answer or last_word
                put([answer] if answer else [], False)
                continue
            if datagram is None:
                bench.transfer.repeat_request(bench.now)
            else:
                bench.transfer.receive(datagram, len(datagram), bench.now)
        elif next_event == bench.transfer.due:
            bench.now = max(bench.now, bench.transfer.due)
            bench.transfer.expired(bench.now)
        else:
            bench.now = heard = heard + 1000
            put([last_word], False)
            continue
        put(bench.flush(), True)
    return count


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(0, 400),
    blksize=st.integers(8, 24),
    windowsize=st.integers(1, 9),
    acks_all=st.booleans(),
    fates=FATES,
)
def test_every_schedule_delivers_the_exact_bytes(size, blksize, windowsize, acks_all, fates):
    data = bytes(i * 7 & 255 for i in range(size))
    bench = Bench(data, (b"blksize", b"%d" % blksize), (b"windowsize", b"%d" % windowsize), retries=100)
    client = Client(blksize, windowsize, oack=True, acks_all=acks_all)
    sent = play(bench, client, fates)
    assert bench.transfer.outcome == DONE
    assert client.data == data
    # Nothing runs away: each datagram lost or late costs at most two windows, in both directions.
    assert sent <= 4 * (size // blksize + 3) + 2 * (windowsize + 2) * 2 * len(fates)


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from([b"\r", b"\n", b"a", b"bc"]), max_size=80).map(b"".join),
    windowsize=st.integers(1, 6),
    fates=FATES,
)
def test_netascii_survives_every_schedule_too(text, windowsize, fates):
    asked = ((b"blksize", b"8"), (b"windowsize", b"%d" % windowsize))
    source = NetasciiSource(io.BytesIO(text), Agreed(asked, 65464, 64, None))
    bench = Bench(b"", *asked, retries=100, source=source)
    client = Client(8, windowsize, oack=True)
    play(bench, client, fates)
    assert client.data == text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=8) | st.integers(0, 70_000).map(lambda b: bytes((0, 4, b >> 8 & 255, b & 255)))))
def test_no_datagram_upsets_the_state_machine(datagrams):
    bench = Bench(bytes(1000), (b"blksize", b"8"), (b"windowsize", b"4"))
    bench.flush()
    for datagram in datagrams:
        bench.receive(datagram)
        assert bench.transfer.base <= bench.transfer.top
        assert bench.transfer.next <= bench.transfer.top + 1
