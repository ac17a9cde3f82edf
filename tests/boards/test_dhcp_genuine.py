"""dhcp_proxy on genuine firmware: machines that boot are told what to load, beside transfers."""

import socket

import pytest

from board import PATIENCE, Board
from client import Wire, fetch
from dhcp_messages import GUID, PIS, PXE, discover, message
from tools.emulators.bridge import BOARD

SETTINGS = ("--set", 'dhcp_proxy={"bios": "undionly.kpxe", "efi64": "ipxe.efi", "pi": "bootcode.bin"}')


@pytest.mark.timeout(400)
@pytest.mark.genuine("esp32_c3", "rpi_pico_w", "w5500_evb_pico")
def test_machines_are_told_what_to_boot(board_name: str, start, tmp_path):
    (tmp_path / "ipxe.efi").write_bytes(bytes(20_000))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seconds = PATIENCE[board_name]
    board: Board = start(*SETTINGS, "--dhcp", str(port), "--set", "log=debug", files=tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as machine:
        machine.connect(("127.0.0.1", port))
        machine.settimeout(seconds)
        board.wait_for("dhcp: port 67", seconds)
        for request, text in (
            (discover(7), b"ipxe.efi"),
            (discover(0), b"undionly.kpxe"),
            *((pi, b"Raspberry Pi Boot   ") for pi in PIS),
        ):
            machine.send(request)
            packet = machine.recv(2048)
            assert packet[4:8] == request[4:8] and text in packet
            assert packet[16:24] == bytes(4) + BOARD
        lines = [line.partition(" dhcp: ")[2] for line in board.console if " boots as " in line]
        assert len(lines) == 6 and lines[0] == "52:54:00:01:02:03 boots as efi64: ipxe.efi"
        # On a Pico W no socket is left for port 4011 while there is a transfer: that goes before it.
        with Wire(board.address) as wire:
            wire.ask("ipxe.efi", ("blksize", 1468))
            wire.ack(0)
            assert wire.receive()[:4] == b"\0\3\0\1" and wire.tid != board.address
            machine.send(discover(7, xid=b"more"))
            assert machine.recv(2048)[4:8] == b"more"
            if board_name == "rpi_pico_w":
                board.wait_for("dhcp: no socket is left for port 4011; tried again each second", seconds)
            wire.ack(1)
            assert wire.receive()[:4] == b"\0\3\0\2"
        assert fetch(board.address, "ipxe.efi", ("blksize", 1468)) == bytes(20_000)
        machine.send(message((53, b"\3"), (60, PXE), (97, GUID), (50, b"\x0a\0\0\7")))
        board.wait_for("dhcp: 52:54:00:01:02:03 is 10.0.0.7", seconds)
        # Nobody else is answered, and the board goes on.
        for request in (message((53, b"\1")), message((53, b"\1"), (60, b"MSFT 5.0"), (97, GUID)), b"x"):
            machine.send(request)
        machine.send(discover(7, xid=b"last"))
        assert machine.recv(2048)[4:8] == b"last"
    assert board.stop() == 0
