"""MicroPython's Unix port as a board at its prompt, for `python -m tools deploy` and what uses it."""

import hashlib
import math
import os
import select
import subprocess
import sys

from mpremote.transport import TransportError

from tools import ToolError, boards, deploy

# A flash of 512 KiB, and a prompt that runs the code it is sent: a line with its length, then the code.
PROMPT = """
import os, sys, vfs
class Flash:
    data = bytearray(128 * 4096)
    def readblocks(self, block, buffer, offset=0):
        start = block * 4096 + offset
        buffer[:] = self.data[start : start + len(buffer)]
    def writeblocks(self, block, buffer, offset=0):
        start = block * 4096 + offset
        self.data[start : start + len(buffer)] = buffer
    def ioctl(self, operation, argument):
        return {4: 128, 5: 4096}.get(operation, 0)
vfs.VfsLfs2.mkfs(Flash(), progsize=32, readsize=32)
vfs.umount("/")
vfs.mount(vfs.VfsLfs2(Flash(), progsize=32, readsize=32), "/")
names = {}
while True:
    length = sys.stdin.readline()
    if not length:
        break
    try:
        exec(sys.stdin.read(int(length)), names)
        print("\\x04", end="")
    except Exception as error:
        print("\\x04%s: %s" % (type(error).__name__, error), end="")
    print("\\x04", end="")
"""
# As esp32_c3, with files that were on the board before.
FACTS = {"settings": {}, "filesystem": {"block_size": 4096, "prog_size": 32, "read_size": 32}}


class Prompt(deploy.Remote):
    """A board at its prompt. It disconnects after `pieces` more commands; None: never."""

    def __init__(self, files: dict[str, bytes]) -> None:
        command = [boards.micropython(), "-X", "heapsize=4M", "-c", PROMPT]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.connect()
        self.make_folders(files)
        for path, data in files.items():
            list(self.write(path, data))

    def connect(self) -> None:
        self.pieces: int | None = None
        self.resets = 0
        self.left = lambda: math.inf
        self._run(deploy._HELPER)

    def check(self, board: object) -> None:
        pass

    def _run(self, code: str) -> str:
        if self.pieces is not None:
            self.pieces -= 1
            if self.pieces < 0:
                raise TransportError("gone")
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"%d\n%s" % (len(code), code.encode()))
        said = b""
        while said.count(b"\4") < 2:
            assert select.select([self._process.stdout], [], [], 10)[0], (code, said)
            said += os.read(self._process.stdout.fileno(), 65536)
        answer, failed, _ = said.split(b"\4")
        if failed:
            raise ToolError(f"the board can't do it: {failed.decode()}")
        return answer.decode()

    def tree(self) -> dict[str, str]:
        """The SHA-256 of every file on the board."""
        return self.hashes([path for path, size in self.listing("/", True).items() if size is not None])

    def _reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        pass

    def wait_until_serving(self) -> str:
        return "tftp://192.0.2.1/"

    def end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def console_loses(device: str) -> bool:
    """Whether the emulated console loses bytes of 22,500 bytes of output without a pause."""
    code = "for _ in range(300): print('x' * 73)"
    command = [sys.executable, "-m", "mpremote", "connect", device, "resume", "exec", code]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except subprocess.TimeoutExpired:  # the end is lost
        return True
    return said.count("x") < 300 * 73


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
