"""How many of the facts that verdicts depend on are known, and which are most worth adding."""

from __future__ import annotations

from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class MissingFact:
    """A group of facts that no one stated: where, what, why they matter, how many.

    `path`: the fact path if only one is missing, else a pattern such as `services/*/rto`. `verdicts`: how
    many depend on them, each on one service and the loss of one site. `names`: what to begin with, most
    important first; none for facts of servers and of the whole estate.
    """

    path: str
    what: str
    why: str
    count: int
    verdicts: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """`score_permille` of the total weight is known; `missing` are the groups most worth adding, and
    `left_out` is how many more groups there are.
    """

    score_permille: int
    missing: tuple[MissingFact, ...]
    left_out: int = 0
