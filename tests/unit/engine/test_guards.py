"""Forbidden states: refused whoever asks, refused where the guard cannot be evaluated, and never raced
past.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import orjson
import pytest

from evac.drivers.port import Action, Verb
from evac.engine.stores.guards import Guards, Permit, check_mode, ensure_register, read_register
from evac.model.errors import Conflict, NotAllowed, Retryable
from evac.model.run_policy import Window
from evac.store.port import Compare, MemoryStore, Put

SITES = ("anyang", "ansan", "pangyo")
POOLED = {"chat": ("pangyo",), "search": ("anyang", "pangyo")}
NOW_MS = 1_764_000_000_000


class _Clock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_ms(self) -> int:
        return 0


def _run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


async def _world() -> tuple[MemoryStore, Guards]:
    store = MemoryStore()
    await _use(store, await ensure_register(store, SITES))
    return store, Guards(store, _Clock(), ("anyang", "pangyo"), POOLED)


async def _use(store: MemoryStore, permit: Permit) -> None:
    await store.transact(permit.compares, permit.changes)


def _act(verb: Verb, target: str = "chat", at: str = "anyang", **parameters: str) -> Action:
    return Action(verb, target, "haproxy", at, {}, parameters)


def _steps(*actions: Action) -> Sequence[tuple[str, Sequence[Action]]]:
    return [(action.at, (action,)) for action in actions]


def assert_refused(code: str) -> Any:
    return pytest.raises((NotAllowed, Retryable), check=lambda error: error.code == code)


@pytest.mark.parametrize(
    ("mode", "quorum", "voters", "allowed"),
    [
        ("advise", False, 1, True),
        ("hold", True, 3, True),
        ("act", True, 5, True),
        ("hold", False, 3, False),
        ("act", False, 3, False),
        ("act", True, 2, False),
        ("hold", True, 2, False),
    ],
)
def test_modes_that_act_need_a_quorum_in_three_sites(
    mode: Any, quorum: bool, voters: int, allowed: bool
) -> None:
    if allowed:
        check_mode(mode, quorum, voters)
    else:
        with pytest.raises(NotAllowed):
            check_mode(mode, quorum, voters)


def test_the_register_is_made_once_and_keeps_what_it_knows() -> None:
    async def story() -> None:
        store, guards = await _world()
        await _use(store, await guards.may_leave(["pangyo"], "lost"))
        assert await ensure_register(store, SITES) == Permit()
        await _use(store, await ensure_register(store, (*SITES, "sejong")))
        assert await read_register(store) == {
            "anyang": "active",
            "ansan": "active",
            "pangyo": "lost",
            "sejong": "active",
        }

    _run(story())


def test_a_second_site_needs_both_names_and_the_last_one_is_never_left() -> None:
    async def story() -> None:
        store, guards = await _world()
        await _use(store, await guards.may_leave(["pangyo"], "evacuating"))
        with assert_refused("site-left"):
            await guards.may_leave(["pangyo"], "lost", typed=["pangyo"])
        for typed in ([], ["ansan"], ["pangyo"]):
            with assert_refused("second-site"):
                await guards.may_leave(["ansan"], "lost", typed)
        with assert_refused("every-site"):
            await guards.may_leave(["anyang"], "lost", ["anyang", "pangyo"])
        await _use(store, await guards.may_leave(["ansan"], "lost", ["pangyo", "ansan"]))
        assert await read_register(store) == {"anyang": "active", "ansan": "lost", "pangyo": "evacuating"}

    _run(story())


def test_all_sites_at_once_and_unknown_ones_are_refused() -> None:
    async def story() -> None:
        _, guards = await _world()
        with assert_refused("every-site"):
            await guards.may_leave(["anyang", "pangyo"], "lost", SITES)
        with assert_refused("second-site"):
            await guards.may_leave(["ansan", "pangyo"], "lost")
        with assert_refused("site-left"):
            await guards.may_leave(["busan"], "lost", ["busan"])
        with assert_refused("site-unknown"):
            await guards.may_mark(["busan"], "active")

    _run(story())


def test_two_permits_of_one_moment_cannot_both_be_used() -> None:
    async def story() -> None:
        store, guards = await _world()
        first = await guards.may_leave(["pangyo"], "lost")
        second = await guards.may_leave(["anyang"], "lost")
        await _use(store, first)
        with pytest.raises(Conflict):
            await _use(store, second)
        assert (await read_register(store))["anyang"] == "active"

    _run(story())


def test_what_cannot_be_evaluated_is_refused() -> None:
    async def story() -> None:
        store, guards = await _world()
        for value in (b"not json", b"[]", b'{"pangyo": "gone"}', b'{"pangyo": ["active"]}'):
            await store.transact((), [Put("sites", value)])
            with assert_refused("guard-unreadable"):
                await guards.may_leave(["pangyo"], "lost", SITES)
        empty = Guards(MemoryStore(), _Clock(), SITES, POOLED)
        with assert_refused("register-missing"):
            await empty.may_leave(["pangyo"], "lost")
        with assert_refused("register-missing"):
            await empty.may_act(_steps(_act("shift", to="anyang")), ())

    _run(story())


def test_hold_stops_everything_and_comes_between_check_and_effect() -> None:
    async def story() -> None:
        store, guards = await _world()
        permit = await guards.may_act(_steps(_act("verify")), ())
        await store.transact((), [Put("hold", orjson.dumps({"who": "kim", "reason": "drill", "at_ms": 1}))])
        with pytest.raises(Conflict):
            await _use(store, permit)
        with pytest.raises(Retryable, match="kim put everything on hold: drill"):
            await guards.may_act(_steps(_act("verify")), ())
        await store.transact((), [Put("hold", b"broken")])
        with pytest.raises(Retryable, match="somebody put everything on hold: it cannot be read"):
            await guards.may_act(_steps(_act("verify")), ())

    _run(story())


def test_maintenance_holds_on_its_sites_and_while_it_lasts() -> None:
    async def story() -> None:
        windows = (
            Window(NOW_MS - 1, NOW_MS + 5_000, ("anyang",), "new switches"),
            Window(NOW_MS - 9, NOW_MS, ("ansan",), "over"),
        )
        _, guards = await _world()
        await guards.may_act(_steps(_act("verify", at="ansan")), windows)
        with pytest.raises(Retryable, match="new switches") as held:
            await guards.may_act(_steps(_act("verify", at="anyang")), windows)
        assert held.value.after_ms == 5_000
        with assert_refused("maintenance"):
            await guards.may_act([("", ())], (Window(NOW_MS, NOW_MS + 1),))

    _run(story())


def test_a_service_is_never_pooled_nowhere() -> None:
    async def story() -> None:
        store, guards = await _world()
        with assert_refused("pooled-nowhere"):
            await guards.may_act(_steps(_act("drain", site="pangyo")), ())
        with assert_refused("pooled-nowhere"):
            await guards.may_act(
                _steps(_act("drain", "search", site="anyang"), _act("drain", "search", site="pangyo")), ()
            )
        with assert_refused("pooled-nowhere"):
            await guards.may_act(_steps(_act("drain", "unheard-of", site="pangyo")), ())
        with assert_refused("pooled-nowhere"):
            await guards.may_act(_steps(_act("shift", to="anyang", away="anyang,pangyo")), ())
        moved = _steps(_act("ready", site="anyang"), _act("drain", site="pangyo"))
        await _use(store, await guards.may_act(moved, ()))
        entry = await store.get("pooled")
        assert entry is not None
        assert orjson.loads(entry.value) == {"chat": ["anyang"]}

    _run(story())


def test_traffic_never_goes_to_a_site_that_is_left() -> None:
    async def story() -> None:
        store, guards = await _world()
        await _use(store, await guards.may_leave(["pangyo"], "lost"))
        for action in (
            _act("shift", to="pangyo", away="anyang"),
            _act("ready", site="pangyo"),
            _act("drain", "search", site="anyang"),
            _act("shift", to="", away=""),
        ):
            with pytest.raises(NotAllowed):
                await guards.may_act(_steps(action), ())
        await _use(store, await guards.may_act(_steps(_act("shift", to="anyang", away="pangyo")), ()))
        await _use(store, await guards.may_mark(["pangyo"], "active"))
        await _use(store, await guards.may_act(_steps(_act("ready", site="pangyo")), ()))

    _run(story())


def test_traffic_is_not_taken_back_to_a_site_that_is_left() -> None:
    async def story() -> None:
        store, guards = await _world()
        moved = _steps(_act("shift", to="anyang", away="pangyo"))
        await _use(store, await guards.may_act(moved, ()))
        await _use(store, await guards.may_take_back(moved))
        entry = await store.get("pooled")
        assert entry is not None
        assert orjson.loads(entry.value) == {"chat": ["anyang", "pangyo"]}
        await _use(store, await guards.may_leave(["pangyo"], "lost"))
        with assert_refused("site-left"):
            await guards.may_take_back(moved)

    _run(story())


def test_a_permit_for_traffic_is_void_once_the_site_is_left() -> None:
    async def story() -> None:
        store, guards = await _world()
        permit = await guards.may_act(_steps(_act("shift", to="pangyo")), ())
        await _use(store, await guards.may_leave(["pangyo"], "lost"))
        with pytest.raises(Conflict):
            await _use(store, permit)

    _run(story())


def test_permits_join() -> None:
    both = Permit((Compare("a", 1),)) | Permit((Compare("a", 1), Compare("b", 0)), (Put("b", b"x"),))
    assert both == Permit((Compare("a", 1), Compare("b", 0)), (Put("b", b"x"),))


def test_where_traffic_goes_is_as_the_estate_that_was_taken_last_says() -> None:
    async def story() -> None:
        _, guards = await _world()
        drain = _steps(_act("drain", site="pangyo"))
        with assert_refused("pooled-nowhere"):
            await guards.may_act(drain, ())
        guards.pool({"chat": ("anyang", "pangyo")})
        await guards.may_act(drain, ())

    _run(story())
