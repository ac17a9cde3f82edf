"""What a board has besides flash and network: the status LED, the boot button, the watchdog."""

import os

import machine
from micropython import const

_WATCHDOG_MS = const(8000)  # the Pico W can't wait longer than 8,388
_SAFE_FILE = const("/safe")


def safe_mode(settings):
    """True if the user wants the prompt and not the server: the file /safe exists, or the boot
    button is held."""
    try:
        os.stat(_SAFE_FILE)
        return True
    except OSError:  # not there
        pass
    button = settings["button"]
    if button is None:
        return False
    if button == "BOOTSEL":  # not a GPIO on RP2 boards
        import rp2

        return bool(rp2.bootsel_button())
    pin = _pin(button, machine.Pin.IN, machine.Pin.PULL_UP)
    return pin is not None and pin.value() == 0


def _pin(number, *mode):
    """machine.Pin, or None where the board has no such pin: no setting keeps it from serving."""
    try:
        return machine.Pin(number, *mode)
    except (ValueError, TypeError) as trouble:
        print("panel: no pin %s: %s" % (number, trouble))
        return None


class Panel:
    """The LED shines while the link is up and blinks while transfers are under way; the watchdog
    wants tick()."""

    def __init__(self, settings):
        led = settings["led"]
        self.led = None if led is None else _pin(led, machine.Pin.OUT)
        self.watchdog = machine.WDT(timeout=_WATCHDOG_MS) if settings["watchdog"] else None

    def tick(self, up, busy):
        """To be called about once a second; `up`: the link is up, `busy`: transfers are under
        way."""
        if self.watchdog:
            self.watchdog.feed()
        if self.led:
            self.led.value(up and not (busy and self.led.value()))

    def rest(self):
        """The server was stopped by hand: the LED goes out, and a timer feeds the watchdog, which
        can't be stopped."""
        if self.led:
            self.led.value(0)
        if self.watchdog:
            feed = self.watchdog.feed
            try:
                timer = machine.Timer(-1)  # RP2: a software timer
            except (OSError, ValueError):
                timer = machine.Timer(0)  # ESP32 has hardware timers only
            timer.init(period=_WATCHDOG_MS // 4, callback=lambda _: feed())
