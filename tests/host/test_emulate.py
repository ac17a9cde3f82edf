"""`python -m tools emulate`: options, ready line, end and error messages."""

import argparse
import hashlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from board import ROOT, Board
from client import TftpError, Wire, fetch
from command import complain
from served import SERVED, content
from tools import emulate


def tree(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_on_a_signal(files: Path, tmp_path: Path, monkeypatch, number: int):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = tree(files)
    board = Board("--flash-size", "8M", files=files)
    assert board.ready == f"ready {board.url}"
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o700], "settings are in it"
    assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]
    assert board.stop(number) == 0
    assert not list(tmp_path.iterdir()), "temporary files are left"
    assert tree(files) == before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(board.address)  # the port is free again


def test_ctrl_c_ends_transfers_with_an_error_to_each_client(start):
    board = start()
    wires = [Wire(board.address) for _ in range(3)]
    for wire in wires:
        wire.ask("size-5000")
    assert board.stop() == 0
    for wire in wires:
        packet = wire.receive()
        while packet[:2] == b"\0\3":  # retransmissions
            packet = wire.receive()
        assert TftpError(packet).text == "the server stops"
    assert board.console[-1].endswith("stopped")


def test_bad_input_is_one_line_and_a_status(files: Path, tmp_path: Path):
    assert "no board is called 'nope'; there are: unix, " in complain("emulate", "--board", "nope", "--files", files)
    assert "is not a folder" in complain("emulate", "--files", tmp_path / "missing")
    assert "--port" in complain("emulate", "--files", files, "--port", "70000")
    assert "--port: expected a whole number from 0 to 65535, not 'x'" in complain("emulate", "--port", "x")
    assert "expected a size" in complain("emulate", "--files", files, "--flash-size", "lots")
    assert "expected a size" in complain("emulate", "--files", files, "--heap", "-1")
    assert "--host" in complain("emulate", "--files", files, "--host", "256.1.1.1")
    assert "takes KEY=VALUE" in complain("emulate", "--files", files, "--set", "windowsize")
    assert "--set port=70: on the everyday board, use --port" in complain("emulate", "--set", "port=70")
    for option in ("--files", "--save", "--log"):
        assert f"{option}: expected the name of a file or folder" in complain("emulate", option, "")
    assert "--host: expected an IPv4 address" in complain("emulate", "--host", "localhost")
    assert "--sockets: expected a whole number from 0 to" in complain("emulate", "--sockets", "-1")
    assert "is too small for a filesystem" in complain("emulate", "--files", files, "--flash-size", "4K")
    for save in ("/dev/full", tmp_path, tmp_path / "no" / "flash.img"):
        assert f"can't write {save}: " in complain("emulate", "--files", files, "--save", save)
    said = complain("emulate", "--files", files, "--set", "windowsize=0", "--set", "nope=1")
    assert "windowsize must be a whole number from 1 to 1024, not 0" in said and 'no setting is called "nope"' in said
    assert "invalid choice" in complain("fly")
    assert "unrecognized arguments: --fly" in complain("emulate", "--fly")
    missing = {"MICROPYTHON": "/nowhere/micropython"}
    assert "/nowhere/micropython is missing" in complain("emulate", "--files", files, environment=missing)


def test_tools_without_a_command_list_the_commands():
    result = subprocess.run([sys.executable, "-m", "tools"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (
        result.returncode == 0 and re.search("emulate +boot an emulated board", result.stdout) and result.stderr == ""
    )


def test_a_full_device_and_a_closed_pipe_give_no_traceback():
    command = [sys.executable, "-m", "tools", "boards"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=20)
    assert result.returncode == 1 and result.stderr == "error: [Errno 28] No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=20)
    os.close(writer)
    assert result.returncode == 1 and result.stderr == ""


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ((), []),
        (("PORT=", "FILES=", "BOARD=", "FLASH="), []),
        (("PORT=7000", "FLASH=16M", "BOARD=esp32"), ["--board=esp32", "--port=7000", "--flash-size=16M"]),
        (('FILES=/a/my firm\'ware "$$HOME";id',), ['--files=/a/my firm\'ware "$HOME";id']),
    ],
)
def test_make_run_passes_every_value_unchanged(tmp_path: Path, variables: tuple[str, ...], arguments: list[str]):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "python"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    (tmp_path / "stamp").touch()
    command = ["make", "-s", "-o", f"{tmp_path}/stamp", f"VENV={tmp_path}", "run", *variables]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.stdout.splitlines() == ["-m", "tools", "emulate", *arguments], result.stderr


def test_a_port_in_use_is_reported(files: Path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        assert f"can't listen on 127.0.0.1 port {port}: Address already in use" in complain(
            "emulate", "--files", files, "--port", port
        )


def test_files_that_do_not_fit_are_refused_with_the_bytes_missing(tmp_path: Path):
    (tmp_path / "big.bin").write_bytes(bytes(1_000_000))
    said = complain("emulate", "--files", tmp_path)
    missing = int(said.split("need ")[1].split(" bytes")[0].replace(",", ""))
    assert "of 868,352 bytes of flash" in said.replace("than the", "of")
    assert said.endswith("take a larger flash: --flash-size 2M (make run FLASH=2M)")
    # With exactly that much more it fits, with one block less it does not.
    size = 868_352 + missing
    with Board("--flash-size", str(size), files=tmp_path) as board:
        assert fetch(board.address, "big.bin", ("blksize", 1468), ("windowsize", 64)) == bytes(1_000_000)
    assert "more than" in complain("emulate", "--files", tmp_path, "--flash-size", size - 4096)


def test_a_32_mib_file_is_served(tmp_path: Path):
    data = content(32 << 20)
    (tmp_path / "large.bin").write_bytes(data)
    with Board("--flash-size", "40M", files=tmp_path) as board:
        assert fetch(board.address, "large.bin", ("blksize", 1468), ("windowsize", 32)) == data


def test_a_heap_that_is_too_small_is_reported(files: Path):
    assert (
        "memory" in complain("emulate", "--files", files, "--flash-size", "8M", "--port", "0", "--heap", "24K").lower()
    )


def test_save_keeps_the_flash_for_the_next_start(tmp_path: Path):
    served, saved = tmp_path / "served", tmp_path / "flash.img"
    served.mkdir()
    (served / "a").write_bytes(b"first")
    with Board("--save", str(saved), files=served) as board:
        assert fetch(board.address, "a") == b"first"
    assert saved.stat().st_size == 868_352
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600, "there may be a password in it"
    (served / "a").write_bytes(b"second")
    (served / "b").write_bytes(b"new")
    with Board("--save", str(saved), files=served) as board:
        assert fetch(board.address, "a") == b"first", "what lies on the flash goes before the folder"
        assert fetch(board.address, "b") == b"new"
    assert "give its --flash-size" in complain(
        "emulate", "--files", served, "--save", saved, "--flash-size", "1M", "--port", 0
    )
    saved.write_bytes(bytes(868_352))
    assert "the saved flash can't be used" in complain("emulate", "--files", served, "--save", saved, "--port", 0)


def test_a_saved_file_in_the_place_of_a_folder_is_reported(tmp_path: Path):
    served, saved = tmp_path / "served", tmp_path / "flash.img"
    served.mkdir()
    (served / "a").write_bytes(b"a file")
    with Board("--save", str(saved), files=served):
        pass
    (served / "a").unlink()
    (served / "a").mkdir()
    (served / "a" / "b").write_bytes(b"in a folder")
    said = complain("emulate", "--files", served, "--save", saved, "--port", 0)
    assert "the earlier flash has a file where a folder should be" in said


def test_files_that_are_not_served_cause_a_warning(tmp_path: Path):
    for name in (".hidden", "a", "A", "new\nline", "settings.json"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "out").symlink_to("/etc/passwd")
    with Board(files=tmp_path) as board:
        warnings = [line for line in board.console if line.startswith("warning: ")]
    assert warnings == [
        "warning: hidden, so not served: .hidden",
        "warning: a control character in the name, so not served: new\\nline",
        "warning: a link out of the folder, so not served: out",
        "warning: every client can fetch what looks like a board's settings: settings.json",
        "warning: names differ only in case, so a client may get the wrong file: A and a",
    ]


def test_an_empty_folder_for_uploads_is_created(tmp_path: Path):
    (tmp_path / "incoming").mkdir()
    with Board("--writable", "--set", 'write_to=["/incoming", "/new"]', files=tmp_path) as board:
        for name in ("incoming/a", "new/a"):
            with Wire(board.address) as wire:
                assert wire.ask(name, opcode=2) == b"\0\4\0\0"


def test_a_board_that_takes_long_to_start_says_so(tmp_path: Path, monkeypatch, capfd):
    def soon(*arguments: object) -> emulate._Machine:
        return emulate._Machine(["sh", "-c", "echo link: up; echo ' ready on '"], tmp_path / "flash", ["odd"], 5, 5)

    monkeypatch.setattr(emulate, "_genuine", soon)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    arguments = argparse.Namespace(board="rpi_pico_w", save=None, log=None, host="127.0.0.1", port=0)
    assert emulate.run(arguments) == 0
    told = capfd.readouterr().err.splitlines()
    assert told[:2] == ["warning: odd", "booting the Pico W, which takes half a minute"] and "link: up" in told


def test_unprintable_characters_are_escaped_on_the_console(tmp_path: Path, monkeypatch, capfd):
    said = r"printf ' ready on \n\033[31m\342\200\256\r\n'"
    machine = emulate._Machine(["sh", "-c", said], tmp_path / "flash", [], 5, 5)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert emulate._Board(machine, 2).serve("tftp://x/") == 0
    assert capfd.readouterr().err.splitlines()[1:] == [r"\x1b[31m\u202e"]


def test_a_console_that_nobody_reads_does_not_block_the_board(files: Path):
    command = [sys.executable, "-m", "tools", "emulate", "--files", str(files), "--port", "0", "--flash-size", "8M"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().split()[1]
        address = ("127.0.0.1", int(url.split(":")[2].strip("/")))
        for _ in range(800):  # over 64 KiB of journal
            assert fetch(address, "hello.txt") == SERVED["hello.txt"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 0


def board_with(tmp_path: Path, **scripts: str) -> list[str]:
    """The command that runs the everyday board on a flash with these scripts."""
    sys.path.insert(0, str(ROOT))
    from tools import boards, filesystem

    board = boards.load("unix")
    files = filesystem.board_files({"ssid": "x", "address": "127.0.0.1", "port": 0}, board["settings"])
    files |= {f"/{name}.py": text.encode() for name, text in scripts.items()}
    (tmp_path / "flash").write_bytes(filesystem.build(board["filesystem"], 868_352, files))
    return boards.everyday(tmp_path / "flash", board["filesystem"], 256 << 10)


def test_safe_mode_skips_the_server(tmp_path: Path):
    script = "open('/safe', 'w').close()"
    result = subprocess.run(board_with(tmp_path, boot=script), cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert result.returncode == 0 and "safe mode" in result.stdout and "ready" not in result.stdout


def test_the_boot_button_skips_the_server(tmp_path: Path):
    script = "import machine; held = [0, 0]; machine.Pin.value = lambda self, value=None: held.pop() if held else 1"
    result = subprocess.run(board_with(tmp_path, boot=script), cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert result.returncode == 0 and "safe mode" in result.stdout


def test_a_broken_settings_file_does_not_lock_the_user_out(tmp_path: Path):
    for text in ("{", "[]", '{"port": "x", "ssid": "y"}', ""):
        script = (
            f"f = open('/settings.json', 'w'); f.write({text!r}); f.close(); import settings; print(settings.load())"
        )
        command = board_with(tmp_path, boot=script, main="")
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
        assert result.returncode == 0, result.stderr
        assert "/settings.json: " in result.stdout and "'port': 69" in result.stdout


def test_a_stopped_server_starts_again_in_the_same_process(tmp_path: Path):
    main = """
import settings, socket, tftpd
chosen = settings.defaults()
chosen.update({"address": "127.0.0.1", "port": 47069, "log": "error"})
with open("/files/x", "w") as file:
    file.write("x" * 600)
server = tftpd.Server(chosen)
to = socket.getaddrinfo("127.0.0.1", 47069)[0][-1]
for life in range(3):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.poll(0)
    client.sendto(b"\\0\\1x\\0octet\\0", to)
    server.poll(1000 if life == 1 else 0)
    data, tid = client.recvfrom(600)
    assert data == b"\\0\\3\\0\\1" + b"x" * 512, data
    assert server.stats()["transfers"] == 1
    server.stop()
    assert client.recvfrom(600)[0] == b"\\0\\5\\0\\0the server stops\\0"
    assert server.stats()["transfers"] == 0
    assert not (server.ports.bound or server.ports.twins or server.ports.clients or server.ports.sessions)
    client.close()
def tick(server):
    server.stop()
server.serve_forever(tick)
print("fine")
"""
    result = subprocess.run(board_with(tmp_path, main=main), cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert result.stdout.endswith("fine\n"), result.stdout + result.stderr


@pytest.mark.everyday_only("a genuine board cannot be made to hang from outside")
def test_the_watchdog_restarts_a_board_that_hangs(start):
    board = start("--set", "windowsize=8")
    assert fetch(board.address, "hello.txt")
    pids = subprocess.run(["pgrep", "-P", str(board.process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(pids[0]), signal.SIGSTOP)  # hangs
    board.wait_for("watchdog", seconds=15)
    board.wait_for("ready on", after=len(board.console))
    assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]


def test_a_reset_starts_the_board_again(tmp_path: Path, files: Path):
    saved = tmp_path / "flash.img"
    sys.path.insert(0, str(ROOT))
    from tools import boards, filesystem

    board = boards.load("unix")
    script = "import link, machine, os, settings\nlink.join(settings.load())\n"
    script += "if 'once' not in os.listdir('/'):\n"
    script += "    open('/once', 'w').close()\n    print('resetting')\n    machine.reset()\n"
    kept = {"/files/hello.txt": SERVED["hello.txt"]}
    saved.write_bytes(filesystem.build(board["filesystem"], 868_352, kept))
    original = (ROOT / "boot.py").read_bytes()
    assert b"machine" not in original
    # Each start rewrites boot.py, so the script is in a module that boot.py imports.
    kept["/link.py"] = script.replace("import link, ", "import ").replace("link.join(settings.load())", "").encode()
    kept["/link.py"] += b"\ndef join(chosen):\n    return True\ndef keep():\n    return True\n"
    saved.write_bytes(filesystem.build(board["filesystem"], 868_352, kept))
    empty = tmp_path / "empty"
    empty.mkdir()
    with Board("--save", str(saved), files=empty) as running:
        assert fetch(running.address, "hello.txt") == SERVED["hello.txt"]
        assert running.wait_for("resetting")
        assert json.dumps(running.console).count("ready on") == 1


def test_a_link_that_can_not_be_set_up_is_reported_and_the_server_starts(tmp_path: Path):
    (tmp_path / "small").write_bytes(b"small")
    with Board("--set", 'wired={"phy_type": "PHY_OF_NO_BOARD"}', files=tmp_path) as running:
        assert fetch(running.address, "small") == b"small"
        assert running.wait_for("link: ").startswith("link: ")


def test_ctrl_c_right_after_a_transfer_is_not_a_crash(tmp_path: Path):
    # The end of the last transfer collects garbage, and the Unix port handles an interrupt there badly.
    (tmp_path / "small").write_bytes(b"small")
    for _ in range(6):
        with Board(files=tmp_path) as running:
            assert fetch(running.address, "small") == b"small"
            assert running.stop() == 0
        assert running.console[-1].endswith(" stopped"), running.console


def test_the_ready_line_comes_within_seconds(files: Path):
    started = time.monotonic()
    with Board("--flash-size", "8M", files=files):
        assert time.monotonic() - started < 10
