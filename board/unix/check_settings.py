"""Checks settings with the firmware's own rules: `micropython check_settings.py FIRMWARE_FOLDER
JSON KEY=VALUE ...`.

Prints a JSON object: `settings` (what is to stand in /settings.json) and `complaints`. A VALUE is
a text where the setting takes a text, else JSON.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])
import settings

values = json.loads(sys.argv[2])
complaints = []
for pair in sys.argv[3:]:
    name, _, text = pair.partition("=")
    value = text
    try:
        parsed = json.loads(text)
        if not settings.update({}, {name: parsed}):
            value = parsed
    except ValueError:  # no JSON: a text
        pass
    values[name] = value
complaints += settings.update({}, values)
print(json.dumps({"settings": values, "complaints": complaints}))
