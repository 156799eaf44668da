"""Claims: bands, duplicates, last days, pools, decisions of persons, and what reaches the ledger."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("duckdb")

from evac.app.credit import case
from evac.app.credit.case import Case
from evac.cli.main import run
from evac.credit.formulas import Money
from evac.credit.ledger import Claim, Decision, Judged, State, decided, judged
from evac.credit.rules import RuleSet
from evac.credit.windows import Window
from evac.estate.codecs.credit_tables import load_claims
from evac.model.errors import EstateError, InvalidInput

BEGIN = 1_665_815_580_000
DAY = 86_400_000
SHOP = "talk-business"
DOWN = [Window("w", SHOP, BEGIN, BEGIN + 5 * DAY)]
KAKAO = case.load("kakao-2022")


def claim(id: str, account: str, loss: int, day: float = 1.0) -> Claim:
    return Claim(id, account, SHOP, loss, "KRW", BEGIN + round(day * DAY))


def limited(**limits: object) -> RuleSet:
    rules = (replace(rule, **limits) if rule.needs_claim else rule for rule in KAKAO.rules)  # type: ignore[arg-type]
    return replace(KAKAO, rules=tuple(rules))


def states(found: list[Judged]) -> dict[str, tuple[State, int]]:
    return {one.claim.id: (one.state, one.pays) for one in found}


def test_bands_duplicates_and_the_last_day() -> None:
    claims = [
        claim("a", "s1", 300_000),
        claim("b", "s2", 300_001),
        claim("c", "s3", 500_001),
        claim("d", "s1", 400_000, 2.0),
        claim("e", "s4", 1, 40.0),
        replace(claim("f", "s5", 1), currency="USD"),
    ]
    assert states(judged(KAKAO, DOWN, claims, [])) == {
        "a": ("counts", 30_000),
        "b": ("counts", 50_000),
        "c": ("review", 0),
        "d": ("twice", 0),
        "e": ("late", 0),
        "f": ("no-rule", 0),
    }
    assert {one.cycle for one in judged(KAKAO, DOWN, claims, [])} == {"2022-10"}


def test_the_last_decision_counts_and_a_refused_claim_makes_room_for_the_next() -> None:
    claims = [claim("a", "s1", 900_000), claim("b", "s1", 200_000, 2.0)]
    accept = Decision("a", "ada", "documents", BEGIN, 70_000)
    assert states(judged(KAKAO, DOWN, claims, [accept])) == {"a": ("accepted", 70_000), "b": ("twice", 0)}
    refuse = replace(accept, granted=0)
    assert states(judged(KAKAO, DOWN, claims, [accept, refuse])) == {
        "a": ("refused", 0),
        "b": ("counts", 30_000),
    }


@pytest.mark.parametrize(
    ("decision", "currency", "code"),
    [
        (Decision("z", "ada", "why", 1, 0), "", "claim-unknown"),
        (Decision("a", "ada", " ", 1, 0), "", "decision-unsigned"),
        (Decision("a", "ada", "why", 1, 5), "USD", "currencies-mixed"),
        (Decision("a", "ada", "why", 1, 900_001), "KRW", "granted-too-much"),
    ],
)
def test_a_decision_that_does_not_hold_together_is_refused(
    decision: Decision, currency: str, code: str
) -> None:
    with pytest.raises(InvalidInput) as found:
        decided([claim("a", "s1", 900_000)], decision, currency)
    assert found.value.code == code


def test_no_pool_ever_pays_more_than_it_holds_whatever_the_order_of_the_file() -> None:
    rng = random.Random(3)
    for _ in range(100):
        claims = [
            claim(f"c{i}", f"s{rng.randrange(30)}", rng.randrange(1, 700_000), rng.random() * 20)
            for i in range(40)
        ]
        first, pool = rng.randint(1, 40), rng.randrange(30_000, 900_000)
        rules = limited(first=first, pool=Money(pool, "KRW"))
        found = judged(rules, DOWN, claims, [])
        paid = [one for one in found if one.state in ("counts", "review")]
        assert sum(one.pays for one in paid) <= pool
        assert len(paid) <= first
        rng.shuffle(claims)
        assert judged(rules, DOWN, claims, []) == found


FILE = """id,account,service,loss,received
c1,s1,talk-business,200000 KRW,2022-10-21T10:00:00+09:00
c2,s2,talk-business,"900,000 KRW",2022-10-21T10:00:01+09:00
"""


def test_every_problem_of_a_file_has_its_place(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    path.write_text(FILE + "c1,s3,talk-business,1 KRW,2022-10-21T10:00:00+09:00\nc4,s4,,lots,yesterday\n")
    with pytest.raises(EstateError) as found:
        load_claims(path)
    assert [f"{one.place.line} {one.code}" for one in found.value.diagnostics] == [
        "4 claim-twice",
        "5 value-missing",
    ]
    path.write_text("id,name,account,service,loss,received\n")
    with pytest.raises(EstateError) as found:
        load_claims(path)
    assert [one.code for one in found.value.diagnostics] == ["column-unknown"]


def test_from_the_file_to_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("claims.csv").write_text(FILE + "c3,gone,talk-business,1 KRW,2022-10-22T10:00:00+09:00\n")
    rows = "".join(f"s{i},talk-business,free,0,KRW,2022-10\n" for i in range(1, 4))
    Path("accounts.csv").write_text("account,service,plan,fee,currency,cycle\n" + rows)
    Path("windows.csv").write_text(
        "id,service,from,to\nw,talk-business,2022-10-15T15:33:00+09:00,2022-10-20T23:06:00+09:00\n"
    )

    def evac(*words: str) -> str:
        assert run(["credit", words[0], "case", *words[1:]]) == 0
        return capsys.readouterr().out

    compute = ("compute", "--rules", "kakao-2022", "--accounts", "accounts.csv", "--output", "json")
    evac("windows", "--import", "windows.csv")
    evac("claims", "--import", "claims.csv")
    found = json.loads(evac(*compute))
    assert found["claims"]["unknown"] == ["gone"]
    assert [row["id"] for row in found["claims"]["queue"]] == ["c2"]
    assert sum(row["amount"] for row in found["ledger"]["totals"]) == 30_000
    evac("claims", "--accept", "c2", "--amount", "70000 KRW", "--reason", "documents show it", "--who", "ada")
    waiting = json.loads(evac("show", "--output", "json"))
    assert waiting["stale"]
    assert waiting["next"].startswith("evac credit compute")
    found = json.loads(evac(*compute))
    assert sum(row["amount"] for row in found["ledger"]["totals"]) == 100_000
    assert "we have reviewed it" in evac("explain", "s2")
    evac("claims", "--refuse", "c2", "--reason", "no documents", "--who", "bob")
    found = json.loads(evac(*compute))
    assert sum(row["amount"] for row in found["ledger"]["totals"]) == 30_000
    assert [row["who"] for row in found["claims"]["decisions"]] == ["ada", "bob"]
    assert "70,000 KRW" in evac("claims")
    evac("claims", "--accept", "c2", "--amount", "60000 KRW", "--reason", "found them", "--who", "eve")
    approve = ["credit", "approve", "case", "--who", "ada", "--reason", "totals match"]
    assert run(approve) == 13, "a decision that pays more counts from the next ledger on"
    evac("claims", "--refuse", "c1", "--reason", "not a shop", "--who", "eve")
    capsys.readouterr()
    for words in (["approve", "case", "--who", "bob"], ["tranche", "case", "free"]):
        assert run(["credit", *words, "--reason", "go"]) == 2
        assert "a decision reduced claim c1 since ledger" in capsys.readouterr().err
    assert "claim-decided" in [entry.kind for entry in Case(tmp_path / "case").entries()]
    Path("more.csv").write_text(
        FILE.splitlines()[0] + "\nc4,s1,talk-business,400000 KRW,2022-10-23T10:00:00+09:00\n"
    )
    evac("claims", "--import", "more.csv")
    found = json.loads(evac(*compute))
    assert sum(row["amount"] for row in found["ledger"]["totals"]) == 110_000, "c4 counts"
    evac("claims", "--import", "claims.csv")
    assert len(Case(tmp_path / "case").claims()) == 4
    assert run(["credit", "claims", "case", "--accept", "c2"]) == 2
    assert "--accept needs --amount" in capsys.readouterr().err
