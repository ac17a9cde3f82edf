"""The server on an emulated Pico W or W5500-EVB-Pico with its genuine firmware, measured by the board's own clock.

The clients run in the emulator's bridge: their answers take no board time, or exactly one round trip of it. The same
run measures the least cost of a block (bare_pico.py): a bare read of the file, a bare send, a bare send with its reply.

`python -m tools.bench.pico BOARD` prints the figures as a line of JSON; `--all` measures all combinations of
blksize, windowsize and round trip.
"""

import argparse
import asyncio
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from .. import boards, firmware
from ..emulators.evb import Evb
from ..emulators.picow import Pico, PicoW
from . import flash
from .measures import Budget

BOARD = "rpi_pico_w"
BOARDS = (BOARD, "w5500_evb_pico")
_WINDOW_GAIN = {"rpi_pico_w": 3, "w5500_evb_pico": 2.5}  # with 5 ms of round trip; SPI to the W5500 is the slower one
_BLKSIZE = 1468
_CLIENT = bytes((10, 0, 0, 1))
_FIRST_PORT = 40000
_CROWD = 8
_HOLD = b"hold"  # yielded by a client of a crowd (simultaneous clients) when it has its OACK
_AGAIN_US = 500_000  # after which a client repeats its request
_PATIENCE = 600  # time limit in seconds for the whole run
_CASES = [(_BLKSIZE, windowsize, round_trip_us) for round_trip_us in (0, 5000) for windowsize in (1, 4)]
_ALL_CASES = [
    (blksize, windowsize, round_trip_us)
    for blksize in (512, _BLKSIZE)
    for windowsize in (1, 4, 16)
    for round_trip_us in (0, 2000, 5000)
]
_TFTP = 69
_PART_OF_BOUND = 0.85
_PART_SHARED = 0.75  # the same for a crowd that shares sockets

# A client: it is sent each datagram, yields its answer (b"" for none), and returns its last one.
Peer = Generator[bytes, bytes, bytes]


class _Clients(Pico):
    """A board with clients in its bridge, which run one after the other."""

    _content = flash.CONTENT  # of the file that they fetch

    def __init__(self, base: Path, whole: Path, cases: list[tuple[int, int, int]], card: Path | None = None) -> None:
        arguments = argparse.Namespace(
            image=base, flash=whole, host="127.0.0.1", port=0, serial=None, tcp=None, dhcp=None, mdns=None
        )
        arguments.board_port, arguments.board_address = _TFTP, None
        arguments.card, arguments.card_as, arguments.card_spi, arguments.card_cs = card, [], 0, 17
        super().__init__(arguments)  # pyright: ignore[reportCallIssue]  # that of PicoW or Evb
        self._cases = cases
        self.figures: dict[str, Any] = {"block": []}
        self._clients: dict[int, tuple[Peer, int]] = {}  # by port: client, round trip in microseconds
        self._port = _FIRST_PORT
        self._asking: set[int] = set()  # ports of clients whose request is unanswered
        self._held: dict[int, tuple[Peer, int]] = {}  # by port: clients of a crowd that wait for the others
        self._crowd = 0  # clients that must end before the script continues
        self._script = self._play()
        self._waiting: str | None = next(self._script)
        self._console = ""
        self.wiring.bridge.received = self._received  # type: ignore[method-assign]

    @property
    def now(self) -> float:
        return self._mcu.clock.nanos / 1000

    def _said(self, data: bytes | bytearray) -> None:
        super()._said(data)
        self._console += bytes(data).decode(errors="replace")
        *lines, self._console = self._console.split("\n")
        for line in lines:
            if self._waiting and self._waiting in line:
                self._after(100_000, lambda line=line: self._next(line))

    def _next(self, line: str = "") -> None:
        try:
            self._waiting = self._script.send(line)
        except StopIteration:
            self._device.stop()

    def _after(self, us: float, do: Callable[[], None]) -> None:
        self._mcu.clock.create_alarm(do).schedule(int(us * 1000))

    # The clients

    def _start(self, peer: Peer, round_trip: int) -> None:
        self._port += 1
        self._clients[self._port] = peer, round_trip
        self._ask(self._port, next(peer))

    def _ask(self, port: int, request: bytes) -> None:
        """Send a request until it is answered: the board's receive queue may lose some of a crowd's."""
        self._asking.add(port)
        self._put(port, _TFTP, request)
        self._after(_AGAIN_US, lambda: self._ask(port, request) if port in self._asking else None)

    def _put(self, port: int, board_port: int, data: bytes) -> None:
        if data:
            self.wiring.bridge.send(_CLIENT, port, board_port, data)

    def _received(self, board_port: int, address: bytes, port: int, data: bytes) -> None:
        self._asking.discard(port)
        if port not in self._clients or port in self._held:
            return
        peer, round_trip = self._clients[port]
        try:
            answer = peer.send(data)
        except StopIteration as end:
            del self._clients[port]
            self._put(port, board_port, end.value)
            self._crowd -= 1
            if self._waiting is None and self._crowd <= 0:
                self._after(100_000, self._next)
            return
        if answer == _HOLD:
            self._held[port] = peer, board_port
            if len(self._held) == _CROWD:
                self._release()
        elif answer and round_trip:
            self._after(round_trip, lambda: self._put(port, board_port, answer))
        elif answer:
            self._put(port, board_port, answer)

    def _release(self) -> None:
        """Let the crowd continue, one by one: all at once would overflow the board's receive queue."""
        held, self._held = self._held, {}
        for number, (port, (peer, board_port)) in enumerate(held.items()):
            self._after(1 + 3_000 * number, lambda p=port, b=board_port, peer=peer: self._put(p, b, next(peer)))

    # The measurements

    def _play(self) -> Generator[str | None, str, None]:
        """Yields a text to wait for on the console, or None to wait for all clients."""
        yield "bench: waiting"
        self._start(self._bare(), 0)
        line = yield "bench: {"
        self._clients.clear()
        self.figures["bare"] = json.loads(line.partition(": ")[2])
        for what, windowsize in (("parts_1", 1), ("parts_4", 4)):
            yield "bench: waiting"
            self._start(self._client(_BLKSIZE, windowsize, []), 0)
            line = yield "bench: {"
            self.figures[what] = json.loads(line.partition(": ")[2])
        line = yield "bench: {"
        self.figures |= json.loads(line.partition(": ")[2])
        yield " ready on "
        for blksize, windowsize, round_trip in self._cases:
            times: list[float] = []
            self._start(self._client(blksize, windowsize, times), round_trip)
            yield None
            # From its first ACK to the end of its last whole window: a partial one costs a whole round trip too.
            blocks = len(times) - 1
            self.figures["block"].append([blksize, windowsize, round_trip, (times[-1] - times[0]) / blocks])
        for windowsize in (1, 4):
            crowd: list[list[float]] = [[] for _ in range(_CROWD)]
            for number, times in enumerate(crowd):  # the queue of port 69 is short
                client = self._client(_BLKSIZE, windowsize, times, crowd=True)
                self._after(1 + 20_000 * number, lambda client=client: self._start(client, 0))
            self._crowd = _CROWD
            yield None
            # Only the time in which all of them transfer.
            first, last = max(times[0] for times in crowd), min(times[-1] for times in crowd)
            blocks = sum(first < at <= last for times in crowd for at in times)
            self.figures[f"crowd_{windowsize}"] = (last - first) / blocks

    @staticmethod
    def _bare() -> Peer:
        data = yield b"go"
        while True:
            data = yield b"\0\4\0\0" if data[0] else b""

    def _client(self, blksize: int, windowsize: int, times: list[float], crowd: bool = False) -> Peer:
        """Fetch the file. Append to `times` when the first ACK was sent and when each block of a whole window came.

        crowd  send the first ACK only when the whole crowd has its OACKs
        """
        asked = b"\0\1%s\0octet\0blksize\0%d\0windowsize\0%d\0"
        data = yield asked % (flash.FILE.encode(), blksize, windowsize)
        assert data[:2] == b"\0\6", data
        if crowd:
            yield _HOLD
        times.append(self.now)
        got, block = 0, 0
        whole = len(self._content) // blksize // windowsize * windowsize
        data = yield struct.pack("!HH", 4, 0)
        while True:
            if struct.unpack_from("!HH", data) == (3, block + 1):
                block += 1
                got += len(data) - 4
                if block <= whole:
                    times.append(self.now)
                if len(data) < 4 + blksize:
                    break
                data = yield struct.pack("!HH", 4, block) if block % windowsize == 0 else b""
            else:
                data = yield struct.pack("!HH", 4, block)
        assert got == len(self._content), got
        return struct.pack("!HH", 4, block)


class _Bench(_Clients, PicoW):
    pass


class _Evb(_Clients, Evb):
    pass


def measure(name: str, cases: list[tuple[int, int, int]]) -> dict[str, Any]:
    """The figures of a board, by its clock; microseconds for a block. Raises ToolError.

    bare      the parts without the server, by blksize (bare_pico.py)
    parts_1, parts_4   total time of the parts in a transfer in lock-step and at windowsize 4 (bare_pico.py)
    collect   time of a garbage collection
    joined_ms, ready_ms   from reset until there is an address, and until the server is loaded
    block     for each of `cases`: blksize, windowsize, round trip, cost of a block
    crowd_1, crowd_4   cost of a block while _CROWD clients are served, in lock-step and at windowsize 4
    """
    board = boards.load(name)
    kind = _Evb if board["emulator"]["program"] == "evb" else _Bench
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "flash"
        whole.write_bytes(flash.whole(board, "bare_pico.py"))
        bench = kind(firmware.base_image(board), whole, cases)
        asyncio.run(bench.run())
    return bench.figures


def bound(figures: dict[str, Any], blksize: int, windowsize: int, turn: str = "turn") -> float:
    """The least cost of a block: its read, its send, and its share of the reply to its window."""
    bare = figures["bare"][str(blksize)]
    return bare["read"] + bare["send"] + (bare[turn] - bare["send"]) / windowsize


def parts(figures: dict[str, Any]) -> str:
    """The parts of the time of a block, as text."""
    lines = []
    blocks = len(flash.CONTENT) // _BLKSIZE + 1
    for windowsize, how in ((1, "lock-step"), (4, "windowsize 4")):
        block = next(spent for *case, spent in figures["block"] if case == [_BLKSIZE, windowsize, 0])
        each = {what: spent / blocks for what, spent in figures[f"parts_{windowsize}"].items()}
        rest = block - sum(each.values())
        told = ", ".join(f"{spent:.0f} {what}" for what, spent in each.items())
        lines.append(f"{how} at {_BLKSIZE}: of {block:.0f} us a block {told}, {rest:.0f} the server")
    lines.append(f"a garbage collection, between transfers only: {figures['collect'] / 1000:.1f} ms")
    lines.append(f"from reset to an address: {figures['joined_ms']} ms, to the server: {figures['ready_ms']} ms")
    return "\n".join(lines)


def budgets(name: str, whole: bool) -> tuple[list[Budget], dict[str, Any]]:
    """The cost of a block against its bound, measured in a separate process; and all figures.

    name   the board
    whole  all combinations of blksize, windowsize and round trip
    """
    command = [sys.executable, "-m", f"{__package__}.pico", name, *(["--all"] if whole else [])]
    product = boards.load(name)["product"]
    trouble = f"not done within {_PATIENCE} s"
    try:
        result = subprocess.run(command, cwd=boards.ROOT, capture_output=True, text=True, timeout=_PATIENCE)
        trouble = result.stderr.strip().splitlines()[-1] if result.returncode else ""
    except subprocess.TimeoutExpired:
        result = None
    if result is None or trouble:
        return [Budget(f"throughput, emulated {product}", None, "times", _PART_OF_BOUND, trouble, at_least=True)], {}
    figures = json.loads(result.stdout.splitlines()[-1])
    block = {tuple(case): value for *case, value in figures["block"]}
    rows = []
    for turn, limit, crowd in (("turn", _PART_OF_BOUND, ""), ("shared", _PART_SHARED, f"{_CROWD} clients, ")):
        for windowsize, how in ((1, "lock-step"), (4, "windowsize 4")):
            least = bound(figures, _BLKSIZE, windowsize, turn)
            spent = figures[f"crowd_{windowsize}"] if crowd else block[_BLKSIZE, windowsize, 0]
            method = f"{least:.0f} against {spent:.0f} us a block of 64 KB at {_BLKSIZE}"
            what = f"throughput, emulated {product}, {crowd}{how}, against the bound"
            rows.append(Budget(what, least / spent, "times", limit, method, at_least=True))
    lock_step, windowed = block[_BLKSIZE, 1, 5000], block[_BLKSIZE, 4, 5000]
    method = f"{lock_step:.0f} against {windowed:.0f} us a block, in whole windows"
    what = f"throughput, emulated {product}, 5 ms of round trip, windowsize 4 against lock-step"
    return [*rows, Budget(what, lock_step / windowed, "times", _WINDOW_GAIN[name], method, at_least=True)], figures


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], _ALL_CASES if "--all" in sys.argv else _CASES)))
