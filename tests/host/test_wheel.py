"""The package as `pip install` puts it into an environment: its command `mptftpd`, without the clone."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tools
from board import ROOT
from made import made_uf2
from served import SERVED
from tools.__main__ import COMMANDS

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this clone."""
    pytest.importorskip("hatchling", reason="hatchling is missing: make setup")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; its dependencies are those of this Python."""
    home = tmp_path_factory.mktemp("home") / "venv"
    venv.create(home, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install", "-q"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True, timeout=60)
    (packages,) = home.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """run(program, *arguments) runs a program of that environment in an empty folder."""

    def run_one(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
        words = [str(home / "bin" / str(command[0])), *map(str, command[1:])]
        everything = {**os.environ, "PATH": path, **environment}
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=everything)

    return run_one


def test_the_wheel_has_what_the_boards_run_and_only_its_own_package(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    command = ["git", "ls-files", "-co", "--exclude-standard", "firmware", "board", "boot.py", "main.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    shipped = [
        name for name in listed.stdout.decode().split() if not name.endswith(("ruff.toml", "pyrightconfig.json"))
    ]
    if listed.returncode == 0:  # in a clone, not in an unpacked source archive
        assert {name for name in names if "/shipped/" in name} == {f"mptftpd/shipped/{name}" for name in shipped}
    assert "mptftpd/shipped/firmware/tftpd/server.py" in names and "mptftpd/shipped/board/unix/run.py" in names
    assert {name.split("/")[0] for name in names} == {"mptftpd", f"micropython_tftpd-{tools.version()}.dist-info"}


def test_the_wheel_asks_for_every_package_that_its_code_imports(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        asked = re.findall(r"^Requires-Dist: ([\w-]+)", archive.read(metadata).decode(), re.MULTILINE)
        sources = {
            name: archive.read(name) for name in archive.namelist() if re.match(r"mptftpd/(?!shipped).*\.py$", name)
        }
    packages = importlib.metadata.packages_distributions()
    for name, source in sources.items():
        if name.endswith("_board.py") or name.startswith("mptftpd/bench/bare") or name == "mptftpd/bench/heap.py":
            continue  # runs on a board
        for node in ast.walk(ast.parse(source)):
            modules = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            for module in (
                {one.split(".")[0] for one in modules} - sys.stdlib_module_names - {"tomllib"}
            ):  # which is in 3.11 and later
                owners = {one.replace("_", "-").lower() for one in packages.get(module, [module])}
                assert owners & {one.lower() for one in asked}, f"{name} imports {module}"


def test_the_installed_command_states_the_version_of_the_firmware(run: Run):
    assert run("mptftpd", "--version").stdout == f"micropython-tftpd {tools.version()}\n"
    assert tools.version()[0].isdigit()


def test_the_installed_command_makes_an_image(run: Run, tmp_path: Path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "small").write_bytes(b"small")
    (tmp_path / "base.uf2").write_bytes(made_uf2())
    options = ["--board", "rpi_pico_w", "--base", "base.uf2", "--files", "files", "-o", "image.uf2", "--json"]
    result = run("mptftpd", "image", *options)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["bytes"] == (tmp_path / "image.uf2").stat().st_size and facts["files"]["/files/small"] == 5
    assert "/lib/tftpd/server.mpy" in facts["files"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing")
def test_the_installed_command_boots_a_board_that_serves(home: Path, files: Path, tmp_path: Path):
    command = [home / "bin/mptftpd", "emulate", "--files", files, "--port", "0", "--flash-size", "8M"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as board:
        assert board.stdout and board.stderr
        ready, url = board.stdout.readline().split()
        assert ready == "ready"
        subprocess.run(["curl", "-s", "-o", "got", f"{url}hello.txt"], cwd=tmp_path, timeout=20, check=True)
        board.send_signal(signal.SIGINT)
        assert board.wait(15) == 0, board.stderr.read()
    assert (tmp_path / "got").read_bytes() == SERVED["hello.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got"]


def test_pytest_finds_the_plugin_of_the_installed_package(run: Run, tmp_path: Path):
    code = "def test(tftp_board):\n    assert tftp_board({'name': b'data'}).url.startswith('tftp://127.0.0.1:')\n"
    (tmp_path / "test_it.py").write_text(code)
    # The entry point alone: to load all plugins takes seconds.
    result = run("python", "-m", "pytest", "-q", "-p", "tftp-board", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "1 passed" in result.stdout, result


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Jumpstarter needs Python 3.11")
def test_jumpstarter_finds_the_driver_of_the_installed_package(run: Run):
    code = "from importlib.metadata import entry_points as e; print(e(group='jumpstarter.drivers')['TftpBoard'].load())"
    assert run("python", "-c", code).stdout == "<class 'mptftpd.labs.jumpstarter.TftpBoard'>\n"


def test_help_and_messages_name_the_command_as_it_was_called(run: Run):
    # All in one process; the import of some modules takes long.
    code = "import contextlib, sys; sys.argv = [{!r}]\nfrom mptftpd.__main__ import COMMANDS, make_parser\n"
    code += (
        "for name in COMMANDS:\n with contextlib.suppress(SystemExit):\n  make_parser([name]).parse_args([name, '-h'])"
    )
    for called, program, other in (
        ("/x/bin/mptftpd", "mptftpd", "python -m"),
        ("/x/mptftpd/__main__.py", "python -m mptftpd", "tools"),
    ):
        result = run("python", "-c", code.format(called), COLUMNS="200")
        assert result.returncode == 0, result.stderr
        for name in COMMANDS:
            assert f"usage: {program} {name} " in result.stdout
        assert other not in result.stdout.replace("tools/emulators/sdcard.py", "")
    assert "(see mptftpd image --help)" in run("mptftpd", "image", "--fly").stderr
    assert "; mptftpd emulate runs it" in run("mptftpd", "firmware", "--board", "unix").stderr


def test_a_shell_completes_commands_options_boards_and_files(run: Run, home: Path, tmp_path: Path):
    (tmp_path / "firmware-x").mkdir()
    script = 'eval "$(mptftpd completion bash)"\n'
    script += 't() { COMP_LINE="$1"; COMP_POINT=${#1}; COMP_TYPE=9; COMPREPLY=(); _python_argcomplete mptftpd; '
    script += 'echo "${COMPREPLY[@]}"; }\n'
    script += (
        "t 'mptftpd mon'; t 'mptftpd image --ins'; t 'mptftpd flash --board rpi_pico2'; t 'mptftpd image --files fi'"
    )
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "--norc", "-c", script]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
    )
    assert result.stdout.split() == ["monitor", "--inspect", "rpi_pico2_w", "firmware-x/"], result
    for shell in ("zsh", "fish", "tcsh", "powershell"):
        assert "mptftpd" in run("mptftpd", "completion", shell).stdout


# The recipes of docs/ci.md

CI = (ROOT / "docs/ci.md").read_text()


def steps(job: str) -> list[str]:
    """The shell lines of a job of docs/ci.md, in order."""
    found: dict[str, list[str]] = {}
    for text in re.findall(r"```yaml\n(.*?)```", CI, re.DOTALL):
        for name, one in yaml.safe_load(text).get("jobs", yaml.safe_load(text)).items():
            found[name] = one.get("script") or [step["run"] for step in one["steps"] if "run" in step]
    return found[job]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the recipes test: a project with the test of docs/ci.md."""
    (code,) = re.findall(r"```python\n(.*?)```", CI, re.DOTALL)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_boot.py").write_text(code)
    make = "out/u-boot.bin:\n\tmkdir -p out; head -c 50000 /dev/urandom >$@\n"
    (tmp_path / "Makefile").write_text(make)
    return tmp_path


def run_steps(job: str, project: Path, home: Path, wheel: Path, **environment: str) -> str:
    """Run them all; returns what the last has printed."""
    said = ""
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    everything = {**os.environ, "PATH": path, "TFTPD": f"micropython-tftpd[pytest] @ {wheel.as_uri()}", **environment}
    for step in steps(job):
        result = subprocess.run(
            ["bash", "-e", "-c", step], cwd=project, capture_output=True, text=True, env=everything, timeout=600
        )
        assert result.returncode == 0, f"{step}\n{result.stdout}\n{result.stderr}"
        said = result.stdout
    return said


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing")
def test_the_recipes_for_ci_run_as_they_stand(project: Path, wheel: Path, tmp_path: Path):
    assert (
        steps("everyday") == steps("tftp") and len(steps("genuine")) == 4 and steps("genuine") == steps("tftp-genuine")
    )
    home = tmp_path / "venv"
    venv.create(home, symlinks=True, with_pip=True)
    # The dependencies are those of this Python, so pip has to install no more than the wheel.
    (packages,) = home.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (home / "bin/pytest").write_text(f'#!/bin/sh\nexec {home}/bin/python -m pytest "$@"\n')
    (home / "bin/pytest").chmod(0o755)
    assert "1 passed" in run_steps("everyday", project, home, wheel, PIP_NO_INDEX="1")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.environ.get("SOAK"), reason="downloads all dependencies and boots a Pico W: SOAK=1 runs it")
@pytest.mark.parametrize("job", ["everyday", "genuine"])
def test_the_recipes_for_ci_run_in_an_empty_environment(job: str, project: Path, wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "venv", symlinks=True, with_pip=True)
    assert "1 passed" in run_steps(job, project, tmp_path / "venv", wheel)
