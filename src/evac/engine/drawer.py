"""The drawer: a plan ready for the loss of each site and of each pair, because a fire waits for no planner.

    drawer/<scenario>            {"plan", "estate", "at_ms", "took_ms", "problem"}
    plan/<digest>/<part:06d>     canonical plan bytes in parts; written before anything names the digest

This module owns when plans are made and where they lie; the planner is given to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import orjson

from evac.engine.clock import Clock
from evac.model.errors import Corrupt, EvacError, InvalidInput, LeaseLost, Unavailable
from evac.store.port import Compare, Entry, Lease, Put, Store

PART_BYTES: Final = 512 * 1024
MAX_PLAN_PARTS: Final = 1_024
PREFIX: Final = "drawer/"
_NAMED: Final = re.compile(r"sha256:[0-9a-f]{12,64}")

Planner = Callable[[tuple[str, ...]], Awaitable[bytes]]
"""Sites that are lost -> canonical bytes of a plan. Raises EvacError where none can be made."""


def scenarios_of(sites: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Each site and each pair, single ones first; never so many that none is left."""
    ordered = sorted(sites)
    single = [(site,) for site in ordered if len(ordered) > 1]
    pairs = list(combinations(ordered, 2)) if len(ordered) > 2 else []
    return (*single, *pairs)


def key_of(lost: Sequence[str]) -> str:
    return PREFIX + "+".join(sorted(lost))


def digest_of(data: bytes) -> str:
    """`sha256:` and the digest of canonical plan bytes, as everywhere."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def put_plan(store: Store, data: bytes, guard: Lease | None = None) -> str:
    """Writes a plan in parts and returns its digest. Parts that are there already are left as they are."""
    digest = digest_of(data)
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)]
    if not 0 < len(parts) <= MAX_PLAN_PARTS:
        raise InvalidInput("plan-size", f"a plan of {len(data)} bytes cannot be stored", "split the scenario")
    for number, part in enumerate(parts):
        key = _part_key(digest, number)
        entry = await store.get(key)
        if entry is not None and entry.value == part:
            continue
        await store.transact((Compare(key, entry.revision if entry else 0),), (Put(key, part),), guard)
    return digest


async def find_plan(store: Store, named: str) -> str:
    """The digest of the one stored plan whose digest begins so, twelve letters at least. Raises InvalidInput
    where none does, or several do.
    """
    if not _NAMED.fullmatch(named):
        hint = "give a file, or sha256: and 12 to 64 of 0-9 and a-f"
        raise InvalidInput("plan-name", f"{named[:80]!r} names no plan", hint)
    found = await store.list(f"plan/{named}", limit=1)
    if not found:
        raise InvalidInput(
            "plan-unknown", f"no plan {named} lies in the store", "evac plan, and apply its file"
        )
    digest = found[0].key.split("/")[1]
    if await store.list(f"plan/{named}", f"plan/{digest}/~", 1):
        raise InvalidInput("plan-name", f"several plans begin with {named}", "give more of the digest")
    return digest


async def get_plan(store: Store, digest: str) -> bytes:
    """The bytes of a plan. Raises `Corrupt` unless they are whole and have that digest."""
    parts: list[bytes] = []
    after, prefix = "", f"plan/{digest}/"
    while page := await store.list(prefix, after, 4):
        for entry in page:
            if entry.key != _part_key(digest, len(parts)):
                raise Corrupt(f"part {len(parts)} of the plan {digest[:19]} is missing")
            parts.append(entry.value)
        after = page[-1].key
        if len(parts) > MAX_PLAN_PARTS:
            raise Corrupt(f"the plan {digest[:19]} has too many parts")
    data = b"".join(parts)
    if not parts or digest_of(data) != digest:
        raise Corrupt(f"the plan {digest[:19]} is not in the store, or not whole")
    return data


@dataclass(frozen=True, slots=True)
class Ready:
    """What lies in the drawer for one scenario. plan: digest, empty where none could be made, with the
    problem.

    estate: the digest of the estate (and observation) it was made from. at_ms: wall clock of its making.
    """

    lost: tuple[str, ...]
    plan: str
    estate: str
    at_ms: int
    took_ms: int = 0
    problem: str = ""


def decode(entry: Entry) -> Ready | None:
    """What an entry says; None for what cannot be read, which is as good as no plan."""
    try:
        document: dict[str, Any] = orjson.loads(entry.value)
        lost = entry.key.removeprefix(PREFIX)
        return Ready(
            tuple(lost.split("+")) if lost else (), str(document["plan"]), str(document["estate"]),
            int(document["at_ms"]), int(document["took_ms"]), str(document["problem"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None


class Drawer:
    """Keeps a plan ready for every scenario of `sites`. estate: the digest of what a plan would be made of
    now.

    A plan of another estate is made anew, one older than `most_age_ms` as well. One plan is made at a time,
    for the planner takes a whole core.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        sites: Sequence[str],
        planner: Planner,
        estate: Callable[[], str],
        *,
        most_age_ms: int = 3_600_000,
        look_ms: int = 5_000,
        plan_ms: int = 600_000,
    ) -> None:
        self._store, self._clock, self._planner, self._estate = store, clock, planner, estate
        self._scenarios = scenarios_of(sites)
        self._most_age_ms, self._look_ms, self._plan_ms = most_age_ms, look_ms, plan_ms

    async def run(self, guard: Lease) -> None:
        """Fills the drawer until cancelled, or raises `LeaseLost`: only the leader plans ahead."""
        while True:
            try:
                made = await self.fill_one(guard)
            except Unavailable:
                made = False
            await asyncio.sleep(0 if made else self._look_ms / 1_000)

    async def fill_one(self, guard: Lease) -> bool:
        """Makes the plan that is most wanted: one that is missing or of another estate, then the oldest."""
        estate = self._estate()
        for lost in self._scenarios:
            ready = await self.look(lost)
            if ready is None or ready.estate != estate:
                await self._make(lost, estate, guard)
                return True
        for lost in self._scenarios:
            ready = await self.look(lost)
            if ready is not None and self._is_old(ready):
                await self._make(lost, estate, guard)
                return True
        return False

    async def look(self, lost: Sequence[str]) -> Ready | None:
        """What lies ready for a loss, whatever its age."""
        entry = await self._store.get(key_of(lost))
        return None if entry is None else decode(entry)

    async def take(self, lost: Sequence[str]) -> tuple[Ready, bytes] | None:
        """The plan for a loss, with its bytes; None unless one is ready of the estate as it is now."""
        ready = await self.look(lost)
        if ready is None or not ready.plan or ready.estate != self._estate():
            return None
        return ready, await get_plan(self._store, ready.plan)

    async def plan_now(self, lost: Sequence[str], guard: Lease) -> tuple[Ready, bytes] | None:
        """Makes the plan of a loss at once: where the drawer has none, or for more sites than a pair."""
        ready = await self._make(tuple(sorted(lost)), self._estate(), guard)
        return (ready, await get_plan(self._store, ready.plan)) if ready.plan else None

    def _is_old(self, ready: Ready) -> bool:
        age_ms = self._clock.now_ms() - ready.at_ms
        return not 0 <= age_ms <= self._most_age_ms

    async def _make(self, lost: tuple[str, ...], estate: str, guard: Lease) -> Ready:
        began_ms = self._clock.monotonic_ms()
        digest, problem = "", ""
        try:
            async with asyncio.timeout(self._plan_ms / 1_000):
                data = await self._planner(lost)
            digest = await put_plan(self._store, data, guard)
        except (LeaseLost, Unavailable):
            raise
        except TimeoutError:
            problem = f"no plan in {self._plan_ms // 1_000} s"
        except EvacError as error:
            problem = error.message
        took_ms = self._clock.monotonic_ms() - began_ms
        ready = Ready(lost, digest, estate, self._clock.now_ms(), took_ms, problem)
        await self._store.transact((), (Put(key_of(lost), _encode(ready)),), guard)
        return ready


def _encode(ready: Ready) -> bytes:
    return orjson.dumps(
        {
            "plan": ready.plan,
            "estate": ready.estate,
            "at_ms": ready.at_ms,
            "took_ms": ready.took_ms,
            "problem": ready.problem,
        }
    )


def _part_key(digest: str, number: int) -> str:
    return f"plan/{digest}/{number:06d}"
