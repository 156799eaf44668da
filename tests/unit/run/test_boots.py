"""What boots hold beyond their end, limits that change, feeds that trip, boot servers that die."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.engine.runs.requests import Request, RequestTerms, check_event, event_of
from evac.model.errors import RunError
from evac.run.boots.rules import held_servers
from evac.run.decide import decide
from evac.run.forecast import forecast
from evac.run.limits import capacity_of
from evac.run.state import RunView, apply, fingerprint, replay
from evac.run.values import Event, RunStep
from evac.run.waits import waiting
from evac.views.documents import step_row
from evac.views.wait_words import words_of
from tests.unit.run.waves import Wave, roomy, tight, watts_exceeded, wave


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_watts_never_exceed_their_limit_and_every_prefix_replays(seed: int) -> None:
    spec = wave(seed)
    world = Wave(spec, seed=seed, told=0.7 * (seed % 2))
    world.begin()
    world.finish()
    assert not watts_exceeded(spec, world.events)
    cut = seed % len(world.events)
    lived = RunView(spec)
    for event in world.events[:cut]:
        apply(lived, event)
        decide(lived, event.at_ms)
    assert fingerprint(lived) == fingerprint(replay(spec, world.events[:cut]))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 100))
def test_watts_stay_counted_over_leaders_budgets_and_new_plans(seed: int, share: int) -> None:
    spec, other = wave(seed), wave(seed, plan="p2")
    other = replace(other, steps=other.steps[: len(other.steps) - seed % 5])
    world = Wave(spec, seed=seed, others=(other,), told=0.7 * (seed % 2))
    world.begin()
    for turn in range(60):
        if not world.step():
            break
        if turn == 10 + seed % 20:
            world.take_over(world.events)
        if turn == 20 + seed % 20 and world.view.phase == "running":
            world.say("limit_changed", limit="power:hall", capacity=5_000 * share // 100, who="m", reason="r")
        if turn == 30 and world.view.phase in ("running", "paused"):
            world.say("plan_replaced", plan="p2", why="again")
    assert not watts_exceeded(spec, world.events)
    held = sum(u for i in world.view.keeping for n, u, _ in world.view.keeps[i].kept if not n)
    names = [limit.id for limit in world.view.limits.limits]
    apart = dict(world.view.limits.apart).get(names[0], 0)
    assert world.view.limits.used(names[0]) >= held + apart
    assert fingerprint(world.view) == fingerprint(replay(spec, world.events, (other,)))


def begun(spec, trouble: float = 0.0, seed: int = 1) -> Wave:  # type: ignore[no-untyped-def]
    world = Wave(spec, seed=seed, trouble=trouble)
    world.begin()
    return world


def test_a_server_that_is_on_keeps_its_watts_until_it_is_undone() -> None:
    world = begun(tight(wave(3), "power:hall", 1_000))
    assert world.finish() == "paused"
    assert world.view.pause is not None
    assert "limit reached: power:hall; raise it (evac run limit)" in world.view.pause.reason
    used = world.view.limits.used("power:hall")
    assert 500 < used <= 1_000
    done = next(s.id for i, s in enumerate(world.spec.steps) if i in world.view.keeping)
    world.say("undo_asked", done, world.view.attempts[world.view.index[done]], who="m", reason="r")
    world.step()
    world.step()
    assert world.view.limits.used("power:hall") < used or len(world.acts) > 3


def test_more_room_goes_on_by_itself_and_less_starts_nothing_new() -> None:
    world = begun(tight(wave(3), "power:hall", 1_000))
    world.finish()
    acts = len(world.acts)
    world.say("limit_changed", limit="power:hall", capacity=100, who="m", reason="utility")
    assert world.finish() == "paused"
    assert len(world.acts) == acts
    world.say("limit_changed", limit="power:hall", capacity=100_000, who="m", reason="utility")
    world.say("limit_changed", limit="power:f0", capacity=100_000, who="m", reason="utility")
    world.say("limit_changed", limit="power:f1", capacity=100_000, who="m", reason="utility")
    assert world.finish() == "succeeded"


@pytest.mark.parametrize(
    ("value", "capacity"), [("90%", 90), ("50 %", 40), ("1 kW", 990), ("300W", 290), ("200", 190), ("5", 0)]
)
def test_a_limit_is_said_in_percent_watts_or_units(value: str, capacity: int) -> None:
    spec = wave(1)
    limit = replace(spec.limits[0], capacity=70, whole=100, beside=10)
    limits = RunView(replace(spec, steps=spec.steps[:1], limits=(limit,))).limits
    wanted = {"90%": 80}.get(value, capacity)
    assert capacity_of(limits, "power:f0", value) == wanted


@pytest.mark.parametrize(
    ("limit", "value", "code"),
    [
        ("power:g0", "90%", "limit-unknown"),
        ("power:f0", "lots", "limit-value"),
        ("boots:b0", "3 kW", "limit-value"),
        ("power:f0", "-3", "limit-value"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_with_words(limit: str, value: str, code: str) -> None:
    world = begun(wave(1))
    world.step()
    asked = Request("1", "limit", "mina", "the utility says so", limit=limit, value=value)
    with pytest.raises(RunError) as raised:
        event_of(world.view, asked, 0, RequestTerms())
    assert raised.value.code == code
    if code == "limit-unknown":
        assert "did you mean power:" in raised.value.message


def test_a_changed_limit_becomes_an_event_and_outlives_a_new_plan() -> None:
    spec, other = wave(1), wave(1, plan="p2")
    world = Wave(spec, seed=1, others=(other,), trouble=0.0)
    world.begin()
    world.step()
    asked = Request("1", "limit", "mina", "the utility says so", limit="power:f0", value="1 kW")
    world.put(event_of(world.view, asked, 0, RequestTerms()))
    world.say("plan_replaced", plan="p2", why="again")
    assert world.view.limits.capacity[0] == 900
    with pytest.raises(RunError):
        check_event(world.view, Event("limit_changed", 0, data={"limit": "x", "capacity": 1}))


def test_refused_credentials_stop_everything_until_a_person_goes_on() -> None:
    world = begun(wave(4))
    world.settle()
    started = [e.step for e in world.events if e.kind == "step_started"]
    world.now_ms += 50
    world.step()
    world.settle()
    boots = [s for s, _ in world.acts if s.startswith("boot:")]
    assert boots
    world.pending.clear()
    for step in boots:
        i = world.view.index[step]
        world.say(
            "step_failed",
            step,
            world.view.attempts[i],
            code="credentials-refused",
            message="401",
            again_ms=-1,
        )
    acts = len(world.acts)
    assert started
    assert world.finish() == "paused"
    assert len(world.acts) == acts
    assert world.view.pause is not None
    assert "fix evac's password" in world.view.pause.reason
    assert not any(world.view.limits.used(f"power:f{f}") for f in range(2))
    world.say("resumed", who="mina", reason="mended")
    world.finish()
    assert {s for s, n in world.acts if n == 2} == set(boots)


class Unequipped(Wave):
    """Boots that cannot be tried for what evac itself lacks."""

    code = "secret-open"
    lacking = frozenset(f"boot:s{n}" for n in range(24))

    def _execute(self, step: str, attempt: int) -> None:
        if step not in self.lacking:
            super()._execute(step, attempt)
            return
        data = {"code": self.code, "message": "the file can be read by everybody", "again_ms": -1}
        self._later(5, Event("step_failed", 0, step, attempt, data))


@pytest.mark.parametrize(
    "code",
    [
        "secret-open",
        "secret-missing",
        "driver-library-missing",
        "setting-wrong",
        "agent-unreachable",
        "driver-broken",
    ],
)
def test_what_evac_itself_lacks_sends_no_server_to_the_floor(code: str) -> None:
    world = Unequipped(roomy(), trouble=0)
    world.code = code
    world.begin()
    assert world.finish() == "paused"
    assert world.view.pause is not None
    assert f"the file can be read by everybody [{code}]; fix it, then resume" in world.view.pause.reason
    assert "boot:s" not in " ".join(step for step, _ in world.acts)
    assert len(world.view.boots.quarantined) == 0
    said = forecast(world.view, world.now_ms)
    assert (said.floor, said.up, said.boots) == (0, 0, 24), "all come up once it is mended"
    world.lacking = frozenset()
    world.say("resumed", who="mina", reason="mended")
    assert world.finish() == "succeeded"
    assert set(world.view.phases) == {"succeeded"}
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def test_what_evac_lacks_to_look_at_servers_in_doubt_stops_the_run_as_well() -> None:
    world = begun(roomy())
    while not any(step.startswith("boot:") for step, _ in world.acts):
        world.step()
        world.settle()
    world.take_over(list(world.events))
    step = next(s.id for i, s in enumerate(world.view.steps) if world.view.phases[i] == "unknown")
    attempt = world.view.attempts[world.view.index[step]]
    evidence = {"why": "the file can be read by everybody", "code": "secret-open"}
    world.say("step_observed", step, attempt, outcome="unclear", evidence=evidence)
    world.settle()
    assert world.view.phase == "paused"
    assert world.view.pause is not None
    words = "evac itself cannot check what it boots: the file can be read by everybody [secret-open]; fix it"
    assert words in world.view.pause.reason
    world.say("resumed", who="mina", reason="mended")
    assert world.finish() == "succeeded"


def test_settings_that_are_wrong_for_few_servers_hold_up_nobody() -> None:
    world = Unequipped(roomy(), trouble=0)
    world.code, world.lacking = "setting-wrong", frozenset({"boot:s3", "boot:s8", "boot:s20"})
    world.begin()
    assert world.finish() == "succeeded_with_exceptions"
    assert {world.view.steps[i].id for i in world.view.boots.quarantined} == world.lacking
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def gone_silent(world: Wave, feed: str, most: int) -> list[str]:
    """Boots that run behind a feed fall silent after they had answered."""
    found = []
    for i, step in enumerate(world.view.steps):
        if feed in step.feeds and world.view.phases[i] == "running" and len(found) < most:
            world.say("step_unknown", step.id, world.view.attempts[i], message="silent", code="bmc-silent")
            found.append(step.id)
    return found


def forget(world: Wave, which: Callable[[RunStep], bool]) -> None:
    """What is under way of these has no result any more."""
    world.pending = [
        one for one in world.pending if not which(world.view.steps[world.view.index[one[2].step]])
    ]


def test_a_feed_that_trips_takes_its_servers_back_and_waits_for_a_person() -> None:
    world = begun(roomy())
    while not any(step.startswith("boot:") for step, _ in world.acts):
        world.step()
        world.settle()
    world.pending = [
        one for one in world.pending if "f0" not in world.view.steps[world.view.index[one[2].step]].feeds
    ]
    silent = gone_silent(world, "f0", 99)
    world.settle()
    assert [e.data["feed"] for e in world.events if e.kind == "feed_tripped"] == ["f0"]
    assert world.view.phases[world.view.index["power:f0"]] == "ready"
    assert all(world.view.phases[world.view.index[step]] == "pending" for step in silent)
    assert world.view.limits.used("power:f0") > 0, "silence alone does not say that nothing is drawn"
    assert world.finish() == "paused"
    others = [i for i, step in enumerate(world.view.steps) if step.feeds == ("f1",)]
    assert all(world.view.phases[i] == "succeeded" for i in others)
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))
    world.say("gate_opened", "power:f0", world.view.attempts[0], who="mina", reason="breaker closed")
    assert world.finish() == "succeeded"


class Faulty(Wave):
    """Three servers in three racks behind one feed whose own power supplies are broken, which shows late."""

    def _execute(self, step: str, attempt: int) -> None:
        if step not in ("boot:s0", "boot:s6", "boot:s12"):
            super()._execute(step, attempt)
            return
        data = {"code": "server-power-fault", "message": "does not stay on", "again_ms": -1, "off": True}
        self._later(2_000, Event("step_failed", 0, step, attempt, data))


def test_servers_that_are_broken_themselves_do_not_trip_their_feed_for_ever() -> None:
    world = Faulty(roomy(), trouble=0)
    world.begin()
    phase, asked = world.finish(), 0
    while phase == "paused":
        asked += 1
        assert asked < 10
        world.say("gate_opened", "power:f0", world.view.attempts[0], who="mina", reason="breaker closed")
        phase = world.finish()
    assert (phase, asked) == ("succeeded_with_exceptions", 2)
    assert [e.data["feed"] for e in world.events if e.kind == "feed_tripped"] == ["f0", "f0"]
    left = {world.view.steps[i].target for i in world.view.boots.quarantined}
    assert left == {"s0", "s6", "s12"}
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def test_one_rack_that_falls_silent_is_no_tripped_feed() -> None:
    world = begun(roomy())
    while not any(step.startswith("boot:") for step, _ in world.acts):
        world.step()
        world.settle()
    for i, step in enumerate(world.view.steps):
        if step.rack == "r0" and world.view.phases[i] == "running":
            world.say("step_unknown", step.id, 1, message="silent", code="bmc-silent")
    world.settle()
    assert not [e for e in world.events if e.kind == "feed_tripped"]


def test_a_breaker_that_is_seen_open_trips_its_feed_and_frees_its_watts() -> None:
    world = begun(roomy())
    world.step()
    while world.view.counts.get("succeeded", 0) < 10:
        world.step()
    world.say("drift_seen", "power:f1", 1, evidence={"breaker": "Tripped"}, undone=False)
    world.settle()
    assert "f1" in world.view.boots.tripped
    assert world.view.limits.used("power:f1") <= 500 * world.view.counts.get("running", 0)
    world.finish()
    assert world.view.limits.used("power:f1") == 0


def test_that_a_feed_was_alive_is_known_until_it_trips_or_is_taken_back() -> None:
    world = begun(roomy())
    world.step()
    world.say("feeds_seen", feeds=["f0", "f1"])
    assert world.view.boots.powered == {"f0", "f1"}
    world.say("feed_tripped", feed="f1", why="seen", open=False, evidence={})
    world.say("feeds_seen", feeds=["f1"])
    assert world.view.boots.powered == {"f0"}, "the look was made before it tripped"
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))
    world.say("undo_asked", "power:f0", who="mina", reason="smoke")
    world.settle()
    while world.view.phases[world.view.number("power:f0")] != "undone":
        assert world.step()
    assert not world.view.boots.powered


def test_boots_of_a_dead_boot_server_move_to_another_one() -> None:
    spec = roomy(7)
    limits = tuple(replace(one, capacity=6) if one.id.startswith("boots:") else one for one in spec.limits)
    world = begun(replace(spec, limits=limits))
    world.outcome = lambda step, attempt: "ok"
    while not any(step.startswith("boot:") for step, _ in world.acts):
        world.step()
        world.settle()
    mine = [i for i, step in enumerate(world.view.steps) if step.boot_server == "b0"]
    running = [i for i in mine if world.view.phases[i] == "running"]
    forget(world, lambda step: step.boot_server == "b0")
    for i in running:
        world.say(
            "step_failed", world.view.steps[i].id, 1, code="server-no-boot", message="", again_ms=-1, off=True
        )
    world.settle()
    lost = [e.data for e in world.events if e.kind == "boot_server_lost"]
    assert [(one["server"], one["other"]) for one in lost] == [("b0", "b1")]
    assert world.finish() == "succeeded"
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def alone() -> Wave:
    """A wave with one boot server only, just after it died: nothing that began before comes up."""
    spec = roomy(7)
    steps = tuple(
        replace(
            step,
            boot_server="b0" if step.boot_server else "",
            uses=tuple(use for use in step.uses if not use[0].startswith("boots:")),
        )
        for step in spec.steps
    )
    limits = tuple(one for one in spec.limits if not one.id.startswith("boots:"))
    hall = tuple(replace(one, capacity=4_000) if one.id == "power:hall" else one for one in limits)
    world = begun(replace(spec, steps=steps, limits=hall))
    world.outcome = lambda step, attempt: "ok"
    while world.view.counts.get("running", 0) < 6:
        world.step()
        world.settle()
    running = [i for i, phase in enumerate(world.view.phases) if phase == "running"]
    forget(world, lambda step: step.boot_server == "b0")
    for i in running:
        not_up(world, i)
    world.settle()
    (lost,) = [event.data for event in world.events if event.kind == "boot_server_lost"]
    assert (lost["server"], lost["other"], lost["holds"]) == ("b0", "", True)
    next_fails(world)  # it began in the moment in which that was said, and proves nothing
    assert not world.view.boots.quarantined
    return world


def next_fails(world: Wave) -> int:
    """The one that tries does not come up either; which that was."""
    (i,) = running(world)
    forget(world, lambda step: True)
    world.now_ms += 10
    not_up(world, i)
    world.settle()
    return i


def not_up(world: Wave, i: int) -> None:
    data = {"code": "server-no-boot", "message": "", "again_ms": -1, "off": True}
    world.put(Event("step_failed", world.now_ms, world.view.steps[i].id, world.view.attempts[i], data))


def running(world: Wave) -> list[int]:
    return [i for i, phase in enumerate(world.view.phases) if phase == "running"]


def test_one_server_at_a_time_tries_a_dead_boot_server_that_nobody_replaces() -> None:
    world = alone()
    assert world.view.counts["ready"] == 23, "those that failed before are to be tried again, and wait"
    tried = {next_fails(world) for _ in range(4)}
    assert len(tried) == 4, "another one each time"
    assert held_servers(world.view) == {"b0": 23}, "those that tried it in vain take another turn"
    assert words_of(waiting(world.view)[0]).startswith("fix boot server b0")
    held = next(i for i, phase in enumerate(world.view.phases) if phase == "ready")
    assert step_row(world.view, held).waits_for == "waits for boot server b0"
    assert forecast(world.view, world.now_ms).waits
    (i,) = running(world)
    world.say("step_succeeded", world.view.steps[i].id, world.view.attempts[i])
    assert not world.view.boots.unreplaced
    world.settle()
    assert len(running(world)) > 1
    world.say("limit_changed", limit="power:hall", capacity=10**6, who="m", reason="all of it")
    world.finish()
    assert world.view.counts["succeeded"] == len(world.view.steps), "also those that the floor was told of"
    assert not world.view.boots.quarantined
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def test_a_boot_that_began_before_proves_no_dead_boot_server_alive() -> None:
    world = alone()
    view, since = world.view, world.view.boots.unreplaced_ms["b0"]
    (i,) = running(world)
    view.started[i] = since
    world.say("step_succeeded", view.steps[i].id, view.attempts[i])
    assert view.boots.unreplaced == {"b0"}
    world.settle()
    assert len(running(world)) == 1


def test_servers_that_never_get_an_image_end_on_the_floor() -> None:
    world = alone()
    tried = [next_fails(world) for _ in range(24)]
    assert len(set(tried)) == 24
    for turn in range(1, world.spec.patience.attempts + 1):
        assert world.view.phase == "running"
        again = []
        for _ in range(24):
            while not running(world):
                assert world.step()
                world.settle()
            again.append(next_fails(world))
        assert again == tried, f"turn {turn}: one at a time, who waits longest first"
    assert world.finish() == "succeeded_with_exceptions"
    assert len(world.view.boots.quarantined) == 24
    assert not held_servers(world.view)["b0"]


def test_a_boot_in_doubt_is_tried_again_once_its_boot_server_serves() -> None:
    world = alone()
    (i,) = running(world)
    step = world.view.steps[i].id
    assert world.view.failures[i][0] == "server-no-boot"
    world.say("step_unknown", step, world.view.attempts[i], message="another leader")
    for look in range(1, 12):
        at_ms = world.now_ms + look * 1_000
        world.put(Event("step_observed", at_ms, step, world.view.attempts[i], {"outcome": "unclear"}))
        if i in world.view.doubtful:
            break
    world.now_ms = at_ms
    world.settle()
    assert (world.view.phases[i], i in world.view.boots.quarantined, i in world.view.boots.blind) == (
        "skipped",
        True,
        True,
    )
    (other,) = running(world)
    world.now_ms += 10
    world.say("step_succeeded", world.view.steps[other].id, world.view.attempts[other])
    assert not world.view.boots.unreplaced
    assert world.view.phases[i] == "skipped"
    world.settle()
    retried = [e for e in world.events if e.kind == "step_retried"]
    assert [(e.step, e.data["turn"], e.data["cycle"]) for e in retried] == [(step, 1, False)]
    assert world.view.phases[i] in ("ready", "running")
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def test_a_journal_of_before_holds_nothing() -> None:
    """There, boots went on at a boot server that was given up, whether there was another or not."""
    world = alone()
    old = [
        e._replace(data={**e.data, "holds": False}) if e.kind == "boot_server_lost" else e
        for e in world.events
    ]
    assert not replay(world.spec, old).boots.unreplaced


def test_a_boot_in_doubt_has_the_time_of_a_whole_try() -> None:
    """A server that boots answers `not yet` until it is up; a new leader must not give it up after four."""
    world = begun(roomy())
    while world.view.counts.get("running", 0) < 5:
        world.step()
        world.settle()
    i = next(i for i, step in enumerate(world.view.steps) if step.kind == "boot")
    step, at_ms = world.view.steps[i].id, world.now_ms
    world.say("step_unknown", step, 1, message="another leader")
    for look in range(1, 8):
        world.put(Event("step_observed", at_ms + look * 1_000, step, 1, {"outcome": "unclear"}))
    assert i not in world.view.doubtful
    world.put(Event("step_observed", at_ms + 10_000, step, 1, {"outcome": "unclear"}))
    assert i in world.view.doubtful


def test_a_look_that_could_not_be_made_gives_no_server_up() -> None:
    """A machine that was too slow to hear an answer knows nothing of the server; but not for good."""
    world = begun(roomy())
    while world.view.counts.get("running", 0) < 5:
        world.step()
        world.settle()
    i = next(i for i, step in enumerate(world.view.steps) if step.kind == "boot")
    step, at_ms = world.view.steps[i].id, world.now_ms
    world.say("step_unknown", step, 1, message="another leader")
    busy = {"outcome": "unclear", "evidence": {"code": "bmc-busy"}}
    for look in range(1, 20):
        world.put(Event("step_observed", at_ms + look * 1_000, step, 1, busy))
    assert i not in world.view.doubtful
    world.put(Event("step_observed", at_ms + 20_000, step, 1, busy))
    assert i in world.view.doubtful


def test_neither_a_late_start_nor_a_dead_leader_costs_a_server_a_try() -> None:
    world = begun(roomy())
    while world.view.counts.get("running", 0) < 5:
        world.step()
        world.settle()
    running = [i for i, phase in enumerate(world.view.phases) if phase == "running"]
    late, failed, cut_off = [i for i in running if world.view.steps[i].kind == "boot"][:3]
    for i, code in ((late, "late"), (failed, "bmc-silent")):
        world.say("step_failed", world.view.steps[i].id, 1, code=code, message="", again_ms=100)
    world.say("leader_changed", token=world.view.token + 1, owner="another")
    assert [world.view.tries[i] for i in (late, failed, cut_off)] == [0, 1, 0]
