"""The files that the server makes itself, below `tftpd/`, over TFTP and HTTP."""

import json
import random
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from board import ROOT, Board
from client import TftpError, Wire, blocks, fetch, parse_oack, store
from served import SERVED, content
from tools import compress
from web import Web

FILES = ["index.json", "index.txt", "journal.txt", "metrics", "status.json", "version"]
everyday = pytest.mark.everyday_only("HTTP, and files of its own, are on the everyday board")


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def made(board: Board, name: str) -> bytes:
    return fetch(board.address, f"tftpd/{name}", ("blksize", 1468))


def index(board: Board) -> dict[str, tuple[int, int]]:
    """{name: (CRC32, size)} of index.txt, which index.json repeats."""
    lines = [line.split(" ", 2) for line in made(board, "index.txt").decode().splitlines()]
    files = {name: (int(crc, 16), int(size)) for crc, size, name in lines}
    assert len(files) == len(lines), "a name appears twice"
    entries = json.loads(made(board, "index.json"))
    assert {name: (int(crc, 16), size) for name, size, crc, *_ in entries} == files
    return files


def sums(files: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    return {name: (zlib.crc32(data), len(data)) for name, data in files.items()}


def status(board: Board) -> dict:
    return json.loads(made(board, "status.json"))


@pytest.fixture
def reach(serve: Callable[..., Web]) -> Callable[..., tuple[Board, str]]:
    """Start a board with HTTP; gives it, and its http:// address."""

    def reach_one(*arguments: str, **options: Path) -> tuple[Board, str]:
        web = serve(*arguments, **options)
        return web.board, web.url

    return reach_one


# -- on every board ----------------------------------------------------------------------------------------------------


@pytest.mark.also_on_pico
@pytest.mark.timeout(600)  # for the emulated Pico W
def test_the_index_has_each_file_with_its_size_and_crc32(board: Board, own_files: Path):
    served = {name: data for name, data in SERVED.items() if (own_files / name).exists()}
    assert index(board) == sums(served)
    assert index(board) == sums(served), "now of what was kept"


def test_the_status_tells_of_the_board(board: Board):
    told = status(board)
    assert told["version"] == "0.1.0" and told["hostname"] == "tftpd"
    assert told["uptime"] > 0 and min(told["heap"]) > 10_000
    (volume,) = told["volumes"]
    assert volume["root"] == "/files" and 0 <= volume["free"] < volume["size"]
    assert told["may_write"] is False and isinstance(told["rssi"], int | None)
    assert told["counters"].keys() == {"requests", "refused", "done", "failed", "bytes", "resent", "garbage"}
    assert told["micropython"].startswith("1.") and told["machine"]
    assert told["micropython"] in made(board, "version").decode() and told["machine"] in made(board, "version").decode()


def test_the_status_shows_a_transfer_under_way(board: Board):
    with Wire(board.address) as wire:
        wire.ask("size-100000", ("blksize", 1000))
        wire.ack(0)
        for block in (1, 2, 3):
            wire.ack(block)
        (transfer,) = [one for one in status(board)["now"] if one["client"] == board.seen_as(wire)]
        assert transfer["op"] == "RRQ"
        assert transfer["name"] == "/size-100000" and transfer["size"] == 100_000 and transfer["ms"] >= 0
        assert transfer["bytes"] in (2000, 3000)
        for block in range(4, 101):  # to see the file's size has moved nothing
            packet = wire.ack(block)
            while packet[3] != block + 1:  # the timer has sent it again meanwhile
                packet = wire.receive()
            assert packet[4:] == SERVED["size-100000"][block * 1000 : block * 1000 + 1000]


@pytest.mark.parametrize("way", ["tftpd/{}", "/tftpd/{}", "//tftpd//{}", "TFTPD\\{}", "./Tftpd/./{}"])
def test_the_folder_may_be_written_in_any_way(board: Board, way: str):
    for name in FILES:
        assert fetch(board.address, way.format(name.upper()), ("blksize", 1468))


@pytest.mark.parametrize(("name", "code"), [("tftpd", 2), ("tftpd/", 2), ("tftpd/x", 1), ("tftpd/version/x", 1)])
def test_there_is_nothing_else_in_it(board: Board, name: str, code: int):
    with pytest.raises(TftpError) as refusal:
        fetch(board.address, name)
    assert refusal.value.code == code


def test_a_name_that_only_looks_like_it_is_another(board: Board):
    for name in ("tftpd.txt", "folder/tftpd/version", "xtftpd/version", ".tftpd/version"):
        with pytest.raises(TftpError) as refusal:
            fetch(board.address, name)
        assert refusal.value.code == 1


def test_the_size_is_that_of_what_comes_with_any_blksize_and_windowsize(board: Board):
    for name in FILES:
        for options in (
            [("blksize", 8), ("windowsize", 16)],
            [("blksize", 512)],
            [("blksize", 1400), ("windowsize", 3)],
        ):
            with Wire(board.address) as wire:
                oack = wire.ask(f"tftpd/{name}", *options, ("tsize", 0))
                data = b"".join(blocks(wire, oack))
                assert int(parse_oack(oack)["tsize"]) == len(data) > 50


def test_a_rollback_gets_the_same_blocks_again(board: Board):
    whole = made(board, "index.txt")
    with Wire(board.address) as wire:
        oack = wire.ask("tftpd/index.txt", ("blksize", 50), ("windowsize", 6))
        assert parse_oack(oack) == {"blksize": "50", "windowsize": "6"}
        got = [wire.ack(0)] + [wire.receive() for _ in range(5)]
        again = [wire.ack(1)] + [wire.receive() for _ in range(5)]  # a gap after block 1
        assert again[:5] == got[1:]
        for number, packet in enumerate(got + again[5:]):
            assert packet[4:] == whole[number * 50 : number * 50 + 50]


def test_netascii_has_its_line_ends(board: Board):
    plain = made(board, "index.txt")
    assert fetch(board.address, "tftpd/index.txt", mode="netascii") == plain.replace(b"\n", b"\r\n")


# -- index -------------------------------------------------------------------------------------------------------------


@everyday
@pytest.mark.parametrize("way", ["TFTP", "HTTP"])
def test_the_index_follows_uploads_and_removals(reach: Callable[..., tuple[Board, str]], way: str):
    board, url = reach("--writable", "--set", "overwrite=true")
    expected = sums(SERVED)
    assert index(board) == expected
    for name, data in {"new.bin": content(3000), "size-5000": content(5000, 77), "hello.txt": b"h" * 23}.items():
        if way == "HTTP":
            assert requests.put(f"{url}/{name}", data).status_code in (201, 204)
        else:
            store(board.address, name, data)
        expected |= sums({name: data})
        assert index(board) == expected, name
    assert requests.delete(f"{url}/size-5000").status_code == 204
    del expected["size-5000"]
    assert index(board) == expected
    store(board.address, "size-5000", content(5000, 78))
    assert index(board) == expected | sums({"size-5000": content(5000, 78)})


@everyday
def test_a_file_that_is_replaced_while_it_is_read_has_the_sum_of_one_of_both(
    reach: Callable[..., tuple[Board, str]], tmp_path: Path
):
    old, new = content(3_000_000, 1), content(3_000_000, 2)
    board, url = reach("--writable", "--set", "overwrite=true", files=put(tmp_path, {"big": old}))
    seen, done = [], threading.Event()

    def ask() -> None:
        while not done.is_set():
            crc, size, _ = made(board, "index.txt").split()
            seen.append((int(crc, 16), int(size)))

    asking = threading.Thread(target=ask)
    asking.start()
    for data in (new, old, new):
        time.sleep(0.2)
        assert requests.put(f"{url}/big", data).status_code == 204
    done.set()
    asking.join()
    assert set(seen) <= {(zlib.crc32(old), 3_000_000), (zlib.crc32(new), 3_000_000)}
    assert index(board) == sums({"big": new})
    assert fetch(board.address, "big", ("blksize", 60000)) == new


@everyday
def test_what_no_request_can_name_is_not_in_the_index(start: Callable[..., Board], tmp_path: Path):
    files = {".hidden": b"x", ".folder/a": b"x", "ok/.b": b"x", "back\\slash": b"x", "a\x7f": b"x", "ok/a": b"x"}
    board = start(files=put(tmp_path, files))
    assert index(board) == sums({"ok/a": b"x"})


@everyday
@pytest.mark.parametrize("setting", [False, True, "only"])
def test_each_client_sees_what_it_can_read(start: Callable[..., Board], tmp_path: Path, setting: object):
    files = {
        "both": b"everybody's",
        "other": b"other",
        "127.0.0.1/both": b"mine",
        "127.0.0.1/sub/own": b"own",
        "10.0.0.9/secret": b"of another",
    }
    board = start("--set", f"client_folders={json.dumps(setting)}", files=put(tmp_path, files))
    mine = {"both": b"mine", "sub/own": b"own"}
    expected = {False: files, True: {"other": b"other"} | mine, "only": mine}[setting]  # type: ignore[index]
    assert index(board) == sums(expected)
    for name, data in expected.items():
        assert fetch(board.address, name) == data


def make_card(folder: Path, files: dict[str, bytes]) -> Path:
    """A card with these files, for --card."""
    card = folder / "card.img"
    command = [sys.executable, "-m", "tools", "image", "--card", str(put(folder / "on", files)), "-o", str(card)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return card


@everyday
def test_of_several_roots_the_first_that_has_the_name_counts(start: Callable[..., Board], tmp_path: Path):
    files = {
        "one": b"of the flash",
        "Both": b"of the flash too",
        "folder/x": b"x",
        "packed.gz": compress.pack(b"packed"),
    }
    more = {
        "both": b"hidden by the other case",
        "folder": b"hidden by a folder",
        "two": b"of the card",
        "one.gz": compress.pack(b"hidden by the plain one"),
        "packed": b"plain ones of all roots go first",
    }
    card = make_card(tmp_path, more)
    board = start("--card", str(card), files=put(tmp_path / "files", files))
    expected = files | {name: more[name] for name in ("two", "one.gz", "packed")}
    assert index(board) == sums(expected)
    for name, data in expected.items():
        assert fetch(board.address, name) == data


@everyday
@pytest.mark.parametrize("setting", [False, True])
def test_a_compressed_file_appears_under_both_names(start: Callable[..., Board], tmp_path: Path, setting: bool):
    plain = content(300) * 40
    packed = compress.pack(plain)
    files = {
        "real.bin.gz": packed,
        "sub/CAPITALS.GZ": packed,
        "both": b"goes before",
        "both.gz": packed,
        "no.gz": b"no gzip, but with such a name",
        "127.0.0.1/way.gz": packed,
        "way": b"plain, but not in the client's own folder",
    }
    board = start("--set", f"client_folders={json.dumps(setting)}", files=put(tmp_path, files))
    inflated = {"real.bin": plain, "sub/CAPITALS": plain}
    if setting:
        expected = files | inflated | {"way": plain, "way.gz": packed}
        del expected["127.0.0.1/way.gz"]
    else:
        expected = files | inflated | {"127.0.0.1/way": plain}
    assert index(board) == sums(expected)
    for name, data in expected.items():
        assert fetch(board.address, name, ("blksize", 1468)) == data
    stored = {"real.bin": "real.bin.gz", "sub/CAPITALS": "sub/CAPITALS.GZ"}
    stored |= {"way": "way.gz"} if setting else {"127.0.0.1/way": "127.0.0.1/way.gz"}
    entries = json.loads(made(board, "index.json"))
    assert {entry[0]: entry[3] for entry in entries if entry[3:]} == stored


@everyday
def test_a_compressed_file_appears_once_the_plain_one_is_gone(reach: Callable[..., tuple[Board, str]], tmp_path: Path):
    plain = content(300) * 40
    files = {"a": b"goes before", "a.gz": compress.pack(plain), "B": b"too", "b.gz": compress.pack(plain)}
    board, url = reach("--writable", "--set", "overwrite=true", files=put(tmp_path, files))
    assert index(board) == sums(files)
    assert requests.delete(f"{url}/a").status_code == 204
    files["a"] = plain
    assert index(board) == sums(files) and fetch(board.address, "a", ("blksize", 1468)) == plain


@everyday
def test_the_index_follows_the_rules_for_names(start: Callable[..., Board], tmp_path: Path):
    files = {"a": b"a", "b": b"b", "private/key": b"key", "private/open": b"open", "x.gz": compress.pack(b"x")}
    rules = [
        {"name": "private/open", "give": "{name}"},
        {"name": "private/*", "give": "deny"},
        {"name": "x", "give": "deny"},
        {"name": "b", "give": "a"},
        {"name": "about", "give": ["nope", "tftpd/version"]},
        {"name": "either", "give": ["tftpd/nope", "a"]},
    ]
    board = start("--set", f"rules={json.dumps(rules)}", files=put(tmp_path, files))
    expected = {name: files[name] for name in ("a", "private/open", "x.gz")}  # as `b` one gets another file
    assert index(board) == sums(expected)
    for name, data in expected.items():
        assert fetch(board.address, name) == data
    assert fetch(board.address, "about") == made(board, "version") and fetch(board.address, "either") == b"a"
    with Wire(board.address) as wire:
        wire.ask("b", ("blksize", 8))
        assert [one["name"] for one in status(board)["now"]][:1] == ["/a"]


@everyday
def test_the_index_of_1500_files_comes_whole_and_is_quick_the_second_time(start: Callable[..., Board], tmp_path: Path):
    files = {f"folder-{number % 30}/file-{number:04}.bin": content(number % 50, number) for number in range(1500)}
    board = start("--heap", "320K", files=put(tmp_path, files))
    began = time.monotonic()
    assert index(board) == sums(files)
    first = time.monotonic() - began
    began = time.monotonic()
    assert index(board) == sums(files)
    assert time.monotonic() - began < first


@everyday
def test_an_index_for_which_there_is_no_memory_is_refused_and_nothing_else(start: Callable[..., Board], tmp_path: Path):
    files = {f"a rather long name for a file, number {number:04}": b"" for number in range(1000)}
    board = start("--heap", "144K", "--set", "read_ahead=0", files=put(tmp_path, files))
    for _ in range(3):
        with pytest.raises(TftpError) as refusal:
            made(board, "index.txt")
        assert (refusal.value.code, refusal.value.text) == (0, "no memory for a list of so many files")
        assert status(board)["version"]
        assert fetch(board.address, "a rather long name for a file, number 0999") == b""


@everyday
def test_a_transfer_goes_on_while_a_large_file_is_read_for_the_index(start: Callable[..., Board], tmp_path: Path):
    board = start(files=put(tmp_path, {"big": content(6_000_000), "other": content(200_000)}))
    whole: list[bytes] = []
    asking = threading.Thread(target=lambda: whole.append(fetch(board.address, "tftpd/index.txt")))
    with Wire(board.address) as wire:
        wire.ask("other")
        asking.start()
        waits = []
        for block in range(1, 200):
            time.sleep(0.001)
            began = time.monotonic()
            wire.ack(block)
            waits.append(time.monotonic() - began)
            if whole:
                break
        assert len(waits) > 20, "the index was there before it could disturb"
    asking.join()
    assert sorted(waits)[-3] < 0.1, sorted(waits)[-10:]


@everyday
def test_eight_clients_get_the_index_at_once(start: Callable[..., Board]):
    board = start()
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(made(board, "index.txt"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and len({tuple(sorted(one.splitlines())) for one in got}) == 1


@everyday
def test_the_card_is_in_the_index_while_it_is_there(start: Callable[..., Board], tmp_path: Path):
    card = make_card(tmp_path, {"of-card": b"card", "tftpd/version": b"hidden"})
    board = start("--card", str(card), files=put(tmp_path / "files", {"of-flash": b"flash"}))
    assert index(board) == sums({"of-flash": b"flash", "of-card": b"card"})
    assert [volume["root"] for volume in status(board)["volumes"]] == ["/files", "/card"]
    card.rename(tmp_path / "away")
    board.wait_for("card: pulled out")
    assert index(board) == sums({"of-flash": b"flash"})
    assert [volume["root"] for volume in status(board)["volumes"]] == ["/files"]
    (tmp_path / "away").rename(card)
    board.wait_for("card: ", after=len(board.console))
    time.sleep(0.5)
    assert index(board) == sums({"of-flash": b"flash", "of-card": b"card"})


# -- the reserved folder -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"tftpd/version": b"real", "Tftpd/other": b"real too", "sub/tftpd/deep": b"deep", "plain": b"plain"}
    return put(tmp_path_factory.mktemp("hidden"), files)


@everyday
def test_nothing_is_stored_or_removed_there(reach: Callable[..., tuple[Board, str]]):
    board, url = reach("--writable", "--set", "overwrite=true")
    for name in ("tftpd/new", "tftpd/version", "TFTPD/new", "\\tftpd\\new", "tftpd"):
        with pytest.raises(TftpError) as refusal:
            store(board.address, name, b"x")
        assert refusal.value.code == 2
        path = name.replace("\\", "%5C")
        assert requests.put(f"{url}/{path}", b"x").status_code == 403
        assert requests.delete(f"{url}/{path}").status_code == 403
    assert index(board) == sums(SERVED)


@everyday
def test_a_real_folder_of_that_name_is_hidden(reach: Callable[..., tuple[Board, str]], hidden: Path):
    board, url = reach(files=hidden)
    assert made(board, "version").startswith(b"micropython-tftpd")
    assert index(board) == sums({"sub/tftpd/deep": b"deep", "plain": b"plain"})
    assert fetch(board.address, "sub/tftpd/deep") == b"deep"
    with pytest.raises(TftpError) as refusal:
        fetch(board.address, "Tftpd/other")
    assert refusal.value.code == 1
    assert "tftpd" not in requests.get(f"{url}/").text.lower().replace(">files in /<", "")
    assert requests.get(f"{url}/tftpd/other").status_code == 404


@everyday
def test_without_made_files_the_name_is_like_any_other(reach: Callable[..., tuple[Board, str]], hidden: Path):
    board, url = reach("--writable", "--set", "made_files=false", files=hidden)
    assert made(board, "version") == b"real" and fetch(board.address, "Tftpd/other") == b"real too"
    with pytest.raises(TftpError) as refusal:
        made(board, "status.json")
    assert refusal.value.code == 1
    store(board.address, "tftpd/new", b"new")
    assert requests.get(f"{url}/tftpd/new").content == b"new"


@everyday
def test_who_may_not_read_gets_none_of_them(reach: Callable[..., tuple[Board, str]]):
    board, url = reach("--set", 'read_from=["10.0.0.0/8"]')
    for name in FILES:
        with pytest.raises(TftpError) as refusal:
            made(board, name)
        assert refusal.value.code == 2
        assert requests.get(f"{url}/tftpd/{name}").status_code == 403


# -- the journal and the status ----------------------------------------------------------------------------------------


@everyday
def test_the_journal_file_has_the_last_lines_of_the_journal(start: Callable[..., Board]):
    board = start()
    for number in range(60):
        fetch(board.address, f"size-{(1, 8, 511)[number % 3]}")
    fetch(board.address, "Grüße.txt")
    board.lines_when_silent()
    printed = [line for line in board.console if line[:1].isdigit()]
    kept = made(board, "journal.txt").decode()
    assert 1500 < len(kept.encode()) <= 2048
    assert kept.splitlines() == printed[-len(kept.splitlines()) :]


@everyday
def test_the_journal_ring_survives_any_name(start: Callable[..., Board]):
    board = start("--set", "log=debug")
    rng = random.Random(5)
    for _ in range(120):
        name = "".join(rng.choice("aü漢\"'\\\n\x1b%s{}") for _ in range(rng.randrange(1, 120)))
        with Wire(board.address) as wire:
            wire.ask(name.encode() + rng.randbytes(rng.randrange(3)).replace(b"\0", b""))
        if rng.random() < 0.1:
            assert json.loads(made(board, "status.json"))["last"]
            assert len(made(board, "journal.txt").decode().splitlines()) > 3


@everyday
def test_with_client_folders_a_client_reads_only_its_own_lines(start: Callable[..., Board], tmp_path: Path):
    board = start("--set", "client_folders=true", files=put(tmp_path, {"a": content(9000), "127.0.0.2/b": b"b"}))
    with Wire(board.address) as mine, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        mine.ask("a")
        other.bind(("127.0.0.2", 0))
        other.settimeout(2)
        other.sendto(b"\0\1secret\0octet\0", board.address)
        other.recv(600)
        other.sendto(b"\0\1a\0octet\0", board.address)
        other.recv(600)
        told = status(board)
        assert [one["client"] for one in told["now"]][:1] == [board.seen_as(mine)]
        assert "127.0.0.2" not in json.dumps(told) and "secret" not in made(board, "journal.txt").decode()
        other.sendto(b"\0\1tftpd/journal.txt\0octet\0", board.address)
        while b"secret" not in (data := other.recv(600)):
            pass
        assert b"127.0.0.1" not in data


@everyday
def test_the_status_shows_every_kind_of_transfer(reach: Callable[..., tuple[Board, str]], tmp_path: Path):
    files = {"a": content(20_000), "big": content(6_000_000), "z.gz": compress.pack(content(100) * 300)}
    board, url = reach("--writable", files=put(tmp_path, files))
    host, port = url.removeprefix("http://").split(":")
    wires = [Wire(board.address) for _ in range(4)]
    wires[0].ask("a")
    wires[1].ask("a", mode="netascii")
    wires[2].ask("z")
    wires[3].ask("up", opcode=2)
    get = socket.create_connection((host, int(port)), 5)
    get.sendall(b"GET /big HTTP/1.0\r\n\r\n")
    get.recv(100)
    upload = socket.create_connection((host, int(port)), 5)
    upload.sendall(b"PUT /new HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + bytes(100))
    time.sleep(0.2)
    told = requests.get(f"{url}/tftpd/status.json").json()
    assert told["may_write"] is True
    now = {(one["op"], one["name"], one["size"]) for one in told["now"]}
    assert now == {
        ("RRQ", "/a", 20_000),
        ("RRQ", "/a", None),
        ("RRQ", "/z.gz", 30_000),
        ("WRQ", "/up", None),
        ("GET", "/big", 6_000_000),
        ("PUT", "/new", 5000),
    }
    clients = {one["op"]: one["client"] for one in told["now"]}
    assert clients["GET"] == f"127.0.0.1:{get.getsockname()[1]}"
    assert {one["op"]: one["bytes"] for one in told["now"]}["PUT"] == 100
    for one in (*wires, get, upload):
        one.__exit__()
    time.sleep(0.2)
    assert requests.get(f"{url}/tftpd/status.json").json()["now"] == []


@everyday
def test_a_poll_over_http_leaves_no_line_and_no_count(reach: Callable[..., tuple[Board, str]]):
    _, url = reach()
    first = requests.get(f"{url}/tftpd/status.json").json()
    for _ in range(5):
        again = requests.get(f"{url}/tftpd/status.json").json()
        assert again["last"] == first["last"] and again["counters"] == first["counters"]
    assert requests.get(f"{url}/tftpd/nothing").status_code == 404  # a refusal does
    assert requests.get(f"{url}/tftpd/status.json").json()["counters"]["refused"] == first["counters"]["refused"] + 1


# -- HTTP --------------------------------------------------------------------------------------------------------------


@everyday
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.txt", "text/plain"),
        ("index.json", "application/json"),
        ("status.json", "application/json"),
        ("journal.txt", "text/plain"),
        ("metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("version", "text/plain"),
    ],
)
def test_over_http_each_has_its_type(web: Web, name: str, kind: str):
    got = requests.get(f"{web.url}/tftpd/{name}")
    assert got.status_code == 200 and got.headers["Content-Type"] == kind
    assert "Last-Modified" not in got.headers and got.headers["Cache-Control"] == "no-cache"
    head = requests.head(f"{web.url}/tftpd/{name}")
    assert head.status_code == 200 and head.content == b"" and int(head.headers["Content-Length"]) > 50


@everyday
def test_an_etag_tells_one_content_from_another(web: Web):
    def ask(**fields: str) -> requests.Response:
        return requests.get(
            f"{web.url}/tftpd/index.txt", headers={name.replace("_", "-"): fields[name] for name in fields}
        )

    first = ask()
    tag = first.headers["ETag"]
    assert ask(If_None_Match=tag).status_code == 304
    assert ask(If_Modified_Since=first.headers["Date"]).status_code == 200
    part = ask(Range="bytes=10-109", If_Range=tag)
    assert part.status_code == 206 and part.content == first.content[10:110]
    assert ask(Range="bytes=10-", If_Range='"other"').content == first.content
    assert ask(Range="bytes=999999-").status_code == 416
    tags = {requests.get(f"{web.url}/tftpd/status.json").headers["ETag"] for _ in range(3)}
    assert len(tags) == 3 and tag not in tags


@everyday
def test_metrics_are_read_by_the_parser_of_prometheus(web: Web):
    requests.get(f"{web.url}/size-5000")
    text = requests.get(f"{web.url}/tftpd/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {sample.name: sample for family in families.values() for sample in family.samples}
    assert families["tftpd_bytes"].type == "counter" and values["tftpd_bytes_total"].value >= 5000
    assert families["tftpd_heap_free_bytes"].type == "gauge" and values["tftpd_heap_free_bytes"].value > 10_000
    assert values["tftpd_volume_size_bytes"].labels == {"root": "/files"}
    assert values["tftpd_info"].labels["version"] == "0.1.0" and values["tftpd_uptime_seconds"].value > 0
    counters = requests.get(f"{web.url}/tftpd/status.json").json()["counters"]
    for name, number in counters.items():
        assert values[f"tftpd_{name}_total"].value == number
