"""Explanations: what a customer reads, in two languages, and texts that a company changes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from evac.app.credit import case
from evac.credit.exact import Account, lines_of
from evac.credit.explain import LANGUAGES, TEMPLATES, checked, explained, in_words
from evac.credit.formulas import Days, Money, ProRata, Voucher, decimal_text, money_words
from evac.credit.rules import Rule, RuleSet
from evac.credit.windows import Hours, Window, Zone
from evac.model.errors import InvalidInput
from tests.unit.credit import random_cases

BEGIN = 1_665_815_580_000
MELON = Account("a", "melon", "plus", 10_900, "KRW", "2022-10")
DOWN = [Window("w", "melon", BEGIN, BEGIN + 89 * 60_000), Window("m", "mobile", BEGIN, BEGIN + 89 * 60_000)]


def words(name: str, row: Account, language: str = "en") -> str:
    (found,) = explained(case.load(name), DOWN, row, language).sentences  # type: ignore[arg-type]
    return found


def test_days_and_the_amount_that_a_store_gives_instead() -> None:
    assert words("melon-2022", MELON) == (
        "melon was unavailable from 2022-10-15 15:33 to 2022-10-15 17:02 (1 h 29 min). "
        "You receive 3 more days. Your subscription is extended; the next billing day moves."
    )
    store = Account("a", "melon", "plus", 10_900, "KRW", "2022-10", channel="app-store")
    assert "You receive 1,500 KRW. Your store cannot move a billing day" in words("melon-2022", store)
    assert "이용 기간 3일 연장을 드립니다" in words("melon-2022", MELON, "ko")


def test_a_voucher_that_a_channel_cannot_give_is_an_amount() -> None:
    voucher = Rule("r", Voucher("film ticket"), ("melon",), fallback={"app-store": Money(900, "KRW")})
    rules = RuleSet("r", (voucher,), Zone(540))
    (given,) = explained(rules, DOWN, MELON, "en").sentences
    assert given.endswith(
        "You receive 1 x film ticket. It does not renew automatically and is never charged."
    )
    (instead,) = explained(rules, DOWN, replace(MELON, channel="app-store"), "en").sentences
    assert "You receive 900 KRW. It is not available through the store where you subscribed" in instead


def test_hours_that_count_are_named_and_cut_the_outage() -> None:
    business = Hours(9 * 60, 16 * 60, days=(5, 6))  # 15 October 2022 was a Saturday
    rules = RuleSet("r", (Rule("r", ProRata(10_000), ("melon",), hours=business),), Zone(name="Asia/Seoul"))
    (found,) = explained(rules, DOWN, MELON, "en").sentences
    assert "from 2022-10-15 15:33 to 2022-10-15 16:00 (27 min)" in found
    assert found.endswith("Outages count from 09:00 to 16:00 on Saturdays, Sundays.")
    assert "토요일, 일요일 09:00부터 16:00까지" in explained(rules, DOWN, MELON, "ko").sentences[0]


def test_the_calculation_is_written_out() -> None:
    row = Account("a", "mobile", "individual", 50_000, "KRW", "2022-10")
    assert words("kt-2021", row) == (
        "mobile was unavailable from 2022-10-15 15:33 to 2022-10-15 17:02 (1 h 29 min). "
        "You receive 1,009 KRW. Your fee of 50,000 KRW x 15 h / 744 h. "
        "The 15 h are 10 times the length of the outage. The time is rounded up to whole units of 1 h."
    )


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        (ProRata(), "Your fee of 10,900 KRW x 0.45 h / 744 h, the length of the outage."),
        (ProRata(10_000), "x 4.5 h / 744 h. The 4.5 h are 10 times the length of the outage."),
        (ProRata(10_000, 30 * 60_000), "x 4.5 h / 744 h. The 4.5 h are 10 times the length of the outage."),
        (
            ProRata(1_000, 3_600_000),
            "the length of the outage. The time is rounded up to whole units of 1 h.",
        ),
    ],
)
def test_a_time_that_was_rounded_up_is_never_called_a_multiple_of_the_outage(
    formula: ProRata, said: str
) -> None:
    hours = Hours(9 * 60, 16 * 60, days=(5, 6))  # 27 minutes of the outage
    rules = RuleSet("r", (Rule("r", formula, ("melon",), hours=hours),), Zone(name="Asia/Seoul"))
    (found,) = explained(rules, DOWN, MELON, "en").sentences
    assert f"{said} Outages count from" in found


def test_the_least_and_the_most_that_is_paid_are_named() -> None:
    """1,009 won by the calculation."""
    row = Account("a", "mobile", "individual", 50_000, "KRW", "2022-10")
    rules = case.load("kt-2021")

    def why(**limits: object) -> str:
        limited = replace(rules, rules=tuple(replace(rule, **limits) for rule in rules.rules))  # type: ignore[arg-type]
        return explained(limited, DOWN, row, "en").sentences[0]

    assert "You receive 2,000 KRW." in why(floor=Money(2_000, "KRW"))
    assert why(floor=Money(2_000, "KRW")).endswith("This is the minimum that we pay.")
    assert why(cap=Money(700, "KRW")).endswith("This is the maximum that we pay.")
    assert "that we pay" not in why()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Account("a", "mobile", "basic", 50_000, "KRW", "2022-09"), "No outage was recorded"),
        (Account("a", "mobile", "basic", 0, "KRW", "2022-10"), "No rule covers"),
        (
            Account("a", "mobile", "basic", 50_000, "KRW", "2022-10"),
            "The outage of 1 h 29 min is shorter than rule",
        ),
    ],
)
def test_no_credit_has_a_reason(row: Account, why: str) -> None:
    assert why in words("korea-telecom", row)


def test_every_random_case_is_explained_in_both_languages_with_its_amount() -> None:
    rng, amounts = random.Random(7), 0
    for _ in range(60):
        rules, windows = random_cases.rule_set(rng), random_cases.windows(rng)
        for row in random_cases.accounts(rng, 20):
            lines = lines_of(rules, windows, row)
            for language in LANGUAGES:
                found = explained(rules, windows, row, language)
                assert len(found.sentences) == max(1, len(lines))
                for line, sentence in zip(lines, found.sentences, strict=False):
                    assert "{" not in sentence
                    if line.amount and line.quantity == 0:
                        amounts += 1
                        assert money_words(line.amount, line.currency) in sentence
    assert amounts > 100


def test_a_company_changes_a_text_and_keeps_the_others() -> None:
    made = checked({"en": {"extended": "We moved your billing day."}})
    rules = case.load("melon-2022")
    (found,) = explained(rules, DOWN, MELON, "en", made).sentences
    assert found.endswith("You receive 3 more days. We moved your billing day.")
    assert made["ko"] == TEMPLATES["ko"]


def test_the_text_of_a_company_for_several_times_the_outage_is_used_for_one_too() -> None:
    rules = RuleSet("r", (Rule("r", ProRata(), ("melon",)),), Zone(name="Asia/Seoul"))
    made = checked({"en": {"pro_rata": "{hours} of {base_hours} hours."}})
    (found,) = explained(rules, DOWN, MELON, "en", made).sentences
    assert found.endswith("of 744 hours.")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "You receive 1 more day."),
        ({"days": "{count} free days"}, "You receive 1 free days."),
        ({"days": "{count} free days", "days_one": "a free day"}, "You receive a free day."),
    ],
)
def test_one_day_is_no_days_and_the_text_of_a_company_counts_for_one_too(
    texts: dict[str, str], words: str
) -> None:
    rules = case.load("melon-2022")
    one = replace(rules, rules=tuple(replace(r, formula=Days(1)) for r in rules.rules))
    (found,) = explained(one, DOWN, MELON, "en", checked({"en": texts})).sentences
    assert words in found
    assert "extended by 1 day." in in_words(one.rules[0]).basis


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"fr": {}}, "template-unknown"),
        ({"en": {"line2": "x"}}, "template-unknown"),
        ({"en": {"days": "{name} more days"}}, "template-invalid"),
        ({"en": {"days": "{count more days"}}, "template-invalid"),
        ({"en": {"days": "{count.real} more days"}}, "template-invalid"),
    ],
)
def test_a_text_that_cannot_be_filled_in_is_refused(given: dict[str, dict[str, str]], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(given)
    assert caught.value.code == code


def test_both_languages_have_the_same_texts() -> None:
    assert TEMPLATES["en"].keys() == TEMPLATES["ko"].keys()
    checked({language: TEMPLATES[language] for language in LANGUAGES})


def test_amounts_are_exact_in_every_currency() -> None:
    assert [decimal_text(5, name) for name in ("KRW", "GBP", "KWD")] == ["5", "0.05", "0.005"]
    assert money_words(-123_456, "GBP") == "-1,234.56 GBP"
