"""Stands for main.py on the everyday board (tools/try_rules.py): answers the questions in
/questions.json as the server would, and ends.

A question is [name (list of bytes), address, "read" or "write"]. The answer to each is a line of
JSON: `plain`, the name as rules see it; `rules`, pairs of a number and "match" or what does not
match ("op", "name", "from"), up to the first match; `names`, pairs of a name that this rule gives
and what is there; and the `result`. These two are [path, bytes (None of an upload)], or the text
of a refusal. Without `look_up` nothing is looked up, and the result has names for the path.
"""

import json

import settings
from tftpd import Server
from tftpd.names import Later
from tftpd.packet import ACCESS, RRQ, WRQ, Refused
from tftpd.rules import _plain, given, span

chosen = settings.load()
rules = chosen["rules"] or []
server = Server(chosen)
names = server.files.names
with open("/questions.json") as file:
    asked = json.load(file)


def patient(function, *arguments):
    """Call it until it does not raise Later."""
    while True:
        try:
            return function(*arguments)
        except Later:
            names.work(1000)


def look_up(opcode, place, name, host):
    """What a request for `name` (bytes) gets. `place`: the method of Files or Uploads."""
    found = {}
    try:
        if host not in server.may[opcode]:
            what = "takes no uploads from" if opcode == WRQ else "is not for"
            raise Refused(ACCESS, "this server %s you" % what)
        if not asked["look_up"]:
            plain = _plain(name)
            names = given(rules, opcode, plain, host) or [plain]
            names = names[:1] if opcode == WRQ else names
            return [" or ".join([one.decode() for one in names]), None]
        if opcode == WRQ:
            return [patient(place, name, host, found), None]
        path, file = patient(server.files.find, patient(place, name, host, found), found)
        size = file.seek(0, 2)
        file.close()
        return [path, size]
    except Refused as refusal:
        return refusal.text


def outcome(rule, opcode, name, host):
    if not rule[0] & opcode:
        return "op"
    if not span(rule, name.lower()):
        return "name"
    try:
        return "match" if given([rule], opcode, name, host) else "from"
    except Refused:
        return "match"


def answer(name, host, op):
    opcode = WRQ if op == "write" else RRQ
    store = server.stores[opcode]  # None where no upload is allowed
    place = store and store.place
    store = getattr(store, "real", store)  # Uploads, behind waiting.py
    told = {"plain": None, "rules": [], "names": []}
    told["result"] = look_up(opcode, place, name, host)
    try:
        plain = _plain(name)
        told["plain"] = plain.decode()
        for number, rule in enumerate(rules, 1):
            told["rules"].append([number, outcome(rule, opcode, plain, host)])
            if told["rules"][-1][1] == "match":
                break
        for one in (asked["look_up"] and given(rules, opcode, plain, host)) or ():
            # The method of the class: that of the object follows the rules.
            there = look_up(opcode, lambda *values: type(store).place(store, *values), one, host)
            told["names"].append([one.decode(), there])
            if isinstance(there, list) or opcode == WRQ:
                break
    except Refused:  # as the result says
        pass
    return told


while names.jobs:
    names.work(1000)
for name, host, op in asked["questions"]:
    print("answer", json.dumps(answer(bytes(name), host, op)))
