"""A proxy DHCP server: tells machines that boot from the network which file to load, beside the
DHCP server that is there and gives them their addresses.

PXE 2.1 (section 2), RFC 2131 and 2132 (DHCP), 4578 (options 93 and 97), 3004 (option 77), the UEFI
specification's HTTP boot. Loaded only where the setting `dhcp_proxy` is set. It never gives an
address, and answers nobody but boot ROMs.
"""

import os
import socket
from select import POLLIN

import link
from micropython import const
from tftpd.journal import ALWAYS, INFO

_SERVER = const(67)  # ports: RFC 2131 section 4.1, and PXE 2.1
_CLIENT = const(68)
_BOOT_SERVER = const(4011)
_OPTIONS = const(240)  # where they begin, behind the cookie
_COOKIE = const(b"c\x82Sc")
_ROOM = const(1200)  # bytes of a message that are received
_ANSWERS = const(8)  # in a second
_BOOT_SECONDS = const(12)  # that port 4011 is open after an offer: ROMs ask 4 to 11 s later
_NAMES = {  # of RFC 5970's "Processor Architecture Types"; the others go by their number
    0: "bios",
    7: "efi64",
    9: "efi64",
    11: "arm64",
    16: "http64",
    19: "httparm64",
}
# Option 43: PXE_DISCOVERY_CONTROL 8, take the file that is named here, look for no other server.
_CONTROL = const(b"\x06\x01\x08\xff")
# What a Pi looks for, with a menu around it. The ROM of a Pi 3B needs the three spaces.
_PI = const(b"\x06\x01\x03\x0a\x04\x00PXE\x09\x17\x00\x00\x14Raspberry Pi Boot   \xff")
_PROBE = const(b"c\x82Sc\x35\1\1\x3c\x09PXEClient\x5d\2\0\0\x61\1\0\xff")


def parse(message):
    """The options of a DHCP message of an Ethernet client (bytes): {code: value}, empty if it is
    none. The last value may be cut off."""
    options = {}
    if message[1:3] == b"\1\6" and message[236:_OPTIONS] == _COOKIE:
        at = _OPTIONS
        while at + 1 < len(message) and message[at] != 255:
            if message[at]:  # else it pads
                size = message[at + 1]
                options[message[at]] = message[at + 2 : at + 2 + size]
                at += 1 + size
            at += 1
    return options


def choose(options, files):
    """The key in `files` (dict of the setting) that is meant for the client with these `options`;
    None for what is no boot ROM."""
    guid = options.get(97, b"")
    ipxe = 175 in options or b"iPXE" in options.get(77, b"")
    # PXE 2.1 wants option 97 of all clients. U-Boot, which has no use for an answer, calls itself
    # PXEClient without it.
    if options.get(60, b"")[:9] not in (b"PXEClient", b"HTTPClien") or not (guid or ipxe):
        return None
    number = int.from_bytes(options.get(93, b"")[:2], "big")
    kind = _NAMES.get(number, str(number))
    serial = guid[1:5]  # ROMs before the Pi 4's repeat it, later ones begin with "RPi4"
    if serial[:3] == b"RPi" or (any(serial) and serial * 4 == guid[1:]):
        kind = "pi"
    elif ipxe and "ipxe" in files:
        kind = "ipxe"
    return kind


def _packed(address):
    return bytes(map(int, address.split(".")))


def _shown(address):
    return ".".join(map(str, address))


def answer(message, options, kind, file, address):
    """The answer (bytes) to a `message` with these `options`: `file` (str, up to 127 bytes) for a
    client of this `kind`, from the server at `address` (str)."""
    own = _packed(address)
    file = file.encode()
    packet = b"\2\1\6\0" + message[4:8] + b"\0\0" + message[10:16] + bytes(4) + own
    packet += message[24:44] + bytes(64) + file + bytes(128 - len(file)) + _COOKIE
    for code, value in (
        (53, b"\2" if options[53] == b"\1" else b"\5"),
        (54, own),
        (60, options[60].split(b":")[0]),  # the class alone
        (66, address.encode()),
        (67, file),
        (97, options.get(97, b"")),
        (43, _PI if kind == "pi" else _CONTROL),
    ):
        packet += bytes((code, len(value))) + value
    return packet + b"\xff" + bytes(24)  # at least 300: RFC 1542 section 2.1


def also(tick):
    """A function for Server.serve_forever() that does what `tick` does, and is a proxy DHCP
    server from its first call on."""
    return Proxy(tick).tend


class Proxy:
    """The ports.

    socks    {number: socket} of those that are open
    address  the board's; a false value while it has none
    left     answers that may still be sent in this second
    seconds  for which port 4011 stays open
    known    addresses on the Ethernet that have an answer, and may tell of another address
    probe    the transaction of the question for other servers; b"" once one is known
    """

    seconds = 0
    known = []
    probe = None

    def __init__(self, tick):
        self.tick = tick
        self.socks = {}

    def tend(self, server):
        """Once a second: open the port if it is closed, close the other one when it is time.
        `server`: Server, whose settings have dhcp_proxy and http_port. Raises OSError."""
        self.tick(server)
        self.server = server
        self.left = _ANSWERS
        self.address = link._up and link._nic.ifconfig()[0]
        self.seconds -= 1
        if not self.seconds:
            self.close(_BOOT_SERVER)
        if _SERVER not in self.socks:
            self.open(_SERVER)
            server.journal.log(ALWAYS, "dhcp: port 67")
        if self.address and self.probe is None:
            # As a relay agent does: the answers come to port 67 then.
            self.probe = os.urandom(4)
            packet = b"\1\1\6\0" + self.probe + bytes(16) + _packed(self.address) + b"\2tftpd"
            self.send(packet + bytes(202) + _PROBE, _SERVER)

    def open(self, number):
        ports = self.server.ports
        sock = ports.socket(number)
        if hasattr(socket, "SO_BROADCAST"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.socks[number] = sock
        ports.others = dict(ports.others)
        ports.others[sock] = self
        ports.poller.register(sock, POLLIN)

    def close(self, *numbers):
        """Close these ports, and by default all."""
        ports = self.server.ports
        for number in numbers or list(self.socks):
            if number in self.socks:
                sock = self.socks.pop(number)
                ports.poller.unregister(sock)
                del ports.others[sock]
                sock.close()

    def send(self, packet, port, host="255.255.255.255"):
        self.socks[_SERVER].sendto(packet, socket.getaddrinfo(host, port)[0][-1])

    def go(self):
        """Something has come. Whatever it may be, the server goes on."""
        for number, sock in list(self.socks.items()):
            try:
                self.hear(number, sock, *sock.recvfrom(_ROOM))
            except (OSError, MemoryError):  # nothing, or lost as on the air
                pass

    def hear(self, number, sock, message, client):
        if not message:  # an ESP32's socket is deaf from then on: tend() opens another
            self.close()
        log = self.server.journal.log
        settings = self.server.settings
        options = parse(message)
        mac = message[28:34].hex(":")
        what = message[:1] + options.get(53, b"")
        mine = message[4:8] == self.probe
        if mine and what == b"\2\2" and (60 in options or any(message[108:236])):
            self.probe = b""
            log(ALWAYS, "dhcp: %s answers PXE, too", _shown(options.get(54, b"")))
        elif what == b"\1\3" and number == _SERVER:
            if mac in self.known:  # it accepts the address that the other server has offered
                self.known.remove(mac)
                log(INFO, "dhcp: %s is %s", mac, _shown(options.get(50, b"")))
        elif what in (b"\1\1", b"\1\3") and self.left and self.address and not mine:
            files = settings["dhcp_proxy"]
            kind = choose(options, files)
            if kind:
                self.left -= 1
                file = files.get(kind, "")
                log(INFO, "dhcp: %s boots as %s: %s", mac, kind, file or "no file")
                if not file:
                    return
                if options[60][0] == 72 and "://" not in file:  # HTTPClient
                    file = "http://%s:%d/%s" % (
                        self.address,
                        settings["http_port"] or 80,
                        file,
                    )
                packet = answer(message, options, kind, file, self.address)
                if number != _SERVER:
                    sock.sendto(packet, client)
                    return
                self.known = self.known[-8:] + [mac]
                if any(message[24:28]):  # a relay agent
                    self.send(packet, _SERVER, _shown(message[24:28]))
                else:
                    self.send(packet, _CLIENT)
                self.seconds = _BOOT_SECONDS
                if _BOOT_SERVER not in self.socks:
                    self.open(_BOOT_SERVER)
