"""Recorded runs as files: what the run executes, its events as the journal holds them, and where they led.

A file once written is never written again: journals of old runs must replay for ever.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evac.engine.runs.reading import decode
from evac.model.run_policy import Envelope, Pace, Patience
from evac.run.state import RunView
from evac.run.values import Event, RunLimit, RunSpec, RunStep


def led_to(view: RunView) -> dict[str, Any]:
    """Where a run stands, in words that do not change with the code."""
    return {
        "phase": view.phase,
        "why": view.end_why,
        "steps": {step.id: [view.phases[i], view.attempts[i]] for i, step in enumerate(view.steps)},
    }


def from_file(path: Path) -> tuple[list[RunSpec], list[Event], dict[str, Any]]:
    specs: list[RunSpec] = []
    events: list[Event] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            events.append(decode(line.encode()))
            continue
        told = json.loads(line)
        if "led_to" in told:
            return specs, events, told["led_to"]
        specs.append(_spec(told["spec"]))
    raise AssertionError(f"{path} does not say where it led")


def _spec(told: dict[str, Any]) -> RunSpec:
    steps = tuple(
        RunStep(
            **{
                **step,
                "after": tuple(step["after"]),
                "uses": tuple(map(tuple, step["uses"])),
                "feeds": tuple(step.get("feeds", ())),
            }
        )
        for step in told["steps"]
    )
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in told["envelope"].items()
    }
    pace = Pace(**{**told["pace"], "shares": tuple(told["pace"]["shares"])})
    return RunSpec(
        **{
            **told,
            "steps": steps,
            "limits": tuple(RunLimit(**limit) for limit in told["limits"]),
            "envelope": Envelope(**given),
            "patience": Patience(**told["patience"]),
            "pace": pace,
        }
    )
