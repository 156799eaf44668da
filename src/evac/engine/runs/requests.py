"""Requests of operators to a run: verbs, their form in the store, and the events they become.

A request says who and why. If the present state does not allow it, it is refused with a reason, also in the
journal.

Also the commands shown when a plan or run waits for a person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import orjson

from evac.model.access import GlassUse, Proven
from evac.model.errors import EvacError, NotAllowed, RunError
from evac.model.names import is_plain
from evac.model.records import dataclass
from evac.model.run_policy import Envelope
from evac.run import envelope
from evac.run.limits import capacity_of
from evac.run.table import RUN_TABLE, STEP_TABLE
from evac.run.values import Event
from evac.run.view import RunView
from evac.run.waits import event_kind
from evac.steps.registry import kind_of
from evac.views.wait_words import possible
from evac.views.words import duration

NAMED_BY: Final = len("sha256:") + 12


def to_approve(run: str, names: Sequence[str] = ()) -> str:
    """The command that approves."""
    return f"evac approve {run}{''.join(f' --confirm {name}' for name in names)} --reason WHY"


def to_apply(plan: str, lost: Sequence[str]) -> str:
    """The command that applies a stored plan; names as much of its digest as people can read to each
    other.
    """
    typed = "".join(f" --confirm {name}" for name in lost)
    return f"evac apply {plan[:NAMED_BY]} ESTATE --execute{typed} --reason WHY"


RequestVerb = Literal["approve", "pause", "resume", "retry", "skip", "cancel", "undo", "attest", "limit"]
VERBS: Final[tuple[RequestVerb, ...]] = get_args(RequestVerb)
TEXT_MOST: Final = 2_000
VALUE_MOST: Final = 16_384


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    id: str
    """Unique, made by the requester."""
    verb: RequestVerb
    who: str
    reason: str
    step: str = ""
    """For retry, skip, undo, attest; for approve: the step to approve, empty for the run. undo without a step
    undoes the run.
    """
    at_ms: int = 0
    for_ms: int = 0
    then: Literal["resume", "cancel", "stay"] = "stay"
    """For pause (0: the longest that policy allows), and what happens when it ends."""
    ticket: str = ""
    envelope: Envelope | None = None
    signature: str = ""
    evidence: Mapping[str, str | int | bool] = field(default_factory=lambda: MappingProxyType({}))
    typed: tuple[str, ...] = ()
    """For approve: site names that the person typed, because more than one is left."""
    limit: str = ""
    value: str = ""
    """For limit; value in units, or in percent of the estate's figure."""
    glass: GlassUse | None = None
    """Of the break-glass credential used, if any; journals put it before the reason. The reason itself stays
    unchanged, because approvals sign it.
    """
    proof: Proven = field(default_factory=Proven)
    """Recorded by the war room that received it; trusted only if that room is known."""
    made: str = ""
    """Of the run and plan that it concerns (`RunView.made`): a request replayed later does not match."""
    content: str = field(default="", compare=False)
    """Digest of all fields above as stored, without the proof's mark: what a room signs."""

    @property
    def full_reason(self) -> str:
        """As journals record it."""
        if self.glass is None:
            return self.reason
        return f'{self.glass.words}: signed for "{self.glass.signed_for}"; {self.reason}'[:TEXT_MOST]


def prefix_of(run: str) -> str:
    return f"request/{run}/"


def key_of(run: str, request: str) -> str:
    return prefix_of(run) + request


def encode(request: Request) -> bytes:
    """The value under its key. Raises RunError if fields are missing or excessive."""
    _check(request)
    value = orjson.dumps(_told(request))
    if len(value) > VALUE_MOST:
        raise RunError(
            "request-too-long", f"a request of {len(value)} bytes is too large; the maximum is {VALUE_MOST}"
        )
    return value


def _told(request: Request) -> dict[str, Any]:
    return {
        "verb": request.verb,
        "who": request.who,
        "reason": request.reason,
        "step": request.step,
        "at_ms": request.at_ms,
        "for_ms": request.for_ms,
        "then": request.then,
        "ticket": request.ticket,
        "envelope": None if request.envelope is None else envelope.to_data(request.envelope),
        "signature": request.signature,
        "evidence": dict(request.evidence),
        "typed": list(request.typed),
        "limit": request.limit,
        "value": request.value,
        "glass": None if request.glass is None else request.glass.to_data(),
        "proof": request.proof.to_data(),
        "made": request.made,
    }


def content_of(request: Request) -> str:
    """The content that `decode` will find."""
    return _digest(_told(request))


def _digest(told: Mapping[str, Any]) -> str:
    proof = {name: value for name, value in dict(told.get("proof") or {}).items() if name != "mark"}
    written = orjson.dumps({**told, "proof": proof}, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(written).hexdigest()


def decode(key: str, value: bytes) -> Request:
    """The request under a key. Raises RunError if it is not one."""
    try:
        told = orjson.loads(value)
        given = None if told.get("envelope") is None else envelope.from_data(told["envelope"])
        request = Request(
            key.rpartition("/")[2],
            told["verb"],
            told["who"],
            told["reason"],
            told.get("step", ""),
            int(told.get("at_ms", 0)),
            int(told.get("for_ms", 0)),
            told.get("then", "stay"),
            told.get("ticket", ""),
            given,
            told.get("signature", ""),
            dict(told.get("evidence", {})),
            tuple(str(name) for name in told.get("typed", ())),
            told.get("limit", ""),
            told.get("value", ""),
            GlassUse.from_data(told["glass"]) if told.get("glass") else None,
            Proven.from_data(told.get("proof") or {}),
            told.get("made", ""),
            _digest(told),
        )
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError("request-unreadable", f"{key} does not contain a request") from error
    _check(request)
    return request


def _check(request: Request) -> None:
    texts: tuple[object, ...] = (
        request.verb,
        request.who,
        request.reason,
        request.step,
        request.then,
        request.ticket,
        request.limit,
        request.value,
        request.made,
        "" if request.glass is None else request.glass.signed_for,
    )
    if not all(isinstance(text, str) and len(text) <= TEXT_MOST for text in texts):
        raise RunError("request-unreadable", "a request may contain only short strings")
    if request.verb not in VERBS:
        raise RunError("request-unknown", f"{request.verb} is not a verb", f"use one of: {', '.join(VERBS)}")
    if not is_plain(request.who):
        raise RunError("request-unreadable", "a name contains invisible characters", "type it again")
    if not request.who.strip() or not request.reason.strip():
        raise RunError("request-unsigned", "a request must say who makes it and why", "add --reason WHY")
    if request.then not in ("resume", "cancel", "stay") or request.for_ms < 0:
        raise RunError("request-then", "after a pause, a run can resume, cancel or stay paused")
    if request.verb in ("retry", "skip", "attest") and not request.step:
        raise RunError("request-step", f"{request.verb} needs a step id")
    if request.verb == "limit" and not (request.limit and request.value):
        raise RunError("request-limit", "limit needs a limit id and a value")


@dataclass(frozen=True, slots=True)
class RequestTerms:
    """Rules of policy for requests."""

    pause_most_ms: int = 3_600_000
    check: Callable[[RunView, Request, int], Proven] = lambda view, request, now_ms: Proven()
    """How the person behind a request was proven. Raises NotAllowed if they may not make it or are not proven
    as required.
    """
    learn: Callable[[str, Request], Awaitable[Request]] | None = None
    """Called before `check` with the run and the request: reads what the check needs. Returns the request
    without a break-glass use that is not proven.
    """
    dropped: Callable[[RunView], Collection[str]] = lambda view: ()
    """Approvers of the run who may no longer approve it: their approval no longer counts."""


def event_of(view: RunView, request: Request, now_ms: int, terms: RequestTerms) -> Event:
    """The event that the request becomes. Raises RunError (the state does not allow it), NotAllowed."""
    proof = terms.check(view, request, now_ms)
    kind = event_kind(request.verb, request.step)
    i = view.number(request.step) if request.step else -1
    _check_state(view, request, kind, i)
    data: dict[str, Any] = {"who": request.who, "reason": request.full_reason, "proof": proof.to_data()}
    data["request"] = request.id
    if request.glass is not None:
        data["break_glass"] = request.glass.to_data()
    if kind == "approved":
        given = request.envelope if request.envelope is not None else view.spec.envelope
        _check_typed(view, request)
        data |= {
            "ticket": request.ticket,
            "envelope": envelope.to_data(given),
            "signature": request.signature,
            "typed": sorted(set(request.typed)),
        }
        if dropped := sorted(set(terms.dropped(view)) - {request.who}):
            data["dropped"] = dropped
    elif kind == "paused":
        if request.for_ms > terms.pause_most_ms:
            raise NotAllowed(
                "pause-too-long", f"the policy lets a run pause for at most {duration(terms.pause_most_ms)}"
            )
        until_ms = now_ms + (request.for_ms or terms.pause_most_ms)
        data |= {"by": "operator", "until_ms": until_ms, "then": request.then}
    elif kind == "step_attested":
        data["evidence"] = dict(request.evidence)
    elif kind == "limit_changed":
        data |= {"limit": request.limit, "capacity": capacity_of(view.limits, request.limit, request.value)}
    return Event(kind, now_ms, request.step, view.attempts[i] if i >= 0 else 0, data)


def _check_typed(view: RunView, request: Request) -> None:
    """If more than one site is left, a person must have typed all names."""
    missing = [name for name in view.approvals.untyped if name not in {*view.approvals.typed, *request.typed}]
    if missing:
        names = " ".join(f"--confirm {name}" for name in view.approvals.to_type)
        raise NotAllowed(
            "second-site",
            f"{', '.join(view.approvals.to_type)} are evacuated at the same time: type all of their names "
            f"(evac approve {view.spec.run} {names} --reason WHY)",
        )


def _check_state(view: RunView, request: Request, kind: str, i: int) -> None:
    trigger = kind
    if kind == "resumed" and view.pause is not None and view.pause.back == "rolling_back":
        trigger = "resumed:rolling_back"
    if (view.phase, trigger) not in RUN_TABLE:
        raise RunError("request-refused", f"{request.verb}: the run is {view.phase}", possible(view))
    if i < 0:
        return
    phase = view.phases[i]
    if (phase, trigger) not in STEP_TABLE:
        hint = possible(view, request.step)
        raise RunError("request-refused", f"{request.verb}: {request.step} is {phase}", hint)
    if kind == "step_skipped" and not view.may_skip(i):
        hint = possible(view, request.step)
        raise RunError("request-refused", f"skip: {request.step} is {phase}", hint)
    if kind == "step_retried" and phase == "unknown" and not view.may_retry(i):
        raise RunError(
            "request-refused",
            f"retry: {request.step} is in doubt because of an undo, or is a step "
            "that is not in the current plan",
            f"check it; {possible(view, request.step)}",
        )
    if kind == "undo_asked":
        _check_undo(view, request, i)


def _check_undo(view: RunView, request: Request, i: int) -> None:
    step = view.steps[i]
    if step.data_set or kind_of(step.kind).makes_primary:
        raise NotAllowed(
            "undo-store",
            f"{step.id} moved a store; store moves are not undone",
            "plan the failback: evac plan --failback",
        )
    if above := view.built_on(i):
        raise RunError("undo-order", f"{', '.join(above[:5])} depends on {request.step}", "undo that first")


def check_event(view: RunView, event: Event) -> None:
    """Raises RunError for an event that the tables do not allow now, so that it is never written."""
    again = event.data.get("again_ms", -1)
    trigger = event.kind
    if event.kind == "step_failed" and again >= 0:
        trigger = "step_failed:again"
    elif event.kind == "step_observed":
        trigger = f"step_observed:{event.data['outcome']}"
    elif event.kind == "run_ended":
        trigger = f"run_ended:{event.data['phase']}"
    i = view.number(event.step) if event.step else -1
    fits = i < 0 or (view.phases[i], trigger) in STEP_TABLE
    if (view.phase, trigger) not in RUN_TABLE or not fits:
        now = view.phase if i < 0 else f"{view.phase}, {event.step} is {view.phases[i]}"
        raise RunError("event-refused", f"{event.kind}: the run is {now}", possible(view, event.step))
    if event.kind == "limit_changed" and not view.limits.knows(event.data["limit"]):
        raise RunError("limit-unknown", f"{event.data['limit']} is not a limit of this run")


def refused(
    request_key: str, verb: str, who: str, error: EvacError, now_ms: int, glass: GlassUse | None = None
) -> Event:
    """The event for a refused request, with the next step."""
    data: dict[str, Any] = {"who": who, "verb": verb, "why": error.message}
    data["request"] = request_key.rpartition("/")[2]
    data |= {"hint": error.hint} if error.hint else {}
    data |= {"break_glass": glass.to_data()} if glass is not None else {}
    return Event("request_refused", now_ms, data=data)
