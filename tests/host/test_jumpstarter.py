"""The engine Jumpstarter: the driver for a board (tools/labs/jumpstarter.py), and the examples for it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

if sys.version_info < (3, 11):
    pytest.skip("Jumpstarter needs Python 3.11", allow_module_level=True)
from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve

from board import Board
from client import TftpError, fetch
from engines import BOARD, board_with_http, kernel, lab
from tools.labs.jumpstarter import TftpBoard
from web import free_port

DATA = b"kernel" * 5000
HTTP = "jumpstarter_driver_http.driver.HttpServer"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Board, int]]:
    """A board and its http_port."""
    with board_with_http(tmp_path_factory.mktemp("served")) as (board, http_port):
        yield board, http_port


@contextmanager
def client(**settings: Any) -> Iterator[Any]:
    """Jumpstarter's client of such a board."""
    driver = TftpBoard(prefix="lab", **settings)  # pyright: ignore[reportAbstractUsage]
    with serve(driver) as connected:
        yield connected


@pytest.fixture
def tftp(board: tuple[Board, int]) -> Iterator[Any]:
    with client(host="127.0.0.1", port=board[0].address[1], http_port=board[1]) as connected:
        yield connected


def gone(board: tuple[Board, int], name: str) -> bool:
    with pytest.raises(TftpError, match="not found"):
        fetch(board[0].address, name)
    return True


def test_it_has_what_a_client_of_jumpstarters_own_tftp_server_uses(tftp: Any, board: tuple[Board, int]):
    tftp.start()
    assert (tftp.get_host(), tftp.get_port()) == board[0].address
    tftp.storage.write_bytes("Image", DATA)
    assert fetch(board[0].address, "lab/Image") == DATA
    assert tftp.storage.exists("Image") and tftp.storage.read_bytes("Image") == DATA
    tftp.stop()
    assert fetch(board[0].address, "lab/Image") == DATA


def test_what_changes_in_the_storage_changes_on_the_board(tftp: Any, board: tuple[Board, int], tmp_path: Path):
    (tmp_path / "Image").write_bytes(DATA)
    tftp.storage.write_from_path("first", tmp_path / "Image")
    tftp.storage.copy("first", "second")
    tftp.storage.rename("first", "third")
    assert gone(board, "lab/first")
    assert [fetch(board[0].address, f"lab/{name}") for name in ("second", "third")] == [DATA, DATA]
    tftp.storage.delete("second")
    assert gone(board, "lab/second")
    tftp.storage.remove_all("/")
    assert gone(board, "lab/third")


@pytest.mark.parametrize("removed", [True, False])
def test_the_end_of_a_lease_removes_what_was_stored_unless_it_is_to_stay(board: tuple[Board, int], removed: bool):
    address = board[0].address
    with client(host="127.0.0.1", port=address[1], http_port=board[1], remove_created_on_close=removed) as connected:
        connected.storage.write_bytes("lease", DATA)
    assert gone(board, "lab/lease") if removed else fetch(address, "lab/lease") == DATA


def test_without_http_files_go_over_tftp_and_stay(board: tuple[Board, int]):
    with client(host="127.0.0.1", port=board[0].address[1]) as connected:
        connected.storage.write_bytes("stays", DATA)
        with pytest.raises(DriverError, match="lab/stays is not removed: TFTP can't remove a file: set http_port"):
            connected.storage.delete("stays")
    assert fetch(board[0].address, "lab/stays") == DATA


def test_what_the_board_refuses_fails_the_call_with_one_line(tftp: Any):
    with pytest.raises(DriverError, match=r": lab/big: no room on the board \(507, .*\)$"):
        tftp.storage.write_bytes("big", bytes(9_000_000))
    tftp.storage.delete("big")
    with pytest.raises(DriverError, match=r": lab/folder/Image: no such file \(404, no such folder\)$"):
        tftp.storage.write_bytes("folder/Image", DATA)


def test_a_client_can_not_have_a_file_of_the_exporters_computer(tftp: Any):
    with pytest.raises(DriverError, match="copy_exporter_file"):
        tftp.storage.call("copy_exporter_file", "/etc/hostname", "stolen")


def test_a_board_that_does_not_answer_is_one_line():
    with (
        client(host="127.0.0.1", http_port=free_port()) as connected,
        pytest.raises(DriverError, match=r": http://127.0.0.1:\d+: Connection refused$"),
    ):
        connected.start()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "host '', port 69, http_port 0"),
        ({"host": "192.168.1.5:69"}, "host '192.168.1.5:69', port 69, http_port 0"),
        ({"host": BOARD, "port": 0}, f"host '{BOARD}', port 0, http_port 0"),
        ({"host": BOARD, "http_port": "eighty"}, f"host '{BOARD}', port 69, http_port 'eighty'"),
        ({"host": BOARD, "password": "secret"}, "a password needs http_port"),
    ],
)
def test_a_wrong_configuration_is_one_line(settings: dict[str, Any], complaint: str):
    with pytest.raises(ConfigurationError) as raised:
        TftpBoard(**settings)  # pyright: ignore[reportAbstractUsage]
    assert complaint in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith("TftpBoard: ")


def test_the_example_boots_a_kernel_from_the_board(tmp_path: Path):
    with lab(tmp_path) as bench:
        assert "the kernel starts" in bench.run(*bench.shown("jmp"))
        for line in ('PUT "/lab/Image": done', 'RRQ "/lab/Image" octet', 'DELETE "/lab/Image": done'):
            bench.board.wait_for(line)


FLASHER = """
import pathlib, jumpstarter_driver_flashers.driver as flashers

class LocalFlasher(flashers.BaseFlasher):
    def _download_to_cache(self):  # Jumpstarter's are in a registry
        return pathlib.Path(__file__).parent
"""
MANIFEST = """
metadata: {name: test}
spec:
  manufacturer: test
  link: https://example.org
  bootcmd: booti $kernel_addr_r - $fdtcontroladdr
  login: {login_prompt: "", prompt: "busybox:"}
  default_target: none
  targets: {}
  kernel: {file: Image, address: $kernel_addr_r}
"""
FLASH = """
from jumpstarter.utils.env import env

with env() as client, client.storage.busybox_shell():
    print("the kernel has a prompt")
"""


def test_an_exporter_process_lets_jumpstarters_flasher_boot_a_kernel_from_the_board(tmp_path: Path):
    with lab(tmp_path, "--set", 'write_to=["/"]') as bench:
        flasher, config, packages = bench.example("  storage:"), bench.folder / "bench.yaml", bench.folder / "packages"
        flasher = flasher.replace("jumpstarter_driver_flashers.driver.TIJ784S4Flasher", "flasher.LocalFlasher")
        flasher += f"      http:\n        type: {HTTP}\n        config:\n          root_dir: {tmp_path / 'http'}\n"
        config.write_text(config.read_text().replace("      prefix: lab\n", "") + flasher)
        (packages / "flasher.py").write_text(FLASHER)
        (packages / "manifest.yaml").write_text(MANIFEST)
        (packages / "Image").write_bytes(kernel(b"busybox: "))
        (bench.folder / "flash.py").write_text(FLASH)
        listener = "--tls-grpc-listener 127.0.0.1:1234 --tls-grpc-insecure"
        with bench.started(f"jmp run --exporter-config bench.yaml {listener}", "127.0.0.1:1234"):
            shell = "jmp shell --tls-grpc 127.0.0.1:1234 --tls-grpc-insecure"
            assert "the kernel has a prompt" in bench.run(f"{shell} -- python flash.py")
            bench.board.wait_for('RRQ "/Image" octet')
        bench.board.wait_for('DELETE "/Image": done')
