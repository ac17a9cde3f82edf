"""Fixtures and options of the whole suite."""

import contextlib
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from board import Board, RealBoard
from tools import ToolError, boards, firmware
from tools.emulators import qemu

# What the firmware's pure modules need of MicroPython, so that they import on CPython too.
sys.modules["micropython"] = types.ModuleType("micropython")
sys.modules["micropython"].const = lambda value: value  # type: ignore[attr-defined]
time.ticks_ms = lambda: int(time.monotonic() * 1000)  # type: ignore[attr-defined]
time.ticks_add = lambda ticks, delta: ticks + delta  # type: ignore[attr-defined]
time.ticks_diff = lambda end, start: end - start  # type: ignore[attr-defined]


def content(size: int, seed: int = 1) -> bytes:
    """`size` bytes in which no block is like another."""
    return random.Random(seed).randbytes(size)


# Name and content of everything that the shared board serves.
SERVED = {
    "hello.txt": b"Hello from your board.\n",
    "empty": b"",
    **{f"size-{size}": content(size, size) for size in (1, 8, 511, 512, 513, 1024, 1468, 2936, 4404, 5000, 100_000)},
    "mebi.bin": content(1 << 20),
    "rollover.bin": content(8 * 65_536 + 100),
    "text.txt": b"one\ntwo\r\nthree\rfour\n" * 300,
    "Boot/BCD": b"Windows asks for \\boot\\bcd",
    "boot/bcd.other": b"another folder that differs in case only",
    "folder/deep/er/file.bin": content(700),
    "Grüße.txt": b"Umlaute",
    "x" * 255: b"the longest name",
    "with space.txt": b"a space",
}


# How the shared board of each kind is started. Those behind the first run where their firmware is in the cache.
ARGUMENTS = {
    "unix": ["--flash-size", "8M", "--set", "log=debug"],
    "esp32_c3": ["--set", "log=debug", "--set", "windowsize=64"],
    "rpi_pico_w": ["--set", "log=debug", "--set", "windowsize=64"],
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--board", action="append", metavar="NAME", help=f"only on this board: {', '.join(ARGUMENTS)}")
    parser.addoption(
        "--board-address", metavar="HOST[:PORT]", help="on a real board that serves the folder of --served"
    )
    parser.addoption(
        "--served", metavar="DIR", help="make that folder with the files a real board is to serve, and end"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "only_on(*boards, reason): the boards of the `board` fixture that the test is for"
    )
    config.addinivalue_line(
        "markers", "also_on_pico: a test that the emulated Pico W, 100 times slower than life, runs too"
    )
    if config.getoption("--served"):
        make_files(Path(str(config.getoption("--served"))))
        pytest.exit("the files are made: put them on the board, and run pytest --board-address", 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = any("board" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "board" not in metafunc.fixturenames or own:
        return
    only = metafunc.definition.get_closest_marker("only_on")
    names = list(only.args) if only else ["unix"]
    if metafunc.definition.get_closest_marker("also_on_pico"):
        names.append("rpi_pico_w")
    chosen = metafunc.config.getoption("--board")
    if metafunc.config.getoption("--board-address"):
        names = ["hardware"]
    elif chosen:
        every = not only and {"esp32_c3"}.intersection(chosen)
        names = [name for name in names if name in chosen] + sorted(every or [])
    metafunc.parametrize("board", names, indirect=True, scope="session")


def missing(name: str) -> str:
    """Why that board can't be emulated here; an empty text if it can."""
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


def make_files(folder: Path) -> None:
    """What the shared board serves (SERVED), and a hidden file that it does not."""
    for name, data in SERVED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / ".hidden").write_bytes(b"hidden")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the shared board serves."""
    folder = tmp_path_factory.mktemp("served")
    make_files(folder)
    return folder


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board shared by all tests that leave it as it was: the everyday one, then the genuine ones."""
    name = request.param
    if name == "hardware":
        yield RealBoard(str(request.config.getoption("--board-address")))
        return
    if reason := missing(name):
        pytest.skip(reason)
    if name == "rpi_pico_w":  # 848 KiB of flash
        files = tmp_path_factory.mktemp("served")
        make_files(files)
        for large in ("mebi.bin", "rollover.bin"):
            (files / large).unlink()
    with Board("--board", name, *ARGUMENTS[name], files=files) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def start(files: Path) -> Iterator[Callable[..., Board]]:
    """start(*arguments) starts an everyday board of one's own, with the files of the shared one."""
    with contextlib.ExitStack() as running:
        yield lambda *arguments, files=files: running.enter_context(
            Board("--flash-size", "8M", *arguments, files=files)
        )
