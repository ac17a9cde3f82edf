"""Real clients against the everyday board: curl, tftp-hpa's tftp, atftp, busybox tftp."""

import shutil
import subprocess
from pathlib import Path

import pytest

from board import Board
from served import SERVED, content
from tools.labs.pytest_plugin import Start, TftpBoard

# A real boot loader of some MB, from Debian's u-boot-qemu, ipxe or grub packages; synthetic if none is installed.
BOOT_FILES = (
    "/usr/lib/ipxe/ipxe.iso",
    "/usr/lib/u-boot/qemu_arm64/u-boot.bin",
    "/usr/lib/u-boot/qemu-x86_64/u-boot.rom",
)


def command(client: str, board: Board | TftpBoard, name: str, target: Path, mode: str = "octet") -> list[str]:
    """The command line that fetches `name` with that client."""
    host, port = board.address[0], str(board.address[1])
    ascii_ = mode == "netascii"
    return {
        "curl": [
            "curl",
            "-sS",
            "-o",
            str(target),
            f"tftp://{host}:{port}/{name}" + (";mode=netascii" if ascii_ else ""),
        ],
        "curl-1428": ["curl", "-sS", "--tftp-blksize", "1428", "-o", str(target), f"tftp://{host}:{port}/{name}"],
        "curl-plain": ["curl", "-sS", "--tftp-no-options", "-o", str(target), f"tftp://{host}:{port}/{name}"],
        "tftp": ["tftp", "-m", "ascii" if ascii_ else "binary", host, port, "-c", "get", name, str(target)],
        "atftp": ["atftp", "-g", "-r", name, "-l", str(target), host, port],
        "atftp-1428x16": [
            *("atftp", "--option", "blksize 1428", "--option", "windowsize 16", "--option", "tsize 0"),
            *("--option", "timeout 2", "-g", "-r", name, "-l", str(target), host, port),
        ],
        "busybox": ["busybox", "tftp", "-g", "-r", name, "-l", str(target), host, port],
        "busybox-1468": ["busybox", "tftp", "-b", "1468", "-g", "-r", name, "-l", str(target), host, port],
    }[client]


CLIENTS = ["curl", "curl-1428", "curl-plain", "tftp", "atftp", "atftp-1428x16", "busybox", "busybox-1468"]


def get(
    client: str, board: Board | TftpBoard, name: str, target: Path, mode: str = "octet"
) -> subprocess.CompletedProcess[str]:
    line = command(client, board, name, target, mode)
    if not shutil.which(line[0]):
        pytest.skip(f"{line[0]} is not installed (Debian: curl, tftp-hpa, atftp, busybox)")
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", ["empty", "size-1", "size-512", "size-1468", "size-100000", "mebi.bin"])
def test_files_arrive_whole(board: Board, tmp_path: Path, client: str, name: str):
    result = get(client, board, name, tmp_path / "got")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "got").read_bytes() == SERVED[name]


@pytest.mark.parametrize("client", ["curl", "tftp"])
def test_netascii_text_arrives_as_it_was(board: Board, tmp_path: Path, client: str):
    result = get(client, board, "text.txt", tmp_path / "got", mode="netascii")
    assert result.returncode == 0, result.stderr
    wanted = SERVED["text.txt"]
    if client == "curl":  # does not convert line ends
        wanted = wanted.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    assert (tmp_path / "got").read_bytes() == wanted


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_report_a_missing_file(board: Board, tmp_path: Path, client: str):
    result = get(client, board, "missing", tmp_path / "got")
    said = result.stdout + result.stderr
    assert "not found" in said.lower() or result.returncode == 68, said  # 68 is curl's "file not found"


@pytest.fixture(scope="module")
def boot_loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 3 MB boot file made of real ones."""
    folder = tmp_path_factory.mktemp("boot")
    real = b"".join(Path(name).read_bytes() for name in BOOT_FILES if Path(name).exists())
    (folder / "boot.img").write_bytes((real or content(3_000_000))[:3_000_000])
    (folder / "hello.txt").write_bytes(SERVED["hello.txt"])
    return folder


@pytest.fixture(scope="module")
def boot_server(boot_loader: Path, tftp_board_factory: Start) -> TftpBoard:
    return tftp_board_factory(boot_loader, "--flash-size", "16M")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_boot_loader_arrives_whole(boot_server: TftpBoard, boot_loader: Path, tmp_path: Path, client: str):
    result = get(client, boot_server, "boot.img", tmp_path / "got")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "got").read_bytes() == (boot_loader / "boot.img").read_bytes()
