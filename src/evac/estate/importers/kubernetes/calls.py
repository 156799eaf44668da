"""Finds calls between services: addresses in variables, arguments and configuration of containers.

An address names a Kubernetes Service (`name`, `name.namespace`, `name.namespace.svc...`) or a pod behind one
(`db-0.db`), and the Service selects the workloads behind it; an operator makes the Services of its databases.
An address that nothing in the source matches is an external service, which is needed softly: only people know
how bad its loss is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Final

from evac.estate.format.document import LIST, SCALAR, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers import containers
from evac.estate.importers.kubernetes.objects import Object
from evac.estate.importers.kubernetes.operators import Databases, hosts_of
from evac.estate.importers.kubernetes.source import KNATIVE, Manifests, Workload, texts
from evac.estate.importers.source_files import Growth, at, entries, items_in, word, words
from evac.model.records import dataclass

Target = tuple[str, str]
"""`service` or `store`, and its id."""

_WITH_PORT: Final = re.compile(r"(?<![\w./-])([A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?):\d{2,5}\b")
_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_.-][\w.-]*)\)|\$\{([A-Za-z_]\w*)\}|\$\$")
_ORDINAL: Final = re.compile(r"([a-z0-9-]+)-\d{1,4}")
_API_SERVER: Final = re.compile(r"kubernetes(?:\.default(?:\.svc.*)?)?")
_TEXT_MAX: Final = 65_536
_ROUNDS_MAX: Final = 8
"""How deep variables inside values of variables are resolved."""


@dataclass(slots=True)
class Calls:
    """Calls between services."""

    needs: dict[str, dict[Target, tuple[bool, bool]]] = field(default_factory=dict)
    """Caller -> what it calls -> (hard, needed to start)."""
    outside: dict[str, set[str]] = field(default_factory=dict)
    """Host that the source does not describe -> its callers."""

    def add(self, caller: str, target: Target, hard: bool, start: bool) -> None:
        known = self.needs.setdefault(caller, {})
        was_hard, was_start = known.get(target, (False, False))
        known[target] = (was_hard or hard, was_start or start)


@dataclass(frozen=True, slots=True)
class _Names:
    """Names inside the cluster."""

    behind: Mapping[tuple[str, str], list[Target]]
    """Namespace and name of a Service -> what is behind it."""
    aliases: Mapping[tuple[str, str], str]
    """Namespace and name of a Service -> the host that it is an alias of."""
    addresses: Mapping[str, tuple[str, str]]
    """Address inside the cluster -> namespace and name of its Service."""
    namespaces: frozenset[str]
    """Namespaces in which the source has objects."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A host given to a container."""

    host: str
    node: Node
    why: str
    """Name of the variable, or where else it is written."""
    is_sure: bool
    """Whether it is certainly an address; otherwise it counts only if a Service with that name is known."""


_POOLER: Final = "cnpg.io/poolerName"
_VISIBILITY: Final = "networking.knative.dev/visibility"
_DNS_NAME: Final = "external-dns.alpha.kubernetes.io/hostname"


def find_calls(manifests: Manifests, stores: Mapping[tuple[str, str], str], problems: Problems) -> Calls:
    """All calls. What a container needs before the main ones begin is needed to start.

    stores: namespace and name of an operator's database -> id of its store.
    """
    calls, growth = Calls(), Growth(problems)
    databases = Databases(_databases(manifests, stores))
    names = _names(manifests, stores, databases)
    configs = {(c.namespace, c.name): at(c.node, "data") for c in manifests.of("ConfigMap")}
    for workload in manifests.workloads:
        for init in (True, False):
            for container in workload.containers(init=init):
                for given in _given(container, workload, configs, growth):
                    _add_call(workload, given, init, names, calls, problems)
                for secret in _secrets(container):
                    for store in databases.with_secret(workload.namespace, secret):
                        calls.add(workload.id, ("store", store), True, init)
        for given in _mounted(workload, configs):
            _add_call(workload, given, False, names, calls, problems)
    own = published(manifests)
    for host in sorted(calls.outside.keys() & own.keys()):
        for caller in calls.outside.pop(host) - {own[host]}:
            calls.add(caller, ("service", own[host]), True, False)
    return calls


def _databases(manifests: Manifests, stores: Mapping[tuple[str, str], str]) -> Iterator[tuple[Object, str]]:
    """Operators' databases with their stores; those with invalid store names were left out."""
    for database in manifests.databases:
        store = stores.get((database.namespace, database.name))
        if store is not None:
            yield database, store


def _names(manifests: Manifests, stores: Mapping[tuple[str, str], str], databases: Databases) -> _Names:
    behind: dict[tuple[str, str], list[Target]] = {}
    aliases: dict[tuple[str, str], str] = {}
    addresses: dict[str, tuple[str, str]] = {}
    for service in manifests.of("Service"):
        key = (service.namespace, service.name)
        alias = word(service.node, "spec", "externalName")
        if alias is not None:
            aliases[key] = alias.rstrip(".")
        else:
            behind[key] = [("service", w.id) for w in workloads_behind(service, manifests)]
            addresses[word(service.node, "spec", "clusterIP") or ""] = key
    for workload in _of_knative(manifests):
        # The Service of that name only leads to the gateway of Knative.
        key = (workload.namespace, workload.object.name)
        aliases.pop(key, None)
        behind[key] = [("service", workload.id)]
    for database, store in databases:
        for host in hosts_of(database):
            if not behind.get((database.namespace, host)):
                behind[database.namespace, host] = [("store", store)]
    poolers: dict[tuple[str, str], list[Target]] = {}
    for pooler in manifests.of("Pooler"):
        found = stores.get((pooler.namespace, word(pooler.node, "spec", "cluster", "name") or ""))
        if found is not None:
            poolers[pooler.namespace, pooler.name] = [("store", found)]
    behind |= poolers
    for service in manifests.of("Service"):
        # The pods of an operator have no template in the source.
        if behind.get((service.namespace, service.name)) == []:
            selector = texts(at(service.node, "spec", "selector"))
            selected = databases.selected(service.namespace, selector)
            behind[service.namespace, service.name] = [("store", store) for store in selected] or poolers.get(
                (service.namespace, selector.get(_POOLER, "")), []
            )
    namespaces = {workload.namespace for workload in manifests.workloads}
    namespaces |= {namespace for namespace, _ in (*behind, *aliases)}
    return _Names(behind, aliases, addresses, frozenset(namespaces))


def _of_knative(manifests: Manifests) -> list[Workload]:
    return [workload for workload in manifests.workloads if workload.object.kind == KNATIVE]


def workloads_behind(service: Object, manifests: Manifests) -> list[Workload]:
    """The workloads whose pods a Service selects."""
    return manifests.with_labels(service.namespace, texts(at(service.node, "spec", "selector")))


def _given(
    container: Node, workload: Workload, configs: Mapping[tuple[str, str], Node | None], growth: Growth
) -> Iterator[_Given]:
    """Every host in a container's variables, command and arguments."""
    variables = dict(variables_of(container, workload, configs))
    if not growth.takes(len(variables), container.place):
        return
    values = {name: node.text[:_TEXT_MAX] for name, node in variables.items()}
    for name, node in variables.items():
        text = _filled(node, values, growth)
        for host, is_sure in containers.hosts_of_variable(name, text):
            yield _Given(host, node, name, is_sure)
    for key in ("command", "args"):
        items = at(container, key)
        for node in items.items if items is not None and items.kind == LIST else ():
            text = _filled(node, values, growth)
            for host in containers.hosts_in(text):
                yield _Given(host, node, key, True)
            for match in _WITH_PORT.finditer(text):
                yield _Given(match[1], node, key, False)


def _filled(node: Node, values: Mapping[str, str], growth: Growth) -> str:
    """A text with the container's variables resolved, `$(NAME)` and `${NAME}`; unknown ones stay, and those
    that make it too long.
    """
    text = node.text[:_TEXT_MAX]

    def fill(match: re.Match[str]) -> str:
        return values.get(match[1] or match[2] or "", match[0])

    for _ in range(_ROUNDS_MAX):
        filled = growth.filled(_VARIABLE, fill, text, _TEXT_MAX, node.place) if "$" in text else None
        if filled in (None, text):
            break
        text = filled[:_TEXT_MAX]
    return text


def variables_of(
    container: Node, workload: Workload, configs: Mapping[tuple[str, str], Node | None]
) -> Iterator[tuple[str, Node]]:
    """Names and values of environment variables, those out of ConfigMaps included. Of a repeated name the
    last one counts.
    """
    sources = at(container, "envFrom")
    for item in sources.items if sources is not None and sources.kind == LIST else ():
        config = configs.get((workload.namespace, word(item, "configMapRef", "name") or ""))
        prefix = word(item, "prefix") or ""
        for name, _, value in entries(config):
            if value.kind == SCALAR:
                yield f"{prefix}{name}", value
    env = at(container, "env")
    for item in env.items if env is not None and env.kind == LIST else ():
        found, value_node = word(item, "name"), at(item, "value")
        if value_node is None:
            source = at(item, "valueFrom", "configMapKeyRef")
            config = configs.get((workload.namespace, word(source, "name") or ""))
            value_node = at(config, word(source, "key") or "")
        if found is not None and value_node is not None and value_node.kind == SCALAR:
            yield found, value_node


def _secrets(container: Node) -> Iterator[str]:
    """Names of the secrets that a container reads variables from."""
    for key, path in (("env", ("valueFrom", "secretKeyRef", "name")), ("envFrom", ("secretRef", "name"))):
        items = at(container, key)
        for item in items.items if items is not None and items.kind == LIST else ():
            name = word(item, *path)
            if name is not None:
                yield name


def _mounted(workload: Workload, configs: Mapping[tuple[str, str], Node | None]) -> Iterator[_Given]:
    """Hosts in mounted configuration files: these contain prose too, so only known names count."""
    volumes = at(workload.pod_spec, "volumes")
    for volume in volumes.items if volumes is not None and volumes.kind == LIST else ():
        name = word(volume, "configMap", "name")
        for key, _, value in entries(configs.get((workload.namespace, name or ""))):
            text = value.text[:_TEXT_MAX] if value.kind == SCALAR else ""
            for host in containers.hosts_in(text):
                yield _Given(host, value, f"{name}/{key}", False)
            for match in _WITH_PORT.finditer(text):
                yield _Given(match[1], value, f"{name}/{key}", False)


def _add_call(
    workload: Workload, given: _Given, init: bool, names: _Names, calls: Calls, problems: Problems
) -> None:
    host, key = given.host.lower().rstrip("."), None
    for _ in range(_ROUNDS_MAX):
        key = _service_key(host, workload.namespace, names)
        if key is None or key not in names.aliases:
            break
        host = names.aliases[key].lower()
        key = None
    if key is None:
        if given.is_sure and not containers.is_own_machine(host) and not _API_SERVER.fullmatch(host):
            _add_outside(workload, host, given, names, calls, problems)
        return
    behind = names.behind[key]
    if not behind and given.is_sure:
        host = host if containers.is_internal(host) else f"{key[1]}.{key[0]}.svc"
        calls.outside.setdefault(host, set()).add(workload.id)
        message = (
            f"{shown(workload.id)} calls {shown(host)} ({given.why}), but no workload is behind that service"
        )
        hint = containers.hint_undescribed(host, is_host=True)
        problems.add("import-dangling", message, given.node.place, hint, about=host)
    for target in behind:
        # Several workloads behind one Service can replace each other, so none of them is needed individually.
        if target != ("service", workload.id):
            calls.add(workload.id, target, len(behind) == 1, init)


def _add_outside(
    workload: Workload, host: str, given: _Given, names: _Names, calls: Calls, problems: Problems
) -> None:
    """Adds a host that nothing in the source matches. A host of another network needs no note; one that looks
    like a Service of the cluster may be a typo: `db.shop` names a namespace, and `db-0.db` a pod, so neither
    belongs to another company.
    """
    name, _, rest = host.partition(".")
    ordinal = _ORDINAL.fullmatch(name)
    if rest in names.namespaces:
        host = f"{host}.svc"
    elif ordinal is not None and "." not in rest and rest.startswith(ordinal[1]):
        host = f"{host}.{workload.namespace}.svc"
    elif rest and "." not in rest and not containers.PUBLIC.fullmatch(rest):
        host = f"{host}.svc"
    if "." not in host or ".svc" in host:
        message = (
            f"{shown(workload.id)} calls {shown(host)} ({given.why}), but no manifest describes that service"
        )
        hint = problems.suggest(host, [name for _, name in names.behind]) or containers.hint_undescribed(
            host, is_host=True
        )
        problems.add("import-dangling", message, given.node.place, hint, about=host)
    calls.outside.setdefault(host, set()).add(workload.id)


def _service_key(host: str, namespace: str, names: _Names) -> tuple[str, str] | None:
    """The Service that a host name means, if any. `a.b` may be a Service in another namespace, or a pod
    behind a Service in this one.
    """
    if host in names.addresses:
        return names.addresses[host]
    labels = host.split(".")
    inside = len(labels) > 2 and labels[2] == "svc"
    wanted = [(namespace, labels[0])] if len(labels) == 1 else []
    if len(labels) == 2 or inside:
        wanted.append((labels[1], labels[0]))
    if len(labels) == 2:
        wanted.append((namespace, labels[1]))
    if len(labels) > 3 and labels[3] == "svc":
        wanted.append((labels[2], labels[1]))
    if len(labels) == 3 and not inside:
        wanted.append((labels[2], labels[1]))
    return next((key for key in wanted if key in names.behind or key in names.aliases), None)


_ROUTES: Final = (
    *("Ingress", "Route", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"),
    *("VirtualService", "HTTPProxy", "IngressRoute", "IngressRouteTCP"),
)
_WITH_SERVICES: Final = frozenset({"HTTPProxy", "IngressRoute", "IngressRouteTCP"})
"""Kinds of Contour and Traefik, whose routes list `services`."""
_PARTS: Final[Mapping[str, str]] = {"Ingress": "rules", "IngressRoute": "routes", "IngressRouteTCP": "routes"}
"""Kinds whose parts have their own public names -> the list of parts."""
_RULE_OF_HOSTS: Final = re.compile(r"\b(?:Host|HostSNI)\(([^()]{1,1000})\)")
_IN_QUOTES: Final = re.compile(r"[`\"]([^`\"]{1,253})[`\"]")
_PATHS_OF_NAMES: Final = (("host",), ("virtualhost", "fqdn"))
_MESH: Final = "mesh"
"""Istio's gateway for calls inside the cluster."""


def _routes(manifests: Manifests) -> Iterator[Object]:
    """Everything that routes users to Services."""
    for item in (one for kind in _ROUTES for one in manifests.of(kind)):
        gateways = words(item.node, "spec", "gateways")
        if item.kind != "VirtualService" or any(name != _MESH for name in gateways):
            yield item


def exposed(manifests: Manifests) -> frozenset[str]:
    """Workloads that a load balancer, ingress or gateway exposes to users."""
    backends = {backend for item in _routes(manifests) for backend in _backends(item.node, item)}
    found = {
        workload.id
        for workload in _of_knative(manifests)
        if word(workload.object.node, "metadata", "labels", _VISIBILITY) != "cluster-local"
    }
    for service in manifests.of("Service"):
        if (
            word(service.node, "spec", "type") == "LoadBalancer"
            or (service.namespace, service.name) in backends
        ):
            found |= {w.id for w in workloads_behind(service, manifests)}
    return frozenset(found)


def published(manifests: Manifests) -> dict[str, str]:
    """Public names routed to a single workload -> that workload."""
    found: dict[str, set[str]] = {}
    services = {(one.namespace, one.name): one for one in manifests.of("Service")}
    gateways = {(one.namespace, one.name): one for one in manifests.of("Gateway")}
    for item in _routes(manifests):
        for part in items_in(item.node, "spec", _PARTS.get(item.kind, "")) or [item.node]:
            behind = {
                workload.id
                for key in _backends(part, item)
                if key in services
                for workload in workloads_behind(services[key], manifests)
            }
            for name in _names_in(part, item, gateways):
                found.setdefault(name.lower(), set()).update(behind)
    for workload in _of_knative(manifests):
        url = (word(workload.object.node, "status", "url") or "").lower()
        host = url.partition("://")[2].partition("/")[0].partition(":")[0]
        if host and not containers.is_internal(host):
            found.setdefault(host, set()).add(workload.id)
    for service in services.values():
        stated = (word(service.node, "metadata", "annotations", _DNS_NAME) or "").lower()
        for name in filter(None, (part.strip() for part in stated.split(","))):
            found.setdefault(name, set()).update(w.id for w in workloads_behind(service, manifests))
    return {name: next(iter(ids)) for name, ids in sorted(found.items()) if len(ids) == 1}


def _names_in(part: Node, item: Object, gateways: Mapping[tuple[str, str], Object]) -> Iterator[str]:
    """Public names of a part of a route; without any, those of its gateways."""
    stated = [word(part, "host"), *(word(item.node, "spec", *path) for path in _PATHS_OF_NAMES)]
    names = [name for name in stated if name]
    names += [name for key in ("hostnames", "hosts") for name in words(item.node, "spec", key) if name != "*"]
    for rule in _RULE_OF_HOSTS.findall(word(part, "match") or ""):
        names += _IN_QUOTES.findall(rule)
    if names or item.kind in _PARTS:
        yield from names
        return
    wanted = [
        ((word(ref, "namespace") or item.namespace, word(ref, "name") or ""), word(ref, "sectionName"))
        for ref in items_in(item.node, "spec", "parentRefs")
    ]
    for name in words(item.node, "spec", "gateways"):
        namespace, _, own = name.rpartition("/")
        wanted.append(((namespace or item.namespace, own), None))
    for gateway, section in ((gateways.get(key), section) for key, section in wanted):
        node = None if gateway is None else gateway.node
        for listener in items_in(node, "spec", "listeners"):
            hostname = word(listener, "hostname")
            if hostname is not None and section in (None, word(listener, "name")):
                yield hostname
        for server in items_in(node, "spec", "servers"):
            yield from (host.rpartition("/")[2] for host in words(server, "hosts"))


def _backends(node: Node, item: Object) -> Iterator[tuple[str, str]]:
    """Services named anywhere in a route or Ingress; the tree was bounded when read."""
    name = word(node, "backend", "service", "name") or word(node, "defaultBackend", "service", "name")
    if name is not None:
        yield item.namespace, name
    refs = [
        *items_in(node, "backendRefs"),
        *(items_in(node, "services") if item.kind in _WITH_SERVICES else ()),
    ]
    for ref in refs:
        yield word(ref, "namespace") or item.namespace, word(ref, "name") or ""
    if item.kind == "Route" and (to := word(node, "to", "name")) is not None:
        yield item.namespace, to
    if item.kind == "VirtualService" and (host := word(node, "destination", "host")) is not None:
        labels = host.split(".")
        yield labels[1] if len(labels) > 1 else item.namespace, labels[0]
    for below in [*node.items, *(value for _, value in node.fields.values())]:
        yield from _backends(below, item)
