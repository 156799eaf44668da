"""The question that a plan answers, and what a company allows the plan to do. What it allows a run to do is
`run_policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScenarioKind = Literal["lose", "evacuate", "restore", "failback"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`domains` are paths of fault domains, sorted. `deadline_ms` only for an evacuation. power: (site, hall,
    feed or rack, watts it gives now), sorted: where utility or cooling give less than the estate says. on:
    servers of a domain that is restored which were seen on, sorted: nobody boots them again.
    """

    kind: ScenarioKind
    domains: tuple[str, ...]
    deadline_ms: int | None = None
    power: tuple[tuple[str, int], ...] = ()
    on: tuple[str, ...] = ()
    moments: tuple[tuple[str, int], ...] = ()
    """(store, seconds since 1970), sorted: stores that are lost and return to a moment, from backups only.
    What was written after it is lost, and naming the moment agrees to that.
    """
    asked_s: int = 0
    """When those moments were asked for, in seconds since 1970: how much they lose is counted up to then."""

    @property
    def title(self) -> str:
        verb = {
            "lose": "loss of",
            "evacuate": "evacuation of",
            "restore": "restoring",
            "failback": "failback to",
        }
        return f"{verb[self.kind]} {', '.join(self.domains)}"


@dataclass(frozen=True, slots=True)
class Policy:
    """waivers: stores that may be promoted beyond their rpo; tier_weights: None takes the estate's.

    passed_over: services that a plan found no way back for, so that an alternative is counted on instead.
    """

    waivers: tuple[str, ...] = ()
    tier_weights: tuple[int, ...] | None = None
    fence_rung: str = "isolate"
    passed_over: tuple[str, ...] = ()


def lose(*domains: str) -> Scenario:
    """The sudden loss of one or more fault domains at once."""
    return Scenario("lose", tuple(sorted(set(domains))))
