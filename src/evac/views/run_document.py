"""One run as a frozen value: the one place that says what people and programs are shown of it.

Text, JSON, pages, the OpenAPI document and the reader of a remote server are made of these classes; names of
fields are the keys of the JSON. Times are ISO 8601, UTC; null for never.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from evac.model.run_policy import Envelope
from evac.run.boots.rules import why_waits
from evac.run.values import ENDED, RunPhase, StepPhase
from evac.run.view import RunView
from evac.run.waits import waiting
from evac.views.run_forecast import FORECASTS, ForecastRow, forecast_row
from evac.views.wait_words import WaitRow, wait_row
from evac.views.words import moment

SCHEMA_VERSION: Final = 1
LIMITS_MOST: Final = 100
MOST_URGENT: Final = (
    "failed",
    "unknown",
    "undoing",
    "running",
    "ready",
    "pending",
    "undone",
    "skipped",
    "succeeded",
)
"""Phases of steps, those first that need a look."""


@dataclass(frozen=True, slots=True)
class LossRow:
    """The most that one promotion can lose."""

    store: str
    candidate: str
    """The site that is to be promoted."""
    milliseconds: int | None
    """null: not known."""
    basis: str
    """synchronous, seen, declared or unknown."""
    words: str


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit that a person changed while the run went on, in watts or units."""

    limit: str
    now: int
    whole: int
    """As the estate says."""
    held: int


@dataclass(frozen=True, slots=True)
class StepFailure:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a run."""

    id: str
    kind: str
    target: str
    state: StepPhase
    attempts: int
    started_at: str | None
    ended_at: str | None
    evidence: Mapping[str, Any]
    error: StepFailure | None
    waits_for: str
    gate: str


@dataclass(frozen=True, slots=True)
class RunHead:
    """One run without its steps, of which there may be a hundred thousand."""

    schema_version: int
    run: str
    incident: str
    question: str
    plan_digest: str
    state: RunPhase
    leader: str
    """Empty: no controller leads."""
    token: int
    graceful: bool
    held_by: str
    why: str
    approved_by: tuple[str, ...]
    approvals_needed: int
    envelope: Envelope
    """What an approval has to cover."""
    to_type: tuple[str, ...]
    """Sites that a person must name first."""
    events: int
    waits_for: tuple[str, ...]
    """The sentences of `waits`."""
    most_lost: tuple[LossRow, ...]
    forecast: ForecastRow | None
    started_at: str | None
    ended_at: str | None
    as_of: str | None
    in_doubt: int
    """How many steps."""
    undo_failed: int
    """How many steps."""
    counts: Mapping[str, int]
    limits_changed: tuple[LimitRow, ...] = ()
    waits: tuple[WaitRow, ...] = ()
    bound_digest: str = ""
    """SHA-256 of what its steps do: drivers, settings, references. A signed approval covers it."""


@dataclass(frozen=True, slots=True)
class RunDocument(RunHead):
    """One run with its steps: all of them, or those first that need a look."""

    steps: tuple[StepRow, ...] = ()


@dataclass(frozen=True, slots=True)
class RunShown:
    """A run with what is known beside its journal: who leads now, and what its promotions can lose."""

    view: RunView
    leader: str
    now_ms: int
    losses: tuple[LossRow, ...] = ()


def run_document(shown: RunShown, most: int | None = None) -> RunDocument:
    """most: only so many steps, those first that need a look."""
    view = shown.view
    numbers = range(len(view.steps)) if most is None else by_need(view, most)
    return RunDocument(**_head(shown), steps=tuple(step_row(view, i) for i in numbers))


def run_head(shown: RunShown) -> RunHead:
    return RunHead(**_head(shown))


def _head(shown: RunShown) -> dict[str, Any]:
    view = shown.view
    waits, envelope = tuple(wait_row(one, view.spec.run) for one in waiting(view)), view.spec.envelope
    return {
        "schema_version": SCHEMA_VERSION,
        "run": view.spec.run,
        "incident": view.spec.incident,
        "question": view.spec.labels.get("scenario", ""),
        "plan_digest": view.plans[-1],
        "bound_digest": view.bound,
        "state": view.phase,
        "leader": shown.leader,
        "token": view.token,
        "graceful": view.graceful,
        "held_by": view.held,
        "why": view.end_why,
        "approved_by": tuple(sorted(view.approvals.given)),
        "approvals_needed": view.spec.approvals,
        "envelope": Envelope(
            tuple(sorted(envelope.sites)),
            tuple(sorted(envelope.stores)),
            envelope.most_lost_ms,
            envelope.most_shed,
        ),
        "to_type": view.approvals.untyped,
        "events": view.events,
        "waits_for": tuple(one.words for one in waits),
        "most_lost": shown.losses,
        "forecast": forecast_row(FORECASTS.of(view, shown.now_ms)),
        "started_at": moment(view.started_ms),
        "ended_at": moment(view.last_ms) if view.phase in ENDED else None,
        "as_of": moment(shown.now_ms),
        "in_doubt": len(view.doubtful),
        "undo_failed": len(view.undo.broken),
        "counts": dict(sorted(view.counts.items())),
        "limits_changed": limits_changed(view),
        "waits": waits,
    }


def limits_changed(view: RunView) -> tuple[LimitRow, ...]:
    return tuple(LimitRow(*one) for one in view.limits.changed()[:LIMITS_MOST])


def by_need(view: RunView, most: int) -> list[int]:
    """Numbers of the steps that need a look, the most urgent first: failed, in doubt, running; then what was
    done last.
    """
    rank = {phase: n for n, phase in enumerate(MOST_URGENT)}
    return heapq.nsmallest(
        most,
        range(len(view.steps)),
        key=lambda i: (rank[view.phases[i]], -view.ended[i] if view.phases[i] == "succeeded" else i),
    )


def step_row(view: RunView, i: int) -> StepRow:
    step = view.steps[i]
    code, message = view.failures.get(i, ("", ""))
    return StepRow(
        id=step.id,
        kind=step.kind,
        target=step.target,
        state=view.phases[i],
        attempts=view.attempts[i],
        started_at=moment(view.started[i]),
        ended_at=moment(view.ended[i]),
        evidence=dict(view.evidence.get(i, {})),
        error=StepFailure(code, message) if code else None,
        waits_for=why_waits(view, i),
        gate=view.boots.gates.get(i) or step.gate,
    )
