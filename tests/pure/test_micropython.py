"""The tests of this folder once more, inside MicroPython, against the sources as they go into the firmware."""

import subprocess
from pathlib import Path

from board import ROOT
from tools.boards import micropython

ONLY_CPYTHON = {
    "test_deflate_properties",
    "test_micropython",
    "test_rules_properties",
    "test_transfer_properties",
    "test_upload_properties",
}
HERE = Path(__file__).parent
MODULES = sorted({path.stem for path in HERE.glob("test_*.py")} - ONLY_CPYTHON)
RUN = [micropython(), "-X", "heapsize=2M", str(HERE / "run_pure.py"), "firmware"]


def test_every_pure_test_passes_inside_micropython():
    result = subprocess.run([*RUN, str(HERE), *MODULES], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    total = sum((HERE / f"{name}.py").read_text().count("\ndef test_") for name in MODULES)
    assert result.stdout.split() == [str(total), "passed"]


def test_the_pure_tests_can_fail_inside_micropython(tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    assert subprocess.run([*RUN, str(tmp_path), "test_wrong"], cwd=ROOT, capture_output=True).returncode == 1
