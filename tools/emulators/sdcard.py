"""A model of an SD card in SPI mode, and how it hangs on an SPI of the emulated Pico W.

After the SD Association's "Physical Layer Simplified Specification", chapter 7 (SPI mode), 5.3 (CSD) and 4.5 (CRC).
The card is a file: an image of all its blocks. Taken away, the file is the card pulled out; put back, it has to be
started anew. All that a real card takes time for is counted here in bytes on the bus.
"""

import os
from binascii import crc_hqx
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

from rp2040py.gpio_pin import GPIOPinState
from rp2040py.peripherals import dma
from rp2040py.rp2040 import RP2040

from .. import ToolError

BLOCK_BYTES = 512
_IDLE, _ILLEGAL, _CRC, _ADDRESS, _PARAMETER = 0x01, 0x04, 0x08, 0x20, 0x40  # bits of R1
_START, _START_MANY, _STOP_MANY = 0xFE, 0xFC, 0xFD  # tokens
_ACCEPTED, _BAD_CRC = 0x05, 0x0B  # what a card says to a block that it is sent
_OUT_OF_RANGE = 0x08  # a data error token
_SPEED = 0x32  # TRAN_SPEED of a CSD: 25 MHz
_WRITE = {24, 25}


@dataclass
class Character:
    """What kind of card it is, and what is wrong with it.

    kind     "v1", "v2" (both addressed by bytes) or "sdhc" (by blocks)
    answer   bytes before the answer to a command; the specification has up to 8
    start    how often it is asked whether it has started until it has
    access   bytes before the first block of a read
    gap      bytes between two blocks of a read
    busy     bytes that a write takes
    flip     of so many blocks that are read one has a bit flipped; 0 for none
    speed    TRAN_SPEED of its CSD
    """

    kind: str = "sdhc"
    answer: int = 1
    start: int = 20
    access: int = 200
    gap: int = 2
    busy: int = 500
    flip: int = 0
    speed: int = _SPEED

    @classmethod
    def parse(cls, pairs: list[str]) -> "Character":
        """From KEY=VALUE. Raises ToolError."""
        values: dict[str, str | int] = {}
        known = {field.name: str if field.name == "kind" else int for field in fields(cls)}
        for pair in pairs:
            key, _, value = pair.partition("=")
            try:
                values[key] = known[key](value)
            except (KeyError, ValueError):
                raise ToolError(f"a card has no {pair!r}; it has: {', '.join(known)}") from None
        if values.get("kind", "sdhc") not in ("v1", "v2", "sdhc"):
            raise ToolError(f"a card is v1, v2 or sdhc, not {values['kind']}")
        return cls(**values)  # pyright: ignore[reportArgumentType]


def _crc7(data: bytes) -> int:
    crc = 0
    for byte in data:
        for bit in range(7, -1, -1):
            crc <<= 1
            if (byte >> bit ^ crc >> 7) & 1:
                crc ^= 0x09
            crc &= 0x7F
    return crc << 1 | 1


class Card:
    """A card. `select()` is its chip select, `exchange()` the bytes on its two data lines."""

    def __init__(self, path: Path, character: Character | None = None) -> None:
        self._path = path
        self.character = character or Character()
        self._file: BinaryIO | None = None
        self._selected = False
        self._blocks = 0
        self._read = 0  # blocks that were read since the start, for `flip`
        self.commands: list[int] = []  # all that it was given, for tests
        self.clock_between = 0  # bytes that came while it was not selected
        self._reset()
        self.look()

    def look(self) -> None:
        """See whether the file is still there: to be called now and then."""
        there = self._path.is_file()
        if there and not self._file:
            self._file = self._path.open("r+b")
            self._blocks = os.fstat(self._file.fileno()).st_size // BLOCK_BYTES
            if self.character.kind != "sdhc":
                self._blocks = min(self._blocks, 4096 << 9)  # what a C_SIZE of 12 bits can say
            self._reset()
            self._native = True
        elif self._file and not there:
            self._file.close()
            self._file = None

    def _reset(self) -> None:
        self._native = True  # until CMD0 comes with the card selected
        self._idle = True
        self._checks = False  # CMD59
        self._application = False  # CMD55 came
        self._polls = 0
        self._command = bytearray()
        self._out = bytearray()
        self._next: int | None = None  # block that a read goes on with
        self._writing: int | None = None  # block that comes next
        self._many = False
        self._data: bytearray | None = None  # of the block that comes, None before its token

    def select(self, selected: bool) -> None:
        if self._selected and not selected:
            self._command.clear()
        self._selected = selected

    def exchange(self, sent: bytes) -> bytes:
        """What the card says while `sent` comes in."""
        if not self._selected:
            self.clock_between += len(sent)
            return b"\xff" * len(sent)
        if not self._file:
            return b"\xff" * len(sent)
        answer = bytearray()
        at = 0
        while at < len(sent):
            if not self._command and self._writing is None and sent.count(0xFF, at) == len(sent) - at:
                answer += self._say(len(sent) - at)
                break
            answer += self._say(1)
            self._take(sent[at])
            at += 1
        return bytes(answer)

    def _say(self, count: int) -> bytes:
        while len(self._out) < count and self._next is not None:
            self._out += self._block(self._next, self.character.gap)
            if self._next is not None:
                self._next += 1
        said = bytes(self._out[:count])
        del self._out[:count]
        return said.ljust(count, b"\xff")

    def _block(self, number: int, gap: int) -> bytes:
        assert self._file
        if number >= self._blocks:
            self._next = None
            return b"\xff" * gap + bytes((_OUT_OF_RANGE,))
        self._file.seek(number * BLOCK_BYTES)
        return b"\xff" * gap + self._framed(self._file.read(BLOCK_BYTES))

    def _framed(self, data: bytes) -> bytes:
        crc = crc_hqx(data, 0)
        self._read += 1
        if self.character.flip and self._read % self.character.flip == 0:
            wrong = bytearray(data)
            wrong[self._read * 7 % len(data)] ^= 1 << self._read % 8
            data = bytes(wrong)
        return bytes((_START,)) + data + crc.to_bytes(2, "big")

    def _take(self, byte: int) -> None:
        if self._writing is not None and not self._command:
            if self._data is not None:
                self._data.append(byte)
                if len(self._data) == BLOCK_BYTES + 2:
                    self._write(bytes(self._data))
                return
            if byte == (_START_MANY if self._many else _START):
                self._data = bytearray()
                return
            if self._many and byte == _STOP_MANY:
                self._writing = None
                self._out += b"\xff" + bytes(self.character.busy)
                return
        if self._command or byte & 0xC0 == 0x40:
            self._command.append(byte)
            if len(self._command) == 6:
                command = bytes(self._command)
                self._command.clear()
                self._obey(command)

    def _write(self, data: bytes) -> None:
        assert self._file and self._writing is not None
        self._data = None
        right = not self._checks or crc_hqx(data[:-2], 0).to_bytes(2, "big") == data[-2:]
        if right:
            self._file.seek(self._writing * BLOCK_BYTES)
            self._file.write(data[:-2])
            self._file.flush()
        self._out += bytes((0xE0 | (_ACCEPTED if right else _BAD_CRC),)) + bytes(self.character.busy if right else 0)
        self._writing = self._writing + 1 if self._many else None

    def _obey(self, command: bytes) -> None:
        number, argument = command[0] & 0x3F, int.from_bytes(command[1:5], "big")
        application, self._application = self._application, False
        if self._native and number != 0:
            return  # it does not listen to SPI yet
        self._out.clear()
        self._next = None
        right = _crc7(command[:5]) == command[5]
        if number == 0 and right:
            self._reset()
            self._native = False
        self.commands.append(number)
        if number == 12:
            self._out += b"\x7f"  # a stuff byte, which is no answer
        self._out += b"\xff" * self.character.answer
        if not right and (self._checks or number in (0, 8)):
            self._out.append(_CRC | self._idle)
            return
        handler = getattr(self, f"_{'acmd' if application else 'cmd'}{number}", None)
        if self._idle and number not in (0, 8, 55, 58, 59, 41):
            handler = None
        if handler:
            handler(argument)
        else:
            self._out.append(_ILLEGAL | self._idle)

    def _ok(self) -> None:
        self._out.append(int(self._idle))

    def _cmd0(self, _: int) -> None:
        self._ok()

    def _cmd8(self, argument: int) -> None:
        if self.character.kind == "v1":
            self._out.append(_ILLEGAL | self._idle)
        else:
            self._out += bytes((self._idle, 0, 0, argument >> 8 & 0xF, argument & 0xFF))

    def _cmd9(self, _: int) -> None:
        self._ok()
        csd = bytearray(16)
        csd[3] = self.character.speed
        if self.character.kind == "sdhc":
            csd[0] = 0x40
            csd[5] = 9
            csd[7:10] = (self._blocks // 1024 - 1).to_bytes(3, "big")
        else:
            # READ_BL_LEN 9, and C_SIZE_MULT as small as C_SIZE allows.
            multiplier = next(m for m in range(8) if self._blocks >> (m + 2) <= 4096)
            size = (self._blocks >> (multiplier + 2)) - 1
            csd[5] = 9
            csd[6], csd[7], csd[8] = size >> 10, size >> 2 & 0xFF, size << 6 & 0xC0
            csd[9], csd[10] = multiplier >> 1, multiplier << 7 & 0x80
        csd[15] = _crc7(bytes(csd[:15]))
        self._out += b"\xff" * self.character.gap + self._framed(bytes(csd))

    def _cmd10(self, _: int) -> None:
        self._ok()
        self._out += b"\xff" * self.character.gap + self._framed(b"\x03MPMODEL\x10\0\0\0\0\0\0\1")

    def _cmd12(self, _: int) -> None:
        self._ok()
        self._out += bytes(4)  # busy for a moment

    def _cmd13(self, _: int) -> None:
        self._ok()
        self._out.append(0)

    def _cmd16(self, argument: int) -> None:
        self._out.append(0 if argument == BLOCK_BYTES else _PARAMETER)

    def _at(self, argument: int) -> int | None:
        """The block that is addressed; without one the answer has been given."""
        number, rest = (argument, 0) if self.character.kind == "sdhc" else divmod(argument, BLOCK_BYTES)
        if rest or number >= self._blocks:
            self._out.append(_ADDRESS if rest else _PARAMETER)
            return None
        self._ok()
        return number

    def _cmd17(self, argument: int) -> None:
        if (number := self._at(argument)) is not None:
            self._out += self._block(number, self.character.access)

    def _cmd18(self, argument: int) -> None:
        if (number := self._at(argument)) is not None:
            self._next = number + 1
            self._out += self._block(number, self.character.access)

    def _cmd24(self, argument: int) -> None:
        self._writing, self._many = self._at(argument), False

    def _cmd25(self, argument: int) -> None:
        self._writing, self._many = self._at(argument), True

    def _cmd55(self, _: int) -> None:
        self._application = True
        self._ok()

    def _acmd41(self, argument: int) -> None:
        self._polls += 1
        if self._polls > self.character.start and (self.character.kind != "sdhc" or argument >> 30 & 1):
            self._idle = False
        self._ok()

    def _cmd58(self, _: int) -> None:
        self._ok()
        started = 0 if self._idle else 0x80
        self._out += bytes((started | (0x40 if self.character.kind == "sdhc" else 0), 0xFF, 0x80, 0))

    def _cmd59(self, argument: int) -> None:
        self._checks = bool(argument & 1)
        self._ok()


# The SPI of the RP2040. rp2040py 0.3.6 answers each byte at once and copies memory in no time; here both take the time
# that they take on the chip. It knows no sniffer. Bytes go from memory to the card and back some at a
# time, at the end of the time that they take.

_SNIFF_EN = 1 << 23
_SNIFF_CRC16 = 2
_CYCLE_NS = 8
_PIECE = 64  # bytes that go between memory and card in one step
_SNIFF_CTRL, _SNIFF_DATA = dma.SNIFF_CTRL, dma.SNIFF_DATA
_RAM = 0x20000000
_CLK_PERI_CTRL = 0x48
_FROM_USB = 2


class _Dma(dma.RPDMA):
    """With the sniffer, for CRC-16-CCITT alone, and the card on its SPI."""

    bus: "SpiBus"
    sniff_ctrl = 0
    sniff_data = 0

    def read_uint32(self, offset: int) -> int:
        if offset == _SNIFF_CTRL:
            return self.sniff_ctrl
        return self.sniff_data if offset == _SNIFF_DATA else super().read_uint32(offset)

    def write_uint32(self, offset: int, value: int) -> None:
        if offset == _SNIFF_CTRL:
            self.sniff_ctrl = value
        elif offset == _SNIFF_DATA:
            self.sniff_data = value
        else:
            super().write_uint32(offset, value)

    def sniff(self, channel: int, data: bytes) -> None:
        if self.sniff_ctrl & 1 and self.sniff_ctrl >> 1 & 0xF == channel:
            assert self.sniff_ctrl >> 5 & 0xF == _SNIFF_CRC16, "a sum that this model does not know"
            self.sniff_data = crc_hqx(data, self.sniff_data & 0xFFFF)


class _Channel(dma.RPDMAChannel):
    """Whose transfers between memory, and with the card, are done in one step."""

    dma: _Dma

    def schedule_transfer(self) -> None:
        if self._treq_value in (self.dma.bus.spi.dreq.tx, self.dma.bus.spi.dreq.rx):
            self.dma.bus.burst()
        elif self._ctrl & _SNIFF_EN and self._treq_value == dma.TREQ.PERMANENT and self._data_size == 1:
            self.rp2040.clock.create_alarm(self._copied).schedule(self._trans_count * _CYCLE_NS)
        else:
            super().schedule_transfer()

    def abort(self) -> None:
        super().abort()
        if self._treq_value in (self.dma.bus.spi.dreq.tx, self.dma.bus.spi.dreq.rx):
            self.dma.bus.abort()

    def take(self, count: int) -> bytes:
        """The next `count` bytes of what it reads."""
        if not self._ctrl & dma.INCR_READ:
            return bytes((self.rp2040.read_uint8(self._read_addr),)) * count
        data = bytearray()
        ring = not self._ctrl & dma.RING_SEL and self._ring_mask
        while len(data) < count:
            at, part = self._piece(self._read_addr, count - len(data), ring)
            if at < _RAM:
                data += bytes(self.rp2040.read_uint8(at + i) for i in range(part))
            else:
                data += self.rp2040.sram[at - _RAM : at - _RAM + part]
            self._read_addr = self._moved(at, part, ring)
        return bytes(data)

    def put(self, data: bytes) -> None:
        """Write it where it is to go."""
        if not self._ctrl & dma.INCR_WRITE:
            self.rp2040.write_uint8(self._write_addr, data[-1])
            return
        ring = self._ctrl & dma.RING_SEL and self._ring_mask
        done = 0
        while done < len(data):
            at, part = self._piece(self._write_addr, len(data) - done, ring)
            assert 0 <= at - _RAM <= len(self.rp2040.sram) - part, hex(at)
            self.rp2040.sram[at - _RAM : at - _RAM + part] = data[done : done + part]
            self._write_addr = self._moved(at, part, ring)
            done += part

    @staticmethod
    def _piece(at: int, count: int, ring: int) -> tuple[int, int]:
        return at, min(count, ring + 1 - (at & ring)) if ring else count

    @staticmethod
    def _moved(at: int, count: int, ring: int) -> int:
        return at & ~ring | at + count & ring if ring else at + count

    def done(self, count: int) -> None:
        """So many transfers are done: what RPDMAChannel.transfer() does after the last."""
        self._trans_count -= count
        if not self._trans_count:
            self._ctrl &= ~dma.BUSY
            if not self._ctrl & dma.IRQ_QUIET:
                self.dma.int_raw |= 1 << self.index
                self.dma.check_interrupts()
            if self._chain_to != self.index:
                self.dma.channels[self._chain_to].start()

    @property
    def left(self) -> int:
        return self._trans_count

    def _copied(self) -> None:
        data = self.take(self._trans_count)
        self.put(data)
        self.dma.sniff(self.index, data)
        self.done(len(data))


class SpiBus:
    """An SPI of the Pico W with a card on it: an ExternalDevice of rp2040py."""

    def __init__(self, card: Card, number: int, cs: int) -> None:
        """`number` of the SPI; `cs`: the GPIO that selects the card."""
        self.card = card
        self._number = number
        self._cs = cs
        self._bursting = False

    def attach(self, rp2040: RP2040) -> None:
        self._mcu = rp2040
        self.spi = rp2040.spi[self._number]
        self.spi.on_transmit = self._byte
        rp2040.gpio[self._cs].add_listener(lambda state, _: self.card.select(state == GPIOPinState.LOW))
        controller = rp2040.dma
        controller.__class__ = _Dma
        controller.bus = self  # type: ignore[attr-defined]
        for channel in controller.channels:
            channel.__class__ = _Channel
        self._answer = 0
        self._byte_alarm = rp2040.clock.create_alarm(lambda: self.spi.complete_transmit(self._answer))
        self._burst_alarm = rp2040.clock.create_alarm(self._burst_done)

    @property
    def hz(self) -> float:
        """Its clock."""
        # rp2040py takes clk_peri for that of the processor; MicroPython takes it from the USB's PLL: 48 MHz.
        usb = self._mcu.clocks.read_uint32(_CLK_PERI_CTRL) >> 5 & 7 == _FROM_USB
        return self.spi.clock_frequency * (48e6 / self._mcu.clk_peri if usb else 1)

    def _ns(self, count: int) -> float:
        return count * self.spi.data_bits * 1e9 / self.hz

    def _byte(self, value: int) -> None:
        self._answer = self.card.exchange(bytes((value,)))[0]
        self._byte_alarm.schedule(self._ns(1))

    def _pair(self) -> list[_Channel]:
        active = [channel for channel in self._mcu.dma.channels if channel.active]
        both = [[one for one in active if one.treq == treq] for treq in (self.spi.dreq.tx, self.spi.dreq.rx)]
        return [one[0] for one in both if one]  # type: ignore[misc]

    def burst(self) -> None:
        """One of the two channels is ready: when both are, their transfer takes its time."""
        pair = self._pair()
        if len(pair) == 2 and not self._bursting and self.spi.enabled:
            self._bursting = True
            self._burst_alarm.schedule(self._ns(min(_PIECE, *(one.left for one in pair))))

    def abort(self) -> None:
        self._bursting = False
        self._burst_alarm.cancel()

    def _burst_done(self) -> None:
        self._bursting = False
        pair = self._pair()
        if len(pair) == 2:
            sender, receiver = pair
            count = min(_PIECE, sender.left, receiver.left)
            receiver.put(self.card.exchange(sender.take(count)))
            sender.done(count)
            receiver.done(count)
            self.burst()
