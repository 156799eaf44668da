"""Elect: the surviving members of a store elect a primary by themselves."""

from __future__ import annotations

from typing import Final

from evac.model.estate import Store
from evac.steps.kind import Colour, Entry, PeopleTimes, Uncertainty
from evac.steps.promote import Promote

ELECTION_MS: Final = 30_000
"""Duration of an election if the estate does not state it."""


class Elect(Promote):
    name = "elect"
    title = "wait for the store to elect a new primary"
    work = "wait for elections"
    sentence = "wait for {target} to elect a primary{where}"
    entry = Entry("elected", "{target} elected a new primary{where}", "main")
    tools = ()
    precheck = "a majority of its voters is up"
    undo = "none: a store that moved stays where it is"
    needs = frozenset()
    condition = None
    planner_code = -1
    bound_code = -1
    is_audited = False
    uncertainty = Uncertainty(0.35, 0.15, 0.0)
    performed_by = None
    is_awaited = True
    makes_primary = False
    claims_epoch = False

    @property
    def colour(self) -> Colour:
        """As a promotion: commits go on afterwards."""
        return "promote"

    def way_ms(self, store: Store, people: PeopleTimes) -> int | None:
        return ELECTION_MS if store.elect_ms is None else store.elect_ms

    def approval(self, target: str, loss: str | None) -> str:
        """Needs no approval."""
        return ""
