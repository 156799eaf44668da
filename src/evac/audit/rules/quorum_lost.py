"""EV109: a loss leaves half of the votes or fewer, though it takes no majority itself."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error: no majority is left. Warning if another instance of the family is left."""
    for row, store in enumerate(context.estate.stores):
        if not store.quorum:
            continue
        tied = [n for n, o in context.outcomes(row) if 2 * o.votes_gone == o.votes]
        if not tied:
            continue
        errors = context.worst_first(n for n in tied if context.family_gone(row, n))
        losses = errors or context.worst_first(tied)
        severity: Severity = "error" if errors else "warning"
        yield RULE.finding(
            context,
            severity,
            store.id,
            f"{store.id} keeps only half of its votes, not a majority, without "
            f"{listed(context.names(losses))}",
            "Use an odd number of votes across three domains.",
            losses=losses,
            paths=(f"stores/{store.id}/members/0", f"stores/{store.id}"),
        )


RULE = Rule("quorum-lost", "EV109", "A quorum is lost", check)
