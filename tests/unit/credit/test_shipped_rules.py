"""The rule sets that come with evac, each with the arithmetic of its source."""

from __future__ import annotations

from datetime import datetime

import pytest

from evac.app.credit import case
from evac.credit.exact import Account, Line, lines_of
from evac.credit.windows import Window
from evac.model.errors import InvalidInput


def down(service: str, begin: str, end: str, kind: str = "outage") -> Window:
    at = [round(datetime.fromisoformat(text).timestamp() * 1_000) for text in (begin, end)]
    return Window("w", service, at[0], at[1], kind=kind)  # type: ignore[arg-type]


def minutes(service: str, count: int) -> Window:
    begin = round(datetime.fromisoformat("2022-06-10T00:00:00Z").timestamp() * 1_000)
    return Window("w", service, begin, begin + count * 60_000)


def lines(name: str, window: Window, row: Account) -> tuple[Line, ...]:
    return lines_of(case.load(name), [window], row)


def amount(name: str, window: Window, row: Account) -> int:
    found = lines(name, window, row)
    return found[0].amount if found else 0


def usd(service: str, fee: int, plan: str = "") -> Account:
    return Account("a", service, plan, fee, "USD", "2022-06")


def test_each_is_free_of_problems_and_names_its_source() -> None:
    assert case.shipped_names() == (
        "aws",
        "azure-vm",
        "google-compute",
        "kakao-2022",
        "korea-telecom",
        "kt-2021",
        "melon-2022",
        "ofcom",
    )
    for name in case.shipped_names():
        made, problems = case.check(name)
        assert problems == ()
        assert made is not None
        assert made.id == name
        assert all(rule.source.startswith("https://") for rule in made.rules)


def test_a_name_that_is_neither_a_file_nor_a_set_lists_the_sets() -> None:
    with pytest.raises(InvalidInput) as caught:
        case.load("aw")
    assert "aws, azure-vm" in caught.value.hint


@pytest.mark.parametrize(
    ("down_minutes", "percent"),
    [(4, 0), (5, 10), (432, 10), (433, 30), (2_160, 30), (2_161, 100), (43_200, 100)],
)
def test_ec2_pays_10_30_or_100_percent(down_minutes: int, percent: int) -> None:
    """99.99 % of 43,200 minutes leaves 4.32; 99 % leaves 432; 95 % leaves 2,160."""
    assert amount("aws", minutes("ec2", down_minutes), usd("ec2", 123_456)) == (123_456 * percent + 50) // 100


@pytest.mark.parametrize(("down_minutes", "percent"), [(43, 0), (44, 10), (433, 25), (2_161, 100)])
def test_s3_pays_10_25_or_100_percent(down_minutes: int, percent: int) -> None:
    assert amount("aws", minutes("s3", down_minutes), usd("s3", 10_000)) == 100 * percent


@pytest.mark.parametrize(("down_minutes", "percent"), [(4, 0), (5, 10), (433, 25), (2_161, 100)])
def test_google_compute_and_azure_in_two_zones_pay_alike(down_minutes: int, percent: int) -> None:
    google = amount("google-compute", minutes("compute-engine", down_minutes), usd("compute-engine", 10_000))
    azure = minutes("virtual-machines", down_minutes)
    assert google == amount("azure-vm", azure, usd("virtual-machines", 10_000, "two-zones")) == 100 * percent


def test_azure_promises_less_to_fewer_machines() -> None:
    window = minutes("virtual-machines", 30)
    paid = [
        amount("azure-vm", window, usd("virtual-machines", 10_000, plan))
        for plan in ("two-zones", "availability-set", "single-premium")
    ]
    assert paid == [1_000, 1_000, 0]


def test_planned_maintenance_is_not_downtime() -> None:
    window = down("ec2", "2022-06-10T00:00:00Z", "2022-06-12T00:00:00Z", "maintenance")
    assert lines("aws", window, usd("ec2", 10_000)) == ()


def krw(service: str, fee: int, cycle: str, plan: str = "individual", **more: object) -> Account:
    return Account("a", service, plan, fee, "KRW", cycle, **more)  # type: ignore[arg-type]


def test_kt_2021_gives_15_hours_for_89_minutes_and_merchants_10_days() -> None:
    """Ten times 89 minutes is 15 hours. Named were about 1,000 won for 50,000 a month, 8,000 for shops."""
    window = down("mobile", "2021-10-25T11:16:00+09:00", "2021-10-25T12:45:00+09:00")
    person = krw("mobile", 50_000, "2021-10")
    merchant = krw("mobile", 25_000, "2021-10", "merchant")
    assert amount("kt-2021", window, person) == -(-50_000 * 15 // 744) == 1_009
    assert amount("kt-2021", window, merchant) == -(-25_000 * 10 // 31) == 8_065


def test_korean_terms_pay_ten_hourly_fees_from_two_hours_on() -> None:
    """A fee of 74,400 won in a month of 744 hours is 100 won an hour."""
    row = krw("internet", 74_400, "2022-10")
    two = down("internet", "2022-10-15T10:00:00+09:00", "2022-10-15T12:00:00+09:00")
    less = down("internet", "2022-10-15T10:00:00+09:00", "2022-10-15T11:59:59+09:00")
    assert amount("korea-telecom", two, row) == 2 * 10 * 100
    assert lines("korea-telecom", less, row) == ()


def test_an_outage_over_the_end_of_a_month_is_judged_whole_and_paid_in_parts() -> None:
    window = down("internet", "2022-10-31T23:00:00+09:00", "2022-11-01T01:00:00+09:00")
    october, november = krw("internet", 74_400, "2022-10"), krw("internet", 72_000, "2022-11")
    assert amount("korea-telecom", window, october) == 1_000
    assert amount("korea-telecom", window, november) == 1_000


FIRE = ("2022-10-15T15:33:00+09:00", "2022-10-20T23:00:00+09:00")


def test_melon_extends_by_three_days_or_gives_1500_won_where_a_store_bills() -> None:
    window = down("melon", *FIRE)
    (days,) = lines("melon-2022", window, krw("melon", 10_900, "2022-10"))
    assert (days.kind, days.quantity, days.amount) == ("days", 3, 0)
    (cash,) = lines("melon-2022", window, krw("melon", 10_900, "2022-10", channel="app-store"))
    assert (cash.kind, cash.quantity, cash.amount, cash.currency) == ("balance", 0, 1_500, "KRW")
    assert lines("melon-2022", window, krw("melon", 0, "2022-10")) == ()


@pytest.mark.parametrize(
    ("claimed", "paid", "state"),
    [
        (1, 30_000, "due"),
        (300_000, 30_000, "due"),
        (300_001, 50_000, "due"),
        (500_000, 50_000, "due"),
        (500_001, 0, "review"),
    ],
)
def test_kakao_pays_claims_by_band_and_reviews_those_above(claimed: int, paid: int, state: str) -> None:
    window = down("talk-business", *FIRE)
    (line,) = lines("kakao-2022", window, krw("talk-business", 0, "2022-10", claimed=claimed))
    assert (line.amount, line.state, line.kind) == (paid, state, "refund")


def test_kakao_gives_three_sets_to_users_without_a_fee_and_nothing_without_a_claim() -> None:
    (line,) = lines("kakao-2022", down("talk", *FIRE), krw("talk", 0, "2022-10"))
    assert (line.kind, line.quantity, line.amount, line.tranche) == ("goods", 3, 0, "free")
    assert lines("kakao-2022", down("talk-business", *FIRE), krw("talk-business", 0, "2022-10")) == ()


@pytest.mark.parametrize(
    ("begin", "end", "pence"),
    [
        ("2019-05-01T00:00:00Z", "2019-05-03T00:00:00Z", 0),
        ("2019-05-01T00:00:00Z", "2019-05-03T00:01:00Z", 800),
        ("2019-05-01T00:00:00Z", "2019-05-06T00:00:00Z", 2_400),
        ("2023-10-02T00:00:00Z", "2023-10-23T00:00:00Z", 19 * 933),
        ("2026-05-01T00:00:00Z", "2026-05-04T00:00:00Z", 1_034),
        ("2019-03-01T00:00:00Z", "2019-03-09T00:00:00Z", 0),
    ],
)
def test_ofcom_pays_each_day_after_two_at_the_rate_of_the_year(begin: str, end: str, pence: int) -> None:
    row = Account("a", "broadband", "fibre", 3_000, "GBP", begin[:7])
    assert amount("ofcom", down("broadband", begin, end), row) == pence
