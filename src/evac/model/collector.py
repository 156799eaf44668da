"""The search for cyclic garbage, kept at rest while many values that all live on are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SELDOM: Final = 20_000
"""New containers, less those that went, after which the youngest are searched; Python's own number is 700."""


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


def collect_seldom() -> None:
    """From now on cyclic garbage is searched for more rarely in this process.

    Whoever talks with tens of thousands of servers makes and drops tasks, timers and answers without an end,
    hardly any of them in a circle; to search them after every 700 takes a tenth of all work.
    """
    youngest, middle, oldest = gc.get_threshold()
    if 0 < youngest < SELDOM:
        gc.set_threshold(SELDOM, middle, oldest)
