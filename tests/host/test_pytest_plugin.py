"""The plugin of pytest: a TFTP server for other projects' tests (tools/labs/pytest_plugin.py)."""

import socket

import pytest

from board import ROOT, Board
from client import fetch
from command import until
from tools.labs.pytest_plugin import Start

pytest_plugins = ["pytester"]


def test_a_board_serves_what_the_test_gives_it(tftp_board: Start):
    board = tftp_board({"u-boot.bin": b"boot" * 1000, "folder/second": b"2"}, windowsize=1, single_port=True)
    assert fetch(board.address, "u-boot.bin", ("windowsize", 8)) == b"boot" * 1000
    assert fetch(board.address, "folder/second") == b"2"
    assert board.url == f"tftp://127.0.0.1:{board.address[1]}/"
    journal = board.journal
    until(lambda: journal and '"/u-boot.bin" octet windowsize=1: done' in journal.read_text())


def test_each_call_starts_another_board(tftp_board: Start):
    first, second = tftp_board({"name": b"first"}), tftp_board({"name": b"second"})
    assert [fetch(board.address, "name") for board in (first, second)] == [b"first", b"second"]


INNER = """
import subprocess

def test_it_boots(tftp_board, tmp_path):
    board = tftp_board({"hello.txt": b"hello"})
    print("address", *board.address)
    subprocess.run(["curl", "-sS", "-o", tmp_path / "got", board.url + "hello.txt"], check=True)
    assert (tmp_path / "got").read_bytes() == b"hello"
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The tests of another project that uses the plugin."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # takes seconds
    pytester.makepyfile(INNER)
    return pytester


def run(inner: pytest.Pytester, *options: str) -> pytest.RunResult:
    return inner.runpytest_subprocess("-s", "-p", "tools.labs.pytest_plugin", *options)


def test_another_project_gets_a_board_that_ends_with_its_test(inner: pytest.Pytester):
    result = run(inner)
    result.assert_outcomes(passed=1)
    (line,) = [line for line in result.outlines if "address " in line]
    host, port = line.split("address ")[1].split()[:2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, int(port)))


def test_a_board_that_can_not_start_is_one_line(inner: pytest.Pytester):
    result = run(inner, "--tftp-board", "nope")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tftp_board: no board is called 'nope'; there are: unix, *"])
    assert "Traceback" not in result.stdout.str()


def test_a_real_board_is_given_the_files(inner: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory):
    empty = tmp_path_factory.mktemp("empty")
    with Board("--writable", "--set", "overwrite=true", files=empty) as real:
        address = f"{real.address[0]}:{real.address[1]}"
        run(inner, "--tftp-board-address", address).assert_outcomes(passed=1)
        assert fetch(real.address, "hello.txt") == b"hello"
        assert sum("WRQ" in line for line in real.console) == 1
        run(inner, "--tftp-board-address", address).assert_outcomes(passed=1)
        assert sum("WRQ" in line for line in real.console) == 1, "what is there is not sent again"


def test_a_real_board_that_takes_no_uploads_is_one_line(
    inner: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
):
    with Board(files=tmp_path_factory.mktemp("empty")) as real:
        result = run(inner, "--tftp-board-address", f"{real.address[0]}:{real.address[1]}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tftp_board: hello.txt: *(ERROR 2)*"])
