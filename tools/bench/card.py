"""The SD card of an emulated Pico W, with the board's genuine firmware, measured by the board's own clock.

`python -m tools.bench.card` prints the figures of a card at 12.5 and at 25 MHz as a line of JSON: microseconds for a
read, and for a block of a transfer whose client answers at once, from the flash and from the card. The card is a model
(emulators/sdcard.py) that takes 200 bytes of the bus before the first block of a read and 2 before each other one.
"""

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from .. import boards, card, firmware
from . import flash
from .measures import Budget
from .pico import _BLKSIZE, BOARD, _Bench

_CLOCKS = (12_500_000, 25_000_000)
_WIRED = {"sck": 18, "mosi": 19, "miso": 16, "cs": 17}
_PART_OF_BUS = 0.8
_AGAINST_FLASH = 1.35
_AT_ONCE = 5872  # bytes that the server reads at once
_CONTENT = random.Random(1350).randbytes(512 << 10)


class _CardBench(_Bench):
    """A transfer in lock-step and one at windowsize 4."""

    _content = _CONTENT

    def _play(self) -> Generator[str | None, str, None]:
        line = yield "bench: {"
        self.figures["read"] = json.loads(line.partition(": ")[2])
        yield " ready on "
        for windowsize in (1, 4):
            times: list[float] = []
            self._start(self._client(_BLKSIZE, windowsize, times), 0)
            yield None
            self.figures[f"windowsize {windowsize}"] = (times[-1] - times[0]) / (len(times) - 1)


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    board = boards.load(BOARD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        (folder / "files" / flash.FILE).write_bytes(_CONTENT)
        image = folder / "card.img"
        card.make(folder / "files", image, 4 << 30)
        whole = folder / "flash"
        whole.write_bytes(flash.whole(board, "bare_card.py", {flash.FILE: _CONTENT}, settings=settings))
        bench = _CardBench(firmware.base_image(board), whole, [], image)
        asyncio.run(bench.run())
    figures = {key: value for key, value in bench.figures.items() if key != "block"}
    assert bench.bus
    return figures | {"hz": bench.bus.hz}


def measure() -> dict[str, Any]:
    """The figures, by the clock that is asked for; and of the transfers, from the flash. Raises ToolError."""
    figures: dict[str, Any] = {"flash": _run({"card": _WIRED})}
    for clock in _CLOCKS:
        figures[str(clock)] = _run({"card": _WIRED | {"baudrate": clock}, "root": "/card"})
    return figures


def budgets(figures: dict[str, Any]) -> list[Budget]:
    """What reading is of what the bus carries, and a block from the card against one from the flash."""
    rows = []
    flash_us = figures["flash"]["windowsize 1"]
    for clock in _CLOCKS:
        row = figures[str(clock)]
        bus_us = _AT_ONCE * 8e6 / row["hz"]
        read_us = row["read"]["/card"][str(_AT_ONCE)]
        what = f"SD card at {row['hz'] / 1e6:.0f} MHz"
        method = f"{bus_us:.0f} against {read_us:.0f} us for {_AT_ONCE} bytes"
        rows.append(Budget(f"{what}, reading, against the bus", bus_us / read_us, "times", _PART_OF_BUS, method, True))
        card_us = row["windowsize 1"]
        method = f"{card_us:.0f} against {flash_us:.0f} us a block of 512 KB at {_BLKSIZE}"
        what = f"{what}, lock-step, against the flash"
        rows.append(Budget(what, card_us / flash_us, "times", _AGAINST_FLASH, method))
    return rows


if __name__ == "__main__":
    measured = measure()
    print(json.dumps(measured))
    for budget in budgets(measured):
        print(budget, file=sys.stderr)
