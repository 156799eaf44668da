"""Who calls whom: addresses in environment variables, and URLs in them and in commands.

An address names a Kubernetes Service (`name`, `name.namespace`, `name.namespace.svc...`), and the
Service selects the workloads behind it. An address that nothing answers is reported with its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from evac.estate.format.document import LIST, MAP, SCALAR, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.kubernetes.source import Manifests, Object, Workload, texts
from evac.estate.importers.source_files import at, entries, word

_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?"
_URL: Final = re.compile(rf"\b[a-z][a-z0-9+.-]{{1,20}}://(?:[^\s/@]{{1,200}}@)?({_HOST})(?=[:/?#\s\"',;]|$)")
_ADDRESS: Final = re.compile(rf"({_HOST})(?::\d{{1,5}})?")
_ADDRESS_NAME: Final = re.compile(
    r".*_(?:ADDR|ADDRS|ADDRESS|ADDRESSES|HOST|HOSTS|HOSTNAME|ENDPOINT|ENDPOINTS|SERVER|SERVERS|BROKERS)"
)
_OWN_MACHINE: Final = re.compile(r"localhost|[0-9.]+")
_TEXT_MAX: Final = 65_536


@dataclass(slots=True)
class Calls:
    """`needs`: caller -> callee -> (hard, needed to start); `outside`: hosts outside the manifests;
    `dangling`: caller and host of calls that nothing answers."""

    needs: dict[str, dict[str, tuple[bool, bool]]] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)
    dangling: set[str] = field(default_factory=set)


def find_calls(manifests: Manifests, problems: Problems) -> Calls:
    """Every call. What a container needs before the main ones begin is needed to start."""
    calls = Calls()
    services = {(s.namespace, s.name): s for s in manifests.of("Service")}
    behind = {key: _workloads(service, manifests) for key, service in services.items()}
    configs = {(c.namespace, c.name): at(c.node, "data") for c in manifests.of("ConfigMap")}
    for workload in manifests.workloads:
        for init in (True, False):
            for container in workload.containers(init=init):
                for host, node, why in _hosts(container, workload, configs):
                    _add_call(workload, host, node, why, init, behind, calls, problems)
    return calls


def _workloads(service: Object, manifests: Manifests) -> list[Workload]:
    return manifests.with_labels(service.namespace, texts(at(service.node, "spec", "selector")))


def _hosts(
    container: Node, workload: Workload, configs: dict[tuple[str, str], Node | None]
) -> Iterator[tuple[str, Node, str]]:
    """(host, where it stands, under which name) of every address a container is given."""
    for name, node in _variables(container, workload, configs):
        text = node.text[:_TEXT_MAX]
        for match in _URL.finditer(text):
            yield match[1], node, name
        if "://" not in text and _ADDRESS_NAME.fullmatch(name.upper()):
            for part in text.split(","):
                address = _ADDRESS.fullmatch(part.strip())
                if address is not None:
                    yield address[1], node, name
    for key in ("command", "args"):
        items = at(container, key)
        for node in items.items if items is not None and items.kind == LIST else ():
            for match in _URL.finditer(node.text[:_TEXT_MAX]):
                yield match[1], node, key


def _variables(
    container: Node, workload: Workload, configs: dict[tuple[str, str], Node | None]
) -> Iterator[tuple[str, Node]]:
    """Names and values of environment variables, those out of ConfigMaps included."""
    env = at(container, "env")
    for item in env.items if env is not None and env.kind == LIST else ():
        name, value = word(item, "name"), at(item, "value")
        if value is None:
            source = at(item, "valueFrom", "configMapKeyRef")
            config = configs.get((workload.namespace, word(source, "name") or ""))
            value = at(config, word(source, "key") or "")
        if name is not None and value is not None and value.kind == SCALAR:
            yield name, value
    sources = at(container, "envFrom")
    for item in sources.items if sources is not None and sources.kind == LIST else ():
        config = configs.get((workload.namespace, word(item, "configMapRef", "name") or ""))
        for name, _, value in entries(config):
            if value.kind == SCALAR:
                yield name, value


def _add_call(
    workload: Workload,
    host: str,
    node: Node,
    why: str,
    init: bool,
    behind: dict[tuple[str, str], list[Workload]],
    calls: Calls,
    problems: Problems,
) -> None:
    key, inside = _service_key(host, workload.namespace, behind)
    if key is None:
        if inside:
            calls.dangling.add(f"{workload.id} -> {host}")
            message = (
                f"{shown(workload.id)} calls {shown(host)} ({why}), but no manifest describes that service"
            )
            hint = (
                problems.suggest(host, [name for _, name in behind])
                or "describe it in the overlay if it exists"
            )
            problems.add("import-dangling", message, node.place, hint)
        elif not _OWN_MACHINE.fullmatch(host):
            calls.outside.add(f"{workload.id} -> {host}")
        return
    targets = [w for w in behind[key] if w.id != workload.id]
    if not behind[key]:
        calls.dangling.add(f"{workload.id} -> {host}")
        message = f"{shown(workload.id)} calls {shown(host)} ({why}), but no workload is behind that service"
        problems.add("import-dangling", message, node.place, "describe it in the overlay if it exists")
    known = calls.needs.setdefault(workload.id, {})
    for target in targets:
        # Several workloads behind one Service stand in for each other, so none of them is needed alone.
        hard, start = known.get(target.id, (False, False))
        known[target.id] = (hard or len(behind[key]) == 1, start or init)


def _service_key(
    host: str, namespace: str, behind: dict[tuple[str, str], list[Workload]]
) -> tuple[tuple[str, str] | None, bool]:
    """The Service a host name means, if any; and whether the name is one inside the cluster."""
    labels = host.lower().split(".")
    if len(labels) == 1:
        key = (namespace, labels[0])
        return (key if key in behind else None), not _OWN_MACHINE.fullmatch(host)
    key = (labels[1], labels[0])
    inside = len(labels) > 2 and labels[2] == "svc"
    return (key if key in behind and (inside or len(labels) == 2) else None), inside


def exposed(manifests: Manifests) -> frozenset[str]:
    """Workloads that a load balancer or an ingress leads users to."""
    backends = {name for item in manifests.of("Ingress") for name in _backends(item.node, item.namespace)}
    found = set()
    for service in manifests.of("Service"):
        if (
            word(service.node, "spec", "type") == "LoadBalancer"
            or (service.namespace, service.name) in backends
        ):
            found |= {w.id for w in _workloads(service, manifests)}
    return frozenset(found)


def _backends(node: Node, namespace: str) -> Iterator[tuple[str, str]]:
    """Services an Ingress names, wherever in it; the tree is bounded when it is read."""
    name = word(node, "backend", "service", "name") or word(node, "defaultBackend", "service", "name")
    if name is not None:
        yield namespace, name
    below = (
        node.items if node.kind == LIST else [v for _, v in node.fields.values()] if node.kind == MAP else []
    )
    for item in below:
        yield from _backends(item, namespace)
