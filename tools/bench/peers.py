"""Starts the servers to measure, each on a loopback port: the everyday board, three of Debian, three in Python."""

import getpass
import importlib.util
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

from .. import BUILD, PACKAGE, ROOT, ToolError, boards, filesystem

_BOOT_SECONDS = 90
_STOP_SECONDS = 10
_UNPACKED = BUILD / "peers"

DEBIAN = {"tftpd-hpa": "in.tftpd", "atftpd": "atftpd", "dnsmasq-base": "dnsmasq"}  # package: its program
# Name on PyPI (the extra "bench"): a program that serves the folder argv[1] on port argv[2].
PYTHON = {
    "tftpy": "import sys, tftpy; tftpy.TftpServer(sys.argv[1]).listen('127.0.0.1', int(sys.argv[2]))",
    "py3tftp": (
        "import os, runpy, sys; os.chdir(sys.argv[1])\n"
        "sys.argv[1:] = ['--host', '127.0.0.1', '--port', sys.argv[2]]\n"
        "runpy.run_module('py3tftp', run_name='__main__')"
    ),
    "tftp": (
        "import sys, tftp\n"
        "options = tftp.TFTPServerOptions(max_blksize=65464, max_windowsize=64)\n"
        "tftp.TFTPServer(sys.argv[1], listen='127.0.0.1', port=int(sys.argv[2]), options=options).serve_forever()"
    ),
}
# microdot's way to serve a folder (its documentation, "Serving static files").
_MICRODOT = """
from microdot import Microdot, Response, send_file
Response.send_file_buffer_size = {buffer}
app = Microdot()
@app.get("/<path:path>")
async def serve(request, path):
    return send_file("{folder}/" + path)
app.run(host="127.0.0.1", port={port})
"""
LARGEST_BLKSIZE = 8192  # that is measured
_DNSMASQ_PORT = 69  # its TFTP port can't be changed


class NotMeasured(Exception):
    """A peer can't run here. The message says why, and what to do."""


@contextmanager
def everyday_board(folder: Path, flash_size: str, *settings: str) -> Iterator[int]:
    """The everyday board serving `folder`; the value is its port. `settings`: "KEY=VALUE". Raises ToolError."""
    command = [sys.executable, "-m", PACKAGE, "emulate", "--files", str(folder), "--port", "0"]
    command += ["--flash-size", flash_size, "--set", f"blksize={LARGEST_BLKSIZE}"]
    command += [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryFile("w+") as console:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=console)
        try:
            assert process.stdout
            ready = select.select([process.stdout], [], [], _BOOT_SECONDS)[0]
            line = process.stdout.readline().decode() if ready else ""
            if not line.startswith("ready "):
                console.seek(0)
                said = console.read().strip().splitlines() or ["no output"]
                raise ToolError(f"the everyday board does not start: {said[-1].removeprefix('error: ')}")
            yield int(line.rstrip("/\n").rpartition(":")[2])
        finally:
            _end(process, process.send_signal)


@contextmanager
def microdot(folder: Path, flash_size: int, buffer: int) -> Iterator[int]:
    """microdot's send_file() in the Unix port, from the same kind of flash; the value is its port.

    buffer  bytes that it reads and sends at once; 1024 by default

    Raises NotMeasured, ToolError.
    """
    found = importlib.util.find_spec("microdot")
    if not found or not found.submodule_search_locations:
        raise NotMeasured("microdot is missing: make bench installs it (dependency group bench)")
    source = Path(found.submodule_search_locations[0])
    port = free_port(socket.SOCK_STREAM)
    board = boards.load("unix")
    files = {f"{filesystem.SERVED}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    files |= {f"/lib/microdot/{name}.py": (source / f"{name}.py").read_bytes() for name in ("__init__", "microdot")}
    program = _MICRODOT.format(folder=filesystem.SERVED, port=port, buffer=buffer).encode()
    files |= {"/boot.py": b"", "/main.py": program}
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+") as console:
        flash = Path(name) / "flash.img"
        flash.write_bytes(filesystem.build(board["filesystem"], flash_size, files))
        command = boards.everyday(flash, board["filesystem"], board["heap"])
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            if not _listens(port, process):
                console.seek(0)
                said = console.read().strip().splitlines() or ["no output"]
                raise NotMeasured(f"microdot does not serve: {said[-1]}")
            yield port
        finally:
            _end(process, process.send_signal)


def _listens(port: int, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        time.sleep(0.05)
    return False


@contextmanager
def peer(name: str, folder: Path) -> Iterator[int]:
    """The TFTP server of that name (a key of DEBIAN or PYTHON) serving `folder`; the value is its port.

    Raises NotMeasured.
    """
    port = _DNSMASQ_PORT if name == "dnsmasq-base" else free_port()
    user = getpass.getuser()
    if name in PYTHON:
        command = [sys.executable, "-c", PYTHON[name], str(folder), str(port)]
    elif name == "tftpd-hpa":
        command = [find(name), "--listen", "--foreground", "--address", f"127.0.0.1:{port}", "--user", user]
        command += ["--secure", str(folder)]
    elif name == "atftpd":
        command = [find(name), "--daemon", "--no-fork", "--bind-address", "127.0.0.1", "--port", str(port)]
        command += ["--user", user, "--logfile", "/dev/null", str(folder)]
    else:
        command = [find(name), "--no-daemon", "--conf-file=/dev/null", "--port=0", f"--user={user}"]
        command += ["--listen-address=127.0.0.1", "--bind-interfaces", "--enable-tftp", f"--tftp-root={folder}"]
    with tempfile.TemporaryFile("w+") as console:
        # In its own session, so that the processes that it forks for transfers end with it.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        )
        try:
            if not _answers(port, process):
                console.seek(0)
                said = console.read().strip().splitlines() or ["no output (it may need root)"]
                raise NotMeasured(f"{name} does not serve: {said[-1]}")
            yield port
        finally:
            _end(process, lambda number: os.killpg(process.pid, number))


def find(package: str) -> str:
    """The path of the program of a Debian package. Downloads the package into build/peers if it is not installed.

    $TFTPD_HPA, $ATFTPD and $DNSMASQ_BASE override the paths. Raises NotMeasured.
    """
    program = DEBIAN[package]
    variable = package.upper().replace("-", "_")
    unpacked = _UNPACKED / "usr/sbin" / program
    for place in (os.environ.get(variable), f"/usr/sbin/{program}", program, str(unpacked)):
        found = shutil.which(place) if place else None
        # The package atftpd replaces in.tftpd with itself.
        if found and (package == "atftpd" or Path(found).resolve().name != "atftpd"):
            return found
    advice = f"{package} is missing and can't be downloaded: install it, or set ${variable} to its program"
    try:
        _UNPACKED.mkdir(parents=True, exist_ok=True)
        _quietly("apt-get", "download", package)
        _quietly("dpkg-deb", "-x", next(_UNPACKED.glob(f"{package}_*.deb")).name, ".")
        _quietly(str(unpacked), "--version")  # fails if a library is missing
    except (OSError, StopIteration, subprocess.SubprocessError):
        unpacked.unlink(missing_ok=True)
        raise NotMeasured(advice) from None
    return str(unpacked)


def _quietly(*command: str) -> None:
    subprocess.run(command, cwd=_UNPACKED, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    """A free port of 127.0.0.1, of UDP or TCP."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the server answers a request for a missing file within 5 seconds."""
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
    """End the process with SIGTERM, or with SIGKILL if that does not help."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # already ended
            send(number)
        try:
            process.wait(_STOP_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue
    if process.stdout:
        process.stdout.close()
