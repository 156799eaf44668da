"""What billing systems list of what they booked, read back: keys, amounts and currencies. Pure.

Objects are as the API of a system lists them; decimal amounts are text, so that no float is ever between a
request and what was booked. Objects without a key of ours belong to someone else and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from evac.credit.money import minor_digits
from evac.credit.requests import stripe_factor

Object = Mapping[str, Any]
KEY: Final = re.compile(r"[0-9a-f]{32}-[1-9][0-9]*")
"""As `ledger.delivery_key` makes them."""


@dataclass(frozen=True, slots=True)
class Booked:
    """One line as a system has it. minor: of the currency by ISO 4217."""

    key: str
    minor: int
    currency: str


def _whole(amount: Fraction) -> int:
    """Raises ValueError for parts of a minor unit."""
    if amount.denominator != 1:
        raise ValueError(f"{amount} is not a whole number of minor units")
    return amount.numerator


def _minor(amount: Any, currency: str) -> int:
    """Of a decimal amount."""
    return _whole(Fraction(str(amount)) * 10 ** minor_digits(currency))


def _stripe(one: Object) -> Booked | None:
    """A credit note, or a transaction on a customer's balance, where a credit is negative."""
    if one.get("status") == "void":
        return None
    currency = str(one["currency"]).upper()
    amount = Fraction(int(one["amount"]), stripe_factor(currency))
    sign = -1 if one.get("object") == "customer_balance_transaction" else 1
    return Booked((one.get("metadata") or {}).get("evac_key", ""), _whole(sign * amount), currency)


def _lago(one: Object) -> Booked | None:
    if one.get("credit_status") == "voided":
        return None
    key = (one.get("metadata") or {}).get("evac_key", "")
    return Booked(key, int(one["total_amount_cents"]), str(one["currency"]))


def _killbill(one: Object) -> Booked | None:
    """An item of an invoice. The item of the credit has the key; its sign depends on how it is listed."""
    if one.get("itemType") not in (None, "CREDIT_ADJ"):
        return None
    currency = str(one["currency"])
    return Booked(str(one.get("itemDetails") or ""), abs(_minor(one["amount"], currency)), currency)


def _openmeter(one: Object) -> Booked | None:
    if one.get("voided_at") or one.get("deleted_at"):
        return None
    currency = str(one["currency"])
    return Booked(str(one.get("key") or ""), _minor(one["amount"], currency), currency)


def _chargebee(one: Object) -> Booked | None:
    """A promotional credit; one of the type decrement takes credit away."""
    inner = one.get("promotional_credit", one)
    sign = -1 if inner.get("type") == "decrement" else 1
    return Booked(str(inner.get("reference") or ""), sign * int(inner["amount"]), str(inner["currency_code"]))


_READERS: Final[Mapping[str, Callable[[Object], Booked | None]]] = MappingProxyType(
    {
        "stripe": _stripe,
        "lago": _lago,
        "killbill": _killbill,
        "openmeter": _openmeter,
        "chargebee": _chargebee,
    }
)
_LISTS: Final = ("data", "credit_notes", "list", "items")
"""What holds the objects of a page."""
_SINGLE: Final = ("credit_note",)


def objects_of(document: Any) -> Iterator[Object]:
    """All objects of an answer: a list, one page, several pages, or one object. Raises TypeError."""
    if isinstance(document, list):
        for one in document:
            yield from objects_of(one)
        return
    if not isinstance(document, Mapping):
        raise TypeError("an object was expected")
    for name in _LISTS:
        if isinstance(document.get(name), list):
            yield from objects_of(document[name])
            return
    inner = [document[name] for name in _SINGLE if isinstance(document.get(name), Mapping)]
    yield from inner or [document]


def booked_of(system: str, document: Any) -> Iterator[Booked]:
    """What has a key of ours. Raises KeyError, TypeError or ValueError for objects of another shape."""
    for one in objects_of(document):
        found = _READERS[system](one)
        if found is not None and KEY.fullmatch(found.key):
            yield found
