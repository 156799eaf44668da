"""A fire as the journal tells it: a plan written down by hand, bound and carried out by the run itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evac.incident.incident import Dossier
from evac.incident.records import Note, Notice, RunRecord, StoreLoss
from evac.model.plan import Certificate, Outcome, Plan, Step
from evac.model.scenario import Scenario, ScenarioKind
from evac.run.values import Event, RunSpec, RunStep
from tests.unit.run.world import World

T0 = 1_764_000_000_000
"""2025-11-24 16:00 UTC."""
DIGEST = "sha256:plan"


def step(kind: Any, target: str, milestone: str = "", after: Sequence[str] = (), at: int = 0) -> Step:
    name = ":".join(filter(None, (kind, target, milestone)))
    return Step(name, kind, target, at, at + 1_000, milestone=milestone, after=tuple(after), pool="anyang")


def outcome(service: str, state: Any, people: int, base: int, top: int = 0, **more: Any) -> Outcome:
    """base, top: how long each milestone is missing, in milliseconds."""
    back = None if state in ("shed", "unplaced") else base
    held = 0 if state == "shed" else back
    return Outcome(service, state, held, held, base, top, back, 60_000, people, 0, **more)


STEPS = (
    step("fence", "db"),
    step("promote", "db", after=["fence:db"]),
    step("shed", "ads"),
    step("start", "web", "base", after=["promote:db"]),
    step("verify", "web", "base", after=["start:web:base"]),
    step("shift", "web", "base", after=["verify:web:base"]),
    step("start", "web", "top", after=["shift:web:base"]),
)
OUTCOMES = (
    outcome("web", "restored", 150_000, 4_000, 5_000),
    outcome("ads", "shed", 10, 9_000),
    outcome("cart", "restored", 40_000, 2_000, critical=("promote:db",)),
    outcome("gone", "unplaced", 5, 9_000),
    outcome("fine", "running", 7, 0),
)


def plan_of(
    kind: ScenarioKind = "lose", steps: Sequence[Step] = STEPS, outcomes: Sequence[Outcome] = OUTCOMES
) -> Plan:
    return Plan(
        "fire",
        Scenario(kind, ("pangyo",)),
        "sha256:estate",
        "test",
        0,
        0,
        1_000,
        3_600_000,
        0,
        (1,),
        tuple(steps),
        tuple(outcomes),
        (),
        0,
        0,
        0,
        0,
        Certificate.__new__(Certificate),
    )


def spec_of(plan: Plan) -> RunSpec:
    steps = tuple(
        RunStep(s.id, s.kind, s.target, s.start_ms, 1_000, s.after, site="anyang", data_set="")
        for s in plan.steps
    )
    return RunSpec("run-1", "fire-1", DIGEST, steps, approvals=0, labels={"scenario": plan.scenario.title})


def carried_out(plan: Plan, outcome: Callable[[str, int], str] = lambda step, attempt: "ok") -> list[Event]:
    """The journal of a run of it: each step takes one second."""
    world = World(spec_of(plan), outcome, lambda step: 1_000, now_ms=T0)
    world.begin()
    world.finish()
    return world.events


def verdict(number: int, at_ms: int, state: str, site: str = "pangyo") -> Notice:
    return Notice(number, "verdict", at_ms, site, f"{site} is {state}", {"state": state})


NOTICES = (
    verdict(1, T0 - 900_000, "suspect"),
    verdict(2, T0 - 800_000, "healthy"),
    Notice(3, "leader", T0 - 700_000, "anyang", "a1 leads", {"token": 1}),
    verdict(4, T0 - 60_000, "suspect"),
    verdict(5, T0 - 20_000, "lost"),
    Notice(6, "loss", T0 - 10, "pangyo", "pangyo is lost; run-1 starts without approval", {"run": "run-1"}),
    Notice(7, "run", T0 + 10, "", "another run", {"run": "run-9"}),
    verdict(8, T0 + 1_000, "suspect", "ansan"),
)


def note(kind: Any, after_ms: int, text: str = "", name: str = "", value: str = "", who: str = "kim") -> Note:
    return Note(
        f"{T0 + after_ms}-{kind}-{name or 'x'}", "fire-1", kind, who, T0 + after_ms, text, name, value
    )


def fire(
    notes: Sequence[Note] = (),
    plan: Plan | None = None,
    events: Sequence[Event] | None = None,
    notices: Sequence[Notice] = NOTICES,
) -> Dossier:
    plan = plan or plan_of()
    told = carried_out(plan) if events is None else events
    record = RunRecord(spec_of(plan), told, (), {DIGEST: plan})
    return Dossier(
        "fire-1", (record,), notices, tuple(notes), (StoreLoss("db", 0, "nothing, it is synchronous"),)
    )
