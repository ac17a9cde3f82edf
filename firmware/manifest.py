"""Lists what to freeze into a MicroPython that you build (docs.micropython.org, "MicroPython
manifest files").

Add this line to the manifest of your board:

    include("/path/to/micropython-tftpd/firmware/manifest.py")

boot.py, main.py and the settings stay on the flash, where they can be changed.
"""

metadata(description="A TFTP server", version="0.1.0", license="MIT")  # type: ignore  # noqa: F821
package("tftpd")  # type: ignore  # noqa: F821
MODULES = (
    "link",
    "cards",
    "sdcard",
    "crash",
    "mode",
    "objects",
    "panel",
    "proxydhcp",
    "pxe",
    "rulebook",
    "settings",
    "setup",
    "wire",
)
for name in MODULES:
    module(name + ".py")  # type: ignore  # noqa: F821
