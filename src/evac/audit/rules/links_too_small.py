"""EV122: links and ingress too small for the traffic after a loss."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.derive.congestion import congested, limit_of, maybe_congested, peaks_of, serves_users
from evac.model.diagnostic import Severity
from evac.model.plan import Congestion, Measure
from evac.model.units import traffic

Row = tuple[int, Congestion, bool]
"""A loss, what arrives after it, and whether that is certain: of a service that a plan places, all may arrive
there or nothing.
"""
Found = dict[tuple[bool, Measure, tuple[str, ...], int], list[Row]]
"""Whether it is a link, what is too much, where, and the limit -> losses, and how much arrives after each."""


def check(context: Context) -> Iterator[Finding]:
    """Error if all surviving ingress together is too small; warning if one site or link would or may be."""
    losses, found = context.impacts.losses, Found()
    for number, kind in enumerate(losses.kinds):
        if kind in ("site", "group", "pair"):
            certain = congested(context.impacts.top, losses.sites[number])
            for one in maybe_congested(context.impacts.top, losses.sites[number]):
                if one.limit is not None:
                    key = len(one.at) > 1, one.measure, one.at, one.limit
                    found.setdefault(key, []).append((number, one, one in certain))
    for (is_link, *_), rows in sorted(found.items()):
        yield (_link if is_link else _site)(context, rows)


def _site(context: Context, rows: list[Row]) -> Finding:
    grave = [row for row in rows if _is_hopeless(context, *row[:2])]
    number, worst, certain = max(grave or rows, key=_how_bad)
    severity: Severity = "error" if grave else "warning"
    name, shown = worst.at[0], traffic(worst.measure, worst.arriving)
    arrives = f"{shown} would arrive" if certain else f"up to {shown} may arrive, depending on the plan,"
    losses = _from_worst(context, number, rows)
    return RULE.finding(
        context,
        severity,
        f"{name}: {worst.measure}",
        f"{arrives} at {name} after the loss of {listed(context.names(losses))};"
        f" its ingress can carry {traffic(worst.measure, worst.limit or 0)}",
        "Widen the ingress, send the traffic to several sites, or shed what may be shed.",
        losses=losses,
        paths=(f"sites/{name}/ingress", f"sites/{name}"),
    )


def _is_hopeless(context: Context, number: int, found: Congestion) -> bool:
    """Whether all surviving ingress together carries less than the peak of all services."""
    top, estate = context.impacts.top, context.estate
    serving = serves_users(top, context.impacts.losses.sites[number])
    limits = [
        limit_of(site, found.measure)
        for site, serves in zip(estate.sites, serving.tolist(), strict=True)
        if serves
    ]
    known = [limit for limit in limits if limit is not None]
    peak = sum(one or 0 for one in peaks_of(estate.services, found.measure))
    return len(known) == len(limits) and peak > sum(known)


def _link(context: Context, rows: list[Row]) -> Finding:
    number, worst, certain = max(rows, key=_how_bad)
    crosses = "would" if certain else "may, depending on the plan,"
    losses, name = _from_worst(context, number, rows), " - ".join(worst.at)
    of = next(n for n, link in enumerate(context.estate.links) if link.ends == worst.at)
    return RULE.finding(
        context,
        "warning",
        name if worst.measure == "bandwidth" else f"{name}: {worst.measure}",
        f"up to {traffic(worst.measure, worst.arriving)} {crosses} cross {name} after the loss of"
        f" {listed(context.names(losses))}; the link can carry {traffic(worst.measure, worst.limit or 0)}",
        "Widen the link, or keep what these services need at their own site.",
        losses=losses,
        paths=(f"links/{of}",),
    )


def _how_bad(row: Row) -> tuple[bool, int, int]:
    number, found, certain = row
    return certain, found.arriving, -number


def _from_worst(context: Context, worst: int, rows: list[Row]) -> list[int]:
    return [worst, *(n for n in context.worst_first(row[0] for row in rows) if n != worst)]


RULE = Rule(
    "links-too-small",
    "EV122",
    "Links or ingress are too small for the traffic after a loss",
    check,
)
