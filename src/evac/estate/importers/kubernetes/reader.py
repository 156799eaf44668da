"""Maps Kubernetes manifests and dumps to an estate: workloads become services, volumes and operators'
databases become stores, nodes become servers.

Manifests state no sites, people, tiers or objectives, nor the cluster they are applied to: the overlay
provides these, and until then they are unknown. A cluster dump contains more: see `cluster`.
"""

from __future__ import annotations

import re
from dataclasses import field
from fractions import Fraction
from pathlib import Path
from typing import Final

from evac.estate.format.document import LIST, Node
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import show_share
from evac.estate.importers.imported import Imported, Options, Sign, Unknown, Value
from evac.estate.importers.kubernetes.amounts import demand
from evac.estate.importers.kubernetes.calls import Calls, exposed, find_calls, published
from evac.estate.importers.kubernetes.cluster import Cluster, read_cluster
from evac.estate.importers.kubernetes.objects import Object
from evac.estate.importers.kubernetes.source import KNATIVE, Manifests, Workload, read_manifests, selects
from evac.estate.importers.kubernetes.stores import add_stores
from evac.estate.importers.source_files import at, word
from evac.model.records import dataclass

_WHOLE: Final = re.compile(r"\d{1,7}", re.ASCII)
_PERCENT: Final = re.compile(r"(\d{1,3})%", re.ASCII)
_HOST_KEY: Final = "kubernetes.io/hostname"
_LEAST_OF_KNATIVE: Final = ("autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/minScale")
_MOST_OF_KNATIVE: Final = ("autoscaling.knative.dev/max-scale", "autoscaling.knative.dev/maxScale")


@dataclass(frozen=True, slots=True)
class _Rules:
    """Rules over workloads. `budgets`: disruption budgets by workload; `scalers`: autoscalers by
    namespace, kind and name of what they scale."""

    budgets: dict[str, list[Object]]
    scalers: dict[tuple[str, str, str | None], Object]
    tiers: dict[str, int]
    """Priority class -> tier."""
    usual: str | None
    """The priority class of pods that name none."""

    def tier_of(self, name: str | None) -> tuple[int | None, str]:
        """The tier of a priority class, and why."""
        known = name or self.usual
        if known is None:
            return None, ""
        return self.tiers.get(known), f"priority class {known}"


@dataclass(slots=True)
class _Counts:
    """Services whose number of replicas differs from what runs. `drifted`: another number is requested;
    `lost`: some are on lost nodes.
    """

    drifted: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def _rules(manifests: Manifests) -> _Rules:
    budgets: dict[str, list[Object]] = {}
    for budget in manifests.of("PodDisruptionBudget"):
        for workload in manifests.selected(budget.namespace, at(budget.node, "spec", "selector")):
            budgets.setdefault(workload.id, []).append(budget)
    scalers = {}
    for scaler in (*manifests.of("ScaledObject"), *manifests.of("HorizontalPodAutoscaler")):
        target = at(scaler.node, "spec", "scaleTargetRef")
        scalers[scaler.namespace, word(target, "kind") or "Deployment", word(target, "name")] = scaler
    return _Rules(budgets, scalers, *_tiers(manifests))


_OF_THE_SYSTEM: Final = ("system-cluster-critical", "system-node-critical")
_TIERS_MAX: Final = 100


def _tiers(manifests: Manifests) -> tuple[dict[str, int], str | None]:
    """Tiers by priority class, and the class of pods that name none: the highest priority is tier 0.

    Equal priorities share a tier. Without classes of its own, a source says nothing about importance.
    """
    values = {
        item.name: int(text)
        for item in manifests.of("PriorityClass")
        if item.name not in _OF_THE_SYSTEM
        and re.fullmatch(r"-?\d{1,10}", text := word(item.node, "value") or "", re.ASCII)
    }
    if not values:
        return {}, None
    order = sorted(set(values.values()), reverse=True)
    tiers = {name: min(order.index(value), _TIERS_MAX) for name, value in values.items()}
    usual = (
        item.name for item in manifests.of("PriorityClass") if word(item.node, "globalDefault") == "true"
    )
    return tiers | dict.fromkeys(_OF_THE_SYSTEM, 0), next(usual, None)


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    if "backstage.io/" in head:
        return None
    has_nodes = re.search(r"kind[\"']?:\s*[\"']?Node(?:List)?\b", head) is not None
    if head.lstrip()[:1] == "{":
        is_one = '"apiVersion"' in head and ('"items"' in head or '"kind"' in head)
    else:
        is_one = re.search(r"^(?:- )?apiVersion:", head, re.MULTILINE) is not None and "kind:" in head
    return ("placed" if has_nodes else "unplaced") if is_one else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of manifests or of a dump; problems are added."""
    imported, had_errors = Imported(), problems.has_errors
    manifests = read_manifests(source, problems, options)
    if problems.has_errors and not had_errors:
        # What a part of a dump does not describe, the rest of it may.
        return imported
    cluster = read_cluster(manifests, imported, options, problems)
    stores = add_stores(manifests, cluster, imported, problems)
    calls = find_calls(manifests, stores.of_databases, problems)
    users, imported.published = exposed(manifests), published(manifests)
    rules = _rules(manifests)
    outside = _outside(calls, {workload.id for workload in manifests.workloads})
    counts = _Counts()
    for workload in manifests.workloads:
        values, notes = _service(workload, rules, cluster, counts, problems)
        needs = _needs(workload.id, calls, stores.of_workloads.get(workload.id, []))
        needs += [
            {"service": service, "hard": False}
            for service, host in sorted(outside.items())
            if workload.id in calls.outside[host]
        ]
        if needs:
            values["needs"] = needs
        if workload.id in users:
            values["traffic"] = {"kind": "load_balancer"}
        imported.add("services", workload.id, values, "; ".join(notes))
    if counts.drifted:
        what = (
            "services with a different number of replicas running than requested; the running number is used"
        )
        imported.unknown.append(Unknown(what, len(counts.drifted), tuple(sorted(counts.drifted))))
    if counts.lost:
        what = (
            "services with pods on lost nodes or being deleted; the requested number of replicas is used, "
            "and only those that run have a place"
        )
        imported.unknown.append(Unknown(what, len(counts.lost), tuple(sorted(counts.lost))))
    imported.add_undescribed(outside, are_hosts=True)
    imported.examples = _examples(imported)
    return imported


def _outside(calls: Calls, taken: set[str]) -> dict[str, str]:
    """Id of an external service -> its host."""
    found = {}
    for host in sorted(calls.outside):
        service = f"external:{host}" if host in taken else host
        if ID.fullmatch(service) and len(service) <= ID_MAX:
            found[service] = host
    return found


def _needs(workload: str, calls: Calls, stores: list[str]) -> list[Value]:
    """Calls, and the stores on the workload's own volumes."""
    known = calls.needs.get(workload, {})
    found: list[Value] = []
    for kind in ("service", "store"):
        for (target_kind, target), (hard, start) in sorted(known.items()):
            if target_kind != kind:
                continue
            need: dict[str, Value] = {kind: target}
            if not hard:
                need["hard"] = False
            if start:
                need["needed_to"] = "start"
            found.append(need)
    own = {store for store in stores if ("store", store) not in known}
    found.extend({"store": store} for store in sorted(own))
    return found


def _service(
    workload: Workload, rules: _Rules, cluster: Cluster, counts: _Counts, problems: Problems
) -> tuple[dict[str, Value], list[str]]:
    """Values of a service, and notes for readers of the file."""
    kind = workload.object.kind
    values: dict[str, Value] = {}
    notes = [f"{kind} in {workload.namespace}"]
    family = workload.labels.get("app.kubernetes.io/part-of")
    if family:
        values["family"] = family
    amounts = demand(workload, problems)
    if amounts:
        values["demand"] = amounts
    placed = cluster.placed.get(workload.id)
    stated = _replicas(workload, rules, notes, problems)
    replicas = _nominal(workload, stated, rules, cluster, counts, notes)
    if replicas is not None:
        values["replicas"] = replicas
        if not placed and workload.id not in cluster.fallen and (cluster.only_pool or cluster.only_site):
            values["replicas"] = {cluster.only_pool or cluster.only_site or "": replicas}
    values |= _share(workload, replicas, rules, problems)
    if replicas is not None and replicas > 1:
        values |= _spread(workload, replicas, max(placed.values()) if placed else 1, notes)
    if kind in ("CronJob", "Job"):
        values["single_run"] = True
        notes.append(
            "runs once"
            if kind == "Job"
            else f"schedule {word(workload.object.node, 'spec', 'schedule') or 'not stated'}"
        )
    tier, why = rules.tier_of(word(workload.pod_spec, "priorityClassName"))
    if tier is not None:
        values["tier"] = {"value": tier, "source": why}
    elif why:
        notes.append(why)
    return values, notes


def _nominal(
    workload: Workload,
    stated: int | None,
    rules: _Rules,
    cluster: Cluster,
    counts: _Counts,
    notes: list[str],
) -> int | None:
    """The number of replicas: those that run. If some are lost, at least as many as are requested: the
    service is no smaller because of an outage.
    """
    kind = workload.object.kind
    running = sum(cluster.placed.get(workload.id, {}).values())
    lost = sum(cluster.fallen.get(workload.id, {}).values())
    wanted = running + lost if kind == "DaemonSet" else stated or 0
    is_scaled = kind == KNATIVE or (workload.namespace, kind, workload.object.name) in rules.scalers
    if lost and (wanted > running or is_scaled):
        counts.lost.append(workload.id)
        notes.append(f"{running} of {max(wanted, running)} replicas run; lost pods do not count")
        return max(wanted, running) or None
    if not running:
        return stated
    asked = at(workload.object.node, "spec", "replicas") is not None and not is_scaled
    if asked and stated not in (None, running):
        notes.append(f"{stated} replicas are requested")
        counts.drifted.append(workload.id)
    return running


def _replicas(workload: Workload, rules: _Rules, notes: list[str], problems: Problems) -> int | None:
    """The nominal count. None for a DaemonSet, which follows the nodes, for workloads scaled to zero, and
    for a count that is no number.
    """
    kind = workload.object.kind
    if kind == "DaemonSet":
        notes.append("one replica on every node")
        return None
    if kind in ("CronJob", "Job", "Pod"):
        return 1
    if kind == KNATIVE:
        return _replicas_of_knative(workload, notes, problems)
    given = at(workload.object.node, "spec", "replicas")
    stated = _whole(given, problems)
    scaler = rules.scalers.get((workload.namespace, kind, workload.object.name))
    if scaler is not None:
        spec = at(scaler.node, "spec")
        most = word(spec, "maxReplicas") or word(spec, "maxReplicaCount") or "no limit"
        notes.append(f"autoscaled up to {most} replicas at peak")
        least = _whole(at(spec, "minReplicas") or at(spec, "minReplicaCount"), problems)
        stated = stated if stated is not None else least
    if stated == 0:
        notes.append("scaled to zero")
        return None
    is_open = given is None or given.is_unknown
    return 1 if stated is None and is_open else stated


def _replicas_of_knative(workload: Workload, notes: list[str], problems: Problems) -> int | None:
    limits = at(workload.pod, "metadata", "annotations")
    least, most = (
        next((found for name in names if (found := at(limits, name)) is not None), None)
        for names in (_LEAST_OF_KNATIVE, _MOST_OF_KNATIVE)
    )
    notes.append("autoscaled" if most is None else f"autoscaled up to {most.text} replicas at peak")
    count = _whole(least, problems) or None
    notes += ["scales to zero when no one calls it"] if count is None else []
    return count


def _whole(node: Node | None, problems: Problems) -> int | None:
    if node is None or node.is_unknown:
        return None
    if _WHOLE.fullmatch(node.text):
        return int(node.text)
    problems.add(
        "import-word-unknown",
        f"{shown(node.text)} is not a number of replicas",
        node.place,
        "it stays unknown",
    )
    return None


def _share(workload: Workload, replicas: int | None, rules: _Rules, problems: Problems) -> dict[str, Value]:
    """The smallest share that serves: what a disruption budget keeps up."""
    for budget in rules.budgets.get(workload.id, ()):
        share, words = _budget(budget, replicas, problems)
        if share is not None and 0 < share <= 1:
            source = f"PodDisruptionBudget {budget.name}, {words}"
            return {"share": {"value": show_share(share), "source": source}}
    return {}


def _budget(budget: Object, replicas: int | None, problems: Problems) -> tuple[Fraction | None, str]:
    for key in ("minAvailable", "maxUnavailable"):
        node = at(budget.node, "spec", key)
        if node is None or node.is_unknown:
            continue
        percent = _PERCENT.fullmatch(node.text)
        if percent is not None:
            part = Fraction(int(percent[1]), 100)
        else:
            count = _whole(node, problems)
            if count is None or replicas is None:
                return None, ""
            part = Fraction(count, replicas)
        return (part if key == "minAvailable" else 1 - part), f"{key} {node.text}"
    return None, ""


def _spread(workload: Workload, replicas: int, seen: int, notes: list[str]) -> dict[str, Value]:
    """How many replicas may be on one node: one by required anti-affinity, the skew by a hard topology
    constraint, else any number, for the scheduler then prefers but does not promise. At least as many as
    were `seen` on one. Rules over zones and regions are noted: which of them is a site only people know.
    """
    most = replicas
    for term in _items(
        at(workload.pod_spec, "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    ):
        if not selects(at(term, "labelSelector"), workload.labels):
            continue
        if word(term, "topologyKey") == _HOST_KEY:
            most = 1
        else:
            notes.append(f"never two replicas in the same {word(term, 'topologyKey')}")
    for rule in _items(at(workload.pod_spec, "topologySpreadConstraints")):
        key, skew = word(rule, "topologyKey"), word(rule, "maxSkew") or "1"
        strict = word(rule, "whenUnsatisfiable") != "ScheduleAnyway"
        if key == _HOST_KEY and strict and _WHOLE.fullmatch(skew):
            most = min(most, max(1, int(skew)))
        else:
            notes.append(f"spread over {key} with a skew of {skew}" + ("" if strict else ", if possible"))
    most = max(most, seen)
    return {"spread": {"per_server": most}} if most > 1 else {}


def _items(node: Node | None) -> list[Node]:
    return node.items if node is not None and node.kind == LIST else []


def _examples(imported: Imported) -> list[str]:
    """Lines for a first overlay, each valid once uncommented."""
    services = imported.sections.get("services", {})
    sites = sorted(imported.sections.get("sites", {}))
    lines = []
    if not sites:
        lines += ["sites:                       # where the clusters are", "  east: {}", "  west: {}"]
        lines += [
            "pools:                       # one for each cluster",
            "  east-k8s: {site: east, cpu: 400 cores, memory: 2 TiB}",
            "  west-k8s: {site: west, cpu: 400 cores, memory: 2 TiB}",
        ]
    lines.append("services:")
    for name in sorted(name for name, entry in services.items() if entry.described):
        count = services[name].values.get("replicas")
        placed = f"replicas: {{east-k8s: {count if isinstance(count, int) else 1}}}, "
        lines.append(f"  {name}: {{{'' if sites else placed}tier: 1, people: 10 K, rto: 1 h}}")
    stores = {name: entry.values for name, entry in sorted(imported.sections.get("stores", {}).items())}
    if stores:
        lines.append("stores:")
        for name, values in stores.items():
            where = sites[0] if sites else "east"
            known = "rpo: 5 min" if values.get("members") else f"members: [{{at: {where}, mode: primary}}]"
            lines.append(f"  {name}: {{{known}}}")
    return lines
