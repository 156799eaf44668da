"""Accounts out of a PostgreSQL database, row by row through a cursor of the server, into a Parquet file.

Only the columns of an accounts file are asked for, so names and addresses never leave the database. The
password is named by a reference and is in no message. The session is read-only.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import polars as pl

from evac.app.credit.case import writing
from evac.app.credit.intake import NEEDED
from evac.credit.columns import KEY, ROWS
from evac.model.errors import EvacError, InvalidInput
from evac.net.secrets import resolve, scrub

ROWS_AT_ONCE: Final = 50_000
"""Rows in memory, whatever the table holds."""
ANSWER_S: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Database:
    """Where the accounts are."""

    host: str
    port: int
    name: str
    user: str
    password: str
    """A reference, such as env:NAME or file:/path."""

    def __str__(self) -> str:
        return f"database {self.name} at {self.host}:{self.port}"


def fetch(database: Database, table: str, target: Path) -> int:
    """How many rows `target` holds now; sorted, so that the same rows give the same file.

    Raises InvalidInput, Permanent for a reference that names nothing, EvacError.
    """
    if not _NAME.fullmatch(table):
        hint = "name a table or a view, such as billing.accounts"
        raise InvalidInput("table-invalid", f"'{table[:80]}' is not the name of a table", hint)
    secret = resolve(database.password)
    try:
        return asyncio.run(_fetch(database, secret.reveal(), table, target))
    except asyncpg.UndefinedTableError as error:
        words = f"{database} has no table {table}"
        raise InvalidInput("table-unknown", words, "name a table or a view") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ConnectionError) as error:
        words = scrub(str(error).partition("\n")[0][:160] or "no answer in time", [secret])
        hint = "check host, user, password and rights, then run the same command"
        raise EvacError("accounts-unavailable", f"{database} gives no accounts: {words}", hint) from error


async def _fetch(database: Database, password: str, table: str, target: Path) -> int:
    link = await asyncpg.connect(
        host=database.host,
        port=database.port,
        database=database.name,
        user=database.user,
        password=password,
        timeout=ANSWER_S,
    )
    try:
        async with link.transaction(isolation="repeatable_read", readonly=True):
            names = await _columns(link, table)
            with writing(target):
                return await _copied(link, table, names, target)
    finally:
        await link.close(timeout=ANSWER_S)


async def _columns(link: Any, table: str) -> list[str]:
    """Those of an accounts file that the table has. Raises InvalidInput where one is missing."""
    statement = await link.prepare(f"SELECT * FROM {table} LIMIT 0")
    there = {attribute.name for attribute in statement.get_attributes()}
    missing = [name for name in NEEDED if name not in there]
    if missing:
        hint = f"make a view with the columns {', '.join(NEEDED)}"
        raise InvalidInput("column-missing", f"{table} has no column {', '.join(missing)}", hint)
    return [name for name in ROWS.names() if name in there]


async def _copied(link: Any, table: str, names: list[str], target: Path) -> int:
    """Values come as text, and are checked when the ledger is computed: no fee is rounded on the way."""
    columns = ", ".join(f"CAST({name} AS text) AS {name}" for name in names)
    order = ", ".join(f'CAST({name} AS text) COLLATE "C"' for name in KEY)
    schema = pl.Schema({name: pl.String() for name in names})
    target.parent.mkdir(parents=True, exist_ok=True)
    count, rows = 0, list[tuple[Any, ...]]()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:

        def keep() -> None:
            frame = pl.DataFrame(rows, schema, orient="row")
            frame.write_parquet(Path(folder) / f"{count:012}.parquet")
            rows.clear()

        cursor = link.cursor(f"SELECT {columns} FROM {table} ORDER BY {order}", prefetch=ROWS_AT_ONCE)
        async for record in cursor:
            rows.append(tuple(record))
            count += 1
            if len(rows) == ROWS_AT_ONCE:
                keep()
        if rows:
            keep()
        if not count:
            raise InvalidInput("accounts-missing", f"{table} has no row", "name another table or view")
        whole = Path(folder) / "whole"
        pl.scan_parquet(Path(folder) / "*.parquet").sink_parquet(whole, compression="zstd")
        whole.replace(target)
    return count
