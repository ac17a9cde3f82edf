"""Synthetic MicroPython files: they have all that the tools read of a genuine one, but no code."""

import functools
import hashlib
import operator
import struct

import esptool

XIP = 0x10000000
CHIP_IDS = {"esp32": 0, "esp32c3": 5, "esp32s3": 9}


def made_uf2(chip: str = "rp2040", place: tuple[int, int] | None = (0x12C000, 868_352), size: int = 40_000) -> bytes:
    """A UF2 in the place of MicroPython: its banner, and the binary info that says where the filesystem is."""
    family = {"rp2040": 0xE48BFF56, "rp2350": 0xE48BFF59}[chip]
    text = b"\0v9.9.9 on 2030-01-01\0Test board with " + chip.upper().encode() + b"\0MicroPython\0"
    if place:
        info = struct.pack(
            "<H2sIIIIH", 7, b"MP", XIP + text.index(b"MicroPython\0"), XIP + place[0], place[1], 0, 3
        )  # pico-sdk, binary_info/structure.h
        text += info
    flash = text.ljust(size // 256 * 256, b"\xa5")
    pages = [flash[start : start + 256] for start in range(0, len(flash), 256)]
    head = struct.Struct("<8I")
    return b"".join(
        (head.pack(0x0A324655, 0x9E5D5157, 0x2000, XIP + 256 * n, 256, n, len(pages), family) + page).ljust(508, b"\0")
        + b"\x30\x6f\xb1\x0a"
        for n, page in enumerate(pages)
    )


def table(*partitions: tuple[str, int, int, int, int], md5: bool = True) -> bytes:
    """An ESP-IDF partition table of (name, type, subtype, offset, size)."""
    entries = b"".join(
        struct.pack("<2sBBII16s4x", b"\xaa\x50", kind, subtype, offset, size, name.encode())
        for name, kind, subtype, offset, size in partitions
    )
    end = b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(entries).digest() if md5 else b""
    return (entries + end).ljust(0xC00, b"\xff")


NVS = ("nvs", 1, 2, 0x9000, 0x6000)


FACTORY = ("factory", 0, 0, 0x10000, 0x1F0000)


VFS = ("vfs", 1, 0x81, 0x200000, 0x200000)


def esp_program(chip: str, data: bytes) -> bytes:
    """A program of one segment with its header (DIO, 4 MB), checksum and hash (docs.espressif.com, esptool, "Firmware
    Image Format")."""
    data = data.ljust((len(data) + 3) // 4 * 4, b"\0")
    head = struct.pack("<4BI", 0xE9, 1, 2, 0x20, 0x40080000)
    head += struct.pack("<B3xHBHH4xB", 0xEE, CHIP_IDS[chip], 0, 0, 99, 1)
    program = head + struct.pack("<II", 0x3FFF0030, len(data)) + data
    program = program.ljust(len(program) // 16 * 16 + 15, b"\0") + bytes([functools.reduce(operator.xor, data, 0xEF)])
    return program + hashlib.sha256(program).digest()


def made_esp(chip: str, partitions: bytes) -> bytes:
    """An image in the place of MicroPython: bootloader, table and a program with the banner, merged by esptool."""
    boot = esptool.CHIP_DEFS[chip].BOOTLOADER_FLASH_OFFSET
    names = {"esp32": b"ESP32", "esp32c3": b"ESP32C3", "esp32s3": b"ESP32-S3"}
    banner = b"\0v9.9.9 on 2030-01-01\0Test board with " + names[chip] + b"\0"
    parts = [(boot, esp_program(chip, b"bootloader" * 99)), (0x8000, partitions), (0x10000, esp_program(chip, banner))]
    merged = esptool.merge_bin(parts, chip, target_offset=boot)
    assert merged
    return merged
