"""The timeline: run journals, the watch journal and people's notes in one deterministic order, in words.
Pure.

Records of one stream keep their order, whatever their writers' clocks: each is placed no earlier than the
latest one before it in its stream. Records of different streams at the same moment are ordered by kind of
stream, its name, and their number. Events are worded for tired readers: what happened, to what, by whom and
why.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final

from evac.incident.incident import Dossier, Summary, belongs, note_source, summary
from evac.incident.records import WATCH, Entry, Note, RunRecord, Source, Weight, in_order
from evac.incident.services import Fate, Level
from evac.model.access import Proven
from evac.run.patience import is_alarm
from evac.run.state import apply
from evac.run.values import Event, RunSpec, RunStep, left_of, left_words
from evac.run.view import RunView
from evac.steps.registry import kind_of

Told = tuple[str, str, Weight]
"""Kind, words, weight."""

TEXT_MOST: Final = 500

_PAUSED: Final = {"gate": ": a step needs approval", "step": ": a step needs a person"}
"""What made a run pause by itself."""


def told(event: Event, step: RunStep | None) -> Told:
    """A timeline entry's content for an event. step: for events of a step, as the run knows it."""
    if step is not None or event.step:
        return _of_step(event, step)
    return _OF_RUN.get(event.kind, _plain)(event.data)


def _plain(data: Mapping[str, Any]) -> Told:
    return "noted", _cut(", ".join(f"{key} {data[key]}" for key in sorted(data))) or "noted", "detail"


def _cut(words: Any) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= TEXT_MOST else f"{text[: TEXT_MOST - 2]} …"


def _dropped(data: Mapping[str, Any]) -> str:
    """Whose earlier approval no longer counts."""
    names = data.get("dropped") or ()
    who = ", ".join(map(_cut, names))
    return f"; must be given again, because the person or key is no longer listed: {who}" if names else ""


def _by(data: Mapping[str, Any]) -> str:
    """` by kim (signature): reason`, as far as known."""
    who = f" by {_cut(data['who'])}" if data.get("who") else ""
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        who += f" ({Proven.from_data(data['proof']).words})" if who and data.get("proof") else ""
    return who + (f": {_cut(data['reason'])}" if data.get("reason") else "")


def _ended(data: Mapping[str, Any]) -> Told:
    phase = str(data.get("phase", "")).replace("_", " ")
    more = "; ".join(filter(None, (left_words(left_of(data.get("left", ()))), _cut(data.get("why", "")))))
    return "ended", f"the run ended: {phase}" + (f"; {more}" if more else ""), "main"


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
            f"a run was created for {d.get('scenario') or 'its plan'}{_by(d)}",
            "main",
        ),
        "approval_needed": lambda d: (
            "waits",
            "approval is needed"
            + (f": {_cut('; '.join(map(str, d['outside'])))}" if d.get("outside") else ""),
            "main",
        ),
        "approved": lambda d: ("approved", f"approved{_by(d)}{_dropped(d)}", "main"),
        "run_started": lambda d: ("started", "the run began", "main"),
        "leader_changed": lambda d: (
            "leader",
            f"{d.get('owner') or 'another controller'} leads now",
            "detail",
        ),
        "paused": lambda d: ("paused", f"paused{_by(d)}{_PAUSED.get(d.get('by', ''), '')}", "main"),
        "resumed": lambda d: ("resumed", f"resumed{_by(d)}", "main"),
        "held": lambda d: ("held", f"everything was put on hold{_by(d)}", "main"),
        "released": lambda d: ("released", f"the hold was released{_by(d)}", "main"),
        "cancelled": lambda d: ("cancelled", f"cancelled{_by(d)}", "main"),
        "rollback_started": lambda d: (
            "rolled back",
            f"completed steps are being rolled back{_by(d)}",
            "main",
        ),
        "plan_replaced": _replaced,
        "made_ungraceful": lambda d: ("decided", f"no grace period left: {_cut(d.get('why', ''))}", "main"),
        "pace_changed": lambda d: ("pace", f"the pace changed: {_cut(d.get('why', ''))}", "detail"),
        "limit_changed": lambda d: (
            "limit",
            f"the limit {d.get('limit', '')} is now {d.get('capacity', '?')}{_by(d)}",
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
            f"evac abandoned the boot server {d.get('server', '')}: {_cut(d.get('why', ''))}",
            "main",
        ),
        "request_refused": lambda d: (
            "refused",
            f"{d.get('verb', 'a request')}"
            + (f" by {_cut(d['who'])}" if d.get("who") else "")
            + f" was refused: {_cut(d.get('why', ''))}",
            "main",
        ),
        "drift_seen": lambda d: ("drift", "someone else changed the result", "main"),
        "monitoring_started": lambda d: (
            "watched",
            "all steps are done; the result is being monitored",
            "main",
        ),
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
        return "vouched", f"{event.step}: confirmed as done{by}", "main"
    if kind == "step_failed":
        why = _cut(data.get("message") or data.get("code") or "no reason given")
        again = data.get("again_ms", -1)
        return (
            ("failed", f"{event.step} failed: {why}", "main")
            if again < 0
            else ("retried", f"{event.step} failed and is being retried: {why}", "detail")
        )
    plain: dict[str, Told] = {
        "step_started": ("begun", f"{event.step} started, attempt {event.attempt}", "detail"),
        "step_unknown": ("unknown", f"the outcome of {event.step} is unknown; evac is checking", "main"),
        "step_observed": ("looked", f"{event.step}: it looks {data.get('outcome', 'unclear')}", "detail"),
        "step_waits": ("waits", f"{event.step} waits: {_cut(data.get('why', ''))}", "detail"),
        "step_skipped": ("skipped", f"{event.step} was skipped{by}", "main"),
        "step_retried": ("retried", f"{event.step} is being retried{by}", "main"),
        "step_stuck": (
            "late",
            f"{event.step} is late: {_seconds(data.get('running_ms', 0))} so far, "
            f"{_seconds(data.get('predicted_ms', 0))} predicted",
            "main" if is_alarm(data) else "detail",
        ),
        "gate_opened": ("approved", f"{event.step} may continue{by}", "main"),
        "undo_asked": ("undo", f"{event.step} will be rolled back{by}", "main"),
        "undo_started": ("undo", f"{event.step} is being rolled back", "detail"),
        "undo_done": ("undone", f"{event.step} was rolled back", "main"),
        "undo_failed": (
            "failed",
            f"{event.step} could not be rolled back: {_cut(data.get('message', ''))}",
            "main",
        ),
        "drift_seen": ("drift", f"someone else changed the result of {event.step}", "main"),
    }
    return plain.get(kind, ("noted", f"{event.step}: {kind.replace('_', ' ')}", "detail"))


def _seconds(milliseconds: int) -> str:
    return f"{-(-milliseconds // 1_000):,} s"


def _done(step: RunStep | None, target: str, name: str) -> Told:
    if step is None:
        return "done", f"{name} is done", "detail"
    kind, words, weight = kind_of(step.kind).entry
    where = f" in {step.site}" if step.site else ""
    return kind, words.format(target=target, where=where), weight


_WATCH, _RUN, _FATE, _NOTE = range(4)
_Place = tuple[int, int, str, int, int]
"""Time, never before an earlier record of its stream; kind of stream, its name, number, and a tie-breaker."""
_Placed = tuple[int, int, str, int, int, Entry]

_LEVEL_WORDS: Final[dict[Level, tuple[str, str]]] = {
    "down": ("down", "is down"),
    "degraded": ("degraded", "serves at reduced capacity"),
    "moving": ("moving", "is being moved while serving"),
    "up": ("restored", "is fully restored"),
}
_NOTE_KINDS: Final = {
    "command": "command taken",
    "draft": "draft",
    "update": "published",
    "state": "status",
    "fact": "fact",
    "resolved": "resolved",
    "reopened": "reopened",
    "note": "note",
}


class Telling:
    """Collects the entries of a run: each event once, a step by the plan in force when it happened. places:
    of the entries, in order; view: the run after the last one.
    """

    def __init__(self, incident: str, spec: RunSpec, others: Sequence[RunSpec] = ()) -> None:
        self.view = RunView(spec, others)
        self.places: list[_Place] = []
        self.entries: list[Entry] = []
        self._incident, self.run, self._latest_ms = incident, spec.run, 0

    def read_on(self, events: Sequence[Event]) -> None:
        """Takes all events of the run and skips those already collected."""
        for event in events[len(self.entries) :]:
            self._take(event, len(self.entries) + 1)

    def _take(self, event: Event, number: int) -> None:
        view = self.view
        apply(view, event)
        self._latest_ms = max(self._latest_ms, event.at_ms)
        i = view.index.get(event.step, -1) if event.step else -1
        kind, words, weight = told(event, view.steps[i] if i >= 0 else None)
        self.places.append((self._latest_ms, _RUN, self.run, number, 0))
        self.entries.append(
            Entry(
                event.at_ms,
                kind,
                words,
                Source(self.run, number),
                self._incident,
                self.run,
                event.step,
                weight,
            )
        )


def telling_of(incident: str, record: RunRecord) -> Telling:
    """Collects all entries of a run."""
    found = Telling(incident, record.spec, record.others)
    found.read_on(record.events)
    return found


NO_TELLINGS: Final[Mapping[str, Telling]] = MappingProxyType({})


def timeline(
    dossier: Dossier, told_of: Summary | None = None, tellings: Mapping[str, Telling] = NO_TELLINGS
) -> tuple[Entry, ...]:
    """All entries. told_of: the summary, tellings: the collected runs, if the caller has them already."""
    about = summary(dossier) if told_of is None else told_of
    told_by = [tellings.get(r.run) or telling_of(dossier.incident, r) for r in dossier.runs]
    few = [*_of_watching(dossier, about), *_of_people(dossier), *_of_services(dossier, about, told_by)]
    told_by.sort(key=lambda telling: len(telling.places))
    for telling in told_by[:-1]:
        few += [(*place, entry) for place, entry in zip(telling.places, telling.entries, strict=True)]
    few.sort(key=lambda row: row[:5])
    return tuple(_among(told_by[-1], few) if told_by else (row[5] for row in few))


def _among(telling: Telling, few: Iterable[_Placed]) -> list[Entry]:
    """Merges the entries of one run, which may be many and are in order, with the few others."""
    found: list[Entry] = []
    begin = 0
    for row in few:
        end = bisect_left(telling.places, row[:5], begin)
        found += telling.entries[begin:end]
        found.append(row[5])
        begin = end
    return found + telling.entries[begin:]


TOGETHER: Final = ("moved", "restored", "moving", "degraded", "down")
"""Kinds of entries that one record may give for many services, most severe last."""


def grouped(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], ...]:
    """Groups entries of one kind that one record gives for several services; all others stay separate."""
    found: list[tuple[Entry, ...]] = []
    for _, block in groupby(entries, lambda e: (e.at_ms, e.source, e.kind in TOGETHER)):
        rows: dict[str, list[Entry]] = {}
        for number, entry in enumerate(block):
            rows.setdefault(entry.kind if entry.kind in TOGETHER else str(number), []).append(entry)
        found += [tuple(row) for row in sorted(rows.values(), key=_gravity)]
    return tuple(found)


def _gravity(row: Sequence[Entry]) -> int:
    return TOGETHER.index(row[0].kind) if row[0].kind in TOGETHER else 0


def _of_watching(dossier: Dossier, about: Summary) -> Iterator[_Placed]:
    latest, sites = 0, frozenset(about.sites)
    for notice in dossier.notices:
        latest = max(latest, notice.at_ms)
        if not belongs(dossier, notice, about.begun_ms, about.ended_ms, sites):
            continue
        run = str(notice.data.get("run", ""))
        weight = "main" if notice.kind in ("verdict", "loss", "trouble", "refused") else "detail"
        entry = Entry(
            notice.at_ms,
            notice.kind,
            notice.words,
            Source(WATCH, notice.number),
            dossier.incident,
            run,
            str(notice.data.get("step", "")),
            weight,  # type: ignore[arg-type]
        )
        yield latest, _WATCH, WATCH, notice.number, 0, entry


def _of_services(dossier: Dossier, about: Summary, told_by: Iterable[Telling]) -> Iterator[_Placed]:
    """What the records mean for each service; each entry names the record that completes it."""
    runs = {telling.run: telling.places for telling in told_by}
    for number, fate in enumerate(about.fates):
        for change in fate.changes:
            kind, words = _LEVEL_WORDS[change.level]
            if change.level == "degraded" and _came_from_down(fate, change.at_ms):
                kind, words = "restored", "is serving again at reduced capacity"
            moved = any(other.level == "moving" for other in fate.changes) and not fate.was_down
            if change.level == "up" and moved:
                kind, words = "moved", "has moved"
            run = change.source.stream if change.source.stream in runs else ""
            entry = Entry(
                change.at_ms,
                kind,
                f"{fate.service} {words}",
                change.source,
                dossier.incident,
                run,
                service=fate.service,
            )
            at_ms = runs[run][change.source.number - 1][0] if run else change.at_ms
            yield at_ms, _FATE, change.source.stream, change.source.number, number, entry


def _came_from_down(fate: Fate, at_ms: int) -> bool:
    before = [change.level for change in fate.changes if change.at_ms < at_ms]
    return bool(before) and before[-1] == "down"


def _of_people(dossier: Dossier) -> Iterator[_Placed]:
    for number, note in enumerate(in_order(dossier.notes)):
        entry = Entry(
            note.at_ms,
            _NOTE_KINDS[note.kind],
            _said(note),
            note_source(note),
            dossier.incident,
            weight="detail" if note.kind == "fact" else "main",
        )
        yield note.at_ms, _NOTE, note.id, number, 0, entry


def _said(note: Note) -> str:
    """A note in one line, with its author."""
    text = " ".join(note.text.split())
    more = f": {text}" if text else ""
    if note.kind == "command":
        return (
            f"{note.value} is in command" if note.value else "there is no incident commander now"
        ) + f" ({note.who}){more}"
    if note.kind == "state":
        return f"{note.who} says that {note.name} is {note.value}{more}"
    if note.kind == "fact":
        return f"{note.who} says: {note.name.replace('_', ' ')} is {' '.join(note.value.split())}{more}"
    if note.kind in ("resolved", "reopened"):
        return f"{note.kind} by {note.who}{more}"
    named = f"{note.name}: " if note.name else ""
    words = {"draft": "drafts", "update": "publishes", "note": "notes"}[note.kind]
    return f"{note.who} {words}: {named}{text}"
