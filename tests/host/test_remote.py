"""`python -m tools ls | get | put | rm | df | check`, against the everyday board and against servers that mean ill."""

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from board import ROOT, Board
from cable import Namespace
from command import complain, shown_on
from served import SERVED, content, make_files
from tools import ToolError, compress, remote

WAYS = ["http", "tftp"]


def tools(*arguments: object, status: int = 0) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "tools", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100)
    assert done.returncode == status, done
    assert b"Traceback" not in done.stderr
    return done.stdout.decode()


class Addresses:
    """A board's addresses by scheme."""

    def __init__(self, board: Board, port: int):
        self.board = board
        self.http = f"http://127.0.0.1:{port}"
        self.tftp = f"127.0.0.1:{board.address[1]}"

    def of(self, way: str) -> str:
        return {"http": self.http, "tftp": self.tftp}[way]


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Addresses]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Board("--flash-size", "8M", "--set", f"http_port={port}", *arguments, files=folder) as board:
        board.wait_for(f"http: port {port}")
        yield Addresses(board, port)


@pytest.fixture(scope="module")
def board(files: Path) -> Iterator[Addresses]:
    """A board that nobody changes."""
    with running(files) as addresses:
        yield addresses


@pytest.fixture
def writable(tmp_path: Path) -> Iterator[Addresses]:
    """One that takes uploads and has the files `one` and `sub/two`."""
    (tmp_path / "files/sub").mkdir(parents=True)
    (tmp_path / "files/one").write_bytes(b"one")
    (tmp_path / "files/sub/two").write_bytes(content(5000))
    with running(tmp_path / "files", "--writable", "--set", "overwrite=true") as addresses:
        yield addresses


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- ls, df ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_ls_lists_each_file_with_size_and_crc32(board: Addresses, way: str):
    listed = {}
    for line in tools("ls", board.of(way)).splitlines():
        crc, size, name = line.split(None, 2)
        listed[name] = int(crc, 16), int(size.replace(",", ""))
    assert listed == {name: (zlib.crc32(data), len(data)) for name, data in SERVED.items()}


def test_ls_of_a_file_and_of_a_folder(board: Addresses):
    names = [line.split(None, 2)[2] for line in tools("ls", board.http, "folder/", "hello.txt", "/Boot").splitlines()]
    assert names == ["folder/deep/er/file.bin", "hello.txt", "Boot/BCD"]
    assert "nope: no such file or folder on http://" in complain("ls", board.http, "nope")


@pytest.mark.parametrize("way", WAYS)
def test_df_shows_the_room(board: Addresses, way: str):
    (line,) = [line for line in tools("df", board.of(way)).splitlines() if "/files" in line]
    total, used, free = (int(word.replace(",", "")) for word in line.split()[1:])
    assert total == 8 << 20 and used + free == total and used > sum(map(len, SERVED.values()))


def test_ls_df_and_check_as_json(board: Addresses, files: Path):
    (entry,) = json.loads(tools("ls", board.http, "hello.txt", "--json"))
    data = SERVED["hello.txt"]
    assert entry == {"name": "hello.txt", "size": len(data), "crc32": f"{zlib.crc32(data):08x}", "from": None}
    room = json.loads(tools("df", board.http, "--json"))
    assert list(room) == ["/files", "heap"] and room["/files"]["bytes"] == 8 << 20 > room["/files"]["free"] > 0
    assert json.loads(tools("check", board.http, files, "--json")) == {"same": len(SERVED), "differences": {}}
    told = json.loads(tools("check", board.http, files / "folder", "--json", status=1))
    assert told["same"] == 0 and told["differences"]["hello.txt"] == "only on the board"


# -- get ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_get_without_names_fetches_everything(board: Addresses, tmp_path: Path, way: str):
    tools("get", board.of(way), "-o", tmp_path / "new" / "folder")
    assert tree(tmp_path / "new/folder") == SERVED


@pytest.mark.parametrize("way", WAYS)
def test_get_of_names_and_folders(board: Addresses, tmp_path: Path, way: str):
    tools("get", board.of(way), "hello.txt", "folder/deep/er/file.bin", "Boot/", "-o", tmp_path)
    assert tree(tmp_path) == {
        "hello.txt": SERVED["hello.txt"],
        "file.bin": SERVED["folder/deep/er/file.bin"],
        "Boot/BCD": SERVED["Boot/BCD"],
    }
    tools("get", board.of(way), "size-5000", "-o", tmp_path / "new.bin")
    assert (tmp_path / "new.bin").read_bytes() == SERVED["size-5000"]
    done = subprocess.run(
        [sys.executable, "-m", "tools", "get", board.of(way), "size-5000", "-o", "-"], cwd=ROOT, capture_output=True
    )
    assert done.stdout == SERVED["size-5000"]


@pytest.mark.parametrize("way", WAYS)
def test_a_get_that_fails_leaves_nothing_and_keeps_what_was_there(board: Addresses, tmp_path: Path, way: str):
    (tmp_path / "nope").write_text("old")
    assert "nope: " in complain("get", board.of(way), "nope", "-o", tmp_path)
    assert tree(tmp_path) == {"nope": b"old"}


def test_a_compressed_file_is_fetched_as_it_is_stored(tmp_path: Path):
    files = {"plain.bin": content(300), "big.bin.gz": compress.pack(content(100) * 500)}
    (tmp_path / "files").mkdir()
    for name, data in files.items():
        (tmp_path / "files" / name).write_bytes(data)
    with running(tmp_path / "files") as board:
        tools("get", board.http, "-o", tmp_path / "got")
        assert tree(tmp_path / "got") == files
        tools("check", board.tftp, tmp_path / "files")
        (tmp_path / "files/big.bin.gz").unlink()
        (tmp_path / "files/big.bin").write_bytes(content(100) * 500)
        assert "2 of 2 files are the same\n" in tools("check", board.http, tmp_path / "files")
        assert "(from big.bin.gz)" in tools("ls", board.http)


# -- put, rm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_put_stores_files_and_replaces_them(writable: Addresses, tmp_path: Path, way: str):
    mine = {"one": b"another", "empty": b"", "Grüße #1?.bin": content(200_000), "two": b"2"}
    for name, data in mine.items():
        (tmp_path / name).write_bytes(data)
    tools("put", writable.of(way), tmp_path / "one", tmp_path / "empty", tmp_path / "Grüße #1?.bin")
    tools("put", writable.of(way), tmp_path / "two", "--to", "sub/")
    tools("put", writable.of(way), tmp_path / "two", "--to", "sub/three")
    tools("get", writable.of(way), "-o", tmp_path / "got")
    expected = {
        "one": b"another",
        "empty": b"",
        "Grüße #1?.bin": mine["Grüße #1?.bin"],
        "sub/two": b"2",
        "sub/three": b"2",
    }
    assert tree(tmp_path / "got") == expected
    assert "several files need a folder" in complain(
        "put", writable.http, tmp_path / "one", tmp_path / "two", "--to", "x"
    )
    assert "can't read" in complain("put", writable.http, tmp_path / "missing")


def test_rm_removes_over_http_and_says_that_tftp_can_not(writable: Addresses, tmp_path: Path):
    assert "TFTP can't remove a file: set http_port" in complain("rm", writable.tftp, "one")
    tools("rm", writable.http, "one", "/sub/two")
    assert "one: no such file (404" in complain("rm", writable.http, "one")
    assert complain("ls", writable.http).endswith("serves no files")


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_upload_gets_one_line_that_says_why(board: Addresses, tmp_path: Path, way: str):
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    said = complain("put", board.of(way), tmp_path / "big")
    assert "big: " in said and "takes no uploads from you" in said


def test_the_password_is_asked_for_and_sent(tmp_path: Path):
    (tmp_path / "files").mkdir()
    (tmp_path / "new").write_bytes(b"new")
    with running(tmp_path / "files", "--writable", "--set", "http_password=sésame", "--set", "overwrite=true") as board:
        assert "--password" in complain("put", board.http, tmp_path / "new")
        assert "401" in complain("put", board.http, tmp_path / "new", "--password", "wrong")
        tools("put", board.http, tmp_path / "new", "--password", "sésame")
        tools("rm", board.http, "new", "--password", "sésame")
        assert "TFTP has no passwords" in complain("put", board.tftp, tmp_path / "new", "--password", "x")


def test_a_name_that_leads_elsewhere_is_refused_here(writable: Addresses):
    for name in ("sub/../one", "..", "", "/", "./.."):
        assert "not the name of a file on a board" in complain("rm", writable.http, name)
    assert "one" in tools("ls", writable.http)


# -- check -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_check_of_the_same_folder(board: Addresses, files: Path, way: str):
    assert tools("check", board.of(way), files) == f"{len(SERVED)} of {len(SERVED)} files are the same\n"


@pytest.mark.parametrize("way", WAYS)
def test_check_says_what_differs(board: Addresses, tmp_path: Path, way: str):
    make_files(tmp_path)
    (tmp_path / "hello.txt").write_bytes(b"hello from your board.\n")
    (tmp_path / "size-511").write_bytes(b"shorter")
    (tmp_path / "folder/new").write_bytes(b"new")
    (tmp_path / "text.txt").unlink()
    crcs = [zlib.crc32(data) for data in (SERVED["hello.txt"], b"hello from your board.\n")]
    assert tools("check", board.of(way), tmp_path, status=1).splitlines() == [
        "folder/new: missing on the board",
        f"hello.txt: differs: CRC32 {crcs[0]:08x} on the board, {crcs[1]:08x} here",
        "size-511: differs: 511 bytes on the board, 7 here",
        "text.txt: only on the board",
        f"{len(SERVED) - 3} of {len(SERVED)} files are the same, 4 differences in all",
    ]


# -- addresses and boards that are not there ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("192.168.1.23", ("tftp", "192.168.1.23", 69)),
        ("tftpd.local", ("tftp", "tftpd.local", 69)),
        ("board:6969", ("tftp", "board", 6969)),
        ("tftp://board", ("tftp", "board", 69)),
        ("tftp://127.0.0.1:6969/", ("tftp", "127.0.0.1", 6969)),
        ("http://board", ("http", "board", 80)),
        ("http://board:8080/", ("http", "board", 8080)),
        ("http://board:99999", None),
        ("board:0", None),
        ("board:x", None),
        ("https://board", None),
        ("http://board/file", None),
        ("http://user@board", None),
        ("http://", None),
        ("", None),
    ],
)
def test_forms_of_an_address(text: str, meant: tuple[str, str, int] | None):
    if meant:
        assert remote.parse(text) == meant
    else:
        assert "not the address of a board" in complain("ls", text)


def test_a_board_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert complain("ls", f"http://127.0.0.1:{port}").endswith("Connection refused")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        began = time.monotonic()
        assert complain("ls", f"127.0.0.1:{silent.getsockname()[1]}").endswith("does not answer")
        assert time.monotonic() - began < 30


def test_a_board_that_no_route_leads_to():
    try:
        with Namespace():  # without any, not even to itself
            lines = [complain("ls", f"{way}://127.0.0.1:6969") for way in WAYS]
    except OSError as error:
        pytest.skip(f"no network namespace ({error}): it takes root")
    assert lines == [f"error: {way}://127.0.0.1:6969: Network is unreachable" for way in WAYS]


def test_a_board_without_made_files(tmp_path: Path):
    (tmp_path / "one").write_bytes(b"one")
    with running(tmp_path, "--set", "made_files=false") as board:
        for way in WAYS:
            assert "its made_files is off, or it is another server" in complain("ls", board.of(way))
        tools("get", board.tftp, "one", "-o", tmp_path / "two")


# -- a server that means ill -------------------------------------------------------------------------------------------


@pytest.fixture
def evil() -> Iterator[Callable[..., str]]:
    """evil({name: body}) starts a web server that answers so; gives its address."""
    with contextlib.ExitStack() as stack:

        def start(answers: dict[str, bytes], status: int = 200, **fields: str) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    body = answers.get(self.path.removeprefix("/tftpd/"), b"x")
                    self.send_response(status)
                    for name, value in fields.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, format: str, *args: object) -> None:
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


def entries(*names: str) -> dict[str, bytes]:
    body = [[name, 1, f"{zlib.crc32(b'x'):08x}"] for name in names]
    return {"status.json": b"{}", "index.json": json.dumps(body).encode()}


@pytest.mark.parametrize(
    "name", ["../up", "/etc/x", "a/../../up", "a//b", "", ".", "a\\..\\b", "C:x", "a\nb", "\x1b[2J", "link/x", "a/./b"]
)
def test_get_writes_nothing_outside_its_folder(evil: Callable[..., str], tmp_path: Path, name: str):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    said = complain("get", evil(entries("good", name)), "-o", inside)
    assert "leads out of" in said or "is no name here" in said
    assert set(tree(tmp_path)) <= {"inside/good"}


def test_names_from_a_board_are_printed_without_control_characters(evil: Callable[..., str]):
    said = tools("ls", evil(entries("\x1b[2Jx\ny", "\u202egpj.exe")))
    assert said.isprintable() or said.replace("\n", "").isprintable()
    assert len(said.splitlines()) == 2 and "\\x1b[2Jx\\ny" in said
    volumes = {"volumes": [{"root": "[red]\x1b]0;x\x07", "size": 2, "free": 1}], "heap": [1, 2]}
    assert "[red]\\x1b]0;x\\x07" in tools("df", evil({"status.json": json.dumps(volumes).encode()}))


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"{}", b"[1]", b'["xy"]', b'[["x",1]]', b'[["x","a","0"]]', b'[["x",1,0]]', b"null", b"\xff"],
)
def test_an_index_that_is_none_gets_one_line(evil: Callable[..., str], body: bytes):
    url = evil({"status.json": b"{}", "index.json": body})
    if body == b"{}":  # an empty list, too
        assert "serves no files" in complain("ls", url)
    else:
        assert "another server" in complain("ls", url)


def test_a_redirect_is_not_followed(evil: Callable[..., str]):
    assert "(302" in complain("ls", evil({}, 302, Location="http://127.0.0.1:9/"))


def test_a_file_that_ends_too_early_is_not_kept(evil: Callable[..., str], tmp_path: Path):
    url = evil({}, Content_Length="500", Connection="close")
    assert complain("get", url, "name", "-o", tmp_path)
    assert tree(tmp_path) == {}


def test_a_file_with_another_content_than_the_index_says_is_told(evil: Callable[..., str], tmp_path: Path):
    answers = entries("name") | {"/name": b"other"}
    assert "has changed meanwhile, or came damaged" in complain("get", evil(answers), "-o", tmp_path)


def test_no_proxy_is_asked_for_a_board(board: Addresses, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert "hello.txt" in tools("ls", board.http)


def test_local_names_stay_below_the_folder(tmp_path: Path):
    assert remote.local("a/b", tmp_path) == tmp_path / "a/b"
    with pytest.raises(ToolError):
        remote.local("..", tmp_path)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_sees_the_progress_but_not_with_quiet(board: Addresses, tmp_path: Path, quiet: bool):
    main, other = pty.openpty()
    command = [sys.executable, "-m", "tools", "get", board.http, "mebi.bin", "-o", str(tmp_path), *["--quiet"] * quiet]
    process = subprocess.Popen(command, cwd=ROOT, stderr=other, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(other)
    said = shown_on(main)
    assert process.wait(20) == 0
    assert said == b"" if quiet else b"mebi.bin" in said and b"1.0/1.0 MB" in said
