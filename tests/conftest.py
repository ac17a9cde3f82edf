"""Fixtures and options of the whole suite."""

import contextlib
import gc
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from board import STARTED, Board, RealBoard, missing
from served import make_files

# What the firmware's pure modules need of MicroPython, so that they import on CPython too.
sys.modules["micropython"] = types.ModuleType("micropython")
sys.modules["micropython"].const = lambda value: value  # type: ignore[attr-defined]
gc.mem_free = lambda: 1 << 20  # type: ignore[attr-defined]
gc.mem_alloc = lambda: 1 << 16  # type: ignore[attr-defined]
time.ticks_ms = lambda: int(time.monotonic() * 1000)  # type: ignore[attr-defined]
time.ticks_add = lambda ticks, delta: ticks + delta  # type: ignore[attr-defined]
time.ticks_diff = lambda end, start: end - start  # type: ignore[attr-defined]


# How the shared board of each kind is started.
ARGUMENTS = {
    "unix": ["--flash-size", "8M", "--set", "log=debug"],
    "esp32_c3": ["--set", "log=debug", "--set", "windowsize=64"],
    "rpi_pico_w": ["--set", "log=debug", "--set", "windowsize=64"],
    "esp32": ["--set", "log=debug", "--set", "windowsize=64"],
}
WHOLE_SUITE = ["unix", "esp32_c3"]  # these run every test of the wire; without --board the C3 those of a shared board
ONLY_WHEN_ASKED = {"esp32", "rpi_pico_w"}  # slow to start: with --board, but for what is `also_on_pico`
OF_THE_EVERYDAY_BOARD = {"--flash-size", "--heap", "--sockets"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--board", action="append", metavar="NAME", help=f"only on this board: {', '.join(ARGUMENTS)}")
    parser.addoption("--base", metavar="FILE", help="with one --board: on this file of MicroPython")
    parser.addoption(
        "--board-address", metavar="HOST[:PORT]", help="on a real board that serves the folder of --served"
    )
    parser.addoption(
        "--served", metavar="DIR", help="make that folder with the files a real board is to serve, and end"
    )


def pytest_configure(config: pytest.Config) -> None:
    for mark in (
        "everyday_only(reason): a test that the everyday board alone can run",
        "genuine(*boards): a test for the genuine firmware of these boards",
        "also_on_pico: a test that the emulated Pico W, 100 times slower than life, runs too; with --board, the ESP32",
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
    """On which boards a test with the fixtures `board`, `start` or `board_name` runs."""
    if "board_name" not in metafunc.fixturenames:
        return
    test, config = metafunc.definition, metafunc.config
    chosen = config.getoption("--board") or []
    everyday = test.get_closest_marker("everyday_only")
    if genuine := test.get_closest_marker("genuine"):
        names = [name for name in genuine.args if name in chosen or name not in ONLY_WHEN_ASKED]
    elif chosen or "board" in metafunc.fixturenames:
        names = list(WHOLE_SUITE)
    else:  # a board for each test takes minutes on the C3: with --board
        names = ["unix"]
    if test.get_closest_marker("also_on_pico"):
        names += ["rpi_pico_w"] + ["esp32"] * ("esp32" in chosen)
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
    """With --board or --board-address, only what runs on that board. Without, no test that is for others only."""
    only = bool(config.getoption("--board") or config.getoption("--board-address"))

    def wanted(item: pytest.Item) -> bool:
        parameters = getattr(item, "callspec", None)
        name = parameters and parameters.params.get("board_name")
        return isinstance(name, str) or not (only or name)

    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every board that ran, and its firmware."""
    if STARTED:
        terminalreporter.section("boards", "=")
    for what, times in sorted(STARTED.items()):
        terminalreporter.line(f"{what}: started {times} times" if times > 1 else f"{what}: started once")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the shared board serves."""
    folder = tmp_path_factory.mktemp("served")
    make_files(folder)
    return folder


@pytest.fixture(scope="session")
def board_name(request: pytest.FixtureRequest) -> str:
    """The kind of board that the test runs on; it is skipped if that one can't be had here."""
    name = request.param
    if name != "hardware" and (reason := missing(name)):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="session")
def own_files(board_name: str, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What that kind of board serves: all of SERVED, but on the Pico W, which has 848 KiB of flash."""
    if board_name != "rpi_pico_w":
        return files
    folder = tmp_path_factory.mktemp("served")
    make_files(folder)
    for large in ("mebi.bin", "rollover.bin"):
        (folder / large).unlink()
    return folder


@pytest.fixture(scope="session")
def board(board_name: str, own_files: Path, request: pytest.FixtureRequest) -> Iterator[Board]:
    """A board shared by all tests that leave it as it was: the everyday one, then the genuine ones."""
    if board_name == "hardware":
        yield RealBoard(str(request.config.getoption("--board-address")))
        return
    with Board("--board", board_name, *ARGUMENTS[board_name], files=own_files) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def start(board_name: str, own_files: Path) -> Iterator[Callable[..., Board]]:
    """start(*arguments) starts a board of one's own, with the files of the shared one."""
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
