"""DHCP messages of clients that boot, for the tests of proxydhcp.py; imports inside MicroPython, too.

Those of Raspberry Pis are rebuilt, field by field, from captures that others published; each says whose.
"""

PXE = b"PXEClient:Arch:00000:UNDI:002001"
MAC = b"\x52\x54\0\1\2\3"
GUID = bytes(range(17))
WANTED = b"\x2b\x3c\x43\x80\x81\x82\x83\x84\x85\x86\x87\x42"  # what all Pis ask for, in this order


def message(*pairs, op=1, mac=MAC, xid=b"\1\2\3\4", flags=b"\0\0", ciaddr=bytes(4), giaddr=bytes(4)):
    """A DHCP message with these (code, value) options."""
    packet = bytes((op, 1, 6, 0)) + xid + b"\0\0" + flags + ciaddr + bytes(8) + giaddr + mac + bytes(10 + 192)
    packet += b"\x63\x82\x53\x63"
    for code, value in pairs:
        packet += bytes((code, len(value))) + value
    return packet + b"\xff"


def discover(arch=0, *more, **fields):
    pairs = ((53, b"\1"), (60, PXE), (93, bytes((0, arch))), (94, b"\1\2\1"), (97, GUID))
    return message(*(pairs + more), **fields)


# Raspberry Pi's own documentation, "Network booting", of a Pi 3: 320 bytes.
PI3_XID = b"\x26\xf3\x03\x39"
PI3_GUID = b"\0" + 16 * b"\x44"
PI3 = message(
    (53, b"\1"),
    (55, WANTED),
    (93, b"\0\0"),
    (94, b"\1\2\1"),
    (97, PI3_GUID),
    (60, PXE),
    mac=b"\xb8\x27\xeb\x28\xf6\x6d",
    xid=PI3_XID,
)
# raspberrypi/firmware issue 1265, a Pi 3 with a bootcode.bin of 2019, behind a proxy: 322 bytes.
PI3_BOOTCODE = message(
    (53, b"\1"),
    (55, WANTED + b"\1\3"),
    (93, b"\0\0"),
    (94, b"\1\2\1"),
    (97, b"\0" + 4 * b"\xeb\xaa\x2f\xb2"),
    (60, PXE),
    mac=b"\xb8\x27\xeb\x2f\xaa\xeb",
    xid=PI3_XID,
)
# raspberrypi/rpi-eeprom issue 58 (all options) and TechnitiumSoftware/DnsServer issue 183 (a Pi 4, 322 bytes, its
# address and transaction), with the GUID of the former: its serial number, four times.
PI4 = message(
    (53, b"\1"),
    (55, b"\1\3" + WANTED[:2] + b"\x42" + WANTED[2:-1]),
    (93, b"\0\0"),
    (94, b"\1\2\1"),
    (97, b"\0" + 4 * b"\x43\x72\xee\x6a"),
    (60, PXE),
    mac=b"\xdc\xa6\x32\xc2\x1f\xfe",
    xid=b"\xd3\x83\xa6\xac",
)
# raspberrypi/cmprovision issue 16: a Compute Module 4 whose GUID begins with "RPi4".
PI4_RPI4 = message(
    (53, b"\1"),
    (55, b"\1\3" + WANTED[:2] + b"\x42" + WANTED[2:-1]),
    (93, b"\0\0"),
    (94, b"\1\2\1"),
    (97, b"\0RPi4\x40\x31\xc0\0\1\xb7\x9d\xf1\x11\x22\x33\x44"),
    (60, PXE),
    mac=b"\xe4\x5f\1\xb7\x9d\xf1",
    xid=b"\x41\x1f\xdf\x38",
)
PIS = (PI3, PI3_BOOTCODE, PI4, PI4_RPI4)
