"""Watches a run that boots servers for feeds that trip and servers that do not come up.

A feed is watched by the servers that are up behind it. `drift` checks breakers that evac can query. Most
feeds have none, and a closed breaker has no power if the one above it is open. So every few seconds a server
that is up behind each feed is probed, a different one each time. If it is off or silent, several behind the
feed are probed, and again a moment later. The feed tripped if nearly all of them are gone, in more than one
rack where it has several: one silent rack is a switch failure. Where few servers are up, or all are in one
rack, some that are off are probed too: their controllers answer as long as there is power. Such an answer is
recorded while no server is up; otherwise a new leader would take a tripped feed for one whose network is not
up yet.

A server in a rack with several feeds goes dark only when all of them trip, so servers on a single feed are
preferred. If nothing behind any feed answers, the management network may be down instead: operators are
alerted at once, and the feeds count as tripped after a minute.

The load of a server that does not come up is started elsewhere. The run holds the steps that wait for it
(`RunSpec.mend_ms`) while the plan is repaired and replaced; completed steps stay. Where nothing can be
repaired, the run continues without it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Final

from evac.drivers.capabilities import BootsServers
from evac.drivers.port import Action, Driver, Order
from evac.drivers.registry import can
from evac.engine.runs.binding import Bound
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.reading import Leading
from evac.model.errors import Conflict, EvacError, RunError, StalePlan
from evac.model.records import dataclass
from evac.model.step_id import plan_id, power_step
from evac.run.boots.events import GONE, SEVERAL
from evac.run.boots.rules import is_waited_for
from evac.run.boots.silent_servers import is_unheard, tells
from evac.run.replan import KEPT
from evac.run.values import ENDED, SETTLED, Event, RunPhase, StepPhase
from evac.run.view import RunView
from evac.steps.registry import kind_of

MEND_LOOK_S: Final = 0.5
MEND_LOOK_LEAST_S: Final = 0.05
QUIET_PERMILLE: Final = 100
"""Part of the hold time: how long no other server may fail before the plan is repaired."""
LATEST_PERMILLE: Final = 500
"""Part of the hold time: after this the plan is repaired even while others still fail."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Servers that do not come up, and what is behind them."""

    failed: frozenset[str]
    """Servers that do not come up."""
    begun: frozenset[str]
    """Steps of the plan that are done or running."""

    @property
    def words(self) -> str:
        number = len(self.failed)
        return f"{number} server{'' if number == 1 else 's'} did not come up"


Mend = Callable[[str, Trouble], Awaitable[bytes | None]]
"""(digest of the current plan, what failed) -> the repaired plan; None if nothing can be moved."""


def trouble_of(view: RunView) -> Trouble | None:
    """What to repair; None unless a step that has not begun waits for a server that does not come up."""
    if not any(is_waited_for(view, i) for i in view.boots.given_up):
        return None
    out = {*view.boots.given_up, *view.boots.quarantined}
    failed = frozenset(view.steps[i].target for i in out if kind_of(view.steps[i].kind).boots)
    begun = frozenset(
        plan_id(s.id) for i, s in enumerate(view.steps) if view.phases[i] in KEPT and i not in out
    )
    return Trouble(failed, begun)


def is_due(view: RunView, now_ms: int) -> bool:
    """Whether it is time: servers that fail together are handled together."""
    waiting = [at_ms for i, at_ms in view.boots.given_up.items() if is_waited_for(view, i)]
    if not waiting:
        return False
    hold_ms = view.spec.mend_ms
    quiet = now_ms >= max(view.boots.given_up.values()) + hold_ms * QUIET_PERMILLE // 1_000
    return quiet or now_ms >= min(waiting) + hold_ms * LATEST_PERMILLE // 1_000


async def take_over_plan(execution: RunExecution, bound: Bound, trouble: Trouble) -> None:
    """Replaces the plan with the repaired one. A server that was given up meanwhile is not switched on again
    just because the new plan still has it. Raises RunError or StalePlan if the run has another plan by now,
    or has ended.
    """
    view, spec = execution.view, bound.spec
    before = view.plans[-1]
    view.specs[spec.plan] = spec
    data = {
        "plan": spec.plan,
        "why": trouble.words,
        "lost": list(view.replaced.accounted),
        "approvals": view.spec.approvals,
        "names": list(view.approvals.to_type),
        "given_up": "stays",
        **({"bound": bound.digest} if bound.digest else {}),
    }
    await execution.say(Event("plan_replaced", 0, data=data), fits=lambda now: now.plans[-1] == before)


class Mending:
    """Repairs the plan of one run until it ends. take: replaces the present plan with the repaired one."""

    def __init__(
        self,
        execution: RunExecution,
        mend: Mend,
        take: Callable[[bytes, Trouble], Awaitable[None]],
        tell: Callable[[str], None],
    ) -> None:
        self._execution, self._mend, self._take, self._tell = execution, mend, take, tell
        self._tried: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Runs until the run has ended or this is cancelled."""
        while (view := self._execution.view).phase not in ENDED:
            await asyncio.sleep(min(MEND_LOOK_S, max(MEND_LOOK_LEAST_S, view.spec.mend_ms / 10_000)))
            await self.look()

    async def look(self) -> bool:
        """Repairs the plan if due; returns whether it did. Never twice for the same servers."""
        view = self._execution.view
        if view.phase != "running" or not is_due(view, self._execution.now_ms()):
            return False
        trouble = trouble_of(view)
        if trouble is None or trouble.failed == self._tried:
            return False
        self._tried = trouble.failed
        try:
            data = await self._mend(view.plans[-1], trouble)
            if data is None:
                return False
            await self._take(data, trouble)
        except EvacError as error:  # the run goes on without these servers
            self._tell(f"{trouble.words}; the plan cannot be repaired: {error.message}")
            return False
        self._tell(f"{trouble.words}; the affected replicas start elsewhere")
        return True


LOOK_S: Final = 5.0
AGAIN_S: Final = 2.0
ASK_S: Final = 10.0
MORE_S: Final = 2.0
"""A driver should end by itself and say why; only one that does not is cut off."""
AT_ONCE: Final = 16
SAMPLE: Final = 8
"""Servers probed where one is gone."""
LEAST: Final = 2
"""Fewer prove nothing about their feed: one server alone may have died."""
ALL_MS: Final = 60_000
"""How long everything behind all feeds must be silent before that counts as loss of power."""
WATCHED: Final[frozenset[RunPhase]] = frozenset({"running", "paused", "awaiting_approval", "monitoring"})
NOBODY: Final = "no server behind any feed answers: all power or the network path to them is down"

UP: Final[StepPhase] = "succeeded"
_ASKED: Final[frozenset[StepPhase]] = frozenset({UP, "pending", "ready", "running", "unknown"})
"""Servers that did not come up are not probed: they may be dead. Where nothing has answered yet, their
network may be down instead.
"""

ActionsOf = Callable[[str], Sequence[Action]]
Asked = Mapping[int, bool]
"""Step of a server -> whether it is gone."""


def servers_behind(view: RunView, actions: ActionsOf) -> dict[str, list[int]]:
    """Feed -> boots of the servers that it is watched by: those on the fewest feeds, one of each rack, then a
    second of each. Servers without a controller cannot be probed.
    """
    fewest: dict[str, int] = {}
    found: dict[str, list[int]] = {}
    for i, step in enumerate(view.steps):
        if not kind_of(step.kind).boots or not step.feeds or not _reached(actions(step.id)):
            continue
        for feed in step.feeds:
            least = fewest.get(feed, len(step.feeds))
            if len(step.feeds) < least or feed not in fewest:
                fewest[feed], found[feed] = len(step.feeds), []
            if len(step.feeds) == fewest[feed]:
                found[feed].append(i)
    return {feed: _across_racks(view, mine) for feed, mine in sorted(found.items())}


def _reached(actions: Sequence[Action]) -> bool:
    return any(action.verb == "boot" and can(action.driver, BootsServers) for action in actions)


def _across_racks(view: RunView, mine: Sequence[int]) -> list[int]:
    """First one of each rack, then a second of each, and so on."""
    turn: dict[str, int] = {}
    keys = []
    for i in mine:
        rack = view.steps[i].rack
        turn[rack] = turn.get(rack, 0) + 1
        keys.append((turn[rack], i))
    return [i for _, i in sorted(keys)]


def unwatched(view: RunView, actions: ActionsOf) -> tuple[str, ...]:
    """Feeds that could trip unseen: no breaker and too few servers that evac can query."""
    behind = servers_behind(view, actions)
    feeds = {feed for step in view.steps if kind_of(step.kind).boots for feed in step.feeds}
    alone = [feed for feed in sorted(feeds) if len(behind.get(feed, ())) < LEAST]
    return tuple(feed for feed in alone if not _has_circuit(feed, actions))


def _has_circuit(feed: str, actions: ActionsOf) -> bool:
    return any("circuit" in one.parameters or "circuit" in one.settings for one in actions(power_step(feed)))


def _has_power(view: RunView, feed: str) -> bool:
    """Whether the run believes that it has power."""
    closing = view.index.get(power_step(feed), -1)
    return feed not in view.boots.tripped and (closing < 0 or view.phases[closing] in SETTLED)


def looks_tripped(view: RunView, mine: Sequence[int], asked: Asked) -> bool:
    """Whether this look shows that the feed behind these servers has no power."""
    gone = [i for i, is_gone in asked.items() if is_gone]
    if len(gone) < max(LEAST, min(SEVERAL, len(mine))) or 4 * len(gone) < 3 * len(asked):
        return False
    if len({view.steps[i].rack for i in gone}) > 1:
        return True
    return len({view.steps[i].rack for i in mine}) == 1


class FeedWatch:
    """Watches the feeds of one run until cancelled. tell: reports to operators."""

    def __init__(
        self,
        execution: RunExecution,
        actions: ActionsOf,
        driver: Callable[[str], Driver],
        leading: Leading,
        tell: Callable[[str], None],
    ) -> None:
        self._execution, self._actions, self._driver = execution, actions, driver
        self._leading, self._tell = leading, tell
        self._steps: object = None
        self._behind: dict[str, list[int]] = {}
        self._turns: dict[str, int] = {}
        self._suspects: dict[str, list[int]] = {}
        self._alive: set[str] = set()
        self._answered: set[int] = set()
        self._nobody_since = -1
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Runs until cancelled. First reports feeds that cannot be watched."""
        if blind := unwatched(self._execution.view, self._actions):
            names = ", ".join(blind[:5]) + (f" and {len(blind) - 5} more" if len(blind) > 5 else "")
            self._tell(
                f"no one would notice if {names} tripped: it has no known circuit, "
                f"and fewer than {LEAST} servers "
                "behind it can be queried"
            )
        while True:
            await asyncio.sleep(await self.turn())

    async def turn(self) -> float:
        """Looks at every feed once. Returns the seconds until the next look."""
        view = self._execution.view
        if view.phase not in WATCHED:
            return LOOK_S
        steps = view.steps
        if steps is not self._steps:
            self._steps, self._behind, self._suspects = steps, servers_behind(view, self._actions), {}
            self._answered.clear()
        self._alive -= view.boots.tripped.keys()
        feeds = [feed for feed in self._behind if _has_power(view, feed)]
        found = await asyncio.gather(*(self._look(view, feed) for feed in feeds))
        view = self._execution.view
        if view.steps is steps:  # the step numbers would be stale
            looks = dict(zip(feeds, found, strict=True))
            await self._judge(view, looks)
            if self._execution.view.steps is steps:
                await self._note(looks)
        return AGAIN_S if self._suspects else LOOK_S

    async def _look(self, view: RunView, feed: str) -> Asked:
        """Probes one server; more if it is gone and the feed had power before."""
        asked = [i for i in self._suspects.get(feed, ()) if view.phases[i] in _ASKED]
        if not asked:
            asked = self._sample(view, feed)
            if not asked or not await self._is_gone(view, asked[0]):
                return dict.fromkeys(asked[:1], False)
            if not (feed in self._alive or feed in view.boots.powered or view.phases[asked[0]] == UP):
                return {asked[0]: True}
        gone = await asyncio.gather(*(self._is_gone(view, i) for i in asked))
        return dict(zip(asked, gone, strict=True))

    def _sample(self, view: RunView, feed: str) -> list[int]:
        """Servers that are up behind the feed, different ones each time. Where few are up, or all are in one
        rack, servers that are off as well: their controllers answer as long as there is power. Booting ones
        come first, because they answered a moment ago if they have power.
        """
        mine, phases = self._behind[feed], view.phases
        begin = self._turns.get(feed, 0) % len(mine)
        self._turns[feed] = begin + 1
        around = [*mine[begin:], *mine[:begin]]
        up = list(islice((i for i in around if phases[i] == UP), SAMPLE))
        racks = {view.steps[i].rack for i in up}
        if len(up) >= SEVERAL and len(racks) > 1:
            return up
        rest = [i for i in around if phases[i] != UP and (phases[i] in _ASKED or is_unheard(view, i))]
        rest.sort(key=lambda i: (view.steps[i].rack in racks, phases[i] != "running"))
        return [*up, *rest[:SAMPLE]]

    async def _is_gone(self, view: RunView, i: int) -> bool:
        """Silent, or off though it was up. A server that answers has power, whatever else is wrong with
        it.
        """
        step, attempt, was_up = view.steps[i], view.attempts[i], view.phases[i] == UP
        self._answered.discard(i)
        for action in self._actions(step.id):
            if action.verb != "boot" or not can(action.driver, BootsServers):
                continue
            order = Order(
                view.spec.run,
                step.id,
                attempt,
                self._leading.token,
                0,
                "its feed is watched",
                ASK_S,
                f"{view.spec.run}/{step.id}/feed",
            )
            try:
                async with self._at_once, asyncio.timeout(ASK_S + MORE_S):
                    seen = await self._driver(action.driver).observe(action, order)
            except (EvacError, TimeoutError, OSError):
                return False
            code = str(seen.evidence.get("code", ""))
            if seen.outcome != "unclear" or not code or tells(code):
                self._answered.add(i)
            return (was_up and seen.outcome == "absent") or seen.evidence.get("code") in GONE
        return False

    async def _judge(self, view: RunView, looks: Mapping[str, Asked]) -> None:
        """Believes two consecutive looks at a feed; believes a loss of all feeds only after a while."""
        before = self._suspects
        answers = [feed for feed, asked in looks.items() if not all(asked.values())]
        self._alive.update(answers)
        self._suspects = {
            feed: list(asked)
            for feed, asked in looks.items()
            if feed not in view.boots.tripped and looks_tripped(view, self._behind[feed], asked)
        }
        certain = [feed for feed in self._suspects if feed in before]
        if not answers and sum(1 for asked in looks.values() if asked) > 1:
            if not self._are_certain(certain):
                return
        elif self._nobody_since >= 0:  # the first that answers again: the others have their chance as well
            self._nobody_since = -1
            return
        for feed in certain:
            asked = looks[feed]
            await self._trip(view, feed, [i for i, is_gone in asked.items() if is_gone], len(asked))

    async def _note(self, looks: Mapping[str, Asked]) -> None:
        """Records behind which feeds something answers while no server that is up shows it."""
        view = self._execution.view
        new = [
            feed
            for feed, asked in looks.items()
            if not self._answered.isdisjoint(asked)
            and not (feed in view.boots.powered or feed in view.boots.tripped)
            and not any(view.phases[i] == UP for i in asked)
        ]
        if new:
            event = Event("feeds_seen", 0, data={"feeds": new})
            await self._say(view, event, lambda now: now.boots.tripped.keys().isdisjoint(new))

    def _are_certain(self, certain: Sequence[str]) -> bool:
        """When nothing behind several feeds answers: whether that has lasted long enough."""
        now_ms = self._execution.now_ms()
        if self._nobody_since < 0 and certain:
            self._nobody_since = now_ms
            self._tell(f"{NOBODY}; nothing is rolled back for {ALL_MS // 1_000} s")
        return self._nobody_since >= 0 and now_ms - self._nobody_since >= ALL_MS

    async def _trip(self, view: RunView, feed: str, gone: Sequence[int], asked: int) -> None:
        names = ", ".join(view.steps[i].target for i in gone[:SEVERAL])
        why = f"{len(gone)} of {asked} servers queried behind it went silent or lost power together"
        data = {"feed": feed, "why": why, "open": False, "evidence": {"servers": names}}
        await self._say(view, Event("feed_tripped", 0, data=data), lambda now: feed not in now.boots.tripped)
        self._suspects.pop(feed, None)

    async def _say(self, view: RunView, event: Event, fits: Callable[[RunView], bool]) -> None:
        """Writes an event; if that fails, the next look finds the same again if it still holds."""
        steps = view.steps
        with contextlib.suppress(RunError, StalePlan, Conflict):
            await self._execution.say(event, fits=lambda now: now.steps is steps and fits(now))
