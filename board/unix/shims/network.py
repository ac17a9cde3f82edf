"""`network` for the everyday board: a Wi-Fi that can be joined at once with any name and
password."""

STA_IF = 0


def country(code):
    pass


def hostname(name):
    pass


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
            self._addresses = addresses
        return self._addresses

    def connect(self, ssid, password=None):
        self._connected = True

    def disconnect(self):
        self._connected = False

    def isconnected(self):
        return self._connected
