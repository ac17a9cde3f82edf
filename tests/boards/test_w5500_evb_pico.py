"""The genuine firmware of the W5500-EVB-Pico on a model of its Ethernet chip: address, wire, sockets, memory.

What it has in common with other boards: test_genuine.py and the tests of the wire, with --board w5500_evb_pico.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import SERVED, content
from test_genuine import Console, at_console, port

from board import Board, Wire, ack, fetch
from tools import boards

__all__ = ["at_console", "port"]  # fixtures

pytestmark = pytest.mark.timeout(400)

always = pytest.mark.genuine("w5500_evb_pico", always=True)
with_board = pytest.mark.genuine("w5500_evb_pico")

BURST = 20  # datagrams, more than any queue holds


@always
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("curl", "-sS -o {to} tftp://{host}:{port}/{name}"),
        ("curl", "-sS --tftp-blksize 1468 -o {to} tftp://{host}:{port}/{name}"),
        ("tftp", "-m binary {host} {port} -c get {name} {to}"),
        ("atftp", "--option blksize=1428 --option windowsize=4 -g -r {name} -l {to} {host} {port}"),
    ],
)
def test_with_an_address_by_dhcp_it_serves_any_client_every_byte(
    board: Board, tmp_path: Path, name: str, arguments: str
):
    if not shutil.which(name):
        pytest.skip(f"no {name} here")
    board.wait_for("link: up, 10.255.255.254", 30)
    host, number = board.address
    words = arguments.format(to=tmp_path / "got", host=host, port=number, name="size-100000").split()
    words = [word.replace("=", " ") for word in words]
    subprocess.run([name, *words], check=True, timeout=120)
    assert (tmp_path / "got").read_bytes() == SERVED["size-100000"]


@always
def test_with_an_address_of_its_own_it_serves_without_dhcp(start):
    # The recipe of docs/labs.md; our clients are behind a gateway, which a router in its recovery is not.
    board: Board = start("--set", "ip=192.168.0.66", "--set", "gateway=192.168.0.1")
    board.wait_for("link: up, 192.168.0.66", 30)
    assert fetch(board.address, "size-5000", ("blksize", 1468)) == SERVED["size-5000"]
    assert board.stop() == 0


@with_board
def test_a_transfer_survives_the_cable_pulled_out_and_put_in_again(start):
    board: Board = start()
    board.wait_for("link: up", 30)
    seen = len(board.console)
    with Wire(board.address) as wire:
        assert wire.ask("size-5000")[:4] == b"\0\3\0\1"
        os.kill(board.emulator, signal.SIGUSR1)
        board.wait_for("link: down", 60, after=seen)
        wire.send(ack(1))
        while not wire.silent(0.5):  # copies of block 1 that were under way
            pass
        os.kill(board.emulator, signal.SIGUSR1)
        board.wait_for("link: up", 60, after=seen)
        wire.send(ack(1))
        while (packet := wire.receive())[3] != 2:
            pass
        assert packet == b"\0\3\0\2" + SERVED["size-5000"][512:1024]
    assert fetch(board.address, "size-5000") == SERVED["size-5000"]


@with_board
def test_an_upload_with_the_windowsize_that_is_granted_loses_nothing(start, tmp_path: Path):
    (tmp_path / "one").write_bytes(b"1")
    board: Board = start("--writable", files=tmp_path)
    board.wait_for("link: up", 30)
    data = content(6 * 1468 + 10)
    with Wire(board.address) as wire:
        granted = wire.ask("up", ("blksize", 1468), ("windowsize", 16), opcode=2)
        window = int(granted.split(b"\0")[-2])
        assert window == boards.load("w5500_evb_pico")["settings"]["wrq_windowsize"]
        blocks = [data[at : at + 1468] for at in range(0, len(data), 1468)]
        for number, block in enumerate(blocks, 1):
            wire.send(bytes((0, 3, 0, number)) + block)
            if number % window == 0 or number == len(blocks):
                assert wire.receive() == ack(number)
    assert fetch(board.address, "up", ("blksize", 1468)) == data


@always
def test_the_sockets_the_queue_and_the_heap_are_those_of_board_json(at_console):
    facts = boards.load("w5500_evb_pico")
    console: Console = at_console()
    console.board.wait_for("link: up", 30)
    console.interrupt()
    sockets = console.run(
        "import gc, link, socket, time\n"
        "opened = []\n"
        "try:\n"
        "    while True:\n        opened.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))\n"
        "except OSError:\n    print(len(opened))\n"
        "for one in opened:\n    one.close()\n"
    )
    assert int(sockets) == facts["udp_sockets"]
    code = (
        "one = opened[0] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "one.bind(('0.0.0.0', 69))\n"
        "one.settimeout(1)\n"
        "print('now', 'bound')\n"
        "time.sleep(2)\n"
        "got = 0\n"
        "try:\n"
        "    while True:\n        one.recvfrom(100)\n        got += 1\n"
        "except OSError:\n    print('queue', 'holds', got)\n"
        "one.close()\n"
    )
    console.begin(code, "now bound")
    with Wire(console.board.address) as wire:
        for _ in range(BURST):
            wire.send(b"burst")
        queued = console.board.wait_for("queue holds", 60)
    assert int(queued.split()[-1]) == facts["settings"]["wrq_windowsize"]
    console.interrupt()
    console.run("import os\nfor name in 'boot.py', 'main.py':\n    os.rename(name, name + '.off')")
    console.reset_to_prompt()
    code = (
        "import gc, network, time\nnic = network.WIZNET5K()\nnic.active(True)\n"
        "while not nic.isconnected():\n    time.sleep_ms(100)\n"
        "gc.collect()\nprint(gc.mem_free())"
    )
    free = int(console.run(code))
    assert abs(free - facts["heap"]) < 2000, free
