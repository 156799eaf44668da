"""EV129: unknown facts that would change a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.audit.impacts.all_losses import UNKNOWN
from evac.audit.impacts.free_capacity import pool_capacity
from evac.audit.impacts.losses import tripping
from evac.derive.objectives import rpos
from evac.derive.stores import commits_wait, fence_is_unknown
from evac.model.diagnostic import Severity
from evac.model.estate import Store
from evac.model.objectives import rto_for
from evac.model.reason import BUDGET
from evac.model.units import RESOURCE_COUNT, RESOURCE_WORDS


def check(context: Context) -> Iterator[Finding]:
    """Warning if a verdict depends on it; note if only a number does. One finding for each kind of fact."""
    yield from _services(context)
    yield from _stores(context)
    yield from _objectives(context)
    yield from _pools(context)
    yield from _feeds(context)
    yield from _open_verdicts(context)
    if context.as_of is None:
        yield RULE.finding(
            context,
            "note",
            "as_of",
            "the audit date is unknown, so evac cannot tell which facts are out of date",
            "Write `as_of:` in the estate or pass --as-of.",
            paths=("as_of", ""),
            roots=("as_of",),
        )


_KINDS: Final[tuple[tuple[str, Severity, str], ...]] = (
    ("replicas", "warning", "how many replicas run where"),
    ("rto", "note", "how long it may be down"),
    ("people", "note", "how many people use it"),
    ("tier", "note", "how important it is"),
    ("demand", "warning", "what a replica needs"),
    ("start", "warning", "how long a start takes"),
    ("traffic", "note", "how its traffic is directed"),
)


def _services(context: Context) -> Iterator[Finding]:
    missing = _missing(context)
    for name, severity, words in _KINDS:
        if missing[name]:
            yield _kind(context, f"services/*/{name}", severity, words, missing[name], "service", name)


def _missing(context: Context) -> dict[str, list[str]]:
    """Kind of fact -> services for which it is unknown."""
    impacts, services = context.impacts, context.estate.services
    down = impacts.damage.pairs
    started, thinned = np.zeros((2, len(services)), np.bool_)
    started[down.service[down.of(impacts.lost) > 0]] = True
    thinned[impacts.ground.taken.pairs.service] = True
    found: dict[str, list[str]] = {name: [] for name, _, _ in _KINDS}
    for service, starts, loses, counted_ones in zip(
        services, started.tolist(), thinned.tolist(), impacts.presence.counted.tolist(), strict=True
    ):
        if service.external:
            continue
        if not counted_ones:
            found["replicas"].append(service.id)
        if rto_for(service, "site") is None:
            found["rto"].append(service.id)
        if service.people is None:
            found["people"].append(service.id)
        if service.tier is None:
            found["tier"].append(service.id)
        if loses and None in service.demand[:2]:
            found["demand"].append(service.id)
        if starts and service.start_ms is None:
            found["start"].append(service.id)
        if service.traffic.kind is None:
            found["traffic"].append(service.id)
    return found


def _stores(context: Context) -> Iterator[Finding]:
    kinds: Sequence[tuple[str, Severity, Callable[[Store], bool], str]] = (
        ("members", "warning", lambda d: not d.members, "where it runs"),
        (
            "promote",
            "warning",
            lambda d: d.promote_ms is None and len(d.members) > 1,
            "how long a promotion takes",
        ),
        (
            "fence",
            "warning",
            lambda d: fence_is_unknown(d, d.fence_rung) and len(d.members) > 1 and not d.quorum,
            "how long it takes to be sure that the old primary is stopped",
        ),
        (
            "sync_timeout",
            "warning",
            lambda d: (
                commits_wait(d, tuple(m.mode == "sync" for m in d.members)) and d.sync_timeout_ms is None
            ),
            "how long commits block after its synchronous replicas are lost",
        ),
        (
            "rebuild",
            "warning",
            lambda d: d.rebuilt_from is not None and d.rebuild_ms is None,
            "how long it takes to rebuild its data",
        ),
        (
            "lag",
            "warning",
            lambda d: d.id in doubtful and any(m.mode == "async" and m.lag_ms is None for m in d.members),
            "how far its copies are behind, so whether its RPO allows what a loss takes",
        ),
        (
            "backups",
            "warning",
            lambda d: d.id in doubtful and any(one.age_ms is None for one in d.backups),
            "how old its backups are, so whether its RPO allows what a loss takes",
        ),
    )
    parts = context.impacts.stores.parts
    doubtful = {part.store.id for part in parts if any(outcome.in_doubt for outcome in part.outcomes)}
    for name, severity, missing, words in kinds:
        found = [d.id for d in context.estate.stores if missing(d)]
        if found:
            yield _kind(context, f"stores/*/{name}", severity, words, found, "store", name)


def _objectives(context: Context) -> Iterator[Finding]:
    """Stores for which no one states an RPO; those first that come back with a loss after some loss of a
    domain.
    """
    parts, found = context.impacts.stores.parts, dict[bool, list[str]]()
    limits = rpos(context.impacts.top, "site")
    for store, part, rpo in zip(context.estate.stores, parts, limits, strict=True):
        loses = any(outcome.rpo_is_open for outcome in part.outcomes)
        if store.rebuilt_from is None and (loses or rpo.is_open):
            found.setdefault(loses, []).append(store.id)
    if found:
        severity: Severity = "warning" if True in found else "note"
        names, more = (
            found.get(True, []) + found.get(False, []),
            " Write `rpo: unlimited` if any loss is acceptable.",
        )
        yield _kind(
            context, "stores/*/rpo", severity, "how much data may be lost", names, "store", "rpo", more
        )


def _pools(context: Context) -> Iterator[Finding]:
    """Amounts of pools, if a service uses them; irrelevant at a site that may not run it."""
    estate, top = context.estate, context.impacts.top
    full = {site.id for site in estate.sites if site.role == "full"}
    asked = [
        any(service.demand[resource] for service in estate.services) for resource in range(RESOURCE_COUNT)
    ]
    for resource, word in enumerate(RESOURCE_WORDS):
        found = [
            pool.id
            for number, pool in enumerate(estate.pools)
            if pool.site in full and asked[resource] and pool_capacity(top, number)[resource] is None
        ]
        if found:
            subject, words = f"pools/*/{word}", f"the amount of {word}"
            yield _kind(context, subject, "warning", words, found, "pool", word)


def _feeds(context: Context) -> Iterator[Finding]:
    """Feeds that carry more once another is lost, if it is unknown whether they can."""
    impacts = context.impacts
    trips = tripping(impacts.top, impacts.losses).values()
    if found := sorted({feed for one in trips for feed in one.unstated}):
        words, more = "how much power it can supply", f" Write `{BUDGET}: unlimited` if a feed can carry all."
        yield _kind(context, f"feeds/*/{BUDGET}", "warning", words, found, "feed", BUDGET, more)


def _kind(
    context: Context,
    subject: str,
    severity: Severity,
    words: str,
    found: list[str],
    noun: str,
    name: str,
    more: str = "",
) -> Finding:
    """more: further advice."""
    return RULE.finding(
        context,
        severity,
        subject,
        f"unknown for {counted(len(found), noun)}: {words} ({listed(found, 5)})",
        f"Set `{name}:` for them, most important first; evac check lists those that matter most.{more}",
        paths=(f"{noun}s/{found[0]}/{name}", f"{noun}s/{found[0]}"),
        roots=(f"{noun}s/{found[0]}/{name}",),
    )


_ADVICE: Final = (
    "State which servers or racks their replicas and stores run on, the spare capacity elsewhere, "
    "and what a replica needs."
)
_FEEDS: Final = " Where a feed would carry more than its budget, raise the budget or move servers."


def _open_verdicts(context: Context) -> Iterator[Finding]:
    """Losses whose verdict is open for some services, one finding for each site."""
    impacts = context.impacts
    overloading = tripping(impacts.top, impacts.losses).keys()
    unknown = impacts.fate == UNKNOWN
    numbers = np.flatnonzero(unknown.any(axis=1)).tolist()
    by_site: dict[int, list[int]] = {}
    for number in numbers:
        by_site.setdefault(int(impacts.losses.site[number]), []).append(number)
    for site, losses in sorted(by_site.items()):
        name = context.estate.sites[site].id if site >= 0 else "several sites"
        services = [
            context.estate.services[s].id for s in np.flatnonzero(unknown[losses].any(axis=0)).tolist()
        ]
        yield RULE.finding(
            context,
            "warning",
            f"verdicts at {name}",
            f"{counted(len(losses), 'loss', 'losses')} at {name} cannot be judged for"
            f" {counted(len(services), 'service')}: {listed(services)}",
            _ADVICE + _FEEDS * (not overloading.isdisjoint(losses)),
            losses=context.worst_first(losses),
            paths=(f"sites/{name}", ""),
            roots=(f"sites/{name}",),
        )


RULE = Rule(
    "unknown-facts",
    "EV129",
    "Unknown facts could change the result",
    check,
    per_loss=False,
)
