"""List the boards.

Their facts are in board/NAME/board.json; here is what reads them, and what a setting or a size looks like.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import ToolError

ROOT = Path(__file__).resolve().parent.parent
_HEADS = 61  # of blocks that the everyday board's flash keeps in memory (board/unix/run.py)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> int:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("name", "board", "chip", "link", "flash", "files", "sockets", "transfers", "MicroPython"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("flash", "files", "sockets") else "left")
    for name in names():
        board = load(name)
        table.add_row(
            name,
            board["product"].split(":")[0],
            board["mcu"],
            "wire" if "Ethernet" in board["features"] else "Wi-Fi",
            format_size(board["flash_size"]) if "flash_size" in board else "-",
            format_size(board["filesystem"]["size"]),
            str(board["udp_sockets"] or "any"),
            str(board["settings"]["transfers"]),
            ", ".join(entry["version"] for entry in board.get("firmware", ())) or "the Unix port",
        )
    print_table(table)
    return 0


def names() -> list[str]:
    """The names of all boards, the everyday board first."""
    found = {path.parent.name for path in ROOT.glob("board/*/board.json")}
    return ["unix", *sorted(found - {"unix"})]


def load(name: str) -> dict[str, Any]:
    """The facts of the board called `name`. Raises ToolError."""
    if name not in names():
        raise ToolError(f"no board is called {name!r}; there are: {', '.join(names())}")
    return json.loads((ROOT / "board" / name / "board.json").read_text())


def parse_size(text: str) -> int:
    """Bytes in "848K", "16M" or "65536". Raises ToolError."""
    match = re.fullmatch(r"(\d+)([KM]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ToolError(f"a size is a number, or one with K or M behind it (848K, 16M), not {text!r}")
    return int(match[1]) * _UNITS[match[2].upper()]


def format_size(size: int) -> str:
    """The shortest form that parse_size reads back: "848K" for 868352."""
    for unit in ("M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def print_table(table: Any) -> None:
    """Print a rich.table.Table on standard output, never cut to a width that a pipe or a file doesn't have."""
    from rich.console import Console

    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 200).print(table)


def progress(*columns: Any) -> Any:
    """A rich.progress.Progress on standard error, gone at its end; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, soft_wrap=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def read_bytes(path: Path) -> bytes:
    """The contents of a file. Raises ToolError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ToolError(f"can't read {path}: {error.strerror}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all. Raises ToolError."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise ToolError(f"can't write {path}: {error.strerror}") from None
    finally:
        if part.exists():
            part.unlink()


def micropython() -> str:
    """The program that is MicroPython's Unix port: $MICROPYTHON, or the one of this Python's environment."""
    beside = Path(sys.executable).with_name("micropython")
    chosen = os.environ.get("MICROPYTHON") or (str(beside) if beside.exists() else "micropython")
    found = shutil.which(chosen)
    if not found:
        raise ToolError(f"{chosen} is not there: run 'make setup', or name MicroPython's Unix port in $MICROPYTHON")
    return found


def everyday(flash: object, layout: dict[str, int], heap: int, sockets: int = 0) -> list[str]:
    """The command that runs the everyday board on the image in the file `flash`. Raises ToolError.

    layout   block_size, read_size, prog_size in bytes (board.json, `filesystem`)
    heap     bytes; what its flash keeps in memory, which no real one does, is added to them
    sockets  UDP sockets that it gives, 0 for any number
    """
    values = [layout[size] for size in ("block_size", "read_size", "prog_size")]
    heap += _HEADS * (layout["read_size"] + 80)  # with a bytearray, a memoryview, two words in a list
    command = [micropython(), "-X", f"heapsize={heap}", ROOT / "board/unix/run.py", flash, *values, _HEADS, sockets]
    return [str(word) for word in command]


def read_settings(path: Path) -> dict[str, Any]:
    """The user's settings in a JSON file, not yet checked. Raises ToolError."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolError(f"can't read the settings in {path}: {error.strerror}") from None
    except ValueError as error:
        raise ToolError(f"the settings in {path} are not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ToolError(f'the settings in {path} are not a JSON object, as {{"ssid": "lab"}} would be')
    return settings


def check_settings(settings: dict[str, Any], pairs: list[str]) -> dict[str, Any]:
    """`settings` with the KEY=VALUE `pairs` put over them, checked by the firmware itself. Raises ToolError."""
    for pair in pairs:
        if "=" not in pair:
            raise ToolError(f"--set takes KEY=VALUE, not {pair!r}")
    checker = str(ROOT / "board/unix/check_settings.py")
    command = [micropython(), checker, str(ROOT / "firmware"), json.dumps(settings), *pairs]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise ToolError(
            f"the settings could not be checked: {(result.stderr or result.stdout).strip().splitlines()[-1:]}"
        )
    answer = json.loads(result.stdout)
    if answer["complaints"]:
        raise ToolError("setting " + "; ".join(answer["complaints"]))
    return answer["settings"]
