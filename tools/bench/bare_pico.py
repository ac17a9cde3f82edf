"""Measures the least cost of a block on this board, and where the server's time goes. Runs before main.py (pico.py).

Prints lines of JSON, times in microseconds of the board. For each blksize the median of _COUNT (of `read` the mean,
because LittleFS reads ahead):
read    `readinto` of a block of a file
send    `write` of a full DATA on a connected socket
turn    `send` and the read of its reply: the peer answers a datagram that begins with 1
shared  the same with `sendto` and `recvfrom`, as on a shared socket
Then for a transfer in lock-step and one at windowsize 4: the total time of its calls of `send`, `hear` (receive) and
`read`. Last the time of a garbage collection, and the milliseconds from reset until the Wi-Fi was joined and until the
server was loaded.
"""

import gc
import json
import socket
import time

joined_ms = time.ticks_ms()
import settings  # noqa: E402
import tftpd  # noqa: E402

ready_ms = time.ticks_ms()

_BLKSIZES = (512, 1468)
_COUNT = 44
_FILE = "/files/gauge.bin"
_PAUSE_MS = 300  # before a line that pico.py waits for, while it still handles the previous one


def timed(one):
    times = []
    for _ in range(_COUNT):
        started = time.ticks_us()
        one()
        times.append(time.ticks_diff(time.ticks_us(), started))
    return sorted(times)


def median(one):
    return timed(one)[_COUNT // 2] - timed(lambda: None)[_COUNT // 2]


def shared(sock, peer, blksize):
    packet = b"\1" + bytes(3 + blksize)

    def turn():
        sock.sendto(packet, peer)
        sock.recvfrom(64)

    return {"shared": median(turn)}


def connected(sock, blksize):
    packet = bytearray(4 + blksize)
    payload = memoryview(packet)[4:]
    reply = bytearray(4)

    def turn():
        sock.write(packet)
        sock.readinto(reply)

    figures = {"send": median(lambda: sock.write(packet))}
    packet[0] = 1
    figures["turn"] = median(turn)
    with open(_FILE, "rb") as file:
        figures["read"] = sum(timed(lambda: file.readinto(payload))) // _COUNT
    return figures


def bare():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 69))
    print("bench: waiting")
    peer = sock.recvfrom(2)[1]
    figures = {blksize: shared(sock, peer, blksize) for blksize in _BLKSIZES}
    sock.connect(peer)
    for blksize in _BLKSIZES:
        figures[blksize].update(connected(sock, blksize))
    sock.close()
    return figures


class Watched(tftpd.ports.Ports):
    """Records in `spent` the time of a transfer's calls of send, hear and read, in microseconds."""

    def _open_twin(self, session):
        super()._open_twin(session)
        transfer = session.transfer
        transfer.send = self.watched("send", transfer.send)
        transfer.hear = self.watched("hear", transfer.hear)
        session.file.readinto = self.watched("read", session.file.readinto)

    def watched(self, what, call):
        spent = self.spent
        spent[what] = 0

        def run(argument):
            started = time.ticks_us()
            result = call(argument)
            spent[what] += time.ticks_diff(time.ticks_us(), started)
            return result

        return run


class Profiled(tftpd.Server):
    """A server whose transfers are watched."""

    def profile(self):
        """Serve one transfer; where its time went."""
        ports = self.ports = Watched(self)
        ports.spent = {}
        self.poll(0)
        time.sleep_ms(_PAUSE_MS)
        print("bench: waiting")
        while self.ports.sessions or not ports.spent:
            self.poll(1000)
        self.stop()
        return ports.spent


print("bench:", json.dumps(bare()))
for _ in range(2):
    print("bench:", json.dumps(Profiled(settings.load()).profile()))
time.sleep_ms(_PAUSE_MS)
started = time.ticks_us()
gc.collect()
collect = time.ticks_diff(time.ticks_us(), started)
print("bench:", json.dumps({"collect": collect, "joined_ms": joined_ms, "ready_ms": ready_ms}))
del Profiled
time.sleep_ms(_PAUSE_MS)
