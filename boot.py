"""On the board, first: mount the flash as it suits the server, bring the network up. No server
code."""

import flash
import link
import settings

chosen = settings.load()
if chosen["flash_cache"]:
    flash.remount(chosen["flash_cache"])
link.join(chosen)
