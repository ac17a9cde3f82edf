"""The engine labgrid: resource, driver and exporter for a board (tools/labs/labgrid.py), and the examples for it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from labgrid import Target
from labgrid.driver.exception import ExecutionError
from labgrid.exceptions import InvalidConfigError
from labgrid.factory import target_factory
from labgrid.util.proxy import sshmanager

from board import ROOT, Board
from client import TftpError, fetch
from command import until
from engines import BOARD, Lab, board_with_http, lab
from tools.labs.labgrid import TFTPBoardDriver
from web import free_port


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Board, int]]:
    """A board and its http_port."""
    with board_with_http(tmp_path_factory.mktemp("served")) as (board, http_port):
        yield board, http_port


@contextmanager
def driver(**settings: Any) -> Iterator[Any]:
    """The active driver of a target with such a TFTPBoard."""
    target = Target("main")  # pyright: ignore[reportCallIssue]
    target_factory.make_resource(target, "TFTPBoard", None, {"external": "lab", **settings})
    target_factory.make_driver(target, "TFTPBoardDriver", None, {})
    active = target.get_driver("TFTPProviderDriver")  # as it is asked for by whom does not know ours
    assert isinstance(active, TFTPBoardDriver)
    yield active
    target.deactivate_all_drivers()


@pytest.fixture
def staging(board: tuple[Board, int]) -> Iterator[Any]:
    with driver(host="127.0.0.1", port=board[0].address[1], http_port=board[1]) as active:
        yield active


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "Image"
    path.write_bytes(b"kernel" * 5000)
    return path


def test_a_staged_file_is_on_the_board_until_the_driver_is_deactivated(board: tuple[Board, int], image: Path):
    address = board[0].address
    with driver(host="127.0.0.1", port=address[1], http_port=board[1]) as active:
        assert active.stage(str(image)) == "lab/Image"
        assert fetch(address, "lab/Image") == image.read_bytes()
    with pytest.raises(TftpError, match="not found"):
        fetch(address, "lab/Image")


def test_only_what_the_board_lacks_is_sent(board: tuple[Board, int], staging: Any, image: Path):
    console = board[0].console
    before = len(console)
    staging.stage(str(image))
    staging.stage(str(image))
    image.write_bytes(b"another kernel")
    staging.stage(str(image))
    until(lambda: sum("PUT" in line for line in console[before:]) == 2)
    assert fetch(board[0].address, "lab/Image") == b"another kernel"


def test_without_http_files_go_over_tftp_and_stay(
    board: tuple[Board, int], image: Path, caplog: pytest.LogCaptureFixture
):
    path = image.rename(image.with_name("stays"))
    with driver(host="127.0.0.1", port=board[0].address[1]) as active:
        assert active.stage(str(path)) == "lab/stays"
    assert fetch(board[0].address, "lab/stays") == path.read_bytes()
    assert caplog.messages == [
        "lab/stays is not removed: TFTP can't remove a file: set http_port on the board, and use http://127.0.0.1"
    ]


def test_an_export_for_other_programs_leaves_what_is_staged(staging: Any, board: tuple[Board, int], image: Path):
    staging.stage(str(image))
    port = str(board[0].address[1])
    exported = {"LG__TFTPBOARDDRIVER_HOST": "127.0.0.1", "LG__TFTPBOARDDRIVER_PORT": port}
    assert staging.target.export() == {**exported, "LG__TFTPBOARDDRIVER_EXTERNAL": "lab"}
    assert fetch(board[0].address, "lab/Image") == image.read_bytes()


def test_a_damaged_file_is_noticed(staging: Any, image: Path, monkeypatch: pytest.MonkeyPatch):
    write = staging._stage.board.write

    def damaged(name: str, file: Any, told: Any) -> None:
        with image.with_name("damaged").open("w+b") as other:
            other.write(file.read()[:-1] + b"?")
            other.seek(0)
            write(name, other, told)

    monkeypatch.setattr(staging._stage.board, "write", damaged)
    with pytest.raises(ExecutionError, match=r"^lab/Image was stored, but http://127.0.0.1:\d+ lists another content"):
        staging.stage(str(image))


def test_what_can_not_be_staged_is_one_line(staging: Any, image: Path, tmp_path: Path):
    with pytest.raises(ExecutionError, match=r"^can't read \S+/missing: No such file or directory$"):
        staging.stage(str(tmp_path / "missing"))
    image.write_bytes(bytes(9_000_000))
    with pytest.raises(ExecutionError, match=r"^lab/Image: no room on the board \(507, "):
        staging.stage(str(image))
    staging.provider.external = "nowhere"
    image.write_bytes(b"")
    with pytest.raises(ExecutionError, match=r"^nowhere/Image: no such file \(404, no such folder\)$"):
        staging.stage(str(image))


def test_a_board_that_does_not_answer_is_one_line(image: Path):
    with (
        driver(host="127.0.0.1", http_port=free_port()) as active,
        pytest.raises(ExecutionError, match=r"^http://127.0.0.1:\d+: Connection refused$"),
    ):
        active.stage(str(image))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "host '', port 69, http_port 0"),
        ({"host": "192.168.1.5:69"}, "host '192.168.1.5:69', port 69, http_port 0"),
        ({"host": "tftp://192.168.1.5"}, "host 'tftp://192.168.1.5', port 69, http_port 0"),
        ({"host": BOARD, "port": "sixty-nine"}, f"host '{BOARD}', port 'sixty-nine', http_port 0"),
        ({"host": BOARD, "http_port": 65536}, f"host '{BOARD}', port 69, http_port 65536"),
        ({"host": BOARD, "password": "secret"}, "a password needs http_port"),
    ],
)
def test_a_wrong_environment_file_is_one_line(settings: dict[str, Any], complaint: str):
    with pytest.raises(InvalidConfigError) as raised:
        target_factory.make_resource(None, "TFTPBoard", None, settings)
    assert complaint in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith("TFTPBoard: ")


def test_a_wrong_exporter_file_is_one_line(tmp_path: Path):
    (tmp_path / "exporter.yaml").write_text("bench-1:\n  TFTPBoard:\n    host: 192.168.1.5:69\n")
    command = [sys.executable, "-m", "tools.labs.labgrid", "-c", "127.0.0.1:1", tmp_path / "exporter.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: TFTPBoard: not the address of a board: host '192.168.1.5:69', "), done
    assert done.stderr.count("\n") == 1


def test_files_for_the_board_of_an_isolated_exporter_go_through_its_ssh(
    board: tuple[Board, int], image: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def forward(*what: object) -> int:
        asked.append(what)
        return board[1]

    monkeypatch.setattr(sshmanager, "request_forward", forward)
    target = Target("main")  # pyright: ignore[reportCallIssue]
    resource = target_factory.make_resource(target, "TFTPBoard", None, {"host": "10.9.8.7", "http_port": 80})
    resource.extra = {"proxy_required": True, "proxy": "exporter"}
    target_factory.make_driver(target, "TFTPBoardDriver", None, {})
    resource.external = "lab"
    assert target.get_driver("TFTPBoardDriver").stage(str(image)) == "lab/Image"
    assert asked == [("exporter", "10.9.8.7", 80)]
    target.deactivate_all_drivers()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as running:
        yield running


def test_the_example_boots_a_kernel_from_the_board(bench: Lab):
    (command,) = bench.shown("pytest")
    assert "1 passed" in bench.run(command)
    for line in ('PUT "/lab/Image": done', 'RRQ "/lab/Image" octet', 'DELETE "/lab/Image": done'):
        bench.board.wait_for(line)


def test_the_example_of_a_coordinator_boots_a_kernel_from_its_board(bench: Lab):
    resources = bench.folder / "exporter.yaml"
    resources.write_text(resources.read_text() + "bench-2:\n  TFTPBoard:\n    host: 127.0.0.1\n    http_port: 1\n")
    environment = bench.folder / "env.yaml"
    board, place = (bench.example(f"      {name}:") for name in ("TFTPBoard", "RemotePlace"))
    assert board in environment.read_text()
    environment.write_text(environment.read_text().replace(board, place))
    (exporter,) = bench.shown("python")
    with bench.started("labgrid-coordinator", "Coordinator ready"), bench.started(exporter, "Exporter ready"):
        for command in bench.shown("labgrid-client"):
            bench.run(command)
        listed = bench.run("labgrid-client resources")
        assert "bench-1" in listed and "bench-2" not in listed, "who does not answer is not offered"
        assert "1 passed" in bench.run(*bench.shown("pytest"))
        bench.board.stop()
        until(lambda: "bench-1" not in bench.run("labgrid-client resources"), 20)
    bench.board.wait_for('RRQ "/lab/Image" octet')
