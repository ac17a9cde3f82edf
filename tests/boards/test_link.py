"""link.py with a simulated Wi-Fi and a clock that the test moves."""

import importlib
import itertools
import runpy
import sys
import time
import types
from typing import Any

import pytest
import settings

from board import ROOT

WRAP = 1 << 30  # ticks_ms of a board, in milliseconds: 12.4 days
DAY = 86_400_000
DAYS = [5, 6.2, 6.3, 7, 9, 10, 12, 12.4, 13, 20]


class Air:
    """The access point and the clock, as the board sees them."""

    def __init__(self):
        self.now = 5000
        self.answers = True  # the access point is in range
        self.refuses = False  # connect() raises, as on ESP32 while it joins by itself
        self.troubles: dict[str, Exception] = {}  # the exception that a driver function raises, by function name
        self.calls: list[tuple] = []
        self.times: list[tuple[str, int]] = []
        self.connected = False

    def wlan(self, interface):
        return self

    def ticks_ms(self):
        return self.now % WRAP

    @staticmethod
    def ticks_diff(end, start):  # as in extmod/modtime.c
        return (end - start + WRAP // 2) % WRAP - WRAP // 2

    def fail(self, name):
        if trouble := self.troubles.get(name):
            raise trouble

    def attempts(self):
        """The calls of disconnect() and connect() since the last attempts(), as a list of (name, seconds)."""
        calls = [(name, at / 1000) for name, at in self.times]
        self.times.clear()
        return calls

    def country(self, code):
        self.calls.append(("country", code))
        self.fail("country")

    def hostname(self, name):
        self.calls.append(("hostname", name))
        self.fail("hostname")

    # the methods of network.WLAN
    def active(self, on):
        self.calls.append(("active", on))
        self.fail("active")

    def config(self, **values):
        self.calls.append(("config", values))
        self.fail("config")

    def ifconfig(self, addresses=None):
        if addresses:
            self.calls.append(("ifconfig", addresses))
        self.fail("ifconfig")
        return ("10.0.0.2", "255.255.255.0", "10.0.0.1", "10.0.0.1")

    def connect(self, *credentials):
        self.calls.append(("connect", *credentials))
        self.times.append(("connect", self.now))
        self.fail("connect")
        if self.refuses:
            raise OSError("Wifi Internal State Error")
        self.connected = self.answers

    def disconnect(self):
        self.calls.append(("disconnect",))
        self.times.append(("disconnect", self.now))
        self.fail("disconnect")
        self.connected = False

    def isconnected(self):
        self.fail("isconnected")
        return self.connected

    def sleep_ms(self, ms):
        self.now += ms


@pytest.fixture
def air(monkeypatch):
    air = Air()
    network = types.ModuleType("network")
    network.STA_IF = 0  # type: ignore[attr-defined]
    network.WLAN = air.wlan  # type: ignore[attr-defined]
    network.WLAN.__func__.PM_NONE = 16  # type: ignore[attr-defined]
    network.country, network.hostname = air.country, air.hostname  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "network", network)
    monkeypatch.setattr(time, "ticks_ms", air.ticks_ms)
    monkeypatch.setattr(time, "ticks_diff", air.ticks_diff)
    monkeypatch.setattr(time, "sleep_ms", air.sleep_ms, raising=False)
    monkeypatch.delitem(sys.modules, "link", raising=False)
    return air


def join(**values) -> tuple[Any, bool]:
    link = importlib.import_module("link")
    chosen = settings.defaults()
    assert settings.update(chosen, {"ssid": "lab", "password": "secret word", **values}) == []
    return link, link.join(chosen)


def test_joins_with_power_save_off_and_the_hostname(air, capsys):
    _, joined = join(country="DE")
    assert joined and capsys.readouterr().out == "link: up, 10.0.0.2\n"
    assert air.calls == [
        ("country", "DE"),
        ("hostname", "tftpd"),
        ("active", True),
        ("config", {"pm": 16}),
        ("connect", "lab", "secret word"),
    ]


def test_a_static_address_is_set_before_joining(air):
    join(ip="10.0.0.9", gateway="10.0.0.1", dns="10.0.0.1")
    assert air.calls[-2] == ("ifconfig", ("10.0.0.9", "255.255.255.0", "10.0.0.1", "10.0.0.1"))


def test_an_open_network_is_joined_without_a_password(air):
    join(password=None)
    assert air.calls[-1] == ("connect", "lab")
    join(password="")
    assert air.calls[-1] == ("connect", "lab")


def test_the_time_to_join_is_bounded(air, capsys):
    air.answers = False
    _, joined = join(join_timeout=7)
    assert not joined and 12_000 <= air.now <= 12_200
    assert "link: not up after 7 s, still trying" in capsys.readouterr().out


def test_a_slow_network_is_tried_several_times(air):
    air.answers = False
    join(join_timeout=35)
    assert air.calls.count(("connect", "lab", "secret word")) == 4


def test_without_an_ssid_link_reports_it_and_leaves_the_wifi_off(air, capsys):
    _, joined = join(ssid=None)
    assert (
        not joined and air.calls == [("hostname", "tftpd")] and "no ssid in /settings.json" in capsys.readouterr().out
    )


def test_a_link_that_drops_is_joined_again(air, capsys):
    link, _ = join()
    assert link.keep()
    air.connected = air.answers = False
    for _ in range(40):
        air.now += 1000
        assert not link.keep()
    attempts = air.calls.count(("connect", "lab", "secret word"))
    assert 4 <= attempts <= 5
    air.answers = True
    for _ in range(12):
        air.now += 1000
        link.keep()
    assert link.keep()
    out = capsys.readouterr().out
    assert out.count("link: down, joining again") == 1 and out.count("link: up, 10.0.0.2") == 2


def test_a_driver_that_refuses_to_connect_is_tried_again(air, capsys):
    air.refuses = True
    link, joined = join(join_timeout=5)
    assert not joined and "Wifi Internal State Error" in capsys.readouterr().out
    air.refuses = False
    air.now += 11_000
    assert not link.keep()
    air.now += 1000
    assert not link.keep()
    assert link.keep()


def seconds(air, link, count):
    """Call keep() once a second, `count` times; returns its last result."""
    up = link.keep()
    for _ in range(count):
        air.now += 1000
        up = link.keep()
    return up


def test_a_dropped_link_is_disconnected_at_once_joined_a_second_later_and_then_every_ten(air):
    link, _ = join()
    air.attempts()
    air.connected = air.answers = False
    air.now = 100_000
    seconds(air, link, 35)
    wanted = [("disconnect", 100), ("connect", 101), ("disconnect", 112), ("connect", 113)]
    assert air.attempts() == [*wanted, ("disconnect", 124), ("connect", 125)]


def test_disconnect_and_connect_are_never_in_one_call_nor_within_a_second(air):
    link, _ = join()
    for pause in (1, 10, 100, 333, 999, 1000, 1001, 5000, 9999, 20_000):
        air.connected = air.answers = False
        air.attempts()
        for _ in range(max(5, 40_000 // pause)):
            air.now += pause
            link.keep()
        calls = air.attempts()
        assert calls[:2] and calls[0][0] == "disconnect" and calls[1][0] == "connect"
        for (before, then), (call, now) in itertools.pairwise(calls):
            assert {before, call} == {"connect", "disconnect"}
            assert now - then >= (1 if call == "connect" else 10)
        air.answers = True
        for _ in range(2 + 12_000 // pause):
            air.now += pause
            link.keep()
        assert link.keep()


def later(air, link, days, step):
    """Move the clock by `days`, with a call of keep() every `step` ms, or without any if `step` is None."""
    end = air.now + round(days * DAY)
    while step and air.now + step < end:
        air.now += step
        link.keep()
    air.now = end


@pytest.mark.parametrize("step", [3_600_000, 61_000, None], ids=["each hour", "each minute", "one jump"])
@pytest.mark.parametrize("days", DAYS)
def test_a_link_that_was_up_for_days_is_joined_again_at_once(air, days, step):
    link, _ = join()
    air.attempts()
    later(air, link, days, step)
    assert air.attempts() == [], "nothing is done while it is up"
    air.connected = False
    at = air.now / 1000
    assert seconds(air, link, 2)
    assert air.attempts() == [("disconnect", at), ("connect", at + 1)]


@pytest.mark.parametrize("step", [3_600_000, 61_000, None], ids=["each hour", "each minute", "one jump"])
@pytest.mark.parametrize("days", DAYS)
def test_a_link_that_was_down_for_days_is_still_tried(air, days, step):
    air.answers = False
    link, _ = join(join_timeout=1)
    later(air, link, days, step)
    air.attempts()
    air.answers = True
    assert seconds(air, link, 12)


@pytest.mark.parametrize("days", DAYS)
def test_days_between_disconnect_and_connect_end_with_connect(air, days):
    link, _ = join()
    air.connected = False
    assert not link.keep() and air.times[-1][0] == "disconnect"
    later(air, link, days, None)
    assert seconds(air, link, 2) and air.times[-1][0] == "connect"


@pytest.mark.parametrize("days", [0.001, 3, 6, 6.2, 6.3, 7, 9, 12])
def test_an_attempt_is_overdue_however_long_ago_its_time_was(air, days):
    link, _ = join()
    air.connected = link._up = False
    link._attempt = (air.now - round(days * DAY)) % WRAP
    air.attempts()
    link.keep()
    assert air.attempts() == [("disconnect", air.now / 1000)]


@pytest.mark.parametrize("step", [3_600_000, None], ids=["each hour", "one jump"])
@pytest.mark.parametrize("days", DAYS)
def test_a_wired_link_is_only_observed_after_days_up_or_down(air, wire, days, step):
    link, _ = join(ssid=None, wired={"phy_type": "PHY_LAN8720"})
    for up in (True, False, True):
        air.connected = up
        later(air, link, days, step)
        assert link.keep() is up and air.times == []


@pytest.mark.parametrize("name", ["isconnected", "ifconfig", "disconnect", "connect"])
def test_a_driver_error_is_reported_once_and_survived(air, capsys, name):
    link, _ = join()
    capsys.readouterr()
    air.connected = False
    air.troubles[name] = OSError(5)
    for _ in range(40):
        air.now += 1000
        if link.keep():
            assert name not in ("isconnected", "ifconfig")
    out = capsys.readouterr().out
    assert out.count(f"link: {name}: OSError(5") == 1, out
    air.troubles.clear()
    assert seconds(air, link, 12)
    assert seconds(air, link, 60)
    air.connected = False
    air.troubles[name] = OSError(5)
    seconds(air, link, 12)
    assert capsys.readouterr().out.count(f"link: {name}: OSError(5") == 1, "told anew after the link was up"


def test_an_error_while_reading_the_address_does_not_break_a_working_link(air):
    link, _ = join()
    air.connected = False
    link.keep()
    air.troubles["ifconfig"] = OSError(5)
    air.now += 1000
    link.keep()
    air.attempts()
    assert not seconds(air, link, 600) and air.attempts() == []


@pytest.mark.parametrize("trouble", [ValueError(), OSError(5), TypeError("x"), OverflowError()], ids=repr)
@pytest.mark.parametrize("name", ["country", "hostname", "active", "config", "ifconfig", "connect"])
def test_a_setting_that_the_driver_rejects_is_named_and_the_board_joins(air, capsys, name, trouble):
    air.troubles[name] = trouble
    link, joined = join(country="DE", ip="10.0.0.9", join_timeout=1)
    assert f"link: {name}: {trouble!r}\n" in capsys.readouterr().out
    assert air.calls[-1][0] == "connect" and joined is (name not in ("ifconfig", "connect"))
    air.troubles.clear()
    assert seconds(air, link, 12)


@pytest.mark.parametrize("trouble", [ValueError(), OSError(5), MemoryError()], ids=repr)
def test_boot_continues_when_the_link_can_not_be_set_up(monkeypatch, capsys, trouble):
    link = types.ModuleType("link")

    def join(chosen):
        raise trouble

    link.join = join  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "link", link)
    monkeypatch.setitem(sys.modules, "vfs", types.ModuleType("vfs"))
    runpy.run_path(str(ROOT / "boot.py"))
    assert f"link: {trouble!r}" in capsys.readouterr().out


@pytest.fixture
def wire(air, monkeypatch):
    """The `air` as a wired interface, network.LAN."""
    machine = types.ModuleType("machine")
    machine.Pin = lambda number: f"pin {number}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "machine", machine)
    monkeypatch.delitem(sys.modules, "wire", raising=False)
    network = sys.modules["network"]
    network.PHY_LAN8720 = 7  # type: ignore[attr-defined]

    def lan(**arguments):
        air.calls.append(("LAN", arguments))
        return air

    network.LAN = lan  # type: ignore[attr-defined]
    air.connected = True
    return types.SimpleNamespace(machine=machine, network=network)


def test_a_wired_link_is_used_in_place_of_the_wifi(air, wire, capsys):
    link, joined = join(ssid=None, wired={"phy_type": "PHY_LAN8720", "phy_addr": 1, "mdc": 23, "power": 16})
    wanted = {"phy_type": 7, "phy_addr": 1, "mdc": "pin 23", "power": "pin 16"}
    assert joined and air.calls == [("hostname", "tftpd"), ("LAN", wanted), ("active", True)]
    air.connected = False
    air.now += 60_000
    assert not link.keep()
    air.connected = True
    assert link.keep() and air.calls[-1] == ("active", True), "a wire is not joined"
    assert capsys.readouterr().out.count("link: up") == 2


@pytest.fixture
def w5500(air, wire):
    """The `air` as a wire with a W5500: network.WIZNET5K, and the clock of its SPI in `air.calls`."""

    def wiznet():
        air.calls.append(("WIZNET5K",))
        return air

    def spi(number):
        return types.SimpleNamespace(init=lambda baudrate: air.calls.append(("SPI", number, baudrate)))

    del wire.network.LAN
    wire.network.WIZNET5K = wiznet
    wire.machine.SPI = spi


def test_a_w5500_has_the_pins_of_its_firmware_and_the_clock_that_is_set(air, w5500, capsys):
    _, joined = join(ssid=None, wired={"phy_type": "WIZNET5K", "mhz": 24})
    spi = ("SPI", 0, 24_000_000)
    assert joined and air.calls == [("hostname", "tftpd"), ("WIZNET5K",), spi, ("active", True)]
    assert capsys.readouterr().out == "link: up, 10.0.0.2\n"


def test_a_w5500_without_a_clock_keeps_that_of_its_firmware(air, w5500):
    _, joined = join(ssid=None, wired={"phy_type": "WIZNET5K"})
    assert joined and air.calls == [("hostname", "tftpd"), ("WIZNET5K",), ("active", True)]


def test_a_w5500_has_the_address_of_the_settings_once_it_is_active(air, w5500):
    _, joined = join(ssid=None, wired={"phy_type": "WIZNET5K"}, ip="192.168.0.66")
    address = ("192.168.0.66", "255.255.255.0", "0.0.0.0", "0.0.0.0")
    assert joined and air.calls[-2:] == [("active", True), ("ifconfig", address)]


def test_a_cable_that_is_pulled_is_told_and_the_link_is_back_with_it(air, w5500, capsys):
    link, _ = join(ssid=None, wired={"phy_type": "WIZNET5K"})
    air.connected = False
    assert not seconds(air, link, 600)
    air.connected = True
    assert seconds(air, link, 1) and air.times == []
    assert capsys.readouterr().out == "link: up, 10.0.0.2\nlink: down, joining again\nlink: up, 10.0.0.2\n"


@pytest.mark.parametrize("wired", [{"phy_type": "WIZNET5K", "mdc": 23}, {"phy_type": "PHY_LAN8720"}], ids=str)
def test_what_is_not_for_this_wire_is_an_exception_that_boot_prints(air, w5500, wired):
    with pytest.raises((TypeError, AttributeError)):
        join(ssid=None, wired=wired)


def test_without_a_wire_none_of_its_code_is_loaded(air, monkeypatch):
    monkeypatch.delitem(sys.modules, "wire", raising=False)
    join()
    assert "wire" not in sys.modules
