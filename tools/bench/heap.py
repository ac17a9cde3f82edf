"""Heap figures, measured on the board: the boot.py of an everyday board with an empty main.py. Prints a line of JSON.

prompt      heap in use before the server is loaded, in bytes
code, data  added by its modules and settings; added by its objects and its open port
transfer    added by each further transfer at blksize 1468
lock_step, windowed   bytes allocated while _BLOCKS blocks of 1,468 bytes were sent
"""

import gc

gc.collect()
prompt = gc.mem_alloc()

import json  # noqa: E402
import select  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import link  # noqa: E402
import panel  # noqa: E402
import settings  # noqa: E402
import tftpd.files  # noqa: E402, F401 (start.py imports it)
from tftpd import Server  # noqa: E402

chosen = settings.load()
chosen["made_files"] = False  # the budgets are those with all options off
link.join(chosen)
del link.join  # as boot.py does
del settings, sys.modules["settings"]  # as main.py does
import mode  # noqa: E402

mode.serves(chosen)
del mode, sys.modules["mode"]
gc.collect()
loaded = gc.mem_alloc()

board = panel.Panel(chosen)
server = Server(chosen)
server.poll(0)
while server.files.names.jobs:  # start.py leaves the heap when the names are collected
    server.poll(0)
gc.collect()
idle = gc.mem_alloc()

_BLKSIZE = 1468
_BLOCKS = 480
_WARM_UP = 48
_LISTEN_MS = 50  # by then the server has polled for other requests
_WINDOWSIZE = 8
_TRANSFERS = 6

address = socket.getaddrinfo("127.0.0.1", chosen["port"])[0][-1]
acknowledgement = bytearray(b"\0\4\0\0")
data = bytearray(4 + _BLKSIZE)


def begin(sock, windowsize):
    """Ask for the file, and connect `sock` to the TID that answers."""
    sock.sendto(b"\0\1heap.bin\0octet\0blksize\0%d\0windowsize\0%d\0" % (_BLKSIZE, windowsize), address)
    answered = select.poll()
    answered.register(sock, select.POLLIN)
    while not answered.poll(0):
        server.poll(1000)
    _, tid = sock.recvfrom(64)
    sock.connect(tid)


def receive(sock, block, windowsize, count):
    """Receive `count` blocks after `block`, in turns with the server. Allocates nothing itself."""
    while count:
        acknowledgement[2] = block >> 8
        acknowledgement[3] = block & 0xFF
        sock.write(acknowledgement)
        server.poll(1000)
        for _ in range(windowsize):
            block += 1
            sock.readinto(data)  # readinto waits until the buffer is full, so it has the size of a full DATA
            if data[2] << 8 | data[3] != block:
                raise ValueError("not the next block")
        count -= windowsize


def allocated(windowsize):
    """Bytes allocated while _BLOCKS blocks are sent, in the middle of a transfer."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    begin(sock, windowsize)
    receive(sock, 0, windowsize, _WARM_UP)
    time.sleep_ms(_LISTEN_MS)  # the first poll of a poll set allocates room for its sockets, once
    receive(sock, _WARM_UP, windowsize, _WARM_UP)
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    receive(sock, 2 * _WARM_UP, windowsize, _BLOCKS)
    after = gc.mem_alloc()
    gc.enable()
    sock.close()
    return after - before


def transfer():
    """Bytes in use by each transfer after the first."""
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(_TRANSFERS + 1)]
    begin(socks[0], 1)
    gc.collect()
    before = gc.mem_alloc()
    for sock in socks[1:]:
        begin(sock, 1)
    gc.collect()
    after = gc.mem_alloc()
    return (after - before) // _TRANSFERS


modules = list(sys.modules) + ["settings"]  # noqa: RUF005
figures = {
    "modules": modules,
    "prompt": prompt,
    "code": loaded - prompt,
    "data": idle - loaded,
    "blocks": _BLOCKS,
    "transfers": _TRANSFERS,
}
figures["lock_step"] = allocated(1)
figures["windowed"] = allocated(_WINDOWSIZE)
server.stop()
gc.collect()
server.poll(0)
figures["transfer"] = transfer()
server.stop()
print(json.dumps(figures))
