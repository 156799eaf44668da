"""Quantities with units: text to whole base units and back, in exact arithmetic.

Each quantity is rounded once, here, in its cautious direction: durations and demands up,
capacities down (`model.units`). Nothing here knows files or places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from evac.model.estate import Rate
from evac.model.records import dataclass
from evac.model.units import QUANTITY_LIMIT

_NUMBER: Final = re.compile(r"([+-]?)([0-9]{1,30})(?:\.([0-9]{1,30}))?(?: *([^\d\s.,+_-][^\s]*))?", re.ASCII)
_FRACTION: Final = re.compile(r"([0-9]{1,18}) */ *([0-9]{1,18})", re.ASCII)
_SEPARATED: Final = re.compile(r"[0-9]{1,3}(?:[,_' ][0-9]{3}){1,6}(?![0-9])", re.ASCII)
"""A number with separators between its thousands."""
_PARTS: Final = re.compile(r"(?:[0-9]{1,9} *[a-zA-Z]{1,10}(?: +|, *|$)){2,6}", re.ASCII)
"""Several amounts that are to be added, such as `1 h 30 min`."""
_PART: Final = re.compile(r"([0-9]+) *([a-zA-Z]+)", re.ASCII)
_RATE: Final = re.compile(r"(.{1,60}?) +per +(.{1,60})")
_RATE_WINDOWS: Final = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_TEXT_LIMIT: Final = 80
_DAY_MS: Final = 86_400_000


class QuantityError(ValueError):
    """Text that is not a valid quantity: a diagnostic code, plain words, and what to write."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """A kind of amount. `units`: unit -> base units in one; `bare`: a plain number needs no unit.

    `up`: whether a fraction of a base unit is rounded up; `shown`: units a writer may choose, largest first;
    `decimals`: most decimals a writer may use.
    """

    name: str
    units: Mapping[str, Fraction]
    shown: tuple[str, ...]
    up: bool
    example: str
    bare: bool = False
    decimals: int = 2


def _units(**factors: Fraction | int) -> Mapping[str, Fraction]:
    return MappingProxyType({unit: Fraction(value) for unit, value in factors.items()})


_BINARY: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
_DECIMAL: Final = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


def _bytes_in(base: int) -> Mapping[str, Fraction]:
    return _units(**{unit: Fraction(size, base) for unit, size in {**_BINARY, **_DECIMAL}.items()})


_TIME: Final = _units(ms=1, s=1_000, min=60_000, h=3_600_000, d=_DAY_MS, w=7 * _DAY_MS)
_CORES: Final = _units(core=1_000, cores=1_000, mCPU=1)
_BITS: Final = MappingProxyType(
    {
        "bit/s": Fraction(1, 10**6),
        "kbit/s": Fraction(1, 1_000),
        "Mbit/s": Fraction(1),
        "Gbit/s": Fraction(1_000),
        "Tbit/s": Fraction(1_000_000),
    }
)
_WATTS: Final = _units(W=1, kW=1_000, MW=1_000_000)
_PLAIN: Final = _units(K=1_000, k=1_000, M=1_000_000, G=1_000_000_000)
_SHOWN_BYTES: Final = ("PiB", "TiB", "GiB", "MiB")


def _quantity(
    name: str,
    units: Mapping[str, Fraction],
    shown: tuple[str, ...],
    example: str,
    *,
    up: bool,
    bare: bool = False,
) -> Quantity:
    return Quantity(name, units, shown, up, example, bare, 0 if units is _TIME else 2)


DURATION: Final = _quantity("a duration", _TIME, ("d", "h", "min", "s", "ms"), "90 s", up=True)
DAYS: Final = Quantity("a number of days", _units(d=1, w=7), ("d",), False, "90 d", decimals=0)
COUNT: Final = _quantity("a count", _PLAIN, ("G", "M", "K"), "400", up=True, bare=True)
CORES_HELD: Final = _quantity("cores", _CORES, ("cores", "mCPU"), "32 cores", up=False)
CORES_NEEDED: Final = _quantity("cores", _CORES, ("cores", "mCPU"), "4 cores", up=True)
MEMORY_HELD: Final = _quantity("memory", _bytes_in(2**20), _SHOWN_BYTES, "128 GiB", up=False)
MEMORY_NEEDED: Final = _quantity("memory", _bytes_in(2**20), _SHOWN_BYTES, "8 GiB", up=True)
DISK_HELD: Final = _quantity("disk space", _bytes_in(2**30), _SHOWN_BYTES[:3], "2 TiB", up=False)
DISK_NEEDED: Final = _quantity("disk space", _bytes_in(2**30), _SHOWN_BYTES[:3], "10 GiB", up=True)
BANDWIDTH_HELD: Final = _quantity("a bandwidth", _BITS, ("Tbit/s", "Gbit/s", "Mbit/s"), "10 Gbit/s", up=False)
BANDWIDTH_NEEDED: Final = _quantity(
    "a bandwidth", _BITS, ("Tbit/s", "Gbit/s", "Mbit/s"), "200 Mbit/s", up=True
)
POWER_HELD: Final = _quantity("power", _WATTS, ("MW", "kW", "W"), "12 kW", up=False)
POWER_NEEDED: Final = _quantity("power", _WATTS, ("MW", "kW", "W"), "350 W", up=True)

_DIMENSIONS: Final[Mapping[str, str]] = MappingProxyType(
    {unit: q.name for q in (DURATION, CORES_HELD, BANDWIDTH_HELD, POWER_HELD) for unit in q.units}
    | dict.fromkeys(MEMORY_HELD.units, "memory or disk")
    | {"%": "a share"}
)
_SPELLINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sec": "s",
        "secs": "s",
        "second": "s",
        "seconds": "s",
        "m": "min",
        "mins": "min",
        "minute": "min",
        "minutes": "min",
        "hr": "h",
        "hrs": "h",
        "hour": "h",
        "hours": "h",
        "day": "d",
        "days": "d",
        "week": "w",
        "weeks": "w",
        "msec": "ms",
        "bps": "bit/s",
        "kbps": "kbit/s",
        "mbps": "Mbit/s",
        "gbps": "Gbit/s",
        "tbps": "Tbit/s",
        "gb/s": "Gbit/s",
        "mb/s": "Mbit/s",
        "g": "GiB",
        "gi": "GiB",
        "mi": "MiB",
        "ti": "TiB",
        "watt": "W",
        "watts": "W",
        "cpu": "cores",
        "cpus": "cores",
        "vcpu": "cores",
        "vcpus": "cores",
    }
)


@lru_cache(maxsize=8_192)
def parse(quantity: Quantity, text: str) -> int:
    """Whole base units of a text such as `4 GiB`, rounded the way `quantity` says.

    Raises QuantityError: not-a-number, not-whole, unit-missing, unit-unknown, unit-wrong-dimension,
    negative or quantity-too-large.
    """
    value = _exact(quantity, text)
    if quantity.bare and value.denominator != 1:
        raise QuantityError(
            "not-whole", f"'{text}' is not a whole number", f"use a value like {quantity.example}"
        )
    whole = -(-value.numerator // value.denominator) if quantity.up else value.numerator // value.denominator
    if whole > QUANTITY_LIMIT:
        raise QuantityError("quantity-too-large", f"{text} is more than 2^53 base units", "check the unit")
    return whole


def _exact(quantity: Quantity, text: str) -> Fraction:
    match = _NUMBER.fullmatch(text) if len(text) <= _TEXT_LIMIT else None
    if match is None:
        raise QuantityError(
            "not-a-number",
            f"'{text[:_TEXT_LIMIT]}' is not {quantity.name}",
            _meant(quantity, text[:_TEXT_LIMIT]) or f"use a value like {quantity.example}",
        )
    sign, whole, decimals, unit = match.groups()
    number = Fraction(int(whole + (decimals or "")), 10 ** len(decimals or ""))
    if sign == "-" and number:
        raise QuantityError("negative", f"{quantity.name} cannot be negative: {text}")
    return number * _factor(quantity, unit, text)


def _meant(quantity: Quantity, text: str) -> str:
    """What to write in place of a number with separators or of several amounts; empty if it is neither."""
    if found := _SEPARATED.match(text):
        digits = "".join(char for char in found[0] if char.isdigit())
        return f"write {digits}{text[found.end() :]}: no separators between digits"
    if not _PARTS.fullmatch(text):
        return ""
    parts = [(int(number), _SPELLINGS.get(unit.lower(), unit)) for number, unit in _PART.findall(text)]
    if not all(unit in quantity.units for _, unit in parts):
        return ""
    smallest = min((unit for _, unit in parts), key=lambda unit: quantity.units[unit])
    whole = sum(number * quantity.units[unit] for number, unit in parts) / quantity.units[smallest]
    return f"write {_decimal(whole)} {smallest}: one number with one unit"


def _factor(quantity: Quantity, unit: str | None, text: str) -> Fraction:
    if unit is None:
        if quantity.bare:
            return Fraction(1)
        units = ", ".join(quantity.units)
        raise QuantityError(
            "unit-missing", f"'{text}' has no unit", f"use a value like {quantity.example} (units: {units})"
        )
    factor = quantity.units.get(unit)
    if factor is not None:
        return factor
    raise _unknown_unit(quantity, unit)


def _unknown_unit(quantity: Quantity, unit: str) -> QuantityError:
    if unit in _DIMENSIONS and unit not in quantity.units:
        return QuantityError(
            "unit-wrong-dimension",
            f"'{unit}' measures {_DIMENSIONS[unit]}, but {quantity.name} is expected here",
            f"use a value like {quantity.example}",
        )
    near = _SPELLINGS.get(unit.lower(), "")
    if near not in quantity.units:
        near = next((known for known in quantity.units if known.lower() == unit.lower()), "")
    hint = f"did you mean '{near}'?" if near else f"units: {', '.join(quantity.units) or 'none'}"
    if quantity is _PERCENT:
        hint += f"; use a value like {quantity.example}"
    return QuantityError("unit-unknown", f"unknown unit '{unit[:20]}' for {quantity.name}", hint)


def show(quantity: Quantity, value: int) -> str:
    """The most readable text that `parse` turns back into exactly `value`."""
    if not value and not quantity.bare:
        return f"0 {quantity.example.split(' ')[1]}"
    for unit in quantity.shown:
        factor = quantity.units[unit]
        scaled = Fraction(value) / factor
        if scaled < 1 or (scaled * 10**quantity.decimals).denominator != 1:
            continue
        return f"{_decimal(scaled)} {'core' if unit == 'cores' and scaled == 1 else unit}"
    if quantity.bare:
        return str(value)
    return f"{_decimal(Fraction(value) / quantity.units[quantity.shown[-1]])} {quantity.shown[-1]}"


def _decimal(value: Fraction) -> str:
    whole, rest = divmod(value, 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    return f"{whole}.{digits}" if digits else str(whole)


@lru_cache(maxsize=1_024)
def parse_share(text: str) -> Fraction:
    """A share in (0, 1] from `60 %` or `3/5`. Raises QuantityError."""
    value = _share(text)
    if value > 1:
        raise QuantityError("share-above-one", f"{text} is more than 100 %", "a share is at most 100 %")
    return value


def parse_permille(text: str) -> int:
    """A share from `98.5 %` in thousandths, rounded down. Raises QuantityError."""
    value = Fraction(0) if text.replace(" ", "") == "0%" else parse_share(text)
    return value.numerator * 1_000 // value.denominator


def _share(text: str) -> Fraction:
    fraction = _FRACTION.fullmatch(text)
    if fraction is not None:
        if not int(fraction[2]):
            raise QuantityError(
                "share-by-zero",
                f"{text} divides by zero",
                f"use a value like {_PERCENT.example}",
            )
        value = Fraction(int(fraction[1]), int(fraction[2]))
    else:
        value = _exact(_PERCENT, text)
    if not value:
        raise QuantityError(
            "share-zero", "a share must be greater than zero", "remove it, or write at least 0.1 %"
        )
    if max(value.numerator, value.denominator) > QUANTITY_LIMIT:
        raise QuantityError("quantity-too-large", f"{text} has too many digits", "round it")
    return value


_PERCENT: Final = Quantity("a share", MappingProxyType({"%": Fraction(1, 100)}), ("%",), False, "60 % or 3/5")


def show_share(value: Fraction) -> str:
    """`60 %` if two decimals are exact, else `1/3`."""
    percent = value * 100
    return (
        f"{_decimal(percent)} %"
        if (percent * 100).denominator == 1
        else f"{value.numerator}/{value.denominator}"
    )


def show_permille(value: int) -> str:
    """`98.5 %` for 985."""
    return f"{_decimal(Fraction(value, 10))} %"


@lru_cache(maxsize=1_024)
def parse_moment(text: str) -> int:
    """Milliseconds since 1970 of a moment with its time zone, `2026-11-25T03:00:00Z`."""
    hint = "write it with its time zone, like 2026-11-25T03:00:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise QuantityError("not-a-moment", f"'{text[:40]}' is not a time", hint) from error
    if moment.tzinfo is None:
        raise QuantityError("not-a-moment", f"'{text[:40]}' has no time zone", hint)
    return round(moment.timestamp() * 1_000)


def parse_rate(text: str) -> Rate:
    """`600 per minute` or `50 per 10 s`. Raises QuantityError."""
    match = _RATE.fullmatch(text) if len(text) <= _TEXT_LIMIT else None
    if match is None:
        raise QuantityError(
            "not-a-rate", f"'{text[:_TEXT_LIMIT]}' is not a rate", "use a value like 600 per minute"
        )
    window = _RATE_WINDOWS.get(match[2])
    rate = Rate(parse(COUNT, match[1]), window if window is not None else parse(DURATION, match[2]))
    if not rate.count or not rate.window_ms:
        raise QuantityError("not-a-rate", f"'{text}' is a rate of zero", "remove it if it is unknown")
    return rate


def show_rate(rate: Rate) -> str:
    """`600 per minute`, as `parse_rate` reads it."""
    words = {ms: word for word, ms in _RATE_WINDOWS.items()}
    return f"{rate.count} per {words.get(rate.window_ms) or show(DURATION, rate.window_ms)}"
