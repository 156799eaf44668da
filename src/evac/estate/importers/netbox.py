"""Maps NetBox data to an estate: devices become servers in their racks and locations.

The source is the JSON of its API: the answer of `/api/dcim/devices/`, or a folder or mapping of several
(`devices`, `virtual_machines`, `locations`, `power_feeds`, `power_ports`). A location is a hall; those around
several are groups of halls. Devices that share a name, which NetBox allows at several sites, are renamed by
site. A role becomes a service unless it concerns the network or hosts of others, or is a kind of machine.

A virtual machine is a replica of its role on its device, else in the pool of its cluster, so that no capacity
counts twice. If the source has neither, the virtual machine is a server itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from evac.estate.format import quantities as q
from evac.estate.format.document import LIST, MAP, SCALAR, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers import netbox_power as power
from evac.estate.importers.csv import amount, bare, understand
from evac.estate.importers.host_words import STATES, is_general_role
from evac.estate.importers.hosts import AMOUNTS, Host, Renames, add_hosts, host_examples, id_of_text
from evac.estate.importers.imported import Imported, Options, Sign, Unknown, Value
from evac.estate.importers.json_stream import PARTS_FROM_BYTES, is_large, read_pruned
from evac.estate.importers.source_files import at, entries, is_id, items_in, read_values, word
from evac.model.diagnostic import Place
from evac.model.records import dataclass

_NO_SERVERS: Final = re.compile(
    r".*(?:switch|router|firewall|pdu|patch|console|access-?point|load-?balancer|ups|cable|panel|kvm(?!-?(?:host|hyper|node|server))).*"
    r"|(?:.*[-_ ])?(?:leaf|spine|tor|wlc|oob|wan)(?:[-_ ].*)?"
)
_HOSTS_OF_OTHERS: Final = re.compile(
    r"(?:.*[-_ ])?(?:hypervisor|esxi?|proxmox|kvm|virtuali[sz]ation|vmware|vm-?host|k8s|kubernetes)s?"
    r"(?:[-_ ].*)?"
)
"""Roles of servers that run what others describe; they are no services."""
_PLAIN_SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:#-]{0,62}", re.ASCII)
_MACHINE_URL: Final = re.compile(r"/(?:devices|virtual-machines)/[0-9a-f-]+/?$", re.ASCII)
"""Their ids are numbers, or UUIDs in Nautobot."""
_POSITION: Final = re.compile(r"(\d{1,3})(?:\.0)?", re.ASCII)
_COUNT: Final = re.compile(r"\d{1,9}", re.ASCII)
_LISTS: Final = ("results", "devices", "virtual_machines", "virtual-machines", "locations", *power.KEYS)
LOCATIONS_REFUSED: Final = "locations_refused"
MACHINES_REFUSED: Final = "virtual_machines_refused"
FEEDS_REFUSED: Final = "power_feeds_refused"
PORTS_REFUSED: Final = "power_ports_refused"
_REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    LOCATIONS_REFUSED: ("locations", "halls of one building are not grouped"),
    MACHINES_REFUSED: ("virtual machines", "they are left out"),
    FEEDS_REFUSED: ("power feeds", "feeds of racks are unknown"),
    PORTS_REFUSED: ("power ports", "servers with fewer feeds than their rack are not found"),
}
"""Set in a dump if the server did not let evac read them -> what, and what follows."""
PRUNED_FROM_BYTES: Final = PARTS_FROM_BYTES
_OF_OBJECT: Final = (
    "id",
    "url",
    "name",
    "device",
    "site",
    "location",
    "rack",
    "position",
    "status",
    "serial",
    "role",
    "device_role",
    "device_type",
    "cluster",
    "oob_ip",
    "vcpus",
    "memory",
    "parent",
    "parent_device",
    "slug",
    "u_height",
    "power_panel",
    "maximum_draw",
)
_OF_REFERENCE: Final = ("id", "slug", "name", "value", "model", "address", "parent")
_OF_END: Final = ("id", "url", "device", "power_panel")
_OF_A_MACHINE: Final = frozenset({"name", "device_type", "vcpus", "url"})
"""Every device and virtual machine has one of these fields; lists of other things may have none."""
_DEPTH_MAX: Final = 20
"""Most locations one above the other."""


@dataclass(frozen=True, slots=True)
class _Location:
    """A location: its site, its name, and the id of the one around it, if any."""

    site: str
    name: str
    parent: str


@dataclass(slots=True)
class _Dump:
    """A dump as it is read. `halls`: id of a location -> its name here, unique at its site."""

    problems: Problems
    options: Options
    halls: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    unitless: set[str] = field(default_factory=set)
    """Custom fields that were reported because they state no unit."""
    renames: Renames = field(default_factory=Renames)
    general: set[str] = field(default_factory=set)
    """Servers whose role does not say what runs on them."""


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
        tree = _tree(path, problems)
        if tree is not None:
            roots.append(tree)
            if source.is_dir() and not any(_devices(tree)) and not any(map(_is_of_use, _items(tree))):
                is_empty = any(True for _ in _lists(tree)) and not any(True for _ in _items(tree))
                message = f"{path.name} has no devices and no virtual machines: evac does not use it"
                message = f"{path.name} is an empty list" if is_empty else message
                problems.add("import-ignored", message, Place(path.name))
    found = [item for root in roots for item in _devices(root)]
    is_any = any(not _OF_A_MACHINE.isdisjoint(item.fields) for item, _ in found)
    if not is_any and not problems.has_errors:
        problems.add(
            "import-shape",
            f"no devices in {source.name}",
            Place(source.name),
            "give the response of /api/dcim/devices/?limit=0",
        )
    for key, (what, effect) in _REFUSED.items():
        if any(word(root, key) == "true" for root in roots):
            message = f"NetBox did not let this token read {what}: {effect}"
            hint = f"give the token the permission to view {what}, then import again"
            problems.add("import-skipped", message, Place(source.name), hint)
    _check_pages(roots, problems)
    locations = _locations(roots, [item for item, _ in found])
    dump = _Dump(problems, options, _hall_names(locations))
    hosts = dump.hosts
    by_id: dict[str, str] = {}
    for device in (item for item, is_virtual in found if not is_virtual):
        made = _add_host(device, dump)
        if made is not None:
            by_id[_number(device)] = made
    _add_feeds(roots, [item for item, is_virtual in found if not is_virtual], by_id, dump, imported.unknown)
    clusters: dict[str, set[str]] = {}
    for host in hosts.values():
        if {"pool", "site"} <= host.facts.keys():
            clusters.setdefault(host.facts["pool"], set()).add(host.facts["site"])
    guests: list[tuple[Node, dict[str, str], str]] = []
    for machine in (item for item, is_virtual in found if is_virtual):
        facts = _facts(machine, dump)
        below = by_id.get(word(machine, "device", "id") or "", "")
        if below or ("pool" in facts and facts["pool"] in clusters):
            guests.append((machine, facts, below))
        else:
            _add_host(machine, dump)
    below_guests = _keep_apart(guests, hosts)
    if general := tuple(sorted(dump.general - below_guests)):
        what = "servers whose role, such as server, does not say what runs on them"
        imported.unknown.append(Unknown(what, len(general), general))
    pools = add_hosts(hosts, imported)
    _add_guests(guests, clusters, pools, imported, dump.left_out)
    _add_groups(locations, dump.halls, imported)
    imported.unknown += [Unknown(what, count) for what, count in sorted(dump.left_out.items())]
    imported.examples = host_examples(imported)
    return imported


def _check_pages(roots: list[Node], problems: Problems) -> None:
    """Refuses a source that has only some of the pages of a response. Pages of the same list add up."""
    seen: dict[str, set[str]] = {}
    stated: dict[str, int] = {}
    last: dict[str, Node] = {}
    for response, key, items in (one for root in roots for one in _responses(root)):
        if items and (_is_of_use(items[0]) or not _is_other(items[0])):
            kind = _kind_of(key, items[0])
        elif key != "results":
            kind = key
        else:
            continue
        known = seen.setdefault(kind, set())
        known.update(word(item, "id") or f"at {item.place}" for item in items)
        count = word(response, "count") or ""
        if _COUNT.fullmatch(count):
            stated[kind] = max(int(count), stated.get(kind, 0))
        elif word(response, "next"):
            # Without a count, there is at least one more.
            stated[kind] = max(len(known) + 1, stated.get(kind, 0))
        last[kind] = response
    for kind, response in last.items():
        if len(seen[kind]) < stated.get(kind, 0):
            message = (
                f"{response.place.file} is one page of a list of {stated[kind]:,}; "
                f"entries in this source: {len(seen[kind]):,}"
            )
            hint = "save every page in one folder and import the folder, or import from the server itself"
            problems.add("import-truncated", message, response.place, hint)


def _kind_of(key: str, item: Node) -> str:
    """What a list holds: the path of its first object in the API, if it has one."""
    path = (word(item, "url") or "").rstrip("/").partition("/api/")[2].rpartition("/")[0]
    if path or key != "results":
        return path or key
    if _is_location(item):
        return "locations"
    if found := power.kind_of_power(item):
        return found
    return "devices" if "device_type" in item.fields else "virtual machines"


def _tree(path: Path, problems: Problems) -> Node | None:
    """The value in a file. Of a large one, only what is needed of each object is kept."""
    if is_large(path, PRUNED_FROM_BYTES):
        return read_pruned(path, pruned, problems)
    return read_values(path, problems)


def pruned(item: Any) -> Any:
    """What the importer reads of a device, a virtual machine or a location. Custom fields may hold anything,
    so only amounts are kept.
    """
    if not isinstance(item, dict):
        return None
    kept: dict[str, Any] = {}
    for name in _OF_OBJECT:
        if name in item:
            kept[name] = _reference(item[name])
    own = item.get("custom_fields")
    if isinstance(own, dict):
        kept["custom_fields"] = {
            key: value for key, value in own.items() if (known := understand(key)) and known[0] in AMOUNTS
        }
    for name in power.ENDPOINTS:
        ends = item.get(name)
        if isinstance(ends, list | dict):
            ends = ends if isinstance(ends, list) else [ends]
            kept[name] = [
                {key: _reference(end[key]) for key in _OF_END if key in end}
                for end in ends
                if isinstance(end, dict)
            ]
    return kept


def _reference(value: Any) -> Any:
    return {key: value[key] for key in _OF_REFERENCE if key in value} if isinstance(value, dict) else value


def _add_host(device: Node, dump: _Dump) -> str | None:
    """Adds a server; returns its name, or None if it is left out."""
    role, problems = _role(device), dump.problems
    if _NO_SERVERS.fullmatch(role.lower()):
        dump.left_out["network devices"] += 1
        return None
    name = word(device, "name")
    if not name:
        dump.left_out["devices without a name; left out"] += 1
        return None
    facts = _facts(device, dump)
    made = _unique(name, facts.get("site") or facts.get("pool", ""), device, dump.hosts, problems)
    if made is None:
        return None
    if "site" not in facts:
        message = f"{shown(name)} has no site; it is left out"
        problems.add("import-host-nowhere", message, device.place, "set its site in NetBox")
    if is_general_role(role):
        dump.general.add(made)
    is_other = is_general_role(role) or _HOSTS_OF_OTHERS.fullmatch(role.lower())
    is_service = role and not is_other and is_id(role, device.place, Problems())
    dump.hosts[made] = Host(facts, {role} if is_service else set())
    return made


def _add_feeds(
    roots: list[Node],
    devices: list[Node],
    by_id: Mapping[str, str],
    dump: _Dump,
    unknown: list[Unknown],
) -> None:
    """Adds the feeds of their racks to servers. A panel that has the name of a hall or rack gets another."""
    hosts = dump.hosts
    taken = {host.facts[key] for host in hosts.values() for key in ("hall", "rack") if key in host.facts}
    racks: dict[str, power.Wired] = {}
    for device in devices:
        number, rack = _number(device), word(device, "rack", "id")
        made = by_id.get(number, "")
        counts = made and hosts[made].facts.get("state") != "condemned"
        if rack:
            name, chassis = word(device, "rack", "name") or rack, word(device, "parent_device", "id") or ""
            racks[number] = power.Wired(rack, name, made if counts else "", device.place, chassis)

    def name_of(text: str, circuit: Node) -> str:
        name = id_of_text(text)
        if not name:
            message = f"{shown(text)} is not a valid name of a power panel; its feed is left out"
            dump.problems.add("import-name", message, circuit.place, "letters, digits and . _ - : @")
            return ""
        name = f"panel-{name}" if name in taken else name
        dump.renames.note("feed", text, name, circuit.place, dump.problems)
        return name

    items = [item for root in roots for item in _items(root) if power.kind_of_power(item)]
    feeds = power.feeds_of_racks(items, racks, name_of, unknown, dump.problems)
    shared: dict[tuple[str, ...], set[str]] = {}
    for number, made in by_id.items():
        found = set(feeds.get(racks[number].rack, ()) if number in racks else ())
        shared.setdefault(_rack(hosts[made]), found).intersection_update(found)
    for made in by_id.values():
        if "rack" in hosts[made].facts and (found := shared[_rack(hosts[made])]):
            hosts[made].facts["feed"] = "+".join(sorted(found))


def _rack(host: Host) -> tuple[str, ...]:
    """The rack of a host. NetBox may have several racks of one name at a site; here they are one."""
    return tuple(host.facts.get(key, "") for key in ("site", "hall", "rack"))


def _number(device: Node) -> str:
    return word(device, "id") or f"at {device.place}"


def _locations(roots: list[Node], devices: list[Node]) -> dict[str, _Location]:
    """Every location that the source names, by its id; only a list of locations says which is in which."""
    found: dict[str, _Location] = {}
    for device in devices:
        node = at(device, "location")
        number, name = word(node, "id"), _as_id(word(node, "slug") or word(node, "name"), device)
        if number and name:
            found[number] = _Location(
                word(device, "site", "slug") or "", name, word(node, "parent", "id") or ""
            )
    for item in (one for root in roots for one in _items(root) if _is_location(one)):
        number, name = word(item, "id"), _as_id(word(item, "slug") or word(item, "name"), item)
        if number and name:
            found[number] = _Location(
                word(item, "site", "slug") or "", name, word(item, "parent", "id") or ""
            )
    return found


def _above(number: str, locations: Mapping[str, _Location]) -> list[str]:
    """A location and those around it, from the inside to the outside."""
    found: list[str] = []
    while number in locations and number not in found and len(found) < _DEPTH_MAX:
        found.append(number)
        number = locations[number].parent
    return found


def _hall_names(locations: Mapping[str, _Location]) -> dict[str, str]:
    """Names of locations, unique at their site: two buildings may both have a `room-1`, in NetBox."""
    same = Counter((one.site, one.name) for one in locations.values())
    names: dict[str, str] = {}
    for number, one in locations.items():
        whole = ".".join(locations[above].name for above in reversed(_above(number, locations)))
        names[number] = one.name if same[one.site, one.name] == 1 else whole
    again = Counter((locations[number].site, name) for number, name in names.items())
    return {
        number: name if again[locations[number].site, name] == 1 else f"{name}.{number}"
        for number, name in names.items()
    }


def _add_groups(locations: Mapping[str, _Location], halls: Mapping[str, str], imported: Imported) -> None:
    """Locations around several halls, such as a building, as groups: they are lost together."""
    known = imported.sections.get("halls", {})
    inside: dict[str, set[str]] = {}
    for number in locations:
        path = f"{locations[number].site}/{halls[number]}"
        for above in _above(number, locations) if path in known else ():
            inside.setdefault(above, set()).add(path)
    taken: set[tuple[str, ...]] = set()
    for number in sorted(inside, key=lambda one: (len(_above(one, locations)), halls[one])):
        members = tuple(sorted(inside[number]))
        if len(members) > 1 and members not in taken:
            taken.add(members)
            name = f"{locations[number].site}.{halls[number]}"
            imported.add("groups", name, {"kind": "location", "members": list(members)})


def _keep_apart(guests: list[tuple[Node, dict[str, str], str]], hosts: Mapping[str, Host]) -> set[str]:
    """Removes the role of servers that run virtual machines: it is not a service. Returns these servers."""
    below, pools = {one for _, _, one in guests}, {facts.get("pool", "") for _, facts, _ in guests}
    found = {name for name, host in hosts.items() if name in below or host.facts.get("pool") in pools}
    for name in found:
        hosts[name].services.clear()
    return found


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
        elif is_general_role(role):
            left_out["virtual machines whose role, such as server, does not say what they run; left out"] += 1
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


def _lists(root: Node) -> Iterator[tuple[str, list[Node]]]:
    """Lists of objects, each with the key that it has, from a response, list or mapping."""
    if root.kind == LIST:
        yield "", root.items
    for key in _LISTS:
        found = at(root, key)
        if found is not None:
            yield key, found.items if found.kind == LIST else items_in(found, "results")


def _responses(root: Node) -> Iterator[tuple[Node, str, list[Node]]]:
    """The responses of the API in a root, each with its key and its objects."""
    for key in _LISTS:
        found = at(root, key)
        if found is not None:
            response = root if found.kind == LIST else found
            objects = items_in(root, key) or items_in(found, "results")
            yield response, key, [item for item in objects if item.kind == MAP]


def _items(root: Node) -> Iterator[Node]:
    yield from (item for _, items in _lists(root) for item in items)


def _devices(root: Node) -> Iterator[tuple[Node, bool]]:
    """Devices and virtual machines, and whether each is the latter."""
    for key, items in _lists(root):
        for item in items if key != "locations" and key not in power.KEYS else ():
            if item.kind == MAP and not _is_other(item):
                is_like_one = "vcpus" in item.fields and "device_type" not in item.fields
                yield item, key.startswith("virtual") or (is_like_one and key != "devices")


def _is_location(item: Node) -> bool:
    """Whether an object is a location; those of old versions say so by their address only."""
    url = word(item, "url") or ""
    is_one = "/dcim/locations/" in url or (
        "/api/" not in url and {"slug", "parent", "site"} <= item.fields.keys()
    )
    return is_one and word(item, "id") is not None


def _is_of_use(item: Node) -> bool:
    """Whether an object is no machine, but says more of machines."""
    return _is_location(item) or power.kind_of_power(item) != ""


def _is_other(item: Node) -> bool:
    """Whether an object is of another kind, such as a site or a rack: its address says so, or its fields."""
    url = word(item, "url") or ""
    if "/api/" in url:
        return _MACHINE_URL.search(url) is None
    if power.kind_of_power(item):
        return True
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


def _as_id(text: str | None, node: Node) -> str:
    """A name as an id: blanks become dashes; empty if it cannot be one."""
    name = "-".join((text or "").split())
    return name if name and "/" not in name and is_id(name, node.place, Problems()) else ""


def _facts(device: Node, dump: _Dump) -> dict[str, str]:
    problems, hall = dump.problems, dump.halls.get(word(device, "location", "id") or "")
    stated = {
        "site": word(device, "site", "slug") or word(device, "site", "name") or dump.options.site,
        "hall": hall or word(device, "location", "slug") or word(device, "location", "name"),
        "rack": word(device, "rack", "name"),
        "class": word(device, "device_type", "slug") or word(device, "device_type", "model"),
        "pool": word(device, "cluster", "name"),
    }
    model = stated["class"] or ""
    stated["class"] = made = id_of_text(model) or model
    facts = {meaning: name for meaning, text in stated.items() if (name := _as_id(text, device))}
    if "class" in facts:
        dump.renames.note("class", model, made, device.place, problems)
    for meaning, text in stated.items():
        if text and meaning not in facts:
            message = f"{shown(text)} is not a valid {meaning} name; it stays unknown"
            problems.add("import-name", message, device.place, "letters, digits and . _ - : @")
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
    for key, _, value in entries(device, "custom_fields"):
        meaning, unit = understand(key) or ("", None)
        if meaning not in AMOUNTS or value.kind != SCALAR or value.is_unknown or not value.text:
            continue
        stated_amount = amount(meaning, value.text, unit)
        if stated_amount is not None:
            facts.setdefault(meaning, stated_amount)
        elif key not in dump.unitless:
            dump.unitless.add(key)
            message = f"the custom field {shown(key)} has a value that is not an amount: {shown(value.text)}"
            hint = "give a plain number"
            if meaning in ("memory", "disk") and unit is None:
                hint = (
                    f"add the unit to the values, such as 128 GiB, or to the name of the field: {meaning}_gib"
                )
            problems.add("import-unit-missing", message, value.place, hint, "warning")
    return facts
