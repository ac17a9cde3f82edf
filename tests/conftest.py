"""Fixtures and options of the whole suite."""

import contextlib
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from board import Board

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


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the shared board serves (SERVED), and some hidden files that it does not."""
    folder = tmp_path_factory.mktemp("served")
    for name, data in SERVED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / ".hidden").write_bytes(b"hidden")
    return folder


@pytest.fixture(scope="session")
def board(files: Path) -> Iterator[Board]:
    """The everyday board, shared by all tests that leave it as it was."""
    with Board("--flash-size", "8M", "--set", "log=debug", files=files) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def start(files: Path) -> Iterator[Callable[..., Board]]:
    """start(*arguments) starts a board of one's own, with the files of the shared one; it is stopped at the end."""
    with contextlib.ExitStack() as boards:
        yield lambda *arguments, files=files: boards.enter_context(Board("--flash-size", "8M", *arguments, files=files))
