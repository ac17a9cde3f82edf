"""List the files of a running board: CRC32, size, name."""

import argparse

from . import ToolError, boards, printable, remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    remote.add_arguments(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files and folders (default: all)")
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    board = remote.connect(arguments)
    entries = remote.chosen(board, arguments.names)
    if arguments.json:
        keys = "name", "size", "crc32", "from"
        rows = [(one.name, one.size, f"{one.crc32:08x}", one.origin) for one in entries]
        boards.print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return 0
    width = max((len(f"{entry.size:,}") for entry in entries), default=0)
    for entry in entries:
        origin = f"  (from {printable(entry.origin)})" if entry.origin else ""
        print(f"{entry.crc32:08x}  {entry.size:{width},}  {printable(entry.name)}{origin}")
    if not entries and not arguments.names:
        raise ToolError(f"{board.url} serves no files")
    return 0
