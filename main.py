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
    if chosen["card"]:
        import cards

        tick = cards.also(tick)
    if chosen["http_port"]:
        from tftpd import http

        tick = http.also(tick)
    if chosen["ntp"]:
        from tftpd import ntp

        tick = ntp.also(tick)
    if chosen["dhcp_proxy"]:
        import proxydhcp

        tick = proxydhcp.also(tick)
    if chosen["push"]:
        from tftpd import push

        tick = push.also(tick)
    try:
        Server(chosen).serve_forever(tick)
    except KeyboardInterrupt:
        board.rest()
    except Exception as fault:
        gc.collect()  # free memory for crash.py
        import crash

        crash.restart(fault, board.seconds, board.rest)
