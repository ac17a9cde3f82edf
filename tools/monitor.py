"""Show a board's console, with its journal, live. Ctrl-C ends it. It waits for a board that was unplugged."""

import argparse
import codecs
import contextlib
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from . import ToolError, printable

_BAUD = 115200  # of MicroPython's UART console; USB accepts any rate
_POLL_S = 0.2
_SILENCE_S = 30  # a board silent for so long has probably printed its address before the port was open
_RP2 = {0x2E8A}
# USB vendor IDs: Espressif, and the makers of the serial chips on ESP32 boards: Silicon Labs, WCH, FTDI, Prolific.
_ESP32 = {0x303A, 0x10C4, 0x1A86, 0x0403, 0x067B}
_PROMPT = b">>> "
_LINK = "link: "
_UP = "link: up, "
_SET_UP = "set-up: join "
_READY = " ready on "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device, an option of several commands."""
    parser.add_argument(
        "--device",
        type=parse_device,
        metavar="PORT",
        help="serial port, or socket://HOST:PORT (default: that of the connected board)",
    )


def parse_device(text: str) -> str:
    """A serial port, or socket://HOST:PORT. Raises argparse.ArgumentTypeError."""
    address = re.fullmatch(r"socket://[^/:]+:([0-9]{1,5})", text)
    if not text or (text.startswith("socket:") and not (address and int(address[1]) < 65536)):
        raise argparse.ArgumentTypeError(f"expected a serial port, or socket://HOST:PORT, not {text!r}")
    return text


def run(arguments: argparse.Namespace) -> int:
    device = arguments.device
    port = Port((lambda: device) if device else find_port)
    port.open()
    print(f"{port.name}: Ctrl-C ends", file=sys.stderr)
    here = True
    # Escape control characters: the journal shows names from strangers' requests, and a terminal would obey them.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    try:
        while True:
            lines = decoder.decode(port.read()).replace("\r", "").split("\n")
            sys.stdout.buffer.write("\n".join(map(printable, lines)).encode())
            sys.stdout.flush()
            if here != port.is_open:
                here = port.is_open
                print(f"{port.name} is {'back' if here else 'gone, waiting for it'}", file=sys.stderr)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    finally:
        port.close()


def find_port(chip: str | None = None) -> str:
    """The name of the connected board's serial port. Raises ToolError.

    chip  `mcu` of its board.json, None for any
    """
    found = boards_ports(chip)
    if not found:
        raise ToolError("no board is connected (or its cable carries only power); give its serial port with --device")
    if len(found) > 1:
        several = ", ".join(f"{port.device} ({port.description})" for port in found)
        raise ToolError(f"several serial ports could be the board's; choose one with --device: {several}")
    return found[0].device


def boards_ports(chip: str | None = None) -> list[Any]:
    """The serial ports (pyserial's ListPortInfo) that may be those of boards with this chip, None for any."""
    from serial.tools import list_ports

    vendors = _RP2 | _ESP32 if chip is None else _RP2 if chip.startswith("rp2") else _ESP32
    return sorted((port for port in list_ports.comports() if port.vid in vendors), key=lambda port: port.device)


class Port:
    """A board's serial port, which may disappear and return: a USB port does when the board restarts.

    name     of the port that is, or was last, open
    is_open  False while the port is gone
    """

    def __init__(self, find: Callable[[], str], port: Any = None) -> None:
        """
        find  returns the port's name; called at each open(); may raise ToolError
        port  an open port of pyserial
        """
        self.name: str = port.name if port else ""
        self._find = find
        self._port: Any = port
        if port:
            port.timeout = _POLL_S

    @property
    def is_open(self) -> bool:
        return self._port is not None

    def open(self) -> None:
        """Raises ToolError."""
        import serial

        self.name = self._find()
        try:
            self._port = serial.serial_for_url(self.name, baudrate=_BAUD, timeout=_POLL_S, exclusive=True)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise ToolError(f"can't open {self.name}: {getattr(error, 'strerror', None) or error}") from None

    def read(self) -> bytes:
        """New output of the board, b"" if there is none for 0.2 s or the port is gone."""
        try:
            if not self._port:
                self.open()
            return self._port.read(self._port.in_waiting or 1)
        except (OSError, ToolError):
            self.close()
            time.sleep(_POLL_S)
            return b""

    def write(self, data: bytes) -> None:
        """Type `data` on the console, if the port is open."""
        try:
            if self._port:
                self._port.write(data)
        except OSError:
            self.close()

    def close(self) -> None:
        port, self._port = self._port, None
        if port:
            # In this order the lines do not trigger the reset circuit of an ESP32 board.
            with contextlib.suppress(OSError):
                port.rts = False
                port.dtr = False
            with contextlib.suppress(OSError):
                port.close()


def facts(served: str) -> dict[str, str | None]:
    """What wait_until_serving() returned, for --json."""
    return {"url": served, "set_up": None} if served.startswith("tftp:") else {"url": None, "set_up": served}


def wait_until_serving(port: Port, seconds: float, silence: float = _SILENCE_S) -> str:
    """The tftp:// address of a board that is starting, read from its console; if it has no Wi-Fi, how to set it up.
    Raises ToolError.

    seconds  time limit for the board to serve
    silence  seconds without output after which the server is restarted, so that it prints its address again
    """
    now = time.monotonic()
    end, quiet = now + seconds, now + silence
    said, last, link, address, number = b"", "nothing", "", "", ""
    restarting = False
    while time.monotonic() < end:
        if data := port.read():
            quiet = math.inf
        *lines, said = (said + data).split(b"\n")
        for line in lines:
            last = printable(line.decode(errors="replace").strip())[:200] or last
            if last.startswith(_LINK):
                link = last
            if last.startswith(_SET_UP):
                return f"nothing yet: {last}"
            if last.startswith(_UP):
                address = last.removeprefix(_UP)
            if _READY in last:
                number = last.split(_READY)[1].split(",")[0].rpartition(":")[2]
                if "no ssid" in link:
                    raise ToolError(f"the server runs, but nobody can reach it: {link}")
        if address and number:
            return f"tftp://{address}/" if number == "69" else f"tftp://{address}:{number}/"
        if said == _PROMPT and not data:
            if not restarting:
                raise ToolError(f"the board runs no server, it is at its prompt; its last line: {last}")
            restarting, said = False, b""
            port.write(b"\x04")  # Ctrl-D: restart boot.py and main.py
        if time.monotonic() > quiet and port.is_open:
            quiet, restarting = math.inf, True
            port.write(b"\r\x03")  # Ctrl-C: the server stops, the prompt appears
    where = f"on {port.name}" if port.name else "on any serial port"
    if number:
        raise ToolError(
            f"the server runs, but has no address after {seconds:.0f} s: {link or 'it printed nothing about its link'}"
        )
    raise ToolError(f"the board does not serve after {seconds:.0f} s; its last line {where}: {last}")
