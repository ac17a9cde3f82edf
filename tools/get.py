"""Fetch files from a running board, each whole or not at all. The CRC32 of folders is checked."""

import argparse
import sys
import zlib
from pathlib import Path, PurePosixPath

from . import ToolError, boards, printable, remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    remote.add_arguments(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files, or folders with a / at the end; none: all")
    parser.add_argument(
        "-o",
        "--output",
        type=boards.parse_path,
        metavar="PATH",
        help="the folder to fetch to, the file for a single NAME, or - for standard output (default: this folder)",
    )


def run(arguments: argparse.Namespace) -> int:
    board = remote.connect(arguments)
    output: Path = arguments.output or Path(".")
    files = [name for name in arguments.names if not name.endswith("/")]
    folders = [name for name in arguments.names if name.endswith("/")]
    with remote.progress() as begin:
        if len(arguments.names) == 1 and files and arguments.output and not output.is_dir():
            if str(output) == "-":
                board.read(files[0], sys.stdout.buffer, remote.quiet)
            else:
                remote.save(board, files[0], output, begin(files[0]))
            return 0
        for name in files:  # as the user wrote it, so it is to be trusted
            remote.save(board, name, output / PurePosixPath(name).name, begin(name))
        if folders or not files:
            for entry in remote.chosen(board, folders):
                if entry.origin:  # its compressed file is fetched
                    continue
                path = remote.local(entry.name, output)
                remote.save(board, entry.name, path, begin(entry.name))
                if zlib.crc32(path.read_bytes()) != entry.crc32:
                    raise ToolError(f"{printable(entry.name)} has changed meanwhile, or came damaged: fetch it again")
    return 0
