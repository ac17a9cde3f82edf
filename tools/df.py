"""Show how much room a running board has: bytes of each volume, and of its heap."""

import argparse

from . import ToolError, boards, printable, remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    remote.add_arguments(parser)
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    board = remote.connect(arguments)
    told = board.status()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("volume", overflow="fold")
    for name in ("bytes", "used", "free"):
        table.add_column(name, justify="right")
    try:
        rows = [(str(one["root"]), int(one["size"]), int(one["free"])) for one in told["volumes"]]
        free, used = map(int, told["heap"])
    except (KeyError, TypeError, ValueError):
        raise ToolError(f"{board.url}: tftpd/status.json is not as it should be, it is another server") from None
    rows.append(("heap", free + used, free))
    if arguments.json:
        boards.print_json({name: {"bytes": size, "free": left} for name, size, left in rows})
        return 0
    for name, size, left in rows:
        table.add_row(Text(printable(name)), f"{size:,}", f"{size - left:,}", f"{left:,}")
    boards.print_table(table)
    return 0
