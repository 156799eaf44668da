"""A new store where agents have obeyed the leader of another one: refused, with what to do instead."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from evac.agent.config import AgentConfig
from evac.app import lost_store
from evac.app.anchoring import agents_of
from evac.app.controlling import Composed, Setting, compose
from evac.app.lost_store import MayLead, Obeyed, check_not_replaced, next_generation
from evac.drivers.port import Action, Order
from evac.drivers.process.driver import AgentGenerations, ProcessDriver
from evac.drivers.registry import Drivers
from evac.engine.lead import generations
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.watch_journal import Notice
from evac.estate import load
from evac.model.errors import NotAllowed, Permanent
from evac.model.estate import Estate
from evac.model.generation import GENERATION_BITS, SET_UP_TOKEN
from evac.model.observation import MemberSeen, Observation
from evac.store.generation import raise_generation
from evac.store.port import MemoryStore, Put
from evac.store.sqlite import SqliteStore
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def estate_of(tmp_path: Path, made: AgentConfig) -> Path:
    path = tmp_path / "estate.yaml"
    reach = f'agent: "http://{made.host}:{made.port}", secret: "{agents.REFERENCE}"'
    path.write_text(
        "evac: 2\n"
        "sites: {pangyo: {}, anyang: {}}\n"
        "services: {web: {tier: 0, replicas: {pangyo: 1, anyang: 1}}}\n"
        f"endpoints: {{web-pangyo: {{for: web, at: pangyo, driver: process, settings: {{{reach}, "
        "unit: sleeper}}}\n",
        encoding="utf-8",
    )
    return path


def action(made: AgentConfig) -> Action:
    settings = {"agent": f"http://{made.host}:{made.port}", "secret": agents.REFERENCE, "unit": "sleeper"}
    return Action("start", "web", "process", "pangyo", settings, {"replicas": 0})


def order(token: int) -> Order:
    return Order("run-1", f"s{token}", 1, token, 0, "test", 3.0, f"run-1/s{token}")


def test_what_agents_have_obeyed_counts_though_no_member_of_a_store_has(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())
    path = estate_of(tmp_path, made)

    async def story() -> None:
        store, drivers = SqliteStore(tmp_path / "new.sqlite"), Drivers()
        driver = ProcessDriver()
        try:
            async with agents.running(made):
                assert await next_generation(store, load(path), drivers, 0) == 0
                await check_not_replaced(store, path, 0)
                await driver.execute(action(made), order(SET_UP_TOKEN))
                await check_not_replaced(store, path, 0)
                await driver.execute(action(made), order(1_841))
                assert await next_generation(store, load(path), drivers, 0) == 1
                with pytest.raises(NotAllowed, match="the agent at pangyo has obeyed the leader") as refused:
                    await check_not_replaced(store, path, 0)
                assert "evac run adopt" in refused.value.hint
                await driver.execute(action(made), order((3 << GENERATION_BITS) + 1))
                assert await next_generation(store, load(path), drivers, 0) == 4
                led = await store.acquire(LEADER, "here", 600_000)
                await check_not_replaced(store, path, 0)
                with pytest.raises(NotAllowed, match="here leads in this store, but the agent") as refused:
                    await next_generation(store, load(path), drivers, 0)
                assert "--generation 4" in refused.value.hint
                await store.transact((), (Put("journal/watch/0", b"x"),))
                await store.release(led)
                assert await next_generation(store, load(path), drivers, 0) == 4
        finally:
            await driver.close()
            await drivers.close()
            await store.close()

    asyncio.run(story())


def test_a_store_with_a_history_of_its_own_asks_no_one(tmp_path: Path) -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.transact((), (Put("journal/watch/0", b"x"),))
        await check_not_replaced(store, tmp_path / "no such estate", 0)

    asyncio.run(story())


def test_an_order_from_a_new_store_fails_at_once_and_names_the_way_on(tmp_path: Path) -> None:
    """Nothing is in doubt: the agent did nothing, and trying again cannot help."""
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        driver = ProcessDriver()
        try:
            async with agents.running(made):
                await driver.execute(action(made), order(1_841))
                checked = await driver.check(action(made), order(3))
            assert isinstance(checked.error, Permanent)
            assert checked.error.code == "stale-token"
            assert "new store in place of a lost one" in checked.error.message
            way = (
                "if another controller leads, stop this one; if its store is lost: evac serve --generation 1"
            )
            assert checked.error.hint == way
            silent = await driver.check(action(made), order(1_842))
            assert not silent.ready
        finally:
            await driver.close()

    asyncio.run(story())


def test_a_store_that_issued_what_was_obeyed_keeps_its_generation(tmp_path: Path) -> None:
    """A controller that led here, and one that took office in a new store while another had led."""
    made = agents.config(tmp_path, agents.sleeper())
    path = estate_of(tmp_path, made)

    async def story() -> None:
        store, drivers, driver = SqliteStore(tmp_path / "own.sqlite"), Drivers(), ProcessDriver()
        try:
            async with agents.running(made):
                led = await store.acquire(LEADER, "here", 600_000)
                await store.transact((), (Put("journal/watch/0", b"x"),))
                await driver.execute(action(made), order(led.token))
                assert await next_generation(store, load(path), drivers, 0) == 0
                await store.release(led)
                assert await next_generation(store, load(path), drivers, 0) == 0
                await driver.execute(action(made), order(led.token + 1_000))
                assert await next_generation(store, load(path), drivers, 0) == 1
        finally:
            await driver.close()
            await drivers.close()
            await store.close()

    asyncio.run(story())


def test_agents_of_which_none_answers_are_not_agents_that_obeyed_nobody(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())
    path = estate_of(tmp_path, made)

    async def story() -> None:
        store = MemoryStore()
        with pytest.raises(NotAllowed, match="the agent at pangyo did not say") as refused:
            await check_not_replaced(store, path, 0)
        assert "evac doctor" in refused.value.hint
        await store.acquire(LEADER, "here", 600_000)
        await check_not_replaced(store, path, 0)

    asyncio.run(story())


def test_a_generation_that_an_agent_knows_counts_before_any_order_of_it(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())
    path = estate_of(tmp_path, made)

    async def story() -> None:
        store, drivers = MemoryStore(), Drivers()
        (reach,) = agents_of(load(path)).values()
        agent = AgentGenerations(*reach)
        try:
            async with agents.running(made):
                await agent.ask(3, "the other", 3.0)
                with pytest.raises(NotAllowed, match="the agent at pangyo has obeyed"):
                    await check_not_replaced(store, path, 0)
                assert await next_generation(store, load(path), drivers, 0) == 4
                await store.transact((), (Put("journal/watch/0", b"x"),))
                assert await next_generation(store, load(path), drivers, 0) == 4
        finally:
            await agent.close()
            await drivers.close()

    asyncio.run(story())


def test_who_takes_office_while_the_systems_are_asked_is_not_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several controllers start on a new store: one leads, and the agents obey it before another has asked
    them.
    """
    made = agents.config(tmp_path, agents.sleeper())
    path, ask = estate_of(tmp_path, made), lost_store.obeyed

    async def story() -> None:
        drivers, driver = Drivers(), ProcessDriver()
        try:
            async with agents.running(made):
                for check in ("lead", "apply"):
                    store = MemoryStore()

                    async def led_meanwhile(
                        estate: Estate, drivers: Drivers, now_ms: int, store: MemoryStore = store
                    ) -> Obeyed:
                        lease = await store.acquire(LEADER, "anyang/1/a", 600_000)
                        await driver.execute(action(made), order(lease.token))
                        found = await ask(estate, drivers, now_ms)
                        assert found.who == ("the agent at pangyo",)
                        return found

                    monkeypatch.setattr(lost_store, "obeyed", led_meanwhile)
                    if check == "lead":
                        await MayLead(store, lambda: load(path), drivers, lambda: 0).check()
                    else:
                        await check_not_replaced(store, path, 0)
        finally:
            await driver.close()
            await drivers.close()

    asyncio.run(story())


async def led_or_refused(made: Composed) -> str:
    """Why it does not lead; empty once it leads."""
    async with asyncio.timeout(30):
        while not made.controller.leads and not made.controller.neither:
            await asyncio.sleep(0.02)
    return made.controller.neither


@asynccontextmanager
async def serving(
    path: Path, store: str, notices: list[Notice], generation: int = 0
) -> AsyncIterator[Composed]:
    """A controller that runs, as `evac serve` starts it."""
    setting = Setting(path, "pangyo", store, watch=False, drawer=False)
    composed = await compose(setting, notices.append)
    await raise_generation(composed.store, generation, "a person", 1)
    running = asyncio.ensure_future(composed.controller.run())
    try:
        yield composed
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await composed.close()


def test_a_controller_does_not_lead_a_new_store_while_agents_obey_another(tmp_path: Path) -> None:
    """`evac serve` says why, acts on nothing, leaves the store as new as it was, and leads with a generation
    that every agent obeys.
    """
    made = agents.config(tmp_path, agents.sleeper())
    path, store = estate_of(tmp_path, made), f"sqlite:{tmp_path / 'new.sqlite'}"

    async def served(notices: list[Notice], generation: int = 0) -> str:
        async with serving(path, store, notices, generation) as composed:
            return await led_or_refused(composed)

    async def story() -> None:
        driver = ProcessDriver()
        try:
            async with agents.running(made):
                await driver.execute(action(made), order(1_841))
                for _ in range(2):  # also when it is started again
                    notices = list[Notice]()
                    why = await served(notices)
                    assert why.startswith("this store is new, but the agent at pangyo has obeyed the leader")
                    assert why.endswith("start the controllers with --generation 1")
                    assert [one.data["code"] for one in notices] == ["store-new"]
                assert await served([], 1) == ""
                assert await served([]) == ""
        finally:
            await driver.close()

    asyncio.run(story())


def test_a_controller_leads_a_new_store_before_the_first_agent_is_started(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())
    path = estate_of(tmp_path, made)

    async def story() -> None:
        notices = list[Notice]()
        async with serving(path, f"sqlite:{tmp_path / 'new.sqlite'}", notices) as composed:
            assert await led_or_refused(composed) == ""
            known = composed.controller.parts.generations
            assert known is not None
            async with agents.running(made), asyncio.timeout(30):
                while not known.answered:
                    await asyncio.sleep(0.02)
                assert composed.controller.leads
        assert not [one for one in notices if one.kind == "trouble"]

    asyncio.run(story())


def test_what_a_member_has_obeyed_counts_while_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = estate_of(tmp_path, agents.config(tmp_path, agents.sleeper()))
    seen = MemberSeen("orders", "anyang", "primary")

    async def observed(estate: Estate, drivers: Drivers, now_ms: int) -> Observation:
        return Observation(now_ms, (seen,))

    async def story() -> None:
        nonlocal seen
        monkeypatch.setattr(lost_store, "observe", observed)
        may_lead = MayLead(MemoryStore(), lambda: load(path), Drivers(), lambda: 0)
        await may_lead.check()
        for now in (replace(seen, token=(2 << GENERATION_BITS) + 9), replace(seen, role="unreachable")):
            seen = now
            for _ in range(2):
                with pytest.raises(NotAllowed, match="the member of orders at anyang has obeyed") as refused:
                    await may_lead.check()
                assert "--generation 3" in refused.value.hint
        seen = replace(seen, role="primary")
        await may_lead.check()

    asyncio.run(story())


def test_a_controller_leads_a_new_store_once_its_agents_obey_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a test whose agents are installed again."""
    monkeypatch.setattr(generations, "LOOK_AGAIN_MS", 50)
    made = agents.config(tmp_path, agents.sleeper())
    path = estate_of(tmp_path, made)

    async def story() -> None:
        driver = ProcessDriver()
        try:
            async with agents.running(made):
                await driver.execute(action(made), order(1_841))
        finally:
            await driver.close()
        async with serving(path, f"sqlite:{tmp_path / 'new.sqlite'}", []) as composed:
            async with agents.running(made):
                assert "the agent at pangyo has obeyed" in await led_or_refused(composed)
            async with asyncio.timeout(30):
                while "the agent at pangyo did not say" not in composed.controller.neither:
                    assert not composed.controller.leads  # its silence does not take back what it said
                    await asyncio.sleep(0.02)
            shutil.rmtree(made.state)
            async with agents.running(made), asyncio.timeout(30):
                while not composed.controller.leads:
                    await asyncio.sleep(0.02)
        assert composed.controller.neither == ""

    asyncio.run(story())
