"""Boot an emulated board with the files of a folder on its flash, and say `ready tftp://HOST:PORT/` when it serves.

The board's console goes to standard error. SIGINT and SIGTERM end it cleanly.
"""

import argparse
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from . import ToolError, boards, filesystem

_BOOT_SECONDS = 60
_STOP_SECONDS = 5
_TO_HOST = b"\x1e"  # lines for us, not for the console: board/unix/shims/machine.py


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", default="unix", help="name of a folder in board/ (default: %(default)s)")
    parser.add_argument(
        "--files", type=Path, default=Path("files"), metavar="DIR", help="what to serve (default: ./files)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="where to listen (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=6969, help="UDP port, 0 for any that is free (default: %(default)s)"
    )
    parser.add_argument(
        "--flash-size",
        type=boards.parse_size,
        metavar="SIZE",
        help="size of the filesystem, e.g. 16M (default: the board's)",
    )
    parser.add_argument(
        "--heap", type=boards.parse_size, metavar="SIZE", help="MicroPython's heap, e.g. 192K (default: the board's)"
    )
    parser.add_argument(
        "--sockets", type=int, metavar="N", help="UDP sockets that the board gives (default: the board's)"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="keep the flash in FILE, and start from it the next time"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as in settings.json"
    )


def run(arguments: argparse.Namespace) -> int:
    board = boards.load(arguments.board)
    port = _free_port(arguments.host, arguments.port)
    settings = boards.check_settings({"ssid": "emulated", "address": arguments.host, "port": port}, arguments.set)
    image = _flash(arguments, board, settings)
    with tempfile.TemporaryDirectory(prefix="tftpd-") as folder:
        flash = Path(folder) / "flash.img"
        flash.write_bytes(image)
        try:
            return _Board(arguments, board, flash).serve(f"tftp://{arguments.host}:{settings['port']}/")
        finally:
            if arguments.save:
                _write_whole(arguments.save, flash.read_bytes())


def _free_port(host: str, port: int) -> int:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        what = getattr(error, "strerror", None) or error
        raise ToolError(f"can't listen on {host} port {port}: {what}; choose another --port or --host") from None


def _flash(arguments: argparse.Namespace, board: dict[str, Any], settings: dict[str, Any]) -> bytes:
    layout = board["filesystem"]
    size = arguments.flash_size or layout["size"]
    files = filesystem.user_files(arguments.files)
    image = None
    if arguments.save and arguments.save.exists():
        image = arguments.save.read_bytes()
        kept = filesystem.names(layout, image)  # what lies there already goes before DIR
        files = {name: data for name, data in files.items() if name not in kept}
    return filesystem.build(layout, size, files | filesystem.board_files(settings, board["settings"]), image)


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


class _Board:
    """The everyday board as a process: its console, its watchdog, its reset."""

    def __init__(self, arguments: argparse.Namespace, board: dict[str, Any], flash: Path) -> None:
        heap = arguments.heap or board["heap"]
        layout = board["filesystem"]
        sockets = arguments.sockets if arguments.sockets is not None else board["udp_sockets"] or 0
        self._command = [
            *(boards.micropython(), "-X", f"heapsize={heap}", str(boards.ROOT / "board/unix/run.py")),
            *(str(flash), str(layout["block_size"]), str(layout["prog_size"]), str(sockets)),
        ]
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = 0.0  # seconds without a feed that it allows, 0 while it is off
        self._deadline = 0.0
        self._last_line = "nothing"
        self._held: list[bytes] | None = []  # what the console says before the board serves; None once it does

    def serve(self, url: str) -> int:
        """Run the board until it ends or a signal ends it. Returns the exit status; raises ToolError."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        started = time.monotonic()
        self._power_on()
        while (line := self._line()) is not None:
            if self._held is None:
                continue
            if b" ready on " in line:
                held, self._held = self._held, None
                self._console(b"".join(held))
                print(f"ready {url}", flush=True)
            elif time.monotonic() - started > _BOOT_SECONDS:
                self._power_off()
                raise ToolError(f"the board does not serve after {_BOOT_SECONDS} s; it last said: {self._last_line}")
        assert self._process
        status = self._process.wait()
        if not self._stopping and (status or self._held):
            raise ToolError(f"the board ended by itself with status {status}; it last said: {self._last_line}")
        return 0

    def _stop(self, *_: object) -> None:
        self._stopping = True
        self._deadline = time.monotonic() + _STOP_SECONDS
        if self._process:
            self._process.send_signal(signal.SIGINT)  # Ctrl-C on its console

    def _power_on(self) -> None:
        self._watchdog = 0.0
        # A session of its own: Ctrl-C in a terminal goes to us alone, and from us to the board once.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._pending = b""

    def _power_off(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def _line(self) -> bytes | None:
        """The next line of the console, b"" if there was none for a while, None at its end."""
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
        self._last_line = line.decode(errors="replace")
        self._console(line + b"\n")
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
        # As with a serial port, a console that nobody reads loses what is said and holds nothing up.
        elif select.select([], [2], [], 0)[1]:
            os.write(2, line)
