"""Runs a trace: commands, and under each the lines that evac answers.

    plan NAME                       begins a plan; `limit`, `step` and `set` lines follow
    limit ID slots|rate N [WINDOW]
    step ID [key=value ...]         after=a,b uses=limit:units:hold,... and the fields of RunStep
    set key=value ...               approvals, horizon_ms, monitor_ms, attempts, sites, stores
    begin                           the run of the first plan is created
    say KIND [STEP] [key=value ...] an event from outside, at the present time
    go                              carries out what is decided; starts have no result until `say`
    at MS                           the present time
    crash TOKEN                     another leader replays the journal and takes over
    show                            the run and its steps

Answers are indented. `EVAC_WRITE_TRACES=1` writes them anew.
"""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from typing import Any

from evac.model.errors import RunError
from evac.model.run_policy import Envelope, Patience
from evac.run.decide import decide
from evac.run.state import RunView, apply, fingerprint, replay
from evac.run.values import Event, RunLimit, RunSpec, RunStep


def value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("[") and text.endswith("]"):
        return [one for one in text[1:-1].split(",") if one]
    return int(text) if text.lstrip("-").isdigit() else text


def pairs(words: list[str]) -> dict[str, Any]:
    return {key: value(text) for key, _, text in (word.partition("=") for word in words)}


class Trace:
    """One story. answers: what the last command led to."""

    def __init__(self) -> None:
        self.specs: list[RunSpec] = []
        self.events: list[Event] = []
        self.now_ms = 0
        self.view: RunView | None = None

    def command(self, line: str) -> list[str]:
        words = shlex.split(line)
        return getattr(self, f"do_{words[0]}")(words[1:]) or []

    def do_plan(self, words: list[str]) -> None:
        self.specs.append(RunSpec("run-1", "fire", words[0], (), patience=Patience(attempts=2), approvals=0))

    def do_limit(self, words: list[str]) -> None:
        limit = RunLimit(words[0], words[1], int(words[2]), int(words[3]) if len(words) > 3 else 0)  # type: ignore[arg-type]
        self.specs[-1] = replace(self.specs[-1], limits=(*self.specs[-1].limits, limit))

    def do_step(self, words: list[str]) -> None:
        given = pairs(words[1:])
        known = {field.name for field in fields(RunStep)}
        assert set(given) <= known, f"no field of a step: {set(given) - known}"
        if "after" in given:
            given["after"] = tuple(str(given["after"]).split(","))
        if "feeds" in given:
            given["feeds"] = tuple(given["feeds"])
        if "uses" in given:
            uses = (use.rsplit(":", 2) for use in given["uses"].split(","))
            given["uses"] = tuple((name, int(units), int(hold)) for name, units, hold in uses)
        start = {"kind": "start", "target": words[0], "start_ms": 0, "duration_ms": 1_000}
        step = RunStep(id=words[0], **{**start, **given})
        self.specs[-1] = replace(self.specs[-1], steps=(*self.specs[-1].steps, step))

    def do_set(self, words: list[str]) -> None:
        given, spec = pairs(words), self.specs[-1]
        if "attempts" in given:
            spec = replace(spec, patience=Patience(attempts=given.pop("attempts")))
        envelope = {key: tuple(given.pop(key)) for key in ("sites", "stores") if key in given}
        self.specs[-1] = replace(spec, envelope=replace(spec.envelope or Envelope(), **envelope), **given)

    def do_begin(self, words: list[str]) -> list[str]:
        self.view = RunView(self.specs[0], self.specs[1:])
        return self._put(Event("run_created", self.now_ms, data={"plan": self.specs[0].plan}))

    def do_at(self, words: list[str]) -> None:
        self.now_ms = int(words[0])

    def do_say(self, words: list[str]) -> list[str]:
        assert self.view is not None
        kind, rest = words[0], words[1:]
        step = rest.pop(0) if rest and "=" not in rest[0] else ""
        i = self.view.index.get(step, -1)
        data = pairs(rest)
        if kind == "approved":
            data["envelope"] = {key: data.pop(key) for key in ("sites", "stores") if key in data}
        attempt = data.pop("attempt", self.view.attempts[i] if i >= 0 else 0)
        return self._put(Event(kind, self.now_ms, step, attempt, data))

    def do_go(self, words: list[str]) -> list[str]:
        assert self.view is not None
        lines = []
        while effects := decide(self.view, self.now_ms):
            for effect in effects:
                if effect.event is not None:
                    lines += self._put(effect.event) or [_words(effect.event)]
                    continue
                lines.append(f"{effect.kind} {effect.step} ({effect.attempt})")
                if effect.kind != "observe":
                    kind = "step_started" if effect.kind == "start" else "undo_started"
                    lines += self._put(Event(kind, self.now_ms, effect.step, effect.attempt, {"token": 1}))
        return lines or ["nothing to do"]

    def do_crash(self, words: list[str]) -> list[str]:
        assert self.view is not None
        again = replay(self.specs[0], self.events, self.specs[1:])
        assert fingerprint(again) == fingerprint(self.view)
        self.view = again
        return self._put(
            Event("leader_changed", self.now_ms, data={"owner": "other", "token": int(words[0])})
        )

    def do_show(self, words: list[str]) -> list[str]:
        view = self.view
        assert view is not None
        lines = [view.phase + (f": {view.end_why}" if view.end_why else "")]
        if view.pause is not None:
            lines.append(f"paused by {view.pause.by}: {view.pause.reason}")
        lines += [f"{step.id} {view.phases[i]} ({view.attempts[i]})" for i, step in enumerate(view.steps)]
        return lines

    def _put(self, event: Event) -> list[str]:
        assert self.view is not None
        try:
            apply(self.view, event)
        except RunError as error:
            return [f"refused: {error.message}"]
        self.events.append(event)
        return []


def _words(event: Event) -> str:
    of = f" {event.step}" if event.step else ""
    data = " ".join(f"{key}={said}" for key, said in event.data.items() if said not in ("", "evac", 0))
    return f"-> {event.kind}{of} {data}".rstrip()


def retold(text: str) -> str:
    """The same story, with the answers that evac gives now."""
    trace, lines = Trace(), []
    for line in text.splitlines():
        if line.startswith("    "):
            continue
        lines.append(line)
        if line.strip() and not line.startswith("#"):
            lines += [f"    {answer}" for answer in trace.command(line)]
    return "\n".join(lines) + "\n"
