"""The link: join the Wi-Fi, or use the wire, and join again when it drops. No server code.

What differs between ports, from their sources (extmod/network_cyw43.c,
ports/esp32/network_wlan.c):
- ESP32 joins again by itself, and refuses connect() with an OSError while it is at it; the Pico W
does not.
- ESP32 refuses an empty password for an open network; both take none.
- isconnected() is True only once there is an address, on both.
- ESP32: connect() right after disconnect() keeps failing as with a wrong password (status 202); a
second between them cures it (peterhinch/micropython-mqtt, issue 132).
"""

import time

import network
from micropython import const

_REJOIN_MS = const(10_000)  # how long one attempt to join gets before the next
_PAUSE_MS = const(1000)  # between disconnect() and connect()

_nic = None  # network.WLAN or network.LAN
_credentials = ()  # what to join the Wi-Fi with; none for a wire
_up = False
_attempt = 0  # ticks_ms of the last connect() or disconnect(), or at which the link was up
_parted = False  # disconnect() was the last of these
_said = ()  # the last troubles that were printed


def join(settings):
    """Bring up what `settings` (dict of settings.load()) names: the wire, or the Wi-Fi.

    Waits at most `join_timeout` seconds; returns True once the board has an address. Failing is
    not final: keep() goes on trying.
    """
    global _nic, _credentials
    if settings["country"]:
        _try(network, "country", settings["country"])
    _try(network, "hostname", settings["hostname"])
    if settings["wired"]:
        _nic = _lan(settings["wired"])
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


def _lan(settings):
    """network.LAN with `settings` as its documentation has its arguments, but pins by number and
    phy_type by name."""
    import machine

    arguments = dict(settings)
    for name in ("mdc", "mdio", "power", "reset", "ref_clk"):
        if name in arguments:
            arguments[name] = machine.Pin(arguments[name])
    arguments["phy_type"] = getattr(network, arguments["phy_type"])
    return network.LAN(**arguments)


def _try(driver, name, *arguments, **named):
    """What that function of the driver returns; None after an exception, which is printed, but
    not each second the same."""
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
    """Look after the link, without waiting; to be called about once a second.

    Returns True while it is up. Whatever the driver raises is printed.
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
    # ticks_diff() is negative from 6.2 days on: what lies in the future is long past.
    passed = time.ticks_diff(time.ticks_ms(), _attempt)
    if _parted:
        if not 0 <= passed < _PAUSE_MS:
            _connect()
    elif _credentials and (dropped or not 0 <= passed <= _REJOIN_MS):
        _try(_nic, "disconnect")
        _attempt = time.ticks_ms()
        _parted = True
    return False
