"""`make bench` runs to its end and reports its measurements. It needs a quiet machine to judge the budgets."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from board import ROOT


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler for the client (Debian: gcc)")
def test_a_quick_bench_measures_every_budget(tmp_path: Path):
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tools", "bench", "--quick", "--output", str(output)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert result.returncode in (0, 1), result.stderr
    budgets = {budget["what"]: budget for budget in json.loads(output.read_text())["budgets"]}
    assert {budget["verdict"] for budget in budgets.values()} <= {"PASS", "FAIL", "for information", "not measured"}
    for what in ("heap of one more transfer at blksize 1468", "compiled firmware, loaded with all off"):
        assert budgets[what]["verdict"] == "PASS" and what in result.stdout
    assert (result.returncode == 1) == any(budget["verdict"] == "FAIL" for budget in budgets.values())
