"""A run that the store made without saying so: it is looked for, found, and carried out like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import pytest

from evac.engine.runs.reading import events_of
from evac.model.errors import Unavailable
from evac.store.port import Change, Compare, Entry, Lease, Put
from tests.unit.engine.small_world import SiteStore, World, play
from tests.unit.engine.test_hanging import Copies

SILENT_S = 0.05


def _silence(store: SiteStore, when: str) -> list[str]:
    """The first transaction that opens a run is not answered, and for a moment nothing else is. when: it is
    done at once, or a good while later, or never; or it arrives twice, and the second answer alone is heard.
    What became of it is added to the list.
    """
    known, said = store.transact, list[str]()

    async def transact(
        compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        if said or not any(change.key.startswith("open/") for change in changes):
            return await known(compares, changes, guard)
        said.append(when)
        if when == "twice":
            await known(compares, changes, guard)
            return await known(compares, changes, guard)
        loop = asyncio.get_running_loop()
        if when == "at once":
            await known(compares, changes, guard)
        elif when == "later":
            loop.call_later(3 * SILENT_S, lambda: loop.create_task(_late(compares, changes, guard)))
        store.cut = True
        loop.call_later(SILENT_S, setattr, store, "cut", False)
        raise Unavailable("no answer")

    async def _late(compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None) -> None:
        try:
            await known(compares, changes, guard)
            said.append("done")
        except Exception as error:
            said.append(type(error).__name__)

    store.transact = transact  # type: ignore[method-assign]
    return said


@pytest.mark.parametrize("when", ["at once", "later", "never", "twice"])
def test_a_run_is_carried_out_once_whatever_became_of_its_making(when: str) -> None:
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        said = _silence(world.stores[world.leader], when)
        copies.hang()
        await world.until(lambda: any("needs approval" in words for words in world.words("run")), 20)
        (entry,) = await world.store.list("open/")
        run = entry.key.removeprefix("open/")
        request = {"verb": "approve", "who": "kim", "reason": "it burns"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        async with asyncio.timeout(20):
            while await world.store.list("open/"):
                await asyncio.sleep(0.02)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds[-1] == "run_ended"
        assert world.systems.verbs_done() == ["protect"]
        assert len(await world.store.list("incident/")) == 1
        assert said[0] == when

    play(story, copies.world("hold"))


def _slow_to_read(store: SiteStore, prefix: str) -> None:
    """Who asks first for what lies under the prefix waits for it for a second."""
    known, asked = store.list, list[str]()

    async def read(of: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        if of.startswith(prefix) and not asked:
            asked.append(of)
            await asyncio.sleep(1)
        return await known(of, after, limit)

    store.list = read  # type: ignore[method-assign]


def test_a_run_that_is_asked_for_again_while_it_is_taken_over_is_taken_over_once() -> None:
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        first = world.leader
        copies.hang()
        await world.until(lambda: any("needs approval" in words for words in world.words("run")), 20)
        (entry,) = await world.store.list("open/")
        run = entry.key.removeprefix("open/")
        for store in world.stores.values():
            _slow_to_read(store, f"journal/{run}/")
        world.stores[first].cut = True
        await world.until(lambda: world.leader not in ("", first), 20)
        second, world.stores[first].cut = world.leader, False
        await asyncio.sleep(3)
        copies.hanging.clear()  # else the next epoch would ask for a run as well
        request = {"verb": "approve", "who": "kim", "reason": "commits hang"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        async with asyncio.timeout(20):
            while await world.store.list("open/"):
                await asyncio.sleep(0.02)
        events = await events_of(world.store, run)
        taken = [event.data["owner"] for event in events if event.kind == "leader_changed"]
        assert [owner.partition("-")[0] for owner in taken] == [second]
        assert (events[-1].kind, events[-1].data["phase"]) == ("run_ended", "succeeded")
        assert world.systems.verbs_done() == ["protect"]
        assert world.leader == second
        assert len([words for words in world.words("leader") if "stopped leading" in words]) == 1

    play(story, copies.world("hold"))
