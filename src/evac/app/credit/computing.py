"""A ledger by partition: computed, recomputed by a second engine, sampled, stored; and simulations with other
rules or longer outages.

A partition is complete once its marker (`part-NNNN.json`), which is written last, exists. So an interrupted
computation resumes without duplicate or missing lines.

A simulation records nothing and uses one engine: a decision needs a ledger, on which two engines must agree.
For a database that holds the accounts, rules and windows compile to one SQL statement.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import duckdb
import orjson
import polars as pl
import sqlglot
from sqlglot import exp

from evac.app.credit import intake
from evac.app.credit.case import Case, write_once, writing
from evac.app.credit.showing import ledger_rules
from evac.credit import columns, sql
from evac.credit.exact import Account, lines_of
from evac.credit.ledger import (
    ENVELOPE_SUMS,
    TOTAL_FIELDS,
    TOTAL_SUMS,
    Total,
    envelope,
    judged,
    line_id,
    summed,
)
from evac.credit.rules import MONEY, Rule, RuleSet
from evac.credit.windows import Cycle, Window, Windows, cycle_of
from evac.model.digest import canonical_json, digest
from evac.model.errors import EvacError, InvalidInput

SCHEMA_VERSION: Final = 1
LARGEST: Final = 10
SAMPLED: Final = 100
"""Rows of each partition that are recomputed with exact fractions."""
_FORMAT: Final = "evac credit ledger 2"
Progress = Callable[[int, int], None]
Dialect = Literal["bigquery", "duckdb", "postgres", "redshift", "snowflake", "spark", "trino"]
_WIDE: Final[Mapping[Dialect, str]] = MappingProxyType({"bigquery": "BIGNUMERIC", "duckdb": "HUGEINT"})
"""Type with 38 digits by dialect; default DECIMAL(38, 0)."""
_WHOLE_QUOTIENT: Final[Mapping[Dialect, str]] = MappingProxyType({"bigquery": "DIV", "postgres": "DIV"})
"""Integer division function by dialect."""


class LedgersDiffer(EvacError):
    """Two engines disagree on a line. Nothing of the partition was stored."""


def compute(
    case: Case,
    rules: RuleSet,
    windows: Windows,
    accounts: str,
    partitions: int,
    progress: Progress = lambda done, of: None,
) -> dict[str, Any]:
    """Compute the ledger; return its document, whose digest people approve. Call it under `case.changing`.

    accounts: digest of `intake.take_in`. Raises LedgersDiffer, EvacError.
    """
    about = {"format": _FORMAT, "rules": rules.digest, "windows": windows.digest, "accounts": accounts}
    id = hashlib.sha256(canonical_json(about)).hexdigest()[:16]
    folder = case.folder / "ledgers" / id
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "ledger.json"
    if not made.exists():
        now = windows.now
        for number in range(partitions):
            if not _mark(folder, number).exists():
                _part(folder, number, rules, now, intake.partition(case, accounts, number))
            progress(number + 1, partitions)
        document = _document(folder, partitions, rules, windows, about | {"id": id})
        kept = case.folder / "rules" / f"{rules.digest.removeprefix('sha256:')}.json"
        write_once(kept, canonical_json(rules.to_data()) + b"\n")
        write_once(made, canonical_json(document) + b"\n")
    found: dict[str, Any] = orjson.loads(made.read_bytes())
    return found


def settle(
    case: Case,
    rules: RuleSet,
    sources: Sequence[Path],
    who: str,
    now_ms: int,
    partitions: int = 0,
    progress: Progress = lambda done, of: None,
    rules_from: str = "",
) -> dict[str, Any]:
    """Take in accounts, compute the ledger, and record it as the current one.

    rules_from: file or name of the rules, which the next command repeats. Raises the errors of
    `intake.take_in` and `compute`.
    """
    with case.changing():
        windows = case.windows()
        claims = judged(rules, windows.now, case.claims(), case.decisions())
        accounts, count = intake.take_in(case, sources, partitions, claims)
        document = compute(case, rules, windows, accounts, count, progress)
        made = [entry.data["ledger"] for entry in case.entries() if entry.kind == "computed"]
        if made[-1:] != [document["ledger"]]:
            data = {"ledger": document["ledger"], "digest": ledger_digest(document)}
            files = {"rules_from": rules_from, "accounts_from": [str(source) for source in sources]}
            case.record("computed", now_ms, who, data | files)
    return document


def ledger_digest(document: dict[str, Any]) -> str:
    """The digest that an approval names."""
    return digest(document)


def _mark(folder: Path, number: int) -> Path:
    return folder / f"part-{number:04}.json"


def part_file(folder: Path, number: int) -> Path:
    """Path of the lines of a partition."""
    return folder / f"part-{number:04}.parquet"


def _part(
    folder: Path, number: int, rules: RuleSet, windows: Sequence[Window], files: Sequence[Path]
) -> None:
    count, rows = read_rows(rules, windows, files)
    lines = columns.ledger(rules, windows, rows)
    target = part_file(folder, number)
    draft = target.with_name(f".{target.name}.draft")
    with writing(target):
        try:
            lines.write_parquet(draft, compression="lz4")
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            if files:
                recompute(rules, windows, files, draft)
            _sample(rules, windows, files, count, lines)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    sited = [window.service for window in windows if window.site]
    unplaced = rows.filter(pl.col("service").is_in(sited) & (pl.col("site") == "")).height if sited else 0
    write_once(_mark(folder, number), canonical_json(_facts(lines, count) | {"unplaced": unplaced}))


def read_rows(rules: RuleSet, windows: Sequence[Window], files: Sequence[Path]) -> tuple[int, pl.DataFrame]:
    """(total rows, rows of services that a rule can pay for)."""
    if not files:
        return 0, pl.DataFrame(schema=columns.ROWS)
    frame = pl.scan_parquet(list(files))
    services = columns.concerned(rules, windows, {window.service for window in windows})
    count = frame.select(pl.len()).collect().item()
    return count, frame.filter(pl.col("service").is_in(services)).collect()


def recompute(rules: RuleSet, windows: Sequence[Window], files: Sequence[Path], ledger: Path) -> None:
    """Raise LedgersDiffer, with the line, unless DuckDB computes the same lines from the accounts."""
    listed = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    with duckdb.connect(config={"memory_limit": "2GB", "threads": os.cpu_count() or 1}) as link:
        link.execute("SET preserve_insertion_order = false")
        link.execute(f"CREATE VIEW accounts AS SELECT * FROM read_parquet([{listed}])")
        link.execute(
            "CREATE TABLE windows (service TEXT, site TEXT, kind TEXT, from_ms BIGINT, to_ms BIGINT)"
        )
        for window in windows:
            values = [window.service, window.site, window.kind, window.from_ms, window.to_ms]
            link.execute("INSERT INTO windows VALUES (?, ?, ?, ?, ?)", values)
        names = ", ".join(sql.COMPARED)
        path = str(ledger).replace("'", "''")
        link.execute(f"CREATE VIEW kept AS SELECT {names} FROM read_parquet('{path}')")
        sums = f"SELECT count(*), sum(CAST(hash({names}) AS HUGEINT)), bit_xor(hash({names})) FROM"
        try:
            again = link.execute(f"{sums} ({sql.statement(rules, wide=False)})").fetchall()
        except duckdb.OutOfRangeException:  # a product does not fit: retry with twice the digits
            again = link.execute(f"{sums} ({sql.statement(rules)})").fetchall()
        if again == link.execute(f"{sums} kept").fetchall():
            return
        link.execute(f"CREATE TABLE again AS {sql.statement(rules)}")
        found = link.execute(
            f"(SELECT 'second engine', {names} FROM (SELECT * FROM again EXCEPT ALL SELECT * FROM kept)) "
            f"UNION ALL (SELECT 'ledger', {names} FROM (SELECT * FROM kept EXCEPT ALL SELECT * FROM again)) "
            "ORDER BY 2, 3, 4, 5, 1 LIMIT 4"
        ).fetchall()
    raise _differ(found)


def _differ(found: Sequence[tuple[Any, ...]]) -> LedgersDiffer:
    words = "; ".join(
        f"{row[0]}: account {row[1]}, {row[2]} {row[3]}, rule {row[4]}: "
        f"{row[5]} {row[6]} {row[7]}, tax {row[9]}"
        for row in found
    )
    hint = "nothing was saved; report this, with the rules and one such row"
    return LedgersDiffer("ledgers-differ", f"the two engines disagree: {words}", hint)


def _sample(
    rules: RuleSet, windows: Sequence[Window], files: Sequence[Path], count: int, lines: pl.DataFrame
) -> None:
    """Some rows from four places of the partition."""
    if not files:
        return
    frame, size = pl.scan_parquet(list(files)), SAMPLED // 4
    starts = sorted({count * part // 4 for part in range(4)})
    some = pl.concat([frame.slice(start, size).collect() for start in starts]).unique(columns.KEY)
    names = columns.ROWS.names()
    key = list(columns.KEY)
    kept = lines.join(some.select(key), on=key, how="semi").select(sql.COMPARED).rows()
    exact = [
        tuple(getattr(line, name) for name in sql.COMPARED)
        for row in some.select(names).iter_rows()
        for line in lines_of(rules, windows, Account(*row))
    ]
    if sorted(kept) != sorted(exact):
        wrong = sorted(set(kept) ^ set(exact))[:4]
        raise _differ([("ledger" if row in kept else "fractions", *row) for row in wrong])


def _facts(lines: pl.DataFrame, rows: int) -> dict[str, Any]:
    """Totals of a partition for the document."""
    by = [name for name in TOTAL_FIELDS if name not in ("lines", *TOTAL_SUMS)]
    each = lines.group_by([*by, "rule"]).agg(
        pl.len().alias("lines"),
        pl.col("amount", "quantity", "tax").sum(),
        columns.tax_on_top().sum(),
    )
    sums = each.group_by(by).agg(pl.col("lines", *TOTAL_SUMS).sum())
    money = lines.filter(pl.col("kind").is_in(list(MONEY)))
    shown = ["account", "service", "cycle", "rule", "kind", "amount", "currency", "fee", "plan"]
    least = money.get_column("amount").top_k(LARGEST).min()
    largest = (
        money.filter(pl.col("amount") >= (least or 0))
        .sort(["amount", *columns.KEY], descending=[True, False, False, False])
        .head(LARGEST)
    )
    by_rule = each.group_by("rule", "kind", "currency").agg(pl.col(ENVELOPE_SUMS).sum())
    return {
        "rows": rows,
        "lines": len(lines),
        "totals": sums.select(TOTAL_FIELDS).sort(by).to_dicts(),
        "rules": by_rule.sort("rule", "kind", "currency").to_dicts(),
        "largest": largest.select(shown).to_dicts(),
        "accounts": lines.get_column("account").n_unique(),
    }


def _document(
    folder: Path, partitions: int, rules: RuleSet, windows: Windows, about: dict[str, Any]
) -> dict[str, Any]:
    marks = [orjson.loads(_mark(folder, number).read_bytes()) for number in range(partitions)]
    totals = [one.to_data() for one in summed(Total(**row) for mark in marks for row in mark["totals"])]
    largest = sorted(
        (row for mark in marks for row in mark["largest"]),
        key=lambda row: (-row["amount"], row["account"], row["service"], row["cycle"]),
    )
    for row in largest:
        row["id"] = line_id(rules.digest, row["rule"], row["account"], row["service"], row["cycle"])
    by_rule: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in (row for mark in marks for row in mark["rules"]):
        key = (row["rule"], row["kind"], row["currency"])
        old = by_rule.setdefault(key, row | dict.fromkeys(ENVELOPE_SUMS, 0))
        for name in ENVELOPE_SUMS:
            old[name] += row[name]
    without_window = list(_without_window(rules.rules, windows))
    return {
        "kind": "evac-credit-ledger",
        "schema_version": SCHEMA_VERSION,
        "ledger": about["id"],
        "rules": {"id": rules.id, "title": rules.title, "digest": rules.digest},
        "windows": {
            "version": windows.version,
            "digest": windows.digest,
            "list": [window.to_data() for window in windows.now],
        },
        "accounts": {
            "digest": about["accounts"],
            "rows": sum(mark["rows"] for mark in marks),
            "credited": sum(mark["accounts"] for mark in marks),
            "unplaced": sum(mark.get("unplaced", 0) for mark in marks),
        },
        "partitions": partitions,
        "lines": sum(mark["lines"] for mark in marks),
        "totals": totals,
        "envelope": envelope(totals),
        "by_rule": [by_rule[key] for key in sorted(by_rule)],
        "largest": largest[:LARGEST],
        "without_window": without_window,
        "without_line": [
            rule.id
            for rule in rules.rules
            if rule.id not in without_window and not any(rule.id == key[0] for key in by_rule)
        ],
    }


def _without_window(rules: Sequence[Rule], windows: Windows) -> Iterator[str]:
    """Rules without a window, which pay nothing in this outage."""
    for rule in rules:
        counted = [w.service for w in windows.now if w.kind not in rule.excludes]
        if not (set(counted) & set(rule.services) if rule.services else counted):
            yield rule.id


SIMULATION_VERSION: Final = 1
_BY: Final = ("tranche", "kind", "currency")
_SUMS: Final = ENVELOPE_SUMS


def simulate(
    cases: Sequence[Case], rules: RuleSet | None, earlier_ms: int = 0, later_ms: int = 0
) -> dict[str, Any]:
    """For each case, what its ledger owes and what it would owe. rules: None for those of the ledger.

    earlier_ms, later_ms: how much earlier each outage starts, or later it ends. Raises InvalidInput for a
    case without a ledger.
    """
    found = []
    for case in cases:
        ledger = case.ledger()
        used = rules or ledger_rules(case, ledger)
        windows = [_longer(window, earlier_ms, later_ms) for window in case.windows().now]
        then: dict[tuple[str, ...], list[int]] = {}
        for number in range(ledger["partitions"]):
            files = intake.partition(case, ledger["accounts"]["digest"], number)
            lines = columns.ledger(used, windows, read_rows(used, windows, files)[1])
            sums = lines.group_by(_BY).agg(
                pl.len().alias("lines"), pl.col("amount", "quantity").sum(), columns.tax_on_top().sum()
            )
            for row in sums.select(*_BY, *_SUMS).iter_rows():
                whole = then.setdefault(row[:3], [0, 0, 0, 0])
                for i, value in enumerate(row[3:]):
                    whole[i] += value
        now = {
            tuple(row[name] for name in _BY): [row.get(name, 0) for name in _SUMS]
            for row in ledger["envelope"]
        }
        found.append(
            {
                "case": case.name,
                "ledger": ledger["ledger"],
                "rules": used.id,
                "totals": [
                    dict(zip(_BY, key, strict=True))
                    | {"now": dict(zip(_SUMS, now.get(key, [0, 0, 0, 0]), strict=True))}
                    | {"then": dict(zip(_SUMS, then.get(key, [0, 0, 0, 0]), strict=True))}
                    for key in sorted(now.keys() | then.keys())
                ],
            }
        )
    return {
        "kind": "evac-credit-simulation",
        "schema_version": SIMULATION_VERSION,
        "earlier_ms": earlier_ms,
        "later_ms": later_ms,
        "cases": found,
    }


def _longer(window: Window, earlier_ms: int, later_ms: int) -> Window:
    if window.kind != "outage":
        return window
    return replace(window, from_ms=window.from_ms - earlier_ms, to_ms=window.to_ms + later_ms)


def statement(rules: RuleSet, windows: Sequence[Window], dialect: Dialect, table: str = "accounts") -> str:
    """One SELECT that returns a row for each ledger line, with the columns `credit.sql.COMPARED`.

    table: the accounts, with the columns of an accounts file. Raises InvalidInput, EvacError.
    """
    if not windows:
        raise InvalidInput("windows-missing", "without an outage window, nothing is due", "add a window")
    text = sql.statement(rules, calendar=cycles_of(rules, windows), windows=windows)
    tree = sqlglot.parse_one(text, dialect="duckdb")
    place = exp.to_table(table, dialect=dialect)
    for found in list(tree.find_all(exp.Table)):
        if found.name == "accounts":
            found.replace(exp.alias_(place.copy(), found.alias) if found.alias else place.copy())
    for cte in tree.find_all(exp.CTE):
        cte.set("materialized", None)
    _rewrite(tree, dialect)
    made = tree.sql(dialect=dialect, pretty=True)
    try:
        sqlglot.parse_one(made, dialect=dialect)
    except sqlglot.errors.ParseError as error:  # some releases of SQLGlot write what they cannot parse
        words = str(error).splitlines()[0][:160]
        raise EvacError(
            "sql-unreadable", f"the {dialect} text cannot be read back: {words}", "report it"
        ) from error
    return made


def cycles_of(rules: RuleSet, windows: Sequence[Window]) -> list[Cycle]:
    """Every month that a window overlaps."""
    first = rules.zone.local(min(w.from_ms for w in windows))
    last = rules.zone.local(max(w.to_ms for w in windows))
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [cycle_of(f"{month // 12:04}-{month % 12 + 1:02}", rules.zone) for month in months]


def _rewrite(tree: exp.Expr, dialect: Dialect) -> None:
    """Rewrite, in place and innermost first, expressions that the dialect lacks."""
    ordering = sqlglot.Dialect.get_or_raise(dialect).NULL_ORDERING
    for node in tree.find_all(exp.Ordered):  # no column is nullable, so null ordering is omitted
        descending = bool(node.args.get("desc"))
        node.set(
            "nulls_first",
            descending if ordering == "nulls_are_large" else ordering == "nulls_are_small" and not descending,
        )
    for limit in tree.find_all(exp.Least, exp.Greatest):
        limit.set("ignore_nulls", False)
    wide = exp.DataType.build(_WIDE.get(dialect, "DECIMAL(38, 0)"), dialect=dialect)
    for cast in tree.find_all(exp.Cast):
        if cast.to.is_type(exp.DType.INT128):
            cast.set("to", wide.copy())
    if dialect not in ("duckdb", "spark"):
        for quotient in reversed(list(tree.find_all(exp.IntDiv))):
            quotient.replace(_quotient(quotient.this, quotient.expression, dialect))


def _quotient(a: exp.Expr, b: exp.Expr, dialect: Dialect) -> exp.Expr:
    """Quotient of non-negative integers. If no operator supports 38 digits, the dividend is a multiple of the
    divisor, so nothing is rounded.
    """
    if dialect in _WHOLE_QUOTIENT:
        return exp.func(_WHOLE_QUOTIENT[dialect], a, b, dialect=dialect)
    rest = exp.paren(exp.Sub(this=exp.paren(a), expression=exp.func("MOD", a.copy(), b.copy())))
    return exp.Div(this=rest, expression=exp.paren(b), typed=True, safe=False)
