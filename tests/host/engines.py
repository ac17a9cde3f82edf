"""What the tests of the lab's engines share: the examples of docs/lab-engines.md, and the lab that they speak of."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from board import ROOT, Board
from cable import Namespace
from command import until
from served import content
from web import free_port

BOARD = "192.168.1.5"  # of the examples
UBOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
TEXT = (ROOT / "docs/lab-engines.md").read_text()


@contextmanager
def board_with_http(folder: Path, *arguments: str, port: int = 0, http_port: int = 0) -> Iterator[tuple[Board, int]]:
    """A board to stage files on, and its http_port."""
    (folder / "lab").mkdir()
    http_port = http_port or free_port()
    settings = [f"http_port={http_port}", "overwrite=true", 'write_to=["/lab"]']
    options = [word for setting in settings for word in ("--set", setting)]
    with Board("--writable", *options, *arguments, files=folder, port=port) as board:
        board.wait_for(f"http: port {http_port}")
        yield board, http_port


@dataclass
class Lab:
    """The lab of the examples, whose commands run in `folder`."""

    folder: Path
    board: Board
    environment: dict[str, str]

    def shown(self, program: str) -> list[str]:
        """The commands of the examples that begin with `program`."""
        return re.findall(rf"^\$ ({re.escape(program)} .*)$", TEXT, re.MULTILINE)

    def example(self, first: str) -> str:
        """The line `first` of an example, and the indented lines that follow it."""
        indent = len(first) - len(first.lstrip())
        found = re.search(rf"^{first}\n(?: {{{indent + 1},}}.*\n)+", TEXT, re.MULTILINE)
        assert found, first
        return found[0]

    def run(self, command: str) -> str:
        """What a command prints; fails if the command does."""
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def started(self, command: str, ready: str) -> Iterator[None]:
        """A command that says `ready`, and then runs until the end."""
        said = self.folder / f"{command.split()[0]}.log"
        with said.open("wb") as log:
            process = subprocess.Popen(command.split(), cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        try:
            until(lambda: ready in said.read_text(), 30)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


@contextmanager
def lab(folder: Path, *arguments: str) -> Iterator[Lab]:
    """A lab in a network of its own; all that is started meanwhile is in that network."""
    for program, package in (("qemu-system-aarch64", "qemu-system-arm"), ("ip", "iproute2")):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (Debian: {package})")
    if not UBOOT.exists():
        pytest.skip(f"{UBOOT} is not there (Debian: u-boot-qemu)")
    (folder / "out").mkdir()
    (folder / "out/Image").write_bytes(kernel())
    for name, text in re.findall(r"^```\w+\n# ([\w.]+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        assert not (folder / name).exists(), f"two examples are called {name}"
        (folder / name).write_text(text)
    # The programs of this environment, and this clone as the installed package.
    (folder / "packages").mkdir()
    (folder / "packages/mptftpd").symlink_to(ROOT / "tools")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder / "packages"), "HOME": str(folder)}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "labgrid.pytestplugin"}  # all take seconds
    (folder / "served").mkdir()
    with ExitStack() as stack:
        try:
            stack.enter_context(Namespace())
        except OSError as error:
            pytest.skip(f"no network namespace ({error}): it takes root")
        for words in ("link set lo up", f"addr add {BOARD}/32 dev lo"):
            subprocess.run(["ip", *words.split()], check=True)
        options = ["--host", BOARD, "--set", 'write_from=["192.168.1.0/24"]', *arguments]
        board = stack.enter_context(board_with_http(folder / "served", *options, port=69, http_port=80))[0]
        yield Lab(folder, board, environment)


def kernel(says: bytes = b"Linux version 0, of a test\r\n") -> bytes:
    """A kernel for QEMU's arm64 machine "virt", in the form of Linux (Documentation/arch/arm64/booting.rst), that only
    says something."""
    code = struct.pack(
        "<8I",
        0x10000101,  # adr x1, says
        0xD2A12002,  # mov x2, #0x9000000: the UART
        0x38401423,  # next: ldrb w3, [x1], #1
        0x34000063,  # cbz w3, done
        0xB9000043,  # str w3, [x2]
        0x17FFFFFD,  # b next
        0xD503207F,  # done: wfi
        0x17FFFFFF,  # b done
    )
    body = code + says + b"\0" + content(300_000)
    branch, anywhere_in_pages_of_4k = 0x14000010, 0b1010
    return struct.pack("<2I6Q4sI", branch, 0, 0, 64 + len(body), anywhere_in_pages_of_4k, 0, 0, 0, b"ARM\x64", 0) + body
