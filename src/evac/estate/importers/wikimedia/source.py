"""The Wikimedia estate as its puppet repository states it: files to plain values, nothing inferred.

Formats: `service.yaml` (hiera key `service::catalog`), conftool's `node`, `discovery`, `geodns`,
`dbconfig-section` and `mwconfig` data, and two tables of edges. Meaning is given in `wikimedia`.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Final

from evac.estate.format.document import LIST, SCALAR, YAML_BYTES_MAX, Node
from evac.estate.format.problems import Problems
from evac.estate.importers.source_files import Row, at, entries, read_cells, read_text, read_tree, word, words
from evac.model.diagnostic import Place
from evac.model.records import dataclass

CATALOGUE_FILES: Final = (
    "puppet/service.yaml",
    "service.yaml",
    "hieradata/common/service.yaml",
    "puppet/hieradata/common/service.yaml",
)
CONFTOOL_FOLDERS: Final = ("puppet/conftool-data", "conftool-data")
NODE_FILES_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One service of the catalogue. `discovery`: (record, whether active in all sites at once);
    `threshold`: text of `depool_threshold`; `addresses`: its service IPs."""

    name: str
    place: Place
    description: str
    state: str | None
    sites: tuple[str, ...]
    cluster: str | None
    conftool_service: str | None
    threshold: str | None
    threshold_place: Place
    discovery: tuple[tuple[str, bool | None], ...]
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Binding:
    """One service of one host, as the load balancer sees it."""

    site: str
    cluster: str
    host: str
    service: str


@dataclass(frozen=True, slots=True)
class Edge:
    """A row of an edge table: its cells by column name, and their places."""

    cells: dict[str, str]
    places: dict[str, Place]


@dataclass(slots=True)
class WikimediaSource:
    """Everything read. `sections`: site -> database sections; `records`: DNS record -> sites;
    `hosts`: host -> (site, first cluster, place)."""

    catalogue: dict[str, CatalogueEntry] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)
    hosts: dict[str, tuple[str, str, Place]] = field(default_factory=dict)
    node_sites: dict[str, None] = field(default_factory=dict)
    sections: dict[str, tuple[str, ...]] = field(default_factory=dict)
    records: dict[str, tuple[tuple[str, ...], Place]] = field(default_factory=dict)
    geodns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    primary_site: str | None = None
    calls: list[Edge] = field(default_factory=list)
    store_edges: list[Edge] = field(default_factory=list)


def read_wikimedia(source: Path, problems: Problems) -> WikimediaSource:
    """Reads the folder. The catalogue and conftool's node data are required, the rest is optional."""
    found = WikimediaSource()
    if not source.is_dir():
        problems.add(
            "import-source-missing",
            f"{source.name} is not a folder",
            Place(str(source)),
            "give the folder that contains puppet/service.yaml",
        )
        return found
    catalogue = next((source / name for name in CATALOGUE_FILES if (source / name).exists()), None)
    conftool = next((source / name for name in CONFTOOL_FOLDERS if (source / name).is_dir()), None)
    for path, what in ((catalogue, "service.yaml"), (conftool, "conftool-data")):
        if path is None:
            message = f"{source.name} has no {what}"
            hint = "give the folder that contains puppet/service.yaml and puppet/conftool-data"
            problems.add("import-source-missing", message, Place(str(source)), hint)
    if catalogue is not None:
        _read_catalogue(read_tree(catalogue, source, problems), found, problems)
    if conftool is not None:
        _read_conftool(conftool, source, found, problems)
    _read_edges(
        source / "edges.csv", source, ("source_service", "listener", "target_service"), found.calls, problems
    )
    wanted = ("source_service", "deployed_in", "store_kind", "store_instance")
    _read_edges(source / "stateful_edges.csv", source, wanted, found.store_edges, problems)
    return found


def _read_catalogue(root: Node | None, found: WikimediaSource, problems: Problems) -> None:
    if root is None:
        return
    services = entries(root, "service::catalog")
    if not services:
        problems.add(
            "import-shape",
            "no services under service::catalog",
            root.place,
            "check that this is the service catalogue",
        )
    for name, key, node in services:
        found.catalogue[name] = CatalogueEntry(
            name=name,
            place=key.place,
            description=word(node, "description") or "",
            state=word(node, "state"),
            sites=words(node, "sites"),
            cluster=word(node, "lvs", "conftool", "cluster"),
            conftool_service=word(node, "lvs", "conftool", "service"),
            threshold=word(node, "lvs", "depool_threshold"),
            threshold_place=(at(node, "lvs", "depool_threshold") or key).place,
            discovery=_discovery(at(node, "discovery")),
            addresses=frozenset(_scalars(at(node, "ip"))),
        )


def _discovery(node: Node | None) -> tuple[tuple[str, bool | None], ...]:
    if node is None or node.kind != LIST:
        return ()
    flags = {"true": True, "false": False}
    rows = [
        (word(item, "dnsdisc"), flags.get((word(item, "active_active") or "").lower())) for item in node.items
    ]
    return tuple((record, flag) for record, flag in rows if record is not None)


def _scalars(node: Node | None) -> list[str]:
    """Every text below a node; the tree is bounded when it is read."""
    if node is None:
        return []
    if node.kind == SCALAR:
        return [node.text]
    below = node.items or [value for _, value in node.fields.values()]
    return [text for item in below for text in _scalars(item)]


def _read_conftool(folder: Path, root: Path, found: WikimediaSource, problems: Problems) -> None:
    nodes = sorted((folder / "node").glob("*.yaml"))
    if not nodes:
        problems.add(
            "import-source-missing",
            "no hosts: node/*.yaml is missing",
            Place(folder.name),
            "check that it is complete",
        )
    if len(nodes) > NODE_FILES_MAX:
        problems.add(
            "import-shape", f"{len(nodes):,} node files; at most {NODE_FILES_MAX} are read", Place("node")
        )
    torn: set[str] = set()
    for path in nodes[:NODE_FILES_MAX]:
        _read_nodes(read_tree(path, root, problems), found, torn, problems)
    for host in torn:
        del found.hosts[host]
    found.bindings[:] = [binding for binding in found.bindings if binding.host not in torn]
    for path in sorted((folder / "dbconfig-section").glob("*.yaml")):
        for site, _, _node in entries(tree := read_tree(path, root, problems)):
            found.sections[site] = tuple(sorted({*found.sections.get(site, ()), *words(tree, site)}))
    for path in sorted((folder / "discovery").glob("*.yaml")):
        for record, key, _node in entries(tree := read_tree(path, root, problems)):
            found.records[record] = (words(tree, record), key.place)
    for path in sorted((folder / "geodns").glob("*.yaml")):
        for record, _, _node in entries(tree := read_tree(path, root, problems)):
            found.geodns[record] = words(tree, record)
    for path in sorted((folder / "mwconfig").glob("*.yaml")):
        found.primary_site = word(read_tree(path, root, problems), "common", "WMFMasterDatacenter")


def _read_nodes(root: Node | None, found: WikimediaSource, torn: set[str], problems: Problems) -> None:
    """{site: {cluster: {host: [services]}}}; a host may be in several clusters of one site. torn: hosts at
    several sites, in any of the files; they are left out once all are read.
    """
    for site, site_key, clusters in entries(root):
        found.node_sites[site] = None
        for cluster, _, hosts in entries(clusters):
            for host, key, _node in entries(hosts):
                known = found.hosts.setdefault(host, (site, cluster, key.place))
                if known[0] != site:
                    message = f"host {host} is at {site}, but also at {known[0]} ({known[2]}); it is left out"
                    problems.add("import-host-twice", message, key.place, "correct one of the two")
                    torn.add(host)
                found.bindings.extend(Binding(site, cluster, host, name) for name in words(hosts, host))
        if not entries(clusters):
            problems.add("import-ignored", f"no hosts at {site}", site_key.place)


def _read_edges(
    path: Path, root: Path, columns: tuple[str, ...], into: list[Edge], problems: Problems
) -> None:
    if not path.exists():
        return
    text = read_text(path, root, YAML_BYTES_MAX, problems)
    table = None if text is None else read_cells(text, path.name, problems, all_rows=True)
    if table is None:
        return
    missing = [column for column in columns if column not in table.header.cells]
    if missing:
        message = f"the column {missing[0]} is missing in {path.name}"
        problems.add("import-shape", message, table.header.place(), f"columns: {', '.join(columns)}")
        return
    positions = {column: table.header.cells.index(column) for column in columns}
    into.extend(_edge(row, positions, table.delimiter) for row in table.rows)


def _edge(row: Row, positions: dict[str, int], delimiter: str) -> Edge:
    cells = {column: row.cells[position] for column, position in positions.items()}
    return Edge(cells, {column: row.place(position, delimiter) for column, position in positions.items()})
