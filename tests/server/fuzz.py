"""Random and mutated datagrams, and how to send many of them to a board."""

import random
import socket
from collections import Counter

from board import Board
from client import Wire, ack, request

_BATCH = {"unix": 32, "esp32_c3": 4}  # datagrams sent at once: a C3 queues 6

SEEDS = [
    request("hello.txt"),
    request("size-5000", ("blksize", 1428), ("windowsize", 4), ("tsize", 0), ("timeout", 5)),
    request("Boot/BCD", ("multicast", ""), mode="netascii"),
    request("new.bin", ("tsize", 1000), opcode=2),
    request("../" * 50 + "boot.py"),
    ack(0),
    ack(1),
    ack(65535),
    b"\0\3\0\1" + b"data" * 128,
    b"\0\5\0\0text\0",
    b"\0\6blksize\x00512\0",
]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """A datagram of 0 to 65,507 bytes, most of them a mutation of one of `seeds`."""
    kind = chance.random()
    if kind < 0.15:
        return chance.randbytes(chance.choice((0, 1, 2, 3, 4, 5, 20, 511, 512, 513, 600)))
    if kind < 0.152:
        return chance.randbytes(chance.randrange(65_508))
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(data) + 1)
        what = chance.randrange(5)
        if what == 0 and data:
            data[place % len(data)] = chance.choice((0, 1, 47, 92, 127, 128, 255, chance.randrange(256)))
        elif what == 1:
            del data[place:]
        elif what == 2:
            data[place:place] = chance.choice(
                (b"\0", b"\0\0", b"..", b"/", b"\\", b"%s%n", b"9" * 30, chance.randbytes(8))
            )
        elif what == 3:
            data += chance.choice(seeds)[2:]
        else:
            data += chance.randbytes(chance.choice((1, 2, 100, 500)))
    return bytes(data)


def bombard(board: Board, chance: random.Random, count: int, seeds: list[bytes], fresh: float) -> Counter[int]:
    """Send `count` mutated datagrams, in batches that fit the board's queue; returns the opcodes of the answers.

    fresh  the probability that the next batch comes from a new port
    """
    batch = _BATCH[board.name]
    opcodes: Counter[int] = Counter()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tid = board.address
    with Wire(board.address, timeout=0.02 if board.name == "unix" else 0.2) as probe:
        for _ in range(count // batch):
            for _ in range(batch):
                # Half to the listening port, half to the TID of the sender's present or last transfer.
                sender.sendto(mutated(chance, seeds), chance.choice((board.address, tid)))
            # Wait until the board has processed the batch, so that its queue drops nothing. An empty datagram
            # makes the board open a new socket, which loses what the old one had queued: then ask again.
            for attempt in range(100):
                probe.socket.sendto(request("no such file"), board.address)
                try:
                    assert probe.error().code == 1
                    break
                except TimeoutError:
                    assert attempt < 99, "the board does not answer"
            sender.setblocking(False)
            try:
                while True:
                    answer, origin = sender.recvfrom(70_000)
                    opcodes[answer[1]] += 1
                    if answer[:2] in (b"\0\3", b"\0\4", b"\0\6"):
                        tid = origin
            except BlockingIOError:
                sender.setblocking(True)
            if chance.random() < fresh:
                sender.close()
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.close()
    return opcodes
