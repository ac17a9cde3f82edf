"""The Ethernet port, loaded only if the setting `wired` is set: network.LAN of the ESP32 family,
or network.WIZNET5K, a W5500 on SPI.

MicroPython for the W5500-EVB-Pico presets the pins, including that of the interrupt (without it
the chip is polled every 64 ms), and 20 MHz for SPI 0. An RP2040 makes 12 MHz of that: its SPI runs
on the 48 MHz of the USB, divided by an even number. 24 MHz is the next step; the W5500 is
specified for 33 MHz.
"""

import sys

import machine
import network


def nic(settings):
    """Make the interface. `settings` (dict) has the arguments of network.LAN's documentation, but
    gives pins by number and phy_type by name; or phy_type is "WIZNET5K", and "mhz", which may be
    left out, is the clock of SPI 0."""
    del sys.modules["wire"]  # not needed again: 432 bytes of heap
    arguments = dict(settings)
    kind = arguments.pop("phy_type")
    if kind == "WIZNET5K":
        mhz = arguments.pop("mhz", None)
        # It raises TypeError for any other argument. (The stubs are those of the Pico W.)
        made = network.WIZNET5K(**arguments)  # pyright: ignore[reportAttributeAccessIssue]
        if mhz:
            machine.SPI(0).init(baudrate=mhz * 1_000_000)
        return made
    for name in ("mdc", "mdio", "power", "reset", "ref_clk"):
        if name in arguments:
            arguments[name] = machine.Pin(arguments[name])
    arguments["phy_type"] = getattr(network, kind)
    return network.LAN(**arguments)
