"""A Raspberry Pi Pico W with its genuine firmware, in rp2040py with the emulated Wi-Fi chip (network RP2040PY-GUEST,
any password). It serves half a minute after its start. Its clock is its own: a busy board falls behind real time."""

import argparse
import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from rp2040py.boards import BoardSpec
from rp2040py.device import MicroPythonDevice
from rp2040py.external import ExternalDevice
from rp2040py.external.bootsel_button import BootselButton
from rp2040py.external.cyw43 import Cyw43439
from rp2040py.external.cyw43.bus import GSPIBus
from rp2040py.rp2040 import RP2040
from rp2040py.usb.cdc import USBCDC

from .. import ToolError
from ..boards import read_bytes, write_whole
from . import Wiring, add_arguments, main, sdcard

_FLASH_BYTES = 2 << 20
_POLL_NS = 250_000  # of the board's time, between two polls of the host's sockets
_LOOK_NS = 100_000_000  # likewise, between two looks for the file of the SD card
_LEAD = 0.002  # seconds that the board may be ahead of real time before it waits
_LAG = 0.02  # seconds behind real time that it may catch up
_PATIENCE = 30  # seconds for the board to stop: a second of a busy board takes most of a minute
_UF2_MAGIC = b"UF2\n\x57\x51\x5d\x9e"


class _Bus(GSPIBus):
    """Corrects the send credit of rp2040py 0.3.6, which grants the Wi-Fi driver one send too many for each frame to the
    board. After 256 such frames the 8-bit credit looks like an old one, and sends fail (OSError).
    """

    _SPARE = 8  # sends that may be outstanding

    def __init__(self) -> None:
        super().__init__()
        self._spare = self._SPARE

    def power_off(self) -> None:
        super().power_off()
        self._spare = self._SPARE

    def _build_data_frame(self, ethernet_frame: bytes, *, interface: int = 0) -> bytes:
        packet = bytearray(super()._build_data_frame(ethernet_frame, interface=interface))
        if self._spare:
            self._spare -= 1
        else:
            self._bus_data_credit = packet[9] = (self._bus_data_credit - 1) & 0xFF
        return bytes(packet)


class _Chip(Cyw43439):
    """The Wi-Fi chip with the corrected bus."""

    def __init__(self) -> None:
        super().__init__()
        self.bus = _Bus()


class _Network:
    """Our bridge with the interface that rp2040py expects of its network."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring

    def handle_outbound_ethernet_frame(self, frame: bytes) -> None:
        self._wiring.bridge.frame(frame)

    def reset(self) -> None:
        """The board has left the Wi-Fi. The bridge keeps no state to clear."""


class _Keyboard:
    """Console input. rp2040py's USB host answers each read of the board with an empty packet, 33,000 a second, which
    leaves the board no idle time. This one answers only when there is input."""

    def __init__(self, cdc: USBCDC) -> None:
        self._usb = cdc.usb
        self._theirs = self._usb.on_endpoint_read, self._usb.on_reset
        self._usb.on_endpoint_read = self._listens
        self._listening: tuple[int, int] | None = None  # endpoint, and the bytes that it accepts
        self._typed = bytearray()
        self.type = self._typed.extend

    def _listens(self, endpoint: int, size: int) -> None:
        if endpoint:
            self._listening = endpoint, size
        elif self._theirs[0]:
            self._theirs[0](endpoint, size)

    def reset(self) -> None:
        """The board was reset, and so was its USB device."""
        self._listening = None
        if self._theirs[1]:
            self._theirs[1]()

    def poll(self) -> None:
        """Deliver pending input, if the board reads."""
        if self._typed and self._listening:
            endpoint, size = self._listening
            self._listening = None
            self._usb.endpoint_read_done(endpoint, bytes(self._typed[:size]))
            del self._typed[:size]


class Pico:
    """A board; run() powers it on.

    wiring  its network and console
    """

    def __init__(self, arguments: argparse.Namespace, chip: ExternalDevice, put: Callable[[bytes], object]) -> None:
        """
        chip  of the network; its frames go to `wiring.bridge.frame`
        put   takes a frame to it
        """
        spec = BoardSpec(extras=(BootselButton, lambda: chip), image=arguments.image)
        self._device = MicroPythonDevice(board=spec)
        self._mcu: RP2040 = self._device.mcu
        if arguments.flash:
            saved = read_bytes(arguments.flash)
            if len(saved) != _FLASH_BYTES:
                raise ToolError(
                    f"{arguments.flash} is not a saved flash: it has {len(saved):,} bytes, not {_FLASH_BYTES:,}"
                )
            self._mcu.flash[:_FLASH_BYTES] = saved
        self._keyboard = _Keyboard(self._device.cdc)
        self.wiring = Wiring(arguments, put, self._keyboard.type, _PATIENCE)
        self._mcu.usb_ctrl.on_reset = self._reset
        self._device.cdc.on_serial_data = self._said
        self.bus = _insert(arguments, self._mcu) if arguments.card else None
        self._looked = 0.0
        self._offset: float | None = None  # real time minus the board's, once the board is slowed down to real time
        self._alarm = self._mcu.clock.create_alarm(self._poll)
        self._alarm.schedule(_POLL_NS)

    def _reset(self) -> None:
        self._keyboard.reset()

    def _said(self, data: bytes | bytearray) -> None:
        self.wiring.console.said(bytes(data))
        if self._offset is None:  # first output: until here the board may run faster than real time
            self._offset = time.monotonic() - self._mcu.clock.nanos / 1e9

    def _poll(self) -> None:
        wait = 0.0
        if self._offset is not None:
            now = time.monotonic()
            ahead = self._mcu.clock.nanos / 1e9 + self._offset - now
            if ahead < -_LAG:
                self._offset -= ahead + _LAG
            elif ahead > _LEAD:
                wait = ahead
        self.wiring.poll(wait)
        self._keyboard.poll()
        if self.bus and self._mcu.clock.nanos - self._looked > _LOOK_NS:
            self._looked = self._mcu.clock.nanos
            self.bus.card.look()
        if self.wiring.over:
            self._device.stop()
        else:
            self._alarm.schedule(_POLL_NS)

    async def run(self) -> None:
        """Run the board until wiring.over. Raises ToolError."""
        simulator = self._device.simulator
        simulator.bind_loop()
        self._mcu.core.pc = 0x10000000  # flash
        await simulator.execute()

    def flash(self) -> bytes:
        return bytes(self._mcu.flash[:_FLASH_BYTES])


def _insert(arguments: argparse.Namespace, mcu: RP2040) -> sdcard.SpiBus:
    card = sdcard.Card(arguments.card, sdcard.Character.parse(arguments.card_as))
    bus = sdcard.SpiBus(card, arguments.card_spi, arguments.card_cs)
    bus.attach(mcu)
    return bus


class PicoW(Pico):
    """The board with its Wi-Fi."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._chip = chip = _Chip()
        super().__init__(arguments, chip, chip.bus.queue_rx_ethernet_frame)
        chip.bus.nat_bridge = _Network(self.wiring)  # type: ignore[assignment]

    def _reset(self) -> None:
        super()._reset()
        # rp2040py does not reset the Wi-Fi chip, which then does not start again. On the real board it loses power.
        self._chip.bus.power_off()


def run(arguments: argparse.Namespace, kind: Callable[[argparse.Namespace], Pico] = PicoW) -> None:
    """Run a board of that kind."""
    image = read_bytes(arguments.image)
    if image[:8] != _UF2_MAGIC or len(image) % 512:
        raise ToolError(f"{arguments.image} is not a UF2 file")
    board = kind(arguments)
    asyncio.run(board.run())
    if arguments.save_flash:
        write_whole(arguments.save_flash, board.flash(), private=True)


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The arguments of the program of that name."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.{name}", description=description)
    parser.add_argument("image", type=Path, metavar="IMAGE.uf2", help="firmware and filesystem")
    add_arguments(parser)
    parser.add_argument("--flash", type=Path, metavar="FILE", help="start from a flash saved with --save-flash")
    parser.add_argument("--save-flash", type=Path, metavar="FILE", help="save the flash (2 MiB) to FILE at the end")
    parser.add_argument("--card", type=Path, metavar="FILE", help="an SD card; move FILE away to pull it out")
    parser.add_argument("--card-spi", type=int, default=0, metavar="N", help="its SPI (default: %(default)s)")
    parser.add_argument(
        "--card-cs", type=int, default=17, metavar="GPIO", help="its chip select (default: %(default)s)"
    )
    parser.add_argument(
        "--card-as", action="append", default=[], metavar="KEY=VALUE", help="the kind of card (sdcard.Character)"
    )
    return parser


if __name__ == "__main__":
    main(make_parser("picow", __doc__), run)
