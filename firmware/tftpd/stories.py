"""The boots in the last lines of the journal, each as one story: what a machine was told by DHCP
(pxe.py), and the names that it has asked for. Loaded with made.py; nothing is kept.
"""

from micropython import const

from .reserved import FOLDER

_PAUSE_MS = const(120_000)  # a machine that was silent for so long boots anew


def _quoted(text, at):
    """The text in the quotes that begin at `at`, and where they end."""
    end = at = at + 1
    while text[end : end + 1] not in ('"', ""):
        end += 2 if text.startswith("\\", end) else 1
    return text[at:end], end + 1


def _read(text):
    """(address, operation, [name, outcome and maybe the name that a rule gave]) of a line that
    tells of a read; None for another line."""
    words = text.split(" ", 2)
    if len(words) < 3 or words[1] not in ("RRQ", "GET") or not words[2].startswith('"'):
        return None
    name, end = _quoted(words[2], 0)
    rest = words[2][end:]
    given = []
    if rest[:5] == ' -> "':
        one, end = _quoted(rest, 4)
        given = [one]
        rest = rest[end:]
    outcome, unit, _ = rest.partition(": ")[2].partition(" bytes")
    return words[0].split(":")[0], words[1], [name, outcome + unit] + given


def stories(lines):
    """A list of dicts, one for each boot in `lines` (list of str), the one that began last at the
    end:

    client  the machine's address; None while it is not known
    mac     its address on the Ethernet; None if it was told nothing by DHCP
    until   ms of uptime at its last line
    steps   what has happened, each a list: ms of uptime, the name that was asked for ("" for what
            it was told by DHCP), how that ended, and the name that a rule gave if there is one
    """
    found = []
    for line in lines:
        when, _, text = line.partition(" ")
        ms = int(when.replace(".", ""))
        step = mac = client = op = None
        words = text.split(" ", 3)
        read = _read(text)
        if read:
            client, op, step = read
            if step[0].lstrip("/").lower().startswith(FOLDER + "/"):
                continue
        elif words[0] == "dhcp:" and words[2:3] == ["is"]:
            mac, client = words[1], words[3]
        elif words[0] == "dhcp:" and words[2:3] == ["boots"]:
            mac = words[1]
            step = ["", words[3][3:]]
        else:
            continue
        story = None
        for one in found:
            if mac == one["mac"] if mac else client == one["client"]:
                story = one
        if story and ms - story["until"] <= _PAUSE_MS:
            steps = story["steps"]
            # Told the same once more, after it has read something, it boots again.
            if (
                mac
                and step
                and step[1] in [one[2] for one in steps if not one[1]]
                and steps[-1][1]
            ):
                story = None
        elif op == "GET":  # a browser, for one
            continue
        else:
            story = None
        if not story:
            story = {"client": client, "mac": mac, "until": ms, "steps": []}
            found.append(story)
        story["until"] = ms
        if client:
            story["client"] = client
        if step:
            story["steps"].append([ms] + step)
    return found
