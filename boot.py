"""Runs first on the board: mounts the flash with a larger cache and brings the network up. No
server code."""

import os

import link
import settings
import vfs

chosen = settings.load()
try:
    from flashbdev import bdev  # pyright: ignore[reportMissingImports]
except ImportError:  # an RP2: its files have a large cache already
    bdev = None
if bdev and chosen["flash_cache"]:
    # On an ESP32 LittleFS reads 128 bytes at a time, and the cost of a read is per operation, not
    # per byte. A larger cache costs heap: its size for the mount and again for each open file
    # (docs/performance.md).
    try:
        filesystem = vfs.VfsLfs2(bdev, readsize=chosen["flash_cache"] // 4)
    except Exception as trouble:  # such as FAT: keep the mount that MicroPython made
        print("flash: no LittleFS with a cache of", chosen["flash_cache"], "bytes:", repr(trouble))
    else:
        vfs.umount("/")
        vfs.mount(filesystem, "/")
        os.chdir("/")
if chosen["card"]:
    import cards

    cards.mount(chosen)
try:
    link.join(chosen)
except Exception as trouble:  # a wrong `wired`, say: main.py must still run
    print("link:", repr(trouble))
del link.join  # not needed again: 0.5 KB of heap
