"""A PC in QEMU boots from the everyday board by UEFI HTTP boot, and iPXE, which it loads, loads more over http://.

DHCP is dnsmasq's: it gives the address, and says what UEFI HTTP boot wants to hear.
"""

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from board import Board
from cable import CLIENT, SERVER, Cable, Machine, plugged_in
from served import content

QEMU = "qemu-system-x86_64"
OVMF = Path("/usr/share/OVMF")
IPXE = Path("/boot/ipxe.efi")
IMAGE = content(700_000)
NUMBERS = random.Random(2324).choices(range(1000), k=500)
# Each line of it counts: a wrong byte gives another sum, or an error.
SUM = "#!ipxe\n" + "".join(f"inc sum:int32 {number}\n" for number in NUMBERS) + "echo The sum is ${sum:int32}\n"


class PC(Machine):
    """A PC with UEFI. Of all ways to boot it has but HTTP over IPv4."""

    PROMPT = "iPXE> "

    def __init__(self, cable: Cable, variables: Path) -> None:
        shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
        flash = "if=pflash,format=raw,file="
        no = [f"name=opt/org.tianocore/IPv{version}PXESupport,string=n" for version in (4, 6)]
        machine = [QEMU, "-machine", "q35", "-m", "256", "-boot", "n", "-fw_cfg", no[0], "-fw_cfg", no[1]]
        firmware = ["-drive", f"{flash}{OVMF / 'OVMF_CODE_4M.fd'},readonly=on", "-drive", f"{flash}{variables}"]
        super().__init__(cable, machine + firmware)


class Bench(NamedTuple):
    """The board, the PC, and what the PC has said on its way to the prompt of iPXE."""

    board: Board
    pc: PC
    said: str

    def journal(self) -> list[str]:
        """The lines of the board about HTTP."""
        self.board.lines_when_silent()
        return [line for line in self.board.console if " GET " in line or " HEAD " in line]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    for program, package in (
        (QEMU, "qemu-system-x86"),
        ("ip", "iproute2"),
        ("dnsmasq", "dnsmasq-base"),
        ("mformat", "mtools"),
        (str(OVMF / "OVMF_CODE_4M.fd"), "ovmf"),
        (str(IPXE), "ipxe"),
    ):
        if not shutil.which(program) and not Path(program).exists():
            pytest.skip(f"{program} is not installed (Debian: {package})")
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(IPXE, folder)
    (folder / "image.bin").write_bytes(IMAGE)
    (folder / "sum.ipxe").write_text(SUM)
    disk = folder / "disk.img"
    for command in (
        ["mformat", "-C", "-T", "4096", "-i", disk],
        ["mmd", "-i", disk, "EFI", "EFI/BOOT"],
        ["mcopy", "-i", disk, IPXE, "::EFI/BOOT/BOOTX64.EFI"],
    ):
        subprocess.run(command, check=True)
    dhcp = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=tap0"]
    dhcp += ["--bind-interfaces", "--leasefile-ro", "--no-ping", "--dhcp-range=192.0.2.10,192.0.2.20"]
    dhcp += ["--dhcp-vendorclass=set:uefi,HTTPClient", "--dhcp-option-force=tag:uefi,60,HTTPClient"]
    dhcp += [f"--dhcp-boot=tag:uefi,http://{SERVER}/ipxe.efi"]
    with ExitStack() as stack:
        with ExitStack() as inside:
            cable = plugged_in(inside, stack)
            arguments = ["--host", SERVER, "--flash-size", "6M", "--set", "http_port=80", "--set", "log=debug"]
            board = stack.enter_context(Board(*arguments, files=folder, port=69))
            board.wait_for("http: port 80")
            server = stack.enter_context(subprocess.Popen(dhcp, stderr=subprocess.DEVNULL))
            stack.callback(server.kill)
            pc = stack.enter_context(PC(cable, tmp_path_factory.mktemp("pc") / "variables"))
        said = pc.until("Press Ctrl-B", 100)
        pc.type("\x02")
        said += pc.until(PC.PROMPT)
        pc.run(f"set net0/ip {CLIENT}")
        pc.run("set net0/netmask 255.255.255.0")
        pc.run("ifopen net0")
        yield Bench(board, pc, said)
        assert board.stop() == 0


def test_uefi_boots_over_http(bench: Bench):
    assert f"URI: http://{SERVER}/ipxe.efi" in bench.said
    size = IPXE.stat().st_size
    assert f"File Size: {size} Bytes" in bench.said
    line = bench.board.wait_for('GET "/ipxe.efi"')
    assert f"done, {size} bytes" in line


def test_ipxe_loads_a_file(bench: Bench):
    assert "ok" in bench.pc.run(f"imgfetch --name image http://{SERVER}/image.bin")
    assert f"image : {len(IMAGE)} bytes" in bench.pc.run("imgstat")
    assert f"done, {len(IMAGE)} bytes" in bench.board.wait_for('GET "/image.bin"')


def test_ipxe_runs_a_script(bench: Bench):
    assert f"The sum is {sum(NUMBERS)}\n" in bench.pc.run(f"chain http://{SERVER}/sum.ipxe")


def test_ipxe_hears_that_a_file_is_missing(bench: Bench):
    assert "No such file or directory" in bench.pc.run(f"imgfetch http://{SERVER}/nope")


def test_ipxe_boots_from_a_disk_that_it_reads_by_ranges(bench: Bench):
    """The disk is a file of the board. What starts from it is iPXE again, which then waits for the network card."""
    seen = len(bench.board.console)
    bench.pc.type(f"sanboot http://{SERVER}/disk.img\n")
    assert "Booting from SAN device" in bench.pc.until("iPXE initialising devices", 60)
    parts = [line for line in bench.board.console[seen:] if 'GET "/disk.img": done' in line]
    assert len(parts) > 10
