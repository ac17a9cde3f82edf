"""A running board, looked after over HTTP or TFTP: what ls, df, get, put, rm and check have in common.

What a board answers is not trusted: neither its names nor its sizes.
"""

import argparse
import errno
import io
import json
import logging
import math
import os
import socket
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import requests
import tftpy
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from . import ToolError, boards, filesystem, printable

_CONNECT_S = 5
_PIECE_BYTES = 65536
_MOST_BYTES = 64 << 20  # of a file that is kept in memory
_FORMS = "HOST, HOST:PORT (TFTP), tftp://HOST[:PORT] or http://HOST[:PORT]"
_PORTS = {"tftp": 69, "http": 80}
_UNREACHABLE = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH)
_SILENCE_S = 20  # longest wait for an answer,
_INDEX_S = 110  # and for the index, for which a board may read all its files
_REPEAT_S = 6  # tftpy asks again; 20 times at most
_STATUS = {
    401: "the board wants the password of its setting http_password: --password",
    403: "not allowed",
    404: "no such file",
    409: "the file exists and overwrite is off, or somebody is writing it",
    413: "larger than the board's write_limit",
    503: "the board is busy or short of memory: try again",
    507: "no room on the board",
}

Told = Callable[[int, int | None], None]  # is told the bytes moved since the last call, and those in all if known


@dataclass
class Entry:
    """A file of a board: its name, size in bytes, CRC32, and the stored file that it is inflated from."""

    name: str
    size: int
    crc32: int
    origin: str | None = None


class Lost(ToolError):
    """The board does not answer, or the connection broke: it may be starting anew."""


class Busy(Lost):
    """The board can't just now."""


MISSING, OTHER, EXTRA = "missing on the board", "differs", "only on the board"


@dataclass
class Difference:
    """A file that differs between a board and this computer: its name; MISSING, OTHER or EXTRA; that in words; bytes on
    the board."""

    name: str
    kind: str
    text: str
    there: int = 0


def differences(wanted: dict[str, bytes], entries: list[Entry]) -> list[Difference]:
    """What differs between a board with these `entries` and the `wanted` files. Names in another case are the same, as
    the board has it: a file stored as README replaces its readme."""
    there = {_folded(entry.name): entry for entry in entries} | {entry.name: entry for entry in entries}
    found, matched = [], []
    for name, data in wanted.items():
        entry = there.get(name) or there.get(_folded(name))
        if not entry:
            found.append(Difference(name, MISSING, MISSING))
            continue
        matched.append(entry)
        if entry.size != len(data):
            text = f"{OTHER}: {entry.size:,} bytes on the board, {len(data):,} here"
            found.append(Difference(name, OTHER, text, entry.size))
        elif entry.crc32 != (crc := zlib.crc32(data)):
            text = f"{OTHER}: CRC32 {entry.crc32:08x} on the board, {crc:08x} here"
            found.append(Difference(name, OTHER, text, entry.size))
    # A wanted file may be stored compressed; what is inflated from a wanted file is no file of its own.
    names = {entry.name for entry in matched}
    mine = names | {entry.origin for entry in matched}
    for entry in entries:
        if entry.name not in mine and entry.origin not in names:
            found.append(Difference(entry.name, EXTRA, EXTRA, entry.size))
    return sorted(found, key=lambda one: one.name)


def _folded(name: str) -> str:
    """`name` as the board compares names: without regard to the case of ASCII letters."""
    return name.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


def add_arguments(parser: argparse.ArgumentParser, password: bool = False) -> None:
    parser.add_argument("address", type=parse, metavar="ADDRESS", help=f"of the board: {_FORMS}")
    if password:
        parser.add_argument("--password", metavar="TEXT", help="of the setting http_password, for http:// addresses")


def parse(text: str) -> tuple[str, str, int]:
    """(scheme, host, port) of an address. Raises argparse.ArgumentTypeError."""
    url = urlsplit(text if "://" in text else f"tftp://{text}")
    try:
        port = url.port
    except ValueError:
        port = 0
    odd = url.path.strip("/") or url.query or url.fragment or url.username or port == 0
    if url.scheme not in _PORTS or not url.hostname or odd:
        raise argparse.ArgumentTypeError(f"not the address of a board: {text}; it is {_FORMS}")
    return url.scheme, url.hostname, port or _PORTS[url.scheme]


def url_of(scheme: str, host: str, port: int) -> str:
    """An address as parse() has it, as it is shown."""
    return f"{scheme}://{host}" if port == _PORTS[scheme] else f"{scheme}://{host}:{port}"


def connect(arguments: argparse.Namespace) -> "Http | Tftp":
    """The board at the command's ADDRESS. Raises ToolError."""
    password = getattr(arguments, "password", None)
    if arguments.address[0] != "http" and password is not None:
        raise ToolError("TFTP has no passwords: --password is for http:// addresses")
    return at(arguments.address, password)


def at(address: tuple[str, str, int], password: str | None = None) -> "Http | Tftp":
    """The board at an address as of parse(). `password`: for HTTP only."""
    scheme, host, port = address
    return Http(host, port, password) if scheme == "http" else Tftp(host, port)


class _Board:
    """What does not depend on the protocol.

    url       as it is shown
    patience  seconds without an answer after which it is given up
    left      gives how many seconds all that is asked of it may still take, or raises ToolError to end it
    """

    url: str
    patience: float = _SILENCE_S

    def __init__(self) -> None:
        self.left: Callable[[], float] = lambda: math.inf

    def _patience(self) -> float:
        return min(self.patience, self.left())

    def read(self, name: str, output: BinaryIO, told: Told) -> None:
        """Write the file `name` of the board to `output`. Raises ToolError."""
        raise NotImplementedError

    def _small(self, name: str) -> Any:
        output = io.BytesIO()
        left = _MOST_BYTES

        def told(moved: int, _: int | None) -> None:
            nonlocal left
            left -= moved
            if left < 0:
                raise ToolError(f"{self.url}: {name} does not end")

        try:
            self.read(f"tftpd/{name}", output, told)
            return json.loads(output.getvalue())
        except NotThere:
            raise ToolError(f"{self.url} has no tftpd/{name}: its made_files is off, or it is another server") from None
        except ValueError:
            raise ToolError(f"{self.url}: tftpd/{name} is no JSON, it is another server") from None

    def status(self) -> dict[str, Any]:
        """Its tftpd/status.json. Raises ToolError."""
        told = self._small("status.json")
        if not isinstance(told, dict):
            raise ToolError(f"{self.url}: tftpd/status.json is not as it should be, it is another server")
        return told

    def index(self) -> list[Entry]:
        """Its files. Raises ToolError."""
        self.status()  # a board that is not there is told soon
        self.patience = _INDEX_S
        try:
            entries = [
                Entry(str(name), int(size), int(crc, 16), *map(str, origin))
                for name, size, crc, *origin in self._small("index.json")
            ]
        except (TypeError, ValueError):
            raise ToolError(f"{self.url}: tftpd/index.json is not as it should be, it is another server") from None
        finally:
            self.patience = _SILENCE_S
        return sorted(entries, key=lambda entry: entry.name)


class NotThere(ToolError):
    """The board has no such file."""


class Http(_Board):
    def __init__(self, host: str, port: int, password: str | None) -> None:
        super().__init__()
        self.url = url_of("http", host, port)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy leads to a board, and no .netrc has its password
        if password is not None:
            self._session.headers["Authorization"] = "Basic " + b64encode(b"tftpd:" + password.encode()).decode()

    @contextmanager
    def _asking(self, method: str, name: str, **more: Any) -> Iterator[requests.Response]:
        url = f"{self.url}/{quote(_checked(name))}"
        try:
            with self._session.request(
                method, url, timeout=(_CONNECT_S, self._patience()), allow_redirects=False, stream=True, **more
            ) as answer:
                code = answer.status_code
                if code not in (200, 201, 204):
                    text = next(answer.iter_content(200), b"").decode(errors="replace").strip()
                    problem = {404: NotThere, 409: Busy, 503: Busy}.get(code, ToolError)
                    raise problem(f"{name}: {_STATUS.get(code, 'refused')} ({code}{text and f', {text}'})")
                yield answer
        except requests.Timeout:
            raise Lost(f"{self.url} does not answer") from None
        except requests.RequestException as error:
            raise Lost(f"{self.url}: {_reason(error)}") from None

    def read(self, name: str, output: BinaryIO, told: Told) -> None:
        with self._asking("GET", name) as answer:
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            for piece in answer.iter_content(_PIECE_BYTES):
                self.left()
                output.write(piece)
                told(len(piece), total)

    def write(self, name: str, file: BinaryIO, told: Told) -> None:
        """Store what is in `file` as `name` on the board. Raises ToolError, OSError."""
        body = _Told(file, told, self.left)
        with self._asking("PUT", name, data=body if len(body) else b""):  # or requests would send it in chunks
            pass

    def remove(self, name: str) -> None:
        """Raises ToolError."""
        with self._asking("DELETE", name):
            pass


class _Told:
    """A file that tells what was read of it. `left`: as of _Board."""

    def __init__(self, file: BinaryIO, told: Told, left: Callable[[], float]) -> None:
        self._file, self._told, self._left, self._size = file, told, left, _size(file)

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        self._left()
        piece = self._file.read(size)
        self._told(len(piece), self._size)
        return piece


def _size(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _reason(error: BaseException) -> str:
    """The innermost reason of what requests raised, without the text around it."""
    while error.__context__ or error.__cause__:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error) or "the connection was lost"


class Tftp(_Board):
    """Over TFTP.

    repeat   seconds after which a packet is sent again
    options  whether options are asked for
    """

    repeat: float = _REPEAT_S
    options = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.url = url_of("tftp", host, port)
        self._where = host, port
        logging.getLogger("tftpy").setLevel(logging.CRITICAL)  # it logs what it raises

    def _move(self, kind: str, name: str, file: BinaryIO, told: Told, total: int | None) -> None:
        refusal: list[Any] = []

        def heard(packet: Any) -> None:
            nonlocal total
            self.left()
            if isinstance(packet, tftpy.TftpPacketTypes.TftpPacketERR):
                refusal.append(packet)
            elif isinstance(packet, tftpy.TftpPacketTypes.TftpPacketOACK):
                total = int(packet.options.get("tsize", total or 0)) or None
            elif isinstance(packet, tftpy.TftpPacketTypes.TftpPacketDAT):
                told(len(packet.data or b""), total)

        try:
            options = {"blksize": 1428, "tsize": total or 0} if self.options else {}
            client = tftpy.TftpClient(*self._where, options=options, flock=False)
            patience = self._patience()
            wait = {"timeout": min(self.repeat, patience), "retries": int(patience / self.repeat)}
            getattr(client, kind)(_checked(name).encode(), file, packethook=heard, **wait)
        except OSError as error:
            if not isinstance(error, socket.gaierror) and error.errno not in _UNREACHABLE:
                raise  # of the file
            raise Lost(f"{self.url}: {error.strerror}") from None
        except tftpy.TftpShared.TftpTimeout:
            raise Lost(f"{self.url} does not answer") from None
        except (tftpy.TftpShared.TftpException, AssertionError) as error:
            if not refusal:  # tftpy takes a repeated OACK for an error: the packet before came late
                raise Lost(f"{name}: {error}") from None
            code, text = refusal[-1].errorcode, (refusal[-1].errmsg or b"").decode(errors="replace")
            problem = {0: Busy, 1: NotThere}.get(code, ToolError)
            raise problem(f"{name}: {text or 'refused'} (ERROR {code})") from None

    def read(self, name: str, output: BinaryIO, told: Told) -> None:
        self._move("download", name, output, told, None)

    def write(self, name: str, file: BinaryIO, told: Told) -> None:
        """As Http."""
        self._move("upload", name, file, told, _size(file))

    def remove(self, name: str) -> None:
        """Raises ToolError."""
        raise ToolError(f"TFTP can't remove a file: set http_port on the board, and use http://{self._where[0]}")


def _checked(name: str) -> str:
    """`name` as it is sent. Raises ToolError for one that no board has."""
    if ".." in PurePosixPath(name).parts or not name.strip("/") or "\0" in name:
        raise ToolError(f"not the name of a file on a board: {name!r}")
    return name.lstrip("/")


def local(name: str, folder: Path) -> Path:
    """Where a file that the board calls `name` belongs below `folder`. Raises ToolError if that is outside, as a name
    of a board that means ill."""
    parts = name.split("/")
    odd = any(part in ("", ".", "..") or set(part) & set("\\:\0") or not part.isprintable() for part in parts)
    path = folder.joinpath(*parts) if not odd else folder
    if odd or folder.resolve() not in path.resolve().parents:
        raise ToolError(f"the board has a file whose name leads out of {folder}, or is no name here: {name!r}")
    return path


def folder_files(folder: Path) -> dict[str, bytes]:
    """What a board serves of `folder`: contents by name. Raises ToolError."""
    root = "/files"
    found = filesystem.served(folder, boards.check_settings({"root": root}, [], None))
    for warning in found.warnings:
        boards.warn(warning)
    return {path.removeprefix(f"{root}/"): data for path, data in found.files.items()}


@contextmanager
def progress() -> Iterator[Callable[[str], Told]]:
    """Gives a function: from the name of a file to what is told of its progress. A terminal shows a bar for each."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with boards.progress(*columns) as shown:

        def begin(name: str) -> Told:
            task = shown.add_task(printable(name)[:40], total=None)

            def told(moved: int, total: int | None) -> None:
                shown.update(task, advance=moved, total=total)

            return told

        yield begin


def quiet(moved: int, total: int | None) -> None:
    """For who wants no progress."""


def save(board: _Board, name: str, path: Path, told: Told) -> None:
    """Fetch `name` to `path`, which appears whole or not at all. Raises ToolError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.part")  # no longer than any name
    try:
        with part.open("xb") as file:
            board.read(name, file, told)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def chosen(board: _Board, names: list[str]) -> list[Entry]:
    """The files of the board that are one of `names` or in a folder of them; all without names. Raises ToolError."""
    entries = board.index()
    if not names:
        return entries
    wanted = [name.strip("/") for name in names]
    found = []
    for name in wanted:
        some = [entry for entry in entries if entry.name == name or entry.name.startswith(f"{name}/")]
        if not some:
            raise ToolError(f"{name}: no such file or folder on {board.url}")
        found += [entry for entry in some if entry not in found]
    return found
