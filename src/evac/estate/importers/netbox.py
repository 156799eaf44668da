"""What NetBox means for an estate: devices become servers in their racks and locations.

The source is the JSON of its API: the answer of `/api/dcim/devices/`, or a folder or mapping of several
(`devices`, `virtual_machines`). Devices of one name, which NetBox allows at several sites, get other names by
their site. A role becomes a service unless it is one of the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from evac.estate.format.document import LIST, MAP, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.csv import STATES, bare
from evac.estate.importers.hosts import Host, add_hosts, host_examples
from evac.estate.importers.imported import Imported, Options, Sign, Unknown
from evac.estate.importers.source_files import at, is_id, items_in, read_values, word
from evac.model.diagnostic import Place

_NO_SERVERS: Final = re.compile(
    r".*(?:switch|router|firewall|pdu|patch|console|access-?point|load-?balancer|ups|cable|panel|kvm).*"
)
_PLAIN_SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:#-]{0,62}", re.ASCII)
_POSITION: Final = re.compile(r"(\d{1,3})(?:\.0)?", re.ASCII)


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this says, if it is a source of this kind."""
    is_answer = '"results"' in head or '"devices"' in head
    return "placed" if '"device_type"' in head and is_answer else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a dump; problems are added."""
    roots = []
    for path in sorted(source.glob("*.json")) if source.is_dir() else [source]:
        tree = read_values(path, problems)
        if tree is not None:
            roots.append(tree)
    devices = [device for root in roots for device in _devices(root)]
    if not devices and not problems.has_errors:
        problems.add(
            "import-shape",
            f"no devices in {source.name}",
            Place(source.name),
            "give the response of /api/dcim/devices/?limit=0",
        )
    return of_devices(devices, options, problems)


def of_devices(devices: list[Node], options: Options, problems: Problems) -> Imported:
    """What devices mean, wherever they come from."""
    imported = Imported()
    hosts: dict[str, Host] = {}
    nameless = others = 0
    for device in devices:
        role = word(device, "role", "slug") or word(device, "device_role", "slug") or ""
        if _NO_SERVERS.fullmatch(role.lower()):
            others += 1
            continue
        name = word(device, "name")
        if not name:
            nameless += 1
            continue
        facts = _facts(device, options, problems)
        made = _unique(name, facts.get("site", ""), device, hosts, problems)
        if made is None:
            continue
        if "site" not in facts:
            message = f"{shown(name)} has no site; it is left out"
            problems.add("import-host-nowhere", message, device.place, "set its site in NetBox")
        services = {role} if role and is_id(role, device.place, Problems()) else set()
        hosts[made] = Host(facts, services)
    add_hosts(hosts, imported)
    for what, count in (("devices without a name; left out", nameless), ("network devices", others)):
        if count:
            imported.unknown.append(Unknown(what, count))
    imported.examples = host_examples(imported)
    return imported


def _devices(root: Node) -> Iterator[Node]:
    """Devices and virtual machines: an answer of the API, a list, or a mapping of both."""
    lists = [root] if root.kind == LIST else []
    for key in ("results", "devices", "virtual_machines", "virtual-machines"):
        found = at(root, key)
        lists += [found] if found is not None else []
    for found in lists:
        items = found.items if found.kind == LIST else items_in(found, "results")
        yield from (item for item in items if item.kind == MAP)


def _unique(name: str, site: str, device: Node, hosts: dict[str, Host], problems: Problems) -> str | None:
    """A name that no other host has; None, with a word, where there is none."""
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
