"""Counts needless retransmissions: nothing is lost, but the client pauses, as one that writes to its flash.

Some boot loaders take a duplicate for the next block. So the server should learn how slow its client can be.
"""

import asyncio
import random
import socket
import statistics
import struct

from .. import ToolError
from . import processors
from .measures import FILES, Budget

_FILE, _BLKSIZE = "mebi.bin", 512
_BLOCKS = FILES[_FILE] // _BLKSIZE + 1
_EVERY = 50  # blocks: the client pauses before it acknowledges every 50th
_PAUSE_S = 0.03, 0.3
_PATIENCE_S = 10
_DATA, _ACK = 3, 4
# Kind of client, windowsize, whether it acknowledges duplicates, limit of duplicates.
_KINDS = (
    ("lock-step", 1, True, 3),
    ("windowsize 4", 4, True, None),
    ("lock-step, a client that ignores copies", 1, False, None),
)


def budgets(port: int, seeds: int) -> list[Budget]:
    """`seeds` clients of each kind, all at once. Raises ToolError."""
    processors.for_clients()
    copies = asyncio.run(_all(port, seeds))
    result = []
    for number, (kind, _, _, limit) in enumerate(_KINDS):
        some = copies[number * seeds :][:seeds]
        method = f"worst of {seeds} clients, median {statistics.median(some):g}; {_BLOCKS:,} blocks of {_BLKSIZE}"
        result.append(
            Budget(f"needless retransmissions, a client that pauses, {kind}", max(some), "packets", limit, method)
        )
    return result


async def _all(port: int, seeds: int) -> list[int]:
    kinds = [(windowsize, echoes) for _, windowsize, echoes, _ in _KINDS]
    return await asyncio.gather(*(_fetch(port, *kind, seed) for kind in kinds for seed in range(seeds)))


async def _fetch(port: int, windowsize: int, echoes: bool, seed: int) -> int:
    """The number of duplicate blocks that came; `echoes`: the client acknowledges them."""
    dice = random.Random(seed)
    loop = asyncio.get_running_loop()
    block = acked = repeats = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_PATIENCE_S)
        asked = b"\0\1%s\0octet\0blksize\0%d\0windowsize\0%d\0" % (_FILE.encode(), _BLKSIZE, windowsize)
        client.sendto(asked, ("127.0.0.1", port))
        client.connect(client.recvfrom(516)[1])
        client.setblocking(False)
        client.send(struct.pack("!HH", _ACK, 0))
        while block < _BLOCKS:
            try:
                packet = await asyncio.wait_for(loop.sock_recv(client, 4 + _BLKSIZE), _PATIENCE_S)
            except asyncio.TimeoutError:
                raise ToolError(f"a transfer stopped after {block} blocks") from None
            opcode, number = struct.unpack_from("!HH", packet)
            if opcode != _DATA or number > block + 1:
                raise ToolError(f"packet {opcode} with number {number} came after block {block}")
            fresh = number > block
            if fresh and number % _EVERY == 0:
                await asyncio.sleep(dice.uniform(*_PAUSE_S))
            block = max(block, number)
            repeats += not fresh
            if block in (acked + windowsize, _BLOCKS) or (echoes and not fresh):
                acked = block
                client.send(struct.pack("!HH", _ACK, block))
    return repeats
