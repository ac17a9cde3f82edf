"""On the board, first: mount the flash as it suits the server, bring the network up. No server
code."""

import os

import link
import settings
import vfs

chosen = settings.load()
try:
    from flashbdev import bdev  # pyright: ignore[reportMissingImports]
except ImportError:  # an RP2, whose files have a large cache
    bdev = None
if bdev and chosen["flash_cache"]:
    # On an ESP32 LittleFS reads 128 bytes at a time, and there a read costs by the operation. The
    # price of more is heap: so much for the mount, and for each open file (docs/performance.md).
    try:
        filesystem = vfs.VfsLfs2(bdev, readsize=chosen["flash_cache"] // 4)
    except Exception as trouble:  # FAT for one: it stays as MicroPython has mounted it
        print("flash: no LittleFS with a cache of", chosen["flash_cache"], "bytes:", repr(trouble))
    else:
        vfs.umount("/")
        vfs.mount(filesystem, "/")
        os.chdir("/")
try:
    link.join(chosen)
except Exception as trouble:  # as of a wrong `wired`: without it main.py would not be run
    print("link:", repr(trouble))
