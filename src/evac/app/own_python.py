"""How evac starts Python for parts of itself: never with modules from the current folder.

`python -m` and workers of `multiprocessing` look for modules in the current folder first, and that may be a
folder with an estate of unknown origin.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

OWN_PYTHON: Final = (sys.executable, "-P")
"""Followed by `-m` and a module."""

_SAFE: Final = "PYTHONSAFEPATH"


@contextmanager
def workers_start_safely() -> Iterator[None]:
    """While this is open, worker processes of `multiprocessing` start without the current folder. Only around
    the call that starts them: nothing may wait inside.
    """
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE]
        else:
            os.environ[_SAFE] = before
