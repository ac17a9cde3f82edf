"""A network of its own for a board and a machine in QEMU: a namespace, and a cable between the two.

Boot loaders ask ports 69 and 80, and QEMU's own network answers there itself. So both live in a network of their own,
joined by a tap device whose frames pass through this process. Both vanish with the test.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time
from contextlib import ExitStack
from typing import TypeVar

import pytest

SERVER, CLIENT = "192.0.2.1", "192.0.2.2"  # RFC 5737: addresses for documentation

_CLONE_NEWNET = 0x4000_0000  # unshare(2)
_TUNSETIFF = 0x4004_54CA  # linux/if_tun.h
_IFF_TAP_NO_PI = 0x1002
_FRAME_BYTES = 2048

Self = TypeVar("Self", bound="Machine")


class Namespace:
    """A new network namespace without a name; it exists as long as a process runs inside."""

    def __enter__(self) -> "Namespace":
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        if self._libc.unshare(_CLONE_NEWNET):
            os.close(self._home)
            number = ctypes.get_errno()
            raise OSError(number, f"unshare: {os.strerror(number)}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._libc.setns(self._home, _CLONE_NEWNET) == 0
        os.close(self._home)


class Cable:
    """Connects QEMU, which gets the socket `end`, to a tap device with the server's address.

    Drops every `lose_every`-th UDP datagram, in both directions; 0 drops none.
    """

    def __init__(self) -> None:
        self._tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._tap, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP_NO_PI))
        for words in (f"addr add {SERVER}/24 dev tap0", "link set tap0 up", "link set lo up"):
            subprocess.run(["ip", *words.split()], check=True)
        self._near, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.lose_every = 0
        self.lost = 0
        self._count = 0
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        near = self._near.fileno()
        while True:
            readable = select.select([self._tap, near, self._stop], [], [])[0]
            if self._stop in readable:
                return
            for source, target in ((self._tap, near), (near, self._tap)):
                if source in readable:
                    frame = os.read(source, _FRAME_BYTES)
                    if self._loses(frame):
                        continue
                    try:
                        os.write(target, frame)
                    except ConnectionError:  # QEMU has ended
                        return

    def _loses(self, frame: bytes) -> bool:
        if not self.lose_every or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
            return False
        self._count += 1
        lost = self._count % self.lose_every == 0
        self.lost += lost
        return lost

    def __enter__(self) -> "Cable":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopping)
        self._thread.join()
        self._near.close()
        os.close(self._stop)
        os.close(self._tap)


class Machine:
    """A machine in QEMU at the end of a cable, with its console on the standard input and output of QEMU."""

    PROMPT = ""

    def __init__(self, cable: Cable, command: list[str]) -> None:
        network = cable.end.fileno()
        wiring = ["-netdev", f"socket,id=wire,fd={network}", "-device", "virtio-net-pci,netdev=wire,romfile="]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [*command, "-nographic", *wiring], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, pass_fds=[network]
        )
        cable.end.close()  # only QEMU keeps it, so that the cable sees the end of QEMU
        self._heard = ""

    def run(self, command: str, seconds: float = 20) -> str:
        """The output of a command. Fails if the prompt does not return in time."""
        self.type(command + "\n")
        return self.until(self.PROMPT, seconds)

    def type(self, text: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def until(self, text: str, seconds: float = 20) -> str:
        """What the machine says before it says `text`. Fails if that takes longer than `seconds`."""
        assert self._process.stdout
        end = time.monotonic() + seconds
        while text not in self._heard:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} in {seconds} s, but {self._heard!r}"
            if select.select([self._process.stdout], [], [], left)[0]:
                data = os.read(self._process.stdout.fileno(), 4096)
                assert data, f"QEMU has ended: {self._heard!r}"
                self._heard += data.decode(errors="replace").replace("\r", "")
        said, _, self._heard = self._heard.partition(text)
        return said

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def plugged_in(namespace: ExitStack, cable: ExitStack) -> Cable:
    """A cable in a network namespace of its own; each is undone by its stack. Skips the test where none can be had."""
    try:
        namespace.enter_context(Namespace())
        return cable.enter_context(Cable())
    except OSError as error:
        pytest.skip(f"no network namespace with a tap device ({error}): it takes root and /dev/net/tun")
