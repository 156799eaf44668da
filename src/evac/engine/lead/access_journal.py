"""The journal of access: who signed in, who was refused, what people asked, in one chained stream.

War rooms write what they saw next to it; the leader moves it into the stream `access`, whose heads the agents
of other sites keep like those of every journal. `evac run verify access` proves it.

    seen/<moment>-<random>    a batch of records that no leader has moved yet
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import orjson

from evac.model.access import AccessRecord
from evac.model.errors import Conflict, Corrupt, Unavailable
from evac.store.journal import Journal, head_of, records_after
from evac.store.port import Change, Compare, Delete, Lease, Put, Store

STREAM: Final = "access"
SEEN: Final = "seen/"
LOOK_S: Final = 2.0
BATCHES: Final = 20
"""Batches that are moved at a time."""
RECORDS_MOST: Final = 200
"""Records of one batch."""
TEXT_MOST: Final = 500


def batch_of(records: Sequence[AccessRecord], now_ms: int) -> Put:
    """What a war room writes. At most `RECORDS_MOST` records."""
    rows = [_short(one) for one in records[:RECORDS_MOST]]
    return Put(f"{SEEN}{now_ms:013d}-{os.urandom(6).hex()}", orjson.dumps(rows))


def _short(one: AccessRecord) -> dict[str, Any]:
    cut = {key: value[:TEXT_MOST] if isinstance(value, str) else value for key, value in asdict(one).items()}
    return {key: value for key, value in cut.items() if value not in ("", 0)}


def record_of(told: Mapping[str, Any]) -> AccessRecord:
    """Raises Corrupt for what is none."""
    try:
        known = {one.name: told[one.name] for one in fields(AccessRecord) if one.name in told}
        found = AccessRecord(**known)
    except TypeError as error:
        raise Corrupt("a record of the journal of access cannot be read") from error
    if type(found.at_ms) is not int or not isinstance(found.kind, str):
        raise Corrupt("a record of the journal of access cannot be read")
    return found


@dataclass(slots=True)
class AccessJournal:
    """One for a controller. `chore` is done while it leads."""

    store: Store
    look_s: float = LOOK_S
    _guard: Lease | None = field(default=None, init=False)
    _journal: Journal | None = field(default=None, init=False)

    async def chore(self, guard: Lease) -> None:
        """One look. Whatever goes wrong, the next one begins again. Raises LeaseLost, Unavailable."""
        try:
            await self._move(guard)
        except BaseException:
            self._journal = None
            raise
        await asyncio.sleep(self.look_s)

    async def _move(self, guard: Lease) -> None:
        for entry in await self.store.list(SEEN, limit=BATCHES):
            if self._guard != guard or self._journal is None:
                await self._open(guard)
            assert self._journal is not None
            records = list(_rows(entry.value))
            changes: tuple[Change, ...] = (Delete(entry.key),)
            with contextlib.suppress(Conflict):  # another leader moved it
                await self._journal.append(records, guard, (Compare(entry.key, entry.revision),), changes)

    async def _open(self, guard: Lease) -> None:
        head = await head_of(self.store, STREAM)
        if head is not None:
            self._journal = await Journal.open(self.store, STREAM, after=head)
        else:
            try:
                self._journal = await Journal.create(self.store, STREAM, guard)
            except Conflict:
                self._journal = await Journal.open(self.store, STREAM)
        self._guard = guard


def _rows(value: bytes) -> Sequence[bytes]:
    """Records of a batch; what cannot be read is left out, so that it holds nothing up."""
    try:
        told = orjson.loads(value)
    except orjson.JSONDecodeError:
        return ()
    rows = told if isinstance(told, list) else []
    found = []
    for row in rows[:RECORDS_MOST]:
        with contextlib.suppress(Corrupt):
            found.append(orjson.dumps(_short(record_of(row if isinstance(row, Mapping) else {}))))
    return found


async def access_records(store: Store) -> list[AccessRecord]:
    """All records, oldest first, those too that no leader has moved yet. Raises Corrupt, Unavailable."""
    found: list[AccessRecord] = []
    if await head_of(store, STREAM) is not None:
        async for _, record in records_after(store, STREAM, 0, 2**53):
            found.append(record_of(orjson.loads(record)))
    with contextlib.suppress(Unavailable):
        for entry in await store.list(SEEN, limit=1_000):
            found += [record_of(orjson.loads(row)) for row in _rows(entry.value)]
    return sorted(found, key=lambda one: one.at_ms)
