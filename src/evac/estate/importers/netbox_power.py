"""Which power feeds a rack has, from NetBox's power feeds and the power ports of its devices.

A power feed of NetBox is one circuit, from a panel to one rack. What fails together is everything behind the
panel, so the panel is the feed of an estate. A circuit that is assigned to no rack leads to that of the power
strip, or other device, at its end. Only active circuits count.

Power ports show which servers have fewer feeds than their rack, such as one power supply. An estate has feeds
for racks only, so such a rack has the feeds that all of its servers share: it is lost with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Final

from evac.estate.format.document import Node
from evac.estate.format.problems import Problems, shown
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
"""Most power strips one behind the other."""
_FEEDS_MAX: Final = 64
"""Most feeds of a rack or device."""
_NAMED_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Wired:
    """A device in a rack. `name`: of a server that is in service, empty for all others."""

    rack: str
    """The number of its rack."""
    rack_name: str
    name: str
    place: Place


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
    doubtful: set[str] = field(default_factory=set)
    """Devices with a cable that leads to no active circuit."""
    found: dict[str, frozenset[str] | None] = field(default_factory=dict)
    """Device -> all panels from which it has power; None if that is not known."""


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
    left_out: Counter[str],
    problems: Problems,
) -> dict[str, tuple[str, ...]]:
    """Number of a rack -> its feeds, sorted; racks whose feeds are not known are left out.

    items: power feeds and power ports; devices: all in racks, by their numbers; name_of: the id for the name
    of a panel, empty if there is none; left_out: counts circuits that are not used.
    """
    wiring = _Wiring(devices)
    by_kind: dict[str, list[Node]] = {FEEDS: [], PORTS: [], "": []}
    for item in items:
        by_kind[kind_of_power(item)].append(item)
    for circuit in by_kind[FEEDS]:
        _add_circuit(circuit, wiring, name_of, left_out, problems)
    for port in by_kind[PORTS]:
        _add_port(port, wiring)
    for number, panels in wiring.of_device.items():
        if number in devices:
            wiring.of_rack.setdefault(devices[number].rack, set()).update(panels)
    inside: dict[str, list[tuple[Wired, frozenset[str]]]] = {}
    for number, device in devices.items():
        found = _panels_of(number, wiring, 0) if device.name else None
        if found:
            inside.setdefault(device.rack, []).append((device, found))
    for rack, known in inside.items():
        stated = wiring.of_rack.get(rack) or set[str]().union(*(panels for _, panels in known))
        wiring.of_rack[rack] = stated.intersection(*(panels for _, panels in known))
        fewer = sorted((one for one, panels in known if not stated <= panels), key=lambda one: one.name)
        if fewer:
            _note_fewer(fewer, stated, wiring.of_rack[rack], problems)
    many = {rack for rack, panels in wiring.of_rack.items() if len(panels) > _FEEDS_MAX}
    for rack in sorted(many):
        message = f"rack {shown(rack)} has more than {_FEEDS_MAX} feeds: they stay unknown"
        problems.add("import-skipped", message, by_kind[FEEDS][0].place, "check its power feeds in NetBox")
    return {rack: tuple(sorted(one)) for rack, one in wiring.of_rack.items() if one and rack not in many}


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
    """A power port leads to a circuit, or to the device whose outlet is at the other end of its cable."""
    number = word(port, "device", "id") or ""
    for end in _ends(port):
        is_circuit = kind_of_power(end) == FEEDS
        panel = wiring.of_circuit.get(word(end, "id") or "") if is_circuit else None
        above = word(end, "device", "id")
        if panel is not None:
            wiring.of_device.setdefault(number, set()).add(panel)
        elif above and not is_circuit:
            wiring.above.setdefault(number, set()).add(above)
        else:
            wiring.doubtful.add(number)


def _ends(item: Node) -> list[Node]:
    """What is at the other end of an object's cable: a list, or one object."""
    found = [node for key in ENDPOINTS if (node := at(item, key)) is not None]
    return [end for node in found for end in (node.items or [node]) if end.fields]


def _panels_of(device: str, wiring: _Wiring, depth: int) -> frozenset[str] | None:
    """All panels from which a device has power; None if one of its cables leads nowhere that is known."""
    if device in wiring.found:
        return wiring.found[device]
    wiring.found[device] = None  # also for a device that gives itself power
    own = wiring.of_device.get(device, set())
    above = sorted(wiring.above.get(device, ()))
    if device in wiring.doubtful or not (own or above) or depth > _STRIPS_MAX:
        return None
    found = frozenset(own)
    for one in above:
        panels = _panels_of(one, wiring, depth + 1)
        if panels is None or len(found) > _FEEDS_MAX:
            return None
        found = found | panels if found else panels
    wiring.found[device] = found
    return found


def _note_fewer(fewer: list[Wired], stated: set[str], shared: set[str], problems: Problems) -> None:
    rack, place = shown(fewer[0].rack_name), fewer[0].place
    names = ", ".join(one.name for one in fewer[:_NAMED_MAX])
    names += f" and {len(fewer) - _NAMED_MAX} more" if len(fewer) > _NAMED_MAX else ""
    if shared:
        verb = "has" if len(fewer) == 1 else "have"
        message = (
            f"{names} in rack {rack} {verb} power from fewer feeds than the rack"
            f" ({', '.join(sorted(stated))}): the rack counts as lost with {' and '.join(sorted(shared))}"
        )
        hint = "connect them to every feed, or put them into racks of their own"
        problems.add("import-feed-missing", message, place, hint)
        return
    message = f"no feed powers all servers in rack {rack} ({names} have fewer): its feeds stay unknown"
    hint = "state the feeds of the rack in the overlay, or put its servers into racks of their own"
    problems.add("import-skipped", message, place, hint)
