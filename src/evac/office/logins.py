"""Logins in the store: who is signed in, and how logins end."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import orjson

from evac.store.port import Delete, Store, entries

PREFIX: Final = "session/"
PAGE: Final = 500
MOST: Final = 10_000
KEY_LETTERS: Final = 64
"""Length of a SHA-256 in hexadecimal; a lease that keeps logins has a shorter name."""
ID_LETTERS: Final = 16


async def kept(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """(store key, login), oldest first. Anything that is not a login is left out."""
    found: list[tuple[str, dict[str, Any]]] = []
    async for entry in entries(store, PREFIX, PAGE):
        name = entry.key.removeprefix(PREFIX)
        if len(name) != KEY_LETTERS:
            continue
        with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            told = orjson.loads(entry.value)
            row: dict[str, Any] = {"id": name[:ID_LETTERS]}
            row |= {key: str(told.get(key, "")) for key in ("name", "proof", "acr", "subject", "session")}
            row |= {key: int(told[key]) for key in ("made_ms", "seen_ms", "until_ms")}
            found.append((entry.key, row))
        if len(found) >= MOST:
            break
    return sorted(found, key=lambda one: (one[1]["made_ms"], one[1]["id"]))


async def end(store: Store, name: str, login: str = "") -> int:
    """Ends all logins of a person, or the one with that id; returns how many. War rooms notice within
    seconds.
    """
    keys = [
        key for key, row in await kept(store) if row["name"] == name and (not login or row["id"] == login)
    ]
    for key in keys:
        await store.transact((), (Delete(key),))
    return len(keys)
