"""Lists what to freeze into a MicroPython that you build (docs.micropython.org, "MicroPython
manifest files").

Add this line to the manifest of your board:

    include("/path/to/micropython-tftpd/firmware/manifest.py")

boot.py, main.py and the settings stay on the flash, where they can be changed.
"""
# ruff: noqa: F821
# pyright: reportUndefinedVariable=false

metadata(description="A TFTP server", version="0.1.0", license="MIT")
package("tftpd")
module("link.py")
module("cards.py")
module("sdcard.py")
module("crash.py")
module("panel.py")
module("settings.py")
module("wire.py")
