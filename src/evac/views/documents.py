"""Documents of runs as frozen values: a run, and a dry run. The single definition of what people and programs
see of them.

Text, JSON, pages, the OpenAPI document and the reader of a remote server are made of these classes; names
of fields are the keys of the JSON, and JSON is read by the types, so that no second list of keys is kept.
Keys that a document does not have are ignored, because a newer program may say more; a key with a default
may be missing, because an older one says less. Times are ISO 8601, UTC; null for never.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import orjson

from evac.model.observation import LeavingSite
from evac.model.records import dataclass
from evac.model.run_policy import Envelope
from evac.model.units import moment_words
from evac.run.boots.rules import why_waits
from evac.run.limits import LimitRow
from evac.run.recovery_groups import Returned, returned
from evac.run.values import ENDED, LEFT_WORDS, RunPhase, StepPhase, left_words
from evac.run.view import RunView
from evac.run.waits import Verb, run_verbs, step_verbs, waiting
from evac.views.sheet import Page
from evac.views.situation_view import abandon_hint, site_words
from evac.views.wait_words import FORECASTS, ForecastRow, WaitRow, forecast_row, wait_row
from evac.views.words import duration, moment, moment_ms, number, plural, wall_clock_here

SCHEMA_VERSION: Final = 1
LIMITS_MOST: Final = 100
SLOW_SHOWN: Final = 3
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
"""Step phases in order of urgency."""


@dataclass(frozen=True, slots=True)
class LossRow:
    """The most data that one promotion can lose."""

    store: str
    candidate: str
    """The site to promote."""
    milliseconds: int | None
    """null: not known."""
    basis: str
    """synchronous, seen, declared, moment or unknown."""
    words: str
    figure: str = ""
    """The amount, for people: `20.8 s`, `nothing`, `an unknown part`."""
    counted_to: str | None = None
    """Until when the old primary may have taken writes: when its fence was complete, or now."""
    is_final: bool = False
    """Whether the fence is complete, so that the amount no longer grows."""

    @property
    def sentence(self) -> str:
        """`20.8 s of writes of sessions: last seen 17 s before, 2.1 s behind then; final since ...`."""
        if self.milliseconds and self.figure:
            return self.known.replace(self.figure, f"{self.figure} of writes of {self.store}", 1)
        return f"{self.store}: {self.known}"

    @property
    def known(self) -> str:
        """The same without the store."""
        if self.basis != "seen" or self.counted_to is None:
            return self.words
        at_ms = moment_ms(self.counted_to)
        at = wall_clock_here().both(at_ms, at_ms, True)
        return f"{self.words}; {f'final, fenced at {at}' if self.is_final else f'as of {at}, and growing'}"


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Stores that must be restored to the same moment."""

    group: str
    state: str
    """waiting, together, apart or unknown."""
    words: str
    moments: Mapping[str, str | None]
    """Store -> the moment of its restored data; null until it is restored, or if it is not known."""


@dataclass(frozen=True, slots=True)
class LeftRow:
    """Something that the run did not restore."""

    name: str
    state: str
    """down, shed or unknown for a service; unprotected or beyond_rpo (data lost) for a store."""
    people: int
    """Number of users."""

    @property
    def label(self) -> str:
        """What kind of exception it is: data that may be lost and copies that follow no one are restored."""
        return "exception" if self.state in ("unprotected", "beyond_rpo") else "not restored"

    @property
    def words(self) -> str:
        return LEFT_WORDS.get(self.state, self.state)


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
    """Why it needs its own approval, whether or not that was given."""
    planned_at: str | None = None
    """When it was planned to begin; null until the run has begun."""
    predicted_ms: int = 0
    verbs: tuple[Verb, ...] = ()
    """Requests that are possible for it now."""


@dataclass(frozen=True, slots=True)
class DriftRow:
    """A completed step whose result was undone elsewhere."""

    step: str
    at: str
    corrected: bool
    """Whether evac did it again."""


@dataclass(frozen=True, slots=True)
class RunHead:
    """One run without its steps, which may number a hundred thousand."""

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
    """Why it ended as it did: what is still down, shed, lost or unprotected, then other reasons."""
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
    """Number of steps with unknown outcome."""
    undo_failed: int
    """Number of steps."""
    counts: Mapping[str, int]
    limits_changed: tuple[LimitRow, ...] = ()
    waits: tuple[WaitRow, ...] = ()
    verbs: tuple[Verb, ...] = ()
    """Requests that are possible for the run now."""
    slow: tuple[str, ...] = ()
    """The first steps that are running longer than predicted without an alarm yet."""
    slow_all: int = 0
    left: tuple[LeftRow, ...] = ()
    """For an ended run: what it did not restore."""
    bound_digest: str = ""
    """SHA-256 of what its steps do: drivers, settings, references. A signed approval covers it."""
    approval_proofs: Mapping[str, str] = field(default_factory=dict)
    """Person who approved -> how they proved their identity: `signature`, `password`, `name not proven`."""
    expected_at: str | None = None
    """Expected end, assuming that everything that waits for a person is done now."""
    groups: tuple[GroupRow, ...] = ()
    """Recovery groups that include a store restored by the run."""
    seen: tuple[LeavingSite, ...] = ()
    """Sites that the run treats as lost, as the leader saw them when the run was requested."""
    not_taken_over: str = ""
    """Why the leader could not take over the run, and what to do: no one executes it. Empty if it did."""
    drifted: tuple[DriftRow, ...] = ()
    """The last steps whose result was undone by something other than this run."""
    silent_since: str | None = None
    """Since when the store has not answered: everything else is as it was then. null: it answers."""


@dataclass(frozen=True, slots=True)
class RunDocument(RunHead):
    """One run with its steps: all of them, or the most urgent ones."""

    steps: tuple[StepRow, ...] = ()


@dataclass(frozen=True, slots=True)
class RunShown:
    """A run with what is known beyond its journal: the current leader, and what its promotions can lose."""

    view: RunView
    leader: str
    now_ms: int
    losses: tuple[LossRow, ...] = ()
    silent_ms: int = 0
    """Since when the store has not answered; 0 if it does."""
    untaken: str = ""
    """Why the leader could not take it over; empty if it did."""


def run_document(shown: RunShown, most: int | None = None) -> RunDocument:
    """`most`: maximum number of steps, most urgent first."""
    view = shown.view
    numbers = range(len(view.steps)) if most is None else by_need(view, most)
    return RunDocument(**_head(shown), steps=tuple(step_row(view, i) for i in numbers))


def run_head(shown: RunShown) -> RunHead:
    return RunHead(**_head(shown))


def _head(shown: RunShown) -> dict[str, Any]:
    view = shown.view
    envelope, lost = view.spec.envelope, {one.store: one.words for one in shown.losses}
    waits = tuple(wait_row(one, view.spec.run, lost) for one in waiting(view))
    slow = _slow(view, shown.now_ms)
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
        "why": end_words(view),
        "left": tuple(LeftRow(*one) for one in view.left),
        "slow": tuple(slow[:SLOW_SHOWN]),
        "slow_all": len(slow),
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
        "expected_at": moment(FORECASTS.end_ms(view, shown.now_ms)),
        "started_at": moment(view.started_ms),
        "ended_at": moment(view.last_ms) if view.phase in ENDED else None,
        "as_of": moment(shown.now_ms),
        "in_doubt": len(view.doubtful),
        "undo_failed": len(view.undo.broken),
        "counts": dict(sorted(view.counts.items())),
        "limits_changed": view.limits.changed()[:LIMITS_MOST],
        "waits": waits,
        "verbs": run_verbs(view),
        "approval_proofs": {who: proof.words for who, proof in sorted(view.approvals.proofs.items())},
        "seen": view.seen,
        "drifted": tuple(
            DriftRow(step, moment(at_ms) or "", corrected)
            for step, (at_ms, corrected) in list(view.drifted.items())[-LIMITS_MOST:]
        ),
        "not_taken_over": "" if view.phase in ENDED else shown.untaken,
        "silent_since": moment(shown.silent_ms) if shown.silent_ms else None,
        "groups": tuple(_group_row(one) for one in returned(view)),
    }


def _group_row(one: Returned) -> GroupRow:
    """`orders: db, mail, together at 2026-11-25 09:00:00 UTC`."""
    words = f"{one.group}: {', '.join(one.moments)}"
    allowed = f"up to {duration(one.tolerance_ms)} is tolerated"
    known = [at for at in one.moments.values() if at is not None]
    match one.state:
        case "waiting":
            words += " are not all restored yet"
        case "together":
            words += f" are as of {moment_words(min(known))}"
            words += f", at most {duration(one.apart_ms)} apart" if one.apart_ms else ""
        case "unknown":
            words += ": it is unknown to which point in time a person restored them"
        case "apart" if one.apart_ms is None:
            words += " are apart: not all of them are restored, and the others are current"
        case _:
            words += f" are {duration(one.apart_ms)} apart; {allowed}"
    rows = {store: moment(at * 1_000, "seconds") if at else None for store, at in one.moments.items()}
    return GroupRow(one.group, one.state, words, rows)


def _slow(view: RunView, now_ms: int) -> list[str]:
    if view.phase in ENDED or not view.counts.get("running", 0):
        return []
    return [
        step.id
        for i, step in enumerate(view.steps)
        if view.phases[i] == "running"
        and i not in view.stuck
        and i not in view.manual_running
        and now_ms - view.started[i] > step.duration_ms > 0
    ]


def slow_words(document: RunHead) -> str:
    """One line for all steps that are late without consequences yet; empty if there are none."""
    if not document.slow_all:
        return ""
    take = "takes" if document.slow_all == 1 else "take"
    words = f"{plural(document.slow_all, 'step')} {take} longer than predicted: {', '.join(document.slow)}"
    more = document.slow_all - len(document.slow)
    return f"{words} and {number(more)} more" if more else words


def end_words(view: RunView) -> str:
    """Why a run ended as it did; empty if there is nothing to say."""
    return "; ".join(filter(None, (left_words(view.left), view.end_why)))


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
        gate=view.stated_gate(i),
        planned_at=moment(view.started_ms + step.start_ms) if view.started_ms > 0 else None,
        predicted_ms=step.duration_ms,
        verbs=step_verbs(view, i),
    )


def took_ms(row: StepRow, now_ms: int) -> int | None:
    """Duration of its last attempt so far; None for a step that was never attempted."""
    began, ended = moment_ms(row.started_at), moment_ms(row.ended_at)
    return max(0, (ended if ended >= began else now_ms) - began) if began else None


def trouble_of(row: StepRow) -> str:
    """What a step waits for, or what went wrong with it; empty if neither. A wait takes precedence over the
    error of an earlier attempt.
    """
    if row.state in ("pending", "ready", "unknown"):
        asked = row.gate if row.state == "ready" and "approve" in row.verbs else ""
        if asked or row.waits_for:
            return asked or row.waits_for
    if row.error and row.state != "succeeded":
        return f"{row.error.message} [{row.error.code}]"
    return row.waits_for


SHOWN = 20


@dataclass(frozen=True, slots=True)
class StepChecked:
    """The check of one step, as text."""

    id: str
    actions: tuple[str, ...]
    problems: tuple[str, ...]
    """What would make it fail now."""
    manual: bool
    gate: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """The result of a dry run."""

    schema_version: int
    plan_digest: str
    question: str
    ready: bool
    needs_approval: tuple[str, ...]
    """What the policy's envelope does not cover."""
    steps: tuple[StepChecked, ...]
    leaving: tuple[LeavingSite, ...] = ()
    """Sites that the plan treats as lost, as observed now."""


def dry_run_of(
    digest: str,
    title: str,
    steps: Sequence[StepChecked],
    needs_approval: Sequence[str],
    leaving: Sequence[LeavingSite] = (),
) -> DryRun:
    is_ready = not any(step.problems for step in steps)
    return DryRun(1, digest, title, is_ready, tuple(needs_approval), tuple(steps), tuple(leaving))


def dry_run_text(document: DryRun, saved_as: str, width: int, colour: bool) -> str:
    """One screen: blockers first, then the steps, then what an approval must cover."""
    steps = document.steps
    page = Page(width, colour)
    stuck = [step for step in steps if step.problems]
    by_hand = sum(1 for step in steps if step.manual)
    alive = [one.site for one in document.leaving if one.state == "answers"]
    verdict = f"would work once {' and '.join(alive)} is down" if alive else "would work now"
    if stuck:
        verdict = f"{plural(len(stuck), 'step')} would fail"
    page.title(f"Dry run, {document.question}: {verdict}")
    page.line()
    page.line(f"{plural(len(steps), 'step')}, {number(by_hand)} by hand; nothing was changed")
    for one in document.leaving:
        page.line(f"now: {site_words(one)}", "warning" if one.state != "silent" or one.is_last else "")
    if stuck:
        page.line()
        page.line("Problems", "bold")
        for step in stuck[:SHOWN]:
            page.line(f"{step.id}: {'; '.join(step.problems)}", "error")
    page.line()
    page.table(("step", "what"), [(step.id, "; ".join(step.actions)) for step in steps[:SHOWN]])
    if len(steps) > SHOWN:
        page.line(f"and {plural(len(steps) - SHOWN, 'step')} more: --output json", "dim")
    gates = [step for step in steps if step.gate]
    if gates or document.needs_approval:
        page.line()
        page.line("Needs a person's approval", "bold")
        for reason in document.needs_approval:
            page.line(f"it {reason}", "warning")
        for step in gates[:SHOWN]:
            page.line(f"{step.id}: {step.gate}", "warning")
    page.line()
    if stuck:
        page.line(f"next: fix the problems above, then ask again: evac apply {saved_as} ESTATE", "dim")
    elif alive:
        page.line(abandon_hint(alive, f"evac apply {saved_as} ESTATE --execute"), "dim")
    else:
        typed = "".join(f" --confirm {one.site}" for one in document.leaving)
        page.line(f"next: evac apply {saved_as} ESTATE --execute{typed} --reason WHY", "dim")
    return page.text()


Document = TypeVar("Document")


class Mismatch(ValueError):
    """The input is not such a document; the text is the place where it differs."""


def document_json(document: object) -> str:
    """For people and programs: two spaces per level, keys in the order of the fields."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def read(shape: type[Document], value: Any, place: str) -> Document:
    """The document from parsed JSON. Raises Mismatch."""
    found: Document = _read(shape, value, place)
    return found


def _read(shape: Any, value: Any, place: str) -> Any:
    origin, parts = get_origin(shape), get_args(shape)
    if shape is Any:
        return value
    if origin in (Union, UnionType):
        return _first(parts, value, place)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(parts[0], one, place) for one in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {str(key): _read(parts[1], one, f"{place}.{key}") for key, one in value.items()}
    if is_dataclass(shape) and isinstance(value, Mapping):
        return _whole(shape, value, place)
    plain = str if origin is Literal else shape  # a newer program may know more words
    is_plain = isinstance(plain, type) and isinstance(value, plain)
    if is_plain and (plain is bool or not isinstance(value, bool)):
        return value
    raise Mismatch(place)


def _first(shapes: tuple[Any, ...], value: Any, place: str) -> Any:
    """The first shape that fits; if none does, the place where the first one differs."""
    if value is None and NoneType in shapes:
        return None
    wrong: Mismatch | None = None
    for shape in shapes:
        try:
            return _read(shape, value, place)
        except Mismatch as error:
            wrong = wrong or error
    raise wrong or Mismatch(place)


def _whole(shape: Any, value: Mapping[str, Any], place: str) -> Any:
    given: dict[str, Any] = {}
    for name, (kind, is_needed) in _fields(shape).items():
        if name in value:
            given[name] = _read(kind, value[name], f"{place}.{name}")
        elif is_needed:
            raise Mismatch(f"{place}.{name}")
    return shape(**given)


@cache
def _fields(shape: Any) -> Mapping[str, tuple[Any, bool]]:
    """Name -> type, and whether it has no default."""
    hints = get_type_hints(shape)
    return {
        one.name: (hints[one.name], one.default is MISSING and one.default_factory is MISSING)
        for one in fields(shape)
    }
