"""How services are written in an estate: what a replica takes, what a service needs, how its users reach it.

A part of the table of the format (`spec`).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

from evac.estate.format import quantities as q
from evac.estate.format.kinds import (
    Field,
    Listed,
    Placed,
    Record,
    Records,
    Worse,
    choice,
    day,
    flag,
    measure,
    objectives,
    reference,
    share,
    small_count,
    text,
)
from evac.model import estate as m

_DURATION: Final = measure(q.DURATION)
_TAKES: Final = measure(q.DURATION, "high")
_COUNT: Final = measure(q.COUNT)
_MANY: Final = measure(q.COUNT, "high")


def capacity(attr: str, *, needed: bool = False) -> tuple[Field, ...]:
    """The four resources of a vector; demands round up, capacities down."""
    worse: Worse = "high" if needed else "low"
    kinds = (
        ("cpu", q.CORES_NEEDED if needed else q.CORES_HELD, "processor cores"),
        ("memory", q.MEMORY_NEEDED if needed else q.MEMORY_HELD, "memory"),
        ("disk", q.DISK_NEEDED if needed else q.DISK_HELD, "local disk"),
        ("accelerators", q.COUNT, "accelerators such as GPUs"),
    )
    return tuple(
        Field(key, attr, measure(kind, worse), words, slot=row)
        for row, (key, kind, words) in enumerate(kinds)
    )


def vector(**amounts: Any) -> m.Vector:
    found: m.Vector = amounts.get("", m.NOTHING_KNOWN)
    return found


def _need(
    service: str | None = None,
    store: str | None = None,
    any_of: tuple[str, ...] | None = None,
    **rest: Any,
) -> m.Dependency | None:
    if sum(bool(one) for one in (service, store, any_of)) != 1:
        return None
    if any_of:
        return m.Dependency(any_of[0], "service", any_of=any_of, **rest)
    return m.Dependency(service or store or "", "service" if service else "store", **rest)


_SPREAD: Final = Record(
    (
        Field("per_server", "per_server", small_count(1, 10**6), "most replicas on one server", default=1),
        Field("per_rack", "per_rack", share(), "largest share of the replicas in one rack"),
        Field("per_feed", "per_feed", share(), "largest share of the replicas behind one power feed"),
        Field("per_site", "per_site", share(), "largest share of the replicas at one site"),
    ),
    m.Spread,
)
_TRAFFIC: Final = Record(
    (
        Field(
            "kind",
            "kind",
            choice(("dns", "anycast", "load_balancer", "none")),
            "how users are led to the service",
        ),
        Field("ttl", "ttl_ms", _TAKES, "how long resolvers keep the answer"),
        Field("change", "change_ms", _TAKES, "how long one change holds the control", default=0),
        Field(
            "settle",
            "settle_ms",
            _TAKES,
            "from the change until the traffic has moved, TTL included",
            default=0,
        ),
        Field("peak", "mbps", measure(q.BANDWIDTH_NEEDED, "high"), "peak of the whole service"),
        Field("connections", "connections", _MANY, "most connections at one time, of the whole service"),
    ),
    m.Traffic,
)
_NEED: Final = Record(
    (
        Field("service", "service", reference("service"), "the service that is needed"),
        Field("store", "store", reference("store family"), "a family of stores; one of them is needed"),
        Field(
            "any_of",
            "any_of",
            Listed(reference("service"), ordered=True),
            "services, the preferred one first; any one of them is enough",
        ),
        Field("hard", "hard", flag(), "false: without it the service is worse, not down", default=True),
        Field(
            "needed_to",
            "needed_to",
            choice(("start", "serve")),
            "needed to start, or to serve only",
            default="serve",
        ),
    ),
    _need,
    short=reference("service"),
)
SERVICE: Final[tuple[Field, ...]] = (
    Field("family", "family", text(), "the product family it belongs to", default=""),
    Field("owner", "owner", text(), "who answers for it"),
    Field("public_name", "public_name", text(), "what users call it on the status page; else not shown"),
    Field("tier", "tier", small_count(0, 100), "how much it matters; 0 matters most"),
    Field("people", "people", _MANY, "how many people notice when it is down"),
    Field("degraded_people", "degraded_people", _MANY, "how many people notice when it is degraded"),
    Field("paid", "paid", flag(), "whether people pay for it"),
    Field("rto", "rto_ms", _DURATION, "longest outage that is accepted"),
    Field("rpo", "rpo_ms", _DURATION, "maximum acceptable data loss"),
    Field(
        "objectives",
        "objectives",
        objectives(
            Field("rto", "rto_ms", _DURATION, "longest outage that is accepted then"),
            Field("rpo", "rpo_ms", _DURATION, "maximum acceptable data loss then"),
        ),
        "other objectives by class of loss, such as `{site: {rto: 30 min, rpo: 1 min}}`",
    ),
    Field("demand", "demand", Record(capacity("", needed=True), vector), "what one replica needs at peak"),
    Field("replicas", "replicas", Placed(_COUNT), "replicas in all, or by site and pool"),
    Field("sites", "sites", Listed(reference("site")), "where it runs, if counts are not known", default=()),
    Field("share", "share", share(), "smallest share of the replicas that still serves", default=Fraction(1)),
    Field("spread", "spread", _SPREAD, "how many replicas may run together", default=m.Spread()),
    Field("conflict_group", "conflict_group", text(), "services of one group never share a server"),
    Field(
        "eligible_classes",
        "eligible_classes",
        Listed(reference("class")),
        "server classes it can run on; else all",
    ),
    Field("eligible_sites", "eligible_sites", Listed(reference("site")), "sites it may run at; else all"),
    Field(
        "data_in",
        "data_in",
        Listed(reference("site, region or group")),
        "sites, regions or groups of sites its data may be in; default: all",
    ),
    Field("sheddable", "sheddable", flag(), "whether it may be stopped to make room"),
    Field("shed_rehearsed", "shed_rehearsed", day(), "when stopping it was last rehearsed"),
    Field(
        "single_run",
        "single_run",
        flag(),
        "true: never two at one time (cron, billing, consumers)",
        default=False,
    ),
    Field(
        "purges",
        "purges",
        flag(),
        "true: it deletes old data by itself; after a restore it waits for a person",
        default=False,
    ),
    Field(
        "needs",
        "needs",
        Records(_NEED),
        "what it depends on; a plain name is a hard need of a service",
        default=(),
    ),
    Field("start", "start_ms", _TAKES, "how long a replica takes to start"),
    Field("warm", "warm_ms", _TAKES, "how long caches take to warm", default=0),
    Field("verify", "verify_ms", _TAKES, "how long the check takes that it answers", default=0),
    Field("shed_time", "shed_ms", _TAKES, "how long stopping it takes", default=0),
    Field("traffic", "traffic", _TRAFFIC, "how its users reach it", default=m.Traffic()),
    Field(
        "external",
        "external",
        flag(),
        "true: another company runs it; it has no site, no replicas and no demand here",
        default=False,
    ),
    Field(
        "provider",
        "provider",
        reference("provider"),
        "of an external service, who provides it; left out, a provider of the same name",
    ),
)
