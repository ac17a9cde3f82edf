"""Real HTTP clients against the everyday board: curl, wget, busybox wget, urllib, http.client; and what REDbot and
httplint, which know HTTP's rules, say of its answers. test_netboot.py has UEFI and iPXE."""

import http.client
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from served import SERVED, content
from web import Web, told

pytestmark = pytest.mark.everyday_only("its address and its port are those of the everyday board")

BIG = content(2_000_000)  # curl expects 100-continue before it sends more than a megabyte


def run(*command: str | Path, at: Path | None = None, status: int = 0) -> str:
    """What `command` says on its standard output; it has to end with `status`."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed (Debian: curl, wget, busybox)")
    result = subprocess.run(command, cwd=at, capture_output=True, text=True, errors="replace", timeout=60)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def curl(*words: str | Path, status: int = 0) -> str:
    return run("curl", "-sS", *words, status=status)


@pytest.mark.parametrize(
    "command",
    [
        ["curl", "-sS", "-f"],
        ["curl", "-sS", "-f", "--http1.0"],
        ["curl", "-sS", "-f", "--compressed"],
        ["curl", "-sS", "-f", "--limit-rate", "2M"],
        ["wget", "-q", "-O", "-"],
        ["busybox", "wget", "-q", "-O", "-"],
    ],
    ids=" ".join,
)
def test_a_file_comes_whole(web: Web, command: list[str], tmp_path: Path):
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed (Debian: curl, wget, busybox)")
    result = subprocess.run([*command, web.url + "/mebi.bin"], capture_output=True, timeout=20)
    assert result.returncode == 0, result.stderr
    assert result.stdout == SERVED["mebi.bin"]


@pytest.mark.parametrize(
    "command",
    [["curl", "-sS", "-f", "-C", "-", "-O"], ["wget", "-q", "-c"], ["busybox", "wget", "-q", "-c"]],
    ids=" ".join,
)
def test_a_file_is_resumed(web: Web, command: list[str], tmp_path: Path):
    part = tmp_path / "mebi.bin"
    part.write_bytes(SERVED["mebi.bin"][:400_000])
    seen = web.board.lines_when_silent()
    run(*command, web.url + "/mebi.bin", at=tmp_path)
    assert part.read_bytes() == SERVED["mebi.bin"]
    size = len(SERVED["mebi.bin"]) - 400_000
    assert f"done, {size} bytes" in web.board.wait_for('GET "/mebi.bin"', after=seen)
    if command[0] == "wget":
        run(*command, web.url + "/mebi.bin", at=tmp_path)  # hears 416, and that there is nothing to do


@pytest.mark.parametrize("range_", ["0-0", "5-9", "4990-", "-10", "4990-9999"])
def test_curl_takes_a_part(web: Web, tmp_path: Path, range_: str):
    said = curl("-r", range_, "-o", tmp_path / "part", "-w", "%{http_code}", web.url + "/size-5000")
    first, last = range_.split("-")
    part = SERVED["size-5000"][int(first) : int(last) + 1 if last else None] if first else SERVED["size-5000"][-10:]
    assert (said, (tmp_path / "part").read_bytes()) == ("206", part)


def test_curl_asks_for_several_files_over_one_connection(web: Web, tmp_path: Path):
    names = ["hello.txt", "nope", "size-5000", ".hidden", "empty", "mebi.bin"]
    words = [word for number, name in enumerate(names) for word in ("-o", tmp_path / str(number), f"{web.url}/{name}")]
    said = curl("-w", "%{http_code} %{num_connects}\n", *words)
    assert said.splitlines() == ["200 1", "404 0", "200 0", "404 0", "200 0", "200 0"]
    for number, name in enumerate(names):
        got = tmp_path / str(number)
        assert name not in SERVED or (got.read_bytes() if got.exists() else b"") == SERVED[name]


def test_curl_asks_for_many_files_at_once(web: Web, tmp_path: Path):
    """More than the board has places: curl hears 503 and tries again after the 2 s that the board asks for."""
    words = ["-Z", "--parallel-max", "12", "--retry", "9", "-f", "-o", tmp_path / "#1", f"{web.url}/size-100000?[1-24]"]
    curl(*words)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [SERVED["size-100000"]] * 24


@pytest.mark.parametrize("words", [[], ["-0"], ["-H", "Expect:"], ["-H", "Expect: 100-continue"]], ids=" ".join)
@pytest.mark.parametrize("size", [0, 1, 5000, len(BIG)])
def test_curl_stores_and_deletes(store: Web, tmp_path: Path, words: list[str], size: int):
    (tmp_path / "new.bin").write_bytes(BIG[:size])
    for status in ("201", "204"):
        said = curl(*words, "-f", "-T", tmp_path / "new.bin", "-w", "%{http_code} %{time_total}", store.url + "/")
        assert said.split()[0] == status
        assert float(said.split()[1]) < 0.9  # curl waits a second for a 100 that does not come
        assert store.ask("/new.bin").data == BIG[:size]
    assert curl("-X", "DELETE", "-w", "%{http_code}", store.url + "/new.bin") == "204"


def test_curl_hears_why_an_upload_is_refused(store: Web, tmp_path: Path):
    (tmp_path / "big").write_bytes(BIG)
    for target in ("/.hidden", "/no/such/folder"):
        for words in ([], ["-H", "Expect:"]):
            said = curl("-T", tmp_path / "big", "-w", "%{http_code} %{size_upload}", *words, store.url + target)
            assert said.splitlines()[-1].startswith("404 ")
            assert words or said.endswith(" 0")  # it was told before it sent anything
    pipe = subprocess.run(["curl", "-sS", "-T", "-", store.url + "/x"], input=b"x", capture_output=True, timeout=10)
    assert pipe.stdout == b"no Transfer-Encoding\n"  # curl knows no length then


def test_wget_takes_a_file_again_only_if_it_is_new(store: Web, tmp_path: Path):
    store.ask("/dated.txt", "PUT", b"first")
    seen = store.board.lines_when_silent()
    for _ in range(2):
        run("wget", "-q", "-N", store.url + "/dated.txt", at=tmp_path)
    lines = store.board.console[seen : store.board.lines_when_silent()]
    assert len([line for line in lines if 'GET "/dated.txt"' in line]) == 1
    time.sleep(1.1)  # a date of HTTP is one of whole seconds
    store.ask("/dated.txt", "PUT", b"the second")
    run("wget", "-q", "-N", store.url + "/dated.txt", at=tmp_path)
    assert (tmp_path / "dated.txt").read_bytes() == b"the second"
    store.ask("/dated.txt", "DELETE")


def test_wget_takes_all_folders(web: Web, tmp_path: Path):
    started = time.monotonic()
    run("wget", "-q", "-r", "-np", "-nH", web.url + "/", at=tmp_path)
    for name, data in SERVED.items():
        if len(name) < 200:  # wget shortens longer names
            assert (tmp_path / name).read_bytes() == data, name
    assert time.monotonic() - started < 5  # the end of a list is the end of its connection


def test_wget_stores_and_deletes(store: Web, tmp_path: Path):
    (tmp_path / "body").write_bytes(BIG)
    run("wget", "-q", "-O", "-", "--method=PUT", "--body-file=body", store.url + "/by-wget", at=tmp_path)
    assert store.ask("/by-wget").data == BIG
    run("wget", "-q", "-O", "-", "--method=DELETE", store.url + "/by-wget")
    assert store.ask("/by-wget").status == 404


def test_busybox_reports_a_missing_file(web: Web):
    run("busybox", "wget", "-q", "-O", "-", web.url + "/nope", status=1)


def test_urllib(store: Web):
    def ask(target: str, method: str = "GET", body: bytes | None = None, **fields: str) -> tuple[int, bytes]:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        asked = urllib.request.Request(store.url + target, body, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read()

    assert ask("/size-5000") == (200, SERVED["size-5000"])
    assert ask("/size-5000", Range="bytes=1-9") == (206, SERVED["size-5000"][1:10])
    assert ask("/nope") == (404, b"file not found\n")
    assert ask("/by-urllib", "PUT", BIG) == (201, b"")
    assert ask("/by-urllib") == (200, BIG)
    assert ask("/.hidden", "PUT", BIG)[0] == 404  # it reads no answer before it has sent all
    assert ask("/by-urllib", "DELETE") == (204, b"")
    assert ask("/", "POST", b"x=1")[0] == 405


def test_http_client_uses_one_connection_for_all_methods(store: Web):
    connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=10)
    connection.connect()
    used = connection.sock
    for number in range(30):
        for method, body, status in (("PUT", BIG[: number * 1000], 201), ("GET", None, 200), ("DELETE", None, 204)):
            connection.request(method, "/kept", body)
            answer = connection.getresponse()
            assert answer.status == status
            assert answer.read() == (BIG[: number * 1000] if method == "GET" else b"")
    assert connection.sock is used
    connection.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /mebi.bin HTTP/1.0\r\n\r\n",  # up to 2025.01: no Host; the end of the connection ends the file
        b"GET /mebi.bin HTTP/1.1\r\nUser-Agent: lwIP/2.2.0 (http://savannah.nongnu.org/projects/lwip)\r\n"
        b"Accept: */*\r\nHost: 192.0.2.1\r\nConnection: Close\r\n\r\n",  # with lwIP
    ],
    ids=["own TCP", "lwIP"],
)
def test_what_wget_of_uboot_sends_is_answered(web: Web, request_: bytes):
    """Debian's U-Boot has no `wget`, so this is only its request, as its sources form it."""
    started = time.monotonic()
    with web.open() as sock:
        sock.sendall(request_)
        first = sock.recv(1460)
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nContent-Length: 1048576\r\n" in first and b"\r\n\r\n" in first  # it looks for both in one packet
        assert (first + told(sock)).endswith(b"\r\n\r\n" + SERVED["mebi.bin"])
    assert time.monotonic() - started < 0.9


def test_the_board_ends_a_connection_at_once(web: Web):
    """Who reads up to the end, as each client of a folder list has to, does not wait for anything else."""
    for request_ in (
        b"GET / HTTP/1.1\r\nHost: tftpd\r\n",
        b"GET /nope HTTP/1.1\r\nHost: tftpd\r\nConnection: close\r\n",
    ):
        started = time.monotonic()
        assert web.say(request_ + b"\r\n").startswith(b"HTTP/1.1 ")
        assert time.monotonic() - started < 0.5


# What REDbot has found out with requests of its own, and by what it has been sent.
FOUND = """The server's clock is correct.
The Content-Length header is correct.
This response sets a Content Security Policy.
This response instructs browsers not to 'sniff' its media type.
This response allows all caches to store it.
This response cannot be served from cache without validation.
If-None-Match conditional requests are supported.
If-Modified-Since conditional requests are supported.
A ranged request returned the correct partial content.""".splitlines()


def test_redbot_finds_no_fault(store: Web):
    redbot = shutil.which("redbot", path=Path(sys.executable).parent)
    if not redbot:
        pytest.skip("redbot is not installed (PyPI: redbot)")
    store.ask("/page.html", "PUT", b"<p>text</p>\n" * 200)
    said = run(redbot, "-o", "text", store.url + "/page.html")
    found = [line.strip(" *") for line in said.splitlines() if line.startswith("  * ")]
    assert sorted(line for line in found if "last changed" not in line) == sorted(FOUND)
    store.ask("/page.html", "DELETE")


# Notes of httplint that we can live with.
ACCEPTED = {
    "A new resource was created without its location being sent.",  # it is the target, RFC 9110 section 15.3.2
    "This response cannot be served from cache without validation, and doesn't have a validator.",  # a folder list
    "The server didn't understand the request.",
}


def test_httplint_finds_no_fault_in_any_answer(store: Web):
    httplint = pytest.importorskip("httplint", reason="httplint is not installed (PyPI: redbot brings it)")
    store.ask("/page.html", "PUT", b"<p>text</p>\n")
    fields = store.ask("/page.html").field
    found, statuses = [], set()
    for method, target, headers in (
        ("GET", "/page.html", {}),
        ("HEAD", "/page.html", {}),
        ("GET", "/page.html", {"If-None-Match": fields["ETag"]}),
        ("GET", "/page.html", {"If-Modified-Since": fields["Last-Modified"]}),
        ("GET", "/page.html", {"Range": "bytes=1-2"}),
        ("HEAD", "/page.html", {"Range": "bytes=1-2"}),
        ("GET", "/page.html", {"Range": "bytes=99-"}),
        ("GET", "/page.html", {"If-Match": '"other"'}),
        ("GET", "/page.html", {"Host": "evil.example"}),
        ("GET", "/page.html", {"Transfer-Encoding": "chunked"}),
        ("GET", "/empty", {}),
        ("GET", "/", {}),
        ("HEAD", "/", {}),
        ("GET", "/nope", {}),
        ("HEAD", "/nope", {}),
        ("GET", "/%zz", {}),
        ("OPTIONS", "/page.html", {}),
        ("PUT", "/new", {"Content-Length": "0"}),
        ("PUT", "/new", {"Content-Length": "0"}),
        ("PUT", "/new", {}),
        ("DELETE", "/new", {}),
        ("DELETE", "/page.html", {}),
        ("GET", "/" + "x" * 3000, {}),
    ):
        headers = {"Host": "tftpd", "Connection": "close"} | headers
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        head, _, body = store.say("\r\n".join(lines).encode()).partition(b"\r\n\r\n")
        first, *rest = head.split(b"\r\n")
        asked = httplint.HttpRequestLinter()
        asked.process_request_topline(method.encode(), (store.url + target).encode(), b"HTTP/1.1")
        asked.process_headers([(name.encode(), value.encode()) for name, value in headers.items()])
        asked.finish_content(True)
        answer = httplint.HttpResponseLinter(start_time=time.time(), no_content=method == "HEAD")
        answer.request = asked
        answer.base_uri = store.url + target
        answer.process_response_topline(*first.split(b" ", 2))
        answer.process_headers([tuple(line.split(b": ", 1)) for line in rest])
        answer.feed_content(body)
        answer.finish_content(True)
        statuses.add(int(first.split()[1]))
        bad = (httplint.levels.WARN, httplint.levels.BAD)
        found += [f"{first} {note.summary}" for note in answer.notes if note.level in bad]
    assert not [note for note in found if note.split("' ", 1)[1] not in ACCEPTED], found
    assert statuses == {200, 201, 204, 206, 304, 400, 403, 404, 405, 411, 412, 416, 431, 501}
