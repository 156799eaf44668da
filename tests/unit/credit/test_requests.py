"""Requests to billing systems: what each needs, and what it cannot take."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_type_hints

import jsonschema
import pytest
import yaml

from evac.credit.requests import SYSTEMS, LeftOut, Request, request_of

OPENMETER = Path(__file__).parents[4] / "shared" / "data" / "billing" / "openmeter-v3-openapi.yaml"
ROW: dict[str, Any] = {
    "key": "0a-1",
    "id": "0a",
    "account": "cus_1/x",
    "service": "melon",
    "cycle": "2022-10",
    "kind": "balance",
    "amount": 1_100,
    "tax": 100,
    "tax_included": True,
    "currency": "GBP",
    "invoice": "in_1",
    "invoice_line": "il_1",
    "expires_days": 30,
    "reason": "Outage: melon 2022-10",
}


def made(system: str, **more: Any) -> Request:
    found = request_of(system, ROW | more)
    assert isinstance(found, Request)
    return found


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_request_has_the_key_of_its_line(system: str) -> None:
    found = made(system)
    assert found.key == "0a-1"
    assert "0a-1" in str([found.headers, found.body])
    assert made(system) == found


@pytest.mark.parametrize(("kind", "part"), [("refund", "refund_amount"), ("balance", "credit_amount")])
@pytest.mark.parametrize(("included", "total"), [(True, 1_100), (False, 1_200)])
def test_the_parts_of_a_stripe_credit_note_are_its_total(
    kind: str, part: str, included: bool, total: int
) -> None:
    body = made("stripe", kind=kind, tax_included=included).to_data()["body"]
    parts = [body[name] for name in ("credit_amount", "refund_amount", "out_of_band_amount") if name in body]
    assert (body["invoice"], sum(parts), body[part]) == ("in_1", total, total)


def test_stripe_without_an_invoice_credits_the_balance_of_the_customer() -> None:
    found = made("stripe", invoice="")
    assert found.path == "/v1/customers/cus_1%2Fx/balance_transactions"
    assert (found.to_data()["body"]["amount"], found.to_data()["body"]["currency"]) == (-1_100, "gbp")
    assert isinstance(request_of("stripe", ROW | {"invoice": "", "kind": "refund"}), LeftOut)


@pytest.mark.parametrize(("included", "item", "total"), [(True, 1_000, 1_100), (False, 1_100, 1_200)])
def test_lago_items_are_without_tax_and_totals_with_it(included: bool, item: int, total: int) -> None:
    note = made("lago", tax_included=included).to_data()["body"]["credit_note"]
    assert note["items"] == [{"fee_id": "il_1", "amount_cents": item}]
    assert (note["credit_amount_cents"], note["refund_amount_cents"]) == (total, 0)
    assert isinstance(request_of("lago", ROW | {"invoice_line": ""}), LeftOut)


def test_kill_bill_and_chargebee_need_no_invoice() -> None:
    (item,) = made("killbill", invoice="").to_data()["body"]
    assert (item["amount"], item["currency"]) == ("11.00", "GBP")
    assert made("chargebee", invoice="").to_data()["body"]["amount"] == 1_100
    for system in ("killbill", "chargebee", "openmeter"):
        assert isinstance(request_of(system, ROW | {"kind": "refund"}), LeftOut)


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("kind", ["days", "voucher", "goods"])
def test_grants_in_kind_are_left_to_csv(system: str, kind: str) -> None:
    found = request_of(system, ROW | {"kind": kind})
    assert isinstance(found, LeftOut)
    assert "export them as CSV" in found.reason


@pytest.mark.parametrize("kind", ["balance", "refund"])
@pytest.mark.parametrize("more", [{}, {"invoice": ""}, {"currency": "KRW"}, {"tax_included": False}])
def test_requests_are_what_the_published_clients_of_stripe_and_chargebee_take(
    kind: str, more: dict[str, Any]
) -> None:
    typeguard = pytest.importorskip("typeguard")
    notes = importlib.import_module("stripe.params._credit_note_create_params")
    balances = importlib.import_module("stripe.params._customer_create_balance_transaction_params")
    credits = importlib.import_module("chargebee.models.promotional_credit.operations")
    row, checked = {"kind": kind, **more}, 0
    for system in ("stripe", "chargebee"):
        found = request_of(system, ROW | row)
        if isinstance(found, LeftOut):
            continue
        body, checked = dict(found.to_data()["body"]), checked + 1
        kinds = {"/v1/credit_notes": notes.CreditNoteCreateParams}
        if system == "chargebee":
            kinds = {found.path: credits.PromotionalCredit.AddParams}
            body["credit_type"] = credits.enums.CreditType(body["credit_type"])
        wanted = kinds.get(found.path, balances.CustomerCreateBalanceTransactionParams)
        needed = wanted.__required_keys__
        hints = get_type_hints(
            wanted, localns={"StripeContext": Any, "Mapping": Mapping}
        )  # known to type checkers only
        fields = {name: hint if name in needed else NotRequired[hint] for name, hint in hints.items()}
        wanted = TypedDict("wanted", fields)  # type: ignore[operator]
        typeguard.check_type(body, wanted)
        for broken in ({**body, "amount": "12"}, {**body, "unknown": 1}, {"amount": 1}):
            with pytest.raises(typeguard.TypeCheckError):
                typeguard.check_type(broken, wanted)
    assert checked == (2 if kind == "balance" else 1 - ("invoice" in more))


@pytest.mark.data
@pytest.mark.parametrize("expires", [0, 30])
def test_a_grant_fits_the_published_schema_of_openmeter(expires: int) -> None:
    if not OPENMETER.exists():
        pytest.skip("the published schema of OpenMeter is not in ../shared/data/billing")
    document = yaml.load(OPENMETER.read_text(encoding="utf-8"), yaml.CSafeLoader)
    path = "/openmeter/customers/{customerId}/credits/grants"
    assert "post" in document["paths"][path]
    schema = {"$ref": "#/components/schemas/CreateCreditGrantRequest", "components": document["components"]}
    body = made("openmeter", expires_days=expires).to_data()["body"]
    jsonschema.Draft202012Validator(schema).validate(body)
    known = document["components"]["schemas"]["CreateCreditGrantRequest"]["properties"]
    assert set(body) <= set(known)
    assert ("expires_after" in body) == (expires > 0)
