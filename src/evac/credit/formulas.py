"""What a rule can pay: amounts, and the formulas that give them. Pure values.

The engines match on `formulas.Days` and so on: a new formula begins here.
"""

from __future__ import annotations

from dataclasses import dataclass


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
