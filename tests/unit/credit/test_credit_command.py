"""The whole way on the command line, from windows to what a billing system booked."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb")

from evac.app.credit import deliveries
from evac.app.credit.case import writing
from evac.app.credit.showing import windows_of_incident
from evac.cli.main import run
from evac.engine.runs.signatures import new_key
from evac.model.errors import InvalidInput

WINDOWS = """id,service,from,to
melon,melon,2022-10-15T15:33:00+09:00,2022-10-16T15:33:00+09:00
mobile,mobile,2022-10-15T15:33:00+09:00,2022-10-15T17:02:00+09:00
talk,talk,2022-10-15T15:33:00+09:00,2022-10-16T01:31:00+09:00
"""
ACCOUNTS = """account,service,plan,fee,currency,cycle,channel,tax_bp
kim,melon,plus,10900,KRW,2022-10,,1000
kim,mobile,individual,50000,KRW,2022-10,,1000
lee,melon,plus,10900,KRW,2022-10,app-store,1000
lee,talk,free,0,KRW,2022-10,,0
park,mobile,individual,37000,KRW,2022-10,,1000
choi,talk,free,0,KRW,2022-10,,0
"""
RULES = """credit_rules: 1
id: autumn
title: Outage of 15 October
zone: "+09:00"
rules:
  - {id: ten-times, services: [mobile], paid: true, pro_rata: {times: 10, unit: 1 h}, rounding: up}
  - {id: three-days, services: [melon], paid: true, days: 3, fallback: {app-store: 1500 KRW}}
  - {id: sets, services: [talk], paid: false, goods: {name: emoticon set, count: 3}}
"""
Evac = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evac:
    for name, text in (("windows.csv", WINDOWS), ("accounts.csv", ACCOUNTS), ("rules.yaml", RULES)):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVAC_SERVER", raising=False)

    def typed(*words: str) -> tuple[int, str, str]:
        code = run(["credit", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return typed


def computed(evac: Evac) -> dict[str, Any]:
    assert evac("windows", "case", "--import", "windows.csv")[0] == 0
    code, out, err = evac(
        "compute", "case", "--rules", "rules.yaml", "--accounts", "accounts.csv", "--output", "json"
    )
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def approved(evac: Evac) -> None:
    assert evac("approve", "case", "--who", "ada", "--reason", "totals match finance")[0] == 13
    assert evac("approve", "case", "--who", "bob", "--reason", "rules match the notice")[0] == 0


def exported(evac: Evac, name: str) -> list[dict[str, str]]:
    assert evac("export", "case", name, "--to", "csv", "-o", "out")[0] == 0
    return list(csv.DictReader(io.StringIO(Path(f"out/{name}.csv").read_text())))


def test_json_and_text_show_the_same_totals(evac: Evac) -> None:
    document = computed(evac)
    names = ("tranche", "kind", "lines", "amount", "quantity", "tax_on_top", "currency")
    assert [tuple(row[name] for name in names) for row in document["ledger"]["envelope"]] == [
        ("free", "goods", 2, 0, 6, 0, "KRW"),
        ("paying", "balance", 3, 3255, 0, 0, "KRW"),
        ("paying", "days", 1, 0, 3, 0, "KRW"),
    ]
    code, out, _ = evac("show", "case")
    assert code == 0
    assert "3,255 KRW, 3 days, 6 goods" in out
    assert "next: evac credit approve case --reason WHY" in out
    assert json.loads(evac("show", "case", "--output", "json")[1]) == document


@pytest.mark.parametrize("account", ["=cmd|'/C calc'!A0", "@SUM(1)", "+1+cmd|x", "-2+A1", "\uff1d1+A1"])
def test_a_formula_in_an_account_is_left_out_of_the_table(evac: Evac, account: str) -> None:
    """An account is never changed, which would credit another one; a number with a sign is no formula."""
    accounts = Path("accounts.csv").read_text()
    Path("accounts.csv").write_text(accounts.replace("lee,", f"{account},").replace("park,", "+82-10-1234,"))
    computed(evac)
    approved(evac)
    assert evac("tranche", "case", "paying", "--reason", "go")[0] == 0
    rows = exported(evac, "paying-1")
    assert sorted({row["account"] for row in rows}) == ["+82-10-1234", "kim"]
    (left,) = csv.DictReader(io.StringIO(Path("out/paying-1-csv-left-out.csv").read_text()))
    assert "formula" in left["reason"]
    assert left["key"] not in {row["key"] for row in rows}
    assert evac("export", "case", "paying-1", "--to", "openmeter", "-o", "out")[0] == 0


def test_nothing_is_released_before_two_persons_approve(evac: Evac) -> None:
    computed(evac)
    code, _, err = evac("tranche", "case", "paying", "--reason", "go")
    assert (code, "0 of 2 people have approved" in err) == (4, True)
    assert evac("approve", "case", "--who", "ada", "--reason", "fine")[0] == 13
    for who in ("ada", "Ada", "\N{CYRILLIC SMALL LETTER A}da"):
        code, _, err = evac("approve", "case", "--who", who, "--reason", "fine again")
        assert (code, f"{who} has already approved this ledger" in err) == (4, True)
    assert evac("tranche", "case", "paying", "--reason", "go")[0] == 4


def test_paying_customers_come_first_and_each_line_is_delivered_once(evac: Evac) -> None:
    computed(evac)
    approved(evac)
    code, _, err = evac("tranche", "case", "free", "--reason", "go")
    assert (code, "the paying tranche is not closed yet" in err) == (4, True)
    assert "4 lines, 3,255 KRW" in evac("tranche", "case", "paying", "--reason", "go")[2]
    code, _, err = evac("tranche", "case", "paying", "--reason", "again")
    assert (code, "paying-1 was the last delivery" in err) == (2, True)
    assert [path.name for path in Path("case/deliveries").iterdir()] == ["paying-1"]
    rows = exported(evac, "paying-1")
    assert [(row["account"], row["kind"], row["amount"]) for row in rows] == [
        ("kim", "balance", "1009"),
        ("park", "balance", "746"),
        ("kim", "days", "0"),
        ("lee", "balance", "1500"),
    ]
    assert len({row["key"] for row in rows}) == 4
    assert evac("tranche", "case", "paying", "--close", "--reason", "booked")[0] == 0
    code, _, err = evac("tranche", "case", "paying", "--reason", "late")
    assert (code, "next: evac credit tranche case paying --reopen --reason WHY" in err) == (4, True)
    assert "2 lines, no money" in evac("tranche", "case", "free", "--reason", "go")[2]


def test_a_tranche_that_is_opened_again_pays_only_what_is_owed_since(evac: Evac) -> None:
    computed(evac)
    approved(evac)
    for words in (("paying",), ("paying", "--close"), ("paying", "--reopen")):
        code, _, err = evac("tranche", "case", *words)
        assert (code, "needs a reason" in err) == (2, True), words
    assert evac("tranche", "case", "paying", "--reason", "go")[0] == 0
    assert evac("tranche", "case", "paying", "--reopen", "--reason", "by mistake")[0] == 2
    assert evac("tranche", "case", "paying", "--close", "--reason", "booked")[0] == 0
    correct = ("windows", "case", "--correct", "mobile", "--who", "ada", "--reason", "late logs")
    assert evac(*correct, "--to", "2022-10-15T17:33:00+09:00")[0] == 0
    computed_again(evac)
    approved(evac)
    assert evac("tranche", "case", "paying", "--reason", "more")[0] == 4
    assert "is reopened" in evac("tranche", "case", "paying", "--reopen", "--reason", "late logs")[2]
    assert "paying-2: 2 lines, 585 KRW" in evac("tranche", "case", "paying", "--reason", "more")[2]


def test_what_gets_nothing_without_a_word_of_the_rules_is_shown(evac: Evac) -> None:
    Path("windows.csv").write_text(
        WINDOWS.replace("from,to", "from,to,site").replace(":00\nmo", ":00,west\nmo")
    )
    text = Path("windows.csv").read_text().replace("17:02:00+09:00", "17:02:00+09:00,")
    Path("windows.csv").write_text(text.replace("01:31:00+09:00", "01:31:00+09:00,"))
    Path("rules.yaml").write_text(RULES + "  - {id: gold, plans: [gold], services: [talk], fixed: 5 KRW}\n")
    document = computed(evac)
    assert document["ledger"]["without_line"] == ["three-days", "gold"]
    shown = " ".join(evac("show", "case")[1].split())
    assert "2 rows without a site: an outage of a single site does not count for them." in shown
    assert "No account gets anything under: three-days, gold." in shown
    assert "No account gets anything under: three-days, gold." in " ".join(
        evac("statement", "case")[1].split()
    )


def test_every_next_command_names_the_files_of_this_case(evac: Evac) -> None:
    code, _, err = evac("check", "rules.yaml")
    assert (code, "next: evac credit compute autumn --rules rules.yaml --accounts FILE" in err) == (0, True)
    computed(evac)
    again = "next: evac credit compute case --rules rules.yaml --accounts accounts.csv"
    code, _, err = evac("windows", "case", "--correct", "gone", "--reason", "x")
    assert (code, "next: evac credit windows case" in err) == (2, True)
    code, _, err = evac("claims", "case", "--refuse", "gone", "--reason", "x")
    assert (code, "next: to list open claims: evac credit claims case" in err) == (2, True)
    correct = ("windows", "case", "--correct", "mobile", "--who", "ada", "--reason", "late logs")
    assert again in evac(*correct, "--to", "2022-10-15T17:33:00+09:00")[1]
    assert again in evac("approve", "case", "--reason", "fine")[2]


def test_a_longer_window_gives_differences_only_and_a_shorter_one_takes_nothing_back(evac: Evac) -> None:
    first = computed(evac)
    approved(evac)
    evac("tranche", "case", "paying", "--reason", "go")
    correct = ("windows", "case", "--correct", "mobile", "--who", "ada")
    assert evac(*correct, "--to", "2022-10-15T17:33:00+09:00", "--reason", "late logs")[0] == 0
    code, _, err = evac("tranche", "case", "paying", "--reason", "go")
    assert (code, "windows have changed since ledger" in err) == (2, True), "its amounts are outdated"
    assert "windows have changed" in evac("approve", "case", "--who", "eve", "--reason", "go")[2]
    second = computed_again(evac)
    assert second["windows"]["version"] == 2
    assert second["approvals"] == [], "other totals need other approvals"
    approved(evac)
    assert "2 lines, 585 KRW" in evac("tranche", "case", "paying", "--reason", "more")[2]
    rows = exported(evac, "paying-2")
    assert [row["account"] for row in rows] == ["kim", "park"]
    once = {row["key"] for row in exported(evac, "paying-1")}
    assert not once & {row["key"] for row in rows}
    paid = sum(int(row["amount"]) for name in ("paying-1", "paying-2") for row in exported(evac, name))
    assert paid == second["ledger"]["envelope"][1]["amount"]
    evac(*correct, "--to", "2022-10-15T16:02:00+09:00", "--reason", "clock was wrong")
    third = computed_again(evac)
    approved(evac)
    said = evac("tranche", "case", "paying", "--reason", "less")[2]
    assert "0 lines, no money" in said
    over = paid - third["ledger"]["envelope"][1]["amount"]
    assert f"overpaid earlier and not reclaimed: {over:,} KRW" in said
    assert first["ledger"]["ledger"] != third["ledger"]["ledger"]


def computed_again(evac: Evac) -> dict[str, Any]:
    _, out, _ = evac(
        "compute", "case", "--rules", "rules.yaml", "--accounts", "accounts.csv", "--output", "json"
    )
    document: dict[str, Any] = json.loads(out)
    return document


def test_requests_for_a_system_are_the_same_bytes_each_time(evac: Evac) -> None:
    computed(evac)
    approved(evac)
    evac("tranche", "case", "paying", "--reason", "go")
    found = []
    for _ in range(2):
        code, _, err = evac("export", "case", "paying-1", "--to", "stripe", "-o", "out")
        assert (code, "1 line is not for stripe: see out/paying-1-stripe-left-out.csv" in err) == (0, True)
        found.append(Path("out/paying-1-stripe.jsonl").read_bytes())
    assert found[0] == found[1]
    requests = [json.loads(line) for line in found[0].splitlines()]
    assert sum(request["body"]["amount"] for request in requests) == -3_255
    assert "days are not money" in Path("out/paying-1-stripe-left-out.csv").read_text()
    evac("export", "case", "paying-1", "--to", "lago", "-o", "out")
    kept = {path.name for path in Path("out").glob("*-left-out.csv")}
    assert kept == {"paying-1-stripe-left-out.csv", "paying-1-lago-left-out.csv"}
    assert evac("export", "case", "free-1", "-o", "out")[0] == 2


def test_what_was_booked_is_compared_to_the_last_unit(evac: Evac, monkeypatch: pytest.MonkeyPatch) -> None:
    computed(evac)
    approved(evac)
    evac("tranche", "case", "paying", "--reason", "go")
    rows = exported(evac, "paying-1")
    booked = [f"{row['key']},{row['total']},KRW" for row in rows]
    Path("booked.csv").write_text("\n".join(["key,amount,currency", *booked]) + "\n")
    code, out, _ = evac("reconcile", "case", "paying-1", "booked.csv")
    assert (code, out) == (0, "3 lines agree; 0 do not\n1 not compared: grants in kind, not in money\n")
    lines = [line for line, row in zip(booked, rows, strict=True) if row["kind"] == "balance"]
    Path("booked.csv").write_text("\n".join(["key,amount,currency", *lines]) + "\n")
    code, out, _ = evac("reconcile", "case", "paying-1", "booked.csv")
    assert (code, out.strip()) == (0, "3 lines agree; 0 do not")
    wrong = [lines[0].replace(",1009,", ",1008,"), lines[1], lines[1], "unasked-1,5,KRW"]
    Path("booked.csv").write_text("\n".join(["key,amount,currency", *wrong]) + "\n")
    code, out, _ = evac("reconcile", "case", "paying-1", "booked.csv", "--output", "json")
    found = json.loads(out)
    assert (code, found["same"]) == (3, 0)
    assert sorted(row["code"] for row in found["mismatches"]) == ["differs", "missing", "twice", "unknown"]
    assert found["different"] == 4
    said = evac("reconcile", "case", "paying-1", "booked.csv")[1]
    assert "1,009 KRW requested, 1,008 KRW booked\n" in said
    assert "unasked-1: not requested: 5 KRW booked\n" in said
    monkeypatch.setattr(deliveries, "MISMATCHES_MOST", 1)
    said = evac("reconcile", "case", "paying-1", "booked.csv")[1]
    assert "and 3 more\n0 lines agree; 4 do not\n" in said, "all are counted, some are listed"


def fake_list(system: str, requests: Sequence[dict[str, Any]]) -> str:
    """What a system lists after it has booked requests, among entries of others."""
    rows = []
    for request in requests:
        body = request["body"]
        if system == "stripe":
            kind = "credit_note" if "invoice" in body else "customer_balance_transaction"
            rows.append({**body, "object": kind, "currency": "krw", "status": "issued"})
        elif system == "lago":
            note = body["credit_note"]
            total = note["credit_amount_cents"] + note["refund_amount_cents"]
            rows.append({"total_amount_cents": total, "currency": "KRW", "metadata": note["metadata"]})
        elif system == "killbill":
            rows.append({**body[0], "amount": float(body[0]["amount"]), "itemType": "CREDIT_ADJ"})
            rows.append({"amount": 5.5, "currency": "KRW", "itemType": "CBA_ADJ", "itemDetails": None})
        elif system == "openmeter":
            rows.append({**body, "status": "active"})
        else:
            rows.append({"promotional_credit": {**body, "type": "increment"}})
    names = {"stripe": "data", "lago": "credit_notes", "openmeter": "data", "chargebee": "list"}
    return json.dumps(rows if system == "killbill" else {names[system]: rows})


def test_each_system_takes_the_requests_and_its_list_agrees_to_the_last_unit(evac: Evac) -> None:
    head, *rows = Path("accounts.csv").read_text().splitlines()
    with_invoices = [f"{head},invoice,invoice_line", *(f"{row},in_{n},il_{n}" for n, row in enumerate(rows))]
    Path("accounts.csv").write_text("\n".join(with_invoices) + "\n")
    computed(evac)
    approved(evac)
    evac("tranche", "case", "paying", "--reason", "go")
    for system in ("stripe", "lago", "killbill", "openmeter", "chargebee"):
        assert evac("export", "case", "paying-1", "--to", system, "-o", "out")[0] == 0
        lines = Path(f"out/paying-1-{system}.jsonl").read_text().splitlines()
        requests = [json.loads(line) for line in lines]
        Path("list.json").write_text(fake_list(system, requests))
        reconcile = ("reconcile", "case", "paying-1", "list.json", "--from", system)
        code, out, _ = evac(*reconcile)
        assert (code, out.splitlines()[0]) == (0, f"{len(requests)} lines agree; 0 do not"), system
        Path("list.json").write_text(fake_list(system, [*requests[1:], requests[1]]))
        code, out, _ = evac(*reconcile)
        assert code == 3
        missing, twice = sorted((line for line in out.splitlines() if "requested" in line), key=len)
        assert "not booked: " in missing
        assert twice.endswith("booked more than once"), system
    Path("list.json").write_text('{"data": [{"object": "credit_note"}]}')
    code, _, err = evac("reconcile", "case", "paying-1", "list.json", "--from", "stripe")
    assert (code, "list.json cannot be used: an object has no 'currency'" in err) == (2, True)


def test_tax_on_top_is_approved_paid_and_explained(evac: Evac) -> None:
    Path("accounts.csv").write_text(
        "account,service,plan,fee,currency,cycle,tax_bp,tax_included\n"
        "kim,mobile,individual,50000,KRW,2022-10,1000,false\n"
        "park,mobile,individual,37000,KRW,2022-10,1000,true\n"
    )
    document = computed(evac)
    assert [row["tax_on_top"] for row in document["ledger"]["envelope"]] == [101]
    owed = document["ledger"]["envelope"][0]["amount"] + 101
    shown = evac("show", "case")[1]
    assert f"{owed:,} KRW for 2 accounts" in shown
    assert "Amounts contain 101 KRW of tax that comes on top" in " ".join(shown.split())
    approved(evac)
    assert f"paying-1: 2 lines, {owed:,} KRW" in evac("tranche", "case", "paying", "--reason", "go")[2]
    assert "Tax of 101 KRW is added." in evac("explain", "case", "kim")[1]
    assert "Tax" not in evac("explain", "case", "park")[1]


def test_times_are_local_with_utc_next_to_them(evac: Evac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    computed(evac)
    shown = " ".join(evac("windows", "case", "--time-zone", "Asia/Seoul")[1].split())
    assert "2022-10-15 15:33 KST" in shown
    assert "(06:33 UTC)" in shown
    assert "2022-10-15 06:33 UTC" in " ".join(evac("windows", "case")[1].split())


def test_an_account_is_explained_from_the_ledger(evac: Evac) -> None:
    computed(evac)
    _, out, _ = evac("explain", "case", "kim")
    assert "You receive 3 more days." in out
    assert "You receive 1,009 KRW. Your fee of 50,000 KRW x 15 h / 744 h" in out
    assert "드립니다" in evac("explain", "case", "kim", "--language", "ko")[1]
    Path("texts.yaml").write_text("en: {extended: 'Sorry.'}\n")
    assert "3 more days. Sorry." in evac("explain", "case", "kim", "--templates", "texts.yaml")[1]
    code, _, err = evac("explain", "case", "nobody-here")
    assert (code, "this case has no rows for account nobody-here" in err) == (2, True)


def test_with_a_policy_only_signatures_of_its_approvers_count(evac: Evac) -> None:
    computed(evac)
    keys = {name: new_key(Path(f"{name}.pem")) for name in ("ada", "bob")}
    listed = "".join(f"  {name}: {key}\n" for name, key in keys.items())
    Path("policy.yaml").write_text(f"approvers:\n{listed}")
    options = ("--policy", "policy.yaml", "--reason", "fine")
    assert evac("approve", "case", "--who", "eve", "--key", "ada.pem", *options)[0] == 4
    assert evac("approve", "case", "--who", "ada", *options)[0] == 4
    assert evac("approve", "case", "--who", "ada", "--key", "bob.pem", *options)[0] == 4
    assert evac("approve", "case", "--who", "ada", "--key", "ada.pem", *options)[0] == 13
    assert evac("approve", "case", "--who", "bob", "--key", "bob.pem", *options)[0] == 0
    document = json.loads(evac("show", "case", "--output", "json")[1])
    assert [row["proven"] for row in document["approvals"]] == ["signature", "signature"]


def test_rules_are_listed_printed_and_checked(evac: Evac) -> None:
    assert "melon-2022" in evac("check")[1].split()
    assert evac("check", "ofcom", "--print")[1].startswith("credit_rules: 1")
    assert "autumn: 3 rules" in evac("check", "rules.yaml")[1]
    Path("rules.yaml").write_text(RULES.replace("paid: true, days", "paid: maybe, days"))
    code, _, err = evac("check", "rules.yaml")
    assert (code, re.search(r"rules.yaml:7:\d+: error: .maybe.", err) is not None) == (2, True)
    code, out, _ = evac("check", "rules.yaml", "--output", "json")
    assert (code, [row["line"] for row in json.loads(out)["problems"]]) == (2, [7])


def test_a_simulation_shows_what_a_ledger_would_owe_and_records_nothing(evac: Evac) -> None:
    computed(evac)
    journal = Path("case/journal.jsonl").read_bytes()
    code, out, _ = evac("simulate", "case", "--earlier", "5m", "--output", "json")
    assert code == 0
    (simulated,) = json.loads(out)["cases"]
    then = {(row["tranche"], row["kind"]): row["then"] for row in simulated["totals"]}
    assert "As if every outage had begun 5 min earlier." in evac("simulate", "case", "--earlier", "5m")[1]
    assert Path("case/journal.jsonl").read_bytes() == journal
    for name in ("melon", "mobile", "talk"):
        change = ["--from", "2022-10-15T15:28:00+09:00", "--reason", "logs", "--who", "ada"]
        assert evac("windows", "case", "--correct", name, *change)[0] == 0
    compute = ("compute", "case", "--rules", "rules.yaml", "--accounts", "accounts.csv", "--output", "json")
    envelope = json.loads(evac(*compute)[1])["ledger"]["envelope"]
    assert {(row["tranche"], row["kind"]): row["amount"] for row in envelope} == {
        key: row["amount"] for key, row in then.items()
    }
    assert then["paying", "balance"]["amount"] > 3_255
    other = RULES.replace("times: 10", "times: 1")
    Path("cheaper.yaml").write_text(other)
    (cheaper,) = json.loads(evac("simulate", "case", "--rules", "cheaper.yaml", "--output", "json")[1])[
        "cases"
    ]
    money = next(row for row in cheaper["totals"] if row["kind"] == "balance")
    assert money["then"]["amount"] < money["now"]["amount"]
    assert evac("simulate", "nowhere")[0] != 0


def test_a_case_without_windows_says_how_to_begin(evac: Evac) -> None:
    code, _, err = evac("show", "case")
    assert (code, "evac credit windows case --import FILE" in err) == (2, True)
    code, _, err = evac("windows", "case", "--import", "windows.csv", "--remove", "talk")
    assert (code, "give one of" in err) == (2, True)


def test_the_same_import_adds_nothing_and_overlapping_ones_are_refused(evac: Evac) -> None:
    computed(evac)
    code, _, err = evac("windows", "case", "--import", "windows.csv")
    assert (code, "0 new windows; 3 already known" in err) == (0, True)
    Path("other.csv").write_text(Path("windows.csv").read_text().replace("15:33", "15:32"))
    code, _, err = evac("windows", "case", "--import", "other.csv")
    assert (code, "is already in this case, with different values [window-twice]" in err) == (2, True)
    assert len(json.loads(evac("windows", "case", "--output", "json")[1])["windows"]["list"]) == 3


def change(at: str, level: str) -> dict[str, str]:
    return {"at": f"2022-10-15 {at} UTC", "level": level, "source": "run/1"}


def test_windows_of_an_incident_are_when_each_service_was_down() -> None:
    services = [
        {"service": "talk", "changes": [change("06:33:00", "down"), change("08:00:00", "degraded")]},
        {
            "service": "map",
            "changes": [change("06:33:00", "down"), change("07:00:00", "up"), change("07:10:00", "down")],
        },
        {"service": "tv", "changes": [change("06:33:00", "degraded")]},
    ]
    summary = {"incident": "fire", "ended_at": "2022-10-15 09:00:00 UTC", "services": services}
    found = windows_of_incident(summary)
    assert [(w.id, (w.to_ms - w.from_ms) // 60_000) for w in found] == [
        ("fire-talk-1", 87),
        ("fire-map-1", 27),
        ("fire-map-2", 110),
    ]
    with pytest.raises(InvalidInput, match="map is still down in fire"):
        windows_of_incident(summary | {"ended_at": None})
    with pytest.raises(InvalidInput, match="no service was down"):
        windows_of_incident(summary | {"services": services[2:]})


def test_other_partitions_pay_nothing_twice(evac: Evac) -> None:
    computed(evac)
    approved(evac)
    evac("tranche", "case", "paying", "--reason", "go")
    more = ACCOUNTS + "".join(f"x{i},melon,plus,10900,KRW,2022-10,,0\n" for i in range(40))
    Path("accounts.csv").write_text(
        more.replace("kim,mobile,individual,50000", "kim,mobile,individual,60000")
    )
    command = ("compute", "case", "--rules", "rules.yaml", "--accounts", "accounts.csv", "--partitions", "7")
    code, _, err = evac(*command)
    assert code == 0, err
    approved(evac)
    assert "41 lines, 201 KRW" in evac("tranche", "case", "paying", "--reason", "more")[2]
    rows = exported(evac, "paying-2")
    assert [row["amount"] for row in rows if row["account"] == "kim"] == ["201"]
    assert "paying-2 was the last delivery" in evac("tranche", "case", "paying", "--reason", "again")[2]


def test_accounts_and_amounts_are_for_their_owner_only(evac: Evac) -> None:
    """Whatever the mask of the process, and in a folder that everyone can read."""
    Path("case").mkdir(0o755)
    mask = os.umask(0)
    try:
        computed(evac)
        approved(evac)
        assert evac("tranche", "case", "paying", "--reason", "go")[0] == 0
        exported(evac, "paying-1")
        assert evac("export", "case", "paying-1", "--to", "stripe", "-o", "out")[0] == 0
        assert os.umask(0) == 0, "it is put back"
    finally:
        os.umask(mask)
    found = [path for top in ("case", "out") for path in Path(top).rglob("*") if path.is_file()]
    assert {path.suffix for path in found} >= {".csv", ".json", ".jsonl", ".parquet"}
    assert [path for path in found if path.stat().st_mode & 0o077] == []


def test_files_stay_private_while_one_of_two_writers_is_done(tmp_path: Path) -> None:
    """The war room writes on threads, and all threads of a process share one mask."""
    mask = os.umask(0o022)
    try:
        first, second = ExitStack(), ExitStack()
        first.enter_context(writing(tmp_path))
        second.enter_context(writing(tmp_path))
        first.close()
        (tmp_path / "amounts").touch()
        second.close()
        (tmp_path / "other").touch()
    finally:
        os.umask(mask)
    assert (tmp_path / "amounts").stat().st_mode & 0o077 == 0
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o644
