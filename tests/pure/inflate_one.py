"""Run inside MicroPython: `micropython inflate_one.py FIRMWARE TESTS NAME PIECE BACK...` reads the gzip file NAME in
pieces of PIECE bytes, going back now and then, and prints what came in hexadecimal, or the code of the refusal."""

import sys

sys.path[:0] = sys.argv[1:3]

from tftpd import deflate  # noqa: E402
from tftpd.packet import Refused  # noqa: E402

from simulated import Files  # noqa: E402

piece = int(sys.argv[4])
backs = [int(back) for back in sys.argv[5:]]
view = memoryview(bytearray(piece))
data = b""
try:
    file = open(sys.argv[3], "rb")  # noqa: SIM115
    file = deflate.open(file, Files(blksize=piece, read_ahead=2 * piece))
    size = file.seek(0, 2)
    place = file.seek(0)
    while True:
        got = file.readinto(view)
        data = data[:place] + bytes(view[:got])
        place += got
        if got < piece:
            break
        if backs:
            place = file.seek(max(place - backs.pop(0), 0))
    print(data.hex() if len(data) == size else "another size")
except Refused as refusal:
    print("refused", refusal.code)
