"""EV108: one domain holds the majority of the votes of a store."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error: that one loss stops all writes. Warning if another instance of the family is left."""
    for row, store in enumerate(context.estate.stores):
        if not store.quorum:
            continue
        held = [n for n, o in context.outcomes(row) if 2 * o.votes_gone > o.votes]
        if not held:
            continue
        errors = context.worst_first(n for n in held if context.family_gone(row, n))
        losses = errors + context.worst_first(n for n in held if n not in errors)
        severity: Severity = "error" if errors else "warning"
        outcome = context.impacts.stores.at(row, losses[0])
        votes = f"{outcome.votes_gone} of {outcome.votes}" if outcome else "most"
        yield RULE.finding(
            context,
            severity,
            store.id,
            f"{store.id} has {votes} votes in {context.names(losses)[0]}"
            f" and stops writing with the loss of {listed(context.names(losses))}",
            "Spread the votes over three domains so that none holds the majority; a witness can hold one.",
            losses=losses,
            paths=(f"stores/{store.id}/members/0", f"stores/{store.id}"),
        )


RULE = Rule(
    "quorum-in-one-domain", "EV108", "One domain holds a majority of the members of a quorum store", check
)
