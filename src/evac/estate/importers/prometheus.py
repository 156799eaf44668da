"""Imports facts from a Prometheus server: the peak demand of each workload, and calls between services.

The source is the answers to QUERIES as one JSON mapping; `evac import prometheus URL` fetches them. A pod
belongs to the workload whose name is its prefix. A replica's demand is the highest peak of its pods. Calls
come from the service graph of traces.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.document import MAP, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers import containers
from evac.estate.importers.imported import Imported, Options, Sign, Unknown, Value
from evac.estate.importers.services import Catalogue, Need, service_examples
from evac.estate.importers.source_files import at, is_id, items_in, read_values, texts_of, word
from evac.model.diagnostic import Place
from evac.model.units import QUANTITY_LIMIT

QUERIES: Final[Mapping[str, str]] = {
    "cpu": "max_over_time((sum by (namespace, pod) "
    '(rate(container_cpu_usage_seconds_total{container!=""}[5m])))[7d:5m])',
    "memory": "max_over_time((sum by (namespace, pod) "
    '(container_memory_working_set_bytes{container!=""}))[7d:5m])',
    "calls": "sum by (client, server) (increase(traces_service_graph_request_total[7d]))",
}
"""Name of an answer -> its query."""
_RAW: Final = {"cpu": "container_cpu_usage_seconds_total", "memory": "container_memory_working_set_bytes"}
_SUMMED: Final = re.compile(r"sum\s*by\s*\(([\w\s,]*)\)\s*\((.*)", re.ASCII | re.DOTALL)
_TEXTS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_INFO: Final = re.compile(r"\)\s*\*\s*on\s*\([\w\s,]*\)\s*group_left\b.*", re.ASCII | re.DOTALL)
"""Join with a series of ones that adds a label, such as the node."""
_METRIC: Final = re.compile(r"[a-zA-Z_:][\w:]{0,200}", re.ASCII)


def recorded(rules: object, key: str) -> tuple[str, ...]:
    """Queries for each pod's peak from recording rules, for a server that does not keep the raw series.

    rules: the response of `/api/v1/rules`. A rule counts only if it sums the raw series, or its rate, by
    namespace and pod and nothing else: a ratio is not a demand.
    """
    found = []
    for rule in _rules(rules):
        name, query = rule.get("name"), rule.get("query")
        if not isinstance(name, str) or not isinstance(query, str) or not _METRIC.fullmatch(name):
            continue
        bare = _INFO.sub(")", _TEXTS.sub("", query[:_QUERY_MAX]).strip())
        summed = _SUMMED.fullmatch(bare)
        if summed is None or not {"namespace", "pod"} <= {one.strip() for one in summed[1].split(",")}:
            continue
        inner, rate = re.sub(r"\s", "", summed[2]), r"i?rate\(" if key == "cpu" else ""
        window, end = (r"\[\w+\]", r"\)\)") if key == "cpu" else ("", r"\)")
        if re.fullmatch(rate + _RAW[key] + r"(\{[^{}]*\})?" + window + end, inner):
            found.append(f"max_over_time((sum by (namespace, pod) ({name}))[7d:5m])")
    return tuple(dict.fromkeys(found))


def _rules(answer: object) -> Iterator[Mapping[str, object]]:
    data = answer.get("data") if isinstance(answer, dict) else None
    groups = data.get("groups") if isinstance(data, dict) else None
    for group in groups if isinstance(groups, list) else []:
        rules = group.get("rules") if isinstance(group, dict) else None
        for rule in rules if isinstance(rules, list) else []:
            if isinstance(rule, dict) and rule.get("type") == "recording":
                yield rule


_QUERY_MAX: Final = 4_000

_POD: Final = re.compile(r"(.+?)(?:-[a-z0-9]{6,10}-[a-z0-9]{5}|-\d{1,5}|-[a-z0-9]{5})", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,25}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?", re.ASCII)
_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([^:]+):\d{1,5}", re.ASCII)
_IN_CLUSTER: Final = re.compile(r"([a-z0-9-]+)\.[a-z0-9-]+\.svc(?:\.[a-z0-9.-]+)?\.?", re.ASCII)
_REVERSED: Final = re.compile(r"(?:com|org|net|io|eu|[a-z]{2})\.|.*[A-Z]", re.ASCII)
"""Names of services with dots, such as `com.example.shop` and `Shop.Api`."""
_NOBODY: Final = frozenset({"", "user", "unknown"})
"""Clients that the service graph invents for calls from outside."""


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    return "names" if '"resultType"' in head and '"cpu"' in head else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts in the answers of a server; problems are added."""
    imported = Imported()
    tree = read_values(source, problems)
    if tree is None:
        return imported
    if tree.kind != MAP or not any(at(tree, name, "data", "result") for name in QUERIES):
        hint = "give a server: evac import prometheus http://prometheus:9090 -o DIR"
        problems.add("import-shape", f"{source.name} contains no Prometheus responses", tree.place, hint)
        return imported
    catalogue, hosts = Catalogue(), set[str]()
    for key in ("cpu", "memory"):
        for workload, amount, place in _peaks(tree, key, options):
            _take_demand(workload, key, amount, place, catalogue, problems)
    graph = [
        (_without_port(labels.get("client", "")), _without_port(labels.get("server", "")), sample)
        for sample in items_in(tree, "calls", "data", "result")
        if (labels := texts_of(at(sample, "metric")))
    ]
    clients = {client for (client, _), _, _ in graph}
    for (client, _), (server, has_port), sample in graph:
        if client in _NOBODY or server in _NOBODY or client == server or not _value(sample):
            continue
        if _is_ip(client):
            hosts.add(client)
            continue
        if ("services", client) not in catalogue.places:
            catalogue.take("services", client, sample.place, problems)
        # Only what has a name of its own sends traces, so a client is a service.
        is_host = server not in clients and _is_host(server, has_port)
        if ("services", server) not in catalogue.places and not is_host:
            catalogue.take("services", server, sample.place, problems)
        catalogue.needs.setdefault(client, []).append(Need(server, sample.place))
    catalogue.add_to(imported, problems)
    if hosts:
        words = "calls from IP addresses whose service is not known; left out"
        imported.unknown.append(Unknown(words, len(hosts), tuple(sorted(hosts))))
    imported.examples = service_examples(imported)
    return imported


def _without_port(label: str) -> tuple[str, bool]:
    """A client or server of the service graph, and whether it had a port. A Service of a cluster is named
    like what it leads to.
    """
    match = _PORT.fullmatch(label.strip())
    name = (match[1] or match[2]) if match is not None else label.strip()
    inside = _IN_CLUSTER.fullmatch(name)
    return (name if inside is None else inside[1]), match is not None


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_host(name: str, has_port: bool) -> bool:
    """Whether a server is a host, which sends no traces and has only an address."""
    if "." not in name or has_port or containers.is_internal(name):
        return _is_ip(name) or "." in name
    return not _REVERSED.match(name) and containers.PUBLIC.fullmatch(name.rpartition(".")[2]) is not None


def _peaks(tree: Node, key: str, options: Options) -> Iterator[tuple[str, Fraction, Place]]:
    """The workload of each pod, and its peak."""
    samples = [
        (labels.get("namespace", ""), labels.get("pod", ""), sample)
        for sample in items_in(tree, key, "data", "result")
        if (labels := texts_of(at(sample, "metric")))
    ]
    spaces: dict[str, set[str]] = {}
    for namespace, pod, _ in samples:
        spaces.setdefault(_workload(pod), set()).add(namespace)
    for namespace, pod, sample in samples:
        name, amount = _workload(pod), _value(sample)
        if options.namespaces and namespace not in options.namespaces:
            continue
        if name and amount:
            yield (name if len(spaces[name]) == 1 else f"{namespace}.{name}"), amount, sample.place


def _workload(pod: str) -> str:
    match = _POD.fullmatch(pod)
    return match[1] if match is not None else pod


def _value(sample: Node) -> Fraction:
    """The value of a sample; 0 if missing or not a usable number."""
    pair = items_in(sample, "value")
    text = word(pair[1]) or "" if len(pair) == 2 else ""
    return Fraction(text) if _NUMBER.fullmatch(text) else Fraction(0)


def _take_demand(
    workload: str, key: str, amount: Fraction, place: Place, catalogue: Catalogue, problems: Problems
) -> None:
    """Takes the highest peak of a workload's pods, rounded up."""
    if not is_id(workload, place, problems):
        return
    if amount > QUANTITY_LIMIT:
        message = f"the peak {key} of {shown(workload)} is too large; it stays unknown"
        problems.add("import-cell", message, place, "check the query in Prometheus")
        return
    if workload not in catalogue.services:
        catalogue.take("services", workload, place, problems)
        catalogue.comments[workload] = "peak of the last 7 days"
    scaled = amount * 1_000 if key == "cpu" else amount / 2**20
    needed = -(-scaled.numerator // scaled.denominator)
    quantity = q.CORES_NEEDED if key == "cpu" else q.MEMORY_NEEDED
    demand = catalogue.services[workload].setdefault("demand", {})
    if isinstance(demand, dict):
        known: Value = demand.get(key)
        if not isinstance(known, str) or q.parse(quantity, known) < needed:
            demand[key] = q.show(quantity, needed)
