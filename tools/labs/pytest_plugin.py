"""A TFTP server for tests, as a plugin of pytest: the genuine firmware on an emulated board, or a real board.

def test_it_boots(tftp_board):
    board = tftp_board({"u-boot.bin": b"..."})  # or a folder
    subprocess.run(["curl", "-sSf", f"{board.url}u-boot.bin"], check=True)
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from .. import PACKAGE, ROOT, ToolError

Start = Callable[..., "TftpBoard"]


class TftpBoard(NamedTuple):
    """A board that serves: its host and port; "tftp://HOST:PORT/"; the file with an emulated board's journal."""

    address: tuple[str, int]
    url: str
    journal: Path | None = None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tftp-board", "a TFTP server on a board")
    group.addoption("--tftp-board", metavar="NAME", default="unix", help="the board that tftp_board emulates")
    group.addoption(
        "--tftp-board-address", metavar="HOST[:PORT]", help="the real board that tftp_board stores files on"
    )


def _starter(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """tftp_board(files, *options, **settings) starts a board for this test and returns a TftpBoard; so does
    tftp_board_factory, for the whole session.

    files     a folder, or contents by name
    options   of `mptftpd emulate`, such as "--writable"
    settings  of the board (docs/settings.md), such as windowsize=1
    """
    with contextlib.ExitStack() as stack:

        def start(files: Path | str | Mapping[str, bytes], *options: str, **settings: Any) -> TftpBoard:
            work = tmp_path_factory.mktemp("tftp-board")
            folder = Path(files).resolve() if isinstance(files, (str, Path)) else _write(files, work / "files")
            try:
                if address := pytestconfig.getoption("--tftp-board-address"):
                    if options or settings:
                        pytest.skip("a real board keeps its settings")
                    return _fill(str(address), folder)
                chosen = "--board", str(pytestconfig.getoption("--tftp-board")), *options
                return _boot(folder, chosen, settings, work, stack)
            except (ToolError, argparse.ArgumentTypeError) as error:
                pytest.fail(f"tftp_board: {error}", pytrace=False)

        yield start


tftp_board = pytest.fixture(name="tftp_board")(_starter)
tftp_board_factory = pytest.fixture(name="tftp_board_factory", scope="session")(_starter)


def _write(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _boot(
    folder: Path, options: tuple[str, ...], settings: dict[str, Any], work: Path, stack: contextlib.ExitStack
) -> TftpBoard:
    journal, complaint = work / "journal", work / "complaint"
    command = [sys.executable, "-m", PACKAGE, "emulate", "--files", folder, "--port", "0", "--log", journal, *options]
    for name, value in settings.items():
        command += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    with complaint.open("wb") as errors:
        process = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        )
    stack.callback(process.terminate)
    assert process.stdout
    word, _, url = process.stdout.readline().strip().partition(" ")
    if word != "ready":
        process.wait()
        raise ToolError(complaint.read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("error: "))
    where = urlsplit(url)
    return TftpBoard((str(where.hostname), where.port or 69), url, journal)


def _fill(address: str, folder: Path) -> TftpBoard:
    from .. import remote  # its imports take a moment
    from .stage import Stage

    parsed = remote.parse(f"tftp://{address}")
    board = remote.connect(argparse.Namespace(address=parsed))
    Stage(board).store({name: folder / name for name in remote.folder_files(folder)})
    return TftpBoard(parsed[1:], f"{board.url}/")
