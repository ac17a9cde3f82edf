"""TFTP servers of others that take uploads, for the tests of push."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tools.bench import peers

Serve = Callable[[Path], AbstractContextManager[int]]  # of a folder; gives the port


@contextmanager
def hpa(folder: Path) -> Iterator[int]:
    with server(
        folder, ["--listen", "--foreground", "--create", "--permissive", "--user", "root"], "tftpd-hpa"
    ) as port:
        yield port


@contextmanager
def atftpd(folder: Path) -> Iterator[int]:
    with server(folder, ["--daemon", "--no-fork", "--user", "root", "--logfile", "/dev/null"], "atftpd") as port:
        yield port


@contextmanager
def server(folder: Path, words: list[str], name: str) -> Iterator[int]:
    try:
        program = peers.find(name)
    except peers.NotMeasured as missing:
        pytest.skip(str(missing))
    port = peers.free_port()
    where = ["--bind-address", "127.0.0.1", "--port", str(port)]
    if name == "tftpd-hpa":
        where = ["--address", f"127.0.0.1:{port}", "--secure"]
    process = subprocess.Popen([program, *words, *where, str(folder)], stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()
