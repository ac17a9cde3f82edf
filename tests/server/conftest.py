"""Fixtures of the tests of the servers: boards with HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from board import Board
from web import Web, free_port


@pytest.fixture(scope="module")
def web(board_name: str, own_files: Path) -> Iterator[Web]:
    port = free_port()
    with Board("--flash-size", "8M", "--set", f"http_port={port}", "--set", "log=debug", files=own_files) as board:
        yield Web(board, port)


@pytest.fixture(scope="module")
def store(board_name: str, own_files: Path) -> Iterator[Web]:
    """A board that takes uploads, for tests that leave no file behind."""
    port = free_port()
    settings = [f"http_port={port}", "log=debug", "overwrite=true"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    with Board("--flash-size", "12M", "--writable", *arguments, files=own_files) as board:
        yield Web(board, port)
        assert not [line for line in board.console if "Traceback" in line]
        assert board.stop() == 0


@pytest.fixture
def serve(start: Callable[..., Board]) -> Callable[..., Web]:
    def serve_one(*arguments: str, **options: Path) -> Web:
        port = free_port()
        return Web(start("--set", f"http_port={port}", *arguments, **options), port)

    return serve_one


@pytest.fixture
def take(serve: Callable[..., Web]) -> Callable[..., Web]:
    """A board that takes uploads."""
    return lambda *arguments, **options: serve("--writable", *arguments, **options)
