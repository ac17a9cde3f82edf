"""Sends a file to a device that waits for one, as the boot loaders of some routers do: the
client's side of an upload (RFC 1350). Loaded only where the setting `push` is set.

Once a second the device is asked to take the file. With its first ACK the rest is a transfer like
those that others ask for: rrq.py sends DATA upon ACK, whoever has begun. Boot loaders know no
options, so none are asked for.
"""

import os
import socket
from select import POLLIN
from time import ticks_ms

from micropython import const

from .journal import ALWAYS, quoted
from .names import Later
from .packet import UNDEFINED, Refused, error
from .ports import Port, Session, host_port
from .rrq import ReadTransfer
from .transfer import DONE

_EVERY = const(5)  # seconds between two questions to a device that has the file
_SILENT = const(6)  # questions without an answer after which it was switched off


def also(tick):
    """A function for Server.serve_forever() that does what `tick` does, and pushes the file from
    its first call on."""
    return Push(tick).tend


class Push:
    """What is pushed, and how far it is.

    host     the device's address
    sock     asks, and hears the answer; None while the file is being sent
    session  ports.Session of that; None before
    unheard  how many questions are without an answer
    wait     seconds until the next question
    has      the device has the file
    """

    sock = session = said = None
    unheard = wait = 0
    has = False

    def __init__(self, tick):
        self.tick = tick
        self.found = {}  # as in Names.find()

    def tend(self, server):
        """Once a second. `server`: Server, whose settings have push. Raises OSError."""
        self.tick(server)
        self.server = server
        if self.session:
            if self.session in server.ports.sessions:
                return
            self.has = self.session.transfer.outcome == DONE
            self.session = None
            self.unheard = 0
            self.wait = _EVERY
        self.wait -= 1
        if self.wait > 0:
            return
        if self.unheard >= _SILENT and self.has:
            self.has = False
            self.say("silent: it gets the file again when it answers")
        self.wait = _EVERY if self.has else 1
        push = server.settings["push"]
        self.host, _, port = push["to"].partition(":")
        try:
            self.ways()
            if not self.sock:
                self.tid = int.from_bytes(os.urandom(2), "big") | 0xC000
                self.sock = server.ports.socket(self.tid)
                server.ports.others = dict(server.ports.others)
                server.ports.others[self.sock] = self
                server.ports.poller.register(self.sock, POLLIN)
            # A request to read tells whether the device is on, and changes nothing there.
            packet = (b"\0\1" if self.has else b"\0\2") + push.get("name", push["file"]).encode()
            self.unheard += 1
            address = socket.getaddrinfo(self.host, int(port or "69"))[0][-1]
            self.sock.sendto(packet + b"\0octet\0", address)
        except Refused as trouble:
            self.say(trouble)
        except OSError as trouble:  # no way to that address, for one
            self.say(trouble if self.sock else "no socket is left; tried again each second")

    def ways(self):
        """As Files.place(), for the file. Raises Refused where there is none."""
        name = self.server.settings["push"]["file"].encode()
        return self.server.files.place(name, self.host, self.found)

    def say(self, text):
        """Tell it, once."""
        text = str(text)
        if text != self.said:
            self.said = text
            to = self.server.settings["push"]["to"]
            self.server.journal.log(ALWAYS, "push: %s: %s", to, text)

    def close(self):
        """Stop to ask."""
        if self.sock:
            self.server.ports.poller.unregister(self.sock)
            del self.server.ports.others[self.sock]
            self.sock.close()
            self.sock = None

    def go(self):
        """Something has come to the socket that asks. Nothing that it may be ends the server."""
        try:
            packet, client = self.sock.recvfrom(64)  # pyright: ignore[reportOptionalMemberAccess]
            peer = host_port(client)
            if not packet:  # an ESP32's socket is deaf from then on
                self.close()
            elif peer and peer[0] == self.host:
                self.hear(packet, client, *peer)
        except (OSError, MemoryError, Later):  # nothing; or it is asked again
            pass
        except Refused as trouble:
            self.say(trouble)

    def hear(self, packet, client, host, number):
        """The device answers."""
        self.unheard = 0
        if self.has:
            if packet[:2] == b"\0\3":  # DATA
                self.sock.sendto(error(UNDEFINED, "no more is wanted"), client)  # pyright: ignore[reportOptionalMemberAccess]
        elif packet[:2] == b"\0\5":  # ERROR
            self.say("refused, " + quoted(packet[4:].split(b"\0")[0]))
        elif packet[:4] == b"\0\4\0\0":  # ACK
            server = self.server
            settings = server.settings
            now = ticks_ms()
            asked = self.ways(), self.found, "octet", (), server.blksize
            _, source, agreed = server.files.open(*asked)
            self.found = {}
            try:
                limits = settings["timeout"], settings["retries"], ticks_ms
                transfer = ReadTransfer(source, server.ahead, agreed, *limits)
                transfer.proven = True
                label = "%s:%d push %s" % (host, number, quoted(settings["push"]["file"].encode()))
                began = server.journal.uptime_ms()
                session = Session(transfer, source, client, host, b"", label, began, now)
            except BaseException:
                server.files.close(source)
                raise
            session.port = port = Port(self.tid)
            port.sock = self.sock
            self.sock = None
            del server.ports.others[port.sock]
            server.ports.bound[port.sock] = port
            server.ports.due = now
            server.ports.join(session)
            self.session = session
            self.said = None
            server.drive(session)
