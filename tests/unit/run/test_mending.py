"""A server that does not come up: what waits for it is held until a mended plan starts it elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.run.boots.rules import is_waited_for
from evac.run.decide import decide, next_ms
from evac.run.state import apply, fingerprint, replay
from evac.run.values import Event, RunSpec, RunStep
from evac.run.view import RunView

HELD_MS = 60_000
BOOTS = tuple(RunStep(f"boot:{name}", "boot", name, 0, 1_000) for name in ("a", "b"))
START = RunStep("start:chat:base:1", "start", "chat", 1_000, 1_000, ("boot:a", "boot:b"), act="on a, b")
VERIFY = RunStep("verify:chat:base", "verify", "chat", 2_000, 1_000, ("start:chat:base:1",))
SPEC = RunSpec("run", "incident", "plan", (*BOOTS, START, VERIFY), approvals=0, mend_ms=HELD_MS)
MENDED = replace(
    SPEC,
    plan="mended",
    steps=(BOOTS[0], replace(START, after=("boot:a",), act="on a"), VERIFY),
)


class Run:
    """Applies what is decided and what happens, and keeps all of it."""

    def __init__(self, spec: RunSpec) -> None:
        self.view = RunView(spec)
        self.events: list[Event] = []
        self.put(Event("run_created", 0, data={"run": "run", "plan": "plan", "token": 1}))

    def put(self, event: Event) -> None:
        apply(self.view, event)
        self.events.append(event)

    def go(self, now_ms: int) -> set[str]:
        """Everything that is due; the steps that start."""
        started: set[str] = set()
        while effects := decide(self.view, now_ms):
            for effect in effects:
                if effect.event is not None:
                    self.put(effect.event)
                else:
                    started.add(effect.step)
                    data = {"token": 1, "epoch": 0, "deadline_ms": 0}
                    self.put(Event("step_started", now_ms, effect.step, effect.attempt, data))
        return started

    def fail_for_good(self, step: str, now_ms: int) -> None:
        i = self.view.index[step]
        data = {"code": "bmc-silent", "message": "silent", "again_ms": -1}
        self.put(Event("step_failed", now_ms, step, self.view.attempts[i], data))

    def done(self, step: str, now_ms: int) -> None:
        i = self.view.index[step]
        self.put(Event("step_succeeded", now_ms, step, self.view.attempts[i], {}))

    def phase(self, step: str) -> str:
        return self.view.phases[self.view.index[step]]


def _half_up(spec: RunSpec = SPEC) -> Run:
    run = Run(spec)
    assert run.go(0) == {"boot:a", "boot:b"}
    run.done("boot:a", 1_000)
    run.fail_for_good("boot:b", 1_000)
    return run


def test_what_waits_for_it_is_held_for_a_while_and_then_goes_on_without() -> None:
    run = _half_up()
    assert run.go(1_000) == set()
    assert run.go(999 + HELD_MS) == set()
    assert run.view.phase == "running"
    assert next_ms(run.view) == 1_000 + HELD_MS
    assert run.go(1_000 + HELD_MS) == {"start:chat:base:1"}
    assert run.phase("boot:b") == "skipped"


def test_a_mended_plan_starts_it_elsewhere_at_once_and_the_server_stays_on_the_list() -> None:
    run = _half_up()
    run.view.specs["mended"] = MENDED
    data = {"plan": "mended", "why": "1 server did not come up", "lost": [], "names": []}
    run.put(Event("plan_replaced", 2_000, data=data))
    assert run.go(2_000) == {"start:chat:base:1"}
    assert run.phase("boot:b") == "skipped"
    assert run.view.index["boot:b"] in run.view.boots.quarantined
    assert fingerprint(replay(SPEC, run.events, (MENDED,))) == fingerprint(run.view)


@pytest.mark.parametrize("stays", [True, False])
def test_a_server_given_up_while_the_plan_is_mended_for_others_is_not_tried_again(stays: bool) -> None:
    """An older version did that, and its journals say so."""
    run = _half_up()
    again = replace(MENDED, steps=(*BOOTS, *MENDED.steps[1:]))
    run.view.specs["mended"] = again
    data = {
        "plan": "mended",
        "why": "others",
        "lost": [],
        "names": [],
        **({"given_up": "stays"} if stays else {}),
    }
    run.put(Event("plan_replaced", 2_000, data=data))
    assert ("boot:b" in run.go(2_000)) is not stays
    assert not stays or (run.phase("boot:b"), run.view.index["boot:b"] in run.view.boots.quarantined) == (
        "skipped",
        True,
    )
    assert fingerprint(replay(SPEC, run.events, (again,))) == fingerprint(run.view)


def test_a_server_that_nothing_waits_for_is_left_out_at_once() -> None:
    run = _half_up(replace(SPEC, steps=(*BOOTS, replace(START, after=("boot:a",)), VERIFY)))
    assert not is_waited_for(run.view, run.view.index["boot:b"])
    assert run.go(1_000) == {"start:chat:base:1"}
    assert run.phase("boot:b") == "skipped"


def test_a_person_may_have_it_tried_again_meanwhile() -> None:
    run = _half_up()
    run.go(1_000)
    attempt = run.view.attempts[run.view.index["boot:b"]]
    run.put(Event("step_retried", 2_000, "boot:b", attempt, {"who": "mina", "reason": "cable"}))
    assert run.go(2_000) == {"boot:b"}
    run.done("boot:b", 3_000)
    assert run.go(3_000) == {"start:chat:base:1"}
