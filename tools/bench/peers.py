"""The servers that are measured: the everyday board, tftpd-hpa and atftpd, each on a loopback port."""

import getpass
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import ToolError
from ..boards import ROOT

_BOOT_SECONDS = 90
_STOP_SECONDS = 10
_UNPACKED = ROOT / "build" / "peers"

PEERS = {"tftpd-hpa": "in.tftpd", "atftpd": "atftpd"}  # Debian package: its program


class NotMeasured(Exception):
    """A peer can't run here: why, and what would help."""


@contextmanager
def everyday_board(folder: Path, flash_size: str) -> Iterator[int]:
    """The everyday board serving `folder`; the value is its port. Raises ToolError."""
    command = [sys.executable, "-m", "tools", "emulate", "--files", str(folder), "--port", "0"]
    command += ["--flash-size", flash_size]
    with tempfile.TemporaryFile("w+") as console:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=console)
        try:
            assert process.stdout
            ready = select.select([process.stdout], [], [], _BOOT_SECONDS)[0]
            line = process.stdout.readline().decode() if ready else ""
            if not line.startswith("ready "):
                console.seek(0)
                said = console.read().strip().splitlines() or ["it says nothing"]
                raise ToolError(f"the everyday board does not start: {said[-1].removeprefix('error: ')}")
            yield int(line.rstrip("/\n").rpartition(":")[2])
        finally:
            _end(process, process.send_signal)


@contextmanager
def peer(package: str, folder: Path) -> Iterator[int]:
    """The TFTP server of that Debian package (a key of PEERS) serving `folder`; the value is its port.

    Raises NotMeasured.
    """
    program = find(package)
    port = free_port()
    user = getpass.getuser()
    if package == "tftpd-hpa":
        command = [program, "--listen", "--foreground", "--address", f"127.0.0.1:{port}", "--user", user, "--secure"]
    else:
        command = [program, "--daemon", "--no-fork", "--bind-address", "127.0.0.1", "--port", str(port)]
        command += ["--user", user, "--logfile", "/dev/null"]
    with tempfile.TemporaryFile("w+") as console:
        # A session of its own, so that what it forks for each transfer ends with it.
        process = subprocess.Popen(
            [*command, str(folder)], stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        )
        try:
            if not _answers(port, process):
                console.seek(0)
                said = console.read().strip().splitlines() or ["it says nothing (it may need to be run as root)"]
                raise NotMeasured(f"{package} does not serve: {said[-1]}")
            yield port
        finally:
            _end(process, lambda number: os.killpg(process.pid, number))


def find(package: str) -> str:
    """The program of that Debian package, which is fetched into build/peers if it is not installed.

    Where it lies can be set in $TFTPD_HPA and $ATFTPD. Raises NotMeasured.
    """
    program = PEERS[package]
    variable = package.upper().replace("-", "_")
    unpacked = _UNPACKED / "usr/sbin" / program
    for place in (os.environ.get(variable), f"/usr/sbin/{program}", program, str(unpacked)):
        found = shutil.which(place) if place else None
        if found:
            return found
    advice = f"{package} is not here and can't be fetched: install it, or name its program in ${variable}"
    try:
        _UNPACKED.mkdir(parents=True, exist_ok=True)
        _quietly("apt-get", "download", package)
        _quietly("dpkg-deb", "-x", next(_UNPACKED.glob(f"{package}_*.deb")).name, ".")
        _quietly(str(unpacked), "-V")  # are its libraries here?
    except (OSError, StopIteration, subprocess.SubprocessError):
        unpacked.unlink(missing_ok=True)
        raise NotMeasured(advice) from None
    return str(unpacked)


def _quietly(*command: str) -> None:
    subprocess.run(command, cwd=_UNPACKED, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)


def free_port() -> int:
    """A UDP port of 127.0.0.1 that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the server answers a request for a file that is not there, within a few seconds."""
    deadline = time.monotonic() + 5
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.2)
        while time.monotonic() < deadline and process.poll() is None:
            probe.sendto(b"\0\1is-anyone-there\0octet\0", ("127.0.0.1", port))
            try:
                probe.recv(516)
                return True
            except TimeoutError:
                continue
    return False


def _end(process: "subprocess.Popen[bytes]", send: Callable[[int], object]) -> None:
    """Ask the process to end, and make it end if it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # it has ended already
            send(number)
        try:
            process.wait(_STOP_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue
    if process.stdout:
        process.stdout.close()
