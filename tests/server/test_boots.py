"""Real boot loaders under the rules of docs/rules.md: iPXE, PXELINUX, UEFI (edk2) and GRUB, in QEMU.

dnsmasq gives the addresses and the names of the boot files; it knows nothing else. All live in a network of their own
(cable.py), which takes root. (U-Boot is in test_uboot.py.)
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from board import ROOT, Board
from cable import SERVER, plugged_in

QEMU = "qemu-system-x86_64"
MAC, CLIENT = "52:54:00:12:34:56", "192.0.2.50"
ROM = Path("/usr/lib/ipxe/qemu/pxe-e1000.rom")
PXELINUX = Path("/usr/lib/PXELINUX/pxelinux.0")
LDLINUX = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
UEFI = Path("/usr/share/OVMF/OVMF_CODE.fd")
GRUB = Path("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed")
PACKAGES = {ROM: "ipxe-qemu", PXELINUX: "pxelinux", LDLINUX: "syslinux-common", UEFI: "ovmf"}
PACKAGES |= {GRUB: "grub-efi-amd64-signed"}
SECONDS = 240  # a UEFI without KVM on a busy machine

pytestmark = [pytest.mark.everyday_only("it lives in the network of the test"), pytest.mark.timeout(SECONDS + 30)]


def recipe(heading: str) -> str:
    """The rules under that heading of docs/rules.md."""
    page = (ROOT / "docs/rules.md").read_text()
    return page.split(f"\n### {heading}\n")[1].split("```json")[1].split("```")[0].replace('"rules":', "", 1)


class Machine:
    """A PC in QEMU that boots from the network, its console, and the board that serves it."""

    def __init__(self, board: Board, console: Path):
        self.board, self.console = board, console

    def wait_for(self, text: str) -> None:
        """Wait until the console shows `text`."""
        end = time.monotonic() + SECONDS
        while text not in (said := self.console.read_text(errors="replace")):
            assert time.monotonic() < end, (said[-2000:], self.board.console)
            time.sleep(0.2)

    def given(self) -> dict[str, str]:
        """What the board has given: paths by the name asked for, from its journal."""
        found = [re.search(r'RRQ (?:"([^"]*)" -> )?"([^"]*)" .*: done', line) for line in self.board.console]
        return {(match[1] or match[2]).lstrip("/"): match[2] for match in found if match}


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """boot(boot file, heading of the recipe, files by name, machine's ROMs as words of QEMU) starts all of it."""
    with ExitStack() as stack:

        def start(boot_file: str, heading: str, files: dict[str, bytes | Path], *words: str) -> Machine:
            for program in (QEMU, "dnsmasq", "ip"):
                if not shutil.which(program):
                    pytest.skip(f"{program} is not installed (Debian: qemu-system-x86, dnsmasq-base, iproute2)")
            needed = [one for one in files.values() if isinstance(one, Path)]
            needed += [path for path in (ROM, UEFI) if any(str(path) in word for word in words)]
            for path in needed:
                if not path.exists():
                    pytest.skip(f"{path} is not there (Debian: {PACKAGES[path]})")
            served = tmp_path / "served"
            for name, content in files.items():
                (served / name).parent.mkdir(parents=True, exist_ok=True)
                (served / name).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
            console = tmp_path / "console"
            cable = plugged_in(stack, stack)
            dhcp = ["--no-daemon", "--port=0", "--interface=tap0", "--bind-dynamic", "--conf-file=/dev/null"]
            dhcp += ["--no-hosts", "--leasefile-ro", "--user=root", f"--dhcp-range={CLIENT},{CLIENT},1h"]
            dhcp += [f"--dhcp-boot={boot_file},,{SERVER}"]
            machine = [QEMU, "-m", "256", "-nographic", *words[1:]]
            machine += ["-netdev", f"socket,id=wire,fd={cable.end.fileno()}"]
            machine += ["-device", f"{words[0]},netdev=wire,mac={MAC},bootindex=0"]
            rules = ["--set", f"rules={json.dumps(json.loads(recipe(heading)))}"]
            board = stack.enter_context(Board("--host", SERVER, "--flash-size", "8M", *rules, files=served, port=69))
            for command, fds in ((["dnsmasq", *dhcp], ()), (machine, (cable.end.fileno(),))):
                with console.open("ab") as output:
                    process = stack.enter_context(
                        subprocess.Popen(
                            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, pass_fds=fds
                        )
                    )
                stack.callback(process.kill)
            cable.end.close()  # only QEMU keeps it, so that the cable sees the end of QEMU
            return Machine(board, console)

        yield start


BIOS = (f"e1000,romfile={ROM}",)
EFI = ("virtio-net-pci,romfile=", "-drive", f"if=pflash,format=raw,readonly=on,file={UEFI}")


def test_ipxe_gets_the_file_whose_name_dnsmasq_has_changed(boot: Callable[..., Machine]):
    script = b"#!ipxe\necho the rule works\n"
    pc = boot("undionly.kpxe.0", "iPXE, PXE ROMs", {"undionly.kpxe": script}, *BIOS)
    pc.wait_for("the rule works")
    assert pc.given() == {"undionly.kpxe.0": "/undionly.kpxe"}


def test_pxelinux_gets_its_configuration_with_the_first_request(boot: Callable[..., Machine]):
    config = b"SERIAL 0\nSAY the rule works\nPROMPT 1\nTIMEOUT 0\n"
    files = {"pxelinux.0": PXELINUX, "ldlinux.c32": LDLINUX, "pxe/C0000232": config, "pxe/default": b"SAY not this\n"}
    pc = boot("pxelinux.0", "PXELINUX", files, *BIOS)
    pc.wait_for("the rule works")
    asked = [name for name, path in pc.given().items() if path == "/pxe/C0000232"]
    assert len(asked) == 1 and "pxelinux.cfg/" in asked[0]
    assert not [line for line in pc.board.console if "pxelinux.cfg" in line and "refused" in line]


def test_grub_gets_itself_and_its_menu_from_the_top(boot: Callable[..., Machine]):
    files = {"grubx64.efi": GRUB, f"by-ip/{CLIENT}/grub.cfg": b"echo the rule works\nsleep 600\n"}
    pc = boot("EFI/BOOT/grubx64.efi", "GRUB", files, *EFI)
    pc.wait_for("the rule works")
    assert pc.given()["EFI/BOOT/grubx64.efi"] == "/grubx64.efi"
    assert pc.given()["grub/grub.cfg"] == f"/by-ip/{CLIENT}/grub.cfg"
