"""EV115: services that need each other to start: in a cold start, none of the cycle can go first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, listed, start_circles
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error if one loss takes the whole cycle down and people have no way to break it; else a warning."""
    damage = context.impacts.damage
    for members in start_circles(context):
        names = [context.estate.services[s].id for s in members]
        taken = damage.circle & np.isin(damage.pairs.service, members)
        losses = context.worst_first(np.unique(damage.pairs.loss[taken]).tolist())
        by_hand = context.impacts.times.start_cycle is not None
        severity: Severity = "error" if losses and not by_hand else "warning"
        where = f"; the loss of {listed(context.names(losses))} takes all of them" if losses else ""
        yield RULE.finding(
            context,
            severity,
            names[0],
            f"{listed(names, 6)} need each other to start, so none can start first{where}",
            "Let one of them start without the others: `needed_to: serve`, a "
            "cached copy, or a manual procedure "
            "(`limits: {manual: {start-cycle: 30 min}}`).",
            losses=losses,
            chain=(*names, names[0]),
            paths=(f"services/{names[0]}/needs/0", f"services/{names[0]}"),
        )


RULE = Rule(
    "cold-start-cycle",
    "EV115",
    "A cold-start cycle",
    check,
    per_loss=False,
)
