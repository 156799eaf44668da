"""What Kubernetes manifests mean for an estate: workloads become services, volumes become stores.

Manifests say nothing of sites, people, tiers or objectives, and not which cluster they are applied to: all
of that is for the overlay and unknown until it is there. Quantities follow the Kubernetes API: a decimal
number with a suffix (n, u, m, k, M, G, T, P, E or Ki, Mi, Gi, Ti, Pi, Ei) or an exponent. Requests count,
limits do not: a request is what a pod is scheduled by. Exact arithmetic; rounded up once. An emptyDir dies
with its pod: a store in one has no other copy and can have no backup of the volume. Directories of anything
but a database engine are scratch space and no store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.document import LIST, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import show_share
from evac.estate.importers.images import engine_of_image
from evac.estate.importers.imported import Imported, Unknown, Value
from evac.estate.importers.kubernetes.calls import Calls, exposed, find_calls
from evac.estate.importers.kubernetes.source import Manifests, Object, Workload, read_manifests, selects
from evac.estate.importers.source_files import at, entries, is_id, word
from evac.model.units import QUANTITY_LIMIT


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


_QUANTITY: Final = re.compile(
    r"\+?(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:e(\d{1,2})|E(\d{1,2})|([numkMGTPE]|[KMGTPE]i))?", re.ASCII
)
_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1_000),
    **{letter: Fraction(10 ** (3 * power)) for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", 1)},
}
_ACCELERATOR: Final = re.compile(r"[a-z0-9.-]+/(?:gpu|tpu|fpga|neuron\w*|gaudi|mig-.*)", re.ASCII)
_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")


def parse_amount(text: str) -> Fraction | None:
    """A Kubernetes quantity in units of one (cores, bytes); None where it is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    number, small, large, suffix = match.groups()
    value = Fraction(number.removesuffix(".")) * Fraction(10) ** int(small or large or 0)
    return value * _SUFFIXES.get(suffix or "", Fraction(1))


def demand(workload: Workload, problems: Problems) -> dict[str, Value]:
    """What one replica asks for. A resource that some container does not ask for is unknown."""
    steady = workload.containers()
    first = workload.containers(init=True)
    sidecars = [c for c in first if word(c, "restartPolicy") == "Always"]
    amounts: dict[str, Value] = {}
    for resource in _RESOURCES:
        need = _total([*steady, *sidecars], resource, problems)
        if need is not None:
            once = [_request(c, resource, problems) for c in first if c not in sidecars]
            amounts |= _stated(resource, max([need, *(amount for amount in once if amount is not None)]))
    devices = sum((_devices(c, problems) for c in steady), Fraction(0))
    if devices:
        amounts["accelerators"] = -(-devices.numerator // devices.denominator)
    return amounts


def _total(containers: list[Node], resource: str, problems: Problems) -> Fraction | None:
    amounts = [_request(container, resource, problems) for container in containers]
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Fraction(0)) if known and len(known) == len(amounts) else None


def _request(container: Node, resource: str, problems: Problems) -> Fraction | None:
    node = at(container, "resources", "requests", resource)
    if node is None or node.is_unknown:
        return None
    amount = parse_amount(node.text)
    if amount is None or amount > QUANTITY_LIMIT:
        problems.add(
            "import-word-unknown",
            f"{shown(node.text)} is no amount of {resource}",
            node.place,
            "the demand stays unknown; write it like 500m or 2Gi",
        )
        return None
    return amount


def _devices(container: Node, problems: Problems) -> Fraction:
    """Accelerators. The API takes the limit of a device as its request, so either counts."""
    found: dict[str, Fraction] = {}
    for part in ("limits", "requests"):
        for name, _, node in entries(container, "resources", part):
            if _ACCELERATOR.fullmatch(name):
                found[name] = parse_amount(node.text) or Fraction(0)
    return sum(found.values(), Fraction(0))


def _stated(resource: str, amount: Fraction) -> dict[str, Value]:
    if resource == "cpu":
        return {"cpu": q.show(q.CORES_NEEDED, _up(amount * 1_000))}
    if resource == "memory":
        return {"memory": q.show(q.MEMORY_NEEDED, _up(amount / 2**20))}
    return {"disk": q.show(q.DISK_NEEDED, _up(amount / 2**30))}


def _up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


_WHOLE: Final = re.compile(r"\d{1,7}", re.ASCII)
_PERCENT: Final = re.compile(r"(\d{1,3})%", re.ASCII)
_HOST_KEY: Final = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class _Rules:
    """Rules over workloads. `budgets`: disruption budgets by workload; `scalers`: autoscalers by
    namespace, kind and name of what they scale."""

    budgets: dict[str, list[Object]]
    scalers: dict[tuple[str, str | None, str | None], Object]


def _rules(manifests: Manifests) -> _Rules:
    budgets: dict[str, list[Object]] = {}
    for budget in manifests.of("PodDisruptionBudget"):
        for workload in manifests.selected(budget.namespace, at(budget.node, "spec", "selector")):
            budgets.setdefault(workload.id, []).append(budget)
    scalers = {}
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        target = at(scaler.node, "spec", "scaleTargetRef")
        scalers[scaler.namespace, word(target, "kind"), word(target, "name")] = scaler
    return _Rules(budgets, scalers)


def read(source: Path, problems: Problems) -> Imported:
    """The facts of manifests; problems are added."""
    manifests = read_manifests(source, problems)
    imported = Imported()
    stores = add_stores(manifests, imported, problems)
    calls = find_calls(manifests, problems)
    users = exposed(manifests)
    rules = _rules(manifests)
    for workload in manifests.workloads:
        values, notes = _service(workload, rules, problems)
        needs = _needs(workload.id, calls, stores)
        if needs:
            values["needs"] = needs
        if workload.id in users:
            values["traffic"] = {"kind": "load_balancer"}
        imported.add("services", workload.id, values, "; ".join(notes))
    for what, names in (
        ("calls that no manifest answers; left out", calls.dangling),
        ("calls to hosts outside the manifests; left out", calls.outside),
    ):
        if names:
            imported.unknown.append(Unknown(what, len(names), tuple(sorted(names))))
    imported.examples = _examples(imported)
    return imported


def _needs(workload: str, calls: Calls, stores: dict[str, list[str]]) -> list[Value]:
    found: list[Value] = []
    for target, (hard, start) in sorted(calls.needs.get(workload, {}).items()):
        need: dict[str, Value] = {"service": target}
        if not hard:
            need["hard"] = False
        if start:
            need["needed_to"] = "start"
        found.append(need)
    found.extend({"store": store} for store in sorted(set(stores.get(workload, ()))))
    return found


def _service(workload: Workload, rules: _Rules, problems: Problems) -> tuple[dict[str, Value], list[str]]:
    """Values of a service, and notes for who reads the file."""
    kind = workload.object.kind
    values: dict[str, Value] = {}
    notes = [f"{kind} in {workload.namespace}"]
    family = workload.labels.get("app.kubernetes.io/part-of")
    if family:
        values["family"] = family
    amounts = demand(workload, problems)
    if amounts:
        values["demand"] = amounts
    replicas = _replicas(workload, rules, notes, problems)
    if replicas is not None:
        values["replicas"] = replicas
    values |= _share(workload, replicas, rules, problems)
    if replicas is not None and replicas > 1:
        values |= _spread(workload, replicas, notes)
    if kind == "CronJob":
        values["single_run"] = True
        notes.append(f"schedule {word(workload.object.node, 'spec', 'schedule') or 'not stated'}")
    priority = word(workload.pod_spec, "priorityClassName")
    if priority is not None:
        notes.append(f"priority class {priority}")
    return values, notes


def _replicas(workload: Workload, rules: _Rules, notes: list[str], problems: Problems) -> int | None:
    """The nominal count. None for a DaemonSet, which follows the nodes, and for what is scaled to zero."""
    kind = workload.object.kind
    if kind == "DaemonSet":
        notes.append("one replica on every node")
        return None
    if kind in ("CronJob", "Pod"):
        return 1
    stated = _whole(at(workload.object.node, "spec", "replicas"), problems)
    scaler = rules.scalers.get((workload.namespace, kind, workload.object.name))
    if scaler is not None:
        most = word(scaler.node, "spec", "maxReplicas") or "no limit"
        notes.append(f"autoscaled up to {most} replicas at peak")
        least = _whole(at(scaler.node, "spec", "minReplicas"), problems)
        stated = stated if stated is not None else least
    if stated == 0:
        notes.append("scaled to zero")
        return None
    return 1 if stated is None else stated


def _whole(node: Node | None, problems: Problems) -> int | None:
    if node is None or node.is_unknown:
        return None
    if _WHOLE.fullmatch(node.text):
        return int(node.text)
    problems.add(
        "import-word-unknown", f"{shown(node.text)} is no number of replicas", node.place, "it stays unknown"
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


def _spread(workload: Workload, replicas: int, notes: list[str]) -> dict[str, Value]:
    """How many replicas may stand on one node: one by required anti-affinity, the skew by a hard
    topology constraint, else any number, for the scheduler then prefers but does not promise.
    Rules over zones and regions are noted: which of them is a site only the overlay knows."""
    most = replicas
    for term in _items(
        at(workload.pod_spec, "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    ):
        if not selects(at(term, "labelSelector"), workload.labels):
            continue
        if word(term, "topologyKey") == _HOST_KEY:
            most = 1
        else:
            notes.append(f"never two replicas in one {word(term, 'topologyKey')}")
    for rule in _items(at(workload.pod_spec, "topologySpreadConstraints")):
        key, skew = word(rule, "topologyKey"), word(rule, "maxSkew") or "1"
        strict = word(rule, "whenUnsatisfiable") != "ScheduleAnyway"
        if key == _HOST_KEY and strict and _WHOLE.fullmatch(skew):
            most = min(most, max(1, int(skew)))
        else:
            notes.append(f"spread over {key} with a skew of {skew}" + ("" if strict else ", if possible"))
    return {"spread": {"per_server": most}} if most > 1 else {}


def _items(node: Node | None) -> list[Node]:
    return node.items if node is not None and node.kind == LIST else []


def _examples(imported: Imported) -> list[str]:
    """Lines for a first overlay; every one is valid once the comment sign is taken away."""
    services = imported.sections.get("services", {})
    lines = ["sites:                       # where the clusters are", "  east: {}", "  west: {}"]
    lines += [
        "pools:                       # one for each cluster",
        "  east-k8s: {site: east, cpu: 400 cores, memory: 2 TiB}",
    ]
    lines += ["  west-k8s: {site: west, cpu: 400 cores, memory: 2 TiB}", "services:"]
    for name in sorted(services):
        count = services[name].values.get("replicas")
        placed = f"replicas: {{east-k8s: {count if isinstance(count, int) else 1}}}"
        lines.append(f"  {name}: {{{placed}, tier: 1, people: 10 K, rto: 1 h}}")
    stores = sorted(imported.sections.get("stores", {}))
    if stores:
        lines += ["stores:", *(f"  {name}: {{members: [{{at: east, mode: primary}}]}}" for name in stores)]
    return lines
