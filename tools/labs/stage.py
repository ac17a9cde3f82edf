"""Files on a board for a while: what labgrid.py, jumpstarter.py and the plugin of pytest have in common."""

import argparse
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from .. import ToolError, remote


def connect(host: str, port: int, http_port: int, password: str | None) -> "Stage":
    """The board at `host` with those settings (docs/settings.md). Raises ToolError."""
    if password and not http_port:
        raise ToolError("a password needs http_port: TFTP has none")
    scheme, number = ("http", http_port) if http_port else ("tftp", port)
    try:
        for one in (port, number):
            address = remote.parse(f"{scheme}://{host}:{one}")
    except argparse.ArgumentTypeError:
        raise ToolError(
            f"not the address of a board: host {host!r}, port {port!r}, http_port {http_port!r}; "
            "they are such as 192.168.1.5, 69, 80"
        ) from None
    return Stage(remote.connect(argparse.Namespace(address=address, password=password or None)))


def name(folder: str, path: Path) -> str:
    """The name on the board of a file in that folder."""
    return str(PurePosixPath("/", folder, path))[1:]


class Stage:
    """Stores files on a board, and removes them.

    stored  names of the files that were stored here and not removed
    """

    def __init__(self, board: remote.Http | remote.Tftp) -> None:
        self.board = board
        self.stored: set[str] = set()

    def store(self, files: Mapping[str, Path]) -> None:
        """Store files by their name on the board; returns when its index has them all with the right CRC32. What the
        board has already is not sent. Raises ToolError."""
        try:
            wanted = {name: zlib.crc32(path.read_bytes()) for name, path in files.items()}
        except OSError as error:
            raise ToolError(f"can't read {error.filename}: {error.strerror}") from None
        for name in self._missing(wanted):
            with files[name].open("rb") as file:
                self.board.write(name, file, remote.quiet)
            self.stored.add(name)
        if wrong := self._missing(wanted):
            raise ToolError(
                f"{wrong[0]} was stored, but {self.board.url} lists another content or no such file: somebody else "
                "has replaced it, or the board's client_folders or rules lead elsewhere"
            )

    def _missing(self, wanted: Mapping[str, int]) -> list[str]:
        there = {entry.name: entry.crc32 for entry in self.board.index()}
        return [name for name, crc in wanted.items() if there.get(name) != crc]

    def remove(self, names: set[str]) -> list[str]:
        """Remove files that were stored; returns a line for each that could not be."""
        problems = []
        for name in sorted(names):
            self.stored.discard(name)
            try:
                self.board.remove(name)
            except ToolError as error:
                problems.append(f"{name} is not removed: {error}")
        return problems
