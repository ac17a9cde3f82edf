"""push on genuine firmware: a device of this host gets the file."""

import json
import socket
from pathlib import Path

import pytest

from board import PATIENCE, Board
from client import fetch
from served import content

IMAGE = content(20_000)


@pytest.mark.timeout(400)
@pytest.mark.genuine("esp32_c3", "rpi_pico_w")
def test_a_device_gets_the_file(board_name: str, start, tmp_path: Path):
    (tmp_path / "netgear.img").write_bytes(IMAGE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        device.settimeout(PATIENCE[board_name])
        push = {"file": "netgear.img", "to": f"10.0.0.1:{device.getsockname()[1]}"}
        few = board_name == "rpi_pico_w"  # three sockets
        more = ("--set", 'dhcp_proxy={"bios": "a"}', "--set", "ntp=10.0.0.1") if few else ()
        board: Board = start("--set", "push=" + json.dumps(push), *more, files=tmp_path)
        device.sendto(b"\0\4\0\0", board.address)  # the emulated network only carries to who has sent (bridge.py)
        if few:  # until NTP has given its own up
            board.wait_for(": no socket is left; tried again each second", PATIENCE[board_name])
            assert fetch(board.address, "netgear.img") == IMAGE
        packet, sender = device.recvfrom(2048)
        assert packet == b"\0\2netgear.img\0octet\0"
        got, number = b"", 0
        while number * 512 == len(got):
            device.sendto(b"\0\4" + number.to_bytes(2, "big"), sender)
            packet = device.recv(2048)
            if packet[:2] == b"\0\3" and int.from_bytes(packet[2:4], "big") == number + 1:
                number += 1
                got += packet[4:]
        device.sendto(b"\0\4" + number.to_bytes(2, "big"), sender)
        assert got == IMAGE
        board.wait_for('push "netgear.img": done, 20000 bytes', PATIENCE[board_name])
    assert board.stop() == 0
