"""What a run does next. Pure: time is a parameter, and nothing happens here.

`decide` is incremental: it keeps queues next to the view and offers each step once, until an event answers
the offer. It is work-conserving: a step starts when what it waits for is settled and its limits have
capacity, in order of planned start, then id. Records come first and alone: append and apply them, then decide
again. Invariants: nothing starts outside `running` or under a hold; an unknown step is observed before
anything else; a store is never promoted before its fences are done; what moved a store is never undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from evac.run import envelope
from evac.run.agenda import Agenda
from evac.run.boots import outages, silent_servers
from evac.run.boots.rules import next_ms as next_left_out_ms
from evac.run.boots.rules import refusal
from evac.run.data_loss import beyond_rpo
from evac.run.patience import INTERRUPTIONS_MOST
from evac.run.values import ENDED, Effect, Event, Left, RunPhase
from evac.run.view import RunView
from evac.steps.registry import kind_of

EVAC: Final = "evac"
"""The decider if no person decided."""

_WORDS: Final = {
    "gate": "approval needed for",
    "fence": "no complete fence proof for",
    "pace": "stopped by health checks:",
}
_START: Final = "start"


def decide(view: RunView, now_ms: int, most: int = 1_024) -> list[Effect]:
    """The effects due at `now_ms`, at most `most`; empty if there is only waiting."""
    if view.phase in ENDED or not view.created:
        return []
    agenda: Agenda | None = view.agenda
    if agenda is None:
        agenda = view.agenda = Agenda(view, now_ms)
    agenda.follow(view, now_ms)
    records = _records(view, agenda, now_ms)
    if records:
        return [Effect("record", event.step, event.attempt, event) for event in records]
    effects = _effects(view, agenda, now_ms, most)
    if not effects and agenda.parked and (move := _move(view, agenda, now_ms)) is not None:
        return [Effect("record", event=move)]  # nothing queued has capacity, and nothing will free any
    return effects


def next_ms(view: RunView) -> int | None:
    """When to decide again without an event; None if only an event can change anything."""
    if view.phase in ENDED:
        return None
    times = []
    agenda: Agenda | None = view.agenda
    if agenda is not None:
        if agenda.timers:
            times.append(agenda.timers[0][0])
        timed = view.limits.next_ms()
        if timed is not None and (agenda.parked or agenda.undo):
            times.append(timed)
    if view.pause is not None and view.pause.until_ms and view.pause.then != "stay":
        times.append(view.pause.until_ms)
    if view.phase == "monitoring":
        times.append(view.monitoring_ms + view.spec.monitor_ms)
    if (
        view.spec.horizon_ms
        and view.started_ms >= 0
        and view.phase in ("running", "paused", "awaiting_approval")
    ):
        times.append(view.started_ms + view.spec.horizon_ms)
    if (turn_ms := outages.next_ms(view)) is not None:
        times.append(turn_ms)
    if view.spec.mend_ms and view.boots.given_up and (left_out_ms := next_left_out_ms(view)) is not None:
        times.append(left_out_ms)
    looked_ms = -1 if agenda is None else agenda.now_ms  # what was due then needs an event, not more time
    return min((time for time in times if time > looked_ms), default=None)


def _event(kind: str, now_ms: int, **data: Any) -> Event:
    return Event(kind, now_ms, "", 0, data)


def _records(view: RunView, agenda: Agenda, now_ms: int) -> list[Event]:
    """Facts that follow from state and time and must be journaled before anything else."""
    found = []
    if agenda.stuck:
        found += [_stuck(view, i, now_ms) for i in dict.fromkeys(agenda.stuck) if i not in view.stuck]
        agenda.stuck = []
    if agenda.spent:
        spent = (i for i in dict.fromkeys(agenda.spent) if view.phases[i] in ("ready", "succeeded"))
        found += [_spent(view, i, now_ms) for i in spent]
        agenda.spent = []
    if agenda.optional and (view.counts.get("failed", 0) or view.doubtful):
        found += _gone_without(view, agenda, now_ms)
    found += agenda.boots.records(view, now_ms)
    if found:
        return found
    move = _move(view, agenda, now_ms)
    return [] if move is None else [move]


def _stuck(view: RunView, i: int, now_ms: int) -> Event:
    running_ms = now_ms - view.started[i]
    data: dict[str, Any] = {"running_ms": running_ms, "predicted_ms": view.steps[i].duration_ms}
    if view.steps[i].critical:
        data["critical"] = True
    return Event("step_stuck", now_ms, view.steps[i].id, view.attempts[i], data)


def _spent(view: RunView, i: int, now_ms: int) -> Event:
    """Neither the step nor, if it was done, its undo is retried until a person asks for it."""
    data = {"code": "tries-spent", "message": f"not done after {view.tries[i]} attempts", "again_ms": -1}
    interrupted = view.interrupted.get(i, 0)
    if interrupted >= INTERRUPTIONS_MOST:
        why = (
            f"the controller stopped {interrupted} times during this step; check its log, then retry the step"
        )
        data |= {"code": "too-many-interruptions", "message": why}
    kind = "step_failed" if view.phases[i] == "ready" else "undo_failed"
    return Event(kind, now_ms, view.steps[i].id, view.attempts[i], data)


def _gone_without(view: RunView, agenda: Agenda, now_ms: int) -> Iterator[Event]:
    """Optional steps that failed for good, or that nobody can tell the result of: what waits for them
    continues.
    """
    if view.phase not in ("running", "paused", "awaiting_approval"):
        return
    for i in agenda.optional:
        if view.phases[i] == "failed":
            why = view.failures.get(i, ("", ""))[1]
        elif i in view.doubtful and i not in view.undo.unclear:
            why = view.whys.get(i, "")
        else:
            continue
        reason = "the run continues without it" + (f": {why}" if why else "")
        yield Event(
            "step_skipped", now_ms, view.steps[i].id, view.attempts[i], {"who": EVAC, "reason": reason}
        )


def _move(view: RunView, agenda: Agenda, now_ms: int) -> Event | None:
    """The run's phase change that is due."""
    if view.phase in ("running", "paused", "awaiting_approval"):
        late = _timed_out(view, agenda, now_ms)
        if late is not None:
            return late
    match view.phase:
        case "pending" | "awaiting_approval":
            if _is_approved(view):
                return _event("run_started", now_ms, token=view.token)
            return _approval_needed(view, now_ms) if view.phase == "pending" else None
        case "running":
            return _running(view, agenda, now_ms)
        case "paused":
            return _paused(view, agenda, now_ms)
        case "cancelling":
            return _cancelling(view, agenda, now_ms)
        case "rolling_back":
            return _rolled_back(view, agenda, now_ms)
        case "monitoring" if now_ms >= view.monitoring_ms + view.spec.monitor_ms and view.quiet:
            return _ended(view, now_ms)
    return None


def _is_approved(view: RunView) -> bool:
    return view.approvals.counted >= view.spec.approvals and not view.approvals.untyped


def _approval_needed(view: RunView, now_ms: int) -> Event:
    """Says what is new: what no approval covers yet, or how many people are missing."""
    needed = view.spec.envelope
    closest = min(
        (envelope.outside(given, needed) for given in view.approvals.given.values()), key=len, default=()
    )
    missing = view.spec.approvals - view.approvals.counted
    words = list(closest)
    if not words and missing > 0:
        words = [f"{missing} more approval{'s' if missing > 1 else ''} needed"]
    if view.approvals.untyped:
        words.append(
            "this run evacuates more than one site; type their names to confirm: "
            f"{', '.join(view.approvals.untyped)}"
        )
    return _event("approval_needed", now_ms, outside=words)


def _is_late(view: RunView, now_ms: int) -> bool:
    horizon_ms = view.spec.horizon_ms
    return bool(horizon_ms) and view.started_ms >= 0 and now_ms >= view.started_ms + horizon_ms


def _timed_out(view: RunView, agenda: Agenda, now_ms: int) -> Event | None:
    if not _is_late(view, now_ms) or not view.quiet or agenda.offered or view.settled:
        return None
    if view.pause is not None and view.pause.back == "rolling_back":
        return None
    why = f"not done after {view.spec.horizon_ms} ms"
    if view.doubtful:
        why += f"; outcome unknown: {view.named('unknown')}"
    return _event("run_ended", now_ms, phase="timed_out", why=why)


def _running(view: RunView, agenda: Agenda, now_ms: int) -> Event | None:
    if not _is_approved(view):
        return _approval_needed(view, now_ms)
    if view.settled:
        if agenda.undo or agenda.offered:
            return None
        waits = outages.next_ms(view) is not None or silent_servers.waiting(view)
        if waits and not _is_late(view, now_ms):
            return None  # some are retried before it ends
        if view.spec.monitor_ms:
            return _event("monitoring_started", now_ms)
        return _ended(view, now_ms)
    if view.boots.refusing:
        return _event("paused", now_ms, by="step", who=EVAC, reason=refusal(view), until_ms=0, then="stay")
    if view.held or _is_late(view, now_ms):
        return None
    return _blocked(view, agenda, now_ms)


def _ended(view: RunView, now_ms: int) -> Event:
    phase: RunPhase = "succeeded"
    why = ""
    if view.exceptions or view.leftover:
        phase = "succeeded_with_exceptions"
        why = "some steps were skipped, attested, rolled back or left with an unknown outcome"
    left = [list(one) for one in (*view.spec.leaves, *beyond_rpo(view), *_passed_over(view))]
    if not left:
        return _event("run_ended", now_ms, phase=phase, why=why)
    return _event("run_ended", now_ms, phase="succeeded_with_exceptions", why=why, left=left)


def _passed_over(view: RunView) -> Iterator[Left]:
    """Services and stores with a skipped or undone step: whether they are restored is unknown."""
    known = {one.name for one in view.spec.leaves}
    for i, step in enumerate(view.steps):
        if view.phases[i] not in ("skipped", "undone") or i in view.leftover or step.target in known:
            continue
        kind = kind_of(step.kind)
        if kind.follows or kind.protects:
            yield Left(step.target, "unprotected")
        elif kind.phase or kind.makes_primary:
            yield Left(step.target, "unknown")
        else:
            continue
        known.add(step.target)


def is_blocked(view: RunView) -> bool:
    """Whether nothing continues until a person, or a health check, lets it."""
    agenda: Agenda | None = view.agenda
    if agenda is None or agenda.undo or view.manual_running or view.settled or _hopes(view, agenda):
        return False
    if not view.quiet or (view.spec.mend_ms and view.boots.given_up):
        return False
    if outages.next_ms(view) is not None:
        return False
    if view.counts.get("ready", 0) == len(agenda.blocked):
        return True
    held_up = bool(view.doubtful or view.keeping) and not agenda.asleep and view.limits.next_ms() is None
    if not held_up or not agenda.parked.keys().isdisjoint(view.limits.freed):
        return False
    return not agenda.startable(view)


def _hopes(view: RunView, agenda: Agenda) -> bool:
    """Whether something offered may change anything. Another look at what a person was asked about does not
    until it sees something; otherwise the run would resume and pause with every look.
    """
    if not view.doubtful:
        return bool(agenda.offered)
    return any(doing != "observe" or i not in view.doubtful for i, doing in agenda.offered.items())


def _blocked(view: RunView, agenda: Agenda, now_ms: int) -> Event | None:
    if not is_blocked(view):
        return None
    words = [
        f"{_WORDS[why]} {view.steps[i].id}" for i, why in sorted(agenda.blocked.items()) if why in _WORDS
    ][:5]
    if view.counts.get("failed", 0):
        words.append(f"failed: {view.named('failed')}")
    if view.doubtful:
        words.append(f"outcome unknown: {view.named('unknown')}")
    full = agenda.full(view)
    if full:
        words.append(f"limit reached: {', '.join(full)}; raise it (evac run limit) or skip the waiting steps")
    kinds = set(agenda.blocked.values())
    trouble = bool(view.counts.get("failed", 0) or view.doubtful or "fence" in kinds)
    by = "step" if trouble or not kinds else "gate"
    reason = "; ".join(words) or "nothing can start"
    return _event("paused", now_ms, by=by, who=EVAC, reason=reason, until_ms=0, then="stay")


def _paused(view: RunView, agenda: Agenda, now_ms: int) -> Event | None:
    pause = view.pause
    if pause is None:
        return None
    if pause.until_ms and now_ms >= pause.until_ms and pause.then != "stay":
        kind = "resumed" if pause.then == "resume" else "cancelled"
        if kind == "cancelled" and pause.back == "rolling_back":
            kind = "resumed"
        return _event(kind, now_ms, who=EVAC, reason="the pause ended")
    by_itself = pause.who == EVAC and pause.by in ("step", "gate") and not view.boots.refusing
    if by_itself and not view.held and not _is_late(view, now_ms) and not is_blocked(view):
        return _event("resumed", now_ms, who=EVAC, reason="there is work to do again")
    return None


def _cancelling(view: RunView, agenda: Agenda, now_ms: int) -> Event | None:
    if not view.quiet or agenda.offered:
        return None
    why = view.cancel_why
    if view.doubtful:
        why += f"; outcome unknown: {view.named('unknown')}"
    return _event("run_ended", now_ms, phase="cancelled", why=why)


def _rolled_back(view: RunView, agenda: Agenda, now_ms: int) -> Event | None:
    if not view.quiet or agenda.offered or agenda.undo_due(view):
        return None
    if view.undo.broken or view.doubtful:
        left = ", ".join(sorted(view.steps[i].id for i in view.undo.broken | view.doubtful)[:5])
        return _event("run_ended", now_ms, phase="failed", why=f"rollback failed: {left}")
    phase = "failed" if view.counts.get("failed", 0) else "cancelled"
    return _event("run_ended", now_ms, phase=phase, why="rolled back")


def _effects(view: RunView, agenda: Agenda, now_ms: int, most: int) -> list[Effect]:
    """Steps to observe, to undo and to start, in this order; half of the effects are reserved for the latter
    two.
    """
    effects: list[Effect] = []
    _looks(view, agenda, effects, most if view.held else max(1, most // 2))
    if view.held:
        return effects
    if agenda.undo and view.phase in ("rolling_back", "running", "paused", "monitoring"):
        while len(effects) < most:
            i = agenda.next_undo(view)
            if i < 0:
                break
            effects.append(Effect("undo", view.steps[i].id, view.attempts[i]))
    if view.phase == "running" and not _is_late(view, now_ms):
        steps, attempts, next_start = view.steps, view.attempts, agenda.next_start
        while len(effects) < most:
            i = next_start(view)
            if i < 0:
                break
            effects.append(Effect(_START, steps[i].id, attempts[i] + 1))
    _looks(view, agenda, effects, most)
    return effects


def _looks(view: RunView, agenda: Agenda, effects: list[Effect], most: int) -> None:
    """Adds steps to observe, up to `most` effects."""
    while agenda.observe and len(effects) < most:
        i = agenda.observe.pop()
        if view.phases[i] == "unknown" and i not in agenda.offered:
            agenda.offered[i] = "observe"
            effects.append(Effect("observe", view.steps[i].id, view.attempts[i]))


def withdraw(view: RunView, step: str) -> None:
    """Withdraws an offer that was neither executed nor answered: the step is offered again."""
    agenda: Agenda | None = view.agenda
    if agenda is not None and (i := view.number(step)) in agenda.offered:
        view.changed.append(i)
