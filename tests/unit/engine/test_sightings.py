"""The most that can be lost, from what was seen: up to when a copy holds everything, and how old that is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from evac.app.runs import losses_of
from evac.drivers.port import Action
from evac.engine.stores.sightings import (
    Following,
    LossGuard,
    Sighting,
    again,
    decode_sighting,
    loss_of,
    sighted,
    still,
    within,
)
from evac.model.errors import NotAllowed, Retryable
from evac.model.observation import MemberSeen
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.run.data_loss import Loss, as_known, labels_of, later, loss_in
from evac.run.state import apply
from evac.run.values import ENDED, Event, RunSpec, RunStep
from evac.run.view import RunView
from evac.store.port import MemoryStore
from tests.unit.run.world import World

ASYNC = RunPolicy(stores={"db": StorePolicy("db", async_promotion="allow", most_lost_ms=10_000)})


def look(primary: int, copy: int | None, history: str = "1", site: str = "pangyo") -> list[MemberSeen]:
    role = "async" if copy is not None else "unreachable"
    return [
        MemberSeen("db", "ansan", role, position=copy, history=history if copy is not None else ""),
        MemberSeen("db", site, "primary", position=primary, history=history),
    ]


def seen(*looks: tuple[int, int, int | None]) -> Sighting:
    """(when, position of the primary, of the copy)."""
    found: Sighting | None = None
    for at_ms, primary, copy in looks:
        found = sighted(found, "db", look(primary, copy), at_ms)
    assert found is not None
    return found


def loss(sighting: Sighting | None, until_ms: int, declared_ms: int | None = 1_000) -> Loss:
    return loss_of("db", "pangyo", "ansan", "async", declared_ms, sighting, until_ms)


@pytest.mark.parametrize(
    ("looks", "most_ms"),
    [
        (((1_000, 50, 50),), 9_000),
        (((1_000, 50, 50), (3_000, 90, 60)), 9_000),  # it holds what was written at the first look
        (((1_000, 50, 20), (3_000, 90, 50)), 9_000),
        (((1_000, 50, 50), (3_000, 90, 90)), 7_000),
        (((1_000, 50, 50), (3_000, 90, None)), 9_000),  # it does not answer: what it held, it holds
        (((1_000, 50, 50), (3_000, 90, 40)), 9_000),  # a copy never holds less than it held
    ],
)
def test_what_a_copy_held_at_a_look_is_not_lost(
    looks: tuple[tuple[int, int, int | None], ...], most_ms: int
) -> None:
    found = loss(seen(*looks), 10_000)
    assert (found.most_ms, found.basis) == (most_ms, "seen")
    assert found.most_ms == 10_000 - found.seen_ms + found.behind_ms


def test_without_a_primary_the_last_look_stands_and_grows_old() -> None:
    before = seen((1_000, 50, 50))
    gone = [MemberSeen("db", "pangyo", "unreachable"), MemberSeen("db", "ansan", "async", position=50)]
    assert sighted(before, "db", gone, 9_000) is before
    two = [*look(50, None), MemberSeen("db", "anyang", "primary", position=99, history="2")]
    assert sighted(before, "db", two, 9_000) is before


def test_another_history_proves_nothing() -> None:
    before = seen((1_000, 50, 50))
    after = sighted(before, "db", look(60, 60, "2", "anyang"), 2_000)
    assert after is not None
    assert (after.primary, after.marks) == ("anyang", ((2_000, 60),))
    stale = sighted(
        None, "db", [*look(60, None), MemberSeen("db", "ansan", "async", position=99, history="0")], 5
    )
    assert stale is not None
    assert stale.copies == ()


def test_the_declared_lag_counts_only_where_nothing_was_ever_seen() -> None:
    assert loss(None, 9_000).basis == "declared"
    assert (loss(None, 9_000).most_ms, loss(None, 9_000, None).basis) == (1_000, "unknown")
    never = sighted(None, "db", look(50, None), 1_000)
    assert "declared in the estate" in loss(never, 9_000).words
    behind = seen((1_000, 50, 20))
    assert (loss(behind, 9_000).most_ms, loss(behind, 9_000).basis) == (None, "unknown")
    assert loss(behind, 9_000).words.endswith("the last observation does not show how far it is behind")
    assert loss(None, 9_000, None).words.endswith("never measured and not declared")


def test_nobody_knows_what_is_lost_of_a_primary_that_burnt_before_it_was_seen() -> None:
    found = loss_of("db", "anyang", "ansan", "async", 1_000, seen((1_000, 50, 50)), 9_000)
    assert (found.most_ms, found.basis) == (None, "unknown")
    declared = loss(None, 9_000)
    moved = replace(seen((1_000, 50, 50)), primary="anyang")
    assert again(declared, moved, 9_500) == replace(declared, until_ms=9_500), (
        "of the old one nothing was seen"
    )


def test_a_clock_that_went_back_makes_nothing_small() -> None:
    assert loss(seen((5_000, 50, 50)), 4_000).most_ms is None


def test_a_synchronous_copy_loses_nothing_and_says_why() -> None:
    found = loss_of("db", "pangyo", "ansan", "sync", None, None, 5)
    assert (found.most_ms, found.words) == (0, "nothing: it confirms every commit")


def test_whoever_leads_next_goes_on_from_what_was_written() -> None:
    first = seen((1_000, 50, 50))
    read = decode_sighting("db", first.encode())
    assert read == first
    second = sighted(read, "db", look(70, 55), 3_000)
    assert second is not None
    assert second.copies[0].holds_ms == 1_000
    for value in (b"", b"{}", b'{"primary": 1}'):
        with pytest.raises(NotAllowed):
            decode_sighting("db", value)


def test_a_loss_is_kept_with_its_run_and_grows_until_the_fence() -> None:
    known = loss(seen((1_000, 50, 50)), 4_000)
    assert loss_in(known.label()) == known
    assert again(known, seen((2_000, 60, 60)), 9_000).most_ms == 7_000, "it was seen once more"
    assert again(known, None, 9_000).most_ms == 8_000
    moved = sighted(None, "db", look(99, 99, "2", "ansan"), 8_000)
    assert again(known, moved, 9_000).most_ms == 8_000, "the new primary says nothing of the old one"
    assert later(known, 2_000).most_ms == 1_000
    with pytest.raises(NotAllowed):
        loss_in("{}")


def written(at_ms: int, token: int, kept: tuple[int, int] = (0, 0)) -> Sighting:
    return replace(seen((at_ms, at_ms, at_ms)), token=token, kept=kept)


def read_at(following: Following, at_ms: int, found: Sighting, before_ms: int | None) -> int:
    """How old the newest look is that is known, when it is read."""
    following.read(found, before_ms)
    assert following.known is not None
    return at_ms - following.known.at_ms


@pytest.mark.parametrize("ahead_ms", [3_600_000, -7_200_000, 0])
def test_a_look_ages_by_the_clock_of_its_reader_whatever_clock_its_writer_has(ahead_ms: int) -> None:
    """Looks begin at 10 s, 12 s, ... and are written 0.3 s later; a reader looks each half second."""
    reader, ages = Following(), {}
    looks = {10_300: (10_000, 0), 12_300: (12_000, 10_000), 14_300: (14_000, 12_000)}
    found: Sighting | None = None
    for now_ms in range(9_900, 16_000, 100):
        if now_ms in looks:
            at_ms, last_ms = (one + ahead_ms for one in looks[now_ms])
            found = written(at_ms, 1, (last_ms, last_ms + 310) if now_ms > 11_000 else (0, 0))
        if found is not None and now_ms % 500 == 0:
            ages[now_ms] = read_at(reader, now_ms, found, now_ms - 500)
    assert ages[12_500] in range(500, 500 + 600), "what was said of the first look dates the second"
    assert ages[14_500] in range(500, 500 + 600)
    assert ages[15_500] == ages[14_500] + 1_000, "and it grows old"
    known = reader.known
    assert known is not None
    assert loss(known, 16_000).most_ms in range(2_000, 2_000 + 600)


def test_the_first_look_of_another_writer_is_not_believed_before_its_second() -> None:
    reader = Following()
    own = written(5_000, 1)
    reader.wrote(own)
    assert read_at(reader, 8_000, written(3_607_500, 2), 7_800) == 3_000, "its own look stands"
    second = written(3_609_500, 2, (3_607_500, 3_607_900))
    assert read_at(reader, 10_000, second, 9_800) in range(500, 500 + 600)
    assert read_at(reader, 10_500, replace(own, at_ms=4_000), 10_000) in range(1_000, 7_000)


def test_who_knows_nothing_older_takes_the_date_of_the_writer_but_none_to_come() -> None:
    assert read_at(Following(), 9_000, written(6_000, 1), None) == 3_000
    assert read_at(Following(), 9_000, written(3_600_000, 1), 8_500) == 500
    assert loss(written(3_600_000, 1), 9_000).most_ms is None, "else it proves nothing"


def test_a_look_of_which_nobody_knows_when_it_was_written_dates_nothing() -> None:
    reader = Following()
    reader.wrote(written(5_000, 1))
    reader.read(written(607_000, 2), 7_500)
    assert read_at(reader, 12_000, written(611_000, 2, (609_000, 609_500)), 11_500) == 7_000
    assert read_at(reader, 14_000, written(613_000, 2), 13_500) == 9_000


def test_a_primary_that_is_seen_after_its_end_goes_on_until_now() -> None:
    known = loss(seen((1_000, 50, 50)), 4_000)
    joined_again = seen((1_000, 50, 50), (6_000, 90, 80))
    assert again(known, joined_again, 4_000).basis == "unknown"
    assert still(known, joined_again, 4_000, 7_500).most_ms == 6_500
    assert still(known, seen((1_000, 50, 50)), 4_000, 7_500).most_ms == 3_000
    assert still(known, joined_again, 4_000, 5_000).basis == "unknown", "a clock that went back"


def guarded(known: Loss, fenced_at_ms: int | None, *, gate: str = "", opened: bool = False) -> LossGuard:
    steps = (
        RunStep("fence:db", "fence", "db", 0, 1, data_set="db"),
        RunStep("promote:db", "promote", "db", 1, 1, after=("fence:db",), data_set="db", gate=gate),
    )
    view = RunView(RunSpec("r", "i", "p", steps, approvals=0, labels=labels_of({"db": known})))
    events = [
        Event("run_created", 1, data={"incident": "i", "plan": "p", "scenario": "", "token": 1}),
        Event("run_started", 1, data={}),
    ]
    if fenced_at_ms is not None:
        events.append(Event("step_started", 2, "fence:db", 1, {"token": 1, "epoch": 1, "deadline_ms": 9}))
        events.append(Event("step_succeeded", fenced_at_ms, "fence:db", 1, {}))
    if opened:
        events.append(Event("gate_opened", 3, "promote:db", 0, {"who": "kim", "reason": "seen"}))
    for event in events:
        apply(view, event)
    return LossGuard(lambda: view, lambda: ASYNC, as_known, lambda: 99_000)


PROMOTE = Action("promote", "db", "postgres", "ansan", {}, {"proof": "attest"})


def test_a_promotion_waits_for_a_person_where_more_would_be_lost_than_policy_allows() -> None:
    known = loss(seen((1_000, 50, 50)), 4_000)
    step = RunStep("promote:db", "promote", "db", 1, 1, data_set="db")
    guarded(known, 11_000)(step, (PROMOTE,))
    for late in (guarded(known, 11_001), guarded(known, None), guarded(loss(None, 9, None), 2_000)):
        with pytest.raises(Retryable, match="it would lose") as refused:
            late(step, (PROMOTE,))
        assert "evac approve r --step promote:db" in refused.value.hint
    guarded(known, 90_000, opened=True)(step, (PROMOTE,))
    orderly = Action("promote", "db", "postgres", "ansan", {}, {"proof": "demote"})
    guarded(known, 90_000)(step, (orderly,))


def test_policy_that_asks_lets_nothing_go_by_itself_that_loses_anything() -> None:
    found = loss(seen((1_000, 50, 50)), 1_001)
    assert not within(found, RunPolicy())
    assert within(found, ASYNC)
    assert within(later(found, 1_000), RunPolicy())


def test_a_run_that_ended_before_it_promoted_anything_lost_nothing() -> None:
    steps = (
        RunStep("fence:db", "fence", "db", 0, 1, data_set="db"),
        RunStep("promote:db", "promote", "db", 1, 1, ("fence:db",), data_set="db"),
    )
    known = labels_of({"db": loss(seen((1_000, 50, 50)), 4_000)})
    spec = RunSpec("r", "i", "p", steps, approvals=0, labels=known)

    async def lost(view: RunView) -> list[str]:
        return [one.store for one in await losses_of(MemoryStore(), view, 9_000)]

    world = World(spec)
    world.begin()
    assert asyncio.run(lost(world.view)) == ["db"]
    world.say("cancelled", who="kim", reason="a drill")
    assert world.finish() == "cancelled"
    assert asyncio.run(lost(world.view)) == []
    world = World(spec)
    world.begin()
    assert world.finish() in ENDED
    assert asyncio.run(lost(world.view)) == ["db"]
