"""`python -m tools push`: to tftpd-hpa, atftpd and the everyday board, through loss; to one who is late, to nobody."""

import argparse
import errno
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import tftpy

from board import ROOT, Board
from command import complain
from receivers import Serve, atftpd, hpa
from served import content
from tools import push
from tools.relay import Relay

IMAGE = content(60_000)


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "netgear.img"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir(mode=0o777)
    return path


@pytest.mark.parametrize("serve", [hpa, atftpd])
def test_servers_of_others_get_the_file(image: Path, target: Path, serve: Serve):
    with serve(target) as port, Relay(port, loss=0.02, seed=5) as relay:
        done = run("push", image, f"127.0.0.1:{relay.port}", "--every", "100ms")
        assert (done.returncode, done.stderr) == (0, "")
        assert relay.lost > 0
        end = time.monotonic() + 5
        while (target / image.name).read_bytes() != IMAGE:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_the_board_gets_the_file_under_another_name(image: Path, target: Path):
    with Board("--writable", files=target) as board:
        done = run("push", image, f"127.0.0.1:{board.address[1]}", "--name", "new.img")
        assert done.returncode == 0, done.stderr
        line = board.wait_for('WRQ "/new.img" octet: done, 60000 bytes')
        assert "blksize" not in line  # a boot loader would not know it


def test_a_device_that_comes_late_gets_the_file(image: Path, target: Path):
    """It is asked again and again; here what asks is heard only after three times."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        got = bytearray()

        def take() -> None:
            requests = [device.recvfrom(2048) for _ in range(3)]
            assert {request for request, _ in requests} == {b"\0\2netgear.img\0octet\0"}
            client = requests[-1][1]
            device.sendto(b"\0\4\0\0", client)
            number = 0
            while len(got) < len(IMAGE):
                packet, client = device.recvfrom(2048)
                if packet[:2] == b"\0\3" and int.from_bytes(packet[2:4], "big") == number + 1:
                    number += 1
                    got.extend(packet[4:])
                device.sendto(b"\0\4" + number.to_bytes(2, "big"), client)

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        done = run("push", image, f"127.0.0.1:{device.getsockname()[1]}", "--every", "200ms", "--until", "20s")
        thread.join(5)
        assert done.returncode == 0, done.stderr
        assert got == IMAGE


def test_nobody_answers(image: Path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        port = device.getsockname()[1]
        began = time.monotonic()
        said = complain("push", image, f"127.0.0.1:{port}", "--every", "0.2s", "--until", "1s")
        assert said == f"error: tftp://127.0.0.1:{port} does not answer"
        assert time.monotonic() - began > 0.8
        device.setblocking(False)
        asked = 0
        while True:
            try:
                device.recv(100)
            except BlockingIOError:
                break
            asked += 1
        assert 4 <= asked <= 6


def test_a_network_that_is_down_at_first_is_waited_for(image: Path, target: Path, monkeypatch: pytest.MonkeyPatch):
    upload, tries = tftpy.TftpClient.upload, []

    def down(self: tftpy.TftpClient, name: str, file: BinaryIO, **more: Any) -> None:
        tries.append(name)
        if len(tries) < 3:
            file.close()  # as tftpy does
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        upload(self, name, file, **more)

    monkeypatch.setattr(tftpy.TftpClient, "upload", down)
    with Board("--writable", files=target) as board:
        arguments = argparse.Namespace(file=image, address=board.address, name=None, every=0.1, until=20.0)
        assert push.run(arguments) == 0
        board.wait_for('WRQ "/netgear.img" octet: done, 60000 bytes')


def test_a_refusal_is_told(image: Path, target: Path):
    with Board(files=target) as board:
        said = complain("push", image, f"127.0.0.1:{board.address[1]}")
        assert said == "error: netgear.img: this server takes no uploads from you (ERROR 2)"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["192.0.2.1", "--every", "0"], "not a time: 0"),
        (["192.0.2.1", "--until", "soon"], "not a time: soon"),
        (["192.0.2.1", "--until", "2h"], "not a time: 2h"),
        (["tftp://192.0.2.1"], "not the address of a device: tftp://192.0.2.1; it is HOST or HOST:PORT"),
        (["192.0.2.1:0"], "not the address of a device"),
    ],
)
def test_a_wrong_command_line_is_refused(image: Path, words: list[str], text: str):
    assert text in complain("push", image, *words)


def test_a_missing_file_is_told(tmp_path: Path):
    assert "none.img" in complain("push", tmp_path / "none.img", "127.0.0.1:9")
