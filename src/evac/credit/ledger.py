"""The ledger as values: ids of lines, totals, approvals, and claims of customers. Pure.

Claims never change. A decision names the claim, the person and the reason, and is appended. A claim adds two
numbers to a row of the accounts: the reported loss, and the amount that a person granted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from evac.credit.formulas import Bands
from evac.credit.rules import Rule, RuleSet
from evac.credit.windows import Window
from evac.model.diagnostic import NOWHERE, Diagnostic, Place
from evac.model.digest import canonical_json
from evac.model.errors import InvalidInput
from evac.model.records import dataclass

Tranche = Literal["paying", "free"]
TRANCHES: Final[tuple[Tranche, ...]] = get_args(Tranche)
APPROVALS: Final = 2
"""Number of people who must approve the totals of a ledger."""
_ID: Final = "evac credit line 1"
_PURPOSE: Final = "evac credit approval 1"


def line_id(rules_digest: str, rule: str, account: str, service: str, cycle: str) -> str:
    """32 hexadecimal digits, the same for the same promise to the same account, whatever the amount."""
    parts = (_ID, rules_digest, rule, account, service, cycle)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def delivery_key(line: str, number: int) -> str:
    """Idempotency key for a billing system: a delivery that is sent twice is booked once."""
    return f"{line}-{number}"


@dataclass(frozen=True, slots=True)
class Total:
    """Total of the lines of one service, plan, tranche, kind and currency."""

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
    """What people approve: for each tranche, kind and currency the lines, amount, quantity, and tax paid in
    addition.
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
    """A signed approval: these totals of this ledger, by this person, for this reason."""

    case: str
    ledger: str
    """Digest of the document of the ledger."""
    envelope: Sequence[Mapping[str, Any]]
    who: str
    reason: str

    def message(self) -> bytes:
        """Canonical bytes; the purpose prevents the use of a signature for anything else."""
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


State = Literal["counts", "review", "accepted", "refused", "late", "twice", "pool-empty", "no-rule"]
STATES: Final[tuple[State, ...]] = get_args(State)
WORDS: Final[Mapping[State, str]] = {
    "counts": "by band",
    "review": "waits for a decision",
    "accepted": "accepted by a person",
    "refused": "refused by a person",
    "late": "made after the last day for claims",
    "twice": "an earlier claim of the same account counts",
    "pool-empty": "the pool was empty",
    "no-rule": "no rule accepts claims for it",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One reported loss."""

    id: str
    account: str
    service: str
    loss: int
    """Minor units."""
    currency: str
    received_ms: int
    cycle: str = ""
    """Empty: the month in which the first outage of the service started."""
    place: Place = NOWHERE
    """Where it is written; not part of its value."""

    def to_data(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "place"}


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's decision about a claim. The last one for a claim counts."""

    claim: str
    who: str
    reason: str
    at_ms: int
    granted: int
    """Minor units; 0: refused."""

    def to_data(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and its outcome."""

    claim: Claim
    state: State
    cycle: str
    pays: int = 0
    """Minor units, before floor and caps; 0 while undecided."""
    decision: Decision | None = None

    @property
    def row(self) -> dict[str, Any]:
        """What it adds to the row of its account."""
        counts = self.state in ("counts", "review", "accepted")
        return {
            "account": self.claim.account,
            "service": self.claim.service,
            "cycle": self.cycle,
            "claimed": self.claim.loss if counts else 0,
            "granted": self.pays if self.state == "accepted" else 0,
        }


def problems_of(claims: Sequence[Claim]) -> tuple[Diagnostic, ...]:
    """Claims that share an id."""
    seen: dict[str, Claim] = {}
    found = []
    for claim in claims:
        if claim.id in seen:
            first = seen[claim.id].place
            message = f"claim {claim.id} is listed twice, first at {first}"
            if first == NOWHERE:
                message = f"claim {claim.id} is already in this case, with different values"
            found.append(Diagnostic("claim-twice", message, claim.place, hint="give each its own ID"))
        seen.setdefault(claim.id, claim)
    return tuple(found)


def judged(
    rules: RuleSet, windows: Sequence[Window], claims: Iterable[Claim], decisions: Iterable[Decision]
) -> list[Judged]:
    """Every claim, first come first served: in the order of receipt, then of the id."""
    last = {one.claim: one for one in decisions}
    begins: dict[str, int] = {}
    for window in windows:
        begins[window.service] = min(begins.get(window.service, window.from_ms), window.from_ms)
    taken: set[tuple[str, str, str]] = set()
    pools = {rule.id: (rule.first, None if rule.pool is None else rule.pool.minor) for rule in rules.rules}
    found = []
    for claim in sorted(claims, key=lambda one: (one.received_ms, one.id)):
        cycle = claim.cycle or f"{rules.zone.local(begins.get(claim.service, claim.received_ms)):%Y-%m}"
        one = _judged(rules, claim, cycle, last.get(claim.id), taken)
        if one.state in ("counts", "review", "accepted"):
            taken.add((claim.account, claim.service, cycle))
            rule = _rule_of(rules, claim)
            assert rule is not None
            first, pool = pools[rule.id]
            if first == 0 or (pool is not None and one.pays > pool):
                one = Judged(claim, "pool-empty", cycle, 0, one.decision)
            else:
                pools[rule.id] = (
                    None if first is None else first - 1,
                    None if pool is None else pool - one.pays,
                )
        found.append(one)
    return found


def _rule_of(rules: RuleSet, claim: Claim) -> Rule | None:
    """The first rule that accepts claims for the service, in the currency of the claim."""
    for rule in rules.rules:
        about = not rule.services or claim.service in rule.services
        if rule.needs_claim and about and rule.currency == claim.currency:
            return rule
    return None


def _judged(
    rules: RuleSet, claim: Claim, cycle: str, decision: Decision | None, taken: set[tuple[str, str, str]]
) -> Judged:
    rule = _rule_of(rules, claim)
    if rule is None or not isinstance(rule.formula, Bands):
        return Judged(claim, "no-rule", cycle)
    if (claim.account, claim.service, cycle) in taken:
        return Judged(claim, "twice", cycle)
    if decision is not None:
        state: State = "accepted" if decision.granted else "refused"
        return Judged(claim, state, cycle, decision.granted, decision)
    if rule.claim_by and f"{rules.zone.local(claim.received_ms):%Y-%m-%d}" > rule.claim_by:
        return Judged(claim, "late", cycle)
    pays = next((band.pays.minor for band in rule.formula.bands if claim.loss <= band.up_to.minor), None)
    return Judged(claim, "review", cycle) if pays is None else Judged(claim, "counts", cycle, pays)


def decided(claims: Iterable[Claim], decision: Decision, currency: str = "") -> Decision:
    """The decision itself. Raises InvalidInput if it is inconsistent."""
    claim = next((one for one in claims if one.id == decision.claim), None)
    if claim is None:
        words = f"no such claim: {decision.claim[:80]}"
        raise InvalidInput("claim-unknown", words, "to list open claims: evac credit claims CASE")
    if not decision.who.strip() or not decision.reason.strip():
        raise InvalidInput("decision-unsigned", "a decision needs a person and a reason", "add --reason WHY")
    if currency and currency != claim.currency:
        words = f"claim {claim.id} is in {claim.currency}, but the amount is in {currency}"
        raise InvalidInput("currencies-mixed", words, f"give the amount in {claim.currency}")
    if decision.granted > claim.loss:
        words = f"the amount granted is more than claim {claim.id} reported"
        raise InvalidInput("granted-too-much", words, "grant at most the reported loss")
    return decision
