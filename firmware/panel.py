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
    try:
        if button == "BOOTSEL":  # not a GPIO on RP2 boards
            import rp2

            return bool(rp2.bootsel_button())
        return machine.Pin(button, machine.Pin.IN, machine.Pin.PULL_UP).value() == 0
    except Exception as trouble:  # of whatever type: no setting keeps the board from serving
        print("panel: no pin %s: %r" % (button, trouble))
        return False


class Panel:
    """The LED shines while the link is up and blinks while transfers are under way; the watchdog
    wants tick()."""

    def __init__(self, settings):
        self.seconds = 0  # for about how long the server has run, whoever sets the clock meanwhile
        self.led = led = settings["led"]
        if led is not None:
            try:
                self.led = machine.Pin(led, machine.Pin.OUT)
            except Exception as trouble:  # as above
                self.led = None
                print("panel: no pin %s: %r" % (led, trouble))
        self.watchdog = machine.WDT(timeout=_WATCHDOG_MS) if settings["watchdog"] else None

    def tick(self, keep, server):
        """To be called about once a second; `keep`: link.keep, `server`: tftpd.Server."""
        if self.watchdog:  # first: what follows may raise an exception
            self.watchdog.feed()
        self.seconds += 1
        up = keep()
        led = self.led
        if led:
            led.value(up and not (led.value() and server.stats()["transfers"]))

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
