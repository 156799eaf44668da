"""EV122: links and ingress too small for the traffic after a loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evac.audit.context import Context, Rule, bandwidth, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity
from evac.model.fleet import BoolColumn, IntColumn

FloatTable = NDArray[np.float64]


def check(context: Context) -> Iterator[Finding]:
    """Error if all surviving ingress together is too small; warning if one site or link would be."""
    numbers = [
        n
        for n, kind in enumerate(context.impacts.losses.kinds)
        if kind in ("site", "group", "pair") and context.impacts.losses.sites[n].any()
    ]
    if numbers:
        estate = context.estate
        sites = context.full_sites | np.array([s.role == "edge" for s in estate.sites], np.bool_)
        serving = {n: sites & ~context.impacts.losses.sites[n] for n in numbers}
        shares = {n: _shares(context, left) for n, left in serving.items()}
        peaks = [s.traffic.mbps or 0 for s in estate.services]
        limits = [s.ingress_mbps for s in estate.sites]
        yield from _ingress(context, serving, shares, "bandwidth", peaks, limits)
        peaks = [s.traffic.connections or 0 for s in estate.services]
        limits = [s.ingress_connections for s in estate.sites]
        yield from _ingress(context, serving, shares, "connections", peaks, limits)
        yield from _links(context, numbers)


def _ingress(
    context: Context,
    serving: dict[int, BoolColumn],
    shares: dict[int, FloatTable],
    what: str,
    peak: list[int],
    limits: list[int | None],
) -> Iterator[Finding]:
    """serving: loss -> (sites,) that traffic may reach; shares: loss -> see `_shares`; peak (S,)."""
    if all(limit is None for limit in limits):
        return
    each = np.array(peak, np.int64).astype(np.float64)
    over: dict[int, list[tuple[int, int, bool]]] = {}
    for number, left in serving.items():
        arriving = (shares[number] @ each).round().astype(np.int64)
        known = [limits[i] for i in np.flatnonzero(left).tolist()]
        total = sum(k for k in known if k is not None)
        hopeless = all(k is not None for k in known) and bool(known) and int(arriving.sum()) > total
        for site in np.flatnonzero(left).tolist():
            limit = limits[site]
            if limit is not None and arriving[site] > limit:
                over.setdefault(site, []).append((number, int(arriving[site]), hopeless))
    for site, rows in sorted(over.items()):
        yield _site_finding(context, site, what, limits[site] or 0, rows)


def _shares(context: Context, left: BoolColumn) -> FloatTable:
    """(sites, S) of a peak that arrives at surviving sites: by surviving replicas, or evenly if a service has
    none.
    """
    at = context.impacts.presence.per_site.astype(np.float64) * left[:, None]
    per_service = at.sum(axis=0)
    everywhere = left.astype(np.float64) / max(1, int(left.sum()))
    return np.where(per_service > 0, at / np.maximum(per_service, 1), everywhere[:, None])


def _site_finding(
    context: Context, site: int, what: str, limit: int, rows: list[tuple[int, int, bool]]
) -> Finding:
    grave = [row for row in rows if row[2]]
    worst = max(grave or rows, key=lambda row: (row[1], -row[0]))
    losses = [worst[0], *(n for n in context.worst_first(r[0] for r in rows) if n != worst[0])]
    severity: Severity = "error" if grave else "warning"
    name = context.estate.sites[site].id
    show = bandwidth if what == "bandwidth" else "{:,} connections".format
    return RULE.finding(
        context,
        severity,
        f"{name}: {what}",
        f"{show(worst[1])} would arrive at {name} after the loss of {listed(context.names(losses))};"
        f" its ingress can carry {show(limit)}",
        "Widen the ingress, send the traffic to several sites, or shed what may be shed.",
        losses=losses,
        paths=(f"sites/{name}/ingress", f"sites/{name}"),
    )


def _links(context: Context, numbers: list[int]) -> Iterator[Finding]:
    """Traffic of services across a link after a loss, at most their own peak each."""
    estate, impacts = context.estate, context.impacts
    if all(link.bandwidth_mbps is None for link in estate.links):
        return
    crossing: dict[int, list[tuple[int, int]]] = {}
    ends = [(impacts.top.site_index[a], impacts.top.site_index[b]) for a, b in (x.ends for x in estate.links)]
    peak, edges = [s.traffic.mbps or 0 for s in estate.services], _edges(context)
    for number in numbers:
        load = _crossing(context, number, peak, *edges)
        for row, (one, other) in enumerate(ends):
            limit = estate.links[row].bandwidth_mbps
            total = int(load[one, other] + load[other, one])
            if limit is not None and total > limit:
                crossing.setdefault(row, []).append((number, total))
    for row, found in sorted(crossing.items()):
        link = estate.links[row]
        worst = max(found, key=lambda pair: (pair[1], -pair[0]))
        losses = [worst[0], *(n for n in context.worst_first(n for n, _ in found) if n != worst[0])]
        name = " - ".join(link.ends)
        yield RULE.finding(
            context,
            "warning",
            name,
            f"up to {bandwidth(worst[1])} would cross {name} after the loss of"
            f" {listed(context.names(losses))}; the link can carry {bandwidth(link.bandwidth_mbps or 0)}",
            "Widen the link, or keep what these services need at their own site.",
            losses=losses,
            paths=(f"links/{row}",),
        )


def _edges(context: Context) -> tuple[IntColumn, IntColumn]:
    """Hard dependencies of services with a known peak: caller and callee."""
    calling = [s.traffic.mbps for s in context.estate.services]
    found = [
        (s, other) for s, needs in enumerate(context.impacts.graph.hard) if calling[s] for other in needs
    ]
    return np.array([s for s, _ in found], np.int64), np.array([other for _, other in found], np.int64)


def _crossing(
    context: Context, number: int, peak: list[int], caller: IntColumn, called: IntColumn
) -> IntColumn:
    """(sites, sites) peak of services at one site whose hard dependency survives only at others."""
    impacts = context.impacts
    left = (impacts.presence.per_site * ~impacts.losses.sites[number][:, None]).astype(np.int64)
    there = left > 0
    # Python integers if the product of a peak and a count could overflow.
    exact = np.int64 if float(sum(peak)) * float(left.sum(initial=1)) < 2.0**62 else object
    share = np.array(peak, exact) * left.astype(exact) // np.maximum(left.sum(axis=0), 1)
    hosts = there[:, called]
    each = share[:, caller] // np.maximum(hosts.sum(axis=0), 1)
    crosses = there[:, caller] & ~hosts
    return np.asarray(np.where(crosses, each, 0) @ hosts.T.astype(exact))


RULE = Rule(
    "links-too-small",
    "EV122",
    "Links or ingress are too small for the traffic after a loss",
    check,
)
