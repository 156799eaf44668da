"""The safety check of plans: no plan runs unless the checker accepts it, whether from a file, the API or the
library.

Plans from people are checked twice. Standby plans are checked once more when they are made
(`app.planning_desk`), and every controller checks the standby plan for the loss of each site in advance.
Callers that rehearse or propose a plan use `must_hold` on the current estate, so that people hear of a
problem at once. Before a run is created from a plan, or changes to another plan, the leader uses `Checker`
for every proposal: nothing is journalled earlier, and nothing bypasses it.

The checker knows plans for a loss, an evacuation, a restore and a failback. It does not know two others,
which do not come from people: the single step that lets a store commit again (`engine.protecting`), and a
plan repaired during its run for servers that did not come up (`planning.repair`), which keeps what was done
and no longer meets the plan's own statements about its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, Protocol

from evac.derive.situation import of
from evac.engine.plans.library import Ready, digest_of
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.stalled_commits import is_protection
from evac.estate.codecs import plan as plan_codec
from evac.model.collector import collector_at_rest
from evac.model.digest import estate_digest
from evac.model.errors import EvacError, StalePlan, UnsafePlan
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.store.port import Store
from evac.verify import Verdict, check
from evac.verify.waiting import check_waiting
from evac.views.situation_view import differences, stale_words

MadeOf = tuple[Estate, Observation]
"""What an estate as it is now was made of: the declared one, and what was observed."""
WRONG: Final = "plan-wrong"
KEPT: Final = 64
LOOK_S: Final = 2.0


@lru_cache(maxsize=4)
def decoded(data: bytes) -> Plan:
    """Decode a plan. Cached, because a plan is read several times within the seconds in which a run is made
    of it.
    """
    return plan_codec.decode(data)


def why_not(verdict: Verdict) -> str:
    """The first violation, and how many more there are; empty if the plan is valid."""
    if verdict.holds:
        return ""
    first, more = verdict.violations[0], len(verdict.violations) - 1
    return f"{first.rule} {first.subject}: {first.message}" + (f", and {more} more" if more else "")


def must_hold(estate: Estate, plan: Plan, made_of: MadeOf | None = None) -> None:
    """Check a plan, and the estate that it is for. made_of: what that was made of, if it is not as declared.
    Raises UnsafePlan if the checker refuses it or cannot evaluate it: guards fail closed. With 90,000 servers
    this takes one core 2 s, and 4 s for a restore.
    """
    try:
        with collector_at_rest():
            verdict = check(estate, plan)
            if made_of is not None:
                wrong = check_waiting(*made_of, estate)
                verdict = replace(verdict, violations=(*wrong, *verdict.violations))
            words = why_not(verdict)
    except EvacError as error:
        raise refused(error.message) from error
    except Exception as error:
        raise refused(f"it cannot be checked ({type(error).__name__})") from error
    if words:
        raise refused(words)


def refused(words: str) -> UnsafePlan:
    """The error for a refused plan. words: of the checker."""
    return unsafe(f"the checker does not accept this plan: {words}")


def unsafe(words: str) -> UnsafePlan:
    """The error as callers receive it, locally or through a leader."""
    return UnsafePlan(
        WRONG, words, "evac verify PLAN ESTATE shows every violation; evac plan makes a new plan"
    )


class Checker:
    """The leader's checker. seen: the current estate and its digest; made_of: what it was made of. A plan is
    checked once for each estate, on a thread, so that the leader misses no heartbeat.
    """

    def __init__(
        self, seen: Callable[[], tuple[Estate, str]], made_of: Callable[[], MadeOf] | None = None
    ) -> None:
        self._seen, self._made_of = seen, made_of
        self._accepted: deque[tuple[str, str]] = deque(maxlen=KEPT)

    async def accept(self, data: bytes) -> None:
        """Raise UnsafePlan if the checker refuses the plan, StalePlan if it was made for another estate."""
        if is_protection(data):
            return
        plan = await asyncio.to_thread(digest_of, data)
        (estate, digest), made_of = self._seen(), self._made_of() if self._made_of is not None else None
        known = (digest, plan)
        if known not in self._accepted:
            await asyncio.to_thread(_accept, data, estate, digest, made_of)
            self._accepted.append(known)

    def knows(self, plan: str) -> bool:
        """Whether the plan with this digest was accepted for the current estate."""
        return (self._seen()[1], plan) in self._accepted


class LyingReady(Protocol):
    """The part of the plan library that is used here."""

    async def look(self, lost: Sequence[str]) -> Ready | None: ...
    async def take(self, lost: Sequence[str]) -> tuple[Ready, bytes] | None: ...


class Forethought:
    """Checks each standby plan for the loss of a site as soon as it is ready, so that no loss waits for the
    checker. Runs in every controller, because each may be the leader when the loss happens. Open runs come
    first. A refused plan is checked again at the loss.
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
        """Run until cancelled."""
        while True:
            with contextlib.suppress(EvacError):  # an unreachable store is reported elsewhere
                await self.look()
            await self._pause(LOOK_S)

    async def look(self) -> None:
        """Check standby plans that are not checked yet. Raises Unavailable."""
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


def _accept(data: bytes, estate: Estate, digest: str, made_of: MadeOf | None) -> None:
    plan = decoded(data)
    must_fit(plan, digest, made_of)
    must_hold(estate, plan, made_of)


def must_fit(plan: Plan, estate: str, made_of: MadeOf | None = None) -> None:
    """Raise StalePlan unless the plan was made for the estate with this digest. made_of: to say how the
    present state differs from the files.
    """
    if plan.estate_digest == estate:
        return
    if made_of is None:
        words, again = "the plan was made from another estate", "make a new plan with evac plan, and apply it"
    else:
        files, seen = made_of
        by_files = plan.estate_digest == estate_digest(files)
        words, again = stale_words(differences(of(files, seen)), by_files)
    raise StalePlan("plan-stale", words, again)
