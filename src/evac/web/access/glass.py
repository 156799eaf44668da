"""Records of uses of break-glass credentials in the store.

glass/<credential>/<number>    one use: who requested which verb for which run, and when; never changed
glass/<id>/<number>            the same, written by an earlier version, which counted by the id alone
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from evac.model.access import Grant
from evac.store.port import Entry, Store

GLASS_USED: Final = "glass/"


def key_of(grant: Grant, number: int) -> str:
    """Where the use with this number, from 1, is recorded."""
    return f"{GLASS_USED}{grant.credential}/{number:03d}"


def earlier_key_of(grant: Grant, number: int) -> str:
    """Where an earlier version recorded it."""
    return f"{GLASS_USED}{grant.id}/{number:03d}"


async def recorded(store: Store, grant: Grant, number: int) -> Entry | None:
    """The record of a use; None if there is none. One by an earlier version counts, unless it clearly names
    another signer of the same id: one that cannot be read counts. Raises Unavailable or Corrupt.
    """
    found = await store.get(key_of(grant, number))
    if found is not None:
        return found
    earlier = await store.get(earlier_key_of(grant, number))
    if earlier is None:
        return None
    who = read(earlier).get("who", grant.who)
    return None if isinstance(who, str) and who != grant.who else earlier


def read(record: Entry) -> Mapping[str, Any]:
    """What a record contains; empty if it cannot be read."""
    try:
        found = orjson.loads(record.value)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
