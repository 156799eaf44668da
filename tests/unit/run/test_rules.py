"""Rules of a run, one by one: limits, envelopes, pacing, tables, and the order of starts."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.model.errors import RunError
from evac.model.run_policy import Envelope, Pace, Patience
from evac.run import envelope
from evac.run.data_loss import Basis, Loss, labels_of, time_lost
from evac.run.decide import decide, next_ms
from evac.run.pacing import Health, judge
from evac.run.patience import again_ms, backoff_ms, deadline_ms, is_alarm
from evac.run.state import RunView, apply
from evac.run.table import RUN_TABLE, STEP_TABLE, diagram
from evac.run.values import ENDED, EVENT_DATA, Event, Left, RunLimit, RunSpec, RunStep
from tests.unit.run.test_replay import random_spec
from tests.unit.run.world import World, overused, seeded_outcomes

MOVES = (
    RunStep("fence:db", "fence", "db", 0, 10),
    RunStep("promote:db", "promote", "db", 10, 10, ("fence:db",)),
)


def test_every_phase_is_reached_and_every_end_is_final() -> None:
    assert not [row for row in RUN_TABLE if row[0] in ENDED]
    assert set(RUN_TABLE.values()) >= ENDED
    assert {phase for phase, _ in STEP_TABLE} == set(STEP_TABLE.values())
    triggers = {trigger.partition(":")[0] for _, trigger in (*RUN_TABLE, *STEP_TABLE)}
    assert triggers - {"waits_settled", "waits_reopened"} <= set(EVENT_DATA)
    assert set(EVENT_DATA) - triggers == {"run_created"}


def test_the_diagram_names_every_phase() -> None:
    text = diagram()
    assert text.count("stateDiagram-v2") == 2
    for phase in {*RUN_TABLE.values(), *STEP_TABLE.values()}:
        assert phase in text


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (Envelope(("ansan",)), "evacuates site ansan"),
        (Envelope(("pangyo",), ("rooms",)), "promotes store rooms"),
        (Envelope(most_lost_ms=6), "may lose 0.006 s"),
        (Envelope(most_shed=9), "sheds services of 9"),
    ],
)
def test_what_is_outside_an_envelope_is_named(needed: Envelope, words: str) -> None:
    approved = Envelope(("pangyo",), ("accounts",), 5, 8)
    assert words in envelope.outside(approved, needed)[0]
    assert envelope.covers(approved, approved)
    assert envelope.from_data(envelope.to_data(approved)) == approved


def test_pace_follows_health() -> None:
    pace = Pace((50, 250, 1_000), 1_000, 50)
    assert judge(pace, 1_000, Health(10, 0)).verdict == "wait"
    assert judge(pace, 4_000, Health(1_000, 50)) == judge(pace, 4_000, Health(1_000, 60, 10))
    assert (judge(pace, 4_000, Health(1_000, 0)).verdict, judge(pace, 4_000, Health(1_000, 0)).wait_ms) == (
        "go",
        2_000,
    )
    slow = judge(pace, 1_000, Health(1_000, 51))
    assert (slow.verdict, slow.wait_ms, slow.undo) == ("slow", 2_000, False)
    stop = judge(pace, 1_000, Health(1_000, 101))
    assert (stop.verdict, stop.undo) == ("stop", True)


def test_patience() -> None:
    patience = Patience(attempts=3, backoff_ms=100, backoff_most_ms=350)
    assert [backoff_ms(patience, n) for n in range(1, 5)] == [100, 200, 350, 350]
    assert [again_ms(patience, n) for n in (1, 2, 3)] == [100, 200, -1]
    assert again_ms(patience, 1, 5_000) == 5_000
    assert backoff_ms(patience, 10_000) == 350
    assert deadline_ms(patience, RunStep("a", "start", "a", 0, 5_000)) == 20_000
    assert deadline_ms(patience, RunStep("a", "start", "a", 0, 5_000, deadline_ms=30_000)) == 30_000
    assert deadline_ms(patience, RunStep("a", "start", "a", 0, 5_000, deadline_ms=7)) == 10_000


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (RunStep("a", "start", "a", 0, 1, ("b",)), "step-unknown"),
        (RunStep("a", "start", "a", 0, 1, (), (("x", 1, 0),)), "limit-unknown"),
        (RunStep("a", "start", "a", 0, 1, (), (("api", 9, 0),)), "limit-too-small"),
    ],
)
def test_a_spec_that_cannot_run_is_refused(step: RunStep, code: str) -> None:
    spec = RunSpec("r", "i", "p", (step,), (RunLimit("api", "slots", 3),))
    with pytest.raises(RunError) as caught:
        RunView(spec)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "event",
    [
        Event("step_started", 1, "s0", 2),
        Event("step_succeeded", 1, "s0", 1),
        Event("step_started", 1, "nobody", 1),
        Event("resumed", 1),
        Event("run_created", 1, data={"plan": "p1"}),
        Event("nonsense", 1),
        Event("leader_changed", 1, data={"token": -1}),
        Event("plan_replaced", 1, data={"plan": "p9"}),
    ],
)
def test_a_corrupt_journal_is_never_ignored(event: Event) -> None:
    world = World(random_spec(1, 1))
    world.begin()
    apply(world.view, Event("run_started", 0, data={"token": 1}))
    with pytest.raises(RunError):
        apply(world.view, event)


@given(st.integers(0, 10_000), st.integers(1, 25))
def test_no_step_waits_while_it_could_start(seed: int, steps: int) -> None:
    """Against a walk over the whole plan: after each decision no ready step has room at all its limits."""
    world = World(random_spec(seed, steps), seeded_outcomes(seed))
    world.begin()
    while True:
        world.settle()
        view = world.view
        for i, phase in enumerate(view.phases):
            asleep = view.not_before.get(i, 0) > world.now_ms
            if view.phase == "running" and phase == "ready" and not asleep:
                assert view.limits.lacking(view.uses[i]) >= 0, f"{view.steps[i].id} could start"
        if not world.step():
            break
    assert world.view.phase == "succeeded"
    assert not overused(world.spec, world.events)


@given(st.integers(0, 10_000))
def test_nobody_takes_room_for_which_a_step_was_woken_in_vain(seed: int) -> None:
    """Steps that wait are made ready again and again, as those behind a feed that trips are, and limits
    change: still no ready step has room at all its limits.
    """
    rng = random.Random(seed)
    names = ("watts", "slots")
    limits = tuple(RunLimit(name, "slots", rng.randrange(8, 20)) for name in names)
    steps = tuple(
        RunStep(
            f"s{n:02}",
            "start",
            "t",
            rng.randrange(50),
            1,
            (),
            tuple((name, rng.randrange(1, 8), 0) for name in names if rng.random() < 0.8),
        )
        for n in range(30)
    )
    world = World(
        RunSpec("r", "i", "p1", steps, limits, approvals=0),
        takes_ms=lambda step: 1 + random.Random(f"{seed}{step}").randrange(50),
    )
    world.begin()
    while True:
        if rng.random() < 0.5:
            limit = rng.choice(limits)
            capacity = rng.choice((limit.capacity // 3, limit.capacity, 3 * limit.capacity))
            world.say("limit_changed", who="mina", reason="the utility", limit=limit.id, capacity=capacity)
        waiting = [i for i, phase in enumerate(world.view.phases) if phase == "ready"]
        for i in rng.choices(waiting, k=rng.randrange(5)) if waiting else ():
            world.view.turn(i, "ready")
        world.settle()
        view = world.view
        for i, phase in enumerate(view.phases):
            if view.phase == "running" and phase == "ready":
                assert view.limits.lacking(view.uses[i]) >= 0, f"{view.steps[i].id} could start"
        if not world.step():
            break
    assert not [
        i for i, phase in enumerate(view.phases) if phase == "ready" and view.limits.lacking(view.uses[i]) < 0
    ]


def test_starts_come_by_planned_start_then_id_and_no_offer_comes_twice() -> None:
    rng = random.Random(3)
    steps = [RunStep(f"s{n:02}", "start", "t", rng.randrange(5), 1) for n in range(40)]
    view = RunView(RunSpec("r", "i", "p1", tuple(steps), approvals=0))
    apply(view, Event("run_created", 0, data={}))
    apply(view, decide(view, 0)[0].event or Event("", 0))
    first, rest = decide(view, 0, 15), decide(view, 0)
    assert [e.step for e in (*first, *rest)] == [
        s.id for s in sorted(steps, key=lambda s: (s.start_ms, s.id))
    ]
    assert decide(view, 0) == []


@given(st.integers(0, 10_000))
def test_room_goes_to_the_first_planned_of_all_that_wait_for_it(seed: int) -> None:
    """Against a walk over the whole plan at every start: one unit each, so whoever is first must get it."""
    rng = random.Random(seed)
    steps = tuple(
        RunStep(
            f"s{n:02}",
            "start",
            "t",
            rng.randrange(50),
            1,
            (f"s{n - 6:02}",) if n >= 6 else (),
            (("api", 1, 0),),
        )
        for n in range(30)
    )
    spec = RunSpec("r", "i", "p1", steps, (RunLimit("api", "slots", 3),), approvals=0)
    world = World(spec, takes_ms=lambda step: 1 + random.Random(f"{seed}{step}").randrange(50))
    put, order = world.put, {step.id: (step.start_ms, step.id) for step in steps}

    def checked(event: Event) -> None:
        if event.kind == "step_started":
            view = world.view
            first = min(order[s.id] for i, s in enumerate(steps) if view.phases[i] == "ready")
            assert order[event.step] == first
        put(event)

    world.put = checked  # type: ignore[method-assign]
    world.begin()
    assert world.finish() == "succeeded"


def test_what_is_overdue_and_waits_for_an_event_wakes_nobody() -> None:
    """At the horizon a step still runs: there is nothing to do until it ends, however often one looks."""
    step = RunStep("a", "start", "a", 0, 50, critical=True)
    spec = RunSpec("r", "i", "p1", (step,), approvals=0, horizon_ms=200)
    world = World(spec)
    world.begin()
    world.settle()
    world.pending.clear()
    for now_ms, due_ms in ((10, 100), (100, 200), (200, None), (5_000, None)):
        world.now_ms = now_ms
        world.settle()
        assert next_ms(world.view) == due_ms
    assert world.view.phase == "running"


def test_a_late_step_is_an_alarm_on_the_critical_chain_or_far_beyond_its_prediction() -> None:
    steps = (RunStep("a", "start", "a", 0, 50, critical=True), RunStep("b", "start", "b", 0, 50))
    world = World(RunSpec("r", "i", "p1", steps, approvals=0))
    world.begin()
    world.settle()
    world.pending.clear()
    late: list[tuple[int, str]] = []
    for now_ms in (90, 100, 140, 150, 500):
        seen = len(world.events)
        world.now_ms = now_ms
        world.settle()
        stuck = [event for event in world.events[seen:] if event.kind == "step_stuck"]
        assert all(is_alarm(event.data) for event in stuck)
        late += [(now_ms, event.step) for event in stuck]
    assert late == [(100, "a"), (150, "b")]
    assert not is_alarm({"running_ms": 100, "predicted_ms": 50})


@pytest.mark.parametrize(
    ("skipped", "left"),
    [
        ("start:mail", [["mail", "unknown", 0]]),
        ("shift:mail", [["mail", "unknown", 0]]),
        ("rejoin:db:ansan", [["db", "unprotected", 0]]),
        ("start:ads", [["ads", "shed", 9]]),
        ("stop:mail", []),
    ],
)
def test_the_end_names_what_a_skipped_step_may_have_left_down(skipped: str, left: list[list[object]]) -> None:
    kind, target = skipped.split(":")[:2]
    leaves = (Left("ads", "shed", 9),) if target == "ads" else ()
    step = RunStep(skipped, kind, target, 0, 1_000)
    world = World(RunSpec("r", "i", "p", (step,), leaves=leaves), outcome=lambda step, attempt: "refuse")
    world.begin()
    world.say("approved", who="kim", reason="fire")
    while world.view.phases[0] != "failed":
        assert world.step()
    world.say("step_skipped", skipped, 1, who="kim", reason="done by hand")
    while world.step():
        pass
    assert world.view.phase == "succeeded_with_exceptions"
    (end,) = [event for event in world.events if event.kind == "run_ended"]
    assert end.data.get("left", []) == left


@given(
    st.sampled_from(("seen", "declared", "unknown", "synchronous")),
    st.one_of(st.none(), st.integers(0, 20_000)),
    st.one_of(st.none(), st.integers(0, 20_000)),
    st.integers(0, 5_000),
)
def test_a_run_that_may_have_lost_more_than_the_rpo_never_ends_as_simply_succeeded(
    basis: Basis, most_ms: int | None, rpo_ms: int | None, takes_ms: int
) -> None:
    """By the figure that counts when the fence was complete, not by the one that was approved."""
    most_ms = {"unknown": None, "synchronous": 0}.get(basis, most_ms)
    until_ms = 1_000
    loss = Loss("db", "west", "east", most_ms, basis, until_ms=until_ms, rpo_ms=rpo_ms)
    world = World(
        RunSpec("r", "i", "p1", MOVES, approvals=0, labels=labels_of({"db": loss})),
        takes_ms=lambda step: takes_ms,
    )
    world.begin()
    world.finish(1_000)
    ended_ms = next(e.at_ms for e in world.events if e.kind == "step_succeeded" and e.step == "fence:db")
    grown = 0 if basis != "seen" else ended_ms - until_ms
    beyond = rpo_ms is not None and (most_ms is None or max(0, most_ms + grown) > rpo_ms)
    assert world.view.phase == ("succeeded_with_exceptions" if beyond else "succeeded")
    assert world.view.left == ((Left("db", "beyond_rpo"),) if beyond else ())


def test_a_promotion_that_was_left_out_lost_nothing_and_a_label_that_nobody_can_read_is_said() -> None:
    loss = Loss("db", "west", "east", None, "unknown", rpo_ms=0)
    for label, skips, left in (
        (loss.label(), True, (Left("db", "unknown"),)),
        ("{", False, (Left("db", "beyond_rpo"),)),
    ):
        spec = RunSpec("r", "i", "p", MOVES, labels={"loss:db": label})
        refused = {"promote:db"} if skips else set[str]()
        world = World(spec, outcome=lambda step, _, refused=refused: "refuse" if step in refused else "ok")  # type: ignore[misc]
        world.begin()
        world.say("approved", who="kim", reason="fire")
        if skips:
            while world.view.phases[1] != "failed":
                assert world.step()
            world.say("step_skipped", "promote:db", 1, who="kim", reason="done by hand")
        while world.step():
            pass
        assert world.view.left == left


def test_a_large_plan_is_decided_in_steps_and_edges_not_their_square() -> None:
    """20,000 steps behind a narrow limit: every decision is small."""
    steps = tuple(RunStep(f"s{n}", "start", "t", n, 1, (), (("api", 1, 0),)) for n in range(20_000))
    spec = RunSpec("r", "i", "p1", steps, (RunLimit("api", "slots", 2),), approvals=0)
    world = World(spec, takes_ms=lambda step: 1)
    world.begin()
    assert world.finish(50_000) == "succeeded"
    assert [step for step, _ in world.acts] == [step.id for step in steps]


def test_shares_wait_for_their_pace_and_stop_with_it() -> None:
    steps = tuple(
        RunStep(f"shift/{n}", "shift", "chat", n, 100, (f"shift/{n - 1}",) if n else (), paced=True)
        for n in range(3)
    )
    world = World(RunSpec("r", "i", "p1", steps, pace=Pace((1, 2, 3), 1_000), approvals=0))
    world.begin()
    world.settle()
    assert world.step()
    world.settle()
    assert world.now_ms == 100
    assert world.view.phases == ["succeeded", "ready", "pending"]
    world.now_ms = 1_100
    world.settle()
    assert world.view.phases[1] == "running"
    world.say("pace_changed", share=0, wait_ms=1_000, why="errors")
    assert world.finish() == "paused"
    assert "stopped by health checks: shift/2" in (world.view.pause.reason if world.view.pause else "")
    world.say("pace_changed", share=500, wait_ms=10, why="healthy")
    assert world.finish() == "succeeded"


@given(st.integers(0, 10**12))
def test_no_loss_is_shown_as_less_than_it_is(milliseconds: int) -> None:
    shown = Fraction(time_lost(milliseconds).removesuffix(" s")) * 1_000
    assert milliseconds <= shown < milliseconds + 100
    assert Loss("orders", "a", "b", milliseconds, "declared").figure == time_lost(milliseconds)


@pytest.mark.parametrize("outcome", ["refuse", "retry", "gone"])
@pytest.mark.parametrize("optional", [True, False])
def test_a_run_goes_on_without_an_optional_step_that_failed_and_waits_for_any_other(
    outcome: str, optional: bool
) -> None:
    steps = (
        RunStep("redirect:mail", "redirect", "mail", 0, 1_000, optional=optional),
        RunStep("stop:mail", "stop", "mail", 1_000, 1_000, ("redirect:mail",)),
    )
    world = World(
        RunSpec("r", "i", "p", steps, approvals=0),
        outcome=lambda step, attempt: outcome if step == "redirect:mail" else "ok",
    )
    observed = world._later

    def unclear(after_ms: int, event: Event) -> None:
        blind = event.kind == "step_observed" and outcome == "gone"
        observed(after_ms, event._replace(data={"outcome": "unclear"}) if blind else event)

    world._later = unclear  # type: ignore[method-assign]
    world.begin()
    for _ in range(400):
        if not world.step():
            break
    skipped = [event for event in world.events if event.kind == "step_skipped"]
    if not optional:
        assert (world.view.phase, skipped) == ("paused", [])
        assert "stop:mail" not in world.done
        return
    assert world.view.phase == "succeeded_with_exceptions"
    assert [(one.step, one.data["who"]) for one in skipped] == [("redirect:mail", "evac")]
    assert "stop:mail" in world.done, "only once the other was tried"
    assert world.acts[-1][0] == "stop:mail"
