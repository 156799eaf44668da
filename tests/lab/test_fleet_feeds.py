"""Feeds of a fleet trip when their servers are up: the run notices it by Redfish, with no circuit to ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from evac import estate as estates
from evac.drivers.manual import ManualDriver
from evac.drivers.port import Action, Driver
from evac.drivers.redfish.driver import RedfishDriver
from evac.engine.boots.feed_watch import FeedWatch
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs import requests
from evac.engine.runs.execution import Hooks, RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run
from evac.model.estate import Estate
from evac.model.run_policy import Patience
from evac.run.values import Event, RunSpec, RunStep
from evac.store.port import MemoryStore, Put
from evac_lab.fleet.ground import address_of
from tests.lab.fleets import Running, running

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

OPTIONS = ("--servers", "420", "--speed", "400", "--spread", "0", "--faults", "none", "--no-limits")
BOOTED = (0, 1, 20, 21, 40, 41, 400, 401, 410, 411)
"""Rows of servers; the first six hang on other feeds than the rest."""


class Carried:
    """A run that boots some servers, and then waits for a person, so that it goes on."""

    def __init__(self, fleet: Running, estate: Estate) -> None:
        self.fleet, self.estate = fleet, estate
        self.events: list[Event] = []
        self.told: list[str] = []
        self.redfish, self.store = RedfishDriver(), MemoryStore()
        steps = [self._boot(server) for server in BOOTED]
        feeds = sorted({feed for step in steps for feed in step.feeds})
        closing = [RunStep(f"power:{feed}", "power", feed, 0, 0, manual=True) for feed in feeds]
        hold = RunStep("attest:end", "attest", "end", 0, 0, tuple(step.id for step in steps), manual=True)
        patience = Patience(deadline_least_ms=60_000)
        self.spec = RunSpec("r", "i", "p", (*closing, *steps, hold), patience=patience, approvals=0)
        self.feeds = feeds

    def _boot(self, server: int) -> RunStep:
        rack = self.estate.racks[int(self.estate.fleet.rack[server])]
        name = self.estate.fleet.name[server].decode()
        after = tuple(f"power:{feed}" for feed in rack.feeds)
        return RunStep(f"boot:{name}", "boot", name, 0, 600, after, rack=rack.id, feeds=rack.feeds)

    def actions(self, step: str) -> Sequence[Action]:
        kind, _, target = step.partition(":")
        if kind != "boot":
            return (Action("attest", target, "manual", "", {}, {"instructions": step}),)
        server = self.estate.fleet.name.tolist().index(target.encode())
        about = self.fleet.about
        settings = {"scheme": about["scheme"], "user": about["user"], "password": about["password"]}
        told = {
            "server": target,
            "address": f"{address_of(server)}:{about['port']}",
            "boot_ms": 600,
            "serial": self.estate.fleet.serial[server].decode(),
            "network": "hall",
        }
        return (Action("boot", target, "redfish", "here", settings, told),)

    def driver(self, name: str) -> Driver:
        return self.redfish if name == "redfish" else ManualDriver()

    async def ask(self, verb: requests.RequestVerb, step: str) -> None:
        request = requests.Request(
            f"{len(self.events):06d}-{step}"[:40].replace("/", "-").replace(":", "-"),
            verb,
            "mina",
            "looked at it",
            step=step,
        )
        put = Put(requests.key_of("r", request.id), requests.encode(request))
        await self.store.transact((), (put,))

    async def until(self, kind: str, count: int, within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while sum(event.kind == kind for event in self.events) < count:
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def carried(self):  # type: ignore[no-untyped-def]
        clock = SystemClock()
        leading = await Leadership.acquire(self.store, "test", 60_000, clock)
        terms = Terms("r", self.actions, self.driver, leading, self.spec.patience, "test")
        journal, view = await create_run(self.store, self.spec, leading, clock, {})
        hooks = Hooks(heard=self.events.extend)
        execution = RunExecution(self.store, journal, view, leading, terms, clock, hooks=hooks)
        watch = FeedWatch(execution, self.actions, self.driver, leading, self.told.append)
        tasks = [asyncio.create_task(execution.run()), asyncio.create_task(watch.run())]
        try:
            yield execution
        finally:
            execution.stop()
            tasks[1].cancel()
            await tasks[0]
            await self.redfish.close()


def test_feeds_that_trip_when_all_is_up_are_seen_and_their_servers_come_back(tmp_path: Path) -> None:
    with running(tmp_path, *OPTIONS, "-o", str(tmp_path / "estate")) as fleet:
        run = Carried(fleet, estates.load(tmp_path / "estate"))
        asyncio.run(_tripped(run))
        assert fleet.admin("stats")["resets"]["power_ons_max"] <= 2
        assert fleet.admin("stats")["requests"]["most_at_once_to_one"] == 1
    assert [event.data["feed"] for event in run.events if event.kind == "feed_tripped"] == [
        "pangyo/hall-1/feed-01a",
        "pangyo/hall-1/feed-01b",
    ]
    assert run.told == []


async def _tripped(run: Carried) -> None:
    fleet, boots = run.fleet, len(BOOTED)
    async with run.carried() as execution:
        await run.until("step_started", len(run.feeds))
        for feed in run.feeds:
            await run.ask("attest", f"power:{feed}")
        await run.until("step_succeeded", boots)
        fleet.wait_until("up", boots)
        for side in "ab":
            await asyncio.to_thread(fleet.admin, f"feeds/pangyo/hall-1/feed-01{side}/open", {})
        await run.until("feed_tripped", 2)
        view = execution.view
        gates = [view.steps[i].target for i in view.boots.gates]
        assert gates == ["pangyo/hall-1/feed-01a", "pangyo/hall-1/feed-01b"]
        assert view.counts["pending"] == 6, "its servers wait for it"
        for side in "ab":
            await asyncio.to_thread(fleet.admin, f"feeds/pangyo/hall-1/feed-01{side}/close", {})
        for feed in gates:
            await run.ask("approve", f"power:{feed}")
        await run.until("gate_opened", 2)
        for feed in gates:
            await run.ask("attest", f"power:{feed}")
        await run.until("step_succeeded", boots + 6)
        fleet.wait_until("up", boots)
