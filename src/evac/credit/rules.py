"""Credit rules as values: who gets something, when, the formula, its limits, and whether a set is consistent.
Pure.

The meaning of each field is defined here and implemented three times: on integer columns (`columns`), as SQL
(`sql`) and with fractions (`exact`). The three share only these values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from itertools import combinations, pairwise
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from evac.credit import formulas
from evac.credit.windows import UTC_ZONE, WEEK_MINUTES, Hours, Zone
from evac.model.diagnostic import NOWHERE, Diagnostic, Place, Severity
from evac.model.digest import digest
from evac.model.records import dataclass

Kind = Literal["refund", "balance", "days", "voucher", "goods"]
MONEY: Final[tuple[Kind, ...]] = ("refund", "balance")
Rounding = Literal["half_up", "up", "down"]
ROUNDINGS: Final[tuple[Rounding, ...]] = get_args(Rounding)
Base = Literal["fee", "hourly_fee"]
Overlap = Literal["max", "sum"]
PPM: Final = 1_000_000
"""Shares are in millionths."""
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class When:
    """Thresholds; reaching any one is enough. All None: any outage."""

    continuous_ms: int | None = None
    """Minimum length of the longest single outage."""
    total_ms: int | None = None
    """Minimum total length of all outages in the cycle."""
    uptime_below_ppm: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One promise. Windows for a fee share are cut at the ends of the cycle; otherwise a whole window belongs
    to the cycle in which it starts, so that no other cycle pays for it again.
    """

    id: str
    formula: formulas.Formula
    services: tuple[str, ...]
    when: When = When()
    base: Base = "fee"
    pay: Literal["refund", "balance"] = "balance"
    plans: tuple[str, ...] = ()
    """Empty: every plan."""
    regions: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    paid: bool | None = None
    """True: only accounts with a fee; False: only those without one."""
    used: bool = False
    """Only accounts that used the service in the window, according to the column `used`."""
    excludes: tuple[str, ...] = ("maintenance",)
    """Kinds of windows that do not count."""
    rounding: Rounding = "half_up"
    cap_ppm: int | None = None
    """At most this share of the fee."""
    cap: formulas.Money | None = None
    floor: formulas.Money | None = None
    """Minimum payment, if anything is paid."""
    claim_by: str = ""
    """Last day for claims; empty: no claim is needed."""
    expires_days: int = 0
    """0: never."""
    first: int | None = None
    """Maximum number of claims, in the order of receipt."""
    pool: formulas.Money | None = None
    """Maximum for all claims together, in the order of receipt."""
    fallback: Mapping[str, formulas.Money] = field(default_factory=lambda: MappingProxyType({}))
    """Channel -> what accounts get if their channel cannot grant days, vouchers or goods."""
    hours: Hours | None = None
    """Only these hours of the day count, in the zone of the rule set; None: all. The rest of an outage on
    each day is a separate outage.
    """
    source: str = ""
    note: str = ""
    place: Place = NOWHERE

    @property
    def shares_fee(self) -> bool:
        return isinstance(self.formula, formulas.Tiers | formulas.ProRata)

    @property
    def kind(self) -> Kind:
        match self.formula:
            case formulas.Days():
                return "days"
            case formulas.Voucher(goods=goods):
                return "goods" if goods else "voucher"
            case _:
                return self.pay

    @property
    def in_kind(self) -> bool:
        """Whether it grants days, vouchers or goods, which a channel may not support."""
        return isinstance(self.formula, formulas.Days | formulas.Voucher)

    @property
    def needs_claim(self) -> bool:
        return isinstance(self.formula, formulas.Bands)

    @property
    def currency(self) -> str:
        """The only currency that it pays in; empty: that of the account. Grants in kind fit any account."""
        return next(iter(sorted(self.currencies)), "")

    @property
    def currencies(self) -> frozenset[str]:
        """Currencies of all its amounts."""
        found = [
            money for money in (self.cap, self.floor, self.pool, *self.fallback.values()) if money is not None
        ]
        match self.formula:
            case formulas.Fixed(money):
                found.append(money)
            case formulas.PerDay(rates):
                found += [rate.money for rate in rates]
            case formulas.Bands(bands):
                found += [money for band in bands for money in (band.up_to, band.pays)]
            case formulas.Voucher(worth=worth) if worth is not None:
                found.append(worth)
        return frozenset(money.currency for money in found)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A set of rules. overlap: if several rules pay money for one account, service and cycle, the largest
    counts, or all of them. Grants in kind are added to both.
    """

    id: str
    rules: tuple[Rule, ...]
    zone: Zone = UTC_ZONE
    """For cycles, days and hours."""
    overlap: Overlap = "max"
    title: str = ""

    def to_data(self) -> dict[str, Any]:
        """Plain values, the input of the digest."""
        made: dict[str, Any] = plain(self)
        zone = made.pop("zone")
        made["zone_minutes"] = zone["minutes"]
        if zone["name"]:
            made["zone_name"] = zone["name"]
        for row in made["rules"]:
            if row["hours"] is None:  # older rule sets, without this field, keep their digest
                del row["hours"]
        return made

    @property
    def digest(self) -> str:
        return digest(self.to_data())


def plain(value: Any) -> Any:
    """Values of this module as lists and objects; a formula includes its kind; places are omitted."""
    if is_dataclass(value) and not isinstance(value, type):
        row = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "place"}
        return row | ({"formula_kind": type(value).__name__} if isinstance(value, formulas.Formula) else {})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


CODES: Final = MappingProxyType(
    {
        "formula-missing": ("error", "A rule without a formula, so it pays nothing."),
        "formula-several": ("error", "A rule with more than one formula."),
        "rule-twice": ("error", "Two rules with the same ID."),
        "currencies-mixed": ("error", "Amounts in two currencies in one rule."),
        "floor-above-cap": ("error", "A minimum amount that is more than the cap."),
        "base-contradiction": (
            "error",
            "The base is an hourly fee, but the formula or the cap needs the fee of the cycle.",
        ),
        "tier-ambiguous": ("error", "A tier needs either uptime_below or lasting."),
        "tier-unreachable": (
            "error",
            "A tier that never counts, because another one always pays at least as much.",
        ),
        "never-pays": ("error", "A rule that pays nothing to any account."),
        "grant-renews": ("error", "A grant that would renew automatically and charge the customer later."),
        "fallback-unused": ("error", "A channel fallback in a rule that pays money."),
        "hours-all": ("error", "Hours that cover the whole week."),
        "pool-without-claims": ("error", "A pool or `first` in a rule that does not take claims."),
        "order-wrong": ("error", "Bands or rates that are not in ascending order."),
        "pays-twice": ("error", "With `overlap: sum`, two rules that share one fee for the same minute."),
        "pays-in-addition": ("warning", "With `overlap: sum`, two rules that pay for the same outage."),
        "rule-covered": ("warning", "With `overlap: max`, a rule that never pays more than an earlier one."),
    }
)
"""Stable code -> (severity, meaning)."""

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
        hint = "use base: fee, or pro_rata"
        yield _problem(rule, "base-contradiction", "only pro_rata can use an hourly fee", hint)
    if rule.base == "hourly_fee" and rule.cap_ppm is not None:
        message = "a percentage cap needs the fee of the cycle, but the base is the hourly fee"
        yield _problem(rule, "base-contradiction", message, "write the cap as an amount")
    if (rule.pool is not None or rule.first is not None) and not rule.needs_claim:
        message = "pool and first apply to claims, but this rule does not take any"
        yield _problem(rule, "pool-without-claims", message, "remove them, or use bands")
    if rule.fallback and not rule.in_kind:
        hint = "remove fallback, or use days, voucher or goods"
        yield _problem(rule, "fallback-unused", "money needs no fallback", hint)
    if rule.hours is not None and len(rule.hours.minutes_of_week) == WEEK_MINUTES:
        yield _problem(rule, "hours-all", "these hours cover the whole week", "remove hours")


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
            why = "it grants nothing"
        case formulas.Bands(bands) if not bands:
            why = "it has no band"
        case formulas.PerDay(rates) if not any(rate.money.minor for rate in rates):
            why = "every daily amount is 0"
    if why:
        yield _problem(
            rule, "never-pays", f"no account can ever receive anything: {why}", "remove or correct it"
        )


def _tiers(rule: Rule) -> Iterator[Diagnostic]:
    if not isinstance(rule.formula, formulas.Tiers):
        return
    tiers = rule.formula.tiers
    for i, tier in enumerate(tiers):
        if (tier.uptime_below_ppm is None) == (tier.lasting_ms is None):
            message = f"tier {i + 1} must have either uptime_below or lasting"
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
                message = f"tier {i + 1} never counts: tier {k + 1} covers all its cases and pays no less"
                yield _problem(rule, "tier-unreachable", message, "longer outages must pay larger shares")
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
        yield _problem(rule, "order-wrong", f"{what} are not in ascending order", "sort them")


_CHECKS: Final[Sequence[Callable[[Rule], Iterator[Diagnostic]]]] = (
    _currencies,
    _limits,
    _never,
    _tiers,
    _order,
)


def _meet(one: Rule, other: Rule) -> bool:
    """Whether both rules can apply to one account."""
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
    """Only the simple case: two fixed amounts, the second for accounts that the first also covers."""
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
