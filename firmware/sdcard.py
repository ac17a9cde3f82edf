"""SD cards over SPI on an RP2, whose MicroPython has no driver: a block device.

After the SD Association's "Physical Layer Simplified Specification": chapter 7 (SPI mode), 5.3
(CSD), 4.5 (CRC). All that is read from a card, and written to it, is guarded by its CRC-16. The
sniffer of the DMA counts it while the DMA copies: Python would take 2 ms a block.

Blocks that follow each other are read with one command. The DMA reads on into a ring while the
server does something else. No card says how long it waits before each block, so blocks are found
in what it says, copied, and their sum compared. That takes a Pico W 70 us a block, and the bus at
24 MHz 172.
"""

from time import ticks_diff, ticks_ms

from micropython import const

_BLOCK = const(512)
_FRAMED = const(514)  # a block and its CRC
_RING = const(16384)  # bytes; a power of two
_RING_BITS = const(14)
_REFILL = const(8192)  # bytes of the ring that are free when more is asked for
_MOST = const(0x0FFFFFFF)  # bytes that the receiver is told to expect, as many as it can count
_LONGEST = const(0x0F000000)  # bytes of one command, after which there is a new one
_AHEAD = const(4)  # a read of so many blocks is likely to go on with the next
_FIRST_HZ = const(400_000)  # until the card has started
_POLLS = const(600)  # for an answer: 8 by the specification, hundreds with some cards
_READ_MS = const(300)  # for a block: 100 by the specification
_WRITE_MS = const(1000)  # 500
_TRIES = const(3)
_IDLE = const(1)  # bits of R1
_ILLEGAL = const(4)
_FREE = const(0xFF)  # what is read from a line on which nobody says anything
_ACCEPTED = const(5)
_EIO = const(5)
_ENODEV = const(19)
_SPEEDS = b"\x00\x0a\x0c\x0d\x0f\x14\x19\x1e\x23\x28\x2d\x32\x37\x3c\x46\x50"  # of TRAN_SPEED
_CRC7 = b"\x00\x12\x24\x36\x48\x5a\x6c\x7e\x90\x82\xb4\xa6\xd8\xca\xfc\xee"  # by four bits
# Registers of a channel of DMA; the last three start it.
_WRITE_ADDR = const(1)
_COUNT = const(2)
_CONTROL = const(4)
_COUNT_TRIG = const(7)
_WRITE_ADDR_TRIG = const(11)
_READ_ADDR_TRIG = const(15)


def _aligned(size, address):
    """A bytearray of `size`, a power of two, at a multiple of it, as a ring of the DMA has to be.
    Raises MemoryError."""
    import gc

    fillers = []
    for _ in range(8):
        gc.collect()
        ring = bytearray(size)
        away = -address(ring) & (size - 1)
        if not away:
            return ring
        ring = None
        gc.collect()
        fillers.append(bytearray(away))
    raise MemoryError


class Bus:
    """The SPI of an RP2, its DMA, and the pin that selects the card.

    ring       what the receiver fills, round and round
    receives   registers of the channel from the SPI into the ring
    copies     likewise, from there to where a block is to go
    asked      bytes that were asked for since start()
    mem, sum   mem[sum] is the CRC-16 of what was copied since it was set

    The SPI clocks only while something is sent. Two channels take turns to send ones to it: while
    one sends, the other is told how many come next, and the end of the first starts it.
    """

    def __init__(self, settings):
        """`settings`: spi, sck, mosi, miso, cs of docs/settings.md. Raises ValueError of wrong
        pins, OSError without a channel of DMA, MemoryError."""
        from os import uname

        from machine import SPI, Pin, mem32
        from rp2 import DMA
        from uctypes import addressof

        number = settings.get("spi", 0)
        sck, mosi, miso = [Pin(settings[name]) for name in ("sck", "mosi", "miso")]
        miso.init(Pin.IN, Pin.PULL_UP)  # without a card it is to be high
        self._select = Pin(settings["cs"], Pin.OUT, value=1).value
        spi = SPI(number, _FIRST_HZ, sck=sck, mosi=mosi, miso=miso)
        self.init = spi.init
        self.write = spi.write
        self.readinto = spi.readinto
        self.address = addressof
        self.mem = mem32
        # Addresses of the RP2040 or RP2350, from their datasheets: the data register of the SPI,
        # and SNIFF_DATA, behind SNIFF_CTRL.
        if "RP2350" in uname().machine:
            data = 0x40080008 + 0x8000 * number
            treq = 24 + 2 * number
            self._busy = 1 << 26
            self.sum = 0x50000458
        else:
            data = 0x4003C008 + 0x4000 * number
            treq = 16 + 2 * number
            self._busy = 1 << 24
            self.sum = 0x50000438
        self.ring = ring = _aligned(_RING, addressof)
        receiver, self._copier, *senders = [DMA() for _ in range(4)]
        self._stream = [receiver] + senders
        control = receiver.pack_ctrl(
            size=0, inc_read=False, ring_sel=True, ring_size=_RING_BITS, treq_sel=treq + 1
        )
        receiver.config(read=data, write=ring, ctrl=control)
        self._senders = []  # (registers, control word, the same with a chain to the other one)
        for one, other in (senders, senders[::-1]):
            how = {"size": 0, "inc_read": False, "inc_write": False, "treq_sel": treq}
            control = one.pack_ctrl(**how)
            one.config(read=b"\xff", write=data, ctrl=control)
            chained = one.pack_ctrl(chain_to=other.channel, **how)  # pyright: ignore[reportAttributeAccessIssue]
            self._senders.append((one.registers, control, chained))  # pyright: ignore[reportAttributeAccessIssue]
        control = self._copier.pack_ctrl(size=0, ring_size=_RING_BITS, sniff_en=True)
        self._copier.config(count=_BLOCK, ctrl=control)
        mem32[self.sum - 4] = 2 << 5 | self._copier.channel << 1 | 1  # CRC-16-CCITT  # pyright: ignore[reportAttributeAccessIssue]
        self.receives, self.copies = receiver.registers, self._copier.registers  # pyright: ignore[reportAttributeAccessIssue]

    def start(self, size):
        """Receive `size` bytes into the ring, from its start on."""
        self.receives[_WRITE_ADDR] = self.address(self.ring)
        self.receives[_COUNT_TRIG] = _MOST
        self._senders[0][0][_COUNT_TRIG] = self.asked = size

    def ask(self, size):
        """Receive `size` bytes more, after those that are coming; does nothing while as many
        orders as there are channels are under way."""
        busy = self._busy
        (sends, _, chained), (spare, control, _) = self._senders
        if not spare[_CONTROL] & busy:
            spare[_CONTROL] = control
            spare[_COUNT] = size
            sends[_CONTROL] = chained
            # Its end came before the chain: nothing has started the other one.
            if not sends[_CONTROL] & busy and not spare[_CONTROL] & busy:
                spare[_COUNT_TRIG] = size
            self._senders.reverse()
            self.asked += size

    def stop(self):
        """Nothing comes into the ring any more."""
        for sends, control, _ in self._senders:  # first, or the end of one could start the other
            sends[_CONTROL] = control
        for channel in self._stream:
            channel.active(False)

    def select(self, on):
        """Select the card; or let go of it, and clock once more, for it goes on till then."""
        self._select(not on)
        if not on:
            self.write(b"\xff")

    def crc(self, buffer, start):
        """The CRC-16 of a block in `buffer`."""
        self.mem[self.sum] = 0
        copier = self._copier
        ring = copier.ctrl  # pyright: ignore[reportAttributeAccessIssue]
        copier.ctrl = copier.pack_ctrl(size=0, inc_write=False, sniff_en=True)  # pyright: ignore[reportAttributeAccessIssue]
        self.copies[_WRITE_ADDR] = self.address(self.ring)
        self.copies[_READ_ADDR_TRIG] = self.address(buffer) + start
        while self.copies[_COUNT]:
            pass
        crc = self.mem[self.sum] & 0xFFFF
        copier.ctrl = ring  # pyright: ignore[reportAttributeAccessIssue]
        return crc


class SDCard:
    """A card on a `bus`; a new one each time that a card is put in.

    blocks  that it has; 0 before ready(), and after close()
    hz      its clock
    """

    def __init__(self, bus, most=25_000_000, shared=False):
        """Begin to start the card.

        most    Hz at most
        shared  others use the bus too, so nothing is read ahead

        Raises OSError if there is none.
        """
        self.blocks = 0
        self.hz = most
        self._bus = bus
        self._shared = shared
        self._one = bytearray(1)
        self._frame = bytearray(6)
        self._kept = bytearray(_BLOCK)  # the last block that was read by itself: of FAT's table
        self._kept_number = -2
        self._last = -2  # the last block that was read otherwise
        self._next = -1  # the block that comes next in the ring, -1 while nothing is read
        self._ahead = False  # fill the ring from the first call on, not from the second
        self._opened = False  # set by _open() for _taking()
        self._go = None  # has blocks taken: send() of the generator _taking()
        self._seen = -1  # _next as present() saw it
        self._shift = 9  # of addresses; 0 where they are counted in blocks
        bus.init(baudrate=_FIRST_HZ)
        for _ in range(10):  # 74 clocks at least
            bus.select(False)
        for _ in range(_TRIES):  # the first may meet it in the middle of a block
            try:
                answer = self._command(0)
            except OSError:
                answer = -1
            bus.select(False)
            if answer == _IDLE:
                break
        else:
            raise OSError(_ENODEV, "no card answers")
        self._v2 = not self._command(8, 0x1AA) & _ILLEGAL
        bus.select(False)
        self._command(59, 1)  # it checks CRCs too
        bus.select(False)

    def ready(self, ms):
        """Wait at most `ms` until the card has started; returns True once it has. Raises
        OSError."""
        bus = self._bus
        begun = ticks_ms()
        while True:
            self._command(55)
            bus.select(False)
            answer = self._command(41, 0x40000000 if self._v2 else 0)
            bus.select(False)
            if not answer:
                break
            if answer != _IDLE:
                raise OSError(_EIO, "it does not start")
            if ticks_diff(ticks_ms(), begun) >= ms:
                return False
        csd = bytearray(16)
        if self._v2:
            self._command(58)
            bus.readinto(self._one, _FREE)
            if self._one[0] & 0x40:
                self._shift = 0
            bus.select(False)
        if self._shift:
            self._command(16, _BLOCK)
            bus.select(False)
        self._open(9, 0)
        bus.copies[_COUNT] = 16
        self._take(csd, 16)
        self._go = None
        bus.copies[_COUNT] = _BLOCK
        self._stopped()
        speed = csd[3]
        self.hz = min(self.hz, 10_000 * 10 ** (speed & 7) * _SPEEDS[speed >> 3 & 15])
        bus.init(baudrate=self.hz)
        if csd[0] >> 6:
            blocks = ((csd[7] & 0x3F) << 16 | csd[8] << 8 | csd[9]) + 1 << 10
        else:
            blocks = ((csd[6] & 3) << 10 | csd[7] << 2 | csd[8] >> 6) + 1
            blocks <<= ((csd[9] & 3) << 1 | csd[10] >> 7) + 2 + (csd[5] & 15) - 9
        self.blocks = blocks
        return True

    def present(self):
        """True if the card is still there. To be called now and then."""
        if self._next != self._seen:  # it has been read from
            self._seen = self._next
            return True
        try:
            self._stop()
            self._seen = -1
            self._command(13)
            self._bus.readinto(self._one, _FREE)
            return True
        except OSError:
            return False
        finally:
            self._bus.select(False)

    def close(self):
        """Nothing is read or written any more: what was opened on this card is not to see the
        next."""
        self._stopped()
        self.blocks = 0

    # -- MicroPython's block device

    def readblocks(self, number, buffer):
        """Read blocks from `number` on. Raises OSError."""
        if number == self._next:
            try:
                self._go(buffer)  # pyright: ignore[reportOptionalCall]
                return
            except OSError:  # from the start, and more than once
                self._stop()
        else:
            if not self.blocks:
                raise OSError(_ENODEV, "card: pulled out")
            if len(buffer) == _BLOCK and not self._follows(number):
                if number != self._kept_number:
                    self._again(number, self._kept)
                buffer[:] = self._kept
                return
        self._again(number, buffer)
        if self._shared:
            self._stop()

    def writeblocks(self, number, buffer):
        """Write blocks from `number` on. Raises OSError."""
        if not self.blocks:
            raise OSError(_ENODEV, "card: pulled out")
        self._stop()
        self._kept_number = -2
        view = memoryview(buffer)
        for start in range(0, len(buffer), _BLOCK):
            crc = self._bus.crc(buffer, start)
            tries = _TRIES
            while tries:
                tries -= 1
                try:
                    self._write(number << self._shift, view[start : start + _BLOCK], crc)
                    break
                except OSError:
                    if not tries:
                        raise
                finally:
                    self._bus.select(False)
            number += 1

    def ioctl(self, operation, argument):
        """What docs.micropython.org, "class AbstractBlockDev", asks for."""
        if operation == 4:
            return self.blocks
        if operation == 5:
            return _BLOCK
        if operation == 2 or operation == 3:
            self._stop()
        return 0

    # -- what goes over the bus

    def _again(self, number, buffer):
        """Read blocks from `number` on, in more than one go if one is damaged. A block that is
        read into `_kept` is alone."""
        alone = buffer is self._kept
        end = number + len(buffer) // _BLOCK
        tries = _TRIES
        while number < end:
            try:
                if number != self._next:
                    self._stop()
                    self._kept_number = -2 if alone else self._kept_number
                    self._ahead = not alone and (self._follows(number) or end - number >= _AHEAD)
                    self._next = number
                    self._open(17 if alone else 18, number << self._shift)
                self._take(buffer)
                number = end
            except OSError:
                tries -= 1
                if self._next > number:
                    buffer = memoryview(buffer)[(self._next - number) * _BLOCK :]
                    number = self._next
                self._stop()
                if not tries:
                    raise
        if alone:
            self._stopped()
            self._kept_number = end - 1

    def _follows(self, number):
        return number - 1 == self._last or number - 1 == self._kept_number

    def _write(self, where, block, crc):
        bus = self._bus
        one = self._one
        self._accepted(self._command(24, where))
        bus.write(b"\xff\xfe")
        bus.write(block)
        bus.write(bytes((crc >> 8, crc & 255)))
        for _ in range(_POLLS):
            bus.readinto(one, _FREE)
            if one[0] & 0x11 == 1:
                break
        answer = one[0] & 0x1F
        self._wait()
        if answer != _ACCEPTED:
            raise OSError(_EIO, "card: block not taken, answer %#x" % answer)
        self._accepted(self._command(13))
        bus.readinto(one, _FREE)
        if one[0]:
            raise OSError(_EIO, "card: not written, status %#x" % one[0])

    def _command(self, number, argument=0):
        """Send a command; returns R1. The card stays selected. Raises OSError."""
        bus = self._bus
        frame = self._frame
        frame[0] = 0x40 | number
        crc = 0
        for at in range(5):
            if at:
                frame[at] = argument >> 32 - 8 * at & 255
            crc ^= frame[at]
            crc = crc << 4 & 255 ^ _CRC7[crc >> 4]
            crc = crc << 4 & 255 ^ _CRC7[crc >> 4]
        frame[5] = crc | 1
        bus.select(True)
        if number and number != 12:
            self._wait()
        bus.write(frame)
        one = self._one
        if number == 12:
            bus.readinto(one, _FREE)  # the byte that was under way
        for _ in range(_POLLS):
            bus.readinto(one, _FREE)
            if one[0] < 0x80:
                return one[0]
        raise OSError(_ENODEV, "card: no answer")

    def _accepted(self, answer):
        if answer:
            raise OSError(_EIO, "card: refused, answer %#x" % answer)

    def _wait(self):
        """While the card is busy."""
        one = self._one
        begun = ticks_ms()
        while True:
            self._bus.readinto(one, _FREE)
            if one[0] == _FREE:
                return
            if ticks_diff(ticks_ms(), begun) > _WRITE_MS:
                raise OSError(_EIO, "card: busy for %d ms" % _WRITE_MS)

    def _open(self, command, argument):
        """Have the card read on from there, into the ring from its start."""
        self._accepted(self._command(command, argument))
        self._bus.start(_RING if self._ahead else _FRAMED + 1)
        self._opened = True

    def _come(self, taken, least):
        """Wait until there are `least` bytes behind the first `taken`; returns how many there
        are."""
        bus = self._bus
        while True:
            have = _MOST - bus.receives[_COUNT] - taken
            if have >= least:
                return have
            short = least - bus.asked + taken
            if short > 0:
                bus.ask(short)

    def _take(self, buffer, size=_BLOCK):
        """Fill `buffer` with the next blocks of `size` bytes."""
        if not self._go:
            taking = self._taking(size)
            next(taking)
            self._go = taking.send
        self._go(buffer)

    def _taking(self, size):
        """The generator behind _take(). Hot path, 70 us a block, so what is the same each time is
        set once, state is in local variables, and no function is called that need not be."""
        bus = self._bus
        ring = bus.ring
        address_of = bus.address
        base = address_of(ring)
        receives = bus.receives
        copies = bus.copies
        mem = bus.mem
        total = bus.sum
        least = size + 3  # token and CRC
        ahead = False  # read on, as much as the ring holds
        taken = 0  # bytes that were looked at since _open()
        while True:
            buffer = yield
            address = address_of(buffer)
            end = address + len(buffer)
            if self._opened:
                self._opened = False
                ahead = self._ahead
                taken = 0
            begun = None
            self._next += (end - address) // size
            try:
                if taken > _LONGEST:
                    raise OSError(_EIO, "card: a new command is due")
                while address < end:
                    have = _MOST - receives[_COUNT] - taken
                    if have < least:
                        have = self._come(taken, least)
                    at = taken & _RING - 1
                    found = ring.find(b"\xfe", at, at + have)
                    if found < 0:
                        left = at + have - _RING
                        if left > 0:
                            found = ring.find(b"\xfe", 0, left)
                        if found < 0:  # nothing so far
                            taken += have
                            begun = begun or ticks_ms()
                            if ticks_diff(ticks_ms(), begun) > _READ_MS:
                                raise OSError(_EIO, "card: no block comes")
                            continue
                        found += _RING
                    left = found + least - at  # up to the end of its CRC
                    if have < left:
                        self._come(taken, left)
                    taken += left
                    mem[total] = 0
                    copies[_WRITE_ADDR] = address
                    found += 1
                    copies[_READ_ADDR_TRIG] = base + (found & _RING - 1)
                    at = found + size & _RING - 1
                    crc = ring[at] << 8 | ring[at + 1 & _RING - 1]
                    if mem[total] != crc:
                        while copies[
                            _COUNT
                        ]:  # a copy takes 4 us, and more while others use memory
                            pass
                        if mem[total] & 0xFFFF != crc:
                            raise OSError(_EIO, "card: a block is damaged")
                    address += size
                    left = _RING - bus.asked + taken
                    if ahead and left >= _REFILL:
                        bus.ask(left)
            except BaseException as trouble:
                self._next -= (end - address) // size
                self._go = None
                if not isinstance(trouble, OSError):  # Ctrl-C: where it was is not known any more
                    self._stopped()
                raise
            ahead = True

    def _stopped(self):
        """Nothing comes into the ring any more."""
        self._next = -1
        self._bus.stop()
        self._bus.select(False)

    def _stop(self):
        """End what the card is reading."""
        if self._next >= 0:
            self._last = self._next - 1
            self._stopped()
            try:
                self._command(12)
                self._wait()
            finally:
                self._bus.select(False)
