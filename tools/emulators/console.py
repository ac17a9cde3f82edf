"""The serial console of an emulated board: on standard output, and for mpremote on a local TCP socket."""

import os
import re
import selectors
import socket
import time
from collections.abc import Callable

from .. import ToolError

_CTRL_C = b"\x03"
# What the board says at last: the server's journal, or the prompt where no server was running.
_STOPPED = re.compile(rb"stopped\r?\n|\n>>> $")


class Console:
    """What the board says and what is typed to it.

    over  True once the board has stopped after interrupt(), or had its time to
    """

    def __init__(self, selector: selectors.BaseSelector, to_board: Callable[[bytes], object], port: int | None) -> None:
        """
        selector  its keys' data are functions to be called when a socket has something to read
        to_board  takes what is typed
        port      TCP port on 127.0.0.1 for one client at a time, or None. Raises ToolError if it can't be had
        """
        self._selector = selector
        self._to_board = to_board
        self._deadline: float | None = None
        self._said = b""  # the end of it, since interrupt()
        self._stopped = False
        self._client: socket.socket | None = None
        if port is not None:
            try:
                self._listener = socket.create_server(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                what = getattr(error, "strerror", None) or error
                raise ToolError(f"the console can't listen on TCP port {port}: {what}; choose another") from None
            selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def interrupt(self, patience: float) -> None:
        """Ctrl-C; the board gets `patience` seconds to stop, counted from the first."""
        self._said = b""
        if self._deadline is None:
            self._deadline = time.monotonic() + patience
        self._to_board(_CTRL_C)

    @property
    def over(self) -> bool:
        return self._deadline is not None and (self._stopped or time.monotonic() > self._deadline)

    def said(self, data: bytes) -> None:
        """The board said `data`."""
        try:
            os.write(1, data)
        except BrokenPipeError:  # who started us is gone
            self._stopped, self._deadline = True, 0
            return
        if self._deadline is not None:
            self._said = self._said[-16:] + data
            self._stopped = self._stopped or bool(_STOPPED.search(self._said))
        if self._client:
            try:
                self._client.sendall(data)
            except OSError:
                self._hang_up()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self._hang_up()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._selector.register(client, selectors.EVENT_READ, self._typed)

    def _hang_up(self) -> None:
        if self._client:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None

    def _typed(self) -> None:
        assert self._client
        try:
            data = self._client.recv(4096)
        except OSError:
            data = b""
        if data:
            self._to_board(data)
        else:
            self._hang_up()
