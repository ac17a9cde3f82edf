"""`network` for the everyday board: a Wi-Fi that connects at once with any name and password."""

STA_IF = 0


def country(code):
    if len(code.encode()) != 2:  # the length that extmod/modnetwork.c checks
        raise ValueError


def hostname(name):
    if len(name.encode()) > 32:  # the same file
        raise ValueError


class WLAN:
    PM_NONE = 0

    def __init__(self, interface):
        self._connected = False
        self._addresses = ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")

    def active(self, on):
        return on

    def config(self, **values):
        pass

    def ifconfig(self, addresses=None):
        if addresses:
            for address in addresses:
                if max(map(int, address.split("."))) > 255:
                    raise ValueError("invalid arguments")
            self._addresses = addresses
        return self._addresses

    def connect(self, ssid, password=None):
        if len(ssid.encode()) > 32 or len((password or "").encode()) > 64:
            raise ValueError
        self._connected = True

    def disconnect(self):
        self._connected = False

    def status(self, what):
        return {"rssi": -55}[what]

    def isconnected(self):
        return self._connected
