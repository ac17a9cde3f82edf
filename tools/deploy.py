"""Fill a board that runs already, without flashing it: the server, the settings and the files of a folder, as far as
they changed.

The server stops meanwhile, and starts again at the end. Each file arrives whole, or the board keeps the one it had.
"""

import argparse
import ast
import contextlib
import hashlib
import io
import json
import struct
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport
from rich import box
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import ToolError, boards, filesystem, monitor, printable

_SETTINGS = "/settings.json"
_FOR_FILES = ("root", "write_to", "write_from")  # settings that say where files and folders go
_PART = "/.deploy-"  # what is not yet whole: beside nothing that is served, and hidden
_CHUNK_BYTES = 3072  # a line of 4 KB for the board's compiler
_HASHED_AT_ONCE = 8
_PROMPT_S = 10  # what the board gets to give its prompt
_ATTEMPTS = 3  # to get it: one that is just starting may miss the first Ctrl-C
_SILENCE_S = 60  # what the board gets for the next word about what it does
_SERVING_S = 120
_SPARE_BLOCKS = 2  # for what the filesystem itself may need
_LOST = (TransportError, OSError, struct.error)  # what mpremote raises when the board does not answer as it should

# Run on the board once. What it answers is Python literals, one a line.
_HELPER = """
import os, sys
from binascii import a2b_base64 as _a, hexlify as _h
from hashlib import sha256 as _s
try:
    _f.close()  # left open by one that was killed
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
            file.tell() % 32768 or print()  # a sign of life
    print((path, _h(digest.digest()).decode()))
def _rmdir(path):
    try:
        os.rmdir(path)
    except OSError:
        pass
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", required=True, metavar="NAME", help="one of python -m tools boards")
    monitor.add_device(parser)
    parser.add_argument("--files", type=boards.parse_path, required=True, metavar="DIR", help="what to serve")
    parser.add_argument(
        "--settings",
        type=boards.parse_path,
        metavar="FILE",
        help="a settings.json (default: the board keeps what it has)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of docs/settings.md, over those of FILE or of the board; as many as you like",
    )
    parser.add_argument("--delete", action="store_true", help="remove what the board serves and DIR does not have")


def run(arguments: argparse.Namespace) -> int:
    board = boards.load(arguments.board)
    if "firmware" not in board:
        raise ToolError(f"{board['product']}: nothing to fill; python -m tools emulate takes its --files at each start")
    settings = boards.read_settings(arguments.settings) if arguments.settings else None
    checked = boards.check_settings(settings or {}, arguments.set, arguments.settings)
    filesystem.served(arguments.files, checked)
    remote = _Remote(arguments.device or monitor.find_port(board["mcu"]))
    try:
        done = _fill(remote, board, arguments.files, settings, arguments.set, arguments.delete)
    except BaseException:
        remote.reset().close()  # what was there before serves again
        raise
    port = remote.reset()
    try:
        _summary(done)
        print(f"serving {monitor.wait_until_serving(port, _SERVING_S)}", flush=True)
    finally:
        port.close()
    return 0


@dataclass
class _Plan:
    """What is to be done, and, once it is, what was: paths on the board and contents."""

    served: dict[str, bytes] = field(default_factory=dict)
    server: dict[str, bytes] = field(default_factory=dict)  # with boot.py, main.py and the settings
    unchanged: dict[str, bytes] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)  # of the served, and sizes
    replaced: dict[str, int] = field(default_factory=dict)  # what an earlier server has left
    folders: list[str] = field(default_factory=list)  # that are made even if nothing is in them
    free: int = 0


def _fill(
    remote: "_Remote",
    board: dict[str, Any],
    folder: Path,
    settings: dict[str, Any] | None,
    pairs: list[str],
    delete: bool,
) -> _Plan:
    remote.check(board)
    old = remote.settings() if settings is None else None
    if settings is not None or pairs:
        settings = boards.check_settings(settings or old or {}, pairs, f"the board's {_SETTINGS}" if old else None)
    wanted = {name: value for name, value in (settings or old or {}).items() if name in _FOR_FILES}
    wanted = boards.check_settings(wanted, [], f"the board's {_SETTINGS}")
    root = wanted.get("root", filesystem.SERVED).rstrip("/")

    server = filesystem.board_files(settings or {}, board["settings"])
    if settings is None:
        del server[_SETTINGS]
    served = filesystem.served(folder, wanted)
    for warning in served.warnings:
        boards.warn(warning)

    remote.remove(path for path in remote.listing("/") if path.startswith(_PART))
    there = {**remote.listing("/"), **remote.listing("/lib", True), **remote.listing(root, True)}
    plan = _plan(remote, there, server, served.files, served.folders, root, delete)
    _check_room(plan, there, remote.space(), board["filesystem"])
    _carry_out(remote, plan, there, root)
    plan.free = remote.space()[1]
    return plan


def _plan(
    remote: "_Remote",
    there: dict[str, int | None],
    server: dict[str, bytes],
    served: dict[str, bytes],
    folders: list[str],
    root: str,
    delete: bool,
) -> _Plan:
    plan = _Plan(folders=folders)
    wanted = served | server
    same_size = [path for path, data in wanted.items() if there.get(path) == len(data)]
    hashes = remote.hashes(same_size)
    for path, data in wanted.items():
        if hashes.get(path) == hashlib.sha256(data).hexdigest():
            plan.unchanged[path] = data
        elif path in served:
            plan.served[path] = data
        else:
            plan.server[path] = data
    sources = {path.replace(".mpy", ".py") for path in server if path.startswith("/lib/")}
    for path, size in there.items():
        if size is None or path in wanted:
            continue
        below = path.removeprefix(f"{root}/")
        # On import a source goes before its compiled module.
        if path in sources or path.startswith("/lib/tftpd/"):
            plan.replaced[path] = size
        elif delete and below != path and not any(part.startswith(".") for part in below.split("/")):
            plan.removed[path] = size
    _check_kinds(plan, there, served)
    return plan


def _check_kinds(plan: _Plan, there: dict[str, int | None], served: dict[str, bytes]) -> None:
    # A folder where a file is to be, or the other way round.
    kept = {path for path, size in there.items() if size is not None and path not in plan.removed}
    taken = {str(parent) for path in kept for parent in PurePosixPath(path).parents}
    for path in (*served, *plan.folders):
        above = {str(parent) for parent in PurePosixPath(path).parents}
        if kept & above or path in (taken if path in served else kept):
            raise ToolError(f"{path} would be a file and a folder: --delete removes what the board has of it")


def _check_room(plan: _Plan, there: dict[str, int | None], space: tuple[int, int], layout: dict[str, int]) -> None:
    """Raises ToolError unless all of it fits into `space`: bytes of a block, bytes free."""
    block, free = space
    inline = min(4 * max(layout["read_size"], layout["prog_size"]), block // 8)  # so small a file needs no block

    def cost(size: int | None) -> int:
        # In bytes. Of each block 8 bytes, on average, are the filesystem's own; a small file lies in its folder.
        return 0 if size is None else size + 64 if size <= inline else -(-size // (block - 8)) * block

    coming = plan.served | plan.server
    inside = [*coming, *(f"{folder}/-" for folder in plan.folders)]
    folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {"/", *there}
    needed = sum(cost(len(data)) for data in coming.values()) + (2 * len(folders) + _SPARE_BLOCKS) * block
    missing = needed - free - sum(cost(there.get(path)) for path in (*plan.served, *plan.removed))
    if missing > 0:
        raise ToolError(
            f"the files need {missing:,} bytes more than the board has free: leave some out"
            + ("" if plan.removed else ", or let --delete remove what DIR does not have")
        )


def _carry_out(remote: "_Remote", plan: _Plan, there: dict[str, int | None], root: str) -> None:
    remote.remove(plan.removed)
    below = [path for path, size in there.items() if size is None and path.startswith(f"{root}/")]
    useless = {str(parent) for path in plan.removed for parent in PurePosixPath(path).parents} | plan.served.keys()
    remote.remove_folders(sorted(useless & set(below), reverse=True))
    remote.make_folders([*plan.served, *plan.server, *(f"{folder}/-" for folder in plan.folders)])

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    total = sum(map(len, (plan.served | plan.server).values()))
    with boards.progress(*columns) as progress:
        task = progress.add_task("", total=total)

        def put(path: str, data: bytes, part: str) -> None:
            progress.update(task, description=printable(PurePosixPath(path).name)[:40])
            for size in remote.write(part, data):
                progress.advance(task, size)

        # What shrinks goes before what grows.
        for path, data in sorted(plan.served.items(), key=lambda item: len(item[1]) - (there.get(item[0]) or 0)):
            block, free = remote.space()
            if there.get(path) and len(data) + _SPARE_BLOCKS * block > free:
                progress.console.print(
                    f"both versions of {printable(path)} don't fit: the old one goes first", markup=False
                )
                remote.remove([path])
            put(path, data, f"{_PART}file")
            remote.rename([(f"{_PART}file", path)])
        parts = {path: f"{_PART}{number}" for number, path in enumerate(plan.server)}
        for path, data in plan.server.items():
            put(path, data, parts[path])
        remote.rename([(part, path) for path, part in parts.items()])  # the server's files belong together
        remote.remove(plan.replaced)


def _summary(plan: _Plan) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("what", "files", "bytes"):
        table.add_column(title, justify="left" if title == "what" else "right")
    for what, sizes in (
        ("served, copied", list(map(len, plan.served.values()))),
        ("the server and its settings, copied", list(map(len, plan.server.values()))),
        ("unchanged", list(map(len, plan.unchanged.values()))),
        ("removed", [*plan.removed.values(), *plan.replaced.values()]),
    ):
        table.add_row(what, str(len(sizes)), f"{sum(sizes):,}")
    table.add_row("free", "", f"{plan.free:,}")
    boards.print_table(table)


class _Remote:
    """A board at its prompt, through mpremote: the server on it is stopped."""

    def __init__(self, device: str) -> None:
        """`device`: a serial port, or socket://HOST:PORT. Raises ToolError."""
        try:
            self._transport = SerialTransport(device, timeout=_PROMPT_S)
        except (TransportError, OSError, ValueError):
            raise ToolError(
                f"can't open {device}: is the board plugged in, no other program at its port, "
                "and the port yours to use (on Linux it is the group dialout's)?"
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
            self._port().close()
            raise ToolError(
                f"the board at {device} does not give its prompt ({error}): "
                "is it a board with MicroPython, and no other program at its port?"
            ) from None

    def _port(self) -> monitor.Port:
        return monitor.Port(lambda: self._transport.device_name, self._transport.serial)

    def _prompt(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # mpremote prints what it does not understand
            # A soft reset would leave the watchdog hungry.
            self._transport.enter_raw_repl(soft_reset=False, timeout_overall=_PROMPT_S)

    def _run(self, code: str) -> str:
        """Run `code` on the board; returns what it prints. Raises ToolError if it fails there."""
        with contextlib.redirect_stdout(io.StringIO()):
            said, failed = self._transport.exec_raw(code, timeout=_SILENCE_S)
        if failed:
            reason = failed.decode(errors="replace").strip().splitlines()[-1]
            full = " (its flash is full)" if reason in ("OSError: 28", "OSError: [Errno 28] ENOSPC") else ""
            raise ToolError(f"the board can't do it: {reason}{full}")
        return said.decode()

    def _do(self, code: str) -> str:
        try:
            return self._run(code)
        except _LOST as error:
            raise ToolError(
                f"the board went away in the middle ({error}); what is whole on it stays: run it again"
            ) from None

    def _literals(self, code: str) -> Iterator[Any]:
        return map(ast.literal_eval, filter(None, self._do(code).splitlines()))

    def check(self, board: dict[str, Any]) -> None:
        """Raises ToolError unless this is the kind of board that `board` is."""
        [(machine, version, mpy)] = self._literals(
            "i = sys.implementation\nprint((getattr(i, '_machine', ''), i.version[:3], getattr(i, '_mpy', 0)))"
        )
        chip = machine.rpartition(" with ")[2].lower().replace("-", "")
        known = {boards.load(name)["mcu"] for name in boards.names()}
        if board["mcu"] != max((one for one in known if chip.startswith(one)), key=len, default=""):
            raise ToolError(
                f"the board is a {machine or 'thing unknown'}, and the {board['product']} has the {board['mcu']}"
            )
        if mpy & 0xFF != 6:
            number = ".".join(map(str, version))
            raise ToolError(f"MicroPython {number} on the board can't read our compiled modules: flash v1.23 or later")

    def settings(self) -> dict[str, Any] | None:
        """What stands in its /settings.json, None if that is not there. Raises ToolError."""
        try:
            settings = json.loads(self._do(f"with open({_SETTINGS!r}) as f:\n print(f.read(), end='')"))
        except ToolError as error:
            if "ENOENT" not in str(error):
                raise
            return None
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ToolError("the board's own settings are not a JSON object: give it whole ones with --settings FILE")
        return settings

    def listing(self, folder: str, deep: bool = False) -> dict[str, int | None]:
        """What is in `folder`: paths, and sizes in bytes, None for a folder."""
        return dict(self._literals(f"_list({folder!r}, {deep})"))

    def hashes(self, paths: list[str]) -> dict[str, str]:
        """The SHA-256 of each file."""
        found = {}
        for start in range(0, len(paths), _HASHED_AT_ONCE):
            found.update(self._literals(f"for p in {paths[start : start + _HASHED_AT_ONCE]!r}:\n _hash(p)"))
        return found

    def space(self) -> tuple[int, int]:
        """The size of a block, and what is free, in bytes."""
        [stat] = self._literals("print(os.statvfs('/'))")
        return stat[1], stat[1] * stat[3]

    def write(self, path: str, data: bytes) -> Iterator[int]:
        """Write a file, and read it again to be sure; yields the bytes of each step. Raises ToolError."""
        self._do(f"_f = open({path!r}, 'wb')\n_w = _f.write")
        for start in range(0, len(data), _CHUNK_BYTES):
            chunk = data[start : start + _CHUNK_BYTES]
            self._do(f"_w(_a('{b64encode(chunk).decode()}'))")
            yield len(chunk)
        self._do("_f.close()")
        if self.hashes([path])[path] != hashlib.sha256(data).hexdigest():
            raise ToolError(
                "the board received something other than what was sent: try again, perhaps with another cable"
            )

    def rename(self, pairs: list[tuple[str, str]]) -> None:
        self._do(f"for a, b in {pairs!r}:\n os.rename(a, b)")

    def remove(self, paths: Iterable[str]) -> None:
        self._do(f"for p in {list(paths)!r}:\n os.remove(p)")

    def remove_folders(self, paths: list[str]) -> None:
        """Those of `paths` that are empty; inner ones come first."""
        self._do(f"for p in {paths!r}:\n _rmdir(p)")

    def make_folders(self, paths: Iterable[str]) -> None:
        """The folders in which `paths` lie, as far as they are not there."""
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"/"}
        lines = ["for p in %r:", " try:", "  os.stat(p)", " except OSError:", "  os.mkdir(p)"]
        self._do("\n".join(lines) % sorted(folders))

    def reset(self) -> monitor.Port:
        """Restart the board, so that the server runs again; returns its console. Never fails."""
        with contextlib.suppress(*_LOST):
            self._prompt()  # whatever was under way
            self._transport.exec_raw_no_follow("import machine, time\ntime.sleep_ms(100)\nmachine.reset()")
        return self._port()
