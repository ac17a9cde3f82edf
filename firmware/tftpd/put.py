"""PUT and DELETE over HTTP, under the rules of uploads over TFTP: who may, where to, what is
replaced, whole or not at all. Loaded with the first of them from a client in `write_from`.

RFC 9110 sections 9.3.4, 9.3.5 and 10.1.1 (100-continue).
"""

import os
from binascii import a2b_base64
from select import POLLIN
from time import ticks_ms

from .connection import CHANGED
from .fields import Failed, listed, path_of
from .packet import ACCESS, NOT_FOUND, WRQ, Refused
from .transfer import DONE
from .uploads import exists


def _is_password(field, password):
    """Whether the field Authorization has it; any user name will do. RFC 7617."""
    kind, _, encoded = field.partition(" ")
    try:
        _, colon, sent = a2b_base64(encoded.strip().encode()).partition(b":")
    except ValueError:
        return False
    return kind.lower() == "basic" and bool(colon) and sent == password.encode()


def storing(connection, method, target, fields):
    """A generator of Connection: does what is asked and answers. `method`: b"PUT" or
    b"DELETE". Raises Failed, Refused, OSError."""
    server = connection.http.server
    settings = server.settings
    uploads = server.stores[WRQ]
    host = connection.host
    if not uploads or host not in server.may[WRQ]:
        raise Refused(ACCESS, "this server takes no uploads from you")
    password = settings["http_password"]
    if password and not _is_password(fields.get("authorization", ""), password):
        raise Failed(401, "the password is missing or wrong")
    size = _announced(fields, settings["write_limit"]) if method == b"PUT" else 0
    path = yield from connection.waiting(uploads.place, path_of(target), host, {})
    if settings["rules"]:
        target = server.files.names.served(path, path_of(target))
    existed = exists(path)
    _check_version(connection.http, path, existed, fields)
    if method == b"DELETE" and not existed:
        raise Refused(NOT_FOUND, "file not found")
    try:
        server.give_way(uploads.rival(server.ports.sessions, path, host, ticks_ms()))
    except Refused as refusal:
        raise Failed(409, refusal.text)
    began = server.journal.uptime_ms()
    connection.moved = 0
    if method == b"DELETE":
        uploads.delete(path)
        connection.finished(method, target, DONE, began)
    else:
        sink = uploads.create(path, "octet", size)
        uploads.writing.append(path.lower())
        connection.doing = "PUT", path, began, size
        outcome = "broken off"
        try:
            if fields.get("expect", "").lower() == "100-continue":
                yield from connection.sending(b"HTTP/1.1 100 Continue\r\n\r\n")
            yield from _receiving(connection, sink, size)
            sink.commit()
            outcome = DONE
        finally:
            sink.close()
            uploads.writing.remove(path.lower())
            connection.finished(method, target, outcome, began)
        connection.was_read = True
        connection.keep = connection.wants_more
    yield from connection.sending(connection.head(204 if existed else 201, "text/plain", 0))


def _check_version(http, path, existed, fields):
    """Raises Failed if the client wants to replace or delete another file than the present one, or
    none: RFC 9110 section 13.1."""
    tag = ""
    if existed:
        stat = os.stat(path)
        tag = http.tag(stat[8], stat[6])
    wanted, unwanted = fields.get("if-match"), fields.get("if-none-match", "")
    if existed and listed(tag, unwanted):
        raise Failed(412, CHANGED)
    if wanted and not (existed and listed(tag, wanted)):
        raise Failed(412, CHANGED)


def _announced(fields, limit):
    """The length of the body. Raises Failed."""
    length = fields.get("content-length")
    if length is None:
        raise Failed(411, "PUT wants a Content-Length")
    if "content-range" in fields:
        raise Failed(400, "no part of a file can be stored")
    if len(length) > 10 or (limit is not None and int(length) > limit):
        raise Failed(413, "the file is too large")
    return int(length)


def _receiving(connection, sink, size):
    """Write the next `size` bytes of the connection to `sink`. They come through the buffer of all
    transfers, which no transfer may believe to be its own afterwards."""
    data = connection.data[:size]
    connection.data = connection.data[size:]
    sink.write(data)
    connection.took(len(data))
    left = size - len(data)
    ahead = connection.http.ahead
    while left:
        yield POLLIN
        ahead.owner = connection
        got = connection.sock.readinto(ahead.view[: min(len(ahead.view), left)])
        if got == 0:
            raise OSError("the client is gone")
        if got:
            sink.write(ahead.view[:got])
            left -= got
            connection.took(got)
