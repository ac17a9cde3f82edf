"""What the board does after its start: serve, stay at the prompt (safe mode), or open the first
set-up. main.py throws this away afterwards.

The button tells the two apart by time: let go within three seconds it is safe mode, held on it is
the set-up.
"""

import os
import sys
from time import sleep_ms

import machine
import network
from micropython import const

_SAFE_FILE = const("/safe")
_HELD = const(30)  # tenths of a second


def _held(button):
    """Whether the boot button is held now."""
    if button == "BOOTSEL":  # on RP2 boards this button is not a GPIO
        import rp2

        return bool(rp2.bootsel_button())
    return machine.Pin(button, machine.Pin.IN, machine.Pin.PULL_UP).value() == 0


def serves(settings):
    """True if the server is to start, maybe after the set-up; False for the prompt, with the
    reason on the console. `settings`: dict of settings.load()."""
    safe = False
    sets_up = not settings["ssid"] and not settings["wired"]
    button = settings["button"]
    try:
        os.stat(_SAFE_FILE)
        safe = True
    except OSError:  # not there
        pass
    try:
        if not safe and button is not None and _held(button):
            print("button: let it go for safe mode, or hold it for three seconds for the set-up")
            safe = True
            for _ in range(_HELD):
                sleep_ms(100)
                if not _held(button):
                    break
            else:
                sets_up = True
                safe = False
    except Exception as trouble:  # of any type: a bad setting must not stop the server
        print("button: no pin %s: %r" % (button, trouble))
    if safe:
        print("safe mode: the server is not started; remove /safe or reset")
        return False
    if sets_up and hasattr(network, "AP_IF"):  # a board without Wi-Fi has none
        import setup

        try:
            setup.run(settings)
        except OSError as trouble:
            print("set-up: %r" % trouble)
        except KeyboardInterrupt:
            return False
        finally:
            network.WLAN(network.AP_IF).active(False)
        for name in ("setup", "settings"):
            sys.modules.pop(name, None)
    return True
