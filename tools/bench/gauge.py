"""A repeatable speed gauge: the server on an emulated ESP32-C3 whose clock counts its instructions.

With QEMU's -icount the board's time depends only on its own work, and the packet record has timestamps of that clock.
So the cost of a block on the genuine firmware repeats to half a percent. gauge.json keeps it, and a figure that grows
by more than 3 % fails. The model is fair for the processor (125 million instructions a second; the chip has 160 MHz)
but not for the flash and the air. Only the board's turns count, from a packet to its answer, not waits for the host.
"""

import itertools
import json
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from .. import PACKAGE, ToolError, boards
from ..emulators.bridge import BOARD as BOARD_ADDRESS
from . import flash, peers
from .client import Client
from .measures import Budget

BOARD = "esp32_c3"
KEPT = Path(__file__).with_name("gauge.json")
_GROWTH = 1.03
_GOAL = 1.15  # times the cost of the parts without the server
_AIR_US = 200  # of QEMU's access point, for each frame to the board: INTER_FRAME_TIME in hw/misc/esp32_wifi_ap.c
_SIZES = (512, 1428, 1468)  # blksize
_WINDOWS = (1, 4, 16)
_AT_ONCE = 1464  # blksize of the eight simultaneous clients, to find them in the record
_ECHOES = 20
_BOOT_SECONDS = 60
DATA = 3
PCAP_HEADER = 24  # bytes before the first frame


class Frame(NamedTuple):
    """A UDP datagram on the wire of the board; `us` in microseconds of the board's clock."""

    us: int
    inbound: bool
    client: int  # its port
    port: int  # the board's
    data: bytes


def measure() -> dict[str, float]:
    """All figures in microseconds of the board's clock. Raises ToolError if the board can't be emulated here."""
    with tempfile.TemporaryDirectory(prefix="gauge-") as name:
        folder = Path(name)
        (folder / flash.FILE).write_bytes(flash.CONTENT)
        whole, record, port = folder / "flash.bin", folder / "record.pcap", peers.free_port()
        whole.write_bytes(flash.whole(boards.load(BOARD), "bare.py", settings={"made_files": False}))
        with board(whole, record, port) as wait_for:
            wait_for("bare: waiting")
            bare = _bare(port, wait_for)
            wait_for(" ready on ")
            _fetch_all(folder, port)
        return bare | _figures(frames(record.read_bytes()[PCAP_HEADER:]))


@contextmanager
def board(whole: Path, record: Path, port: int, *more: str) -> Iterator[Callable[[str], str]]:
    """Run the board; `more`: arguments for its emulator. The value is a function that waits for a console line with a
    given text, and returns the line."""
    command = [sys.executable, "-m", f"{PACKAGE}.emulators.qemu", str(whole), "--chip", "esp32c3", "--port", str(port)]
    command += ["--icount", "--pcap", str(record), *more]
    with subprocess.Popen(
        command, cwd=boards.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as process:
        assert process.stdout
        console = process.stdout
        deadline = time.monotonic() + _BOOT_SECONDS

        def wait_for(text: str) -> str:
            said = b""
            while select.select([console], [], [], max(0, deadline - time.monotonic()))[0]:
                one = console.read(1)
                said += one
                if one == b"\n" and text.encode() in said.splitlines()[-1]:
                    return said.splitlines()[-1].decode()
                if not one:
                    break
            last = said.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise ToolError(f"the emulated board did not print '{text}'; its last line: {last[-1]}")

        try:
            yield wait_for
        finally:
            process.terminate()


def _bare(port: int, wait_for: Callable[[str], str]) -> dict[str, float]:
    """The figures of bare.py; and the echoes, whose times are in the record."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        client.send(bytes(2))
        figures = json.loads(wait_for("bare: {").partition(": ")[2])
        client.settimeout(0.3)
        with suppress(TimeoutError):
            while True:  # discard what bare.py has sent
                client.recv(2048)
        client.settimeout(5)
        for size in _SIZES:
            for _ in range(_ECHOES):
                client.send(struct.pack("!H", size + 4))
                client.recv(2048)
        client.send(bytes(2))
    return figures


def _fetch_all(folder: Path, port: int) -> None:
    client = Client(folder)
    for size in _SIZES:
        for window in _WINDOWS:
            client.fetch(port, flash.FILE, blksize=size, windowsize=window)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.settimeout(5)
        for _ in range(_ECHOES):
            stranger.sendto(b"\0\1missing\0octet\0", ("127.0.0.1", port))
            stranger.recv(512)
    # Last: a retransmitted request of one of them may start a transfer that nobody wants.
    for fetch in [client.start(port, flash.FILE, blksize=_AT_ONCE) for _ in range(8)]:
        client.finish(fetch)


def packets(record: bytes) -> Iterator[tuple[int, bytes]]:
    """The IPv4 packets in a pcap file of Ethernet frames (microseconds, this machine's byte order), from its first
    frame on, with their time."""
    at = 0
    while at + 16 <= len(record):
        seconds, microseconds, length = struct.unpack_from("=3I", record, at)
        frame = record[at + 16 : at + 16 + length]
        at += 16 + length
        if frame[12:14] == b"\x08\0":
            yield seconds * 1_000_000 + microseconds, frame[14:]


def frames(record: bytes) -> list[Frame]:
    """The UDP datagrams among packets()."""
    found = []
    for us, packet in packets(record):
        if len(packet) >= 28 and packet[9] == 17:
            source, target, size = struct.unpack_from("!3H", packet, 20)
            inbound = packet[16:20] == BOARD_ADDRESS
            client, port = (source, target) if inbound else (target, source)
            found.append(Frame(us, inbound, client, port, packet[28 : 20 + size]))
    return found


def _figures(record: list[Frame]) -> dict[str, float]:
    clients = defaultdict(list)
    for frame in record:
        clients[frame.client].append(frame)
    turns = defaultdict(list)  # what the board did: microseconds
    at_once = []
    for one in clients.values():
        if one[0].data[:2] != b"\0\1":
            for asked, answered in itertools.pairwise(one):
                if asked.inbound and not answered.inbound:
                    turns[f"echo_{len(answered.data) - 4}"].append(answered.us - asked.us)
        elif one[1].data[:2] == b"\0\5":
            turns["refused"] += [after.us - before.us for before, after in zip(one[::2], one[1::2], strict=True)]
        else:
            fields = one[0].data[2:].split(b"\0")
            asked = dict(zip(fields[2::2], fields[3::2], strict=False))
            size, window = int(asked.get(b"blksize", 512)), int(asked.get(b"windowsize", 1))
            if size == _AT_ONCE:
                at_once += [frame for frame in one if frame.data[1] == DATA]
                continue
            turns["rrq"].append(one[1].us - one[0].us)
            sent = [
                list(run) for inbound, run in itertools.groupby(one[2:], lambda frame: frame.inbound) if not inbound
            ]
            if window == 1:
                data = [frame.us for run in sent for frame in run]
                turns[f"lock_step_{size}"] = [after - before for before, after in itertools.pairwise(data)]
            else:  # a mean for each window, because several blocks are read at once
                means = [(run[-1].us - run[0].us) / (len(run) - 1) for run in sent if len(run) == window]
                turns[f"window_{window}_{size}"] = [statistics.median(means)]
    # The fastest tenth: a board without work sleeps for a time that depends on the host.
    figures = {
        what: statistics.quantiles(values, n=10)[0] if values[1:] else values[0] for what, values in turns.items()
    }
    figures["8_clients"] = (max(frame.us for frame in at_once) - min(frame.us for frame in at_once)) / len(at_once)
    return figures


def budgets(keep: bool = False) -> list[Budget]:
    """The figures against gauge.json and against the cost of the parts; `keep`: store the new ones."""
    try:
        figures = measure()
    except ToolError as reason:
        return [Budget("speed gauge, emulated ESP32-C3", None, "us", None, str(reason))]
    kept = json.loads(KEPT.read_text())
    if keep:
        kept = {what: round(figures[what], 1) for what in kept}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    result = []
    for what, figure in sorted(figures.items()):
        limit = kept[what] * _GROWTH if what in kept else None
        method = f"{kept[what]:.0f} us kept in gauge.json" if limit else ""
        result.append(Budget(f"ESP32-C3, {what}", figure, "us", limit, method))
    for size in _SIZES:
        read, send, echo = (figures[f"{part}_{size}"] for part in ("read", "send", "echo"))
        cost = (figures[f"lock_step_{size}"] - _AIR_US) / (read + echo - _AIR_US)
        method = f"{read:.0f} + {echo:.0f} us, without {_AIR_US} us of air"
        result.append(Budget(f"ESP32-C3, lock-step at {size} against bare read and echo", cost, "times", _GOAL, method))
        cost = figures[f"window_4_{size}"] / (read + send)
        method = f"mean block of a window; {read:.0f} + {send:.0f} us"
        what = f"ESP32-C3, windowsize 4 at {size} against bare read and send"
        result.append(Budget(what, cost, "times", _GOAL, method))
    return result
