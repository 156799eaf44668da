"""Which power feeds a rack has, from NetBox's power feeds and the power ports of its devices.

A power feed of NetBox is one circuit, from a panel to one rack. What fails together is everything behind the
panel, so the panel is the feed of an estate. A circuit that is assigned to no rack leads to that of the power
strip, or other device, at its end. Only active circuits count.

Power ports show which servers have fewer feeds than their rack, such as one power supply. An estate has feeds
for racks only, so such a rack has the feeds that all of its servers are known to have: it is lost with them.
Servers that are off count too, because a plan may boot them. With a server without a known feed, the feeds of
its rack are unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import field
from typing import Final

from evac.estate.format.document import Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import Unknown
from evac.estate.importers.source_files import at, word
from evac.model.diagnostic import Place
from evac.model.records import dataclass

FEEDS, PORTS = "power_feeds", "power_ports"
KEYS: Final[Mapping[str, str]] = {"power-feeds": FEEDS, FEEDS: FEEDS, "power-ports": PORTS, PORTS: PORTS}
"""Keys of lists in a dump, and parts of addresses -> what they are."""
ENDPOINTS: Final = ("connected_endpoints", "connected_endpoint")
"""Where an object says what is at the other end of its cable; the second until NetBox 3.2."""
_MARKS: Final[Mapping[str, str]] = {"power_panel": FEEDS, "maximum_draw": PORTS}
"""A field that only one kind of object has -> the kind."""
_ACTIVE: Final = "active"
_NOT_IN_USE: Final = frozenset({"offline", "planned", "failed"})
_STRIPS_MAX: Final = 8
"""Most power strips one behind the other. What is behind more has no known power."""
_FEEDS_MAX: Final = 64
"""Most feeds of a rack or device."""
_NAMED_MAX: Final = 4
_UNPOWERED: Final = "servers without a known power feed; the feeds of their racks stay unknown"
_ASSUMED: Final = "servers whose power ports are not in the source; they count as on every feed of their rack"


@dataclass(frozen=True, slots=True)
class Wired:
    """A device in a rack. `name`: of a server that is not condemned, empty for all others."""

    rack: str
    """The number of its rack."""
    rack_name: str
    name: str
    place: Place
    chassis: str = ""
    """The number of the device that it is in, such as that of a blade; empty if it is in none."""


@dataclass(slots=True)
class _Wiring:
    """What leads where. Devices, racks and circuits by their numbers."""

    devices: Mapping[str, Wired]
    of_rack: dict[str, set[str]] = field(default_factory=dict)
    """Rack -> its panels."""
    of_device: dict[str, set[str]] = field(default_factory=dict)
    """Device -> panels of the circuits that end at it."""
    of_circuit: dict[str, str] = field(default_factory=dict)
    """Active circuit -> its panel."""
    above: dict[str, set[str]] = field(default_factory=dict)
    """Device -> devices that give it power."""
    with_ports: set[str] = field(default_factory=set)


def kind_of_power(item: Node) -> str:
    """`power_feeds` or `power_ports` if an object is one; empty for others. Its address says so, or a field
    that no other object has.
    """
    url = word(item, "url") or ""
    if "/api/" in url:
        return KEYS.get(url.rpartition("/api/dcim/")[2].partition("/")[0], "")
    return next((kind for mark, kind in _MARKS.items() if mark in item.fields), "")


def feeds_of_racks(
    items: Iterable[Node],
    devices: Mapping[str, Wired],
    name_of: Callable[[str, Node], str],
    unknown: list[Unknown],
    problems: Problems,
) -> dict[str, tuple[str, ...]]:
    """Number of a rack -> its feeds, sorted; racks whose feeds are not known are left out.

    items: power feeds and power ports; devices: all in racks, by their numbers; name_of: the id for the name
    of a panel, empty if there is none; unknown: gets what is not used and not known.
    """
    wiring, left_out = _Wiring(devices), Counter[str]()
    by_kind: dict[str, list[Node]] = {FEEDS: [], PORTS: [], "": []}
    for item in items:
        by_kind[kind_of_power(item)].append(item)
    for circuit in by_kind[FEEDS]:
        _add_circuit(circuit, wiring, name_of, left_out, problems)
    for port in by_kind[PORTS]:
        _add_port(port, wiring)
    unknown += [Unknown(what, count) for what, count in sorted(left_out.items())]
    for number, device in devices.items():
        if device.chassis and number not in wiring.with_ports:
            wiring.above[number] = {device.chassis}
    return _shared(wiring, bool(by_kind[PORTS]), unknown, problems)


def _shared(
    wiring: _Wiring, has_ports: bool, unknown: list[Unknown], problems: Problems
) -> dict[str, tuple[str, ...]]:
    """Number of a rack -> the feeds that all its servers are known to have. Without power ports, servers
    count as on every feed of their rack.
    """
    inside: dict[str, list[tuple[Wired, frozenset[str]]]] = {}
    found = _panels(wiring)
    for number, device in wiring.devices.items():
        inside.setdefault(device.rack, []).append((device, found.get(number, frozenset())))
        if has_ports or not device.name:
            wiring.of_rack.setdefault(device.rack, set()).update(wiring.of_device.get(number, ()))
    feeds: dict[str, tuple[str, ...]] = {}
    unpowered: list[str] = []
    assumed: list[str] = []
    for rack, members in sorted(inside.items()):
        servers = [one for one in members if one[0].name]
        known = [panels for _, panels in servers if panels]
        of_rack = wiring.of_rack.get(rack, set())
        stated = of_rack or set[str]().union(*known)
        without = [device.name for device, panels in servers if stated and not panels]
        if len(stated) > _FEEDS_MAX:
            first = members[0][0]
            message = f"rack {shown(first.rack_name)} has more than {_FEEDS_MAX} feeds: they stay unknown"
            problems.add("import-skipped", message, first.place, "check its power feeds in NetBox")
        elif without and (has_ports or not of_rack):
            unpowered += without
        elif stated:
            assumed += without
            shared = stated.intersection(*known)
            fewer = [device for device, panels in servers if panels and not stated <= panels]
            if fewer:
                _note_fewer(sorted(fewer, key=lambda one: one.name), stated, shared, problems)
            if shared:
                feeds[rack] = tuple(sorted(shared))
    if (
        has_ports
        and unpowered
        and not any(device.name and found.get(number) for number, device in wiring.devices.items())
    ):
        _note_uncabled(wiring, unpowered, problems)
    for what, names in ((_UNPOWERED, unpowered), (_ASSUMED, assumed)):
        if names:
            unknown.append(Unknown(what, len(names), tuple(sorted(names))))
    return feeds


def _add_circuit(
    circuit: Node,
    wiring: _Wiring,
    name_of: Callable[[str, Node], str],
    left_out: Counter[str],
    problems: Problems,
) -> None:
    status = word(circuit, "status", "value") or word(circuit, "status") or ""
    if status in _NOT_IN_USE:
        left_out["power feeds that are not active; left out"] += 1
        return
    if status != _ACTIVE:
        message = f"unknown state of the power feed {shown(word(circuit, 'name') or '')}: {shown(status)}"
        hint = "its rack does not count it until its state is known"
        problems.add("import-word-unknown", message, circuit.place, hint)
        return
    stated = word(circuit, "power_panel", "name") or word(circuit, "power_panel", "display") or ""
    panel, rack = name_of(stated, circuit), word(circuit, "rack", "id")
    if not panel:
        return
    wiring.of_circuit[word(circuit, "id") or ""] = panel
    ends = {number for end in _ends(circuit) if (number := word(end, "device", "id"))}
    for number in ends:
        wiring.of_device.setdefault(number, set()).add(panel)
    if rack:
        wiring.of_rack.setdefault(rack, set()).add(panel)
    elif not ends & wiring.devices.keys():
        left_out["power feeds without a rack; left out"] += 1


def _add_port(port: Node, wiring: _Wiring) -> None:
    """A power port leads to a circuit, or to the device whose outlet is at the other end of its cable. A
    circuit that is not active gives nothing.
    """
    number = word(port, "device", "id") or ""
    wiring.with_ports.add(number)
    for end in _ends(port):
        is_circuit = kind_of_power(end) == FEEDS
        panel = wiring.of_circuit.get(word(end, "id") or "") if is_circuit else None
        above = word(end, "device", "id")
        if panel is not None:
            wiring.of_device.setdefault(number, set()).add(panel)
        elif above and not is_circuit:
            wiring.above.setdefault(number, set()).add(above)


def _ends(item: Node) -> list[Node]:
    """What is at the other end of an object's cable: a list, or one object."""
    found = [node for key in ENDPOINTS if (node := at(item, key)) is not None]
    return [end for node in found for end in (node.items or [node]) if end.fields]


def _panels(wiring: _Wiring) -> dict[str, frozenset[str]]:
    """Device -> the panels from which it is known to have power. There may be others: a cable that leads
    nowhere adds none.
    """
    found = {number: _bounded(own) for number, own in wiring.of_device.items()}
    nothing = frozenset[str]()
    for _ in range(_STRIPS_MAX):
        more = {
            number: panels
            for number, above in wiring.above.items()
            if (
                panels := _bounded(
                    found.get(number, nothing).union(*(found.get(one, nothing) for one in above))
                )
            )
            != found.get(number, nothing)
        }
        if not more:
            break
        found |= more
    return found


def _bounded(panels: Collection[str]) -> frozenset[str]:
    return frozenset(panels if len(panels) <= _FEEDS_MAX else sorted(panels)[:_FEEDS_MAX])


def _note_fewer(fewer: list[Wired], stated: set[str], shared: set[str], problems: Problems) -> None:
    rack, place = shown(fewer[0].rack_name), fewer[0].place
    names = ", ".join(one.name for one in fewer[:_NAMED_MAX])
    names += f" and {len(fewer) - _NAMED_MAX} more" if len(fewer) > _NAMED_MAX else ""
    verb = "is" if len(fewer) == 1 else "are"
    rest = f"{verb} not known to have power from every feed of the rack ({', '.join(sorted(stated))})"
    if shared:
        message = (
            f"{names} in rack {rack} {rest}: the rack counts as lost with {' and '.join(sorted(shared))}"
        )
        hint = "connect them to every feed, or put them into racks of their own"
        problems.add("import-feed-missing", message, place, hint)
        return
    message = f"no feed is known to power all servers in rack {rack} ({names} {rest}): its feeds stay unknown"
    hint = "state the feeds of the rack in the overlay, or put its servers into racks of their own"
    problems.add("import-skipped", message, place, hint)


def _note_uncabled(wiring: _Wiring, unpowered: list[str], problems: Problems) -> None:
    """That NetBox has power ports, but their cables lead from no server to a power feed."""
    names = set(unpowered)
    servers = [one for one in wiring.devices.values() if one.name in names]
    racks = len({one.rack for one in servers})
    of_racks = "its rack" if racks == 1 else f"all {racks:,} racks with power feeds"
    message = (
        f"no cable leads from a power port of a server to a power feed: the feeds of {of_racks} stay unknown"
    )
    hint = "connect the power ports in NetBox, or state `feeds` under `racks` in the overlay"
    problems.add("import-feed-missing", message, min(servers, key=lambda one: one.name).place, hint)
