"""What a rule can pay: amounts, as text of each currency, and the formulas for them. Pure values.

The engines match on `formulas.Days` and so on: a new formula starts here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from evac.model.records import dataclass

_MINOR: Final[Mapping[str, int]] = MappingProxyType(
    dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND"), 0)
    | dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)
)
"""Minor digits by ISO 4217; every other currency has two."""


def minor_digits(currency: str) -> int:
    """Number of digits after the decimal point of a currency."""
    return _MINOR.get(currency, 2)


def decimal_text(minor: int, currency: str) -> str:
    """`1500`, `8.00`: exact, without separators."""
    digits = minor_digits(currency)
    sign, text = "-" if minor < 0 else "", str(abs(minor)).rjust(digits + 1, "0")
    return f"{sign}{text[:-digits]}.{text[-digits:]}" if digits else sign + text


def money_words(minor: int, currency: str) -> str:
    """`1,500 KRW`, `8.00 GBP`"""
    sign, amount = "-" if minor < 0 else "", decimal_text(abs(minor), currency)
    whole, point, rest = amount.partition(".")
    return f"{sign}{int(whole):,}{point}{rest} {currency}"


@dataclass(frozen=True, slots=True)
class Money:
    minor: int
    currency: str
    """ISO 4217."""


@dataclass(frozen=True, slots=True)
class Tier:
    """This share of the fee if uptime was low enough, or if the outage lasted long enough."""

    share_ppm: int
    uptime_below_ppm: int | None = None
    lasting_ms: int | None = None
    """Minimum total length in the cycle."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """The largest share among all tiers that are reached."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class ProRata:
    """The base for the time of the outage, times a factor. The time is multiplied first, then rounded up."""

    times_permille: int = 1_000
    unit_ms: int = 1
    """The multiplied time is rounded up to whole units."""


@dataclass(frozen=True, slots=True)
class Fixed:
    money: Money


@dataclass(frozen=True, slots=True)
class Rate:
    """An amount for each day, for windows that start at or after `from_ms`."""

    from_ms: int
    money: Money


@dataclass(frozen=True, slots=True)
class PerDay:
    """An amount for each day or part of a day that a window lasts beyond `after_ms`."""

    rates: tuple[Rate, ...]
    """In order of time: an index-linked amount has one for each year."""
    after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Days:
    """The subscription is extended."""

    days: int


@dataclass(frozen=True, slots=True)
class Voucher:
    """A voucher with a value, or goods without one. Never anything that renews itself."""

    name: str
    count: int = 1
    worth: Money | None = None
    goods: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    up_to: Money
    """Upper limit of the reported loss, inclusive."""
    pays: Money


@dataclass(frozen=True, slots=True)
class Bands:
    """By reported loss; a person reviews a loss above the last band, with documents."""

    bands: tuple[Band, ...]


Formula = Tiers | ProRata | Fixed | PerDay | Days | Voucher | Bands
