"""The list of runs says the same in the store and through the room, also after another plan took over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import httpx2
import orjson
import pytest

from evac.app import runs
from evac.control.server import ServerControl
from evac.control.server_calls import Reply, ServerCalls
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.binding import Bound, put_bound
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import create_run, encode
from evac.model.errors import Unavailable
from evac.office.office import Office
from evac.office.runs import Register
from evac.office.values import Hub
from evac.run.values import Event, RunSpec, RunStep
from evac.store.port import Delete, Entry, MemoryStore, Put
from tests.web.rooms import play

STEP = RunStep("shift:w", "shift", "w", 0, 10, site="north", act="a")
PLANS = ("sha256:b", "sha256:a", "sha256:c")
"""The second sorts before the first, the third behind it."""


def spec(run: str, plan: str) -> RunSpec:
    return RunSpec(run, f"i-{run}", plan, (STEP,), labels={"scenario": f"loss by {plan}"})


async def written(
    store: MemoryStore, bound: tuple[str, ...], events: list[Event], ended: bool = False, run: str = "run-1"
) -> None:
    """bound: plans of which somebody thought, besides the first one; events: after the run was made."""
    clock = SystemClock()
    leading = await Leadership.acquire(store, "c1", 60_000, clock)
    for plan in (PLANS[0], *bound):
        await put_bound(store, Bound(spec(run, plan), {}), None)
    made = orjson.dumps({"run": run, "plan": PLANS[0]})
    changes = (Put(runs.INCIDENT + f"i-{run}", made), Put(OPEN + run, orjson.dumps({"approvals": 0})))
    said = {"scenario": f"loss by {PLANS[0]}"}
    journal, _ = await create_run(store, spec(run, PLANS[0]), leading, clock, said, (), changes)
    await journal.append([encode(event) for event in events], leading.lease)
    if ended:
        await store.transact((), (Delete(OPEN + run),))
    await leading.release()


class Called:
    """Calls of a command, answered by an application without a server."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def read(self, path: str, params: Mapping[str, Any] | None = None) -> Reply:
        told = await self._client.get(path, params=dict(params or {}))
        assert told.status_code == 200
        return Reply(told.status_code, {}, told.content)


STARTED = Event("run_started", 1, data={"token": 1})
PAUSED = Event("paused", 2, data={"by": "person", "who": "kim", "reason": "smoke"})
RESUMED = Event("resumed", 3, data={"who": "kim", "reason": "clear"})
BACK = Event("rollback_started", 1, data={"who": "kim", "reason": "home"})
ENDED = Event("run_ended", 9, data={"phase": "failed", "why": "enough"})


def replaced(plan: str) -> Event:
    return Event("plan_replaced", 2, data={"plan": plan, "why": "loss", "lost": ["north"], "approvals": 0})


def alike(store: MemoryStore) -> dict[str, Any]:
    """The one line of the list, the same both ways."""
    (line,) = alike_all(store)
    return line


def alike_all(store: MemoryStore) -> list[dict[str, Any]]:
    found: list[Any] = []

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        straight = await runs.list_runs(store)
        for _ in range(200):
            office.refresh()
            through = await ServerControl(cast(ServerCalls, Called(client))).runs()
            if through == straight:
                break
            await asyncio.sleep(0.02)
        assert through == straight
        found.extend(straight)

    play(story, store)
    return [line.row for line in found]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    ("taken", "bound"),
    [((), ()), ((), PLANS[1:2]), (PLANS[1:2], PLANS[1:2]), (PLANS[2:], PLANS[2:]), (PLANS[1:], PLANS[1:])],
)
def test_a_list_names_the_plan_in_force_both_ways(
    taken: tuple[str, ...], bound: tuple[str, ...], ended: bool
) -> None:
    store = MemoryStore()
    last = [BACK, ENDED] if ended else []
    asyncio.run(written(store, bound, [STARTED, *map(replaced, taken), *last], ended))
    plan = (PLANS[0], *taken)[-1]
    line = alike(store)
    assert (line["plan_digest"], line["scenario"]) == (plan, f"loss by {plan}")
    assert line["state"] == ("failed" if ended else "running")


@pytest.mark.parametrize(
    ("state", "events"),
    [
        ("awaiting_approval", [Event("approval_needed", 1, data={"outside": []})]),
        ("monitoring", [STARTED, Event("monitoring_started", 2)]),
        ("running", [STARTED, Event("monitoring_started", 2), replaced(PLANS[1])]),
        ("cancelling", [STARTED, Event("cancelled", 2, data={"who": "kim", "reason": "why"})]),
        ("paused", [STARTED, PAUSED]),
        ("running", [STARTED, PAUSED, RESUMED]),
        ("rolling_back", [STARTED, BACK, PAUSED, RESUMED]),
    ],
)
def test_a_list_says_where_a_run_stands_both_ways(state: str, events: list[Event]) -> None:
    store = MemoryStore()
    asyncio.run(written(store, PLANS[1:2], events))
    assert alike(store)["state"] == state


async def spoil(store: MemoryStore, run: str) -> None:
    for entry in await store.list(f"journal/{run}/"):
        await store.transact((), (Put(entry.key, entry.value.replace(b"loss", b"lost")),))


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_whose_journal_cannot_be_read_hides_no_other(ended: bool) -> None:
    store = MemoryStore()
    events = [STARTED, BACK, ENDED] if ended else [STARTED]
    for run in ("run-1", "run-2"):
        asyncio.run(written(store, (), events, ended, run))
    asyncio.run(spoil(store, "run-2"))
    spoilt, whole = alike_all(store)
    assert spoilt == {
        "run": "run-2",
        "incident": "i-run-2",
        "plan_digest": "",
        "state": "corrupt",
        "scenario": "",
        "started_at": None,
    }
    assert (whole["run"], whole["state"]) == ("run-1", "failed" if ended else "running")


def test_pages_name_an_open_run_whose_journal_cannot_be_read() -> None:
    store = MemoryStore()
    asyncio.run(written(store, (), [STARTED]))
    asyncio.run(spoil(store, "run-1"))

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for _ in range(200):
            await office.look()
            office.refresh()
            if office.situation.open_runs:
                break
            await asyncio.sleep(0.02)
        assert office.situation.open_runs
        now, listed = (await client.get("/now")).text, (await client.get("/runs")).text
        assert "Its journal cannot be read: " in now
        assert ">corrupt</span>" in now
        assert "<code>evac run verify run-1</code>" in now
        assert ">corrupt</span>" in listed
        await store.transact((), (Delete(OPEN + "run-1"),))
        await office.look()
        (line,) = office.runs()
        assert (line.run, line.incident, line.state, line.open) == ("run-1", "i-run-1", "corrupt", False)

    play(story, store)


class Away(MemoryStore):
    """Does not answer for a while what is in the journal of a run."""

    away = ""

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        if self.away and prefix.startswith(f"journal/{self.away}/"):
            raise Unavailable("the store does not answer")
        return await super().list(prefix, after, limit)


def test_a_run_that_ends_is_known_all_the_while_also_if_the_store_is_away_meanwhile() -> None:
    async def story() -> None:
        store = Away()
        await written(store, (), [STARTED])
        register = Register(store, Hub(), lambda: None)
        await register.look()
        while not register.lines[0]:
            await asyncio.sleep(0.01)
        await store.transact((), (Delete(OPEN + "run-1"),))
        store.away = "run-1"
        with pytest.raises(Unavailable):
            await register.look()
        assert register.resolve("i-run-1") == register.resolve("run-1") == "run-1"
        store.away = ""
        await register.look()
        assert (register.lines[0], [one.state for one in register.lines[1]]) == ((), ["unfinished"])
        await register.close()

    asyncio.run(story())
