"""U-Boot in QEMU boots and loads files from the everyday board over TFTP, also over a wire that loses packets.

Both live in a network of their own (cable.py).
"""

import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from board import Board
from cable import CLIENT, SERVER, Cable, Machine, plugged_in
from served import content

QEMU = "qemu-system-aarch64"
UBOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
WHERE = "0x41000000"  # memory of QEMU's virt board, above U-Boot
SETTINGS = ["--set", "windowsize=8", "--set", 'rules=[{"name":"????????.img","give":["{name}","by-ip/{ip}/boot.img"]}]']
FILES = {
    "image.bin": content(700_000),
    "whole-blocks.bin": content(1468 * 32, seed=2),  # ends with an empty block
    "tiny.bin": content(5, seed=3),
}


class UBoot(Machine):
    """U-Boot at its prompt."""

    PROMPT = "\n=> "

    def __init__(self, cable: Cable) -> None:
        machine = [QEMU, "-machine", "virt", "-cpu", "cortex-a57", "-m", "256", "-bios", str(UBOOT)]
        super().__init__(cable, machine)

    def interrupt_autoboot(self) -> None:
        self.until("Hit any key to stop autoboot")
        self.type(" ")
        self.until(self.PROMPT)

    def load(self, name: str) -> str:
        """Load a file to WHERE; returns U-Boot's output."""
        return self.run(f"tftpboot {WHERE} {name}")

    def crc32(self) -> int:
        """The CRC-32 of the file loaded last, computed by U-Boot over its own count of bytes."""
        said = self.run(f"crc32 {WHERE} $filesize")
        match = re.search(r"==> ([0-9a-f]{8})", said)
        assert match, said
        return int(match[1], 16)


class Bench(NamedTuple):
    """The board, U-Boot and the cable between them."""

    board: Board
    uboot: UBoot
    cable: Cable

    def loaded(self, name: str, window: int = 4) -> tuple[str, str]:
        """Load a file and check it; returns U-Boot's output and the board's journal line."""
        self.uboot.run(f"setenv tftpblocksize 1468; setenv tftpwindowsize {window}")
        seen = len(self.board.console)
        said = self.uboot.load(name)
        assert f"Bytes transferred = {len(FILES[name])} " in said, said
        assert self.uboot.crc32() == zlib.crc32(FILES[name])
        return said, self.board.wait_for(f'RRQ "/{name}"', after=seen)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    for program, package in ((QEMU, "qemu-system-arm"), ("ip", "iproute2")):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (Debian: {package})")
    if not UBOOT.exists():
        pytest.skip(f"{UBOOT} is not there (Debian: u-boot-qemu)")
    folder = tmp_path_factory.mktemp("served")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "by-ip" / CLIENT).mkdir(parents=True)
    (folder / "by-ip" / CLIENT / "boot.img").write_bytes(FILES["tiny.bin"])
    with ExitStack() as stack:
        with ExitStack() as inside:
            cable = plugged_in(inside, stack)
            uboot = stack.enter_context(UBoot(cable))
            board = stack.enter_context(Board("--host", SERVER, "--flash-size", "4M", *SETTINGS, files=folder, port=69))
        uboot.interrupt_autoboot()
        uboot.run(f"setenv ipaddr {CLIENT}; setenv serverip {SERVER}")
        yield Bench(board, uboot, cable)
        assert board.stop() == 0


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("name", FILES)
def test_uboot_loads_a_file(bench: Bench, name: str, window: int):
    _, line = bench.loaded(name, window=window)
    assert "blksize=1468" in line and "done" in line
    assert ("windowsize=4" in line) == (window == 4)  # U-Boot doesn't ask for a window of 1


def test_uboot_takes_the_smaller_window_that_the_board_grants(bench: Bench):
    _, line = bench.loaded("image.bin", window=16)
    assert "windowsize=8" in line and "done" in line


@pytest.mark.parametrize("window", [1, 4])
def test_a_lost_packet_does_not_cost_uboot_its_five_seconds(bench: Bench, window: int):
    bench.cable.lose_every, before = 19, bench.cable.lost
    try:
        said, line = bench.loaded("image.bin", window=window)
    finally:
        bench.cable.lose_every = 0
    assert bench.cable.lost - before > 20
    assert "T " not in said  # what U-Boot prints when it has waited for 5 s
    assert "done" in line and ", 0 resent" not in line


def test_a_missing_file_ends_with_an_error_and_is_not_asked_for_again(bench: Bench):
    seen = len(bench.board.console)
    said = bench.uboot.load("missing.bin")
    assert "TFTP error: " in said and "not found" in said and "Not retrying" in said
    bench.loaded("tiny.bin")
    assert len([line for line in bench.board.console[seen:] if "missing.bin" in line]) == 1


def test_without_a_name_uboot_gets_the_file_for_its_address_by_a_rule(bench: Bench):
    """The recipe of docs/rules.md."""
    seen = len(bench.board.console)
    said = bench.uboot.run(f"setenv bootfile; tftpboot {WHERE}")
    assert "using 'C0000202.img'" in said and f"Bytes transferred = {len(FILES['tiny.bin'])} " in said, said
    assert bench.uboot.crc32() == zlib.crc32(FILES["tiny.bin"])
    bench.board.wait_for(f'RRQ "C0000202.img" -> "/by-ip/{CLIENT}/boot.img" octet', after=seen)
