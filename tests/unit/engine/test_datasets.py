"""One candidate a store, however long it takes and whoever leads: leases, epochs, fence proofs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.engine.stores.datasets import (
    DataSets,
    Epoch,
    begin,
    claim,
    decode,
    encode,
    key_of,
    not_done,
    prove,
    settle,
    vouch,
)
from evac.engine.stores.guards import Permit
from evac.model.errors import Conflict, LeaseLost, NotAllowed, Retryable, Unavailable
from evac.model.run_policy import StorePolicy
from evac.store.port import Entry, Lease, MemoryStore, Put
from tests.unit.virtual_time import LOOP_MS, LoopClock, run_virtually

POLICY = StorePolicy("chat", proofs=("sync", "attest"))


def _run(story: Coroutine[Any, Any, None]) -> None:
    run_virtually(story)


async def _use(store: MemoryStore, permit: Permit) -> None:
    await store.transact(permit.compares, permit.changes)


def _claim(
    epoch: Epoch, candidate: str = "anyang", run: str = "r1", purpose: Any = "promote"
) -> tuple[Epoch, Permit]:
    return claim(epoch, holder="pangyo", candidate=candidate, purpose=purpose, run=run)


def test_claim_prove_promote_settle() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        sets = DataSets(store, "c1", LoopClock())
        epoch = await sets.read("chat")
        assert (epoch.number, epoch.settled) == (0, True)
        _, permit = _claim(epoch)
        await _use(store, permit)
        epoch = await sets.read("chat")
        assert (epoch.number, epoch.holder, epoch.candidate, epoch.rung) == (1, "pangyo", "anyang", "")
        with pytest.raises(NotAllowed, match="no fence proof"):
            begin(epoch, "anyang", "r1", POLICY)
        with pytest.raises(NotAllowed, match="does not accept"):
            prove(epoch, "lease", POLICY)
        _, permit = prove(epoch, "sync", POLICY)
        await _use(store, permit)
        epoch = await sets.read("chat")
        for candidate, run in (("ansan", "r1"), ("anyang", "r2")):
            with pytest.raises(NotAllowed):
                begin(epoch, candidate, run, POLICY)
        _, permit = begin(epoch, "anyang", "r1", POLICY)
        await _use(store, permit)
        epoch = await sets.read("chat")
        assert epoch.begun
        _, permit = settle(epoch, done=True, synchronous=("dc-ansan",))
        await _use(store, permit)
        epoch = await sets.read("chat")
        assert (epoch.number, epoch.holder, epoch.settled, epoch.synchronous) == (
            1,
            "anyang",
            True,
            ("dc-ansan",),
        )

    _run(story())


def test_no_second_candidate_while_the_first_is_unknown() -> None:
    claimed, _ = _claim(Epoch("chat"))
    proved, _ = prove(claimed, "sync", POLICY)
    first, _ = begin(proved, "anyang", "r1", POLICY)
    for other in ({"candidate": "ansan"}, {"run": "r2"}, {"purpose": "protect"}):
        with pytest.raises(NotAllowed, match="the outcome of anyang"):
            _claim(first, **other)
    again, permit = _claim(first)
    assert again == first, "after a crash the same claim is the same epoch"
    assert permit.changes == ()
    for free in (claimed, proved, not_done(first)[0], settle(first, done=False)[0]):
        assert free.holder == "pangyo"
        second, _ = _claim(free, candidate="ansan")
        assert second.number == 2, "a number is never used twice"
        assert (second.rung, second.begun) == ("", False), "and a proof belongs to its epoch"
        with pytest.raises(NotAllowed, match="anyang did not claim"):
            begin(second, "anyang", "r1", POLICY)


def test_a_promotion_overtakes_a_change_of_the_set_and_what_was_seen_of_it() -> None:
    """The primary burns while it is not known whether its set of synchronous copies was changed."""
    claimed, _ = claim(Epoch("chat"), holder="pangyo", candidate="pangyo", purpose="protect", run="r1")
    begun, _ = begin(claimed, "pangyo", "r1", POLICY)
    promoted, permit = _claim(begun)
    assert (promoted.number, promoted.candidate, promoted.begun) == (2, "anyang", False)
    assert (promoted.holder, promoted.rung) == ("pangyo", ""), "it needs a fence of its own"
    assert promoted.changes == begun.changes + 1, "a late order may still change who confirms commits"
    assert permit.changes
    with pytest.raises(NotAllowed, match="the outcome of pangyo"):
        claim(begun, holder="pangyo", candidate="pangyo", purpose="protect", run="r2")


def test_a_claim_goes_above_every_epoch_that_members_have_obeyed() -> None:
    """A store that took the place of a lost one begins at nothing, and its members do not."""
    told = {"holder": "pangyo", "candidate": "anyang", "purpose": "promote", "run": "r1"}
    first, _ = claim(Epoch("chat"), **told, obeyed=7)  # type: ignore[arg-type]
    assert first.number == 8
    again, _ = claim(first, **told, obeyed=8)  # type: ignore[arg-type]
    assert again is first, "the members have obeyed this very claim"
    above, _ = claim(first, **told, obeyed=9)  # type: ignore[arg-type]
    assert above.number == 10, "what was claimed too low, before anybody could look, is claimed again"
    begun = replace(first, begun=True)
    assert claim(begun, **told, obeyed=9)[0] is begun  # type: ignore[arg-type]


def test_a_person_says_where_the_primary_is_when_a_run_ended_in_doubt() -> None:
    claimed, _ = _claim(Epoch("chat"))
    begun, _ = begin(prove(claimed, "sync", POLICY)[0], "anyang", "r1", POLICY)
    vouched, permit = vouch(begun, "ansan")
    assert (vouched.holder, vouched.settled, vouched.number) == ("ansan", True, 1)
    assert len(permit.changes) == 1
    with pytest.raises(NotAllowed, match="but it is ansan"):
        _claim(vouched, "anyang", "r2")  # of a plan that takes pangyo for the primary still
    assert claim(vouched, holder="ansan", candidate="anyang", purpose="promote", run="r2")[0].number == 2


def test_a_proof_needs_a_claim_to_promote() -> None:
    with pytest.raises(NotAllowed, match="no claimed epoch"):
        prove(Epoch("chat"), "sync", POLICY)
    protecting, _ = _claim(Epoch("chat"), purpose="protect")
    with pytest.raises(NotAllowed, match="no claimed epoch"):
        prove(protecting, "sync", POLICY)
    done, _ = settle(protecting, done=True, synchronous=("dc-ansan",))
    assert (done.holder, done.synchronous) == ("pangyo", ("dc-ansan",)), "protecting moves no primary"


def test_two_controllers_that_read_the_same_epoch_cannot_both_claim() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        sets = DataSets(store, "c1", LoopClock())
        seen = await sets.read("chat")
        _, one = _claim(seen, "anyang")
        _, other = _claim(seen, "ansan", "r2")
        await _use(store, one)
        with pytest.raises(Conflict):
            await _use(store, other)

    _run(story())


def test_what_cannot_be_read_lets_nobody_claim() -> None:
    good = encode(Epoch("chat", 3, "pangyo"))
    assert decode("chat", Entry("epoch/chat", good, 9)) == Epoch("chat", 3, "pangyo", revision=9)
    for value in (b"", b"{}", b"7", good.replace(b'"rung":""', b'"rung":"hope"')):
        with pytest.raises(NotAllowed, match="cannot read the epoch"):
            decode("chat", Entry("epoch/chat", value, 9))


def test_a_refusal_names_every_epoch_that_cannot_be_read() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        sets = DataSets(store, "c1", LoopClock())
        await store.transact((), [Put(key_of("blog"), encode(Epoch("blog", 3, "pangyo")))])
        (await sets.read_all()).refuse()
        await store.transact((), [Put(key_of("wiki"), b"{}"), Put(key_of("chat"), b"[]")])
        with pytest.raises(NotAllowed) as refused:
            (await sets.read_all()).refuse()
        assert refused.value.code == "epoch-unreadable"
        assert refused.value.message == "cannot read the epochs of chat, wiki, so none can be claimed"

    _run(story())


def test_a_long_promotion_keeps_its_lease_and_nobody_else_gets_it() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        mine, theirs = DataSets(store, "c1", LoopClock()), DataSets(store, "c2", LoopClock())
        async with mine.hold("chat", 200) as held:
            task = asyncio.ensure_future(held.during(asyncio.sleep(0.7, "promoted")))
            for _ in range(6):
                await asyncio.sleep(0.1)
                with pytest.raises(Retryable) as refused:
                    async with theirs.hold("chat", 200):
                        pass
                assert refused.value.code == "data-set-held"
            assert await task == "promoted"
        async with theirs.hold("chat", 200) as held:
            assert held.lease.owner == "c2"

    _run(story())


class _Deaf(MemoryStore):
    """A store that stops to answer renewals."""

    deaf = False

    async def renew(self, lease: Lease) -> None:
        if self.deaf:
            raise Unavailable("no majority")
        await super().renew(lease)


def test_work_is_stopped_before_a_lease_that_cannot_be_renewed_ends() -> None:
    async def story() -> None:
        store, clock = _Deaf(LOOP_MS), LoopClock()
        began_ms = clock.monotonic_ms()
        stopped: list[int] = []

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append(clock.monotonic_ms() - began_ms)

        async with DataSets(store, "c1", clock).hold("chat", 400) as held:
            store.deaf = True
            with pytest.raises(LeaseLost):
                await held.during(work())
            assert stopped
            assert 300 <= stopped[0] < 400
            assert await store.holder("store/chat") is not None, "the lease still stood when the work stopped"

    _run(story())


def test_work_is_stopped_when_the_lease_is_taken_away() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        async with DataSets(store, "c1", LoopClock()).hold("chat", 400) as held:
            store._end("store/chat")
            with pytest.raises(LeaseLost):
                await held.during(asyncio.sleep(60))

    _run(story())


def test_an_error_of_the_work_comes_through() -> None:
    async def fail() -> None:
        raise Conflict("x")

    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        async with DataSets(store, "c1", LoopClock()).hold("chat", 400) as held:
            with pytest.raises(Conflict):
                await held.during(fail())
        assert await store.holder("store/chat") is None

    _run(story())


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["claim", "prove", "begin", "settle", "absent", "fail"]),
        st.sampled_from(["anyang", "ansan"]),
        st.sampled_from(["r1", "r2"]),
    ),
    max_size=25,
)


@given(MOVES)
@settings(max_examples=300, deadline=None)
def test_whatever_the_order_promotions_are_fenced_and_one_at_a_time(
    moves: list[tuple[str, str, str]],
) -> None:
    """Between two promotions of different candidates, of any two runs, the first was settled."""
    epoch = Epoch("chat")
    open_candidate = ""
    numbers: list[int] = []
    for move, candidate, run in moves:
        try:
            if move == "claim":
                epoch, _ = _claim(epoch, candidate, run)
                numbers.append(epoch.number)
            elif move == "prove":
                epoch, _ = prove(epoch, "sync", POLICY)
            elif move == "begin":
                epoch, _ = begin(epoch, candidate, run, POLICY)
                assert epoch.rung == "sync"
                assert open_candidate in ("", candidate)
                open_candidate = candidate
            elif move == "absent":
                epoch, _ = not_done(epoch)
                open_candidate = ""
            else:
                epoch, _ = settle(epoch, done=move == "settle")
                open_candidate = ""
        except NotAllowed:
            continue
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("rung", ["network", "attest"])
def test_a_run_whose_candidate_burnt_goes_on_with_another_under_the_next_epoch(rung: str) -> None:
    policy = StorePolicy("chat", proofs=("sync", "network", "attest"))
    proved, _ = prove(_claim(Epoch("chat"))[0], rung, policy)
    after, permit = begin(proved, "ansan", "r1", policy)
    assert (after.candidate, after.number, after.rung, after.begun) == ("ansan", 2, rung, True)
    assert len(permit.changes) == 1
    with pytest.raises(NotAllowed, match="did not claim"):
        begin(proved, "ansan", "r2", policy)
    begun, _ = begin(proved, "anyang", "r1", policy)
    with pytest.raises(NotAllowed, match="the outcome of anyang"):
        begin(begun, "ansan", "r1", policy)


def test_a_proof_for_one_candidate_serves_no_other() -> None:
    proved, _ = prove(_claim(Epoch("chat"))[0], "sync", POLICY)
    with pytest.raises(NotAllowed, match="did not claim"):
        begin(proved, "ansan", "r1", POLICY)


def test_a_person_who_vouches_for_the_candidate_in_doubt_lets_another_claim() -> None:
    begun, _ = begin(prove(_claim(Epoch("chat"))[0], "sync", POLICY)[0], "anyang", "r1", POLICY)
    for words in ("", "pangyo", "anyangs"):
        with pytest.raises(NotAllowed, match="--seen fenced=anyang"):
            claim(begun, holder="pangyo", candidate="ansan", purpose="promote", run="r1", fenced=words)
    after, _ = claim(
        begun, holder="pangyo", candidate="ansan", purpose="promote", run="r1", fenced="pangyo, anyang"
    )
    assert (after.candidate, after.number, after.begun, after.rung) == ("ansan", 2, False, "")


def test_a_lease_lingers_for_the_next_step_of_the_same_store_and_is_given_back() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        mine, theirs = (DataSets(store, owner, LoopClock(), linger_ms=20) for owner in ("c1", "c2"))
        async with mine.hold("chat", 5_000) as held:
            first = held.lease
        async with mine.hold("chat", 5_000) as held:
            assert held.lease is first
            await asyncio.sleep(0.05)
            with pytest.raises(Retryable, match="c1"):
                async with theirs.hold("chat", 5_000):
                    pass
        await asyncio.sleep(0.05)
        async with theirs.hold("chat", 5_000) as held:
            assert held.lease.token > first.token
        await theirs.close()
        async with mine.hold("chat", 5_000):
            pass
        await mine.close()

    _run(story())
