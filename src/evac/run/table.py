"""The two transition tables, of runs and of steps, and how one event moves a run or a step by them. Pure.

The diagram in the docs is drawn from the tables.

A trigger is the kind of an event, with its outcome if that decides (`step_observed:done`). Anything in no row
is not allowed, and a journal containing it is corrupt. An event of a step must be allowed by both tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, cast

from evac.model.errors import RunError
from evac.run.values import ENDED, Event, RunPhase, StepPhase
from evac.run.view import RunView

RunTable = Mapping[tuple[RunPhase, str], RunPhase]
StepTable = Mapping[tuple[StepPhase, str], StepPhase]

LIVE: Final[tuple[RunPhase, ...]] = (
    "pending",
    "awaiting_approval",
    "running",
    "paused",
    "cancelling",
    "rolling_back",
    "monitoring",
)
_BEGUN: Final = LIVE[1:]

_RUN_MOVES: Final = """
pending            approval_needed       awaiting_approval
pending            run_started           running
awaiting_approval  run_started           running
running            approval_needed       awaiting_approval
running            paused                paused
awaiting_approval  paused                paused
rolling_back       paused                paused
paused             paused                paused
paused             resumed               running
paused             resumed:rolling_back  rolling_back
pending            cancelled             cancelling
awaiting_approval  cancelled             cancelling
running            cancelled             cancelling
paused             cancelled             cancelling
monitoring         cancelled             cancelling
running            rollback_started      rolling_back
paused             rollback_started      rolling_back
awaiting_approval  rollback_started      rolling_back
cancelling         rollback_started      rolling_back
monitoring         rollback_started      rolling_back
running            monitoring_started    monitoring
monitoring         plan_replaced         running
monitoring         step_retried          running
monitoring         feed_tripped          running
running            run_ended:succeeded                  succeeded
running            run_ended:succeeded_with_exceptions  succeeded_with_exceptions
monitoring         run_ended:succeeded                  succeeded
monitoring         run_ended:succeeded_with_exceptions  succeeded_with_exceptions
cancelling         run_ended:cancelled                  cancelled
rolling_back       run_ended:cancelled                  cancelled
rolling_back       run_ended:failed                     failed
running            run_ended:timed_out                  timed_out
paused             run_ended:timed_out                  timed_out
awaiting_approval  run_ended:timed_out                  timed_out
"""

_STEP_MOVES: Final = """
pending    waits_settled         ready
ready      waits_reopened        pending
ready      step_started          running
running    step_succeeded        succeeded
running    step_failed           failed
running    step_failed:again     ready
running    step_unknown          unknown
running    leader_changed        unknown
running    step_attested         succeeded
running    step_skipped          skipped
ready      step_failed           failed
unknown    step_observed:done    succeeded
unknown    step_observed:absent  ready
unknown    step_observed:undone  undone
unknown    step_attested         succeeded
unknown    step_skipped          skipped
unknown    step_retried          ready
pending    step_attested         succeeded
ready      step_attested         succeeded
failed     step_attested         succeeded
skipped    step_attested         succeeded
pending    step_skipped          skipped
ready      step_skipped          skipped
failed     step_skipped          skipped
failed     step_retried          ready
skipped    step_retried          ready
undone     step_retried          ready
succeeded  feed_tripped          ready
failed     feed_tripped          ready
unknown    feed_tripped          ready
skipped    feed_tripped          ready
succeeded  undo_started          undoing
undoing    undo_done             undone
undoing    undo_failed           succeeded
undoing    step_unknown          unknown
undoing    leader_changed        unknown
"""

_RUN_STAYS: Final[Mapping[str, tuple[RunPhase, ...]]] = MappingProxyType(
    {
        "approved": LIVE,
        "leader_changed": LIVE,
        "held": LIVE,
        "request_refused": LIVE,
        "released": LIVE,
        "plan_replaced": ("pending", "awaiting_approval", "running", "paused"),
        "limit_changed": LIVE,
        "feeds_seen": _BEGUN,
        "switched_on": _BEGUN,
        "feed_tripped": ("running", "paused", "awaiting_approval"),
        "boot_server_lost": ("running", "paused", "awaiting_approval"),
        "made_ungraceful": ("pending", "awaiting_approval", "running", "paused", "monitoring"),
        "pace_changed": ("awaiting_approval", "running", "paused", "monitoring"),
        "approval_needed": ("paused",),
        "step_started": ("running",),
        "step_waits": ("running",),
        "step_succeeded": _BEGUN,
        "step_failed": _BEGUN,
        "step_failed:again": _BEGUN,
        "step_unknown": _BEGUN,
        "step_observed:done": _BEGUN,
        "step_observed:absent": _BEGUN,
        "step_observed:unclear": _BEGUN,
        "step_observed:undone": _BEGUN,
        "step_stuck": _BEGUN,
        "drift_seen": _BEGUN,
        "gate_opened": ("pending", "awaiting_approval", "running", "paused"),
        "step_skipped": _BEGUN,
        "step_attested": _BEGUN,
        "step_retried": ("awaiting_approval", "running", "paused"),
        "undo_asked": ("running", "paused", "monitoring"),
        "undo_started": ("running", "paused", "rolling_back", "monitoring"),
        "undo_done": _BEGUN,
        "undo_failed": _BEGUN,
    }
)
"""Triggers that do not change the run's phase, and the phases they may occur in."""

_STEP_STAYS: Final[Mapping[str, tuple[StepPhase, ...]]] = MappingProxyType(
    {
        "step_observed:unclear": ("unknown",),
        "step_stuck": ("running", "unknown", "undoing"),
        "step_waits": ("ready",),
        "gate_opened": ("pending", "ready"),
        "undo_asked": ("succeeded",),
        "undo_failed": ("succeeded",),
        "drift_seen": ("succeeded",),
    }
)


def _rows(moves: str) -> Iterator[tuple[str, str, str]]:
    for line in moves.strip().splitlines():
        phase, trigger, then = line.split()
        yield phase, trigger, then


def _table(moves: str, stays: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], str]:
    table = {(phase, trigger): phase for trigger, phases in stays.items() for phase in phases}
    for phase, trigger, then in _rows(moves):
        table[phase, trigger] = then
    return table


RUN_TABLE: Final = cast(RunTable, _table(_RUN_MOVES, _RUN_STAYS))
STEP_TABLE: Final = cast(StepTable, _table(_STEP_MOVES, _STEP_STAYS))


def diagram() -> str:
    """Both tables as one Mermaid text with two state diagrams. Triggers that do not change the phase are left
    out.
    """
    return f"{_mermaid('run', _RUN_MOVES, 'pending', ENDED)}\n{_mermaid('step', _STEP_MOVES, 'pending', ())}"


def _mermaid(name: str, moves: str, first: str, last: Iterable[str]) -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for phase, trigger, then in _rows(moves):
        if phase != then:
            arrows.setdefault((phase, then), []).append(trigger.replace(":", " "))
    lines = [f"%% how a {name} moves", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {a} --> {b}: {', '.join(triggers)}" for (a, b), triggers in arrows.items()]
    lines += [f"    {phase} --> [*]" for phase in sorted(last)]
    return "\n".join(lines) + "\n"


def refused(view: RunView, event: Event, why: str) -> RunError:
    of = f" of {event.step}" if event.step else ""
    return RunError("event-refused", f"event {view.events}: {event.kind}{of} {why}", "run: evac run verify")


def run_moves(view: RunView, event: Event, trigger: str) -> None:
    new = RUN_TABLE.get((view.phase, trigger))
    if new is None:
        raise refused(view, event, f"is not allowed while the run is {view.phase}")
    if new != view.phase:
        view.phase, view.phase_ms = new, event.at_ms


def moves(view: RunView, event: Event, trigger: str) -> int:
    """Moves the step (and the run) by both tables; returns the step's number."""
    i = view.index.get(event[2], -1)
    if i < 0:
        raise refused(view, event, "does not name a step of this run")
    run = RUN_TABLE.get((view.phase, trigger))
    old = view.phases[i]
    new = STEP_TABLE.get((old, trigger))
    if run is None or new is None:
        raise refused(view, event, f"is not allowed: the run is {view.phase}, the step {old}")
    if run != view.phase:
        view.phase, view.phase_ms = run, event.at_ms
    if new != old:
        view.turn(i, new)
    elif view.watched:
        view.changed.append(i)
    return i


def of_attempt(view: RunView, event: Event) -> None:
    i = view.index.get(event[2], -1)
    if i >= 0 and view.attempts[i] != event[3]:
        raise refused(view, event, f"is for attempt {event[3]}; the step is at attempt {view.attempts[i]}")
