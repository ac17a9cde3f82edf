"""boot.py inside MicroPython, on a block device in memory in the place of an ESP32's flash."""

import subprocess

import pytest

from board import ROOT
from tools.boards import micropython

FLASH = """
import os, sys, vfs

with open("boot.py") as file:  # while the host's files can be seen
    BOOT = file.read()

class settings:
    pass

class link:
    join = lambda chosen: None

sys.modules["settings"], sys.modules["link"] = settings, link

class Device:
    def __init__(self):
        self.data = bytearray(64 * 4096)
        self.reads = 0

    def readblocks(self, number, buffer, offset=0):
        self.reads += 1
        at = number * 4096 + offset
        buffer[:] = self.data[at : at + len(buffer)]

    def writeblocks(self, number, buffer, offset=0):
        at = number * 4096 + offset
        self.data[at : at + len(buffer)] = buffer

    def ioctl(self, operation, argument):
        return {4: 64, 5: 4096}.get(operation, 0)

class flashbdev:
    bdev = Device()

kind = getattr(vfs, KIND)
kind.mkfs(flashbdev.bdev)
vfs.umount("/")
vfs.mount(flashbdev.bdev, "/")
with open("/big", "wb") as file:
    file.write(bytes(range(256)) * 200)

def boot(cache):
    settings.load = lambda: {"flash_cache": cache, "card": None}
    exec(BOOT, {})

def reads():
    before = flashbdev.bdev.reads
    with open("/big", "rb") as file:
        assert file.read() == bytes(range(256)) * 200
    return flashbdev.bdev.reads - before
"""


def run(script: str, kind: str = "VfsLfs2") -> str:
    command = [micropython(), "-X", "heapsize=2M", "-c", FLASH.replace("KIND", repr(kind)) + script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize(("cache", "fewer"), [(512, 2), (1024, 4), (4096, 10)])
def test_a_larger_cache_needs_fewer_reads_and_shows_the_same_files(cache: int, fewer: int):
    run(f"""
before = reads()
sys.modules["flashbdev"] = flashbdev
boot({cache})
assert reads() * {fewer} < before, (before, reads())
open("/new", "w").close()
assert sorted(os.listdir()) == ["big", "new"]
""")


def test_another_filesystem_stays_mounted_as_it_is():
    said = run('sys.modules["flashbdev"] = flashbdev\nboot(1024)\nreads()', "VfsFat")
    assert said.startswith("flash: no LittleFS with a cache of 1024 bytes: ")


def test_a_board_without_flashbdev_stays_mounted_as_it_is():
    assert run("before = reads()\nboot(1024)\nassert reads() == before") == ""


def test_a_cache_that_does_not_fit_in_memory_leaves_the_flash_as_it_is():
    said = run("""
class Short:
    def VfsLfs2(*arguments, **named):
        raise MemoryError

sys.modules["flashbdev"], sys.modules["vfs"] = flashbdev, Short
boot(4096)
reads()
""")
    assert said.startswith("flash: no LittleFS with a cache of 4096 bytes: MemoryError")
