"""The rules for names on a whole board, over TFTP and HTTP; and the recipes of docs/rules.md, as they stand there."""

import gzip
import json
import re
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from board import ROOT, Board
from client import TftpError, Wire, ack, fetch, store
from web import Web

everyday = pytest.mark.everyday_only("its addresses are those of the everyday board")
pytestmark = everyday


@cache
def recipes() -> dict[str, list[str]]:
    """The rules of docs/rules.md as text, by heading."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^#+ ", (ROOT / "docs/rules.md").read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"```json\n\"rules\": (.*?)```", section, re.DOTALL)
        found[section.splitlines()[0]] = blocks
    return found


def rules(*listed: dict[str, Any]) -> tuple[str, str]:
    return "--set", "rules=" + json.dumps(listed)


def recipe(heading: str, number: int = 0, range_: str = "192.168.1.") -> tuple[str, str]:
    """The rules under that heading, where the clients of this host are those of `range_`."""
    text = recipes()[heading][number].replace(range_, "127.0.0.")
    return rules(*json.loads(text))


def put(folder: Path, *names: str) -> Path:
    """`folder` with files that contain their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def get(board: Board, name: str | bytes, host: str = "127.0.0.1") -> str:
    """What the client at `host` gets: the text of the file or of the ERROR, after its code."""
    with Wire(board.address) as wire:
        wire.socket.close()
        wire.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wire.socket.bind((host, 0))
        wire.socket.settimeout(2)
        packet = wire.ask(name)
        if packet[:2] == b"\0\5":
            error = TftpError(packet)
            return f"{error.code} {error.text}"
        assert packet[:4] == b"\0\3\0\1"
        wire.send(ack(1))
        return packet[4:].decode()


def check(board: Board) -> None:
    assert board.stop() == 0
    assert not [line for line in board.console if "Traceback" in line or "internal" in line]


def test_a_read_gets_what_the_first_matching_rule_gives_and_the_journal_shows_both_names(start, tmp_path: Path):
    put(tmp_path, "pxe/default", "pxe/7F000001", "Phones/a.sbn", "plain")
    board: Board = start(
        *rules(
            {"name": "pxelinux.cfg/*", "from": "10.0.0.0/8", "give": "plain"},
            {"name": "pxelinux.cfg/*", "give": ["pxe/{*}", "pxe/{hexip}", "plain"]},
            {"name": "*.sbn", "give": "phones/{file}"},
        ),
        files=tmp_path,
    )
    assert get(board, "pxelinux.cfg/default") == "pxe/default"
    assert get(board, "/PXELINUX.CFG/01-aa") == "pxe/7F000001"
    assert get(board, "pxelinux.cfg\\x", "127.0.0.9") == "plain"
    assert get(board, "x/y/A.SBN") == "Phones/a.sbn"
    assert get(board, "b.sbn") == "1 file not found"
    assert get(board, "/Plain") == "plain"
    assert 'RRQ "pxelinux.cfg/default" -> "/pxe/default" octet: done' in board.wait_for("/pxe/default")
    assert 'RRQ "x/y/A.SBN" -> "/Phones/a.sbn" octet: done' in board.wait_for("a.sbn")
    assert 'RRQ "b.sbn" octet: refused, file not found' in board.wait_for("b.sbn")
    assert 'RRQ "/plain" octet: done' in board.wait_for('RRQ "/plain"')
    check(board)


def test_an_upload_goes_where_the_first_name_of_a_rule_says(start, tmp_path: Path):
    put(tmp_path, "logs/old", "incoming/x")
    board: Board = start(
        *("--writable", "--set", 'write_to=["/logs"]', "--set", "overwrite=true"),
        *rules(
            {"name": "up", "op": "write", "give": ["logs/{ip}.log", "logs/other"]},
            {"name": "in", "op": "write", "give": "incoming/y"},
            {"name": "lost", "give": "nowhere/x"},
            {"name": "no", "op": "write", "give": "deny", "text": "not this one"},
        ),
        files=tmp_path,
    )
    store(board.address, "/up", b"a log")
    assert 'WRQ "/up" -> "/logs/127.0.0.1.log" octet: done, 5 bytes' in board.wait_for("WRQ")
    assert get(board, "logs/127.0.0.1.log") == "a log"
    for name, text in (
        ("in", "2 no uploads to this folder"),
        ("lost", "1 no such folder"),
        ("NO", "2 not this one"),
        ("up/", "2 is a folder, not a file"),
        ("logs/../up", "2 '..' is not allowed"),
    ):
        with pytest.raises(TftpError) as error:
            store(board.address, name, b"x")
        assert f"{error.value.code} {error.value.text}" == text
    check(board)


def test_http_follows_the_same_rules(serve: Callable[..., Web], tmp_path: Path):
    put(tmp_path, "pxe/a b", "secret/key", "logs/x", "top")
    web = serve(
        *("--writable", "--set", "overwrite=true"),
        *rules(
            {"name": "cfg/*", "give": "pxe/{*}"},
            {"name": "secret/*", "give": "deny", "text": "go away"},
            {"name": "*.log", "op": "write", "give": "logs/{ip}-{file}"},
        ),
        files=tmp_path,
    )
    got = web.ask("/cfg/A%20b?query")
    assert (got.status, got.data) == (200, b"pxe/a b")
    web.board.wait_for('GET "/cfg/A b" -> "/pxe/a b": done, 7 bytes')
    for target in ("/secret/key", "/SECRET%2fkey", "//secret/./key", "/secret%5Ckey", "/secret/key/"):
        got = web.ask(target)
        assert (got.status, got.data) == (403, b"go away\n") or target[-1] == "/", target
        assert got.status in (403, 404)
    assert web.ask("/secret/new", "PUT", b"x").status == web.ask("/secret/key", "DELETE").status == 403
    assert web.ask("/a.log", "PUT", b"lines").status == 201
    web.board.wait_for('PUT "/a.log" -> "/logs/127.0.0.1-a.log": done, 5 bytes')
    assert web.ask("/logs/127.0.0.1-a.log").data == b"lines"
    assert web.ask("/a.log").status == 404
    assert web.ask("/a.log", "DELETE").status == 204
    assert web.ask("/logs/127.0.0.1-a.log").status == 404
    check(web.board)


def links(web: Web, target: str) -> set[str]:
    return set(re.findall(r'<td><a href="([^"]*)"', web.ask(target).data.decode()))


def test_the_list_of_a_folder_shows_what_the_client_could_fetch(serve: Callable[..., Web], tmp_path: Path):
    put(tmp_path, "a.txt", "b.key", "sub/c.key", "sub/d.txt", "private/e", "127.0.0.1/own", "127.0.0.2/other")
    web = serve(
        *rules({"name": "*.key", "give": "deny"}, {"name": "private*", "give": "deny"}, {"name": "gone", "give": "x"}),
        files=tmp_path,
    )
    assert links(web, "/") - {"/tftpd/"} == {"/a.txt", "/sub/", "/127.0.0.1/", "/127.0.0.2/"}
    assert links(web, "/sub/") == {"/", "/sub/d.txt"}
    assert web.ask("/private/").status == 403
    only = serve(*rules({"name": "*", "give": "{ip}/{name}"}), files=tmp_path)
    assert links(only, "/") == {"/own"}


def test_the_made_files_show_what_a_client_could_fetch_and_what_it_is_given(serve: Callable[..., Web], tmp_path: Path):
    put(tmp_path, "a.txt", "b.key", "sub/c.key", "sub/d.txt")
    (tmp_path / "large").write_bytes(bytes(4_000_000))
    listed = [{"name": "*.key", "give": "deny"}, {"name": "x/*", "give": "{*}"}]
    web = serve(*rules(*listed), files=tmp_path)
    index = web.ask("/tftpd/index.txt").data.decode()
    assert {line.split()[-1] for line in index.splitlines()} == {"a.txt", "large", "sub/d.txt"}, index
    with Wire(web.board.address) as wire, web.open() as sock:
        wire.ask("x/large", ("blksize", 8))
        sock.sendall(b"GET /x/large HTTP/1.0\r\n\r\n")
        sock.recv(100)
        status = json.loads(web.ask("/tftpd/status.json").data)
        under_way = [(one["op"], one["name"]) for one in status["now"] if "large" in one["name"]]
        assert sorted(under_way) == [("GET", "/large"), ("RRQ", "/large")], status


def test_many_refused_names_in_a_list_do_not_hold_the_loop(serve: Callable[..., Web], tmp_path: Path):
    put(tmp_path, "seen", *(f"many/{number}.key" for number in range(400)))
    web = serve(*rules({"name": "*.key", "give": "deny"}), files=tmp_path)
    with web.open() as sock:
        sock.sendall(b"GET /many/ HTTP/1.0\r\n\r\n")
        assert get(web.board, "seen") == "seen"
        while sock.recv(4096):
            pass


DENIED = [
    b"secret/key",
    b"/secret/key",
    b"\\secret\\key",
    b"SECRET/KEY",
    b"./secret/./key",
    b"secret//key",
    b"secret/key/",
    b"secret/key\\.",
    b"secret/key\xff",
    b"secret/key.gz",
]


@pytest.mark.parametrize("name", DENIED)
def test_what_is_denied_is_denied_in_every_spelling(denying: Board, name: bytes):
    assert get(denying, name) == "2 denied by rule 2"
    with pytest.raises(TftpError, match=r"ERROR [12]"):
        store(denying.address, name, b"x")


@pytest.fixture(scope="module")
def denying(tmp_path_factory: pytest.TempPathFactory, board_name: str):
    folder = put(tmp_path_factory.mktemp("denied"), "secret/key", "public/a", "127.0.0.2/x", ".hidden")
    listed = rules(
        {"name": "public/*", "give": "{name}"},
        {"name": "secret*", "give": "deny"},
        {"name": "up/*", "give": ["{*}", "{file}", "{name}"]},
        {"name": "one/*", "give": "{*}"},
        {"name": "*", "give": "{name}"},
    )
    with Board("--writable", "--set", "overwrite=true", "--set", "client_folders=true", *listed, files=folder) as board:
        yield board


OUTSIDE = ["boot.py", "main.py", "settings.json", "board.json", "lib/settings.mpy", ".hidden", ".uploads"]
WAYS = [
    "{}",
    "up/{}",
    "up/../{}",
    "up/..\\{}",
    "up//{}",
    "up/./{}",
    "up/%2e%2e/{}",
    "up/....//{}",
    "up/\x01../{}",
    "..up/{}",
]
WAYS += [
    "../{}",
    "up/files/../../{}",
    "/up//{}",
    "\\up\\..\\..\\{}",
    "public/../{}",
    "up/{{name}}/../{}",
    "up/\u2025/{}",
]


@pytest.mark.parametrize("way", WAYS)
def test_no_rule_reaches_what_is_not_served(denying: Board, way: str):
    for name in OUTSIDE:
        assert re.match("[12] ", get(denying, way.format(name))), way.format(name)


def test_a_rule_gives_no_folder_of_another_client(denying: Board):
    assert get(denying, "one/127.0.0.2/x") == "2 the folder of another client"
    assert get(denying, "up/127.0.0.2/x") == "1 file not found"  # the last name of its list says so
    assert get(denying, "up/127.0.0.2/x", "127.0.0.2") == "127.0.0.2/x"


def test_rules_come_before_client_folders_and_compressed_files(start, tmp_path: Path):
    put(tmp_path, "b", "127.0.0.1/b", "c")
    (tmp_path / "z.gz").write_bytes(gzip.compress(b"inflated"))
    board: Board = start(
        *("--set", "client_folders=true"),
        *rules({"name": "a", "give": "b"}, {"name": "b", "give": ["none", "c"]}, {"name": "x", "give": ["no", "z"]}),
        files=tmp_path,
    )
    assert get(board, "a") == "127.0.0.1/b"
    assert get(board, "b") == "c"
    assert get(board, "x") == "inflated"
    check(board)


def test_requests_under_rules_leave_the_heap_flat(start, tmp_path: Path):
    put(tmp_path, "hello.txt", "to/a")
    listed = [{"name": f"folder-{number}/*.[0-9]", "from": "10.0.0.0/8", "give": "to/{*}"} for number in range(9)]
    board: Board = start(
        "--set", "log=debug", *rules(*listed, {"name": "x*", "give": ["{*}", "to/{file}", "to/a"]}), files=tmp_path
    )
    used = []
    for _ in range(6):
        for number in range(100):
            assert get(board, f"x{number}") == "to/a"
            assert get(board, f"folder-1/{number}.1") == "1 file not found"
        used.append(board.heap_when_idle())
    assert used[-1] <= max(used[:2]) + 64, used


# -- the recipes of docs/rules.md --------------------------------------------------------------------------------------

# heading: files, then what a client asks for and what it gets. From: packet captures of a Cisco 7940 at a CME router
# and of PXE ROMs that users have published, the makers' lists of files (Cisco, Polycom, Yealink), and clients.md.
ASKED = {
    "Cisco phones": (
        [
            *("phones/XMLDefault.cnf.xml", "phones/SEP001122334455.cnf.xml", "phones/7945/term45.default.loads"),
            *("phones/7945/SCCP45.9-4-2SR3-1S.loads", "phones/7945/apps45.9-4-2ES26.sbn"),
            "phones/7960/P00308000500.sbn",
        ],
        [
            ("CTLSEP0006537B84EF.tlv", "1 file not found"),
            ("SEP0006537B84EF.cnf.xml", "phones/XMLDefault.cnf.xml"),
            ("SEP001122334455.cnf.xml", "phones/SEP001122334455.cnf.xml"),
            ("SCCP45.9-4-2SR3-1S.loads", "phones/7945/SCCP45.9-4-2SR3-1S.loads"),
            ("term45.default.loads", "phones/7945/term45.default.loads"),
            ("apps45.9-4-2ES26.sbn", "phones/7945/apps45.9-4-2ES26.sbn"),
            ("P00308000500.sbn", "phones/7960/P00308000500.sbn"),
        ],
    ),
    "Polycom phones": (
        ["polycom/000000000000.cfg", "polycom/2345-12600-001.sip.ld", "polycom/0004f2aabbcc.cfg", "logs/readme"],
        [
            ("0004f2112233.cfg", "polycom/000000000000.cfg"),
            ("0004f2aabbcc.cfg", "polycom/0004f2aabbcc.cfg"),
            ("2345-12600-001.sip.ld", "polycom/2345-12600-001.sip.ld"),
            ("0004f2112233-app.log", "1 file not found"),
        ],
    ),
    "Yealink phones": (
        ["yealink/y000000000000.boot", "yealink/y000000000028.cfg", "yealink/default.cfg"],
        [
            ("001565aabbcc.boot", "yealink/default.cfg"),
            ("y000000000000.boot", "yealink/y000000000000.boot"),
            ("y000000000028.cfg", "yealink/y000000000028.cfg"),
            ("001565aabbcc.cfg", "yealink/default.cfg"),
        ],
    ),
    "Raspberry Pi": (
        ["pi/start4.elf", "pi/config.txt", "pi/overlays/a.dtbo", "1234abcd/start4.elf"],
        [
            ("bootsig.bin", "1 file not found"),
            ("9ffefdef/start4.elf", "pi/start4.elf"),
            ("9ffefdef/overlays/a.dtbo", "pi/overlays/a.dtbo"),
            ("9ffefdef/start.elf", "1 file not found"),
            ("1234abcd/start4.elf", "1234abcd/start4.elf"),
            ("1234abcd/config.txt", "pi/config.txt"),
        ],
    ),
    "Windows": (
        ["winpe/boot/bcd", "winpe/boot/fonts/wgl4_boot.ttf"],
        [
            ("\\Boot\\BCD", "winpe/boot/bcd"),
            ("\\boot\\Fonts\\wgl4_boot.ttf", "winpe/boot/fonts/wgl4_boot.ttf"),
            ("\\hiberfil.sys", "1 file not found"),
        ],
    ),
    "A truncated name": (
        ["ipxe.pxe", "pxelinux.0"],
        [("ipxe.px", "ipxe.pxe"), ("pxelinux.", "pxelinux.0"), (b"pxelinux.0\xff", "pxelinux.0")],
    ),
    # These have real clients in test_boots.py and test_uboot.py too.
    "GRUB": (
        ["grubx64.efi", "grub.cfg", "by-ip/127.0.0.2/grub.cfg"],
        [("EFI/BOOT/grubx64.efi", "grubx64.efi"), ("/grub/grub.cfg", "grub.cfg")],
    ),
    "iPXE, PXE ROMs": (["undionly.kpxe"], [("undionly.kpxe.0", "undionly.kpxe"), ("undionly.0", "undionly.kpxe")]),
    "PXELINUX": (
        ["pxe/default", "pxe/7F000002", "pxe/01-52-54-00-12-34-56"],
        [
            ("pxelinux.cfg/b8945908-d6a6-41a9-611d-74a6ab80b83d", "pxe/default"),
            ("pxelinux.cfg/01-52-54-00-12-34-56", "pxe/01-52-54-00-12-34-56"),
        ],
    ),
    "U-Boot": (
        ["by-ip/127.0.0.1/boot.img", "recovery.img"],
        [("7F000001.img", "by-ip/127.0.0.1/boot.img"), ("recovery.img", "recovery.img")],
    ),
}


@pytest.mark.parametrize("heading", ASKED)
def test_recipe(start, tmp_path: Path, heading: str):
    files, asked = ASKED[heading]
    board = start(*recipe(heading), files=put(tmp_path, *files))
    assert [get(board, name) for name, _ in asked] == [text for _, text in asked]
    check(board)


def test_recipe_polycom_logs(start, tmp_path: Path):
    arguments = ["--writable", "--set", 'write_to=["/logs"]', "--set", "overwrite=true"]
    board = start(*arguments, *recipe("Polycom phones"), files=put(tmp_path, "polycom/x"))
    for data in (b"first", b"second"):
        store(board.address, "0004f2112233-boot.log", data)
        assert fetch(board.address, "logs/0004f2112233-boot.log") == data
    with pytest.raises(TftpError, match="no uploads to this folder"):
        store(board.address, "0004f2112233.cfg", b"x")


def test_recipe_by_address(start, tmp_path: Path):
    put(tmp_path, "pxe/default", "pxe/7F000002", "by-ip/127.0.0.2/grub.cfg", "grub.cfg")
    board = start(*recipe("PXELINUX"), files=tmp_path)
    assert get(board, "pxelinux.cfg/x", "127.0.0.2") == "pxe/7F000002"
    board = start(*recipe("GRUB"), files=tmp_path)
    assert get(board, "/grub/grub.cfg", "127.0.0.2") == "by-ip/127.0.0.2/grub.cfg"


@pytest.mark.parametrize(("number", "short"), [(0, '"only"'), (1, "true")])
def test_recipe_a_folder_for_each_client_is_what_client_folders_does(start, tmp_path: Path, number: int, short: str):
    put(tmp_path, "common", "own", "127.0.0.1/own", "127.0.0.2/own", "127.0.0.2/second")
    boards = [
        start(*recipe("A folder for each client", number), files=tmp_path),
        start("--set", f"client_folders={short}", files=tmp_path),
    ]
    for name in ("own", "/OWN", "common", "second", "missing", "x/own", "../own"):
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            assert get(boards[0], name, host) == get(boards[1], name, host), (name, host)


def test_recipe_a_folder_for_each_lab(start, tmp_path: Path):
    put(tmp_path, "lab-a/x", "lab-b/x", "x", "y")
    board = start(*recipe("A folder for each lab"), files=tmp_path)
    assert [get(board, "x", f"127.0.{host}") for host in ("0.1", "0.200", "1.1")] == ["lab-a/x", "lab-b/x", "x"]
    assert [get(board, "y", f"127.0.{host}") for host in ("0.1", "0.200", "1.1")] == ["y", "1 file not found", "y"]


def test_every_recipe_is_tried(start, tmp_path: Path):
    headings = [heading for heading, blocks in recipes().items() if blocks]
    tried = {*ASKED, "A folder for each client", "A folder for each lab", "Rules for names", "What they are not"}
    assert tried == set(headings)
    put(tmp_path, "public/a", "b", "pxe/default", "phones/a.sbn", "private/x")
    board = start(*recipe("What they are not"), files=tmp_path)
    assert [get(board, name) for name in ("public/a", "b")] == ["public/a", "2 denied by rule 2"]
    board = start(*recipe("Rules for names"), files=tmp_path)
    asked = ["pxelinux.cfg/x", "a.sbn", "private/x"]
    assert [get(board, name) for name in asked] == ["pxe/default", "phones/a.sbn", "2 denied by rule 3"]
