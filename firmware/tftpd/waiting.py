"""Stands for uploads.py until there is an upload, and loads it then: 7 KB of heap less until then.
Itself it is loaded only if uploads are allowed or files are left of some (start.py).
"""

from .packet import WRQ


class Uploads:
    """Has the attributes of uploads.Uploads, under the setting `rules`."""

    def __init__(self, settings, files):
        """As uploads.Uploads."""
        self.settings = settings
        self.files = files
        self.real = None

    def __getattr__(self, name):
        if not self.real:
            from .uploads import Uploads

            self.real = Uploads(self.settings, self.files)
            if self.settings["rules"]:
                from .rules import ruled

                self.real.place = ruled(self.real.place, self.settings["rules"], WRQ)
        return getattr(self.real, name)
