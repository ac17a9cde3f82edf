"""The journal as syslog: each line as a message of RFC 5424, its limits, no circles, a real rsyslog."""

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from board import Board
from client import TftpError, Wire, fetch

everyday = pytest.mark.everyday_only("its address and its clock are those of the everyday board")
# RFC 5424 section 6, without structured data.
MESSAGE = re.compile(
    r"<(?P<pri>\d{1,3})>1 (?P<stamp>-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (?P<host>[!-~]{1,255}) "
    r"(?P<app>[!-~]{1,48}) - - - (?P<text>.+)",
    re.DOTALL,
)
NOTHING = b"\0\5\0\0I am here\0"  # an ERROR, which is never answered; the emulated network then knows our port


class Message(NamedTuple):
    severity: int
    stamp: str
    text: str


class Server:
    """A syslog server of the test, on a port of its own."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.port = self.socket.getsockname()[1]
        self.messages: list[Message] = []
        self.echo = False
        self._over = False
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while not self._over:
            try:
                data, board = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            if data[:2] == b"\0\5":  # the board's answer to an echo
                continue
            match = MESSAGE.fullmatch(data.decode())
            assert match, data
            pri = int(match["pri"])
            assert pri >> 3 == 3 and (match["host"], match["app"]) == ("lab-7", "tftpd"), data
            self.messages.append(Message(pri & 7, match["stamp"], match["text"]))
            if self.echo:
                self.socket.sendto(data, board)

    def wait_for(self, text: str, seconds: float = 10) -> Message:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in self.messages:
                if text in message.text:
                    return message
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} in {self.messages}")

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self.socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def logging(board_name: str, start: Callable[..., Board], server: Server) -> Callable[..., Board]:
    """Starts a board that logs to `server`."""

    def start_one(*arguments: str) -> Board:
        host = "127.0.0.1" if board_name == "unix" else "10.0.0.1"
        board = start("--set", f"syslog={host}:{server.port}", "--set", "hostname=lab-7", *arguments)
        if board_name != "unix":
            server.socket.sendto(NOTHING, board.address)
        return board

    return start_one


def printed(board: Board) -> list[str]:
    """The journal on the console, without its stamps."""
    return [line.split(" ", 1)[1] for line in board.console if re.match(r"\d+\.\d{3} ", line)]


def refused(board: Board, name: str) -> None:
    with pytest.raises(TftpError):
        fetch(board.address, name)


@pytest.mark.genuine("unix", "esp32_c3")
def test_each_line_of_the_journal_is_a_message_with_a_severity_of_its_kind(
    logging: Callable[..., Board], server: Server
):
    board = logging("--set", "log=debug")
    fetch(board.address, "hello.txt")
    refused(board, "nope")
    with Wire(board.address) as wire:  # a probe, as iPXE and UEFI make one
        wire.ask("size-5000", ("tsize", 0))
        wire.send(b"\0\5\0\0enough\0")
    server.wait_for("probed")
    with Wire(board.address) as wire:
        wire.ask("size-5000")
        wire.ack(1)
        wire.send(b"\0\5\0\3disk full\0")
    server.wait_for("ERROR 3")
    severities = {
        'RRQ "/hello.txt" octet: done, ': 6,
        'RRQ "nope" octet: refused, ': 4,
        "probed, no data wanted": 6,
        "ended by the client, ERROR 3": 4,
        "bytes of heap in use": 7,
    }
    for text, severity in severities.items():
        assert server.wait_for(text).severity == severity, text
    console = printed(board)
    sent = [message.text for message in server.messages]
    assert sent == console[-len(sent) :], "the same lines in the same order"
    if board.name == "unix":
        assert server.wait_for("ready on ").severity == 5
        stamp = time.mktime(time.strptime(server.messages[-1].stamp, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert abs(stamp - time.time()) < 60
    else:
        assert {message.stamp for message in server.messages} == {"-"}, "its clock is not set"


@everyday
def test_only_what_the_journal_prints_is_sent(logging: Callable[..., Board], server: Server):
    board = logging("--set", "log=error")
    fetch(board.address, "hello.txt")
    refused(board, "nope")
    time.sleep(0.3)
    assert [message.text for message in server.messages] == printed(board) and len(server.messages) == 1


@everyday
def test_the_rate_is_limited_and_what_was_lost_is_counted(logging: Callable[..., Board], server: Server):
    board = logging()
    began = time.monotonic()
    for number in range(300):
        fetch(board.address, f"size-{(511, 512, 513)[number % 3]}")
    seconds = time.monotonic() - began
    time.sleep(1.1)
    fetch(board.address, "hello.txt")
    server.wait_for("hello.txt")
    lines = printed(board)
    assert len([line for line in lines if "done" in line]) == 301
    assert len(server.messages) <= 20 * (seconds + 2)
    lost = sum(int(found[1]) for one in server.messages if (found := re.match(r"\((\d+) lines lost\) ", one.text)))
    assert lost and lost + len(server.messages) == len(lines)


@everyday
def test_an_echo_makes_no_circle(logging: Callable[..., Board], server: Server):
    server.echo = True
    board = logging()
    for _ in range(3):
        fetch(board.address, "hello.txt")
    time.sleep(2.5)
    console = printed(board)
    echoed = [line for line in console if f"127.0.0.1:{server.port} " in line]
    assert 1 <= len(echoed) <= 4 and len(server.messages) == 4, (console, server.messages)
    assert not any(str(server.port) in message.text for message in server.messages)


@everyday
def test_a_board_that_is_its_own_syslog_server_makes_no_circle(start: Callable[..., Board]):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    board = start("--set", f"syslog=127.0.0.1:{port}", "--port", str(port))
    for _ in range(3):
        fetch(board.address, "hello.txt")
    time.sleep(2.5)
    assert len(printed(board)) <= 10
    fetch(board.address, "hello.txt")


@everyday
def test_a_send_that_fails_logs_nothing_and_harms_nobody(start: Callable[..., Board]):
    board = start("--set", "syslog=127.255.255.255")  # the broadcast address: EACCES
    for _ in range(30):
        fetch(board.address, "hello.txt")
    refused(board, "nope")
    board.wait_for("nope")
    lines = printed(board)
    assert len(lines) == 32 and board.stop() == 0


@everyday
def test_the_syslog_server_may_ask_for_files_like_any_other(logging: Callable[..., Board], server: Server):
    board = logging()
    fetch(board.address, "hello.txt")  # from the same address, another port
    assert "hello.txt" in server.wait_for("done").text


class Rsyslog:
    """The real one, with a configuration of its own, on a port that nobody else has."""

    def __init__(self, folder: Path) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / "log"
        fields = "pri|syslogfacility-text|syslogseverity-text|timestamp:::date-rfc3339|hostname|app-name|procid|msgid"
        template = "".join(f"%{field}%|" for field in [*fields.split("|"), "structured-data"]) + "%msg%\\n"
        self._config = folder / "conf"
        self._config.write_text(
            f'module(load="imudp")\nglobal(workDirectory="{folder}" parser.escapeControlCharactersOnReceive="off")\n'
            f'template(name="all" type="string" string="{template}")\n'
            f'ruleset(name="all") {{ action(type="omfile" file="{self.log}" template="all") }}\n'
            f'input(type="imudp" address="127.0.0.1" port="{self.port}" ruleset="all")\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["rsyslogd", "-n", "-f", str(self._config), "-i", str(self._config.with_name("pid"))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while f":{self.port:04X} " not in Path("/proc/net/udp").read_text():
            assert time.monotonic() < end and self._process.poll() is None, "rsyslogd does not start"
            time.sleep(0.05)

    def lines(self) -> list[list[str]]:
        """The fields of each line."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split("|", 9) for line in text.splitlines()]

    def wait_for(self, text: str) -> list[str]:
        """The fields of the line with that text."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for fields in self.lines():
                if text in fields[9]:
                    return fields
            time.sleep(0.05)
        raise AssertionError(f"no {text!r} in {self.lines()}")

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Rsyslog]:
    if not shutil.which("rsyslogd"):
        pytest.skip("rsyslogd is not installed (Debian: rsyslog)")
    one = Rsyslog(tmp_path)
    yield one
    one.stop()


@pytest.mark.genuine("unix", "esp32_c3")
def test_rsyslog_reads_every_field(rsyslog: Rsyslog, board_name: str, start: Callable[..., Board]):
    host = "127.0.0.1" if board_name == "unix" else "10.0.0.1"
    board = start("--set", f"syslog={host}:{rsyslog.port}", "--set", "hostname=lab-7")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as known:  # the emulated network carries answers only
        known.bind(("127.0.0.1", rsyslog.port))
        known.sendto(NOTHING, board.address)
    rsyslog.start()
    for name in "hello.txt", "größe 漢字.bin", 'a "%s" <34>1 | \\', "x\n<0>1 - forged - - - -":
        with contextlib.suppress(TftpError):
            fetch(board.address, name)
        time.sleep(0.3)
    fields = rsyslog.wait_for("hello.txt")
    assert fields[:3] == ["30", "daemon", "info"] and fields[4:9] == ["lab-7", "tftpd", "-", "-", "-"], fields
    assert rsyslog.wait_for("größe 漢字.bin")[2] == "warning"
    assert rsyslog.wait_for("<34>1")[4:6] == ["lab-7", "tftpd"]
    assert rsyslog.wait_for("forged")[:3] == ["28", "daemon", "warning"]
    sent = [fields[9] for fields in rsyslog.lines()]
    assert len(sent) >= 4 and sent == printed(board)[-len(sent) :]
