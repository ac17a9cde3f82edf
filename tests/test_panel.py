"""panel.py with pins, a watchdog and timers that are the test's."""

import importlib
import sys
import types

import pytest
import settings


class Machine(types.ModuleType):
    """`machine` with one pin and the differences between ports that panel.py must bear."""

    def __init__(self, timer_id):
        super().__init__("machine")
        machine = self
        self.level = 1
        self.feeds = 0
        self.watchdogs = []
        self.timers = []

        class Pin:
            IN, OUT, PULL_UP = 0, 1, 2

            def __init__(self, number, mode, pull=None):
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


def test_the_led_shines_blinks_and_goes_out(machine):
    panel, chosen = panel_with(led=2)
    board = panel.Panel(chosen)
    levels = []
    for up, busy in ((True, 0), (True, 0), (True, 3), (True, 3), (True, 3), (True, 0), (False, 3), (False, 0)):
        board.tick(up, busy)
        levels.append(machine.level)
    assert levels == [1, 1, 0, 1, 0, 1, 0, 0]


def test_the_watchdog_is_fed_by_the_tick_and_by_a_timer_after_the_server(machine):
    panel, chosen = panel_with()
    board = panel.Panel(chosen)
    assert machine.watchdogs == [8000]
    board.tick(True, 0)
    assert machine.feeds == 1
    board.rest()
    assert machine.timers[-1].period < 8000
    machine.timers[-1].callback(None)
    assert machine.feeds == 2


def test_the_watchdog_can_be_switched_off(machine):
    panel, chosen = panel_with(watchdog=False)
    board = panel.Panel(chosen)
    board.tick(True, 0)
    board.rest()
    assert machine.watchdogs == [] and machine.feeds == 0 and not machine.timers


def test_a_pin_that_the_board_does_not_have_is_told_and_keeps_nothing_from_serving(machine, monkeypatch, capsys):
    def no_pin(*arguments):
        raise ValueError("invalid pin")

    no_pin.IN = no_pin.OUT = no_pin.PULL_UP = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(machine, "Pin", no_pin)
    panel, chosen = panel_with(led="LED", button=48, watchdog=False)
    assert not panel.safe_mode(chosen)
    board = panel.Panel(chosen)
    board.tick(True, 1)
    board.rest()
    assert capsys.readouterr().out == "panel: no pin 48: invalid pin\npanel: no pin LED: invalid pin\n"


def test_the_boot_button_asks_for_safe_mode(machine):
    panel, chosen = panel_with(button=0)
    assert not panel.safe_mode(chosen)
    machine.level = 0
    assert panel.safe_mode(chosen)
    panel, chosen = panel_with()
    assert not panel.safe_mode(chosen)


def test_bootsel_is_no_pin(machine, monkeypatch):
    rp2 = types.ModuleType("rp2")
    rp2.bootsel_button = lambda: 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rp2", rp2)
    panel, chosen = panel_with(button="BOOTSEL")
    assert panel.safe_mode(chosen)
    rp2.bootsel_button = lambda: 0  # type: ignore[attr-defined]
    assert not panel.safe_mode(chosen)
