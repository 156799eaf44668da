"""What runs are conducted with: store, clock, policies, guards, planner, drivers, all of it given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from evac.drivers.port import Driver
from evac.engine.boots.replan import Mend
from evac.engine.clock import Clock
from evac.engine.lead.policies import Policies
from evac.engine.lead.watch_journal import Tell
from evac.engine.runs import requests
from evac.engine.runs.binding import Bound
from evac.engine.runs.live_actions import Standing
from evac.engine.runs.pace_gate import HealthOf
from evac.engine.stores.datasets import DataSets
from evac.engine.stores.guards import Guards
from evac.engine.stores.sightings import Loss, as_known, up_to_date
from evac.model.run_policy import RunPolicy
from evac.run.view import RunView
from evac.store.port import Store


@dataclass(frozen=True, slots=True)
class Desk:
    """Of one controller."""

    store: Store
    clock: Clock
    policies: Policies
    """The one in use, and those of open runs."""
    owner: str
    guards: Guards
    sets: DataSets
    accept: Callable[[bytes], Awaitable[None]]
    """Raises UnsafePlan for the bytes of a plan that the checker refuses."""
    bind: Callable[[bytes, str, str, str], Awaitable[Bound]]
    """Plan bytes, run, incident and digest to the steps of a new run, or of a new plan of one, and their
    actions. What the store holds under that name is not believed but written over."""
    driver: Callable[[str], Driver]
    tell: Tell
    bound: Callable[[bytes, str, str, str], Awaitable[Bound]] | None = None
    """The same of a plan that a run has already: as it was bound then. None: as `bind` says."""
    standing: Callable[[str], Standing | None] = lambda store: None
    """Facts of a store that were checked while all was well."""
    loss: Callable[[Loss, int, int], Loss] = as_known
    """Of a promotion as it was known, when its fence was complete, and how long ago that was, to what is
    seen now."""
    behind: Callable[[Collection[str]], Awaitable[bool]] = up_to_date
    """Whether a store got its primary at one of these sites, and plans do not know it yet."""
    check: Callable[[RunView, requests.Request], None] = lambda view, request: None
    """Raises NotAllowed for what a person may not request (signatures, approvers)."""
    drift_ms: int = 1_800_000
    """How long what was done is watched."""
    drift_period_ms: int = 5_000
    boundary: Callable[[int], None] | None = None
    health: HealthOf | None = None
    """Of traffic that is moved in shares; None: shares follow each other by time alone."""
    mend: Mend | None = None
    """The plan of a run whose servers do not come up; None: the run goes on without them."""

    async def as_bound(self, data: bytes, run: str, incident: str, digest: str) -> Bound:
        """What the run does by a plan that it has already. Raises Corrupt."""
        return await (self.bound or self.bind)(data, run, incident, digest)

    @property
    def policy(self) -> RunPolicy:
        """The one in use."""
        return self.policies.now
