"""On the board, second: read the settings, build the server, run it under the watchdog. Ctrl-C
gives the prompt."""

import link
import panel
import settings
from tftpd import Server

chosen = settings.load()
if panel.safe_mode(chosen):
    print("safe mode: the server is not started; remove /safe or let go of the button, and reset")
else:
    board = panel.Panel(chosen)
    try:
        Server(chosen).serve_forever(lambda server: board.tick(link.keep(), server.stats()["transfers"]))
    except KeyboardInterrupt:
        board.rest()
