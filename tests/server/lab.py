"""A network of its own for machines that boot from it: hosts in network namespaces and machines in QEMU, joined by a
switch in this process that keeps what it carries.

All of it vanishes with the test. It takes root and /dev/net/tun.
"""

import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from cable import Namespace

_TUNSETIFF = 0x4004_54CA  # linux/if_tun.h
_IFF_TAP_NO_PI = 0x1002
_FRAME_BYTES = 2048


class Datagram(NamedTuple):
    """A UDP datagram that the switch has carried."""

    source: tuple[str, int]
    target: tuple[str, int]
    data: bytes


class Switch:
    """Carries each frame from where it comes to all others. `seen`: the UDP datagrams."""

    def __init__(self) -> None:
        self.seen: list[Datagram] = []
        self._ports: list[int] = []
        self._open: list[socket.socket] = []
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextmanager
    def host(self, address: str) -> Iterator[None]:
        """What is started inside runs on a host with that address, /24."""
        try:
            with Namespace():
                tap = os.open("/dev/net/tun", os.O_RDWR)
                fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP_NO_PI))
                for words in (
                    f"addr add {address}/24 brd + dev tap0",
                    "link set tap0 up",
                    "link set lo up",
                    "route add default dev tap0",  # the way to 255.255.255.255
                ):
                    subprocess.run(["ip", *words.split()], check=True)
                self._ports.append(tap)
                yield
        except OSError as error:
            pytest.skip(f"no network namespace with a tap device ({error}): it takes root and /dev/net/tun")

    def plug(self) -> socket.socket:
        """A cable for a machine; whoever gets it must close it."""
        near, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._open.append(near)
        self._ports.append(near.fileno())
        return end

    def _run(self) -> None:
        while True:
            ports = list(self._ports)
            readable = select.select([*ports, self._stop], [], [], 0.05)[0]
            if self._stop in readable:
                return
            for source in readable:
                try:
                    frame = os.read(source, _FRAME_BYTES)
                except OSError:
                    frame = b""
                if not frame:  # the machine has ended
                    self._ports.remove(source)
                    continue
                self._note(frame)
                for target in ports:
                    if target != source:
                        with suppress(OSError):  # that machine has ended
                            os.write(target, frame)

    def _note(self, frame: bytes) -> None:
        packet = frame[14:]
        if frame[12:14] != b"\x08\x00" or len(packet) < 28 or packet[9] != socket.IPPROTO_UDP:
            return
        datagram = packet[(packet[0] & 15) * 4 :]
        source_port, target_port, size = struct.unpack_from("!3H", datagram)
        source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        self.seen.append(Datagram((source, source_port), (target, target_port), datagram[8:size]))

    def __enter__(self) -> "Switch":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopping)
        self._thread.join()
        for one in self._open:
            one.close()
        os.close(self._stop)


class Machine:
    """QEMU with its console; `said` is what it has printed so far."""

    def __init__(self, program: str, *arguments: str, switch: Switch, device: str, mac: str = "52:54:00:12:34:56"):
        cable = switch.plug()
        network = str(cable.fileno())
        wiring = ["-netdev", f"socket,id=wire,fd={network}", "-device", f"{device},netdev=wire,mac={mac}"]
        self.process = subprocess.Popen(
            [program, *arguments, *wiring, "-nographic", "-no-reboot"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[cable.fileno()],
        )
        cable.close()  # only QEMU keeps it
        self.said = ""

    def type(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for(self, text: str, seconds: float) -> str:
        """Wait until the console says that; returns all that it has said since the last such call."""
        assert self.process.stdout
        end = time.monotonic() + seconds
        while text not in self.said:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} in {seconds} s, but {self.said!r}"
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 4096)
                assert data, f"QEMU has ended: {self.said!r}"
                self.said += data.decode(errors="replace").replace("\r", "")
        said, _, self.said = self.said.partition(text)
        return said + text

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def dnsmasq(switch: Switch, address: str, *arguments: str) -> Iterator[None]:
    """dnsmasq on a host of its own, which by default gives addresses, and knows nothing of booting."""
    need("dnsmasq", "dnsmasq-base")
    network = address.rpartition(".")[0]
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--no-ping"]
    command += ["--log-facility=-", "--leasefile-ro", "--interface=tap0"]
    command += arguments or [f"--dhcp-range={network}.100,{network}.150,1h"]
    with tempfile.TemporaryFile() as log, switch.host(address):
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 5
            said = b""
            while b"started" not in said:
                assert process.poll() is None and time.monotonic() < end, said
                time.sleep(0.02)
                said = os.pread(log.fileno(), 65536, 0)
            yield
        finally:
            process.kill()
            process.wait()


def need(program: str, package: str, file: Path | None = None) -> None:
    """Skip the test where the program, or the file, is not installed."""
    if not shutil.which("ip"):
        pytest.skip("ip is not installed (Debian: iproute2)")
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed (Debian: {package})")
    if file and not file.exists():
        pytest.skip(f"{file} is not there (Debian: {package})")
