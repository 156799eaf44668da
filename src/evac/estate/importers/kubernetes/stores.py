"""Where workloads keep data: claimed volumes, and empty directories of known database engines.

An emptyDir dies with its pod: a store in one has no other copy and can have no backup of the volume.
Directories of anything but a database engine are scratch space and no store.
"""

from __future__ import annotations

from evac.estate.format.document import LIST, Node
from evac.estate.format.problems import Problems
from evac.estate.importers.images import engine_of_image
from evac.estate.importers.imported import Imported, Value
from evac.estate.importers.kubernetes.source import Manifests, Workload
from evac.estate.importers.source_files import at, is_id, word


def engine_of(workload: Workload) -> str | None:
    """The database engine among the images of a workload; None where there is none we know."""
    engines = (engine_of_image(word(container, "image") or "") for container in workload.containers())
    return next((engine for engine in engines if engine is not None), None)


def add_stores(manifests: Manifests, imported: Imported, problems: Problems) -> dict[str, list[str]]:
    """Add every store; return workload -> the stores it needs."""
    needs: dict[str, list[str]] = {}
    for workload in manifests.workloads:
        for name, comment in _volumes(workload):
            if not is_id(name, workload.object.place, problems):
                continue
            values: dict[str, Value] = {}
            engine = engine_of(workload)
            if engine is not None:
                values["engine"] = engine
            known = imported.sections.get("stores", {}).get(name)
            if known is None or engine is not None:
                imported.add("stores", name, values, comment)
            needs.setdefault(workload.id, []).append(name)
    return needs


def _volumes(workload: Workload) -> list[tuple[str, str]]:
    """(store, comment) of each volume that holds data."""
    found = []
    for volume in _items(at(workload.pod_spec, "volumes")):
        name, claim = word(volume, "name") or "", word(volume, "persistentVolumeClaim", "claimName")
        if claim is not None:
            found.append((_qualified(claim, workload), f"volume claim {claim} of {workload.id}"))
        elif at(volume, "emptyDir") is not None and engine_of(workload) is not None:
            words = f"emptyDir {name} of {workload.id}: it dies with its pod, so no backup of it is possible"
            found.append((f"{workload.id}-{name}", words))
    for template in _items(at(workload.object.node, "spec", "volumeClaimTemplates")):
        claim = word(template, "metadata", "name") or "data"
        found.append((f"{workload.id}-{claim}", f"volume claim {claim} of each replica of {workload.id}"))
    return found


def _qualified(claim: str, workload: Workload) -> str:
    """A claim is shared within a namespace; its id says the namespace where the workload's does."""
    named = workload.id.startswith(f"{workload.namespace}.")
    return f"{workload.namespace}.{claim}" if named else claim


def _items(node: Node | None) -> list[Node]:
    return node.items if node is not None and node.kind == LIST else []
