"""Import accounts from PostgreSQL, Parquet and CSV into checked partitions by a hash of the account.

All rows of an account are in one partition, so partitions can be computed independently. Only known columns
are read: names, addresses and everything else in a file stay where they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import polars as pl

from evac.app.credit.case import Case, write_once, writing
from evac.credit.columns import KEY, ROWS
from evac.credit.ledger import Judged
from evac.drivers.postgres.link import PostgresConnection
from evac.estate.format.problems import shown
from evac.model.diagnostic import Diagnostic, Place
from evac.model.digest import canonical_json
from evac.model.errors import EstateError, EvacError, InvalidInput
from evac.model.records import dataclass
from evac.model.units import QUANTITY_LIMIT
from evac.net.secrets import resolve, scrub
from evac.views.words import listed

NEEDED: Final = ("account", "service", "plan", "fee", "currency", "cycle")
_OTHERWISE: Final = {
    "site": "",
    "region": "",
    "channel": "",
    "used": True,
    "tax_bp": 0,
    "tax_included": True,
    "claimed": 0,
    "invoice": "",
    "invoice_line": "",
    "granted": 0,
}
_FORMAT: Final = "evac credit accounts 2"
_CLAIMED: Final = ("claimed", "granted")
"""Columns that claims fill."""
PARTITION_ROWS: Final = 1_500_000
LISTED_MOST: Final = 20
_TRUE: Final = ("true", "t", "yes", "y", "1")
_FALSE: Final = ("false", "f", "no", "n", "0")
HASH_SEED: Final = 20221015
ROWS_AT_ONCE: Final = 50_000
"""Rows in memory, whatever the size of the table."""
ANSWER_S: Final = 60.0
_UNAVAILABLE: Final = (
    *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    *(TimeoutError, ConnectionError, AttributeError),
)
"""What reading from a database raises; the last, if the server greets with nonsense."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?", re.ASCII)


def take_in(
    case: Case, sources: Sequence[Path], partitions: int = 0, claims: Sequence[Judged] = ()
) -> tuple[str, int]:
    """(digest, partitions) of the accounts, including what claims add. Repeating the call changes nothing.

    partitions 0: as many as the rows need. Raises EstateError with every problem, file and line.
    """
    files = _files(sources)
    added = _added(claims)
    digest = _digest(files, added)
    folder = case.folder / "accounts" / digest
    mark = folder / "accounts.json"
    if mark.exists():
        return digest, int(orjson.loads(mark.read_bytes())["partitions"])
    frames = [_scan(file) for file in files]
    problems = [found for file, frame in zip(files, frames, strict=True) for found in _bad_rows(file, frame)]
    if problems:
        raise EstateError(tuple(problems), "accounts")
    with writing(folder):
        rows = sum(frame.select(pl.len()).collect().item() for frame in frames)
        count = partitions or max(1, -(-rows // PARTITION_ROWS))
        shutil.rmtree(folder, ignore_errors=True)
        draft = folder.with_name(f".{digest}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        whole = pl.concat([frame.select(ROWS.names()) for frame in frames])
        unknown: list[str] = []
        if added:
            table = pl.DataFrame(added, {name: ROWS[name] for name in (*KEY, *_CLAIMED)}).lazy()
            rows_of_claims = table.join(whole.select(KEY), on=KEY, how="anti").select("account")
            unknown = sorted(rows_of_claims.collect(engine="streaming").get_column("account"))
            whole = _with_claims(whole, table)
        part = (pl.col("account").hash(HASH_SEED) % count).alias("part")
        whole.with_columns(part).sink_parquet(
            pl.PartitionBy(draft, key="part", include_key=False), mkdir=True, maintain_order=True
        )
        wrong = [found for number in range(count) for found in _contradictions(draft, number)]
        if wrong:
            shutil.rmtree(draft)
            raise EstateError(_located(wrong[:LISTED_MOST], files, frames), "accounts")
        draft.replace(folder)
    about = {"partitions": count, "rows": rows, "files": [f.name for f in files], "claims_unknown": unknown}
    write_once(mark, canonical_json(about))
    return digest, count


def _added(claims: Sequence[Judged]) -> list[dict[str, Any]]:
    """One row for each account, service and cycle: of several claims at most one counts, whatever was refused
    or late before it.
    """
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in (one.row for one in claims if one.state not in ("twice", "no-rule")):
        key = tuple(row[name] for name in KEY)
        if key not in rows or row["claimed"]:
            rows[key] = row
    return list(rows.values())


def _with_claims(whole: pl.LazyFrame, table: pl.LazyFrame) -> pl.LazyFrame:
    """Values from a claim replace those in the accounts."""
    joined = whole.join(table, on=KEY, how="left", suffix="_added", maintain_order="left")
    both = [pl.coalesce(f"{name}_added", name).alias(name) for name in _CLAIMED]
    return joined.with_columns(both).select(ROWS.names())


def unknown_claims(case: Case, digest: str) -> list[str]:
    """Accounts of claims that are in no row of the imported accounts."""
    mark = case.folder / "accounts" / digest / "accounts.json"
    found: list[str] = orjson.loads(mark.read_bytes()).get("claims_unknown", [])
    return found


def partition(case: Case, digest: str, number: int) -> list[Path]:
    """The files of one partition, possibly none."""
    return sorted((case.folder / "accounts" / digest / f"part={number}").glob("*.parquet"))


def _files(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = [path for ending in ("parquet", "csv") for path in source.glob(f"*.{ending}")]
            if not inside:
                raise InvalidInput("accounts-missing", f"{source} has no Parquet or CSV file", "give a file")
            found += sorted(inside)
        elif not source.is_file():
            raise InvalidInput("accounts-missing", f"no such file: {source}", "give Parquet or CSV files")
        else:
            found.append(source)
    return found


def _digest(files: Sequence[Path], claims: Sequence[dict[str, Any]]) -> str:
    """Digest of the format, names, bytes, and what claims add."""
    state = hashlib.sha256(canonical_json({"format": _FORMAT, "claims": list(claims)}))
    for file in files:
        with file.open("rb") as stream:
            state.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return state.hexdigest()[:32]


def _scan(file: Path) -> pl.LazyFrame:
    """The known columns with their types; invalid values become null. `row` counts from 0."""
    try:
        if file.suffix == ".csv":
            with file.open("rb") as stream:
                stream.seek(0, 2)
                if stream.tell():
                    stream.seek(-1, 2)
                    if stream.read(1) != b"\n":
                        raise _cut(file, "its last line is incomplete")
            frame = pl.scan_csv(file, infer_schema=False, row_index_name="row", missing_columns="raise")
        else:
            frame = pl.scan_parquet(file, row_index_name="row")
        names = frame.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise _cut(file, str(error).splitlines()[0][:120]) from error
    missing = [name for name in NEEDED if name not in names]
    if missing:
        hint = f"columns: {', '.join(NEEDED)}; optional: {', '.join(_OTHERWISE)}"
        raise InvalidInput("column-missing", f"{file.name} has no column {', '.join(missing)}", hint)
    return frame.select("row", *(_column(name, names) for name in ROWS.names()))


def _cut(file: Path, why: str) -> EvacError:
    hint = "the file may have been cut off while it was copied: copy it again"
    return InvalidInput("accounts-unreadable", f"{file.name} cannot be read completely: {why}", hint)


def _column(name: str, names: pl.Schema) -> pl.Expr:
    kind = ROWS[name]
    if name not in names:
        return pl.lit(_OTHERWISE[name], kind).alias(name)
    column = pl.col(name)
    if isinstance(kind, pl.Boolean) and names[name] == pl.String:
        lower = column.str.to_lowercase()
        column = pl.when(lower.is_in(list(_TRUE))).then(True).when(lower.is_in(list(_FALSE))).then(False)
    elif isinstance(kind, pl.Int64) and names[name].is_float():
        column = pl.lit(None, kind)
    cast = column.cast(kind, strict=False)
    if name in _OTHERWISE:
        empty = pl.col(name).is_null() | (pl.col(name).cast(pl.String, strict=False) == "")
        cast = pl.when(empty).then(pl.lit(_OTHERWISE[name], kind)).otherwise(cast)
    return cast.alias(name)


_MONTH: Final = "^[0-9]{4}-(0[1-9]|1[0-2])$"


def _outside(name: str, most: int) -> pl.Expr:
    return pl.col(name).is_null() | ~pl.col(name).is_between(0, most)


_CHECKS: Final[Sequence[tuple[str, str, pl.Expr]]] = (
    *(
        ("cell-missing", f"{name} is missing", pl.col(name).is_null() | (pl.col(name) == ""))
        for name in ("account", "service", "plan", "cycle")
    ),
    ("fee-invalid", "fee is not a whole number of minor units", pl.col("fee").is_null()),
    ("fee-negative", "fee is negative", pl.col("fee") < 0),
    ("fee-too-large", "fee is more than 2^53 minor units", pl.col("fee") > QUANTITY_LIMIT),
    (
        "currency-invalid",
        "currency is not a code like KRW",
        ~pl.col("currency").str.contains("^[A-Z]{3}$"),
    ),
    ("currency-invalid", "currency is missing", pl.col("currency").is_null()),
    ("cycle-invalid", "cycle is not a month such as 2022-10", ~pl.col("cycle").str.contains(_MONTH)),
    ("claimed-invalid", "claimed is not an amount", _outside("claimed", QUANTITY_LIMIT)),
    ("claimed-invalid", "granted is not an amount", _outside("granted", QUANTITY_LIMIT)),
    ("used-invalid", "used is neither yes nor no", pl.col("used").is_null()),
    ("tax-invalid", "tax_included is neither yes nor no", pl.col("tax_included").is_null()),
    ("tax-invalid", "tax_bp is not between 0 and 10000", _outside("tax_bp", 10_000)),
)


def _bad_rows(file: Path, frame: pl.LazyFrame) -> list[Diagnostic]:
    """Each bad row with its line in a CSV file, or its row number."""
    flags = [check.fill_null(False).alias(f"bad{i}") for i, (_, _, check) in enumerate(_CHECKS)]
    names = [f"bad{i}" for i in range(len(_CHECKS))]
    try:
        marked = frame.with_columns(flags).filter(pl.any_horizontal(names))
        found = marked.select("row", "account", *names).head(LISTED_MOST).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise _cut(file, str(error).splitlines()[0][:120]) from error
    problems = []
    for row in found.iter_rows(named=True):
        for i, (code, words, _) in enumerate(_CHECKS):
            if row[f"bad{i}"]:
                message = f"{words} (account {shown(row['account'] or '')})"
                hint = "correct the row, or remove it"
                problems.append(Diagnostic(code, message, _place(file, row["row"]), hint=hint))
    return problems


@dataclass(frozen=True, slots=True)
class _Contradiction:
    code: str
    message: str
    hint: str
    account: str
    row: tuple[str, str] | None = None
    """Service and cycle; None: all rows of the account."""


def _contradictions(folder: Path, number: int) -> Iterator[_Contradiction]:
    """Accounts with a duplicate service and cycle, or with two currencies."""
    files = sorted((folder / f"part={number}").glob("*.parquet"))
    if not files:
        return
    rows = pl.read_parquet(files, columns=[*KEY, "currency"])
    if rows.select(pl.struct(KEY).n_unique()).item() != len(rows):
        twice = rows.group_by(KEY).len().filter(pl.col("len") > 1).sort(KEY)
        for account, service, cycle, count in twice.head(LISTED_MOST).iter_rows():
            message = f"account {shown(account)} has {count} rows for {service} in {cycle}"
            hint = "keep one row for each"
            yield _Contradiction("account-twice", message, hint, account, (service, cycle))
    if rows.get_column("currency").n_unique() > 1:
        several = rows.group_by("account").agg(pl.col("currency").unique().sort())
        several = several.filter(pl.col("currency").list.len() > 1).sort("account")
        for account, found in several.head(LISTED_MOST).iter_rows():
            message = f"account {shown(account)} has {len(found)} currencies: {', '.join(found)}"
            hint = "use a separate account for each currency"
            yield _Contradiction("currencies-several", message, hint, account)


def _located(
    wrong: Sequence[_Contradiction], files: Sequence[Path], frames: Sequence[pl.LazyFrame]
) -> tuple[Diagnostic, ...]:
    """Locate each problem at its first row, naming the others; makes one more pass over the files."""
    accounts = [one.account for one in wrong]
    rows: dict[str, list[tuple[tuple[str, str], Place]]] = {}
    for file, frame in zip(files, frames, strict=True):
        some = frame.filter(pl.col("account").is_in(accounts)).select("account", "service", "cycle", "row")
        for account, service, cycle, row in some.collect(engine="streaming").sort("row").iter_rows():
            rows.setdefault(account, []).append(((service, cycle), _place(file, row)))
    made = []
    for one in wrong:
        first, *others = [place for key, place in rows[one.account] if one.row in (None, key)]
        more = f"; also {listed([f'{place.file}:{place.line}' for place in others])}"
        made.append(Diagnostic(one.code, one.message + more, first, hint=one.hint))
    return tuple(made)


def _place(file: Path, row: int) -> Place:
    """The line of a CSV file, or the row number."""
    return Place(file.name, row + (2 if file.suffix == ".csv" else 1), 1)


def rows_of(files: Sequence[Path], account: str) -> list[dict[str, Any]]:
    """The rows of one account."""
    if not files:
        return []
    return pl.scan_parquet(list(files)).filter(pl.col("account") == account).collect().to_dicts()


def partition_of(account: str, partitions: int) -> int:
    """The partition of an account, by the same hash as `take_in`."""
    return int(pl.Series([account]).hash(HASH_SEED).item() % partitions)


@dataclass(frozen=True, slots=True)
class Database:
    """A database with the accounts."""

    host: str
    port: int
    name: str
    user: str
    password: str
    """A reference, such as env:NAME or file:/path."""

    def __str__(self) -> str:
        return f"database {self.name} at {self.host}:{self.port}"


def fetch(database: Database, table: str, target: Path) -> int:
    """Copy the accounts to `target`, sorted so that the same rows give the same file; return the number of
    rows.

    Raises InvalidInput, Permanent for a reference that names nothing, EvacError.
    """
    if not _NAME.fullmatch(table):
        hint = "give a table or a view, such as billing.accounts"
        raise InvalidInput("table-invalid", f"'{table[:80]}' is not a table name", hint)
    secret = resolve(database.password)
    try:
        return asyncio.run(_fetch(database, secret.reveal(), table, target))
    except asyncpg.UndefinedTableError as error:
        words = f"{database} has no table {table}"
        raise InvalidInput("table-unknown", words, "give a table or a view") from error
    except _UNAVAILABLE as error:
        words = scrub(str(error).partition("\n")[0][:160] or "no answer in time", [secret])
        hint = "check host, user, password and permissions, then run the same command again"
        raise EvacError(
            "accounts-unavailable", f"cannot read accounts from {database}: {words}", hint
        ) from error


async def _fetch(database: Database, password: str, table: str, target: Path) -> int:
    link = await asyncpg.connect(
        host=database.host,
        port=database.port,
        database=database.name,
        user=database.user,
        password=password,
        timeout=ANSWER_S,
        connection_class=PostgresConnection,
    )
    try:
        async with link.transaction(isolation="repeatable_read", readonly=True):
            names = await _columns(link, table)
            with writing(target):
                return await _copied(link, table, names, target)
    finally:
        await link.close(timeout=ANSWER_S)


async def _columns(link: Any, table: str) -> list[str]:
    """The columns of an accounts file that the table has. Raises InvalidInput if a required one is
    missing.
    """
    statement = await link.prepare(f"SELECT * FROM {table} LIMIT 0")
    there = {attribute.name for attribute in statement.get_attributes()}
    missing = [name for name in NEEDED if name not in there]
    if missing:
        hint = f"create a view with the columns {', '.join(NEEDED)}"
        raise InvalidInput("column-missing", f"{table} has no column {', '.join(missing)}", hint)
    return [name for name in ROWS.names() if name in there]


async def _copied(link: Any, table: str, names: list[str], target: Path) -> int:
    """Copy values as text; they are checked when the ledger is computed, so no fee is rounded on the way."""
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
            raise InvalidInput("accounts-missing", f"{table} has no rows", "choose another table or view")
        whole = Path(folder) / "whole"
        with writing(target):
            pl.scan_parquet(Path(folder) / "*.parquet").sink_parquet(whole, compression="zstd")
            whole.replace(target)
    return count
