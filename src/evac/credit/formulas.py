"""What a rule can pay: amounts as text of each currency, and the formulas that give them. Pure values.

The engines match on `formulas.Days` and so on: a new formula begins here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_MINOR: Final[Mapping[str, int]] = MappingProxyType(
    dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND"), 0)
    | dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)
)
"""ISO 4217; every other currency has two digits."""


def minor_digits(currency: str) -> int:
    """Digits after the point of a currency."""
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
    """This share of the fee, if uptime was low enough, or if the outage lasted long enough."""

    share_ppm: int
    uptime_below_ppm: int | None = None
    lasting_ms: int | None = None
    """Total length in the cycle; at least so long."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """Of all tiers that are reached the largest share counts."""

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
    """An amount for each day, for windows that begin on `from_ms` or later."""

    from_ms: int
    money: Money


@dataclass(frozen=True, slots=True)
class PerDay:
    """For each day or part of one that a window lasts beyond `after_ms`."""

    rates: tuple[Rate, ...]
    """In order of time: an index-linked amount has one for each year."""
    after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Days:
    """The subscription is extended."""

    days: int


@dataclass(frozen=True, slots=True)
class Voucher:
    """A voucher with a value, or goods without one. Nothing that renews itself, ever."""

    name: str
    count: int = 1
    worth: Money | None = None
    goods: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    up_to: Money
    """Of the reported loss; included."""
    pays: Money


@dataclass(frozen=True, slots=True)
class Bands:
    """By reported loss; a loss above the last band is reviewed by a person, with documents."""

    bands: tuple[Band, ...]


Formula = Tiers | ProRata | Fixed | PerDay | Days | Voucher | Bands
