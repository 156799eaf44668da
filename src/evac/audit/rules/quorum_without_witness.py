"""EV110: a quorum over two sites, with no third as tie-breaker."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule
from evac.audit.findings import Finding
from evac.derive.domains import site_of


def check(context: Context) -> Iterator[Finding]:
    """Warning: however the votes are split, the loss of one of the sites can stop it."""
    for store in context.estate.stores:
        if not store.quorum:
            continue
        sites = {site_of(context.impacts.top, m.at) for m in store.members if m.votes > 0}
        if len(sites) == 2:
            names = " and ".join(sorted(s or "?" for s in sites))
            yield RULE.finding(
                context,
                "warning",
                store.id,
                f"{store.id} votes at {names} only: the loss of one of them always costs the majority",
                "Add a voting member, or a witness that keeps no data, at a third site.",
                paths=(f"stores/{store.id}/members/0", f"stores/{store.id}"),
            )


RULE = Rule(
    "quorum-without-witness",
    "EV110",
    "A two-site quorum has no witness",
    check,
    per_loss=False,
)
