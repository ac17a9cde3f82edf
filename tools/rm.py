"""Remove files from a running board, over HTTP. The board must allow it (write_from, overwrite)."""

import argparse

from . import remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    remote.add_arguments(parser, password=True)
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    board = remote.connect(arguments)
    for name in arguments.names:
        board.remove(name)
    return 0
