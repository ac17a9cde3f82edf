"""board/NAME/board.json: consistent, and in agreement with the firmware and with esptool."""

import argparse
import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import esptool
import pytest
import settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from board import ROOT
from command import complain
from tools import ToolError, boards, filesystem, printable

HARDWARE = [name for name in boards.names() if name != "unix"]
FIELDS = {"id", "product", "vendor", "mcu", "docs", "url", "features", "deploy"}
FIELDS |= {"filesystem", "heap", "udp_sockets", "settings"}
HARDWARE_FIELDS = FIELDS | {"flash_size", "flashing", "firmware", "sources"}


def test_the_boards_are_those_of_the_readme():
    assert boards.names()[0] == "unix"
    named = {"rpi_pico_w", "rpi_pico2_w", "esp32", "esp32_s3", "esp32_c3", "wt32_eth01", "w5500_evb_pico"}
    assert named <= set(HARDWARE)


@pytest.mark.parametrize("name", boards.names())
def test_each_board_has_all_fields_and_good_settings(name: str):
    board = boards.load(name)
    assert (HARDWARE_FIELDS if name in HARDWARE else FIELDS) <= set(board)
    chosen = settings.defaults()
    assert settings.update(chosen, board["settings"]) == []
    assert {"transfers", "windowsize", "led", "button"} <= set(board["settings"])
    layout = board["filesystem"]
    assert layout["size"] % layout["block_size"] == 0 and layout["block_size"] == 4096
    assert layout["block_size"] % layout["prog_size"] == 0 == layout["block_size"] % layout["read_size"]


@pytest.mark.parametrize("name", HARDWARE)
def test_the_facts_of_each_board_agree(name: str):
    board = boards.load(name)
    layout = board["filesystem"]
    assert layout["offset"] % 4096 == 0 and layout["offset"] + layout["size"] == board["flash_size"]
    if board["mcu"].startswith("esp32"):
        chip = esptool.CHIP_DEFS[board["mcu"]]
        assert int(board["deploy_options"]["flash_offset"], 0) == chip.BOOTLOADER_FLASH_OFFSET
        assert f"{board['flash_size'] >> 20}MB" in chip.FLASH_SIZES
        assert board["flashing"]["how"] == "esptool" and board["flashing"]["press"]
    else:
        assert board["flashing"]["how"] == "uf2" and board["flashing"]["drive"]
        assert layout["prog_size"] == 256, "MicroPython's rp2 port mounts with it"
    assert len({entry["version"] for entry in board["firmware"]}) == len(board["firmware"])
    for entry in board["firmware"]:
        assert entry["url"] == f"https://micropython.org/resources/firmware/{entry['file']}"
        assert re.fullmatch(r"[A-Z0-9_]+-\d{8}-(v\d+\.\d+\.\d+)\.(uf2|bin)", entry["file"])
        assert entry["version"].startswith(entry["file"].split("-")[2].rsplit(".", 1)[0])
        assert (entry["sha256"] is None) == (entry["size"] is None)
        assert entry["sha256"] is None or re.fullmatch("[0-9a-f]{64}", entry["sha256"])
    text = "\n".join(board["sources"])
    assert "https://github.com/micropython/micropython/" in text and "SHA-256" in text


def test_the_default_firmware_of_the_pico_w_has_a_receive_queue_of_4():
    assert boards.load("rpi_pico_w")["firmware"][0]["version"] == "v1.26.1"


def test_the_boards_command_lists_every_board():
    command = [sys.executable, "-m", "tools", "boards"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    for name in boards.names():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        board = boards.load(name)
        assert board["mcu"] in line and boards.format_size(board["filesystem"]["size"]) in line
        assert all(entry["version"] in line for entry in board.get("firmware", ()))
        assert ("Wi-Fi" in line) == (name not in ("unix", "wt32_eth01", "w5500_evb_pico"))
    assert "unrecognized arguments" in complain("boards", "--fly")


@pytest.mark.parametrize(("text", "size"), [("848K", 868_352), ("4M", 4 << 20), ("2560K", 2_621_440), ("1000", 1000)])
def test_sizes_are_read_as_they_are_written(text: str, size: int):
    assert boards.parse_size(text) == size and boards.format_size(size) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5M", "1T", "257M", "99999999999999999999", "٣M"])
def test_an_invalid_flash_size_is_refused(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a size such as 848K or 16M, up to 256M, not"):
        boards.parse_size(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße 名前", "Grüße 名前"),
        ("\x1b[2J\x07\x9b", "\\x1b[2J\\x07\\x9b"),
        ("a\u202eb\u2028c\u200bd\u2066", "a\\u202eb\\u2028c\\u200bd\\u2066"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\udcff", "\\udcff"),
    ],
)
def test_unprintable_characters_are_shown_as_escapes(text: str, shown: str):
    assert printable(text) == shown and shown.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=60) | st.dictionaries(st.text(), JSON, max_size=3).map(lambda one: json.dumps(one).encode()))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_settings_file_is_read_or_raises_a_tool_error(tmp_path: Path, data: bytes):
    (tmp_path / "settings.json").write_bytes(data)
    with contextlib.suppress(ToolError):
        boards.read_settings(tmp_path / "settings.json")


@hypothesis_settings(deadline=5000, max_examples=40)
@given(
    st.dictionaries(st.sampled_from(list(settings.TABLE)) | st.text(st.characters(codec="utf-8")), JSON, max_size=3),
    st.lists(st.text(st.characters(exclude_characters="\0")), max_size=2),
)
def test_any_settings_are_accepted_or_raise_a_tool_error(values: dict, pairs: list[str]):
    with contextlib.suppress(ToolError):
        checked = boards.check_settings(values, pairs, "a file")
        assert checked.keys() <= settings.TABLE.keys()


def test_a_character_past_u_ffff_reaches_the_board_unchanged():
    checked = boards.check_settings({"ssid": "lab \U0001f4f6"}, ["hostname=lab"])
    assert checked == {"ssid": "lab \U0001f4f6", "hostname": "lab"}
    code = "import settings, json, sys; print(json.load(sys.stdin)['ssid'].encode())"
    files = filesystem.board_files(checked, {})
    command = [boards.micropython(), "-c", code]
    said = subprocess.run(command, input=files["/settings.json"], capture_output=True, cwd=ROOT / "firmware").stdout
    assert eval(said) == checked["ssid"].encode()


def test_an_unknown_board_is_refused_with_a_list_of_the_known_ones():
    for name in ("nope", "..", "unix/", ""):
        with pytest.raises(ToolError, match="there are: unix, esp32, "):
            boards.load(name)
