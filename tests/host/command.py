"""`python -m tools` as a user runs it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable

from board import ROOT


def complain(*arguments: object, environment: dict[str, str] | None = None) -> str:
    """Run a command that must fail, with one `error:` line after its warnings; returns that line."""
    result = subprocess.run(
        [sys.executable, "-m", "tools", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(environment or {})},
    )
    assert result.returncode in (1, 2) and result.stdout == "", result
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until true() returns a true value; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not true within {seconds} s"
        time.sleep(0.05)


def shown_on(terminal: int) -> bytes:
    """All that comes from this side of a terminal until the other is closed; closes it."""
    shown = b""
    with contextlib.suppress(OSError):
        while more := os.read(terminal, 65536):
            shown += more
    os.close(terminal)
    return shown
