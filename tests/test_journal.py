"""The journal: one line a transfer that says who, what, how much, how fast and why it ended; levels; counters."""

import re

from board import Board, Wire, fetch

LINE = re.compile(
    r'(?P<uptime>\d+\.\d{3}) (?P<client>[\d.]+:\d+) RRQ "(?P<name>[^"]+)" (?P<mode>\S+) (?P<options>.*): '
    r"(?P<outcome>[^:]+), (?P<bytes>\d+) bytes in (?P<seconds>\d+\.\d{3}) s, (?P<rate>\d+) KB/s, (?P<resent>\d+) resent"
)


def test_one_line_for_a_transfer(board: Board):
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


def test_the_figures_of_a_large_transfer_fit_together(board: Board):
    seen = len(board.console)
    fetch(board.address, "mebi.bin", ("blksize", 1468))
    match = LINE.fullmatch(board.wait_for("mebi.bin", after=seen))
    assert match and int(match["bytes"]) == 1 << 20
    rate = int(match["bytes"]) / float(match["seconds"]) / 1000
    assert abs(int(match["rate"]) - rate) <= 0.02 * rate + 1


def test_a_client_that_ends_with_an_error_is_told_with_its_code(board: Board):
    seen = len(board.console)
    with Wire(board.address) as wire:
        wire.ask("size-5000")
        wire.ack(1)
        wire.send(b"\0\5\0\3disk full\0")
        assert "ended by the client, ERROR 3, 512 bytes" in board.wait_for("size-5000", after=seen)


def test_a_refusal_is_one_line_and_cannot_forge_another(board: Board):
    seen = len(board.console)
    with Wire(board.address) as wire:
        wire.ask("no\n9.999 10.0.0.1:1 RRQ forged\x1b[2J")
    line = board.wait_for("refused", after=seen)
    assert "file not found" in line and "\\n9.999" in line and "\x1b" not in line


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
