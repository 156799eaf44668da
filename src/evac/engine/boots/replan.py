"""Servers that do not come up, and a plan under way: what they should carry is started elsewhere.

The run holds what waits for such a server for a while (`RunSpec.mend_ms`). Meanwhile the plan is mended, and
takes the place of the old one: what is done stays done. Where nothing can be mended, the run goes on without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from evac.engine.runs.binding import Bound
from evac.engine.runs.execution import RunExecution
from evac.model.errors import EvacError
from evac.model.step_id import plan_id
from evac.run.boots.rules import is_waited_for
from evac.run.replan import KEPT
from evac.run.values import ENDED, Event
from evac.run.view import RunView
from evac.steps.registry import kind_of

LOOK_S: Final = 0.5
LOOK_LEAST_S: Final = 0.05
QUIET_PERMILLE: Final = 100
"""Of the time that the run holds: how long no other server may fail until the plan is mended."""
LATEST_PERMILLE: Final = 500
"""Of the same: after this it is mended even while others still fail."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """failed: servers that do not come up; begun: steps of the plan that are done or under way."""

    failed: frozenset[str]
    begun: frozenset[str]

    @property
    def words(self) -> str:
        number = len(self.failed)
        return f"{number} server{' does' if number == 1 else 's do'} not come up"


Mend = Callable[[str, Trouble], Awaitable[bytes | None]]
"""(digest of the plan under way, what failed) -> the mended plan; None where nothing can be moved."""


def trouble_of(view: RunView) -> Trouble | None:
    """What to mend; None while nothing that has not begun waits for a server that does not come up."""
    if not any(is_waited_for(view, i) for i in view.boots.given_up):
        return None
    out = {*view.boots.given_up, *view.boots.quarantined}
    failed = frozenset(view.steps[i].target for i in out if kind_of(view.steps[i].kind).boots)
    begun = frozenset(
        plan_id(s.id) for i, s in enumerate(view.steps) if view.phases[i] in KEPT and i not in out
    )
    return Trouble(failed, begun)


def is_due(view: RunView, now_ms: int) -> bool:
    """Whether it is time: others that fail at the same moment are mended together."""
    waiting = [at_ms for i, at_ms in view.boots.given_up.items() if is_waited_for(view, i)]
    if not waiting:
        return False
    hold_ms = view.spec.mend_ms
    quiet = now_ms >= max(view.boots.given_up.values()) + hold_ms * QUIET_PERMILLE // 1_000
    return quiet or now_ms >= min(waiting) + hold_ms * LATEST_PERMILLE // 1_000


async def take_over_plan(execution: RunExecution, bound: Bound, trouble: Trouble) -> None:
    """The mended plan takes the place of the one that it was made of. A server that was given up since then
    is not switched on again because that plan still has it. Raises RunError, StalePlan where the run has
    another plan, or is over, by now.
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
    """Looks after one run until it ends. take: puts the mended plan in the place of the present one."""

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
        """Until the run has ended, or cancelled."""
        while (view := self._execution.view).phase not in ENDED:
            await asyncio.sleep(min(LOOK_S, max(LOOK_LEAST_S, view.spec.mend_ms / 10_000)))
            await self.look()

    async def look(self) -> bool:
        """Mends the plan if it is time; whether it did. The same servers are never mended for twice."""
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
            self._tell(f"{trouble.words}; the plan cannot be mended: {error.message}")
            return False
        self._tell(f"{trouble.words}; what was to start there starts elsewhere")
        return True
