"""The everyday board: run with MicroPython's Unix port as `micropython run.py IMAGE BLOCK_SIZE
READ_SIZE PROG_SIZE UDP_SOCKETS`.

Mounts the LittleFS2 image at `/` as a Pico W mounts its flash, but with a larger cache, for here
each read goes through Python, and runs boot.py and main.py from there, in one namespace, as every
MicroPython port does.
"""

import os
import sys

import vfs

image = sys.argv[1]
block_size, read_size, prog_size, udp_sockets = [int(argument) for argument in sys.argv[2:]]
sys.path.insert(0, sys.argv[0].rsplit("/", 1)[0] + "/shims")

# These come with the firmware of a real board; here they are loaded while the host's files can
# still be seen.
import socket  # noqa: E402  # ours, from shims/

import machine  # noqa: E402, F401
import network  # noqa: E402, F401

socket.limit(udp_sockets)  # pyright: ignore[reportAttributeAccessIssue]


class Flash:
    """A block device over the image file (docs.micropython.org, "Working with filesystems").

    LittleFS calls it three to four times a block of 1,428 bytes: closures over bound methods take
    3.6 us for that, methods of the class 4.5.
    """

    def __init__(self, path, size):
        file = open(path, "r+b")
        count = file.seek(0, 2) // size
        seek, readinto, write = file.seek, file.readinto, file.write

        def readblocks(number, buffer, offset=0):
            seek(number * size + offset)
            readinto(buffer)

        def writeblocks(number, buffer, offset=0):
            seek(number * size + offset)
            write(buffer)

        def ioctl(operation, argument):
            if operation == 4:  # number of blocks
                return count
            if operation == 5:  # bytes in a block
                return size
            return 0  # initialise, shut down, sync, erase: nothing to do

        self.readblocks = readblocks
        self.writeblocks = writeblocks
        self.ioctl = ioctl


flash = Flash(image, block_size)
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
