"""The ledger as values: ids of lines, totals, and what persons sign. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from evac.credit.rules import MONEY
from evac.model.canonical import canonical_json

Tranche = Literal["paying", "free"]
TRANCHES: Final[tuple[Tranche, ...]] = get_args(Tranche)
APPROVALS: Final = 2
"""Persons who must approve the totals of a ledger."""
_ID: Final = "evac credit line 1"
_PURPOSE: Final = "evac credit approval 1"


def line_id(rules_digest: str, rule: str, account: str, service: str, cycle: str) -> str:
    """32 hexadecimal digits; the same for the same promise to the same account, whatever the amount."""
    parts = (_ID, rules_digest, rule, account, service, cycle)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def delivery_key(line: str, number: int) -> str:
    """What a billing system tells repeated requests by: a delivery that is sent twice is booked once."""
    return f"{line}-{number}"


def group_of(kind: str) -> str:
    """What can be set off against each other: all money is one; each grant in kind is its own."""
    return "money" if kind in MONEY else kind


@dataclass(frozen=True, slots=True)
class Total:
    """Lines of one service, plan, tranche, kind and currency."""

    service: str
    plan: str
    tranche: Tranche
    kind: str
    currency: str
    state: str
    lines: int
    amount: int
    quantity: int
    tax: int
    tax_on_top: int
    """The part of the tax that is paid in addition to the amount."""

    def to_data(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TOTAL_FIELDS}


TOTAL_FIELDS: Final = (
    "service",
    "plan",
    "tranche",
    "kind",
    "currency",
    "state",
    "lines",
    "amount",
    "quantity",
    "tax",
    "tax_on_top",
)
TOTAL_SUMS: Final = ("amount", "quantity", "tax", "tax_on_top")
ENVELOPE_SUMS: Final = ("lines", "amount", "quantity", "tax_on_top")


def summed(totals: Iterable[Total]) -> tuple[Total, ...]:
    """One total for each service, plan, tranche, kind, currency and state, sorted."""
    found: dict[tuple[str, ...], list[int]] = {}
    for one in totals:
        key = (one.service, one.plan, one.tranche, one.kind, one.currency, one.state)
        row = found.setdefault(key, [0, 0, 0, 0, 0])
        for i, value in enumerate((one.lines, one.amount, one.quantity, one.tax, one.tax_on_top)):
            row[i] += value
    return tuple(Total(*key, *found[key]) for key in sorted(found))  # type: ignore[arg-type]


def envelope(totals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What persons approve: for each tranche, kind and currency the lines, the amount, the quantity, and the
    tax that is paid in addition.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in totals:
        key = (one["tranche"], one["kind"], one["currency"])
        about = {"tranche": key[0], "kind": key[1], "currency": key[2]}
        row = rows.setdefault(key, about | dict.fromkeys(ENVELOPE_SUMS, 0))
        for name in ENVELOPE_SUMS:
            row[name] += one[name]
    return [rows[key] for key in sorted(rows)]


@dataclass(frozen=True, slots=True)
class CreditApproval:
    """What is signed: these totals of this ledger, by this person, for this reason."""

    case: str
    ledger: str
    """Digest of the document of the ledger."""
    envelope: Sequence[Mapping[str, Any]]
    who: str
    reason: str

    def message(self) -> bytes:
        """Canonical bytes; the purpose keeps a signature from being used for anything else."""
        return canonical_json(
            {
                "purpose": _PURPOSE,
                "case": self.case,
                "ledger": self.ledger,
                "envelope": [dict(row) for row in self.envelope],
                "who": self.who,
                "reason": self.reason,
            }
        )
