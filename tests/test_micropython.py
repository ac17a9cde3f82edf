"""The tests of the pure modules once more, inside MicroPython, against the sources as they go into the firmware."""

import subprocess

from board import ROOT
from tools.boards import micropython

MODULES = sorted(path.stem for path in (ROOT / "tests/pure").glob("test_*.py"))


def test_every_pure_test_passes_inside_micropython():
    command = [micropython(), "-X", "heapsize=1M", "tests/run_pure.py", "firmware", "tests/pure", *MODULES]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    total = sum(path.read_text().count("\ndef test_") for path in (ROOT / "tests/pure").glob("test_*.py"))
    assert result.stdout.split() == [str(total), "passed"]


def test_the_pure_tests_can_fail_inside_micropython(tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    command = [micropython(), "tests/run_pure.py", "firmware", str(tmp_path), "test_wrong"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1
