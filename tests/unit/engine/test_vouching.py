"""A store that an ended run left in doubt: blocked until somebody says where its primary is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from evac.engine.lead.watch_journal import Notice
from evac.engine.runs import requests
from evac.engine.runs.open_runs import Ending, InHand
from evac.engine.runs.proposals import Vouching
from evac.engine.stores import datasets
from evac.engine.stores.datasets import DataSets, Epoch
from evac.engine.stores.guards import Guards
from evac.model.errors import Conflict, NotAllowed
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.run.values import RunSpec
from evac.store.port import Lease, MemoryStore, Put
from tests.unit.virtual_time import LOOP_MS, LoopClock, run_virtually

POLICY = StorePolicy("chat", ("sync",))


class Desk:
    """A store with a promotion of `run-1` in doubt, and whoever answers."""

    def __init__(self) -> None:
        self.store = MemoryStore(LOOP_MS)
        self.sets = DataSets(self.store, "a", LoopClock())
        self.told: list[Notice] = []

    async def begin(self) -> Vouching:
        lease = await self.store.acquire("leader", "a", 5_000)
        epoch = Epoch("chat", 3, "pangyo")
        for step in (
            lambda e: datasets.claim(e, holder="pangyo", candidate="anyang", purpose="promote", run="run-1"),
            lambda e: datasets.prove(e, "sync", POLICY),
            lambda e: datasets.begin(e, "anyang", "run-1", POLICY),
        ):
            _, permit = step(epoch)
            await self.store.transact(permit.compares, permit.changes, lease)
            epoch = await self.sets.read("chat")
        return self.vouching(lease)

    def vouching(self, lease: Lease) -> Vouching:
        return Vouching(self.store, self.sets, LoopClock(), lease, self.told.append, "open/")

    async def ask(self, verb: Any, step: str = "promote:chat", **more: Any) -> None:
        request = requests.Request("r1", verb, "kim", "I looked", step, **more)
        value = requests.encode(request)
        await self.store.transact((), [Put(requests.key_of("run-1", "r1"), value)])

    async def answer(self) -> dict[str, str]:
        entry = await self.store.get("answer/r1")
        assert entry is not None
        assert await self.store.get(requests.key_of("run-1", "r1")) is None, "it is taken"
        return dict(orjson.loads(entry.value))


@pytest.mark.parametrize(
    ("seen", "holder"),
    [({"primary": "anyang"}, "anyang"), ({"primary": "pangyo"}, "pangyo"), ({"fenced": "anyang"}, "pangyo")],
)
def test_a_person_says_where_the_primary_is_and_the_store_is_free_again(
    seen: dict[str, str], holder: str
) -> None:
    async def story() -> None:
        desk = Desk()
        vouching = await desk.begin()
        before = await desk.sets.read("chat")
        with pytest.raises(NotAllowed, match="the outcome of anyang"):
            datasets.claim(before, holder="", candidate="ansan", purpose="promote", run="run-2")
        await desk.ask("attest", evidence=seen)
        await vouching.turn()
        assert "done" in await desk.answer()
        after = await desk.sets.read("chat")
        assert (after.holder, after.settled, after.number) == (holder, True, 4)
        claimed, _ = datasets.claim(after, holder="", candidate="ansan", purpose="promote", run="run-2")
        assert claimed.number == 5
        (record,) = await desk.store.list("vouched/chat/")
        told = orjson.loads(record.value)
        assert (told["who"], told["reason"], told["primary"]) == ("kim", "I looked", holder)
        assert [notice.kind for notice in desk.told] == ["run"]

    run_virtually(story())


@pytest.mark.parametrize(
    ("verb", "step", "seen", "words"),
    [
        ("attest", "promote:chat", {}, "--seen primary=SITE"),
        ("attest", "promote:chat", {"primary": "nowhere"}, "anyang or pangyo"),
        ("attest", "promote:mail", {"primary": "anyang"}, "promote:mail has no unknown outcome"),
        ("cancel", "", {}, "run-1 has ended"),
    ],
)
def test_what_says_too_little_is_answered_in_words(
    verb: str, step: str, seen: dict[str, str], words: str
) -> None:
    async def story() -> None:
        desk = Desk()
        vouching = await desk.begin()
        await desk.ask(verb, step, evidence=seen)
        await vouching.turn()
        assert words in (await desk.answer())["refused"]
        assert not (await desk.sets.read("chat")).settled
        assert (await desk.store.list("vouched/"), desk.told) == ([], [])

    run_virtually(story())


def test_a_request_to_a_run_that_is_open_is_left_to_that_run() -> None:
    async def story() -> None:
        desk = Desk()
        vouching = await desk.begin()
        await desk.store.transact((), [Put("open/run-1", b"{}")])
        await desk.ask("attest", evidence={"primary": "anyang"})
        await vouching.turn()
        assert await desk.store.get("answer/r1") is None
        assert await desk.store.get(requests.key_of("run-1", "r1")) is not None

    run_virtually(story())


@pytest.mark.parametrize("spoilt", ["chat", "album"])
def test_an_epoch_that_nobody_can_read_holds_up_the_answer_for_its_own_store_only(spoilt: str) -> None:
    async def story() -> None:
        desk = Desk()
        vouching = await desk.begin()
        await desk.store.transact((), [Put(datasets.key_of(spoilt), b"[]")])
        await desk.ask("attest", evidence={"primary": "anyang"})
        await vouching.turn()
        answer = await desk.answer()
        if spoilt == "chat":
            assert answer["code"] == "epoch-unreadable", answer
        else:
            assert (await desk.sets.read("chat")).holder == "anyang"

    run_virtually(story())


@pytest.mark.parametrize("spoilt", ["album", "chat"])
def test_a_run_ends_although_nobody_can_read_an_epoch(spoilt: str) -> None:
    """It gives up its claims on other stores, and says which epoch is left as it is."""

    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        sets, lease = DataSets(store, "a", LoopClock()), await store.acquire("leader", "a", 60_000)
        for name in ("album", "chat"):
            _, permit = datasets.claim(
                Epoch(name, 3, "pangyo"), holder="pangyo", candidate="anyang", purpose="promote", run="run-1"
            )
            await store.transact((), permit.changes, lease)
        await store.transact((), [Put(datasets.key_of(spoilt), b"[]"), Put("open/run-1", b"{}")])
        said: list[tuple[str, dict[str, Any]]] = []

        def trouble(words: str, data: Mapping[str, Any]) -> None:
            assert len(said) < 9, "it is reported again and again, and the run does not end"
            said.append((words, dict(data)))

        ending = Ending(store, Guards(store, LoopClock(), (), {}), sets, lease, trouble)
        run = InHand(RunSpec("run-1", "fire", "sha256:x", ()), {}, {}, RunPolicy())
        await ending.end(run, "run-1", succeeded=False)
        assert await store.get("open/run-1") is None
        ((words, data),) = said
        assert f"cannot read the epoch of {spoilt}" in words
        assert (data["store"], data["code"]) == (spoilt, "epoch-unreadable")
        (other,) = {"album", "chat"} - {spoilt}
        assert (await sets.read(other)).settled

    run_virtually(story())


@pytest.mark.parametrize("begun", [False, True])
def test_an_end_that_is_tried_again_reports_each_doubt_once(begun: bool) -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        sets, lease = DataSets(store, "a", LoopClock()), await store.acquire("leader", "a", 60_000)
        moved = Epoch("wiki", 4, "pangyo", "anyang", "promote", "network", "run-1", begun)
        spoilt = Put(datasets.key_of("chat"), b"[]")
        await store.transact((), [spoilt, Put(datasets.key_of("wiki"), datasets.encode(moved))])
        await store.transact((), [Put("open/run-1", b"{}")])
        said: list[str] = []
        guards = Guards(store, LoopClock(), (), {})
        ending = Ending(store, guards, sets, lease, lambda words, data: said.append(words))
        run = InHand(RunSpec("run-1", "fire", "sha256:x", ()), {}, {}, RunPolicy())
        tried = 0

        async def conflicting(*given: Any, **named: Any) -> Any:
            nonlocal tried
            tried += 1
            if tried <= 3:
                raise Conflict("changed meanwhile")
            return await MemoryStore.transact(store, *given, **named)

        store.transact = conflicting  # type: ignore[method-assign]
        await ending.end(run, "run-1", succeeded=False)
        assert tried == 4
        assert await store.get("open/run-1") is None
        assert sum("cannot read the epoch of chat" in words for words in said) == 1
        assert sum("the state of wiki" in words for words in said) == begun
        assert len(said) == 1 + begun

    run_virtually(story())
