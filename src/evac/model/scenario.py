"""The question that a plan answers, and what a company allows the plan to do. What it allows a run to do
is in `run_policy`.
"""

from __future__ import annotations

from typing import Literal

from evac.model.records import dataclass

ScenarioKind = Literal["lose", "evacuate", "restore", "failback"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`domains` are paths of fault domains, sorted. `deadline_ms`: only for an evacuation. power: (site,
    hall, feed or rack, watts it provides now), sorted: where the utility or the cooling provides less
    than the estate states. on: servers of a restored domain that were seen on, sorted: they are not
    booted again.
    """

    kind: ScenarioKind
    domains: tuple[str, ...]
    deadline_ms: int | None = None
    power: tuple[tuple[str, int], ...] = ()
    on: tuple[str, ...] = ()
    moments: tuple[tuple[str, int], ...] = ()
    """(store, seconds since 1970), sorted: lost stores that are restored to a point in time, from backups
    only. Everything written after it is lost; naming the point in time accepts that.
    """
    asked_s: int = 0
    """When those points in time were requested, in seconds since 1970: the data loss counts up to then."""

    def is_outlasted(self, horizon_ms: int) -> bool:
        """Whether what moves still works where it leaves until a plan ends: until its replacement serves."""
        late = self.kind == "evacuate" and (self.deadline_ms or 0) >= horizon_ms
        return late or self.kind == "failback"

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
    """waivers: stores that may be promoted beyond their rpo; tier_weights: None uses the estate's.
    passed_over: services that a plan could not restore, so that it relies on an alternative instead.
    """

    waivers: tuple[str, ...] = ()
    tier_weights: tuple[int, ...] | None = None
    fence_rung: str = "isolate"
    passed_over: tuple[str, ...] = ()


def lose(*domains: str) -> Scenario:
    """The sudden loss of one or more fault domains at once."""
    return Scenario("lose", tuple(sorted(set(domains))))
