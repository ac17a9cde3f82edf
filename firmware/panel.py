"""The status LED and the watchdog."""

import machine
from micropython import const

_WATCHDOG_MS = const(8000)  # the longest a Pico W allows is 8,388


class Panel:
    """The LED is on while the link is up and blinks during transfers; tick() feeds the
    watchdog."""

    def __init__(self, settings):
        self.seconds = 0  # the server has run, counted in ticks: setting the clock has no effect
        self.led = led = settings["led"]
        if led is not None:
            try:
                self.led = machine.Pin(led, machine.Pin.OUT)
            except Exception as trouble:  # of any type: a bad setting must not stop the server
                self.led = None
                print("panel: no pin %s: %r" % (led, trouble))
        self.watchdog = machine.WDT(timeout=_WATCHDOG_MS) if settings["watchdog"] else None

    def tick(self, keep, server):
        """Call about once a second. `keep`: link.keep, `server`: tftpd.Server."""
        if self.watchdog:  # first, as the rest may raise an exception
            self.watchdog.feed()
        self.seconds += 1
        up = keep()
        led = self.led
        if led:
            led.value(up and not (led.value() and server.stats()["transfers"]))

    def rest(self):
        """Call when the server has stopped. Turns the LED off; a timer feeds the watchdog, which
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
