"""Reference evaluation of a rule set with fractions, one account at a time, to compare both engines with.

Written for readability, not speed. Shares only the values of rules and windows with the engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Literal

from evac.credit import formulas
from evac.credit.rules import HOUR_MS, MONEY, PPM, Kind, Rounding, Rule, RuleSet
from evac.credit.windows import DAY_MS, Cycle, Window, Zone, cycle_of, spans_of
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """One input row: an account, one service of it, one billing cycle."""

    account: str
    service: str
    plan: str
    fee: int
    """Minor units, for the cycle, or for an hour if a rule says so."""
    currency: str
    cycle: str
    site: str = ""
    region: str = ""
    channel: str = ""
    used: bool = True
    tax_bp: int = 0
    """Tax rate in hundredths of a percent."""
    tax_included: bool = True
    """Whether the fee includes tax."""
    claimed: int = 0
    """Reported loss, minor units."""
    invoice: str = ""
    invoice_line: str = ""
    granted: int = 0
    """Part of the reported loss that a person granted, minor units; 0: undecided."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one rule gives to one row."""

    account: str
    service: str
    cycle: str
    rule: str
    kind: Kind
    amount: int
    """Minor units of money; 0 for days and goods."""
    currency: str
    quantity: int
    """Days, vouchers or goods; 0 for money."""
    tax: int
    """Part of the amount if the fee includes tax, else added to it."""
    state: Literal["due", "review"]
    tranche: Literal["paying", "free"]


@dataclass(frozen=True, slots=True)
class Measured:
    """How long a service was down, as one rule counts it."""

    spans: tuple[tuple[int, int], ...]
    longest_ms: int
    total_ms: int
    cycle: Cycle


def measured(
    rule: Rule, zone: Zone, windows: Iterable[Window], service: str, site: str, cycle: Cycle
) -> Measured:
    """Measure outages. A rule that shares a fee counts the time within the cycle; each outage is judged by
    its whole length.
    """
    spans = spans_of(windows, service, site, rule.excludes, rule.hours, zone)
    if rule.shares_fee:
        hit = [(a, b) for a, b in spans if a < cycle.to_ms and b > cycle.from_ms]
        total = sum(min(b, cycle.to_ms) - max(a, cycle.from_ms) for a, b in hit)
    else:
        hit = [(a, b) for a, b in spans if cycle.from_ms <= a < cycle.to_ms]
        total = sum(b - a for a, b in hit)
    return Measured(tuple(hit), max((b - a for a, b in hit), default=0), total, cycle)


def reached(rule: Rule, seen: Measured) -> bool:
    """Whether the outage is long enough for the rule."""
    if seen.total_ms <= 0:
        return False
    when, uptime = rule.when, 1 - Fraction(seen.total_ms, seen.cycle.length_ms)
    asked = (
        None if when.continuous_ms is None else seen.longest_ms >= when.continuous_ms,
        None if when.total_ms is None else seen.total_ms >= when.total_ms,
        None if when.uptime_below_ppm is None else uptime < Fraction(when.uptime_below_ppm, PPM),
    )
    return any(asked) or all(one is None for one in asked)


def lines_of(rules: RuleSet, windows: Sequence[Window], row: Account) -> tuple[Line, ...]:
    """All lines of one row, in the order of the rules. Raises InvalidInput for an invalid cycle."""
    cycle = cycle_of(row.cycle, rules.zone)
    each = (_line(rule, rules.zone, windows, row, cycle) for rule in rules.rules)
    found = [line for line in each if line is not None]
    if rules.overlap == "sum":
        return tuple(found)
    money = [line for line in found if line.kind in MONEY]
    best = max(money, key=lambda line: line.amount, default=None)  # the first of equal amounts
    return tuple(line for line in found if line.kind not in MONEY or line is best)


def _line(rule: Rule, zone: Zone, windows: Sequence[Window], row: Account, cycle: Cycle) -> Line | None:
    if not entitled(rule, row):
        return None
    seen = measured(rule, zone, windows, row.service, row.site, cycle)
    if not reached(rule, seen):
        return None
    kind, quantity, review = rule.kind, 0, False
    raw = Fraction(0)
    match rule.formula:
        case formulas.Tiers(tiers):
            uptime = 1 - Fraction(seen.total_ms, cycle.length_ms)
            shares = [
                tier.share_ppm
                for tier in tiers
                if (tier.uptime_below_ppm is not None and uptime < Fraction(tier.uptime_below_ppm, PPM))
                or (tier.lasting_ms is not None and seen.total_ms >= tier.lasting_ms)
            ]
            raw = row.fee * Fraction(max(shares, default=0), PPM)
        case formulas.ProRata():
            raw = row.fee * Fraction(
                credited_ms(rule.formula, seen), HOUR_MS if rule.base == "hourly_fee" else cycle.length_ms
            )
        case formulas.Fixed(money):
            raw = Fraction(money.minor)
        case formulas.PerDay():
            raw = Fraction(sum(days * rate for days, rate in days_of(rule.formula, seen)))
        case formulas.Days() | formulas.Voucher() if row.channel in rule.fallback:
            kind, raw = "balance", Fraction(rule.fallback[row.channel].minor)
        case formulas.Days(days):
            quantity = days
        case formulas.Voucher(count=count, worth=worth):
            quantity, raw = count, Fraction(worth.minor * count if worth is not None else 0)
        case formulas.Bands(bands):
            reach = [band.pays.minor for band in bands if row.claimed <= band.up_to.minor]
            review, raw = not reach and not row.granted, Fraction(row.granted or (reach[0] if reach else 0))
    amount = raw if kind not in MONEY else Fraction(limited(rule, rounded(raw, rule.rounding), row.fee))
    if not amount and not quantity and not review:
        return None
    return Line(
        row.account,
        row.service,
        row.cycle,
        rule.id,
        kind,
        int(amount),
        row.currency,
        quantity,
        _tax(int(amount), row) if kind in MONEY else 0,
        "review" if review else "due",
        "paying" if row.fee > 0 else "free",
    )


def entitled(rule: Rule, row: Account) -> bool:
    """Whether the rule applies to this row, regardless of outages."""
    return (
        (not rule.services or row.service in rule.services)
        and (not rule.plans or row.plan in rule.plans)
        and (not rule.regions or row.region in rule.regions)
        and (not rule.channels or row.channel in rule.channels)
        and (rule.paid is None or rule.paid == (row.fee > 0))
        and (not rule.used or row.used)
        and (not rule.currency or row.currency == rule.currency)
        and (not rule.needs_claim or row.claimed > 0)
    )


def credited_ms(formula: formulas.ProRata, seen: Measured) -> int:
    """The credited time: multiplied, then rounded up to whole units."""
    return ceil(Fraction(seen.total_ms * formula.times_permille, 1_000 * formula.unit_ms)) * formula.unit_ms


def days_of(formula: formulas.PerDay, seen: Measured) -> list[tuple[int, int]]:
    """(days, minor units for each) of every outage longer than the rule's waiting time."""
    found = []
    for begin, end in seen.spans:
        days = ceil(Fraction(max(0, end - begin - formula.after_ms), DAY_MS))
        rates = [rate.money.minor for rate in formula.rates if rate.from_ms <= begin]
        if days and rates:
            found.append((days, rates[-1]))
    return found


def rounded(raw: Fraction, how: Rounding) -> int:
    """Round half up."""
    if how == "half_up":
        return floor(raw + Fraction(1, 2))
    return ceil(raw) if how == "up" else floor(raw)


def limited(rule: Rule, amount: int, fee: int) -> int:
    """Raise to the floor if anything is payable, then cut at the caps."""
    if amount > 0 and rule.floor is not None:
        amount = max(amount, rule.floor.minor)
    if rule.cap_ppm is not None:
        amount = min(amount, floor(fee * Fraction(rule.cap_ppm, PPM)))
    return amount if rule.cap is None else min(amount, rule.cap.minor)


def _tax(amount: int, row: Account) -> int:
    whole = 10_000 + row.tax_bp if row.tax_included else 10_000
    return rounded(Fraction(amount * row.tax_bp, whole), "half_up")
