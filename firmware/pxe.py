"""What proxydhcp.py says to machines that boot. Loaded when there is something to say, and dropped
when all have their address.

PXE 2.1 (section 2), RFC 2131 and 2132 (DHCP), 4578 (options 93 and 97), 3004 (option 77), the UEFI
specification's HTTP boot. It never gives an address, and answers nobody but boot ROMs.
"""

import os

from micropython import const
from proxydhcp import CLIENT, SERVER
from tftpd.journal import ALWAYS, INFO

_OPTIONS = const(240)  # where they begin, behind the cookie
_COOKIE = const(b"c\x82Sc")
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
_TROUBLES = {  # by the number of the OSError, on Linux and an RP2, and on an ESP32
    13: "port %d can only be opened by root",
    98: "port %d is taken: stop the other DHCP server on this machine",
    112: "port %d is taken: stop the other DHCP server on this machine",
    12: "no socket is left for port %d",
    23: "no socket is left for port %d",
}


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


def ask(proxy):
    """Ask who else tells machines what to boot, as a relay agent does: then the answers come to
    port 67. Raises OSError."""
    proxy.probe = os.urandom(4)
    packet = b"\1\1\6\0" + proxy.probe + bytes(16) + _packed(proxy.address) + b"\2tftpd"
    proxy.send(packet + bytes(202) + _PROBE, SERVER)


def complaint(number, trouble):
    """What the journal says when port `number` can't be opened. `trouble`: OSError."""
    what = _TROUBLES.get(trouble.errno, "can't open port %%d: %s" % trouble) % number
    return "dhcp: %s; tried again each second" % what


def hear(proxy, number, sock, message, client):
    """A `message` has come from `client` to port `number`, whose socket is `sock`. Raises
    OSError."""
    log = proxy.server.journal.log
    settings = proxy.server.settings
    options = parse(message)
    mac = message[28:34].hex(":")
    what = message[:1] + options.get(53, b"")
    mine = message[4:8] == proxy.probe
    if mine and what == b"\2\2" and (60 in options or any(message[108:236])):
        proxy.probe = b""
        log(ALWAYS, "dhcp: %s answers PXE, too", _shown(options.get(54, b"")))
    elif what == b"\1\3" and number == SERVER:
        if mac in proxy.known:  # it accepts the address that the other server has offered
            proxy.known.remove(mac)
            log(INFO, "dhcp: %s is %s", mac, _shown(options.get(50, b"")))
    elif what in (b"\1\1", b"\1\3") and proxy.left and proxy.address and not mine:
        files = settings["dhcp_proxy"]
        kind = choose(options, files)
        if kind:
            proxy.left -= 1
            file = files.get(kind, "")
            log(INFO, "dhcp: %s boots as %s: %s", mac, kind, file or "no file")
            if not file:
                return
            if options[60][0] == 72 and "://" not in file:  # HTTPClient
                file = "http://%s:%d/%s" % (proxy.address, settings["http_port"] or 80, file)
            packet = answer(message, options, kind, file, proxy.address)
            if number != SERVER:
                sock.sendto(packet, client)
                return
            proxy.known = proxy.known[-8:] + [mac]
            if any(message[24:28]):  # a relay agent
                proxy.send(packet, SERVER, _shown(message[24:28]))
            else:
                proxy.send(packet, CLIENT)
            proxy.seconds = _BOOT_SECONDS
            proxy.open()
