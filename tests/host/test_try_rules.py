"""`python -m tools try-rules`: its output, and that it says what the everyday board does."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import settings
from hypothesis import strategies as st

from board import ROOT, Board
from client import TftpError, Wire, ack
from command import complain
from tools import try_rules

SOAK = bool(os.environ.get("SOAK"))
RULES = [
    {"name": "*.sbn", "op": "read", "from": ["10.0.0.0/8", "192.168.1.1"], "give": "phones/{file}"},
    {"name": "pxelinux.cfg/*", "give": ["pxe/{*}", "pxe/{hexip}", "pxe/default"]},
    {"name": "*.log", "op": "write", "give": "logs/{ip}.log"},
    {"name": "private/*", "give": "deny", "text": "go away"},
]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A settings file, and a folder with files."""
    chosen = {"rules": RULES, "write_from": ["192.168.1.0/24"], "read_from": ["192.168.0.0/16"]}
    (tmp_path / "settings.json").write_text(json.dumps(chosen))
    for name in ("pxe/default", "phones/A.sbn", "private/x", "logs/readme", "plain"):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_text(name)
    return tmp_path


def tried(
    lab: Path, name: str | bytes, *arguments: str, files: bool = True, host: str = "192.168.1.50"
) -> tuple[int, str]:
    """The exit status and the output."""
    folder = ["--files", str(lab / "files")] if files else []
    command: list[str | bytes] = [sys.executable, "-m", "tools", "try-rules", name, "--from", host, *folder]
    result = subprocess.run(
        [*command, "--settings", str(lab / "settings.json"), *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr == "", result.stderr
    return result.returncode, result.stdout


def test_each_step_is_shown(lab: Path):
    assert tried(lab, "/pxelinux.cfg/01-aa") == (
        0,
        "read    /pxelinux.cfg/01-aa from 192.168.1.50\n"
        "name    pxelinux.cfg/01-aa\n"
        "rule 1  *.sbn op read from 10.0.0.0/8, 192.168.1.1: another name\n"
        "rule 2  pxelinux.cfg/*: gives pxe/{*}, pxe/{hexip}, pxe/default\n"
        "try     pxe/01-aa: refused, file not found\n"
        "try     pxe/C0A80132: refused, file not found\n"
        "try     pxe/default: /files/pxe/default, 11 bytes\n"
        "result  /files/pxe/default, 11 bytes\n",
    )


@pytest.mark.parametrize(
    ("name", "arguments", "lines"),
    [
        (
            "x\\a.SBN",
            (),
            ["name    x/a.SBN", "rule 1  *.sbn op read from 10.0.0.0/8, 192.168.1.1: not for 192.168.1.50"],
        ),
        ("a.sbn", (), ["rules   none for this request: the name stays", "result  refused, file not found"]),
        ("plain", (), ["rule 3  *.log op write: not for read", "result  /files/plain, 5 bytes"]),
        ("PRIVATE/y", (), ["rule 4  private/*: gives deny", "result  refused, go away"]),
        ("../x", (), ["result  refused, '..' is not allowed"]),
        ("a.log", ("--op", "write"), ["try     logs/192.168.1.50.log: /files/logs/192.168.1.50.log"]),
        ("b.sbn", ("--op", "write"), ["rule 1  *.sbn op read from 10.0.0.0/8, 192.168.1.1: not for write"]),
        ("plain", ("--op", "write"), ["result  refused, file exists"]),
        ("plain", ("--set", "rules=null"), ["rules   none are set", "result  /files/plain, 5 bytes"]),
        ("a\nb", (), ["read    a\\nb from 192.168.1.50", "result  refused, file not found"]),
        (b"a\xff", (), ["name    a"]),
    ],
)
def test_steps_and_results(lab: Path, name: str | bytes, arguments: tuple[str, ...], lines: list[str]):
    status, said = tried(lab, name, *arguments)
    assert set(lines) <= set(said.splitlines()), said
    assert status == ("\nresult  refused, " in said)


def test_other_settings_count_too(lab: Path):
    for host, op, text in (
        ("10.1.1.1", "read", "this server is not for you"),
        ("192.168.2.1", "write", "this server takes no uploads from you"),
    ):
        status, said = tried(lab, "plain", "--op", op, host=host)
        assert status == 1 and said.endswith(f"result  refused, {text}\n")


def test_without_files_the_names_are_the_result(lab: Path):
    assert tried(lab, "pxelinux.cfg/x", files=False)[1].endswith("result  pxe/x or pxe/C0A80132 or pxe/default\n")
    assert tried(lab, "x.log", "--op", "write", files=False)[1].endswith("result  logs/192.168.1.50.log\n")
    assert tried(lab, "other", files=False) == (0, tried(lab, "other", files=False)[1])
    assert tried(lab, "private/x", files=False)[1].endswith("result  refused, go away\n")


def test_bad_input_gets_one_line(lab: Path):
    ask = ("try-rules", "x", "--from", "10.0.0.1")
    assert "from: expected an IPv4 address" in complain("try-rules", "x", "--from", "10.0.0")
    assert "--from" in complain("try-rules", "x")
    assert "can't read" in complain(*ask, "--settings", lab / "none.json")
    assert "is not a folder" in complain(*ask, "--files", lab / "none")
    bad = json.dumps([RULES[0], {"name": "x", "give": "{nope}"}])
    assert "rules: number 2: give: no {nope} here" in complain(*ask, "--set", f"rules={bad}")
    (lab / "settings.json").write_text(f'{{"rules": {bad}}}')
    said = complain(*ask, "--settings", lab / "settings.json")
    assert said.endswith("settings.json: rules: number 2: give: no {nope} here")


# -- the same as the board ---------------------------------------------------------------------------------------------

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.9"]
FILES = ["a", "a.cfg", "x/a", "x/b.cfg", "x/y/c", "127.0.0.2/a", "127.0.0.2/own", "7F000009/b.cfg", "Upper/Case.CFG"]
PATTERN = st.lists(
    st.sampled_from(["*", "*", "*", "?", "a", "x/", "b", ".cfg", "[a-c]", "[!x]", "127.0.0.2/"]), min_size=1, max_size=4
)
GIVE = st.lists(
    st.sampled_from(["{name}", "{file}", "{*}", "{ip}/", "{hexip}/", "x/", "a", "b.cfg", "upper/", ".", "y/c"]),
    min_size=1,
    max_size=3,
).map("".join)
RULE = st.fixed_dictionaries(
    {"name": PATTERN.map("".join), "give": GIVE | st.lists(GIVE, min_size=1, max_size=3) | st.just("deny")},
    optional={
        "from": st.sampled_from(["127.0.0.2", "127.0.0.0/29", ["127.0.0.9", "10.0.0.0/8"]]),
        "op": st.sampled_from(["read", "write", "both"]),
    },
)
NAME = st.sampled_from([*FILES, "", "/", "x", "own", "..", "x/../a", ".hidden", "new", "x/new"]) | st.lists(
    st.sampled_from(["a", "x/", "X/", "b", ".cfg", ".CFG", "\\", "/", "127.0.0.2/", "{ip}", "y/", "c"]),
    min_size=1,
    max_size=5,
).map("".join)
QUESTION = st.tuples(NAME, st.sampled_from(HOSTS), st.sampled_from(["read", "read", "write"]))


def of_board(board: Board, name: str, host: str, op: str) -> str:
    """What the board says to a request: the path that it gives (the content of the files) or the text of its ERROR."""
    with Wire(board.address) as wire:
        wire.socket.close()
        wire.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wire.socket.bind((host, 0))
        wire.socket.settimeout(5)
        seen = len(board.console)
        packet = wire.ask(name, opcode=2 if op == "write" else 1)
        if packet[:2] == b"\0\5":
            return "refused, " + TftpError(packet).text
        if op == "read":
            wire.send(ack(1))
            return "/files/" + packet[4:].decode()
        wire.send(b"\0\3\0\1" + b"new")
        assert wire.receive() == ack(1)
    line = board.wait_for("WRQ", after=seen)
    match = re.search(r'WRQ (?:"(?:[^"\\]|\\.)*" -> )?"([^"]*)" octet', line)
    assert match, line
    return "/files" + match[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("files")
    for name in FILES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    return top


@pytest.mark.timeout(3600 if SOAK else 300)
@hypothesis.settings(
    max_examples=300 if SOAK else 12,
    derandomize=not SOAK,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],  # a start takes a second: too slow to shrink an example
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)
@hypothesis.given(
    rules=st.lists(RULE, min_size=4, max_size=9),
    folders=st.sampled_from([False, True, "only"]),
    questions=st.lists(QUESTION, min_size=40, max_size=40),
)
def test_try_rules_says_what_the_board_does(folder: Path, rules: list[dict[str, Any]], folders, questions):
    good = [rule for rule in rules if not settings.update({}, {"rules": [rule]})]
    chosen = {"rules": good, "client_folders": folders, "write_from": ["127.0.0.0/30"], "overwrite": True}
    questions.sort(key=lambda question: question[2])  # first the reads: the answers are for the files of the start
    answers = try_rules.answers(chosen, folder, [(name.encode(), host, op) for name, host, op in questions])
    pairs = [word for name, value in chosen.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    with Board(*pairs, "--flash-size", "2M", files=folder) as board:
        for (name, host, op), told in zip(questions, answers, strict=True):
            result = told["result"]
            wanted = f"refused, {result}" if isinstance(result, str) else result[0]
            got = of_board(board, name, host, op)
            if op == "write":  # an earlier upload may have made the file, in another case
                got, wanted = got.lower(), wanted.lower()
            assert got == wanted, (chosen, name, host, op, told, board.console[-3:])
        assert board.stop() == 0
