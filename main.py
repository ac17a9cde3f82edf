"""On the board, second: read the settings, build the server, run it under the watchdog. Ctrl-C
gives the prompt."""

import gc
import sys

import link
import panel
import settings
from tftpd import Server

chosen = settings.load()
del settings, sys.modules["settings"]  # not needed any more: 7 KB of heap
if panel.safe_mode(chosen):
    print("safe mode: the server is not started; remove /safe or let go of the button, and reset")
else:
    if sys.platform == "rp2":  # nobody has heard boot.py: its USB starts after it
        link._up = None  # so keep() says again what the link is
    board = panel.Panel(chosen)
    try:
        Server(chosen).serve_forever(lambda server: board.tick(link.keep, server))
    except KeyboardInterrupt:
        board.rest()
    except Exception as fault:
        gc.collect()  # before crash.py wants memory too
        import crash

        crash.restart(fault, board.seconds, board.rest)
