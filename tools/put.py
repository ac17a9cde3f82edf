"""Store files on a running board, each whole or not at all. The board must allow it (write_from, overwrite)."""

import argparse
from pathlib import Path

from . import ToolError, boards, remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    remote.add_arguments(parser, password=True)
    parser.add_argument("files", nargs="+", type=boards.parse_path, metavar="FILE")
    parser.add_argument(
        "--to", default="", metavar="NAME", help="the folder on the board (/ at its end), or its name there"
    )


def run(arguments: argparse.Namespace) -> int:
    board = remote.connect(arguments)
    to: str = arguments.to
    if to and not to.endswith("/") and len(arguments.files) > 1:
        raise ToolError(f"several files need a folder on the board: --to {to}/")
    with remote.progress() as begin:
        for path in arguments.files:
            name = to if to and not to.endswith("/") else f"{to}{path.name}"
            _put(board, path, name, begin(name))
    return 0


def _put(board: remote.Http | remote.Tftp, path: Path, name: str, told: remote.Told) -> None:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ToolError(f"can't read {path}: {error.strerror}") from None
    with file:
        board.write(name, file, told)
