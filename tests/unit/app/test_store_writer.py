"""Someone who writes to the store, and has neither a login nor a key: what runs is what was planned here."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from evac.app import runs
from evac.app.controlling import Setting, compose
from evac.cli import console
from evac.cli.main import run as command
from evac.cli.run_command import code_of
from evac.control.store import StoreControl
from evac.engine.clock import SystemClock
from evac.engine.lead.watch_journal import Notice
from evac.engine.runs import effects, refused_takeovers, requests
from evac.engine.runs.binding import get_bound
from evac.engine.stores.guards import SITES_KEY
from evac.estate.codecs import plan as plan_codec
from evac.model.errors import Corrupt
from evac.run.values import ENDED, SETTLED, bound_in
from evac.run.view import RunView
from evac.store.anchors import decode, encode
from evac.store.opening import open_store
from evac.store.port import Put, Store
from evac.views.run_report import run_text

pytestmark = [pytest.mark.enable_socket]
PATIENCE_S = 60
ESTATE = """evac: 1
sites: {west: {}, east: {}}
pools:
  w: {site: west, cpu: 8 cores, memory: 8 GiB, starts: 100 per minute}
  e: {site: east, cpu: 8 cores, memory: 8 GiB, starts: 100 per minute}
services:
  web: {tier: 1, people: 1 K, rto: 1 h, demand: {cpu: 1 cores, memory: 1 GiB}, replicas: {w: 1},
        start: 1 s, verify: 1 s, traffic: {kind: none}}
"""


class House:
    """An estate with one service, a plan for the loss of west, and a store."""

    def __init__(self, folder: Path) -> None:
        self.planted = folder / "planted"
        self.estate, self.plan = folder / "estate.yaml", folder / "plan.json"
        self.estate.write_text(ESTATE)
        assert command(["plan", str(self.estate), "--lose", "west", "-o", str(self.plan), "-q"]) in (0, 3)
        self.data = self.plan.read_bytes()
        self.digest = plan_codec.plan_digest(self.data)
        self.url = f"sqlite:{folder / 'evac.sqlite'}"
        self.run = f"fire-{self.digest.removeprefix('sha256:')[:8]}"
        self.notices: list[Notice] = []

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[Store]:
        setting = Setting(self.estate, "east", self.url, watch=False, drawer=False)
        made = await compose(setting, self.notices.append)
        await made.seen.begin()
        working = asyncio.create_task(made.controller.run())
        try:
            yield made.store
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await made.close()

    async def proposed(self, store: Store) -> str:
        proposal = runs.proposal_of(self.data, "fire", "test", ("west",), "kim")
        async with asyncio.timeout(PATIENCE_S):
            return await runs.propose(store, proposal, SystemClock().now_ms(), PATIENCE_S)

    async def ask(self, store: Store, request: requests.Request) -> None:
        await store.transact((), (Put(requests.key_of(self.run, request.id), requests.encode(request)),))

    async def settled(self, store: Store, step: str) -> RunView:
        async with asyncio.timeout(PATIENCE_S):
            while (view := await runs.view_of(store, self.run)).phases[view.number(step)] not in SETTLED:
                await asyncio.sleep(0.1)
            return view

    async def until(self, store: Store, phases: frozenset[str]) -> RunView:
        async with asyncio.timeout(PATIENCE_S):
            while (view := await runs.view_of(store, self.run)).phase not in phases:
                await asyncio.sleep(0.1)
            return view

    def evil(self, store_data: bytes) -> bytes:
        """A bound document whose programs are another's."""
        argv = ["/usr/bin/touch", str(self.planted)]
        told = orjson.loads(store_data)
        told["settings"] = [{"argv": argv, "observe_argv": ["/usr/bin/test", "-e", str(self.planted)]}]
        told["actions"] = {row[0]: [["start", row[2], "command", "east", 0, {}]] for row in told["steps"]}
        for row in told["steps"]:
            row[9] = False
        told["approvals"] = 0
        return orjson.dumps(told)


async def rewritten(store: Store, stream: str, old: bytes, new: bytes) -> None:
    """A journal, as someone who writes to the store would: every later segment follows from a changed one."""
    changes, before = [], ""
    for entry in await store.list(f"journal/{stream}/"):
        segment = decode(stream, int(entry.key[-12:]), entry.value)
        records = [one.replace(old, new) for one in segment.records]
        value = encode(stream, segment.number, segment.first, segment.token, before, records)
        before = decode(stream, segment.number, value).hash
        changes.append(Put(entry.key, value))
    await store.transact((), changes)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_what_was_planted_before_a_proposal_never_runs(house: House) -> None:
    async def story() -> None:
        async with house.leading() as store:
            await house.proposed(store)
            honest = (await store.list(f"bound/{house.run}/"))[0]
        other = House(house.estate.parent)
        other.url = f"sqlite:{house.estate.parent / 'second.sqlite'}"
        planting = open_store(other.url)
        extra = honest.key[:-6] + "000001"
        await planting.transact([], [Put(honest.key, house.evil(honest.value)), Put(extra, b"more")])
        await planting.close()
        async with other.leading() as store:
            run = await other.proposed(store)
            assert run == house.run
            await other.ask(store, requests.Request("a1", "approve", "kim", "test"))
            view = await other.until(store, frozenset({"running"}))
            for step in view.steps:
                await other.ask(store, requests.Request(f"v-{step.id}", "attest", "kim", "seen", step.id))
                view = await other.settled(store, step.id)
            view = await other.until(store, frozenset({"monitoring", *ENDED}))
            bound = (await get_bound(store, run, other.digest)).digest
            assert view.bound == bound_in({"bound": bound, "made": view.made})
            assert [one.value for one in await store.list(f"bound/{run}/")] == [honest.value]
        assert not house.planted.exists()

    asyncio.run(story())


@pytest.mark.parametrize("changed", ["bound", "approvals", "policy"])
def test_what_is_changed_after_a_proposal_stops_the_run_at_a_take_over(house: House, changed: str) -> None:
    async def story() -> None:
        async with house.leading() as store:
            await house.proposed(store)
            await house.until(store, frozenset({"awaiting_approval"}))
        attacker = open_store(house.url)
        bound = (await attacker.list(f"bound/{house.run}/"))[0]
        entry = await attacker.get(f"open/{house.run}")
        assert entry is not None
        opened = orjson.loads(entry.value)
        if changed == "bound":
            await attacker.transact([], [Put(bound.key, house.evil(bound.value))])
        else:
            opened["approvals"] = 0
            if changed == "policy":
                opened["approvals"] = 1
                opened["policy"]["mode"] = "act"
            await attacker.transact([], [Put(entry.key, orjson.dumps(opened))])
        async with house.leading() as store:
            async with asyncio.timeout(PATIENCE_S):
                while not any("cannot take over" in one.words for one in house.notices):
                    await asyncio.sleep(0.1)
            said = "a system that no endpoint" if changed == "bound" else changed
            assert any(said in one.words for one in house.notices)
            async with asyncio.timeout(PATIENCE_S):
                while not (why := await refused_takeovers.words_of(store, house.run)):
                    await asyncio.sleep(0.1)
            assert said in why
            with contextlib.suppress(Corrupt):
                assert (await runs.view_of(store, house.run)).phase == "awaiting_approval"
                document = await StoreControl(house.url, Path("unused")).run(house.run)
                assert document.not_taken_over == why
                assert " ".join(why.split()) in " ".join(run_text(document, 4_000, False).split())
                assert code_of(document) == console.PAUSED
        await attacker.transact([], [Put(bound.key, bound.value), Put(entry.key, entry.value)])
        async with house.leading() as store, asyncio.timeout(PATIENCE_S):
            while await refused_takeovers.words_of(store, house.run):
                await asyncio.sleep(0.1)
        await attacker.close()
        assert not house.planted.exists()

    asyncio.run(story())


def test_readers_refuse_what_was_changed_too(house: House) -> None:
    async def story() -> None:
        async with house.leading() as store:
            await house.proposed(store)
            bound = (await store.list(f"bound/{house.run}/"))[0]
            await store.transact([], [Put(bound.key, house.evil(bound.value))])
            with pytest.raises(Corrupt, match="changed in the store after the run was created"):
                await runs.view_of(store, house.run)

    asyncio.run(story())


def test_readers_say_that_the_entry_of_a_run_is_spoilt(house: House) -> None:
    async def story() -> None:
        async with house.leading() as store:
            await house.proposed(store)
        attacker = open_store(house.url)
        for spoilt in (b"", b"[]", b'{"approvals": null}', b'{"approvals": "many"}'):
            await attacker.transact([], [Put(f"open/{house.run}", spoilt)])
            with pytest.raises(Corrupt, match="is not a run"):
                await runs.view_of(attacker, house.run)
        await attacker.close()

    asyncio.run(story())


def test_a_run_goes_on_under_another_controller_of_the_same_files(house: House) -> None:
    async def story() -> None:
        async with house.leading() as store:
            await house.proposed(store)
            await house.until(store, frozenset({"awaiting_approval"}))
        async with house.leading() as store:
            await house.ask(store, requests.Request("a1", "approve", "kim", "test"))
            await house.until(store, frozenset({"running"}))
        async with house.leading() as store:
            view = await house.until(store, frozenset({"running"}))
            for step in view.steps:
                await house.ask(store, requests.Request(f"v-{step.id}", "attest", "kim", "seen", step.id))
                await house.settled(store, step.id)
            await house.until(store, frozenset({"monitoring", *ENDED}))
        assert not any("cannot take over" in one.words for one in house.notices)

    asyncio.run(story())


def test_even_where_every_digest_was_changed_with_it_a_controller_binds_again_and_refuses(
    house: House,
) -> None:
    """Someone who has the seal as well: document, journal and chain fit each other; no address differs."""

    async def story() -> None:
        async with house.leading() as store:
            await house.proposed(store)
            view = await house.until(store, frozenset({"awaiting_approval"}))
            honest = (await get_bound(store, house.run, house.digest)).digest
        attacker = open_store(house.url)
        (bound,) = await attacker.list(f"bound/{house.run}/")
        told = orjson.loads(bound.value)
        for row in told["actions"].values():
            row[0][0] = "stop"
        value = orjson.dumps(told)
        digest = f"sha256:{hashlib.sha256(value).hexdigest()}"
        await attacker.transact([], [Put(bound.key, value)])
        await rewritten(attacker, house.run, honest.encode(), digest.encode())
        changed = bound_in({"bound": digest, "made": view.made})
        assert (await runs.view_of(attacker, house.run)).bound == changed, "readers see nothing"
        async with house.leading():
            async with asyncio.timeout(PATIENCE_S):
                while not any("cannot take over" in one.words for one in house.notices):
                    await asyncio.sleep(0.1)
        (words,) = {one.words for one in house.notices if "cannot take over" in one.words}
        assert "differs from what this controller would do" in words
        await attacker.close()

    asyncio.run(story())


def test_what_a_leader_tells_beside_its_runs_is_in_its_journal_too(house: House) -> None:
    """It was in the log alone: the journal said nothing of cleared marks, two primaries, or lost heads."""

    async def story() -> None:
        async with house.leading() as store:
            await store.transact((), (Put(SITES_KEY, orjson.dumps({"west": "lost", "east": "active"})),))
            await effects.clear(store, "west", "kim", "it was a drill", SystemClock().now_ms())
            words = "west: the mark lost was cleared by kim: it was a drill"
            async with asyncio.timeout(PATIENCE_S):
                while words not in [one.words for one in (await runs.notices(store)).values()]:
                    await asyncio.sleep(0.05)
            assert words in [one.words for one in house.notices]

    asyncio.run(story())
