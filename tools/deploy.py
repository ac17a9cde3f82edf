"""Update a board that already runs MicroPython, without flashing it: copy the server, the settings and the files of a
folder, but only what changed.

The server stops during the update and restarts at the end. Each file is replaced whole, or the board keeps the old one.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import math
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mpremote import transport_serial
from mpremote.transport import TransportError
from rich import box
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import PROGRAM, ToolError, boards, compress, filesystem, monitor, printable

_SETTINGS = "/settings.json"
_FOR_FILES = ("root", "write_to", "write_from")  # the settings that decide where files and folders go
_PART = "/.deploy-"  # prefix of temporary files: hidden, and outside the served folder
_CHUNK_BYTES = 3072  # 4 KB in base64, one line of code for the board to compile
_HASHED_AT_ONCE = 8
_PROMPT_S = 10  # time limit for the board to show its prompt
_ATTEMPTS = 3  # to get the prompt: a board that is starting may miss the first Ctrl-C
_SILENCE_S = 60  # time limit between two outputs of the board
_SERVING_S = 120
_SPARE_BLOCKS = 2  # for the filesystem itself
_LOST = (TransportError, OSError, struct.error)  # raised by mpremote when the board does not answer as expected
transport_serial.__dict__["print"] = lambda *_: None  # it prints unexpected output of a board

Told = Callable[[str, int, int], None]  # is told the path of a file, bytes moved since the last call, bytes of all

# Run once on the board. Its functions print Python literals, one a line.
_HELPER = """
import os, sys
from binascii import a2b_base64 as _a, hexlify as _h
from hashlib import sha256 as _s
try:
    _f.close()  # left open by an earlier run that was killed
except NameError:
    pass
def _list(folder, deep):
    try:
        entries = list(os.ilistdir(folder))
    except OSError:
        return
    for entry in entries:
        path = folder.rstrip('/') + '/' + entry[0]
        print((path, entry[3] if entry[1] == 0x8000 else None))
        if deep and entry[1] == 0x4000:
            _list(path, True)
def _hash(path):
    digest, part = _s(), bytearray(1024)
    with open(path, 'rb') as file:
        while True:
            size = file.readinto(part)
            if not size:
                break
            digest.update(memoryview(part)[:size])
            file.tell() % 32768 or print()  # a line of output, so that the time limit starts again
    print((path, _h(digest.digest()).decode()))
def _rmdir(path):
    try:
        os.rmdir(path)
    except OSError:
        pass
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    boards.add_board(parser)
    monitor.add_device(parser)
    parser.add_argument("--files", type=boards.parse_path, required=True, metavar="DIR", help="what to serve")
    parser.add_argument(
        "--settings",
        type=boards.parse_path,
        metavar="FILE",
        help="a settings.json (default: the board keeps its settings)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting (docs/settings.md); may be repeated",
    )
    compress.add_argument(parser)
    parser.add_argument("--delete", action="store_true", help="remove served files that are not in DIR")
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    board = boards.load(arguments.board)
    if "firmware" not in board:
        raise ToolError(f"{board['product']}: not for deploy; {PROGRAM} emulate copies --files at each start")
    settings = boards.read_settings(arguments.settings) if arguments.settings else None
    checked = boards.check_settings(settings or {}, arguments.set, arguments.settings)
    for warning in filesystem.served(arguments.files, checked).warnings:
        boards.warn(warning)
    with Remote(arguments.device or monitor.find_port(board["mcu"])) as remote:
        done = compare(remote, board, arguments.files, settings, arguments.set, arguments.delete, arguments.compress)
        with _progress() as told:
            carry_out(remote, done, told)
    for note in done.notes:
        boards.note(note)
    if not arguments.json:
        _summary(done)
    with boards.waiting("waiting until it serves"):
        url = remote.wait_until_serving()
    if arguments.json:
        boards.print_json({**monitor.facts(url), **_facts(done)})
    else:
        print(f"serving {url}", flush=True)
    return 0


@contextlib.contextmanager
def _progress() -> Iterator[Told]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with boards.progress(*columns) as shown:
        task = shown.add_task("")

        def told(path: str, moved: int, total: int) -> None:
            shown.update(task, description=printable(PurePosixPath(path).name)[:40], advance=moved, total=total)

        yield told


@dataclass
class Plan:
    """The changes to make, later the changes made: paths on the board and contents."""

    served: dict[str, bytes] = field(default_factory=dict)
    server: dict[str, bytes] = field(default_factory=dict)  # includes boot.py, main.py and the settings
    unchanged: dict[str, bytes] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)  # served files, with sizes
    replaced: dict[str, int] = field(default_factory=dict)  # files of an earlier server version, with sizes
    unpacked: dict[str, int] = field(default_factory=dict)  # plain files to be replaced by their .gz, with sizes
    folders: list[str] = field(default_factory=list)  # created even if they are empty
    settings: list[str] = field(default_factory=list)  # names of those of the board's that change
    free: int = 0
    saved: str = ""  # by compressing them, in words
    notes: list[str] = field(default_factory=list)  # on what carry_out() did, in words
    kept: list[str] = field(default_factory=list)  # served files that are only on the board
    root: str = ""  # the folder of the served files
    there: dict[str, int | None] = field(default_factory=dict)  # on the board before: sizes, None for a folder


def compare(
    remote: "Remote",
    board: dict[str, Any],
    folder: Path,
    settings: dict[str, Any] | None,
    pairs: list[str],
    delete: bool,
    compressed: str | None = None,
) -> Plan:
    """Compare the board with what it should have: the Plan for carry_out(). Changes nothing. Raises ToolError.

    settings  the new settings; None to keep the board's
    pairs     KEY=VALUE that override them
    """
    remote.check(board)
    old = remote.settings() if settings is None else None
    changed = []
    if settings is not None or pairs:
        before = old or {}
        settings = boards.check_settings(settings or before, pairs, f"the board's {_SETTINGS}" if old else None)
        changed = sorted(name for name, value in settings.items() if name not in before or before[name] != value)
    wanted = {name: value for name, value in (settings or old or {}).items() if name in _FOR_FILES}
    wanted = boards.check_settings(wanted, [], f"the board's {_SETTINGS}")
    root = filesystem.first_root(wanted)

    server = filesystem.board_files(settings or {}, board["settings"])
    if settings in (None, old):  # a mere change of the order of its keys is none
        del server[_SETTINGS]
    served = filesystem.served(folder, wanted, compressed, board["filesystem"]["block_size"])
    there = {**remote.listing("/"), **remote.listing("/lib", True), **remote.listing(root, True)}
    plan = _plan(remote, there, server, served, root, delete)
    plan.settings = changed
    _check_room(plan, remote.space(), board["filesystem"])
    return plan


def _plan(
    remote: "Remote",
    there: dict[str, int | None],
    server: dict[str, bytes],
    served: filesystem.Served,
    root: str,
    delete: bool,
) -> Plan:
    plan = Plan(folders=served.folders, saved=served.saved, root=root, there=there)
    wanted = served.files | server
    same_size = [path for path, data in wanted.items() if there.get(path) == len(data)]
    hashes = remote.hashes(same_size)
    for path, data in wanted.items():
        if hashes.get(path) == hashlib.sha256(data).hexdigest():
            plan.unchanged[path] = data
        elif path in served.files:
            plan.served[path] = data
        else:
            plan.server[path] = data
    sources = {path.replace(".mpy", ".py") for path in server if path.startswith("/lib/")}
    for path, size in there.items():
        if size is None or path in wanted:
            continue
        below = path.removeprefix(f"{root}/")
        # import prefers a .py file to the .mpy file of that name.
        if path in sources or path.startswith("/lib/tftpd/"):
            plan.replaced[path] = size
        elif path in served.packed:  # it would go before NAME.gz
            plan.unpacked[path] = size
        elif below != path and not any(part.startswith(".") for part in below.split("/")):
            if delete:
                plan.removed[path] = size
            else:
                plan.kept.append(path)
    _check_kinds(plan, served.files)
    return plan


def _check_kinds(plan: Plan, served: dict[str, bytes]) -> None:
    # Refuse a path that would be both a file and a folder.
    kept = {path for path, size in plan.there.items() if size is not None and path not in plan.removed}
    taken = {str(parent) for path in kept for parent in PurePosixPath(path).parents}
    for path in (*served, *plan.folders):
        above = {str(parent) for parent in PurePosixPath(path).parents}
        if kept & above or path in (taken if path in served else kept):
            raise ToolError(f"{path} would be both a file and a folder: --delete removes the one on the board")


def _check_room(plan: Plan, space: tuple[int, int], layout: dict[str, int]) -> None:
    """Raises ToolError unless the plan fits into `space`: bytes in a block, bytes free."""
    block, free = space
    inline = min(4 * max(layout["read_size"], layout["prog_size"]), block // 8)  # such a small file needs no block

    def cost(size: int | None) -> int:
        # In bytes. LittleFS uses 8 bytes of each block, on average; a small file takes no block.
        return 0 if size is None else size + 64 if size <= inline else -(-size // (block - 8)) * block

    coming = plan.served | plan.server
    inside = [*coming, *(f"{folder}/-" for folder in plan.folders)]
    folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {"/", *plan.there}
    needed = sum(cost(len(data)) for data in coming.values()) + (2 * len(folders) + _SPARE_BLOCKS) * block
    freed = (*plan.served, *plan.removed, *plan.unpacked, *_parts(plan))
    missing = needed - free - sum(cost(plan.there.get(path)) for path in freed)
    if missing > 0:
        raise ToolError(
            f"the files need {missing:,} bytes more than the board has free: leave some out"
            + ("" if plan.removed else ", or remove served files that are not in DIR with --delete")
        )


def _parts(plan: Plan) -> list[str]:
    """Temporary files of an earlier run that was broken off."""
    return [path for path in plan.there if path.startswith(_PART)]


def carry_out(remote: "Remote", plan: Plan, told: Told) -> None:
    """Make the changes. Raises ToolError; each file is then the old or the new one."""
    there = plan.there
    remote.remove([*_parts(plan), *plan.removed])
    below = [path for path, size in there.items() if size is None and path.startswith(f"{plan.root}/")]
    useless = {str(parent) for path in plan.removed for parent in PurePosixPath(path).parents} | plan.served.keys()
    remote.remove_folders(sorted(useless & set(below), reverse=True))
    remote.make_folders([*plan.served, *plan.server, *(f"{folder}/-" for folder in plan.folders)])
    total = sum(map(len, (plan.served | plan.server).values()))

    def put(path: str, data: bytes, part: str) -> None:
        told(path, 0, total)
        for size in remote.write(part, data):
            told(path, size, total)

    def old(path: str) -> str:
        plain = path.removesuffix(compress.SUFFIX)
        return plain if plain in plan.unpacked else path

    # Files that shrink come first: they free space for those that grow.
    for path, data in sorted(plan.served.items(), key=lambda item: len(item[1]) - (there.get(old(item[0])) or 0)):
        block, free = remote.space()
        if there.get(old(path)) and len(data) + _SPARE_BLOCKS * block > free:
            plan.notes.append(f"both versions of {path} don't fit: removed the old one first")
            remote.remove([old(path)])
            plan.unpacked.pop(old(path), None)
        put(path, data, f"{_PART}file")
        remote.rename([(f"{_PART}file", path)])
    remote.remove(plan.unpacked)
    parts = {path: f"{_PART}{number}" for number, path in enumerate(plan.server)}
    for path, data in plan.server.items():
        put(path, data, parts[path])
    remote.rename([(part, path) for path, part in parts.items()])  # together: they are one version
    remote.remove(plan.replaced)
    plan.free = remote.space()[1]


def _facts(plan: Plan) -> dict[str, Any]:
    groups = {"served": plan.served, "server": plan.server, "unchanged": plan.unchanged}
    facts: dict[str, Any] = {what: {path: len(data) for path, data in group.items()} for what, group in groups.items()}
    return facts | {"removed": plan.removed | plan.replaced | plan.unpacked, "free": plan.free}


def _summary(plan: Plan) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("what", "files", "bytes"):
        table.add_column(title, justify="left" if title == "what" else "right")
    for what, sizes in (
        ("served, copied", list(map(len, plan.served.values()))),
        ("the server and its settings, copied", list(map(len, plan.server.values()))),
        ("unchanged", list(map(len, plan.unchanged.values()))),
        ("removed", [*plan.removed.values(), *plan.replaced.values(), *plan.unpacked.values()]),
    ):
        table.add_row(what, str(len(sizes)), f"{sum(sizes):,}")
    table.add_row("free", "", f"{plan.free:,}")
    boards.print_table(table)
    if plan.saved:
        print(plan.saved)


class Remote:
    """A board at its prompt, reached through mpremote. Its server is stopped, and started again at the end of `with`.

    left  gives how many seconds this may still take, or raises ToolError to end it
    """

    def __init__(self, device: str) -> None:
        """`device`: a serial port, or socket://HOST:PORT. Raises ToolError."""
        self.left: Callable[[], float] = lambda: math.inf
        try:
            self._transport = transport_serial.SerialTransport(device, timeout=_PROMPT_S)
        except (TransportError, OSError, ValueError):
            raise ToolError(
                f"can't open {device}: is the board plugged in? Does another program use the port? "
                "May you use it (on Linux: group dialout)?"
            ) from None
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    self._prompt()
                    self._run(_HELPER)
                    return
                except _LOST:
                    if attempt == _ATTEMPTS - 1:
                        raise
        except (*_LOST, ToolError) as error:
            self.close()
            raise ToolError(
                f"the board at {device} shows no MicroPython prompt ({error}): "
                "does it run MicroPython? Does another program use the port?"
            ) from None

    def _port(self) -> monitor.Port:
        return monitor.Port(lambda: self._transport.device_name, self._transport.serial)

    def _prompt(self) -> None:
        # No soft reset: nothing would feed the watchdog after it.
        self._transport.enter_raw_repl(soft_reset=False, timeout_overall=_PROMPT_S)

    def _run(self, code: str) -> str:
        """Run `code` on the board and return its output. Raises ToolError if it raises an exception there."""
        said, failed = self._transport.exec_raw(code, timeout=_SILENCE_S)
        if failed:
            reason = failed.decode(errors="replace").strip().splitlines()[-1]
            full = " (its flash is full)" if reason in ("OSError: 28", "OSError: [Errno 28] ENOSPC") else ""
            raise ToolError(f"the board failed: {reason}{full}")
        return said.decode()

    def _do(self, code: str) -> str:
        self.left()
        try:
            return self._run(code)
        except _LOST as error:
            raise ToolError(
                f"lost the board during the update ({error}); files that were copied whole stay on it: run it again"
            ) from None

    def _literals(self, code: str) -> Iterator[Any]:
        return map(ast.literal_eval, filter(None, self._do(code).splitlines()))

    def check(self, board: dict[str, Any]) -> None:
        """Raises ToolError unless this board has the chip of `board` and can load our modules."""
        [(machine, version, mpy)] = self._literals(
            "i = sys.implementation\nprint((getattr(i, '_machine', ''), i.version[:3], getattr(i, '_mpy', 0)))"
        )
        boards.check_chip(board, machine)
        if mpy & 0xFF != 6:
            number = ".".join(map(str, version))
            raise ToolError(f"MicroPython {number} on the board can't read our compiled modules: flash v1.23 or later")

    def settings(self) -> dict[str, Any] | None:
        """The contents of its /settings.json, None if there is none. Raises ToolError."""
        try:
            settings = json.loads(self._do(f"with open({_SETTINGS!r}) as f:\n print(f.read(), end='')"))
        except ToolError as error:
            if "ENOENT" not in str(error):
                raise
            return None
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ToolError("the board's /settings.json is not a JSON object: replace it with --settings FILE")
        return settings

    def listing(self, folder: str, deep: bool = False) -> dict[str, int | None]:
        """The contents of `folder`: paths, and sizes in bytes, None for a folder."""
        return dict(self._literals(f"_list({folder!r}, {deep})"))

    def hashes(self, paths: list[str]) -> dict[str, str]:
        """The SHA-256 of each file."""
        found = {}
        for start in range(0, len(paths), _HASHED_AT_ONCE):
            found.update(self._literals(f"for p in {paths[start : start + _HASHED_AT_ONCE]!r}:\n _hash(p)"))
        return found

    def space(self) -> tuple[int, int]:
        """The size of a block and the free space, in bytes."""
        [stat] = self._literals("print(os.statvfs('/'))")
        return stat[1], stat[1] * stat[3]

    def write(self, path: str, data: bytes) -> Iterator[int]:
        """Write a file and verify its SHA-256; yields the bytes of each step. Raises ToolError."""
        self._do(f"_f = open({path!r}, 'wb')\n_w = _f.write")
        for start in range(0, len(data), _CHUNK_BYTES):
            chunk = data[start : start + _CHUNK_BYTES]
            self._do(f"_w(_a('{b64encode(chunk).decode()}'))")
            yield len(chunk)
        self._do("_f.close()")
        if self.hashes([path])[path] != hashlib.sha256(data).hexdigest():
            raise ToolError("the board received other bytes than were sent: try again, perhaps with another cable")

    def rename(self, pairs: list[tuple[str, str]]) -> None:
        self._do(f"for a, b in {pairs!r}:\n os.rename(a, b)")

    def remove(self, paths: Iterable[str]) -> None:
        self._do(f"for p in {list(paths)!r}:\n os.remove(p)")

    def remove_folders(self, paths: list[str]) -> None:
        """Remove those of `paths` that are empty. Inner folders come first."""
        self._do(f"for p in {paths!r}:\n _rmdir(p)")

    def make_folders(self, paths: Iterable[str]) -> None:
        """Create the parent folders of `paths` that are missing."""
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"/"}
        lines = ["for p in %r:", " try:", "  os.stat(p)", " except OSError:", "  os.mkdir(p)"]
        self._do("\n".join(lines) % sorted(folders))

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._reset()
        if kind:
            self.close()

    def _reset(self) -> None:
        """Restart the board. Never fails."""
        with contextlib.suppress(*_LOST):
            self._prompt()  # ends whatever is running
            self._transport.exec_raw_no_follow("import machine, time\ntime.sleep_ms(100)\nmachine.reset()")

    def wait_until_serving(self) -> str:
        """After `with`: as monitor.wait_until_serving(), and closes the port. Raises ToolError."""
        port = self._port()
        try:
            return monitor.wait_until_serving(port, min(_SERVING_S, self.left()))
        finally:
            port.close()

    def close(self) -> None:
        """Close the port."""
        self._port().close()
