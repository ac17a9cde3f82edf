"""Boot an emulated board with the files of a folder on its flash, and print `ready tftp://HOST:PORT/` when it serves,
or `set-up http://HOST:PORT/` if it has no Wi-Fi settings (--set ssid=null).

The board's console goes to standard error. SIGINT and SIGTERM end it cleanly.
"""

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from . import PACKAGE, PROGRAM, ToolError, boards, compress, filesystem, firmware, image, printable
from .processes import die_with_parent

_STOP_WAIT_S = 0.5  # longest wait for a moment in which Ctrl-C does no harm
_ADVICE = "leave some out, or take a larger flash: --flash-size {size} (make run FLASH={size})"
_START = {
    "rpi_pico_w": "half a minute",
    "w5500_evb_pico": "10 to 20 s",
    "esp32": "10 s, or a minute or two on a busy computer",
}
_TO_HOST = b"\x1e"  # starts a line to this program, not to the console (board/unix/shims/machine.py)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    boards.add_board(parser, default="unix")
    parser.add_argument(
        "--files",
        type=boards.parse_path,
        default=Path("files"),
        metavar="DIR",
        help="folder to serve (default: ./files)",
    )
    parser.add_argument(
        "--host",
        type=boards.parse_address,
        default="127.0.0.1",
        metavar="ADDR",
        help="where to listen (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=boards.parse_number(0, 65535),
        default=6969,
        metavar="PORT",
        help="UDP port, 0 for any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--flash-size",
        type=boards.parse_size,
        metavar="SIZE",
        help="size of the filesystem, e.g. 16M (default: the board's)",
    )
    compress.add_argument(parser)
    parser.add_argument(
        "--heap", type=boards.parse_size, metavar="SIZE", help="MicroPython's heap, e.g. 192K (default: the board's)"
    )
    parser.add_argument(
        "--sockets",
        type=boards.parse_number(0, 1000),
        metavar="N",
        help="number of UDP sockets of the board, 0 for no limit (default: the board's)",
    )
    parser.add_argument(
        "--save", type=boards.parse_path, metavar="FILE", help="save the flash to FILE, and start from it the next time"
    )
    parser.add_argument("--writable", action="store_true", help="let clients on this host upload new files")
    parser.add_argument(
        "--log", type=boards.parse_path, metavar="FILE", help="write the console to FILE, not to standard error"
    )
    parser.add_argument(
        "--serial",
        type=boards.parse_number(1, 65535),
        metavar="PORT",
        help="also offer the console to mpremote connect socket://127.0.0.1:PORT",
    )
    parser.add_argument(
        "--mdns",
        type=boards.parse_number(1, 65535),
        metavar="PORT",
        help="also answer mDNS queries at this UDP port (not the everyday board)",
    )
    parser.add_argument(
        "--dhcp",
        type=boards.parse_number(1, 65535),
        metavar="PORT",
        help="broadcast what comes to this UDP port to the board, as a machine that boots does (dhcp_proxy)",
    )
    parser.add_argument("--pcap", type=boards.parse_path, metavar="FILE", help="record the Wi-Fi traffic (ESP32)")
    parser.add_argument(
        "--card",
        type=boards.parse_path,
        metavar="FILE",
        help=f"an image ({PROGRAM} image --card) as its SD card; move FILE away to pull the card out",
    )
    parser.add_argument(
        "--card-as",
        action="append",
        metavar="KEY=VALUE",
        help="the kind of card, and its faults, such as kind=v1 or flip=50 (Pico W; tools/emulators/sdcard.py)",
    )
    parser.add_argument(
        "--base",
        type=boards.parse_path,
        metavar="FILE",
        help="MicroPython's file (default: the board's, from the cache)",
    )
    parser.add_argument(
        "--image",
        type=boards.parse_path,
        metavar="FILE",
        help=f"boot a file of {PROGRAM} image as it is, with its own files and settings (not the everyday board)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting (docs/settings.md); may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    board = boards.load(arguments.board)
    if "emulator" not in board:
        able = [name for name in boards.names() if "emulator" in boards.load(name)]
        raise ToolError(f"{board['product']} has no emulator; these boards have one: {', '.join(able)}")
    if arguments.save:
        boards.check_target(arguments.save)
    port = _free_port(arguments.host, arguments.port)
    # mkdtemp gives the folder mode 0700: the settings in it may hold a password.
    with tempfile.TemporaryDirectory(prefix="tftpd-") as name, contextlib.ExitStack() as stack:
        console = stack.enter_context(_log(arguments.log)).fileno() if arguments.log else 2
        machine = (_genuine if "firmware" in board else _everyday)(arguments, board, Path(name), port)
        for warning in machine.warnings:
            boards.warn(warning)
        if machine.saved:
            print(machine.saved, file=sys.stderr, flush=True)
        clock = None
        if start := _START.get(arguments.board):  # no thread, since the board's process is forked from this one
            booting = boards.waiting(f"booting the {board['product']}, which takes {start}", auto_refresh=False)
            clock = stack.enter_context(booting)
        try:
            return _Board(machine, console, clock).serve(f"tftp://{arguments.host}:{port}/")
        finally:
            if arguments.save and machine.flash.exists():
                boards.write_whole(arguments.save, machine.flash.read_bytes(), private=True)


def _free_port(host: str, port: int) -> int:
    try:
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, socket.socket() as other:
                probe.bind((host, port))
                chosen = probe.getsockname()[1]
                if not port:  # the page of the first set-up has the TCP port of that number
                    with contextlib.suppress(OSError):
                        other.bind((host, chosen))
                        return chosen
                    continue
                return chosen
    except OSError as error:
        raise ToolError(
            f"can't listen on {host} port {port}: {error.strerror}; choose another --port or --host"
        ) from None


def _log(path: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, path.open("ab", buffering=0))
    except OSError as error:
        raise ToolError(f"can't write {path}: {error.strerror}") from None


@dataclass
class _Machine:
    """How to start an emulated board, and where its flash is afterwards."""

    command: list[str]  # its standard output is the console; SIGINT is Ctrl-C on it
    flash: Path
    warnings: list[str]  # about the served files
    boot_seconds: int  # time limit from start to serving
    stop_seconds: int  # time limit to stop
    interrupt_asleep: bool = False  # send Ctrl-C only while the process waits
    saved: str = ""  # what --compress did, in words
    page: str = "http://192.168.4.1/"  # of the first set-up: on a genuine board that of its own access point


def _only(arguments: argparse.Namespace, board: dict[str, Any], *names: str) -> None:
    for name in names:
        if getattr(arguments, name) is not None:
            raise ToolError(
                f"--{name.replace('_', '-')} does not apply to --board {arguments.board} ({board['product']})"
            )


def _card(arguments: argparse.Namespace, board: dict[str, Any]) -> dict[str, Any]:
    """The settings for the board's card, if it is to have one. Raises ToolError."""
    if not arguments.card:
        return {}
    if "card" not in board["emulator"]:
        _only(arguments, board, "card")
    if not arguments.card.is_file():
        raise ToolError(f"{arguments.card} is no file: make one with {PROGRAM} image --card DIR -o FILE")
    return {"card": board["emulator"]["card"]}


def _settings(arguments: argparse.Namespace, settings: dict[str, Any], local: str) -> dict[str, Any]:
    """`settings` with those of the command line, checked; `local`: the range in which the board sees 127.0.0.0/8."""
    if arguments.writable:
        settings["write_from"] = [local]
    return boards.check_settings(settings, arguments.set)


def _everyday(arguments: argparse.Namespace, board: dict[str, Any], folder: Path, port: int) -> _Machine:
    _only(arguments, board, "serial", "mdns", "dhcp", "pcap", "base", "card_as", "image")
    for pair in arguments.set:
        if pair.startswith(("port=", "address=")):
            raise ToolError(f"--set {pair}: on the everyday board, use --port and --host for that")
    own = {"ssid": "emulated", "address": arguments.host, "port": port, **_card(arguments, board)}
    settings = _settings(arguments, own, "127.0.0.0/8")
    layout = board["filesystem"]
    served = filesystem.served(arguments.files, settings, arguments.compress, layout["block_size"])
    files = served.files
    kept = None
    if arguments.save and arguments.save.exists():
        kept = boards.read_bytes(arguments.save)
        old = filesystem.names(layout, kept)  # a file on the saved flash wins over the folder's
        files = filesystem.without(files, old)
    files |= filesystem.board_files(settings, board["settings"])
    flash = folder / "flash.img"
    size = arguments.flash_size or layout["size"]
    advice = ("" if arguments.compress else "try --compress auto, or ") + _ADVICE
    flash.write_bytes(filesystem.build(layout, size, files, kept, advice, served.folders))
    heap = arguments.heap or board["heap"]
    sockets = arguments.sockets if arguments.sockets is not None else board["udp_sockets"] or 0
    command = boards.everyday(flash, layout, heap, sockets, arguments.card, 80 if settings.get("ssid") else port)
    machine = _Machine(command, flash, served.warnings, 60, 5, interrupt_asleep=True, saved=served.saved)
    machine.page = f"http://127.0.0.1:{port}/"
    return machine


def _genuine(arguments: argparse.Namespace, board: dict[str, Any], folder: Path, port: int) -> _Machine:
    emulator = board["emulator"]
    modelled = emulator["program"] == "picow"  # its card is tools/emulators/sdcard.py
    _only(arguments, board, "heap", "sockets", *(() if modelled else ("card_as",)))
    start, flash = folder / "start.img", folder / "flash.img"
    if arguments.image:
        settings, warnings, saved = _as_it_is(arguments, board, start), [], ""
    else:
        settings, warnings, saved = _built(arguments, board, start)
    command = [sys.executable, "-m", f"{PACKAGE}.emulators.{emulator['program']}", str(start), *emulator["arguments"]]
    command += ["--host", arguments.host, "--port", str(port), "--board-port", str(settings.get("port", 69))]
    command += ["--save-flash", str(flash)]
    if settings.get("ip"):
        command += ["--board-address", settings["ip"]]
    if settings.get("http_port"):
        command += ["--tcp", str(settings["http_port"])]
    if arguments.mdns is not None:
        command += ["--mdns", str(arguments.mdns)]
    if arguments.dhcp is not None:
        command += ["--dhcp", str(arguments.dhcp)]
    if arguments.serial is not None:
        command += ["--serial", str(arguments.serial)]
    if arguments.card:
        command += ["--card", str(arguments.card.resolve())]
    if arguments.card and modelled:
        wired = settings["card"]
        command += ["--card-spi", str(wired.get("spi", 0)), "--card-cs", str(wired["cs"])]
        command += [word for pair in arguments.card_as or () for word in ("--card-as", pair)]
    if arguments.pcap:
        command += ["--pcap", str(arguments.pcap.resolve())]
    seconds = emulator["boot_seconds"], emulator["stop_seconds"]
    return _Machine(command, flash, warnings, *seconds, saved=saved)


def _as_it_is(arguments: argparse.Namespace, board: dict[str, Any], start: Path) -> dict[str, Any]:
    """Put --image in the file `start`; returns its settings. Raises ToolError."""
    for name in ("set", "writable", "flash_size", "compress", "base", "card"):
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            raise ToolError(f"{option} does not apply to --image, which has its own files and settings")
    data = boards.read_bytes(arguments.image)
    firmware.read_base(data, arguments.image)
    start.write_bytes(data)
    return image.read_earlier(board, arguments.image).settings


def _built(arguments: argparse.Namespace, board: dict[str, Any], start: Path) -> tuple[dict[str, Any], list[str], str]:
    """Build an image in the file `start`; returns its settings, warnings, and what --compress did. Raises ToolError."""
    emulator = board["emulator"]
    own = {"ssid": emulator["ssid"], **emulator["settings"], **_card(arguments, board)}
    settings = _settings(arguments, own, "10.0.0.0/8")
    base = arguments.base or firmware.base_image(board)
    kept = None
    if arguments.save and arguments.save.exists():
        offset, size = image.place(board, firmware.read_base(boards.read_bytes(base), base), arguments.flash_size)
        kept = boards.read_bytes(arguments.save)[offset : offset + size]
    made = image.make(
        board,
        arguments.files,
        settings,
        base=base,
        flash_size=arguments.flash_size,
        whole=True,
        kept=kept,
        compressed=arguments.compress,
    )
    start.write_bytes(made.data)
    return settings, made.warnings, made.saved


class _Board:
    """An emulated board as a process: its console, and the everyday board's watchdog and reset."""

    def __init__(self, machine: _Machine, console: int, clock: Any = None) -> None:
        """
        console  the file descriptor to which the board's console is copied
        clock    is shown until the board serves (boards.waiting)
        """
        self._machine = machine
        self._out = console
        self._clock = clock
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = 0.0  # its timeout in seconds, 0 while it is off
        self._deadline = 0.0
        self._last_line = "nothing"
        self._held: list[bytes] | None = []  # console output before the board serves; None afterwards

    def serve(self, url: str) -> int:
        """Run the board until it ends or a signal ends it. Returns the exit status; raises ToolError."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        started = time.monotonic()
        self._power_on()
        ready = False
        while (line := self._line()) is not None:
            if ready:
                continue
            if self._clock:
                self._clock.refresh()
            if b" ready on " in line:
                ready = True
                self._tell(f"ready {url}")
            elif line.startswith(b"set-up: join ") and self._held is not None:  # it says so again and again
                self._tell(f"set-up {self._machine.page}")
            elif self._held is not None and time.monotonic() - started > self._machine.boot_seconds:
                self._power_off()
                raise ToolError(
                    f"the board does not serve after {self._machine.boot_seconds} s; its last line: {self._last_line}"
                )
        assert self._process
        status = self._process.wait()
        if status and self._last_line.startswith("error: "):  # from the emulator itself
            raise ToolError(self._last_line.removeprefix("error: "))
        if not self._stopping and (status or self._held):
            raise ToolError(f"the board ended by itself with status {status}; its last line: {self._last_line}")
        return 0

    def _tell(self, what: str) -> None:
        """Print `what` after the console's output so far."""
        if self._clock:
            self._clock.stop()
        held, self._held = self._held, None
        self._console(b"".join(held or ()))
        print(what, flush=True)

    def _stop(self, *_: object) -> None:
        self._stopping = True
        self._deadline = time.monotonic() + self._machine.stop_seconds
        if self._process:
            end = time.monotonic() + _STOP_WAIT_S
            # The Unix port raises KeyboardInterrupt anywhere. During a garbage collection that leaves the heap locked,
            # and the server appears to crash.
            while self._machine.interrupt_asleep and not self._asleep() and time.monotonic() < end:
                time.sleep(0.001)
            self._process.send_signal(signal.SIGINT)  # Ctrl-C on its console

    def _asleep(self) -> bool:
        """Whether the process waits in a system call; True where /proc is missing (proc(5))."""
        assert self._process
        try:
            return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "R"
        except OSError:
            return True

    def _power_on(self) -> None:
        self._watchdog = 0.0
        # In its own session: Ctrl-C in a terminal reaches only this process, which sends it to the board once.
        self._process = subprocess.Popen(
            self._machine.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=boards.ROOT,
            preexec_fn=die_with_parent,
        )
        self._pending = b""

    def _power_off(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def _line(self) -> bytes | None:
        """The next line of the console, b"" if none came within 0.2 s, None at its end."""
        assert self._process and self._process.stdout
        while b"\n" not in self._pending:
            if not select.select([self._process.stdout], [], [], 0.2)[0]:
                if (self._stopping or self._watchdog) and time.monotonic() > self._deadline:
                    self._power_off()
                    if not self._stopping:
                        self._console(b"watchdog: the board hung and is restarted\n")
                        self._power_on()
                return b""
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                if self._pending:
                    self._console(self._pending)
                return None
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        if line.startswith(_TO_HOST):
            self._asked(line[1:].decode().split())
            return b""
        self._last_line = printable(line.decode(errors="backslashreplace").rstrip("\r"))
        self._console(self._last_line.encode() + b"\n")
        return line

    def _asked(self, words: list[str]) -> None:
        if words[0] == "reset" and not self._stopping:
            self._power_off()
            self._power_on()
        elif words[0] == "watchdog":
            self._watchdog = int(words[1]) / 1000
        if self._watchdog and not self._stopping:
            self._deadline = time.monotonic() + self._watchdog

    def _console(self, line: bytes) -> None:
        if self._held is not None:
            self._held.append(line)
        # As on a serial port, output that nobody reads is lost, and never blocks the board.
        elif select.select([], [self._out], [], 0)[1]:
            with contextlib.suppress(OSError):  # a full disk does not stop the board either
                os.write(self._out, line)
