"""Dependencies of runs (store, clock, policies, guards, planner, drivers), and the gate before each further
share of traffic, which opens once the moved share is seen to be healthy.

A share begins only after a health check right before it; a new leader knows nothing and looks first. When too
much fails, traffic is rolled back share by share and a person is asked; a store is never rolled back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from evac.drivers.port import Action, Driver
from evac.engine.boots.feed_watch import Mend
from evac.engine.clock import Clock
from evac.engine.lead.policies import Policies
from evac.engine.lead.watch_journal import Tell
from evac.engine.runs import requests
from evac.engine.runs.binding import Bound
from evac.engine.runs.live_actions import Standing
from evac.engine.stores.datasets import DataSets
from evac.engine.stores.guards import Guards
from evac.engine.stores.sightings import up_to_date
from evac.model.access import Proven
from evac.model.errors import Retryable, RunError, StalePlan
from evac.model.observation import LeavingSite
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.run.data_loss import Loss, as_known
from evac.run.pacing import Health, Judgement, judge
from evac.run.patience import deadline_ms
from evac.run.values import Event, RunStep
from evac.run.view import RunView
from evac.store.port import Store

HealthOf = Callable[[str, str], Awaitable[Health | None]]
"""(service, site) -> what was seen of it there since the last look; None if unknown."""

UNSEEN_MOST: Final = 10
"""How many looks may see too little before a person is asked."""
POLL_S: Final = 0.05
LEAST_WAIT_MS: Final = 200
AGAIN_S: Final = 0.2


class PaceGate:
    """The gate of one run. view: its present state. say: writes an event. A first share has no gate."""

    def __init__(
        self,
        view: Callable[[], RunView],
        actions: Callable[[str], Sequence[Action]],
        health: HealthOf,
        say: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._view, self._actions, self._health, self._say = view, actions, health, say
        self._seen: dict[str, Health] = {}
        self._unseen: dict[str, int] = {}
        self._wait_ms: dict[str, int] = {}

    async def __call__(self, step: RunStep) -> None:
        """Raises Retryable unless the next share may begin now."""
        view = self._view()
        if not step.paced or not self._moved(view, step.target):
            return
        pace = view.spec.pace
        wait_ms = self._wait_ms.get(step.target, max(pace.wait_ms, LEAST_WAIT_MS))
        found = judge(pace, wait_ms, await self._look(step))
        if found.verdict == "wait":
            found = self._still_unseen(step, found)
        else:
            self._forget(step.target)
        if found.verdict == "go":
            self._wait_ms.pop(step.target, None)
            return
        self._wait_ms[step.target] = max(found.wait_ms, LEAST_WAIT_MS)
        if found.verdict == "stop":
            await self._stop(step, found)
        raise Retryable("paced", found.why, "it continues once that is resolved", self._wait_ms[step.target])

    async def _look(self, step: RunStep) -> Health:
        """What was seen since the last share and not judged yet."""
        where = {str(action.parameters.get("to", "")) for action in self._actions(step.id)}
        before = self._seen.get(step.target, Health(0, 0))
        requests, errors = before.requests, before.errors
        for site in sorted(where - {""}):
            seen = await self._health(step.target, site)
            if seen is not None:
                requests, errors = requests + seen.requests, errors + seen.errors
        self._seen[step.target] = Health(requests, errors)
        return self._seen[step.target]

    def _still_unseen(self, step: RunStep, found: Judgement) -> Judgement:
        """Keeps waiting, for a limited time."""
        times = self._unseen[step.target] = self._unseen.get(step.target, 0) + 1
        if times < UNSEEN_MOST:
            return found
        self._forget(step.target)
        return Judgement("stop", found.wait_ms, False, found.why)

    def _forget(self, target: str) -> None:
        self._seen.pop(target, None)
        self._unseen.pop(target, None)

    async def _stop(self, step: RunStep, found: Judgement) -> None:
        """Stops further shares and rolls back what is safe to undo, last share first."""
        data = {"share": 0, "wait_ms": found.wait_ms, "why": f"{step.target}: {found.why}"}
        await self._say(Event("pace_changed", 0, data=data))
        if not found.undo:
            return
        for name in reversed(self._moved(self._view(), step.target)):
            told = {"who": "evac", "reason": found.why}
            await self._say(Event("undo_asked", 0, name, 0, told))
            await self._until_back(name)

    async def _until_back(self, name: str) -> None:
        """Bounded: an undo that hangs must become visible to people."""
        view = self._view()
        limit_ms = 2 * deadline_ms(view.spec.patience, view.steps[view.number(name)])
        try:
            async with asyncio.timeout(limit_ms / 1_000):
                while self._phase(name) == "undoing" or self._wanted(name):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return

    def _phase(self, name: str) -> str:
        view = self._view()
        return view.phases[view.index[name]] if name in view.index else ""

    def _wanted(self, name: str) -> bool:
        view = self._view()
        return name in view.index and view.index[name] in view.undo.wanted

    def _moved(self, view: RunView, target: str) -> list[str]:
        """Shares of a service that were moved and not undone, in order."""
        return [
            step.id
            for i, step in enumerate(view.steps)
            if step.paced and step.target == target and view.phases[i] == "succeeded"
        ]


async def go_on(view: RunView, who: str, say: Callable[[Event], Awaitable[None]]) -> None:
    """A person resumed what health had stopped: further shares may begin, and rolled-back ones move again."""
    data = {"share": 1, "wait_ms": view.spec.pace.wait_ms, "why": f"resumed by {who}"}
    back = [step.id for i, step in enumerate(view.steps) if step.paced and view.phases[i] == "undone"]
    with contextlib.suppress(RunError):  # what is not allowed any more was decided otherwise meanwhile
        await say(Event("pace_changed", 0, data=data))
        for name in back:
            told = {"who": who, "reason": "traffic pacing resumed"}
            await say(Event("step_retried", 0, name, view.attempts[view.number(name)], told))


async def nothing_kept(run: str) -> None:
    """No journal heads are kept elsewhere."""


ActionsOf = Callable[[str], Sequence[Action]]
"""Step of a run -> its actions."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Dependencies of one controller."""

    store: Store
    clock: Clock
    policies: Policies
    """The policy in use, and those of open runs."""
    owner: str
    guards: Guards
    sets: DataSets
    accept: Callable[[bytes], Awaitable[None]]
    """Raises UnsafePlan if the checker refuses the plan bytes."""
    bind: Callable[[bytes, str, str, str], Awaitable[Bound]]
    """Plan bytes, run, incident and digest -> steps and actions of a new run, or of a run's new plan.
    Anything stored under that name is not trusted but overwritten.
    """
    driver: Callable[[str], Driver]
    tell: Tell
    bound: Callable[[bytes, str, str, str], Awaitable[Bound]] | None = None
    """The same for a plan that a run already has: as it was bound then. None: use `bind`."""
    standing: Callable[[str], Standing | None] = lambda store: None
    """Facts of a store checked while all was well."""
    loss: Callable[[Loss, int, int], Loss] = as_known
    """A promotion's loss as known, when its fence was complete, and how long ago that was -> the loss as seen
    now.
    """
    behind: Callable[[Collection[str]], Awaitable[bool]] = up_to_date
    """Whether a store got its primary at one of these sites without plans knowing it yet."""
    unsure: Callable[[int, Collection[str]], bool] = lambda since_ms, gone: False
    """Whether the last observation of the systems began before then, by the monotonic clock, or got no answer
    from a place that is not gone. Then the next one is due at once.
    """
    check: Callable[[RunView, requests.Request, int], Proven] = lambda view, request, now_ms: Proven()
    """How the person of a request was proven. Raises NotAllowed if this person may not request it."""
    learn: Callable[[str, requests.Request], Awaitable[requests.Request]] | None = None
    """Reads what `check` needs to know about a request (`RequestTerms.learn`)."""
    gone: Callable[[RunView], Collection[str]] = lambda view: ()
    """Approvers of a run who may no longer approve it."""
    vouched: Callable[[str, requests.Request], Awaitable[Proven]] | None = None
    """Like `check`, for a run that has ended."""
    proven: Callable[[requests.Request], Awaitable[Proven]] | None = None
    """Like `check`, for a run not created yet."""
    effects: Callable[[RunView, ActionsOf], Awaitable[bytes | None]] | None = None
    """What an ended run left behind, as it is stored; None without a plan of an estate."""
    look: Callable[[Sequence[str]], Awaitable[Sequence[LeavingSite]]] | None = None
    """What is observed of sites that a person wants to leave as lost; None: no observation available."""
    obeyed: Callable[[str], int] = lambda store: 0
    """The highest epoch that members of a store obeyed."""
    commits_wait: Callable[[str, Collection[str]], str] = lambda store, sites: ""
    """Why commits of a store may still wait for its copies at these sites, as last observed; empty if they do
    not.
    """
    compare: Callable[[str], Awaitable[None]] = nothing_kept
    """Stops everything if heads kept elsewhere contradict the journal of a run. Raises Unavailable."""
    drift_ms: int = 1_800_000
    """How long completed actions are watched."""
    drift_period_ms: int = 5_000
    boundary: Callable[[int], None] | None = None
    health: HealthOf | None = None
    """Health of traffic moved in shares; None: shares are paced by time only."""
    mend: Mend | None = None
    """Repairs the plan of a run whose servers do not come up; None: the run continues without them."""

    async def as_bound(self, data: bytes, run: str, incident: str, digest: str) -> Bound:
        """What the run does by a plan that it already has. Raises Corrupt."""
        return await (self.bound or self.bind)(data, run, incident, digest)

    async def look_first(self, lost: Collection[str], within_ms: int = 0) -> None:
        """Raises StalePlan if the plan may not cover what an ended run moved, or takes another site for the
        primary of a burnt store. within_ms: how long to wait for the next look, which does cover it.
        """
        until_ms = self.clock.monotonic_ms() + within_ms
        while await self.behind(lost):
            if self.clock.monotonic_ms() < until_ms:
                await asyncio.sleep(AGAIN_S)
                continue
            raise StalePlan(
                "plan-stale",
                "a run ended or a store changed since the systems were last observed",
                "make a new plan in a few seconds: evac plan",
            )

    async def accept_in_time(self, plan: bytes, gone: Collection[str], within_ms: int) -> None:
        """Has the plan checked. It may have been made after the last observation, or with answers that this
        one did not get in time: the systems are then observed again before it is refused as stale. What did
        not answer has not changed. gone: places that the plan takes for lost, which need not answer.
        within_ms: how long to look.
        """
        since_ms = self.clock.monotonic_ms()
        while True:
            try:
                return await self.accept(plan)
            except StalePlan:
                is_over = self.clock.monotonic_ms() - since_ms >= within_ms
                if is_over or not self.unsure(since_ms, gone):
                    raise
            await asyncio.sleep(AGAIN_S)

    @property
    def policy(self) -> RunPolicy:
        """The policy in use."""
        return self.policies.now
