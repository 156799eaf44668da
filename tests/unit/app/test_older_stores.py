"""A store as an earlier version left it, in the middle of a run: it is read for ever, and the run goes on.

`tests/fixtures/stores/*.jsonl` has one key and its value a line, as the version of that day wrote them. They
are never written anew: what they hold lies in stores of users.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from evac.app import incidents, runs
from evac.app.controlling import Setting, compose
from evac.app.tracing import RunSpans
from evac.engine.clock import SystemClock
from evac.engine.runs import requests
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import decode_all
from evac.model.errors import Corrupt
from evac.run.values import ENDED, Event
from evac.run.view import RunView
from evac.store.journal import read
from evac.store.opening import open_store
from evac.store.port import Put, Store

STORES = sorted((Path(__file__).parents[2] / "fixtures" / "stores").glob("*.jsonl"))
RUN = "inc-1-5704c69d"
PATIENCE_S = 60


class ThatDay:
    """The clock as it went on from the moment in which the store was left: runs have an end in time."""

    def __init__(self, left_ms: int) -> None:
        self._clock = SystemClock()
        self._since_ms = self._clock.now_ms() - left_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() - self._since_ms

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms()


async def filled(path: Path, store: Store) -> Store:
    for line in path.read_text().splitlines():
        key, value = json.loads(line)
        await store.transact((), (Put(key, value.encode()),))
    return store


def with_store(path: Path, folder: Path, story: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        store = await filled(path, open_store(f"sqlite:{folder / 'evac.sqlite'}"))
        try:
            await story(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_there_is_one() -> None:
    assert STORES


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_what_an_earlier_version_wrote_is_read(path: Path, tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        view = await runs.view_of(store, RUN)
        assert view.phase == "running"
        assert {view.steps[i].id: phase for i, phase in enumerate(view.phases)} == {
            "fence:db": "succeeded",
            "promote:db": "running",
            "start:web:base:1": "pending",
            "verify:web:base": "pending",
            "shift:web": "pending",
        }
        proof = await runs.verify(store, RUN, [])
        assert proof.problems == ()
        assert proof.segments == 9
        told = await incidents.dossier(store, "inc-1", SystemClock().now_ms())
        assert told.runs[0].run == RUN
        assert [one.kind for one in told.notices][:1] == ["leader"]
        spans = RunSpans(RUN)
        assert [one.name for e in told.runs[0].events for one in spans.feed(e)][-1] == "fence"

    with_store(path, tmp_path, story)


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_a_change_of_what_it_wrote_is_seen(path: Path, tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        key = f"journal/{RUN}/000000000004"
        entry = await store.get(key)
        assert entry is not None
        await store.transact((), (Put(key, entry.value.replace(b'"attempt', b'"attemp2') + b" "),))
        with pytest.raises(Corrupt):
            async for _ in read(store, RUN):
                pass

    with_store(path, tmp_path, story)


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_a_run_that_an_earlier_version_began_goes_on_to_its_end(path: Path, tmp_path: Path) -> None:
    """The controller of today takes it up in the middle of a step, does none twice, and finishes it."""
    estate = tmp_path / "estate.yaml"
    estate.write_text("evac: 1\nsites: {pangyo: {}, anyang: {}}\nservices: {}\n")
    url = f"sqlite:{tmp_path / 'evac.sqlite'}"

    async def story(store: Store) -> None:
        left = await runs.view_of(store, RUN)
        before, clock = left.events, ThatDay(left.last_ms)
        setting = Setting(estate, "local", url, watch=False, drawer=False)
        made = await compose(setting, lambda notice: None, clock)
        controller = asyncio.create_task(made.controller.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                view = await until_over(store)
        except TimeoutError as error:
            view = await runs.view_of(store, RUN)
            phases = {view.steps[i].id: phase for i, phase in enumerate(view.phases)}
            raise AssertionError(f"{view.phase}, {phases}, {view.whys}, {view.failures}") from error
        finally:
            controller.cancel()
            await asyncio.gather(controller, return_exceptions=True)
            await made.close()
        assert view.phase == "succeeded"
        events = [event for _, event in await events_of(store)]
        assert len(events) > before
        started = [event.step for event in events if event.kind == "step_started"]
        assert sorted(started) == sorted(set(started)), "nothing is begun twice"
        assert (await runs.verify(store, RUN, [])).problems == ()

    with_store(path, tmp_path, story)


async def until_over(store: Store) -> RunView:
    """Vouches for every step that waits for somebody, as people would."""
    asked: dict[str, float] = {}
    number = 0
    while True:
        view = await runs.view_of(store, RUN)
        if view.phase in ENDED and await store.get(OPEN + RUN) is None:
            return view
        for i in sorted(view.manual_running):
            step = view.steps[i].id
            waited_s = time.monotonic() - asked.get(step, 0.0)
            if waited_s > 2 and view.token > 2:  # the controller of today has taken it up
                asked[step], number = time.monotonic(), number + 1
                request = requests.Request(f"r{number}", "attest", "kim", "seen", step=step)
                await store.transact((), (Put(requests.key_of(RUN, request.id), requests.encode(request)),))
        await asyncio.sleep(0.05)


async def events_of(store: Store) -> list[tuple[int, Event]]:
    found: list[tuple[int, Event]] = []
    async for segment in read(store, RUN):
        found += list(enumerate(decode_all(segment.records), segment.first))
    return found
