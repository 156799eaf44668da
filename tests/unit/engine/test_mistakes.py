"""Mistakes of evac itself: said, begun anew, and kept to what they concern."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from typing import Any

import orjson
import pytest

from evac.engine.plans.library import put_plan
from evac.engine.runs.drift import DoneSteps
from evac.engine.runs.reading import events_of
from evac.model.errors import Conflict, EvacError, LeaseLost, Unavailable
from evac.net.internal_errors import INTERNAL, enduring, is_mistake
from evac.store.port import Put
from evac_lab.virtual_loop import VirtualLoop, run
from tests.unit.engine.small_world import World, play, policy_of

SECRET = "hunter2"


def _virtually(story: Callable[[VirtualLoop], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(loop)

    loop = VirtualLoop(1)
    run(loop, whole())


def test_work_that_fails_is_begun_anew_after_pauses_that_grow_and_said_once() -> None:
    said: list[tuple[str, Mapping[str, Any]]] = []
    began: list[float] = []

    async def story(loop: VirtualLoop) -> None:
        async def work() -> None:
            began.append(loop.time())
            if len(began) < 10:
                raise KeyError(SECRET)

        await enduring("a run", work, lambda words, data: said.append((words, data)))

    _virtually(story)
    pauses = [round(later - sooner) for sooner, later in pairwise(began)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    ((words, data),) = said
    assert words.startswith("a run: internal error (KeyError at engine/test_mistakes.py:")
    assert SECRET not in words
    assert data == {"code": INTERNAL, "what": "a run"}


def test_what_went_well_for_long_does_not_wait_for_long() -> None:
    began: list[float] = []

    async def story(loop: VirtualLoop) -> None:
        async def work() -> None:
            began.append(loop.time())
            if len(began) == 6:
                return
            await asyncio.sleep(100 if len(began) == 4 else 0)
            raise ValueError

        await enduring("a chore", work, lambda words, data: None)

    _virtually(story)
    pauses = [round(later - sooner) for sooner, later in pairwise(began)]
    assert pauses == [1, 2, 4, 101, 2]


@pytest.mark.parametrize(
    "error", [LeaseLost("leader"), Unavailable("away"), Conflict("k"), EvacError("c", "m")]
)
def test_what_was_foreseen_is_no_mistake(error: EvacError) -> None:
    group = ExceptionGroup("both", [ExceptionGroup("inner", [KeyError(1)]), error])
    assert not is_mistake(error)
    assert not is_mistake(group), "the lease that is lost goes first"
    assert is_mistake(ExceptionGroup("one", [ExceptionGroup("inner", [KeyError(1)])]))

    async def work() -> None:
        raise error

    with pytest.raises(type(error)):
        asyncio.run(enduring("a run", work, lambda words, data: None))


def test_a_run_that_meets_a_mistake_is_taken_over_from_its_journal_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, met = DoneSteps.watch, list[str]()

    def watch(self: DoneSteps, run: Any, step: str, attempt: int) -> None:
        known(self, run, step, attempt)
        if len(met) < 2:
            met.append(step)
            raise KeyError(SECRET)

    monkeypatch.setattr(DoneSteps, "watch", watch)

    async def story(world: World) -> None:
        await world.until_planned()
        first = world.controllers[world.leader]
        world.burn("pangyo")
        await world.until(lambda: any("is lost" in words for words in world.words("loss")), 20)
        async with asyncio.timeout(60):
            while not await world.ended():
                await asyncio.sleep(0.05)
        (entry,) = await world.store.list("incident/")
        events = await events_of(world.store, orjson.loads(entry.value)["run"])
        assert (events[-1].kind, events[-1].data["phase"]) == ("run_ended", "succeeded")
        taken = [event for event in events if event.kind == "leader_changed"]
        assert len({event.data["token"] for event in taken}) == 1, "by whoever led all the time"
        trouble = [words for words in world.words("trouble") if "internal error" in words]
        assert trouble
        assert SECRET not in "".join(trouble)
        assert first.leads or world.leader

    play(story, World(policy_of("act")))
    assert len(met) == 2


class Mistaken(World):
    """Its checker has a mistake, which the first plan meets."""

    met = 0

    async def accept(self, data: bytes) -> None:
        self.met += 1
        if self.met == 1:
            raise ZeroDivisionError(SECRET)
        await super().accept(data)


def test_a_proposal_that_meets_a_mistake_is_refused_and_the_next_one_made() -> None:
    async def story(world: World) -> None:
        await world.until_planned()

        first, second = f"{1:013d}-{1:012x}", f"{2:013d}-{2:012x}"

        async def propose(name: str) -> dict[str, str]:
            digest = await put_plan(world.store, await world.plan(("pangyo",)))
            told = {"incident": "move-1", "plan": digest, "reason": "a new roof", "who": "kim"}
            await world.store.transact((), (Put(f"proposal/{name}", orjson.dumps(told)),))
            async with asyncio.timeout(20):
                while (entry := await world.store.get(f"answer/{name}")) is None:
                    await asyncio.sleep(0.05)
            return dict(orjson.loads(entry.value))

        refused = await propose(first)
        assert (refused["code"], refused["kind"]) == (INTERNAL, "error")
        assert SECRET not in refused["refused"]
        assert (await propose(second))["run"].startswith("move-1-")
        (trouble,) = world.words("trouble")
        assert trouble.startswith(f"proposal/{first}: internal error (ZeroDivisionError at ")

    play(story, Mistaken(policy_of("hold")))
