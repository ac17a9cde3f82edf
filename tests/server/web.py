"""A board with HTTP: how to start it and how to ask it."""

import http.client
import socket
from types import SimpleNamespace

from board import Board


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Web:
    """A board with HTTP."""

    def __init__(self, board: Board, port: int):
        self.board, self.port = board, port
        self.url = f"http://127.0.0.1:{port}"
        board.wait_for(f"http: port {port}")

    def ask(self, target: str, method: str = "GET", body: bytes | None = None, **fields: str) -> SimpleNamespace:
        """Ask once; `fields` with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return SimpleNamespace(status=answer.status, data=data, field=answer.headers, will_close=answer.will_close)

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5)

    def say(self, request: bytes) -> bytes:
        """All that is answered up to the end of the connection."""
        with self.open() as sock:
            sock.sendall(request)
            return told(sock)


def told(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data
