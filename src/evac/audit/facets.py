"""What has changed between two estates, in facets: names of the parts that results follow from."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import numpy as np

from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, Replicas

STRUCTURE: Final = frozenset({"structure"})
"""Fault domains, and what there is at all: a change here is a new audit."""

GROUND: Final = frozenset({"room", "presence", "fleet"})
"""What replicas ask for, what stands where, and what servers there are."""

DYNAMICS: Final = frozenset(
    {"needs", "pace", "traffic", "stores", "tools", "limits", "waits", "order", *GROUND}
)
"""What recovery follows from."""

WIRES: Final = frozenset({"needs", "pace", "traffic", "stores", "tools", "limits"})
"""What dependencies, stores and times follow from."""

_FIELDS: Final = {
    "expiring": ("expiring",),
    "automations": ("automations",),
    "rehearsals": ("rehearsals",),
    "recovery_groups": ("recovery_groups",),
    "links": ("links",),
    "stores": ("stores",),
    "tools": ("tools",),
    "limits": ("limits", "horizon_ms", "tier_weights"),
    "waits": ("detection_ms", "approval_ms"),
    "caps": ("limits",),
    "dates": ("as_of", "changed"),
    "structure": ("halls", "feeds", "racks", "groups", "classes", "boot_servers", "pools"),
}

_LOOKED_AT_APART: Final = ("name", "sites", "services", "facts", "fleet", "replicas", "places")
"""Fields of an estate that are no facet by themselves, or that no result follows from."""

_PLACES: Final = ("name", "site", "rack", "pool")
"""Columns of the fleet that say what goes with which fault domain."""

_SERVICE_FACTS: Final = {
    "structure": ("id",),
    "room": (
        "family",
        "demand",
        "spread",
        "conflict_group",
        "eligible_classes",
        "eligible_sites",
        "sheddable",
        "single_run",
    ),
    "presence": ("replicas", "share", "sites"),
    "objectives": (
        "degraded_people",
        "paid",
        "rto_ms",
        "rpo_ms",
        "shed_rehearsed",
        "owner",
        "tier",
        "people",
        "purges",
        "sheddable",
    ),
    "order": ("tier", "people"),
    "needs": ("needs",),
    "traffic": ("traffic",),
    "pace": ("start_ms", "warm_ms", "verify_ms", "shed_ms"),
}


def changed_facets(old: Estate, new: Estate) -> frozenset[str]:
    """Facets in which two estates differ. Where a service changed its tier or people, so did `order`."""
    found = {
        name
        for name, parts in _FIELDS.items()
        if any(getattr(old, part) != getattr(new, part) for part in parts)
    }
    named = {part for parts in _FIELDS.values() for part in parts}.union(_LOOKED_AT_APART)
    others = [field.name for field in fields(Estate) if field.name not in named]
    # Whatever is not known to be harmless is a new audit.
    if any(getattr(old, name) != getattr(new, name) for name in others):
        found.add("structure")
    if [(s.id, s.role, s.power_budget_watts) for s in old.sites] != [
        (s.id, s.role, s.power_budget_watts) for s in new.sites
    ] or old.limits.power_margin_permille != new.limits.power_margin_permille:
        found.add("structure")
    elif old.sites != new.sites:
        found.add("ingress")
    if not _same_columns(old.fleet, new.fleet):
        found.add("fleet" if _same_columns(old.fleet, new.fleet, _PLACES) else "structure")
    if not _same_columns(old.replicas, new.replicas):
        found.add("presence")
    return frozenset(found | _service_facets(old, new))


def _service_facets(old: Estate, new: Estate) -> set[str]:
    if len(old.services) != len(new.services):
        return {"structure"}
    found: set[str] = set()
    for one, other in zip(old.services, new.services, strict=True):
        if one is other or one == other:
            continue
        for name, facts in _SERVICE_FACTS.items():
            if any(getattr(one, fact) != getattr(other, fact) for fact in facts):
                found.add(name)
    return found


def _same_columns(one: Any, other: Any, names: tuple[str, ...] = ()) -> bool:
    """Whether two tables hold the same values, in some columns or in all; the same arrays need no look."""
    return one is other or all(
        getattr(one, name) is getattr(other, name) or np.array_equal(getattr(one, name), getattr(other, name))
        for name in names or [column.name for column in fields(one)]
    )


def other_services(old: Estate, new: Estate) -> BoolColumn:
    """(S,) services with other facts."""
    both = zip(old.services, new.services, strict=True)
    return np.array([one is not other and one != other for one, other in both], np.bool_)


def placed_elsewhere(old: Estate, new: Estate) -> BoolColumn:
    """(S,) services of which other replicas stand somewhere, or another share serves."""
    pairs = zip(old.services, new.services, strict=True)
    facts = _SERVICE_FACTS["presence"]
    found = np.array(
        [
            one is not other and any(getattr(one, f) != getattr(other, f) for f in facts)
            for one, other in pairs
        ],
        np.bool_,
    )
    before, after = old.replicas, new.replicas
    if before is after:
        return found
    first, last, end = _differing(before, after)
    names = np.union1d(before.service[first:last], after.service[first:end])
    edges = np.stack([names, names + 1])
    both = zip(
        np.searchsorted(before.service, edges).T.tolist(),
        np.searchsorted(after.service, edges).T.tolist(),
        strict=True,
    )
    for name, (one, other) in zip(names.tolist(), both, strict=True):
        found[name] |= any(
            not np.array_equal(getattr(before, c)[slice(*one)], getattr(after, c)[slice(*other)])
            for c in ("kind", "target", "count")
        )
    return found


def _differing(before: Replicas, after: Replicas) -> tuple[int, int, int]:
    """From which row two tables differ, and up to which row of each."""
    least = min(len(before), len(after))
    columns = [(getattr(before, c.name), getattr(after, c.name)) for c in fields(Replicas)]
    same = [(one[:least] == other[:least]) for one, other in columns if one is not other]
    first = min((int((~s).argmax()) if not s.all() else least for s in same), default=least)
    ends = [(one[len(one) - least :], other[len(other) - least :]) for one, other in columns]
    same = [one == other for one, other in ends if one is not other]
    back = min((int((~s[::-1]).argmax()) if not s.all() else least for s in same), default=least)
    back = min(back, least - first)
    return first, len(before) - back, len(after) - back


def taking_other(old: Estate, new: Estate) -> BoolColumn:
    """(S,) services of which a replica takes something else, or which may be shed or no longer."""
    return np.array(
        [
            one is not other and (one.demand != other.demand or one.sheddable != other.sheddable)
            for one, other in zip(old.services, new.services, strict=True)
        ],
        np.bool_,
    )


def changed_families(old: Estate, new: Estate) -> set[str]:
    """Families of stores that are new, gone or different."""
    before, after = {d.id: d for d in old.stores}, {d.id: d for d in new.stores}
    changed = {i for i in before.keys() | after.keys() if before.get(i) != after.get(i)}
    return {d.family for stores in (before, after) for i, d in stores.items() if i in changed}
