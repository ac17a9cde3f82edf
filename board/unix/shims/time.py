"""`time` for the everyday board: the Unix port's module with a clock that machine.RTC can set, and
ticks that run TICKS_RATE times as fast if the environment says so."""

import os

import utime
from utime import *  # noqa: F403

_ahead = 0  # seconds
_rate = int(os.getenv("TICKS_RATE") or 1)


def set(seconds):
    global _ahead
    _ahead = seconds - utime.time()


def time():
    return utime.time() + _ahead


if _rate > 1:

    def ticks_ms():
        return utime.ticks_add(0, utime.ticks_ms() * _rate)  # pyright: ignore
