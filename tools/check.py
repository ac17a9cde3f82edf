"""Compare the files of a running board with those of a folder, by size and CRC32. Exit status 1 if they differ."""

import argparse
import zlib

from . import boards, printable, remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    remote.add_arguments(parser)
    parser.add_argument("folder", type=boards.parse_path, metavar="DIR", help="what the board should serve")
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = remote.folder_files(arguments.folder)
    there = {entry.name: entry for entry in remote.connect(arguments).index()}
    differences = []
    for name, data in wanted.items():
        entry = there.get(name)
        if not entry:
            differences.append((name, "missing on the board"))
        elif entry.size != len(data):
            differences.append((name, f"differs: {entry.size:,} bytes on the board, {len(data):,} here"))
        elif entry.crc32 != zlib.crc32(data):
            differences.append((name, f"differs: CRC32 {entry.crc32:08x} on the board, {zlib.crc32(data):08x} here"))
    # A file of DIR may be stored compressed; what is inflated from a file of DIR is no file of its own.
    origins = {entry.origin for name, entry in there.items() if name in wanted}
    for name, entry in there.items():
        if name not in wanted and name not in origins and entry.origin not in wanted:
            differences.append((name, "only on the board"))
    same = len(wanted) - sum(name in wanted for name, _ in differences)
    if arguments.json:
        boards.print_json({"same": same, "differences": dict(sorted(differences))})
        return 1 if differences else 0
    for name, text in sorted(differences):
        print(f"{printable(name)}: {text}")
    count = len(differences)
    more = f", {count} difference{'' if count == 1 else 's'} in all" if count else ""
    print(f"{same} of {len(wanted)} files are the same{more}")
    return 1 if differences else 0
