"""The host side of micropython-tftpd: `mptftpd COMMAND`, in a clone `python -m tools COMMAND`."""

import sys
from pathlib import Path

PACKAGE = __name__  # `mptftpd` when installed, `tools` in a clone
_HERE = Path(__file__).resolve().parent
INSTALLED = (_HERE / "shipped").is_dir()  # the wheel has there what the boards run (pyproject.toml)
ROOT = _HERE / "shipped" if INSTALLED else _HERE.parent  # the folder of firmware/, board/, boot.py and main.py
BUILD = (Path() if INSTALLED else ROOT).resolve() / "build"  # what `bench` makes
# What the user typed, for help and messages.
PROGRAM = "mptftpd" if Path(sys.argv[0]).stem == "mptftpd" else f"python -m {PACKAGE}"


class ToolError(Exception):
    """Says in one line what went wrong and what to do. The command prints it and exits with a non-zero status."""


def version() -> str:
    """The version of this project, from the one place that states it."""
    return (ROOT / "firmware/tftpd/__init__.py").read_text().partition('__version__ = "')[2].partition('"')[0]


def printable(text: str) -> str:
    """`text` on one line, with non-printing characters escaped: control characters, which a terminal would obey, and
    characters that reverse or hide their neighbours (U+202E, U+200B)."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
