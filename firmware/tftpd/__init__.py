"""A TFTP server for MicroPython boards: `Server(settings).serve_forever()`."""

from .server import Server as Server

__version__ = "0.1.0"
