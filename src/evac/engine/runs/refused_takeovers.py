"""Why the current leader could not take over an open run, to be shown with the run.

untaken/<run>      {"code", "message", "hint", "by", "at_ms"}, until a leader takes the run over

Nobody executes such a run: its journal stops at what an earlier leader did, and would look like a run that
continues.
"""

from __future__ import annotations

import contextlib
from typing import Final

import orjson

from evac.model.errors import Conflict, EvacError, Unavailable
from evac.model.records import dataclass
from evac.store.port import Compare, Delete, Lease, Put, Store

UNTAKEN: Final = "untaken/"
WORDS_MOST: Final = 1_000
UNREADABLE: Final = "the leader's reason cannot be read"


@dataclass(frozen=True, slots=True)
class Refused:
    """by: owner of the leader that refused. at_ms: when, by its wall clock; 0: unknown."""

    code: str
    message: str
    hint: str
    by: str
    at_ms: int


async def keep(store: Store, run: str, error: EvacError, guard: Lease, by: str, at_ms: int) -> None:
    """Record why a run was not taken over; the same reason once. Raises LeaseLost. A store that does not
    answer keeps nothing: the leader's log and journal say it anyway.
    """
    said = Refused(error.code, error.message[:WORDS_MOST], error.hint[:WORDS_MOST], by, at_ms)
    told = {"code": said.code, "message": said.message, "hint": said.hint, "by": by, "at_ms": at_ms}
    with contextlib.suppress(Unavailable, Conflict):
        known = await of_run(store, run)
        if known is None or (known.code, known.message, known.by) != (said.code, said.message, said.by):
            await store.transact((), (Put(UNTAKEN + run, orjson.dumps(told)),), guard)


async def forget(store: Store, run: str, guard: Lease) -> None:
    """The run was taken over. Raises LeaseLost, Unavailable."""
    entry = await store.get(UNTAKEN + run)
    if entry is not None:
        with contextlib.suppress(Conflict):
            compares = (Compare(entry.key, entry.revision),)
            await store.transact(compares, (Delete(entry.key),), guard)


async def words_of(store: Store | None, run: str) -> str:
    """Why no one executes an open run and what to do next; empty if someone does, or if the store does not
    answer (None: it is known not to).
    """
    try:
        said = None if store is None else await of_run(store, run)
    except Unavailable:
        return ""
    return "" if said is None else "; ".join(part for part in (said.message, said.hint) if part)


async def of_run(store: Store, run: str) -> Refused | None:
    """Why nobody executes the run; None if it was taken over, or never needed to be. Raises Unavailable.

    A record that cannot be read still counts as a refusal.
    """
    entry = await store.get(UNTAKEN + run)
    if entry is None:
        return None
    try:
        told = orjson.loads(entry.value)
        code, message, hint, by = (str(told[key])[:WORDS_MOST] for key in ("code", "message", "hint", "by"))
        return Refused(code, message, hint, by, int(told["at_ms"]))
    except (ValueError, KeyError, TypeError):
        return Refused("untaken-unreadable", UNREADABLE, "", "", 0)
