"""A run as spans of a trace: a view of its journal, folded event by event.

One span for the run, one for each attempt of a step, and one for each time that it waited for people. Names
of attributes are those of the semantic conventions of OpenTelemetry for CI/CD; what they have no name for
begins with `evac.`. Ids follow from the run alone, so that a journal that is read twice gives the same spans.

Words of people and of drivers stay in the journal: no attribute holds a reason, a message or evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from evac.model.step_id import StepId
from evac.run.values import Event

OPEN_MOST: Final = 200_000
_RESULTS: Final = MappingProxyType(
    {
        "succeeded": "success",
        "succeeded_with_exceptions": "success",
        "failed": "failure",
        "cancelled": "cancellation",
        "timed_out": "timeout",
    }
)
_WAITS: Final = MappingProxyType(
    {
        "approval_needed": ("approval", ("run_started",)),
        "paused": ("pause", ("resumed", "cancelled")),
        "held": ("hold", ("released",)),
    }
)
"""What begins a wait -> its name, and what ends it."""


@dataclass(frozen=True, slots=True)
class RunSpan:
    """A span that is over."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    """16, 8 and 8 bytes; parent empty for the run itself."""
    begin_ms: int
    end_ms: int
    attributes: Mapping[str, str | int]
    error: str = ""
    """A class of error, empty where there was none."""
    moments: tuple[tuple[int, str], ...] = ()
    """(when, name) of what happened meanwhile."""


@dataclass(slots=True)
class _Open:
    name: str
    key: str
    begin_ms: int
    attributes: dict[str, str | int]
    moments: list[tuple[int, str]] = field(default_factory=list)


class RunSpans:
    """The fold of one run. Feed it every event from the first one on."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.trace = hashlib.sha256(f"evac run {run}".encode()).digest()[:16]
        self._root = _Open("RUN", "", 0, {"cicd.pipeline.run.id": run, "cicd.pipeline.action.name": "RUN"})
        self._steps: dict[tuple[str, str], _Open] = {}
        self._waits: dict[str, _Open] = {}
        self._fed = 0
        self.over = False

    def feed(self, event: Event) -> list[RunSpan]:
        """What is over with this event."""
        self._fed += 1
        if event.step:
            return self._of_step(event)
        if event.kind == "run_created":
            self._created(event)
        elif event.kind == "plan_replaced":
            self._root.moments.append((event.at_ms, "plan replaced"))
            self._root.attributes["evac.plan"] = _digest(event.data.get("plan"))
        elif event.kind == "leader_changed":
            self._root.moments.append((event.at_ms, "leader changed"))
        found = self._of_wait(event)
        if event.kind == "run_ended":
            found += self._ended(event)
        return found

    def _created(self, event: Event) -> None:
        data, about = event.data, self._root.attributes
        self._root.begin_ms = event.at_ms
        scenario = str(data.get("scenario", ""))
        if scenario:
            about["cicd.pipeline.name"] = scenario[:200]
            self._root.name = f"RUN {scenario}"[:200]
        about |= {
            "evac.incident": str(data.get("incident", ""))[:200],
            "evac.plan": _digest(data.get("plan")),
        }
        if data.get("mode"):
            about["evac.mode"] = str(data["mode"])[:40]

    def _of_wait(self, event: Event) -> list[RunSpan]:
        """Spans of waiting for people; a second pause does not begin a second span."""
        found = []
        for began, (name, ends) in _WAITS.items():
            if event.kind == began and began not in self._waits and not self.over:
                key = f"{name}/{self._fed}"
                self._waits[began] = _Open(f"wait for {name}", key, event.at_ms, {"evac.wait": name})
            elif event.kind in ends and began in self._waits:
                found.append(self._close(self._waits.pop(began), event.at_ms))
        return found

    def _of_step(self, event: Event) -> list[RunSpan]:
        if event.kind in ("step_started", "undo_started"):
            return self._begins(event, "undo" if event.kind == "undo_started" else "")
        way, known = "", self._steps.get((event.step, ""))
        if known is None or event.kind.startswith("undo"):
            way = "undo"
            known = self._steps.get((event.step, way))
        if known is None:
            return []
        result, error = _result(event)
        if not result:
            known.moments.append((event.at_ms, event.kind.removeprefix("step_")))
            return []
        del self._steps[event.step, way]
        known.attributes["cicd.pipeline.task.run.result"] = result
        return [self._close(known, event.at_ms, error)]

    def _begins(self, event: Event, way: str) -> list[RunSpan]:
        """A new attempt; one that was still open is over, and nobody knows how it ended."""
        before = self._steps.pop((event.step, way), None)
        found = [] if before is None else [self._lost(before, event.at_ms)]
        if len(self._steps) < OPEN_MOST:
            step = StepId.parse(event.step)
            word, target = f"{way} {step.kind}".strip(), step.target
            self._steps[event.step, way] = _Open(
                word,
                f"{event.step}/{self._fed}",
                event.at_ms,
                {
                    "cicd.pipeline.run.id": self.run,
                    "cicd.pipeline.task.name": event.step[:200],
                    "cicd.pipeline.task.run.id": f"{event.step}/{event.attempt}"[:200],
                    "cicd.pipeline.task.type": "deploy",
                    "evac.step.kind": word,
                    "evac.target": target[:200],
                    "evac.attempt": event.attempt,
                },
            )
        return found

    def _lost(self, known: _Open, at_ms: int) -> RunSpan:
        known.attributes["cicd.pipeline.task.run.result"] = "error"
        return self._close(known, at_ms, "outcome-unknown")

    def _ended(self, event: Event) -> list[RunSpan]:
        phase = str(event.data.get("phase", ""))
        found = [self._lost(one, event.at_ms) for one in self._steps.values()]
        found += [self._close(one, event.at_ms) for one in self._waits.values()]
        self._steps.clear()
        self._waits.clear()
        result = _RESULTS.get(phase, "error")
        self._root.attributes |= {"cicd.pipeline.result": result, "evac.run.phase": phase[:40]}
        self.over = True
        return [*found, self._close(self._root, event.at_ms, "" if result == "success" else phase or "error")]

    def _close(self, one: _Open, at_ms: int, error: str = "") -> RunSpan:
        if error:
            one.attributes["error.type"] = error[:100]
        parent = _id(self.run, "") if one.key else b""
        return RunSpan(
            one.name,
            self.trace,
            _id(self.run, one.key),
            parent,
            one.begin_ms,
            max(one.begin_ms, at_ms),
            MappingProxyType(one.attributes),
            error,
            tuple(one.moments[:100]),
        )


def _result(event: Event) -> tuple[str, str]:
    """(result by the conventions, class of error) of the end of an attempt; ("", "") where it goes on."""
    match event.kind:
        case "step_succeeded" | "undo_done" | "step_attested":
            return "success", ""
        case "step_failed" | "undo_failed":
            return "failure", str(event.data.get("code") or "failed")
        case "step_skipped":
            return "skip", ""
        case "step_observed":
            outcome = str(event.data.get("outcome", ""))
            return {"done": ("success", ""), "absent": ("failure", "absent")}.get(outcome, ("", ""))
    return "", ""


def _id(run: str, key: str) -> bytes:
    return hashlib.sha256(f"evac span {run}\0{key}".encode()).digest()[:8]


def _digest(plan: object) -> str:
    return str(plan or "")[:80]
