"""Rule files: every problem at once, each with a stable code and its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.app.credit import case
from evac.credit.formulas import money_words
from evac.credit.rules import CODES
from evac.credit.windows import Hours, Zone
from evac.estate.codecs.credit_rules import check_rules, load_rules, rules_of_data
from evac.model.errors import EstateError

HEAD = "credit_rules: 1\nid: test\n"


def check(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "rules.yaml"
    path.write_text(HEAD + text)
    _, found = check_rules(path)
    return [f"{d.place.line}:{d.place.column} {d.code} {d.severity}" for d in found]


def one(text: str) -> str:
    return f"rules:\n  - {{id: r, services: [talk], {text}}}\n"


def two(first: str, second: str, overlap: str = "max") -> str:
    return (
        f"overlap: {overlap}\nrules:\n"
        f"  - {{id: a, services: [talk], {first}}}\n  - {{id: b, services: [talk, map], {second}}}\n"
    )


WRONG = {
    "formula-missing": one("paid: true"),
    "formula-several": one("fixed: 5 KRW, days: 3"),
    "rule-twice": "rules:\n"
    "  - {id: r, services: [a], fixed: 5 KRW}\n"
    "  - {id: r, services: [b], fixed: 5 KRW}\n",
    "currencies-mixed": one("fixed: 5 KRW, cap: 1.00 USD"),
    "floor-above-cap": one("fixed: 5 KRW, cap: 3 KRW, floor: 4 KRW"),
    "base-contradiction": one("base: hourly_fee, fixed: 5 KRW"),
    "tier-ambiguous": one("tiers: [{share: 10 %}]"),
    "tier-unreachable": one(
        "tiers: [{uptime_below: 99 %, share: 10 %}, {uptime_below: 99.9 %, share: 25 %}]"
    ),
    "never-pays": one("paid: false, pro_rata: {times: 10}"),
    "grant-renews": one("voucher: {name: plus}, renews: true"),
    "fallback-unused": one("fixed: 5 KRW, fallback: {app-store: 4 KRW}"),
    "hours-all": one('fixed: 5 KRW, hours: {from: "00:00", to: "24:00"}'),
    "order-wrong": one("bands: [{up_to: 500 KRW, pays: 50 KRW}, {up_to: 300 KRW, pays: 30 KRW}]"),
    "pool-without-claims": one("fixed: 5 KRW, pool: 50 KRW"),
    "pays-twice": two("pro_rata: {times: 2}", "tiers: [{lasting: 1 h, share: 10 %}]", "sum"),
    "pays-in-addition": two("pro_rata: {times: 2}", "fixed: 5 KRW", "sum"),
    "rule-covered": two("fixed: 5 KRW", "fixed: 3 KRW").replace("[talk, map]", "[talk]"),
}


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_code_is_found_at_its_rule(tmp_path: Path, code: str) -> None:
    found = check(tmp_path, WRONG[code])
    assert [row.split()[1:] for row in found] == [[code, CODES[code][0]]]
    line = 3 + WRONG[code][: WRONG[code].rindex("  - {id")].count("\n")
    assert found[0].startswith(f"{line}:5 ")


@pytest.mark.parametrize(
    "text",
    [
        one("paid: true, tiers: [{share: 0 %, lasting: 1 h}]"),
        one("fixed: 0 KRW"),
        one("fixed: 5 KRW, cap: 0 KRW"),
        one("fixed: 5 KRW, when: {uptime_below: 0 %}"),
        one("per_day: {rates: [{from: 2024-01-01, amount: 0 KRW}]}"),
    ],
)
def test_what_no_account_can_ever_get_is_an_error(tmp_path: Path, text: str) -> None:
    assert [row.split()[1] for row in check(tmp_path, text)] == ["never-pays"]


def test_every_problem_is_listed_at_once_with_line_and_column(tmp_path: Path) -> None:
    found = check(
        tmp_path,
        "zone: Seoul\n"
        "rules:\n"
        "  - id: r\n"
        "    services: [talk]\n"
        "    fixed: 8.005 GBP\n"
        "    when: {continuous: 2}\n"
        "    cap_share: 1.5\n"
        "    round: up\n",
    )
    assert [row.rpartition(" ")[0] for row in found] == [
        "3:7 not-a-number",
        "7:12 not-a-number",
        "8:24 unit-missing",
        "9:16 not-a-number",
        "10:5 key-unknown",
    ]


def test_a_zone_is_an_offset_or_a_name_and_hours_are_read(tmp_path: Path) -> None:
    path, hours = tmp_path / "r.yaml", '{from: "22:00", to: "06:00", days: [sun, mon]}'
    for words, zone in (('"-03:30"', Zone(-210)), ("Europe/Berlin", Zone(name="Europe/Berlin"))):
        path.write_text(HEAD + f"zone: {words}\n" + one(f"fixed: 5 KRW, hours: {hours}"))
        made = load_rules(path)
        assert (made.zone, made.rules[0].hours) == (zone, Hours(22 * 60, 6 * 60, (0, 6)))
        assert rules_of_data(made.to_data()).digest == made.digest
    for wrong in ("Europe", "Europe/Berln", "../etc", "+9", '"+25:00"'):
        assert [row.split()[1] for row in check(tmp_path, f"zone: {wrong}\n" + one("fixed: 5 KRW"))] == [
            "not-a-number"
        ]
    bad = one('fixed: 5 KRW, hours: {from: "9:00", to: "24:01"}')
    assert [row.split()[1] for row in check(tmp_path, bad)] == ["not-a-number"] * 2


def test_a_rule_set_without_hours_and_names_has_the_digest_that_it_always_had(tmp_path: Path) -> None:
    data = case.load("kt-2021").to_data()
    assert "zone_name" not in data
    assert not any("hours" in row for row in data["rules"])
    assert rules_of_data(data).to_data() == data


def test_rules_for_different_hours_pay_for_different_minutes(tmp_path: Path) -> None:
    day, night = '{from: "06:00", to: "22:00"}', '{from: "22:00", to: "06:00"}'
    apart = two(f"pro_rata: {{times: 2}}, hours: {day}", f"pro_rata: {{times: 1}}, hours: {night}", "sum")
    assert check(tmp_path, apart) == []
    meet = apart.replace('22:00", to', '21:59", to')
    assert [row.split()[1] for row in check(tmp_path, meet)] == ["pays-twice"]


def test_overlapping_rules_are_fine_when_accounts_differ(tmp_path: Path) -> None:
    assert (
        check(tmp_path, two("pro_rata: {times: 2}, plans: [a]", "pro_rata: {times: 3}, plans: [b]", "sum"))
        == []
    )
    paid = two("pro_rata: {times: 2}, paid: true", "fixed: 5 KRW, paid: false", "sum")
    assert check(tmp_path, paid) == []


def test_a_file_with_problems_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(HEAD + one("fixed: 5 KRW, cap: 0 KRW"))
    with pytest.raises(EstateError) as caught:
        load_rules(path)
    assert caught.value.code == "rules-invalid"


def test_the_digest_follows_the_meaning_and_not_the_spelling(tmp_path: Path) -> None:
    digests = []
    for text in ("fixed: 1500 KRW", "fixed: '1,500 KRW'", "fixed: 1501 KRW"):
        (tmp_path / "r.yaml").write_text(HEAD + one(text))
        digests.append(load_rules(tmp_path / "r.yaml").digest)
    assert digests[0] == digests[1] != digests[2]


def test_amounts_have_the_digits_of_their_currency(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(HEAD + one("fixed: 1.234 KWD, cap: 8 KWD"))
    rule = load_rules(tmp_path / "r.yaml").rules[0]
    assert rule.cap is not None
    assert (rule.cap.minor, money_words(rule.cap.minor, "KWD")) == (8_000, "8.000 KWD")


def test_every_code_is_documented_with_its_severity_and_meaning() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "credit-rules.md").read_text(encoding="utf-8")
    for code, (severity, meaning) in CODES.items():
        assert f"| `{code}` | {severity} | {meaning} |" in page
