"""Runs inside MicroPython: `micropython faults.py FIRMWARE ROOT PORT`. The server, with injected faults: the name of a
file says where its transfer fails and which exception is raised, as in "read-ValueError"."""

import sys

sys.path.insert(0, sys.argv[1])

import settings
from tftpd import Server
from tftpd.transfer import Transfer
from tftpd.uploads import Sink
from tftpd.wrq import WriteTransfer

FAULTS = {
    "ValueError": ValueError,
    "MemoryError": MemoryError,
    "OSError": lambda: OSError(5),
    "StopIteration": StopIteration,
    "RuntimeError": lambda: RuntimeError("maximum recursion depth exceeded"),
}


def fault(path):
    """Raise the exception that the name of the file asks for."""
    raise FAULTS[path.rsplit("-", 1)[1]]()


def faulty(path, where):
    return "/" + where + "-" in path


def wrap(cls, method, where, path_of):
    right = getattr(cls, method)

    def wrong(self, *arguments):
        path = path_of(self)
        if path and faulty(path, where):
            fault(path)
        return right(self, *arguments)

    setattr(cls, method, wrong)


chosen = settings.defaults()
settings.update(
    chosen,
    {
        "address": "127.0.0.1",
        "port": int(sys.argv[3]),
        "root": sys.argv[2],
        "write_from": ["127.0.0.1"],
        "overwrite": True,
        "timeout": 1,
        "retries": 2,
    },
)
server = Server(chosen)
files = server.files
right_source = files.source


def source(file, path, mode, agreed):
    """A source whose second read fails."""
    if faulty(path, "open"):
        fault(path)
    made = right_source(file, path, mode, agreed)
    right_read, reads = made.readinto, [0]

    def read(view):
        reads[0] += 1
        if faulty(path, "read") and reads[0] == 2:
            fault(path)
        return right_read(view)

    made.readinto = read
    return made


files.source = source
wrap(Sink, "write", "write", lambda sink: sink.path)
wrap(Sink, "commit", "commit", lambda sink: sink.path)
wrap(WriteTransfer, "receive", "receive", lambda transfer: transfer.sink.path)
wrap(Transfer, "expired", "timer", lambda transfer: getattr(getattr(transfer, "sink", None), "path", None))
server.serve_forever()
