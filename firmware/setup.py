"""The first set-up: an access point of the board's own with one page, where a phone chooses the
Wi-Fi. Loaded only in that state, in which nothing else is served (docs/setup.md).

Sources: extmod/network_cyw43.c and ports/esp32/network_wlan.c of MicroPython.
- An RP2 takes the name and the password before the access point is up, an ESP32 only then.
- The station beside it has the same channel: a phone may lose the page while the board joins.
"""

import json
import os
import select
import socket
import sys
from time import ticks_diff, ticks_ms

import machine
import network
import settings as rules
from micropython import const

_UNUSED_MS = const(600_000)  # then the access point closes
_SAY_MS = const(10_000)  # until the console shows again how to join: it may be opened late
_JOIN_MS = const(25_000)  # for the network that was chosen
_SETTLED_MS = const(3_000)  # an RP2 may have the address of the network before, for a moment
_SHOWN_MS = const(30_000)  # from then on to the restart, so that the page can show the address
_REQUEST_BYTES = const(2048)
_CONNECTIONS = const(4)
_NETWORKS = const(16)  # that are shown
_RP2_WPA2 = const(0x400004)  # CYW43_AUTH_WPA2_AES_PSK
_ESP32_WPA2 = const(3)
_LETTERS = const("abcdefghijkmnopqrstuvwxyz2345678")  # 32, which no one takes for another
_KEPT = const("/settings.json")
_STATIC = ("ip", "netmask", "gateway", "dns")
_WRONG = (-3, 15, 202, 204)  # what status() says of a wrong password,
_MISSING = (-2, 201)  # and of a network that is not there
_HEAD = """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width"><title>%s</title>
<link rel=icon href=data:,><link rel=stylesheet href=/page.css><style>
label{display:block;padding:.4rem 0}small{float:right}input:not([type=radio]),button{width:100%%;
padding:.6rem}fieldset{border:1px solid var(--line)}
button{margin:1rem 0;background:var(--mark);color:var(--page)}</style><main><h1>%s</h1>"""
_FORM = """<div role=alert>%s</div><form method=post><input type=hidden name=token value=%s>
<fieldset><legend>Wi-Fi</legend>%s<label>Another, or a hidden one<input name=other></label>
<a href="?">Search again</a></fieldset><label>Password<input name=password type=password></label>
<label>Name of the board<input name=hostname value="%s"></label>
<details><summary>Static address</summary>%s</details><button>Join</button></form>"""
_NETWORK = (
    '<label><input type=radio name=ssid value="%s"%s> <bdi>%s</bdi><small>%d dBm</small></label>'
)
_FIELD = '<label>%s<input name=%s value="%s"></label>'
_JOINING = """<meta http-equiv=refresh content=3>
<div>If this page goes away, join %s again and come back to it."""
_DONE = """<div>The address of the board is <b>%s</b>. In half a minute it restarts and serves
<a href="tftp://%s">tftp://%s</a>, also called %s.local, in that Wi-Fi."""


def _html(text):
    for one, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(one, escaped)
    return text


def _fields(body):
    """The fields of a form as a browser sends it (bytes): {name: value}. Raises ValueError."""
    fields = {}
    for pair in body.split(b"&"):
        name, _, value = pair.partition(b"=")
        pieces = value.replace(b"+", b" ").split(b"%")
        value = pieces[0]
        for piece in pieces[1:]:
            value += bytes([int(piece[:2], 16)]) + piece[2:]
        fields[name.decode()] = value.decode()
    return fields


def _answer(status, text=b"", kind="html"):
    head = (
        "HTTP/1.1 %s\r\nContent-Type: text/%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    )
    return (head % (status, kind, len(text))).encode() + text


def _style():
    """The answer with the style of the server's page."""
    path = __file__.rpartition("/")[0] + "/tftpd/page.css"
    try:
        with open(path + ".gz", "rb") as file:
            return _answer("200 OK", file.read(), "css\r\nContent-Encoding: gzip")
    except OSError:  # installed by mip, as it is
        with open(path, "rb") as file:
            return _answer("200 OK", file.read(), "css")


def _kept():
    """The settings in /settings.json, {} if there is none. Raises ValueError or TypeError if it is
    damaged."""
    try:
        with open(_KEPT) as file:
            return dict(json.load(file))
    except OSError:
        return {}


def _keep(kept):
    """Write /settings.json, whole or not at all. Raises OSError."""
    with open(_KEPT + ".new", "w") as file:
        json.dump(kept, file)
    os.rename(_KEPT + ".new", _KEPT)


def _join(wanted, wired):
    """Keep what has worked; other settings stay. Raises OSError."""
    try:
        kept = _kept()
    except (ValueError, TypeError):
        kept = {}
    for name in _STATIC:
        kept.pop(name, None)
    kept.update(wanted)
    if wired:
        kept["wired"] = None
    _keep(kept)


def _password():
    """Make the password of this board's access point, and keep it for the next time."""
    key = "".join([_LETTERS[one % 32] for one in os.urandom(10)])
    try:
        kept = _kept()
        kept["setup_password"] = key
        _keep(kept)
    except (OSError, ValueError, TypeError) as trouble:  # damaged: its user may want to mend it
        print("set-up: the password is not kept: %r" % trouble)
    return key


def run(settings):
    """Open the access point and serve its page: until a network was joined, which restarts the
    board, or nobody has used the page for ten minutes. `settings`: dict of settings.load(). Raises
    OSError."""
    sta = network.WLAN(network.STA_IF)
    sta.active(True)
    try:
        sta.disconnect()  # an ESP32 that is joining can't scan
    except OSError:
        pass
    found = []  # (minus the strength in dBm, name)
    text = ""  # of the last try
    form = {"hostname": settings["hostname"]}  # what the page shows
    wanted = {}  # the settings that are tried
    address = ""  # what that has led to
    since = ticks_ms()  # the last request, or the beginning of a try
    token = "".join(["%02x" % one for one in os.urandom(8)])

    def scan():
        seen = {}
        try:
            for ssid, _, _, strength, _, _ in sta.scan():
                try:
                    ssid = ssid.decode()
                except UnicodeError:
                    continue
                if ssid and not rules.update({}, {"ssid": ssid}):
                    seen[ssid] = min(-strength, seen.get(ssid, 200))
        except OSError as trouble:
            print("set-up: scan: %r" % trouble)
        found[:] = sorted([(seen[ssid], ssid) for ssid in seen])[:_NETWORKS]

    def page():
        if wanted:
            title = "Joined" if address else "Joining"
            title += " <bdi>%s</bdi>" % _html(wanted["ssid"])
            body = _JOINING % name
            if address:
                body = _DONE % (address, address, address, wanted["hostname"])
        else:
            title = "Set up " + name
            shown = static = ""
            for weakness, ssid in found:
                ssid = _html(ssid)
                checked = " checked" if ssid == _html(form.get("ssid", "")) else ""
                shown += _NETWORK % (ssid, checked, ssid, -weakness)
            for one in _STATIC:
                static += _FIELD % (one, one, _html(form.get(one, "")))
            body = _FORM % (_html(text), token, shown, _html(form.get("hostname", "")), static)
        return _HEAD % (name, title) + body

    def choose(asked):
        nonlocal text, form, wanted
        text = "This page was old, try again."
        if asked.get("token") != token:
            return
        form = asked
        values = {"hostname": asked["hostname"], "password": asked["password"]}
        values["ssid"] = asked["other"] or asked.get("ssid", "")
        if asked["ip"]:
            for one in _STATIC:
                if asked[one]:
                    values[one] = asked[one]
        trial = dict(settings)
        text = "; ".join(rules.update(trial, values))
        if not values["ssid"]:
            text = "Choose a network."
        if text:
            return
        print("set-up: joining %r" % values["ssid"])
        try:
            if "ip" in values:
                try:
                    sta.ifconfig(tuple([trial[one] for one in _STATIC]))
                except RuntimeError:  # an ESP32 refuses the DNS server 0.0.0.0, but takes the rest
                    pass
            else:  # maybe it had a static address before
                sta.ipconfig(dhcp4=True)
            key = (values["password"],) if values["password"] else ()
            sta.connect(values["ssid"], *key)
            wanted = values
        except OSError as trouble:
            text = "Can't join: %r" % trouble

    def answer(data):
        """The answer to a request (bytes), empty if that is not whole. Raises ValueError."""
        nonlocal since
        head, end, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = {}
        for line in lines[1:]:
            one, _, value = line.partition(":")
            fields[one.lower()] = value.strip()
        if not end or len(body) < int(fields.get("content-length", "0")):
            return b""
        # A phone that looks for the Internet, or a page elsewhere that has a name of its own for
        # this address (DNS rebinding).
        place = "http://%s/" % host
        if fields.get("host", "").split(":")[0] == host:
            if not wanted:
                since = ticks_ms()
            if lines[0][:7] == "GET / H":
                return _answer("200 OK", page().encode(), "html\r\nCache-Control: no-store")
            if lines[0][:14] == "GET /page.css ":
                return _style()
            if not wanted:
                if lines[0][:8] == "GET /? H":
                    scan()
                elif lines[0][:8] == "POST / H":
                    choose(_fields(body))
            place = "/"
        return _answer("303 See Other\r\nLocation: " + place)

    scan()
    ap = network.WLAN(network.AP_IF)
    name = "tftpd-%02X%02X" % tuple(ap.config("mac")[-2:])
    key = settings["setup_password"]
    if key is None:
        key = _password()
    access = {"ssid": name, "security": 0}
    if key:
        access["key"] = key
        access["security"] = _RP2_WPA2 if sys.platform == "rp2" else _ESP32_WPA2
    if sys.platform == "rp2":
        ap.config(**access)
    ap.active(True)
    if sys.platform != "rp2":
        ap.config(**access)
    host = ap.ifconfig()[0]
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(socket.getaddrinfo(host, 80)[0][-1])
    listener.listen(_CONNECTIONS)
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    heard = []  # [socket, what it has sent so far] of the connections, the oldest first
    how = "set-up: join Wi-Fi %s, password %s, open http://%s/" % (name, key or "none", host)
    print(how)
    said = ticks_ms()

    def close(one):
        heard.remove(one)
        poller.unregister(one[0])
        one[0].close()

    def hear(one):
        try:
            more = one[0].recv(1024)
            one[1] += more
            try:
                reply = answer(one[1])
            except (ValueError, KeyError):  # also UnicodeError
                reply = _answer("400 Bad Request")
            if more and not reply and len(one[1]) <= _REQUEST_BYTES:
                return
            one[0].write(reply)
        except OSError:  # the client is gone, or takes nothing
            pass
        close(one)

    while address or wanted or ticks_diff(ticks_ms(), since) < _UNUSED_MS:
        for sock, _ in poller.poll(100):
            if sock is listener:
                sock, _ = sock.accept()
                sock.settimeout(2)
                poller.register(sock, select.POLLIN)
                heard.append([sock, b""])
                if len(heard) > _CONNECTIONS:
                    close(heard[0])
                continue
            for one in heard:
                if one[0] is sock:
                    hear(one)
                    break
        if not wanted and ticks_diff(ticks_ms(), said) > _SAY_MS:
            print(how)
            said = ticks_ms()
        passed = ticks_diff(ticks_ms(), since)
        if address:
            if passed > _SHOWN_MS:
                machine.reset()
        elif wanted:
            status = sta.status()
            if passed > _SETTLED_MS and sta.isconnected():
                try:
                    _join(wanted, settings["wired"])
                    address = sta.ifconfig()[0]
                    since = ticks_ms()
                    print("set-up: joined, the address is %s" % address)
                    continue
                except OSError as trouble:
                    text = "Can't keep it: %r" % trouble
            elif passed < _JOIN_MS and (status >= 0 or passed < _SETTLED_MS):
                continue
            else:
                text = "No answer, or no address."
                if status in _WRONG:
                    text = "The password is wrong."
                elif status in _MISSING:
                    text = "That network is not there."
            print("set-up:", text)
            sta.disconnect()
            wanted = {}
            since = ticks_ms()
    for one in list(heard):
        close(one)
    listener.close()
    print("set-up: not used for ten minutes, closed")
