"""The boards: their facts (board/NAME/board.json) and what a setting or a size looks like."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import ToolError

ROOT = Path(__file__).resolve().parent.parent
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


def load(name: str) -> dict[str, Any]:
    """The facts of the board called `name`. Raises ToolError."""
    path = ROOT / "board" / name / "board.json"
    if not path.is_file():
        known = sorted(path.parent.name for path in ROOT.glob("board/*/board.json"))
        raise ToolError(f"no board is called {name!r}; there are: {', '.join(known)}")
    return json.loads(path.read_text())


def parse_size(text: str) -> int:
    """Bytes in "848K", "16M" or "65536". Raises ToolError."""
    match = re.fullmatch(r"(\d+)([KM]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ToolError(f"a size is a number, or one with K or M behind it (848K, 16M), not {text!r}")
    return int(match[1]) * _UNITS[match[2].upper()]


def micropython() -> str:
    """The program that is MicroPython's Unix port: $MICROPYTHON, or the one of this Python's environment."""
    beside = Path(sys.executable).with_name("micropython")
    chosen = os.environ.get("MICROPYTHON") or (str(beside) if beside.exists() else "micropython")
    found = shutil.which(chosen)
    if not found:
        raise ToolError(f"{chosen} is not there: run 'make setup', or name MicroPython's Unix port in $MICROPYTHON")
    return found


def check_settings(settings: dict[str, Any], pairs: list[str]) -> dict[str, Any]:
    """`settings` with the KEY=VALUE `pairs` put over them, checked by the firmware itself. Raises ToolError."""
    for pair in pairs:
        if "=" not in pair:
            raise ToolError(f"--set takes KEY=VALUE, not {pair!r}")
    checker = str(ROOT / "board/unix/check_settings.py")
    command = [micropython(), checker, str(ROOT / "firmware"), json.dumps(settings), *pairs]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise ToolError(
            f"the settings could not be checked: {(result.stderr or result.stdout).strip().splitlines()[-1:]}"
        )
    answer = json.loads(result.stdout)
    if answer["complaints"]:
        raise ToolError("setting " + "; ".join(answer["complaints"]))
    return answer["settings"]
