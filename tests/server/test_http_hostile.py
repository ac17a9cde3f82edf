"""HTTP clients that are wrong, slow, gone or too many, and those that want to smuggle a request past somebody else."""

import contextlib
import http.client
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from client import fetch
from served import SERVED, content
from web import Web, told

pytestmark = pytest.mark.everyday_only("its address and its port are those of the everyday board")

HOST = b"Host: tftpd\r\n"
SMUGGLED = b"GET /size-1 HTTP/1.1\r\nHost: tftpd\r\n\r\n"


def statuses(answers: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def half_closed(web: Web, request: bytes) -> bytes:
    """What is answered to a client that sends `request` and shuts down its sending side at once."""
    with web.open() as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return told(sock)


def put(name: str, size: int, *fields: bytes, minor: int = 1) -> bytes:
    """The head of a PUT."""
    lines = [b"PUT /%s HTTP/1.%d" % (name.encode(), minor), b"Host: tftpd", b"Content-Length: %d" % size, *fields]
    return b"".join(line + b"\r\n" for line in (*lines, b""))


@pytest.mark.parametrize(
    "length", [b"+5", b"-5", b"0x5", b"5, 5", b"5,6", b"5 5", b"5.0", b"", b"5;x", b"\xc2\xb2", b"\xd9\xa5", b"1e1"]
)
def test_a_length_that_others_may_read_otherwise_is_no_length(store: Web, length: bytes):
    for method in (b"GET", b"PUT", b"DELETE"):
        head = method + b" /smuggled HTTP/1.1\r\n" + HOST + b"Content-Length: " + length + b"\r\n\r\n"
        assert statuses(half_closed(store, head + SMUGGLED)) == [400]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 501),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 501),
        (b"Transfer-Encoding: xchunked\r\n", 501),
        (b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n", 501),
        (b"transfer-encoding:chunked\r\n", 501),
        (b"Transfer-Encoding:\r\n", 501),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b" Transfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding:\r\n chunked\r\n", 400),  # a continued line
        (b"X: y\r\n\tTransfer-Encoding: chunked\r\n", 400),
        (b"X: y\nTransfer-Encoding: chunked\r\n", 400),  # a lone LF
        (b"X: y\rTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: \x0bchunked\r\n", 400),
        (b"Transfer\xadEncoding: chunked\r\n", 400),
        (b"X\0: y\r\n", 400),
        (b"X: y\0\r\n", 400),
        (b"Content-Length: 3\r\nContent-Length: 3\r\n", 400),
        (b"Content-Length: 3\r\ncontent-length: 4\r\n", 400),
        (b"Content-Length : 3\r\n", 400),
        (b"Content-Length\t: 3\r\n", 400),
        (b": 3\r\n", 400),
    ],
)
def test_no_second_request_hides_behind_the_fields_of_the_first(store: Web, fields: bytes, status: int):
    for method in (b"GET", b"PUT"):
        head = method + b" /smuggled HTTP/1.1\r\n" + HOST + fields + b"\r\n"
        assert statuses(half_closed(store, head + b"0\r\n\r\n" + SMUGGLED)) == [status]
    assert store.ask("/smuggled").status == 404


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"POST", b"OPTIONS"])
def test_a_body_that_nobody_reads_is_no_request(store: Web, method: bytes):
    store.ask("/victim", "PUT", b"x")
    asked = method + b" /victim HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    assert len(statuses(half_closed(store, asked))) == 1
    store.ask("/victim", "DELETE")


def test_a_refused_upload_is_no_request(store: Web):
    asked = put(".hidden", len(SMUGGLED)) + SMUGGLED
    assert statuses(half_closed(store, asked)) == [404]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /empty HTTP/1.1\r\n", 200),
        (b"GET http://tftpd/empty HTTP/1.1\r\n", 200),
        (b"GET http://tftpd:80/empty HTTP/1.1\r\n", 200),
        (b"GET http://evil.example/empty HTTP/1.1\r\n", 403),  # RFC 9112 section 3.2.2: it counts, not Host
        (b"GET http://evil@tftpd/empty HTTP/1.1\r\n", 403),
        (b"GET http://tftpd@evil.example/empty HTTP/1.1\r\n", 403),
        (b"GET http://\xff/empty HTTP/1.1\r\n", 403),
        (b"GET https://tftpd/empty HTTP/1.1\r\n", 400),
        (b"GET empty HTTP/1.1\r\n", 400),
        (b"GET * HTTP/1.1\r\n", 400),
        (b"CONNECT tftpd:80 HTTP/1.1\r\n", 400),
        (b"GET /empty\0 HTTP/1.1\r\n", 400),
        (b"GET /empty\n HTTP/1.1\r\n", 400),
        (b"GET /empty\r HTTP/1.1\r\n", 400),
        (b"GET\t/empty\tHTTP/1.1\r\n", 400),
        (b"GET  /empty HTTP/1.1\r\n", 400),
        (b"GET /empty HTTP/1.1 \r\n", 400),
        (b"GET /empty\r\n", 400),  # HTTP/0.9
        (b"\xff\xfe /empty HTTP/1.1\r\n", 400),
        (b"G\xc3\x8bT /empty HTTP/1.1\r\n", 400),
        (b"get /empty HTTP/1.1\r\n", 405),
        (b"GETX /empty HTTP/1.1\r\n", 405),
        (b"GET /empty http/1.1\r\n", 400),
        (b"GET /empty HTTP/1.1.1\r\n", 505),
        (b"GET /empty HTTP/1,1\r\n", 505),
        (b"PRI * HTTP/2.0\r\n", 505),
    ],
)
def test_request_lines(web: Web, line: bytes, status: int):
    assert statuses(half_closed(web, line + HOST + b"\r\n")) == [status]
    assert not [text for text in web.board.console if "Traceback" in text]


def test_a_request_that_names_the_host_in_its_line_alone_is_refused(web: Web):
    assert statuses(web.say(b"GET http://tftpd/empty HTTP/1.1\r\n\r\n")) == [400]  # RFC 9112 section 3.2


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/folder%2fdeep%2Fer/file.bin", 200),  # there is nothing between the client and the files that could differ
        ("/%68%65llo.txt", 200),
        ("/folder/%2e%2e/hello.txt", 403),
        ("/folder/..%2fhello.txt", 403),
        ("/folder/..%5chello.txt", 403),
        ("/%2e%2e%2f%2e%2e%2fsettings.json", 403),
        ("/%252e%252e/settings.json", 404),  # decoded once
        ("/%c0%af%c0%ae%c0%ae", 404),  # overlong UTF-8
        ("/%e0%80%ae%e0%80%ae/settings.json", 404),
        ("/%ed%a0%80", 404),  # a surrogate
        ("/hello.txt%00.png", 404),
        ("/hello.txt%0d%0aX:%20y", 404),
        ("/%2ehidden", 404),
        ("/%", 400),
        ("/%u0068ello.txt", 400),
    ],
)
def test_escapes_open_no_other_way(web: Web, target: str, status: int):
    got = web.ask(target)
    assert got.status == status, got.data
    assert "X" not in got.field


def test_pipelined_requests_are_answered_in_their_order(store: Web):
    body = content(5000)
    requests = [
        (put("piped", 5000) + body, 201),
        (b"HEAD /piped HTTP/1.1\r\n" + HOST + b"Range: bytes=1-2\r\n\r\n", 200),
        (b"GET /piped HTTP/1.1\r\n" + HOST + b"Range: bytes=1-2\r\n\r\n", 206),
        (b"HEAD /piped HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"\r\n\r\nGET /nope HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /piped HTTP/1.1\r\n" + HOST + b"Range: bytes=5000-\r\n\r\n", 416),
        (b"DELETE /piped HTTP/1.1\r\n" + HOST + b"\r\n", 204),
        (b"GET /empty HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"DELETE /piped HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 404),
    ]
    whole = b"".join(request for request, _ in requests)
    for step in (len(whole), 700, 7):  # in one piece, and cut anywhere
        with store.open() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(whole), step):
                sock.sendall(whole[at : at + step])
            answers = told(sock)
        assert statuses(answers) == [status for _, status in requests]
        assert b"\r\n\r\n" + body[1:3] + b"HTTP/1.1 200 " in answers  # no body after HEAD, the next answer at once


def test_what_comes_behind_the_last_request_does_not_cost_its_answer(web: Web):
    for request_ in (b"GET /mebi.bin HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"):
        answers = half_closed(web, request_ + SMUGGLED * 100)
        assert statuses(answers[:20]) == [200]
        assert answers.endswith((SERVED["mebi.bin"], b"</table></main>\n"))


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("bytes=0-99999999999999999999", 206),
        ("bytes=99999999999999999999-", 416),
        ("bytes=-99999999999999999999", 206),
        ("bytes=0-" + "9" * 500, 200),  # ignored, as whatever makes no sense: RFC 9110 section 14.2
        ("bytes=00000000-00000000", 206),
        ("bytes=0-0,1-1", 200),
        ("bytes=1-0", 200),
        ("bytes=+1-2", 200),
        ("bytes=0x1-2", 200),
        ("bytes=-0", 416),
        ("bytes=-", 200),
        ("bytes=0-0-0", 200),
    ],
)
def test_ranges_of_any_number(web: Web, value: str, status: int):
    got = web.ask("/size-5000", Range=value)
    assert got.status == status
    assert web.ask("/empty", Range=value).status in (200, 416)  # an empty file has no range at all


def test_an_empty_file(web: Web):
    for fields, status in (({}, 200), ({"Range": "bytes=0-"}, 416), ({"Range": "bytes=-5"}, 416)):
        got = web.ask("/empty", "GET", None, **fields)
        assert (got.status, got.data, got.field["Content-Length"]) == (status, b"", "0")


def test_dates(store: Web):
    store.ask("/dated", "PUT", b"0123")
    modified = store.ask("/dated").field["Last-Modified"]
    cases = [
        ({"If_Modified_Since": modified}, 304),
        ({"If_Modified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
        ({"If_Modified_Since": "tomorrow"}, 200),
        ({"If_Modified_Since": modified, "If_None_Match": '"x"'}, 200),  # the tag has precedence
        ({"Range": "bytes=1-2", "If_Range": modified}, 206),
        ({"Range": "bytes=1-2", "If_Range": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
        ({"Range": "bytes=1-2", "If_Range": "W/" + store.ask("/dated").field["ETag"]}, 200),  # never by a weak tag
    ]
    for fields, status in cases:
        assert store.ask("/dated", **fields).status == status, fields
    store.ask("/dated", "DELETE")


def test_a_client_replaces_only_the_version_that_it_knows(store: Web):
    assert store.ask("/mine", "PUT", b"x", If_Match="*").status == 412  # there is none
    assert store.ask("/mine", "PUT", b"first", If_None_Match="*").status == 201
    assert store.ask("/mine", "PUT", b"x", If_None_Match="*").status == 412
    tag = store.ask("/mine").field["ETag"]
    assert store.ask("/mine", If_Match=tag).status == 200
    assert store.ask("/mine", If_Match='"other"').status == 412
    for method in ("PUT", "DELETE"):
        assert store.ask("/mine", method, b"x", If_Match='"other"').status == 412
        assert store.ask("/mine", method, b"x", If_None_Match=f'"other", {tag}').status == 412
    assert store.ask("/mine").data == b"first"
    assert store.ask("/mine", "PUT", b"the second", If_Match=f'"other", {tag}').status == 204
    assert store.ask("/mine", "DELETE", If_Match=tag).status == 412
    assert store.ask("/mine", "DELETE", If_Match="*").status == 204


def test_a_slow_reader_gets_the_file_that_it_asked_for_though_it_is_stored_anew(
    take: Callable[..., Web], tmp_path: Path
):
    old, new = content(4_500_000, 1), content(4_500_000, 2)
    (tmp_path / "firmware.bin").write_bytes(old)
    web = take("--flash-size", "16M", "--set", "overwrite=true", files=tmp_path)
    with web.open() as sock:
        sock.sendall(b"GET /firmware.bin HTTP/1.0\r\n\r\n")
        first = sock.recv(1000)
        assert web.ask("/firmware.bin", "PUT", new).status == 204
        assert web.ask("/firmware.bin").data == new
        assert (first + told(sock)).endswith(old)


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_disappears_in_the_middle_of_an_upload_leaves_nothing(store: Web, how: str):
    for _ in range(3):  # three would not fit beside one another
        with store.open() as sock:
            sock.sendall(put("gone.bin", 4_000_000) + bytes(1_000_000))
            if how == "resets":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        store.board.wait_for('PUT "/gone.bin": broken off')
        assert store.ask("/gone.bin").status == 404
    data = content(4_000_000)
    assert store.ask("/whole.bin", "PUT", data).status == 201
    assert store.ask("/whole.bin").data == data
    assert store.ask("/whole.bin", "DELETE").status == 204


def test_a_reset_in_the_middle_of_a_file_ends_that_connection_alone(web: Web):
    for _ in range(20):
        with web.open() as sock:
            sock.sendall(b"GET /mebi.bin HTTP/1.1\r\n" + HOST + b"\r\n")
            sock.recv(100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert web.ask("/mebi.bin").data == SERVED["mebi.bin"]
    assert fetch(web.board.address, "hello.txt") == SERVED["hello.txt"]


@pytest.mark.parametrize("name", ["hello.txt", "mebi.bin", "empty"])
def test_a_client_that_has_sent_all_still_gets_its_answer(web: Web, name: str):
    answers = half_closed(web, b"GET /%s HTTP/1.1\r\n" % name.encode() + HOST + b"\r\n")
    assert statuses(answers[:20]) == [200] and answers.endswith(b"\r\n\r\n" + SERVED[name])


def test_an_upload_whose_client_has_sent_all_is_stored(store: Web):
    assert statuses(half_closed(store, put("half", 100_000) + bytes(100_000))) == [201]
    assert store.ask("/half").data == bytes(100_000)
    assert store.ask("/half", "DELETE").status == 204


CONTINUE = b"Expect: 100-continue"


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_client_that_expects_100_gets_it_before_its_body(store: Web, size: int):
    body = content(size)
    with store.open() as sock:
        for expects in (CONTINUE, b"expect:100-CONTINUE"):
            sock.sendall(put("expected", size, expects))
            answers = sock.recv(1000)
            assert answers.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
            sock.sendall(body)
            while answers.count(b"\r\n\r\n") < 2:
                answers += sock.recv(1000)
    assert store.ask("/expected").data == body
    assert store.ask("/expected", "DELETE").status == 204


def test_a_client_that_does_not_wait_for_100_is_served(store: Web):
    assert statuses(half_closed(store, put("unexpected", 3, CONTINUE) + b"abc")) == [100, 201]
    assert statuses(half_closed(store, put("unexpected", 3, CONTINUE, minor=0) + b"abc")) == [204]  # RFC 9110 10.1.1
    assert store.ask("/unexpected", "DELETE").status == 204


@pytest.mark.parametrize(("name", "size", "status"), [(".hidden", 5, 404), ("big", 99_000_000, 507)])
def test_a_refused_client_that_expects_100_does_not_get_it(store: Web, name: str, size: int, status: int):
    assert statuses(half_closed(store, put(name, size, CONTINUE))) == [status]


def test_who_is_refused_while_it_sends_hears_why(take: Callable[..., Web]):
    """A client that sends all of its body before it reads: a close at once would reset the connection."""
    web = take("--set", "write_limit=1000")
    for _ in range(5):
        assert web.ask("/big", "PUT", bytes(8_000_000)).status == 413
    with web.open() as sock:
        sock.sendall(put("big", 4_000_000))
        for _ in range(25):
            sock.sendall(bytes(10_000))
            time.sleep(0.1)
        assert statuses(told(sock)) == [413]


def test_two_hundred_connections_at_once(web: Web):
    """Each is served or told that the board is busy, and nobody waits for long."""
    outcomes: Counter[object] = Counter()
    started = time.monotonic()

    def ask() -> None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
            connection.request("GET", "/mebi.bin")
            answer = connection.getresponse()
            assert answer.read() == (SERVED["mebi.bin"] if answer.status == 200 else b"")
            outcomes[answer.status] += 1
            connection.close()
        except Exception as trouble:
            outcomes[repr(trouble)] += 1

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(outcomes)
    assert set(outcomes) == {200, 503} and outcomes[200] >= 8, outcomes
    assert time.monotonic() - started < 10
    assert web.ask("/hello.txt").data == SERVED["hello.txt"]


def test_two_hundred_open_connections_keep_nobody_out_of_tftp(web: Web):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(web.open())
        assert fetch(web.board.address, "mebi.bin", ("blksize", 1428)) == SERVED["mebi.bin"]
    web.board.lines_when_silent()
    assert web.ask("/hello.txt").data == SERVED["hello.txt"]


def test_one_byte_a_second_does_not_keep_a_place(take: Callable[..., Web], tmp_path: Path):
    """Slow-loris by the head, by the body of an upload, and by a file that is taken a byte at a time. A client with
    2 KB/s, and pauses of 5 s, keeps its place meanwhile."""
    (tmp_path / "big").write_bytes(bytes(6_000_000))
    web = take("--flash-size", "16M", files=tmp_path)
    with contextlib.ExitStack() as stack:
        heads, bodies, takers = ([stack.enter_context(web.open()) for _ in range(2)] for _ in range(3))
        patient = stack.enter_context(web.open())
        for number, sock in enumerate((*bodies, patient)):
            sock.sendall(put(f"new{number}", 100_000))
        for sock in takers:
            sock.sendall(b"GET /big HTTP/1.1\r\n" + HOST + b"\r\n")
        ended: dict[socket.socket, int] = {}
        for second in range(34):
            if second % 5 == 0:
                patient.sendall(bytes(10_000))
            time.sleep(1)
            for sock in (*heads, *bodies, *takers):
                try:
                    if sock in takers:
                        gone = not sock.recv(1)
                    else:
                        sock.sendall(b"G")
                        gone = bool(select.select([sock], [], [], 0)[0])
                except ConnectionError:
                    gone = True
                if gone:
                    ended.setdefault(sock, second)
        print([ended.get(sock) for sock in (*heads, *bodies, *takers)])
        assert all(9 <= ended[sock] <= 12 for sock in heads)
        assert all(29 <= ended[sock] <= 32 for sock in bodies)
        assert all(sock.recv(100).startswith(b"HTTP/1.1 408 ") for sock in (*heads, *bodies))
        web.board.wait_for('GET "/big": broken off')
        patient.sendall(bytes(30_000))
        assert statuses(patient.recv(1000)) == [201]
    assert web.ask("/new0").status == web.ask("/new1").status == 404
    assert web.ask("/new2").data == bytes(100_000)
