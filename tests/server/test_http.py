"""HTTP on a whole board: the files over GET and HEAD, its rules, bad requests, clients that hold it up."""

import gzip
import http.client
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from board import Board
from client import TftpError, fetch, store
from served import SERVED, content
from web import Web, told

everyday = pytest.mark.everyday_only("its address and its port are those of the everyday board")
pytestmark = everyday


def test_every_file_comes_whole(web: Web):
    for name, data in SERVED.items():
        got = web.ask("/" + quote(name))
        assert (got.status, got.data) == (200, data), name
        assert got.field["Content-Length"] == str(len(data))


def test_head_has_the_fields_of_get_and_no_body(web: Web):
    fields = dict(web.ask("/size-5000").field)
    del fields["Date"]
    head = web.ask("/size-5000", "HEAD")
    assert head.status == 200 and head.data == b""
    assert fields.items() <= dict(head.field).items()
    assert head.field["Accept-Ranges"] == "bytes" and head.field["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("//hello.txt", 200),
        ("/./folder//deep/er/file.bin", 200),
        ("/HELLO.TXT", 200),
        ("/hello.txt?version=2", 200),
        ("/with%20space.txt", 200),
        ("/boot%5Cbcd.other", 200),
        ("/nope", 404),
        ("/.hidden", 404),
        ("/hello.txt%00", 404),
        ("/%c0%ae%c0%ae/boot.py", 404),
        ("/../boot.py", 403),
        ("/%2e%2e/settings.json", 403),
        ("/folder", 403),
        ("/nope/", 404),
        ("/hello.txt/", 404),
        ("/../", 403),
        ("/%zz", 400),
    ],
)
def test_names_follow_the_rules_of_tftp(web: Web, target: str, status: int):
    got = web.ask(target)
    assert got.status == status, got.data
    assert "Location" not in got.field


class Links(HTMLParser):
    """The links of a page, and the text of each; no other element may have an attribute that acts."""

    def __init__(self, page: bytes):
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.open = False
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "iframe") and not [name for name, _ in attrs if name.startswith("on")]
        self.open = tag == "a"
        if self.open:
            self.links.append((str(dict(attrs)["href"]), ""))

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.links[-1] = (self.links[-1][0], self.links[-1][1] + data)


def test_a_browser_reaches_every_file_from_the_first_page(web: Web):
    seen, folders = {}, ["/"]
    while folders:
        folder = folders.pop()
        page = web.ask(folder)
        assert page.status == 200 and page.field["Content-Type"] == "text/html; charset=utf-8"
        for link, text in Links(page.data).links:
            assert text in (unquote(link)[len(folder) :], "x" * 128 + "...", "Parent folder")
            if not link.endswith("/"):
                seen[unquote(link)[1:]] = web.ask(link).data
            elif link.startswith(folder) and link != folder:
                folders.append(link)
    assert seen == SERVED
    assert web.ask("/", "HEAD").data == b""


def test_a_name_that_tries_to_be_html_is_only_text(serve: Callable[..., Web], tmp_path: Path):
    names = [
        "<script>alert(1)<",
        '"><img src=x onerror=alert(1)>',
        "a&amp;b",
        "100%25.txt",
        "#?x",
        "javascript:alert(1)",
    ]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    web = serve(files=tmp_path)
    page = Links(web.ask("/").data)
    assert sorted(unquote(link)[1:] for link, _ in page.links) == sorted(names)
    for link, _ in page.links:
        assert web.ask(link).data.decode() == unquote(link)[1:]


def test_the_folder_of_another_client_is_not_listed(serve: Callable[..., Web], tmp_path: Path):
    for name in ("127.0.0.1/mine", "10.0.0.9/other", "both"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    links = [link for link, _ in Links(serve("--set", "client_folders=true", files=tmp_path).ask("/").data).links]
    assert "/both" in links and not [link for link in links if "10.0.0.9" in link]
    only = serve("--set", 'client_folders="only"', files=tmp_path)
    assert [link for link, _ in Links(only.ask("/").data).links] == ["/mine"]


def test_a_part_of_a_file(web: Web):
    data = SERVED["size-100000"]
    parts = {"0-9": data[:10], "99990-": data[-10:], "-5": data[-5:], "6000-90000": data[6000:90001]}
    for value, part in parts.items():
        got = web.ask("/size-100000", Range=f"bytes={value}")
        assert (got.status, got.data) == (206, part)
        start = data.index(part)
        assert got.field["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/100000"
    several = web.ask("/size-100000", Range="bytes=0-1,5-6")
    assert (several.status, len(several.data)) == (200, 100_000)
    behind = web.ask("/size-100000", Range="bytes=100000-")
    assert (behind.status, behind.field["Content-Range"]) == (416, "bytes */100000")


def test_a_file_that_the_client_has_is_not_sent_again(web: Web):
    tag = web.ask("/hello.txt").field["ETag"]
    for value, status in ((tag, 304), ("W/" + tag, 304), (f'"x", {tag}', 304), ("*", 304), ('"x"', 200)):
        got = web.ask("/hello.txt", If_None_Match=value)
        assert got.status == status, value
        assert got.data == (SERVED["hello.txt"] if status == 200 else b"")
    assert web.ask("/hello.txt", Range="bytes=0-3", If_Range=tag).status == 206
    assert web.ask("/hello.txt", Range="bytes=0-3", If_Range='"x"').status == 200


def test_a_connection_serves_one_request_after_the_other(web: Web):
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=5)
    connection.connect()
    used = connection.sock
    for name in ("hello.txt", "nope", "size-5000", "empty"):
        connection.request("GET", "/" + name)
        assert connection.getresponse().read() == SERVED.get(name, b"file not found\n")
    assert connection.sock is used
    connection.close()
    answers = web.say(b"GET /hello.txt HTTP/1.1\r\nHost: tftpd\r\n\r\n" * 2 + b"GET /empty HTTP/1.0\r\n\r\n")
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3 and answers.count(SERVED["hello.txt"]) == 2


@pytest.mark.parametrize("host", ["evil.example", "tftpd.evil.example:80", "10.0.0.1.evil.example"])
def test_a_page_elsewhere_can_not_reach_the_board_by_a_name_of_its_own(web: Web, host: str):
    assert web.ask("/hello.txt", Host=host).status == 403
    assert "Access-Control-Allow-Origin" not in web.ask("/hello.txt", Origin="http://evil.example").field


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /hello.txt HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /hello.txt HTTP/1.1\r\nHost: tftpd\r\nHost: tftpd\r\n\r\n", 400),
        (b"GET /hello.txt HTTP/1.1\r\nHost : tftpd\r\n\r\n", 400),
        (b"GET /hello.txt HTTP/1.1\r\nHost: tftpd\r\nContent-Length: -1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\0\x01\r\n\r\n", 400),
        (b"GET /hello.txt HTTP/2.0\r\nHost: tftpd\r\n\r\n", 505),
        (b"POST /hello.txt HTTP/1.1\r\nHost: tftpd\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"OPTIONS /hello.txt HTTP/1.1\r\nHost: tftpd\r\n\r\n", 405),
        (b"PUT /hello.txt HTTP/1.1\r\nHost: tftpd\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: tftpd\r\n\r\n", 431),
    ],
)
def test_a_bad_request_gets_its_status_and_the_next_client_is_served(web: Web, request_: bytes, status: int):
    with web.open() as sock:
        sock.sendall(request_)
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        if status == 405:
            assert b"\r\nAllow: GET, HEAD, PUT, DELETE\r\n" in answer
    assert web.ask("/hello.txt").data == SERVED["hello.txt"]


def test_what_follows_a_body_is_no_request(web: Web):
    body = b"GET /hello.txt HTTP/1.1\r\nHost: tftpd\r\n\r\n"
    asked = b"GET /empty HTTP/1.1\r\nHost: tftpd\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with web.open() as sock:
        sock.sendall(asked)
        sock.shutdown(socket.SHUT_WR)
        assert told(sock).count(b"HTTP/1.1 ") == 1


def test_a_compressed_file_is_inflated(serve: Callable[..., Web], tmp_path: Path):
    data = content(1000) * 40
    (tmp_path / "served").mkdir()
    (tmp_path / "served/page.html.gz").write_bytes(gzip.compress(data))
    web = serve(files=tmp_path / "served")
    got = web.ask("/page.html", Range="bytes=1-2")
    assert (got.status, got.data) == (200, data)  # no range: it would be inflated from the start for each
    assert got.field["Accept-Ranges"] == "none" and got.field["Content-Type"] == "text/html"
    assert got.field["Content-Security-Policy"] == "sandbox"
    assert web.ask("/page.html.gz").data == (tmp_path / "served/page.html.gz").read_bytes()


def test_who_may_not_read_is_refused(serve: Callable[..., Web]):
    assert serve("--set", 'read_from=["10.0.0.0/8"]').ask("/hello.txt").status == 403


def test_the_file_that_was_asked_for_comes_although_it_is_replaced(serve: Callable[..., Web], tmp_path: Path):
    old, new = content(4_500_000, 1), content(4_500_000, 2)
    (tmp_path / "firmware.bin").write_bytes(old)
    web = serve("--flash-size", "16M", "--writable", "--set", "overwrite=true", files=tmp_path)
    with web.open() as sock:
        sock.sendall(b"GET /firmware.bin HTTP/1.0\r\n\r\n")
        first = sock.recv(1000)
        tag = web.ask("/firmware.bin", "HEAD").field["ETag"]
        store(web.board.address, "firmware.bin", new, ("blksize", 1468), ("windowsize", 16))
        assert (first + told(sock)).endswith(old)
    got = web.ask("/firmware.bin")
    assert got.data == new and got.field["ETag"] != tag


@pytest.mark.parametrize("size", [0, 1, 1468, 5872, 5873, 300_000])
def test_a_file_is_stored_replaced_and_deleted(take: Callable[..., Web], size: int):
    web = take("--set", "overwrite=true")
    for data, status in ((content(size, 1), 201), (content(size, 2), 204)):
        answer = web.ask("/new.bin", "PUT", data)
        assert (answer.status, answer.data, answer.will_close) == (status, b"", False)
        assert web.ask("/new.bin").data == fetch(web.board.address, "new.bin") == data
    assert web.ask("/new.bin", "DELETE").status == 204
    assert web.ask("/new.bin").status == web.ask("/new.bin", "DELETE").status == 404


@pytest.mark.parametrize(
    ("arguments", "target", "method", "status"),
    [
        (["--set", 'write_from=["10.0.0.0/8"]'], "/new", "PUT", 403),
        (["--set", 'write_from=["10.0.0.0/8"]'], "/hello.txt", "DELETE", 403),
        (["--set", 'write_to=["/incoming"]'], "/new", "PUT", 403),
        (["--set", 'write_to=["/incoming"]', "--set", "overwrite=true"], "/hello.txt", "DELETE", 403),
        (["--set", 'write_to=["/incoming"]'], "/incoming/new", "PUT", 201),
        ([], "/hello.txt", "PUT", 409),
        ([], "/hello.txt", "DELETE", 409),
        ([], "/no/such/folder", "PUT", 404),
        ([], "/.hidden", "PUT", 404),
        ([], "/%2e%2e/boot.py", "PUT", 403),
        ([], "/folder", "PUT", 403),
        ([], "/folder/", "PUT", 403),
        (["--set", "write_limit=999"], "/new", "PUT", 413),
        (["--set", "keep_free=9000000"], "/new", "PUT", 507),
    ],
)
def test_the_rules_of_uploads_hold(take, arguments: list[str], target: str, method: str, status: int):
    web = take(*arguments)
    answer = web.ask(target, method, bytes(1000))
    assert answer.status == status, answer.data
    for name in ("hello.txt", "folder/deep/er/file.bin"):
        assert web.ask("/" + name).data == SERVED[name]
    assert status == 201 or web.ask("/new").status == 404


def test_no_length_no_part_and_the_password(take: Callable[..., Web]):
    web = take("--set", "http_password=secret")
    head = b"PUT /new HTTP/1.1\r\nHost: tftpd\r\nConnection: close\r\n"
    assert web.ask("/new", "PUT", b"x").status == 401
    assert web.ask("/new", "PUT", b"x").field["WWW-Authenticate"] == 'Basic realm="tftpd"'
    for wrong in ("Basic d3Jvbmc6d3Jvbmc=", "Basic c2VjcmV0", "Basic ?", "Bearer OnNlY3JldA=="):
        assert web.ask("/new", "PUT", b"x", Authorization=wrong).status == 401, wrong
    right = "Basic YW55Ym9keTpzZWNyZXQ="
    assert web.say(head + b"Authorization: " + right.encode() + b"\r\n\r\n").startswith(b"HTTP/1.1 411 ")
    assert web.ask("/new", "PUT", b"x", Authorization=right, Content_Range="bytes 0-0/2").status == 400
    assert web.ask("/new").status == 404
    assert web.ask("/new", "PUT", b"x", Authorization=right).status == 201
    assert web.ask("/new").data == b"x"


def test_a_client_that_waits_for_100_continue_sends_nothing_in_vain(take: Callable[..., Web]):
    web = take()
    asked = b"PUT /%s HTTP/1.1\r\nHost: tftpd\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with web.open() as sock:
        sock.sendall(asked % b"hello.txt")
        assert sock.recv(1000).startswith(b"HTTP/1.1 409 ")
    with web.open() as sock:
        sock.sendall(asked % b"new")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"new" + b"GET /new HTTP/1.0\r\n\r\n")
        assert told(sock).endswith(b"\r\n\r\nnew")


def test_an_upload_that_breaks_off_leaves_nothing(take: Callable[..., Web]):
    web = take("--set", "overwrite=true")
    with web.open() as sock:
        sock.sendall(b"PUT /hello.txt HTTP/1.1\r\nHost: tftpd\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
        time.sleep(0.2)
        # While it is written nobody else may write it, over HTTP or TFTP.
        assert web.ask("/hello.txt", "PUT", b"x").status == web.ask("/hello.txt", "DELETE").status == 409
        with pytest.raises(TftpError, match="somebody is writing"):
            store(web.board.address, "hello.txt", b"x")
        assert web.ask("/hello.txt").data == SERVED["hello.txt"]
    assert web.ask("/hello.txt").data == SERVED["hello.txt"]
    assert web.ask("/hello.txt", "PUT", b"x").status == 204
    assert fetch(web.board.address, "hello.txt") == b"x"


def test_a_file_that_is_deleted_while_it_is_read_comes_whole(take: Callable[..., Web], tmp_path: Path):
    data = content(4_500_000)
    (tmp_path / "big").write_bytes(data)
    web = take("--set", "overwrite=true", files=tmp_path)
    with web.open() as sock:
        sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        first = sock.recv(1000)
        assert web.ask("/big", "DELETE").status == 204
        assert web.ask("/big").status == 404
        assert (first + told(sock)).endswith(data)
    assert web.ask("/new", "PUT", data).status == 201  # its room is free again


def test_silent_and_slow_clients_hold_nobody_up(serve: Callable[..., Web]):
    web = serve()
    with ExitStack() as stack:
        silent = [stack.enter_context(web.open()) for _ in range(7)]
        for sock in silent[::2]:
            sock.sendall(b"GET /hello.txt HTT")
        started = time.monotonic()
        assert web.ask("/size-100000").data == SERVED["size-100000"]
        assert fetch(web.board.address, "size-100000") == SERVED["size-100000"]
        assert time.monotonic() - started < 1
        extra = [stack.enter_context(web.open()) for _ in range(2)]
        assert any(sock.recv(100).startswith(b"HTTP/1.1 503") for sock in extra[1:])
        silent[0].settimeout(15)
        assert silent[0].recv(1000).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 13
        web.board.lines_when_silent()
        assert web.ask("/hello.txt").status == 200


def test_a_client_that_takes_nothing_does_not_stop_the_others(web: Web):
    with web.open() as sock:
        sock.sendall(b"GET /mebi.bin HTTP/1.1\r\nHost: tftpd\r\n\r\n")
        time.sleep(0.2)
        assert web.ask("/mebi.bin").data == SERVED["mebi.bin"]
        assert fetch(web.board.address, "mebi.bin", ("blksize", 1468)) == SERVED["mebi.bin"]
        assert sock.recv(1000)


def test_tftp_and_http_share_the_board(serve: Callable[..., Web], tmp_path: Path):
    data = content(4_000_000)
    (tmp_path / "big").write_bytes(data)
    web = serve(files=tmp_path)
    with web.open() as sock:
        sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        sock.recv(1, socket.MSG_PEEK)
        assert fetch(web.board.address, "big", ("blksize", 1428), ("windowsize", 8)) == data
        assert told(sock).endswith(data)


@pytest.mark.timeout(3600)
def test_mutated_requests_do_no_harm(take: Callable[..., Web]):
    """Each gets an answer or the end of its connection; afterwards the heap is as before."""
    web = take("--set", "log=debug", "--set", "overwrite=true", "--set", "http_password=x")
    random_ = random.Random(9112)
    seeds = [
        b"GET /size-5000?x HTTP/1.1\r\nHost: tftpd\r\nRange: bytes=1-2\r\nIf-None-Match: x\r\n\r\n",
        b"GET http://tftpd/folder/ HTTP/1.1\r\nHost: tftpd\r\nIf-Modified-Since: x\r\nContent-Length: 0\r\n\r\n",
        b"HEAD /%68ello.txt HTTP/1.0\r\nConnection: keep-alive\r\nIf-Match: *\r\n\r\n",
        b"PUT /new HTTP/1.1\r\nHost: tftpd\r\nContent-Length: 99\r\nAuthorization: Basic Ong=\r\n"
        b"Expect: 100-continue\r\n\r\nbroken off",
        b"DELETE /new HTTP/1.1\r\nHost: tftpd\r\nIf-None-Match: *\r\nAuthorization: Basic Ong=\r\n\r\n",
    ]
    before = 0
    statuses: Counter[bytes] = Counter()
    count = 100_000 if "SOAK" in os.environ else 1500
    for number in range(count):
        request_ = bytearray(random_.choice(seeds))
        for _ in range(random_.randint(0, 4)):
            at = random_.randrange(len(request_))
            how = random_.randrange(10)
            if how < 3:
                request_[at] = random_.choice((random_.randrange(256), *b"\r\n:/ %"))
            elif how < 6:
                del request_[at : at + random_.randint(1, 9)]
            elif how < 9:
                other = random_.choice(seeds)
                request_[at:at] = other[random_.randrange(len(other)) :][: random_.randint(1, 30)]
            else:
                request_[at:at] = random_.choice((b"\xff", b"%", b"A", b"9")) * random_.choice((2, 20, 2100))
        with web.open() as sock:
            sock.sendall(request_)
            sock.shutdown(socket.SHUT_WR)
            try:
                answer = told(sock)
            except ConnectionError as trouble:
                raise AssertionError(request_) from trouble
            assert not answer or answer.startswith(b"HTTP/1.1 "), (request_, answer)
            statuses[answer[9:12]] += 1
        if number == count // 5:  # tables have grown by then
            before = web.board.heap_when_idle()
    print(statuses)
    assert {b"", b"100", b"200", b"206", b"400", b"401", b"403", b"404", b"412", b"431", b"505"} <= set(statuses)
    assert web.ask("/size-5000").data == SERVED["size-5000"]
    assert web.board.heap_when_idle() < before + 1024
    assert not [line for line in web.board.console if "Traceback" in line]


def test_the_journal_tells_of_each_transfer(web: Web):
    seen = web.board.lines_when_silent()
    web.ask("/size-5000")
    line = web.board.wait_for("GET", after=seen)
    assert 'GET "/size-5000": done, 5000 bytes' in line


def test_the_journal_tells_of_a_client_that_goes_away(serve: Callable[..., Web], tmp_path: Path):
    (tmp_path / "big").write_bytes(bytes(6_000_000))
    web = serve(files=tmp_path)
    with web.open() as sock:
        sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        sock.recv(1000)
    assert " bytes in " in web.board.wait_for('GET "/big": broken off')


def test_a_port_that_is_taken_is_told_once_and_tried_again(start: Callable[..., Board]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        board = start("--set", f"http_port={port}")
        board.wait_for("http: can't listen")
        time.sleep(2.5)
        assert len([line for line in board.console if "can't listen" in line]) == 1
        assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]
    board.wait_for(f"http: port {port}")
    assert Web(board, port).ask("/hello.txt").status == 200
