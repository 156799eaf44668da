"""How an estate describes services: what a replica takes, what a service needs, how its users reach it.

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
        ("cpu", q.CORES_NEEDED if needed else q.CORES_HELD, "CPU cores"),
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
        Field(
            "per_server",
            "per_server",
            small_count(1, 10**6),
            "maximum number of replicas on one server",
            default=1,
        ),
        Field("per_rack", "per_rack", share(), "maximum share of the replicas in one rack"),
        Field("per_feed", "per_feed", share(), "maximum share of the replicas on one power feed"),
        Field("per_site", "per_site", share(), "maximum share of the replicas at one site"),
    ),
    m.Spread,
)
_TRAFFIC: Final = Record(
    (
        Field(
            "kind",
            "kind",
            choice(("dns", "anycast", "load_balancer", "none")),
            "how traffic is directed to the service",
        ),
        Field("ttl", "ttl_ms", _TAKES, "how long DNS resolvers cache the address"),
        Field("change", "change_ms", _TAKES, "how long one change blocks the next", default=0),
        Field(
            "settle",
            "settle_ms",
            _TAKES,
            "time from a change until the traffic has moved, including the TTL",
            default=0,
        ),
        Field("peak", "mbps", measure(q.BANDWIDTH_NEEDED, "high"), "peak traffic of the whole service"),
        Field("connections", "connections", _MANY, "peak number of connections to the whole service"),
    ),
    m.Traffic,
)
_NEED: Final = Record(
    (
        Field("service", "service", reference("service"), "the service it needs"),
        Field(
            "store",
            "store",
            reference("store family"),
            "the family of stores it needs; one of them is enough",
        ),
        Field(
            "any_of",
            "any_of",
            Listed(reference("service"), ordered=True),
            "services in order of preference; any one of them is enough",
        ),
        Field("hard", "hard", flag(), "false: without it, the service is degraded, not down", default=True),
        Field(
            "needed_to",
            "needed_to",
            choice(("start", "serve")),
            "whether it is needed to start, or only to serve",
            default="serve",
        ),
    ),
    _need,
    short=reference("service"),
)
SERVICE: Final[tuple[Field, ...]] = (
    Field("family", "family", text(), "the product family it belongs to", default=""),
    Field("owner", "owner", text(), "who is responsible for it"),
    Field("owner_phone", "owner_phone", text(), "phone number of its owner, printed in runbooks"),
    Field(
        "public_name",
        "public_name",
        text(),
        "its name on the status page; without one, it is not shown there",
    ),
    Field("tier", "tier", small_count(0, 100), "importance; tier 0 matters most"),
    Field("people", "people", _MANY, "how many people notice when it is down"),
    Field("degraded_people", "degraded_people", _MANY, "how many people notice when it is degraded"),
    Field("paid", "paid", flag(), "whether customers pay for it"),
    Field("rto", "rto_ms", _DURATION, "RTO: maximum acceptable outage; `0 s`: it may never go down"),
    Field(
        "rpo",
        "rpo_ms",
        _DURATION,
        "RPO: maximum data loss of the stores that it hard-needs; without one, it decides nothing",
    ),
    Field(
        "objectives",
        "objectives",
        objectives(
            Field("rto", "rto_ms", _DURATION, "RTO for that class"),
            Field("rpo", "rpo_ms", _DURATION, "RPO for that class"),
        ),
        "other objectives by class of loss, such as `{site: {rto: 30 min, rpo: 1 min}}`",
    ),
    Field("demand", "demand", Record(capacity("", needed=True), vector), "what one replica needs at peak"),
    Field("replicas", "replicas", Placed(_COUNT), "total number of replicas, or replicas by site and pool"),
    Field(
        "sites",
        "sites",
        Listed(reference("site")),
        "where it runs, if the replica counts are unknown",
        default=(),
    ),
    Field(
        "share",
        "share",
        share(),
        "minimum share of its replicas that keeps the service up",
        default=Fraction(1),
    ),
    Field("spread", "spread", _SPREAD, "how closely replicas may be packed", default=m.Spread()),
    Field("conflict_group", "conflict_group", text(), "services of the same group never share a server"),
    Field(
        "eligible_classes",
        "eligible_classes",
        Listed(reference("class")),
        "server classes it can run on; default: all",
    ),
    Field("eligible_sites", "eligible_sites", Listed(reference("site")), "sites it may run at; default: all"),
    Field(
        "data_in",
        "data_in",
        Listed(reference("site, region or group")),
        "sites, regions or groups of sites where its data may be stored; default: all",
    ),
    Field("sheddable", "sheddable", flag(), "whether it may be stopped to free capacity"),
    Field(
        "movable",
        "movable",
        flag(),
        "true: while it runs, its replicas may move to other servers at the same site, to free capacity for "
        "a higher tier; it keeps serving",
        default=False,
    ),
    Field("shed_rehearsed", "shed_rehearsed", day(), "when stopping it was last rehearsed"),
    Field(
        "single_run",
        "single_run",
        flag(),
        "true: only one instance may run at a time (cron, billing, consumers); a note for people: "
        "plans do not prevent a second one while the service moves",
        default=False,
    ),
    Field(
        "purges",
        "purges",
        flag(),
        "true: it deletes old data automatically; after a restore it waits for a person",
        default=False,
    ),
    Field(
        "needs",
        "needs",
        Records(_NEED),
        "what it depends on; a plain name means a hard dependency on that service",
        default=(),
    ),
    Field("start", "start_ms", _TAKES, "how long a replica takes to start"),
    Field("warm", "warm_ms", _TAKES, "how long its caches take to warm up", default=0),
    Field("verify", "verify_ms", _TAKES, "how long it takes to check that it responds", default=0),
    Field("shed_time", "shed_ms", _TAKES, "how long it takes to stop", default=0),
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
        "provider of an external service; default: the provider of the same name",
    ),
)
