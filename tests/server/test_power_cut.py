"""Power cuts at every program and erase of an upload over an existing file, and of the boot after it. The interrupted
operation is lost or torn. power_cut.py, which runs inside MicroPython on its LittleFS, checks the result."""

import shutil
import subprocess
from pathlib import Path

import pytest

from board import ROOT
from tools.boards import micropython


def power_cut(old: int, new: int, reader: bool, tear: bool, firmware: Path = ROOT / "firmware") -> tuple[int, int]:
    """Run power_cut.py; returns the number of cuts in the upload and in the boots after it."""
    values = [str(int(value)) for value in (old, new, reader, tear)]
    command = [micropython(), "-X", "heapsize=8M", "tests/server/power_cut.py", str(firmware), *values]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    cuts, again = result.stdout.splitlines()[-1].split()
    return int(cuts), int(again)


@pytest.mark.parametrize("tear", [False, True], ids=["lost", "torn"])
@pytest.mark.parametrize("reader", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize("old, new", [(30_000, 40_000), (40_000, 900), (100, 50), (0, 20_000), (20_000, 0)])
def test_every_cut_leaves_the_whole_old_or_the_whole_new_file(old: int, new: int, reader: bool, tear: bool):
    cuts, again = power_cut(old, new, reader, tear)
    assert cuts >= 5 + new // 1024 and again > 0


@pytest.mark.parametrize("tear", [False, True], ids=["lost", "torn"])
def test_every_cut_leaves_no_file_or_the_whole_new_one(tear: bool):
    assert power_cut(-1, 20_000, False, tear)[0] >= 25


@pytest.mark.parametrize(
    "right, wrong, reader",
    [
        ("            os.rename(temporary, path)", "            remove(path); os.rename(temporary, path)", False),
        ("if path and not exists", "if False and not exists", True),
        ("            remove(there)", "            pass", False),
        (
            "            self.file.close()  # pyright: ignore[reportOptionalMemberAccess]\n            self.up",
            "            self.up",
            False,
        ),
    ],
    ids=["not atomic", "not put back", "not cleaned", "not closed before it is put in its place"],
)
def test_the_cuts_find_a_fault_in_the_upload_code(tmp_path: Path, right: str, wrong: str, reader: bool):
    firmware = tmp_path / "firmware"
    shutil.copytree(ROOT / "firmware", firmware)
    uploads = firmware / "tftpd/uploads.py"
    text = uploads.read_text()
    assert text.count(right) == 1
    uploads.write_text(text.replace(right, wrong))
    with pytest.raises(AssertionError, match="AssertionError"):
        power_cut(30_000, 20_000, reader, False, firmware)
