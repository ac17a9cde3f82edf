"""What compressed files cost, by the board's own clock: genuine firmware of a Pico W (rp2040py) or an ESP32-C3 (QEMU,
whose clock counts instructions).

`python -m tools.bench.inflate [rpi_pico_w | esp32_c3]` prints a line of JSON: what inflate_board.py measures, and for
each blksize and windowsize what a block of a transfer cost (us), of a compressed file and of the same one as it is.
"""

import asyncio
import itertools
import json
import struct
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from .. import boards, compress, firmware
from . import flash, gauge, peers, pico
from .client import Client

_BYTES = 128 << 10  # of MicroPython's own program: what a firmware is like
_CASES = [(512, 1), (1468, 1), (1468, 4)]  # blksize, windowsize
_FILES = ("real.bin", "plain.bin")  # the first is stored compressed
_SCRIPT = "inflate_board.py"


def _content(board: dict[str, Any]) -> bytes:
    path = firmware.base_image(board)
    base = firmware.read_base(boards.read_bytes(path), path)
    middle = len(base.flash) // 2
    return base.flash[middle : middle + _BYTES]


def _served(content: bytes) -> dict[str, bytes]:
    compressed = {f"{wbits}.gz": compress.pack(content, wbits) for wbits in (10, 12, 15)}
    return {"plain.bin": content, "real.bin.gz": compress.pack(content), **compressed}


class _Pico(pico._Bench):  # pyright: ignore[reportPrivateUsage]
    def __init__(self, base: Path, whole: Path, content: bytes) -> None:
        self._content = content
        super().__init__(base, whole, [])

    def _play(self) -> Generator[str | None, str, None]:
        line = yield "bench: {"
        self.figures = json.loads(line.partition(": ")[2]) | {"block": []}
        yield " ready on "
        for (blksize, windowsize), name in itertools.product(_CASES, _FILES):
            times: list[float] = []
            self._start(self._fetch(name, blksize, windowsize, times), 0)
            yield None
            self.figures["block"].append([name, blksize, windowsize, (times[-1] - times[0]) / (len(times) - 1)])

    def _fetch(self, name: str, blksize: int, windowsize: int, times: list[float]) -> pico.Peer:
        """Fetches the file whole; notes when each window of it had come."""
        data = yield b"\0\1%s\0octet\0blksize\0%d\0windowsize\0%d\0" % (name.encode(), blksize, windowsize)
        assert data[:2] == b"\0\6" and b"windowsize\0%d\0" % windowsize in data, data
        got, block = b"", 0
        times.append(self.now)
        data = yield b"\0\4\0\0"
        while True:
            if struct.unpack_from("!HH", data) == (3, block + 1):
                block += 1
                got += data[4:]
                if len(data) < 4 + blksize:
                    break
                times.append(self.now)
                data = yield struct.pack("!HH", 4, block) if block % windowsize == 0 else b""
            else:
                data = yield struct.pack("!HH", 4, block)
        assert got == self._content
        return struct.pack("!HH", 4, block)


def _esp32_c3(folder: Path, whole: Path, content: bytes) -> dict[str, Any]:
    for name in _FILES:
        (folder / name).write_bytes(content)
    record, port = folder / "record.pcap", peers.free_port()
    with gauge.board(whole, record, port) as wait_for:
        figures = json.loads(wait_for("bench: {").partition(": ")[2])
        wait_for(" ready on ")
        client = Client(folder)
        for (blksize, windowsize), name in itertools.product(_CASES, _FILES):
            client.fetch(port, name, blksize=blksize, windowsize=windowsize)
    clients: dict[int, list[gauge.Frame]] = {}
    for frame in gauge.frames(record.read_bytes()[gauge.PCAP_HEADER :]):
        clients.setdefault(frame.client, []).append(frame)
    transfers = [frames for frames in clients.values() if frames[0].data[:2] == b"\0\1"]
    figures["block"] = []
    for frames, ((blksize, windowsize), name) in zip(transfers, itertools.product(_CASES, _FILES), strict=True):
        blocks = -(-_BYTES // blksize)
        figures["block"].append([name, blksize, windowsize, (frames[-1].us - frames[2].us) / blocks])
    return figures


def measure(name: str) -> dict[str, Any]:
    """The figures of the board called `name`. Raises ToolError."""
    board = boards.load(name)
    content = _content(board)
    with tempfile.TemporaryDirectory(prefix="inflate-") as folder:
        whole = Path(folder) / "flash"
        whole.write_bytes(flash.whole(board, _SCRIPT, _served(content)))
        if name == gauge.BOARD:
            return _esp32_c3(Path(folder), whole, content)
        bench = _Pico(firmware.base_image(board), whole, content)
        asyncio.run(bench.run())
    return bench.figures


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1] if sys.argv[1:] else pico.BOARD)))
