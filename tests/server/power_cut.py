"""Runs inside MicroPython: `micropython power_cut.py FIRMWARE OLD_SIZE NEW_SIZE READER TEAR`.

Uploads NEW_SIZE bytes over a file of OLD_SIZE (-1: none), on a LittleFS flash in memory whose power fails at the n-th
program or erase, for every n until the upload completes. READER (0, 1): another client is reading the old file. TEAR
(0, 1): the interrupted operation does half of its work, else nothing. After each cut the flash is mounted as a boot
does, and check() asserts the state of the file. The power also fails at each operation of that boot. The last line
printed has the number of cuts in uploads and in boots.
"""

import os
import sys

import vfs

old_size, new_size, reader, tear = [int(argument) for argument in sys.argv[2:]]
sys.path.insert(0, sys.argv[1])

import settings  # noqa: E402
from tftpd.files import Files  # noqa: E402
from tftpd.names import Later  # noqa: E402
from tftpd.options import Agreed  # noqa: E402
from tftpd.packet import Refused  # noqa: E402
from tftpd.start import index  # noqa: E402
from tftpd.uploads import Uploads  # noqa: E402

BLOCK = 4096
BLOCKS = 48
NAME = b"old.bin"
OLD = bytes([i * 7 & 255 for i in range(max(old_size, 0))])
NEW = bytes([i * 11 + 3 & 255 for i in range(new_size)])


class Flash:
    """NOR flash: an erase sets all bits of a block, a program clears some. Power fails at operation number `cut`."""

    def __init__(self, memory, cut=0):
        self.memory = memory
        self.left = cut  # operations until the power fails; 0: it never does
        self.dead = False
        self.gone = False  # only finalisers still use it

    def _operate(self, at, data):
        """Put `data` at `at`."""
        self.left -= 1
        if self.left == 0:
            self.dead = True
            if tear:
                half = len(data) // 2
                self.memory[at : at + half] = data[:half]
                for i in range(at + half, at + half + 8):  # a torn bit reads as 0 or 1
                    self.memory[i] &= i * 37 & 255 | data[i - at]
            raise OSError(5)
        self.memory[at : at + len(data)] = data

    def readblocks(self, number, buffer, offset=0):
        if self.gone:
            return
        if self.dead:
            raise OSError(5)
        at = number * BLOCK + offset
        buffer[:] = self.memory[at : at + len(buffer)]

    def writeblocks(self, number, buffer, offset=0):
        if self.gone:
            return
        if self.dead:
            raise OSError(5)
        at = number * BLOCK + offset
        assert self.memory[at : at + len(buffer)] == b"\xff" * len(buffer), "programmed without an erase"
        self._operate(at, bytes(buffer))

    def ioctl(self, operation, argument):
        if operation == 4:
            return BLOCKS
        if operation == 5:
            return BLOCK
        if operation == 6 and not self.gone:
            if self.dead:
                raise OSError(5)
            self._operate(argument * BLOCK, b"\xff" * BLOCK)
        return 0


def mount(flash):
    os.chdir("/")
    vfs.umount("/")
    vfs.mount(vfs.VfsLfs2(flash, readsize=256, progsize=256), "/")


def boot(flash):
    """The served tree as the server opens it."""
    mount(flash)
    chosen = dict(settings.defaults(), root="/files", overwrite=True)
    uploads = Uploads(chosen, Files(chosen, 1000))
    uploads.recover()
    index(uploads.files.names)
    return uploads


def content(name):
    try:
        with open("/files/" + name, "rb") as file:
            return file.read()
    except OSError:
        return None


def place(uploads):
    names = uploads.files.names
    found = {}
    while True:
        try:
            return uploads.place(NAME, "", found)
        except Later:
            names.work(1000)


def upload(uploads, data):
    """Returns True once the last ACK was sent; raises OSError or Refused if the power fails."""
    agreed = Agreed(((b"blksize", b"1000"), (b"windowsize", b"4")), 1468, 4, upload=True)
    sink = uploads.create(place(uploads), "octet", None)
    transfer = uploads.transfer(sink, None, agreed, 3, 8, lambda: 0)
    sent = []

    def send(packet):
        sent.append(bytes(packet))
        return len(packet)

    transfer.send = send
    try:
        for block in range(len(data) // 1000 + 1):
            datagram = bytes((0, 3, block + 1 >> 8, block + 1 & 255)) + data[block * 1000 : block * 1000 + 1000]
            transfer.receive(datagram, len(datagram), 0)
            transfer.pump()
        return sent[-1] == bytes((0, 4, block + 1 >> 8, block + 1 & 255))
    finally:
        sink.close()


def check(memory, acknowledged):
    """What must be true after a boot from that flash. Returns the state of the file."""
    uploads = boot(Flash(memory))
    found = content("old.bin")
    before = OLD if old_size >= 0 else None
    assert found == NEW or (found == before and not acknowledged), "half a file, or the wrong one"
    assert content("other.bin") == OTHER
    assert ".uploads" not in os.listdir("/") or os.listdir("/.uploads") == [], os.listdir("/.uploads")
    for data in (b"short", NEW + b"and more"):
        assert upload(uploads, data)
        assert content("old.bin") == data
    return found


OTHER = bytes(range(256)) * 20
fresh = bytearray(b"\xff" * (BLOCK * BLOCKS))
vfs.VfsLfs2.mkfs(Flash(fresh), readsize=256, progsize=256)
mount(Flash(fresh))
os.mkdir("/files")
for name, data in (("old.bin", OLD if old_size >= 0 else None), ("other.bin", OTHER)):
    if data is not None:
        with open("/files/" + name, "wb") as file:
            file.write(data)
if old_size < 0:
    upload(boot(Flash(fresh)), b"")  # /.uploads exists
    os.remove("/files/old.bin")

cuts = again = 0
outcomes = set()
while True:
    cuts += 1
    memory = bytearray(fresh)
    flash = Flash(memory, cuts)
    acknowledged = False
    source = None
    try:
        uploads = boot(flash)
        files = uploads.files
        if reader:
            path = "/files/old.bin"
            source = files.source(open(path, "rb"), path, "octet", Agreed((), 512, 1))  # noqa: SIM115
            first = bytearray(512)
            first = bytes(first[: source.readinto(first)])
        acknowledged = upload(uploads, NEW)
        if source:
            assert acknowledged
            left, flash.left = flash.left, 0  # the preparation is not cut
            for _ in range(20):  # would overwrite the block if it were free
                with open("/files/filler", "wb") as file:
                    file.write(bytes(4096))
            os.remove("/files/filler")
            flash.left = left
            rest = bytearray(len(OLD))
            assert first + bytes(rest[: source.readinto(rest)]) == OLD
            files.close(source)
    except (OSError, Refused):
        assert flash.dead
        if source:
            files.close(source)
        flash.gone = True
    if not flash.dead:
        assert acknowledged and content("old.bin") == NEW
        assert os.listdir("/.uploads") == []
        break
    # The power comes back, and fails at each operation of the boot in turn.
    second = 0
    while True:
        second += 1
        half = bytearray(memory)
        flash = Flash(half, second)
        try:
            boot(flash)
        except OSError:
            assert flash.dead
            flash.gone = True
        outcomes.add(check(half, acknowledged) == NEW)
        if not flash.dead:
            break
        again += 1
assert outcomes == {True, False}, "the cuts fall only before or only after the rename"
print(cuts - 1, again)
