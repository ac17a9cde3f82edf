"""Checks settings with the firmware's own rules: `micropython check_settings.py FIRMWARE_FOLDER`.

Standard input is a JSON object with `settings`, and with `pairs` that override them: each is
KEY=VALUE, where VALUE is JSON if the setting accepts that, else a text. Standard output is a JSON
object with `settings` (for /settings.json), `complaints` (pairs of a name and what is wrong with
it) and the `names` of all settings.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])
import settings

asked = json.loads(sys.stdin.read())
values = asked["settings"]
for pair in asked["pairs"]:
    name, _, text = pair.partition("=")
    try:
        value = json.loads(text)
    except ValueError:  # not JSON: a text
        value = text
    if settings.update({}, {name: value}) and not settings.update({}, {name: text}):
        value = text
    values[name] = value
complaints = []
for name, value in values.items():
    complaints += [(name, complaint) for complaint in settings.update({}, {name: value})]
print(json.dumps({"settings": values, "complaints": complaints, "names": list(settings.TABLE)}))
