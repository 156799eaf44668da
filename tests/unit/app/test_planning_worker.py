"""A worker of plans: of losses that take the same, the basis, the plan and the check are made once."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.app import planning_desk as desk
from evac.app.planning_worker import PlanningWorker
from evac.engine.drawer import Made, digest_of
from evac.engine.standing import Ready, Work
from evac.estate import plan_codec
from evac.model.run_policy import RunPolicy
from evac.model.scenario import lose
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
