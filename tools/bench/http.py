"""HTTP of the board in numbers.

On the genuine firmware of an emulated Pico W, by its own clock, the client in the emulator's bridge; on the one of an
ESP32-C3 whose clock counts its instructions: the throughput of a GET against its bound, the bare send of as many bytes
and the bare read of the file (bare_http.py); and what a GET and a TFTP transfer leave each other.

`python -m tools.bench.http rpi_pico_w` (or `esp32_c3`) prints the figures as a line of JSON.
"""

import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from rp2040py.external.cyw43 import net

from .. import PACKAGE, ToolError, boards, firmware
from ..emulators import tcp
from ..emulators.bridge import BOARD as BOARD_ADDRESS
from . import flash, gauge, measures, peers, pico, processors
from .client import Client
from .measures import OURS, Budget, Samples

BOARDS = ("rpi_pico_w", "esp32_c3")
_PORT = 8080
_CONTENT = random.Random(1350).randbytes(96 << 10)
_LONG, _TIMES = "long.bin", 4  # as long as _CONTENT: a GET of it outlasts a transfer beside it
_GET, _GET_LONG = (b"GET /%s HTTP/1.1\r\nHost: tftpd\r\n\r\n" % name.encode() for name in (flash.FILE, _LONG))
# For bare_http.py. Large pieces make a Pico W wait for memory, and poll() lets an ESP32 sleep.
_KINDS = (b"w1600", b"n3200", b"n5600", b"p3200")
_BLKSIZE = 1468
_WINDOWSIZE = 4
_FAR_US = 5000  # a round trip
_ROUNDS = 25  # on the ESP32-C3, whose waits depend on the host: medians
_PATIENCE_S = 60
_RUN_S = 900
_WEB_FILE, _TFTP_FILE = "many.bin", "many.bin"  # of measures.py
_BUFFERS = (1024, 24_000)  # of microdot: its own, and that of the everyday board
_MICRODOT_FLASH = 24 << 20
_PART_OF_BOUND = 0.85
_KEPT = 0.4  # of the throughput alone
_FASTER = 1.0  # than microdot

# When data came, and how many bytes.
Times = list[tuple[float, int]]


def _us(times: Times) -> float:
    """From the first data to the last."""
    return times[-1][0] - times[0][0]


def _per_us(times: Times, since: float, until: float) -> float:
    """Bytes a microsecond in that time."""
    return sum(size for at, size in times if since < at <= until) / (until - since)


class _Getter(tcp.Connection):
    """Sends a request at once."""

    def __init__(self, transmit: tcp.Transmit, request: bytes, size: int, now: Callable[[], float]) -> None:
        self._size, self._now = size, now
        self.times: Times = []
        self.got = b""
        self.done: Callable[[], object] = self.finish  # what to do after an answer
        super().__init__(transmit)
        self.send(request)

    def received(self, data: bytes) -> None:
        self.times.append((self._now(), len(data)))
        self.got += data
        head = self.got.find(b"\r\n\r\n") + 4 if self.got.startswith(b"HTTP") else 0
        if len(self.got) >= head + self._size:
            self.got = b""
            self.done()


class _Pico(pico._Bench):  # pyright: ignore[reportPrivateUsage]
    _content = _CONTENT

    def _get(self, request: bytes, round_trip_us: int = 0, size: int = len(_CONTENT)) -> _Getter:
        self._port += 1
        made: list[_Getter] = []

        def make(transmit: tcp.Transmit) -> _Getter:
            if round_trip_us:
                at_once = transmit
                transmit = lambda *segment: self._after(round_trip_us, lambda: at_once(*segment))  # noqa: E731
            made.append(_Getter(transmit, request, size, lambda: self.now))
            return made[0]

        self.wiring.bridge.connect(pico._CLIENT, self._port, _PORT, make)
        return made[0]

    def _fetched(self, getter: _Getter) -> None:
        """Go on with the script once the answer is there."""
        getter.done = lambda: self._after(100_000, self._next)

    def _play(self) -> Generator[str | None, str, None]:
        line = yield "bench: {"
        self.figures = json.loads(line.partition(": ")[2])
        for kind in _KINDS:
            getter = self._get(kind)
            self._fetched(getter)
            yield "never"
            self.figures[kind.decode()] = _us(getter.times)
            getter.finish()
        self._get(b"end").finish()
        yield "http: port"
        getter = self._get(_GET)
        self._fetched(getter)
        yield "never"
        self.figures["http"] = _us(getter.times)
        alone = len(_CONTENT) / _us(getter.times)
        times: list[float] = []
        self._start(self._client(_BLKSIZE, _WINDOWSIZE, times), 0)
        yield None
        self.figures["tftp"] = times[-1] - times[0]
        getter.finish()
        getter = self._get(_GET_LONG, size=1)
        getter.done = self._next
        yield "never"
        getter.done = lambda: None
        times = []
        self._start(self._client(_BLKSIZE, _WINDOWSIZE, times), 0)
        yield None
        self.figures["tftp_beside"] = times[-1] - times[0]
        self.figures["http_kept"] = _per_us(getter.times, times[0], times[-1]) / alone
        getter.reset()
        getter = self._get(_GET, _FAR_US)
        self._fetched(getter)
        yield "never"
        self.figures["http_far"] = _us(getter.times)


def measure(name: str) -> dict[str, Any]:
    """The figures of the board called `name`, in microseconds. Raises ToolError.

    read                 the file, by a bare loop
    w1600, n3200, ...    the bare send of as many bytes, by the kind of loop (bare_http.py)
    http, tftp           a GET, and a transfer at blksize 1468 and windowsize 4, alone
    tftp_beside          the same transfer beside a GET
    http_kept            part of its throughput alone that the GET has meanwhile
    http_far             a GET with _FAR_US of round trip (Pico W)
    """
    board = boards.load(name)
    with tempfile.TemporaryDirectory(prefix="http-") as folder:
        whole = Path(folder) / "flash"
        served = {flash.FILE: _CONTENT, _LONG: _TIMES * _CONTENT}
        port = peers.free_port(socket.SOCK_STREAM) if name == gauge.BOARD else _PORT
        whole.write_bytes(flash.whole(board, "bare_http.py", served, settings={"http_port": port}))
        if name == gauge.BOARD:
            return _esp32_c3(Path(folder), whole, port)
        bench = _Pico(firmware.base_image(board), whole, [])
        asyncio.run(bench.run())
    return bench.figures


# -- the ESP32-C3


def _esp32_c3(folder: Path, whole: Path, port: int) -> dict[str, Any]:
    """The times are those of the frames on the wire of the board. Medians of _ROUNDS."""
    (folder / flash.FILE).write_bytes(_CONTENT)
    record, udp = folder / "record.pcap", peers.free_port()
    rounds = range(_ROUNDS)
    with gauge.board(whole, record, udp, "--tcp", str(port)) as wait_for:
        figures = json.loads(wait_for("bench: {").partition(": ")[2])
        for _ in rounds:
            for kind in _KINDS:
                _get(port, kind, len(_CONTENT))
        _get(port, b"end", 0)
        wait_for("http: port")
        client = Client(folder)
        for _ in rounds:
            _get(port, _GET, len(_CONTENT))
            client.fetch(udp, flash.FILE, blksize=_BLKSIZE, windowsize=_WINDOWSIZE)
        with _gets(port, _GET_LONG, _TIMES * len(_CONTENT)):
            for _ in rounds:
                client.fetch(udp, flash.FILE, blksize=_BLKSIZE, windowsize=_WINDOWSIZE)
    answers, transfers = _answers(record), _transfers(record)
    for at, kind in enumerate(_KINDS):
        figures[kind.decode()] = statistics.median(
            _us(one) for one in answers[at : _ROUNDS * len(_KINDS) : len(_KINDS)]
        )
    gets = answers[-_ROUNDS - 1 :]
    beside = gets.pop()
    figures["http"] = statistics.median(map(_us, gets))
    alone = len(_CONTENT) / statistics.median(map(_us, gets))
    figures["tftp"] = statistics.median(last - first for first, last in transfers[:_ROUNDS])
    figures["tftp_beside"] = statistics.median(last - first for first, last in transfers[_ROUNDS:])
    kept = [_per_us(beside, first, last) / alone for first, last in transfers[_ROUNDS:]]
    return figures | {"http_kept": statistics.median(kept)}


def _answers(record: Path) -> list[Times]:
    """What the board has sent on each connection."""
    found: dict[int, Times] = {}
    for us, packet in gauge.packets(record.read_bytes()[gauge.PCAP_HEADER :]):
        ip = net.parse_ipv4(packet)
        segment = ip and ip.proto == net.IP_PROTO_TCP and ip.src_ip == BOARD_ADDRESS and net.parse_tcp(ip.payload)
        if segment and segment.payload:
            found.setdefault(segment.dst_port, []).append((us, len(segment.payload)))
    return list(found.values())


def _transfers(record: Path) -> list[tuple[float, float]]:
    """When the first and the last block of each transfer was sent."""
    found: dict[int, list[float]] = {}
    for frame in gauge.frames(record.read_bytes()[gauge.PCAP_HEADER :]):
        if not frame.inbound and frame.data[1] == gauge.DATA:
            found.setdefault(frame.client, []).append(frame.us)
    return [(times[0], times[-1]) for times in found.values()]


def _get(port: int, request: bytes, size: int) -> float:
    """Ask once; returns the seconds until the answer was there, with a body of `size` bytes. Raises ToolError."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as sock:
        started = time.perf_counter()
        sock.sendall(request)
        _take(sock, request, size)
        return time.perf_counter() - started


def _take(sock: socket.socket, request: bytes, size: int) -> None:
    """Receive an answer. Raises ToolError."""
    got, buffer = 0, bytearray(1 << 20)
    first = b""
    head = None if request.startswith(b"GET") else 0
    while head is None or got < head + size:
        count = sock.recv_into(buffer)
        if head is None:
            first += buffer[:count]
            end = first.find(b"\r\n\r\n")
            head = end + 4 if end >= 0 else None
        got += count
        if not count:
            raise ToolError(f"an answer over HTTP ended after {got:,} bytes: {first[:80]!r}")


@contextmanager
def _gets(port: int, request: bytes = _GET, size: int = len(_CONTENT)) -> Iterator[list[int]]:
    """Meanwhile ask again and again, on one connection; the value has the number of whole answers so far."""
    answers = [0]
    over = Event()

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as sock:
            while not over.is_set():
                sock.sendall(request)
                _take(sock, request, size)
                answers[0] += 1

    thread = Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


# -- the everyday board


def everyday(folder: Path, client: Client, rounds: int) -> tuple[list[Budget], dict[str, list[float]]]:
    """Against microdot, and beside a transfer; and the samples in MB/s. `folder` has the files of measures.py.

    Raises ToolError.
    """
    web = peers.free_port(socket.SOCK_STREAM)
    request = b"GET /%s HTTP/1.1\r\nHost: tftpd\r\n\r\n" % _WEB_FILE.encode()
    size = measures.FILES[_WEB_FILE]
    result = []
    with ExitStack() as stack:
        processors.for_servers()
        board = stack.enter_context(peers.everyday_board(folder, measures.FLASH_SIZE, f"http_port={web}"))
        ports: dict[int, int] = {}
        absent = ""
        try:
            for buffer in _BUFFERS:
                ports[buffer] = stack.enter_context(peers.microdot(folder, _MICRODOT_FLASH, buffer))
        except peers.NotMeasured as reason:
            absent = str(reason)
        processors.for_clients()
        _listening(web)
        samples = {port: Samples() for port in (web, *ports.values())}
        for number in range(rounds):
            for port in list(samples) if number % 2 else reversed(samples):
                samples[port].values.append(size / _get(port, request, size) / 1e6)
        for buffer in _BUFFERS:
            what = f"HTTP, everyday board, against microdot's send_file in pieces of {buffer:,} bytes"
            if absent:
                result.append(Budget(what, None, "times", _FASTER, absent, at_least=True))
                continue
            ours, theirs = samples[web], samples[ports[buffer]]
            method = f"{ours.text()} against {theirs.text()} MB/s, {size >> 20} MiB, median ratio of {rounds} rounds"
            result.append(Budget(what, ours.against(theirs), "times", _FASTER, method, at_least=True))
        result += _beside(client, board, web, request, size, rounds)
    speeds = {OURS: samples[web].values}
    return result, speeds | {f"microdot, {buffer:,} bytes": samples[port].values for buffer, port in ports.items()}


def _listening(port: int) -> None:
    """Wait until the board's HTTP does, a second after the rest."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise ToolError("the everyday board's HTTP does not listen")


def _beside(client: Client, board: int, web: int, request: bytes, size: int, rounds: int) -> list[Budget]:
    """What a transfer and a GET leave each other."""
    tftp, http = Samples(), Samples()
    for _ in range(rounds):
        alone = client.fetch(board, _TFTP_FILE, blksize=1428, windowsize=_WINDOWSIZE).seconds
        get = _get(web, request, size)
        with _gets(web, request, size) as answers:
            time.sleep(get)
            before, started = answers[0], time.perf_counter()
            tftp.values.append(alone / client.fetch(board, _TFTP_FILE, blksize=1428, windowsize=_WINDOWSIZE).seconds)
            http.values.append((answers[0] - before) * get / (time.perf_counter() - started))
    return _shares("everyday board", tftp.median, http.median, f"median of {rounds}")


def _shares(board: str, tftp: float, http: float, method: str) -> list[Budget]:
    rows = ((f"{board}, part that TFTP keeps beside HTTP", tftp), (f"{board}, part that HTTP keeps beside TFTP", http))
    return [Budget(what, part, "times", _KEPT, method, at_least=True) for what, part in rows]


def bound(figures: dict[str, Any]) -> float:
    """The least time of a GET, in microseconds."""
    return figures["read"] + min(figures[kind.decode()] for kind in _KINDS)


def speeds(figures: dict[str, Any]) -> dict[str, float]:
    """MB/s on an emulated board, for the plot."""
    size = len(_CONTENT)
    alone = size / figures["http"]
    tftp, beside = (size / figures[what] for what in ("tftp", "tftp_beside"))
    return {
        "bound": size / bound(figures),
        "GET": alone,
        "GET beside TFTP": figures["http_kept"] * alone,
        "TFTP": tftp,
        "TFTP beside GETs": beside,
    }


def budgets(name: str) -> tuple[list[Budget], dict[str, Any]]:
    """GET against its bound, and what GET and TFTP leave each other, on an emulated board; and all figures. In a
    process of its own."""
    product = boards.load(name)["product"]
    what = f"HTTP, emulated {product}, GET against bare send and bare read"
    trouble, result = f"not done within {_RUN_S} s", None
    try:
        command = [sys.executable, "-m", f"{PACKAGE}.bench.http", name]
        result = subprocess.run(command, cwd=boards.ROOT, capture_output=True, text=True, timeout=_RUN_S)
        trouble = result.stderr.strip().splitlines()[-1] if result.returncode else ""
    except subprocess.TimeoutExpired:
        pass
    if result is None or trouble:
        return [Budget(what, None, "times", _PART_OF_BOUND, trouble, at_least=True)], {}
    figures = json.loads(result.stdout.splitlines()[-1])
    least, spent = bound(figures), figures["http"]
    method = f"{least / 1000:.1f} against {spent / 1000:.1f} ms for {len(_CONTENT) >> 10} KB"
    rows = [Budget(what, least / spent, "times", _PART_OF_BOUND, method, at_least=True)]
    kept = figures["tftp"] / figures["tftp_beside"], figures["http_kept"]
    return rows + _shares(f"emulated {product}", *kept, f"{_BLKSIZE} x {_WINDOWSIZE} and GETs"), figures


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1] if sys.argv[1:] else pico.BOARD)))
