"""Turns events into state: `apply` one, `replay` many, and a fingerprint of the result. Pure.

An event that the tables do not allow, or that contradicts earlier ones, raises RunError: the journal is
corrupt, and continuing would be guessing. The same events lead to the same state, from every prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from evac.model.access import GlassUse, Proven
from evac.model.boot_codes import BOOTING
from evac.model.errors import RunError
from evac.model.observation import seen_in
from evac.run import envelope, new_plan
from evac.run.boots import events as boot_events
from evac.run.new_plan import STEP_FACTS, STEP_SETS
from evac.run.patience import LATE, is_hopeless
from evac.run.table import STEP_TABLE, moves, of_attempt, refused, run_moves
from evac.run.values import Event, RunSpec, bound_in, left_of, made_ms
from evac.run.view import Pause, RunView
from evac.steps.registry import kind_of

__all__ = ["RunView", "alike", "apply", "apply_in_parts", "fingerprint", "plans_of", "replay"]


def apply(view: RunView, event: Event) -> RunView:
    """The view after the event (the same object). Raises RunError for an event that is not allowed."""
    handler = _HANDLERS.get(event[0])
    if handler is None:
        raise RunError("event-unknown", f"unknown event kind: {event[0]}")
    if not view.created and event[0] != "run_created":
        raise RunError("event-refused", f"{event[0]} before the run was created")
    view.at_ms = event[1]
    handler(view, event)
    if "proof" in event[4] and (mark := _proof(event).mark):
        view.marks.add(mark)
    if "request" in event[4]:
        view.marks.add(str(event[4]["request"]))
        if used := glass_of(event):
            view.marks.add(used.mark)
    view.events += 1
    if event[1] > view.last_ms:
        view.last_ms = event[1]
    return view


def _proof(event: Event) -> Proven:
    """How the person behind an event was proven; events of older leaders do not say it."""
    try:
        return Proven.from_data(event.data.get("proof") or {})
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError("event-refused", f"{event.kind} has an unreadable proof") from error


def glass_of(event: Event) -> GlassUse | None:
    """The use of a break-glass credential that an event records. Raises RunError."""
    told = event.data.get("break_glass")
    try:
        return GlassUse.from_data(told) if told else None
    except (KeyError, TypeError, ValueError) as error:
        raise RunError("event-refused", f"{event.kind} has an unreadable break-glass use") from error


def apply_in_parts(view: RunView, event: Event) -> Iterator[RunView]:
    """Like `apply`, on a copy of the view, for an event that takes long (another plan): yields the copy after
    each part; after the last one it is the resulting view. The original stays unchanged. Raises RunError.
    """
    other = view.fork()
    if event.kind != "plan_replaced" or not view.created:
        yield apply(other, event)
        return
    other.at_ms = event.at_ms
    for _ in new_plan.take_over(other, event):
        yield other
    other.events += 1
    other.last_ms = max(other.last_ms, event.at_ms)
    yield other


def replay(spec: RunSpec, events: Iterable[Event], others: Sequence[RunSpec] = ()) -> RunView:
    """The resulting state. others: specs of the plans that `plan_replaced` names."""
    view = RunView(spec, others)
    for event in events:
        apply(view, event)
    return view


def plans_of(events: Iterable[Event]) -> tuple[str, ...]:
    """Digests of the plans that replaced the first one, in order."""
    return tuple(event.data["plan"] for event in events if event.kind == "plan_replaced")


def _run_created(view: RunView, event: Event) -> None:
    if view.created:
        raise refused(view, event, "comes twice")
    plan = event.data.get("plan", view.spec.plan)
    if plan != view.spec.plan:
        raise refused(view, event, f"is for plan {plan}, not {view.spec.plan}")
    view.created = True
    view.token, view.owner = event.data.get("token", 0), event.data.get("owner", "")
    view.bound, view.made = bound_in(event.data), event.data.get("made", "")
    view.planned_ms.append(made_ms(view.made) or event.at_ms)
    view.proposer = event.data.get("who", "")
    view.seen = tuple(seen_in(one) for one in event.data.get("seen", ()))
    view.approvals.to_type = tuple(event.data.get("names", ()))


def _plain(view: RunView, event: Event) -> None:
    run_moves(view, event, event.kind)


def _approval_needed(view: RunView, event: Event) -> None:
    run_moves(view, event, event.kind)
    view.approvals.asked = True


def _approved(view: RunView, event: Event) -> None:
    run_moves(view, event, event.kind)
    for who in event.data.get("dropped", ()):
        view.approvals.given.pop(who, None)
        view.approvals.proofs.pop(who, None)
    view.approvals.given[event.data["who"]] = envelope.from_data(event.data.get("envelope", {}))
    view.approvals.proofs[event.data["who"]] = _proof(event)
    view.approvals.typed.update(event.data.get("typed", ()))
    view.approvals.count(view.spec.envelope)


def _run_started(view: RunView, event: Event) -> None:
    run_moves(view, event, event.kind)
    view.token = max(view.token, event.data.get("token", 0))
    if view.started_ms < 0:
        view.started_ms = event.at_ms


def _leader_changed(view: RunView, event: Event) -> None:
    """Running steps have no result and never will: they are unknown until observed. They did not fail, so
    this does not count as a try.
    """
    run_moves(view, event, event.kind)
    token = event.data["token"]
    if token < view.token:
        raise refused(view, event, f"has the token {token} after {view.token}")
    view.token, view.owner = token, event.data.get("owner", "")
    view.limits.restart(view.last_ms, event.at_ms)
    busy = view.counts.get("running", 0) + view.counts.get("undoing", 0)
    for i, phase in enumerate(view.phases if busy else ()):
        if phase in ("running", "undoing") and i not in view.manual_running:
            view.interrupted[i] = view.interrupted.get(i, 0) + 1
            tries: dict[int, int] | list[int] = view.undo.tries if phase == "undoing" else view.tries
            tries[i] = max(0, tries[i] - 1)
            if phase == "undoing":
                view.undo.unclear.add(i)
            elif kind_of(view.steps[i].kind).boots:
                boot_events.is_orphaned(view, i)
            view.turn(i, STEP_TABLE[phase, "leader_changed"])
    boot_events.may_arrive(view, event)


def _step_started(view: RunView, event: Event) -> None:
    i = moves(view, event, "step_started")
    attempt = view.attempts[i] + 1
    if event[3] != attempt:
        raise refused(view, event, f"is attempt {event[3]}; expected {attempt}")
    view.attempts[i] = attempt
    view.tries[i] += 1
    view.started[i] = event[1]
    if view.boots.inrush_ms:
        view.boots.inrush_ms.pop(i, None)
    if view.boots.lost_servers or view.boots.served_by:
        boot_events.is_begun(view, i)
    if view.uses[i]:
        view.limits.take(view.needs(i), event[1])
        if view.keeps:
            view.keep(i, attempt)
    if view.not_before or view.stuck or view.whys:
        view.not_before.pop(i, None)
        view.whys.pop(i, None)
        view.stuck.discard(i)


def _done(view: RunView, i: int, event: Event) -> None:
    view.ended[i] = event[1]
    if view.interrupted and i not in view.undo.tries:
        view.interrupted.pop(i, None)
    evidence = event[4].get("evidence")
    if evidence:
        view.evidence[i] = evidence
    boots = view.boots
    if view.keeps or boots.tripped or boots.gone or boots.stalled or boots.turns or view.steps[i].feeds:
        boot_events.is_up(view, i)
    if boots.unreplaced:
        boot_events.serves_again(view, i)
    if view.steps[i].paced:
        wait_ms = view.spec.pace.wait_ms if view.pacing.wait_ms < 0 else view.pacing.wait_ms
        view.pacing.next_ms[view.steps[i].target] = event[1] + wait_ms


def _step_succeeded(view: RunView, event: Event) -> None:
    i = moves(view, event, "step_succeeded")
    if event[3] != view.attempts[i]:
        of_attempt(view, event)
    _done(view, i, event)


def _step_failed(view: RunView, event: Event) -> None:
    of_attempt(view, event)
    again = event.data.get("again_ms", -1)
    i = moves(view, event, "step_failed" if again < 0 else "step_failed:again")
    view.failures[i] = (event.data.get("code", ""), event.data.get("message", ""))
    if again >= 0 and event.data.get("code") == LATE:
        view.tries[i] -= 1
    view.ended[i] = event.at_ms
    boot_events.is_down(view, i, event)
    if i in view.leftover:
        _drop(view, i)
    elif again >= 0:
        view.not_before[i] = event.at_ms + again


def _drop(view: RunView, i: int) -> None:
    """A step that the present plan lacks came to nothing: it is not retried."""
    view.turn(i, "skipped")
    view.leftover.add(i)
    view.exceptions = True


def _step_unknown(view: RunView, event: Event) -> None:
    of_attempt(view, event)
    i = view.number(event.step)
    if view.phases[i] == "undoing":
        view.undo.unclear.add(i)
    moves(view, event, "step_unknown")
    view.whys[i] = event.data.get("message", "")
    boot_events.is_gone(view, i, event)


def _step_observed(view: RunView, event: Event) -> None:
    of_attempt(view, event)
    i = view.number(event.step)
    outcome = event.data["outcome"]
    if outcome == "unclear":
        moves(view, event, "step_observed:unclear")
        view.unclear[i] = view.unclear.get(i, 0) + 1
        boot_events.is_unclear(view, i, event)
        ran_ms = event.at_ms - view.started[i]
        evidence = event.data.get("evidence", {})
        code = evidence.get("code", "")
        (view.boots.booting.add if evidence.get("state") == BOOTING else view.boots.booting.discard)(i)
        if is_hopeless(view.spec.patience, view.steps[i], view.unclear[i], ran_ms, code):
            view.doubtful.add(i)
            if not kind_of(view.steps[i].kind).boots and not view.whys.get(i):
                view.whys[i] = str(evidence.get("why", ""))
            boot_events.is_doubtful(view, i, code)
        return
    undone = outcome == "absent" and i in view.undo.unclear
    gone = outcome == "absent" and not undone and i in view.leftover
    moves(view, event, "step_observed:undone" if undone else f"step_observed:{outcome}")
    _resolved(view, i)
    if outcome == "absent":
        view.release(i)
    if gone:
        _drop(view, i)
    elif undone:
        _undone(view, i, event)
    elif outcome == "done":
        _done(view, i, event)


def _resolved(view: RunView, i: int) -> None:
    """The doubt about step i has been resolved."""
    view.unclear.pop(i, None)
    view.boots.booting.discard(i)
    view.whys.pop(i, None)
    view.doubtful.discard(i)
    view.undo.unclear.discard(i)
    view.leftover.discard(i)


def _step_waits(view: RunView, event: Event) -> None:
    i = moves(view, event, "step_waits")
    view.whys[i] = event.data["why"]
    if event.data.get("asks"):
        view.asks[i] = event.data["why"]
    view.not_before[i] = event.at_ms + max(event.data.get("again_ms", 0), 0)


def _step_skipped(view: RunView, event: Event) -> None:
    i = view.number(event.step)
    if not view.may_skip(i):
        raise refused(view, event, "is skipped while evac executes it")
    i = moves(view, event, "step_skipped")
    _resolved(view, i)
    boot_events.is_left_out(view, i, event)
    view.exceptions = True
    view.ended[i] = event.at_ms


def _step_attested(view: RunView, event: Event) -> None:
    i = moves(view, event, "step_attested")
    _resolved(view, i)
    view.ended[i] = event.at_ms
    proven = {"proven_by": _proof(event).words} if "proof" in event.data else {}
    view.evidence[i] = {**event.data.get("evidence", {}), "attested_by": event.data["who"], **proven}
    boot_events.is_up(view, i)
    if not view.steps[i].manual:
        view.exceptions = True


def _step_retried(view: RunView, event: Event) -> None:
    i = view.number(event.step)
    doubted = view.phases[i] == "unknown"
    if doubted and not view.may_retry(i):
        raise refused(view, event, "is retried, but what is in doubt is its undo or its plan")
    moves(view, event, "step_retried")
    if doubted:
        _resolved(view, i)
        view.release(i)
        view.unseen[i] = view.attempts[i] + 1
    boot_events.is_retried(view, i, event)
    view.tries[i] = 0
    view.interrupted.pop(i, None)
    view.boots.refused.discard(i)
    view.boots.misconfigured.discard(i)
    view.boots.given_up.pop(i, None)
    view.boots.quarantined.discard(i)
    view.undo.broken.discard(i)
    view.undo.wanted.discard(i)
    view.not_before.pop(i, None)


def _step_stuck(view: RunView, event: Event) -> None:
    i = moves(view, event, "step_stuck")
    view.stuck.add(i)
    boot_events.is_stuck(view, i, event)


def _gate_opened(view: RunView, event: Event) -> None:
    view.gates_open.add(moves(view, event, "gate_opened"))


def _undo_asked(view: RunView, event: Event) -> None:
    i = moves(view, event, "undo_asked")
    view.undo.wanted.add(i)
    view.undo.broken.discard(i)
    view.undo.tries.pop(i, None)
    view.interrupted.pop(i, None)


def _undo_started(view: RunView, event: Event) -> None:
    i = moves(view, event, "undo_started")
    view.undo.tries[i] = view.undo.tries.get(i, 0) + 1
    view.started[i] = event.at_ms
    view.stuck.discard(i)
    view.not_before.pop(i, None)
    view.limits.take(view.undo_needs(i), event.at_ms)


def _undone(view: RunView, i: int, event: Event) -> None:
    view.release(i)
    boot_events.is_undone(view, i)
    view.ended[i] = event.at_ms
    view.exceptions = True
    view.undo.wanted.discard(i)
    view.undo.tries.pop(i, None)


def _undo_done(view: RunView, event: Event) -> None:
    _undone(view, moves(view, event, "undo_done"), event)


def _undo_failed(view: RunView, event: Event) -> None:
    i = moves(view, event, "undo_failed")
    view.failures[i] = (event.data.get("code", ""), event.data.get("message", ""))
    again = event.data.get("again_ms", -1)
    if again >= 0:
        view.not_before[i] = event.at_ms + again
        return
    view.undo.broken.add(i)
    view.undo.wanted.discard(i)


def _paused(view: RunView, event: Event) -> None:
    back = view.phase if view.pause is None else view.pause.back
    run_moves(view, event, "paused")
    data = event.data
    view.pause = Pause(
        data.get("by", "operator"),
        data.get("who", ""),
        data.get("reason", ""),
        data.get("until_ms", 0),
        data.get("then", "stay"),
        back,
    )


def _resumed(view: RunView, event: Event) -> None:
    rolling = view.pause is not None and view.pause.back == "rolling_back"
    run_moves(view, event, "resumed:rolling_back" if rolling else "resumed")
    view.pause = None
    view.boots.refusing, view.boots.missing = False, ""


def _held(view: RunView, event: Event) -> None:
    run_moves(view, event, "held")
    view.held, view.held_ms = event.data.get("who", "") or "somebody", event.at_ms


def _released(view: RunView, event: Event) -> None:
    run_moves(view, event, "released")
    view.held = ""


def _cancelled(view: RunView, event: Event) -> None:
    run_moves(view, event, "cancelled")
    view.pause = None
    view.cancel_who, view.cancel_why = event.data.get("who", ""), event.data.get("reason", "")


def _rollback_started(view: RunView, event: Event) -> None:
    run_moves(view, event, "rollback_started")
    view.pause = None
    view.rolled_back = True
    view.agenda, view.watched = None, False


def _plan_replaced(view: RunView, event: Event) -> None:
    for _ in new_plan.take_over(view, event):
        pass


def _made_ungraceful(view: RunView, event: Event) -> None:
    run_moves(view, event, event.kind)
    view.graceful = False


def _pace_changed(view: RunView, event: Event) -> None:
    run_moves(view, event, event.kind)
    view.pacing.wait_ms = event.data.get("wait_ms", view.spec.pace.wait_ms)
    view.pacing.stopped = event.data.get("share", 1) == 0
    for target, ready_ms in view.pacing.next_ms.items():
        view.pacing.next_ms[target] = max(ready_ms, event.at_ms + view.pacing.wait_ms)


def _drift_seen(view: RunView, event: Event) -> None:
    if event.step:
        moves(view, event, "drift_seen")
    else:
        run_moves(view, event, "drift_seen")
    view.drift += 1
    if event.step:
        view.drifted.pop(event.step, None)
        view.drifted[event.step] = event.at_ms, bool(event.data["undone"])
    boot_events.seen_open(view, event)


def _monitoring_started(view: RunView, event: Event) -> None:
    run_moves(view, event, event.kind)
    view.monitoring_ms = event.at_ms


def _run_ended(view: RunView, event: Event) -> None:
    run_moves(view, event, f"run_ended:{event.data['phase']}")
    view.pause = None
    view.end_why = event.data.get("why", "")
    view.left = left_of(event.data.get("left", ()))


_HANDLERS: Final[Mapping[str, Callable[[RunView, Event], None]]] = MappingProxyType(
    {
        "run_created": _run_created,
        "approval_needed": _approval_needed,
        "approved": _approved,
        "run_started": _run_started,
        "leader_changed": _leader_changed,
        "step_started": _step_started,
        "step_succeeded": _step_succeeded,
        "step_failed": _step_failed,
        "step_unknown": _step_unknown,
        "step_observed": _step_observed,
        "step_waits": _step_waits,
        "step_skipped": _step_skipped,
        "step_attested": _step_attested,
        "step_retried": _step_retried,
        "step_stuck": _step_stuck,
        "gate_opened": _gate_opened,
        "undo_asked": _undo_asked,
        "undo_started": _undo_started,
        "undo_done": _undo_done,
        "undo_failed": _undo_failed,
        "paused": _paused,
        "resumed": _resumed,
        "held": _held,
        "released": _released,
        "cancelled": _cancelled,
        "rollback_started": _rollback_started,
        "plan_replaced": _plan_replaced,
        "made_ungraceful": _made_ungraceful,
        "pace_changed": _pace_changed,
        "limit_changed": boot_events.limit_changed,
        "feeds_seen": boot_events.feeds_seen,
        "switched_on": boot_events.switched_on,
        "feed_tripped": boot_events.feed_tripped,
        "boot_server_lost": boot_events.boot_server_lost,
        "request_refused": _plain,
        "drift_seen": _drift_seen,
        "monitoring_started": _monitoring_started,
        "run_ended": _run_ended,
    }
)


def fingerprint(view: RunView) -> str:
    """A digest of everything that the events determine. Views with equal fingerprints decide alike."""
    undo = view.undo
    steps = [
        (
            step.id,
            view.phases[i],
            view.attempts[i],
            view.tries[i],
            view.started[i],
            view.ended[i],
            view.waits[i],
            [name for name in STEP_SETS if i in getattr(view, name)],
            [(name, _plainly(getattr(view, name)[i])) for name in STEP_FACTS if i in getattr(view, name)],
            (i in undo.wanted, i in undo.unclear, i in undo.broken, undo.tries.get(i)),
        )
        for i, step in enumerate(view.steps)
    ]
    approvals, replaced = view.approvals, view.replaced
    whole = (
        view.spec.run,
        view.spec.plan,
        view.plans,
        view.phase,
        view.created,
        approvals.asked,
        sorted((who, sorted(envelope.to_data(given).items())) for who, given in approvals.given.items()),
        approvals.counted,
        approvals.to_type,
        sorted(approvals.typed),
        view.token,
        view.owner,
        view.held,
        view.pause,
        view.cancel_who,
        view.cancel_why,
        view.rolled_back,
        view.graceful,
        view.exceptions,
        view.drift,
        view.pacing.wait_ms,
        view.pacing.stopped,
        sorted(view.pacing.next_ms.items()),
        view.started_ms,
        view.monitoring_ms,
        view.end_why,
        view.left,
        view.last_ms,
        view.events,
        replaced.lost,
        replaced.accounted,
        sorted(replaced.origin.items()),
        sorted(replaced.attempts.items()),
        sorted(replaced.renamed.items()),
        view.limits.held(view.last_ms),
        view.limits.apart,
        sorted(view.capacities.items()),
        sorted(view.keeping.items()),
        steps,
        view.boots.as_data(),
    )
    return hashlib.sha256(repr(whole).encode()).hexdigest()


_NOT_OF_EVENTS: Final = frozenset({"agenda", "watched", "changed", "limits", "specs"})


def alike(one: RunView, other: RunView) -> bool:
    """Whether both have the same fingerprint. Computed only if a comparison of all fields finds a difference,
    which may be in fields that events do not determine.
    """
    mine, theirs = vars(one), vars(other)
    for name, value in mine.items():
        if value is not theirs[name] and name not in _NOT_OF_EVENTS and value != theirs[name]:
            return fingerprint(one) == fingerprint(other)
    now_ms = one.last_ms
    same = one.limits.apart == other.limits.apart and one.limits.held(now_ms) == other.limits.held(now_ms)
    return same or fingerprint(one) == fingerprint(other)


def _plainly(value: Any) -> Any:
    """The value with its keys in order, independent of how it was written."""
    return sorted(value.items()) if isinstance(value, Mapping) else value
