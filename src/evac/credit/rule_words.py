"""A rule in words: who may get something, on which basis, and what they have to do for it. Pure.

For a regulator and for terms of service: without the numbers of an account, which `explain` writes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from evac.credit import formulas
from evac.credit.explain import length_words
from evac.credit.money import money_words
from evac.credit.rules import Rule
from evac.credit.zones import WEEKDAYS, clock


@dataclass(frozen=True, slots=True)
class RuleWords:
    claimants: str
    basis: str
    procedure: str


def in_words(rule: Rule) -> RuleWords:
    """One sentence or two for each of the three."""
    return RuleWords(_claimants(rule), " ".join(_basis(rule)), " ".join(_procedure(rule)))


def _claimants(rule: Rule) -> str:
    about = [f"Accounts of {_listed(rule.services)}" if rule.services else "Accounts of all services"]
    if rule.paid is not None:
        about[0] += " with a fee" if rule.paid else " without a fee"
    for names, word in ((rule.plans, "plan"), (rule.regions, "region"), (rule.channels, "channel")):
        if names:
            about.append(f"{word} {_listed(names, 'or')}")
    if rule.used:
        about.append("if they used the service during the outage")
    return f"{', '.join(about)}."


def _basis(rule: Rule) -> Iterator[str]:
    yield f"{_formula(rule)}{_when(rule)}."
    if rule.hours is not None:
        days = [WEEKDAYS[day].capitalize() for day in rule.hours.days]
        begin, end = clock(rule.hours.from_minute), clock(rule.hours.to_minute)
        yield f"Outages count from {begin} to {end}{f' on {_listed(days)}' if days else ''}."
    if rule.excludes:
        kinds = _listed([kind.replace("_", " ") for kind in rule.excludes])
        yield f"Not counted: {kinds}."
    if rule.floor is not None:
        yield f"At least {_money(rule.floor)}."
    if rule.cap is not None:
        yield f"At most {_money(rule.cap)}."
    if rule.cap_ppm is not None:
        yield f"At most {_percent(rule.cap_ppm)} of the fee."
    for channel, money in rule.fallback.items():
        yield f"{_money(money)} instead for the channel {channel}, which cannot take it."


def _formula(rule: Rule) -> str:
    match rule.formula:
        case formulas.Tiers(tiers):
            return "A share of the fee: " + ", ".join(
                f"{_percent(tier.share_ppm)} "
                + (
                    f"where uptime was below {_percent(tier.uptime_below_ppm)}"
                    if tier.uptime_below_ppm is not None
                    else f"from {length_words(tier.lasting_ms or 0)} on"
                )
                for tier in tiers
            )
        case formulas.ProRata(times, unit):
            fee = "hourly fee" if rule.base == "hourly_fee" else "fee of the cycle"
            factor = "" if times == 1_000 else f"{_number(Fraction(times, 1_000))} times "
            whole = f", in whole units of {length_words(unit)}" if unit > 1 else ""
            return f"{factor}the {fee} for the time of the outage{whole}".capitalize()
        case formulas.Fixed(money):
            return f"{_money(money)} for each account and cycle"
        case formulas.PerDay(rates, after):
            later = f" beyond the first {length_words(after)}" if after else ""
            return f"{_money(rates[-1].money)} for each day{later}"
        case formulas.Days(days):
            return f"The subscription is extended by {_days(days)}"
        case formulas.Voucher(name, count, worth):
            value = f" worth {_money(worth)} each" if worth is not None else ""
            return f"{count} x {name}{value}"
        case formulas.Bands(bands):
            steps = ", ".join(f"{_money(band.pays)} up to {_money(band.up_to)}" for band in bands)
            return f"By reported loss: {steps}; above that a person decides by documents"


def _when(rule: Rule) -> str:
    when = rule.when
    asked = [
        words
        for value, words in (
            (when.continuous_ms, f"one outage lasted {length_words(when.continuous_ms or 0)} or longer"),
            (when.total_ms, f"all outages of a cycle lasted {length_words(when.total_ms or 0)} or longer"),
            (when.uptime_below_ppm, f"uptime of a cycle was below {_percent(when.uptime_below_ppm or 0)}"),
        )
        if value is not None
    ]
    return f", if {' or '.join(asked)}" if asked else ""


def _procedure(rule: Rule) -> Iterator[str]:
    if rule.needs_claim:
        yield f"On a claim{f' by {rule.claim_by}' if rule.claim_by else ''}."
        if rule.first is not None:
            yield f"The first {rule.first:,} claims count."
        if rule.pool is not None:
            yield f"{_money(rule.pool)} for all claims, in the order of receipt."
    else:
        yield "No claim is needed."
    ways = {"refund": "It is refunded.", "balance": "It is put on the account's balance."}
    yield ways.get(rule.kind, "It is put on the account; it does not renew itself.")
    if rule.expires_days:
        yield f"It can be used for {_days(rule.expires_days)}."


def _listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def _money(money: formulas.Money) -> str:
    return money_words(money.minor, money.currency)


def _percent(ppm: int) -> str:
    return f"{_number(Fraction(ppm, 10_000))} %"


def _number(value: Fraction) -> str:
    """Exact: a factor has three decimals and a share four."""
    return f"{value.numerator / value.denominator:.4f}".rstrip("0").rstrip(".")
