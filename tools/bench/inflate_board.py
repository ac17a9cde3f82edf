"""Goes before main.py (inflate.py): what it costs to inflate on this board. Prints a line of JSON.

us_per_kb     microseconds for 1,024 bytes: `read` of them from a file as they are, `crc32` of them, and `inflated` by
              MicroPython's deflate, by the bits of the window, and by the server's own file
allocated     bytes of heap that such a file takes, its code included; and its code alone
"""

import gc
import json
import time
from binascii import crc32

import deflate
import settings
import tftpd  # noqa: F401  # else it would be loaded with what is measured

_PIECE = 4 * 1468


def timed(one, size, view):
    """Microseconds for each KB of what one(view) gives, piece by piece, until it has given all `size` bytes."""
    gc.collect()
    started = time.ticks_us()
    total = 0
    while total < size:
        total += one(view)
    return time.ticks_diff(time.ticks_us(), started) * 1024 / size


class Known:
    """As tftpd.files.Files, as far as it is asked."""

    settings = settings.load()
    readers = {}  # noqa: RUF012


def measured():
    view = memoryview(bytearray(_PIECE))
    figures = {}
    with open("/files/plain.bin", "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        figures["read"] = timed(file.readinto, size, view)
    figures["crc32"] = timed(lambda view: crc32(view) and _PIECE, size, view)
    for wbits in (10, 12, 15):
        with open(f"/files/{wbits}.gz", "rb") as file:
            inflate = deflate.DeflateIO(file, deflate.GZIP, wbits).readinto
            figures[f"inflated_{wbits}"] = timed(inflate, size, view)
            del inflate
    gc.collect()
    before = gc.mem_alloc()
    from tftpd import deflate as ours

    gc.collect()
    code = gc.mem_alloc() - before
    file = open("/files/real.bin.gz", "rb")  # noqa: SIM115
    gc.collect()
    opened = gc.mem_alloc()
    file = ours.open(file, Known)
    file.seek(0, 2)
    file.seek(0)
    gc.collect()
    allocated = gc.mem_alloc() - opened + code
    figures["served"] = timed(file.readinto, size, view)
    file.close()
    return {"us_per_kb": figures, "allocated": allocated, "code": code}


print("bench:", json.dumps(measured()))
time.sleep_ms(300)  # before the server says that it is ready: pico.py takes its time over a line
