"""The compiled measuring client (client.c): built on demand, run as a program."""

import os
import shutil
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from .. import BUILD, ToolError

_SOURCE = Path(__file__).with_name("client.c")
_FETCH_SECONDS = 120


@dataclass(frozen=True)
class Fetch:
    """One transfer as the client saw it; times in seconds, `began` of the monotonic clock."""

    began: float
    seconds: float
    first: float  # seconds for the first `portion` bytes; `last`: for the last
    last: float
    blksize: int  # granted by the server
    windowsize: int
    repeats: int  # timeouts of the client

    @property
    def ended(self) -> float:
        return self.began + self.seconds


class Client:
    """Fetches files and compares them with those in `folder` on the host. It fails on any wrong packet or byte."""

    def __init__(self, folder: Path, patience: float = _FETCH_SECONDS) -> None:
        """Compiles the client if needed; `patience`: time limit of a fetch in seconds. Raises ToolError."""
        self._folder = folder
        self._patience = patience
        self._program = _build()
        self._expected: dict[str, tuple[str, str]] = {}  # name: size in bytes, CRC-32 in hexadecimal

    def start(
        self, port: int, name: str, *, blksize: int = 512, windowsize: int = 1, portion: int = 0
    ) -> "subprocess.Popen[str]":
        """Start a fetch of `name` from 127.0.0.1; `finish` waits for it.

        portion  bytes at both ends of the file to time separately, 0 for none
        """
        if name not in self._expected:
            data = (self._folder / name).read_bytes()
            self._expected[name] = str(len(data)), f"{zlib.crc32(data):08x}"
        command = [self._program, "-b", str(blksize), "-w", str(windowsize)]
        if portion:
            command += ["-p", str(portion)]
        command += [str(port), name, *self._expected[name]]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, process: "subprocess.Popen[str]") -> Fetch:
        """The result of a started fetch. Raises ToolError."""
        try:
            output, complaint = process.communicate(timeout=self._patience)
        except subprocess.TimeoutExpired:
            raise ToolError(f"a fetch did not end within {self._patience} s") from None
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise ToolError(f"a fetch failed: {complaint.strip()}")
        began, seconds, first, last, blksize, windowsize, repeats = output.split()
        return Fetch(
            float(began), float(seconds), float(first), float(last), int(blksize), int(windowsize), int(repeats)
        )

    def fetch(self, port: int, name: str, *, blksize: int = 512, windowsize: int = 1, portion: int = 0) -> Fetch:
        """Fetch `name`. Raises ToolError, also unless the server grants exactly this blksize and windowsize."""
        got = self.finish(self.start(port, name, blksize=blksize, windowsize=windowsize, portion=portion))
        if (got.blksize, got.windowsize) != (blksize, windowsize):
            raise ToolError(
                f"the server grants blksize {got.blksize} and windowsize {got.windowsize}, "
                f"not {blksize} and {windowsize}"
            )
        return got


def _build() -> str:
    program = BUILD / "client"
    if program.exists() and program.stat().st_mtime > _SOURCE.stat().st_mtime:
        return str(program)
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        raise ToolError("the measuring client needs a C compiler: install one (Debian: gcc), or set $CC")
    program.parent.mkdir(exist_ok=True)
    fresh = program.with_suffix(f".{os.getpid()}")
    command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(_SOURCE)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["no output"]
        raise ToolError(f"{compiler} can't compile {_SOURCE.name}: {said[-1]}")
    fresh.replace(program)  # atomic, in case two processes build at once
    return str(program)
