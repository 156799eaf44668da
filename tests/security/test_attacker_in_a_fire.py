"""Someone with evac's own login at a locked etcd, without the key of the seal, while a site burns: they
change the journals of the run and of watching in nine ways, as the leader dies. Three real controllers.

The worst they can do, in each way below: the run stops where it is and says so, or ends as it was planned.
No step is done that was not planned, none before one that it needs, and none by a leader that was replaced.
Another controller leads, writes on, and the journal of watching is repaired while it does.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evac.app import runs
from evac.app.anchoring import repair
from evac.drivers.port import Action, Evidence, Order
from evac.engine.lead.controller import Controller
from evac.model.run_policy import PROFILES
from evac.net.etcd_gateway import Gateway, text_key
from evac.store.anchors import decode, encode, hash_of, verify_chain
from evac.store.opening import open_store, open_unsealed
from evac.store.port import Change, Delete, Entry, Put, Store, all_entries
from tests.unit.engine.small_world import Systems, World, policy_of
from tests.unit.store.locked_etcd import Ground, ground

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]
MOST_S = 120.0
"""Only so that a test that waits for ever ends."""
LARGE = b"x" * 1_000_000
Journal = list[Entry]
Attack = Callable[[Journal], list[Change]]


def rewritten(journal: Journal) -> list[Change]:
    """Another second record, and every later segment follows from it."""
    changes, before = list[Change](), ""
    for number, entry in enumerate(journal, 1):
        stream = entry.key.split("/")[1]
        segment = decode(stream, number, entry.value[32:])
        records = tuple(b" " + one for one in segment.records)
        value = encode(stream, number, segment.first, segment.token, before, records)
        before = hash_of(value)
        changes.append(Put(entry.key, entry.value[:32] + value))
    return changes


def after(journal: Journal, places: int = 1) -> str:
    return f"{journal[-1].key[:-12]}{int(journal[-1].key[-12:]) + places:012d}"


NINE: dict[str, tuple[Attack, str]] = {
    "rewrite": (rewritten, "stops"),
    "delete": (lambda one: [Delete(one[1].key)], "stops"),
    "swap": (lambda one: [Put(one[1].key, one[2].value), Put(one[2].key, one[1].value)], "stops"),
    "roll back": (lambda one: [Delete(entry.key) for entry in one[1:]], "ends"),
    "truncate": (lambda one: [Delete(one[-1].key)], "ends"),
    "duplicate": (lambda one: [Put(after(one), one[-1].value)], "stops"),
    "foreign key": (lambda one: [Put(after(one), b"junk"), Put(one[0].key[:-12] + "zzz", b"junk")], "stops"),
    "oversized": (
        lambda one: [Put(after(one), b"x" * 1_000_000), Put(one[0].key + "x", b"x" * 400_000)],
        "stops",
    ),
    "lease and register": (lambda one: [Put("sites", b"junk"), Put("open/theirs", b"junk")], "waits"),
}
"""Way -> what they do to a journal, and what becomes of the run at worst. One that stops or waits ends as it
was planned once its entries are restored. After a roll back, a step is done again that was done before.
"""


class Gated(Systems):
    """A promotion waits until the attacker is done."""

    def __init__(self) -> None:
        super().__init__()
        self.done_with = asyncio.Event()

    async def execute(self, action: Action, order: Order) -> Evidence:
        if action.verb == "promote" and not self.done_with.is_set():
            self.log.append(("asked", action.target, action.at, order.token, order.epoch))
            await self.done_with.wait()
        return await super().execute(action, order)


@pytest.fixture(scope="module")
def made() -> Iterator[Ground]:
    with ground() as found:
        found.lock()
        yield found


async def journal_of(raw: Store, stream: str) -> Journal:
    return list(await all_entries(raw, f"journal/{stream}/"))


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(MOST_S):
        while not what():
            await asyncio.sleep(0.05)


class Fire:
    """Three controllers over one locked etcd; pangyo burns, and the leader dies in a promotion."""

    def __init__(self, made: Ground, way: str) -> None:
        self.prefix = f"evac/{way.replace(' ', '-')}"
        self.url = made.url(**made.users(), prefix=self.prefix)
        self.gateway = Gateway([made.member.url], tls=made.shown, **made.users())
        self.raw, _ = open_unsealed(self.url)
        self.store = open_store(self.url)
        self.stores = [self.raw, self.store]
        policy = replace(policy_of("act"), profile=PROFILES["lab"])
        self.world = World(policy, connect=self.connect, leader_ttl_ms=2_000)
        self.systems = self.world.systems = Gated()

    def connect(self, site: str) -> Store:
        self.stores.append(open_store(self.url))
        return self.stores[-1]

    async def burn(self) -> str:
        """The run."""
        await until(lambda: self.world.leader == "anyang")
        for site in ("ansan", "pangyo"):
            self.world.start(site)
        await self.world.until_planned(MOST_S)
        self.world.burn("pangyo")
        await until(lambda: "asked" in self.systems.verbs_done())
        (opened,) = await self.store.list("open/")
        return opened.key.removeprefix("open/")

    async def restore(self, run: str, journal: Journal) -> None:
        """The journal of the run from a backup of the store, and another leader."""
        kept = {one.key: one.value for one in journal}
        for one in await journal_of(self.raw, run):
            put = Put(one.key, kept.pop(one.key)) if one.key in kept else Delete(one.key)
            await self.raw.transact([], [put])
        for key, value in kept.items():
            await self.raw.transact([], [Put(key, value)])
        self.world.tasks["ansan"].cancel()
        await asyncio.gather(self.world.tasks["ansan"], return_exceptions=True)
        self.world.start("ansan")

    async def hold_writes(self) -> None:
        """No controller reaches the store, and none of their writes is on its way to it."""
        for one in self.world.stores.values():
            one.cut = True
        await until(lambda: not any(one.under_way for one in self.world.stores.values()))

    async def kill_leader(self) -> None:
        """It writes no more; the other controller does again."""
        self.world.stores["ansan"].cut = False
        self.world.tasks["anyang"].cancel()
        await asyncio.gather(self.world.tasks["anyang"], return_exceptions=True)
        self.systems.done_with.set()

    async def written(self, words: str) -> None:
        """Has the leader write this, and waits until readers see it. What one is told that stops leading may
        be lost, so each new leader is told.
        """
        told: Controller | None = None
        async with asyncio.timeout(MOST_S):
            while words not in [one.words for one in (await runs.notices(self.store)).values()]:
                leader = self.world.controllers.get(self.world.leader)
                if leader is not None and leader is not told:
                    leader.say("trouble", words, {})
                    told = leader
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        for task in self.world.tasks.values():
            task.cancel()
        await asyncio.gather(*self.world.tasks.values(), return_exceptions=True)
        for one in (*self.stores, self.gateway):
            await one.close()


@pytest.mark.parametrize("way", NINE)
def test_what_they_change_while_a_site_burns_stops_the_run_at_worst(
    made: Ground, way: str, tmp_path: Path
) -> None:
    attack, outcome = NINE[way]

    async def attacked(fire: Fire, run: str) -> None:
        for stream in (run, "watch"):
            for change in attack(await journal_of(fire.raw, stream)):
                await fire.raw.transact([], [change])
        if way == "lease and register":
            lease = {"key": text_key(f"{fire.prefix}/lease/leader"), "value": text_key('{"owner": "me"}')}
            await fire.gateway.call("/v3/kv/put", lease)

    async def ended(fire: Fire, run: str, register: Entry, stopped: bool) -> None:
        if stopped:
            await until(lambda: any("cannot take over" in one for one in fire.world.words("trouble")))
        else:
            if outcome == "waits":
                await until(lambda: any("sites in the store" in one for one in fire.world.words("trouble")))
                await until(lambda: "promote" in fire.systems.verbs_done())
                assert "shift" not in fire.systems.verbs_done()
                await fire.raw.transact([], [Put(register.key, register.value)])
            async with asyncio.timeout(MOST_S):
                while await fire.store.get(f"open/{run}") is not None:
                    await asyncio.sleep(0.1)
        done = [one for one in fire.systems.log if one[0] != "asked"]
        verbs = list(dict.fromkeys(one[0] for one in done))
        assert verbs == (["fence"] if stopped else ["fence", "promote", "shift"])
        assert {one[2] for one in done} <= {"anyang", "ansan"}
        tokens = [one[3] for one in done]
        assert tokens == sorted(tokens), "by one leader after another"

    async def story(world: World) -> None:
        run = await fire.burn()
        (register,) = [one for one in await fire.raw.list("sites") if one.key == "sites"]
        await fire.hold_writes()
        journal = await journal_of(fire.raw, run)
        await attacked(fire, run)
        await fire.kill_leader()
        await ended(fire, run, register, outcome == "stops")
        await fire.written("after the attack")
        copy = tmp_path / "copy"
        await repair(fire.url, "watch", "test", copy.write_bytes)
        assert await verify_chain(fire.store, "watch") == []
        await fire.written("after the repair")
        assert await verify_chain(fire.store, "watch") == []
        if outcome == "stops":
            await fire.restore(run, journal)
            await ended(fire, run, register, False)

    async def play_all() -> None:
        fire.world.start("anyang")
        try:
            await story(fire.world)
        finally:
            await fire.close()

    fire = Fire(made, way)
    asyncio.run(play_all())
