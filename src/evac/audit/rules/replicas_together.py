"""EV119: replicas of one service in one rack or on one feed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.closure import Pairs
from evac.audit.context import Context, Maker, Rule
from evac.audit.findings import Finding
from evac.audit.words import listed
from evac.model.diagnostic import Severity
from evac.model.estate import Service

_MAKER = Maker("replicas-together", "EV119")


def check(context: Context) -> Iterator[Finding]:
    """Error where that loses the service or brings it back too late; else a warning.

    Together are all of two or more replicas, or so many that fewer than the smallest share are
    left although that share is below all of them, or more than the stated share per rack.
    """
    impacts = context.impacts
    for service, found in context.each(_together(context)):
        losses = context.worst_first(found)
        grave = [n for n in losses if context.grave[n, service]]
        severity: Severity = "error" if grave else "warning"
        worst = (grave or losses)[0]
        name = context.estate.services[service].id
        yield _MAKER.make(
            context, severity, name,
            f"{int(impacts.lost[worst, service])} of {int(impacts.presence.n[service])} replicas of {name}"
            f" stand in {listed(context.names([worst, *(n for n in losses if n != worst)]))}",
            "Spread its replicas: `spread: {per_rack: 10 %, per_feed: 50 %}`.",
            losses=[worst, *(n for n in losses if n != worst)],
            paths=(f"services/{name}/spread", f"services/{name}"),
        )  # fmt: skip


def _together(context: Context) -> Pairs:
    """Services of which a rack or feed takes too many at once."""
    impacts = context.impacts
    n, m = impacts.presence.n, impacts.presence.m
    kinds = np.array(impacts.losses.kinds, "U6")
    pairs = impacts.ground.taken.only(np.isin(kinds, ("rack", "feed"))[impacts.ground.taken.loss])
    service, taken = pairs.service, pairs.of(impacts.lost)
    several = (n > 1) & impacts.presence.counted
    caps = np.array([_cap(s, int(k)) for s, k in zip(context.estate.services, n, strict=True)], np.int64)
    everything = taken == n[service]
    below = (n[service] - taken < m[service]) & (m[service] < n[service])
    crowded = (taken > caps[service]) & (kinds == "rack")[pairs.loss]
    return pairs.only(several[service] & (everything | below | crowded))


def _cap(service: Service, n: int) -> int:
    share = service.spread.per_rack
    return n if share is None else max(1, share.numerator * n // share.denominator)


RULE = Rule(
    "replicas-together",
    "EV119",
    "Replicas of one service in one rack or feed",
    check,
    per_loss=False,
    reads=("dynamics", "objectives"),
    by_service=True,
)
