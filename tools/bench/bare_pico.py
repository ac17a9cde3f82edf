"""What a block costs at least on this board: goes before main.py (pico.py). Prints a line of JSON, in microseconds.

read   `readinto` of a block of a file
send   `write` of a full DATA on a connected socket
turn   the same, until a reply has been read: the peer answers a datagram that begins with 1
"""

import json
import socket
import time

_BLKSIZE = 1468
_COUNT = 44

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 69))
print("bare: waiting")
sock.connect(sock.recvfrom(2)[1])
packet = bytearray(4 + _BLKSIZE)
payload = memoryview(packet)[4:]
reply = bytearray(4)


def timed(one):
    one()
    started = time.ticks_us()
    for _ in range(_COUNT):
        one()
    return time.ticks_diff(time.ticks_us(), started) / _COUNT


def turn():
    sock.write(packet)
    sock.readinto(reply)


with open("/files/gauge.bin", "rb") as file:
    figures = {"read": timed(lambda: file.readinto(payload))}
packet[0] = 0
figures["send"] = timed(lambda: sock.write(packet))
packet[0] = 1
figures["turn"] = timed(turn)
sock.close()
print("bare:", json.dumps(figures))
