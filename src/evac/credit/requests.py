"""Booking requests for billing systems, which others send, and lists of bookings. Pure.

Each request has an idempotency key. Stripe, OpenMeter and Chargebee use it to book a repeated request once;
Lago and Kill Bill only store it, so that bookings can be found. Kinds that a system cannot hold are left out,
with the reason.

Bookings are read back as the API of a system lists them; decimal amounts are text, so that no float comes
between a request and its booking. Objects without one of our keys belong to others and are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote

from evac.credit.formulas import decimal_text, minor_digits
from evac.credit.rules import MONEY
from evac.model.records import dataclass

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """method, path and headers as in the API of the system; body: JSON, or fields of a form."""

    key: str
    method: Literal["POST"]
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    form: bool = False

    def to_data(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "method": self.method,
            "path": self.path,
            "headers": dict(self.headers),
            "content": "form" if self.form else "json",
            "body": dict(self.body) if isinstance(self.body, Mapping) else [dict(row) for row in self.body],
        }


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line that a system cannot hold."""

    key: str
    reason: str


def _with_tax(row: Row) -> int:
    """The customer's total: the amount includes the tax, or the tax is added."""
    return int(row["amount"]) + (0 if row["tax_included"] else int(row["tax"]))


def _without_tax(row: Row) -> int:
    return int(row["amount"]) - (int(row["tax"]) if row["tax_included"] else 0)


def stripe_factor(currency: str) -> int:
    """Factor for two currencies without minor units that Stripe counts in hundredths.
    https://docs.stripe.com/currencies
    """
    return 100 if currency in ("ISK", "UGX") else 1


def stripe(row: Row) -> Request | LeftOut:
    """A credit note if there is an invoice, else a transaction on the customer's balance. The one part of a
    credit note (refund or credit) is the whole amount, which Stripe accepts for paid invoices.
    https://docs.stripe.com/api/credit_notes/create
    """
    total = _with_tax(row) * stripe_factor(row["currency"])
    headers = {"Idempotency-Key": row["key"]}
    if minor_digits(row["currency"]) == 3 and total % 10:
        return LeftOut(row["key"], f"Stripe accepts amounts in {row['currency']} only in multiples of ten")
    metadata = {"evac_line": row["id"], "evac_key": row["key"]}
    if not row["invoice"]:
        if row["kind"] == "refund":
            return LeftOut(row["key"], "a refund needs an invoice")
        body = {
            "amount": -total,
            "currency": row["currency"].lower(),
            "description": row["reason"],
            "metadata": metadata,
        }
        path = f"/v1/customers/{quote(row['account'], safe='')}/balance_transactions"
        return Request(row["key"], "POST", path, headers, body, form=True)
    part = "refund_amount" if row["kind"] == "refund" else "credit_amount"
    body = {
        "invoice": row["invoice"],
        "amount": total,
        part: total,
        "reason": "product_unsatisfactory",
        "memo": row["reason"],
        "metadata": metadata,
    }
    return Request(row["key"], "POST", "/v1/credit_notes", headers, body, form=True)


def lago(row: Row) -> Request | LeftOut:
    """Items without tax, totals including it. https://getlago.com/docs/api-reference/credit-notes/create"""
    if not row["invoice"] or not row["invoice_line"]:
        return LeftOut(row["key"], "a credit note requires the columns invoice and invoice_line")
    total = _with_tax(row)
    note = {
        "invoice_id": row["invoice"],
        "reason": "other",
        "description": row["reason"],
        "credit_amount_cents": 0 if row["kind"] == "refund" else total,
        "refund_amount_cents": total if row["kind"] == "refund" else 0,
        "items": [{"fee_id": row["invoice_line"], "amount_cents": _without_tax(row)}],
        "metadata": {"evac_line": row["id"], "evac_key": row["key"]},
    }
    return Request(row["key"], "POST", "/api/v1/credit_notes", {}, {"credit_note": note})


def killbill(row: Row) -> Request | LeftOut:
    """Account credit, which needs no invoice; the body is a list.
    https://killbill.github.io/slate/credit.html
    """
    if row["kind"] == "refund":
        return LeftOut(row["key"], "account credit is not a refund; refund the payment by hand")
    item = {
        "accountId": row["account"],
        "amount": decimal_text(_with_tax(row), row["currency"]),
        "currency": row["currency"],
        "description": row["reason"],
        "itemDetails": row["key"],
    }
    headers = {"X-Killbill-CreatedBy": "evac", "X-Killbill-Comment": row["key"]}
    return Request(row["key"], "POST", "/1.0/kb/credits?autoCommit=true", headers, [item])


def openmeter(row: Row) -> Request | LeftOut:
    """A credit grant; `key` makes it idempotent. OpenMeter API v3, CreateCreditGrantRequest."""
    if row["kind"] == "refund":
        return LeftOut(row["key"], "a credit grant is not a refund")
    body: dict[str, Any] = {
        "name": f"Outage credit {row['cycle']} {row['service']}"[:256],
        "description": row["reason"][:1024],
        "funding_method": "none",
        "currency": row["currency"],
        "amount": decimal_text(_with_tax(row), row["currency"]),
        "key": row["key"],
    }
    if row["expires_days"]:
        body["expires_after"] = f"P{row['expires_days']}D"
    path = f"/openmeter/customers/{quote(row['account'], safe='')}/credits/grants"
    return Request(row["key"], "POST", path, {}, body)


def chargebee(row: Row) -> Request | LeftOut:
    """A promotional credit. https://apidocs.chargebee.com/docs/api/promotional_credits"""
    if row["kind"] == "refund":
        return LeftOut(row["key"], "a promotional credit is not a refund")
    body = {
        "customer_id": row["account"],
        "amount": _with_tax(row),
        "currency_code": row["currency"],
        "description": row["reason"][:250],
        "credit_type": "general",
        "reference": row["key"],
    }
    headers = {"chargebee-idempotency-key": row["key"]}
    return Request(row["key"], "POST", "/api/v2/promotional_credits/add", headers, body, form=True)


SYSTEMS: Final[Mapping[str, Callable[[Row], Request | LeftOut]]] = MappingProxyType(
    {
        "stripe": stripe,
        "lago": lago,
        "killbill": killbill,
        "openmeter": openmeter,
        "chargebee": chargebee,
    }
)
"""Each converts a delivery line; `csv` accepts every kind unchanged."""


def request_of(system: str, row: Row) -> Request | LeftOut:
    """The request for a line. Only for money: no billing system moves billing days or delivers goods by such
    a request.
    """
    if row["kind"] not in MONEY:
        return LeftOut(row["key"], f"{row['kind']} are not money; export them as CSV")
    return SYSTEMS[system](row)


Object = Mapping[str, Any]
KEY: Final = re.compile(r"[0-9a-f]{32}-[1-9][0-9]*")
"""As made by `ledger.delivery_key`."""


@dataclass(frozen=True, slots=True)
class Booked:
    """One line as booked by a system. minor: of the currency by ISO 4217."""

    key: str
    minor: int
    currency: str


def _whole(amount: Fraction) -> int:
    """Parse a whole number. Raises ValueError for fractions of a minor unit."""
    if amount.denominator != 1:
        raise ValueError(f"{amount} is not a whole number of minor units")
    return amount.numerator


def _minor(amount: Any, currency: str) -> int:
    """Minor units of a decimal amount."""
    return _whole(Fraction(str(amount)) * 10 ** minor_digits(currency))


def _stripe(one: Object) -> Booked | None:
    """A credit note, or a transaction on a customer's balance, where credits are negative."""
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
    """An invoice item. The item of the credit has the key; its sign depends on how it is listed."""
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
    """A promotional credit; one of the type decrement removes credit."""
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
"""Fields that contain the objects of a page."""
_SINGLE: Final = ("credit_note",)


def objects_of(document: Any) -> Iterator[Object]:
    """All objects of a response: a list, one page, several pages, or one object. Raises TypeError."""
    if isinstance(document, list):
        for one in document:
            yield from objects_of(one)
        return
    if not isinstance(document, Mapping):
        raise TypeError("expected an object")
    for name in _LISTS:
        if isinstance(document.get(name), list):
            yield from objects_of(document[name])
            return
    inner = [document[name] for name in _SINGLE if isinstance(document.get(name), Mapping)]
    yield from inner or [document]


def booked_of(system: str, document: Any) -> Iterator[Booked]:
    """Bookings with one of our keys. Raises KeyError, TypeError or ValueError for objects of another
    shape.
    """
    for one in objects_of(document):
        found = _READERS[system](one)
        if found is not None and KEY.fullmatch(found.key):
            yield found
