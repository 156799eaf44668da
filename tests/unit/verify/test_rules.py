"""Every rule of the checker: the worked plan passes, and each way of breaking it is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from evac.model.instance import Instance, Limit, ToolNeed, Use
from evac.model.plan import Certificate, Plan, Step, SupplyRow
from evac.model.units import RESOURCE_COUNT
from evac.verify import check_instance
from evac.verify.capacity import NEVER, Ready
from evac.verify.outcome import Slots, time_left
from evac.verify.reading import milestones, read
from tests.unit.planning.instances import worked_example
from tests.unit.verify.worked_plan import worked_plan


@pytest.fixture(scope="module")
def instance() -> Instance:
    return worked_example()


def change(plan: Plan, prefix: str, **fields: object) -> Plan:
    """The plan with fields of the first step whose id begins with `prefix` replaced."""
    steps = list(plan.steps)
    at = next(n for n, step in enumerate(steps) if step.id.startswith(prefix))
    steps[at] = replace(steps[at], **fields)  # type: ignore[arg-type]
    return replace(plan, steps=tuple(steps))


def move(plan: Plan, prefix: str, seconds: int) -> Plan:
    step = next(step for step in plan.steps if step.id.startswith(prefix))
    shifted = seconds * 1000
    return change(plan, prefix, start_ms=step.start_ms + shifted, end_ms=step.end_ms + shifted)


def without(plan: Plan, prefix: str) -> Plan:
    return replace(plan, steps=tuple(step for step in plan.steps if not step.id.startswith(prefix)))


def left_out(plan: Plan, service: str) -> Plan:
    return replace(plan, steps=tuple(step for step in plan.steps if step.target != service))


def added(plan: Plan, step: Step) -> Plan:
    return replace(plan, steps=(*plan.steps, step))


def test_the_worked_plan_holds_and_costs_what_is_printed(instance: Instance) -> None:
    verdict = check_instance(instance, worked_plan(instance))
    assert verdict.violations == ()
    assert (verdict.objective, verdict.bound) == (2_146_000, 1_848_000)


BROKEN: list[tuple[str, str, Callable[[Plan], Plan]]] = [
    ("F1", "two steps of one id", lambda p: added(p, p.steps[0])),
    ("F1", "beyond the horizon", lambda p: move(p, "verify:pay:top", 7200)),
    ("F1", "no outcome", lambda p: replace(p, outcomes=p.outcomes[1:])),
    (
        "F1",
        "a stranger's outcome",
        lambda p: replace(p, outcomes=(*p.outcomes, replace(p.outcomes[0], service="x"))),
    ),
    (
        "F1",
        "a wrong state",
        lambda p: replace(p, outcomes=(replace(p.outcomes[0], state="running"), *p.outcomes[1:])),
    ),
    ("F1", "no whole tick", lambda p: change(p, "boot:a2", start_ms=1)),
    ("F2", "a server that is lost", lambda p: change(p, "start:search", servers=(("gone", 1),))),
    ("F2", "a service nobody has", lambda p: change(p, "verify:search", target="nothing")),
    ("F2", "a primary that may not be", lambda p: change(p, "promote", candidate="pangyo")),
    ("F2", "shedding what is not there", lambda p: change(p, "shed:ads:a1", servers=(("a2", 1),))),
    ("F3", "too short", lambda p: change(p, "start:pay", end_ms=200_000)),
    ("F3", "count and servers differ", lambda p: change(p, "start:search", count=2)),
    ("F3", "the wrong pool", lambda p: change(p, "start:search", pool="elsewhere")),
    ("F4", "verified before started", lambda p: move(p, "verify:search", -1)),
    ("F4", "shifted before verified", lambda p: move(p, "shift:search", -1)),
    ("F5", "after a stranger", lambda p: change(p, "shift:search", after=("verify:search:base", "x"))),
    ("F5", "a start that forgets its store", lambda p: change(p, "start:identity:base", after=())),
    ("F5", "a verify that forgets a start", lambda p: change(p, "verify:search:base", after=())),
    ("F5", "waits for itself", lambda p: change(p, "verify:search:base", after=("shift:search",))),
    (
        "F5",
        "a start that forgets its shed",
        lambda p: change(p, "start:identity:base", after=("promote:accounts",)),
    ),
    ("F6", "two boots at once", lambda p: move(p, "boot:b2", -1)),
    ("F6", "two changes of traffic at once", lambda p: move(p, "shift:identity", -1)),
    ("F7", "a start before its boot", lambda p: move(p, "start:pay:base", -100)),
    (
        "F7",
        "a boot of what is on",
        lambda p: added(p, Step("boot:a1", "boot", "a1", 300_000, 420_000, servers=(("a1", 1),))),
    ),
    (
        "F7",
        "a second boot",
        lambda p: added(p, Step("boot:a2:2", "boot", "a2", 300_000, 420_000, servers=(("a2", 1),))),
    ),
    ("F8", "no capacity before the shed ends", lambda p: move(p, "shed:ads:a1", 20)),
    (
        "F10",
        "two on one server",
        lambda p: change(p, "start:search:base:anyang", count=2, servers=(("a1", 2),)),
    ),
    ("F11", "a start missing", lambda p: without(p, "start:identity:top")),
    (
        "F11",
        "a start too many",
        lambda p: added(
            p,
            Step(
                "start:x",
                "start",
                "identity",
                900_000,
                930_000,
                milestone="top",
                pool="ansan:",
                servers=(("b2", 1),),
            ),
        ),
    ),
    ("F11", "never verified", lambda p: without(p, "verify:pay:top")),
    ("F12", "before its dependency", lambda p: move(p, "start:messenger:base", -1)),
    ("F12", "before its store", lambda p: move(p, "start:identity:base", -1)),
    ("F14", "not fenced", lambda p: without(p, "fence")),
    ("F14", "fenced too softly", lambda p: change(p, "fence", rung="none")),
    (
        "F14",
        "promoted twice",
        lambda p: added(p, replace(p.steps[1], id="promote:accounts:2", candidate="anyang")),
    ),
    ("F15", "by hand where nobody can", lambda p: change(p, "shift:search", manual=True)),
    ("F16", "shed for nobody", lambda p: change(p, "shed:ads:a1", for_services=())),
    ("F16", "shed in vain", lambda p: without(p, "start:messenger:top")),
    ("F17", "left out though ads stays", lambda p: without(left_out(p, "search"), "shed")),
    ("F17", "left out though there is capacity", lambda p: without(left_out(p, "pay"), "shed:ads:b1")),
    ("F19", "a cheaper objective", lambda p: replace(p, objective=p.objective - 1)),
    (
        "F19",
        "a shorter outage",
        lambda p: replace(p, outcomes=(replace(p.outcomes[0], base_outage_ms=1), *p.outcomes[1:])),
    ),
    ("F20", "a better bound than proved", lambda p: replace(p, bound=p.bound + 1)),
    (
        "F20",
        "a certificate of nonsense",
        lambda p: replace(p, certificate=Certificate(arcs=(("a", "b", 1),))),
    ),
    (
        "F20",
        "a negative share",
        lambda p: replace(
            p, certificate=Certificate(supply=(SupplyRow((("dns", 1),), (("pay.base", -1),)),))
        ),
    ),
]


@pytest.mark.parametrize(("rule", "words", "breaking"), BROKEN, ids=[f"{r}-{w}" for r, w, _ in BROKEN])
def test_a_broken_plan_is_named(
    instance: Instance, rule: str, words: str, breaking: Callable[[Plan], Plan]
) -> None:
    verdict = check_instance(instance, breaking(worked_plan(instance)))
    assert rule in {violation.rule for violation in verdict.violations}, words


def by_hand(instance: Instance, start: int) -> Instance:
    """The tools to start are lost with pay and never back; one pair of hands, `start` ticks a start."""
    limits = (*instance.limits, Limit("hands", 1))
    need = ToolNeed("start", (instance.services.id.index("pay"),), start, (Use(len(instance.limits), 1),))
    return replace(instance, limits=limits, tools={"start": need})


def left(instance: Instance, plan: Plan, missing: int) -> bool:
    reading, pay = read(instance, plan), instance.services.id.index("pay")
    return time_left(reading, milestones(reading), pay, missing, rows_on({0: 0, 1: 0}))


def rows_on(pools: dict[int, int], shed: int = NEVER) -> Ready:
    """A row in each pool, on from a tick: a replica fits at once, or after a shed of `shed` ticks."""
    done = 0 if shed == NEVER else NEVER
    lines = np.array([(pool, on, done, shed, 9) for pool, on in pools.items()], np.int64).reshape(-1, 5)
    much = np.full((len(pools), RESOURCE_COUNT), 2**40, np.int64)
    free, nobody = much if shed == NEVER else 0 * much, np.zeros(9, np.bool_)
    return Ready(*lines.T, free=free, most=much, row=lines[:, 0], lower=nobody)


def test_hands_that_are_all_taken_are_no_lack_of_capacity(instance: Instance) -> None:
    plan = left_out(worked_plan(instance), "pay")
    assert left(by_hand(instance, 1_600), plan, 2)
    assert not left(by_hand(instance, 1_700), plan, 2)
    assert not left(by_hand(instance, 3_400), plan, 1)
    assert left(instance, plan, 2)


def test_starts_that_no_window_is_free_for_are_no_lack_of_capacity(instance: Instance) -> None:
    plan = left_out(worked_plan(instance), "pay")
    starts = [
        Step(
            f"start:{n}",
            "start",
            "search",
            n * 1_000,
            n * 1_000 + 60_000,
            count=2,
            milestone="base",
            pool="anyang:",
            servers=(("a1", 1), ("a2", 1)),
        )
        for n in range(0, 3_600, 30)
    ]
    busy = replace(plan, steps=(*plan.steps, *starts))
    assert not left(instance, busy, 1)
    assert left(instance, replace(plan, steps=(*plan.steps, *starts[:110])), 1)
    assert not left(instance, replace(plan, steps=(*plan.steps, *starts[:118])), 1)


def test_a_pool_that_comes_on_too_late_is_of_no_use(instance: Instance) -> None:
    reading, pay = read(instance, left_out(worked_plan(instance), "pay")), instance.services.id.index("pay")
    times = milestones(reading)
    assert time_left(reading, times, pay, 1, rows_on({0: 3_400}))
    assert not time_left(reading, times, pay, 1, rows_on({0: 3_580}))
    assert not time_left(reading, times, pay, 1, rows_on({}))


def test_capacity_that_a_shed_would_make_too_late_is_of_no_use(instance: Instance) -> None:
    reading, pay = read(instance, left_out(worked_plan(instance), "pay")), instance.services.id.index("pay")
    times = milestones(reading)
    assert time_left(reading, times, pay, 1, rows_on({0: 0}, shed=3_400))
    assert not time_left(reading, times, pay, 1, rows_on({0: 0}, shed=3_580))
    gone = replace(instance, tools={"shed": ToolNeed("shed", (pay,), None, ())})
    nobody = read(gone, left_out(worked_plan(instance), "pay"))
    assert not time_left(nobody, milestones(nobody), pay, 1, rows_on({0: 0}, shed=10))


def test_slots_are_taken_where_they_are_free(instance: Instance) -> None:
    busy = Step(
        "start:x",
        "start",
        "search",
        100_000,
        200_000,
        count=1,
        manual=True,
        pool="anyang:",
        servers=(("a1", 1),),
    )
    plan = replace(left_out(worked_plan(instance), "pay"), steps=(busy,))
    reading = read(by_hand(instance, 50), plan)
    times, slots = milestones(reading), Slots(reading)
    ends = []
    for since in (0, 0, 60, 60):
        action = slots.look(times, "start", (), 30, since)
        assert action is not None
        assert slots.take(action, 3) == 1
        ends.append(action.end)
    assert ends == [50, 100, 250, 300]
    verify = slots.look(times, "verify", (), 10, 7)
    assert verify is not None
    assert (verify.start, verify.end) == (7, 17)
    assert slots.look(times, "verify", (), 10, 3_595) is None
