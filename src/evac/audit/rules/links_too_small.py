"""EV122: links and ingress too small for the traffic after a loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.derive.traffic import limit_of, limit_of_link, states_no_peak
from evac.model.diagnostic import Severity
from evac.model.plan import MEASURES, Congestion, Measure, link_or_ingress
from evac.model.units import traffic

Row = tuple[int, Congestion, bool]
"""A loss, what arrives after it, and whether that is certain: of a service that a plan places, all may arrive
there or nothing.
"""
Key = tuple[bool, Measure, tuple[str, ...]]
"""Whether it is a link, what is too much, and where."""


def check(context: Context) -> Iterator[Finding]:
    """Error if all surviving ingress together is too small; warning if one site or link would or may be; one
    for each measure if services state no peak.
    """
    crowding, found = context.impacts.crowding, dict[Key, list[int]]()
    unclear = defaultdict[Measure, list[Row]](list)
    for number in range(len(context.impacts.losses)):
        for at, measure in crowding.at(number):
            found.setdefault((len(at) > 1, measure, at), []).append(number)
    for key, numbers in sorted(found.items()):
        numbers = context.worst_first(numbers)
        added = [number for number in numbers if crowding.is_added(number)]
        others = [number for number in numbers if not crowding.is_added(number)]
        rows = [row for number in added for row in _rows(context, number, key)]
        tried = 0
        while tried < min(TRIED_MOST, len(others)) and not any(row[1].is_too_small for row in rows):
            rows += _rows(context, others[tried], key)
            tried += 1
        if too_small := [row for row in rows if row[1].is_too_small]:
            yield (_link if key[0] else _site)(context, too_small, numbers)
            continue
        unclear[key[1]] += [row for row in rows if row[1].unstated and row[1].limit is not None]
        if others[tried:] and (limit := _limit(context, key)) is not None:
            yield _by_bound(context, key, limit, others[tried:])
    for measure in MEASURES:
        if unclear[measure]:
            yield _unknown(context, measure, unclear[measure])


TRIED_MOST = 8
"""Losses for which sums are made for one link or ingress, of those below whole sites that have none."""


def _limit(context: Context, key: Key) -> int | None:
    """What a link or the ingress of a site can carry; None: not known."""
    is_link, measure, at = key
    if is_link:
        return next(limit_of_link(link, measure) for link in context.estate.links if link.ends == at)
    return next(limit_of(site, measure) for site in context.estate.sites if site.id == at[0])


def _by_bound(context: Context, key: Key, limit: int, numbers: list[int]) -> Finding:
    """After these losses, the upper bound is above the limit, and no sum was made."""
    is_link, measure, at = key
    name = " - ".join(at)
    of = next((n for n, link in enumerate(context.estate.links) if link.ends == at), 0)
    return RULE.finding(
        context,
        "warning",
        name if is_link and measure == "bandwidth" else f"{name}: {measure}",
        f"more than {traffic(measure, limit)} may come through {link_or_ingress(at)}, depending on the plan,"
        f" after the loss of {listed(context.names(numbers))}; it can carry {traffic(measure, limit)}",
        "Plan for these losses to see how much arrives.",
        losses=numbers,
        paths=(f"links/{of}",) if is_link else (f"sites/{name}/ingress", f"sites/{name}"),
    )


def _unknown(context: Context, measure: Measure, rows: list[Row]) -> Finding:
    """It is unknown whether the traffic of services that state no peak fits."""
    number, worst, _ = max(rows, key=lambda row: (row[1].unstated, -row[0]))
    names = listed(list(dict.fromkeys(one.name for _, one, _ in rows)))
    losses = _from_worst(number, context.worst_first({row[0] for row in rows}))
    key, through = "peak" if measure == "bandwidth" else "connections", set(worst.services)
    silent = zip(context.estate.services, states_no_peak(context.impacts.top, measure).tolist(), strict=True)
    services = [one.id for one, states_none in silent if states_none and one.id in through]
    return RULE.finding(
        context,
        "warning",
        f"services/*/traffic/{key}",
        f"it is unknown whether {names} can carry the traffic after the loss of"
        f" {listed(context.names(losses))}: {worst.unstated_words}",
        f"State {key} in the traffic of {listed(services)}, or kind: none if no users are sent there.",
        losses=losses,
        paths=[path for name in services[:3] for path in (f"services/{name}/traffic", f"services/{name}")],
    )


def _rows(context: Context, number: int, key: Key) -> Iterator[Row]:
    after = context.impacts.crowding.of(number)
    for one in after.possible:
        if (one.measure, one.at) == key[1:]:
            yield number, one, one in after.certain


def _site(context: Context, rows: list[Row], numbers: list[int]) -> Finding:
    crowding = context.impacts.crowding
    grave = [row for row in rows if row[1].measure in crowding.of(row[0]).short]
    number, worst, certain = max(grave or rows, key=_how_bad)
    severity: Severity = "error" if grave else "warning"
    name, shown = worst.at[0], traffic(worst.measure, worst.arriving)
    least = "at least " if worst.unstated else ""
    arrives = (
        f"{least}{shown} would arrive" if certain else f"up to {shown} may arrive, depending on the plan,"
    )
    losses = _from_worst(number, numbers)
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


def _link(context: Context, rows: list[Row], numbers: list[int]) -> Finding:
    number, worst, certain = max(rows, key=_how_bad)
    crosses = "would" if certain else "may, depending on the plan,"
    losses, name = _from_worst(number, numbers), " - ".join(worst.at)
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


def _from_worst(worst: int, numbers: list[int]) -> list[int]:
    return [worst, *(number for number in numbers if number != worst)]


RULE = Rule(
    "links-too-small",
    "EV122",
    "Links or ingress are too small for the traffic after a loss",
    check,
)
