"""Where a run is heading, beside where it was to be: for pages, made once for all who look.

The forecast is the one that `evac run show` uses. Since when a run is behind follows from its journal alone:
a step is late from `TOLERANCE_MS` after its planned end until it is settled; the run is behind since the
beginning of the last unbroken stretch in which some step was late.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from evac.incident.services import PLANNED
from evac.model.plan import Plan
from evac.run.forecast import forecast
from evac.run.values import ENDED, SETTLED, Event
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.views.documents import RunShown
from evac.views.wait_words import servers_words
from evac.views.words import number
from evac.web.room import WarRoom

TOLERANCE_MS: Final = 60_000
LARGE: Final = 2_000
"""Steps from which on a page is made anew by time, not with each event."""
AGE_MS: Final = 5_000
LARGE_AGE_MS: Final = 10_000
RUNS_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class Behind:
    """since_ms: 0 where no step is late. step: the first one that was late in that stretch."""

    since_ms: int = 0
    step: str = ""


@dataclass(frozen=True, slots=True)
class Projection:
    """As of at_ms; times are of the wall clock, 0 where nothing can be said. planned_ms: the end as planned,
    end_ms: as projected, or as it was. services: when each is back that is not back yet. back: when each was.
    waits: as if what waits for a person were done now. servers: how many of those that it boots are up, when
    all are, and its state; empty where it boots none.
    """

    at_ms: int
    begun_ms: int
    planned_ms: int
    end_ms: int
    over: bool
    services: Mapping[str, int]
    back: Mapping[str, int]
    behind: Behind
    waits: bool = False
    servers: tuple[str, str] = ("", "")

    @property
    def late_ms(self) -> int:
        """Positive: later than planned."""
        return self.end_ms - self.planned_ms if self.begun_ms else 0


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything that a page of a run is made of."""

    run: RunShown
    said: Projection
    plan: Plan | None
    """None: it is not kept, so objectives are not known."""
    created_ms: int
    events: Sequence[tuple[int, Event]]
    """The last ones, with their numbers."""
    show: str = ""
    """Only steps in this phase; empty: all."""
    begin: int = 0
    """The first step of the page of them."""

    @property
    def moves(self) -> bool:
        """Whether the plan moves services that serve meanwhile."""
        return self.plan is not None and self.plan.scenario.kind in PLANNED


def stamp_of(view: RunView, now_ms: int) -> tuple[int, int]:
    """What a page of a run is made of: its events and the moment; of a large run the moment alone."""
    large = len(view.steps) >= LARGE
    return (0 if large else view.events, now_ms // (LARGE_AGE_MS if large else AGE_MS))


async def projection_of(room: WarRoom, view: RunView, now_ms: int) -> Projection:
    """Made once for each stamp, on a copy and in a thread, so that no other page waits for it."""
    kept: OrderedDict[str, Any] = room.tables.setdefault("projections", OrderedDict())
    run, stamp = view.spec.run, stamp_of(view, now_ms)
    if run not in kept or kept[run][0] != stamp:
        made = asyncio.ensure_future(asyncio.to_thread(projected, view.fork(), now_ms))
        kept[run] = (stamp, made)
        kept.move_to_end(run)
        while len(kept) > RUNS_KEPT:
            kept.popitem(last=False)
    found: Projection = await asyncio.shield(kept[run][1])
    return found


def projected(view: RunView, now_ms: int) -> Projection:
    """The projection of a run as it stands. Plays a copy forward; pure."""
    begun = max(0, view.started_ms)
    planned = begun + max((s.start_ms + s.duration_ms for s in view.steps), default=0) if begun else 0
    back = services_back(view)
    if view.phase in ENDED or not begun:
        end = view.last_ms if view.phase in ENDED else 0
        ended = view.phase in ENDED
        up = booted(view) if ended else ("", "")
        return Projection(now_ms, begun, planned, end, ended, {}, back, Behind(), servers=up)
    said = forecast(view, now_ms)
    coming = {name: at for name, at in said.services.items() if name not in back or at > back[name]}
    return Projection(
        now_ms,
        begun,
        planned,
        max(said.end_ms, now_ms),
        False,
        coming,
        {name: at for name, at in back.items() if name not in coming},
        behind(view, now_ms),
        said.waits,
        servers_words(said),
    )


def booted(view: RunView) -> tuple[str, str]:
    """Of a run that has ended: how many of the servers that it was to boot came up, in words; a state."""
    boots = [i for i, step in enumerate(view.steps) if kind_of(step.kind).boots]
    up = sum(1 for i in boots if view.phases[i] == "succeeded")
    if not boots:
        return "", ""
    return f"{number(up)} of {number(len(boots))} came up", "" if up == len(boots) else "warning"


def services_back(view: RunView) -> dict[str, int]:
    """Service -> when its last base check, or the move of its traffic, was done; as the forecast counts."""
    found: dict[str, int] = {}
    for i, step in enumerate(view.steps):
        kind = kind_of(step.kind)
        if kind.moves_traffic or (kind.checks and step.id.milestone == "base"):
            if view.phases[i] not in SETTLED:
                found[step.target] = 0
            elif found.get(step.target, -1) != 0:
                found[step.target] = max(found.get(step.target, 0), view.ended[i])
    return {name: at for name, at in sorted(found.items()) if at}


def behind(view: RunView, now_ms: int) -> Behind:
    """Since when some step has been late without a break, up to now."""
    if view.started_ms < 0 or not view.steps:
        return Behind()
    planned = np.array([s.start_ms + s.duration_ms for s in view.steps], np.int64)
    due = planned + view.started_ms + TOLERANCE_MS
    settled = np.array([phase in SETTLED for phase in view.phases], np.bool_)
    end = np.where(settled, np.array(view.ended, np.int64), now_ms)
    rows = np.flatnonzero(end > due)
    if not len(rows):
        return Behind()
    rows = rows[np.argsort(due[rows], kind="stable")]
    reach = np.maximum.accumulate(end[rows])
    if reach[-1] < now_ms:
        return Behind()
    gaps = np.flatnonzero(due[rows][1:] > reach[:-1])
    first = int(rows[int(gaps[-1]) + 1 if len(gaps) else 0])
    return Behind(int(due[first]) - TOLERANCE_MS, view.steps[first].id)
