"""The clock by SNTP: what is believed and what is not, when it is asked again, and a real server."""

import calendar
import contextlib
import http.client
import importlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from board import Board
from client import fetch

everyday = pytest.mark.everyday_only("its clock is seen by its HTTP")
SINCE_1900 = 2208988800  # seconds from NTP's epoch to 1970
MAY_2031 = calendar.timegm((2031, 5, 6, 7, 8, 9))
Answer = Callable[[bytes], bytes]


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(request: bytes, seconds: float = MAY_2031, first: int = 0x24, stratum: int = 2) -> bytes:
    """What a server with that time answers (RFC 5905 section 7.3)."""
    stamp = struct.pack("!II", int(seconds + SINCE_1900) & 0xFFFFFFFF, int(seconds % 1 * (1 << 32)))
    return bytes((first, stratum, 6, 0xEC)) + bytes(20) + request[40:48] + stamp + stamp


class Server:
    """An NTP server of the test: `answers` gives the datagrams for a request."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                request, board = self.socket.recvfrom(100)
                self.requests.append(request)
                for one in self.answers:
                    self.socket.sendto(one(request), board)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def serve_one(*answers: Answer) -> Server:
            server = Server(*answers)
            stack.callback(server.socket.close)
            return server

        yield serve_one


class Clock:
    """A board with HTTP, whose answers show its clock."""

    def __init__(self, start: Callable[..., Board], port: int) -> None:
        web = free_port(socket.SOCK_STREAM)
        self.web = web
        self.board = start("--set", f"ntp=127.0.0.1:{port}", "--set", f"http_port={web}")

    def now(self) -> float:
        self.board.wait_for("http: port")
        connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=5)
        connection.request("HEAD", "/hello.txt")
        date = connection.getresponse().headers["Date"]
        connection.close()
        return parsedate_to_datetime(date).timestamp()


@everyday
def test_the_clock_is_set_to_the_second(start: Callable[..., Board], serve: Callable[..., Server]):
    began = time.monotonic()
    server = serve(lambda request: answer(request, MAY_2031 + time.monotonic() - began))
    clock = Clock(start, server.port)
    clock.board.wait_for("ntp: 127.0.0.1: the clock is set")
    for _ in range(3):
        assert abs(clock.now() - (MAY_2031 + time.monotonic() - began)) < 1.6
        time.sleep(0.7)
    assert len(server.requests) == 1
    request = server.requests[0]
    assert len(request) == 48 and request[0] == 0x23 and request[1:40] == bytes(39) and request[40:] != bytes(8)


@everyday
def test_the_time_goes_on_in_2036(start: Callable[..., Board], serve: Callable[..., Server]):
    later = calendar.timegm((2040, 1, 2, 3, 4, 5))  # its 32 bits of seconds have wrapped
    clock = Clock(start, serve(lambda request: answer(request, later)).port)
    clock.board.wait_for("the clock is set")
    assert abs(clock.now() - later) < 10


WRONG: dict[str, Answer] = {
    "another request's": lambda request: answer(bytes(48)),
    "our own request": lambda request: request,
    "a client": lambda request: answer(request, first=0x23),
    "a broadcast": lambda request: answer(request, first=0x25),
    "too short": lambda request: answer(request)[:47],
    "empty": lambda request: b"",
}
WITHOUT_TIME: dict[str, Answer] = {
    "not synchronised": lambda request: answer(request, first=0xE4),
    "kiss of death": lambda request: answer(request, stratum=0),
    "stratum 16": lambda request: answer(request, stratum=16),
    "no time": lambda request: answer(request, -SINCE_1900),
}


@everyday
@pytest.mark.parametrize("kind", [*WRONG, *WITHOUT_TIME])
def test_what_is_no_answer_does_not_set_the_clock(start: Callable[..., Board], serve: Callable[..., Server], kind: str):
    clock = Clock(start, serve((WRONG | WITHOUT_TIME)[kind]).port)
    clock.board.wait_for("ntp: 127.0.0.1: " + ("no answer" if kind in WRONG else "has no time"))
    assert abs(clock.now() - time.time()) < 5, "the clock of this computer"


@everyday
def test_a_forged_answer_does_not_hide_the_right_one(start: Callable[..., Board], serve: Callable[..., Server]):
    clock = Clock(start, serve(WRONG["another request's"], WRONG["too short"], answer).port)
    clock.board.wait_for("the clock is set")
    assert abs(clock.now() - MAY_2031) < 10


@everyday
def test_a_silent_server_holds_nobody_up(start: Callable[..., Board], serve: Callable[..., Server]):
    server = serve()
    clock = Clock(start, server.port)
    slowest = 0.0
    end = time.monotonic() + 6
    while time.monotonic() < end:
        began = time.monotonic()
        fetch(clock.board.address, "size-5000")
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.5 and server.requests
    clock.board.wait_for("no answer")


@everyday
def test_a_real_server_is_believed(start: Callable[..., Board], tmp_path: Path):
    if not shutil.which("chronyd"):
        pytest.skip("chronyd is not installed (Debian: chrony)")
    port = free_port()
    lines = ["local stratum 8", f"port {port}", "bindaddress 127.0.0.1", "allow 127.0.0.0/8", "cmdport 0"]
    lines += [f"bindcmdaddress {tmp_path}/sock", f"pidfile {tmp_path}/pid", "user root"]
    (tmp_path / "conf").write_text("\n".join(lines) + "\n")
    command = ["chronyd", "-d", "-x", "-f", str(tmp_path / "conf")]  # -x: it does not touch this computer's clock
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 10
        while f":{port:04X} " not in Path("/proc/net/udp").read_text():
            assert process.poll() is None, process.stdout and process.stdout.read().decode()
            assert time.monotonic() < end
            time.sleep(0.05)
        clock = Clock(start, port)
        clock.board.wait_for("the clock is set")
        assert abs(clock.now() - time.time()) < 2
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.genuine("esp32_c3")
def test_the_genuine_firmware_sets_its_clock(start: Callable[..., Board], serve: Callable[..., Server]):
    """Its syslog shows it; before, it has no time at all. The emulated network carries only answers, so both servers
    speak first, while the board starts."""
    server, log = serve(answer), serve()
    port = free_port()
    over = threading.Event()

    def speak() -> None:
        while not over.wait(0.1):
            for one in server, log:
                one.socket.sendto(b"\0\5\0\0I am here\0", ("127.0.0.1", port))

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        settings = [f"ntp=10.0.0.1:{server.port}", f"syslog=10.0.0.1:{log.port}"]
        board = start("--port", str(port), "--set", settings[0], "--set", settings[1])
        board.wait_for("ntp: 10.0.0.1: the clock is set", 100)
        fetch(board.address, "hello.txt")
        board.wait_for("hello.txt")
        time.sleep(0.5)
    finally:
        over.set()
        thread.join()
    stamps = [line.split()[1].decode() for line in log.requests if b"hello.txt" in line]
    assert stamps and stamps[0].startswith("2031-05-06T07:"), log.requests


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """ntp.py on this computer, second by second, with a simulated network and RTC: `tick()`, and what happened."""
    state = types.SimpleNamespace(sent=[], lines=[], set=[], answers=None, trouble=None, opened=0)

    class Socket:
        def __init__(self, *_: object) -> None:
            if state.trouble == "no socket":
                raise OSError(12)
            state.opened += 1

        def setblocking(self, on: bool) -> None:
            pass

        def connect(self, address: object) -> None:
            pass

        def send(self, data: bytes) -> None:
            if state.trouble == "no link":
                raise OSError(113)
            state.sent.append(data)

        def recv(self, size: int) -> bytes:
            if not state.answers:
                raise OSError(11)
            return state.answers(state.sent[-1])

        def close(self) -> None:
            state.opened -= 1

    machine = types.ModuleType("machine")
    machine.RTC = lambda: types.SimpleNamespace(datetime=state.set.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "machine", machine)
    monkeypatch.delitem(sys.modules, "tftpd.ntp", raising=False)
    ntp = importlib.import_module("tftpd.ntp")
    monkeypatch.setattr(
        ntp, "socket", types.SimpleNamespace(socket=Socket, AF_INET=2, SOCK_DGRAM=2, getaddrinfo=socket.getaddrinfo)
    )
    journal = types.SimpleNamespace(log=lambda level, text, *values: state.lines.append(text % values))
    server = types.SimpleNamespace(settings={"ntp": "192.168.1.1"}, journal=journal)
    ticks = []
    tick = ntp.also(ticks.append)

    def run(number: int) -> None:
        for _ in range(number):
            tick(server)
        assert len(ticks) >= number

    state.run, state.epoch = run, ntp
    yield state


def test_it_asks_again_after_a_minute_without_an_answer_and_after_hours_with_one(seconds: types.SimpleNamespace):
    seconds.run(4)
    assert len(seconds.sent) == 1 and seconds.opened == 1
    seconds.run(64 + 4)
    assert len(seconds.sent) == 2
    seconds.answers = answer
    seconds.run(2)
    assert len(seconds.set) == 1 and seconds.set[0][:3] == (2031, 5, 6) and not seconds.opened
    seconds.run(14_395)
    assert len(seconds.sent) == 2
    seconds.run(10)
    assert len(seconds.sent) == 3 and len(set(seconds.sent)) == 3, "each with its own cookie"
    assert seconds.lines == ["ntp: 192.168.1.1: no answer", "ntp: 192.168.1.1: the clock is set"], "no line is repeated"


@pytest.mark.parametrize(("trouble", "told"), [("no socket", "no socket is left"), ("no link", "no answer")])
def test_without_a_socket_or_a_link_it_tries_again(seconds: types.SimpleNamespace, trouble: str, told: str):
    seconds.trouble = trouble
    seconds.run(200)
    seconds.trouble, seconds.answers = None, answer
    seconds.run(70)
    assert seconds.lines[0].endswith(told) and len(seconds.set) == 1 and not seconds.opened


def test_a_board_that_counts_from_2000_gets_the_same_date(
    seconds: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    to_2000 = 946684800
    monkeypatch.setattr(seconds.epoch, "gmtime", lambda value: time.gmtime(value + to_2000))
    seconds.answers = answer
    seconds.run(3)
    year, month, day, weekday, hour, minute, second, _ = seconds.set[0]
    assert (year, month, day, weekday, hour, minute) == (2031, 5, 6, 1, 7, 8) and 9 <= second <= 12
