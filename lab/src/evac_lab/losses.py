"""Which acknowledged messages the database does not have: the ledger against the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from evac_lab import ledger
from evac_lab.primaries import Connection, Database, Failures, find_primary
from evac_lab.state import LabError, LabFolder

_MISSING: Final = """
select asked.id from unnest($1::text[]) as asked(id)
where not exists (select 1 from messages where messages.id = asked.id)
"""
_CHUNK: Final = 20_000
_SECONDS: Final = 30.0


async def missing(connection: Connection, ids: Iterable[str]) -> list[str]:
    """Ids that the database of this connection does not have."""
    wanted = list(ids)
    found: list[str] = []
    for first in range(0, len(wanted), _CHUNK):
        rows = await connection.rows(_MISSING, wanted[first : first + _CHUNK], seconds=_SECONDS)
        found.extend(row["id"] for row in rows)
    return found


def lost_messages(folder: LabFolder, database: Database) -> Sequence[str]:
    """Acknowledged messages that the present primary lacks. Raises `LabError` when no primary answers."""
    return asyncio.run(_lost(folder, database))


async def _lost(folder: LabFolder, database: Database) -> list[str]:
    ids = ledger.acknowledged(ledger.read_ledger(folder.ledger))
    found = await find_primary(database, "lab-report")
    if found is None:
        raise LabError("lab-no-primary", "no PostgreSQL takes writes", "evac lab status")
    _, connection = found
    try:
        return await missing(connection, ids)
    except Failures as error:
        raise LabError("lab-no-primary", f"the primary does not answer: {type(error).__name__}") from error
    finally:
        connection.end()
