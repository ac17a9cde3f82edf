"""Runs inside MicroPython: `micropython run_pure.py FIRMWARE TESTS MODULE ...` runs every test of those modules."""

import sys

sys.path[:0] = sys.argv[1:3]
passed = 0
for name in sys.argv[3:]:
    module = __import__(name)
    for test in dir(module):
        if test.startswith("test_"):
            getattr(module, test)()
            passed += 1
print(passed, "passed")
