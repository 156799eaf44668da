"""What has changed between two estates, in facets: names of the parts that results follow from."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import numpy as np

from evac.model.estate import Estate

STRUCTURE: Final = frozenset({"structure"})
"""What stands where and what room there is: a change here is a new audit."""

DYNAMICS: Final = frozenset({"needs", "pace", "traffic", "stores", "tools", "limits", "order"})
"""What recovery follows from."""

WIRES: Final = frozenset({"needs", "pace", "traffic", "stores", "tools", "limits"})
"""What dependencies, stores and times follow from."""

_FIELDS: Final = {
    "expiring": ("expiring",), "automations": ("automations",), "rehearsals": ("rehearsals",),
    "recovery_groups": ("recovery_groups",), "links": ("links",), "stores": ("stores",), "tools": ("tools",),
    "limits": ("limits", "detection_ms", "approval_ms", "horizon_ms", "tier_weights"),
    "dates": ("as_of", "changed"),
    "structure": ("halls", "feeds", "racks", "groups", "classes", "boot_servers", "pools"),
}  # fmt: skip

_SERVICE_FACTS: Final = {
    "structure": (
        "id", "family", "demand", "replicas", "share", "sites", "spread", "conflict_group",
        "eligible_classes", "eligible_sites", "sheddable", "single_run",
    ),
    "objectives": (
        "degraded_people", "paid", "rto_ms", "rpo_ms", "shed_rehearsed", "owner", "tier", "people", "purges",
    ),
    "order": ("tier", "people"),
    "needs": ("needs",),
    "traffic": ("traffic",),
    "pace": ("start_ms", "warm_ms", "verify_ms", "shed_ms"),
}  # fmt: skip


def changed_facets(old: Estate, new: Estate) -> frozenset[str]:
    """Facets in which two estates differ. Where a service changed its tier or people, so did `order`."""
    found = {
        name
        for name, parts in _FIELDS.items()
        if any(getattr(old, part) != getattr(new, part) for part in parts)
    }
    if [(s.id, s.role, s.power_budget_watts) for s in old.sites] != [
        (s.id, s.role, s.power_budget_watts) for s in new.sites
    ]:
        found.add("structure")
    elif old.sites != new.sites:
        found.add("ingress")
    if not (_same_columns(old.fleet, new.fleet) and _same_columns(old.replicas, new.replicas)):
        found.add("structure")
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


def _same_columns(one: Any, other: Any) -> bool:
    """Whether two tables hold the same values; the same arrays need no look."""
    return one is other or all(
        getattr(one, c.name) is getattr(other, c.name)
        or np.array_equal(getattr(one, c.name), getattr(other, c.name))
        for c in fields(one)
    )


def changed_services(old: Estate, new: Estate) -> list[int]:
    """Services whose facts that recovery follows from differ; both estates have the same services."""
    facts = [fact for name in ("needs", "traffic", "pace") for fact in _SERVICE_FACTS[name]]
    return [
        number
        for number, (one, other) in enumerate(zip(old.services, new.services, strict=True))
        if one is not other and any(getattr(one, fact) != getattr(other, fact) for fact in facts)
    ]


def changed_families(old: Estate, new: Estate) -> set[str]:
    """Families of stores that are new, gone or different."""
    before, after = {d.id: d for d in old.stores}, {d.id: d for d in new.stores}
    changed = {i for i in before.keys() | after.keys() if before.get(i) != after.get(i)}
    return {d.family for stores in (before, after) for i, d in stores.items() if i in changed}
