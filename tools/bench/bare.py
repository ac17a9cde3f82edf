"""Measures the parts of a transfer without the server. Runs on the board before main.py (gauge.py). Prints JSON.

read_B, send_B  microseconds for `readinto` of B bytes of a file, and for `write` of B + 4 on a connected socket

Then it is a bare echo server: a two-byte datagram to port 69 is answered with a datagram of that many bytes. A request
for 0 bytes ends it.
"""

import json
import select
import socket
import time

_SIZES = (512, 1428, 1468)  # blksize
_COUNT = 40

echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("0.0.0.0", 69))
print("bare: waiting")
client = echo.recvfrom(2)[1]
echo.connect(client)
echo.setblocking(False)

figures = {}
for size in _SIZES:
    packet = memoryview(bytearray(size + 4))
    with open("/files/gauge.bin", "rb") as file:
        file.readinto(packet[4:])
        started = time.ticks_us()
        for _ in range(_COUNT):
            file.readinto(packet)
        figures[f"read_{size}"] = time.ticks_diff(time.ticks_us(), started) / _COUNT * size / (size + 4)
    while f"send_{size}" not in figures:
        started = time.ticks_us()
        try:
            for _ in range(_COUNT):
                echo.write(packet)
            figures[f"send_{size}"] = time.ticks_diff(time.ticks_us(), started) / _COUNT
        except OSError:  # ENOMEM: the network's send buffers are full
            time.sleep_ms(100)
print("bare:", json.dumps(figures))

poller = select.poll()
poller.register(echo, select.POLLIN)
asked = bytearray(2)
packets = {size + 4: memoryview(bytearray(size + 4)) for size in _SIZES}
while size:
    for sock, _ in poller.ipoll(1000):
        sock.readinto(asked)
        size = asked[0] << 8 | asked[1]
        if size:
            sock.write(packets[size])
echo.close()
