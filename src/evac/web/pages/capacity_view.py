"""Capacity of sites, as Now and What if show it: what is free, and where that is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from evac.office.facts import EstateFacts, SiteFacts
from evac.office.headroom import Amount
from evac.views.words import listed, number, plural


def unclear_words(site: SiteFacts) -> str:
    """What of a site is left out of its capacity, as no one knows how much of it is free; empty: nothing."""
    pools = list(site.unclear_pools)
    parts = [f"{site.unclear_servers} of {plural(site.servers, 'server')}"] if site.unclear_servers else []
    if pools:
        parts.append(f"{'pool' if len(pools) == 1 else 'pools'} {listed(pools)}")
    return " and ".join(parts)


_RESOURCE_WORDS: Final = {
    "cpu_millicores": ("cpu", "cores", 1_000),
    "memory_mib": ("memory", "GiB", 1_024),
    "disk_gib": ("disk", "GiB", 1),
    "accelerators": ("accelerators", "", 1),
}
TEBIBYTES: Final = 10
"""From this size on, disk space is shown in TiB."""


def share(amount: Amount, unclear: int | None = 0) -> dict[str, Any] | None:
    """Free of total; None if the site does not have the resource. unclear: further capacity, all of which may
    be in use; None if its size is not known, so no share can be given.
    """
    if unclear is None or amount.total + unclear <= 0:
        return None
    amount = replace(amount, total=amount.total + unclear)
    name, unit, size = _RESOURCE_WORDS[amount.resource]
    if name == "disk" and amount.total >= TEBIBYTES * 1_024:
        unit, size = "TiB", 1_024
    percent = 100 * amount.free // amount.total
    whole, free = number(amount.total // size), number(amount.free // size)
    return {
        "name": name,
        "percent": percent,
        "free": f"{free} {unit}".strip(),
        "total": f"{whole} {unit}".strip(),
        "is_least": unclear > 0,
        "state": "error" if percent < 10 else "warning" if percent < 25 else "",
    }


def rooms(facts: EstateFacts) -> Iterator[dict[str, Any]]:
    for room in facts.rooms:
        shares = [part for part in map(share, room.amounts) if part]
        if not shares and not room.servers:
            continue  # of a site that is lost nothing is left to count
        yield {
            "site": room.site,
            "name": room.name or "no class",
            "kind": room.kind,
            "servers": number(room.servers),
            "shares": shares,
        }
