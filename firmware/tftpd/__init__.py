"""A TFTP server for MicroPython boards: `Server(settings).serve_forever()`."""

from .server import Server

__all__ = ("Server",)
__version__ = "0.1.0"
