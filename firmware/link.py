"""Joins the Wi-Fi or brings up the wired network, and reconnects when the link drops. No server
code.

Differences between ports, from their sources (extmod/network_cyw43.c,
ports/esp32/network_wlan.c):
- The ESP32 reconnects by itself, and connect() raises OSError while it does so. The Pico W does
neither.
- The ESP32 rejects an empty password for an open network. Both ports accept a call without one.
- On both, isconnected() is True only once the board has an address.
- ESP32: connect() right after disconnect() keeps failing with the status of a wrong password
(202). A pause of a second between them avoids it (peterhinch/micropython-mqtt, issue 132).
"""

import time

import network
from micropython import const

_REJOIN_MS = const(10_000)  # how long an attempt to connect may take
_PAUSE_MS = const(1000)  # between disconnect() and connect()

_nic = None  # network.WLAN, or what wire.py returns
_credentials = ()  # arguments of connect(); empty for a wired network
_up = False
_attempt = 0  # ticks_ms of the last connect() or disconnect(), or when the link was last up
_parted = False  # disconnect() was called, connect() is due after a pause
_said = ()  # the last errors that were printed


def join(settings):
    """Bring up the network of `settings` (dict of settings.load()): wired, or else Wi-Fi.

    Waits at most `join_timeout` seconds. Returns True once the board has an address; after False,
    keep() goes on trying.
    """
    global _nic, _credentials
    if settings["country"]:
        _try(network, "country", settings["country"])
    _try(network, "hostname", settings["hostname"])
    if settings["wired"]:
        import wire

        _nic = wire.nic(settings["wired"])
    elif settings["ssid"]:
        _nic = network.WLAN(network.STA_IF)
        _credentials = (settings["ssid"],)
        if settings["password"]:
            _credentials += (settings["password"],)
    else:
        print("link: no ssid in /settings.json")
        return False
    _try(_nic, "active", True)
    if _credentials:
        # Power save adds tens to hundreds of milliseconds to each exchange.
        _try(_nic, "config", pm=network.WLAN.PM_NONE)
    if settings["ip"]:
        address = (settings["ip"], settings["netmask"], settings["gateway"], settings["dns"])
        _try(_nic, "ifconfig", address)
    started = time.ticks_ms()
    limit = settings["join_timeout"] * 1000
    _connect()
    while not keep() and time.ticks_diff(time.ticks_ms(), started) < limit:
        time.sleep_ms(100)
    if not _up:
        print("link: not up after %d s, still trying" % settings["join_timeout"])
    return _up


def _try(driver, name, *arguments, **named):
    """Call a function of the driver and return its result, None after an exception.

    The exception is printed, unless it is one of the last four printed since the link was up.
    """
    global _said
    try:
        return getattr(driver, name)(*arguments, **named)
    except Exception as trouble:
        said = "link: %s: %r" % (name, trouble)
        if said not in _said:
            print(said)
            _said = _said[-3:] + (said,)


def _connect():
    global _attempt, _parted
    _attempt = time.ticks_ms()
    _parted = False
    if _credentials:
        _try(_nic, "connect", *_credentials)


def keep():
    """Check the link and reconnect if it is down. Call about once a second; it does not wait.

    Returns True while the link is up. Exceptions of the driver are printed.
    """
    global _up, _attempt, _parted, _said
    if _nic is None:
        return False
    up = _try(_nic, "isconnected")
    dropped = False
    if up:
        _attempt = time.ticks_ms()
        _parted = False
        if not _up:
            address = _try(_nic, "ifconfig")
            if not address:
                return False
            _up = True
            print("link: up, %s" % address[0])
        _said = ()
        return True
    if _up and up is not None:
        _up = False
        dropped = True
        print("link: down, joining again")
    # ticks_diff() is negative after 6.2 days: a time in the future is one long past.
    passed = time.ticks_diff(time.ticks_ms(), _attempt)
    if _parted:
        if not 0 <= passed < _PAUSE_MS:
            _connect()
    elif _credentials and (dropped or not 0 <= passed <= _REJOIN_MS):
        _try(_nic, "disconnect")
        _attempt = time.ticks_ms()
        _parted = True
    return False
