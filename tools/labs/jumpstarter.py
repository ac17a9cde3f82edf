"""Jumpstarter: a board in place of the TFTP server of jumpstarter-driver-tftp (docs/lab-engines.md)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anyio.to_thread import run_sync
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export
from jumpstarter_driver_opendal.driver import Opendal
from jumpstarter_driver_tftp.driver import TftpError

from .. import ToolError
from . import stage


def _mirrored(change: Callable[..., Awaitable[None]]) -> Any:
    async def changed(self: "Storage", *arguments: Any) -> None:
        await change(self, *arguments)
        await run_sync(self.mirror)

    return changed


@dataclass(kw_only=True)
class Storage(Opendal):
    """A temporary folder; what is in it is stored on the board, in the folder `prefix`."""

    scheme: str = "fs"
    kwargs: dict[str, str] = field(default_factory=dict)
    board: stage.Stage
    prefix: str

    file_close = export(_mirrored(Opendal.file_close))
    copy = export(_mirrored(Opendal.copy))
    rename = export(_mirrored(Opendal.rename))
    delete = export(_mirrored(Opendal.delete))
    remove_all = export(_mirrored(Opendal.remove_all))
    copy_exporter_file = _mirrored(Opendal.copy_exporter_file)  # Jumpstarter's flashers call it; not for clients

    def __post_init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="mptftpd-")
        self.kwargs["root"] = self._folder.name
        super().__post_init__()

    def mirror(self) -> None:
        """Make the board's folder the same. Raises TftpError."""
        root = Path(self._folder.name)
        files = [path for path in root.rglob("*") if path.is_file()]
        here = {stage.name(self.prefix, path.relative_to(root)): path for path in files}
        problems = self.board.remove(self.board.stored - here.keys())  # makes room
        try:
            self.board.store(here)
        except ToolError as error:
            raise TftpError(str(error)) from None
        if problems:
            raise TftpError(problems[0])

    def close(self) -> None:
        if self.remove_created_on_close:
            for problem in self.board.remove(self.board.stored):
                self.logger.warning(problem)
        super().close()
        self._folder.cleanup()


@dataclass(kw_only=True)
class TftpBoard(Driver):
    """A board with this server, for clients of jumpstarter-driver-tftp.

    host       its address
    port       of TFTP: the board's setting `port`
    http_port  the board's setting; 0: files are stored over TFTP, and can't be removed
    password   the board's setting http_password
    prefix     the folder on the board for what clients store
    remove_created_on_close  whether what they have stored is removed at the end of the lease
    """

    host: str = ""
    port: int = 69
    http_port: int = 0
    password: str = field(default="", repr=False)
    prefix: str = ""
    remove_created_on_close: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self._stage = stage.connect(self.host, self.port, self.http_port, self.password)
        except ToolError as error:
            raise ConfigurationError(f"TftpBoard: {error}") from None
        self.storage = Storage(  # pyright: ignore[reportAbstractUsage]
            board=self._stage, prefix=self.prefix, remove_created_on_close=self.remove_created_on_close
        )
        self.children["storage"] = self.storage

    @classmethod
    def client(cls) -> str:
        return "jumpstarter_driver_tftp.client.TftpServerClient"

    @export
    def start(self) -> None:
        """The board always serves; raises TftpError if it does not answer."""
        try:
            self._stage.board.status()
        except ToolError as error:
            raise TftpError(str(error)) from None

    @export
    def stop(self) -> None:
        """The board serves on."""

    @export
    def get_host(self) -> str:
        return self.host

    @export
    def get_port(self) -> int:
        return self.port
