"""Maps a Compose file to an estate: services with their needs, and volumes of databases as stores.

A Compose file states no sites, people, tiers or objectives: these are unknown until the overlay states them.
Variables come from the `.env` file next to it, never from this process's environment, so that the same files
give the same estate everywhere. Source of the rules: the Compose Specification (interpolation, depends_on,
deploy).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.document import LIST, MAP, SCALAR, Node
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.importers import containers
from evac.estate.importers.compose.files import NAMES, Variables, as_map, only_parts, read_project
from evac.estate.importers.imported import Imported, Options, Sign, Value
from evac.estate.importers.source_files import at, entries, is_id, items_in
from evac.model.diagnostic import Place
from evac.model.units import QUANTITY_LIMIT

REPLICAS_MAX: Final = 10_000
SAME_EVERYWHERE: Final = frozenset({"docker-compose", "compose"})
"""Names of files that do not say what they describe; their folders do."""
_LINKS: Final = ("links", "external_links")
_BYTES: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([bkmgt]?)b?", re.ASCII | re.IGNORECASE)
_CORES: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_BYTES_OF: Final = {letter: 2 ** (10 * power) for power, letter in enumerate("bkmgt")}

__all__ = ("looks_like", "only_parts", "read")


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    if name in NAMES:
        return "unplaced"
    is_one = re.search(r"^services:\s*$", head, re.MULTILINE) and re.search(r"^\s+image:", head, re.MULTILINE)
    return "unplaced" if is_one else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a Compose file, or of the project in a folder; problems are added."""
    imported = Imported()
    project = read_project(source, problems)
    if project is None:
        return imported
    tree, variables = project
    services = {
        name: node
        for name, key, node in entries(tree, "services")
        if is_id(name, key.place, problems) and _is_service(name, node, problems)
    }
    known = _names(services, variables)
    outside: set[str] = set()
    for name, node in services.items():
        values, notes = _service(node, variables)
        if options.site is not None:
            imported.add("sites", options.site)
            count = values.pop("replicas", None)
            values |= {"sites": [options.site]} if count is None else {"replicas": {options.site: count}}
        needs = _needs(name, node, known, variables, outside)
        stores = _stores(name, node, tree, variables, imported)
        if needs or stores:
            values["needs"] = needs + [{"store": store} for store in stores]
        imported.add("services", name, values, "; ".join(notes))
    imported.add_undescribed({host: host for host in outside}, are_hosts=True)
    imported.examples = _examples(imported)
    return imported


def _is_service(name: str, node: Node, problems: Problems) -> bool:
    if node.kind == MAP:
        return True
    message = f"the service {shown(name)} is skipped: it is not a mapping"
    problems.add("import-skipped", message, node.place, "write its settings below its name")
    return False


def _service(node: Node, variables: Variables) -> tuple[dict[str, Value], list[str]]:
    """Values of a service, and notes for the reader of the file."""
    values: dict[str, Value] = {}
    notes = []
    if image := variables.text(at(node, "image")):
        notes.append(f"image {image}")
    if at(node, "ports") is not None:
        notes.append("publishes ports")
    by_profile = bool(items_in(node, "profiles"))
    if by_profile:
        notes.append("starts only with a profile, so its number of replicas is unknown")
    count = variables.text(at(node, "deploy", "replicas") or at(node, "scale"))
    runs_on_every_node = variables.text(at(node, "deploy", "mode")) == "global"
    if by_profile:
        count = None
    elif runs_on_every_node:
        notes.append("one replica on every node")
    elif count is None and at(node, "deploy", "replicas") is None and at(node, "scale") is None:
        values["replicas"] = 1
    elif count is not None and count.isascii() and count.isdecimal() and 0 < int(count[:9]) <= REPLICAS_MAX:
        values["replicas"] = int(count)
    demand = _demand(node, variables)
    if demand:
        values["demand"] = demand
    return values, notes


def _demand(node: Node, variables: Variables) -> dict[str, Value]:
    """Demand of one replica: its reservation or, without one, its limit."""
    amounts: dict[str, Value] = {}
    for ways, resource, parse, quantity in (
        ((("reservations", "cpus"), ("limits", "cpus")), "cpu", _millicores, q.CORES_NEEDED),
        ((("reservations", "memory"), ("limits", "memory")), "memory", _mebibytes, q.MEMORY_NEEDED),
    ):
        nodes = [at(node, "deploy", "resources", *way) for way in ways]
        nodes += [
            at(node, key) for key in (("cpus",) if resource == "cpu" else ("mem_reservation", "mem_limit"))
        ]
        stated = next((one for one in nodes if one is not None), None)
        text = variables.text(stated)
        if stated is None or text is None:
            continue
        amount = parse(text)
        if amount is None or amount > QUANTITY_LIMIT:
            variables.problems.add(
                "import-word-unknown",
                f"{shown(text)} is not an amount of {resource}",
                stated.place,
                "the demand stays unknown; use a value like 0.5 or 512M",
            )
            continue
        amounts[resource] = q.show(quantity, amount)
    return amounts


def _millicores(text: str) -> int | None:
    return _up(Fraction(text) * 1_000) if _CORES.fullmatch(text) else None


def _mebibytes(text: str) -> int | None:
    match = _BYTES.fullmatch(text)
    if match is None:
        return None
    return _up(Fraction(match[1]) * _BYTES_OF[match[2].lower() or "b"] / 2**20)


def _up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _names(services: Mapping[str, Node], variables: Variables) -> dict[str, str]:
    """Name in the project's networks -> the service with that name."""
    names: dict[str, str] = {}
    for service, node in services.items():
        aliases = [one for _, _, how in entries(node, "networks") for one in items_in(how, "aliases")]
        for stated in (at(node, "container_name"), at(node, "hostname"), *aliases):
            names.setdefault(variables.text(stated) or service, service)
    return names | {service: service for service in services}


def _needs(
    name: str, node: Node, known: Mapping[str, str], variables: Variables, outside: set[str]
) -> list[Value]:
    """Needs from `depends_on`, `links` and addresses. What it waits for at startup is needed to start; an
    address alone is needed to serve. Anything not described in the file is external, and needed softly.
    """
    found: dict[str, dict[str, Value]] = {}
    for stated, place, starts, hard in _depends_on(node, variables):
        target = known.get(stated, stated)
        if target in known and target != name:
            found[target] = {"service": target}
            if starts:
                found[target]["needed_to"] = "start"
            if not hard:
                found[target]["hard"] = False
        elif target != name and is_id(target, place, Problems()):
            outside.add(target)
            found[target] = {"service": target, "hard": False}
            message = f"{shown(name)} depends on {shown(target)}, which the file does not describe"
            hint_here = variables.problems.suggest(target, sorted({*known.values()}))
            hint_here = hint_here or containers.hint_undescribed(target, is_host=True)
            variables.problems.add("import-dangling", message, place, hint_here, about=target)
    linked = {alias: service for key in _LINKS for alias, service, _ in _links(node, key)}
    for host, place, is_sure in _addresses(node, variables):
        target = linked.get(host, host)
        target = known.get(target, target)
        if target in known or target in found:
            if target != name:
                found.setdefault(target, {"service": target})
        elif is_sure and not containers.is_own_machine(host) and ID.fullmatch(host) and len(host) <= ID_MAX:
            if host not in outside and "." not in host:
                message = f"{shown(name)} uses the address {shown(host)}, which the file does not describe"
                hint_here = variables.problems.suggest(host, sorted(known))
                hint_here = hint_here or containers.hint_undescribed(host, is_host=True)
                variables.problems.add("import-dangling", message, place, hint_here, about=host)
            outside.add(host)
            found.setdefault(host, {"service": host, "hard": False})
    return [dict(found[target]) for target in sorted(found)]


def _depends_on(node: Node, variables: Variables) -> Iterator[tuple[str, Place, bool, bool]]:
    """(service, place, whether it must serve before the start, whether it is required)."""
    stated = at(node, "depends_on")
    for target, key, how in entries(stated):
        condition = variables.text(at(how, "condition")) or "service_started"
        yield (
            target,
            key.place,
            condition != "service_started",
            variables.text(at(how, "required")) != "false",
        )
    for item in stated.items if stated is not None and stated.kind == LIST else ():
        yield item.text, item.place, False, True
    for way in _LINKS:
        for _, service, place in _links(node, way):
            yield service, place, False, way == "links"


def _links(node: Node, key: str) -> Iterator[tuple[str, str, Place]]:
    """(alias, service or container, place) of each link: `db` or `db:database`."""
    for item in items_in(node, key):
        service, _, alias = item.text.partition(":")
        yield alias or service, service, item.place


def _addresses(node: Node, variables: Variables) -> Iterator[tuple[str, Place, bool]]:
    """(host, place, whether it certainly is one) of every address in variables and commands."""
    environment = at(node, "environment")
    for name, _, value in entries(None if environment is None else as_map(environment)):
        text = variables.text(value) or ""
        for host, is_sure in containers.hosts_of_variable(name, text):
            yield host, value.place, is_sure
        for part in re.split(r"[\s,;/@]+", text):
            match = _HOST.match(part)
            if match is not None and (len(match[0]) == len(part) or part[len(match[0])] == ":"):
                yield match[0], value.place, False
    for stated in (at(node, key) for key in ("command", "entrypoint")):
        for item in stated.items if stated is not None and stated.kind == LIST else [stated]:
            for host in containers.hosts_in(variables.text(item) or ""):
                yield host, node.place if item is None else item.place, True


def _stores(name: str, node: Node, tree: Node, variables: Variables, imported: Imported) -> list[str]:
    """Stores of a service: its named volumes. A database without one keeps its data in its container."""
    engine = containers.engine_of_image(variables.text(at(node, "image")) or "")
    volumes = at(node, "volumes")
    declared = {volume for volume, _, _ in entries(tree, "volumes")}
    found: list[str] = []
    folders: list[str] = []
    for item in volumes.items if volumes is not None and volumes.kind == LIST else ():
        text = variables.text(item if item.kind == SCALAR else at(item, "source")) or ""
        volume = text.partition(":")[0] if item.kind == SCALAR else text
        if volume in declared and is_id(volume, item.place, variables.problems):
            known = imported.sections.get("stores", {}).get(volume)
            if known is None or engine is not None:
                imported.add("stores", volume, {"engine": engine} if engine else {}, f"volume of {name}")
            found.append(volume)
        elif volume.startswith((".", "/", "~")):
            folders.append(volume)
    if engine is not None and not found:
        store = f"{name}-data"
        comment = f"{name} has no named volume: its data is lost with its container and cannot be backed up"
        if folders:
            comment = f"{name} keeps its data in {', '.join(folders)} on its host"
        imported.add("stores", store, {"engine": engine}, comment)
        found.append(store)
    return sorted(set(found))


def _examples(imported: Imported) -> list[str]:
    """Lines for a first overlay, each valid once uncommented."""
    services = [k for k, one in imported.sections.get("services", {}).items() if one.described]
    lines = ["sites:                       # where the hosts are", "  east: {}", "  west: {}", "services:"]
    lines += [f"  {name}: {{tier: 1, people: 10 K, rto: 1 h}}" for name in sorted(services)]
    stores = sorted(imported.sections.get("stores", {}))
    if stores:
        lines += ["stores:", *(f"  {name}: {{members: [{{at: east, mode: primary}}]}}" for name in stores)]
    return lines
