"""The flash as LittleFS sees it: how much of it each open file buffers."""

import os

import vfs


def remount(cache):
    """Mount the flash of an ESP32 at `/` anew, so that LittleFS reads `cache` bytes at a time.

    MicroPython has 128, and there a read costs by the operation. The price is heap: so much for
    the mount, and for each open file (docs/performance.md). What is on the flash stays as it is. A
    filesystem that can't be mounted so, FAT for one, stays as MicroPython mounted it; so does the
    flash of an RP2, which has a large cache and no `flashbdev`.
    """
    try:
        from flashbdev import bdev  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    try:
        filesystem = vfs.VfsLfs2(bdev, readsize=cache // 4)
    except OSError as trouble:
        print("flash: no LittleFS with a cache of %d bytes: %s" % (cache, trouble))
        return
    vfs.umount("/")
    vfs.mount(filesystem, "/")
    os.chdir("/")
