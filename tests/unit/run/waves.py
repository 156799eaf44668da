"""Small boot waves for tests: servers behind feeds, and what a seed makes of each boot."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evac.model.boot_codes import BOOT_CODES
from evac.model.run_policy import Patience
from evac.run.patience import again_ms
from evac.run.values import KEPT, Event, RunLimit, RunSpec, RunStep
from tests.unit.run.world import World

CODES = ("bmc-silent", "server-no-boot", "bmc-lying", "bmc-wrong-serial", "server-boot-loop", "timeout")


def wave(seed: int, servers: int = 24, plan: str = "p1") -> RunSpec:
    """Two feeds, a hall and racks; watts, inrush and slots are scarce."""
    rng = random.Random(seed)
    steps = [RunStep(f"power:f{f}", "power", f"f{f}", 0, 50) for f in range(2)]
    watts = [rng.choice((200, 350, 500)) for _ in range(servers)]
    for n in range(servers):
        feed, rack = f"f{n % 2}", f"r{n // 6}"
        uses = (
            (f"power:{feed}", watts[n], KEPT),
            ("power:hall", watts[n], KEPT),
            (f"power:{rack}", watts[n], KEPT),
            (f"inrush:{feed}", 2 * watts[n], 60),
            (f"boots:b{n % 3}", 1, 0),
        )
        steps.append(
            RunStep(
                f"boot:s{n}",
                "boot",
                f"s{n}",
                n * 10,
                100,
                (f"power:{feed}",),
                uses,
                safe_undo=True,
                site="here",
                rack=rack,
                feeds=(feed,),
                boot_server=f"b{n % 3}",
            )
        )
    half = sum(watts) * rng.randrange(55, 110) // 100
    limits = [RunLimit(f"power:f{f}", "slots", half // 2 + 500, 0, half // 2 + 600, 100) for f in range(2)]
    limits += [RunLimit("power:hall", "slots", half + 500)]
    limits += [RunLimit(f"power:r{r}", "slots", 3_000) for r in range(-(-servers // 6))]
    limits += [RunLimit(f"inrush:f{f}", "slots", 2_000) for f in range(2)]
    limits += [RunLimit(f"boots:b{b}", "slots", 3) for b in range(3)]
    patience = Patience(attempts=3, backoff_ms=20, backoff_most_ms=100)
    return RunSpec("run-1", "dark", plan, tuple(steps), tuple(limits), patience=patience, approvals=0)


@dataclass
class Wave(World):
    """A world whose boots fail with the codes of boots, as the seed says. told: share of them of which it is
    said first that the controller took the request.
    """

    seed: int = 0
    trouble: float = 0.3
    told: float = 0.0

    def _execute(self, step: str, attempt: int) -> None:
        rng = random.Random(f"{self.seed}/{step}/{attempt}")
        if step.startswith("boot:") and self.told and rng.random() < self.told:
            self._later(rng.choice((1, 20, 59)), Event("switched_on", 0, "", attempt, {"steps": [step]}))
        if not step.startswith("boot:") or rng.random() > self.trouble:
            super()._execute(step, attempt)
            return
        self.acts.append((step, attempt))
        if rng.random() < 0.3:
            if rng.random() < 0.5:
                self.done.add(step)
            self._later(40, Event("step_unknown", 0, step, attempt, {"message": "?", "code": "bmc-silent"}))
            return
        code = rng.choice(CODES)
        tries = self.view.tries[self.view.index[step]]
        wait = again_ms(self.view.spec.patience, tries) if rng.random() < 0.7 else -1
        data: dict[str, Any] = {"code": code, "message": "", "again_ms": wait}
        if wait < 0 and rng.random() < 0.3:
            data["off"] = True
        self._later(60, Event("step_failed", 0, step, attempt, data))

    def _land(self, event: Event) -> None:
        if event.kind != "switched_on":
            super()._land(event)
            return
        (step,) = event.data["steps"]  # as the engine tells it: of tries that run
        i = self.view.index.get(step, -1)
        if i >= 0 and (self.view.phases[i], self.view.attempts[i]) == ("running", event.attempt):
            self.put(event._replace(attempt=0))


def watts_exceeded(spec: RunSpec, events: Sequence[Event]) -> list[str]:
    """Limits of watts that a start exceeded, counted from the events alone and not as evac counts."""
    steps = {step.id: step for step in spec.steps}
    capacity = {limit.id: limit.capacity for limit in spec.limits}
    on: dict[str, int] = {}
    found = []
    for event in events:
        if event.kind == "limit_changed":
            capacity[event.data["limit"]] = event.data["capacity"]
        elif event.kind == "step_started":
            on.setdefault(event.step, event.attempt)
            for name, _, hold in steps[event.step].uses:
                if hold == KEPT:
                    used = sum(u for one in on for n, u, h in steps[one].uses if n == name and h == KEPT)
                    if used > capacity[name]:
                        found.append(f"{name} at {event.at_ms}: {used}")
        elif _went_off(event, on):
            on.pop(event.step, None)
    return found


def _went_off(event: Event, on: dict[str, int]) -> bool:
    if event.kind == "undo_done" or (event.kind == "step_observed" and event.data["outcome"] == "absent"):
        return True
    if event.kind != "step_failed":
        return False
    code = event.data["code"]
    if event.data.get("off"):
        return True
    if code in ("timeout", "driver-broken", "bmc-silent"):
        return on.get(event.step) == event.attempt
    return code in BOOT_CODES and not BOOT_CODES[code].draws


def tight(spec: RunSpec, name: str, capacity: int) -> RunSpec:
    """The same wave with another capacity of one limit."""
    limits = tuple(replace(one, capacity=capacity) if one.id == name else one for one in spec.limits)
    return replace(spec, limits=limits)


def roomy(seed: int = 5) -> RunSpec:
    """A wave with room for all at once."""
    spec = wave(seed)
    return replace(spec, limits=tuple(replace(limit, capacity=10**6) for limit in spec.limits))
