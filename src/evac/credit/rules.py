"""Rules for credits as values: who gets something, when, how it is computed, and what limits it. Pure.

The meaning of each field is defined here and implemented three times: with whole numbers in columns
(`columns`), as SQL (`sql`) and with fractions (`exact`). The three share these values and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from evac.credit import formulas
from evac.credit.zones import UTC_ZONE, Hours, Zone
from evac.model.canonical import digest
from evac.model.diagnostic import NOWHERE, Place

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
    """Any one that is reached is enough. All None: any outage."""

    continuous_ms: int | None = None
    """The longest single outage lasted at least so long."""
    total_ms: int | None = None
    """All outages of the cycle lasted at least so long."""
    uptime_below_ppm: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One promise. Windows that a fee is shared by are cut at the ends of the cycle; for everything else a
    window belongs, whole, to the cycle in which it begins, so that no cycle pays for it again.
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
    """Only those who used the service in the window, as the column `used` says."""
    excludes: tuple[str, ...] = ("maintenance",)
    """Kinds of windows that do not count."""
    rounding: Rounding = "half_up"
    cap_ppm: int | None = None
    """At most this share of the fee."""
    cap: formulas.Money | None = None
    floor: formulas.Money | None = None
    """What is paid at least, if anything is paid."""
    claim_by: str = ""
    """Last day for claims; empty: no claim is needed."""
    expires_days: int = 0
    """0: never."""
    first: int | None = None
    """At most so many claims, in the order of receipt."""
    pool: formulas.Money | None = None
    """At most so much for all claims together, in the order of receipt."""
    fallback: Mapping[str, formulas.Money] = field(default_factory=lambda: MappingProxyType({}))
    """Channel -> what accounts get whose channel cannot take days, vouchers or goods."""
    hours: Hours | None = None
    """Only these hours of the day count, in the zone of the rule set; None: all. What is left of an outage on
    each day is an outage of its own.
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
        """Whether it gives days, vouchers or goods, which a channel may not be able to take."""
        return isinstance(self.formula, formulas.Days | formulas.Voucher)

    @property
    def needs_claim(self) -> bool:
        return isinstance(self.formula, formulas.Bands)

    @property
    def currency(self) -> str:
        """The one currency that it pays in; empty: that of the account. Grants in kind fit any account."""
        return next(iter(sorted(self.currencies)), "")

    @property
    def currencies(self) -> frozenset[str]:
        """Of all its amounts."""
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
    """overlap: of several rules that pay money for one account, service and cycle, the largest counts, or all
    of them. Grants in kind come on top of both.
    """

    id: str
    rules: tuple[Rule, ...]
    zone: Zone = UTC_ZONE
    """In which cycles, days and hours are counted."""
    overlap: Overlap = "max"
    title: str = ""

    def to_data(self) -> dict[str, Any]:
        """Plain values that the digest is over."""
        made: dict[str, Any] = plain(self)
        zone = made.pop("zone")
        made["zone_minutes"] = zone["minutes"]
        if zone["name"]:
            made["zone_name"] = zone["name"]
        for row in made["rules"]:
            if row["hours"] is None:  # rule sets from before there were any keep their digest
                del row["hours"]
        return made

    @property
    def digest(self) -> str:
        return digest(self.to_data())


def plain(value: Any) -> Any:
    """Values of this module as lists and objects; a formula names its kind; places are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        row = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "place"}
        return row | ({"formula_kind": type(value).__name__} if isinstance(value, formulas.Formula) else {})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
