"""A model of WIZnet's W5500, an Ethernet chip on SPI: what MicroPython's driver with lwIP uses of it.

After the datasheet (W5500 Datasheet v1.1.0): the SPI frame with variable data length (2.2), all common and socket
registers (3, 4), the buffers of 16 KB with their memory select, socket 0 in MACRAW mode, the interrupt pin, the link
in PHYCFGR. Not modelled: the chip's own TCP/IP (sockets in other modes never open) and the interrupts of the common
register IR, which only that causes.

Clock, pins and network are the caller's.
"""

from collections.abc import Callable

# Common registers
_MR, _SHAR, _IR, _IMR, _SIR, _SIMR, _PHYCFGR, _VERSIONR = 0x00, 0x09, 0x15, 0x16, 0x17, 0x18, 0x2E, 0x39
_UIPR = range(0x28, 0x2E)  # and UPORTR
# Socket registers
_SN_MR, _SN_CR, _SN_IR, _SN_SR, _RXBUF_SIZE, _TXBUF_SIZE = 0x00, 0x01, 0x02, 0x03, 0x1E, 0x1F
_TX_FSR, _TX_RD, _TX_WR, _RX_RSR, _RX_RD, _RX_WR, _SN_IMR = 0x20, 0x22, 0x24, 0x26, 0x28, 0x2A, 0x2C
_READ_ONLY = {_SN_SR, *range(_TX_FSR, _TX_WR), *range(_RX_RSR, _RX_RD), *range(_RX_WR, _SN_IMR)}

_COMMON_AT_RESET = {0x19: 0x07, 0x1A: 0xD0, 0x1B: 0x08, 0x1C: 0x28, _VERSIONR: 0x04}
_SOCKET_AT_RESET = {
    **dict.fromkeys(range(0x06, 0x0C), 0xFF),
    0x16: 0x80,
    _RXBUF_SIZE: 2,
    _TXBUF_SIZE: 2,
    _SN_IMR: 0xFF,
    0x2D: 0x40,
}

_RST = 0x80  # of MR
_OPEN, _CLOSE, _SEND, _RECV = 0x01, 0x10, 0x20, 0x40  # commands
_SENDOK, _RECEIVED = 0x10, 0x04  # bits of Sn_IR
_CLOSED, _MACRAW = 0x00, 0x42  # values of Sn_SR
_MACRAW_MODE, _MAC_FILTER, _NO_MULTICAST, _NO_IPV6 = 0x04, 0x80, 0x20, 0x10  # of Sn_MR
_PHY, _PHY_LINK = 0xB8, 0x07  # of PHYCFGR: all capable, auto-negotiation; 100 Mbit/s, full duplex, link up

_SOCKETS = 8
_BUFFER_BYTES = 16 << 10
_BROADCAST = b"\xff" * 6
_IPV6 = b"\x86\xdd"
_BYTE_NS = 80  # on the wire, 100 Mbit/s
_LEAST_BYTES = 60  # of a frame without its checksum
_AROUND_BYTES = 8 + 4 + 12  # preamble, checksum, gap
_NEGOTIATION_NS = 1_500_000_000  # a second or two, on real cables


class _Socket:
    """A socket's registers, and where its buffers lie: begin and size in bytes, for RX and TX."""

    def __init__(self) -> None:
        self.registers = bytearray(0x30)
        for address, value in _SOCKET_AT_RESET.items():
            self.registers[address] = value
        self.received = 0  # RX_RD as the last RECV found it

    def get(self, address: int) -> int:
        """A pointer or size of 16 bits."""
        return self.registers[address] << 8 | self.registers[address + 1]

    def put(self, address: int, value: int) -> None:
        self.registers[address : address + 2] = (value & 0xFFFF).to_bytes(2, "big")


class W5500:
    """The chip.

    link  True while a cable is connected whose other end is up
    """

    def __init__(
        self,
        to_wire: Callable[[bytes], object],
        to_pin: Callable[[bool], object],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """
        to_wire  takes an Ethernet frame that was sent
        to_pin   takes the level of the interrupt pin, INTn, when it changes
        later    calls a function after so many nanoseconds
        """
        self._to_wire = to_wire
        self._to_pin = to_pin
        self._later = later
        self._quiet = True  # INTn is high
        self.link = True
        self._negotiations = 0
        self.reset()

    def reset(self) -> None:
        """A pulse on the pin RSTn. The link is down until it has been negotiated again."""
        self._negotiated = False
        self._negotiations += 1
        number = self._negotiations
        self._later(_NEGOTIATION_NS, lambda: self._negotiate(number))
        self.release()
        self._reset_registers()

    def _negotiate(self, number: int) -> None:
        self._negotiated = self._negotiated or number == self._negotiations

    def _reset_registers(self) -> None:
        self._common = bytearray(0x40)
        for address, value in _COMMON_AT_RESET.items():
            self._common[address] = value
        self._sockets = [_Socket() for _ in range(_SOCKETS)]
        self._rx = bytearray(_BUFFER_BYTES)
        self._tx = bytearray(_BUFFER_BYTES)
        self._interrupt()

    @property
    def _up(self) -> bool:
        return self.link and self._negotiated

    # -- SPI

    def release(self) -> None:
        """SCSn goes high: the next byte begins a frame."""
        self._header = bytearray()
        self._address = 0

    def exchange(self, sent: bytes) -> bytes:
        """The bytes that come back while those of `sent` go to the chip, SCSn being low."""
        missing = 3 - len(self._header)
        answer = bytes(min(missing, len(sent)))
        if missing:
            self._header += sent[:missing]
            self._address = int.from_bytes(self._header[:2], "big")
        data = sent[missing:]
        if not data:
            return answer
        control = self._header[2]
        number, kind, write = control >> 5, control >> 3 & 3, control & 4
        begin, self._address = self._address, self._address + len(data) & 0xFFFF
        if not kind:  # block 0: the common registers; 4, 8...: reserved
            for address, value in enumerate(data, begin):
                if not number:
                    answer += bytes((self._access_common(address, value if write else None),))
                else:
                    answer += b"\0"
        elif kind == 1:
            for address, value in enumerate(data, begin):
                answer += bytes((self._access_socket(number, address, value if write else None),))
        else:
            answer += self._access_buffer(number, kind == 2, begin, data, bool(write))
        return answer

    def _access_common(self, address: int, value: int | None) -> int:
        """What is read at `address`; it is written if `value` is not None."""
        if address == _SIR:
            return sum(1 << number for number, one in enumerate(self._sockets) if one.registers[_SN_IR])
        if address == _PHYCFGR:
            return _PHY | _PHY_LINK if self._up else _PHY
        if address >= len(self._common):
            return 0
        if value is None:
            return self._common[address]
        if address == _MR and value & _RST:
            self._reset_registers()
            return 0
        if address == _IR:
            self._common[_IR] &= ~value
        elif address != _VERSIONR and address not in _UIPR:
            self._common[address] = value
        self._interrupt()
        return 0

    def _access_socket(self, number: int, address: int, value: int | None) -> int:
        one = self._sockets[number]
        if address >= len(one.registers):
            return 0
        if value is None:
            if _TX_FSR <= address < _TX_RD:
                one.put(_TX_FSR, self._part(number, True)[1] - (one.get(_TX_WR) - one.get(_TX_RD) & 0xFFFF))
            elif _RX_RSR <= address < _RX_RD:
                one.put(_RX_RSR, one.get(_RX_WR) - one.received)
            return one.registers[address]
        if address == _SN_CR:
            self._command(number, value)  # done by when it can be read: it reads as 0
        elif address == _SN_IR:
            one.registers[_SN_IR] &= ~value
        elif address not in _READ_ONLY:
            one.registers[address] = value
        self._interrupt()
        return 0

    def _part(self, number: int, tx: bool) -> tuple[int, int]:
        """Where the buffer of that socket begins and what its size is: those before it come first."""
        register = _TXBUF_SIZE if tx else _RXBUF_SIZE
        sizes = [one.registers[register] << 10 for one in self._sockets]
        return sum(sizes[:number]), sizes[number]

    def _access_buffer(self, number: int, tx: bool, address: int, data: bytes, write: bool) -> bytes:
        begin, size = self._part(number, tx)
        memory = self._tx if tx else self._rx
        if not size or begin + size > _BUFFER_BYTES:
            return bytes(len(data))
        start = address % size
        places = (begin + start, begin + size), (begin, begin + start)  # up to the end, and on from the begin
        if not write:
            return b"".join(memory[low:high] for low, high in places)[: len(data)].ljust(len(data), b"\0")
        rest = data
        for low, high in places:
            part, rest = rest[: high - low], rest[high - low :]
            memory[low : low + len(part)] = part
        return bytes(len(data))

    # -- sockets

    def _command(self, number: int, command: int) -> None:
        one = self._sockets[number]
        state = one.registers
        if command == _OPEN and number == 0 and state[_SN_MR] & 15 == _MACRAW_MODE:
            state[_SN_SR] = _MACRAW
            state[_TX_FSR:_SN_IMR] = bytes(_SN_IMR - _TX_FSR)
            one.received = 0
        elif command == _CLOSE:
            state[_SN_SR] = _CLOSED
        elif command == _RECV:
            one.received = one.get(_RX_RD)
        elif command == _SEND and state[_SN_SR] == _MACRAW:
            begin, end = one.get(_TX_RD), one.get(_TX_WR)
            frame = self._access_buffer(number, True, begin, bytes(end - begin & 0xFFFF), False)
            size = max(len(frame), _LEAST_BYTES) + _AROUND_BYTES
            self._later(size * _BYTE_NS, lambda: self._sent(one, frame, end))

    def _sent(self, one: _Socket, frame: bytes, end: int) -> None:
        if one not in self._sockets:  # there was a reset
            return
        one.put(_TX_RD, end)
        one.registers[_SN_IR] |= _SENDOK
        self._interrupt()
        if self._up:
            self._to_wire(frame)

    def put(self, frame: bytes) -> None:
        """A frame on the wire for the chip, without its checksum. It is lost where the chip has no room or no use."""
        one = self._sockets[0]
        mode = one.registers[_SN_MR]
        target = frame[:6]
        if not self._up or one.registers[_SN_SR] != _MACRAW:
            return
        if mode & _MAC_FILTER and target not in (_BROADCAST, self._common[_SHAR : _SHAR + 6]) and not target[0] & 1:
            return
        if mode & _NO_MULTICAST and target[0] & 1 and target != _BROADCAST:
            return
        if mode & _NO_IPV6 and frame[12:14] == _IPV6:
            return
        record = (2 + len(frame)).to_bytes(2, "big") + frame
        end = one.get(_RX_WR)
        if (end - one.received & 0xFFFF) + len(record) > self._part(0, False)[1]:
            return
        self._access_buffer(0, False, end, record, True)
        one.put(_RX_WR, end + len(record))
        one.registers[_SN_IR] |= _RECEIVED
        self._interrupt()

    def _interrupt(self) -> None:
        """INTn is low while an interrupt is set that is not masked."""
        mask = self._common[_SIMR]
        quiet = not self._common[_IR] & self._common[_IMR] and not any(
            mask >> number & 1 and one.registers[_SN_IR] & one.registers[_SN_IMR]
            for number, one in enumerate(self._sockets)
        )
        if quiet != self._quiet:
            self._quiet = quiet
            self._to_pin(quiet)
