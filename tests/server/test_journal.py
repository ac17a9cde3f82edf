"""The journal: one line per transfer with client, file, size, speed and outcome; levels; counters."""

import re
import time

import pytest

from board import Board
from client import Wire, fetch, request

LINE = re.compile(
    r'(?P<uptime>\d+\.\d{3}) (?P<client>[\d.]+:\d+) RRQ "(?P<name>[^"]+)" (?P<mode>\S+) (?P<options>.*): '
    r"(?P<outcome>[^:]+), (?P<bytes>\d+) bytes in (?P<seconds>\d+\.\d{3}) s, (?P<rate>\d+) KB/s, (?P<resent>\d+) resent"
)
MORE = re.compile(r" 127\.0\.0\.1: (\d+) more refused or unanswered$")


def test_each_transfer_has_one_line(board: Board):
    seen = len(board.console)
    with Wire(board.address) as wire:
        wire.ask("/BOOT/bcd", ("blksize", 1024), ("timeout", 3), ("tsize", 0), ("nonsense", 1))
        wire.ack(0)
        wire.send(b"\0\4\0\1")
        client = board.seen_as(wire)
        match = LINE.fullmatch(board.wait_for(client, after=seen))
    assert match, board.console[seen:]
    line = match.groupdict()
    assert (line["client"], line["name"], line["mode"]) == (client, "/Boot/BCD", "octet")
    assert line["options"] == "blksize=1024 timeout=3 tsize=26"
    assert (line["outcome"], line["bytes"], line["resent"]) == ("done", "26", "0")


def test_the_figures_of_a_large_transfer_agree(board: Board):
    seen = len(board.console)
    fetch(board.address, "mebi.bin", ("blksize", 1468))
    match = LINE.fullmatch(board.wait_for("mebi.bin", after=seen))
    assert match and int(match["bytes"]) == 1 << 20
    rate = int(match["bytes"]) / float(match["seconds"]) / 1000
    assert abs(int(match["rate"]) - rate) <= 0.02 * rate + 1


def test_an_error_from_the_client_is_logged_with_its_code(board: Board):
    seen = len(board.console)
    with Wire(board.address) as wire:
        wire.ask("size-5000")
        wire.ack(1)
        wire.send(b"\0\5\0\3disk full\0")
        assert "ended by the client, ERROR 3, 512 bytes" in board.wait_for("size-5000", after=seen)


def test_a_refusal_is_one_line_and_can_not_forge_another(board: Board):
    time.sleep(1.1)  # the rate of such lines is limited
    seen = len(board.console)
    with Wire(board.address) as wire:
        wire.ask("no\n9.999 10.0.0.1:1 RRQ forged\x1b[2J")
    line = board.wait_for("refused", after=seen)
    assert "file not found" in line and "\\n9.999" in line and "\x1b" not in line


def refused_as(board: Board, datagram: bytes) -> str:
    seen = len(board.console)
    with Wire(board.address) as wire:
        wire.send(datagram)
        wire.receive()
        wire.tid = wire.server
        client = board.seen_as(wire)
    return board.wait_for(client, after=seen).partition(client + " ")[2]


def test_a_refused_request_is_logged_in_the_form_of_a_served_one(board: Board):
    time.sleep(1.1)
    asked = request("missing", ("blksize", 1432), ("tsize", 0))
    assert refused_as(board, asked) == 'RRQ "missing" octet blksize=1432 tsize=0: refused, file not found'
    assert refused_as(board, request("")) == 'RRQ "" octet: refused, is a folder, not a file'
    assert refused_as(board, request("new", opcode=2)).startswith('WRQ "new" octet: refused, this server takes')
    assert refused_as(board, b"\0\1x\0mail\0") == "b'\\x00\\x01x\\x00mail\\x00': refused, mode not supported, " + (
        "use octet or netascii"
    )
    long = refused_as(board, request("a" * 300))
    assert long == f'RRQ "{"a" * 128}"... octet: refused, file not found', "what is cut is marked so"


@pytest.mark.parametrize(
    "name, shown",
    [
        ('a" octet: done, 999 bytes', 'a\\" octet: done, 999 bytes'),
        ("back\\slash", "back\\\\slash"),
        ("Grüße Ελ Ж 文", "Grüße Ελ Ж 文"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("a\x85b\xa0c\xad", "a\\u0085b\\u00a0c\\u00ad"),
        ("a\tb\x1b[2J\x7f", "a\\tb\\x1b[2J\\x7f"),
        ("\U0001f600", "\\u1f600"),
    ],
)
def test_a_name_can_not_forge_a_line_nor_hide(board: Board, name: str, shown: str):
    time.sleep(1.1)
    assert refused_as(board, request(name)) == f'RRQ "{shown}" octet: refused, file not found'


def test_a_name_that_is_not_utf8_is_shown_as_bytes(board: Board):
    time.sleep(1.1)
    assert refused_as(board, request(b"a\xfe")) == "RRQ b'a\\xfe' octet: refused, name not UTF-8"


def test_many_refusals_are_counted_in_one_line_a_second(start):
    board = start()
    seen = len(board.console)
    started = time.monotonic()
    for _ in range(100):
        with Wire(board.address) as wire:
            wire.ask("missing")
            wire.tid = wire.server
    shown, more, end = 0, [0], time.monotonic() + 5
    while shown + sum(more) < 100 and time.monotonic() < end:
        time.sleep(0.1)
        lines = board.console[seen:]
        more = [int(match[1]) for line in lines if (match := MORE.search(line))]
        shown = sum("refused, file not found" in line for line in lines)
    seconds = time.monotonic() - started
    assert shown + sum(more) == 100, board.console[seen:]
    assert shown <= 8 + seconds and len(more) <= 1 + seconds, "8 at once, then one a second"


def test_a_client_that_acknowledged_the_oack_was_not_probing(board: Board):
    seen = len(board.console)
    with Wire(board.address) as wire:
        wire.ask("size-5000", ("tsize", 0))
        wire.ack(0)
        wire.send(b"\0\5\0\3Disk full\0")
        wire.tid = wire.server
        assert ": ended by the client, ERROR 3" in board.wait_for(board.seen_as(wire), after=seen)


def test_the_text_of_an_error_from_the_client_is_logged(start):
    with start("--set", "single_port=true") as board, Wire(board.address) as wire:
        wire.ask("size-5000")
        wire.send(b'\0\5\0\3Disk "full"\n\0 and more')
        assert ': ended by the client, ERROR 3 "Disk \\"full\\"\\n", 0 bytes' in board.wait_for("RRQ")


def test_a_client_that_receives_nothing_is_logged_at_its_third_request(board: Board):
    seen = len(board.console)
    with Wire(board.address) as wire:
        for _ in range(5):
            wire.socket.sendto(request("size-5000"), board.address)
            wire.receive()
        told = board.wait_for(board.seen_as(wire), after=seen)
        assert told.endswith('RRQ "/size-5000" octet: asked again, our answers seem to be lost')
        assert sum("asked again" in line for line in board.console[seen:]) == 1


def test_names_with_control_characters_are_not_served(start, tmp_path):
    (tmp_path / "a\nforged").write_bytes(b"x")
    (tmp_path / "hello.txt").write_bytes(b"x")
    board = start(files=tmp_path)
    with Wire(board.address) as wire:
        assert wire.ask("a\nforged")[:4] == b"\0\5\0\1"


def test_the_level_is_a_setting(start):
    board = start("--set", "log=error")
    fetch(board.address, "hello.txt")
    fetch(board.address, "size-5000")
    assert board.stop() == 0
    assert not any(" RRQ " in line for line in board.console)


def test_nothing_is_logged_per_block(board: Board):
    seen = board.lines_when_silent()
    fetch(board.address, "mebi.bin")
    board.wait_for("mebi.bin", after=seen)
    assert len(board.console) - seen <= 2
