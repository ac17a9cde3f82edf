"""Runs second on the board: reads the settings, builds the server, runs it under the watchdog.
Ctrl-C gives the prompt."""

import gc
import sys

import link
import panel
import settings
from tftpd import Server

chosen = settings.load()
del settings, sys.modules["settings"]  # frees 7 KB of heap
import mode  # noqa: E402  # not before that: it would split the heap

serves = mode.serves(chosen)
del mode, sys.modules["mode"]
gc.collect()
if serves:
    if sys.platform == "rp2":  # USB starts after boot.py: its output was lost
        link._up = None  # makes keep() print the state of the link again
    board = panel.Panel(chosen)
    tick = lambda server: board.tick(link.keep, server)  # noqa: E731
    for setting, module in (
        ("card", "cards"),
        ("http_port", "tftpd.http"),
        ("ntp", "tftpd.ntp"),
        ("dhcp_proxy", "proxydhcp"),
        ("push", "tftpd.push"),
    ):
        if chosen[setting]:
            tick = __import__(module, None, None, ("also",)).also(tick)
    try:
        Server(chosen).serve_forever(tick)
    except KeyboardInterrupt:
        board.rest()
    except Exception as fault:
        gc.collect()  # free memory for crash.py
        import crash

        crash.restart(fault, board.seconds, board.rest)
