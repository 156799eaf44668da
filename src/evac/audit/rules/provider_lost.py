"""EV147: what fails with the provider of external services."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, counted, listed, why_down
from evac.audit.findings import Finding
from evac.audit.impacts.all_losses import DEGRADED
from evac.derive.objectives import audience
from evac.model.estate import PROVIDER_PREFIX
from evac.model.fleet import BoolColumn


def check(context: Context) -> Iterator[Finding]:
    """Warning for each provider without which services of ours are down; note if some are only degraded."""
    impacts, services = context.impacts, context.estate.services
    own = np.array([not service.external for service in services], np.bool_)
    for number in impacts.losses.of_kind("provider").tolist():
        provided = [services[row].id for row in np.flatnonzero(impacts.losses.external[number]).tolist()]
        caused = impacts.caused[number]
        falls = np.flatnonzero(caused & own).tolist()
        worse = np.flatnonzero(
            (impacts.fate[number] == DEGRADED) & own & ~_as_before(context, number)
        ).tolist()
        tools = _tools(context, number)
        if not (falls or worse or tools):
            continue
        domain = impacts.losses.ids[number]
        name = domain.removeprefix(PROVIDER_PREFIX)
        stated = next((one for one in context.estate.providers if one.id == name), None)
        where = [] if stated is None else list(filter(None, (stated.contact, stated.status_page)))
        asked = f" ({', '.join(where)})" if where else ""
        parts = [
            f"{counted(len(rows), 'service')} {word} ({listed(_by_weight(context, rows))})"
            for rows, word in ((falls, "down"), (worse, "degraded"))
            if rows
        ]
        if tools:
            parts.append(f"recovery tools lost: {listed(tools)}")
        yield RULE.finding(
            context,
            "warning" if falls or tools else "note",
            domain,
            f"the loss of {domain} ({listed(provided)}): {'; '.join(parts)}."
            f" Only the provider{asked} can restore it; the time is unknown",
            "Add an alternative, make the dependency soft, or agree on how to work without it.",
            losses=(number,),
            chain=why_down(context, falls[0], number).words if falls else (),
            paths=(f"providers/{name}", f"services/{provided[0]}"),
        )


def _as_before(context: Context, number: int) -> BoolColumn:
    """(S,) services with replicas that are off; this loss takes none of the others, and nothing they need."""
    impacts, graph = context.impacts, context.impacts.graph
    caused, off = impacts.caused[number], impacts.presence.off
    same = (off > 0) & (impacts.lost[number] == off) & ~impacts.moved[number] & ~caused
    for row in np.flatnonzero(same).tolist():
        groups = (member for group in graph.alternatives[row] for member in group.members)
        same[row] = not caused[[*graph.soft[row], *groups]].any()
    return np.asarray(same, np.bool_)


def _by_weight(context: Context, rows: list[int]) -> list[str]:
    """Names, highest tier and most users first."""
    services, felt = context.estate.services, audience(context.estate)
    last = len(context.estate.tier_weights)

    def weight(row: int) -> tuple[int, int, str]:
        tier = services[row].tier
        return (last if tier is None else tier, -int(felt[row]), services[row].id)

    return [services[row].id for row in sorted(rows, key=weight)]


def _tools(context: Context, number: int) -> list[str]:
    """Roles of recovery tools that are down, not all of them before the loss, each with the service that
    fills it, or all candidates.
    """
    impacts, index = context.impacts, context.impacts.graph.index
    down, caused = impacts.down[number], impacts.caused[number]
    return [
        f"{role} ({' or '.join(group)})"
        for role in sorted(context.estate.tools)
        for group in context.estate.tool_groups((role,))
        if all(down[index[name]] for name in group) and any(caused[index[name]] for name in group)
    ]


RULE = Rule("provider-lost", "EV147", "An external provider takes services down with it", check)
