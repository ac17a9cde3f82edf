"""Fixtures and options of the whole suite."""

import contextlib
import errno
import gc
import sys
import time
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from playwright.sync_api import Browser

from board import STARTED, Board, RealBoard, missing
from browsing import Visit, chromium
from served import make_files

pytest_plugins = ["tools.labs.pytest_plugin"]

# The MicroPython functions that the firmware's pure modules use, so that these import on CPython too.
sys.modules["micropython"] = types.ModuleType("micropython")
sys.modules["micropython"].const = lambda value: value  # type: ignore[attr-defined]
gc.mem_free = lambda: 1 << 20  # type: ignore[attr-defined]
gc.mem_alloc = lambda: 1 << 16  # type: ignore[attr-defined]
time.ticks_ms = lambda: int(time.monotonic() * 1000)  # type: ignore[attr-defined]
time.ticks_add = lambda ticks, delta: ticks + delta  # type: ignore[attr-defined]
time.ticks_diff = lambda end, start: end - start  # type: ignore[attr-defined]


class DeflateIO:
    """MicroPython's, as far as it is used: it reads a gzip `file` up to the end of the trailer, which it checks."""

    def __init__(self, file: BinaryIO, form: int, wbits: int) -> None:
        self.file = file
        self.inflater = zlib.decompressobj(16 + 15)

    def read(self, size: int) -> bytes:
        data = b""
        try:
            while len(data) < size and not self.inflater.eof:
                waiting = self.inflater.unconsumed_tail or self.file.read(1)
                more = self.inflater.decompress(waiting, size - len(data))
                if not waiting and not more:
                    raise EOFError
                data += more
        except zlib.error:
            raise OSError(errno.EINVAL) from None
        return data

    def readinto(self, view: memoryview) -> int:
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


sys.modules["deflate"] = types.ModuleType("deflate")
vars(sys.modules["deflate"]).update(GZIP=3, DeflateIO=DeflateIO)


# Arguments with which the shared board of each kind is started.
ARGUMENTS = {
    "unix": ["--flash-size", "8M", "--set", "log=debug"],
    "esp32_c3": ["--set", "log=debug", "--set", "windowsize=64"],
    "rpi_pico_w": ["--set", "log=debug", "--set", "windowsize=64"],
    "esp32": ["--set", "log=debug", "--set", "windowsize=64"],
    "w5500_evb_pico": ["--set", "log=debug", "--set", "windowsize=64"],
}
WHOLE_SUITE = ["unix", "esp32_c3"]  # run every test of the wire; the C3 without --board only those of a shared board
# Slow to start; without --board only the tests marked `also_on_pico`.
ONLY_WHEN_ASKED = {"esp32", "rpi_pico_w", "w5500_evb_pico"}
OF_THE_EVERYDAY_BOARD = {"--flash-size", "--heap", "--sockets"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--board", action="append", metavar="NAME", help=f"only on this board: {', '.join(ARGUMENTS)}")
    parser.addoption("--base", metavar="FILE", help="with one --board: use this MicroPython file")
    parser.addoption(
        "--board-address", metavar="HOST[:PORT]", help="test a real board that serves the folder made by --served"
    )
    parser.addoption(
        "--pictures", metavar="DIR", help="with tests/server/test_browser.py: save what the page looks like"
    )
    parser.addoption("--served", metavar="DIR", help="make the folder that a real board has to serve, and exit")


def pytest_configure(config: pytest.Config) -> None:
    for mark in (
        "everyday_only(reason): a test that only the everyday board can run",
        "genuine(*boards, always): a test for the genuine firmware of these boards; always: even without --board",
        "also_on_pico: a test that also runs on the emulated Picos, which are slow, and with --board on the ESP32",
    ):
        config.addinivalue_line("markers", mark)
    for name in config.getoption("--board") or []:
        if name not in ARGUMENTS:
            raise pytest.UsageError(f"--board takes one of {', '.join(ARGUMENTS)}, not {name}")
    if base := config.getoption("--base"):
        if len(config.getoption("--board") or []) != 1:
            raise pytest.UsageError("--base FILE wants one --board NAME")
        Board.base = ["--base", str(Path(base).resolve())]
    if config.getoption("--served"):
        make_files(Path(str(config.getoption("--served"))))
        pytest.exit("the files are made: put them on the board, and run pytest --board-address", 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the boards on which a test with the fixture `board`, `start` or `board_name` runs."""
    if "board_name" not in metafunc.fixturenames:
        return
    test, config = metafunc.definition, metafunc.config
    chosen = config.getoption("--board") or []
    everyday = test.get_closest_marker("everyday_only")
    if genuine := test.get_closest_marker("genuine"):
        names = [name for name in genuine.args if name in chosen or name not in ONLY_WHEN_ASKED or genuine.kwargs]
    elif chosen or "board" in metafunc.fixturenames:
        names = list(WHOLE_SUITE)
    else:  # one board per test takes minutes on the C3: only with --board
        names = ["unix"]
    if test.get_closest_marker("also_on_pico"):
        names += ["rpi_pico_w", "w5500_evb_pico"] + ["esp32"] * ("esp32" in chosen)
    if chosen:
        names = [name for name in names if name in chosen]
    if config.getoption("--board-address"):
        names = [] if genuine else ["hardware"]
    parameters = []
    for name in names:
        skip = [pytest.mark.skip(everyday.args[0])] if everyday and name != "unix" else []
        parameters.append(pytest.param(name, marks=skip, id=name))
    metafunc.parametrize("board_name", parameters, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --board or --board-address, keep only tests that run on that board. Without, drop tests for other boards."""
    only = bool(config.getoption("--board") or config.getoption("--board-address"))

    def wanted(item: pytest.Item) -> bool:
        parameters = getattr(item, "callspec", None)
        name = parameters and parameters.params.get("board_name")
        return isinstance(name, str) or not (only or name)

    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every board that ran, with its firmware."""
    if STARTED:
        terminalreporter.section("boards", "=")
    for what, times in sorted(STARTED.items()):
        terminalreporter.line(f"{what}: started {times} times" if times > 1 else f"{what}: started once")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the shared board serves."""
    folder = tmp_path_factory.mktemp("served")
    make_files(folder)
    return folder


@pytest.fixture(scope="session")
def board_name(request: pytest.FixtureRequest) -> str:
    """The kind of board that the test runs on; skips the test if that board can't run on this machine."""
    name = request.param
    if name != "hardware" and (reason := missing(name)):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="session")
def own_files(board_name: str, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that this kind of board serves; the Picos (848 and 1,408 KiB of flash) lack the two largest files."""
    if board_name not in ("rpi_pico_w", "w5500_evb_pico"):
        return files
    folder = tmp_path_factory.mktemp("served")
    make_files(folder)
    for large in ("mebi.bin", "rollover.bin"):
        (folder / large).unlink()
    return folder


@pytest.fixture(scope="session")
def board(board_name: str, own_files: Path, request: pytest.FixtureRequest) -> Iterator[Board]:
    """A board shared by all tests that do not change its state: the everyday one, then the genuine ones."""
    if board_name == "hardware":
        yield RealBoard(str(request.config.getoption("--board-address")))
        return
    with Board("--board", board_name, *ARGUMENTS[board_name], files=own_files) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def start(board_name: str, own_files: Path) -> Iterator[Callable[..., Board]]:
    """start(*arguments) starts a board for this test alone, with the files of the shared one."""
    if board_name == "hardware":
        pytest.skip("a real board is not started by a test")
    with contextlib.ExitStack() as running:

        def start_one(*arguments: str, files: Path = own_files) -> Board:
            if board_name == "unix":
                arguments = ("--flash-size", "8M", *arguments)
            elif foreign := OF_THE_EVERYDAY_BOARD.intersection(arguments):
                pytest.skip(f"{', '.join(foreign)} is for the everyday board")
            return running.enter_context(Board("--board", board_name, *arguments, files=files))

        yield start_one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    visit = Visit(browser)
    yield visit
    visit.close()
