"""EV119: replicas of one service in one rack or on one feed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, by_service, listed
from evac.audit.findings import Finding
from evac.audit.impacts.dependencies import Pairs
from evac.model.diagnostic import Severity
from evac.model.fleet import IndexColumn, IntColumn


def check(context: Context) -> Iterator[Finding]:
    """Error if that loses the service or brings it back too late; else a warning.

    Together means all of two or more replicas, or so many that fewer than the smallest share are left
    although that share is below all of them, or more than the stated share for each rack.
    """
    impacts = context.impacts
    for service, found in by_service(_together(context)):
        losses = context.worst_first(found)
        grave = [n for n in losses if context.grave[n, service]]
        severity: Severity = "error" if grave else "warning"
        worst = (grave or losses)[0]
        name, there = context.estate.services[service].id, impacts.lost - impacts.presence.off
        yield RULE.finding(
            context,
            severity,
            name,
            f"{int(there[worst, service])} of {int(impacts.presence.n[service])} replicas of {name}"
            f" run in {listed(context.names([worst, *(n for n in losses if n != worst)]))}",
            "Spread its replicas: `spread: {per_rack: 10 %, per_feed: 50 %}`.",
            losses=[worst, *(n for n in losses if n != worst)],
            paths=(f"services/{name}/spread", f"services/{name}"),
        )


def _together(context: Context) -> Pairs:
    """Services that lose too many replicas with one rack or feed."""
    impacts = context.impacts
    n, m = impacts.presence.n, impacts.presence.m
    kinds, found = np.array(impacts.losses.kinds, "U8"), impacts.ground.taken
    chosen = np.isin(kinds, ("rack", "feed"))[found.pairs.loss]
    off = impacts.presence.off[found.pairs.service]
    chosen &= found.count > off
    pairs, taken = found.pairs.only(chosen), (found.count - off)[chosen]
    service = pairs.service
    several = (n > 1) & impacts.presence.counted
    everything = taken == n[service]
    below = (n[service] - taken < m[service]) & (m[service] < n[service])
    crowded = (taken > _caps(context, service)) & (kinds == "rack")[pairs.loss]
    return pairs.only(several[service] & (everything | below | crowded))


def _caps(context: Context, service: IndexColumn) -> IntColumn:
    """(n,) replicas of some services allowed in one rack."""
    caps = context.impacts.presence.n.copy()
    for number in np.unique(service).tolist():
        share = context.estate.services[number].spread.per_rack
        if share is not None:
            caps[number] = max(1, share.numerator * int(caps[number]) // share.denominator)
    return caps[service]


RULE = Rule(
    "replicas-together",
    "EV119",
    "Replicas of one service in one rack or feed",
    check,
    per_loss=False,
)
