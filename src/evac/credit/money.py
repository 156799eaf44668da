"""Amounts in minor units as text, and the digits of each currency. Pure."""

from __future__ import annotations

from collections.abc import Mapping
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
