"""The list of a folder for a browser. Loaded with the first request for a name that ends with `/`.

The list is plain HTML. page.css gives it its look; page.js adds what is going on and, for clients
that may write, uploads and deletion. Both lie beside this file, compressed by the host's tools,
and are asked for as a query of any folder, which takes no name from the files.
"""

from .fields import path_of
from .journal import quoted
from .names import components
from .packet import NOT_FOUND, Refused

_FOLDER = 0x4000  # of os.ilistdir()
_BATCH = 1000  # bytes that are sent together
_PLAIN = "-._~/"  # beside letters and digits: what needs no escape in a path, RFC 3986
# No script but the board's own, no frame around the page (a click would act in it), and none of
# innerHTML and its like.
_POLICY = (
    "Cache-Control: no-cache\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'\r\n"
)
_HEAD = """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width"><link rel=icon href=data:,>%s<title>%s</title>
<main><h1>%s</h1><table><tr><th scope=col>Name<th scope=col>Bytes
"""
_STYLE = '<link rel=stylesheet href="/?page.css;%s">'
_SCRIPT = '<script defer src="/?page.js;%s"></script>'


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
    """A generator of Connection that gives the paths of the folder `name`, which may be in
    several roots. Raises Refused, OSError."""
    files = connection.http.server.files
    find = files.names.find
    paths = []
    for way in files.place(name, connection.host, {}):
        waiting = [] if type(way) is tuple else list(files.names.roots)  # a tuple: compressed
        found = {}
        while waiting:
            try:
                path, file = yield from connection.waiting(find, way, found, waiting[:1])
                if file:
                    file.close()
                else:
                    paths.append(path)
            except Refused as refusal:
                if refusal.code != NOT_FOUND:
                    raise
            del waiting[0]
    if not paths:
        raise Refused(NOT_FOUND, "no such folder")
    return paths


def _is_hidden(files, parts, host):
    """Whether that is the folder of another client, or rules keep it from this one."""
    try:
        files.own(parts, host)
        if files.settings["rules"]:
            files.place("/".join(parts).encode(), host, {})
        return False
    except Refused:
        return True


def _asset(connection, method, name):
    """Answer with page.css or page.js. The name in the page is new at each start, so that a
    browser loads it once. Raises OSError."""
    path = __file__.rpartition("/")[0] + "/" + name
    more = "Cache-Control: max-age=9999999, immutable\r\n"
    try:
        file = open(path + ".gz", "rb")
        more += "Content-Encoding: gzip\r\n"
    except OSError:  # installed by mip, as it is
        file = open(path, "rb")
    with file:
        size = file.seek(0, 2)
        file.seek(0)
        kind = "text/css" if name == "page.css" else "text/javascript"
        yield from connection.sending(connection.head(200, kind, size, more))
        while method == b"GET":
            data = file.read(_BATCH)
            if not data:
                break
            yield from connection.sending(data)


def listing(connection, method, target, fields):
    """A generator of Connection: answers with what is in the folder of `target`, or with what
    belongs to the page. Raises Refused, OSError."""
    asset = target.partition(b"?")[2].partition(b";")[0]
    if asset in (b"page.css", b"page.js"):
        yield from _asset(connection, method, asset.decode())
        return
    server = connection.http.server
    files = server.files
    name = path_of(target)
    paths = yield from _paths(connection, name)
    connection.keep = False  # its end is the end of the connection: the length is not known
    yield from connection.sending(connection.head(200, "text/html; charset=utf-8", None, _POLICY))
    if method == b"HEAD":
        return
    look = ""
    if "gzip" in fields.get("accept-encoding", ""):
        look = _STYLE % connection.http.nonce
        if server.settings["made_files"]:  # page.js asks for tftpd/status.json
            look += _SCRIPT % connection.http.nonce
    asked = components(name)
    base = "/" + "".join([part + "/" for part in asked])
    title = "Files in " + _html(base)
    text = _HEAD % (look, title, title)
    if asked:
        up = base[: -len(asked[-1]) - 1]
        text += '<tr><td><a href="%s">Parent folder</a><td>\n' % _escaped(up)
    for path in paths:
        for entry in files.names.entries(path):
            one = entry[0]
            if one.startswith(".") or _is_hidden(files, asked + [one], connection.host):
                yield connection.NEXT  # many in a row must not hold the loop
                continue
            if entry[1] & _FOLDER:
                text += _row(base, one + "/", "")
            else:
                text += _row(base, one, entry[3] if len(entry) > 3 else "")
            if len(text) > _BATCH:
                yield from connection.sending(text.encode())
                text = ""
                yield connection.NEXT
    yield from connection.sending((text + "</table></main>\n").encode())
