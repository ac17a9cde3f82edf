"""Months of uptime: `ticks_ms` wraps after 12.4 days, and two ticks can be compared only within half of that.

The clock moves by days in each state that can last. For link.py and panel.py see tests/boards.
"""

import itertools
import os
import re
import sys
from errno import EAGAIN

import pytest
import settings
from tftpd import uploads
from tftpd.ports import Session
from tftpd.server import Server
from tftpd.transfer import DONE

PERIOD = 1 << 30  # of ticks_ms on every port (MICROPY_PY_TIME_TICKS_PERIOD)
DAY = 86_400_000
CLIENT = ("10.0.0.5", 1234)
MODULES = ("server", "transfer", "rrq", "wrq", "ports", "journal", "access", "names")
days = pytest.mark.parametrize("days", [1, 5, 6.2, 6.3, 7, 10, 12, 13, 30])


class Air:
    """The clock, and a socket: the datagrams that it delivers and those sent."""

    def __init__(self):
        self.ms = 123_456
        self.waiting = []
        self.sent = []

    def ticks_ms(self):
        return self.ms % PERIOD

    def recvfrom(self, size):
        if not self.waiting:
            raise OSError(EAGAIN, "")
        return self.waiting.pop(0)[:size], CLIENT

    def sendto(self, datagram, address):
        self.sent.append(bytes(datagram))
        return len(datagram)

    def close(self):
        pass

    def fileno(self):
        return 0


@pytest.fixture
def air(monkeypatch):
    air = Air()
    for name in MODULES:
        module = sys.modules["tftpd." + name]
        for function, meaning in {
            "ticks_ms": air.ticks_ms,
            "ticks_add": lambda ticks, delta: (ticks + delta) % PERIOD,
            "ticks_diff": lambda end, start: (end - start + PERIOD // 2) % PERIOD - PERIOD // 2,
        }.items():
            if hasattr(module, function):
                monkeypatch.setattr(module, function, meaning)
    return air


@pytest.fixture
def server(air, monkeypatch, tmp_path):
    """A server of tmp_path that sends everything from one socket."""
    (tmp_path / "file").write_bytes(bytes(2000))
    (tmp_path / ".uploads").mkdir()
    for module in (uploads, sys.modules["tftpd.files"]):
        monkeypatch.setattr(module, "UPLOADS", str(tmp_path / ".uploads"))
    monkeypatch.setattr(os, "ilistdir", lambda path: iter(()), raising=False)
    chosen = settings.defaults()
    assert settings.update(chosen, {"single_port": True, "write_from": ["10.0.0.5"], "log": "debug"}) == []
    server = Server(dict(chosen, root=str(tmp_path)))
    server.files.names.jobs.clear()
    server.files.names.indexed = None
    ports = server.ports
    ports.listener.sock = air
    ports.bound[air] = ports.listener
    monkeypatch.setattr(ports, "wait", lambda timeout_ms: [(air, 1)] if air.waiting else [])
    monkeypatch.setattr(ports, "watch", lambda port: None)
    monkeypatch.setattr(ports, "close", lambda port: None)
    return server


def hear(server, air, datagram):
    """Deliver a datagram; returns the packets sent in answer."""
    air.waiting.append(datagram)
    air.sent.clear()
    server.poll(0)
    return air.sent


def pass_days(server, air, days):
    """Let days pass without a poll, then poll a few times."""
    air.ms += int(days * DAY)
    for _ in range(3):
        server.poll(0)
        air.ms += 20


def seconds_of_last_line(capsys):
    return float(re.findall(r"^(-?\d+\.\d{3}) ", capsys.readouterr().out, re.MULTILINE)[-1])


@days
def test_uptime_is_right_in_a_program_that_only_polls(server, air, capsys, days):
    started = air.ms
    while air.ms < started + days * DAY:
        air.ms += 3_600_000
        server.poll(0)
    hear(server, air, b"\0\1missing\0octet\0")
    assert seconds_of_last_line(capsys) == pytest.approx((air.ms - started) / 1000, abs=1)
    assert server.stats()["uptime_ms"] == air.ms - started


@days
def test_days_without_a_poll_make_no_time_negative(server, air, capsys, days):
    air.ms += int(days * DAY)
    hear(server, air, b"\0\1missing\0octet\0")
    assert seconds_of_last_line(capsys) >= 0


@days
def test_a_read_ends_after_any_time_without_a_poll(server, air, days):
    assert hear(server, air, b"\0\1file\0octet\0")[0][:4] == b"\0\3\0\1"
    hear(server, air, b"\0\4\0\1")
    assert server.stats()["transfers"] == 1
    pass_days(server, air, days)
    assert server.stats()["transfers"] == 0
    assert server.stats()["failed"] == 1


@days
def test_a_dallying_upload_ends_after_any_time_without_a_poll(server, air, days):
    assert hear(server, air, b"\0\2new\0octet\0") == [b"\0\4\0\0"]
    assert hear(server, air, b"\0\3\0\1whole") == [b"\0\4\0\1"]
    assert server.stats()["transfers"] == 1 and server.stats()["done"] == 1
    pass_days(server, air, days)
    assert server.stats()["transfers"] == 0
    assert server.stats()["done"] == 1


@days
def test_a_transfer_without_an_answer_for_days_gives_way(server, air, days):
    server.settings["transfers"] = 1
    hear(server, air, b"\0\1file\0octet\0")
    air.ms += int(days * DAY)
    server._due = air.ticks_ms()
    air.waiting.append(b"\0\1file\0octet\0blksize\x001000\0")
    air.sent.clear()
    server.ports.clients.clear()  # as if from another client
    server.ports.clients[("10.0.0.6", 1)] = server.ports.sessions[0]
    server.ports.sessions[0].client = ("10.0.0.6", 1)
    server.poll(0)
    assert air.sent[0][:2] == b"\0\6"


def test_a_read_that_takes_weeks_is_logged_with_its_duration(server, air, capsys):
    hear(server, air, b"\0\1file\0octet\0")
    (session,) = server.ports.sessions
    assert isinstance(session, Session)
    for _ in range(20 * 24 * 3600 // 20):  # the client acknowledges every 20 s
        air.ms += 20_000
        session.transfer.progress = air.ticks_ms()
        server.journal.uptime_ms()
    session.transfer.outcome = DONE
    server._end(session, DONE)
    assert f" in {20 * 24 * 3600}.000 s" in capsys.readouterr().out


@days
def test_the_tick_comes_each_second_after_any_pause(server, air, days):
    ticks = []

    def tick(server):
        ticks.append(air.ms)
        air.ms += int(days * DAY) if len(ticks) == 2 else 0
        if len(ticks) == 5:
            server.stop()

    right = server.poll

    def poll(timeout_ms):
        air.ms += 500
        return right(0)

    server.poll = poll
    server.serve_forever(tick)
    pauses = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert [ms for ms in pauses if ms < DAY] == [1000, 1000, 1000]


def test_a_failing_tick_is_logged_once_and_the_server_continues(server, air, capsys):
    ticks = []
    faults = [MemoryError("no heap"), MemoryError("no heap"), OSError(5, "driver"), None, OSError(5, "driver")]

    def tick(server):
        ticks.append(air.ms)
        if len(ticks) > len(faults):
            server.stop()
        elif fault := faults[len(ticks) - 1]:
            raise fault

    right = server.poll

    def poll(timeout_ms):
        air.ms += 1000
        return right(0)

    server.poll = poll
    server.serve_forever(tick)
    assert len(ticks) == 6
    said = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines() if "tick: " in line]
    assert [line.split("(")[0] for line in said] == ["tick: MemoryError", "tick: OSError", "tick: OSError"]


def test_ctrl_c_in_the_tick_ends_the_server(server, air):
    def tick(server):
        raise KeyboardInterrupt

    def poll(timeout_ms):
        air.ms += 1000
        return False

    server.poll = poll
    with pytest.raises(KeyboardInterrupt):
        server.serve_forever(tick)
