"""The plan library: a plan ready for the loss of each site, each pair of sites, and every fault domain above
a rack.

    drawer/<scenario>            {"plan", "estate", "at_ms", "took_ms", "problem"}, and since it holds more
                                 than sites {"basis", "kind", "people", "searched", "made_ms"} as well;
                                 "judged": the version of evac whose checker accepted it for that estate
    plan/<digest>/<part:06d>     canonical plan bytes in parts, deflated after `DEFLATED` where shorter;
                                 written before anything names the digest
    plan-kept/<digest>           someone uses that plan: it is never taken away
    plan-left/<digest>           a plan that another took the place of in the drawer, or that someone handed
                                 over to be looked at, since when: {"at_ms"}; a day later it is taken away

A scenario is the names of the lost domains joined by `+`. An entry fits while its "estate" is the digest of
the observed estate and this version's checker accepted it for that estate. An unchecked plan, or one checked
by another version, fits no estate; a refused plan is not stored. After a change every entry is reviewed:
plans made from unchanged input are confirmed, the rest are made again.

This module owns when plans are made and where they are stored; the planner is injected. The leader keeps the
table of entries in memory, because no one else writes it, but not the plans.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import orjson

from evac import __version__
from evac.engine.clock import Clock
from evac.engine.plans.queue import Choice, Ready, WantedPlan, Work, choose, in_order, scenarios_of
from evac.model.errors import (
    Conflict,
    Corrupt,
    EvacError,
    InvalidInput,
    LeaseLost,
    Unavailable,
    UnsafePlan,
)
from evac.model.records import dataclass
from evac.store.port import Compare, Delete, Entry, Lease, Put, Store, all_entries

__all__ = [
    "Drawer",
    "Made",
    "Planner",
    "Planning",
    "Ready",
    "decode",
    "digest_of",
    "find_plan",
    "get_plan",
    "joined",
    "key_of",
    "lend_plan",
    "put_plan",
    "scenarios_of",
]

PART_BYTES: Final = 512 * 1024
MAX_PLAN_PARTS: Final = 1_024
PREFIX: Final = "drawer/"
DEFLATED: Final = b"evac-deflated-1\n"
"""Large plans compress to a thirteenth; a store in memory holds hundreds of them."""
KEPT: Final = "plan-kept/"
LEFT: Final = "plan-left/"
LEFT_MS: Final = 86_400_000
"""How long a plan outside the library stays readable: someone may hold its digest."""
SWEEP_MOST: Final = 32
CHANGED_MS: Final = 200
"""How often an idle lane checks whether the estate is another."""
_log = logging.getLogger(__name__)
_NAMED: Final = re.compile(r"sha256:[0-9a-f]{12,64}")

Planner = Callable[[tuple[str, ...]], Awaitable[bytes]]
"""Lost domains -> canonical bytes of a plan that the checker accepts. Raises EvacError if there is none."""


@dataclass(frozen=True, slots=True)
class Made:
    """A plan that the checker accepted."""

    data: bytes
    basis: str = ""
    """Its planning input."""
    searched: bool = True
    """No better plan is searched for."""
    confirmed: bool = False
    """It is the existing plan, for the present estate."""


class Planning(Protocol):
    """A planner that maintains many plans."""

    lanes: int
    """How many scenarios it works on concurrently. One more lane serves what is wanted `now`."""

    async def scenarios(self) -> Sequence[WantedPlan]:
        """Every scenario that wants a plan, for the present estate. Raises EvacError."""
        ...

    async def stand(
        self,
        lane: int,
        lost: tuple[str, ...],
        work: Work,
        known: Ready | None,
        load: Callable[[str], Awaitable[bytes]],
    ) -> Made:
        """A plan for the present estate that the checker accepts: `known` if it still fits, else a new one.
        load: the bytes of a plan by digest. Raises UnsafePlan if the checker refuses `known` and there is no
        other; EvacError if none can be made or the checker refuses what was made.
        """
        ...


class _PlainPlanner:
    """Wraps a planner of single plans that reports nothing but its plans."""

    lanes = 1

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    async def scenarios(self) -> Sequence[WantedPlan]:
        return ()

    async def stand(
        self,
        lane: int,
        lost: tuple[str, ...],
        work: Work,
        known: Ready | None,
        load: Callable[[str], Awaitable[bytes]],
    ) -> Made:
        return Made(await self._planner(lost))


def key_of(lost: Sequence[str]) -> str:
    return PREFIX + "+".join(sorted(lost))


def digest_of(data: bytes) -> str:
    """`sha256:` and the digest of canonical plan bytes, as everywhere."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def put_plan(store: Store, data: bytes, guard: Lease | None = None) -> str:
    """Writes a plan in parts, permanently, and returns its digest. Existing parts are left."""
    digest = digest_of(data)
    await store.transact((), (Put(KEPT + digest, b"{}"),), guard)
    return await _put_parts(store, data, digest, guard)


async def lend_plan(store: Store, data: bytes, now_ms: int) -> str:
    """Writes a plan in parts and returns its digest. It is deleted a day later unless something keeps it by
    then.
    """
    digest = digest_of(data)
    await store.transact((), (Put(LEFT + digest, orjson.dumps({"at_ms": now_ms})),))
    return await _put_parts(store, data, digest, None)


async def _put_parts(store: Store, data: bytes, digest: str, guard: Lease | None) -> str:
    kept = min(data, DEFLATED + zlib.compress(data, 1), key=len)
    parts = [kept[i : i + PART_BYTES] for i in range(0, len(kept), PART_BYTES)]
    if not data or len(data) > MAX_PLAN_PARTS * PART_BYTES:
        raise InvalidInput("plan-size", f"cannot store a plan of {len(data)} bytes", "split the scenario")
    for number, part in enumerate(parts):
        key = _part_key(digest, number)
        entry = await store.get(key)
        if entry is not None and entry.value == part:
            continue
        await store.transact((Compare(key, entry.revision if entry else 0),), (Put(key, part),), guard)
    return digest


def joined(parts: Sequence[bytes]) -> bytes:
    """The bytes of a plan from its parts; empty if incomplete or far too large."""
    kept = b"".join(parts)
    if not kept.startswith(DEFLATED):
        return kept
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(kept[len(DEFLATED) :], MAX_PLAN_PARTS * PART_BYTES)
    except zlib.error:
        return b""
    return data if reader.eof else b""


async def find_plan(store: Store, named: str) -> str:
    """The digest of the one stored plan that starts with this prefix of at least twelve characters. Raises
    InvalidInput if there is none, or several.
    """
    if not _NAMED.fullmatch(named):
        hint = "give a file, or sha256: followed by 12 to 64 hexadecimal digits"
        raise InvalidInput("plan-name", f"{named[:80]!r} does not identify a plan", hint)
    found = await store.list(f"plan/{named}", limit=1)
    if not found:
        raise InvalidInput(
            "plan-unknown",
            f"plan {named} is not in the store",
            "create one with evac plan, and apply its file",
        )
    digest = found[0].key.split("/")[1]
    if await store.list(f"plan/{named}", f"plan/{digest}/~", 1):
        raise InvalidInput(
            "plan-name", f"several plans begin with {named}", "give more characters of the digest"
        )
    return digest


async def get_plan(store: Store, digest: str) -> bytes:
    """The bytes of a plan. Raises `Corrupt` unless they are whole and have that digest."""
    parts: list[bytes] = []
    after, prefix = "", f"plan/{digest}/"
    while page := await store.list(prefix, after, 4):
        for entry in page:
            if entry.key != _part_key(digest, len(parts)):
                raise Corrupt(f"part {len(parts)} of plan {digest[:19]} is missing")
            parts.append(entry.value)
        after = page[-1].key
        if len(parts) > MAX_PLAN_PARTS:
            raise Corrupt(f"plan {digest[:19]} has too many parts")
    data = joined(parts)
    if not parts or digest_of(data) != digest:
        raise Corrupt(f"plan {digest[:19]} is not in the store, or is incomplete")
    return data


def decode(entry: Entry) -> Ready | None:
    """Decodes an entry; None if unreadable, which counts as no plan. A plan that this version's checker did
    not accept fits no estate.
    """
    try:
        told: dict[str, Any] = orjson.loads(entry.value)
        lost, at_ms = entry.key.removeprefix(PREFIX), int(told["at_ms"])
        names, plan = tuple(lost.split("+")) if lost else (), str(told["plan"])
        estate = "" if plan and told.get("judged") != __version__ else str(told["estate"])
        return Ready(
            names,
            plan,
            estate,
            at_ms,
            int(told["took_ms"]),
            str(told["problem"]),
            str(told.get("basis", "")),
            str(told.get("kind", "") or ("site", "pair")[len(names) > 1]),
            int(told.get("people", 0)),
            bool(told.get("searched", True)),
            int(told.get("made_ms", at_ms)),
        )
    except (ValueError, KeyError, TypeError):
        return None


class Drawer:
    """Keeps a plan ready for every scenario. estate: the digest of what a plan would be made of now.

    sites: whose loss, alone and in pairs, always wants one. A plan for another estate, or one older than
    `most_age_ms`, is reviewed. A planner with several lanes works on several scenarios concurrently; one of
    the lanes never searches, so that a change of the estate waits for no search.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        sites: Sequence[str],
        planner: Planner | Planning,
        estate: Callable[[], str],
        *,
        most_age_ms: int = 3_600_000,
        look_ms: int = 5_000,
        plan_ms: int = 600_000,
    ) -> None:
        self._store, self._clock, self._estate = store, clock, estate
        self._planning: Planning = _PlainPlanner(planner) if callable(planner) else planner
        self._sites = tuple(sites)
        self._most_age_ms, self._look_ms, self._plan_ms = most_age_ms, look_ms, plan_ms
        self._wanted: tuple[str, tuple[WantedPlan, ...]] | None = None
        self._table: dict[tuple[str, ...], Ready] | None = None
        self._busy: set[tuple[str, ...]] = set()
        self._choosing, self._writing = asyncio.Lock(), asyncio.Lock()

    async def run(self, guard: Lease) -> None:
        """Fills the library until cancelled. Raises `LeaseLost`: only the leader plans ahead."""
        self._table, self._wanted = None, None
        self._busy.clear()
        try:
            async with asyncio.TaskGroup() as tasks:
                for lane in range(self._planning.lanes):
                    tasks.create_task(self._fill(lane, guard), name=f"drawer {lane}")
                tasks.create_task(self._sweep(guard), name="plans left")
        except ExceptionGroup as group:
            if group.split(LeaseLost)[1] is not None:
                raise
            raise LeaseLost(guard.name) from group

    async def _fill(self, lane: int, guard: Lease) -> None:
        while True:
            estate = self._estate()
            try:
                made = await self.fill_one(guard, lane)
            except (Unavailable, Conflict):
                made = False
            if made:
                await asyncio.sleep(0)
            else:
                await self._rest(estate)

    async def _rest(self, estate: str) -> None:
        """Until the next look, or until the estate is another than this one: a loss may follow a change
        within seconds.
        """
        for _ in range(max(1, self._look_ms // CHANGED_MS)):
            await asyncio.sleep(min(self._look_ms, CHANGED_MS) / 1_000)
            if self._estate() != estate:
                return

    async def fill_one(self, guard: Lease, lane: int = 0) -> bool:
        """Makes the most wanted plan: first missing ones or those for another estate, then better ones, then
        a review of the oldest.
        """
        estate = self._estate()
        async with self._choosing:
            choice = await self._next(estate, lane, guard)
            if choice is None:
                return False
            self._busy.add(choice.wanted.lost)
        try:
            await self._make(choice, estate, guard, lane)
        finally:
            self._busy.discard(choice.wanted.lost)
        return True

    async def _next(self, estate: str, lane: int, guard: Lease) -> Choice | None:
        table = await self._known()
        wanted = await self._scenarios(estate, guard)
        now_ms = self._clock.now_ms()
        for lost, ready in list(table.items()):
            if ready.at_ms > now_ms:  # a clock that jumped: as good as old
                table[lost] = replace(ready, at_ms=now_ms - self._most_age_ms - 1)
        searches = self._planning.lanes == 1 or lane < self._planning.lanes - 1
        return choose(wanted, table, estate, self._busy, now_ms, self._most_age_ms, searches)

    async def _scenarios(self, estate: str, guard: Lease) -> tuple[WantedPlan, ...]:
        """Scenarios for the present estate; while the planner cannot list them, the last known ones. It is
        asked again.
        """
        if self._wanted is not None and self._wanted[0] == estate:
            return self._wanted[1]
        more: Sequence[WantedPlan] = ()
        if self._sites:
            try:
                more = await self._planning.scenarios()
            except EvacError:
                return in_order(self._sites, ()) if self._wanted is None else self._wanted[1]
        self._wanted = (estate, in_order(self._sites, more))
        if more:
            await self._drop_others(guard)
        return self._wanted[1]

    async def _drop_others(self, guard: Lease) -> None:
        """Deletes entries of domains that the estate no longer has."""
        assert self._wanted is not None
        table, wanted = await self._known(), {one.lost for one in self._wanted[1]}
        for lost in [one.lost for one in table.values() if one.lost not in wanted and one.kind != "pair"]:
            old = table.pop(lost)
            await self._store.transact((), (Delete(key_of(lost)), *self._leave(old.plan, "")), guard)

    async def _known(self) -> dict[tuple[str, ...], Ready]:
        if self._table is None:
            found = [decode(entry) for entry in await all_entries(self._store, PREFIX)]
            self._table = {ready.lost: ready for ready in found if ready is not None}
        return self._table

    async def look(self, lost: Sequence[str]) -> Ready | None:
        """The entry for a loss, whatever its age."""
        entry = await self._store.get(key_of(lost))
        return None if entry is None else decode(entry)

    async def take(self, lost: Sequence[str]) -> tuple[Ready, bytes] | None:
        """The plan for a loss, with its bytes; None unless one is ready for the present estate."""
        ready = await self.look(lost)
        if ready is None or not ready.plan or not ready.estate or ready.estate != self._estate():
            return None
        return ready, await get_plan(self._store, ready.plan)

    async def longest_ms(self) -> int:
        """How long the slowest plan took to make, in milliseconds; 0 if none was made."""
        return max((one.took_ms for one in (await self._known()).values() if one.plan), default=0)

    async def plan_now(self, lost: Sequence[str], guard: Lease) -> tuple[Ready, bytes] | None:
        """Makes the plan for a loss at once, if the library has none or more than two sites are lost."""
        names = tuple(sorted(lost))
        alone = "hall" if any("/" in name for name in names) else "site"
        wanted = WantedPlan(names, alone if len(names) == 1 else "pair")
        ready = await self._make(Choice(wanted, "now"), self._estate(), guard, self._planning.lanes)
        return (ready, await get_plan(self._store, ready.plan)) if ready.plan else None

    async def _make(self, choice: Choice, estate: str, guard: Lease, lane: int) -> Ready:
        old = (await self._known()).get(choice.wanted.lost)
        ready, data, stays = await self._stand(choice, estate, lane, old)
        async with self._writing:
            there = (await self._known()).get(choice.wanted.lost)  # somebody else may have made one meanwhile
            if ready.problem and stays and there is not None and there.plan:
                _log.warning("no better plan for the loss of %s: %s", choice.wanted.name, ready.problem)
                ready = replace(there, at_ms=ready.at_ms, searched=True)  # what lies there still fits
            if data:
                await _put_parts(self._store, data, ready.plan, guard)
            leave = self._leave(there.plan if there is not None else "", ready.plan)
            await self._store.transact((), (Put(key_of(ready.lost), _encode(ready)), *leave), guard)
            (await self._known())[ready.lost] = ready
        return ready

    async def _stand(
        self, choice: Choice, estate: str, lane: int, old: Ready | None
    ) -> tuple[Ready, bytes, bool]:
        """The entry of a scenario, its plan bytes (empty if there is a problem), and whether the existing
        plan stays.
        """
        began_ms, wanted, stays = (
            self._clock.monotonic_ms(),
            choice.wanted,
            choice.work not in ("now", "make"),
        )
        made, problem = Made(b""), ""
        try:
            async with asyncio.timeout(self._plan_ms / 1_000):
                made = await self._planning.stand(lane, wanted.lost, choice.work, old, self._load)
        except (LeaseLost, Unavailable):
            raise
        except TimeoutError:
            problem = f"no plan in {self._plan_ms // 1_000} s"
        except EvacError as error:
            problem = error.message
            stays = stays and not isinstance(error, UnsafePlan)
        took_ms, now_ms = self._clock.monotonic_ms() - began_ms, self._clock.now_ms()
        ready = Ready(
            wanted.lost,
            digest_of(made.data) if made.data else "",
            estate,
            now_ms,
            took_ms,
            problem,
            made.basis,
            wanted.kind,
            wanted.people,
            made.searched,
            now_ms,
        )
        if made.confirmed and old is not None:
            ready = replace(ready, took_ms=old.took_ms, made_ms=old.made_ms)
        return ready, made.data, stays

    def _leave(self, old: str, new: str) -> tuple[Put | Delete, ...]:
        """Notes that one plan has left the library and another has entered it."""
        if old == new:
            return ()
        back = (Delete(LEFT + new),) if new else ()
        return (*back, Put(LEFT + old, orjson.dumps({"at_ms": self._clock.now_ms()}))) if old else back

    async def _load(self, digest: str) -> bytes:
        return await get_plan(self._store, digest)

    async def _sweep(self, guard: Lease) -> None:
        while True:
            with contextlib.suppress(Unavailable, Conflict):
                await self.sweep(guard)
            await asyncio.sleep(self._look_ms / 1_000 * 12)

    async def sweep(self, guard: Lease) -> int:
        """Deletes plans that left the library a day ago and that nothing keeps; returns how many."""
        swept, after = 0, ""
        while swept < SWEEP_MOST and (page := await self._store.list(LEFT, after, SWEEP_MOST)):
            after = page[-1].key
            for entry in page:
                if self._clock.now_ms() - _since_ms(entry) >= LEFT_MS:
                    async with self._writing:
                        with contextlib.suppress(Conflict):  # somebody wants it again
                            await self._take_away(entry, guard)
                    swept += 1
        return swept

    async def _take_away(self, mark: Entry, guard: Lease) -> None:
        digest = mark.key.removeprefix(LEFT)
        used = any(ready.plan == digest for ready in (await self._known()).values())
        if not used and await self._store.get(KEPT + digest) is None:
            while page := await self._store.list(f"plan/{digest}/", limit=4):
                unwanted = (Compare(mark.key, mark.revision), Compare(KEPT + digest, 0))
                await self._store.transact(unwanted, tuple(Delete(entry.key) for entry in page[::-1]), guard)
        await self._store.transact((Compare(mark.key, mark.revision),), (Delete(mark.key),), guard)


def _since_ms(entry: Entry) -> int:
    try:
        return int(orjson.loads(entry.value)["at_ms"])
    except (ValueError, KeyError, TypeError):
        return 0


def _encode(ready: Ready) -> bytes:
    return orjson.dumps(
        {
            "plan": ready.plan,
            "estate": ready.estate,
            "at_ms": ready.at_ms,
            "took_ms": ready.took_ms,
            "problem": ready.problem,
            "basis": ready.basis,
            "kind": ready.kind,
            "people": ready.people,
            "searched": ready.searched,
            "made_ms": ready.made_ms,
            "judged": __version__ if ready.plan and ready.estate else "",
        }
    )


def _part_key(digest: str, number: int) -> str:
    return f"plan/{digest}/{number:06d}"
