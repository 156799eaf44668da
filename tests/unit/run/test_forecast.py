"""The forecast of a run: what was measured, played forward under the same limits."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from evac.run.forecast import forecast
from evac.run.state import RunView, apply, fingerprint
from evac.run.values import KEPT, Event, RunLimit, RunSpec, RunStep
from tests.unit.run.waves import Wave, wave


def fleet(servers: int, at_once: int = 40) -> RunSpec:
    """Servers of two classes behind feeds, from boot servers; a service that checks itself at the end."""
    steps = []
    for n in range(servers):
        feed, boot_server = f"f{n // 400}", f"b{n % 8}"
        uses = (
            (f"power:{feed}", 400, KEPT),
            (f"inrush:{feed}", 700, 20_000),
            (f"boots:{boot_server}", 1, 0),
        )
        takes_ms = 300_000 if n % 3 else 200_000
        steps.append(RunStep(f"boot:s{n}", "boot", f"s{n}", n, takes_ms, (), uses, feeds=(feed,)))
    last = tuple(step.id for step in steps[-200:])
    steps.append(RunStep("verify:web:base", "verify", "web", servers, 10_000, last))
    feeds, limits = range(-(-servers // 400)), []
    limits += [RunLimit(f"power:f{f}", "slots", 170_000) for f in feeds]
    limits += [RunLimit(f"inrush:f{f}", "slots", 28_000) for f in feeds]
    limits += [RunLimit(f"boots:b{b}", "slots", at_once) for b in range(8)]
    return RunSpec("run-1", "dark", "p1", tuple(steps), tuple(limits), approvals=0)


def played(
    spec: RunSpec, seed: int, ratio: float, dead: float, share: float
) -> tuple[float, float, int, int]:
    """(forecast when a share of the boots is up, truth, forecast of dead servers, truth)."""
    rng = random.Random(seed)
    takes = {s.id: int(s.duration_ms * ratio * rng.uniform(0.9, 1.1)) for s in spec.steps}
    gone = {s.id for s in spec.steps if s.kind == "boot" and rng.random() < dead}

    def outcome(step: str, attempt: int) -> str:
        return "refuse" if step in gone else "ok"

    world = Wave(spec, outcome, lambda step: 40_000 if step in gone else takes[step], trouble=0.0)
    world.now_ms = 1_000
    world.begin()
    while world.view.counts.get("succeeded", 0) < share * len(spec.steps):
        assert world.step()
    before = fingerprint(world.view)
    said = forecast(world.view, world.now_ms)
    assert fingerprint(world.view) == before, "a forecast changes nothing"
    assert said == forecast(world.view, world.now_ms)
    assert said.services.keys() == {"web"}
    world.finish(100_000)
    boots = [i for i, step in enumerate(spec.steps) if step.kind == "boot"]
    return said.on_ms, max(world.view.ended[i] for i in boots), said.floor, len(world.view.boots.quarantined)


@pytest.mark.parametrize(("seed", "ratio", "dead"), [(1, 1.0, 0.0), (2, 1.2, 0.02), (3, 0.8, 0.05)])
def test_at_a_tenth_of_the_wave_the_forecast_is_within_a_tenth_of_the_truth(
    seed: int, ratio: float, dead: float
) -> None:
    said, truth, floor, lost = played(fleet(1_600), seed, ratio, dead, 0.1)
    assert abs(said - truth) <= truth / 10
    assert abs(floor - lost) <= max(10, lost)


def test_a_forecast_of_32000_steps_takes_about_a_second() -> None:
    spec = fleet(32_000, 400)
    view = RunView(spec)
    apply(view, Event("run_created", 1, data={"plan": "p1"}))
    begin = time.process_time()
    said = forecast(view, 1)
    assert time.process_time() - begin < 4.0, "generous: the machine may be busy"
    assert (said.boots, said.up, said.floor, said.waits) == (32_000, 0, 0, True)
    assert said.on_ms > 300_000


def test_what_waits_for_a_person_is_said_and_taken_as_done() -> None:
    spec = wave(1)
    gated = replace(spec, steps=(replace(spec.steps[0], gate="look first"), *spec.steps[1:]))
    world = Wave(gated, trouble=0.0)
    world.begin()
    world.finish()
    said = forecast(world.view, world.now_ms)
    assert said.waits
    assert said.on_ms > world.now_ms


def test_a_run_without_boots_has_no_time_of_all_on() -> None:
    spec = RunSpec("r", "i", "p", (RunStep("shift:web", "shift", "web", 0, 1_000),), approvals=0)
    view = RunView(spec)
    apply(view, Event("run_created", 1, data={"plan": "p"}))
    said = forecast(view, 5)
    assert (said.boots, said.on_ms, said.planned_on_ms) == (0, 0, 0)
    assert said.services == {"web": said.end_ms}
