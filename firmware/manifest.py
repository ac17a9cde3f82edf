"""What is frozen into a MicroPython of your own (docs.micropython.org, "MicroPython manifest
files").

    include("/path/to/micropython-tftpd/firmware/manifest.py")

in the manifest of your board does it. boot.py, main.py and the settings stay on the flash, where
they can be changed.
"""
# ruff: noqa: F821
# pyright: reportUndefinedVariable=false

metadata(description="A TFTP server", version="0.1.0", license="MIT")
package("tftpd")
module("link.py")
module("crash.py")
module("panel.py")
module("settings.py")
