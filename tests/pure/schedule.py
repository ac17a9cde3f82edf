"""A network between a transfer and a simulated client; hypothesis decides the fate of each datagram."""

import heapq
from typing import Any

from hypothesis import strategies as st

# The fate of each datagram: the delays (ms) of its copies. No copy: the datagram is lost.
FATES = st.lists(st.lists(st.integers(0, 40), max_size=3), max_size=120)


def play(bench: Any, client: Any, fates: list[list[int]], most: int) -> int:
    """Run a transfer to its end. Datagram number i has the fate fates[i]; those after the last fate arrive after 1 ms.

    After a second of silence the client retransmits, as every client does. Fails once `most` datagrams were sent;
    returns their number.
    """
    queue: list[tuple[int, int, int, bool, bytes | None]] = []
    count = 0
    heard = bench.now

    def put(datagrams: list[Any], to_client: bool) -> None:
        nonlocal count
        for datagram in datagrams:
            for delay in fates[count] if count < len(fates) else [1]:
                heapq.heappush(queue, (bench.now + delay, count, len(queue), to_client, datagram))
            count += 1

    put(bench.flush(), True)
    while bench.transfer.outcome is None:
        assert count < most, "the transfer does not end"
        next_event = min(bench.transfer.due, heard + 1000)
        if queue and queue[0][0] <= next_event:
            when, _, _, to_client, datagram = heapq.heappop(queue)
            bench.now = max(bench.now, when)
            if to_client:
                heard = bench.now
                put(client.receive(datagram), False)
                continue
            if datagram is None:
                bench.transfer.repeat_request(bench.now)
            else:
                put(bench.answer(datagram), True)
                continue
        elif next_event == bench.transfer.due:
            bench.now = max(bench.now, bench.transfer.due)
            bench.transfer.expired(bench.now)
        else:
            bench.now = heard = heard + 1000
            put(client.again(), False)
            continue
        put(bench.flush(), True)
    return count
