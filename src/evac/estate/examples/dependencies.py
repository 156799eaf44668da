"""What each service of the example needs: a layered graph with heavy fan-in at the bottom.

Six levels. Hard dependencies point to a lower level and, unless the flaws are asked for, to the
same or a better tier, so nothing can wait for itself. Shape assumed after the published studies of
large microservice fleets: call graphs like trees, heavy-tailed, with few services that very many
share (Luo et al., "Characterizing Microservice Dependency and Performance", SoCC 2021).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.random import Generator

from evac.estate.examples.company import Blueprint
from evac.model.estate import Dependency, NeededTo

Needs = dict[str, dict[tuple[str, str], Dependency]]
"""Service id -> (kind, target) -> dependency; a later entry replaces an earlier one."""

SELF_CONTAINED_TOOLS: Final = frozenset(
    {"bastion", "boot-control", "evac", "paging", "secrets", "vpn-gateway", "workforce-login"}
)
"""Tools that in the mended company read no store they would have to wait for: each replica has a copy."""

_COMMON: Final = (
    "config",
    "discovery",
    "identity-session",
    "sql-proxy",
    "message-bus",
    "cache-proxy",
    "object-storage",
    "feature-flags",
    "id-generator",
    "rate-limiter",
    "key-management",
    "notification-hub",
    "identity-tokens",
    "identity-accounts",
    "job-scheduler",
    "audit-log",
    "thumbnailer",
    "workflow-engine",
    "geo-ip",
    "abuse-filter",
    "content-origin",
    "sms-sender",
    "identity-consent",
    "log-pipeline",
    "trace-pipeline",
)
"""What everybody uses, by popularity: the k-th is drawn with weight 1/k (Zipf)."""

_CROSS_FAMILY: Final = {
    "advertising": "search-query",
    "bank": "pay-authorisation",
    "games": "pay-payment",
    "mail": "identity-profile",
    "maps": "search-query",
    "messenger": "pay-payment",
    "music": "pay-payment",
    "pay": "bank-deposit",
    "ride-hailing": "maps-route",
    "search": "identity-sign-in",
    "identity": "messenger-push",
    "platform": "identity-sign-in",
}
"""Feature of another family that a family leans on; its core is the target."""


_CYCLES: Final[tuple[tuple[str, str, NeededTo], ...]] = (
    ("config", "discovery", "start"),
    ("discovery", "config", "start"),
    ("secrets", "workforce-login", "start"),
    ("workforce-login", "secrets", "start"),
    ("identity-session", "identity-tokens", "serve"),
    ("identity-tokens", "identity-session", "serve"),
)
"""Flaws: (source, target, needed to) of pairs that wait for each other."""


def store_id(service: str) -> str:
    """The store that holds the data of a service."""
    return f"{service}-store"


def draw_needs(blueprints: tuple[Blueprint, ...], draw: Generator) -> Needs:
    """The clean graph, the same for both companies before flaws."""
    by_id = {b.id: b for b in blueprints}
    needs: Needs = {b.id: {} for b in blueprints}
    for blueprint in blueprints:
        _add_own(needs, by_id, blueprint)
        _add_drawn(needs, by_id, blueprint, draw)
    return needs


def _add(
    needs: Needs,
    by_id: dict[str, Blueprint],
    source: Blueprint,
    target: str,
    hard: bool = True,
    needed_to: NeededTo = "serve",
) -> None:
    """A dependency on a service, kept only where level and tier allow it; hard wins over soft."""
    other = by_id.get(target)
    if other is None or other.id == source.id:
        return
    if hard and (other.level >= source.level or other.tier > source.tier):
        return
    known = needs[source.id].get(("service", target))
    if known is None or (hard and not known.hard):
        needs[source.id]["service", target] = Dependency(target, "service", hard, needed_to)


def _add_store(needs: Needs, source: Blueprint, hard: bool) -> None:
    target = store_id(source.id)
    needs[source.id]["store", target] = Dependency(target, "store", hard)


def _add_own(needs: Needs, by_id: dict[str, Blueprint], source: Blueprint) -> None:
    """What the component of a feature always needs."""
    if source.engine is not None and source.component != "tool":
        _add_store(needs, source, True)
    if source.component == "tool" and source.engine is not None and source.id not in SELF_CONTAINED_TOOLS:
        _add_store(needs, source, False)
    stem = f"{source.family}-{source.feature}"
    family = source.family
    for target, hard, needed_to in _template(source.component, stem, family):
        _add(needs, by_id, source, target, hard, needed_to)


def _template(component: str, stem: str, family: str) -> tuple[tuple[str, bool, NeededTo], ...]:
    """(target, hard, needed to) by component."""
    config: tuple[str, bool, NeededTo] = ("config", True, "start")
    discovery: tuple[str, bool, NeededTo] = ("discovery", True, "start")
    session: tuple[str, bool, NeededTo] = ("identity-session", True, "serve")
    data: tuple[str, bool, NeededTo] = (f"{stem}-data", True, "serve")
    objects: tuple[str, bool, NeededTo] = ("object-storage", True, "serve")
    scheduler: tuple[str, bool, NeededTo] = ("job-scheduler", True, "start")
    templates: dict[str, tuple[tuple[str, bool, NeededTo], ...]] = {
        "tool": (("dns-resolver", True, "serve"), ("time", True, "start")),
        "platform": (config, discovery, ("sql-proxy", False, "serve")),
        "login": (config, discovery, ("sql-proxy", True, "serve")),
        "gateway": (discovery, session, ("rate-limiter", False, "serve")),
        "members": (discovery, session, ("rate-limiter", False, "serve")),
        "data": (config, ("sql-proxy", True, "serve"), ("key-management", False, "serve")),
        "cache": (discovery, ("cache-proxy", True, "serve")),
        "core": (
            data,
            (f"{family}-members", True, "serve"),
            (f"{stem}-cache", False, "serve"),
            (f"{stem}-model", False, "serve"),
            discovery,
        ),
        "worker": (("message-bus", True, "serve"), data, config),
        "api": ((f"{stem}-core", True, "serve"), session, (f"{stem}-worker", False, "serve")),
        "front": (
            (f"{stem}-api", True, "serve"),
            (f"{family}-gateway", True, "serve"),
            ("content-origin", False, "serve"),
        ),
        "batch": (data, objects, scheduler),
        "training": (data, objects, scheduler),
        "analytics": (objects, ("message-bus", True, "serve")),
        "model": (objects, ("message-bus", False, "serve")),
    }
    return templates.get(component, ())


def _add_drawn(needs: Needs, by_id: dict[str, Blueprint], source: Blueprint, draw: Generator) -> None:
    """What is drawn: shared services by Zipf, neighbours of the family, another family's core."""
    weight = 1.0 / np.arange(1, len(_COMMON) + 1)
    common = draw.choice(len(_COMMON), size=3, replace=False, p=weight / weight.sum())
    odds = draw.uniform(size=4).tolist()
    neighbour = draw.integers(0, 1 << 30, size=2).tolist()
    if source.level < 2:
        return
    _add(needs, by_id, source, _COMMON[common[0]])
    if odds[0] < 0.4:
        _add(needs, by_id, source, _COMMON[common[1]])
    _add(needs, by_id, source, _COMMON[common[2]], hard=False)
    if source.component in ("api", "worker", "front"):
        cores = [b for b in by_id.values() if b.family == source.family and b.component == "core"]
        if odds[1] < 0.35:
            _add(needs, by_id, source, _popular(cores, int(neighbour[0])).id)
        if odds[2] < 0.5:
            _add(needs, by_id, source, _popular(cores, int(neighbour[1])).id, hard=False)
    if source.component in ("api", "front"):
        _add(needs, by_id, source, f"{_CROSS_FAMILY[source.family]}-core", hard=odds[3] < 0.3)


def _popular(cores: list[Blueprint], number: int) -> Blueprint:
    """Rank k with odds falling as 1/(k+1): a log-uniform pick out of `number`."""
    fraction = number / float(1 << 30)
    return cores[min(len(cores) - 1, int((len(cores) + 1) ** fraction) - 1)] if cores[1:] else cores[0]


def add_flaws(needs: Needs, blueprints: tuple[Blueprint, ...], draw: Generator) -> None:
    """The flaws of the graph, in place: tier inversions, cycles, tools that wait for what they repair."""
    by_id = {b.id: b for b in blueprints}
    for b in blueprints:
        if b.component == "tool" and b.level:
            _make_tool_heavy(needs, by_id, b)
    _invert_tiers(needs, blueprints, draw)
    for source, target, needed_to in _CYCLES:
        needs[source]["service", target] = Dependency(target, "service", True, needed_to)


def _make_tool_heavy(needs: Needs, by_id: dict[str, Blueprint], tool: Blueprint) -> None:
    """Unmended tools wait for their store and for the platform they are there to repair."""
    if tool.engine is not None:
        _add_store(needs, tool, True)
    _add(needs, by_id, tool, "config", needed_to="start")
    _add(needs, by_id, tool, "sql-proxy")
    if tool.id not in ("workforce-login", "secrets", "evac"):
        needs[tool.id]["service", "workforce-login"] = Dependency("workforce-login", "service", True, "serve")


def _invert_tiers(needs: Needs, blueprints: tuple[Blueprint, ...], draw: Generator) -> None:
    """One in forty services of tier 0 or 1 hard-depends on a service of a lower tier."""
    low = [b for b in blueprints if b.tier == 2 and b.level == 1]
    better = [b for b in blueprints if b.tier <= 1 and b.level >= 2]
    for index in draw.choice(len(better), size=max(2, len(better) // 40), replace=False).tolist():
        target = low[index % len(low)].id
        needs[better[index].id]["service", target] = Dependency(target, "service", True, "serve")
