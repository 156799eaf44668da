"""What the Wikimedia sources mean: sites, services, hosts, pools, replicas and calls of an estate.

Reads plain values of `wikimedia_source`, knows no file. What the sources do not say - capacity,
tiers, objectives, how many pods a service has, which site is the primary - stays unknown.

The example lines of a first overlay over the Wikimedia sources: what people know and puppet does not.

Stores of the Wikimedia estate: instances of store families, and the database sections.

An instance is named FAMILY-SITE; instances of one family are alternatives, and a service needs one
of each family it names. An instance whose name ends in no site stands nowhere we know of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeAlias

from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError, parse_share, show_share
from evac.estate.importers.imported import UNKNOWN, Imported, Options, Rows, Unknown, Value
from evac.estate.importers.source_files import is_id
from evac.estate.importers.wikimedia.source import CatalogueEntry, WikimediaSource, read_wikimedia

DATABASE_ENGINE: Final = "mariadb"

Needs: TypeAlias = dict[str, dict[tuple[str, str], dict[str, Value]]]
"""Service -> (kind, target) -> the need as an estate file states it."""


def add_stores(
    found: WikimediaSource,
    sites: tuple[str, ...],
    needs: Needs,
    imported: Imported,
    problems: Problems,
) -> dict[str, list[str]]:
    """Add store instances and who needs their families; return service -> sites it is deployed in."""
    deployed: dict[str, list[str]] = {}
    for edge in found.store_edges:
        service, kind, instance = (edge.cells[c] for c in ("source_service", "store_kind", "store_instance"))
        place = edge.places["store_instance"]
        if not (
            is_id(service, edge.places["source_service"], problems)
            and is_id(f"{kind}-{instance}", place, problems)
        ):
            continue
        site = edge.cells["deployed_in"]
        if site in sites:
            deployed.setdefault(service, []).append(site)
        else:
            message = f"{shown(service)} is deployed in {shown(site)}, which is not a site"
            problems.add("import-dangling", message, edge.places["deployed_in"], "correct the site")
            deployed.setdefault(service, [])
        family, where = _parted(instance, sites)
        needs[service][("store", f"{kind}-{family}")] = {"store": f"{kind}-{family}"}
        _add_instance(f"{kind}-{instance}", f"{kind}-{family}", kind, where, imported)
    return deployed


def _parted(instance: str, sites: tuple[str, ...]) -> tuple[str, str | None]:
    """(family, site) of an instance; the longest matching site name."""
    for site in sorted(sites, key=len, reverse=True):
        if instance.endswith(f"-{site}"):
            return instance.removesuffix(f"-{site}"), site
    return instance, None


def _add_instance(name: str, family: str, kind: str, site: str | None, imported: Imported) -> None:
    engine = kind.partition("-")[0]
    values: dict[str, Value] = {"family": family, "engine": engine}
    if site is None:
        imported.add("stores", name, values, "the source gives no site for it")
        return
    imported.add("stores", name, {**values, "members": [{"at": site, "mode": "primary"}]})


def add_database_sections(found: WikimediaSource, imported: Imported) -> None:
    """One store for each database section, with a copy in each site that lists it.

    One copy takes the writes and the others follow it; how far behind they are is not known. Which
    one it is, is known only where the source states the primary site; else every copy is entered
    as one that follows, so that no primary is made up.
    """
    copies: dict[str, list[str]] = {}
    for site, names in found.sections.items():
        for name in names:
            copies.setdefault(name, []).append(site)
    for name, sites in copies.items():
        members: list[Value] = [
            {"at": site, "mode": "primary" if site == found.primary_site else "async"}
            for site in sorted(sites)
        ]
        known = found.primary_site in sites
        comment = (
            ""
            if known
            else "database section; one of its copies is the primary, but the source does not say which"
        )
        imported.add("stores", name, {"engine": DATABASE_ENGINE, "members": members}, comment)
    if copies and found.primary_site is None:
        what = "database sections whose primary site is not in the source"
        imported.unknown.append(Unknown(what, len(copies), tuple(sorted(copies))))


def example_lines(found: WikimediaSource, imported: Imported) -> list[str]:
    """Lines without the comment sign; every one is valid once that sign is taken away."""
    core = sorted(found.sections)
    pools = sorted(imported.sections.get("pools", {}))
    first = next(iter(sorted(imported.sections.get("services", {}))), "SERVICE")
    lines = [
        "as_of: 2026-11-25  # the date these facts describe; facts past their shelf life count as unknown",
        "",
        "services:",
        f"  {first}: {{tier: 2, people: 1 M, rto: 1 h, demand: {{cpu: 2 cores, memory: 4 GiB}}}}",
        "pools:",
        *(f"  {pool}: {{cpu: 1000 cores, memory: 4 TiB}}" for pool in pools),
        "classes:",
        *(
            f"  {name}: {{cpu: 32 cores, memory: 128 GiB}}"
            for name in sorted(imported.sections.get("classes", {}))
        ),
    ]
    if len(core) > 1:
        primary = found.primary_site or core[0]
        lines += [f"links:                       # the network between {' and '.join(core)}"]
        lines += [f"  - {{ends: [{core[0]}, {core[1]}], bandwidth: 100 Gbit/s}}"]
        lines += [
            "stores:                      # which copy of each database section is the primary, and the lag"
        ]
        others = [site for site in core if site != primary]
        members = ", ".join(
            [f"{{at: {primary}, mode: primary}}", *(f"{{at: {s}, mode: async, lag: 5 s}}" for s in others)]
        )
        lines += [
            f"  {name}: {{members: [{members}]}}"
            for name in sorted({name for names in found.sections.values() for name in names})
        ]
    return [
        *lines,
        "tools: {}  # which services recovery itself needs, such as {registry: docker-registry}",
    ]


POOL_SERVICE: Final = "kubesvc"
"""The conftool service of a Kubernetes worker: its host runs whatever the cluster schedules there."""

_GEODNS_ENDING: Final = "-addrs"
Hosts = Mapping[tuple[str, str], dict[str, list[str]]]


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a Wikimedia folder; adds problems."""
    found = read_wikimedia(source, problems)
    imported = Imported()
    if problems.has_errors:
        return imported
    # (cluster, conftool service) -> site -> hosts.
    hosts: dict[tuple[str, str], dict[str, list[str]]] = {}
    for b in found.bindings:
        hosts.setdefault((b.cluster, b.service), {}).setdefault(b.site, []).append(b.host)
    sites = _add_sites(found, imported, problems)
    _add_servers(found, imported, problems)
    needs: Needs = defaultdict(dict)
    deployed = add_stores(found, sites, needs, imported, problems)
    add_database_sections(found, imported)
    _add_calls(found, sites, deployed, needs, imported, problems)
    _add_services(found, hosts, deployed, needs, imported, problems)
    _report_open(found, hosts, imported)
    imported.examples = example_lines(found, imported)
    return imported


def _add_sites(found: WikimediaSource, imported: Imported, problems: Problems) -> tuple[str, ...]:
    """A site that holds database sections is a full one; the others only cache and answer traffic."""
    named = {site: entry.place for entry in found.catalogue.values() for site in entry.sites}
    for site in sorted({*named, *found.node_sites, *found.sections}):
        full = site in found.sections
        is_id(site, named.get(site) or next(iter(found.catalogue.values())).place, problems, "error")
        imported.add("sites", site, {} if full else {"role": "edge"})
    if not found.sections:
        place = next(iter(found.catalogue.values())).place
        message = "no dbconfig-section, so the sites of databases are unknown"
        problems.add("import-shape", message, place, "add conftool-data/dbconfig-section")
    return tuple(sorted(imported.sections.get("sites", {})))


def _add_servers(found: WikimediaSource, imported: Imported, problems: Problems) -> None:
    """Hosts with their site. The class is the conftool cluster, because nothing else describes the
    hardware.
    """
    pooled = {b.host: f"{b.site}-{b.cluster}" for b in found.bindings if b.service == POOL_SERVICE}
    for b in found.bindings:
        if b.service == POOL_SERVICE:
            imported.add("pools", f"{b.site}-{b.cluster}", {"site": b.site})
    rows: Rows = []
    for host, (site, cluster, place) in found.hosts.items():
        if is_id(host, place, problems) and is_id(cluster, place, problems):
            imported.add("classes", cluster)
            rows.append((host, site, "", cluster, "", pooled.get(host, ""), "", "", "", "", ""))
    imported.tables["servers"] = rows


def _add_calls(
    found: WikimediaSource,
    sites: tuple[str, ...],
    deployed: dict[str, list[str]],
    needs: Needs,
    imported: Imported,
    problems: Problems,
) -> None:
    """Calls through the service mesh: hard, and needed to serve.

    A listener may name a site: the caller then reaches the copy there, wherever the caller runs.
    With listeners for several sites it needs the service as a whole. With one, the call is soft:
    no source says that the caller is down without that very copy.
    """
    bound: dict[tuple[str, str], set[str]] = defaultdict(set)
    unresolved = []
    for edge in found.calls:
        source, target, listener = (edge.cells[c] for c in ("source_service", "target_service", "listener"))
        if not is_id(source, edge.places["source_service"], problems):
            continue
        deployed.setdefault(source, [])
        if target not in found.catalogue:
            unresolved.append(f"{source} -> {target or listener}")
            message = f"{shown(source)} calls {shown(target or listener)}, which is not in the catalogue"
            problems.add(
                "import-dangling", message, edge.places["listener"], "describe it in the overlay if it exists"
            )
        elif source != target:
            site = next((site for site in sites if listener.endswith(f"-{site}")), "")
            bound[source, target].add(site)
    soft = {pair for pair, named in bound.items() if len(named) == 1 and "" not in named}
    for source, target in bound:
        flag: dict[str, Value] = {"hard": False} if (source, target) in soft else {}
        needs[source]["service", target] = {"service": target, **flag}
    imported.unknown.append(_group("calls to targets that are not in the catalogue; left out", unresolved))
    what = "calls to the copy at one site, counted as soft, because it is unknown whether they are hard"
    imported.unknown.append(_group(what, {f"{source} -> {target}" for source, target in soft}))


def _group(what: str, names: Collection[str]) -> Unknown:
    return Unknown(what, len(names), tuple(sorted(names)))


def _add_services(
    found: WikimediaSource,
    hosts: Hosts,
    deployed: dict[str, list[str]],
    needs: Needs,
    imported: Imported,
    problems: Problems,
) -> None:
    # Services whose addresses geographic DNS hands out: by name, and all that share their addresses.
    named = [found.catalogue.get(record.removesuffix(_GEODNS_ENDING)) for record in found.geodns]
    addresses = frozenset(address for entry in named if entry is not None for address in entry.addresses)
    led = frozenset(name for name, entry in found.catalogue.items() if entry.addresses & addresses)
    for name, entry in found.catalogue.items():
        if not is_id(name, entry.place, problems):
            continue
        values: dict[str, Value] = {"sites": [*sorted(set(entry.sites))]}
        values |= _placed(entry, hosts, imported, problems)
        if entry.discovery or name in led:
            values["traffic"] = {"kind": "dns"}
        if needs[name]:
            values["needs"] = [needs[name][key] for key in sorted(needs[name])]
        imported.add("services", name, values, _comment(entry))
    for name, sites in deployed.items():
        if name not in found.catalogue:
            more: dict[str, Value] = {"sites": [*sorted(set(sites))]} if sites else {}
            if needs[name]:
                more["needs"] = [needs[name][key] for key in sorted(needs[name])]
            imported.add("services", name, more, "not in the catalogue; known only from its edges")


def _placed(entry: CatalogueEntry, hosts: Hosts, imported: Imported, problems: Problems) -> dict[str, Value]:
    """Replicas: one on each host of its conftool cluster, or pods in the pools of the cluster."""
    if entry.cluster is None or entry.conftool_service is None:
        return {}
    by_site = hosts.get((entry.cluster, entry.conftool_service), {})
    if entry.conftool_service == POOL_SERVICE:
        pools = {f"{site}-{entry.cluster}": UNKNOWN for site in sorted(by_site) if site in entry.sites}
        return {"replicas": dict(pools)} if pools else {}
    rows = imported.tables.setdefault("replicas", [])
    for site, names in by_site.items():
        if site not in entry.sites:
            message = f"{shown(entry.name)} has hosts at {site}, but the catalogue does not list it there"
            problems.add("import-ignored", message, entry.place, "their replicas are counted anyway")
        rows.extend((entry.name, host, "1") for host in sorted(set(names)))
    return _share(entry, {site: len(set(names)) for site, names in by_site.items()}, problems)


def _share(entry: CatalogueEntry, counts: dict[str, int], problems: Problems) -> dict[str, Value]:
    """The smallest share that the load balancer keeps pooled, taken over all sites.

    `depool_threshold` holds within a site; a service that serves from one site serves, so the
    least is the threshold of its smallest site.
    """
    if entry.threshold is None or not counts:
        return {}
    try:
        percent = f"{Fraction(entry.threshold) * 100}"
        threshold = parse_share(f"{percent} %" if "/" not in percent else _as_fraction(entry.threshold))
    except (QuantityError, ValueError, ZeroDivisionError):
        problems.add(
            "import-word-unknown",
            f"depool_threshold {shown(entry.threshold)} is not a share of hosts",
            entry.threshold_place,
            "its share stays unknown",
        )
        return {}
    least = -(-threshold.numerator * min(counts.values()) // threshold.denominator)
    share = Fraction(max(1, least), sum(counts.values()))
    source = f"depool_threshold {entry.threshold} of the {min(counts.values())} hosts of the smallest site"
    return {"share": {"value": show_share(share), "source": source}}


def _as_fraction(text: str) -> str:
    value = Fraction(text)
    return f"{value.numerator}/{value.denominator}"


def _comment(entry: CatalogueEntry) -> str:
    modes = {True: "active in every site", False: "active in one site at a time", None: "mode not stated"}
    records = [f"{record} ({modes[flag]})" for record, flag in entry.discovery]
    parts = [entry.description.strip().rstrip(".")]
    if entry.state not in (None, "production"):
        parts.append(f"state {entry.state}")
    if records:
        parts.append(f"DNS {', '.join(records)}")
    return "; ".join(part for part in parts if part)


def _report_open(found: WikimediaSource, hosts: Hosts, imported: Imported) -> None:
    """Reports what no catalogue service accounts for."""
    mapped = {(e.cluster, e.conftool_service) for e in found.catalogue.values()}
    loose = [f"{b.cluster}/{b.service}" for b in found.bindings if (b.cluster, b.service) not in mapped]
    imported.unknown.append(
        Unknown("host bindings that no catalogue service accounts for", len(loose), tuple(sorted(set(loose))))
    )
    owned = {record for entry in found.catalogue.values() for record, _ in entry.discovery}
    imported.unknown.append(
        _group("DNS records that no catalogue service owns", found.records.keys() - owned)
    )
    empty = [
        e.name
        for e in found.catalogue.values()
        if e.cluster and (e.cluster, e.conftool_service or "") not in hosts
    ]
    imported.unknown.append(_group("load-balanced services without a host", empty))
    imported.unknown = [group for group in imported.unknown if group.count]
