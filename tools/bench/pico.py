"""The server on an emulated Pico W with its genuine firmware, measured by the board's own clock.

The clients live in the bridge: their answers cost the board no time, or a round trip of its own time. What a block can
cost at least is measured in the same run: a bare read of the file, a bare send, a bare send with its reply.

`python -m tools.bench.pico` prints the figures as a line of JSON, times in microseconds of the board.
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

from .. import boards, firmware
from ..emulators.picow import PicoW
from . import flash
from .measures import Budget

BOARD = "rpi_pico_w"
_BLKSIZE = 1468
_CLIENT = bytes((10, 0, 0, 1))
_FIRST_PORT = 40000
_ROUND_TRIPS_US = (0, 5000)
_TFTP = 69
_PART_OF_BOUND = 0.85

# A client: yields what it sends, b"" for nothing, returns what it sends at the end, and is sent what comes.
Peer = Generator[bytes, bytes, bytes]


class _Bench(PicoW):
    """The board with clients in its bridge, which come one after the other."""

    def __init__(self, base: Path, whole: Path) -> None:
        arguments = argparse.Namespace(image=base, flash=whole, host="127.0.0.1", port=0, board_port=_TFTP, serial=None)
        super().__init__(arguments)
        self.figures: dict[str, float] = {}
        self._clients: dict[int, tuple[Peer, int]] = {}  # by port: and the round trip in microseconds
        self._port = _FIRST_PORT
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

    # -- the clients

    def _start(self, peer: Peer, round_trip: int) -> None:
        self._port += 1
        self._clients[self._port] = peer, round_trip
        self._put(self._port, _TFTP, next(peer))

    def _put(self, port: int, board_port: int, data: bytes) -> None:
        if data:
            self.wiring.bridge.send(_CLIENT, port, board_port, data)

    def _received(self, board_port: int, address: bytes, port: int, data: bytes) -> None:
        if port not in self._clients:
            return
        peer, round_trip = self._clients[port]
        try:
            answer = peer.send(data)
        except StopIteration as end:
            del self._clients[port]
            self._put(port, board_port, end.value)
            if not self._clients:
                self._after(100_000, self._next)
            return
        if answer and round_trip:
            self._after(round_trip, lambda: self._put(port, board_port, answer))
        elif answer:
            self._put(port, board_port, answer)

    # -- what is measured

    def _play(self) -> Generator[str | None, str, None]:
        """Yields a text to wait for on the console, or None to wait for all clients."""
        yield "bare: waiting"
        self._start(self._bare(), 0)
        line = yield "bare: {"
        self._clients.clear()
        self.figures |= json.loads(line.partition(": ")[2])
        yield " ready on "
        for round_trip in _ROUND_TRIPS_US:
            for windowsize in (1, 4):
                times: list[float] = []
                self._start(self._client(windowsize, times), round_trip)
                yield None
                self.figures[f"block_{windowsize}_{round_trip}"] = (times[1] - times[0]) / (
                    len(flash.CONTENT) // _BLKSIZE + 1
                )

    @staticmethod
    def _bare() -> Peer:
        data = yield b"go"
        while True:
            data = yield b"\0\4\0\0" if data[0] else b""

    def _client(self, windowsize: int, times: list[float]) -> Peer:
        """Fetches the file, and notes when it sent its first ACK and when the last block came."""
        data = yield b"\0\1%s\0octet\0blksize\0%d\0windowsize\0%d\0" % (flash.FILE.encode(), _BLKSIZE, windowsize)
        assert data[:2] == b"\0\6", data
        times.append(self.now)
        got, block = 0, 0
        data = yield struct.pack("!HH", 4, 0)
        while True:
            if struct.unpack_from("!HH", data) == (3, block + 1):
                block += 1
                got += len(data) - 4
                if len(data) < 4 + _BLKSIZE:
                    break
                data = yield struct.pack("!HH", 4, block) if block % windowsize == 0 else b""
            else:
                data = yield struct.pack("!HH", 4, block)
        assert got == len(flash.CONTENT), got
        times.append(self.now)
        return struct.pack("!HH", 4, block)


def measure() -> dict[str, float]:
    """The figures, by the board's clock; microseconds for a block. Raises ToolError."""
    board = boards.load(BOARD)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "flash"
        whole.write_bytes(flash.with_script(board, "bare_pico.py"))
        bench = _Bench(firmware.base_image(board), whole)
        asyncio.run(bench.run())
    return bench.figures


def budgets() -> list[Budget]:
    """What a block costs against what it must cost at least, measured by a process of its own."""
    command = [sys.executable, "-m", "tools.bench.pico"]
    result = subprocess.run(command, cwd=boards.ROOT, capture_output=True, text=True)
    if result.returncode:
        said = (result.stdout + result.stderr).strip().splitlines() or ["nothing was said"]
        return [Budget("throughput, emulated Pico W", None, "times", _PART_OF_BOUND, said[-1], at_least=True)]
    figures = json.loads(result.stdout.splitlines()[-1])
    read, send, reply = figures["read"], figures["send"], figures["turn"] - figures["send"]
    parts = f"of {read:.0f} us read, {send:.0f} send, {reply:.0f} reply"
    result = []
    for windowsize, what in ((1, "lock-step"), (4, "windowsize 4")):
        bound, block = read + send + reply / windowsize, figures[f"block_{windowsize}_0"]
        method = f"{bound:.0f} us {parts} a window, against {block:.0f} us a block; 64 KB at 1468"
        what = f"throughput, emulated Pico W, {what}, against the bound"
        result.append(Budget(what, bound / block, "times", _PART_OF_BOUND, method, at_least=True))
    lock_step, windowed = figures["block_1_5000"], figures["block_4_5000"]
    method = f"{lock_step:.0f} against {windowed:.0f} us a block; 3 is wanted, 3.2 the bound of this emulation"
    what = "throughput, emulated Pico W, 5 ms of round trip, windowsize 4 against lock-step"
    return [*result, Budget(what, lock_step / windowed, "times", None, method)]


if __name__ == "__main__":
    print(json.dumps(measure()))
