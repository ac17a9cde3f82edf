"""Measurements: speed against other servers, many clients at once, reads far into a file, heap, code size."""

import json
import random
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import ToolError, boards, filesystem
from ..relay import Relay
from . import processors
from .client import Client

FILES = {
    "speed.bin": 640 << 10,
    "many.bin": 4 << 20,
    "lossy.bin": 256 << 10,
    "mebi.bin": 1 << 20,
    "large.bin": 16 << 20,
}  # bytes
FLASH_SIZE = "24M"  # of the everyday board, to hold them
_PORTION = 1 << 20
_HEAP_SECONDS = 60

OURS = "tftpd"


@dataclass
class Samples:
    """Repeated measurements of one thing."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def against(self, other: "Samples") -> float:
        """Median of the ratios round by round: a slow round slows both servers."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.values, other.values, strict=True))

    def text(self, form: str = ".1f") -> str:
        """Median and spread, as "71.2 (68.0-72.5)"."""
        return f"{self.median:{form}} ({min(self.values):{form}}\N{EN DASH}{max(self.values):{form}})"


@dataclass
class Budget:
    """A figure with its limit, if it has one.

    figure    None if it could not be measured; then `method` says why
    at_least  the limit is a minimum
    """

    what: str
    figure: float | None
    unit: str
    limit: float | None
    method: str
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        if self.limit is None:
            return "for information"
        return "PASS" if (self.figure >= self.limit if self.at_least else self.figure <= self.limit) else "FAIL"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Case:
    """A comparison of throughput with one other server, in `rounds` rounds (`quick_rounds` with --quick).

    together  client and server share one processor
    """

    what: str
    peer: str  # a key of peers.DEBIAN
    name: str
    blksize: int
    windowsize: int
    loss: float  # probability, each way
    rounds: int
    quick_rounds: int
    at_least: float | None  # budget: ratio of our throughput to the peer's; None for information
    together: bool = False


_EQUAL = 0.95  # noise lets two equal servers in lock-step differ by so much

CASES = (
    Case("blksize 512, lock-step", "tftpd-hpa", "speed.bin", 512, 1, 0, 41, 5, _EQUAL),
    Case("blksize 512, lock-step, one processor", "tftpd-hpa", "speed.bin", 512, 1, 0, 41, 5, None, True),
    Case("blksize 1428, lock-step", "tftpd-hpa", "speed.bin", 1428, 1, 0, 61, 5, _EQUAL),
    Case("blksize 1428, lock-step, one processor", "tftpd-hpa", "speed.bin", 1428, 1, 0, 61, 5, None, True),
    Case("blksize 1428, windowsize 16", "atftpd", "speed.bin", 1428, 16, 0, 81, 5, 1),
    Case("blksize 1428, windowsize 16, one processor", "atftpd", "speed.bin", 1428, 16, 0, 81, 5, None, True),
    Case("blksize 1428, lock-step, 2 % loss each way", "tftpd-hpa", "lossy.bin", 1428, 1, 0.02, 7, 1, 20),
)


def make_files(folder: Path) -> None:
    """Create FILES, with the same content in each run."""
    dice = random.Random(1350)
    for name, size in FILES.items():
        (folder / name).write_bytes(dice.randbytes(size))


def compare(case: Case, client: Client, ports: dict[str, int], rounds: int) -> dict[str, Samples]:
    """Throughput in MB/s (10^6 bytes) of each server in `ports` (name: port), interleaved. Raises ToolError."""
    processors.for_clients(case.together)
    samples = {server: Samples() for server in ports}
    warm_up = 0 if case.loss else 1
    for number in range(rounds + warm_up):
        for server in list(ports) if number % 2 else reversed(ports):
            if case.loss:
                with Relay(ports[server], loss=case.loss, seed=number) as relay:
                    got = client.fetch(relay.port, case.name, blksize=case.blksize, windowsize=case.windowsize)
            else:
                got = client.fetch(ports[server], case.name, blksize=case.blksize, windowsize=case.windowsize)
            if number >= warm_up:
                samples[server].values.append(FILES[case.name] / got.seconds / 1e6)
    return samples


def many_clients(client: Client, port: int, rounds: int, together: bool = False, number: int = 8) -> list[Budget]:
    """`number` clients that fetch a file at once, interleaved with a single one; lock-step at blksize 1428."""
    size = FILES["many.bin"]
    processors.for_clients(together)
    alone, all_of_them, slowest = Samples(), Samples(), Samples()
    for _ in range(rounds):
        alone.values.append(size / client.fetch(port, "many.bin", blksize=1428).seconds)
        started = [client.start(port, "many.bin", blksize=1428) for _ in range(number)]
        fetches = [client.finish(process) for process in started]
        wall = max(got.ended for got in fetches) - min(got.began for got in fetches)
        all_of_them.values.append(number * size / wall)
        times = [got.seconds for got in fetches]
        slowest.values.append(max(times) / statistics.mean(times))
    method = f"4 MiB each, 1428 lock-step, median of {rounds}"
    what = f"{number} clients at once" + (", one processor" if together else "")
    return [
        Budget(
            f"{what}: total throughput against one client's",
            all_of_them.against(alone),
            "times",
            None if together else 0.9,
            f"{all_of_them.median / 1e6:.1f} against {alone.median / 1e6:.1f} MB/s; {method}",
            at_least=True,
        ),
        Budget(
            f"{what}: the slowest one's time against the mean",
            max(slowest.values),
            "times",
            3,
            f"the worst of {rounds} rounds",
        ),
    ]


def far_reads(client: Client, port: int, rounds: int) -> Budget:
    """The time of the last MiB of a large file against its first."""
    processors.for_clients(together=True)
    first, last = Samples(), Samples()
    for _ in range(rounds):
        got = client.fetch(port, "large.bin", blksize=1428, windowsize=16, portion=_PORTION)
        first.values.append(got.first * 1000)
        last.values.append(got.last * 1000)
    return Budget(
        "read cost at the end of a large file against its start",
        last.against(first),
        "times",
        1.1,
        f"last MiB {last.text()} ms, first {first.text()} ms of 16 MiB, 1428 x 16, one processor, median of {rounds}",
    )


def relay_cost(client: Client, port: int, rounds: int) -> Budget:
    """The cost of the relay itself, to judge the figure with loss."""
    processors.for_clients()
    direct, relayed = Samples(), Samples()
    for _ in range(rounds):
        direct.values.append(client.fetch(port, "lossy.bin", blksize=1428).seconds * 1000)
        with Relay(port) as relay:
            relayed.values.append(client.fetch(relay.port, "lossy.bin", blksize=1428).seconds * 1000)
    return Budget(
        "256 KiB through the relay without loss",
        relayed.median,
        "ms",
        None,
        f"{direct.median:.1f} ms direct; blksize 1428 lock-step, median of {rounds}",
    )


def heap(port: int) -> list[Budget]:
    """Heap and code size, measured by heap.py inside an everyday board. `port`: a free one."""
    figures = _run_heap_script(port)
    blocks = figures["blocks"]
    per_block = f"gc.mem_alloc() over {blocks} blocks of 1,468 bytes, collector off"
    words = "Unix port, 64-bit words; the budget is defined on a 32-bit board"
    transfer = f"mean of {figures['transfers']} more transfers, after gc.collect()"
    idle = figures["code"] + figures["data"]
    with tempfile.TemporaryDirectory() as folder:
        compiled = filesystem.compile_firmware(Path(folder))
    loaded = [data for path, data in compiled.items() if module(path) in figures["modules"]]
    everything, code = sum(map(len, compiled.values())), "mpy-cross, {} .mpy files"
    return [
        Budget(
            "compiled firmware, loaded with all off", sum(map(len, loaded)), "bytes", 27 << 10, code.format(len(loaded))
        ),
        Budget("compiled firmware, all of it", everything, "bytes", None, code.format(len(compiled))),
        Budget("heap allocated per DATA block, lock-step", figures["lock_step"] / blocks, "bytes", 0, per_block),
        Budget("heap allocated per DATA block, windowed", figures["windowed"] / blocks, "bytes", 0, per_block),
        Budget("heap of one more transfer at blksize 1468", figures["transfer"], "bytes", 4 << 10, transfer),
        Budget("heap of the idle server over the bare prompt", idle, "bytes", None, words),
        Budget("  of it data, not code", figures["data"], "bytes", None, words),
    ]


def module(path: str) -> str:
    """The name by which `/lib/tftpd/ports.mpy` is imported."""
    return path.removeprefix("/lib/").removesuffix(".mpy").removesuffix("/__init__").replace("/", ".")


def _run_heap_script(port: int) -> dict[str, Any]:
    pico = boards.load("rpi_pico_w")  # the budgets are for its settings and its cache for each open file
    layout = pico["filesystem"]
    settings = {"ssid": "emulated", "address": "127.0.0.1", "port": port, "log": "warning"}
    files = filesystem.board_files(settings, pico["settings"])
    files |= {
        "/boot.py": Path(__file__).with_name("heap.py").read_bytes(),
        "/main.py": b"",
        f"{filesystem.SERVED}/heap.bin": bytes(1 << 20),
    }
    with tempfile.TemporaryDirectory() as folder:
        flash = Path(folder) / "flash.img"
        flash.write_bytes(filesystem.build(layout, 2 << 20, files))
        command = boards.everyday(flash, layout, boards.load("unix")["heap"])
        try:
            result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_HEAP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ToolError(f"the heap was not measured within {_HEAP_SECONDS} s") from None
    said = (result.stdout + result.stderr).strip().splitlines() or ["no output"]
    if result.returncode:
        raise ToolError(f"the heap could not be measured: {said[-1]}")
    return json.loads(said[-1])
