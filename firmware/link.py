"""The link: join the Wi-Fi, and join it again when it drops. No server code.

What differs between ports, from their sources (extmod/network_cyw43.c,
ports/esp32/network_wlan.c):
- ESP32 joins again by itself, and refuses connect() with an OSError while it is at it; the Pico W
does not.
- ESP32 refuses an empty password for an open network; both take none.
- isconnected() is True only once there is an address, on both.
"""

import time

import network

_REJOIN_MS = 10_000  # how long one attempt to join gets before the next

_wlan = None  # network.WLAN
_credentials = ()
_joined = False
_attempt = 0  # ticks_ms of the last attempt


def join(settings):
    """Join the Wi-Fi named in `settings` (dict of settings.load()); waits at most `join_timeout`
    seconds.

    Returns True once the board has an address. Failing is not final: keep() goes on trying.
    """
    global _wlan, _credentials
    if not settings["ssid"]:
        print("link: no ssid in /settings.json, so there is no Wi-Fi to join")
        return False
    if settings["country"]:
        network.country(settings["country"])
    network.hostname(settings["hostname"])
    _credentials = (
        (settings["ssid"], settings["password"]) if settings["password"] else (settings["ssid"],)
    )
    _wlan = wlan = network.WLAN(network.STA_IF)
    wlan.active(True)
    # Power save adds tens to hundreds of milliseconds to each exchange.
    wlan.config(pm=network.WLAN.PM_NONE)
    if settings["ip"]:
        wlan.ifconfig((settings["ip"], settings["netmask"], settings["gateway"], settings["dns"]))
    started = time.ticks_ms()
    limit = settings["join_timeout"] * 1000
    _connect(wlan)
    while not keep() and time.ticks_diff(time.ticks_ms(), started) < limit:
        time.sleep_ms(100)
    if not _joined:
        print(
            "link: could not join %s in %d s, still trying"
            % (settings["ssid"], settings["join_timeout"])
        )
    return _joined


def _connect(wlan):
    global _attempt
    _attempt = time.ticks_ms()
    try:
        wlan.connect(*_credentials)
    except OSError as trouble:
        print("link: %s" % trouble)


def keep():
    """Look after the link, without waiting; to be called about once a second. Returns True while
    it is up."""
    global _joined
    if _wlan is None:
        return False
    up = _wlan.isconnected()
    if up != _joined:
        _joined = up
        print("link: " + ("up, %s" % _wlan.ifconfig()[0] if up else "down, joining again"))
    if not up and time.ticks_diff(time.ticks_ms(), _attempt) > _REJOIN_MS:
        _wlan.disconnect()
        _connect(_wlan)
    return up
