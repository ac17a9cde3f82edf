"""Builds PICSimLab's QEMU, which emulates the ESP32 and the ESP32-C3 with their Wi-Fi, into this project's cache.

It is other people's work under the GPL-2 (github.com/lcgamboa/qemu, from Espressif's and QEMU's own) and no part of
this project: it is fetched, repaired (REPAIRS) and built here, and only run. About 8 minutes on 2 cores, 2 GB of disk.
Without a network, give folders that are clones of the four repositories.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import ToolError, firmware
from .emulators.qemu import REPAIRED


class _Source(NamedTuple):
    argument: str
    url: str
    commit: str
    place: str  # in the source folder


_SOURCES = (
    _Source("qemu", "https://github.com/lcgamboa/qemu", "98f1cbda8c214a151a4687eb21dec9daf7f1d0f1", "."),
    # The commits that QEMU's own subprojects/*.wrap name.
    _Source(
        "keycodemapdb",
        "https://gitlab.com/qemu-project/keycodemapdb.git",
        "f5772a62ec52591ff6870b7e8ef32482371f22c6",
        "subprojects/keycodemapdb",
    ),
    _Source(
        "softfloat",
        "https://gitlab.com/qemu-project/berkeley-softfloat-3",
        "b64af41c3276f97f0e181920400ee056b9c88037",
        "subprojects/berkeley-softfloat-3",
    ),
    _Source(
        "testfloat",
        "https://gitlab.com/qemu-project/berkeley-testfloat-3",
        "e7af9751d9f9fd3b47911f51a5cfd08af256a9ab",
        "subprojects/berkeley-testfloat-3",
    ),
)
_PROGRAMS = ("qemu-system-xtensa", "qemu-system-riscv32")
# What the build needs: a program, or a library by its pkg-config name, and the Debian package that has it.
_NEEDED_PROGRAMS = {"git": "git", "ninja": "ninja-build", "pkg-config": "pkg-config", "cc": "build-essential"}
_NEEDED_PROGRAMS |= {"flex": "flex", "bison": "bison"}
_NEEDED_LIBRARIES = {
    "glib-2.0": "libglib2.0-dev",
    "pixman-1": "libpixman-1-dev",
    "libgcrypt": "libgcrypt20-dev",
    "zlib": "zlib1g-dev",
}


class _Repair(NamedTuple):
    why: str
    file: str
    old: str
    new: str
    times: int = 1


_WIFI = "hw/misc/esp32_wifi_ap.c"
_MATRIX = "hw/riscv/esp32c3_intmatrix.c"
REPAIRS = (
    _Repair(
        "A frame leaves 22 bytes longer than it is, past the end of this buffer when it was full-sized.",
        _WIFI,
        "ethernet_frame[1518]",
        "ethernet_frame[2048]",
        2,
    ),
    _Repair(
        "One frame to the board every 5 ms is slower than the chip is.",
        _WIFI,
        "#define INTER_FRAME_TIME 5000000",
        "#define INTER_FRAME_TIME 200000",
    ),
    _Repair(
        "C3: an interrupt under way to the CPU when the threshold rose was taken inside the critical section.",
        _MATRIX,
        "            s->irq_thres = priority;\n",
        """            s->irq_thres = priority;
            if (s->cpu->irq_pending && s->irq_prio[s->cpu->irq_cause] < priority) {
                s->cpu->irq_pending = false;
                qemu_irq_lower(s->cpu->parent_irq);
            }
""",
    ),
    _Repair(
        "C3: a line still high at the end of its handler was never delivered again: look once a millisecond.",
        _MATRIX,
        '#include "qemu/queue.h"\n',
        '#include "qemu/queue.h"\n#include "qemu/timer.h"\n',
    ),
    _Repair(
        "The same: what is done each millisecond.",
        _MATRIX,
        "static void esp32c3_intmatrix_realize(",
        """static QEMUTimer *recheck_timer;

static void esp32c3_intmatrix_recheck(void *opaque)
{
    ESP32C3IntMatrixState *s = ESP32C3_INTMATRIX(opaque);

    for (int line = 1; line <= ESP32C3_CPU_INT_COUNT; line++) {
        if ((s->irq_enabled & BIT(line)) && esp32c3_get_output_line_level(s, line)) {
            SET_BIT(s->irq_pending, line);
        }
    }
    esp32c3_intmatrix_core_prio_changed(s, s->irq_thres);
    timer_mod(recheck_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 1);
}


static void esp32c3_intmatrix_realize(""",
    ),
    _Repair(
        "The same: the timer is started.",
        _MATRIX,
        "    assert(cpu);\n",
        """    assert(cpu);
    recheck_timer = timer_new_ms(QEMU_CLOCK_REALTIME, esp32c3_intmatrix_recheck, s);
    timer_mod(recheck_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 1);
""",
    ),
)


def repair(source: Path) -> None:
    """Make the REPAIRS in a fresh `source`. Raises ToolError if it is not what they were made for."""
    for one in REPAIRS:
        path = source / one.file
        text = path.read_text()
        if text.count(one.old) != one.times:
            raise ToolError(f"{path} is not the file that the repairs are for: {one.old.strip()!r} is not in it")
        path.write_text(text.replace(one.old, one.new))


def _run(command: Sequence[str | Path], folder: Path | None = None) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        raise ToolError(f"{' '.join(map(str, command[:4]))} failed: {' '.join(said)}")


def _check_needs() -> None:
    missing = [package for program, package in _NEEDED_PROGRAMS.items() if not shutil.which(program)]
    if "pkg-config" not in missing:
        for library, package in _NEEDED_LIBRARIES.items():
            if subprocess.run(["pkg-config", "--exists", library]).returncode:
                missing.append(package)
    if missing:
        raise ToolError(f"the build needs more of the system (Debian, Ubuntu): apt install {' '.join(missing)}")


def _fetch(source: _Source, given: str | None, folder: Path) -> None:
    """The commit of `source` into `folder`: from its home, or from the clone `given`, if need be its newest."""
    folder.mkdir(parents=True, exist_ok=True)
    if given:
        if not (Path(given) / ".git").exists() and not (Path(given) / "HEAD").exists():
            raise ToolError(f"--{source.argument}: {given} is no git repository")
        place, commit = Path(given).resolve().as_uri(), source.commit
        if subprocess.run(["git", "-C", given, "cat-file", "-e", commit], capture_output=True).returncode:
            print(f"{given} does not have {commit}: its newest commit is taken", flush=True)
            commit = "HEAD"
    else:
        place, commit = source.url, source.commit
    _run(["git", "init", "-q", folder])
    _run(["git", "fetch", "-q", "--depth", "1", place, commit], folder)
    _run(["git", "checkout", "-q", "FETCH_HEAD"], folder)


def _compile(build: Path) -> None:
    """Run ninja with its progress on one line; the whole of it goes to build.log."""
    with (build.parent / "build.log").open("w") as log:
        command = ["ninja", *_PROGRAMS]
        process = subprocess.Popen(command, cwd=build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout
        for line in process.stdout:
            log.write(line)
            step = re.match(r"\[(\d+)/(\d+)\]", line)
            if step and sys.stdout.isatty():
                print(f"\rcompiling {step[1]} of {step[2]}", end="", flush=True)
    if sys.stdout.isatty():
        print()
    if process.wait():
        raise ToolError(f"the build failed; its last words are in {build.parent / 'build.log'}")


def build(out: Path, given: dict[str, str | None]) -> None:
    """Fetch, repair and build into `out`, which is replaced when that has worked. Raises ToolError."""
    _check_needs()
    work = out.with_name(out.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    source, objects = work / "source", work / "build"
    for one in _SOURCES:
        print(f"fetching {one.argument}", flush=True)
        _fetch(one, given[one.argument], source / one.place)
    for packaged in (source / "subprojects/packagefiles").glob("berkeley-*"):
        shutil.copytree(packaged, source / "subprojects" / packaged.name, dirs_exist_ok=True)
    repair(source)
    print("configuring", flush=True)
    python = work / "venv/bin/python"
    venv.create(work / "venv", with_pip=True)
    _run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "meson==1.2.3", "setuptools", "wheel"])
    objects.mkdir()
    targets = "--target-list=xtensa-softmmu,riscv32-softmmu"
    disabled = (
        "werror",
        "debug-info",
        "containers",
        "docs",
        "tools",
        "install-blobs",
        "guest-agent",
        "download",
        "slirp",
    )
    _run(
        [
            *(source / "configure", targets, f"--python={python}", f"--with-pkgversion={REPAIRED}"),
            *("--enable-tcg", "--enable-system", "--enable-gcrypt", *(f"--disable-{one}" for one in disabled)),
        ],
        objects,
    )
    _compile(objects)
    # Only what is run is kept; a folder in which it was built can't be moved anyway.
    keep = work / "keep"
    (keep / "bin").mkdir(parents=True)
    for program in _PROGRAMS:
        shutil.copy2(objects / program, keep / "bin")
    shutil.copytree(source / "pc-bios", keep / "pc-bios", ignore=lambda folder, names: _not_roms(names))
    shutil.copy2(source / "COPYING", keep)
    shutil.rmtree(out, ignore_errors=True)
    keep.rename(out)
    shutil.rmtree(work)


def _not_roms(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("esp32")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.qemu_build", description=__doc__)
    cache = firmware.cache() / "qemu-esp32"
    parser.add_argument("--out", type=Path, default=cache, metavar="DIR", help="default: %(default)s")
    for one in _SOURCES:
        parser.add_argument(f"--{one.argument}", metavar="DIR", help=f"a clone to take instead of {one.url}")
    arguments = parser.parse_args()
    try:
        build(arguments.out.resolve(), {one.argument: getattr(arguments, one.argument) for one in _SOURCES})
    except KeyboardInterrupt:
        return 130
    except (ToolError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"built {', '.join(_PROGRAMS)} in {arguments.out}")
    if arguments.out != cache:
        print(f"emulate finds it there with: export QEMU_ESP32={shlex.quote(str(arguments.out.resolve()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
