"""settings.load() inside MicroPython returns usable settings whatever /settings.json contains."""

import json
import subprocess
from pathlib import Path

import pytest

from board import ROOT
from tools.boards import micropython

SCRIPT = """
import json, sys
sys.path.insert(0, "firmware")
import settings
print(json.dumps(settings.load(sys.argv[1:])))
"""


def load(*files: Path) -> tuple[dict[str, object], list[str]]:
    """The settings that differ from the defaults, and the lines on the console."""
    command = [micropython(), "-c", SCRIPT, *map(str, files)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert said.returncode == 0, said.stdout + said.stderr
    default = subprocess.run(command[:3], cwd=ROOT, capture_output=True, text=True).stdout
    *console, last = said.stdout.splitlines()
    default = json.loads(default)
    return {name: value for name, value in json.loads(last).items() if value != default[name]}, console


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_later_files_override_earlier_ones_and_missing_files_are_skipped(tmp_path: Path):
    first = write(tmp_path / "first", b'{"port": 70, "led": 2}')
    second = write(tmp_path / "second", b'{"port": 71}')
    assert load(first, tmp_path / "missing", second) == ({"port": 71, "led": 2}, [])


def test_a_byte_order_mark_is_skipped(tmp_path: Path):
    for data in (b'{"ssid": "lab \xc3\xbc"}', b'\r\n{"ssid": "lab \xc3\xbc"}\r\n'):
        assert load(write(tmp_path / "file", b"\xef\xbb\xbf" + data)) == ({"ssid": "lab ü"}, [])
        assert load(write(tmp_path / "file", data)) == ({"ssid": "lab ü"}, [])


def test_the_last_of_duplicate_settings_counts(tmp_path: Path):
    assert load(write(tmp_path / "file", b'{"port": 70, "port": 71}')) == ({"port": 71}, [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xef\xbb\xbf",
        b"\xef\xbb",
        b"{",
        b"[]",
        b"7",
        b'"port"',
        b'{"port": 70',
        b'{"port": NaN}',
        b"{port: 70}",
        b'{[]: 70, "port": 70}',
        b'{{"a": 1}: 70}',
        b'{"ssid": "\xff\xfe"}',
        b"\xff\xfe{\0}\0",
        bytes(5000),
    ],
)
def test_a_file_that_is_not_a_json_object_is_reported_and_sets_nothing(tmp_path: Path, data: bytes):
    chosen, console = load(write(tmp_path / "file", data))
    assert chosen == {} and len(console) == 1
    assert console[0].startswith(f'{tmp_path}/file: not a JSON object such as {{"ssid": "lab"}}: not used, ')


@pytest.mark.parametrize("value", ["1e400", "1e3", "1" * 400, "-0.0", "[" * 50 + "]" * 50, '"\\ud800"', '"\\u0000"'])
def test_a_bad_value_of_one_setting_does_not_stop_the_others(tmp_path: Path, value: str):
    chosen, console = load(write(tmp_path / "file", f'{{"hostname": {value}, "7": 1, "port": 70}}'.encode()))
    assert chosen == {"port": 70} and len(console) == 2
    assert sum("hostname must be 1 to 32 letters, digits and inner hyphens, not " in line for line in console) == 1


def test_a_file_that_can_not_be_read_is_reported(tmp_path: Path):
    chosen, console = load(tmp_path)
    assert chosen == {} and len(console) == 1 and "not used, OSError" in console[0]


def test_a_wrong_rule_is_named_and_refuses_while_the_others_stay(tmp_path: Path):
    data = b'{"rules": [{"name": "a", "give": "b"}, {"name": "c", "form": "10.0.0.1", "give": "d"}]}'
    chosen, (line,) = load(write(tmp_path / "file", data))
    assert line.endswith('file: rules: number 2: no "form" in a rule')
    assert "rules" in chosen and "wrong rule" in str(chosen["rules"])
