"""Bring a fleet of boards to the state that a file describes (docs/fleet.md): plan shows what differs and changes
nothing, apply changes it and verifies it, status asks each board what it runs."""

import argparse
import functools
import io
import json
import queue
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from . import ToolError, boards, deploy, filesystem, fleet_file, printable, remote, version

_ACTIONS = {"plan": "show what differs", "apply": "change it", "status": "ask what runs"}
_DIFFERS, _FAILED, _INTERRUPTED = 3, 1, 130  # exit statuses
_PAUSE_S = 1  # before a board that is busy, or gone, is asked again
_RETURN_S = 60  # in which it must be back: it may have restarted
_START_S = 4  # in which a board must answer for the first time: one that starts has HTTP later than TFTP
_PASSES = 2  # that may be needed: a file that is stored plain uncovers the compressed one
_NO_FOLDER = "it has no such folder, and the network makes none: use its serial port, or its setting write_to"
_GRACE_S = 2  # past its limit, before a board is given up that can't be stopped
_WIRE_GRACE_S = 90  # the same by wire, where the board gets its server back
_ATTENTION_S = 0.2
_VISIBLE = ("hostname", "overwrite")  # settings that status.json tells
_DONE = {remote.MISSING: "stored", remote.OTHER: "replaced", remote.EXTRA: "removed"}
_SAID = "{hostname}, version {version}, up {uptime} s, {free:,} bytes free, {transfers} transfers"
_ANOTHER = "its tftpd/status.json is not as it should be, it is another server"
_BY_WIRE = "firmware and settings change by wire only, as nothing brings back a board that does not start with them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=boards.parse_path, metavar="FILE", help="the fleet, in TOML")
    parser.add_argument(
        "action",
        nargs="?",
        choices=_ACTIONS,
        default="plan",
        help="; ".join(f"{name}: {text}" for name, text in _ACTIONS.items()) + " (default: %(default)s)",
    )
    parser.add_argument("names", nargs="*", metavar="BOARD", help="names in FILE, with * and ? (default: all)")
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    chosen, parallel = fleet_file.load(arguments.file, arguments.names)
    if arguments.action != "status":
        for folder, compressed in dict.fromkeys((board.files, board.compress) for board in chosen):
            for warning in _served(folder, compressed).warnings:
                boards.warn(f"{folder}: {warning}")
    fleet = _Fleet(chosen, arguments.action)
    fleet.run(parallel)
    states = Counter(turn.state for turn in fleet.turns)
    if arguments.json:
        boards.print_json({"boards": {turn.board.name: turn.told() for turn in fleet.turns}, "states": states})
    else:
        _print(fleet.turns, states, arguments.action)
    if fleet.stop.is_set():
        return _INTERRUPTED
    return _FAILED if states["failed"] else _DIFFERS if states["differs"] else 0


class _Ended(ToolError):
    """The time limit of a board is over, or Ctrl-C has ended all."""


class _Turn:
    """What is done with one board, in a thread of its own.

    state    what came of it, "" before
    changes  what is to be changed, or by apply was
    kept     files that are only on the board, and stay there
    notes    what the user should know
    error    why it failed
    facts    what the board says of itself, for status
    trouble  the last one that was overcome
    """

    def __init__(self, board: fleet_file.Board, fleet: "_Fleet") -> None:
        self.board = board
        self.state = self.error = self.trouble = ""
        self.changes: list[remote.Difference] = []
        self.kept: list[str] = []
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self._fleet = fleet
        self._row: Any = None  # in the live table
        self._began = self._seconds = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        self._row = self._fleet.live.add_task(printable(self.board.name), total=None, doing="")
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.end(self._fleet.work(self))
        except (ToolError, OSError) as error:
            self.end("stopped" if self._fleet.stop.is_set() else "failed", str(error))
        except Exception as error:  # whatever happens to one board, the others go on
            self.end("failed", f"{type(error).__name__}: {error}")
        self._fleet.ended.put(self)

    def end(self, state: str, error: str = "") -> None:
        """The first one counts: a board may have been given up before."""
        if not self.state:
            self.state, self.error = state, error
            self._seconds = time.monotonic() - self._began
            self.show(state, visible=state in ("failed", "stopped"))

    def is_overdue(self) -> bool:
        grace = _WIRE_GRACE_S if self.board.device else _GRACE_S
        return time.monotonic() > self._began + self.board.limit + grace

    def left(self) -> float:
        """Seconds until the limit. Raises _Ended."""
        left = self._began + self.board.limit - time.monotonic()
        if self._fleet.stop.is_set():
            raise _Ended("stopped")
        if left <= 0:
            raise _Ended(f"not done within its limit of {self.board.limit} s" + (self.trouble and f"; {self.trouble}"))
        return left

    def wait(self, seconds: float) -> None:
        """Raises _Ended."""
        self._fleet.stop.wait(min(seconds, self.left()))
        self.left()

    def show(self, doing: str, **more: Any) -> None:
        if self._row is not None:
            self._fleet.live.update(self._row, doing=printable(doing)[:50], **more)

    def moved(self, size: int, _: int | None) -> None:
        self._fleet.live.update(self._row, advance=size)

    def line(self) -> str:
        """What came of it, in words."""
        told = [self.error] if self.error else []
        told += [f"{count} {kind}" for kind, count in Counter(map(self._kind, self.changes)).items()]
        told += [f"{len(self.kept)} only on the board, kept"] if self.kept else []
        told += [_SAID.format(**self.facts)] if self.facts else []
        return "; ".join(told + self.notes)

    def _kind(self, one: remote.Difference) -> str:
        return one.kind if self._fleet.action == "plan" else _DONE[one.kind]

    def told(self) -> dict[str, Any]:
        """For --json."""
        return {
            "state": self.state,
            "where": self.board.where,
            "changes": [{"name": one.name, "change": self._kind(one), "text": one.text} for one in self.changes],
            "kept": self.kept,
            "notes": self.notes,
            "error": self.error or None,
            "seconds": round(self._seconds, 1),
            **self.facts,
        }


class _Fleet:
    """All boards of a run.

    action  plan, apply or status
    turns   one for each board
    work    does what is asked with one, and returns its state
    ended   those that have come to an end
    stop    is set by Ctrl-C
    live    the live table, rich's Progress
    """

    def __init__(self, chosen: list[fleet_file.Board], action: str) -> None:
        self.action = action
        self._told = 0
        self.turns = [_Turn(board, self) for board in chosen]
        self.work: Callable[[_Turn], str] = _ask if action == "status" else functools.partial(_bring, action == "apply")
        self.ended: queue.SimpleQueue[_Turn] = queue.SimpleQueue()
        self.stop = threading.Event()
        texts = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[doing]}", markup=False)
        self.live = boards.progress(*texts, BarColumn(), DownloadColumn(), TimeElapsedColumn())

    def run(self, parallel: int) -> None:
        """Work on so many boards at once, until all are done or Ctrl-C comes."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: a board by wire gets its server back
        waiting, running = deque(self.turns), set[_Turn]()
        with self.live:
            try:
                while waiting or running:
                    while waiting and len(running) < parallel:
                        running.add(waiting[0])
                        waiting.popleft().start()
                    self._collect(running)
            except KeyboardInterrupt:
                self.stop.set()
                end = time.monotonic() + _WIRE_GRACE_S
                # Whoever is at a board's serial port starts its server again. A second Ctrl-C does not wait for that.
                while any(turn.board.device for turn in running) and time.monotonic() < end:
                    self._collect(running)
            for turn in (*running, *waiting):
                turn.end("stopped")

    def _collect(self, running: set[_Turn]) -> None:
        try:
            turn = self.ended.get(timeout=_ATTENTION_S)
        except queue.Empty:
            for turn in [turn for turn in running if turn.is_overdue()]:
                turn.end("failed", f"not done within its limit of {turn.board.limit} s, and it does not end")
                running.remove(turn)
            return
        running.discard(turn)
        if self.live.disable:  # no terminal
            self._told += 1
            text = "; ".join(filter(None, (turn.state, turn.line())))
            boards.note(f"{self._told}/{len(self.turns)} {turn.board.name}: {text}")


def _print(turns: list[_Turn], states: Counter[str], action: str) -> None:
    for turn in turns if action == "plan" else ():
        for one in turn.changes:
            print(printable(f"{turn.board.name}: {one.name}: {one.text}"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("board", "where", "state", ""):
        table.add_column(title, overflow="fold")
    for turn in turns:
        table.add_row(*(Text(printable(text)) for text in (turn.board.name, turn.board.where, turn.state, turn.line())))
    boards.print_table(table)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    nothing = ": nothing was changed" if action == "apply" and set(states) == {"same"} else ""
    print(f"{len(turns)} board{'' if len(turns) == 1 else 's'}, {counts}{nothing}")


@functools.cache
def _served(folder: Path, compressed: str | None) -> filesystem.Served:
    return filesystem.served(folder, {}, compressed)


def _bring(change: bool, turn: _Turn) -> str:
    """Compare a board with what it should be, and `change` it. Returns the state. Raises ToolError."""
    (_by_wire if turn.board.device else _over_network)(change, turn)
    return "same" if not turn.changes else "changed" if change else "differs"


# By wire


def _by_wire(change: bool, turn: _Turn) -> None:
    board = turn.board
    assert board.device and board.facts
    pairs = [f"{name}={boards.to_json(value).decode()}" for name, value in board.settings.items()]
    turn.show("stopping its server")
    with deploy.Remote(board.device) as at_prompt:
        at_prompt.left = turn.left
        turn.show("comparing")
        plan = deploy.compare(at_prompt, board.facts, board.files, None, pairs, board.delete, board.compress)
        turn.kept = [path.removeprefix(f"{plan.root}/") for path in plan.kept]
        if change:
            deploy.carry_out(at_prompt, plan, lambda path, moved, size: turn.show(path, advance=moved, total=size))
        turn.changes = _changes(plan)
        turn.notes += plan.notes
    if not change:
        at_prompt.close()
        return
    turn.show("waiting until it serves")
    served = at_prompt.wait_until_serving()
    if not served.startswith("tftp:"):
        turn.notes.append(served)


def _changes(plan: deploy.Plan) -> list[remote.Difference]:
    found = []
    for path in plan.served:
        kind = remote.MISSING if path not in plan.there else remote.OTHER
        found.append(remote.Difference(path.removeprefix(f"{plan.root}/"), kind, kind))
    for path in (*plan.removed, *plan.unpacked):
        found.append(remote.Difference(path.removeprefix(f"{plan.root}/"), remote.EXTRA, remote.EXTRA))
    server = {**plan.server, **plan.replaced}
    if server.pop("/settings.json", None):
        names = ", ".join(plan.settings) or "in its form"
        found.append(remote.Difference("/settings.json", remote.OTHER, f"{remote.OTHER}: {names}"))
    if server:
        text = f"{remote.OTHER}: {len(server)} files of the server"
        found.append(remote.Difference("/lib", remote.OTHER, text))
    return found


# Over the network


def _over_network(change: bool, turn: _Turn) -> None:
    board = turn.board
    link, told = _reach(turn)
    _check(board, told)
    served = _served(board.files, board.compress)
    wanted = {path.removeprefix(f"{filesystem.SERVED}/"): data for path, data in served.files.items()}
    packed = {path.removeprefix(f"{filesystem.SERVED}/") for path in served.packed}
    passes, stored, troubled = 0, 0, 0.0
    while True:
        try:
            turn.show("comparing", total=None)
            differences = remote.differences(wanted, link.index())
            ours = [one for one in differences if one.kind != remote.EXTRA or board.delete or one.name in packed]
            turn.kept = sorted({one.name for one in differences} - {one.name for one in ours})
            if not change:
                turn.changes = ours
            if ours and not passes and not stored:
                _check_may(told, ours, wanted)
            if not change or not ours:
                break
            if passes == _PASSES:
                raise ToolError(f"it does not serve what was stored: {ours[0].name}: {ours[0].text}")
            _change(turn, link, ours, wanted, packed)
            passes += 1
        except remote.Lost as error:
            if len(turn.changes) > stored or not troubled:
                stored, troubled = len(turn.changes), time.monotonic()
            elif time.monotonic() > troubled + _RETURN_S:
                raise ToolError(f"{error}, for {_RETURN_S} s") from None
            turn.trouble = str(error)
            turn.show(turn.trouble)
            turn.wait(_PAUSE_S)
    if told.get("version") != version():
        turn.notes.append(f"runs version {told.get('version')}, this is {version()}: {_BY_WIRE}")


def _reach(turn: _Turn) -> tuple[remote.Http | remote.Tftp, dict[str, Any]]:
    """The board, and its status. Raises ToolError."""
    assert turn.board.address
    link = remote.at(turn.board.address, turn.board.password)
    link.left = turn.left
    began = time.monotonic()
    while True:
        try:
            return link, link.status()
        except remote.Lost as error:
            if time.monotonic() > began + (_RETURN_S if isinstance(error, remote.Busy) else _START_S):
                raise
            turn.wait(_PAUSE_S)


def _check(board: fleet_file.Board, told: dict[str, Any]) -> None:
    """Raises ToolError if the board that answers is another one than the file means."""
    if board.facts and "firmware" in board.facts:
        boards.check_chip(board.facts, str(told.get("machine", "")))
    for name in _VISIBLE:
        if name in board.settings and name in told and told[name] != board.settings[name]:
            there, here = (json.dumps(value, ensure_ascii=False) for value in (told[name], board.settings[name]))
            raise ToolError(f"its setting {name} is {there}, not {here}: is it another board? ({_BY_WIRE})")


def _check_may(told: dict[str, Any], todo: list[remote.Difference], wanted: dict[str, bytes]) -> None:
    """Raises ToolError if the board would refuse to change that."""
    if told.get("may_write") is False:
        raise ToolError("its setting write_from does not let this computer change its files")
    there = sum(one.kind != remote.MISSING for one in todo)
    if there and told.get("overwrite") is False:
        raise ToolError(f"its setting overwrite is off, and {there} of its files would be replaced or removed")
    needed = sum(len(wanted.get(one.name, b"")) - one.there for one in todo)
    if (missing := needed - _free(told)) > 0:
        raise ToolError(f"the files need {missing:,} bytes more than it has free")


def _free(told: dict[str, Any]) -> int:
    """Bytes free on all volumes. Raises ToolError."""
    try:
        return sum(int(one["free"]) for one in told["volumes"])
    except (KeyError, TypeError, ValueError):
        raise ToolError(_ANOTHER) from None


def _change(
    turn: _Turn,
    link: remote.Http | remote.Tftp,
    todo: list[remote.Difference],
    wanted: dict[str, bytes],
    packed: set[str],
) -> None:
    """Raises ToolError, at the end if the board refuses some files: the others are stored."""

    def order(one: remote.Difference) -> tuple[bool, bool, int]:
        # First what makes room; but a plain file stays until the compressed one is there.
        return one.name in packed, one.kind != remote.EXTRA, len(wanted.get(one.name, b""))

    turn.show("", completed=0, total=sum(len(wanted.get(one.name, b"")) for one in todo))
    refused = []
    for one in sorted(todo, key=order):
        turn.show(one.name)
        try:
            if one.kind == remote.EXTRA:
                link.remove(one.name)
            else:
                link.write(one.name, io.BytesIO(wanted[one.name]), turn.moved)
            turn.changes.append(one)
        except (remote.Lost, _Ended):
            raise
        except remote.NotThere:
            refused.append(f"{one.name}: {_NO_FOLDER if one.kind != remote.EXTRA else 'somebody removed it'}")
        except ToolError as error:
            refused.append(str(error))
    if refused:
        more = f" (and {len(refused) - 1} more)" if refused[1:] else ""
        raise ToolError(f"{refused[0]}{more}")


# Status


def _ask(turn: _Turn) -> str:
    if not turn.board.address:
        turn.notes.append("it has no address, and to ask it by wire would stop its server")
        return "not asked"
    _, told = _reach(turn)
    try:
        turn.facts = {name: str(told[name]) for name in ("hostname", "version")}
        others = [one for one in told["now"] if not one["name"].lower().lstrip("/").startswith("tftpd/")]
        turn.facts |= {"uptime": int(told["uptime"]) // 1000, "free": _free(told), "transfers": len(others)}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ToolError(_ANOTHER) from None
    return "serves"
