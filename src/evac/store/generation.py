"""Which generation a store is of, and whether a newer one took its place; both are facts of the store itself.

    generation    {"number", "opener", "at_ms"}: absent in a store that took nobody's place
    superseded    {"number", "opener", "by", "at_ms"}: a newer generation, and who told of it

What stands in the store holds for every controller of it, also for one that is started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from evac.model.errors import Conflict, Corrupt, NotAllowed
from evac.model.generation import GENERATION_MOST
from evac.store.port import Compare, Entry, Put, Store

KEY: Final = "generation"
SUPERSEDED_KEY: Final = "superseded"
TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Generation:
    """opener: a random name, so that two who open the same number are told apart. at_ms: when, UTC."""

    number: int = 0
    opener: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Newer:
    """A generation that took the place of this store. by: the site whose agent told it, or who else did."""

    number: int
    opener: str
    by: str
    at_ms: int


async def read_generation(store: Store) -> Generation:
    """Raises `Corrupt` for what cannot be read: then nobody may act. Raises `Unavailable`."""
    return decode(await store.get(KEY))


def decode(entry: Entry | None) -> Generation:
    """What stands under `generation`. Raises `Corrupt`."""
    if entry is None:
        return Generation()
    told = _table(entry)
    return Generation(_number(entry, told), str(told.get("opener", "")), _at(entry, told))


def encode(generation: Generation) -> bytes:
    told = {"number": generation.number, "opener": generation.opener, "at_ms": generation.at_ms}
    return orjson.dumps(told)


async def raise_generation(store: Store, number: int, opener: str, at_ms: int) -> Generation:
    """Opens a newer generation in a store, or finds it open already; 0 asks for nothing.

    Raises `NotAllowed` for one below that of the store: it never goes back.
    """
    for _ in range(TRIES):
        entry = await store.get(KEY)
        found = decode(entry)
        if number == 0 or number == found.number:
            return found
        if number < found.number:
            raise NotAllowed(
                "generation-older",
                f"this store is of generation {found.number}, above {number}",
                f"leave --generation out, or name one above {found.number}",
            )
        wanted = Generation(number, opener, at_ms)
        try:
            at = entry.revision if entry is not None else 0
            await store.transact((Compare(KEY, at),), (Put(KEY, encode(wanted)),))
        except Conflict:
            continue
        return wanted
    raise Conflict(KEY)


async def read_newer(store: Store) -> Newer | None:
    """The generation that took the place of this store, as far as it was told. Raises `Corrupt`."""
    return decode_newer(await store.get(SUPERSEDED_KEY))


def decode_newer(entry: Entry | None) -> Newer | None:
    if entry is None:
        return None
    told = _table(entry)
    words = (str(told.get("opener", "")), str(told.get("by", "")))
    return Newer(_number(entry, told), *words, _at(entry, told))


async def write_newer(store: Store, newer: Newer) -> None:
    """Says in the store that its time is over; one that tells more stays as it is."""
    for _ in range(TRIES):
        entry = await store.get(SUPERSEDED_KEY)
        known = decode_newer(entry)
        if known is not None and known.number >= newer.number:
            return
        told = {"number": newer.number, "opener": newer.opener, "by": newer.by, "at_ms": newer.at_ms}
        compare = Compare(SUPERSEDED_KEY, entry.revision if entry is not None else 0)
        try:
            await store.transact((compare,), (Put(SUPERSEDED_KEY, orjson.dumps(told)),))
        except Conflict:
            continue
        return


def takes_place_of(newer: Newer | None, own: Generation) -> bool:
    """Whether `newer` ended the time of `own`: a greater number, or the same that somebody else opened."""
    if newer is None or newer.number < own.number:
        return False
    return newer.number > own.number or bool(own.number and newer.opener and newer.opener != own.opener)


def _table(entry: Entry) -> dict[str, Any]:
    try:
        told = orjson.loads(entry.value)
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"what {entry.key} holds is not JSON") from error
    if not isinstance(told, dict):
        raise Corrupt(f"what {entry.key} holds is no object")
    return told


def _number(entry: Entry, told: dict[str, Any]) -> int:
    found = told.get("number")
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= GENERATION_MOST:
        raise Corrupt(f"{entry.key} does not say a generation")
    return found


def _at(entry: Entry, told: dict[str, Any]) -> int:
    found = told.get("at_ms", 0)
    if isinstance(found, bool) or not isinstance(found, int):
        raise Corrupt(f"{entry.key} does not say a time")
    return found
