"""A rule in words: each formula, limit and condition is named, and the statement of a case holds them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from evac.app.credit import case
from evac.cli.main import run
from evac.credit.explain import in_words
from evac.credit.formulas import Days, Money, ProRata
from evac.credit.rules import MONEY, Rule, When
from evac.credit.windows import Hours
from tests.unit.credit import random_cases


def test_shipped_rules_read_as_their_sources_do() -> None:
    kt = in_words(case.load("kt-2021").rules[0])
    assert kt.claimants == "Accounts of mobile and internet with a fee, plan individual or business."
    assert kt.basis.startswith(
        "10 times the fee of the cycle for the time of the outage, in whole units of 1 h"
    )
    losses = in_words(case.load("kakao-2022").rules[0])
    assert "30,000 KRW up to 300,000 KRW" in losses.basis
    assert losses.procedure.startswith("On a claim by 2022-11-06.")


def test_conditions_hours_and_limits_are_named() -> None:
    rule = Rule(
        "r",
        ProRata(1_500),
        (),
        When(continuous_ms=7_200_000, uptime_below_ppm=999_500),
        base="hourly_fee",
        pay="refund",
        used=True,
        hours=Hours(540, 1_080, (0, 4)),
        cap=Money(70_000, "KRW"),
        expires_days=90,
    )
    words = in_words(rule)
    assert words.claimants == "Accounts of all services, if they used the service during the outage."
    assert words.basis == (
        "1.5 times the hourly fee for the time of the outage, if one outage lasted 2 h or longer or uptime "
        "of a cycle was below 99.95 %. Outages count from 09:00 to 18:00 on Mon and Fri. "
        "Not counted: maintenance. At most 70,000 KRW."
    )
    assert words.procedure == "No claim is needed. It is refunded. It can be used for 90 days."
    instead = in_words(Rule("d", Days(3), ("tv",), fallback={"store": Money(5, "KRW")}))
    assert "5 KRW instead for the channel store, which cannot take it." in instead.basis


def test_every_random_rule_has_words_for_all_three() -> None:
    rng = random.Random(3)
    for _ in range(200):
        for rule in random_cases.rule_set(rng).rules:
            words = in_words(rule)
            for text in (words.claimants, words.basis, words.procedure):
                assert text.endswith(".")
                assert ".." not in text
            assert (rule.cap is not None) == (
                rule.cap is not None and f"At most {rule.cap.minor:,}" in words.basis
            )
            assert rule.kind in MONEY or "does not renew automatically" in words.procedure


WINDOW = "id,service,from,to\nw,mobile,2022-10-15T15:33:00+09:00,2022-10-15T17:02:00+09:00\n"
ACCOUNTS = "account,service,plan,fee,currency,cycle\nkim,mobile,individual,50000,KRW,2022-10\n"


def test_the_statement_of_a_case_names_basis_amounts_and_the_day_by_which_users_must_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.csv").write_text(WINDOW)
    Path("a.csv").write_text(ACCOUNTS)
    assert run(["credit", "windows", "case", "--import", "w.csv"]) == 0
    assert run(["credit", "statement", "case"]) == 2
    assert "ledger-missing" in capsys.readouterr().err
    assert run(["credit", "compute", "case", "--rules", "kt-2021", "--accounts", "a.csv"]) == 0
    capsys.readouterr()
    assert run(["credit", "statement", "case", "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notice_due_ms"] == 1_665_820_920_000 + 30 * 86_400_000
    assert found["facts"]["damages_basis"].startswith("fifteen-hours: 10 times the fee")
    assert (found["credited"], found["stale"]) == (1, False)
    assert run(["credit", "statement", "case", "--output", "markdown", "-o", "s.md"]) == 0
    text = Path("s.md").read_text()
    assert "1,009 KRW for 1 account." in text
    assert "## Rule fifteen-hours" in text
    correction = ["--correct", "w", "--to", "2022-10-15T18:02:00+09:00", "--reason", "logs", "--who", "ada"]
    assert run(["credit", "windows", "case", *correction]) == 0
    capsys.readouterr()
    assert run(["credit", "statement", "case"]) == 0
    out = capsys.readouterr().out
    assert "have changed since these totals were computed" in " ".join(out.split())
    assert "next: evac credit compute" in out
