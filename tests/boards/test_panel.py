"""panel.py with simulated pins, watchdog and timers."""

import importlib
import runpy
import sys
import time
import types

import pytest
import settings

from board import ROOT


class Machine(types.ModuleType):
    """`machine` with one pin and the differences between ports that panel.py must handle."""

    def __init__(self, timer_id):
        super().__init__("machine")
        machine = self
        self.level = 1
        self.feeds = 0
        self.trouble = None  # the exception that Pin() raises
        self.watchdogs = []
        self.timers = []

        class Pin:
            IN, OUT, PULL_UP = 0, 1, 2

            def __init__(self, number, mode, pull=None):
                if machine.trouble:
                    raise machine.trouble
                self.number, self.mode = number, mode

            def value(self, value=None):
                if value is None:
                    return machine.level
                machine.level = int(value)

        class WDT:
            def __init__(self, timeout):
                machine.watchdogs.append(timeout)

            def feed(self):
                machine.feeds += 1

        class Timer:
            def __init__(self, number):
                if number != timer_id:
                    raise ValueError("Timer doesn't exist")
                machine.timers.append(self)

            def init(self, period, callback):
                self.period, self.callback = period, callback

        self.Pin, self.WDT, self.Timer = Pin, WDT, Timer


@pytest.fixture(params=[-1, 0], ids=["rp2", "esp32"])
def machine(request, monkeypatch):
    fake = Machine(request.param)
    monkeypatch.setitem(sys.modules, "machine", fake)
    monkeypatch.delitem(sys.modules, "panel", raising=False)
    return fake


def panel_with(**values):
    chosen = settings.defaults()
    assert settings.update(chosen, values) == []
    return importlib.import_module("panel"), chosen


class Server:
    """The part of tftpd.Server that the panel uses."""

    def __init__(self):
        self.busy = 0
        self.trouble: Exception | None = None

    def stats(self):
        if self.trouble:
            raise self.trouble
        return {"transfers": self.busy}


def tick(board, up=True, busy=0):
    server = Server()
    server.busy = busy
    board.tick(lambda: up, server)


PATTERN = ((True, 0), (True, 0), (True, 3), (True, 3), (True, 3), (True, 0), (False, 3), (False, 0))
LEVELS = [1, 1, 0, 1, 0, 1, 0, 0]


def test_the_led_is_on_with_a_link_blinks_during_transfers_and_is_off_without_a_link(machine):
    panel, chosen = panel_with(led=2)
    board = panel.Panel(chosen)
    levels = []
    for up, busy in PATTERN:
        tick(board, up, busy)
        levels.append(machine.level)
    assert levels == LEVELS


@pytest.mark.parametrize("days", [5, 7, 10, 13])
def test_led_and_watchdog_do_not_depend_on_the_clock(machine, monkeypatch, days):
    """Whatever the clocks of the board do between two ticks, and after any uptime."""
    now = [0]

    def later():
        now[0] = (now[0] + days * 86_400_000) % (1 << 30)
        return now[0]

    monkeypatch.setattr(time, "ticks_ms", later)
    monkeypatch.setattr(time, "time", later)
    panel, chosen = panel_with(led=2)
    assert not hasattr(panel, "time") and not hasattr(panel, "ticks_ms")
    board = panel.Panel(chosen)
    for _ in range(days * 100):
        levels = []
        for up, busy in PATTERN:
            later()
            tick(board, up, busy)
            levels.append(machine.level)
        assert levels == LEVELS
    assert machine.feeds == board.seconds == days * 100 * len(PATTERN)


def test_the_watchdog_is_fed_by_the_tick_and_by_a_timer_after_the_server(machine):
    panel, chosen = panel_with()
    board = panel.Panel(chosen)
    assert machine.watchdogs == [8000]
    tick(board)
    assert machine.feeds == 1
    board.rest()
    assert machine.timers[-1].period < 8000
    machine.timers[-1].callback(None)
    assert machine.feeds == 2


@pytest.mark.parametrize("trouble", [OSError(5), MemoryError(), ValueError()], ids=repr)
def test_the_watchdog_is_fed_in_every_state_of_link_and_server(machine, trouble):
    panel, chosen = panel_with(led=2)
    board = panel.Panel(chosen)
    server = Server()

    def keep():
        raise trouble

    for feeds in (1, 2, 3):
        with pytest.raises(type(trouble)):
            board.tick(keep, server)
        assert machine.feeds == board.seconds == feeds
    server.trouble = trouble
    for feeds in (4, 5, 6):
        with pytest.raises(type(trouble)):
            board.tick(lambda: True, server)
        assert machine.feeds == board.seconds == feeds


def test_without_an_led_transfers_are_not_counted(machine):
    panel, chosen = panel_with()
    server = Server()
    server.trouble = MemoryError()
    panel.Panel(chosen).tick(lambda: True, server)
    assert machine.feeds == 1


def test_the_watchdog_can_be_switched_off(machine):
    panel, chosen = panel_with(watchdog=False)
    board = panel.Panel(chosen)
    tick(board)
    board.rest()
    assert machine.watchdogs == [] and machine.feeds == 0 and not machine.timers


@pytest.mark.parametrize(
    "trouble",
    [ValueError("invalid pin"), TypeError(), OverflowError("overflow"), OSError(5), AttributeError(), MemoryError()],
    ids=repr,
)
def test_a_missing_pin_is_reported_and_the_server_starts(machine, capsys, trouble):
    panel, chosen = panel_with(led="LED", watchdog=False)
    machine.trouble = trouble
    board = panel.Panel(chosen)
    tick(board, busy=1)
    board.rest()
    assert capsys.readouterr().out == f"panel: no pin LED: {trouble!r}\n"


def test_led_0_is_pin_0_and_not_off(machine):
    panel, chosen = panel_with(led=0)
    assert panel.Panel(chosen).led.number == 0


class Stopped(Exception):
    """Raised by the server of the test to end main.py."""


@pytest.fixture
def main(machine, monkeypatch):
    """main(ticks, fault) runs main.py with a server that ticks `ticks` times and then raises `fault`; returns the calls
    of crash.restart(), a list of (seconds,)."""
    crashes = []
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setitem(sys.modules, "settings", settings)
    for name in ("link", "mode", "crash", "tftpd"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    link, crash, tftpd = sys.modules["link"], sys.modules["crash"], sys.modules["tftpd"]
    sys.modules["mode"].serves = lambda chosen: True  # type: ignore[attr-defined]
    link.keep = lambda: True  # type: ignore[attr-defined]
    crash.restart = lambda fault, seconds, rest: crashes.append(seconds)  # type: ignore[attr-defined]
    chosen = settings.defaults()
    monkeypatch.setattr(settings, "load", lambda: chosen)

    def run(ticks, fault, jump=0):
        class Serving(Server):
            def __init__(self, given):
                super().__init__()
                assert given is chosen

            def serve_forever(self, tick):
                for _ in range(ticks):
                    clock[0] += 1 + jump
                    tick(self)
                raise fault

        tftpd.Server = Serving  # type: ignore[attr-defined]
        runpy.run_path(str(ROOT / "main.py"))
        return crashes

    return run


def test_main_feeds_the_watchdog_and_passes_a_crash_to_crash_py(machine, main):
    assert main(7, Stopped()) == [7] and machine.feeds == 7


def test_ctrl_c_is_not_a_crash(machine, main):
    assert main(3, KeyboardInterrupt()) == [] and machine.timers


@pytest.mark.parametrize("jump", [-100_000, 100_000, 800_000_000])
def test_setting_the_clock_does_not_change_the_uptime(machine, main, jump):
    assert main(7, Stopped(), jump) == [7]
