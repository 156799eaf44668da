"""Accounts in a real PostgreSQL: read as they are, without personal data, and credited there by SQL."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import polars as pl
import pytest
import pytest_socket

pytest.importorskip("duckdb")
pytest.importorskip("sqlglot")

from evac.app.credit import computing, intake
from evac.app.credit.case import Case
from evac.cli.main import run
from evac.credit.columns import ROWS
from evac.credit.exact import Account
from evac.drivers.postgres.link import literal
from evac_lab.process import MissingProgram
from evac_lab.servers import postgres
from evac_lab.servers.postgres import PostgresServer
from tests.contract.conftest import open_folder
from tests.contract.ports import free_port
from tests.unit.credit import random_cases
from tests.unit.credit.test_engines import by_fractions

PASSWORD = "quiet-harbour-417"
TYPES = {pl.String(): "text", pl.Int64(): "bigint", pl.Boolean(): "boolean"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    pytest_socket.enable_socket()
    with open_folder() as folder:
        try:
            made = postgres.primary(folder / "db", "127.0.0.1", free_port(), "billing", password=PASSWORD)
        except MissingProgram as error:
            pytest.skip(str(error))
        try:
            made.start()
            yield made
        finally:
            made.kill()
            pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture(autouse=True)
def sockets(server: PostgresServer) -> None:
    pytest_socket.enable_socket()


def database(server: PostgresServer, password: str = "env:BILLING_PASSWORD") -> intake.Database:
    return intake.Database(server.host, server.port, "postgres", server.user, password)


def filled(server: PostgresServer, table: str, rows: list[Account]) -> None:
    """A table with the rows, and a column that must never be read."""
    columns = ", ".join(f"{name} {TYPES[kind]}" for name, kind in ROWS.items())
    server.sql(
        f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (phone text DEFAULT '010-1234', {columns})"
    )
    values = ", ".join(
        "("
        + ", ".join(literal(value) if isinstance(value, str) else str(value) for value in astuple(row))
        + ")"
        for row in rows
    )
    server.sql(f"INSERT INTO {table} ({', '.join(ROWS.names())}) VALUES {values}")


def test_rows_are_streamed_as_they_are_without_other_columns(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_PASSWORD", PASSWORD)
    monkeypatch.setattr(intake, "ROWS_AT_ONCE", 40)
    rows = random_cases.accounts(random.Random(1), 130)
    rows = [Account(*(f"{row.account}é", *astuple(row)[1:])) for row in rows]
    filled(server, "bill", rows)
    assert intake.fetch(database(server), "bill", tmp_path / "a.parquet") == 130
    first = (tmp_path / "a.parquet").read_bytes()
    assert b"010-1234" not in first
    server.sql("CREATE TABLE other AS SELECT * FROM bill ORDER BY random()")
    intake.fetch(database(server), "public.other", tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    times = "2022-10-15T15:33:00+09:00,2022-10-20T23:06:00+09:00"
    (tmp_path / "windows.csv").write_text(f"id,service,from,to\nw,talk,{times}\n")
    assert run(["credit", "windows", str(tmp_path / "case"), "--import", str(tmp_path / "windows.csv")]) == 0
    case = Case(tmp_path / "case")
    digest, count = intake.take_in(case, [tmp_path / "a.parquet"])
    taken = pl.read_parquet(intake.partition(case, digest, 0)).select(ROWS.names()).rows()
    assert count == 1
    assert sorted(taken) == sorted(astuple(row) for row in rows)


def test_what_cannot_be_read_is_said_without_the_password(
    server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BILLING_PASSWORD", "wrong-lantern-9")
    monkeypatch.setenv("RIGHT", PASSWORD)
    server.sql("CREATE TABLE thin (account text, service text)")

    def said(table: str, password: str) -> str:
        where = [
            "--host",
            server.host,
            "--port",
            str(server.port),
            "--database",
            "postgres",
            "--user",
            server.user,
        ]
        command = ["credit", "accounts", table, "-o", str(tmp_path / "a.parquet"), "--password", password]
        assert run([*command, *where]) != 0
        return capsys.readouterr().err

    assert "[accounts-unavailable]" in said("thin", "env:BILLING_PASSWORD")
    assert "wrong-lantern-9" not in said("thin", "env:BILLING_PASSWORD")
    assert "thin has no column plan, fee, currency, cycle" in said("thin", "env:RIGHT")
    assert "has no table nowhere" in said("nowhere", "env:RIGHT")
    assert "[table-invalid]" in said("thin; DROP TABLE thin", "env:RIGHT")
    assert "wrong-lantern" not in said("thin", "wrong-lantern-9")
    assert not list(tmp_path.iterdir())


def test_postgresql_finds_the_lines_of_random_rules(server: PostgresServer) -> None:
    rng, lines = random.Random(12), 0
    for _ in range(6):
        rules, windows = random_cases.rule_set(rng), random_cases.windows(rng)
        rows = random_cases.accounts(rng, 150)
        filled(server, "accounts", rows)
        text = computing.statement(rules, windows, "postgres")
        found = server.sql(f"SELECT string_agg(t::text, ';' ORDER BY t) FROM ({text}) AS t")
        exact = by_fractions(rules, windows, rows)
        written = sorted(found.split(";")) if found else []
        assert written == sorted("(" + ",".join(str(value) for value in line) + ")" for line in exact), rules
        lines += len(exact)
    assert lines > 100
