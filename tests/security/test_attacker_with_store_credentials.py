"""Someone who reads and writes every key of the store, and does not have the key of its seal.

The worst they can do: delete entries, and put older ones of the same name back; runs stop, or ask again.
They run no program, approve nothing, and what they write is passed over. What they plant for a run, and how
a controller refuses it, is in `tests/unit/app/test_store_writer.py`; here is what is left of it when the
seal itself is known.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evac import estate as estates
from evac.app import runs
from evac.app.backups import blocked
from evac.app.binding import bind_anew, bind_once, must_reach_own
from evac.drivers.port import Action, Value
from evac.engine.clock import SystemClock
from evac.engine.plans.library import put_plan
from evac.engine.runs import requests
from evac.engine.runs.binding import Bound
from evac.engine.runs.proposals import proposing
from evac.engine.runs.proving import OF_PROPOSAL, Act, RoomKey, sign_act
from evac.engine.runs.reading import reload
from evac.engine.runs.requests import Request
from evac.engine.runs.signatures import new_key, read_key
from evac.engine.stores.guards import Guards, ensure_register
from evac.engine.stores.stalled_commits import bound_of, is_protection
from evac.model.access import Proven
from evac.model.digest import canonical_json
from evac.model.errors import Corrupt, NotAllowed, Retryable
from evac.model.estate import Endpoint
from evac.model.run_policy import RunPolicy
from evac.net.secrets import Secret
from evac.run.values import RunSpec
from evac.store import opening
from evac.store.anchors import Anchor, decode, encode, hash_of, key_of, verify_chain
from evac.store.journal import Journal
from evac.store.opening import Seal, SealedStore, open_store, seal_of
from evac.store.port import Delete, MemoryStore, Put
from tests.unit.app.test_store_writer import PATIENCE_S, House
from tests.unit.engine.small_world import World, play, policy_of
from tests.unit.engine.worlds import Ground, chain

SEAL = "env:EVAC_RED_SEAL"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    monkeypatch.setenv("EVAC_RED_SEAL", "s" * 32)
    return MemoryStore()


def test_what_they_write_is_passed_over_and_stops_no_one(store: MemoryStore) -> None:
    async def story() -> None:
        sealed = SealedStore(store, seal_of(SEAL))
        await sealed.transact([], [Put("request/run/1", b"ours")])
        await store.transact([], [Put("request/run/2", b"theirs"), Put("request/run/3", bytes(64))])
        assert [entry.value for entry in await sealed.list("request/run/")] == [b"ours"]
        with pytest.raises(Corrupt):
            await sealed.get("request/run/2")

    asyncio.run(story())


def test_an_entry_is_not_moved_to_another_name(store: MemoryStore) -> None:
    async def story() -> None:
        sealed = SealedStore(store, seal_of(SEAL))
        await sealed.transact([], [Put("request/one/1", b"approve")])
        entry = await store.get("request/one/1")
        assert entry is not None
        await store.transact([], [Put("request/two/1", entry.value)])
        assert await sealed.list("request/two/") == []

    asyncio.run(story())


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, False),
        ({"takes": 5}, False),
        ({"argv": ("/bin/sh", "-c", "id")}, True),
        ({"observe_argv": ("/bin/sh", "-c", "id")}, True),
        ({"env": ("TOKEN=file:/etc/evac/store-seal",)}, True),
    ],
)
def test_even_with_the_seal_a_run_reaches_only_what_a_controllers_own_files_name(
    tmp_path: Path, changed: dict[str, Value], refused: bool
) -> None:
    (tmp_path / "estate.yaml").write_text("evac: 1\nsites: {a: {}, b: {}}\n")
    settings: dict[str, Value] = {"argv": ("/usr/sbin/fence", "a"), "fence": "network"}
    end = Endpoint("isolate", "a", "a", "command", settings)
    estate = replace(estates.load(tmp_path), endpoints=(end,))
    action = Action("fence", "a", "command", "a", {**settings, **changed}, {"proof": "network"})
    bound = Bound(RunSpec("r", "i", "p", ()), {"fence:db": (action,)})
    if not refused:
        must_reach_own(bound, estate)
        return
    with pytest.raises(NotAllowed, match="uses command at a to reach a system that no endpoint") as caught:
        must_reach_own(bound, estate)
    assert caught.value.code == "bound-differs"


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, False),
        ({"settings": {"host": "10.6.6.6", "password": "file:/etc/evac/db"}}, True),
        ({"settings": {"host": "10.0.0.1", "password": "file:/etc/evac/seal"}}, True),
        ({"driver": "command", "settings": {"argv": ["/bin/sh", "-c", "id"]}}, True),
        ({"at": "b"}, True),
        ({"store": "mail"}, True),
        ({"synchronous": ["b", "no-such-copy"]}, True),
        ({"synchronous": []}, False),
    ],
)
def test_even_with_the_seal_a_plan_that_no_checker_sees_reaches_only_the_own_store(
    tmp_path: Path, store: MemoryStore, changed: dict[str, object], refused: bool
) -> None:
    """A plan that restores the protection of a store is made by leaders alone; so is what looks like one."""
    (tmp_path / "estate.yaml").write_text("evac: 1\nsites: {a: {}, b: {}}\n")
    settings: dict[str, Value] = {"host": "10.0.0.1", "password": "file:/etc/evac/db"}
    ends = (
        Endpoint("db-a", "db", "a", "postgres", settings),
        Endpoint("db-b", "db", "b", "postgres", {"host": "10.0.0.2", "name": "b"}),
        Endpoint("mail-a", "mail", "a", "postgres", {**settings, "host": "10.0.0.9"}),
    )
    seen: Any = SimpleNamespace(files=replace(estates.load(tmp_path), endpoints=ends), digest="")
    told = {"store": "db", "driver": "postgres", "at": "a", "settings": settings, "synchronous": ["b"]}
    data, policy = canonical_json({"protect": {**told, **changed}}), RunPolicy()
    for binding in (
        lambda: bind_anew(store, seen, policy, data, "run-1", "fire", "sha256:x"),
        lambda: bind_once(store, seen, policy, policy, data, "run-1", "fire", "sha256:x"),
    ):
        if not refused:
            assert asyncio.run(binding()).spec.run == "run-1"
            continue
        with pytest.raises(NotAllowed, match=r"no endpoint of (db|mail) in this controller") as caught:
            asyncio.run(binding())
        assert caught.value.code == "bound-differs"


FORGERIES: dict[str, tuple[int, ...]] = {
    "in another order": (1, 3, 2, 4, 5),
    "without its middle": (1, 2, 4, 5),
    "without its head": (2, 3, 4, 5),
    "without its end": (1, 2, 3, 4),
    "with what another run did": (1, 2, 0, 4, 5),
}
"""Which of its segments a forged journal has; 0: a segment of another run."""


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_journal_whose_chain_was_computed_again_contradicts_every_head_that_was_kept(
    store: MemoryStore, forgery: str
) -> None:
    """By someone who has the seal as well: the chain alone proves nothing, one head from before does."""

    async def story() -> None:
        sealed = SealedStore(store, seal_of(SEAL))
        kept: list[Anchor] = []
        for run in ("fire", "flood"):
            journal = await Journal.create(sealed, run, None)
            for number in range(4):
                await journal.append([f'["{run}",{number}]'.encode()], None)
            kept = kept or [journal.head]
        segments = [decode("fire", n, e.value) for n, e in enumerate(await sealed.list("journal/fire/"), 1)]
        foreign = decode("flood", 3, (await sealed.list("journal/flood/"))[2].value)
        previous, first = "", 1
        for number, chosen in enumerate(FORGERIES[forgery], 1):
            records = (segments[chosen - 1] if chosen else foreign).records
            value = encode("fire", number, first, 0, previous, records)
            previous, first = hash_of(value), first + len(records)
            await sealed.transact([], [Put(key_of("fire", number), value)])
        for number in range(len(FORGERIES[forgery]) + 1, len(segments) + 1):
            await sealed.transact([], [Delete(key_of("fire", number))])
        assert await verify_chain(sealed, "fire") == []
        (problem,) = await verify_chain(sealed, "fire", kept)
        assert problem.kind in ("changed", "cut-off")

    asyncio.run(story())


@pytest.mark.enable_socket
def test_they_propose_under_no_name_where_people_are_told_apart(tmp_path: Path) -> None:
    """Else an approver proposes as somebody else, and approves alone what needs four eyes."""
    house, key = House(tmp_path), tmp_path / "kim.pem"
    made = new_key(key)
    (tmp_path / "access.yaml").write_text(
        f"people:\n  kim: {{role: operator, key: {made}}}\n  lee: {{role: admin}}\n"
    )
    wanted = replace(runs.proposal_of(house.data, "fire", "test", ("west",)), who="kim")
    told = runs.proposal_told(house.digest, wanted)
    login = Proven("password", at_ms=1)

    async def story() -> None:
        async with house.leading() as store:
            now_ms = SystemClock().now_ms()
            ids = [runs.new_id(now_ms) for _ in range(9)]

            async def answered(n: int, asked: Request | None, proposal: runs.Proposal = wanted) -> str:
                name, value = runs.proposal_entry(number := ids[n], house.digest, proposal, asked)
                await store.transact((), (Put(name, value),))
                answer = await runs.answer_to(store, number, PATIENCE_S)
                assert answer is not None
                return str(answer.get("code", "made"))

            await put_plan(store, house.data)
            signed = proposing(ids[4], told, now_ms)
            signed = replace(
                signed, signature=sign_act(Act(OF_PROPOSAL, signed, at_ms=now_ms), read_key(key))
            )
            third, last = (replace(proposing(number, told, 1), proof=login) for number in (ids[3], ids[7]))
            elsewhere = await RoomKey().seen(MemoryStore(), OF_PROPOSAL, third)
            assert await answered(1, None) == "unproven"
            assert await answered(2, proposing(ids[2], told, now_ms)) == "unproven"
            assert await answered(3, elsewhere) == "room-unknown"
            assert await answered(4, signed, replace(wanted, who="lee")) == "proof-invalid"
            assert await answered(5, signed, replace(wanted, incident="other")) == "proof-invalid"
            assert await answered(6, replace(signed, signature=f"{now_ms}.AAAA")) == "signature-invalid"
            refused = await store.get(f"answer/{ids[1]}")
            assert refused is not None
            assert b"kim is a typed name; a new run needs a verified identity" in refused.value
            for nothing in ("open/", "incident/", "journal/fire"):
                assert await store.list(nothing) == []
            seen = await RoomKey().seen(store, OF_PROPOSAL, last)
            assert await answered(7, seen) == "made"
            first = (await runs.events_of(store, house.run))[0]
            assert (first.data["who"], first.data["proof"]["kind"]) == ("kim", "password")
            assert await answered(8, signed) == "incident-has-run", "the signature is believed"

    asyncio.run(story())


@pytest.mark.enable_socket
def test_no_entry_that_they_spoil_keeps_a_controller_from_leading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The register of sites, the journal of notices, and what else a new leader reads."""
    monkeypatch.setenv("EVAC_RED_SEAL", "s" * 32)
    house = House(tmp_path)
    raw_url, house.url = house.url, f"{house.url}?seal={SEAL}"

    async def story() -> None:
        raw = open_store(raw_url)
        async with house.leading() as store:
            await house.proposed(store)
            async with asyncio.timeout(PATIENCE_S):
                while not await raw.list("journal/watch/"):
                    await asyncio.sleep(0.1)
        kept = ("open/", "incident/", "generation", "lease/", "plan")
        spoilt = [one.key for one in await raw.list("") if not one.key.startswith(kept)]
        assert {"sites", "observed", "rules/proof", "journal/watch/000000000001"} <= set(spoilt)
        await raw.transact([], [Put(key, b"spoilt") for key in spoilt])
        house.notices.clear()
        async with house.leading() as store:
            with pytest.raises(NotAllowed, match="already has a run"):
                await house.proposed(store)
            with pytest.raises((NotAllowed, Corrupt), match="sites"):
                await ensure_register(store, ())
        told = [one.words for one in house.notices if one.kind == "trouble"]
        assert any(
            "segment 1 of the journal watch was changed or deleted in the store" in words for words in told
        )
        assert any("sites" in words and "restore the entry" in words for words in told)
        await raw.close()

    asyncio.run(story())


@pytest.mark.enable_socket
def test_a_spoilt_run_that_somebody_asks_something_of_stops_no_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each leader that looked whether the run had ended was over, as long as the request was there."""
    monkeypatch.setenv("EVAC_RED_SEAL", "s" * 32)
    house = House(tmp_path)
    raw_url, house.url = house.url, f"{house.url}?seal={SEAL}"

    async def story() -> None:
        raw = open_store(raw_url)
        async with house.leading() as store:
            await house.proposed(store)
        store = open_store(house.url)
        await house.ask(store, Request("a1", "pause", "kim", "why"))
        await store.close()
        await raw.transact([], [Put(f"open/{house.run}", b"spoilt")])
        async with house.leading() as store:
            with pytest.raises(NotAllowed, match="already has a run"):
                await house.proposed(store)
        await raw.close()

    asyncio.run(story())


FLOODED = (
    "votes",
    "challenge",
    "open",
    "request",
    "proposal",
    "release",
    "drawer",
    "permit",
    "journal/watch",
    "",
)


@pytest.mark.parametrize("prefix", FLOODED)
def test_a_flood_of_entries_ends_no_controller(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than evac is willing to pass over. While they are there nothing may be known; then all goes on."""
    monkeypatch.setattr(opening, "SKIPPED_MOST", 20)
    world = World(policy_of("act"))
    raw, world.store = world.store, SealedStore(world.store, Seal((Secret("s" * 32),)))

    async def story(world: World) -> None:
        await world.until_planned()
        run = (await world.store.list("open/"))[:1]
        assert not run
        places = [f"{one}/" for one in FLOODED if prefix in ("", one) and one]
        keys = [f"{place}{number:012d}" for place in places for number in range(900, 2_000)]
        for key in keys:
            await raw.transact([], [Put(key, b"planted")])
        for _ in range(20):
            await asyncio.sleep(0.5)
            await world.until(lambda: True)
        for key in keys:
            await raw.transact([], [Delete(key)])
        await world.until(lambda: bool(world.leader), 60)
        await world.until_planned(60)
        world.burn("pangyo")
        await world.until(lambda: "shift" in world.systems.verbs_done(), 60)

    play(story, world)


HOLDS = [b"", b"{", b"5", b"null", b"[1]", b"[[1,2,3]]", b'"x"', b'{"who":{},"reason":[]}', b'{"who":""}']
HOLDS += [b'{"who":"kim","proof":%s}' % proof for proof in (b"5", b'{"kind":[]}', b'{"at_ms":1e300}')]
HOLDS += [b'{"who":"' + b"k" * 100_000 + b'","reason":"' + b"x" * 100_000 + b'"}']


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "not sealed"])
@pytest.mark.parametrize("value", HOLDS, ids=[f"{n}" for n, _ in enumerate(HOLDS)])
def test_a_hold_that_they_plant_holds_runs_and_spoils_none(
    store: MemoryStore, value: bytes, is_sealed: bool
) -> None:
    """It holds as any other and ends with its entry; the run answers requests, and can be replayed."""

    async def story() -> None:
        ground = Ground(chain("a"), store=SealedStore(store, seal_of(SEAL)) if is_sealed else store)
        run = await ground.begin(await ground.lead())
        await store.transact((), (Put("hold", value), Put("hold/released", value)))
        asked = Request("1", "pause", "kim", "what is this?")
        await ground.store.transact((), (Put(requests.key_of("run-1", "1"), requests.encode(asked)),))
        for _ in range(2):
            await run._read_outside()
        assert run.view.held
        assert await ground.store.get(requests.key_of("run-1", "1")) is None, "requests are answered"
        assert (await blocked(ground.store, RunPolicy(), frozenset({"x"}), 0))[0] == "hold"
        guards = Guards(ground.store, SystemClock(), (), {})
        for asked in (
            guards.may_act([("x", [Action("shift", "a", "http", "x")])], ()),
            guards.may_take_back([]),
        ):
            with pytest.raises(Retryable, match="put everything on hold") as held:
                await asked
            assert held.value.code == "held", "a step waits, and does not fail"
        await store.transact((), (Delete("hold"),))
        await run._read_outside()
        assert not run.view.held
        kinds = [event.kind for event in await runs.events_of(ground.store, "run-1")]
        assert kinds.count("held") == kinds.count("released") == 1, "each is recorded once"
        assert (await reload(ground.store, run.view)).phase == run.view.phase, "any leader can continue it"

    asyncio.run(story())


@pytest.mark.parametrize("field", ["store", "driver", "at", "settings", "synchronous"])
@pytest.mark.parametrize("value", [None, 5, "x", [5], [["x"]], [None], {"x": 1}, {"5": 5}])
def test_a_plan_to_let_commits_continue_is_read_whole_or_is_corrupt(field: str, value: Any) -> None:
    told = {"store": "chat", "driver": "redis", "at": "x", "settings": {}, "synchronous": ["a", "b"]}
    data = canonical_json({"protect": {**told, field: value}})
    assert is_protection(data)
    good = (field == "settings") == isinstance(value, dict) and (field == "synchronous") == isinstance(
        value, list
    )
    if good and field != "synchronous" and (field == "settings" or value == "x"):
        assert bound_of(data, RunPolicy(), run="r", incident="i", digest="d").spec.run == "r"
        return
    with pytest.raises(Corrupt):
        bound_of(data, RunPolicy(), run="r", incident="i", digest="d")
