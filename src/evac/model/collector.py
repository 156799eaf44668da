"""The search for cyclic garbage, kept at rest while many values that all live on are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No search for cyclic garbage meanwhile.

    A plan or a report is a hundred thousand values that all live on and point at each other in no
    circle; the collector would look through them again and again, and find nothing.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
