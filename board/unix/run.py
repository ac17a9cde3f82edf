"""The everyday board: run with MicroPython's Unix port as `micropython run.py IMAGE BLOCK_SIZE
READ_SIZE PROG_SIZE KEPT UDP_SOCKETS PAGE_PORT
[CARD]`.

Mounts the LittleFS2 image at `/` as a Pico W mounts its flash, but with a larger cache, because
each read goes through Python here. Then runs boot.py and main.py from it, in one namespace, as
every MicroPython port does.
"""

import os
import sys

import vfs

image = sys.argv[1]
block_size, read_size, prog_size, kept, udp_sockets = [int(argument) for argument in sys.argv[2:7]]
page_port = int(sys.argv[7])
sys.path.insert(0, sys.argv[0].rsplit("/", 1)[0] + "/shims")

# A real board has these modules in its firmware. Here they are loaded before the mount hides the
# host's files.
import socket  # noqa: E402  # ours, from shims/
import time  # noqa: E402, F401  # ours, too

import machine  # noqa: E402
import network  # noqa: E402, F401

if sys.argv[8:]:
    machine.SDCard.image = sys.argv[8]  # pyright: ignore[reportAttributeAccessIssue]
    machine.SDCard.host = vfs.VfsPosix("/")  # pyright: ignore[reportAttributeAccessIssue]

socket.limit(udp_sockets)  # pyright: ignore[reportAttributeAccessIssue]
socket.instead_of_80(page_port)  # pyright: ignore[reportAttributeAccessIssue]


class _Subscript:
    def __getitem__(self, key):
        return key


_WHOLE = _Subscript()[:]  # one slice for all copies: each `[:]` would allocate one


class Flash:
    """A block device over the image file (docs.micropython.org, "Working with filesystems").

    For each of its own blocks LittleFS reads once for the content, and four times to find the
    block: it reads the heads (first bytes) of other blocks ("CTZ skip-lists" in its DESIGN.md),
    mostly the same ones. Real flash returns a head at once; here it costs a seek and a read,
    1.2 us. So `kept` heads are cached: 1.8 -> 1.1 us a KB. `kept` should be a prime number, since
    the list steps by powers of two: 61 hold nine heads of ten of a file of 4 MiB, 64 half of them.

    Closures over bound methods are faster than methods of the class: 3.6 us for four calls, not
    4.5. A function with more than eleven words of locals and stack allocates them on the heap.
    """

    def __init__(self, path):
        file = open(path, "r+b")
        count = file.seek(0, 2) // block_size
        seek, readinto, write = file.seek, file.readinto, file.write
        heads = []  # pairs in a row: the number of a block, its head
        for _ in range(kept):
            heads += [-1, memoryview(bytearray(read_size))]

        def readblocks(number, buffer, offset=0):
            if offset or len(buffer) != read_size:
                seek(number * block_size + offset)
                readinto(buffer)
                return
            i = number % kept * 2
            if heads[i] != number:
                seek(number * block_size)
                readinto(heads[i + 1])
                heads[i] = number
            buffer[_WHOLE] = heads[i + 1]

        def writeblocks(number, buffer, offset=0):
            heads[number % kept * 2] = -1
            seek(number * block_size + offset)
            write(buffer)

        def ioctl(operation, argument):
            if operation == 4:  # number of blocks
                return count
            if operation == 5:  # bytes in a block
                return block_size
            return 0  # initialise, shut down, sync, erase: no work here

        self.readblocks = readblocks
        self.writeblocks = writeblocks
        self.ioctl = ioctl


flash = Flash(image)
vfs.umount("/")
filesystem = vfs.VfsLfs2(flash, readsize=read_size, progsize=prog_size)  # pyright: ignore[reportArgumentType]
vfs.mount(filesystem, "/")
os.chdir("/")
sys.path[:] = ["", ".frozen", "/lib"]

main = {"__name__": "__main__"}
for script in ("boot.py", "main.py"):
    with open(script) as file:
        code = compile(file.read(), script, "exec")
    exec(code, main)
