"""The network of an emulated board: Ethernet frames on the board's side, UDP and TCP sockets on the host's.

RFC 826 (ARP), 2131 (DHCP), 791 (IPv4 with fragments), 768 (UDP): the subset that a board with one UDP service needs.
TCP connections of clients on the host to a port of the board are in tcp.py.

The board gets 10.255.255.254/8 by DHCP, or has a static address. It sees a client at 127.a.b.c on the host as 10.a.b.c,
and any other client at its own address; ports do not change. So each client keeps an address of its own, and rules by
address can be tested. Each port of the board has its own socket on the host, which keeps TIDs apart. The board can send
only to clients that have sent to it.
"""

import contextlib
import selectors
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable

from rp2040py.external.cyw43 import net

from .. import ToolError
from . import tcp

BOARD = bytes((10, 255, 255, 254))
_ROUTER = bytes((10, 255, 255, 253))
_NETMASK = bytes((255, 0, 0, 0))
_BROADCAST = bytes((255, 255, 255, 255))
_NOBODY = bytes(4)
_MAC = bytes((2, 0, 0, 0, 0, 1))  # of all hosts but the board
_MAC_BROADCAST = bytes((255, 255, 255, 255, 255, 255))

_ARP = 0x0806
_IPV4 = 0x0800
_TCP, _UDP = 6, 17
_MTU = 1500  # bytes of an IPv4 packet
_DHCP_SERVER, _DHCP_CLIENT = 67, 68
_OFFERS = {1: 2, 3: 5}  # DHCPDISCOVER: DHCPOFFER, DHCPREQUEST: DHCPACK
_MAX_SOCKETS = 128  # for ports from which the board has sent; the least recently used is closed

Address = tuple[str, int]


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _datagram(source: tuple[bytes, int], target: tuple[bytes, int], data: bytes) -> bytes:
    """A UDP datagram with its header; `source`, `target`: address and port."""
    length = 8 + len(data)
    header = struct.pack("!3H", source[1], target[1], length)
    pseudo = source[0] + target[0] + struct.pack("!2H", _UDP, length)
    return header + struct.pack("!H", _checksum(pseudo + header + data) or 0xFFFF) + data


class Bridge:
    """Carries UDP datagrams and TCP connections between clients on the host and the board."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        host: str,
        port: int,
        board_port: int,
        to_board: Callable[[bytes], object],
        static: str | None = None,
    ) -> None:
        """Listens at once. Raises ToolError.

        selector    the data of its keys are functions to call when the socket is readable
        host, port  where clients reach the board's `board_port`
        to_board    delivers an Ethernet frame to the board
        static      the board's address if it does not use DHCP
        """
        self._selector = selector
        self._board = socket.inet_aton(static) if static else BOARD
        self._held: list[tuple[bytes, int, bytes]] | None = [] if static else None  # until it has been found
        self._host = host
        self._to_board = to_board
        self._mac = b""  # the board's, known from its first frame
        self._clients: dict[tuple[bytes, int], Address] = {}  # address for the board: address on the host
        self._fragments: dict[bytes, bytearray] = {}  # by IP identification: the part of a packet received so far
        self._identification = 0
        self._sockets: OrderedDict[int, socket.socket] = (
            OrderedDict()
        )  # by port of the board, least recently used first
        self._board_port = board_port
        self._booting: tuple[socket.socket, Address] | None = None  # the machine that boots, and where it was heard
        self._connections: dict[tuple[bytes, int, int], tcp.Connection] = {}  # by address, port, port of the board
        self._listener = self.listen(port, board_port, "--port")

    def listen(self, port: int, board_port: int, option: str) -> socket.socket:
        """Carry the datagrams that come to the host's `port`, which `option` chooses. Raises ToolError."""
        try:
            return self._socket(port, board_port)
        except (OSError, OverflowError) as error:
            what = f"can't listen on {self._host} port {port}: {getattr(error, 'strerror', None) or error}"
            raise ToolError(f"{what}; choose another {option} or --host") from None

    def forward(self, port: int) -> None:
        """Carry TCP connections from the host's `port` to the same of the board. Raises ToolError."""
        try:
            listener = socket.create_server((self._host, port))
        except OSError as error:
            what = f"can't listen on {self._host} TCP port {port}: {error.strerror}"
            raise ToolError(f"{what}; choose another --set http_port or --host") from None
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener, port))

    def turn(self) -> None:
        """Do what is due. To be called after each wait for the host."""
        for key, connection in list(self._connections.items()):
            connection.turn()
            if connection.over:
                connection.close()
                del self._connections[key]

    # The host's side

    def _socket(self, port: int, board_port: int) -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            one.bind((self._host, port))
        except Exception:
            one.close()
            raise
        one.setblocking(False)
        self._selector.register(one, selectors.EVENT_READ, lambda: self._from_host(one, board_port))
        return one

    def _from_host(self, one: socket.socket, board_port: int) -> None:
        try:
            data, (host, port) = one.recvfrom(65536)
        except OSError:  # nothing to read
            return
        if board_port == _DHCP_SERVER:  # of a machine that boots: it has no address, and its messages are broadcast
            self._booting = one, (host, port)
            datagram = _datagram((_NOBODY, _DHCP_CLIENT), (_BROADCAST, _DHCP_SERVER), data)
            self._send_packet(_MAC_BROADCAST, _NOBODY, _BROADCAST, _UDP, datagram)
            return
        address = self._seen(host)
        self._clients[address, port] = (host, port)
        self.send(address, port, board_port, data)

    @staticmethod
    def _seen(host: str) -> bytes:
        """The address at which the board sees a client."""
        numbers = socket.inet_aton(host)
        return b"\x0a" + numbers[1:] if numbers[0] == 127 else numbers

    def _accept(self, listener: socket.socket, board_port: int) -> None:
        try:
            client, (host, port) = listener.accept()
        except OSError:  # it has gone
            return
        self.connect(self._seen(host), port, board_port, lambda send: tcp.Forwarded(self._selector, client, send))

    def _to_host(self, board_port: int, client: Address, data: bytes) -> None:
        if board_port == self._board_port:
            one = self._listener
        else:
            if board_port not in self._sockets:
                if len(self._sockets) >= _MAX_SOCKETS:
                    _, oldest = self._sockets.popitem(last=False)
                    self._selector.unregister(oldest)
                    oldest.close()
                self._sockets[board_port] = self._socket(0, board_port)
            self._sockets.move_to_end(board_port)
            one = self._sockets[board_port]
        with contextlib.suppress(OSError):  # a lost datagram, as on the air
            one.sendto(data, client)

    # The board's side

    def send(self, address: bytes, port: int, board_port: int, data: bytes) -> None:
        """Send a datagram from a client to the board."""
        self._send(address, _UDP, _datagram((address, port), (self._board, board_port), data))

    def connect(
        self, address: bytes, port: int, board_port: int, make: Callable[[tcp.Transmit], tcp.Connection]
    ) -> None:
        """Connect a client to the board. `make` makes its end, given what sends a segment."""

        def transmit(seq: int, ack: int, flags: int, window: int, data: bytes, mss: int | None) -> None:
            fields = {"seq": seq, "ack": ack, "flags": flags, "window": window, "payload": data, "mss": mss}
            self._send(address, _TCP, net.pack_tcp(address, self._board, port, board_port, **fields))

        self._connections[address, port, board_port] = make(transmit)

    def _send(self, address: bytes, protocol: int, payload: bytes) -> None:
        """Send a packet from the host at `address` to the board. It is lost while a board with DHCP has no address. A
        static address is resolved first, and the packet waits for the answer."""
        if self._mac:
            self._send_packet(self._mac, address, self._board, protocol, payload)
        elif self._held is not None:
            self._held.append((address, protocol, payload))
            request = struct.pack("!HHBBH", 1, _IPV4, 6, 4, 1) + _MAC + address + bytes(6) + self._board
            self._send_frame(_MAC_BROADCAST, _ARP, request)

    def received(self, board_port: int, address: bytes, port: int, data: bytes) -> None:
        """Forward a datagram from the board to a known client; drop any other."""
        client = self._clients.get((address, port))
        if client:
            self._to_host(board_port, client, data)

    def frame(self, frame: bytes) -> None:
        """Process an Ethernet frame from the board. Malformed frames are dropped."""
        with contextlib.suppress(struct.error, LookupError):
            kind = struct.unpack_from("!H", frame, 12)[0]
            if kind == _ARP:
                self._arp(frame[14:42])
            elif kind == _IPV4:
                self._ipv4(frame[14:])

    def _send_frame(self, mac: bytes, kind: int, payload: bytes) -> None:
        self._to_board(mac + _MAC + struct.pack("!H", kind) + payload)

    def _send_packet(self, mac: bytes, source: bytes, target: bytes, protocol: int, payload: bytes) -> None:
        self._identification = (self._identification + 1) & 0xFFFF
        step = _MTU - 20
        for start in range(0, len(payload), step):
            part = payload[start : start + step]
            place = start >> 3 | (0x2000 if start + step < len(payload) else 0)  # more fragments
            length = 20 + len(part)
            ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, length, self._identification, place, 64, protocol, 0))
            ip += source + target
            ip[10:12] = struct.pack("!H", _checksum(bytes(ip)))
            self._send_frame(mac, _IPV4, bytes(ip) + part)

    def _arp(self, packet: bytes) -> None:
        operation, mac, sender, wanted = struct.unpack("!6xH6s4s6x4s", packet)
        if sender == self._board:
            self._mac = mac
            held, self._held = self._held or (), None
            for one in held:
                self._send(*one)
        if operation == 1 and wanted != self._board and sender != _NOBODY:
            answer = struct.pack("!HHBBH", 1, _IPV4, 6, 4, 2) + _MAC + wanted + mac + sender
            self._send_frame(mac, _ARP, answer)

    def _ipv4(self, packet: bytes) -> None:
        head, length, identification, place, protocol = struct.unpack_from("!BxHHHxB", packet)
        source, target = packet[12:16], packet[16:20]
        payload = packet[(head & 15) * 4 : length]
        if protocol == _TCP and source == self._board:
            self._tcp(target, payload)
        if protocol != _UDP:
            return
        if place & 0x3FFF:  # a fragment; fragments out of order count as lost
            key = struct.pack("!H", identification)
            whole = self._fragments.setdefault(key, bytearray()) if place & 0x1FFF else bytearray()
            if len(whole) != (place & 0x1FFF) << 3:
                return
            whole += payload
            self._fragments[key] = whole
            if place & 0x2000:
                return
            payload = bytes(self._fragments.pop(key))
        board_port, port, size = struct.unpack_from("!3H", payload)
        data = payload[8:size]
        if self._booting and target == _BROADCAST and board_port == _DHCP_SERVER and port == _DHCP_CLIENT:
            with contextlib.suppress(OSError):  # it has gone
                self._booting[0].sendto(data, self._booting[1])
        elif port == _DHCP_SERVER and board_port == _DHCP_CLIENT:  # what a relay agent sends is not for this server
            self._dhcp(data)
        elif source == self._board:
            self.received(board_port, target, port, data)

    def _tcp(self, address: bytes, payload: bytes) -> None:
        segment = net.parse_tcp(payload)
        connection = segment and self._connections.get((address, segment.dst_port, segment.src_port))
        if segment and connection:
            connection.take(segment)
        elif segment and not segment.flags & net.TCP_RST:  # of a connection that is over
            ports = segment.dst_port, segment.src_port
            reset = net.pack_tcp(address, self._board, *ports, seq=segment.ack, ack=0, flags=net.TCP_RST, window=0)
            self._send(address, _TCP, reset)

    def _dhcp(self, request: bytes) -> None:
        options = {}
        at = 240
        while request[at] != 255:
            options[request[at]] = request[at + 2 : at + 2 + request[at + 1]]
            at += 2 + request[at + 1]
        answer = _OFFERS.get(options[53][0])
        if answer is None:
            return
        mac = request[28:34]
        if answer == 5:
            self._mac = mac
        lines = {
            53: bytes((answer,)),
            54: _ROUTER,
            51: struct.pack("!I", 86400),  # seconds of lease
            1: _NETMASK,
            3: _ROUTER,
        }
        reply = bytearray(240)
        reply[0:4] = 2, 1, 6, 0  # a reply, Ethernet
        reply[4:8] = request[4:8]  # transaction
        reply[16:20] = BOARD
        reply[28:34] = mac
        reply[236:240] = 99, 130, 83, 99
        for code, value in lines.items():
            reply += bytes((code, len(value))) + value
        reply += b"\xff"
        # Broadcast: the board has no address yet.
        datagram = _datagram((_ROUTER, _DHCP_SERVER), (_BROADCAST, _DHCP_CLIENT), bytes(reply))
        self._send_packet(_MAC_BROADCAST, _ROUTER, _BROADCAST, _UDP, datagram)
