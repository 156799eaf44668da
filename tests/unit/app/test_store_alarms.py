"""A primary that is silent while its site lives: told as soon as it may be believed, and never invented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac import estate as estates
from evac.app.store_alarms import StoreAlarmChore, StoreAlarms, rivals_still, without_primary
from evac.engine.lead.watch_journal import Notice
from evac.model.estate import Estate
from evac.model.observation import MemberSeen, Observation, Role
from evac.model.situation import Rivals, Silent
from evac.notices.rule import of_silent
from evac.store.port import Lease
from evac.views.situation_view import rivals_words, silent_hint, silent_words
from evac.watch.verdict import SiteState
from tests.unit.virtual_time import LoopClock, run_virtually

ESTATE = """evac: 1
sites: {east: {}, west: {}}
halls: {west/hall-1: {}}
services:
  front: {people: 4000000, replicas: {east: 1, west: 1}, needs: [{service: shop}]}
  shop: {people: 2000000, replicas: {east: 1, west: 1}, needs: [{store: orders}]}
  blog: {people: 7, replicas: {east: 1}, needs: [{store: orders, hard: false}]}
stores:
  orders:
    engine: postgresql
    members: [{at: west/hall-1, mode: primary}, {at: east, mode: sync}]
"""
BELIEVED_MS = 1_500


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    path: Path = tmp_path_factory.mktemp("silent") / "estate.yaml"
    path.write_text(ESTATE)
    return estates.load(path)


def look(west: Role = "unreachable", east: Role = "sync", at_ms: int = 1) -> Observation:
    return Observation(at_ms, (MemberSeen("orders", "east", east), MemberSeen("orders", "west", west)))


def silent(
    alarms: StoreAlarms,
    estate: Estate,
    now: Observation,
    at_ms: int,
    state: SiteState = "healthy",
    known: tuple[Silent, ...] = (),
    moving: tuple[str, ...] = (),
    homes: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Silent, ...]:
    return alarms.silent(estate, now, known, moving, {"west": state}, at_ms, BELIEVED_MS, homes)


ROLES: tuple[Role, ...] = ("primary", "unreachable", "none", "replica", "detached", "sync")


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.sampled_from(ROLES)), min_size=1, max_size=8))
def test_two_writable_members_are_over_only_once_one_of_them_says_that_it_does_not_write(
    looks: list[tuple[Role, Role]],
) -> None:
    """Whoever leads meanwhile: what was told once is not taken back because a member fell silent."""
    alarms, told, both = StoreAlarms(), tuple[Rivals, ...](), 0
    for at_ms, roles in enumerate(looks, 1):
        was_told, both = bool(told), both + 1 if roles == ("primary", "primary") else 0
        now = look(*roles, at_ms=at_ms)
        told = alarms.rivals(now, told)
        known = rivals_still(told, now)
        assert known == told or both == 1, "what commands say without a leader is the same"
        assert bool(told) == (both > 1 or (was_told and set(roles) <= {"primary", "unreachable"}))
        silent = tuple(
            sorted(s for s, role in zip(("west", "east"), roles, strict=True) if role != "primary")
        )
        assert not told or (told[0].unheard == silent and told[0].since_ms <= at_ms)
        assert not told or ("answer now" in rivals_words(told[0])) == bool(silent)
        if was_told:
            alarms = StoreAlarms()


def test_people_whom_nobody_states_are_not_nobody(estate: Estate) -> None:
    """Of two services one states nothing: what is known is the least; of none known it is unknown."""
    for unstated, said in (
        ({"front"}, "at least 2 million users"),
        ({"front", "shop"}, "an unknown number of users"),
    ):
        services = tuple(replace(s, people=None if s.id in unstated else s.people) for s in estate.services)
        alarms, changed = StoreAlarms(), replace(estate, services=services)
        silent(alarms, changed, look(), 0)
        (found,) = silent(alarms, changed, look(at_ms=9), BELIEVED_MS)
        assert found.unstated == len(unstated)
        assert silent_words(found).endswith(f": 2 services cannot serve, {said}")


def test_it_names_the_place_who_is_without_service_and_what_to_do(estate: Estate) -> None:
    alarms = StoreAlarms()
    assert not silent(alarms, estate, look(), 0), "one look may have met a restart"
    (found,) = silent(alarms, estate, look(at_ms=9), BELIEVED_MS)
    assert found == Silent("orders", "west", "west/hall-1", 1, 2, 6_000_000, True), "since the first look"
    assert silent_words(found) == (
        "the primary of orders in west does not answer, although west does: 2 services cannot serve, "
        "6 million users"
    )
    assert "evac plan ESTATE --lose west/hall-1" in silent_hint(found)
    (concern,) = of_silent([("orders", silent_words(found), silent_hint(found))])
    assert (concern.severity, concern.patience_ms) == ("critical", 0)


@pytest.mark.parametrize(
    "now",
    [
        look("primary"),
        look(east="primary"),
        look("none", "primary"),
        replace(look(), members=(replace(look().members[1], error=("password", "refused", "")),)),
        Observation(1),
    ],
)
def test_one_that_answers_and_a_store_with_another_primary_are_not_silent(
    estate: Estate, now: Observation
) -> None:
    alarms = StoreAlarms()
    for at_ms in range(0, 10 * BELIEVED_MS, BELIEVED_MS):
        assert not silent(alarms, estate, now, at_ms)


def test_a_primary_without_a_free_connection_is_alive(estate: Estate) -> None:
    """Too many connections, or it is starting: an alarm, but never a reason to give the site up."""
    (west,) = (one for one in look().members if one.site == "west")
    busy = replace(west, error=("postgres-busy", "too many clients", ""), busy=True)
    now, alarms = replace(look(), members=(look().members[0], busy)), StoreAlarms()
    assert not silent(alarms, estate, now, 0)
    (found,) = silent(alarms, estate, now, BELIEVED_MS)
    assert silent_words(found).startswith(
        "the primary of orders in west is alive, but accepts no connections: 2 services cannot serve"
    )
    assert "--lose" not in silent_hint(found)


@pytest.mark.parametrize("role", ["none", "detached", "sync"])
@pytest.mark.parametrize("certain", [True, False])
def test_a_primary_that_answers_as_something_else_is_told_and_so_is_its_return(
    estate: Estate, role: Role, certain: bool
) -> None:
    """It restarted and came up read-only: no one can write. certain: its old role is still believed."""
    alarms = StoreAlarms()
    at = next(store.primary.at for store in estate.stores if store.id == "orders" and store.primary)
    now = estate
    if not certain:
        members = tuple(
            replace(m, mode="async") for s in estate.stores for m in s.members if s.id == "orders"
        )
        now = replace(
            estate,
            stores=tuple(replace(s, members=members) if s.id == "orders" else s for s in estate.stores),
        )
    homes = {"orders": at}
    assert not silent(alarms, now, look(role), 0, homes=homes)
    (found,) = silent(alarms, now, look(role, at_ms=9), BELIEVED_MS, homes=homes)
    assert (found.store, found.role, found.services) == ("orders", role, 2)
    assert silent_words(found).startswith(
        "no member of orders accepts writes: its primary in west answers as"
    )
    assert "make it writable again" in silent_hint(found)
    assert not silent(alarms, now, look("primary"), 2 * BELIEVED_MS, homes=homes)
    assert without_primary(now, look(role, "sync")) == ("orders",)
    assert without_primary(now, look(role, "unreachable")) == without_primary(now, look("primary")) == ()
    assert without_primary(now, replace(look(role), members=look(role).members[:1])) == ()


def test_what_a_run_or_the_loss_of_the_site_explains_is_no_alarm_of_its_own(estate: Estate) -> None:
    alarms = StoreAlarms()
    for at_ms in range(0, 10 * BELIEVED_MS, BELIEVED_MS):
        assert not silent(alarms, estate, look(), at_ms, moving=("orders",))
        assert not silent(alarms, estate, look(), at_ms, state="lost")
        assert not silent(alarms, replace(estate, lost=("west/hall-1",)), look(), at_ms)


def test_a_site_that_may_be_lost_is_judged_first(estate: Estate) -> None:
    alarms = StoreAlarms()
    assert not silent(alarms, estate, look(), 0, state="suspect")
    assert not silent(alarms, estate, look(), BELIEVED_MS, state="suspect")
    (found,) = silent(alarms, estate, look(), 2 * BELIEVED_MS, state="suspect")
    assert not found.answers
    assert "although" not in silent_words(found)


def test_whoever_takes_over_goes_on_from_what_was_published(estate: Estate) -> None:
    known = (Silent("orders", "west", "west/hall-1", 5),)
    (found,) = silent(StoreAlarms(), estate, look(at_ms=900), 70, known=known)
    assert found.since_ms == 5


@given(st.lists(st.tuples(st.integers(1, 2_000), st.booleans()), min_size=1, max_size=30))
def test_it_is_told_exactly_while_every_look_of_that_time_found_silence(
    estate: Estate, looks: list[tuple[int, bool]]
) -> None:
    alarms, at_ms, since_ms = StoreAlarms(), 0, None
    for step_ms, answers in looks:
        at_ms += step_ms
        since_ms = None if answers else at_ms if since_ms is None else since_ms
        found = silent(alarms, estate, look("primary" if answers else "unreachable"), at_ms)
        assert bool(found) == (since_ms is not None and at_ms - since_ms >= BELIEVED_MS)


def test_the_journal_has_its_begin_and_its_end_once(estate: Estate) -> None:
    async def story() -> list[Notice]:
        told: list[Notice] = []
        now = [Observation(1, silent=(Silent("orders", "west", "west", 1, 2, 30, True),))]
        chore = StoreAlarmChore(lambda: now[0], lambda guard: now[0], LoopClock(), told.append)
        guard = Lease("leader", "me", 1, 1_000)
        await chore.chore(guard)
        await chore.chore(guard)
        now[0] = Observation(2, members=(MemberSeen("orders", "west", "primary"),))
        await chore.chore(guard)
        await chore.chore(guard)
        return told

    begins, ends = run_virtually(story())
    assert begins.data["code"] == ends.data["code"] == "primary-silent"
    assert "although west does: 2 services cannot serve" in begins.words
    assert "evac plan ESTATE --lose west" in begins.words
    assert "answers again" in ends.words


@pytest.mark.parametrize(
    ("now", "code", "words"),
    [
        (("west", "primary"), "primary-silent", "orders: its primary answers again"),
        (("east", "primary"), "primary-silent", "orders: it has a primary again"),
        (("west", "primary"), "no-primary", "orders: it has a primary again"),
        (("west", "unreachable"), "primary-silent", "orders: still no primary; west is lost or evacuated"),
        (("west", "sync"), "no-primary", "orders: still no primary; west is lost or evacuated"),
        (("west", "primary"), "primary-busy", "orders: its primary accepts connections again"),
        (("west", "unreachable"), "primary-busy", "orders: still no primary; west is lost or evacuated"),
    ],
)
def test_the_end_of_an_alarm_says_what_is_seen_now(now: tuple[str, Role], code: str, words: str) -> None:
    """An approved run takes over what was reported; that does not make the burnt primary answer. What is
    known keeps the role of a silent member, so only what the members themselves answer counts.
    """

    async def story() -> tuple[int, Notice]:
        told: list[Notice] = []
        role = {"no-primary": "sync", "primary-busy": "busy"}.get(code, "")
        seen = [Observation(1, silent=(Silent("orders", "west", "west", 1, 2, 30, True, role=role),))]
        looked: list[Observation | None] = [None]
        chore = StoreAlarmChore(lambda: seen[0], lambda guard: looked[0], LoopClock(), told.append)
        await chore.chore(Lease("leader", "me", 1, 1_000))
        seen[0] = Observation(2, members=(MemberSeen("orders", "west", "primary"),))
        await chore.chore(Lease("leader", "me", 2, 1_000))
        before = len(told)
        looked[0] = Observation(2, members=(MemberSeen("orders", *now),))
        await chore.chore(Lease("leader", "me", 2, 1_000))
        return before, told[-1]

    before, end = run_virtually(story())
    assert before == 1, "a new leader asks first"
    assert (end.data["code"], end.data["sites"]) == (code, [])
    assert end.words.startswith(words)
