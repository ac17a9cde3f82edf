"""The wire, loaded where the setting `wired` is set: network.LAN of the ESP32 family, or a W5500
of WIZnet on SPI, network.WIZNET5K.

What MicroPython's W5500_EVB_PICO presets is its pins, with that of the interrupt (without it the
chip is asked each 64 ms), and 20 MHz for SPI 0, of which an RP2040 makes 12: the SPI runs on the
USB's 48 MHz, divided by 4. By 2 they are 24; the chip is good for 33 (datasheet, 5.5.4).
"""

import sys

import machine
import network


def nic(settings):
    """The interface that `settings` (dict) describe.

    phy_type names a constant of network.LAN, whose other arguments are as in its documentation,
    but pins by number; or it is "WIZNET5K", to which "mhz" may be added, the clock of SPI 0.
    """
    del sys.modules["wire"]  # not needed again: 432 bytes of heap
    arguments = dict(settings)
    kind = arguments.pop("phy_type")
    if kind == "WIZNET5K":
        mhz = arguments.pop("mhz", None)
        # Any other argument is too much for it. (The stubs are those of the Pico W.)
        made = network.WIZNET5K(**arguments)  # pyright: ignore[reportAttributeAccessIssue]
        if mhz:
            machine.SPI(0).init(baudrate=mhz * 1_000_000)
        return made
    for name in ("mdc", "mdio", "power", "reset", "ref_clk"):
        if name in arguments:
            arguments[name] = machine.Pin(arguments[name])
    arguments["phy_type"] = getattr(network, kind)
    return network.LAN(**arguments)
