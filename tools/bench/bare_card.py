"""Goes before main.py (card.py): what reading costs on this board, from its flash and from its card.

Prints a line of JSON: microseconds of the board for a `readinto` of so many bytes, the mean over the file.
"""

import json
import time

_SIZES = (512, 1468, 5872)


def measured(path):
    figures = {}
    for size in _SIZES:
        buffer = bytearray(size)
        with open(path, "rb") as file:
            file.readinto(buffer)  # finds the file
            count = 0
            started = time.ticks_us()
            while file.readinto(buffer) == size:
                count += 1
            figures[str(size)] = time.ticks_diff(time.ticks_us(), started) / (count + 1)
    return figures


time.sleep(2)  # the host's side of the console comes up
read = {folder: measured(folder + "/gauge.bin") for folder in ("/files", "/card")}
print("bench: " + json.dumps(read))
del read, measured
