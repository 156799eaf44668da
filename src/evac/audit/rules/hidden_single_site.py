"""EV102: a service at several sites that depends, at any depth, on something at one site only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, by_service, chain_to, listed, root_paths
from evac.audit.findings import Finding
from evac.audit.impacts.dependencies import pairs_of, spread_table
from evac.derive.domains import site_of
from evac.model.diagnostic import Severity
from evac.model.fleet import BoolColumn


def check(context: Context) -> Iterator[Finding]:
    """Error if the loss of that site loses the service or brings it back too late; else a warning."""
    impacts, estate = context.impacts, context.estate
    stores = _stores_of_one_site(context)
    roots = _roots(context, stores)
    needs = spread_table(impacts.order, roots)
    several = context.runs_at.sum(axis=0) > 1
    losses = [impacts.losses.index.get(site.id, -1) for site in estate.sites]
    audited = np.array([n >= 0 for n in losses], np.bool_)
    for service, sites in by_service(pairs_of(needs & several[None, :] & audited[:, None])):
        numbers = context.worst_first(losses[s] for s in sites)
        grave = [n for n in numbers if context.grave[n, service]]
        site = losses.index((grave or numbers)[0])
        severity: Severity = "error" if grave else "warning"
        name = estate.services[service].id
        chain, root = _chain(context, service, site, roots, stores)
        yield RULE.finding(
            context,
            severity,
            name,
            f"{name} runs at several sites but needs {chain[-1]}"
            f" (lost with {listed(context.names(numbers))})",
            f"Give {root} an instance at a second site, or make the dependency soft.",
            losses=[*grave, *(n for n in numbers if n not in grave)],
            chain=chain,
            paths=(f"services/{name}/needs/0", f"services/{name}"),
            roots=root_paths(context, root),
        )


def _stores_of_one_site(context: Context) -> dict[str, int]:
    """Store family -> the only site with data of any of its instances."""
    top, estate = context.impacts.top, context.estate
    found: dict[str, int] = {}
    for family, rows in context.impacts.graph.family_stores.items():
        members = [m for row in rows for m in estate.stores[row].members if m.mode != "none"]
        sites = {site_of(top, m.at) for m in members}
        if len(sites) == 1:
            only = sites.pop()
            if only is not None:
                found[family] = top.site_index[only]
    return found


def _roots(context: Context, stores: dict[str, int]) -> BoolColumn:
    """(sites, S) services that run at that site only, or need a store that does."""
    found = np.zeros((len(context.estate.sites), len(context.estate.services)), np.bool_)
    for service, site in enumerate(context.only_site):
        if site >= 0:
            found[site, service] = True
        for family in context.impacts.graph.families[service]:
            if family in stores:
                found[stores[family], service] = True
    return found


def _chain(
    context: Context, service: int, site: int, roots: BoolColumn, stores: dict[str, int]
) -> tuple[tuple[str, ...], str]:
    """The path in words to what is at one site only, and its name."""
    path = chain_to(context, service, lambda node: bool(roots[site, node]))
    names = [context.estate.services[node].id for node in path]
    where = context.estate.sites[site].id
    for family in context.impacts.graph.families[path[-1]]:
        if stores.get(family) == site:
            return (*names, f"{family} (store at {where} only)"), family
    return (*names[:-1], f"{names[-1]} (at {where} only)"), names[-1]


RULE = Rule(
    "hidden-single-site",
    "EV102",
    "A multi-site service needs something that runs at one site only",
    check,
    per_loss=False,
)
