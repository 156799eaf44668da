"""Finds stores: operators' databases, volumes, and databases without a volume.

An emptyDir is deleted with its pod: a store in one has no other copy and no volume backup. Directories of
anything but a database engine are scratch space, not stores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from evac.estate.format.document import LIST, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.containers import engine_of_image
from evac.estate.importers.imported import Imported, Value
from evac.estate.importers.kubernetes.calls import variables_of
from evac.estate.importers.kubernetes.cluster import Cluster
from evac.estate.importers.kubernetes.objects import NO_NAMESPACE
from evac.estate.importers.kubernetes.operators import describe, follows, operator_of, spans_clusters
from evac.estate.importers.kubernetes.source import Manifests, Workload
from evac.estate.importers.source_files import at, is_id, word
from evac.model.diagnostic import Place
from evac.model.records import dataclass

_PORTS: Final[Mapping[str, str]] = {
    "2379": "etcd",
    "3306": "mysql",
    "5432": "postgresql",
    "5672": "rabbitmq",
    "6379": "redis",
    "9042": "cassandra",
    "9092": "kafka",
    "9200": "elasticsearch",
    "27017": "mongodb",
}
"""Port by which an engine is reached -> the engine."""

_MARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "postgresql": ("POSTGRES_PASSWORD", "POSTGRES_DB", "PGDATA"),
    "mysql": ("MYSQL_ROOT_PASSWORD", "MYSQL_DATABASE"),
    "mongodb": ("MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_DATABASE"),
}
"""Engine -> variables that configure its official image."""

_ENGINE_OF_NAME: Final[Mapping[str, str]] = {"postgres": "postgresql", "mongo": "mongodb", "mariadb": "mysql"}


@dataclass(slots=True)
class Stores:
    """The stores of a source."""

    of_workloads: dict[str, list[str]] = field(default_factory=dict)
    """Workload -> the stores on its own volumes."""
    of_databases: dict[tuple[str, str], str] = field(default_factory=dict)
    """Namespace and name of an operator's database -> its store."""


def add_stores(manifests: Manifests, cluster: Cluster, imported: Imported, problems: Problems) -> Stores:
    """Adds every store, with its location if the source states it."""
    found = Stores()
    kept_in: dict[str, tuple[str, Place]] = {}
    names = Counter(item.name for item in manifests.databases)
    for item in manifests.databases:
        name = item.name if names[item.name] == 1 else f"{item.namespace}.{item.name}"
        if name in imported.sections.get("stores", {}):
            name = f"{name}.{item.kind.lower()}"
        if not is_id(name, item.place, problems, "error"):  # else its callers would need nothing
            continue
        values: dict[str, Value] = {"engine": operator_of(item).engine}
        if not spans_clusters(item):
            values["automatic"] = True
        members = cluster.members_of(item.key)
        if follows(item) is not None:
            # the first of a cluster that follows another takes no writes
            first: dict[str, Value] = {"mode": "async", "lag": None}
            members = [
                {**one, **first} if isinstance(one, dict) and one["mode"] == "primary" else one
                for one in members
            ]
        if members:
            values["members"] = members
        kept_in[name] = f"the pods of {item.kind} {shown(item.name)}", item.place
        imported.add("stores", name, values, describe(item, manifests))
        found.of_databases[item.namespace, item.name] = name
    engines = _engines(manifests)
    for workload in manifests.workloads:
        for volume in _volumes(workload, engines.get(workload.id), cluster, problems):
            if is_id(volume.store, workload.object.place, problems):
                _add_volume(volume, engines.get(workload.id), imported)
                if volume.kept_in:
                    what = f"the {volume.kept_in} of {shown(workload.id)}"
                    kept_in.setdefault(volume.store, (what, workload.object.place))
                found.of_workloads.setdefault(workload.id, []).append(volume.store)
    for store, (what, place) in kept_in.items() if cluster.sites else ():
        if "members" not in imported.sections["stores"][store].values:
            message = (
                f"the dump does not say where {what} are, so the location of {shown(store)} is not known"
            )
            hint = (
                "include nodes, pods and volume claims in the dump, or list the members "
                "of the store in the overlay"
            )
            problems.add("import-store-nowhere", message, place, hint)
    return found


@dataclass(frozen=True, slots=True)
class _Volume:
    store: str
    comment: str
    members: list[Value]
    kept_in: str
    """The claims with its data; empty for data that is deleted with its pod, which was noted already."""


def _add_volume(volume: _Volume, engine: str | None, imported: Imported) -> None:
    """A volume shared by a database and its clients belongs to the database."""
    known = imported.sections.get("stores", {}).get(volume.store)
    if known is not None and engine is None:
        return
    values: dict[str, Value] = {} if engine is None else {"engine": engine}
    if volume.members:
        values["members"] = volume.members
    imported.add("stores", volume.store, values, volume.comment)


def _engines(manifests: Manifests) -> dict[str, str]:
    """Workload -> the database engine it runs."""
    configs = {(c.namespace, c.name): at(c.node, "data") for c in manifests.of("ConfigMap")}
    found: dict[str, str] = {}
    for workload in manifests.workloads:
        for container in workload.containers():
            engine = engine_of_image(word(container, "image") or "")
            if engine is None:
                variables = {name for name, _ in variables_of(container, workload, configs)}
                engine = _engine_by_signs(container, workload.object.kind, variables)
            if engine is not None:
                found.setdefault(workload.id, engine)
    return found


def _engine_by_signs(container: Node, kind: str, variables: set[str]) -> str | None:
    """The engine of a custom image: it serves the engine's port and is a StatefulSet, has the engine's name,
    or is configured like its official image.
    """
    ports = at(container, "ports")
    for port in ports.items if ports is not None and ports.kind == LIST else ():
        engine = _PORTS.get(word(port, "containerPort") or "")
        if engine is None:
            continue
        name = (word(container, "name") or "").lower()
        if (
            _ENGINE_OF_NAME.get(name, name) == engine
            or variables.intersection(_MARKS.get(engine, ()))
            or (kind == "StatefulSet" and "proxy" not in name and "bouncer" not in name)
        ):
            return engine
    return None


def _volumes(workload: Workload, engine: str | None, cluster: Cluster, problems: Problems) -> list[_Volume]:
    """The volumes of a workload that contain data."""
    found = []
    for volume in _items(at(workload.pod_spec, "volumes")):
        name, claim = word(volume, "name") or "", word(volume, "persistentVolumeClaim", "claimName")
        if claim is not None and not _is_templated(claim, workload):
            members = cluster.copies(workload.namespace, [claim], 1)
            words = f"volume claim {claim} of {workload.id}"
            found.append(
                _Volume(_qualified(claim, workload), words, members, f"volume claims {shown(claim)}")
            )
        elif at(volume, "emptyDir") is not None and engine is not None:
            words = f"emptyDir {name} of {workload.id}: it is deleted with its pod, so it cannot be backed up"
            found.append(_Volume(f"{workload.id}-{name}", words, [], ""))
    for template in _items(at(workload.object.node, "spec", "volumeClaimTemplates")):
        claim = word(template, "metadata", "name") or "data"
        words = f"volume claim {claim} of each replica of {workload.id}"
        claims = cluster.claims_of(workload.namespace, f"{claim}-{workload.object.name}-")
        members = cluster.copies(workload.namespace, claims, len(claims))
        found.append(_Volume(f"{workload.id}-{claim}", words, members, f"volume claims {shown(claim)}"))
    has_volume = any("emptyDir" not in one.comment for one in found)
    if engine is not None and not has_volume:
        message = f"{shown(workload.id)} runs {engine} without a volume: its data is lost with its pod"
        problems.add("import-no-volume", message, workload.object.place, "give it a volume claim")
    if engine is not None and not found:
        words = f"{workload.id} has no volume: its data is lost with its pod and cannot be backed up"
        found.append(_Volume(f"{workload.id}-data", words, [], ""))
    return found


def _is_templated(claim: str, workload: Workload) -> bool:
    """Whether a claim named by one pod was made from its StatefulSet's template."""
    templates = _items(at(workload.object.node, "spec", "volumeClaimTemplates"))
    heads = [f"{word(one, 'metadata', 'name')}-{workload.object.name}-" for one in templates]
    return any(claim.startswith(head) for head in heads)


def _qualified(claim: str, workload: Workload) -> str:
    """A claim is shared within a namespace, so its id has the namespace if the workload's does."""
    named = workload.id.startswith(f"{workload.namespace}.") and workload.namespace != NO_NAMESPACE
    return f"{workload.namespace}.{claim}" if named else claim


def _items(node: Node | None) -> list[Node]:
    return node.items if node is not None and node.kind == LIST else []
