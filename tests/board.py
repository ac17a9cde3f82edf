"""A running board for the tests: `python -m tools emulate` as a user starts it, and its journal."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path

import pytest

from client import Wire, fetch
from tools import ToolError, boards, filesystem, firmware
from tools.emulators import qemu

ROOT = Path(__file__).resolve().parent.parent
STARTED: Counter[str] = Counter()  # description of a board: how many times it was started
# A test with more is skipped on these emulated chips.
ROUND_TRIPS = {"esp32_c3": 1000, "esp32": 50, "rpi_pico_w": 50, "w5500_evb_pico": 150}
STOP = {"rpi_pico_w": 60, "w5500_evb_pico": 60}  # seconds that a board may take to stop; 15 on the others
# Seconds that an answer may take.
PATIENCE = {"unix": 2, "esp32_c3": 5, "esp32": 30, "rpi_pico_w": 60, "w5500_evb_pico": 30}


@cache
def describe(name: str, base: Path | None) -> str:
    """A board and its firmware, for the report; `base` is a MicroPython file to use in place of the board's default."""
    if name == "unix":
        asked = [boards.micropython(), "-c", "import sys; print(sys.version)"]
        version = subprocess.run(asked, capture_output=True, text=True).stdout.strip().split("; ")[-1]
        return f"unix, {version} (Unix port)"
    return f"{name}, {read_base(name, base)} (genuine firmware, emulated)"


def read_base(name: str, path: Path | None = None) -> firmware.Base:
    """The genuine firmware of a board: the file at `path`, else that of --base, else the board's default."""
    path = path or (Path(Board.base[1]) if Board.base else firmware.base_image(boards.load(name)))
    return firmware.read_base(path.read_bytes(), path)


class Board:
    """`python -m tools emulate ARGUMENTS`, started and serving."""

    base: tuple[str, ...] | list[str] = ()  # arguments for every start: --base FILE

    def __init__(self, *arguments: str, files: Path, port: int = 0):
        self.name = arguments[arguments.index("--board") + 1] if "--board" in arguments else "unix"
        arguments = (*arguments, *self.base)
        command = [sys.executable, "-m", "tools", "emulate", "--files", str(files), "--port", str(port), *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.console: list[str] = []
        assert self.process.stdout and self.process.stderr
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.ready = self.process.stdout.readline().strip()
        match = re.fullmatch(r"(?:ready tftp|set-up http)://([\d.]+)(?::(\d+))?/", self.ready)
        if not match:
            self.process.wait(10)
            self._reader.join(5)
            raise AssertionError(f"not ready: {self.ready!r}, {self.console}")
        self.address = (match[1], int(match[2] or 80))
        self.url = self.ready.split()[1]
        Wire.patience[self.address] = PATIENCE[self.name]
        base = Path(arguments[arguments.index("--base") + 1]) if "--base" in arguments else None
        STARTED[describe(self.name, base)] += 1

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.console.append(line.rstrip("\n"))

    def wait_for(self, text: str, seconds: float = 10, after: int = 0) -> str:
        """Wait for a console line that contains `text` and return it; lines before number `after` do not count."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.console[after:]:
                if text in line:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no {text!r} on the console in {seconds} s: {self.console[after:]}")

    def lines_when_silent(self) -> int:
        """Wait until the console is silent and return its number of lines, to tell later lines from earlier ones."""
        lines = -1
        while lines != len(self.console):
            lines = len(self.console)
            time.sleep(0.05 if self.name == "unix" else 0.5)
        return lines

    def seen_as(self, wire: "Wire") -> str:
        """The address of a client of this host as the board sees it, "host:port" (tools/emulators/bridge.py)."""
        host = "127.0.0.1" if self.name == "unix" else "10.0.0.1"
        return f"{host}:{wire.socket.getsockname()[1]}"

    def skip_if_too_slow(self, round_trips: float) -> None:
        """Skip the test if so many round trips take too long on this board (4 ms each on the C3, more on others)."""
        limit = ROUND_TRIPS.get(self.name)
        if limit and round_trips > limit:
            pytest.skip(f"more than {limit:,} round trips take the emulated {self.name} too long")

    def heap_when_idle(self, seconds: float = 10) -> int:
        """Bytes of heap in use after a transfer, from the journal (--set log=debug)."""
        seen = len(self.console)
        assert fetch(self.address, "hello.txt")
        return int(self.wait_for("idle, ", seconds, after=seen).split("idle, ")[1].split()[0])

    def fill(self, uploads: bool = False) -> None:
        """Start as many transfers at once as the board allows, half of them uploads if `uploads`, and end them.

        This grows the tables to their full size (2.7 KB for 32 transfers) and loads the netascii code, so that no test
        takes either for a leak.
        """
        fetch(self.address, "hello.txt", mode="netascii")
        seen = self.lines_when_silent()
        with ExitStack() as wires:
            for number in range(boards.load(self.name)["settings"]["transfers"]):
                wire = wires.enter_context(Wire(self.address))
                if uploads and number % 2 == 0:
                    wire.ask(f"fill-{number}", opcode=2)
                else:
                    wire.ask("size-5000")
        self.wait_for("idle, ", after=seen)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop the board as Ctrl-C does; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(STOP.get(self.name, 15))
        self._reader.join(5)
        return status

    @cached_property
    def emulator(self) -> int:
        """The process number of a genuine board's emulator."""
        return int(subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout)

    def pull_plug(self) -> None:
        """Cut the power of a genuine board; its flash keeps the state of that moment (--save stores it)."""
        os.kill(self.emulator, signal.SIGTERM)
        self.process.wait(STOP.get(self.name, 15))
        self._reader.join(5)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class RealBoard(Board):
    """A board over the air. It has no console here, so tests that read the journal are skipped."""

    def __init__(self, address: str):
        self.name = "hardware"
        host, _, port = address.partition(":")
        self.address = (host, int(port or 69))
        self.url = f"tftp://{host}:{self.address[1]}/"
        self.console = []
        Wire.patience[self.address] = 5
        STARTED[f"the board at {address}, with a firmware of its own"] += 1

    def wait_for(self, text: str, seconds: float = 10, after: int = 0) -> str:
        pytest.skip("the journal of a real board is on its own console")

    def stop(self, number: int = signal.SIGINT) -> int:
        return 0


def missing(name: str) -> str:
    """The reason why that board can't be emulated on this machine; empty if it can."""
    facts = boards.load(name)
    if name == "unix":
        return ""
    file = facts["firmware"][0]["file"]
    if not (firmware.cache() / "firmware" / file).exists():
        return f"no {file} in the cache: python -m tools firmware --board {name}"
    if facts["emulator"]["program"] == "qemu":
        try:
            qemu.find_chip(facts["emulator"]["arguments"][-1])
        except ToolError as error:
            return str(error)
    return ""


def flash_files(image: Path) -> dict[str, bytes]:
    """All files of a saved flash of the everyday board: contents by absolute path."""
    files = filesystem.contents(boards.load("unix")["filesystem"], image.read_bytes())
    assert files is not None
    return files
