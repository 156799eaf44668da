"""What is handed over to billing systems, as requests that somebody else sends. Pure.

Each request carries a key. Stripe, OpenMeter and Chargebee book a repeated request once by it; Lago and
Kill Bill only store it, so that what was booked can be found. Kinds that a system cannot hold are left out,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote

from evac.credit.money import decimal_text, minor_digits
from evac.credit.rules import MONEY

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """method, path and headers as the API of the system has them; body: JSON, or fields of a form."""

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
    """A line that a system cannot take."""

    key: str
    reason: str


def _with_tax(row: Row) -> int:
    """What the customer gets in all: the amount contains the tax, or the tax comes on top."""
    return int(row["amount"]) + (0 if row["tax_included"] else int(row["tax"]))


def _without_tax(row: Row) -> int:
    return int(row["amount"]) - (int(row["tax"]) if row["tax_included"] else 0)


def stripe_factor(currency: str) -> int:
    """Stripe counts two currencies without minor units in hundredths. https://docs.stripe.com/currencies"""
    return 100 if currency in ("ISK", "UGX") else 1


def stripe(row: Row) -> Request | LeftOut:
    """A credit note where there is an invoice, else a transaction on the customer's balance. Of a credit note
    the one part (refund or credit) is the whole, which Stripe takes for invoices that are paid. https://docs.stripe.com/api/credit_notes/create
    """
    total = _with_tax(row) * stripe_factor(row["currency"])
    headers = {"Idempotency-Key": row["key"]}
    if minor_digits(row["currency"]) == 3 and total % 10:
        return LeftOut(row["key"], f"Stripe takes amounts in {row['currency']} in whole tens")
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
    """Items without tax, totals with it. https://getlago.com/docs/api-reference/credit-notes/create"""
    if not row["invoice"] or not row["invoice_line"]:
        return LeftOut(row["key"], "a credit note needs the columns invoice and invoice_line")
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
    """Account credit, which needs no invoice; the body is a list. https://killbill.github.io/slate/credit.html"""
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
"""Each takes a line of a delivery; `csv` takes every kind as it is."""


def request_of(system: str, row: Row) -> Request | LeftOut:
    """Money only: no billing system moves billing days or hands out goods by such a request."""
    if row["kind"] not in MONEY:
        return LeftOut(row["key"], f"{row['kind']} are not money; export them as csv")
    return SYSTEMS[system](row)
