"""The list of a folder for a browser, without script. Loaded with the first request for a name
that ends with `/`."""

from .journal import quoted
from .names import Later, components
from .packet import NOT_FOUND, Refused

_FOLDER = 0x4000  # of os.ilistdir()
_BATCH = 1000  # bytes that are sent together
_PLAIN = "-._~/"  # beside letters and digits: what needs no escape in a path, RFC 3986
_HEAD = """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width"><meta name=color-scheme content="light dark">
<title>Files in %s</title><style>
body{font:1rem system-ui,sans-serif;max-width:44rem;margin:1rem auto;padding:0 1rem}
table{width:100%%;border-collapse:collapse}td,th{text-align:left;padding:.4rem 0;
border-bottom:1px solid #8884;overflow-wrap:anywhere}td+td,th+th{text-align:right;
white-space:nowrap;padding-left:1rem;font-variant-numeric:tabular-nums}
</style><h1>%s</h1><table><tr><th scope=col>Name<th scope=col>Bytes
"""


def _html(name):
    """A name (str) as text of the page, shortened as in the journal."""
    text = quoted(name.encode())
    text = text[1:-4] + "..." if text[-1] == "." else text[1:-1]
    for one, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(one, escaped)
    return text


def _escaped(path):
    """`path` (str) as it stands in a link."""
    return "".join(
        [
            chr(one)
            if 48 <= one < 58 or 65 <= one < 91 or 97 <= one < 123 or chr(one) in _PLAIN
            else "%%%02X" % one
            for one in path.encode()
        ]
    )


def _row(path, name, size):
    link = _escaped(path + name)
    return '<tr><td><a href="%s">%s</a><td>%s\n' % (link, _html(name), size)


def _paths(connection, name):
    """A generator of http.Connection that gives the paths of the folder `name`, which may be in
    several roots. Raises Refused, OSError."""
    files = connection.http.server.files
    paths = []
    for way in files.place(name, connection.host, {}):
        waiting = [] if type(way) is tuple else list(files.names.roots)  # a tuple: compressed
        found = {}
        while waiting:
            try:
                path, file = files.names.find(way, found, waiting[:1])
                if file:
                    file.close()
                else:
                    paths.append(path)
                del waiting[0]
            except Later:
                yield connection.NEXT
            except Refused as refusal:
                if refusal.code != NOT_FOUND:
                    raise
                del waiting[0]
    if not paths:
        raise Refused(NOT_FOUND, "no such folder")
    return paths


def _is_foreign(files, parts, host):
    """Whether that is the folder of another client."""
    try:
        files.own(parts, host)
        return False
    except Refused:
        return True


def listing(connection, head, name):
    """A generator of http.Connection: answers with what is in the folder `name` (bytes). `head`:
    True for HEAD. Raises Refused, OSError."""
    files = connection.http.server.files
    paths = yield from _paths(connection, name)
    connection.keep = False  # its end is the end of the connection: the length is not known
    policy = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
    yield from connection.sending(connection.head(200, "text/html; charset=utf-8", None, policy))
    if head:
        return
    asked = components(name)
    base = "/" + "".join([part + "/" for part in asked])
    title = _html(base)
    text = _HEAD % (title, title)
    if asked:
        up = base[: -len(asked[-1]) - 1]
        text += '<tr><td><a href="%s">Parent folder</a><td>\n' % _escaped(up)
    for path in paths:
        for entry in files.names.entries(path):
            one = entry[0]
            if entry[1] & _FOLDER:
                if one[0] != "." and not _is_foreign(files, asked + [one], connection.host):
                    text += _row(base, one + "/", "")
            elif one[0] != ".":
                text += _row(base, one, entry[3] if len(entry) > 3 else "")
            if len(text) > _BATCH:
                yield from connection.sending(text.encode())
                text = ""
                yield connection.NEXT
    yield from connection.sending((text + "</table>\n").encode())
