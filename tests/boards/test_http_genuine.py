"""HTTP on the genuine firmware of the boards, through the TCP of their emulators (tools/emulators/tcp.py)."""

import http.client
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread

import pytest

from board import Board
from client import fetch
from served import content

SOAK = bool(os.environ.get("SOAK"))
pytestmark = [
    pytest.mark.timeout(3600 if SOAK else 600),
    pytest.mark.genuine("esp32_c3", "rpi_pico_w", "esp32", "w5500_evb_pico"),
]

BIG = 300_000  # bytes; half of them on the Picos
PATIENCE_S = 1200 if SOAK else 200  # of a client: the emulated Picos are 10 to 100 times slower than they say
LIMIT = {"rp2": 4, "esp32": 6}  # connections, firmware/tftpd/http.py


class Web:
    def __init__(self, board: Board, port: int):
        self.board, self.port = board, port
        self.big = content(BIG if "esp32" in board.name else BIG // 2)
        self.limit = LIMIT["esp32" if "esp32" in board.name else "rp2"]

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, target: str, method: str = "GET", body: bytes | None = None, **fields: str) -> tuple[int, bytes]:
        connection = self.client()
        connection.request(method, target, body, fields)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def open(self, receive_buffer: int = 0) -> socket.socket:
        """A connection; `receive_buffer`: bytes that it takes unasked, at least."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", self.port))
        return sock


@pytest.fixture(scope="module")
def web(board_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    files = tmp_path_factory.mktemp("served")
    (files / "big.bin").write_bytes(content(BIG if "esp32" in board_name else BIG // 2))
    (files / "hello.txt").write_bytes(b"hello")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["--set", f"http_port={port}", "--writable", "--set", "overwrite=true", "--set", "log=debug"]
    with Board("--board", board_name, *arguments, files=files) as board:
        board.wait_for(f"http: port {port}", PATIENCE_S)
        yield Web(board, port)
        assert not [line for line in board.console if "Traceback" in line or "no memory" in line]
        assert board.stop() == 0


def test_a_file_comes_whole_and_in_parts_on_one_connection(web: Web):
    connection = web.client()
    connection.connect()
    used = connection.sock
    for method, range_, status, data in (
        ("GET", "", 200, web.big),
        ("HEAD", "", 200, b""),
        ("GET", "bytes=1-100", 206, web.big[1:101]),
        ("GET", "bytes=-2000", 206, web.big[-2000:]),
        ("GET", "bytes=300000-", 416, b""),
        ("GET", "", 200, web.big),
    ):
        connection.request(method, "/big.bin", headers={"Range": range_} if range_ else {})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, data), (method, range_)
    connection.request("GET", "/nope")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (404, b"file not found\n")
    assert connection.sock is used
    connection.close()


def test_requests_come_in_pieces_and_ahead(web: Web):
    request = b"GET /hello.txt HTTP/1.1\r\nHost: tftpd\r\n\r\n"
    with web.open() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (request[:5], request[5:-3], request[-3:-1], request[-1:] + request + request[:9], request[9:-4]):
            sock.sendall(piece)
            time.sleep(0.3)
        sock.sendall(b"\r\nConnection: close\r\n\r\n")
        data = b""
        while more := sock.recv(65536):
            data += more
    assert data.count(b"HTTP/1.1 200 OK\r\n") == data.count(b"\r\n\r\nhello") == 3


def test_the_last_bytes_arrive_although_the_board_closes(web: Web):
    with web.open() as sock:
        sock.sendall(b"GET /big.bin HTTP/1.0\r\n\r\n")
        data = b""
        while more := sock.recv(65536):
            data += more
    assert data.endswith(b"\r\n\r\n" + web.big)


def test_a_file_is_stored_replaced_and_deleted(web: Web):
    for data, status in ((web.big, 201), (web.big[:70_000], 204)):
        assert web.ask("/new.bin", "PUT", data) == (status, b"")
        assert web.ask("/new.bin") == (200, data)
    assert fetch(web.board.address, "new.bin", ("blksize", 1468), ("windowsize", 4)) == web.big[:70_000]
    assert web.ask("/new.bin", "DELETE")[0] == 204
    assert web.ask("/new.bin")[0] == 404


def test_more_clients_than_the_limit_are_told_to_come_again(web: Web):
    time.sleep(1)
    with ExitStack() as opened:
        busy = [opened.enter_context(web.open()) for _ in range(web.limit)]
        for sock in busy:
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\n")  # an unfinished request: it is not idle
        time.sleep(2)
        assert opened.enter_context(web.open()).recv(65536).startswith(b"HTTP/1.1 503 ")
        for sock in busy:
            sock.sendall(b"Host: tftpd\r\nConnection: close\r\n\r\n")
        for sock in busy:
            data = b""
            while more := sock.recv(65536):
                data += more
            assert data.endswith(b"hello")
    assert web.ask("/hello.txt") == (200, b"hello")


def test_silent_clients_hold_nobody_up(web: Web):
    if web.limit == LIMIT["rp2"] and not SOAK:
        pytest.skip("a Pico gives them three seconds, minutes in the emulator: SOAK=1")
    with ExitStack() as silent:
        for _ in range(2):
            sock = silent.enter_context(web.open(4096))
            sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: tftpd\r\n\r\n")
        time.sleep(3)
        for _ in range(2):
            assert web.ask("/big.bin") == (200, web.big)
            assert fetch(web.board.address, "big.bin", ("blksize", 1468), ("windowsize", 4)) == web.big
    assert web.ask("/hello.txt") == (200, b"hello")


def test_http_and_tftp_at_once(web: Web):
    got: dict[str, bytes] = {}

    def by_http(name: str) -> None:
        got[name] = web.ask("/big.bin")[1]

    threads = [Thread(target=by_http, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    tftp = fetch(web.board.address, "big.bin", ("blksize", 1468), ("windowsize", 4))
    for thread in threads:
        thread.join()
    assert tftp == web.big and list(got.values()) == [web.big] * 3


def test_a_client_that_leaves_in_the_middle_costs_its_connection_only(web: Web):
    for _ in range(2 * web.limit):
        with web.open() as sock:
            sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: tftpd\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert web.ask("/big.bin") == (200, web.big)
