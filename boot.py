"""On the board, first: bring the network up. No server code."""

import link
import settings

link.join(settings.load())
