"""In which order tests are handed to workers that each take a stretch of them, and steal from its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

Item = TypeVar("Item")
HEAVY: Final = (("lab",), ("contract", "docs", "browser", "e2e"), ("web", "sim"))
"""Folders whose tests start servers and programs; those of one row never run side by side for long."""


def spread(items: Sequence[Item], workers: int, folder: Callable[[Item], str]) -> list[Item]:
    """The same items: the stretch of each worker begins with one row of `HEAVY`, and ends with light ones,
    which are what others steal.
    """
    heavy: list[list[Item]] = [[] for _ in range(workers)]
    light: list[Item] = []
    for item in items:
        row = next((n for n, folders in enumerate(HEAVY) if folder(item) in folders), None)
        (light if row is None else heavy[row % workers]).append(item)
    found: list[Item] = []
    left, taken = len(items), 0
    for number, own in enumerate(heavy):
        size = left // (workers - number)  # as the scheduler shares them out
        rest = max(0, size - len(own))
        found += own + light[taken : taken + rest]
        taken, left = taken + rest, left - size
    return found + light[taken:]
