"""Compare the files of a running board with those of a folder, by size and CRC32. Exit status 1 if they differ."""

import argparse

from . import boards, printable, remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    remote.add_arguments(parser)
    parser.add_argument("folder", type=boards.parse_path, metavar="DIR", help="what the board should serve")
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = remote.folder_files(arguments.folder)
    differences = remote.differences(wanted, remote.connect(arguments).index())
    same = len(wanted) - sum(one.kind != remote.EXTRA for one in differences)
    if arguments.json:
        boards.print_json({"same": same, "differences": {one.name: one.text for one in differences}})
        return 1 if differences else 0
    for one in differences:
        print(f"{printable(one.name)}: {one.text}")
    count = len(differences)
    more = f", {count} difference{'' if count == 1 else 's'} in all" if count else ""
    print(f"{same} of {len(wanted)} files are the same{more}")
    return 1 if differences else 0
