"""Cases: accounts that are refused, ledgers that continue wherever they were killed, engines that differ."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("duckdb")

from evac.app.credit import computing, intake
from evac.app.credit.case import JOURNAL, Case, Entry, load
from evac.credit.exact import Account, lines_of
from evac.credit.windows import Window, Windows
from evac.model.errors import Corrupt, EstateError, EvacError, InvalidInput, LockHeld

HEAD = "account,service,plan,fee,currency,cycle,channel\n"
BEGIN = 1_665_815_580_000
DOWN = Windows(
    (Window("w", "melon", BEGIN, 1_666_274_400_000), Window("m", "mobile", BEGIN, BEGIN + 89 * 60_000))
)
RULES = """credit_rules: 1
id: test
zone: '+09:00'
rules:
  - {id: ten, services: [mobile], pro_rata: {times: 10}}
  - {id: days, services: [melon], days: 3, fallback: {app-store: 1500 KRW}}
"""


def refused(tmp_path: Path, text: str, name: str = "a.csv") -> list[str]:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(EstateError) as caught:
        intake.take_in(Case(tmp_path / "case"), [file])
    assert not list((tmp_path / "case" / "accounts").glob("*/accounts.json"))
    return [f"{d.place} {d.code}" for d in caught.value.diagnostics]


def test_every_bad_cell_names_its_line(tmp_path: Path) -> None:
    assert refused(
        tmp_path,
        HEAD
        + "a,melon,plus,10900,KRW,2022-10,\n"
        + "b,melon,plus,-1,KRW,2022-10,\n"
        + "c,melon,,10900,KRW,2022-10,\n"
        + "d,melon,plus,109.00,KRW,2022-10,\n"
        + "e,melon,plus,10900,won,2022-10,\n"
        + "f,melon,plus,10900,KRW,2022-13,\n"
        + "g,melon,plus,,KRW,2022-10,\n"
        + ",melon,plus,1,KRW,2022-10,\n",
    ) == [
        "a.csv:3:1 fee-negative",
        "a.csv:4:1 cell-missing",
        "a.csv:5:1 fee-invalid",
        "a.csv:6:1 currency-invalid",
        "a.csv:7:1 cycle-invalid",
        "a.csv:8:1 fee-invalid",
        "a.csv:9:1 cell-missing",
    ]


def test_yes_and_no_have_many_spellings_and_nothing_else_passes_for_a_no(tmp_path: Path) -> None:
    head = HEAD.replace("\n", ",used,tax_included\n")
    row = "melon,plus,1,KRW,2022-10,,"
    yes, no = ("true", "T", "Yes", "y", "1", ""), ("FALSE", "f", "no", "N", "0")
    bad = [f"a,{row}maybe,yes\n", f"b,{row}yes,2\n"]
    assert refused(tmp_path, head + "".join(bad)) == ["a.csv:2:1 used-invalid", "a.csv:3:1 tax-invalid"]
    file = tmp_path / "good.csv"
    file.write_text(head + "".join(f"{n:02},{row}{word},{word}\n" for n, word in enumerate(yes + no)))
    case = Case(tmp_path / "case")
    digest, _ = intake.take_in(case, [file])
    found = pl.read_parquet(intake.partition(case, digest, 0)).sort("account")
    for name in ("used", "tax_included"):
        assert found.get_column(name).to_list() == [True] * len(yes) + [False] * len(no)


def test_accounts_twice_or_with_two_currencies_are_named(tmp_path: Path) -> None:
    twice = "a,melon,plus,1,KRW,2022-10,\n" * 2
    assert refused(tmp_path, HEAD + twice) == ["a.csv:2:1 account-twice"]
    both = "a,melon,plus,1,KRW,2022-10,\na,mobile,plus,1,USD,2022-10,\n"
    assert refused(tmp_path, HEAD + both) == ["a.csv:2:1 currencies-several"]


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_parquet_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    whole = tmp_path / "a.parquet"
    accounts(200).write_parquet(whole)
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InvalidInput, match="cannot be read completely"):
        intake.take_in(Case(tmp_path / "case"), [whole])


def test_a_csv_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(HEAD + "a,melon,plus,10900,KRW,2022-10,\nb,melon,plus,109")
    with pytest.raises(InvalidInput, match="its last line is incomplete"):
        intake.take_in(Case(tmp_path / "case"), [file])
    file.write_text(HEAD.replace("plan,", "") + "a,melon,10900,KRW,2022-10,\n")
    with pytest.raises(InvalidInput, match=r"a\.csv has no column plan"):
        intake.take_in(Case(tmp_path / "case"), [file])


def accounts(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "account": [f"a{i // 2}" for i in range(count)],
            "service": [("melon", "mobile")[i % 2] for i in range(count)],
            "plan": ["basic"] * count,
            "fee": [(i * 7_919) % 100_000 for i in range(count)],
            "currency": ["KRW"] * count,
            "cycle": ["2022-10"] * count,
            "channel": [("", "app-store")[i // 2 % 5 == 0] for i in range(count)],
            "tax_bp": [1_000] * count,
            "home_address": ["never read"] * count,
        }
    )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    accounts(4_000).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "rules.yaml").write_text(RULES)
    made = Case(tmp_path / "case")
    with made.changing(create=True):
        made.record("windows", 1, "kim", {"windows": [w.to_data() for w in DOWN.recorded]})
    return made


def compute(case: Case, **more: Any) -> dict[str, Any]:
    rules = load(str(case.folder.parent / "rules.yaml"))
    digest, count = intake.take_in(case, [case.folder.parent / "a.parquet"], partitions=8)
    return computing.compute(case, rules, case.windows(), digest, count, **more)


def ledger(case: Case, document: dict[str, Any]) -> pl.DataFrame:
    return pl.read_parquet(case.folder / "ledgers" / document["ledger"] / "*.parquet")


def test_a_ledger_is_that_of_fractions_and_holds_no_personal_data(case: Case) -> None:
    document = compute(case)
    rules = load(str(case.folder.parent / "rules.yaml"))
    rows = pl.read_parquet(case.folder.parent / "a.parquet").drop("home_address")
    exact = [line for row in rows.iter_rows(named=True) for line in lines_of(rules, DOWN.now, Account(**row))]
    lines = ledger(case, document)
    assert document["lines"] == len(lines) == len(exact) > 3_000
    assert lines.get_column("amount").sum() == sum(line.amount for line in exact)
    assert sum(row["tax"] for row in document["totals"]) == sum(line.tax for line in exact) > 0
    assert sum(row["lines"] for row in document["envelope"]) == len(exact)
    assert "home_address" not in lines.columns
    assert case.folder.stat().st_mode & 0o777 == 0o700
    for file in case.folder.rglob("*"):
        assert file.is_dir() or b"never read" not in file.read_bytes()


def test_the_same_input_gives_the_same_document_and_computes_nothing_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compute(case)
    monkeypatch.setattr(computing.columns, "ledger", None)
    assert compute(case) == first
    assert computing.ledger_digest(first).startswith("sha256:")


def test_other_windows_make_another_ledger_and_keep_the_first(case: Case) -> None:
    first = compute(case)
    with case.changing():
        case.record(
            "correction",
            2,
            "lee",
            {
                "window": "m",
                "who": "lee",
                "reason": "logs",
                "at_ms": 2,
                "from_ms": None,
                "to_ms": DOWN.recorded[1].to_ms - 60_000,
                "removed": False,
            },
        )
    second = compute(case)
    assert second["ledger"] != first["ledger"]
    assert second["windows"]["version"] == 2
    assert len(ledger(case, first)) == first["lines"]


def test_engines_that_differ_stop_everything_and_name_the_line(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = computing.columns.ledger

    def one_short(*given: Any) -> pl.DataFrame:
        lines = true(*given)
        wrong = (pl.col("account") == "a1999") & (pl.col("rule") == "ten")
        return lines.with_columns(
            pl.when(wrong).then(pl.col("amount") - 1).otherwise(pl.col("amount")).alias("amount")
        )

    monkeypatch.setattr(computing.columns, "ledger", one_short)
    with pytest.raises(computing.LedgersDiffer) as caught:
        compute(case)
    assert "account a1999, mobile 2022-10, rule ten" in caught.value.message
    assert not list(case.folder.rglob("ledger.json"))
    monkeypatch.undo()
    assert compute(case)["lines"] > 3_000


def test_fractions_stop_what_both_engines_agree_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "lines_of", lambda *given: ())
    with pytest.raises(computing.LedgersDiffer, match="ledger: account"):
        compute(case)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_leaves_nothing_half_done_and_the_next_run_continues(
    case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    true, calls = pl.DataFrame.write_parquet, []

    def full(frame: pl.DataFrame, target: Any, **more: Any) -> None:
        calls.append(target)
        if len(calls) == 3:
            Path(target).write_bytes(b"half")
            raise error
        true(frame, target, **more)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(EvacError, match="No space left on device") as caught:
        compute(case)
    assert "it continues" in caught.value.hint
    assert not list(case.folder.rglob(".*.draft"))
    monkeypatch.undo()
    done = []
    document = compute(case, progress=lambda number, of: done.append((number, of)))
    assert done[-1] == (8, 8)
    assert document["lines"] == len(ledger(case, document))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from evac.app.credit import computing, intake
from evac.app.credit.case import Case, load
folder, moment = Path(sys.argv[1]), int(sys.argv[2])
seen = 0
def trace(event, arguments):
    global seen
    if event in ("open", "os.rename", "os.remove"):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
case = Case(folder / "case")
with case.changing():
    rules = load(str(folder / "rules.yaml"))
    digest, count = intake.take_in(case, [folder / "a.parquet"], partitions=8)
    windows = case.windows()
    sys.addaudithook(trace)
    computing.compute(case, rules, windows, digest, count)
print("finished")
"""


def test_a_computation_killed_at_any_moment_continues(case: Case, tmp_path: Path) -> None:
    """Killed before each file that it opens, renames or removes, one after the other, in one folder."""
    killed, finished = 0, False
    for moment in range(1, 200, 4):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(moment)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            finished = True
            break
        assert done.returncode == -signal.SIGKILL, done.stderr[-500:]
        killed += 1
    assert finished
    assert killed >= 5
    document = compute(case)
    lines = ledger(case, document)
    key = ["account", "service", "cycle", "rule"]
    assert lines.select(pl.struct(key).n_unique()).item() == len(lines) == document["lines"]
    assert len(lines) > 3_000


def test_a_journal_that_was_changed_is_refused_and_a_torn_line_is_forgotten(case: Case) -> None:
    path = case.folder / JOURNAL
    with case.changing():
        case.record("note", 2, "lee", {"x": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number": 3, "prev')
    assert [entry.kind for entry in case.entries()] == ["windows", "note"]
    with case.changing():
        case.record("note", 3, "lee", {"x": 2})
    assert case.entries()[-1] == Entry(3, "note", 3, "lee", {"x": 2})
    path.write_bytes(path.read_bytes().replace(b'"x":1', b'"x":9'))
    with pytest.raises(Corrupt, match="was changed at line 3"):
        case.entries()


def test_one_process_changes_a_case_at_a_time(case: Case) -> None:
    with case.changing(), pytest.raises(LockHeld), case.changing():
        pass


def test_a_folder_that_is_no_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a credit case"), Case(tmp_path).changing():
        pass


def test_a_fee_whose_products_need_128_bits_is_computed_and_compared_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    fee = 2**53
    (tmp_path / "a.csv").write_text(HEAD + f"a,mobile,plus,{fee},KRW,2022-10,\n")
    case, rules = Case(tmp_path / "case"), load(str(tmp_path / "rules.yaml"))
    with case.changing(create=True):
        digest, partitions = intake.take_in(case, [tmp_path / "a.csv"])
        document = computing.compute(case, rules, DOWN, digest, partitions)
    (total,) = document["totals"]
    cycle_ms = 31 * 24 * 3_600_000
    assert total["amount"] == (2 * fee * 890 * 60_000 + cycle_ms) // (2 * cycle_ms)
