"""Checks settings with the firmware's own rules: `micropython check_settings.py FIRMWARE_FOLDER
JSON KEY=VALUE ...`.

Prints a JSON object: `settings` (what is to stand in /settings.json) and `complaints`. A VALUE is
JSON where the setting takes that, else a text.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])
import settings

values = json.loads(sys.argv[2])
complaints = []
for pair in sys.argv[3:]:
    name, _, text = pair.partition("=")
    try:
        value = json.loads(text)
    except ValueError:  # no JSON: a text
        value = text
    if settings.update({}, {name: value}) and not settings.update({}, {name: text}):
        value = text
    values[name] = value
complaints += settings.update({}, values)
print(json.dumps({"settings": values, "complaints": complaints}))
