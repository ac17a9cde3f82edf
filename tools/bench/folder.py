"""A folder of 1,500 files on the emulated ESP32-C3: the cost of a request for a missing name, and of many for others.

Times are of the board's clock, which counts its instructions (gauge.py). Requests for missing names are timed by that
clock too, so a busy host hardly changes the figures.
"""

import random
import socket
import statistics
import struct
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

from .. import ToolError, boards
from . import flash, gauge, peers
from .client import Client
from .measures import Budget

_NAMES = 1500
_LARGE = "large.bin"
_AS_IT_IS, _OTHER_CASE = "zebra.BIN", "zebra.bin"  # LittleFS sorts names: it searches the whole folder for these
_LAST, _MISSING = f"file-{_NAMES - 1}.bin", "missing-"
_CAPITALS = _LAST.upper()
_ASKED = 20
_LISTED = 3  # requests for which the folder is listed
_PAUSE_S = 0.02  # until the board sleeps
_EVERY_US = 50_000  # between requests for missing names beside an honest client
_BLKSIZE = 1428
_WINDOWS = (1, 4)
_SMALL = 12  # blksize of a transfer that runs while the folder is listed
_PATIENCE = 60  # seconds

_Exchange = list[gauge.Frame]  # from a client's request to its last frame


def budgets(rounds: int) -> list[Budget]:
    """`rounds`: of an honest client, alone and then beside requests for missing names."""
    with tempfile.TemporaryDirectory(prefix="folder-") as name:
        try:
            exchanges = _measure(Path(name), rounds)
        except (ToolError, TimeoutError) as reason:
            return [Budget(f"ESP32-C3, {_NAMES:,} files", None, "ms", None, str(reason))]
    return [*_answers(exchanges), *_shares(exchanges)]


def _measure(folder: Path, rounds: int) -> dict[str, list[_Exchange]]:
    """The exchanges for each name ("" for missing ones), in order. Raises ToolError."""
    served = {f"file-{number:04}.bin": b"%016d" % number for number in range(_NAMES)}
    served |= {_AS_IT_IS: bytes(100), flash.FILE: flash.CONTENT, _LARGE: random.Random(1350).randbytes(1 << 20)}
    for name in (flash.FILE, _LARGE):
        (folder / name).write_bytes(served[name])
    whole, record, port = folder / "flash.bin", folder / "record.pcap", peers.free_port()
    whole.write_bytes(flash.whole(boards.load(gauge.BOARD), served=served))
    client, missing = Client(folder), map(f"{_MISSING}{{}}".format, count())
    with gauge.board(whole, record, port) as wait_for, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.settimeout(_PATIENCE)

        def ask(name: str) -> None:
            stranger.sendto(b"\0\1%s\0octet\0" % name.encode(), ("127.0.0.1", port))

        def fetch_small(name: str) -> None:
            ask(name)
            tid = stranger.recvfrom(516)[1]
            stranger.sendto(b"\0\4\0\1", tid)

        wait_for(" ready on ")
        for _ in range(1 + _ASKED):  # the first is answered once all names are collected
            ask(next(missing))
            stranger.recv(516)
            time.sleep(_PAUSE_S)
        for name, times in ((_LAST, _ASKED), (_CAPITALS, _ASKED), (_OTHER_CASE, _LISTED)):
            for _ in range(times):
                fetch_small(name)
                time.sleep(_PAUSE_S)
        under_way = client.start(port, flash.FILE, blksize=_SMALL)
        time.sleep(_PAUSE_S)
        fetch_small(_CAPITALS)
        fetch_small(_OTHER_CASE)
        client.finish(under_way)
        for windowsize in _WINDOWS * rounds:
            client.fetch(port, _LARGE, blksize=_BLKSIZE, windowsize=windowsize)
            under_way = client.start(port, _LARGE, blksize=_BLKSIZE, windowsize=windowsize)
            clock = _clock(record)
            due = next(clock)
            while under_way.poll() is None:
                now = next(clock)
                if now >= due:
                    ask(next(missing))
                    due = max(due, now - _EVERY_US) + _EVERY_US
                time.sleep(0.001)
            client.finish(under_way)
    exchanges: dict[str, list[_Exchange]] = defaultdict(list)
    of_client: dict[int, _Exchange] = {}
    for frame in gauge.frames(record.read_bytes()[gauge.PCAP_HEADER :]):
        if frame.inbound and frame.data[:2] == b"\0\1":
            name = frame.data[2:].split(b"\0")[0].decode()
            of_client[frame.client] = []
            exchanges["" if name.startswith(_MISSING) else name].append(of_client[frame.client])
        if frame.client in of_client:
            of_client[frame.client].append(frame)
    return exchanges


def _clock(record: Path) -> Iterator[int]:
    """Yields the time of the newest frame in the record, in microseconds of the board's clock."""
    now = 0
    with record.open("rb") as file:
        file.seek(gauge.PCAP_HEADER)
        while True:
            header = file.read(16)
            if len(header) == 16:
                seconds, microseconds, length = struct.unpack_from("=3I", header)
                now = seconds * 1_000_000 + microseconds
                file.seek(length, 1)
            else:
                file.seek(-len(header), 1)
                yield now


def _answers(exchanges: dict[str, list[_Exchange]]) -> list[Budget]:
    """The cost of single requests."""
    refused = [_answered_ms(one) for one in exchanges[""][1 : 1 + _ASKED]]
    last, capitals, listed = (
        statistics.median(_answered_ms(one) for one in exchanges[name][:times])
        for name, times in ((_LAST, _ASKED), (_CAPITALS, _ASKED), (_OTHER_CASE, _LISTED))
    )
    (crawling,) = exchanges[flash.FILE]
    asked = exchanges[_CAPITALS][-1][0].us
    under_way = [frame for frame in crawling if frame.us >= asked]
    hold = max((after.us - before.us) / 1000 for before, after in pairwise(under_way) if before.inbound)
    what, many = f"ESP32-C3, {_NAMES:,} files", f"of {_ASKED}, by the board's clock; includes up to 10 ms of sleep"
    turns = (
        f"{len(under_way) // 2:,} turns of a transfer, {_answered_ms(exchanges[_OTHER_CASE][-1]):,.0f} ms of listing"
    )
    return [
        Budget(f"{what}: a missing name is refused", statistics.median(refused), "ms", 30, f"median {many}"),
        Budget(f"{what}: the same, the slowest", max(refused), "ms", 30, f"worst {many}"),
        Budget(f"{what}: the last name of the folder", last, "ms", None, f"median {many}"),
        Budget(f"{what}: the same, asked for in capitals", capitals, "ms", None, f"median {many}"),
        Budget(f"{what}: a name in mixed case", listed, "ms", None, f"the folder is listed, median of {_LISTED}"),
        Budget(f"{what}: longest time that these block the loop", hold, "ms", 100, turns),
    ]


def _answered_ms(exchange: _Exchange) -> float:
    return (next(frame.us for frame in exchange if not frame.inbound) - exchange[0].us) / 1000


def _shares(exchanges: dict[str, list[_Exchange]]) -> list[Budget]:
    """The throughput of an honest client beside requests for missing names."""
    result = []
    for windowsize in _WINDOWS:
        asked = b"windowsize\0%d\0" % windowsize if windowsize > 1 else b"blksize\0%d\0" % _BLKSIZE
        spans = []  # from the first block to the last, us
        rates = []
        for one in exchanges[_LARGE]:
            if one[0].data.endswith(asked):
                data = [frame.us for frame in one if not frame.inbound and frame.data[1] == gauge.DATA]
                spans.append(data[-1] - data[0])
                rates.append(sum(data[0] <= other[0].us <= data[-1] for other in exchanges[""]) / spans[-1] * 1e6)
        share = statistics.median(alone / beside for alone, beside in zip(spans[::2], spans[1::2], strict=True))
        method = (
            f"1 MiB in {spans[0] / 1e6:.2f} s alone; then beside {statistics.median(rates[1::2]):.0f} names a second"
        )
        method += f", by the board's clock; median of {len(spans) // 2} rounds"
        what = (
            f"ESP32-C3, {_NAMES:,} files: throughput kept beside requests for missing names, {_BLKSIZE} x {windowsize}"
        )
        result.append(Budget(what, share, "times", 0.5, method, at_least=True))
    return result
