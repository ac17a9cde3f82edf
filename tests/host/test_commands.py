"""What all commands share: exit statuses, --quiet and progress, --json, and `doctor`."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from board import ROOT
from command import complain, shown_on
from made import made_uf2
from tools import boards, doctor, firmware
from tools.__main__ import COMMANDS, FAILED, WRONG_USAGE


def tool(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools", *map(str, arguments)]
    everything = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=everything)


# Exit statuses


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (("fly",), ""),
        (("--fly",), ""),
        (("boards", "--fly"), " boards"),
        (("--fly", "boards"), " boards"),
        (("boards", "x"), " boards"),
        (("flash",), " flash"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2_and_names_the_help(words: tuple[str, ...], program: str):
    result = tool(*words)
    assert result.returncode == WRONG_USAGE == 2 and result.stdout == ""
    assert re.fullmatch(rf"error: .+ \(see python -m tools{program} --help\)\n", result.stderr), result.stderr


def test_a_command_that_fails_ends_with_status_1():
    assert tool("firmware", "--board", "nope").returncode == FAILED == 1


# --json


def test_boards_as_json_are_the_facts_of_all_boards():
    facts = json.loads(tool("boards", "--json").stdout)
    assert list(facts) == boards.names() and facts["rpi_pico_w"] == boards.load("rpi_pico_w")


def test_firmware_as_json_tells_where_the_file_is(tmp_path: Path):
    (tmp_path / "RPI_PICO_W-mine.uf2").write_bytes(made_uf2())
    options = ["--board", "rpi_pico_w", "--from", tmp_path / "RPI_PICO_W-mine.uf2", "--allow-unknown", "--json"]
    facts = json.loads(tool("firmware", *options, MICROPYTHON_TFTPD_CACHE=str(tmp_path / "cache")).stdout)
    assert Path(facts["file"]).read_bytes() == made_uf2()
    assert (facts["version"], facts["chip"], facts["known"]) == ("v9.9.9", "rp2040", False)


def test_an_inspected_image_as_json_shows_no_password(tmp_path: Path):
    (tmp_path / "base.uf2").write_bytes(made_uf2())
    secrets = ["--set", "password=geheimnis", "--set", "http_password=verborgen", "--set", "ssid=lab"]
    options = ["--board", "rpi_pico_w", "--base", tmp_path / "base.uf2", "--files", "files", *secrets]
    assert "geheimnis" not in tool("image", *options, "-o", tmp_path / "image.uf2", "--json").stdout
    for form in ([], ["--json"]):
        result = tool("image", "--inspect", tmp_path / "image.uf2", *form)
        assert "geheimnis" not in result.stdout and "verborgen" not in result.stdout and "(not shown)" in result.stdout
    facts = json.loads(tool("image", "--inspect", tmp_path / "image.uf2", "--json").stdout)
    assert facts["settings"]["ssid"] == "lab" and facts["files"]["/files/hello.txt"] == 23
    assert facts["filesystem"] == {"offset": 0x12C000, "bytes": 868_352}


def test_flash_as_json_asks_nothing(tmp_path: Path):
    assert "add --yes" in complain("flash", "--board", "rpi_pico_w", tmp_path / "x.uf2", "--json")


# Progress


def on_a_terminal(code: str) -> str:
    """What Python code prints to standard error, if that is a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = shown_on(ours)
    assert process.returncode == 0, shown
    return shown.decode()


WAIT = "import time\nfrom tools import boards\n{}with boards.waiting('booting'):\n    time.sleep(0.3)"


def test_long_work_shows_a_clock_on_a_terminal_and_erases_it():
    shown = on_a_terminal(WAIT.format(""))
    assert "booting" in shown and "0:00:00" in shown
    assert shown.rindex("\x1b[2K") > shown.rindex("0:00:00"), "the clock is not erased"


def test_long_work_shows_nothing_with_quiet_and_only_a_line_without_a_terminal():
    assert on_a_terminal(WAIT.format("boards.be_quiet()\n")) == ""
    result = subprocess.run([sys.executable, "-c", WAIT.format("")], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr == "booting\n" and result.stdout == ""


def test_quiet_is_an_option_of_every_command():
    assert tool("boards", "--quiet").returncode == 0
    for name in COMMANDS:
        if name not in ("bench", "boards"):
            assert "--quiet" in tool(name, "--help").stdout, name


# doctor


def findings(*options: str, status: int = 0, environment: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    result = tool("doctor", "--json", *options, **(environment or {}))
    assert result.returncode == status and result.stderr == "", result
    return {one["what"]: one for one in json.loads(result.stdout)}


def test_doctor_finds_what_every_command_needs():
    found = findings("--board", "unix")
    assert all(one["ok"] for one in found.values() if one["needed"])
    assert "MicroPython" in found["MicroPython's Unix port"]["found"] and "mpy v6" in found["mpy-cross"]["found"]


def test_doctor_fails_without_the_unix_port_and_says_how_to_get_it():
    one = findings(status=1, environment={"MICROPYTHON": "/nowhere/micropython"})["MicroPython's Unix port"]
    assert one["found"] == "/nowhere/micropython is missing" and "make setup" in one["mend"] and not one["ok"]
    text = tool("doctor", MICROPYTHON="/bin/false").stdout
    assert "MISSING" in text and "fails with status 1" in text


def test_doctor_names_the_command_that_downloads_a_board_s_firmware(tmp_path: Path):
    empty = {"MICROPYTHON_TFTPD_CACHE": str(tmp_path), "QEMU_ESP32": str(tmp_path)}
    found = findings("--board", "esp32_c3", status=1, environment=empty)
    assert found["MicroPython for esp32_c3"]["mend"] == "python -m tools firmware --board esp32_c3"
    assert "QEMU_ESP32" in found["QEMU of the esp32c3"]["found"] and "PICSimLab" in found["QEMU of the esp32c3"]["mend"]
    assert "MicroPython for esp32" not in found
    optional = findings(environment=empty)  # without --board nobody needs them
    assert not optional["MicroPython for esp32_c3"]["ok"] and "QEMU of the esp32" in optional


def test_doctor_reports_a_damaged_firmware_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MICROPYTHON_TFTPD_CACHE", str(tmp_path))
    board = boards.load("rpi_pico_w")
    path = tmp_path / "firmware" / board["firmware"][0]["file"]
    path.parent.mkdir()
    path.write_bytes(made_uf2())
    (one,) = doctor._of_boards({"rpi_pico_w": board}, True)
    assert "damaged" in one.found and one.mend and path.read_bytes() == made_uf2()


def test_doctor_tells_how_to_get_the_right_to_use_a_serial_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    device = tmp_path / "ttyACM0"
    device.touch()
    port = SimpleNamespace(device=str(device), description="Board in FS mode", vid=0x2E8A)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [port])
    (one,) = doctor._serial()
    assert one.what == str(device) and not one.mend
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may use everything
    (one,) = doctor._serial()
    assert one.mend == f"sudo usermod -aG {device.group()} $USER, then log in again"
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [])
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000])
    monkeypatch.setattr("grp.getgrall", lambda: [SimpleNamespace(gr_name="dialout", gr_gid=20)])
    (one,) = doctor._serial()
    assert one.mend == "sudo usermod -aG dialout $USER, then log in again"
    monkeypatch.setattr(os, "getgroups", lambda: [1000, 20])
    assert not next(doctor._serial()).mend


def test_doctor_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MICROPYTHON_TFTPD_CACHE", str(tmp_path))
    monkeypatch.setattr(firmware, "_download", lambda *_: pytest.fail("it downloads"))
    list(doctor._of_boards({name: boards.load(name) for name in boards.names()}, False))
    assert not list(tmp_path.iterdir())


def test_the_documents_list_every_command():
    listed = re.findall(r"^\| (`.+?) \|", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    named = {name for cell in listed for name in re.findall(r"`([a-z-]+)`", cell)}
    assert set(COMMANDS) <= named
