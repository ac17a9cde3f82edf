"""Machines in QEMU boot from the everyday board, which tells them what to boot, in a network whose DHCP server, a real
dnsmasq, knows nothing of that.

Real boot ROMs: SeaBIOS with iPXE's option ROM, edk2 for x64 and arm64 by PXE and by HTTP, U-Boot.
"""

import json
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from board import Board
from client import fetch
from dhcp_messages import GUID, PIS, PXE, discover, message
from lab import Machine, Switch, dnsmasq, need

BOARD, DHCP, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.3"  # RFC 5737: addresses for documentation
MAC = "52:54:00:12:34:56"
IPXE = Path("/usr/lib/ipxe")
X64, ARM64 = Path("/usr/share/OVMF"), Path("/usr/share/AAVMF")
UBOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
SCRIPT = "#!ipxe\necho The board said ${filename}\nshell\n"
SAID = "The board said boot.ipxe"
FILES = {"bios": "undionly.kpxe", "efi64": "ipxe.efi", "arm64": "ipxe.efi", "ipxe": "boot.ipxe"}


class Lab(NamedTuple):
    """The board and its network."""

    switch: Switch
    board: Board

    def dhcp(self) -> list[str]:
        """What the journal says of DHCP, without times, and without the line of the start."""
        self.board.lines_when_silent()
        lines = [line.partition(" ")[2] for line in self.board.console if " dhcp: " in line]
        return [line for line in lines if line != "dhcp: port 67"]

    def answers(self) -> list[bytes]:
        """The DHCP messages that the board has sent to clients."""
        return [one.data for one in self.switch.seen if one.source[0] == BOARD and one.target[1] == 68]


@contextmanager
def laid(folder: Path, files: dict[str, str], *settings: str, servers: tuple[tuple[str, ...], ...] = ()):
    """A board in a network with a dnsmasq, and with more of them with these arguments."""
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        stack.enter_context(dnsmasq(switch, DHCP))
        for number, arguments in enumerate(servers, 3):
            stack.enter_context(dnsmasq(switch, f"192.0.2.{number}", *arguments))
        words = ["--set", f"ip={BOARD}", "--set", "dhcp_proxy=" + json.dumps(files)]
        for pair in settings:
            words += ["--set", pair]
        with switch.host(BOARD):
            board = stack.enter_context(Board("--host", "0.0.0.0", "--flash-size", "8M", *words, files=folder, port=69))
        board.wait_for("dhcp: port 67")
        yield Lab(switch, board)
        assert board.stop() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    served.mkdir()
    (served / "boot.ipxe").write_text(SCRIPT)
    for name in ("undionly.kpxe", "ipxe.efi"):
        if (IPXE / name).exists():
            shutil.copy(IPXE / name, served)
    return served


def pc(lab: Lab) -> Machine:
    """A PC with a BIOS; the PXE of QEMU's network card is iPXE."""
    return Machine(
        *("qemu-system-x86_64", "-m", "128", "-boot", "n"), switch=lab.switch, device="virtio-net-pci,bootindex=1"
    )


def uefi(lab: Lab, variables: Path, arm: bool = False, http: bool = False) -> Machine:
    """A machine with edk2. It boots by PXE over IPv4, or by HTTP."""
    home, code, kept = (ARM64, "AAVMF_CODE.fd", "AAVMF_VARS.fd") if arm else (X64, "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")
    shutil.copy(home / kept, variables)
    words = ["-machine", "virt", "-cpu", "cortex-a57", "-m", "512"] if arm else ["-machine", "q35", "-m", "256"]
    for drive in (f"readonly=on,file={home / code}", f"file={variables}"):
        words += ["-drive", f"if=pflash,format=raw,{drive}"]
    for version in (4, 6) if http else (6,):
        words += ["-fw_cfg", f"name=opt/org.tianocore/IPv{version}PXESupport,string=n"]
    program = "qemu-system-aarch64" if arm else "qemu-system-x86_64"
    return Machine(program, *words, switch=lab.switch, device="virtio-net-pci,romfile=,bootindex=1")


def need_uefi(arm: bool = False) -> None:
    if arm:
        need("qemu-system-aarch64", "qemu-system-arm")
        need("qemu-system-aarch64", "qemu-efi-aarch64", ARM64 / "AAVMF_CODE.fd")
    else:
        need("qemu-system-x86_64", "qemu-system-x86")
        need("qemu-system-x86_64", "ovmf", X64 / "OVMF_CODE_4M.fd")
    need("dnsmasq", "ipxe", IPXE / "ipxe.efi")


def need_pc() -> None:
    need("qemu-system-x86_64", "qemu-system-x86")
    need("qemu-system-x86_64", "ipxe-qemu", IPXE / "qemu")
    need("dnsmasq", "ipxe", IPXE / "undionly.kpxe")


def no_address_was_given(lab: Lab) -> bool:
    return bool(lab.answers()) and all(message[16:20] == bytes(4) for message in lab.answers())


def boots(lab: Lab) -> list[dict[str, Any]]:
    """What the board's status.json tells of boots."""
    with lab.switch.host("192.0.2.8"):
        return json.loads(fetch((BOARD, 69), "tftpd/status.json"))["boots"]


def test_ipxe_of_a_pc_with_a_bios_boots_a_script(folder: Path):
    need_pc()
    with laid(folder, FILES) as lab, pc(lab) as machine:
        said = machine.wait_for(SAID, 60)
        assert f"Next server: {BOARD}" in said and "Filename: boot.ipxe" in said
        line = lab.board.wait_for('RRQ "/boot.ipxe"')
        address = line.split()[1].partition(":")[0]
        assert lab.dhcp() == [f"dhcp: {MAC} boots as ipxe: boot.ipxe", f"dhcp: {MAC} is {address}"]
        assert address.startswith("192.0.2.1") and no_address_was_given(lab)
        (story,) = boots(lab)
        assert (story["client"], story["mac"]) == (address, MAC)
        assert [step[1:] for step in story["steps"]][:1] == [["", "ipxe: boot.ipxe"]]
        assert story["steps"][-1][1:] == ["/boot.ipxe", f"done, {len(SCRIPT)} bytes"]


def test_a_bios_loads_the_file_for_it(folder: Path):
    """iPXE's option ROM again, taken for any PXE ROM: without a file for iPXE it gets that of its architecture."""
    need_pc()
    with laid(folder, {"bios": "undionly.kpxe"}) as lab, pc(lab) as machine:
        machine.wait_for("Filename: undionly.kpxe", 60)
        assert ": done" in lab.board.wait_for('RRQ "/undionly.kpxe"', 30)
        assert lab.dhcp()[0] == f"dhcp: {MAC} boots as bios: undionly.kpxe"


@pytest.mark.parametrize("arm", [False, True], ids=["x64", "arm64"])
def test_edk2_boots_by_pxe(folder: Path, tmp_path: Path, arm: bool):
    need_uefi(arm)
    with laid(folder, FILES) as lab, uefi(lab, tmp_path / "variables", arm) as machine:
        said = machine.wait_for("NBP file downloaded successfully", 100)
        assert f"Server IP address is {BOARD}" in said and "NBP filename is ipxe.efi" in said
        lab.board.wait_for('RRQ "/ipxe.efi" octet blksize=1468 windowsize=4: done', 30)
        kind = "arm64" if arm else "efi64"
        assert lab.dhcp()[0] == f"dhcp: {MAC} boots as {kind}: ipxe.efi"
        assert no_address_was_given(lab)
        if not arm:  # Debian's ipxe.efi is for x64; it asks again, and gets its script
            machine.wait_for(SAID, 60)
            (story,) = boots(lab)
            assert story["mac"] == MAC and story["client"].startswith("192.0.2.1")
            whole = f"done, {(folder / 'ipxe.efi').stat().st_size} bytes"
            steps = [tuple(step[1:]) for step in story["steps"]]
            wanted = [("", "efi64: ipxe.efi"), ("/ipxe.efi", whole), ("", "ipxe: boot.ipxe")]
            wanted.append(("/boot.ipxe", f"done, {len(SCRIPT)} bytes"))
            assert [step for step in dict.fromkeys(steps) if step in wanted] == wanted, steps
            assert [line for line in lab.dhcp() if "boots" in line][1:] == [f"dhcp: {MAC} boots as ipxe: boot.ipxe"]


@pytest.mark.parametrize("arm", [False, True], ids=["x64", "arm64"])
def test_edk2_boots_by_http(folder: Path, tmp_path: Path, arm: bool):
    need_uefi(arm)
    kind = "httparm64" if arm else "http64"
    with (
        laid(folder, {kind: "ipxe.efi"}, "http_port=80") as lab,
        uefi(lab, tmp_path / "variables", arm, http=True) as machine,
    ):
        said = machine.wait_for("File Size: ", 100)
        assert f"URI: http://{BOARD}:80/ipxe.efi" in said
        assert "done" in lab.board.wait_for('GET "/ipxe.efi"', 30)
        assert lab.dhcp()[0] == f"dhcp: {MAC} boots as {kind}: ipxe.efi"
        assert no_address_was_given(lab)


def test_uboot_is_left_to_its_dhcp_server(folder: Path):
    """Its `dhcp` and `pxe` work as without the proxy, also where its boot script calls itself PXEClient."""
    need("qemu-system-aarch64", "qemu-system-arm")
    need("qemu-system-aarch64", "u-boot-qemu", UBOOT)
    (folder / "pxelinux.cfg").mkdir()
    (folder / "pxelinux.cfg" / "default").write_text("label none\n")
    words = ["-machine", "virt", "-cpu", "cortex-a57", "-m", "256", "-bios", str(UBOOT)]
    with (
        laid(folder, {**FILES, "22": "x"}) as lab,
        Machine("qemu-system-aarch64", *words, switch=lab.switch, device="virtio-net-pci,romfile=") as machine,
    ):
        machine.wait_for("Hit any key to stop autoboot", 30)
        machine.type(" ")
        machine.wait_for("\n=> ", 10)
        for vendor in ("", "setenv bootp_vci PXEClient:Arch:00011:UNDI:003000; setenv bootp_arch 0xb; "):
            machine.type(f"{vendor}setenv autoload no; dhcp\n")
            assert "DHCP client bound to address 192.0.2.1" in machine.wait_for("\n=> ", 20)
        machine.type(f"setenv serverip {BOARD}; pxe get\n")
        assert "Bytes transferred = 11 " in machine.wait_for("\n=> ", 20)
        assert lab.dhcp() == [] and lab.answers() == []
        assert "done" in lab.board.wait_for('RRQ "/pxelinux.cfg/default"')


def test_another_proxy_is_told_of_once_and_the_machine_boots(folder: Path):
    """dnsmasq as a proxy answers the same client; it takes one of the two."""
    need_pc()
    proxy = (
        "--dhcp-range=192.0.2.0,proxy",
        f"--pxe-service=x86PC,other,boot.ipxe,{BOARD}",
        f"--dhcp-boot=boot.ipxe,,{BOARD}",
    )
    with laid(folder, FILES, servers=(proxy,)) as lab:
        lab.board.wait_for(f"dhcp: {OTHER} answers PXE, too")
        with pc(lab) as machine:
            machine.wait_for("The board said", 60)
        assert len([line for line in lab.dhcp() if "answers PXE" in line]) == 1


def test_two_boards_know_of_each_other(folder: Path):
    with laid(folder, FILES) as lab, lab.switch.host(OTHER):
        words = ["--flash-size", "8M", "--set", f"ip={OTHER}", "--set", 'dhcp_proxy={"bios": "x"}']
        with Board("--host", "0.0.0.0", *words, files=folder, port=69) as second:
            second.wait_for(f"dhcp: {BOARD} answers PXE, too")
            assert second.stop() == 0


def test_while_its_port_is_taken_the_board_says_so_once_and_serves(folder: Path):
    words = ["--host", "0.0.0.0", "--set", f"ip={BOARD}", "--set", "dhcp_proxy=" + json.dumps(FILES)]
    with Switch() as switch, switch.host(BOARD), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 67))
        with Board(*words, "--flash-size", "8M", files=folder, port=69) as board:
            board.wait_for("dhcp: port 67 is taken: stop the other DHCP server on this machine")
            assert fetch(board.address, "boot.ipxe") == SCRIPT.encode()
            time.sleep(2.5)
            other.close()
            board.wait_for("dhcp: port 67", after=len(board.console))
            assert len([line for line in board.console if "taken" in line]) == 1
            assert not [line for line in board.console if "tick" in line]
            assert board.stop() == 0


@pytest.fixture
def client(folder: Path) -> Iterator[tuple[Lab, socket.socket]]:
    """A lab, and a socket of a host in it that hears what a machine without an address does."""
    with laid(folder, {**FILES, "pi": "bootcode.bin"}) as lab:
        with lab.switch.host("192.0.2.9"):
            heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            heard.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            heard.bind(("", 68))
        with heard:
            yield lab, heard


def answer(heard: socket.socket, seconds: float = 2) -> bytes | None:
    """The next message of the board; what dnsmasq sends does not count."""
    heard.settimeout(seconds)
    try:
        while True:
            data, (host, _) = heard.recvfrom(2048)
            if host == BOARD:
                return data
    except TimeoutError:
        return None


def test_pis_are_told_where_to_boot_from(client: tuple[Lab, socket.socket]):
    """Their messages as others captured them (dhcp_messages.py)."""
    lab, heard = client
    for request in PIS:
        heard.sendto(request, ("255.255.255.255", 67))
        packet = answer(heard)
        assert packet and packet[4:8] == request[4:8] and packet[16:20] == bytes(4)
        assert b"Raspberry Pi Boot   " in packet and packet[20:24] == socket.inet_aton(BOARD)
    assert [line.rpartition(" boots as ")[2] for line in lab.dhcp()] == 4 * ["pi: bootcode.bin"]


def test_a_rom_may_ask_at_port_4011(client: tuple[Lab, socket.socket]):
    lab, heard = client
    request = message((53, b"\3"), (60, PXE), (93, b"\0\0"), (97, GUID), ciaddr=socket.inet_aton("192.0.2.9"))
    heard.sendto(request, (BOARD, 4011))
    assert answer(heard, 0.5) is None  # the port is closed until there is an offer
    heard.sendto(discover(), ("255.255.255.255", 67))
    assert answer(heard)
    heard.sendto(request, (BOARD, 4011))
    packet = answer(heard)
    assert packet and packet[242:243] == b"\5" and b"undionly.kpxe" in packet[108:236]
    assert len(lab.dhcp()) == 2


def test_others_hear_nothing(client: tuple[Lab, socket.socket]):
    lab, heard = client
    seen = len(lab.board.console)
    for request in (
        message((53, b"\1")),
        message((53, b"\1"), (60, b"MSFT 5.0"), (97, GUID)),
        message((53, b"\3"), (60, PXE), (97, GUID), (50, b"\xc0\0\2\x6f")),
        message((53, b"\x08"), (60, PXE), (97, GUID)),
        message((53, b"\1"), (60, PXE), (97, GUID))[:200],
        b"x",
        b"",  # upon which the board opens the port anew, within a second
    ):
        heard.sendto(request, ("255.255.255.255", 67))
        assert answer(heard, 0.3) is None
    lab.board.wait_for("dhcp: port 67", after=seen)
    heard.sendto(discover(7), ("255.255.255.255", 67))  # and the board goes on
    assert answer(heard)
    assert len(lab.dhcp()) == 1
