"""Maps NetBox data to an estate: devices become servers in their racks and locations.

The source is the JSON of its API: the answer of `/api/dcim/devices/`, or a folder or mapping of several
(`devices`, `virtual_machines`). Devices that share a name, which NetBox allows at several sites, are renamed
by site. A role becomes a service unless it concerns the network or hosts of virtual machines.

A virtual machine is a replica of its role on its device, else in the pool of its cluster, so that no capacity
counts twice. If the source has neither, the virtual machine is a server itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.document import LIST, MAP, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.csv import STATES, bare
from evac.estate.importers.hosts import Host, add_hosts, host_examples
from evac.estate.importers.imported import Imported, Options, Sign, Unknown, Value
from evac.estate.importers.source_files import at, is_id, items_in, read_values, word
from evac.model.diagnostic import Place

_NO_SERVERS: Final = re.compile(
    r".*(?:switch|router|firewall|pdu|patch|console|access-?point|load-?balancer|ups|cable|panel|kvm).*"
    r"|(?:.*[-_ ])?(?:leaf|spine|tor|wlc|oob|wan)(?:[-_ ].*)?"
)
_PLAIN_SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:#-]{0,62}", re.ASCII)
_MACHINE_URL: Final = re.compile(r"/(?:devices|virtual-machines)/[0-9a-f-]+/?$", re.ASCII)
"""Their ids are numbers, or UUIDs in Nautobot."""
_POSITION: Final = re.compile(r"(\d{1,3})(?:\.0)?", re.ASCII)
REFUSED: Final = "virtual_machines_refused"
"""Set in a dump if the server did not let evac read virtual machines."""


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    is_answer = '"results"' in head or '"devices"' in head
    is_one = '"device_type"' in head or ('"vcpus"' in head and '"cluster"' in head)
    return "placed" if is_answer and is_one else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a dump; problems are added."""
    imported = Imported()
    roots = []
    for path in sorted(source.glob("*.json")) if source.is_dir() else [source]:
        tree = read_values(path, problems)
        if tree is not None:
            roots.append(tree)
            if source.is_dir() and not any(_devices(tree)):
                message = f"{path.name} has no devices and no virtual machines: evac does not use it"
                problems.add("import-ignored", message, Place(path.name))
    found = [item for root in roots for item in _devices(root)]
    if not found and not problems.has_errors:
        problems.add(
            "import-shape",
            f"no devices in {source.name}",
            Place(source.name),
            "give the response of /api/dcim/devices/?limit=0",
        )
    if any(word(root, REFUSED) == "true" for root in roots):
        message = "NetBox did not let this token read virtual machines; they are left out"
        hint = "give the token the permission to view virtual machines, then import again"
        problems.add("import-skipped", message, Place(source.name), hint)
    left_out: Counter[str] = Counter()
    hosts: dict[str, Host] = {}
    by_id: dict[str, str] = {}
    for device in (item for item, is_virtual in found if not is_virtual):
        made = _add_host(device, options, hosts, left_out, problems)
        if made is not None and (number := word(device, "id")):
            by_id[number] = made
    clusters: dict[str, set[str]] = {}
    for host in hosts.values():
        if {"pool", "site"} <= host.facts.keys():
            clusters.setdefault(host.facts["pool"], set()).add(host.facts["site"])
    guests: list[tuple[Node, dict[str, str], str]] = []
    for machine in (item for item, is_virtual in found if is_virtual):
        facts = _facts(machine, options, problems)
        below = by_id.get(word(machine, "device", "id") or "", "")
        if below or ("pool" in facts and facts["pool"] in clusters):
            guests.append((machine, facts, below))
        else:
            _add_host(machine, options, hosts, left_out, problems)
    _keep_apart({below for _, _, below in guests}, {facts.get("pool", "") for _, facts, _ in guests}, hosts)
    pools = add_hosts(hosts, imported)
    _add_guests(guests, clusters, pools, imported, left_out)
    imported.unknown += [Unknown(what, count) for what, count in sorted(left_out.items())]
    imported.examples = host_examples(imported)
    return imported


def _add_host(
    device: Node, options: Options, hosts: dict[str, Host], left_out: Counter[str], problems: Problems
) -> str | None:
    """Adds a server; returns its name, or None if it is left out."""
    role = _role(device)
    if _NO_SERVERS.fullmatch(role.lower()):
        left_out["network devices"] += 1
        return None
    name = word(device, "name")
    if not name:
        left_out["devices without a name; left out"] += 1
        return None
    facts = _facts(device, options, problems)
    made = _unique(name, facts.get("site") or facts.get("pool", ""), device, hosts, problems)
    if made is None:
        return None
    if "site" not in facts:
        message = f"{shown(name)} has no site; it is left out"
        problems.add("import-host-nowhere", message, device.place, "set its site in NetBox")
    hosts[made] = Host(facts, {role} if role and is_id(role, device.place, Problems()) else set())
    return made


def _keep_apart(below: set[str], pools: set[str], hosts: Mapping[str, Host]) -> None:
    """Removes the role of servers that run virtual machines: it is not a service."""
    for name, host in hosts.items():
        if name in below or host.facts.get("pool") in pools:
            host.services.clear()


def _add_guests(
    guests: list[tuple[Node, dict[str, str], str]],
    clusters: Mapping[str, set[str]],
    pools: Mapping[tuple[str, str], str],
    imported: Imported,
    left_out: Counter[str],
) -> None:
    """Virtual machines as replicas of their roles; demand per replica is that of the largest machine."""
    replicas: Counter[tuple[str, str]] = Counter()
    demands: dict[str, dict[str, int]] = {}
    for machine, facts, below in guests:
        sites = clusters.get(facts.get("pool", ""), set())
        site = facts.get("site") or (next(iter(sites)) if len(sites) == 1 else "")
        target = below or pools.get((facts.get("pool", ""), site), "")
        role = _role(machine)
        if not role or not is_id(role, machine.place, Problems()):
            left_out["virtual machines without a role; left out"] += 1
        elif facts.get("state", "serving") != "serving":
            left_out["virtual machines that are not active; left out"] += 1
        elif not target:
            left_out["virtual machines whose cluster has no servers at their site; left out"] += 1
        else:
            replicas[role, target] += 1
            demand = demands.setdefault(role, {})
            for amount in ("cpu", "memory"):
                demand[amount] = max(demand.get(amount, 0), int(facts.get(amount, "0")))
    for role, demand in sorted(demands.items()):
        shows = {"cpu": q.CORES_NEEDED, "memory": q.MEMORY_NEEDED}
        amounts: dict[str, Value] = {key: q.show(shows[key], value) for key, value in demand.items() if value}
        imported.add("services", role, {"demand": amounts} if amounts else {}, "virtual machines")
    rows = imported.tables.get("replicas", [])
    replicas.update({(service, target): int(count) for service, target, count in rows})
    imported.tables["replicas"] = [(*key, str(count)) for key, count in replicas.items()]


def _role(device: Node) -> str:
    return word(device, "role", "slug") or word(device, "device_role", "slug") or ""


def _devices(root: Node) -> Iterator[tuple[Node, bool]]:
    """Devices and virtual machines, and whether each is the latter, from a response, list or mapping."""
    lists = [(root, "")] if root.kind == LIST else []
    for key in ("results", "devices", "virtual_machines", "virtual-machines"):
        found = at(root, key)
        lists += [(found, key)] if found is not None else []
    for found, key in lists:
        items = found.items if found.kind == LIST else items_in(found, "results")
        for item in items:
            if item.kind == MAP and not _is_other(item):
                is_like_one = "vcpus" in item.fields and "device_type" not in item.fields
                yield item, key.startswith("virtual") or (is_like_one and key != "devices")


def _is_other(item: Node) -> bool:
    """Whether an object is of another kind, such as a site or a rack: its address says so, or its fields."""
    url = word(item, "url") or ""
    if "/api/" in url:
        return _MACHINE_URL.search(url) is None
    return "device_type" not in item.fields and not {"slug", "u_height"}.isdisjoint(item.fields)


def _unique(name: str, site: str, device: Node, hosts: dict[str, Host], problems: Problems) -> str | None:
    """A unique host name; None, with a note, if there is none."""
    made = "-".join(name.split())
    is_second = made in hosts
    if is_second:
        made = f"{made}@{site}"
    if made in hosts:
        message = f"{shown(name)} appears twice at the same site"
        problems.add("import-twice", message, device.place, "the first is used; rename one in NetBox")
        return None
    if "/" in made or not is_id(made, device.place, Problems()):
        message = f"{shown(name)} is skipped: its name is not a valid host name"
        problems.add("import-skipped", message, device.place, "letters, digits and . _ - : @")
        return None
    if is_second:
        message = f"{shown(name)} is the name of several devices: this one is called {made}"
        problems.add("import-name-changed", message, device.place, "rename one in NetBox")
    return made


def _facts(device: Node, options: Options, problems: Problems) -> dict[str, str]:
    stated = {
        "site": word(device, "site", "slug") or word(device, "site", "name") or options.site,
        "hall": word(device, "location", "slug") or word(device, "location", "name"),
        "rack": word(device, "rack", "name"),
        "class": word(device, "device_type", "slug") or word(device, "device_type", "model"),
        "pool": word(device, "cluster", "name"),
    }
    facts = {}
    for meaning, text in stated.items():
        name = "-".join((text or "").split())
        if name and "/" not in name and is_id(name, device.place, Problems()):
            facts[meaning] = name
    state = word(device, "status", "value") or word(device, "status")
    if state is not None:
        known = STATES.get(bare(state))
        facts["state"] = known or "condemned"
        if known is None:
            hint = "its capacity does not count until its state is known"
            problems.add("import-word-unknown", f"unknown state {shown(state)}", device.place, hint)
    serial = word(device, "serial") or ""
    if _PLAIN_SERIAL.fullmatch(serial):
        facts["serial"] = serial
    position = _POSITION.fullmatch(word(device, "position") or "")
    if position is not None:
        facts["position"] = position[1]
    address = (word(device, "oob_ip", "address") or "").partition("/")[0]
    if address:
        facts["bmc"] = f"[{address}]" if ":" in address else address
    cores = word(device, "vcpus") or ""
    if re.fullmatch(r"\d{1,4}(?:\.\d{1,2})?", cores, re.ASCII):
        facts["cpu"] = str(int(float(cores) * 1_000))
    memory = word(device, "memory") or ""
    if re.fullmatch(r"\d{1,8}", memory, re.ASCII):
        facts["memory"] = memory
    return facts
