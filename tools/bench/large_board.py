"""Goes before main.py (large.py): starts the server and times it. Prints a line of JSON, in milliseconds since reset:
joined, ready (it hears requests), listed (it knows the names of all files), and the bytes that these take.
"""

import gc
import json
import os
import time

joined = time.ticks_ms()
import settings  # noqa: E402
from tftpd import Server  # noqa: E402

server = Server(settings.load())
server.poll(0)
figures = {"joined": joined, "ready": time.ticks_ms()}
while server.files.names.jobs:
    server.poll(0)
figures["listed"] = time.ticks_ms()
gc.collect()
figures["names"] = 4 * len(server.files.names._hashes)
stat = os.statvfs("/")
figures["used"] = stat[0] * (stat[2] - stat[3])
server.stop()
print("bench:", json.dumps(figures))
