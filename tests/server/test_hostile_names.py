"""Hostile names, for reading and for writing: none escapes the served tree, none shows or makes a file outside it."""

import itertools
from pathlib import Path

import pytest

from board import Board
from client import TftpError, Wire, fetch, request
from tools import boards, filesystem

# The files on the board's flash that are not served, and the name of an upload in progress.
OWN = [
    "boot.py",
    "main.py",
    "settings.json",
    "board.json",
    "crash.log",
    "safe",
    "lib/settings.mpy",
    "lib/tftpd/server.mpy",
]
OWN += [".uploads/00000001", ".uploads"]
UP = ["..", "../..", "..\\", "..\\..", "./..", ".//..//", "...", "..../", ".. ", " ..", "..;", "..\x00", "..\r", "..\t"]
DOTS = [
    "%2e%2e",
    "%252e%252e",
    "%c0%ae%c0%ae",
    "..%2f",
    "..%5c",
    "..%00",
    "%2e.",
    "&#46;&#46;",
    "\\x2e\\x2e",
    "\\u002e\\u002e",
]
LOOK_ALIKES = [
    "\u2024\u2024",
    "\uff0e\uff0e",
    "\u2025",
    "\u2026",
    "\u00b7\u00b7",
    "\ufe52\ufe52",
    "\u3002\u3002",
    "\u202e..",
    "\ufeff..",
]
SLASHES = ["/", "\\", "//", "\\\\", "/./", "\\.\\", "\u2215", "\uff0f", "\u2044", "\u29f8", "%2f", "%5c", "\uff3c"]
ROOTS = [
    "/",
    "//",
    "\\",
    "\\\\",
    "///",
    "C:\\",
    "c:/",
    "C:",
    "\\\\server\\share\\",
    "\\\\?\\C:\\",
    "file:///",
    "tftp://host/",
    "~/",
    "~root/",
]
ROOTS += [
    "/files/../",
    "/files/../../",
    "files/../",
    "folder/../../",
    "folder/deep/../../../",
    "hello.txt/../",
    "/proc/self/cwd/",
    "$HOME/",
    "|",
    "`",
    "$(pwd)/",
]
BYTES = [
    b"\xc0\xae\xc0\xae/boot.py",  # over-long UTF-8
    b"\xc0\xae\xc0\xae\xc0\xafboot.py",
    b"..\xc0\xafboot.py",
    b"\xe0\x80\xae\xe0\x80\xae/boot.py",
    b"\xf0\x80\x80\xae\xf0\x80\x80\xae/boot.py",
    b"..\xc1\x9cboot.py",
    b"\xff\xfeboot.py",
    b"\xed\xa0\xae\xed\xb0\xae/boot.py",  # surrogates
    b"\xed\xb0\x80",
    b"\xf8\x88\x80\x80\xaf",
    b"\x80..\x80/boot.py",
    b"..\xff/boot.py",
    b"boot.py\xc0\x80",
    b"\x1b[2J\x1b[Hboot.py",  # control sequences for the terminal of whoever reads the journal
    b"boot.py\n9.999 ready on 1.2.3.4:69",
    b"\x7f\x7f\x7f",
    b"\xc2\x9b2Jboot.py",  # the same sequences with C1 control characters
    b"%s%s%s%n",
    b"%d%99999d",
    b"\x01files\x01hello.txt",
    b".uploads/00000001\x01files\x01hello.txt",
    b"a" * 256,
    b"a" * 400,
    b"/" * 400,
    b"\\" * 400,
    b"../" * 130 + b"boot.py",
    b"a/" * 200,
    b"./" * 200 + b"..",
    ("\u00fc" * 128).encode(),
    ("\U0001f600" * 64).encode(),
    b" ",
    b".",
    b"./",
    b"~",
    b"-rf",
    b"CON",
    b"hello.txt:$DATA",
    b"hello.txt::$INDEX_ALLOCATION",
    b"hello.txt/",
    b"hello.txt/.",
    b"hello.txt\\..",
]


def hostile() -> list[bytes]:
    names = [f"{up}{slash}{own}" for up in UP for slash in SLASHES[:3] for own in OWN[:3]]
    names += [f"{dots}{slash}{OWN[0]}" for dots in DOTS + LOOK_ALIKES for slash in SLASHES]
    names += [f"{root}{own}" for root, own in itertools.product(ROOTS, OWN)]
    names += [f"..{slash}boot.py" for slash in SLASHES] + OWN + [f"/.{name}" for name in OWN] + UP
    return sorted({name.encode() for name in names} | set(BYTES))


NAMES = hostile()
# Some of them are, under the name rules, names of a served file.
HARMLESS = {b"hello.txt/", b"hello.txt/."}


def test_the_list_has_hundreds_of_names():
    assert len(NAMES) >= 600


def test_no_hostile_name_reads_a_file_outside(board: Board):
    wrong = []
    # A genuine board gets a part of them: each costs 20 ms.
    for name in NAMES if board.name == "unix" else [*NAMES[::20], *BYTES]:
        try:
            data = fetch(board.address, name)
        except TftpError as error:
            if (
                error.code not in (1, 2) and b"\0" not in name
            ):  # the text after a NUL is read as the mode, which is invalid
                wrong.append((name, str(error)))
        else:
            if name not in HARMLESS:
                wrong.append((name, data[:40]))
    assert not wrong
    if board.console:  # control characters are escaped, and no name makes a line of its own
        board.wait_for("ready on")
        assert not any("\x1b" in line or line.startswith("9.999 ready") for line in board.console)


@pytest.mark.everyday_only("its flash is looked into")
def test_no_hostile_name_writes_a_file_outside(start, tmp_path: Path):
    flash = tmp_path / "flash"
    with start("--writable", "--set", "overwrite=true", "--set", "log=debug", "--save", str(flash)) as board:
        with Wire(board.address) as wire:
            for name in NAMES:
                wire.tid = board.address
                wire.send(request(name, opcode=2))
                answer = wire.receive()
                if answer == b"\0\4\0\0":
                    wire.send(b"\0\3\0\1hostile")
                    assert wire.receive() == b"\0\4\0\1"
                else:
                    assert answer[:2] == b"\0\5" and (answer[3] in (1, 2) or b"\0" in name), (name, answer)
        assert not any("Traceback" in line or "\x1b" in line for line in board.console)
    layout = boards.load("unix")["filesystem"]
    files = filesystem.contents(layout, flash.read_bytes())
    assert files
    own = filesystem.board_files({}, {})
    for path, data in files.items():
        if path in own and not path.endswith(".json"):
            assert data == own[path], path
        assert data != b"hostile" or path.startswith("/files/"), path
    outside = {path for path in files if not path.startswith("/files/")}
    assert outside == set(own)
    written = [path for path, data in files.items() if data == b"hostile"]
    assert written  # a name that is merely unusual ("%2e%2e", "CON") is allowed
    assert not any(part.startswith(".") for path in written for part in path[1:].split("/")), written
