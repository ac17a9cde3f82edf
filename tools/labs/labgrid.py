"""labgrid: the resource TFTPBoard, and the driver that stages files on it (docs/lab-engines.md).

`python -m mptftpd.labs.labgrid` is labgrid-exporter, and also tells which boards answer.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import attr
from labgrid.driver import Driver, TFTPProviderDriver
from labgrid.driver.exception import ExecutionError
from labgrid.exceptions import InvalidConfigError
from labgrid.factory import target_factory
from labgrid.remote import exporter
from labgrid.resource import Resource
from labgrid.step import step
from labgrid.util.proxy import proxymanager

from .. import ToolError
from . import stage

_ASK_EACH_S = 5
_text = attr.converters.pipe(attr.converters.default_if_none(""), str)


@target_factory.reg_resource
@attr.s(eq=False)
class TFTPBoard(Resource):
    """A board with this server.

    host       its address
    port       of TFTP: the board's setting `port`
    http_port  the board's setting; 0: files are stored over TFTP, and can't be removed
    password   the board's setting http_password
    external   the folder on the board for what is staged
    """

    host: str = attr.ib(default="", converter=_text)
    port: int = attr.ib(default=69)
    http_port: int = attr.ib(default=0)
    password: str = attr.ib(default="", converter=_text, repr=False)
    external: str = attr.ib(default="", converter=_text)

    def __attrs_post_init__(self) -> None:
        try:
            stage.connect(self.host, self.port, self.http_port, self.password)
        except ToolError as error:
            raise InvalidConfigError(f"TFTPBoard: {error}") from None  # pyright: ignore[reportCallIssue]
        super().__attrs_post_init__()


@target_factory.reg_driver
@attr.s(eq=False)
class TFTPBoardDriver(TFTPProviderDriver):
    """Takes the place of labgrid's TFTPProviderDriver. What it has staged is removed when it is deactivated."""

    bindings = {"provider": TFTPBoard}  # noqa: RUF012
    provider: TFTPBoard = attr.ib(init=False, repr=False)

    @property
    def skip_deactivate_on_export(self) -> Any:
        return True  # what is staged stays

    def on_activate(self) -> None:
        board = self.provider
        host: Any = board.host
        http_port: Any = board.http_port
        if http_port:  # through the SSH of an isolated exporter
            host, http_port = proxymanager.get_host_and_port(board, force_port=http_port)
        self._stage = stage.connect(host, board.port, http_port, board.password)

    def on_deactivate(self) -> None:
        for problem in self._stage.remove(self._stage.stored):
            self.logger.warning(problem)

    def get_export_vars(self) -> dict[str, str]:
        return {name: str(getattr(self.provider, name)) for name in ("host", "port", "external")}

    @Driver.check_active
    @step(args=["filename"], result=True)
    def stage(self, filename: str) -> str:
        """Store a file of this computer on the board and compare its CRC32 there; returns the name for the target.
        Raises ExecutionError."""
        path = Path(filename)
        name = stage.name(self.provider.external, Path(path.name))
        try:
            self._stage.store({name: path})
        except ToolError as error:
            raise ExecutionError(str(error)) from None  # pyright: ignore[reportCallIssue]
        return name


@attr.s(eq=False)
class TFTPBoardExport(exporter.ResourceExport):
    """A board for a coordinator, available while it answers."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.local = target_factory.make_resource(None, "TFTPBoard", None, self.local_params)
        self.local.avail = False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        board = self.local
        asked = stage.connect(board.host, board.port, board.http_port, board.password).board
        while True:
            try:
                asked.status()
                board.avail = True
            except ToolError:
                board.avail = False
            time.sleep(_ASK_EACH_S)

    def _get_params(self) -> dict[str, object]:
        return dict(self.local_params)


exporter.exports["TFTPBoard"] = TFTPBoardExport

if __name__ == "__main__":
    try:
        exporter.main()
    except InvalidConfigError as error:
        sys.exit(f"error: {error}")
