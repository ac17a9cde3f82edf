"""The board pushes a file: to tftpd-hpa, atftpd and a second board, through loss; to a device that goes off and on."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from board import Board
from receivers import Serve, atftpd, hpa
from served import content
from tools.relay import Relay

IMAGE = content(100_000)
ACK0 = b"\0\4\0\0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    served.mkdir()
    (served / "netgear.img").write_bytes(IMAGE)
    (served / "whole.img").write_bytes(IMAGE[: 512 * 20])
    return served


@contextmanager
def pushing(folder: Path, port: int, file: str = "netgear.img", **more: str) -> Iterator[Board]:
    push = {"file": file, "to": f"127.0.0.1:{port}", **more}
    with Board("--set", "push=" + json.dumps(push), "--set", "log=debug", files=folder) as board:
        yield board
        assert board.stop() == 0


def arrives(path: Path, data: bytes, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not path.exists() or path.read_bytes() != data:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("serve", [hpa, atftpd])
@pytest.mark.parametrize("loss", [0, 0.05])
def test_servers_of_others_get_the_file(folder: Path, tmp_path: Path, serve: Serve, loss: float):
    target = tmp_path / "target"
    target.mkdir(mode=0o777)
    with serve(target) as port, Relay(port, loss=loss, seed=4) as relay, pushing(folder, relay.port) as board:
        line = board.wait_for("push", 30)
        assert 'push "netgear.img": done, 100000 bytes' in line
        assert arrives(target / "netgear.img", IMAGE)
        assert (relay.lost > 0) == (loss > 0) == (", 0 resent" not in line)


def test_this_server_gets_the_file_under_another_name(folder: Path):
    with (
        Board("--writable", files=folder) as second,
        Relay(second.address[1], loss=0.05, seed=2) as relay,
        pushing(folder, relay.port, "whole.img", name="new.img") as board,
    ):
        assert 'push "whole.img": done, 10240 bytes' in board.wait_for("push", 30)
        assert "done, 10240 bytes" in second.wait_for('WRQ "/new.img"')


class Device:
    """A router that takes a file when it is on."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def asked(self, seconds: float = 3) -> tuple[bytes, tuple[str, int]]:
        """The next question."""
        self.socket.settimeout(seconds)
        return self.socket.recvfrom(2048)

    def take(self, board: tuple[str, int]) -> bytes:
        """Take the file that was offered from there."""
        got = b""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(3)
            one.sendto(ACK0, board)
            number = 0
            while True:
                packet, sender = one.recvfrom(2048)
                assert sender == board and packet[:2] == b"\0\3"
                if int.from_bytes(packet[2:4], "big") == number + 1:
                    number += 1
                    got += packet[4:]
                one.sendto(b"\0\4" + number.to_bytes(2, "big"), board)
                if len(packet) < 516:
                    return got


def test_a_device_gets_the_file_once_each_time_that_it_is_switched_on(folder: Path):
    device = Device()
    with device.socket, pushing(folder, device.port, "whole.img") as board:
        device.asked()  # off: nobody answers
        packet, sender = device.asked()
        assert packet == b"\0\2whole.img\0octet\0"
        assert device.take(sender) == IMAGE[: 512 * 20]
        board.wait_for('push "whole.img": done, 10240 bytes')
        # On: it is asked, with a request that changes nothing, and answers that. It gets no file again.
        for _ in range(2):
            packet, sender = device.asked(8)
            assert packet == b"\0\1whole.img\0octet\0"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"\0\3\0\1data", sender)
                one.settimeout(3)
                assert one.recvfrom(100)[0][:4] == b"\0\5\0\0"
        # Off, and on.
        board.wait_for("silent: it gets the file again", 50)
        while device.asked()[0][:2] != b"\0\2":
            pass
        packet, sender = device.asked()
        seen = len(board.console)
        assert device.take(sender) == IMAGE[: 512 * 20]
        board.wait_for('push "whole.img": done, 10240 bytes', after=seen)


def test_a_refusal_is_told_once_and_the_board_goes_on(folder: Path):
    device = Device()
    with device.socket, pushing(folder, device.port, "whole.img") as board:
        for _ in range(3):
            _, sender = device.asked()
            device.socket.sendto(b"\0\5\0\2not now\0", sender)
        _, sender = device.asked()
        assert device.take(sender) == IMAGE[: 512 * 20]
        board.wait_for("done")
        assert [line.partition("push: ")[2] for line in board.console if "push: " in line] == [
            f'127.0.0.1:{device.port}: refused, "not now"'
        ]


def test_a_missing_file_is_told_and_nobody_is_asked(folder: Path):
    device = Device()
    with device.socket, pushing(folder, device.port, "missing.img") as board:
        assert "file not found" in board.wait_for("push: ")
        with pytest.raises(TimeoutError):
            device.asked(2.5)


def test_a_compressed_file_arrives_inflated(folder: Path):
    device = Device()
    (folder / "packed.img.gz").write_bytes(gzip.compress(IMAGE[:20_000], mtime=0))
    with device.socket, pushing(folder, device.port, "packed.img") as board:
        _, sender = device.asked()
        assert device.take(sender) == IMAGE[:20_000]
        board.wait_for('push "packed.img": done, 20000 bytes')


def test_strangers_and_rubbish_do_no_harm(folder: Path):
    device = Device()
    with ExitStack() as stack:
        stack.enter_context(device.socket)
        board = stack.enter_context(pushing(folder, device.port, "whole.img"))
        stranger = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        stranger.bind(("127.0.0.2", 0))
        _, sender = device.asked()
        for packet in (b"", b"\0", b"\0\4", b"\0\4\0\1", b"\0\3\0\1x", b"\0\5", b"\0\5\0", b"\0\6blksize\0001\0", ACK0):
            stranger.sendto(packet, sender)
        for packet in (b"\0", b"\0\4", b"\0\4\0\1", b"\0\3\0\1x", b"\0\5", b"\0\6blksize\0001\0"):
            device.socket.sendto(packet, sender)
        _, sender = device.asked()
        assert device.take(sender) == IMAGE[: 512 * 20]
        board.wait_for("done, 10240 bytes")


def test_a_device_that_vanishes_gets_the_file_when_it_is_back(folder: Path):
    device = Device()
    with device.socket, pushing(folder, device.port) as board:
        _, sender = device.asked()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(3)
            one.sendto(ACK0, sender)
            assert one.recvfrom(2048)[0][:4] == b"\0\3\0\1"
        assert "nobody is on the client's port" in board.wait_for("push", 40)
        while device.asked(8)[0][:2] != b"\0\2":
            pass
        _, sender = device.asked()
        assert device.take(sender) == IMAGE


def test_it_works_with_one_socket_left(folder: Path):
    """As on a Pico W, whose other sockets are in use: without a twin."""
    device = Device()
    push = {"file": "whole.img", "to": f"127.0.0.1:{device.port}"}
    with device.socket, Board("--sockets", "2", "--set", "push=" + json.dumps(push), files=folder) as board:
        _, sender = device.asked()
        assert device.take(sender) == IMAGE[: 512 * 20]
        board.wait_for("done, 10240 bytes")
