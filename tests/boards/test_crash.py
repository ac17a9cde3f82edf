"""After a crash of the server, crash.py writes the traceback to /crash.log, waits, longer each time, and resets."""

import contextlib
import importlib
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import boards, filesystem

LAYOUT = boards.load("unix")["filesystem"]


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """crash.py with its log in `tmp_path`, and a list of its pauses and resets."""
    machine = types.ModuleType("machine")
    done: list[object] = []
    machine.reset = lambda: done.append("reset")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "machine", machine)
    module = importlib.import_module("crash")
    monkeypatch.setattr(module, "machine", machine)
    monkeypatch.setattr(module, "_FILE", str(tmp_path / "crash.log"))
    monkeypatch.setattr(module.time, "sleep", done.append)
    monkeypatch.setattr(
        sys, "print_exception", lambda fault, file=sys.stdout: print(repr(fault), file=file), raising=False
    )
    return module, done, tmp_path / "crash.log"


def pauses(crash: tuple, times: int, seconds: int = 5) -> list[int]:
    module, done, _ = crash
    done.clear()
    for _ in range(times):
        module.restart(ValueError("oops"), seconds, lambda: done.append("rest"))
    assert done[::3] == ["rest"] * times and done[2::3] == ["reset"] * times
    return done[1::3]


def test_the_pause_doubles_up_to_five_minutes(crash):
    assert pauses(crash, 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_the_pause_starts_over_after_a_long_run(crash):
    assert pauses(crash, 4) == [1, 2, 4, 8]
    assert pauses(crash, 1, seconds=600) == [1]
    assert pauses(crash, 2) == [2, 4]


def test_the_log_keeps_the_last_crashes_and_its_size_is_limited(crash):
    pauses(crash, 60)
    text = crash[2].read_text()
    assert text.endswith("ran for 5 s, restart in 300 s\nValueError('oops')\n")
    assert 2000 < len(text) < 4096


def test_a_damaged_log_stops_no_restart(crash):
    for broken in (b"\xff\xfe\x00", b"restart in \n", b"restart in x s", b"restart in -9 s", b"x" * 100_000):
        crash[2].write_bytes(broken)
        assert pauses(crash, 2) == [1, 2]
        assert crash[2].stat().st_size < 4096


@pytest.mark.parametrize("trouble", [MemoryError(), OSError(5), UnicodeError()], ids=repr)
def test_a_log_that_can_not_be_read_or_written_stops_no_restart(crash, monkeypatch, trouble):
    def no_file(*arguments):
        raise trouble

    monkeypatch.setattr(crash[0], "open", no_file, raising=False)
    assert pauses(crash, 2) == [300, 300]


def test_without_a_writable_log_the_pause_is_the_longest(crash):
    crash[2].mkdir()
    assert pauses(crash, 1) == [300]


@pytest.fixture
def boot(tmp_path: Path) -> Callable[[], str]:
    """boot() runs a board whose server crashes at once until it asks for a reset; returns its console."""
    image = tmp_path / "flash"
    files = filesystem.board_files({"ssid": "x", "port": 69, "address": "192.0.2.1"}, {})
    image.write_bytes(filesystem.build(LAYOUT, LAYOUT["size"], files))
    run = boards.everyday(image, LAYOUT, 192 << 10)

    def once() -> str:
        console = ""
        with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as board:
            assert board.stdout
            with contextlib.ExitStack() as power:
                power.callback(board.kill)
                for line in board.stdout:
                    console += line
                    if line.startswith("\x1ereset"):
                        return console
        return console

    return once


def test_a_board_that_crashes_starts_again_with_a_growing_pause(boot: Callable[[], str], tmp_path: Path):
    first, second = boot(), boot()
    for console, pause in ((first, 1), (second, 2)):
        assert "Traceback" in console and "OSError" in console
        assert f"the server crashed, see /crash.log: restart in {pause} s" in console
    image = (tmp_path / "flash").read_bytes()
    files = filesystem.contents(LAYOUT, image)
    assert files
    log = files["/crash.log"].decode()
    assert log.count("Traceback") == 2 and "restart in 2 s" in log and "serve_forever" in log
