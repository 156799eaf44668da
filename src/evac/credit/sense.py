"""Whether a rule set makes sense: contradictions, what pays twice, and what no account can ever get. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from types import MappingProxyType
from typing import Final

from evac.credit import formulas
from evac.credit.rules import MONEY, Rule, RuleSet
from evac.credit.zones import WEEK_MINUTES
from evac.model.diagnostic import Diagnostic, Severity

CODES: Final = MappingProxyType(
    {
        "formula-missing": ("error", "A rule without a formula, so that it pays nothing."),
        "formula-several": ("error", "A rule with more than one formula."),
        "rule-twice": ("error", "Two rules with the same id."),
        "currencies-mixed": ("error", "Amounts in two currencies in one rule."),
        "floor-above-cap": ("error", "A least amount that is more than the cap."),
        "base-contradiction": (
            "error",
            "An hourly fee where the formula or the cap needs the fee of the cycle.",
        ),
        "tier-ambiguous": ("error", "A tier that names neither or both of an uptime and a length."),
        "tier-unreachable": (
            "error",
            "A tier that never counts, because another one always pays at least as much.",
        ),
        "never-pays": ("error", "A rule that pays nothing to any account."),
        "grant-renews": ("error", "A grant that would renew itself and charge the customer later."),
        "fallback-unused": ("error", "A fallback by channel for a rule that pays money."),
        "hours-all": ("error", "Hours that leave nothing out."),
        "pool-without-claims": ("error", "A pool or `first` for a rule that takes no claims."),
        "order-wrong": ("error", "Bands or rates that are not in rising order."),
        "pays-twice": ("error", "With `overlap: sum`, two rules that share one fee for the same minute."),
        "pays-in-addition": ("warning", "With `overlap: sum`, two rules that pay for the same outage."),
        "rule-covered": ("warning", "With `overlap: max`, a rule that never pays more than an earlier one."),
    }
)
"""Stable code -> (severity, what it means)."""

_SHARED: Final = ("services", "plans", "regions", "channels")


def problems_of(rules: RuleSet) -> tuple[Diagnostic, ...]:
    """Every problem, each at the place of its rule."""
    found: list[Diagnostic] = []
    seen: set[str] = set()
    for rule in rules.rules:
        if rule.id in seen:
            found.append(
                _problem(rule, "rule-twice", f"two rules have the id {rule.id}", "rename one of them")
            )
        seen.add(rule.id)
        for check in _CHECKS:
            found += check(rule)
    for one, other in combinations(rules.rules, 2):
        if _meet(one, other) and one.kind in MONEY and other.kind in MONEY:
            found += _twice(one, other) if rules.overlap == "sum" else _covered(one, other)
    return tuple(sorted(found, key=lambda d: d.sort_key))


def _problem(rule: Rule, code: str, message: str, hint: str = "") -> Diagnostic:
    severity: Severity = "warning" if CODES[code][0] == "warning" else "error"
    return Diagnostic(code, f"rule {rule.id}: {message}", rule.place, severity, hint)


def _currencies(rule: Rule) -> Iterator[Diagnostic]:
    if len(rule.currencies) > 1:
        names = " and ".join(sorted(rule.currencies))
        yield _problem(rule, "currencies-mixed", f"amounts in {names}", "write one rule for each currency")


def _limits(rule: Rule) -> Iterator[Diagnostic]:
    if rule.floor is not None and rule.cap is not None and rule.floor.minor > rule.cap.minor:
        message = f"the floor of {rule.floor.minor:,} is above the cap of {rule.cap.minor:,} (minor units)"
        yield _problem(rule, "floor-above-cap", message, "lower the floor or raise the cap")
    if rule.base == "hourly_fee" and not isinstance(rule.formula, formulas.ProRata):
        hint = "write base: fee, or use pro_rata"
        yield _problem(rule, "base-contradiction", "only pro_rata can use an hourly fee", hint)
    if rule.base == "hourly_fee" and rule.cap_ppm is not None:
        message = "a cap as a share needs the fee of the cycle, and the base is hourly"
        yield _problem(rule, "base-contradiction", message, "write the cap as an amount")
    if (rule.pool is not None or rule.first is not None) and not rule.needs_claim:
        message = "a pool and first count claims, and the rule takes none"
        yield _problem(rule, "pool-without-claims", message, "remove them, or use bands")
    if rule.fallback and not rule.in_kind:
        hint = "remove fallback, or use days, voucher or goods"
        yield _problem(rule, "fallback-unused", "money needs no fallback", hint)
    if rule.hours is not None and len(rule.hours.minutes_of_week) == WEEK_MINUTES:
        yield _problem(rule, "hours-all", "these hours are the whole week", "remove hours")


def _never(rule: Rule) -> Iterator[Diagnostic]:
    why = ""
    if rule.paid is False and (rule.shares_fee or rule.cap_ppm is not None):
        why = "it pays a share of the fee, to accounts without a fee"
    elif (rule.cap is not None and rule.cap.minor == 0) or rule.cap_ppm == 0:
        why = "its cap is 0"
    elif rule.first == 0 or (rule.pool is not None and rule.pool.minor == 0):
        why = "its pool is empty"
    elif rule.when.uptime_below_ppm == 0 and rule.when.continuous_ms is None and rule.when.total_ms is None:
        why = "uptime cannot be below 0 %"
    match rule.formula:
        case formulas.Tiers(tiers) if not any(tier.share_ppm for tier in tiers):
            why = "every tier pays 0 %"
        case formulas.ProRata(times_permille=0) | formulas.Fixed(money=formulas.Money(minor=0)):
            why = "its amount is 0"
        case formulas.Days(days=0) | formulas.Voucher(count=0):
            why = "it gives 0 of it"
        case formulas.Bands(bands) if not bands:
            why = "it has no band"
        case formulas.PerDay(rates) if not any(rate.money.minor for rate in rates):
            why = "every daily amount is 0"
    if why:
        yield _problem(rule, "never-pays", f"no account can ever get anything: {why}", "remove or correct it")


def _tiers(rule: Rule) -> Iterator[Diagnostic]:
    if not isinstance(rule.formula, formulas.Tiers):
        return
    tiers = rule.formula.tiers
    for i, tier in enumerate(tiers):
        if (tier.uptime_below_ppm is None) == (tier.lasting_ms is None):
            message = f"tier {i + 1} must name one of uptime_below and lasting"
            yield _problem(rule, "tier-ambiguous", message, "keep one of the two")
            continue
        for k, other in enumerate(tiers):
            if k == i or other.share_ppm < tier.share_ppm or (other == tier and k > i):
                continue
            below, lasting = other.uptime_below_ppm, other.lasting_ms
            wider = (
                tier.uptime_below_ppm is not None and below is not None and below >= tier.uptime_below_ppm
            ) or (tier.lasting_ms is not None and lasting is not None and lasting <= tier.lasting_ms)
            if wider:
                message = (
                    f"tier {i + 1} never counts: tier {k + 1} is reached whenever it is, and pays as much"
                )
                yield _problem(rule, "tier-unreachable", message, "a longer outage pays a larger share")
                break


def _order(rule: Rule) -> Iterator[Diagnostic]:
    match rule.formula:
        case formulas.Bands(bands):
            steps: list[int] = [band.up_to.minor for band in bands]
        case formulas.PerDay(rates):
            steps = [rate.from_ms for rate in rates]
        case _:
            return
    if any(after <= before for before, after in pairwise(steps)):
        what = "bands" if isinstance(rule.formula, formulas.Bands) else "rates"
        yield _problem(rule, "order-wrong", f"{what} are not in rising order", "sort them")


_CHECKS: Final[Sequence[Callable[[Rule], Iterator[Diagnostic]]]] = (
    _currencies,
    _limits,
    _never,
    _tiers,
    _order,
)


def _meet(one: Rule, other: Rule) -> bool:
    """Whether one account can be entitled by both."""
    for name in _SHARED:
        mine, theirs = set(getattr(one, name)), set(getattr(other, name))
        if mine and theirs and not mine & theirs:
            return False
    if one.currency and other.currency and one.currency != other.currency:
        return False
    if one.hours and other.hours and not one.hours.minutes_of_week & other.hours.minutes_of_week:
        return False
    return one.paid is None or other.paid is None or one.paid == other.paid


def _twice(one: Rule, other: Rule) -> Iterator[Diagnostic]:
    if one.shares_fee and other.shares_fee:
        message = f"pays for the same minutes as {one.id}, and overlap is sum"
        hint = "write overlap: max, or divide services or plans between the two"
        yield _problem(other, "pays-twice", message, hint)
    else:
        message = f"pays for the same outage as {one.id}, in addition"
        yield _problem(other, "pays-in-addition", message, "write overlap: max if only one is meant")


def _covered(one: Rule, other: Rule) -> Iterator[Diagnostic]:
    """Only the simple case: two fixed amounts, the second for accounts that the first covers, too."""
    if not isinstance(one.formula, formulas.Fixed) or not isinstance(other.formula, formulas.Fixed):
        return
    wider = all(
        not getattr(one, name)
        or (getattr(other, name) and set(getattr(other, name)) <= set(getattr(one, name)))
        for name in _SHARED
    )
    same = all(getattr(one, name) == getattr(other, name) for name in ("when", "hours", "excludes"))
    caps = one.cap is None and one.cap_ppm is None and one.floor is None
    less = other.formula.money.minor <= one.formula.money.minor
    if wider and same and not one.used and caps and less and one.paid in (None, other.paid):
        message = f"never pays more than {one.id}, which covers the same accounts"
        yield _problem(other, "rule-covered", message, "remove it, or raise its amount")
