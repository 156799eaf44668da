"""What an approval covers, and why it does not cover a plan. Pure.

A replan inside an approved envelope continues; one outside it asks again and says what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from evac.model.access import Proven
from evac.model.names import alike
from evac.model.records import dataclass
from evac.model.run_policy import Envelope


def outside(approved: Envelope, needed: Envelope) -> tuple[str, ...]:
    """One sentence for each required thing that is not covered; empty if all is covered."""
    reasons = [f"evacuates site {site}" for site in needed.sites if site not in approved.sites]
    reasons += [f"promotes store {store}" for store in needed.stores if store not in approved.stores]
    if needed.most_lost_ms > approved.most_lost_ms:
        most, allowed = (f"{one.most_lost_ms / 1_000:g} s" for one in (needed, approved))
        reasons.append(f"may lose {most} of data, but only {allowed} is approved")
    if needed.most_shed > approved.most_shed:
        reasons.append(
            f"sheds services of {needed.most_shed} people, but only {approved.most_shed} are approved"
        )
    return tuple(reasons)


def covers(approved: Envelope, needed: Envelope) -> bool:
    """Whether everything required is inside what was approved."""
    return not outside(approved, needed)


def to_data(envelope: Envelope) -> dict[str, Any]:
    """The envelope as plain values for an event; lists are sorted, so that it can be signed."""
    return {
        "sites": sorted(envelope.sites),
        "stores": sorted(envelope.stores),
        "most_lost_ms": envelope.most_lost_ms,
        "most_shed": envelope.most_shed,
    }


def from_data(data: Mapping[str, Any]) -> Envelope:
    """The inverse of `to_data`. A missing key means nothing is covered."""
    return Envelope(
        tuple(data.get("sites", ())),
        tuple(data.get("stores", ())),
        int(data.get("most_lost_ms", 0)),
        int(data.get("most_shed", 0)),
    )


@dataclass(slots=True)
class Approvals:
    """Who approved a run, and what they approved."""

    asked: bool = False
    """Whether the run ever waited for an approval."""
    given: dict[str, Envelope] = field(default_factory=dict)
    """Person -> what their approval covers."""
    proofs: dict[str, Proven] = field(default_factory=dict)
    """Person -> how they were proven."""
    counted: int = 0
    """People whose approval covers all that the present plan needs."""
    to_type: tuple[str, ...] = ()
    """Sites whose names must be typed before the run continues, because more than one is evacuated."""
    typed: set[str] = field(default_factory=set)
    """Names typed so far."""

    @property
    def untyped(self) -> tuple[str, ...]:
        """Sites whose names must still be typed: all of them, not only the new one."""
        return () if self.typed.issuperset(self.to_type) else self.to_type

    def count(self, needed: Envelope) -> None:
        """Counts again for the present plan. Names that look the same are one person."""
        self.counted = len({alike(who) for who, given in self.given.items() if covers(given, needed)})

    def fork(self) -> Approvals:
        return replace(self, given=self.given.copy(), proofs=self.proofs.copy(), typed=self.typed.copy())
