"""The folder `tftpd/`, whose files the server makes itself (made.py), and the last lines of the
journal. Loaded only where the setting `made_files` is on."""

from micropython import const

from .files import Files
from .names import components
from .packet import ACCESS, Refused

FOLDER = "tftpd"
_RING_BYTES = const(2048)


class Reserved(Files):
    """Files, with that folder in place of what any root may have of its name.

    server  Server
    ring    the last lines of the journal, the newest at the end; LFs while it is not full
    """

    def __init__(self, server, most):
        super().__init__(server.settings, most)
        self.server = server
        self.ring = memoryview(bytearray(b"\n" * _RING_BYTES))
        server.journal.also += (self._keep,)

    def _keep(self, level, line):
        line = (line + "\n").encode()[-_RING_BYTES:]
        size = len(line)
        ring = self.ring
        ring[:-size] = ring[size:]
        ring[-size:] = line

    def own(self, parts, host):
        """As Files: what uploads and lists of folders ask. Raises Refused for that folder."""
        if parts and parts[0].lower() == FOLDER:
            raise Refused(ACCESS, "the server itself makes the files in %s/" % FOLDER)
        return Files.own(self, parts, host)

    def place(self, name, host, found):
        """As Files. One of that folder has a single way, which begins with its name."""
        if b"tftpd" in name.lower():
            parts = components(name[:-1] if name[-1:] == b"\xff" else name)
            if parts[0].lower() == FOLDER:
                return [[FOLDER, "/".join(parts[1:]).lower(), host]]
        return Files.place(self, name, host, found)  # super() would be an object for each request

    def find(self, ways, found):
        """As Files."""
        if ways[0][:1] == [FOLDER]:
            from . import made

            try:
                return made.find(self, ways[0][1], ways[0][2], found)
            except Refused:
                if not ways[1:]:  # only rules.py gives more
                    raise
                return self.find(ways[1:], found)
        return Files.find(self, ways, found)
