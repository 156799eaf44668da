"""A rule set as SQL of another database, so that amounts are computed where the accounts are.

The text is the one that recomputes every ledger (`credit.sql`), with windows and billing cycles written into
it, so that the database needs a table `accounts` and nothing else. SQLGlot writes it in a dialect; quotients,
wide numbers and what a dialect has no word for are replaced here. Each text is parsed again before it is
handed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, get_args

import sqlglot
from sqlglot import exp

from evac.credit import sql
from evac.credit.rules import RuleSet
from evac.credit.windows import Cycle, Window, cycle_of
from evac.model.errors import EvacError, InvalidInput

Dialect = Literal["bigquery", "duckdb", "postgres", "redshift", "snowflake", "spark", "trino"]
DIALECTS: Final[tuple[Dialect, ...]] = get_args(Dialect)
_WIDE: Final[Mapping[Dialect, str]] = MappingProxyType({"bigquery": "BIGNUMERIC", "duckdb": "HUGEINT"})
"""A type of 38 digits; elsewhere DECIMAL(38, 0)."""
_WHOLE_QUOTIENT: Final[Mapping[Dialect, str]] = MappingProxyType({"bigquery": "DIV", "postgres": "DIV"})
"""A function for it."""


def statement(rules: RuleSet, windows: Sequence[Window], dialect: Dialect, table: str = "accounts") -> str:
    """One SELECT with a row for each line of the ledger, in the columns `credit.sql.COMPARED`.

    table: where the accounts are, with the columns of an accounts file. Raises InvalidInput, EvacError.
    """
    if not windows:
        raise InvalidInput("windows-missing", "without an outage window no line is due", "add a window")
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
    except sqlglot.errors.ParseError as error:  # of a release of SQLGlot that writes what it cannot read
        words = str(error).splitlines()[0][:160]
        raise EvacError(
            "sql-unreadable", f"the {dialect} text cannot be read again: {words}", "report it"
        ) from error
    return made


def cycles_of(rules: RuleSet, windows: Sequence[Window]) -> list[Cycle]:
    """Every month that a window touches."""
    first = rules.zone.local(min(w.from_ms for w in windows))
    last = rules.zone.local(max(w.to_ms for w in windows))
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [cycle_of(f"{month // 12:04}-{month % 12 + 1:02}", rules.zone) for month in months]


def _rewrite(tree: exp.Expr, dialect: Dialect) -> None:
    """In place, what the dialect has no word for; the innermost expression first."""
    ordering = sqlglot.Dialect.get_or_raise(dialect).NULL_ORDERING
    for node in tree.find_all(exp.Ordered):  # no column holds a null, so the order of nulls needs no words
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
    """Of whole numbers that are not negative. Where no operator gives it for 38 digits, what is divided is a
    multiple, so that nothing is rounded.
    """
    if dialect in _WHOLE_QUOTIENT:
        return exp.func(_WHOLE_QUOTIENT[dialect], a, b, dialect=dialect)
    rest = exp.paren(exp.Sub(this=exp.paren(a), expression=exp.func("MOD", a.copy(), b.copy())))
    return exp.Div(this=rest, expression=exp.paren(b), typed=True, safe=False)
