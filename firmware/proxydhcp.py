"""A proxy DHCP server: tells machines that boot from the network which file to load, beside the
DHCP server that is there and gives them their addresses.

This file has the ports. It hears all DHCP messages of the network, and only for those of machines
that boot it loads pxe.py, which knows what they mean. Loaded only where the setting `dhcp_proxy`
is set.
"""

import socket
import sys
from select import POLLIN

import link
from micropython import const
from tftpd.journal import ALWAYS
from tftpd.ports import Ports

SERVER = const(67)  # ports: RFC 2131 section 4.1, and PXE 2.1
CLIENT = const(68)
_BOOT_SERVER = const(4011)
_ROOM = const(1200)  # bytes of a message that are received
_ANSWERS = const(8)  # in a second


def also(tick):
    """A function for Server.serve_forever() that does what `tick` does, and is a proxy DHCP
    server from its first call on."""
    return Proxy(tick).tend


class Proxy:
    """The ports.

    socks    {number: socket} of those that are open
    address  the board's; a false value while it has none
    left     answers that may still be sent in this second
    seconds  for which port 4011 stays open
    known    addresses on the Ethernet that have an answer, and may tell of another address
    probe    the transaction of the question for other servers; b"" once one is known
    told     what the journal was told of ports that can't be opened
    """

    seconds = 0
    known = []
    probe = None
    told = ()

    def __init__(self, tick):
        self.tick = tick
        self.socks = {}

    def tend(self, server):
        """Once a second: open the ports that are wanted, close the other one when it is time.
        `server`: Server, whose settings have dhcp_proxy and http_port."""
        self.tick(server)
        self.server = server
        self.left = _ANSWERS
        self.address = link._up and link._nic.ifconfig()[0]
        self.seconds -= 1
        if not self.seconds:
            self.close(_BOOT_SERVER)
        self.open()
        if self.address and self.probe is None and SERVER in self.socks:
            import pxe

            try:
                pxe.ask(self)
            except OSError:  # lost, as on the air
                pass
        if not self.known:
            sys.modules.pop("pxe", None)

    def open(self):
        """Open the ports that are wanted and not open."""
        ports = self.server.ports
        for number in (SERVER, _BOOT_SERVER) if self.seconds > 0 else (SERVER,):
            if number not in self.socks:
                try:
                    self.socks[number] = sock = ports.socket(number)
                except OSError as trouble:
                    what = number, trouble.errno
                    if what not in self.told:
                        self.told += (what,)
                        import pxe

                        self.server.journal.log(ALWAYS, pxe.complaint(number, trouble))
                    continue
                if hasattr(socket, "SO_BROADCAST"):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                ports.others = dict(ports.others)
                ports.others[sock] = self
                ports.poller.register(sock, POLLIN)
                if number == SERVER:
                    self.server.journal.log(ALWAYS, "dhcp: port 67")
                    ports.new = self.new

    def close(self, *numbers):
        """Close these ports, and by default all."""
        ports = self.server.ports
        for number in numbers or list(self.socks):
            if number in self.socks:
                sock = self.socks.pop(number)
                ports.poller.unregister(sock)
                del ports.others[sock]
                sock.close()

    def new(self):
        """In place of Ports.new(): where no socket is left a transfer goes before port 4011."""
        ports = self.server.ports
        port = Ports.new(ports)
        if _BOOT_SERVER in self.socks and (port.users or port is ports.listener):
            self.seconds = 0
            self.close(_BOOT_SERVER)
            port = Ports.new(ports)
        return port

    def send(self, packet, port, host="255.255.255.255"):
        self.socks[SERVER].sendto(packet, socket.getaddrinfo(host, port)[0][-1])

    def go(self):
        """Something has come. Whatever it may be, the server goes on."""
        for number, sock in list(self.socks.items()):
            try:
                message, client = sock.recvfrom(_ROOM)
                if not message:  # an ESP32's socket is deaf from then on: tend() opens another
                    self.close()
                elif (
                    self.known
                    or b"PXEClient" in message
                    or b"HTTPClient" in message
                    or message[4:8] == self.probe
                ):
                    import pxe

                    pxe.hear(self, number, sock, message, client)
            except (OSError, MemoryError):  # nothing, or lost as on the air
                pass
