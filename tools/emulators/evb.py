"""A WIZnet W5500-EVB-Pico with its genuine firmware, in rp2040py with a model of its Ethernet chip (w5500.py).

The chip is on SPI 0 as on the board. Transfers on the SPI and frames on the wire take as much of the board's time as on
hardware. SIGUSR1 disconnects the cable, or connects it again.
"""

import argparse
import functools
import signal
from collections.abc import Callable

from rp2040py.gpio_pin import GPIOPinState
from rp2040py.peripherals.dma import CHN_READ_ADDR, CHN_WRITE_ADDR, INCR_WRITE, DREQChannel, RPDMAChannel
from rp2040py.rp2040 import RAM_START_ADDRESS, RP2040

from . import main, picow
from .w5500 import W5500

_SPI = 0
_CS, _RST, _INT = 17, 20, 21  # GPIO
_TX, _RX = DREQChannel.DREQ_SPI0_TX, DREQChannel.DREQ_SPI0_RX
_BYTE_NS = 1000  # while the SPI has no clock set
_AUXSRC, _PLL_USB, _USB_HZ = 0xE0, 0x40, 48e6  # of CLK_PERI_CTRL (RP2040 datasheet, 2.15.7)


class _Chip:
    """The W5500 at the board's pins, an ExternalDevice of rp2040py.

    to_wire  takes the frames that the chip sends
    """

    def __init__(self) -> None:
        self.to_wire: Callable[[bytes], object] = lambda frame: None

    def attach(self, rp2040: RP2040) -> None:
        self._mcu = rp2040
        self._clock = rp2040.clock
        self._spi = rp2040.spi[_SPI]
        self._selected = False
        self._answer = 0
        self._transmitted = self._clock.create_alarm(lambda: self._spi.complete_transmit(self._answer))
        self._spi.on_transmit = self._transmit
        interrupt = rp2040.gpio[_INT]
        interrupt.set_input_value(True)
        self.chip = W5500(lambda frame: self.to_wire(frame), interrupt.set_input_value, self._later)
        rp2040.gpio[_CS].add_listener(self._select)
        rp2040.gpio[_RST].add_listener(lambda now, before: self.chip.reset() if now == GPIOPinState.LOW else None)
        for channel in rp2040.dma.channels:
            channel.schedule_transfer = functools.partial(self._schedule, channel, channel.schedule_transfer)

    def _later(self, ns: float, do: Callable[[], None]) -> None:
        self._clock.create_alarm(do).schedule(ns)

    def put(self, frame: bytes) -> None:
        self.chip.put(frame)

    def _select(self, now: GPIOPinState, before: GPIOPinState) -> None:
        self._selected = now == GPIOPinState.LOW
        # The driver looks at this pin to know whether the bus is free; rp2040py does not read an output back.
        self._mcu.gpio[_CS].set_input_value(not self._selected)
        self.chip.release()

    def _byte_ns(self) -> float:
        """Time of a byte on the SPI. rp2040py assumes that the clock of the SPI is 125 MHz; MicroPython takes the one
        of the USB."""
        frequency = self._spi.clock_frequency
        if self._mcu.clocks.peri_ctrl & _AUXSRC == _PLL_USB:
            frequency *= _USB_HZ / self._mcu.clk_peri
        return 8e9 / frequency if frequency else _BYTE_NS

    def _transmit(self, value: int) -> None:
        self._answer = self.chip.exchange(bytes((value,)))[0] if self._selected else 0
        self._transmitted.schedule(self._byte_ns())

    def _schedule(self, channel: RPDMAChannel, theirs: Callable[[], None]) -> None:
        """In place of schedule_transfer() of a DMA channel. MicroPython's driver starts two channels together, one for
        each direction of the SPI. All bytes but the last are then exchanged at once, because to emulate them one by one
        takes four times as long (a datagram of 1,472 bytes: 63 ms, not 17).

        The processor only waits meanwhile, as on hardware, where the driver disables interrupts.
        """
        if self._selected and channel.treq in (_TX, _RX):
            busy = {one.treq: one for one in self._mcu.dma.channels if one.active}
            tx, rx = busy.get(_TX), busy.get(_RX)
            if tx and rx and tx._trans_count == rx._trans_count > 1:
                self._burst(tx, rx, tx._trans_count - 1)
        theirs()

    def _burst(self, tx: RPDMAChannel, rx: RPDMAChannel, count: int) -> None:
        read, write = tx.read_uint32(CHN_READ_ADDR), rx.read_uint32(CHN_WRITE_ADDR)
        answer = self.chip.exchange(bytes(self._mcu.read_uint8(read + at) for at in range(count)))
        tx.write_uint32(CHN_READ_ADDR, read + count)
        if rx._ctrl & INCR_WRITE:
            start = write - RAM_START_ADDRESS
            self._mcu.sram[start : start + count] = answer
            rx.write_uint32(CHN_WRITE_ADDR, write + count)
        tx._trans_count = rx._trans_count = 1
        self._clock.tick(count * self._byte_ns())


class Evb(picow.Pico):
    """The board."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        chip = _Chip()
        super().__init__(arguments, chip, chip.put)
        chip.to_wire = self.wiring.bridge.frame
        self._chip = chip
        signal.signal(signal.SIGUSR1, self._toggle_cable)

    def _toggle_cable(self, *_: object) -> None:
        self._chip.chip.link = not self._chip.chip.link


if __name__ == "__main__":
    main(picow.make_parser("evb", __doc__), functools.partial(picow.run, kind=Evb))
