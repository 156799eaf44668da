"""What was done is watched: traffic is put right, stores are only reported, and never too often."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.engine.runs.drift import Done, Drift, DriftWatch
from evac.model.errors import Permanent

ORDER = Order("r1", "shift:chat:0", 1, 7, 0, "fire", 1.0, "r1/shift:chat:0")


class _Clock:
    def __init__(self) -> None:
        self.at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


class _System:
    """One real system that somebody else changes. outcome: what it says."""

    name = "haproxy"
    verbs: frozenset[Verb] = frozenset()

    def __init__(self) -> None:
        self.outcome: Any = "done"
        self.observed: list[int] = []
        self.executed: list[Action] = []
        self.broken = False
        self.clock = _Clock()

    async def check(self, action: Action, order: Order) -> Checked:
        return Checked()

    async def observe(self, action: Action, order: Order) -> Observed:
        self.observed.append(self.clock.at_ms)
        if self.outcome == "hangs":
            await asyncio.sleep(60)
        return Observed(self.outcome, {"pool": "pangyo"})

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.executed.append(action)
        if self.broken:
            raise Permanent("refused", "the proxy refuses")
        self.outcome = "done"
        return {}

    async def undo(self, action: Action, order: Order) -> Evidence:
        return {}

    async def close(self) -> None:
        return None


class _World:
    def __init__(self, may_act: bool = True, **more: Any) -> None:
        self.system = _System()
        self.told: list[Drift] = []
        self.may_act = may_act
        self.watch = DriftWatch(
            lambda name: self.system, self.system.clock, self._tell, self._may, period_ms=1_000, **more
        )

    async def _tell(self, drift: Drift) -> None:
        self.told.append(drift)

    async def _may(self, done: Done) -> bool:
        return self.may_act

    def seconds(self, count: int) -> None:
        async def play() -> None:
            for _ in range(count):
                self.system.clock.at_ms += 1_000
                while await self.watch.turn() == 0:
                    pass

        asyncio.run(play())


def _act(verb: Verb, target: str = "chat", at: str = "anyang", **settings: str) -> Action:
    parameters: Mapping[str, str] = {"to": "anyang"}
    return Action(verb, target, "haproxy", at, settings, parameters)


def test_traffic_that_drifted_is_put_right_and_reported_once() -> None:
    world = _World()
    world.watch.add("shift:chat:0", [_act("shift")], ORDER)
    world.seconds(3)
    assert (world.told, world.system.executed) == ([], [])
    world.system.outcome = "absent"
    world.seconds(1)
    assert world.system.executed == [], "one look is no proof"
    world.seconds(3)
    assert len(world.system.executed) == 1
    assert [(d.step, d.undone, dict(d.evidence)) for d in world.told] == [
        ("shift:chat:0", True, {"pool": "pangyo"})
    ]


def test_who_undoes_it_again_and_again_does_not_fill_the_journal() -> None:
    world = _World()
    world.watch.add("shift:chat:0", [_act("shift")], ORDER)
    for _ in range(20):
        world.system.outcome = "absent"
        world.seconds(3)
    assert len(world.system.executed) == 20, "it is put right each time"
    assert [drift.times for drift in world.told] == [1, 2, 4, 8, 16]


def test_a_store_that_changed_its_role_is_only_reported() -> None:
    verbs: tuple[Verb, ...] = ("promote", "fence", "rejoin", "demote")
    for verb in verbs:
        world = _World()
        world.watch.add("promote:messages:0", [_act(verb)], ORDER)
        world.system.outcome = "absent"
        world.seconds(20)
        assert world.system.executed == []
        assert [drift.undone for drift in world.told] == [False], "once, not every second"
        world.system.outcome = "done"
        world.seconds(1)
        world.system.outcome = "absent"
        world.seconds(5)
        assert len(world.told) == 2, "and again when it came back and went again"


def test_what_lasts_is_watched_on_when_its_time_is_over() -> None:
    seen = []
    for lasts in (False, True):
        world = _World(lasts=lambda done, lasts=lasts: lasts, span_ms=10_000)
        world.watch.add("power:f1", [_act("shift")], ORDER)
        world.seconds(60)
        seen.append(len(world.system.observed))
        world.system.outcome = "absent"
        world.seconds(3)
        assert bool(world.told) is lasts
    assert seen[0] < 12 < 50 < seen[1]


def test_what_cannot_be_seen_is_no_drift() -> None:
    world = _World()
    world.watch.add("shift:chat:0", [_act("shift")], ORDER)
    world.system.outcome = "unclear"
    world.seconds(10)
    assert (world.told, world.system.executed) == ([], [])


def test_a_leader_that_may_not_act_reports_only() -> None:
    world = _World(may_act=False)
    world.watch.add("shift:chat:0", [_act("shift")], ORDER)
    world.system.outcome = "absent"
    world.seconds(10)
    assert world.system.executed == []
    assert [drift.undone for drift in world.told] == [False]


def test_what_cannot_be_put_right_is_told_once_and_tried_on() -> None:
    world = _World()
    world.watch.add("shift:chat:0", [_act("shift")], ORDER)
    world.system.outcome, world.system.broken = "absent", True
    world.seconds(12)
    assert len(world.system.executed) > 2
    assert [(drift.undone, drift.failure) for drift in world.told] == [(False, "the proxy refuses")]


def test_a_newer_action_replaces_the_older_one() -> None:
    world = _World()
    world.watch.add("drain:chat:0", [_act("drain")], ORDER)
    world.watch.add("drain:chat:1", [_act("drain", at="ansan")], ORDER)
    world.watch.add("ready:chat:0", [_act("ready")], ORDER)
    assert len(world.watch) == 2
    world.watch.add("verify:chat:0", [_act("verify"), _act("scale")], ORDER)
    assert len(world.watch) == 2, "what is not traffic or a store is not watched"


def test_a_newer_epoch_ends_the_watch_over_the_older_one() -> None:
    world = _World()
    world.watch.add("protect:messages:0", [_act("protect", "messages", "pangyo")], replace(ORDER, epoch=3))
    world.watch.add("shift:messages:0", [_act("shift", "messages")], ORDER)
    world.watch.add("promote:messages:0", [_act("promote", "messages")], replace(ORDER, epoch=4))
    assert len(world.watch) == 2
    world.system.outcome = "absent"
    world.seconds(3)
    assert [action.verb for action in world.system.executed] == ["shift"]


def test_it_stops_after_its_span_and_keeps_its_rate() -> None:
    world = _World(span_ms=5_000)
    for number in range(5):
        world.watch.add(f"shift:{number}", [_act("shift", str(number))], ORDER)
    world.seconds(20)
    assert len(world.watch) == 0
    assert len(world.system.observed) == 25, "each of them once a second for five seconds"


def test_a_system_that_hangs_holds_up_nothing_for_long() -> None:
    world = _World()
    quick = Order("r1", "s", 1, 7, 0, "fire", 0.02, "r1/s")
    world.watch.add("shift:chat:0", [_act("shift")], quick)
    world.system.outcome = "hangs"
    world.seconds(2)
    assert len(world.system.observed) == 2


def test_it_runs_by_itself_within_its_rate() -> None:
    async def play() -> None:
        world = _World(rate=50)
        for number in range(5):
            world.watch.add(f"shift:{number}", [_act("shift", str(number))], ORDER)
        world.system.clock.at_ms = 1_000
        task = asyncio.ensure_future(world.watch.run())
        await asyncio.sleep(0.05)
        assert len(world.system.observed) <= 4
        await asyncio.sleep(0.2)
        assert len(world.system.observed) == 5
        task.cancel()

    asyncio.run(play())


def test_traffic_that_a_later_run_moved_is_not_put_right_to_what_an_earlier_one_decided() -> None:
    """Not even at a system that the later run could not reach: it comes back as it was, or put right."""
    world = _World()
    earlier = Action("shift", "chat", "haproxy", "anyang", {"host": "a"}, {"to": "anyang"})
    later = Action("shift", "chat", "haproxy", "ansan", {"host": "b"}, {"to": "ansan"})
    world.watch.add("shift:chat", [earlier], ORDER)
    world.watch.add("shift:chat", [later], replace(ORDER, run="r2", key="r2/shift:chat"))
    world.system.outcome = "absent"
    world.seconds(10)
    assert {action.at for action in world.system.executed} == {"ansan"}
