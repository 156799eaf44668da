"""Rules as SQL of other databases: the same lines where it is run, readable text elsewhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest

pytest.importorskip("duckdb")
pytest.importorskip("sqlglot")

import click
import duckdb
import sqlglot

from evac.app.credit import case, computing
from evac.cli import credit_command
from evac.cli.main import run
from evac.credit.rules import RuleSet
from evac.credit.windows import Window
from evac.model.errors import InvalidInput
from tests.unit.credit import random_cases
from tests.unit.credit.test_engines import by_fractions, frame

DOWN = [Window("w", "talk", 1_665_815_580_000, 1_665_815_580_000 + 89 * 60_000)]


def test_duckdb_finds_the_lines_of_random_rules(tmp_path: Path) -> None:
    rng, lines = random.Random(11), 0
    for _ in range(6):
        rules, windows = random_cases.rule_set(rng), random_cases.windows(rng)
        rows = random_cases.accounts(rng, 100)
        frame(rows).write_parquet(tmp_path / "accounts.parquet")
        with duckdb.connect() as link:
            link.execute(f"CREATE VIEW bill AS SELECT * FROM '{tmp_path / 'accounts.parquet'}'")
            found = sorted(link.execute(computing.statement(rules, windows, "duckdb", "bill")).fetchall())
        assert found == by_fractions(rules, windows, rows), rules
        lines += len(found)
    assert lines > 50


def test_the_command_offers_every_dialect() -> None:
    (offered,) = (one.type for one in credit_command.sql.params if one.name == "dialect")
    assert isinstance(offered, click.Choice)
    assert tuple(offered.choices) == get_args(computing.Dialect)


@pytest.mark.parametrize("dialect", get_args(computing.Dialect))
def test_every_dialect_can_be_read_again_and_has_no_word_of_duckdb(
    dialect: computing.Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(5)
    for rules in (case.load("kakao-2022"), random_cases.rule_set(rng)):
        text = computing.statement(rules, DOWN, dialect, "billing.accounts")
        tree = sqlglot.parse_one(text, dialect=dialect)
        tables = {table.sql(dialect=dialect) for table in tree.find_all(sqlglot.exp.Table) if table.db}
        assert len({name.split()[0] for name in tables}) == 1
        if dialect != "duckdb":
            for word in ("HUGEINT", "INT128", "//", "EPOCH", "MATERIALIZED", "IGNORE_NULLS"):
                assert word not in text.upper(), (dialect, word)
    assert not caplog.records, "SQLGlot says what it cannot translate"


def test_no_window_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without an outage window"):
        computing.statement(RuleSet("r", ()), [], "trino")


def test_the_command_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    times = "2022-10-15T15:33:00+09:00,2022-10-20T23:06:00+09:00"
    Path("windows.csv").write_text(f"id,service,from,to\nw,talk,{times}\n")
    assert run(["credit", "windows", "case", "--import", "windows.csv"]) == 0
    capsys.readouterr()
    assert run(["credit", "sql", "case", "kakao-2022", "--dialect", "snowflake", "--table", "b.a"]) == 0
    text = capsys.readouterr().out
    assert "FROM b.a" in text
    assert "1665815580000 AS from_ms" in text
