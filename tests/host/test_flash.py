"""`python -m tools flash` and `monitor`, with a folder as the drive of the boot mode, the ROM of an emulated ESP32-C3
for esptool, and pseudo-terminals and sockets as consoles."""

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, ClassVar

import esptool
import pytest

from board import ROOT, missing
from command import complain, until
from made import FACTORY, NVS, VFS, made_esp, made_uf2, table
from tools import ToolError, boards, flash, image, monitor

BOOT = b"MPY: soft reboot\r\nlink: up, 192.168.1.23\r\n0.001 ready on 0.0.0.0:69, files in /files\r\n"
PROMPT = b'Type "help()" for more information.\r\n>>> '


class Console:
    """The console of a board, a pseudo-terminal: `name` is its device, `typed` the input that it received.

    says     output that the board repeats, as output before the port is opened is lost
    answers  input, and the board's output after it
    """

    alive: ClassVar[list["Console"]] = []

    def __init__(self, says: bytes = b"", *answers: tuple[bytes, bytes]) -> None:
        self.typed = b""
        self._says = says
        self._answers = list(answers)
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        self.name = os.ttyname(self._theirs)
        self._threads = [threading.Thread(target=work) for work in (self._listen, self._repeat)]
        self._pulled = threading.Event()
        for thread in self._threads:
            thread.start()
        self.alive.append(self)

    def _listen(self) -> None:
        while not self._pulled.is_set():
            if select.select([self._ours], [], [], 0.05)[0]:
                self.typed += os.read(self._ours, 1024)
                while self._answers and self.typed.endswith(self._answers[0][0]):
                    self.say(self._answers.pop(0)[1])

    def _repeat(self) -> None:
        while self._says and not self._pulled.wait(0.4):
            if select.select([], [self._ours], [], 0)[1]:
                self.say(self._says)

    def say(self, data: bytes) -> None:
        os.write(self._ours, data)

    def pull(self) -> None:
        """Pull the plug."""
        self.alive.remove(self)
        self._pulled.set()
        for thread in self._threads:
            thread.join()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture(autouse=True)
def no_console_is_left() -> Iterator[None]:
    yield
    for console in list(Console.alive):
        console.pull()


def port_at(name: object) -> monitor.Port:
    return monitor.Port(lambda: str(name))


def drive(folder: Path, label: str = "RPI-RP2") -> Path:
    """A folder in the place of the boot ROM's drive."""
    folder.mkdir(parents=True)
    (folder / "INFO_UF2.TXT").write_bytes(
        f"UF2 Bootloader v3.0\r\nModel: Raspberry Pi\r\nBoard-ID: {label}\r\n".encode()
    )
    return folder


@pytest.fixture
def uf2(tmp_path: Path) -> Path:
    path = tmp_path / "made.uf2"
    path.write_bytes(made_uf2(size=200_000))
    return path


@pytest.fixture
def nothing_is_plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch)


def plug_in(monkeypatch: pytest.MonkeyPatch, *ports: tuple[str, int | None]) -> None:
    """Make these the serial ports of this computer, with device and USB vendor; there are no drives."""
    found = [SimpleNamespace(device=device, vid=vendor, description=f"what is at {device}") for device, vendor in ports]
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: found)
    monkeypatch.setattr(flash, "_MOUNTS", ())
    monkeypatch.setattr(flash, "_BY_LABEL", "/nowhere/")


def run(board: str, image: Path, *, device: str | None = None, where: Path | None = None, yes: bool = True) -> int:
    return flash.run(argparse.Namespace(board=board, image=image, device=device, drive=where, yes=yes, json=False))


# RP2


def test_an_image_is_copied_to_the_drive_and_the_board_s_address_is_shown(uf2: Path, tmp_path: Path):
    where, console = drive(tmp_path / "drive"), Console(BOOT)
    command = ["flash", "--board", "rpi_pico_w", uf2, "--drive", where, "--device", console.name, "--yes"]
    result = subprocess.run(
        [sys.executable, "-m", "tools", *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stderr
    assert "v9.9.9 for Test board" in result.stdout and result.stdout.endswith("serving tftp://192.168.1.23/\n")
    assert (where / "made.uf2").read_bytes() == uf2.read_bytes()
    assert sorted(path.name for path in where.iterdir()) == ["INFO_UF2.TXT", "made.uf2"]


def test_as_json_the_result_is_the_board_s_address_and_nothing_else(uf2: Path, tmp_path: Path):
    where, console = drive(tmp_path / "drive"), Console(BOOT)
    command = ["flash", "--board", "rpi_pico_w", uf2, "--drive", where, "--device", console.name, "--yes", "--json"]
    result = subprocess.run(
        [sys.executable, "-m", "tools", *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    facts = json.loads(result.stdout)
    assert facts == {"url": "tftp://192.168.1.23/", "set_up": None, "board": "rpi_pico_w", "file": str(uf2)}
    assert result.stderr == "waiting until it serves\n"


def test_nothing_is_written_without_confirmation(uf2: Path, tmp_path: Path, monkeypatch, capsys):
    where = drive(tmp_path / "drive")
    asked = []
    for answer in ("", "n", "no", "x"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: asked.append(question) or answer)
        assert run("rpi_pico_w", uf2, where=where, yes=False) == 1
        assert capsys.readouterr().out.endswith("nothing is done\n")
    assert set(asked) == {f"Write {uf2} to the Pico W at {where}? [y/N] "}

    def nobody(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(ToolError, match="--yes flashes"):
        run("rpi_pico_w", uf2, where=where, yes=False)
    assert not (where / "made.uf2").exists()
    console = Console(BOOT)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run("rpi_pico_w", uf2, where=where, device=console.name, yes=False) == 0
    assert (where / "made.uf2").exists()


def test_the_drive_is_found_where_systems_mount_drives(uf2: Path, tmp_path: Path, monkeypatch, nothing_is_plugged_in):
    monkeypatch.setattr(flash, "_MOUNTS", (f"{tmp_path}/media/*/*", f"{tmp_path}/Volumes/*"))
    other = drive(tmp_path / "Volumes" / "RP2350", "RP2350")
    (tmp_path / "Volumes" / "Backup").mkdir()
    with pytest.raises(ToolError, match=f"hold BOOTSEL while .*RPI-RP2 appears; the drive {other} is a RP2350"):
        run("rpi_pico_w", uf2)
    console = Console(BOOT)
    where = drive(tmp_path / "media" / "me" / "RPI-RP2")
    assert run("rpi_pico_w", uf2, device=console.name) == 0
    assert (where / "made.uf2").exists() and not (other / "made.uf2").exists()
    drive(tmp_path / "media" / "me" / "RPI-RP21")
    with pytest.raises(ToolError, match="several boards are in boot mode; choose one with --drive: "):
        run("rpi_pico_w", uf2)


def test_a_drive_that_is_not_mounted_is_reported(uf2: Path, tmp_path: Path, monkeypatch, nothing_is_plugged_in):
    monkeypatch.setattr(flash, "_BY_LABEL", f"{tmp_path}/by-label/")
    (tmp_path / "by-label").mkdir()
    (tmp_path / "by-label" / "RPI-RP2").touch()
    with pytest.raises(ToolError, match=r"udisksctl mount -b .*/by-label/RPI-RP2"):
        run("rpi_pico_w", uf2)


def test_a_board_that_runs_micropython_is_switched_to_its_boot_mode(uf2: Path, tmp_path: Path, monkeypatch):
    console = Console(BOOT)
    plug_in(monkeypatch, (console.name, 0x2E8A), ("/dev/modem", 0x1234), ("/dev/ttyS0", None))
    monkeypatch.setattr(flash, "_MOUNTS", (f"{tmp_path}/media/*",))
    commands = []

    def mpremote(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command[1:])
        threading.Timer(0.3, drive, [tmp_path / "media" / "RPI-RP2"]).start()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("subprocess.run", mpremote)
    assert run("rpi_pico_w", uf2) == 0
    assert commands == [["-m", "mpremote", "connect", console.name, "resume", "bootloader"]]
    assert (tmp_path / "media" / "RPI-RP2" / "made.uf2").read_bytes() == uf2.read_bytes()


def test_a_board_that_restarts_at_the_last_block_counts_as_written(uf2: Path, tmp_path: Path, monkeypatch):
    where = drive(tmp_path / "drive")
    size = uf2.stat().st_size
    goes_at = size

    def fsync(number: int) -> None:
        if os.fstat(number).st_size >= goes_at:
            (where / "INFO_UF2.TXT").unlink(missing_ok=True)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fsync)
    flash._write(where, uf2, uf2.read_bytes())
    for goes_at in (size // 4, 0):  # noqa: B007 (too early)
        with pytest.raises(ToolError, match=r"can't write .*Input/output error"):
            flash._write(where, uf2, uf2.read_bytes())


# ESP32


@pytest.fixture
def rom(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The port of an ESP32-C3 in its download mode, and the file that is its flash."""
    from tools.emulators import qemu

    if reason := missing("esp32_c3"):
        pytest.skip(reason)
    program, roms = qemu.find_chip("esp32c3")
    (tmp_path / "efuse").write_bytes(qemu._c3_efuse())
    (tmp_path / "flash").write_bytes(b"\xff" * (4 << 20))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [program, *roms, "-M", "esp32c3-picsimlab", "-display", "none", "-monitor", "none", "-no-user-config"]
    command += ["-drive", f"file={tmp_path}/flash,if=mtd,format=raw"]
    command += ["-drive", f"file={tmp_path}/efuse,if=none,format=raw,id=efuse"]
    command += ["-global", "driver=nvram.esp32c3.efuse,property=drive,value=efuse"]
    command += ["-global", "driver=timer.esp32c3.timg,property=wdt_disable,value=true"]
    command += ["-global", "driver=esp32c3.gpio,property=strap_mode,value=2"]  # as with BOOT pressed
    command += ["-serial", f"tcp:127.0.0.1:{port},server,nowait"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: can_connect(port))
        yield f"socket://127.0.0.1:{port}", tmp_path / "flash"
        process.kill()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except OSError:
        return False


def test_esptool_writes_the_image_through_the_rom_of_an_esp32_c3(rom: tuple[str, Path]):
    device, flashed = rom
    made = made_esp("esp32c3", table(NVS, FACTORY, VFS))
    flash._flash_esp(boards.load("esp32_c3"), device, 0, made)
    assert flashed.read_bytes()[: len(made)] == made


def test_an_image_for_another_chip_is_refused(rom: tuple[str, Path]):
    device, flashed = rom
    made = made_esp("esp32s3", table(NVS, FACTORY))
    with pytest.raises(ToolError, match=r"ESP32-C3.* not ESP32-S3.*; if esptool can't connect, hold BOOT"):
        flash._flash_esp(boards.load("esp32_s3"), device, 0, made)
    assert set(flashed.read_bytes()) == {0xFF}


def test_esptool_gets_port_speed_and_offset(tmp_path: Path, monkeypatch, capsys):
    said: list[object] = []

    class Chip:
        def __enter__(self) -> "Chip":
            return self

        def __exit__(self, *_: object) -> None:
            said.append("closed")

        def change_baud(self, baud: int) -> None:
            said.append(baud)

    def connect(port: str, chip: str) -> Chip:
        said.append((port, chip))
        return Chip()

    monkeypatch.setattr("esptool.connect_esp", connect)
    monkeypatch.setattr("esptool.run_stub", lambda chip: chip)
    monkeypatch.setattr("esptool.attach_flash", lambda chip: None)
    monkeypatch.setattr("esptool.write_flash", lambda chip, what: said.append([(at, len(data)) for at, data in what]))
    monkeypatch.setattr("esptool.reset_chip", lambda chip, how: said.append(how))
    base, whole = tmp_path / "base.bin", tmp_path / "whole.bin"
    base.write_bytes(made_esp("esp32", table(NVS, FACTORY, VFS)))
    whole.write_bytes(image.make(boards.load("esp32"), ROOT / "files", {}, base=base).data)
    for path, offset in ((base, 0x1000), (whole, 0)):
        console = Console(BOOT.replace(b":69", b":6969"))
        plug_in(monkeypatch, (console.name, 0x10C4), ("/dev/pico", 0x2E8A))
        assert run("esp32", path) == 0
        length = path.stat().st_size
        assert said == [(console.name, "esp32"), 460800, [(offset, length)], "hard-reset", "closed"]
        assert capsys.readouterr().out.endswith("serving tftp://192.168.1.23:6969/\n")
        said.clear()

    def refuse(port: str, chip: str) -> None:
        raise esptool.FatalError("Failed to connect: No serial data received.\nFor troubleshooting see")

    monkeypatch.setattr("esptool.connect_esp", refuse)
    with pytest.raises(ToolError, match=r"^Failed to connect: No serial data received; if esptool.* hold BOOT[^\n]*$"):
        run("esp32", whole)


# Ports


def test_no_board_is_one_line_and_several_boards_are_listed(
    uf2: Path, tmp_path: Path, monkeypatch, nothing_is_plugged_in
):
    esp = tmp_path / "esp.bin"
    esp.write_bytes(made_esp("esp32c3", table(NVS, FACTORY)))
    with pytest.raises(ToolError, match=r"no board is connected .*with --device"):
        run("esp32_c3", esp)
    with pytest.raises(ToolError, match=r"no Pico W is connected: hold BOOTSEL while .*the drive RPI-RP2 appears"):
        run("rpi_pico_w", uf2)
    with pytest.raises(ToolError, match="no board is connected"):
        monitor.run(argparse.Namespace(device=None))
    plug_in(monkeypatch, ("/dev/a", 0x303A), ("/dev/b", 0x1A86), ("/dev/c", 0x2E8A))
    with pytest.raises(ToolError, match=r"with --device: /dev/a \(what is at /dev/a\), /dev/b \(what is at /dev/b\)$"):
        run("esp32_c3", esp)
    assert monitor.find_port("rp2040") == "/dev/c"


def test_bad_input_is_one_line_and_writes_nothing(uf2: Path, tmp_path: Path):
    where, other = drive(tmp_path / "drive"), drive(tmp_path / "other", "RP2350")

    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    def bad(image: Path, *arguments: object, board: str = "rpi_pico_w", where: Path = where) -> str:
        said = complain("flash", "--board", board, image, "--drive", where, "--yes", *arguments)
        assert not list(where.glob("*.uf2"))
        return said

    assert "no board is called 'nope'" in bad(uf2, board="nope")
    assert "nothing to flash" in bad(uf2, board="unix")
    assert "can't read" in bad(tmp_path / "missing.uf2")
    assert "is not firmware" in bad(file("text", b"a text"))
    assert "is for the rp2350, but the Pico W has the rp2040" in bad(file("2350.uf2", made_uf2("rp2350")))
    esp = file("esp.bin", made_esp("esp32", table(NVS, FACTORY)))
    assert "is for the esp32, but the Pico W has the rp2040" in bad(esp)
    assert "is for the esp32, but the ESP32-C3 has the esp32c3" in bad(esp, board="esp32_c3")
    assert "not a whole UF2 file" in bad(file("cut.uf2", uf2.read_bytes()[:-1]))
    assert "is not whole: it has 771 of 781 blocks" in bad(file("short.uf2", uf2.read_bytes()[: -10 * 512]))
    assert "it has no INFO_UF2.TXT" in bad(uf2, where=tmp_path / "nowhere")
    assert f"the drive {other} is a RP2350, but that of the Pico W is a RPI-RP2" in bad(uf2, where=other)
    assert "--drive is for RP2 boards" in bad(esp, board="esp32")
    assert "IMAGE" in complain("flash", "--board", "esp32")
    assert "can't open /nowhere/tty" in complain("monitor", "--device", "/nowhere/tty")
    assert "can't open foo://bar" in complain("monitor", "--device", "foo://bar")
    for device in ("", "socket://", "socket://localhost", "socket://localhost:99999"):
        assert "--device: expected a serial port, or socket://HOST:PORT" in complain("monitor", "--device", device)
    whole = image.make(boards.load("esp32"), ROOT / "files", {}, base=esp).data
    assert "its filesystem is not whole" in bad(file("cut.bin", whole[:-4096]), board="esp32")


# Waiting until it serves


def test_flash_waits_for_a_board_that_reconnects(tmp_path: Path):
    name, first = tmp_path / "ttyBoard", Console(b"\x00\xff\xfe\r\n")

    def restart() -> None:
        time.sleep(0.3)
        name.symlink_to(first.name)
        time.sleep(1)
        name.unlink()
        first.pull()
        time.sleep(0.5)
        name.symlink_to(Console(BOOT).name)

    thread = threading.Thread(target=restart)
    thread.start()
    port = port_at(name)
    assert monitor.wait_until_serving(port, 20) == "tftp://192.168.1.23/"
    thread.join()
    port.close()


def test_flash_waits_for_a_link_that_comes_up_late():
    console = Console(b"link: could not join lab in 20 s, still trying\r\n0.001 ready on 0.0.0.0:69, files in /f\r\n")
    threading.Timer(1, console.say, [b"link: up, 10.0.0.7\r\n"]).start()
    assert monitor.wait_until_serving(port_at(console.name), 10) == "tftp://10.0.0.7/"


def test_flash_shows_how_to_set_up_a_board_without_wifi():
    said = b"set-up: join Wi-Fi tftpd-ABCD, password secret77, open http://192.168.4.1/"
    console = Console(b"link: no ssid in /settings.json\r\n" + said + b"\r\n")
    served = monitor.wait_until_serving(port_at(console.name), 10)
    assert served == f"nothing yet: {said.decode()}"
    assert monitor.facts(served) == {"url": None, "set_up": served}


def test_a_silent_board_is_restarted_so_that_it_prints_its_address():
    console = Console(b"", (b"\r\x03", b"9.001 stopped\r\n" + PROMPT), (b"\x04", b"\r\n" + BOOT))
    assert monitor.wait_until_serving(port_at(console.name), 10, silence=0.5) == "tftp://192.168.1.23/"
    assert console.typed == b"\r\x03\x04"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"", "does not serve after 2 s; its last line on /dev/.*: nothing"),
        (b"rst:0x1 (POWERON)\r\n", r"does not serve after 2 s; its last line .*: rst:0x1 \(POWERON\)"),
        (b"safe mode: the server is not started\r\n" + PROMPT, "runs no server, it is at its prompt; .*Type"),
        (b"ImportError: no module named 'tftpd'\r\n>>> ", "its last line: ImportError: no module named 'tftpd'"),
        (
            b"link: no ssid in /settings.json, so no Wi-Fi\r\n0.001 ready on 0.0.0.0:69, files in /\r\n",
            "nobody can reach it: link: no ssid",
        ),
        (
            b"link: could not join lab in 20 s, still trying\r\n0.001 ready on 0.0.0.0:69, files in /files\r\n",
            "no address after 2 s: link: could not join lab",
        ),
    ],
)
def test_a_board_that_does_not_serve_is_reported_with_its_last_output(said: bytes, complaint: str):
    console = Console(said)
    with pytest.raises(ToolError, match=complaint):
        monitor.wait_until_serving(port_at(console.name), 2)
    assert console.typed == b""


# monitor


@contextlib.contextmanager
def monitoring(device: object) -> Iterator[tuple[IO[str], IO[str]]]:
    """Run `monitor` at that port until Ctrl-C; yields its standard output and standard error."""
    command = [sys.executable, "-m", "tools", "monitor", "--device", str(device)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        try:
            assert process.stderr.readline() == f"{device}: Ctrl-C ends\n"
            yield process.stdout, process.stderr
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=5)[1] == "" and process.returncode == 0
        finally:
            process.kill()


def test_monitor_shows_the_console_and_waits_for_a_board_that_disconnects(tmp_path: Path):
    name, console = tmp_path / "ttyBoard", Console()
    name.symlink_to(console.name)
    with monitoring(name) as (output, errors):
        console.say("0.001 ready on 0.0.0.0:69, files in /Grüße\r\n".encode())
        assert output.readline() == "0.001 ready on 0.0.0.0:69, files in /Grüße\n"
        console.pull()
        assert errors.readline() == f"{name} is gone, waiting for it\n"
        name.unlink()
        console = Console()
        name.symlink_to(console.name)
        assert errors.readline() == f"{name} is back\n"
        console.say(BOOT)
        assert output.readline() == "MPY: soft reboot\n"
    assert console.typed == b""


def test_monitor_escapes_unprintable_characters():
    console = Console()
    with monitoring(console.name) as (output, _):
        console.say("RRQ \x1b[31m\u202e".encode() + b"\xff\xc3")  # in pieces, and not UTF-8
        time.sleep(0.3)
        console.say(b"\xbc\r\nnext\r\n")
        assert output.readline() == r"RRQ \x1b[31m\u202e\xffü" + "\n"
        assert output.readline() == "next\n"


def test_monitor_takes_a_socket():
    with socket.create_server(("127.0.0.1", 0)) as server:
        device = f"socket://127.0.0.1:{server.getsockname()[1]}"
        with monitoring(device) as (output, errors):
            for again in (False, True):
                client, _ = server.accept()
                if again:  # output before the port is open is lost
                    assert errors.readline() == f"{device} is gone, waiting for it\n"
                    assert errors.readline() == f"{device} is back\n"
                client.sendall(BOOT)
                assert "".join(output.readline() for _ in range(3)) == BOOT.decode().replace("\r", "")
                client.close()
            assert errors.readline() == f"{device} is gone, waiting for it\n"
