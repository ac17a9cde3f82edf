"""Measures what HTTP can't be faster than on this board. Runs before main.py (http.py).

Prints a line of JSON: microseconds to read the file in pieces of _PIECE bytes. Then each connection to the port of HTTP
is sent as many bytes as the file has, as its client asks: b"w1600" in blocking writes of 1,600 bytes; b"n1600" in ones
that don't block, again and again; b"p1600" in these whenever poll() says that the socket takes data. b"end" ends it.
"""

import json
import select
import socket
import time

import settings

_PIECE = 5872  # as the server's buffer
_FILE = "/files/gauge.bin"

view = memoryview(bytearray(_PIECE))
with open(_FILE, "rb") as file:
    size = 0
    started = time.ticks_us()
    while got := file.readinto(view):
        size += got
    read = time.ticks_diff(time.ticks_us(), started)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", settings.load()["http_port"]))
listener.listen(2)
time.sleep_ms(300)
print("bench:", json.dumps({"read": read}))
while True:
    client = listener.accept()[0]
    wanted = client.recv(8)
    if wanted == b"end":
        break
    piece = int(wanted[1:])
    client.setblocking(wanted[:1] == b"w")
    poller = select.poll()
    poller.register(client, select.POLLOUT)
    left = size
    while left:
        if wanted[:1] == b"p":
            poller.poll()
        sent = client.write(view[: min(left, piece)])
        if sent:
            left -= sent
    client.setblocking(True)
    client.recv(1)
    client.close()
listener.close()
client.close()
