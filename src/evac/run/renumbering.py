"""Step numbers after another plan has renumbered the steps. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

_Fact = TypeVar("_Fact")
Renumber = Callable[[int], int | None]
"""The new number of a step; None if nothing about it is kept."""


def renumbered(steps: Iterable[int], number_of: Renumber) -> set[int]:
    return {j for i in steps if (j := number_of(i)) is not None}


def renumbered_facts(facts: Mapping[int, _Fact], number_of: Renumber) -> dict[int, _Fact]:
    """In the same order."""
    return {j: fact for i, fact in facts.items() if (j := number_of(i)) is not None}
