"""The serial console of an emulated board: on standard output, and on a local TCP socket for mpremote."""

import os
import re
import selectors
import socket
import time
from collections.abc import Callable

from .. import ToolError

_CTRL_C = b"\x03"
# The last output of the board: from the stopping server, or the prompt if no server ran.
_STOPPED = re.compile(rb"stopped\r?\n|\n>>> $")


class Console:
    """Output and input of the board's console.

    over  True once the board has stopped after interrupt(), or the time limit is over
    """

    def __init__(self, selector: selectors.BaseSelector, to_board: Callable[[bytes], object], port: int | None) -> None:
        """
        selector  the data of its keys are functions to call when the socket is readable
        to_board  delivers input to the board
        port      TCP port on 127.0.0.1 for one client at a time, or None. Raises ToolError if it can't be opened
        """
        self._selector = selector
        self._to_board = to_board
        self._deadline: float | None = None
        self._said = b""  # the last output since interrupt()
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
        """Send Ctrl-C. The board has `patience` seconds to stop, counted from the first call."""
        self._said = b""
        if self._deadline is None:
            self._deadline = time.monotonic() + patience
        self._to_board(_CTRL_C)

    @property
    def over(self) -> bool:
        return self._deadline is not None and (self._stopped or time.monotonic() > self._deadline)

    def said(self, data: bytes) -> None:
        """Forward output of the board."""
        try:
            os.write(1, data)
        except BrokenPipeError:  # our parent process has ended
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
