"""Kubernetes manifests as objects with their place: read, told apart, named; nothing inferred.

A source is a file or a folder of them, each a stream of YAML documents. Knows how manifests are
laid out; what they mean for an estate is for `kubernetes`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evac.estate.format.document import LIST, MAP, YAML_BYTES_MAX, Node, read_documents
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.source_files import at, entries, is_id, read_text, word, words
from evac.model.diagnostic import Place

SCALAR_MAX: Final = 2**20
"""Longest text in a manifest: what a ConfigMap may hold in all."""

FILES_MAX: Final = 5_000
FOLDERS_MAX: Final = 5_000
NO_NAMESPACE: Final = "default"

_POD_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}
"""Kinds that run something, and where their pod stands."""

_USED: Final = frozenset(
    {
        "Service",
        "ConfigMap",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "Ingress",
        "PersistentVolumeClaim",
    }
)
_ENDINGS: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a manifest."""

    kind: str
    namespace: str
    name: str
    node: Node

    @property
    def place(self) -> Place:
        found = at(self.node, "metadata", "name")
        return (found or self.node).place


@dataclass(frozen=True, slots=True)
class Workload:
    """What runs: `id` is its name in the estate; `pod` its template; `labels` those of its pods."""

    id: str
    object: Object
    pod: Node
    labels: Mapping[str, str]

    @property
    def namespace(self) -> str:
        return self.object.namespace

    @property
    def pod_spec(self) -> Node | None:
        return at(self.pod, "spec")

    def containers(self, *, init: bool = False) -> list[Node]:
        found = at(self.pod_spec, "initContainers" if init else "containers")
        return (
            [item for item in found.items if item.kind == MAP]
            if found is not None and found.kind == LIST
            else []
        )


@dataclass(slots=True)
class Manifests:
    """Everything read. `by_kind`: the other objects that say something evac uses; `labelled`:
    namespace, label and its value -> the workloads whose pods have it."""

    workloads: list[Workload] = field(default_factory=list)
    by_kind: dict[str, list[Object]] = field(default_factory=dict)
    labelled: dict[tuple[str, str, str], list[Workload]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Object]:
        return self.by_kind.get(kind, [])

    def with_labels(self, namespace: str, labels: Mapping[str, str]) -> list[Workload]:
        """Workloads whose pods have all of the labels; none for no labels."""
        if not labels:
            return []
        fewest = min((self.labelled.get((namespace, *pair), []) for pair in labels.items()), key=len)
        return [workload for workload in fewest if labels.items() <= workload.labels.items()]

    def selected(self, namespace: str, selector: Node | None) -> list[Workload]:
        """Workloads whose pods a label selector matches."""
        wanted = texts(at(selector, "matchLabels"))
        some = self.with_labels(namespace, wanted) if wanted else self.workloads
        return [w for w in some if w.namespace == namespace and selects(selector, w.labels)]


def read_manifests(source: Path, problems: Problems) -> Manifests:
    """Every manifest of a file or folder; problems are added."""
    objects: list[Object] = []
    for path in _files(source, problems):
        root = source if source.is_dir() else path
        text = read_text(path, root, YAML_BYTES_MAX, problems, lines_checked=False)
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        documents = None if text is None else read_documents(text, name, problems, SCALAR_MAX)
        if text is not None and documents is None and "{{" in text:
            message = f"{name} is a template, not a manifest"
            problems.add(
                "import-shape", message, Place(name), "render it first, for example with helm template"
            )
        for document in documents or ():
            objects.extend(_objects(document))
    if not objects and not problems.has_errors:
        problems.add(
            "import-shape",
            "no Kubernetes object in it",
            Place(source.name),
            "give rendered manifests, not templates",
        )
    return _sorted_out(objects, problems)


def _files(source: Path, problems: Problems) -> list[Path]:
    if not source.is_dir():
        return [source]
    found: list[Path] = []
    for visited, (folder, folders, names) in enumerate(os.walk(source)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder) / name for name in sorted(names) if name.endswith(_ENDINGS) and name[0] != "."]
        if len(found) > FILES_MAX or visited > FOLDERS_MAX:
            message = f"more than {FILES_MAX:,} files in {source.name}"
            problems.add("too-many-files", message, Place(source.name), "name a smaller folder")
            return []
    if not found:
        problems.add(
            "import-source-missing",
            f"no YAML file in {source.name}",
            Place(str(source)),
            "check the path of the source",
        )
    return found


def _objects(document: Node) -> Iterator[Object]:
    """The objects of a document; a List holds several."""
    if document.kind != MAP:
        return
    kind, name = word(document, "kind"), word(document, "metadata", "name")
    items = at(document, "items")
    if kind is not None and kind.endswith("List") and items is not None and items.kind == LIST:
        for item in items.items:
            yield from _objects(item)
    elif kind is not None and name is not None:
        yield Object(kind, word(document, "metadata", "namespace") or NO_NAMESPACE, name, document)


def _sorted_out(objects: list[Object], problems: Problems) -> Manifests:
    found = Manifests()
    seen: dict[tuple[str, str, str], Object] = {}
    ignored: dict[str, Object] = {}
    counts: Counter[str] = Counter()
    runs = []
    for item in objects:
        key = (item.kind, item.namespace, item.name)
        if key in seen:
            message = f"{item.kind} {shown(item.name)} is described twice, first at {seen[key].place}"
            problems.add("id-twice", message, item.place, "keep one of the two")
        elif item.kind in _POD_PATHS:
            runs.append(item)
        elif item.kind in _USED:
            found.by_kind.setdefault(item.kind, []).append(item)
        else:
            ignored.setdefault(item.kind, item)
            counts[item.kind] += 1
        seen.setdefault(key, item)
    found.workloads = _named(runs, problems)
    for workload in found.workloads:
        for label, value in workload.labels.items():
            found.labelled.setdefault((workload.namespace, label, value), []).append(workload)
    for kind, first in sorted(ignored.items()):
        problems.add(
            "import-ignored", f"{counts[kind]:,} of kind {kind}: nothing in them that evac uses", first.place
        )
    return found


def _named(runs: list[Object], problems: Problems) -> list[Workload]:
    """Workloads with the shortest id that no other has: the name, else with namespace, else with kind."""
    names = Counter(item.name for item in runs)
    full = Counter((item.namespace, item.name) for item in runs)
    made = []
    for item in runs:
        name = item.name
        if names[item.name] > 1:
            name = f"{item.namespace}.{item.name}"
        if full[item.namespace, item.name] > 1:
            name = f"{name}.{item.kind.lower()}"
        if is_id(name, item.place, problems):
            _check_shape(item, problems)
            pod = at(item.node, *_POD_PATHS[item.kind]) or item.node
            made.append(Workload(name, item, pod, texts(at(pod, "metadata", "labels"))))
    return sorted(made, key=lambda w: w.id)


def _check_shape(item: Object, problems: Problems) -> None:
    """What leads to the containers are mappings, and they are a list: an estate of less would be a guess."""
    node: Node | None = item.node
    for key in (*_POD_PATHS[item.kind], "spec"):
        node = at(node, key)
        if node is None:
            return
        if node.kind != MAP:
            message = f"{key} of {item.kind} {shown(item.name)} is no mapping"
            problems.add("import-shape", message, node.place, "is this the manifest that is applied?")
            return
    containers = at(node, "containers")
    if containers is not None and containers.kind != LIST:
        message = f"containers of {item.kind} {shown(item.name)} are no list"
        problems.add("import-shape", message, containers.place, "is this the manifest that is applied?")


def texts(node: Node | None) -> dict[str, str]:
    """The single values of a mapping."""
    return {name: value.text for name, _, value in entries(node) if value.kind not in (MAP, LIST)}


def selects(selector: Node | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) matches; an empty one matches nothing
    here: it would mean every pod, which says nothing of one service."""
    wanted = texts(at(selector, "matchLabels"))
    expressions = at(selector, "matchExpressions")
    rules = expressions.items if expressions is not None and expressions.kind == LIST else []
    if not wanted and not rules:
        return False
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_holds(rule, labels) for rule in rules)


def _holds(rule: Node, labels: Mapping[str, str]) -> bool:
    key, values = word(rule, "key") or "", words(rule, "values")
    match word(rule, "operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False
