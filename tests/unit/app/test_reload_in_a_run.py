"""Real controllers whose estate changes in the middle of a run, before a second site burns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.app import controlling, runs
from evac.app.controlling import Composed, Setting, compose
from evac.app.demo.room import Company, company_of
from evac.app.estates import watch
from evac.app.estates.copies import Copies
from evac.app.estates.watch import EstateWatch
from evac.engine.clock import SystemClock
from evac.engine.lead.watch_journal import Notice
from evac.engine.runs import requests
from evac.engine.runs.reading import events_of
from evac.engine.stores.datasets import DataSets
from evac.engine.stores.guards import read_register
from evac.run.view import RunView
from evac.store.port import MemoryStore, Store

pytestmark = [pytest.mark.enable_socket, pytest.mark.slow]
SITES = ("anyang", "ansan", "busan", "daegu", "pangyo")
SERVING = ("pangyo", "anyang", "busan")
BOTH = ("anyang", "pangyo")
ESTATE = """evac: 1
name: five
sites: {pangyo: {}, anyang: {}, busan: {}, ansan: {role: witness}, daegu: {role: witness}}
pools:
  p: {site: pangyo, cpu: 64 cores, memory: 64 GiB, starts: 100 per minute}
  a: {site: anyang, cpu: 64 cores, memory: 64 GiB, starts: 100 per minute}
  b: {site: busan, cpu: 8 cores, memory: 8 GiB, starts: 100 per minute}
services:
SERVICES
stores:
  chat: {engine: postgresql, rpo: 0 s, fence: 1 s, promote: 1 s,
         members: [{at: pangyo, mode: primary}, {at: anyang, mode: sync, lag: 0 s},
                   {at: busan, mode: sync, lag: 0 s}]}
endpoints:
ENDS
"""
SERVICE = (
    "  NAME: {tier: 1, people: 1 K, rto: 1 h, demand: {cpu: 1 cores, memory: 1 GiB}, replicas: {p: 2}, "
    "start: 1 s, verify: 1 s, needs: [{store: chat}], traffic: {kind: none}}"
)
POLICY = """mode: act
envelope: {sites: [pangyo, anyang], stores: [chat], most_lost: 24 h, most_shed: 10000}
watch: {profile: cautious, deadline: 900 ms, misses: 3, suspect: 3 s, confirm: 2 s, clear: 5 s}
stores: {chat: {fence_proofs: [none], async_promotion: allow, most_lost: 24 h}}
"""


PODS = "kubeconfig: 'file:/etc/evac/kubeconfig', kind: Deployment"


def files(**takes: float) -> str:
    """An estate of these services: how many seconds each takes to start."""
    hand = "  {name}-{site}: {{for: {name}, at: {site}, driver: {driver}, settings: {{{settings}}}}}"
    ends = [
        hand.format(
            name=name, site=site, driver="kubernetes", settings=f"{PODS}, name: {name}, takes: {seconds}"
        )
        for name, seconds in takes.items()
        for site in SERVING
    ]
    ends += [
        hand.format(
            name="chat", site=site, driver="postgres", settings=f"host: {site}, name: chat-{site}, takes: 1"
        )
        for site in SERVING
    ]
    services = "\n".join(SERVICE.replace("NAME", name) for name in takes)
    return ESTATE.replace("SERVICES", services).replace("ENDS", "\n".join(ends))


class House:
    """Five controllers on one store, each on a copy of the same files."""

    def __init__(self, tmp_path: Path, store: Store, company: Company) -> None:
        self.folder, self.base = tmp_path / "estate", tmp_path / "base"
        self.store, self.company = store, company
        self.notices: list[Notice] = []
        self.made: dict[str, Composed] = {}
        self.watches: dict[str, EstateWatch] = {}
        self.copies: dict[str, Copies] = {}
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    async def begin(self, site: str) -> None:
        copies = self.copies[site] = Copies(self.folder, base=self.base)
        used = copies.used
        setting = Setting(used.estate, site, "memory:", used.policy, drawer=False, budget_ms=0)
        targets = self.company.targets(SITES, site)
        made = await compose(setting, self.notices.append, hands=self.company.hands(), targets=targets)
        self.made[site] = made
        self.watches[site] = EstateWatch(copies, made, None, SystemClock(), watches=True)
        await made.seen.begin()

        async def work() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(made.controller.run())
                tasks.create_task(made.seen.follow())

        self.tasks[site] = asyncio.create_task(work())

    async def change(self, estate: str) -> None:
        """Everybody who is left takes it."""
        (self.folder / "estate.yaml").write_text(estate)
        for site, watched in self.watches.items():
            if site not in self.company.burnt:
                await watched.look(at_once=True)
                assert watched.standing.well, watched.standing

    def burn(self, site: str) -> None:
        self.company.burnt.add(site)
        self.tasks[site].cancel()

    async def until(self, what: Callable[[], Awaitable[Any]], most_s: float = 120) -> Any:
        try:
            async with asyncio.timeout(most_s):
                while not (found := await what()):
                    for task in self.tasks.values():
                        if task.done() and not task.cancelled():
                            task.result()
                    await asyncio.sleep(0.25)
                return found
        except TimeoutError:
            raise AssertionError(
                [(notice.words, dict(notice.data)) for notice in self.notices[-6:]]
            ) from None

    async def calm(self) -> bool:
        """Everybody is seen healthy by everybody, and how far the copies follow was seen."""
        every = [made.controller for made in self.made.values()]
        states = [[one.verdict.state for one in controller.standings.values()] for controller in every]
        seen = await self.store.list("sighting/")
        leads = any(controller.leads for controller in every)
        return leads and bool(seen) and all(state == ["healthy"] * len(SITES) for state in states)

    async def run(self) -> str:
        entries = await self.store.list("open/")
        return entries[0].key.removeprefix("open/") if entries else ""

    async def view(self, run: str) -> RunView:
        return await runs.view_of(self.store, run)

    async def doing(self, run: str, target: str) -> bool:
        view = await self.view(run)
        steps = [step for i, step in enumerate(view.steps) if view.phases[i] == "running"]
        return any((step.kind, step.target) == ("start", target) for step in steps)

    async def sees_primary_at(self, site: str) -> bool:
        """Everybody who is left."""
        left = [made.seen.estate for at, made in self.made.items() if at not in self.company.burnt]
        return all(store.primary and store.primary.at == site for estate in left for store in estate.stores)

    async def has(self, run: str, kind: str) -> bool:
        return any(event.kind == kind for event in await events_of(self.store, run))

    async def settled_at(self, site: str) -> bool:
        """The store has its primary there, by its epoch; asked so often that nobody looks first."""
        sets = DataSets(self.store, "", SystemClock())
        for _ in range(20):
            if (await sets.read("chat")).holder == site:
                return True
            await asyncio.sleep(0.01)
        return False

    async def let_promote(self, run: str) -> bool:
        """Agrees to a promotion of which nobody knows what it loses, if asked; whether the run is over."""
        view = await self.view(run)
        waits = [s.id for i, s in enumerate(view.steps) if view.phases[i] == "ready" and view.gate_of(i)]
        for step in waits:
            asked = requests.Request(f"gate-{step}", "approve", "kim", "it burns", step=step)
            await runs.ask(self.store, run, asked)
        return await self.over(run)

    async def over(self, run: str) -> bool:
        return await self.store.get(f"open/{run}") is None

    async def approve(self, run: str, number: str) -> None:
        await runs.ask(self.store, run, requests.Request(number, "approve", "kim", "it burns", typed=BOTH))

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for site, made in self.made.items():
            await made.close()
            self.copies[site].close()


def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story: Callable[[House], Awaitable[None]]) -> None:
    (tmp_path / "estate").mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(files(web=1, old=20))
    (tmp_path / "estate" / "policy.yaml").write_text(POLICY)

    async def run() -> None:
        store = MemoryStore(SystemClock().monotonic_ms, quorum=True)
        monkeypatch.setattr(controlling, "open_store", lambda url: store)
        company = company_of(estates.load(tmp_path / "estate"), 1)
        monkeypatch.setattr(watch, "probes_of", lambda *asked: company.targets(SITES, ""))
        house = House(tmp_path, store, company)
        try:
            for site in SITES:
                await house.begin(site)
            await house.until(house.calm)
            await story(house)
        finally:
            await house.close()

    asyncio.run(run())


def test_a_second_site_is_left_by_the_estate_that_was_taken_in_the_middle_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(house: House) -> None:
        house.burn("pangyo")
        run = await house.until(house.run)
        await house.until(lambda: house.doing(run, "old"))
        await house.until(lambda: house.sees_primary_at("anyang"))
        await house.change(files(web=1, new=1))
        house.burn("anyang")
        await house.until(lambda: house.has(run, "plan_replaced"))
        view = await house.view(run)
        assert {"web", "new"} <= {step.target for step in view.steps}
        await house.approve(run, "r1")
        await house.until(lambda: house.over(run))
        ended = await house.view(run)
        assert ended.phase.startswith("succeeded"), ended.end_why
        lost = {site for site, mark in (await read_register(house.store)).items() if mark == "lost"}
        assert (lost, house.company.stores["chat"].primary) == (set(BOTH), "busan")
        assert any("start" in what and " new busan" in what for what in house.company.done), (
            house.company.done
        )

    play(tmp_path, monkeypatch, story)


def test_a_new_primary_burns_before_anybody_looked_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(house: House) -> None:
        house.burn("pangyo")
        run = await house.until(house.run)
        await house.until(lambda: house.settled_at("anyang"))
        house.burn("anyang")
        await house.until(lambda: house.has(run, "plan_replaced"))
        view = await house.view(run)
        fences = [step.act for step in view.steps if step.kind == "fence"]
        assert fences == ["pangyo", "anyang"], "the one that burnt last, and not once more the one before"
        await house.approve(run, "r1")
        await house.until(lambda: house.let_promote(run))
        ended = await house.view(run)
        assert ended.phase.startswith("succeeded"), ended.end_why
        assert house.company.stores["chat"].primary == "busan"

    play(tmp_path, monkeypatch, story)
