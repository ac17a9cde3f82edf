"""An ESP32 or ESP32-C3 with its genuine firmware, in PICSimLab's QEMU with emulated Wi-Fi (open network
PICSimLabWifi). The C3 serves 2 s after its start, the ESP32 within 15 s."""

import argparse
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import tempfile
import termios
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .. import ToolError, firmware
from ..boards import read_bytes, write_whole
from ..processes import die_with_parent
from . import Wiring, add_arguments, main

_SIZES = (4 << 20, 8 << 20, 16 << 20)  # of flash chips
# The emulated access point stops for good once it queues more than 20 frames, and forwards one each 0.2 ms
# (Esp32_WLAN_can_receive in hw/misc/esp32_wifi_ap.c). So send a frame only after it has read the one before.
_FRAME_S = 0.00025
_MAX_FRAMES = 64  # in our queue; further ones are lost, as on the air
_PATIENCE = 5  # seconds for the board to stop
_HOW = "set $QEMU_ESP32 to the folder of PICSimLab's QEMU (docs/testing.md)"


class _Chip(NamedTuple):
    program: str
    machine: str
    efuse: bytes  # the chip's one-time memory


def _c3_efuse() -> bytes:
    efuse = bytearray(336)
    efuse[0x18:0x1E] = bytes.fromhex("010000c40a24")  # MAC address
    efuse[0x26] = 0x0C  # chip revision 0.3, which MicroPython requires
    return bytes(efuse)


_CHIPS = {
    "esp32": _Chip(
        "qemu-system-xtensa",
        "esp32",
        bytes.fromhex("000000000000000000000000008000000000000000001000").ljust(124, b"\0"),
    ),
    "esp32c3": _Chip("qemu-system-riscv32", "esp32c3", _c3_efuse()),
}


def find(program: str, machine: str) -> tuple[str, list[str]]:
    """The path of the QEMU for `machine`, and its arguments for the folder of the ROMs. Raises ToolError.

    Searches the folder $QEMU_ESP32, or else this project's cache and $PATH.
    """
    cache = firmware.cache() / "qemu-esp32"
    named = os.environ.get("QEMU_ESP32")
    for folder in [Path(named)] if named else [cache]:
        for place in ("bin", "build", "."):
            found = folder / place / program
            if found.is_file():
                roms = [one for one in ("pc-bios", "share/qemu", "source/pc-bios") if (folder / one).is_dir()]
                return _checked(str(found), machine), ["-L", str(folder / roms[0])] if roms else []
    if named:
        raise ToolError(f"$QEMU_ESP32 is {named}, which has no {program}: {_HOW}")
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = Path(folder or ".") / program
        if os.access(found, os.X_OK):
            return _checked(str(found), machine), []
    raise ToolError(f"{program} with the emulated Wi-Fi is missing: {_HOW}")


def find_chip(chip: str) -> tuple[str, list[str]]:
    """find() for "esp32" or "esp32c3"."""
    return find(_CHIPS[chip].program, f"{_CHIPS[chip].machine}-picsimlab")


def _checked(program: str, machine: str) -> str:
    def ask(option: list[str]) -> str:
        try:
            answer = subprocess.run([program, *option], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"{program} can't be run ({error}): {_HOW}") from None
        if answer.returncode:
            raise ToolError(f"{program} can't be run ({answer.stderr.strip()[-200:]}): {_HOW}")
        return answer.stdout

    if not any(line.startswith(machine + " ") for line in ask(["-M", "help"]).splitlines()):
        raise ToolError(f"{program} has no machine {machine}: {_HOW}")
    return program


class Esp32:
    """The board; run() powers it on.

    wiring  its network and console
    """

    def __init__(self, arguments: argparse.Namespace, flash: bytes) -> None:
        chip = _CHIPS[arguments.chip]
        name = chip.machine
        program, roms = find_chip(arguments.chip)
        self._net, net = socket.socketpair()
        # Pipes for the console: QEMU writes single bytes and drops those that don't fit. A pipe holds 64 KiB of them, a
        # socket 278.
        self._console, console = os.pipe()
        keys, self._keyboard = os.pipe()
        os.set_blocking(self._keyboard, False)
        self._frames = bytearray()
        self._waiting: deque[bytes] = deque()
        self._next = 0.0  # when the next of them may be sent
        # Unnamed files: they vanish even if this process is killed.
        self._flash = self._file(flash)
        efuse = self._file(chip.efuse)
        self._errors = self._file(b"")
        self.wiring = Wiring(arguments, self._to_board, self._type, _PATIENCE)
        self._command = [
            *(program, *roms, "-M", f"{name}-picsimlab", "-display", "none", "-monitor", "none", "-no-user-config"),
            *("-drive", f"file=/dev/fd/{self._flash.fileno()},if=mtd,format=raw"),
            *("-drive", f"file=/dev/fd/{efuse.fileno()},if=none,format=raw,id=efuse"),
            *("-global", f"driver=nvram.{name}.efuse,property=drive,value=efuse"),
            *("-global", f"driver=timer.{name}.timg,property=wdt_disable,value=true"),
            *("-chardev", f"file,id=console,path=/dev/fd/{console},input-path=/dev/fd/{keys}"),
            *("-serial", "chardev:console"),
            *("-netdev", f"socket,id=wifi,fd={net.fileno()}"),
            *("-net", f"nic,model={name}_wifi,netdev=wifi"),
        ]
        if arguments.icount:
            self._command += ["-icount", "3"]
        if arguments.card:
            self._command += ["-drive", f"file={str(arguments.card).replace(',', ',,')},if=sd,format=raw"]
        if arguments.pcap:
            self._command += ["-object", f"filter-dump,id=dump,netdev=wifi,file={arguments.pcap}"]
        self._theirs = [net.detach(), console, keys]
        self._inherited = [*self._theirs, self._flash.fileno(), efuse.fileno()]
        self._efuse = efuse

    @staticmethod
    def _file(content: bytes) -> BinaryIO:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the board is
        file.write(content)
        file.flush()
        return file

    def _type(self, keys: bytes) -> None:
        with contextlib.suppress(OSError):  # QEMU has ended, or 64 KiB of input are unread
            os.write(self._keyboard, keys)

    # On QEMU's network socket each frame follows its length in four bytes.

    def _to_board(self, frame: bytes) -> None:
        if len(self._waiting) < _MAX_FRAMES:
            self._waiting.append(struct.pack("!I", len(frame)) + frame)
        self._feed()

    def _feed(self) -> None:
        now = time.monotonic()
        if self._waiting and now >= self._next:
            with contextlib.suppress(OSError):  # QEMU has ended
                unread = struct.unpack("i", fcntl.ioctl(self._net, termios.TIOCOUTQ, bytes(4)))[0]
                if not unread:
                    self._net.sendall(self._waiting.popleft())
                    self._next = now + _FRAME_S

    def _from_board(self) -> None:
        try:
            data = self._net.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.wiring.selector.unregister(self._net)
        self._frames += data
        while len(self._frames) >= 4:
            end = 4 + struct.unpack_from("!I", self._frames)[0]
            if len(self._frames) < end:
                break
            self.wiring.bridge.frame(bytes(self._frames[4:end]))
            del self._frames[:end]

    def _said(self) -> None:
        data = os.read(self._console, 65536)
        if data:
            self.wiring.console.said(data)
        else:
            self.wiring.selector.unregister(self._console)

    def run(self) -> None:
        """Run the board until wiring.over. Raises ToolError."""
        selector = self.wiring.selector
        selector.register(self._net, 1, self._from_board)
        selector.register(self._console, 1, self._said)
        # In its own session: Ctrl-C in a terminal reaches only this process.
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=self._inherited,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            for one in self._theirs:
                os.close(one)
            while not self.wiring.over:
                self.wiring.poll(_FRAME_S if self._waiting else 0.2)
                self._feed()
                if process.poll() is not None:
                    self._errors.seek(0)
                    last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
                    raise ToolError(f"QEMU ended by itself with status {process.returncode}: {' '.join(last)}")
        finally:
            process.kill()
            process.wait()

    def flash(self) -> bytes:
        self._flash.seek(0)
        return self._flash.read()


def run(arguments: argparse.Namespace) -> None:
    flash = read_bytes(arguments.flash)
    size = next((size for size in _SIZES if len(flash) <= size), None)
    if not size:
        raise ToolError(f"{arguments.flash} has {len(flash):,} bytes, more than the largest flash")
    board = Esp32(arguments, flash.ljust(size, b"\xff"))
    try:
        board.run()
    finally:
        if arguments.save_flash:
            write_whole(arguments.save_flash, board.flash(), private=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.qemu", description=__doc__)
    parser.add_argument("flash", type=Path, metavar="FLASH.bin", help="the whole flash, from address 0")
    parser.add_argument("--chip", choices=_CHIPS, required=True)
    add_arguments(parser)
    parser.add_argument("--save-flash", type=Path, metavar="FILE", help="save the flash to FILE at the end")
    parser.add_argument("--pcap", type=Path, metavar="FILE", help="record the frames of the Wi-Fi")
    parser.add_argument("--card", type=Path, metavar="FILE", help="an SD card (ESP32), of a power of two bytes")
    parser.add_argument("--icount", action="store_true", help="drive the board's clock by its instructions, 8 ns each")
    return parser


if __name__ == "__main__":
    main(_parser(), run)
