"""A TFTP client, datagram by datagram (Wire) and for whole files (fetch, patient_fetch, store)."""

import socket
from collections.abc import Iterator

Address = tuple[str, int]
Option = tuple[str, object]


class TftpError(Exception):
    """An ERROR packet: `code` and `text`."""

    def __init__(self, packet: bytes):
        self.code = packet[2] << 8 | packet[3]
        self.text = packet[4:-1].decode()
        super().__init__(f"ERROR {self.code}: {self.text}")


def request(name: str | bytes, *options: Option, mode: str = "octet", opcode: int = 1) -> bytes:
    """An RRQ (or WRQ) datagram."""
    fields = [name.encode() if isinstance(name, str) else name, mode.encode()]
    for key, value in options:
        fields += [key.encode(), str(value).encode()]
    return bytes((0, opcode)) + b"".join(field + b"\0" for field in fields)


def ack(block: int) -> bytes:
    return bytes((0, 4, block >> 8 & 255, block & 255))


def parse_oack(packet: bytes) -> dict[str, str]:
    """The options of an OACK; fails unless the packet is a well-formed OACK to its last byte."""
    assert packet[:2] == b"\0\6" and packet[-1:] == b"\0", packet
    fields = packet[2:-1].split(b"\0")
    assert len(fields) % 2 == 0, packet
    return {fields[i].decode(): fields[i + 1].decode() for i in range(0, len(fields), 2)}


class Wire:
    """One client, datagram by datagram. Requests go to `server`; `tid` is the address of the last answer."""

    patience: dict[Address, int] = {}  # noqa: RUF012  # seconds that an answer may take, by server

    def __init__(self, server: Address, timeout: float | None = None):
        self.server = self.tid = server
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1" if server[0].startswith("127.") else "", 0))
        self.socket.settimeout(timeout or self.patience.get(server, 2))

    def ask(self, name: str | bytes, *options: Option, mode: str = "octet", opcode: int = 1) -> bytes:
        """Send a request and return the first answer."""
        self.socket.sendto(request(name, *options, mode=mode, opcode=opcode), self.server)
        return self.receive()

    def receive(self) -> bytes:
        """The next datagram. Raises TimeoutError."""
        packet, self.tid = self.socket.recvfrom(70_000)
        return packet

    def silent(self, seconds: float = 0.3) -> bool:
        """Whether no datagram arrives for that long."""
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self.receive()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(before)
        return False

    def send(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, self.tid)

    def ack(self, block: int) -> bytes:
        """Acknowledge and return the next datagram."""
        self.send(ack(block))
        return self.receive()

    def error(self) -> TftpError:
        """The next datagram, which must be an ERROR."""
        packet = self.receive()
        assert packet[:2] == b"\0\5" and packet[-1:] == b"\0", packet
        return TftpError(packet)

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        if self.tid != self.server:  # end a transfer that is still open
            self.send(b"\0\5\0\0the test is over\0")
        self.socket.close()


def blocks(wire: Wire, first: bytes) -> Iterator[bytes]:
    """The data of each block of a transfer whose first answer is `first`; acknowledges as RFC 1350 and 7440 require."""
    options = {}
    packet = first
    if first[:2] == b"\0\6":
        options = parse_oack(first)
        packet = wire.ack(0)
    blksize, windowsize = int(options.get("blksize", 512)), int(options.get("windowsize", 1))
    last = 0
    while True:
        if packet[:2] == b"\0\5":
            raise TftpError(packet)
        number = packet[2] << 8 | packet[3]
        assert packet[:2] == b"\0\3" and len(packet) - 4 <= blksize, packet[:8]
        if number == (last + 1) & 0xFFFF:
            last += 1
            yield packet[4:]
            if len(packet) - 4 < blksize:
                wire.send(ack(last))
                return
            if last % windowsize == 0:
                wire.send(ack(last))
        elif (number - last) & 0xFFFF < 0x8000:
            wire.send(ack(last))
        packet = wire.receive()


def fetch(server: Address, name: str | bytes, *options: Option, mode: str = "octet") -> bytes:
    """Fetch a whole file. Raises TftpError, TimeoutError."""
    with Wire(server) as wire:
        first = wire.ask(name, *options, mode=mode)
        return b"".join(blocks(wire, first))


def patient_fetch(
    server: Address,
    name: str,
    *options: Option,
    mode: str = "octet",
    patience: float = 0.5,
    tries: int = 20_000,
) -> bytes:
    """As fetch(), but retransmits its last datagram after `patience` seconds of silence, as every client does."""
    sizes = dict(options)
    blksize, windowsize = int(str(sizes.get("blksize", 512))), int(str(sizes.get("windowsize", 1)))
    with Wire(server, timeout=patience) as wire:
        last_sent, data, last, acked = request(name, *options, mode=mode), b"", 0, 0
        wire.send(last_sent)
        for _ in range(tries):
            try:
                packet = wire.receive()
            except TimeoutError:
                wire.send(last_sent)
                continue
            if packet[:2] == b"\0\6":
                if last == 0:
                    last_sent = ack(0)
                    wire.send(last_sent)
                continue
            if packet[:2] != b"\0\3":
                raise TftpError(packet)
            number = packet[2] << 8 | packet[3]
            if number == (last + 1) & 0xFFFF:
                last += 1
                data += packet[4:]
                if len(packet) - 4 < blksize or last - acked >= windowsize:
                    acked, last_sent = last, ack(last)
                    wire.send(last_sent)
                if len(packet) - 4 < blksize:
                    return data
            elif (number - last) & 0xFFFF >= 0x8000 or number == last & 0xFFFF or acked != last:
                acked, last_sent = last, ack(last)  # one ACK for each duplicate, one for each gap
                wire.send(last_sent)
    raise AssertionError("the transfer does not end")


def store(
    server: Address,
    name: str | bytes,
    data: bytes,
    *options: Option,
    mode: str = "octet",
    patience: float | None = None,
) -> None:
    """Upload `data` as RFC 1350 and 7440 require; with `patience`, retransmit what is not answered within that many
    seconds. Raises TftpError, TimeoutError."""
    with Wire(server, timeout=patience) as wire:
        outgoing = [request(name, *options, mode=mode, opcode=2)]
        blksize, windowsize, base, last = 512, 1, -1, 0
        silence = 0
        while True:
            for datagram in outgoing:
                wire.send(datagram)
            try:
                packet = wire.receive()
                silence = 0
                while True:  # skip stale packets: the queue may hold older ones
                    if packet[:2] == b"\0\5":
                        raise TftpError(packet)
                    ahead = (((packet[2] << 8 | packet[3]) if packet[1] == 4 else 0) - max(base, 0)) & 0xFFFF
                    if base < 0 and (packet[1] == 6 or ahead == 0):
                        granted = parse_oack(packet) if packet[1] == 6 else {}
                        blksize, windowsize = int(granted.get("blksize", 512)), int(granted.get("windowsize", 1))
                        base, last = 0, len(data) // blksize + 1
                        break
                    if base >= 0 and packet[1] == 4 and (0 < ahead <= windowsize or (ahead == 0 and windowsize > 1)):
                        base += ahead
                        break
                    packet = wire.receive()
            except TimeoutError:
                silence += 1
                if patience is None or silence > 40:
                    raise
                continue
            if base == last:
                wire.tid = wire.server
                return
            outgoing = [
                b"\0\3" + bytes((block >> 8 & 255, block & 255)) + data[(block - 1) * blksize : block * blksize]
                for block in range(base + 1, min(base + windowsize, last) + 1)
            ]
