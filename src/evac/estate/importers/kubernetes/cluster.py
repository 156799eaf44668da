"""Reads a cluster from its dump: nodes are servers in their sites' pools, pods show where replicas are, and
volumes where data is.

A zone is a site unless the caller names one site for the whole cluster. Nodes that keep ordinary pods away
(taints) form pools of their own. What a dump leaves open stays unknown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Final

from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import Imported, Options, Rows, Value
from evac.estate.importers.kubernetes.amounts import offered
from evac.estate.importers.kubernetes.objects import inside, text_in
from evac.estate.importers.kubernetes.source import Manifests
from evac.model.diagnostic import Place
from evac.model.records import dataclass

_ZONES: Final = (
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/region",
)
_ZONES_OF_VOLUMES: Final = (
    *_ZONES[:2],
    "topology.ebs.csi.aws.com/zone",
    "topology.gke.io/zone",
    "topology.disk.csi.azure.com/zone",
    "topology.cinder.csi.openstack.org/zone",
)
_RACKS: Final = ("topology.kubernetes.io/rack", "topology.rook.io/rack", "rack")
_CLASSES: Final = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_HOST: Final = "kubernetes.io/hostname"
_NO_AMOUNTS: Final = ("", "", "", "")
_OF_THE_SYSTEM: Final = "node.kubernetes.io/"
_PRIMARY: Final = frozenset({"primary", "master", "leader"})


@dataclass(slots=True)
class Cluster:
    """Places of things in a cluster."""

    sites: dict[str, str] = field(default_factory=dict)
    """Node -> its site; empty if unknown."""
    placed: dict[str, Counter[str]] = field(default_factory=dict)
    """Workload -> node -> pods there."""
    dark: set[str] = field(default_factory=set)
    """Nodes that are not ready. The API server may still report their pods as running."""
    fallen: dict[str, Counter[str]] = field(default_factory=dict)
    """Workload -> node -> pods there that are no replicas: the node is not ready, or they are being
    deleted.
    """
    only_pool: str | None = None
    """The pool of everything, if there is only one."""
    only_site: str | None = None
    """The site of everything, if nothing is known about its nodes."""
    claims: list[tuple[str, str]] = field(default_factory=list)
    """Namespace and name of every volume claim, including those only named by pods; sorted."""
    located: dict[tuple[str, str], str] = field(default_factory=dict)
    """Volume claim -> the node or site its volume is at."""
    _members: dict[tuple[str, str, str], list[Value]] = field(default_factory=dict)

    def members_of(self, key: tuple[str, str, str]) -> list[Value]:
        """Copies of an operator's database, from its pods."""
        return self._members.get(key, [])

    def claims_of(self, namespace: str, head: str) -> list[str]:
        """Volume claims of a namespace named `head` and a number."""
        found = []
        for known, name in self.claims[bisect_left(self.claims, (namespace, head)) :]:
            if known != namespace or not name.startswith(head):
                break
            if name.removeprefix(head).isdecimal():
                found.append(name)
        return found

    def copies(self, namespace: str, claims: Iterable[str], count: int) -> list[Value]:
        """Members of a store on volume claims. Volumes do not show which one is the primary."""
        places = [self.located.get((namespace, claim), "") for claim in claims]
        if not places or not all(places):
            return []
        if count == 1:
            return [{"at": places[0], "mode": "primary"}]
        return [_replica(place) for place in sorted(set(places))]


def _replica(place: str) -> dict[str, Value]:
    return {"at": place, "mode": "async", "lag": None}


def read_cluster(manifests: Manifests, imported: Imported, options: Options, problems: Problems) -> Cluster:
    """Adds sites, classes, pools, racks, servers and replicas, as far as the source has them."""
    cluster = Cluster()
    is_use_known = _shows_use(manifests)
    _add_nodes(manifests, cluster, imported, options, problems, is_use_known=is_use_known)
    if cluster.sites and not is_use_known:
        message = (
            "the source does not show all pods on the nodes: how much of their capacity is free is unknown"
        )
        hint = (
            "import the pods of all namespaces (kubectl get pods -A), also those of kube-system, with an "
            "account that may list them, or state cpu and memory of the pools "
            "in the overlay, without what others use"
        )
        problems.add("import-use-unknown", message, manifests.of("Node")[0].place, hint)
    _add_pods(manifests, cluster, imported)
    claims = {(item.namespace, item.name) for item in manifests.of("PersistentVolumeClaim")}
    claims |= {(pod.owner[1], claim) for pod in manifests.pods for claim in pod.claims}
    cluster.claims = sorted(claims)
    _locate_volumes(manifests, cluster)
    return cluster


def _shows_use(manifests: Manifests) -> bool:
    """Whether the source shows everything that runs on the nodes, as far as can be seen: it has pods of the
    system, and some on every node that is ready. Each cluster runs its own parts as pods, such as its DNS.
    """
    in_use = {pod.node for pod in manifests.pods}
    has_system = any(_is_of_system(pod.owner[1]) for pod in manifests.pods)
    ready = {node.name for node in manifests.of("Node") if _is_ready(node.raw)}
    return manifests.shows_all_pods and has_system and ready <= in_use


def _is_of_system(namespace: str) -> bool:
    return namespace == "kube-system" or namespace.startswith("openshift-")


def _add_nodes(
    manifests: Manifests,
    cluster: Cluster,
    imported: Imported,
    options: Options,
    problems: Problems,
    *,
    is_use_known: bool,
) -> None:
    rows: Rows = []
    racks: dict[str, str] = {}
    totals: dict[str, list[int | None]] = {}
    nowhere: list[Place] = []
    for node in manifests.of("Node"):
        labels = inside(node.raw, "metadata", "labels")
        site = _id(options.site or _label(labels, _ZONES))
        if not site:
            nowhere.append(node.place)
            continue
        imported.add("sites", site)
        cluster.sites[node.name] = site
        rack = _id(_label(labels, _RACKS))
        path = f"{site}/{rack}" if rack and "/" not in rack else ""
        if path:
            racks[path] = "unknown"
        kind = _id(_label(labels, _CLASSES))
        if kind:
            imported.add("classes", kind)
        state = "serving" if _is_ready(node.raw) else "dark"
        if state == "dark":
            cluster.dark.add(node.name)
        pool = _pool(site, node.raw)
        amounts = offered(node) if is_use_known else _NO_AMOUNTS
        rows.append((node.name, site, path, kind, state, pool, *amounts, ""))
        totals.setdefault(pool, [0, 0])
        is_cordoned = str(inside(node.raw, "spec", "unschedulable")).lower() == "true"
        if state == "serving" and not is_cordoned:
            _add_up(totals[pool], amounts)
        else:
            why = "not ready" if state == "dark" else "cordoned"
            message = f"node {shown(node.name)} is {why}: its pool does not count its capacity"
            problems.add("import-node-unavailable", message, node.place, "import again when it takes pods")
    for pool in sorted({row[5] for row in rows}):
        cpu, memory = totals[pool]
        site = next(row[1] for row in rows if row[5] == pool)
        values: dict[str, Value] = {"site": site}
        values |= {} if cpu is None else {"cpu": f"{cpu} mCPU"}
        values |= {} if memory is None else {"memory": f"{memory} MiB"}
        imported.add("pools", pool, values)
    if rows:
        imported.tables["servers"] = rows
        imported.tables["racks"] = sorted(racks.items())
    pools = imported.sections.get("pools", {})
    cluster.only_pool = next(iter(pools)) if len(pools) == 1 else None
    if options.site is not None and not manifests.of("Node"):
        imported.add("sites", options.site)
        cluster.only_site = options.site
    if nowhere:
        message = f"nodes without a zone, left out: {len(nowhere):,}"
        hint = "set the site of the cluster: evac import kubernetes ... --site NAME"
        problems.add("import-host-nowhere", message, nowhere[0], hint)


def _add_up(totals: list[int | None], amounts: tuple[str, ...]) -> None:
    for row in range(len(totals)):
        known = totals[row]
        totals[row] = known + int(amounts[row]) if known is not None and amounts[row] else None


def _label(labels: Any, names: tuple[str, ...]) -> str:
    return next((found for name in names if (found := text_in(labels, name))), "")


def _id(name: str | None) -> str:
    """A name as an id; empty if invalid."""
    return name if name and len(name) <= ID_MAX and ID.fullmatch(name) and "," not in name else ""


def _is_ready(raw: Any) -> bool:
    conditions = inside(raw, "status", "conditions")
    for one in conditions if isinstance(conditions, list) else ():
        if text_in(one, "type") == "Ready":
            return text_in(one, "status") == "True"
    return True


def _pool(site: str, raw: Any) -> str:
    """The pool of a node: its site's, or its taint's if ordinary pods cannot run on it."""
    taints = inside(raw, "spec", "taints")
    for taint in taints if isinstance(taints, list) else ():
        key = text_in(taint, "key")
        if text_in(taint, "effect") in ("NoSchedule", "NoExecute") and not key.startswith(_OF_THE_SYSTEM):
            name = _id(key.rpartition("/")[2])
            if name:
                return f"{site}-{name}"
    return f"{site}-k8s"


def _add_pods(manifests: Manifests, cluster: Cluster, imported: Imported) -> None:
    ids = {workload.object.key: workload.id for workload in manifests.workloads}
    databases = {item.key for item in manifests.databases}
    members: dict[tuple[str, str, str], set[tuple[str, str]]] = defaultdict(set)
    for pod in manifests.pods:
        if pod.node not in cluster.sites:
            continue
        workload = ids.get(pod.owner)
        is_gone = pod.ends or pod.node in cluster.dark
        if workload is not None and pod.owner[0] not in ("CronJob", "Job"):
            places = cluster.fallen if is_gone else cluster.placed
            places.setdefault(workload, Counter())[pod.node] += 1
        elif pod.owner in databases and not is_gone:
            members[pod.owner].add((pod.node, pod.role.lower()))
    for key, found in members.items():
        # While one takes over from another, both may be labelled: then neither is known to be the primary.
        primaries = sum(role in _PRIMARY for _, role in found)
        cluster._members[key] = [
            {"at": node, "mode": "primary"} if role in _PRIMARY and primaries == 1 else _replica(node)
            for node, role in sorted(found)
        ]
    if cluster.placed:
        imported.tables["replicas"] = [
            (workload, node, str(count))
            for workload, nodes in cluster.placed.items()
            for node, count in nodes.items()
        ]


def _locate_volumes(manifests: Manifests, cluster: Cluster) -> None:
    """Volume claims by the node affinity of their volumes, else by the site of the pod that uses them."""
    volumes = {
        item.name: _place_of_volume(item.raw, cluster.sites) for item in manifests.of("PersistentVolume")
    }
    for item in manifests.of("PersistentVolumeClaim"):
        place = volumes.get(text_in(item.raw, "spec", "volumeName"), "")
        if place:
            cluster.located[item.namespace, item.name] = place
    for pod in manifests.pods:
        site = cluster.sites.get(pod.node, "")
        for claim in pod.claims if site else ():
            cluster.located.setdefault((pod.owner[1], claim), site)


def _place_of_volume(raw: Any, sites: Mapping[str, str]) -> str:
    """The node or zone from which a volume is reachable; empty if it is not bound to one."""
    terms = inside(raw, "spec", "nodeAffinity", "required", "nodeSelectorTerms")
    known = set(sites.values())
    for term in terms if isinstance(terms, list) else ():
        rules = inside(term, "matchExpressions")
        for rule in rules if isinstance(rules, list) else ():
            values = inside(rule, "values")
            key, value = text_in(rule, "key"), values[0] if isinstance(values, list) and values else ""
            if len(values or ()) == 1 and key == _HOST and value in sites:
                return str(value)
            if len(values or ()) == 1 and key in _ZONES_OF_VOLUMES and value in known:
                return str(value)
    return ""
