"""Events of a run in words that a tired person reads: what happened, to what, by whom and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from evac.incident.values import Weight
from evac.run.values import Event, RunStep
from evac.steps.registry import kind_of

Told = tuple[str, str, Weight]
"""Kind, words, weight."""

TEXT_MOST: Final = 500


def told(event: Event, step: RunStep | None) -> Told:
    """What an entry says of an event. step: of events of a step, as the run knows it."""
    if step is not None or event.step:
        return _of_step(event, step)
    return _OF_RUN.get(event.kind, _plain)(event.data)


def _plain(data: Mapping[str, Any]) -> Told:
    return "noted", _cut(", ".join(f"{key} {data[key]}" for key in sorted(data))) or "noted", "detail"


def _cut(words: Any) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= TEXT_MOST else f"{text[: TEXT_MOST - 2]} …"


def _by(data: Mapping[str, Any]) -> str:
    """` by kim: reason`, as far as it is known."""
    who = f" by {_cut(data['who'])}" if data.get("who") else ""
    return who + (f": {_cut(data['reason'])}" if data.get("reason") else "")


def _ended(data: Mapping[str, Any]) -> Told:
    phase = str(data.get("phase", "")).replace("_", " ")
    return "ended", f"the run ended: {phase}" + (f"; {_cut(data['why'])}" if data.get("why") else ""), "main"


def _switched_on(data: Mapping[str, Any]) -> Told:
    number = len(data.get("steps", ()))
    return "power", f"{number:,} server{'s were' if number != 1 else ' was'} switched on", "detail"


def _replaced(data: Mapping[str, Any]) -> Told:
    lost = ", ".join(map(str, data.get("lost", ())))
    words = f"a new plan took over: {_cut(data.get('why', 'no reason given'))}"
    return "decided", words + (f"; now without {lost}" if lost else ""), "main"


_OF_RUN: Final[Mapping[str, Callable[[Mapping[str, Any]], Told]]] = MappingProxyType(
    {
        "run_created": lambda d: (
            "decided",
            f"a run was made for {d.get('scenario') or 'its plan'}{_by(d)}",
            "main",
        ),
        "approval_needed": lambda d: (
            "waits",
            "an approval is needed"
            + (f": {_cut('; '.join(map(str, d['outside'])))}" if d.get("outside") else ""),
            "main",
        ),
        "approved": lambda d: ("approved", f"approved{_by(d)}", "main"),
        "run_started": lambda d: ("started", "the run began", "main"),
        "leader_changed": lambda d: (
            "leader",
            f"{d.get('owner') or 'another controller'} leads now",
            "detail",
        ),
        "paused": lambda d: ("paused", f"paused ({d.get('by', 'operator')}){_by(d)}", "main"),
        "resumed": lambda d: ("resumed", f"resumed{_by(d)}", "main"),
        "held": lambda d: ("held", f"everything was held{_by(d)}", "main"),
        "released": lambda d: ("released", f"the hold was released{_by(d)}", "main"),
        "cancelled": lambda d: ("cancelled", f"cancelled{_by(d)}", "main"),
        "rollback_started": lambda d: ("rolled back", f"what was done is taken back{_by(d)}", "main"),
        "plan_replaced": _replaced,
        "made_ungraceful": lambda d: ("decided", f"no grace any more: {_cut(d.get('why', ''))}", "main"),
        "pace_changed": lambda d: ("pace", f"the pace changed: {_cut(d.get('why', ''))}", "detail"),
        "limit_changed": lambda d: (
            "limit",
            f"the limit {d.get('limit', '')} is {d.get('capacity', '?')} now{_by(d)}",
            "main",
        ),
        "feeds_seen": lambda d: (
            "power",
            f"servers behind {_cut(', '.join(map(str, d.get('feeds', ()))))} answer",
            "detail",
        ),
        "switched_on": _switched_on,
        "feed_tripped": lambda d: (
            "power",
            f"the feed {d.get('feed', '')} lost its power: {_cut(d.get('why', ''))}",
            "main",
        ),
        "boot_server_lost": lambda d: (
            "power",
            f"the boot server {d.get('server', '')} was given up: {_cut(d.get('why', ''))}",
            "main",
        ),
        "request_refused": lambda d: (
            "refused",
            f"{d.get('verb', 'a request')}"
            + (f" by {_cut(d['who'])}" if d.get("who") else "")
            + f" was refused: {_cut(d.get('why', ''))}",
            "main",
        ),
        "drift_seen": lambda d: ("drift", "somebody else changed what was done", "main"),
        "monitoring_started": lambda d: ("watched", "all steps are done; the result is watched", "main"),
        "run_ended": _ended,
    }
)


def _of_step(event: Event, step: RunStep | None) -> Told:
    kind = event.kind
    target = step.target if step is not None else event.step
    if kind == "step_succeeded" or (kind == "step_observed" and event.data.get("outcome") == "done"):
        return _done(step, target, event.step)
    data = event.data
    by = _by(data)
    if kind == "step_attested":
        return "vouched", f"{event.step}: vouched for as done{by}", "main"
    if kind == "step_failed":
        why = _cut(data.get("message") or data.get("code") or "no reason given")
        again = data.get("again_ms", -1)
        return (
            ("failed", f"{event.step} failed: {why}", "main")
            if again < 0
            else ("retried", f"{event.step} failed and is tried again: {why}", "detail")
        )
    plain: dict[str, Told] = {
        "step_started": ("begun", f"{event.step} begun, try {event.attempt}", "detail"),
        "step_unknown": ("unknown", f"nobody knows the outcome of {event.step}; evac looks", "main"),
        "step_observed": ("looked", f"{event.step}: it looks {data.get('outcome', 'unclear')}", "detail"),
        "step_waits": ("waits", f"{event.step} waits: {_cut(data.get('why', ''))}", "detail"),
        "step_skipped": ("skipped", f"{event.step} was left out{by}", "main"),
        "step_retried": ("retried", f"{event.step} is tried again{by}", "main"),
        "step_stuck": ("stuck", f"{event.step} takes longer than it should", "main"),
        "gate_opened": ("approved", f"{event.step} may go on{by}", "main"),
        "undo_asked": ("undo", f"{event.step} is to be taken back{by}", "main"),
        "undo_started": ("undo", f"{event.step} is being taken back", "detail"),
        "undo_done": ("undone", f"{event.step} was taken back", "main"),
        "undo_failed": (
            "failed",
            f"{event.step} could not be taken back: {_cut(data.get('message', ''))}",
            "main",
        ),
        "drift_seen": ("drift", f"somebody else changed what {event.step} did", "main"),
    }
    return plain.get(kind, ("noted", f"{event.step}: {kind.replace('_', ' ')}", "detail"))


def _done(step: RunStep | None, target: str, name: str) -> Told:
    if step is None:
        return "done", f"{name} is done", "detail"
    kind, words, weight = kind_of(step.kind).entry
    where = f" in {step.site}" if step.site else ""
    return kind, words.format(target=target, where=where), weight
