"""The link: join the Wi-Fi, or use the wire, and join again when it drops. No server code.

What differs between ports, from their sources (extmod/network_cyw43.c,
ports/esp32/network_wlan.c):
- ESP32 joins again by itself, and refuses connect() with an OSError while it is at it; the Pico W
does not.
- ESP32 refuses an empty password for an open network; both take none.
- isconnected() is True only once there is an address, on both.
"""

# The stubs are the Pico's, which has no network.LAN.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import time

import network
from micropython import const

_REJOIN_MS = const(10_000)  # how long one attempt to join gets before the next

_nic = None  # network.WLAN or network.LAN
_credentials = ()  # what to join the Wi-Fi with; none for a wire
_up = False
_attempt = 0  # ticks_ms of the last attempt


def join(settings):
    """Bring up what `settings` (dict of settings.load()) names: the wire, or the Wi-Fi.

    Waits at most `join_timeout` seconds; returns True once the board has an address. Failing is
    not final: keep() goes on trying.
    """
    global _nic, _credentials
    if settings["country"]:
        network.country(settings["country"])
    network.hostname(settings["hostname"])
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
    _nic.active(True)
    if _credentials:
        # Power save adds tens to hundreds of milliseconds to each exchange.
        _nic.config(pm=network.WLAN.PM_NONE)
    if settings["ip"]:
        _nic.ifconfig((settings["ip"], settings["netmask"], settings["gateway"], settings["dns"]))
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


def _connect():
    global _attempt
    _attempt = time.ticks_ms()
    if _credentials:
        try:
            _nic.connect(*_credentials)
        except OSError as trouble:
            print("link: " + str(trouble))


def keep():
    """Look after the link, without waiting; to be called about once a second.

    Returns True while it is up.
    """
    global _up
    if _nic is None:
        return False
    up = _nic.isconnected()
    if up != _up:
        _up = up
        print("link: " + ("up, %s" % _nic.ifconfig()[0] if up else "down, joining again"))
    if not up and time.ticks_diff(time.ticks_ms(), _attempt) > _REJOIN_MS:
        if _credentials:
            _nic.disconnect()
        _connect()
    return up
