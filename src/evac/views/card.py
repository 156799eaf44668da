"""One figure of an answer, as a page shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """Its name, the value in large letters, a line below, and its state.

    state: error, warning, ok, unknown, or empty where the figure is neither good nor bad.
    """

    name: str
    value: str
    more: str = ""
    state: str = ""
