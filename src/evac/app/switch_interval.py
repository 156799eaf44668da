"""How long a thread keeps the interpreter while the loop of its process waits for it."""

from __future__ import annotations

import sys
from typing import Final

SWITCH_S: Final = 0.000_5
"""A tenth of Python's own. A loop that talks with other systems waits for it once after every answer, so
that a few round trips took it tens of milliseconds while a plan was judged; no thread was measurably slower.
"""


def give_way() -> None:
    """From now on threads that judge, bind, replay or forecast give way to the loop after `SWITCH_S`."""
    sys.setswitchinterval(SWITCH_S)
