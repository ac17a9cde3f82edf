"""`network` for the everyday board: a Wi-Fi that connects at once with any name and password. If
the environment has WIFI, a JSON object of names and passwords, there are just these networks."""

import json
import os
import time

STA_IF = 0
AP_IF = 1
_WRONG_PASSWORD = 202  # the numbers are those of an ESP32
_NO_AP_FOUND = 201
_AUTH_MS = 300  # how long it takes to join one of those networks
_air = json.loads(os.getenv("WIFI") or "null")  # pyright: ignore[reportArgumentType]


def country(code):
    if len(code.encode()) != 2:  # the length that extmod/modnetwork.c checks
        raise ValueError


def hostname(name):
    if len(name.encode()) > 32:  # the same file
        raise ValueError


class WLAN:
    PM_NONE = 0

    def __init__(self, interface):
        self._interface = interface
        self._status = 1000
        self._joined = 0  # ticks_ms from when on it is connected
        self._addresses = ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")

    def active(self, on):
        return on

    def config(self, name=None, **values):
        if name:
            return b"\2\0\0\0\xab\xcd"  # "mac"
        if values.get("security") and not 8 <= len(values["key"].encode()) <= 63:
            raise ValueError

    def ifconfig(self, addresses=None):
        if addresses:
            for address in addresses:
                if max(map(int, address.split("."))) > 255:
                    raise ValueError("invalid arguments")
            self._addresses = addresses
        return self._addresses

    def ipconfig(self, dhcp4):
        self._addresses = ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")

    def scan(self):
        found = [b"", b"\xff\xfe no UTF-8"] + [name.encode() for name in _air or ("emulated",)]
        return [(name, bytes(6), 1, -40 - 7 * at, 3, 1) for at, name in enumerate(found)]

    def connect(self, ssid, password=""):
        if len(ssid.encode()) > 32 or len((password or "").encode()) > 64:
            raise ValueError
        self._joined = time.ticks_ms()
        self._status = 1010
        if _air is not None:
            self._joined = time.ticks_add(self._joined, _AUTH_MS)
            if _air.get(ssid) != password:
                self._status = _WRONG_PASSWORD if ssid in _air else _NO_AP_FOUND

    def disconnect(self):
        self._status = 1000

    def status(self):
        return self._status

    def isconnected(self):
        return self._status == 1010 and time.ticks_diff(time.ticks_ms(), self._joined) >= 0
