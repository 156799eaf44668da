"""Someone who writes every key of a sealed store without its key, and has copies of what was there before.

The worst they can do with a copy: make a question that was answered before be asked again. An old vote makes
no site lost, and an answer of a person counts once, for the run and the plan that it was given for.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from evac.app import runs
from evac.app.controlling import KnownPeople, check_request
from evac.engine.clock import SystemClock
from evac.engine.lead.challenges import CHANGE_MS, Challenge
from evac.engine.lead.policies import Policies
from evac.engine.lead.votes import PREFIX, VotePublisher, VoteReader
from evac.engine.lead.watch_journal import Notice, of_event
from evac.engine.plans.library import put_plan
from evac.engine.runs import requests
from evac.engine.runs.proving import GOOD_MS, Asked, Provers, RoomKey, prove
from evac.engine.stores.guards import read_register
from evac.model.access import GlassUse, Proven
from evac.model.errors import NotAllowed, RunError, StoreError
from evac.model.run_policy import PROFILES, RunPolicy
from evac.office.office import Office
from evac.office.values import Ballots
from evac.run.state import apply, replay
from evac.run.values import Event
from evac.store.opening import SealedStore, open_store, seal_of
from evac.store.port import Delete, Entry, Lease, MemoryStore, Put
from evac.watch.verdict import Vote, judge
from evac_lab.virtual_loop import VirtualProcess
from tests.unit.app.test_store_writer import PATIENCE_S, House
from tests.unit.engine.small_world import World, policy_of
from tests.unit.engine.small_world import play as play_in_a_small_world
from tests.unit.engine.worlds import Ground, chain, spec_of
from tests.web.rooms import play

SEAL = "env:EVAC_RED_SEAL"
SITES = ("anyang", "ansan", "pangyo")
DOWN = (("data", "down"), ("user", "down"))
PROFILE = PROFILES["cautious"]


@pytest.fixture(autouse=True)
def seal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAC_RED_SEAL", "s" * 32)


class Clock:
    at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


def vote(witness: str, number: int, evidence: tuple[tuple[str, str], ...] = DOWN) -> Vote:
    return Vote(witness, "pangyo", evidence[0][1], evidence, 0, 0, number)  # type: ignore[arg-type]


class Publisher(VotePublisher):
    """Writes when it is told to."""

    _lease: Lease | None = None

    async def write(self, one: Vote) -> None:
        self._lease = self._lease or await self._acquire()
        self._repeated = None  # it reads challenges when they change, and no task watches them here
        self.publish(one)
        await self._write(self._lease)


def test_votes_of_an_earlier_outage_make_no_site_lost() -> None:
    """Two witnesses saw pangyo burn; its votes of that day are put back again and again, newest last."""

    async def story() -> None:
        raw, clock = MemoryStore(), Clock()
        store = SealedStore(raw, seal_of(SEAL))
        reading = Challenge(clock.monotonic_ms)
        reader = VoteReader(store, clock, PROFILE, reading)
        own = Publisher(store, "pangyo", "p", PROFILE, reading)
        others = {
            site: Publisher(store, site, site, PROFILE, Challenge(clock.monotonic_ms))
            for site in ("anyang", "ansan")
        }
        copies: list[list[Entry]] = []
        for number in range(4):
            await own.write(Vote("pangyo", "anyang", "up", (("user", "up"),), 0, 0, number))
            for site, publisher in others.items():
                await publisher.write(vote(site, number))
            copies.append([one for one in await raw.list(PREFIX) if "/pangyo/" in one.key])

        async def judged(reader: VoteReader, again: bool) -> set[str]:
            """States of pangyo over two minutes; with votes that are put back every second."""
            standings, states = {}, set()  # type: ignore[var-annotated]
            for second in range(120):
                clock.at_ms += 1_000
                if again:
                    copy = copies[second % len(copies)]
                    await raw.transact([], [Put(one.key, one.value) for one in copy])
                standings = judge(await reader.refresh(), SITES, standings, PROFILE, clock.at_ms, "anyang")
                states.add(standings["pangyo"].verdict.state)
            return states

        fooled = VoteReader(store, clock, PROFILE)
        assert "lost" in await judged(fooled, again=True), "the attack works where nobody is challenged"
        assert "lost" not in await judged(reader, again=True), "of a reader that saw them already"
        fresh = VoteReader(store, clock, PROFILE, Challenge(clock.monotonic_ms))
        assert "lost" not in await judged(fresh, again=True), "of one that was started since"

    asyncio.run(story())


def test_a_vote_is_new_once_and_a_process_that_was_replaced_does_not_come_back() -> None:
    clock = Clock()
    one = Challenge(clock.monotonic_ms)
    first = one.text
    assert not one.takes("k", "a", 1, ["another"])
    assert not one.takes("k", "a", 1, [""])
    assert one.takes("k", "a", 1, ["another", first])
    assert not one.takes("k", "a", 1, [first])
    assert one.takes("k", "b", 0, [first]), "a witness that was started again counts from where it likes"
    assert not one.takes("k", "a", 9, [first])
    clock.at_ms += CHANGE_MS
    assert one.text != first
    assert one.takes("k", "b", 2, [first]), "whoever has not read the new one yet"
    clock.at_ms += CHANGE_MS
    assert one.text
    assert not one.takes("k", "b", 3, [first])
    clock.at_ms += CHANGE_MS
    assert one.takes("k", "a", 10, [one.text]), "after so long it is not a copy"


def test_witnesses_and_readers_find_each_other() -> None:
    async def story() -> None:
        clock, store = Clock(), SealedStore(MemoryStore(), seal_of(SEAL))
        mine = Challenge(clock.monotonic_ms)
        reader = VoteReader(store, clock, PROFILE, mine)
        await reader.refresh()
        for site in ("anyang", "pangyo"):
            publisher = Publisher(
                store, site, site, PROFILE, mine if site == "pangyo" else Challenge(clock.monotonic_ms)
            )
            await publisher.write(replace(vote(site, 1), target="ansan"))
        found = {one.vote.witness: one.proven for one in await reader.refresh()}
        assert found == {"anyang": False, "pangyo": False}, "nobody knew the reader yet"
        await publisher.write(replace(vote("pangyo", 2), target="ansan"))
        found = {one.vote.witness: one.proven for one in await reader.refresh()}
        assert found == {"anyang": False, "pangyo": True}

    asyncio.run(story())


@pytest.mark.parametrize("verb", ["approve", "resume", "skip", "attest", "cancel"])
def test_a_request_is_answered_once_and_for_the_plan_that_it_was_made_for(verb: str) -> None:
    made = requests.Request("1", verb, "kim", "why", "a", made="7.1")  # type: ignore[arg-type]
    known = Provers(sealed=True)
    prove(Asked("r", made="7.1"), made, RunPolicy(), known, 0)
    for asked, request, code in (
        (Asked("r", made="7.1", marks={"1"}), made, "request-repeated"),
        (Asked("r", made="7.2"), made, "request-elsewhere"),
        (Asked("r", made="7.1"), replace(made, made=""), "request-elsewhere"),
    ):
        with pytest.raises(NotAllowed) as caught:
            prove(asked, request, RunPolicy(), known, 0)
        assert caught.value.code == code


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_use_of_a_break_glass_credential_counts_once_by_the_journal(is_taken: bool) -> None:
    """Its record in the store is gone, so a war room that was restarted takes the credential again."""
    used, now_ms = GlassUse("a" * 8, 1, 2, "the provider burns"), 1_800_000_000_000
    view = replay(spec_of(), [Event("run_created", 1), Event("run_started", 2)])
    first = requests.Request("1", "pause", "kim", "people inside", glass=used)
    taken = requests.event_of(view, first, now_ms, requests.RequestTerms())
    refused = requests.refused("request/r/1", "pause", "kim", NotAllowed("x", "no"), now_ms, used)
    event = taken if is_taken else refused
    alert = of_event("r", event)
    assert alert is not None
    assert alert[0].startswith("r: BREAK-GLASS aaaaaaaa, use 1 of 2: kim")
    apply(view, event)
    with pytest.raises(NotAllowed) as caught:
        check_request(RunPolicy(), view, replace(first, id="2"), None, now_ms)
    assert caught.value.code == "glass-spent"
    second = replace(first, id="2", glass=replace(used, number=2))
    assert check_request(RunPolicy(), view, second, None, now_ms) == Proven()
    with pytest.raises(RunError):
        apply(view, event._replace(data={**event.data, "break_glass": {"id": "a"}}))


def test_where_no_agent_keeps_heads_a_leader_says_so_at_each_use() -> None:
    said: list[Notice] = []
    glass, store = GlassUse("a" * 8, 1, 1), MemoryStore()
    request = requests.Request("1", "pause", "kim", "why", glass=glass, proof=Proven("break-glass"))
    request = asyncio.run(RoomKey().seen(store, "r", request))
    request = requests.decode(requests.key_of("r", "1"), requests.encode(request))
    for tell in (said.append, None):
        known = KnownPeople(store, Policies(RunPolicy()), Clock(), None)
        known.unwitnessed = tell
        for _ in range(2):  # a request that waits is read again
            assert asyncio.run(known.learn("r", request)) == request
    assert [one.data["code"] for one in said] == ["glass-unwitnessed"]
    assert "BREAK-GLASS aaaaaaaa, use 1 of 1: no agent keeps" in said[0].words


def test_a_break_glass_use_that_no_war_room_recorded_counts_for_nothing() -> None:
    """Else whoever writes the store could use up a credential of someone else and raise alarms with it."""
    said: list[Notice] = []

    async def story() -> None:
        ground, room = Ground(chain("a")), RoomKey()
        known = KnownPeople(ground.store, Policies(RunPolicy()), Clock(), None)
        known.unwitnessed = said.append
        terms = requests.RequestTerms(
            check=lambda view, request, now_ms: check_request(RunPolicy(), view, request, known.now, now_ms),
            learn=known.learn,
        )
        run = await ground.begin(await ground.lead(), request_terms=terms)
        for number, verb, is_seen in ((1, "resume", False), (2, "pause", False), (3, "resume", True)):
            used = GlassUse("a" * 8, number, 3)
            request = requests.Request(str(number), verb, "kim", "x", glass=used, proof=Proven("break-glass"))  # type: ignore[arg-type]
            if is_seen:
                request = await room.seen(ground.store, "run-1", request)
            key = requests.key_of("run-1", request.id)
            await ground.store.transact((), (Put(key, requests.encode(request)),))
            await run._read_outside()
            assert await ground.store.get(key) is None, "it was answered"
            assert (used.mark in run.view.marks, len(said)) == (is_seen, is_seen)

    asyncio.run(story())


def test_a_run_that_is_made_again_from_copies_has_no_approval(tmp_path: Path) -> None:
    """All that is left of the run is deleted; its proposal and its approval are put back."""
    house = House(tmp_path)
    raw_url, house.url = house.url, f"{house.url}?seal={SEAL}"
    waits = frozenset({"awaiting_approval"})

    async def story() -> None:
        store, raw = open_store(house.url), open_store(raw_url)
        now_ms = SystemClock().now_ms()
        proposal = runs.proposal_of(house.data, "fire", "test", ("west",), "kim")
        async with house.leading() as led:
            await house.proposed(led)
            await house.until(led, waits)
        request = requests.Request(runs.new_id(now_ms), "approve", "lee", "test", at_ms=now_ms)
        await runs.ask(store, house.run, request)
        (copied,) = await raw.list(f"request/{house.run}/")
        async with house.leading() as led:
            await house.until(led, frozenset({"running"}))
        for entry in await raw.list(""):
            if not entry.key.startswith("plan/"):
                await raw.transact([], [Delete(entry.key)])
        again = runs.new_id(now_ms)
        key, value = runs.proposal_entry(again, house.digest, proposal)
        await store.transact((), (Put(key, value),))
        async with house.leading() as led:
            async with asyncio.timeout(PATIENCE_S):
                refusal = None  # read first: a run and its answer are written together
                while await raw.get(f"open/{house.run}") is None:
                    assert refusal is None
                    await asyncio.sleep(0.1)
                    refusal = await raw.get(f"answer/{again}")
            await raw.transact([], [Put(copied.key, copied.value)])
            async with asyncio.timeout(PATIENCE_S):
                while await raw.get(copied.key) is not None:
                    await asyncio.sleep(0.1)
            view = await house.until(led, waits)
            assert view.approvals.counted == 0
            events = await runs.events_of(led, house.run)
            (refused,) = [one for one in events if one.kind == "request_refused"]
            assert "a different plan, or another run with this name" in refused.data["why"]
        for one in (store, raw):
            await one.close()

    asyncio.run(story())


def test_a_proposal_that_was_withdrawn_and_is_put_back_makes_no_run() -> None:
    """Nobody led, so the person was told that no run was created; the copy comes when somebody leads."""

    async def story(world: World) -> None:
        await world.until_planned()
        data, now_ms = await world.plan(("pangyo",)), world.clock.now_ms()
        proposal = runs.Proposal("move-1", data, "a new roof", ("pangyo",), "evacuating", typed=("pangyo",))
        number = runs.new_id(now_ms - GOOD_MS)
        copy = Put(*runs.proposal_entry(number, await put_plan(world.store, data), proposal))
        await world.store.transact((), (copy,))
        answer = await runs.answer_to(world.store, number, PATIENCE_S)
        assert answer is not None
        assert answer.get("code") == "proposal-old", answer
        await world.store.transact((), (replace(copy, key="proposal/again"),))
        renamed = await runs.answer_to(world.store, "again", PATIENCE_S)
        assert renamed is not None
        assert renamed.get("code") == "proposal-misnamed", renamed
        assert await world.store.list("open/") == []
        assert (await read_register(world.store))["pangyo"] == "active"
        new = await runs.propose(world.store, proposal, now_ms, PATIENCE_S)
        assert new.startswith("move-1-"), "what was proposed just now is made"

    world = World(policy_of("hold"))
    assert isinstance(world.clock, VirtualProcess)
    world.clock.offset_ms = 2 * GOOD_MS
    play_in_a_small_world(story, world)


def test_a_war_room_shows_no_vote_that_was_put_back() -> None:
    """Of a room that was started after the fire; it reads copies of the votes of that day."""

    async def story() -> None:
        raw, clock = MemoryStore(), Clock()
        store = SealedStore(raw, seal_of(SEAL))
        publishers = {
            site: Publisher(store, site, site, PROFILE, Challenge(clock.monotonic_ms)) for site in SITES[:2]
        }
        copies: list[list[Entry]] = []
        for number in range(4):
            for site, publisher in publishers.items():
                await publisher.write(vote(site, number))
            copies.append(await raw.list(PREFIX))
        room = Ballots(store, clock, PROFILE, "anyang")
        room.follow(PROFILE, [(site, "") for site in SITES])
        for second in range(120):
            clock.at_ms += 1_000
            await raw.transact([], [Put(one.key, one.value) for one in copies[second % len(copies)]])
            await room.read()
            room.judge()
            shown = {one.id: one for one in room.sites({})}
            assert shown["pangyo"].state == "unknown"
            assert [one.fresh for one in shown["pangyo"].votes] == [False, False]
            assert room.voting() == ()
        for number in range(4, 7):
            clock.at_ms += 1_000
            for site, publisher in publishers.items():
                await publisher.write(vote(site, number))
            await room.read()
        assert room.voting() == ("ansan", "anyang"), "what witnesses say to the challenge of this room counts"
        assert len(await raw.list("challenge/")) == 3
        await room.close()
        assert len(await raw.list("challenge/")) == 2

    asyncio.run(story())


def test_a_war_room_that_may_only_read_says_that_it_can_prove_no_vote() -> None:
    class ReadOnly(MemoryStore):
        async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
            raise StoreError("etcd-refused", "etcd refused it: permission denied")

    async def story() -> None:
        raw, clock = MemoryStore(), Clock()
        sealed = SealedStore(raw, seal_of(SEAL))
        publisher = Publisher(sealed, "anyang", "anyang", PROFILE, Challenge(clock.monotonic_ms))
        await publisher.write(vote("anyang", 1))
        reading = ReadOnly()
        for entry in await raw.list(""):
            await reading.transact([], [Put(entry.key, entry.value)])
        room = Ballots(SealedStore(reading, seal_of(SEAL)), clock, PROFILE, "anyang")
        room.follow(PROFILE, [(site, "") for site in SITES])
        await room.read()
        room.judge()
        (seen,) = [one for one in room.sites({}) if one.id == "pangyo"]
        assert (seen.state, seen.votes[0].fresh) == ("unknown", False)
        assert seen.reason == "no vote can be proven: etcd refused it: permission denied"
        await room.close()

    asyncio.run(story())


def test_a_hold_that_they_plant_blinds_no_war_room_and_keeps_no_one_from_placing_and_ending_one() -> None:
    raw = MemoryStore()
    store = SealedStore(raw, seal_of(SEAL))

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await raw.transact((), (Put("hold", b'{"who":"them","reason":"","at_ms":1}'),))
        await office.look()
        office.refresh()
        seen = await client.get("/v1/hold")
        assert (seen.status_code, seen.json()["who"]) == (200, "someone else")
        assert "not written with a key of this installation" in seen.json()["reason"]
        assert (await client.get("/now")).status_code == 200
        assert (await client.post("/v1/hold", json={"reason": "what is this?"})).status_code == 201
        assert (await client.post("/v1/hold", json={"reason": "twice"})).status_code == 409
        assert (await client.request("DELETE", "/v1/hold", params={"reason": "over"})).status_code == 200
        assert (await client.get("/v1/hold")).status_code == 404

    play(story, store)
