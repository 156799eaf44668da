"""No plan is carried out that the checker refuses, wherever it comes from: a file, the API, the drawer.

The checker looks twice at what people bring, and once more at every plan of the drawer when it is made
(`app.planning_desk`); every controller judges the plan for the loss of each site ahead of it. `must_hold`
is asked by whoever rehearses or proposes a plan, beside the estate as it stands, so that a person hears of it
at once. `Checker` is asked by the leader, whoever proposed, before a run is made of a plan or a run takes
another one: nothing is journalled before, and nothing gets round it.

The checker knows plans for a loss, an evacuation, a restore and a failback. It does not know two others, and
they do not come from people: the one step that lets a store commit again (`engine.protecting`), and a plan
that was mended for servers that did not come up, while its run goes on (`planning.repair`): it keeps what was
done, and no longer does what the plan says of its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final, Protocol

from evac.engine.plans.library import Ready, digest_of
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.stalled_commits import is_protection
from evac.estate.codecs import plan as plan_codec
from evac.model.collector import collector_at_rest
from evac.model.errors import EvacError, StalePlan, UnsafePlan
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.store.port import Store
from evac.verify import Verdict, check

WRONG: Final = "plan-wrong"
KEPT: Final = 64
LOOK_S: Final = 2.0


@lru_cache(maxsize=4)
def decoded(data: bytes) -> Plan:
    """A plan is read several times in the seconds in which a run is made of it."""
    return plan_codec.decode(data)


def why_not(verdict: Verdict) -> str:
    """The first violation, and how many more there are; empty if the plan holds."""
    if verdict.holds:
        return ""
    first, more = verdict.violations[0], len(verdict.violations) - 1
    return f"{first.rule} {first.subject}: {first.message}" + (f", and {more} more" if more else "")


def must_hold(estate: Estate, plan: Plan) -> None:
    """Raises UnsafePlan for a plan that the checker refuses, and for one that it cannot judge: a guard that
    cannot be evaluated is closed. On 90,000 servers this takes a core for two seconds, for a restore four.
    """
    try:
        with collector_at_rest():
            words = why_not(check(estate, plan))
    except EvacError as error:
        raise refused(error.message) from error
    except Exception as error:
        raise refused(f"it cannot be checked ({type(error).__name__})") from error
    if words:
        raise refused(words)


def refused(words: str) -> UnsafePlan:
    """words: of the checker."""
    return unsafe(f"the checker does not accept this plan: {words}")


def unsafe(words: str) -> UnsafePlan:
    """As whoever asked for it hears it, here or through a leader."""
    return UnsafePlan(
        WRONG, words, "evac verify PLAN ESTATE shows every violation; evac plan makes a new plan"
    )


class Checker:
    """The leader's. seen: the estate as it stands now, and its digest. A plan is checked once for an estate,
    on a thread: the loop of a leader must not miss a heartbeat.
    """

    def __init__(self, seen: Callable[[], tuple[Estate, str]]) -> None:
        self._seen = seen
        self._accepted: deque[tuple[str, str]] = deque(maxlen=KEPT)

    async def accept(self, data: bytes) -> None:
        """Raises UnsafePlan for a plan that the checker refuses, StalePlan for one of another estate."""
        if is_protection(data):
            return
        plan = await asyncio.to_thread(digest_of, data)
        estate, digest = self._seen()
        known = (digest, plan)
        if known not in self._accepted:
            await asyncio.to_thread(_accept, data, estate, digest)
            self._accepted.append(known)

    def knows(self, plan: str) -> bool:
        """Whether the plan with this digest was accepted for the estate as it stands now."""
        return (self._seen()[1], plan) in self._accepted


class LyingReady(Protocol):
    """The drawer, as far as it is asked here."""

    async def look(self, lost: Sequence[str]) -> Ready | None: ...
    async def take(self, lost: Sequence[str]) -> tuple[Ready, bytes] | None: ...


class Forethought:
    """Of every controller, as each may lead at the loss: judges the plan for the loss of each site once it
    lies ready, so that no loss waits for the checker. What an open run does comes first; a plan that was
    refused is judged again at the loss.
    """

    def __init__(
        self,
        store: Store,
        drawer: LyingReady,
        checker: Checker,
        sites: Sequence[str],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store, self._drawer, self._checker = store, drawer, checker
        self._sites, self._pause = sites, pause
        self._tried: deque[tuple[str, str]] = deque(maxlen=KEPT)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(EvacError):  # a store that is away; whoever needs it says so
                await self.look()
            await self._pause(LOOK_S)

    async def look(self) -> None:
        """Raises Unavailable."""
        for site in self._sites:
            ready = await self._drawer.look((site,))
            if ready is None or not ready.plan or self._checker.knows(ready.plan):
                continue
            tried = (ready.estate, ready.plan)
            if tried in self._tried:
                continue
            if await self._store.list(OPEN, limit=1):
                return
            if (found := await self._drawer.take((site,))) is None:
                continue
            self._tried.append(tried)
            with contextlib.suppress(UnsafePlan, StalePlan):
                await self._checker.accept(found[1])


def _accept(data: bytes, estate: Estate, digest: str) -> None:
    plan = decoded(data)
    must_fit(plan, digest)
    must_hold(estate, plan)


def must_fit(plan: Plan, estate: str) -> None:
    """Raises StalePlan unless the plan is of the estate with this digest."""
    if plan.estate_digest != estate:
        raise StalePlan(
            "plan-stale",
            "the plan was made from another estate",
            "make a new plan with evac plan, and apply it",
        )
