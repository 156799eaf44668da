"""Reads Kubernetes manifests and dumps as named objects with their places; infers nothing.

A source is a file or a folder of them. Knows the layout of manifests, ownership and where pods run; `reader`,
`cluster` and `operators` decide what that means for an estate.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from evac.estate.format.document import LIST, MAP, YAML_BYTES_MAX, Node, open_text
from evac.estate.format.problems import Problems, shown
from evac.estate.importers import source_files
from evac.estate.importers.imported import Options
from evac.estate.importers.json_stream import NotJson
from evac.estate.importers.kubernetes.objects import (
    DUMP_AGAIN,
    RENDER_FIRST,
    JsonObjects,
    Object,
    Skipped,
    inside,
    text_in,
    yaml_objects,
)
from evac.estate.importers.kubernetes.operators import OPERATORS
from evac.model.diagnostic import Place
from evac.model.records import dataclass

OWNERS_MAX: Final = 8
"""Most owners above a pod that are followed; Kubernetes itself has two."""

POD_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "DeploymentConfig": ("spec", "template"),
    "Rollout": ("spec", "template"),
    "CloneSet": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Job": ("spec", "template"),
    "Pod": (),
}
"""Kinds that run something, and the path of their pod."""
KNATIVE: Final = "KnativeService"
"""The kind of a Service of Knative here: it runs something, as no other Service does."""
_OF_KNATIVE: Final = "serving.knative.dev"
_MADE_BY_KNATIVE: Final = f"{_OF_KNATIVE}/service"
"""The label of everything that Knative makes for a Service of its own."""

_USED_OF_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("ConfigMap", "Node", "PersistentVolume", "PersistentVolumeClaim", "Pod", "Service"),
    "autoscaling": ("HorizontalPodAutoscaler",),
    "extensions": ("Ingress",),
    "gateway.networking.k8s.io": ("GRPCRoute", "Gateway", "HTTPRoute", "TCPRoute", "TLSRoute"),
    "kafka.strimzi.io": ("KafkaNodePool",),
    "keda.sh": ("ScaledObject",),
    "networking.istio.io": ("Gateway", "VirtualService"),
    "networking.k8s.io": ("Ingress",),
    "policy": ("PodDisruptionBudget",),
    "postgresql.cnpg.io": ("Pooler", "ScheduledBackup"),
    "projectcontour.io": ("HTTPProxy",),
    "route.openshift.io": ("Route",),
    "scheduling.k8s.io": ("PriorityClass",),
    "traefik.containo.us": ("IngressRoute", "IngressRouteTCP"),
    "traefik.io": ("IngressRoute", "IngressRouteTCP"),
}
_USED: Final = frozenset(kind for kinds in _USED_OF_GROUPS.values() for kind in kinds)
_FOLDED: Final = frozenset({"StrimziPodSet"})
_FOLD: Final = frozenset({*POD_PATHS, *OPERATORS, *_FOLDED, KNATIVE})
"""Owners that stand for what they own. Any other, such as the object of a platform's operator, may own
several workloads, each a service of its own.
"""
_RUN_OF_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("ReplicationController",),
    "apps": ("DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"),
    "apps.kruise.io": ("CloneSet", "DaemonSet", "StatefulSet"),
    "apps.openshift.io": ("DeploymentConfig",),
    "argoproj.io": ("Rollout",),
    "batch": ("CronJob", "Job"),
    "core.strimzi.io": ("StrimziPodSet",),
    _OF_KNATIVE: ("Service",),
}
_OPERATORS_OF_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    group: tuple(kind for known in OPERATORS.values() for other, kind in known if other == group)
    for group in {group for known in OPERATORS.values() for group, _ in known}
}
KINDS_OF_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    group: tuple(
        sorted(
            kind
            for table in (_USED_OF_GROUPS, _RUN_OF_GROUPS, _OPERATORS_OF_GROUPS)
            for kind in table.get(group, ())
        )
    )
    for group in sorted({*_USED_OF_GROUPS, *_RUN_OF_GROUPS, *_OPERATORS_OF_GROUPS})
}
"""Group of the API -> the kinds in it that are read."""
REFUSAL: Final = ("evac", "ImportRefusal")
"""Group and kind of the object in which `app.fetching` names the kinds that the account may not list."""
_CLUSTER_WIDE: Final = frozenset({"Node", "PersistentVolume", "PriorityClass"})
_ENDINGS: Final = (".yaml", ".yml", ".json")
_IS_JSON: Final = re.compile(r"\s*\{\s*\"")
_HEAD_CHARACTERS: Final = 2**16
_HOOK: Final = ("metadata", "annotations", "helm.sh/hook")
_OF_DATABASES: Final = re.compile(
    r"(?:aerospike|arango|cassandra|ceph|clickhouse|cockroach|couch|dragonfly|druid|elastic|etcd|influx|kafka|maria|milvus"
    r"|mongo|mssql|my|nats|neo4j|opensearch|oracle|percona|pg|pinot|postgres|pulsar|qdrant|questdb|rabbitmq|redis|redpanda"
    r"|scylla|sg|singlestore|tidb|valkey|vitess|weaviate|yb|yugabyte)"
    r"(?:ql|sql|db|search|base|es)*(?:cluster|filesystem|instance|objectstore|deployment|datacenter|installation|server|database|universe)",
    re.IGNORECASE,
)
"""Kinds recognised as databases by name; their users, topics and backups have other name endings."""
_HASH: Final = re.compile(r"(.+)-[a-z0-9]{6,10}")
"""Name of a ReplicaSet: its Deployment's, and a hash of the template."""


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
        return source_files.at(self.pod, "spec")

    def containers(self, *, init: bool = False) -> list[Node]:
        found = source_files.at(self.pod_spec, "initContainers" if init else "containers")
        return (
            [item for item in found.items if item.kind == MAP]
            if found is not None and found.kind == LIST
            else []
        )


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod's location. `owner`: kind, namespace and name of its topmost owner, or the pod itself;
    `claims`: its volume claims; `role`: as stated by an operator, such as primary; `ends`: is being deleted.
    """

    owner: tuple[str, str, str]
    name: str
    node: str
    claims: tuple[str, ...] = ()
    role: str = ""
    ends: bool = False


@dataclass(slots=True)
class Manifests:
    """Everything read."""

    workloads: list[Workload] = field(default_factory=list)
    by_kind: dict[str, list[Object]] = field(default_factory=dict)
    """Other objects with relevant facts."""
    databases: list[Object] = field(default_factory=list)
    """Objects of database operators, in source order."""
    pods: list[Pod] = field(default_factory=list)
    """Pods that are on a node."""
    labelled: dict[tuple[str, str, str], list[Workload]] = field(default_factory=dict)
    """Namespace, label and its value -> the workloads whose pods have it."""
    shows_all_pods: bool = True
    """Whether no namespace was left out, and no permission to list pods was missing."""

    def of(self, kind: str) -> list[Object]:
        return self.by_kind.get(kind, [])

    def with_labels(self, namespace: str, labels: Mapping[str, str]) -> list[Workload]:
        """Workloads whose pods have all of the labels; none if no labels are given."""
        if not labels:
            return []
        fewest = min((self.labelled.get((namespace, *pair), []) for pair in labels.items()), key=len)
        return [workload for workload in fewest if labels.items() <= workload.labels.items()]

    def selected(self, namespace: str, selector: Node | None) -> list[Workload]:
        """Workloads whose pods a label selector matches."""
        wanted = texts(source_files.at(selector, "matchLabels"))
        some = self.with_labels(namespace, wanted) if wanted else self.workloads
        return [w for w in some if w.namespace == namespace and selects(selector, w.labels)]


def read_manifests(source: Path, problems: Problems, options: Options) -> Manifests:
    """Every manifest of a file or folder; problems are added."""
    skipped = Skipped()
    sorting = _Sorting(options, skipped, problems)
    for path in _files(source, problems):
        root = source if source.is_dir() else path
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        for item in _objects_of(path, root, name, skipped, problems):
            sorting.add(item)
    found = sorting.finish()
    is_empty = not (found.workloads or found.databases or found.by_kind or sorting.ignored)
    skipped.report(problems, as_errors=is_empty)
    if is_empty and not problems.has_errors:
        problems.add(
            "import-shape",
            "it contains no Kubernetes objects",
            Place(source.name),
            "give rendered manifests, or a dump: kubectl get ... -A -o json",
        )
    return found


def _files(source: Path, problems: Problems) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = source_files.files_below(source, _ENDINGS, problems)
    if not found and not problems.has_errors:
        problems.add(
            "import-source-missing",
            f"there are no YAML files in {source.name}",
            Place(str(source)),
            "check the path of the source",
        )
    return found


def _objects_of(path: Path, root: Path, name: str, skipped: Skipped, problems: Problems) -> Iterator[Object]:
    """The objects of one file, JSON or YAML, regardless of its ending."""
    if not os.path.lexists(path):
        source_files.read_text(path, root, YAML_BYTES_MAX, problems)
        return
    handle = open_text(path, root, problems)
    if handle is None:
        return
    with handle:
        try:
            is_json = _IS_JSON.match(handle.read(_HEAD_CHARACTERS)) is not None
            if is_json:
                handle.seek(0)
                yield from JsonObjects(handle, name, _is_used, skipped)
                return
        except NotJson as error:
            if error.ended:
                problems.add(
                    "import-truncated", f"{name} ends in the middle of an object", error.place, DUMP_AGAIN
                )
            elif "{{" in error.near:
                message = f"{name} is a template, not a manifest"
                problems.add("import-shape", message, error.place, RENDER_FIRST)
            else:
                message = f"{name} is not JSON: {error.words}"
                problems.add(
                    "import-shape", message, error.place, "check that this is the file that kubectl wrote"
                )
            return
        except UnicodeDecodeError:
            message = f"{name} is not UTF-8 text"
            hint = "save the file as UTF-8; if it is UTF-16: iconv -f UTF-16 -t UTF-8"
            problems.add("not-utf-8", message, Place(name), hint)
            return
    if path.stat().st_size > YAML_BYTES_MAX:
        message = f"{name}: more than {YAML_BYTES_MAX // 2**20} MiB of YAML"
        hint = "save the dump as JSON, which is read at any size: kubectl get ... -o json"
        problems.add("file-too-large", message, Place(name), hint)
        return
    text = source_files.read_text(path, root, YAML_BYTES_MAX, problems, lines_checked=False)
    if text is not None:
        yield from yaml_objects(text, name, _is_used, skipped, problems)


def _is_used(kind: str) -> bool:
    return kind in _USED or kind in POD_PATHS or kind in OPERATORS or kind in _FOLDED


class _Sorting:
    """Objects as they arrive: pods are condensed at once, so that a hundred thousand of them need little
    memory.
    """

    def __init__(self, options: Options, skipped: Skipped, problems: Problems) -> None:
        self._namespaces = frozenset(options.namespaces)
        self._skipped = skipped
        self._problems = problems
        self._seen: dict[tuple[str, str, str, str], Place] = {}
        self._first_ignored: dict[str, Place] = {}
        self._runs: list[Object] = []
        self._owners: dict[tuple[str, str, str], tuple[str, str]] = {}
        self._of_knative: list[Object] = []
        """Deployments that Knative made."""
        self._patterns: dict[tuple[str, str, str], Object] = {}
        """Owner of pods -> one of them, as an example."""
        self._pods: list[Pod] = []
        self._found = Manifests(shows_all_pods=not options.namespaces)
        self.ignored: Counter[str] = Counter()

    def add(self, item: Object) -> None:
        if (item.group, item.kind) == REFUSAL:
            refused = inside(item.raw, "refused")
            if not isinstance(refused, list) or "pods" in refused:
                self._found.shows_all_pods = False
            return
        if self._namespaces and item.namespace not in self._namespaces and item.kind not in _CLUSTER_WIDE:
            return
        is_other = item.kind in _USED and item.group and item.kind not in KINDS_OF_GROUPS.get(item.group, ())
        known = OPERATORS.get(item.kind)
        is_other = is_other or (known is not None and (item.group, item.kind) not in known)
        if is_other or not _is_used(item.kind):
            self._ignore(f"{item.kind} ({item.group})" if is_other else item.kind, item.place)
            return
        if not item.name:
            scratch = Problems()
            scratch.add("import-shape", "it has no name", item.place, "give it a name under metadata")
            self._skipped.take(f"one object of kind {item.kind}", scratch, item.kind)
            return
        if item.kind in ("Job", "Pod") and "test" in text_in(item.raw, *_HOOK).split(","):
            self._ignore(f"{item.kind} (a test of its Helm chart)", item.place)
            return
        if item.group == _OF_KNATIVE:
            item.kind = KNATIVE
        key = (item.group, *item.key)
        if key in self._seen:
            message = f"{item.kind} {shown(item.name)} is described twice, first at {self._seen[key]}"
            self._problems.add(
                "import-twice", message, item.place, "the first is used; import only one of the two"
            )
            return
        self._seen[key] = item.place
        if item.kind == "Pod":
            self._add_pod(item)
            return
        owner = _owner_of(item.raw) if item.kind in POD_PATHS or item.kind in _FOLDED else None
        if owner is not None and (owner[0] in _FOLD or item.kind not in POD_PATHS):
            self._owners[item.key] = owner
            if owner[0] == KNATIVE and item.kind == "Deployment":
                self._of_knative.append(item)
        elif item.kind in POD_PATHS or item.kind == KNATIVE:
            if not (item.kind == "Job" and inside(item.raw, "status", "completionTime")):
                self._runs.append(item)
        elif known is not None:
            self._found.databases.append(item)
        elif item.kind in _USED:
            self._found.by_kind.setdefault(item.kind, []).append(item)

    def _ignore(self, kind: str, place: Place) -> None:
        self.ignored[kind] += 1
        self._first_ignored.setdefault(kind, place)

    def _add_pod(self, item: Object) -> None:
        raw = item.raw
        if text_in(raw, "status", "phase") in ("Succeeded", "Failed"):
            return
        owner = _owner_of(raw)
        kind, name = owner or ("Pod", item.name)
        key = (kind, item.namespace, name)
        if key not in self._patterns:
            self._patterns[key] = item
        node = text_in(raw, "spec", "nodeName")
        if node:
            ends = bool(text_in(raw, "metadata", "deletionTimestamp"))
            self._pods.append(Pod(key, item.name, node, _claims(raw), _role(raw), ends))

    def finish(self) -> Manifests:
        """Pods with their topmost owners, and all workloads with their names."""
        known = {item.key for item in (*self._runs, *self._found.databases)}
        for item in sorted(self._of_knative, key=lambda one: one.name, reverse=True):
            # A dump without Services of Knative: the last revision describes its Service.
            kind, name = self._owners[item.key]
            made_for = (kind, item.namespace, name)
            if made_for not in known:
                known.add(made_for)
                self._runs.append(Object((item.group, *made_for), item.place, raw=item.raw))
        tops = {key: self._top(key, known) for key in self._patterns}
        for key, top in tops.items():
            pattern = self._patterns[key]
            if top not in known and top[0] not in ("Node", "Job"):
                known.add(top)
                head = (pattern.group, *top)
                self._runs.append(Object(head, pattern.place, raw=pattern.raw))
        self._found.pods = [
            Pod(tops[pod.owner], pod.name, pod.node, pod.claims, pod.role, pod.ends) for pod in self._pods
        ]
        found = self._found
        found.workloads = self._named(self._runs)
        found.shows_all_pods = found.shows_all_pods and not self._skipped.may_be_pods
        for workload in found.workloads:
            for label, value in workload.labels.items():
                found.labelled.setdefault((workload.namespace, label, value), []).append(workload)
        for kind, place in sorted(self._first_ignored.items()):
            count = f"{self.ignored[kind]:,} of kind {kind}"
            if _OF_DATABASES.fullmatch(kind.partition(" ")[0]):
                message = f"{count}: evac does not know this operator, so the data is in no store"
                hint = "describe each database as a store in the overlay"
                self._problems.add("import-skipped", message, place, hint)
            else:
                self._problems.add("import-ignored", f"{count}: evac does not use them", place)
        return found

    def _top(self, key: tuple[str, str, str], known: set[tuple[str, str, str]]) -> tuple[str, str, str]:
        """The topmost owner of an object."""
        for _ in range(OWNERS_MAX):
            owner = self._owners.get(key)
            if owner is not None:
                key = (owner[0], key[1], owner[1])
                continue
            if key[0] == "ReplicaSet" and key not in known:
                # A dump without ReplicaSets: their names still say the Deployment.
                match = _HASH.fullmatch(key[2])
                if match is not None:
                    return "Deployment", key[1], match[1]
            return key
        return key

    def _named(self, runs: list[Object]) -> list[Workload]:
        """Workloads with the shortest unique id: the name, else with namespace, else with kind."""
        names = Counter(item.name for item in runs)
        full = Counter((item.namespace, item.name) for item in runs)
        made = []
        for item in runs:
            name = item.name
            if names[item.name] > 1:
                name = f"{item.namespace}.{item.name}"
            if full[item.namespace, item.name] > 1:
                name = f"{name}.{item.kind.lower()}"
            scratch = Problems()
            if source_files.is_id(name, item.place, scratch) and _is_whole(item, scratch):
                pod = source_files.at(item.node, *_pod_path(item)) or item.node
                made.append(Workload(name, item, pod, texts(source_files.at(pod, "metadata", "labels"))))
            self._skipped.take(f"{item.kind} {shown(item.name)}", scratch, item.kind)
        return sorted(made, key=lambda w: w.id)


def _pod_path(item: Object) -> tuple[str, ...]:
    """Path of an object's pod; an object known only by its pods is described by one of them."""
    path = ("spec", "template") if item.kind == KNATIVE else POD_PATHS.get(item.kind, ())
    return path if source_files.at(item.node, *path) is not None else ()


def _owner_of(raw: Any) -> tuple[str, str] | None:
    """Kind and name of the controller that owns an object."""
    if made_by := text_in(inside(raw, "metadata", "labels"), _MADE_BY_KNATIVE):
        return KNATIVE, made_by
    owners = inside(raw, "metadata", "ownerReferences")
    for owner in owners if isinstance(owners, list) else ():
        kind, name = text_in(owner, "kind"), text_in(owner, "name")
        if kind and name and text_in(owner, "controller").lower() != "false":
            return kind, name
    return None


def _claims(raw: Any) -> tuple[str, ...]:
    volumes = inside(raw, "spec", "volumes")
    names = [
        text_in(volume, "persistentVolumeClaim", "claimName")
        for volume in (volumes if isinstance(volumes, list) else ())
    ]
    return tuple(name for name in names if name)


_ROLES: Final = ("cnpg.io/instanceRole", "spilo-role", "role", "redis-role", "mongodb.com/role")


def _role(raw: Any) -> str:
    labels = inside(raw, "metadata", "labels")
    if not isinstance(labels, dict):
        return ""
    return next((str(labels[label]) for label in _ROLES if label in labels), "")


def _is_whole(item: Object, problems: Problems) -> bool:
    """Whether the path to the containers consists of mappings and they are a list: anything less would be a
    guess.
    """
    node: Node | None = item.node
    for key in (*_pod_path(item), "spec"):
        node = source_files.at(node, key)
        if node is None:
            return True
        if node.kind != MAP:
            message = f"{key} of {item.kind} {shown(item.name)} is not a mapping"
            problems.add("import-shape", message, node.place, "check that this is the manifest you apply")
            return False
    containers = source_files.at(node, "containers")
    if containers is not None and containers.kind != LIST:
        message = f"containers of {item.kind} {shown(item.name)} are not a list"
        problems.add("import-shape", message, containers.place, "check that this is the manifest you apply")
        return False
    return True


def texts(node: Node | None) -> dict[str, str]:
    """The single values of a mapping."""
    return {
        name: value.text for name, _, value in source_files.entries(node) if value.kind not in (MAP, LIST)
    }


def selects(selector: Node | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) matches; an empty one matches nothing here,
    because matching every pod would say nothing about one service.
    """
    wanted = texts(source_files.at(selector, "matchLabels"))
    expressions = source_files.at(selector, "matchExpressions")
    rules = expressions.items if expressions is not None and expressions.kind == LIST else []
    if not wanted and not rules:
        return False
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_holds(rule, labels) for rule in rules)


def _holds(rule: Node, labels: Mapping[str, str]) -> bool:
    key, values = source_files.word(rule, "key") or "", source_files.words(rule, "values")
    match source_files.word(rule, "operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False
