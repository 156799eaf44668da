"""A worker of plans: of losses that take the same, the basis, the plan and the check are made once."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.app.planner import desk
from evac.app.planner.worker import PlanningWorker
from evac.engine.clock import SystemClock
from evac.engine.plans.library import Drawer, Made, digest_of
from evac.engine.plans.queue import Ready, Work
from evac.estate.codecs import plan as plan_codec
from evac.model.errors import InvalidInput, UnsafePlan
from evac.model.observation import Observation
from evac.model.run_policy import RunPolicy
from evac.model.scenario import lose
from evac.store.port import MemoryStore
from evac.verify.check import check
from tests.web.rooms import ESTATE

ANNEX = "  annex: {kind: campus, members: [south]}\n  river-utility:"


class _Here:
    """A worker in this process that counts what it is asked."""

    pids = ()

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def ask(self, work: Callable[..., Any], *more: Any) -> Any:
        self.asked[work.__name__] += 1
        return work(*more)

    def close(self) -> None:
        pass


class _Room:
    """A planner with what lies in the drawer."""

    def __init__(self, folder: Path) -> None:
        desk._desks.clear()
        self.folder, self.lying = folder, dict[str, bytes]()
        self.ready = dict[tuple[str, ...], Ready]()
        self.here = _Here()
        self.worker = PlanningWorker(folder, None, RunPolicy(), servers=1_000)
        self.worker._workers = [self.here for _ in self.worker._workers]  # type: ignore[misc]

    async def stand(self, work: Work, *lost: str) -> Made:
        made = await self.worker.stand(0, lost, work, self.ready.get(lost), self._load)
        digest = digest_of(made.data)
        self.lying[digest] = made.data
        self.ready[lost] = Ready(lost, digest, "", 0, basis=made.basis, searched=made.searched)
        return made

    async def _load(self, digest: str) -> bytes:
        return self.lying[digest]

    def again(self) -> _Room:
        """Another planner after the files have changed, with the same drawer."""
        other = _Room(self.folder)
        other.lying, other.ready = self.lying, self.ready
        return other


@pytest.fixture
def room(tmp_path: Path) -> Iterator[_Room]:
    folder = Path(shutil.copytree(ESTATE, tmp_path / "estate"))
    path = folder / "estate.yaml"
    path.write_text(path.read_text("utf-8").replace("  river-utility:", ANNEX), "utf-8")
    yield _Room(folder)
    desk._desks.clear()


def _holds(room: _Room, made: Made, lost: str) -> bool:
    plan = plan_codec.decode(made.data)
    return plan.scenario == lose(lost) and check(estates.load(room.folder), plan).holds


def test_of_two_losses_that_take_the_same_one_plan_is_made_and_one_is_searched_for(room: _Room) -> None:
    async def story() -> None:
        wanted = {one.lost: one.takes for one in await room.worker.scenarios()}
        assert wanted["annex",] == wanted["south",] != wanted["north",]
        await room.stand("make", "south")
        assert _holds(room, await room.stand("make", "annex"), "annex")
        assert not room.ready["annex",].searched
        better = await room.stand("search", "south")
        assert room.here.asked["plan"] == 2
        shared = await room.stand("search", "annex")
        assert room.here.asked["plan"] == 2
        assert shared.searched
        assert plan_codec.decode(shared.data).steps == plan_codec.decode(better.data).steps
        assert room.here.asked["basis"] == 1

    asyncio.run(story())


def test_the_other_workers_read_the_estate_while_one_lists_scenarios(room: _Room) -> None:
    async def story() -> None:
        wanted = await room.worker.scenarios()
        await asyncio.gather(*room.worker._opening)
        assert wanted
        assert room.here.asked["opened"] == room.worker.lanes - 1

    asyncio.run(story())


def test_what_is_wanted_at_once_has_a_worker_that_is_open_before_and_searches_for_nothing(
    room: _Room,
) -> None:
    async def story() -> None:
        urgent = _Here()
        room.worker._workers[-1] = urgent  # type: ignore[call-overload]
        keeping = asyncio.create_task(room.worker.stay_open())
        while not urgent.asked["opened"]:
            await asyncio.sleep(0.01)
        keeping.cancel()
        made = await room.worker.stand(room.worker.lanes, ("south",), "now", None, room._load)
        assert _holds(room, made, "south")
        assert not made.searched, "a better one is looked for later"
        assert (urgent.asked["plan"], room.here.asked.total()) == (1, 0)

    asyncio.run(story())


def test_after_a_change_one_of_two_equal_plans_is_checked_and_both_stay(
    room: _Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []

    def counted(*given: Any) -> Any:
        checks.append(given[1].scenario.domains)
        return check(*given)

    async def story() -> None:
        await room.worker.scenarios()
        for lost in ("south", "annex"):
            await room.stand("make", lost)
        path = room.folder / "estate.yaml"
        path.write_text(path.read_text("utf-8").replace("paid: true, rto: 20 min", "paid: true, rto: 9 d"))
        later = room.again()
        await later.worker.scenarios()
        monkeypatch.setattr(sys.modules["evac.verify.check"], "check", counted)
        for lost in ("south", "annex"):
            kept = await later.stand("make", lost)
            assert kept.confirmed
            assert _holds(later, kept, lost)
        assert later.here.asked["plan"] == 0
        assert checks == [("south",)]

    asyncio.run(story())


def _edit(room: _Room, old: str, new: str, name: str) -> None:
    """The estate changes on disk, and the worker that lives on is told."""
    folder = Path(shutil.copytree(room.folder, room.folder.with_name(name)))
    text = (folder / "estate.yaml").read_text("utf-8")
    assert text.count(old) == 1
    (folder / "estate.yaml").write_text(text.replace(old, new), "utf-8")
    room.folder = folder
    room.worker.take(folder, 1_000)
    room.here.asked.clear()


def test_a_worker_that_lives_on_asks_the_checker_only_where_something_changed(room: _Room) -> None:
    async def story() -> None:
        await room.worker.scenarios()
        for lost in ("south", "annex", "north"):
            await room.stand("make", lost)
        before = {lost: made.plan for lost, made in room.ready.items()}
        _edit(room, "paid: true, rto: 20 min", "paid: true, rto: 9 d", "objective")
        await room.worker.scenarios()
        for lost in ("south", "annex", "north"):
            kept = await room.stand("make", lost)
            assert kept.confirmed
            assert _holds(room, kept, lost)
        assert {lost: made.plan for lost, made in room.ready.items()} != before, "they say the objective"
        assert room.here.asked["still"] == room.here.asked["plan"] == 0
        assert room.here.asked["again"] == 3
        _edit(room, "start: 40 s", "start: 11 min", "start")
        await room.worker.scenarios()
        made = await room.stand("make", "south")
        assert not made.confirmed
        assert _holds(room, made, "south")
        assert room.here.asked["plan"] == 1
        assert room.here.asked["still"] == room.here.asked["again"] == 0

    asyncio.run(story())


def test_a_plan_that_this_worker_did_not_see_made_is_checked(room: _Room) -> None:
    async def story() -> None:
        await room.worker.scenarios()
        await room.stand("make", "south")
        later = room.again()
        await later.worker.scenarios()
        assert (await later.stand("make", "south")).confirmed
        assert later.here.asked["still"] == 1
        assert (await later.stand("make", "south")).confirmed
        assert (later.here.asked["still"], later.here.asked["again"]) == (1, 1)
        other = plan_codec.encode(replace(plan_codec.decode(later.lying[later.ready["south",].plan]), seed=1))
        later.lying[digest_of(other)] = other
        later.ready["south",] = replace(later.ready["south",], plan=digest_of(other))
        assert (await later.stand("make", "south")).confirmed
        assert later.here.asked["still"] == 2, "another plan lies there now"

    asyncio.run(story())


def _misplans(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the planner says of each plan that it costs more than it does."""
    module = sys.modules["evac.planning.plan"]
    plan = module.plan

    def wrong(*given: Any, **more: Any) -> Any:
        made = plan(*given, **more)
        return replace(made, objective=made.objective + 1)

    monkeypatch.setattr(module, "plan", wrong)


def test_a_plan_that_the_checker_refuses_is_not_ready_and_says_why(
    room: _Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        store, clock, digest = MemoryStore(), SystemClock(), "sha256:one"
        guard = await store.acquire("leader", "c1", 60_000)
        drawer = Drawer(store, clock, ("hill", "north", "south"), room.worker, lambda: digest)
        with monkeypatch.context() as patched:
            _misplans(patched)
            assert await drawer.fill_one(guard)
        ready = await drawer.look(("hill",))
        assert ready is not None
        assert ready.plan == ""
        assert ready.problem.startswith("the checker does not accept this plan: F19 ")
        assert await drawer.take(("hill",)) is None
        assert await store.list("plan/") == []
        assert room.worker._known.made == {}
        digest = "sha256:two"
        assert await drawer.fill_one(guard)
        taken = await drawer.take(("hill",))
        assert taken is not None
        assert check(estates.load(room.folder), plan_codec.decode(taken[1])).holds

    asyncio.run(story())


def test_where_the_checker_refuses_what_lies_there_and_what_is_made_nothing_stays(
    room: _Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        await room.worker.scenarios()
        made = await room.stand("make", "south")
        plan = plan_codec.decode(made.data)
        worse = plan_codec.encode(replace(plan, objective=plan.objective + 1))
        later = room.again()
        later.lying[digest_of(worse)] = worse
        later.ready["south",] = replace(later.ready["south",], plan=digest_of(worse))
        await later.worker.scenarios()
        with monkeypatch.context() as patched:
            _misplans(patched)
            with pytest.raises(UnsafePlan, match="the checker does not accept"):
                await later.stand("confirm", "south")
            with pytest.raises(InvalidInput, match="the checker does not accept"):
                await later.stand("search", "south")
        again = await later.stand("confirm", "south")
        assert not again.confirmed
        assert _holds(later, again, "south")

    asyncio.run(story())


def test_what_rows_said_is_taken_only_while_they_are_made_of_the_same(room: _Room) -> None:
    where = desk.Place(str(room.folder), None, ())
    first = desk.basis(where, Observation(0), ("south",))
    assert isinstance(first, desk.Based)
    forged = replace(first.rows, capacity="forged")
    desk._desks.clear()
    taken = desk.basis(where, Observation(0), ("south",), forged)
    assert isinstance(taken, desk.Based)
    assert taken.rows == forged
    _edit(room, "memory: 2 TiB", "memory: 1 TiB", "room")
    changed = desk.Place(str(room.folder), None, ())
    anew = desk.basis(changed, Observation(0), ("south",), forged)
    assert isinstance(anew, desk.Based)
    assert anew.rows.key != first.rows.key
    assert anew.rows.capacity not in (first.rows.capacity, forged.capacity)


def test_a_plan_that_says_something_else_is_checked_though_another_was_accepted(room: _Room) -> None:
    async def story() -> None:
        await room.worker.scenarios()
        made = await room.stand("make", "south")
        await room.stand("make", "annex")
        plan = plan_codec.decode(made.data)
        cut = plan_codec.encode(plan_codec.decode(room.lying[room.ready["annex",].plan]))
        worse = cut.replace(f'"bound":{plan.bound * plan.tick_ms}'.encode(), b'"bound":0', 1)
        assert worse != cut
        kept = room.ready["annex",]
        room.lying[digest_of(worse)] = worse
        later = room.again()
        later.ready["annex",] = Ready(kept.lost, digest_of(worse), "", 0, basis=kept.basis)
        await later.worker.scenarios()
        assert (await later.stand("make", "south")).confirmed
        again = await later.stand("make", "annex")
        assert not again.confirmed, "the checker refuses it, and that of the other loss takes its place"
        assert _holds(later, again, "annex")
        assert later.here.asked["plan"] == 0

    asyncio.run(story())
