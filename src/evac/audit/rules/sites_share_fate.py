"""EV118: sites that fail together, and so cannot take over from each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity
from evac.model.estate import SharedFate


def check(context: Context) -> Iterator[Finding]:
    """Error if the group takes down services that no single site does; else a warning."""
    losses = context.impacts.losses
    site_losses = losses.of_kind("site")
    alone = context.grave[site_losses].any(axis=0)
    for group in context.estate.groups:
        number = losses.index.get(group.id)
        if number is None or losses.site[number] >= 0 or not _sites(context, group):
            continue
        more = np.flatnonzero(context.grave[number] & ~alone)
        severity: Severity = "error" if len(more) else "warning"
        names = [context.estate.services[s].id for s in more.tolist()]
        taken = (
            f": {counted(len(names), 'service')} that no single site takes down ({listed(names)})"
            if names
            else ""
        )
        yield RULE.finding(
            context,
            severity,
            group.id,
            f"{listed(_sites(context, group), 5)} share a fate ({group.kind}, {group.id}){taken}",
            "Separate what they share, or stop counting on them to take over for each other.",
            losses=(number,),
            paths=(f"groups/{group.id}",),
        )


def _sites(context: Context, group: SharedFate) -> list[str]:
    losses = context.impacts.losses
    rows = losses.rows_of(losses.index[group.id])
    touched = np.unique(losses.rows.site[rows]).tolist()
    return [context.estate.sites[site].id for site in touched]


RULE = Rule(
    "sites-share-fate",
    "EV118",
    "Sites share a fate",
    check,
    per_loss=False,
)
