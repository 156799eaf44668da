"""Three meanings of a rule set, one result: columns, SQL and fractions agree to the last unit."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, replace

import polars as pl
import pytest

from evac.credit import columns, sql
from evac.credit.exact import Account, Line, lines_of
from evac.credit.formulas import Fixed, Money, ProRata
from evac.credit.rules import Rule, RuleSet
from evac.credit.windows import Window
from tests.unit.credit import random_cases

duckdb = pytest.importorskip("duckdb")
SETS, ACCOUNTS = 60, 200
HOUR = 3_600_000
_COMPARED = [pl.col(name) for name in sql.COMPARED]


def frame(rows: Sequence[Account]) -> pl.DataFrame:
    return pl.DataFrame([astuple(row) for row in rows], columns.ROWS, orient="row")


Rows = list[tuple[object, ...]]


def by_columns(rules: RuleSet, windows: Sequence[Window], rows: Sequence[Account]) -> Rows:
    return sorted(columns.ledger(rules, windows, frame(rows)).select(_COMPARED).rows())


def by_sql(rules: RuleSet, windows: Sequence[Window], rows: Sequence[Account], wide: bool = True) -> Rows:
    with duckdb.connect() as link, tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        frame(rows).write_parquet(file.name)
        link.execute(f"CREATE VIEW accounts AS SELECT * FROM '{file.name}'")
        link.execute(
            "CREATE TABLE windows (service TEXT, site TEXT, kind TEXT, from_ms BIGINT, to_ms BIGINT)"
        )
        for w in windows:
            values = [w.service, w.site, w.kind, w.from_ms, w.to_ms]
            link.execute("INSERT INTO windows VALUES (?, ?, ?, ?, ?)", values)
        return sorted(link.execute(sql.statement(rules, wide=wide)).fetchall())


def by_fractions(rules: RuleSet, windows: Sequence[Window], rows: Sequence[Account]) -> Rows:
    lines = [line for row in rows for line in lines_of(rules, windows, row)]
    return sorted(tuple(getattr(line, name) for name in sql.COMPARED) for line in lines)


def test_random_rules_and_accounts_give_the_same_lines_three_times() -> None:
    rng = random.Random(20221015)
    lines = 0
    for _ in range(SETS):
        rules, windows = random_cases.rule_set(rng), random_cases.windows(rng)
        rows = random_cases.accounts(rng, ACCOUNTS)
        exact = by_fractions(rules, windows, rows)
        assert by_columns(rules, windows, rows) == exact, rules
        assert by_sql(rules, windows, rows) == exact, rules
        lines += len(exact)
    assert SETS * ACCOUNTS >= 10_000
    assert lines > 3_000, "cases that give nothing prove nothing"


ROW = Account("a", "talk", "basic", 50_000, "KRW", "2022-10")
WINDOW = Window("w", "talk", 1_665_815_580_000, 1_665_815_580_000 + 89 * 60_000)


def test_in_64_bits_the_lines_are_the_same_or_refused() -> None:
    rng, same, refused = random.Random(64), 0, 0
    for _ in range(30):
        rules, windows = random_cases.rule_set(rng), random_cases.windows(rng)
        rows = random_cases.accounts(rng, 40)
        try:
            found = by_sql(rules, windows, rows, wide=False)
        except duckdb.OutOfRangeException:
            refused += 1
            continue
        same += 1
        assert found == by_fractions(rules, windows, rows), rules
    assert same >= 5
    assert refused >= 5


def test_a_product_beyond_64_bits_is_exact() -> None:
    rules = RuleSet("r", (Rule("r", ProRata(10_000), ("talk",)),))
    rich = replace(ROW, fee=2**53 - 1)
    exact = by_fractions(rules, [WINDOW], [rich])
    assert 2 * rich.fee * 10 * 89 * 60_000 > 2**63
    assert by_columns(rules, [WINDOW], [rich]) == by_sql(rules, [WINDOW], [rich]) == exact
    with pytest.raises(duckdb.OutOfRangeException):
        by_sql(rules, [WINDOW], [rich], wide=False)


def test_overlapping_windows_pay_for_a_minute_once() -> None:
    rules = RuleSet("r", (Rule("r", ProRata(10_000), ("talk",)),))
    twice = [WINDOW, replace(WINDOW, id="x", site="pangyo", from_ms=WINDOW.from_ms + HOUR)]
    once = by_columns(rules, [replace(WINDOW, to_ms=twice[1].to_ms)], [replace(ROW, site="pangyo")])
    assert by_columns(rules, twice, [replace(ROW, site="pangyo")]) == once
    assert by_columns(rules, twice, [ROW]) == by_columns(rules, [WINDOW], [ROW])


def test_of_equal_amounts_the_first_rule_counts() -> None:
    pays = [Rule(name, Fixed(Money(500, "KRW")), ("talk",)) for name in ("first", "second")]
    for overlap, names in (("max", ["first"]), ("sum", ["first", "second"])):
        rules = RuleSet("r", tuple(pays), overlap=overlap)  # type: ignore[arg-type]
        found = by_columns(rules, [WINDOW], [ROW])
        assert [row[3] for row in found] == names
        assert by_sql(rules, [WINDOW], [ROW]) == by_fractions(rules, [WINDOW], [ROW]) == found


def test_no_window_gives_no_line() -> None:
    rules = RuleSet("r", (Rule("r", Fixed(Money(500, "KRW")), ("talk",)),))
    assert by_columns(rules, [], [ROW]) == by_sql(rules, [], [ROW]) == []


def test_a_line_says_what_it_is_for() -> None:
    rules = RuleSet("r", (Rule("r", ProRata(10_000), ("talk",)),))
    (line,) = lines_of(rules, [WINDOW], replace(ROW, tax_bp=1_000))
    assert line == Line("a", "talk", "2022-10", "r", "balance", 997, "KRW", 0, 91, "due", "paying")
