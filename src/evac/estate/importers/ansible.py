"""What an Ansible inventory means for an estate: hosts become servers, groups what they run.

The source is what `ansible-inventory --list` prints: every group with its hosts, and under `_meta` the
variables of each host, those of its groups included. Variables are recognised by the names that columns of a
host list have, and facts that Ansible gathered by theirs. Of a group that is called after a place
(`site_fra`, `dc-east`) its hosts are at that site, and every other group without groups in it is a service,
but for one of exactly the hosts of a site that have services without it.
Other variables are not read: an inventory may hold passwords.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.document import MAP, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import Quantity, QuantityError
from evac.estate.importers.csv import NAMES, STATES, bare
from evac.estate.importers.hosts import Host, add_hosts, host_examples
from evac.estate.importers.imported import Imported, Options, Sign
from evac.estate.importers.source_files import at, entries, is_id, items_in, open_text, read_values, word
from evac.model.diagnostic import Place

_PLACE: Final = re.compile(r"(?:site|dc|datacent(?:er|re)|location|region)[_-](.+)", re.IGNORECASE)
_EVERYTHING: Final = frozenset({"all", "ungrouped", "_meta"})
_NAMED: Final = ("site", "hall", "rack", "class", "pool")
_GATHERED: Final[Mapping[str, tuple[str, str]]] = {
    "ansible_processor_vcpus": ("cpu", "cores"),
    "ansible_memtotal_mb": ("memory", "MiB"),
    "ansible_product_serial": ("serial", ""),
    "ansible_product_name": ("class", ""),
}
"""Facts that Ansible gathers -> what they mean, and their unit."""

_AMOUNTS: Final[Mapping[str, Quantity]] = {
    "cpu": q.CORES_HELD,
    "memory": q.MEMORY_HELD,
    "disk": q.DISK_HELD,
    "watts": q.POWER_NEEDED,
}
_SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,62}", re.ASCII)
_PLAIN_NUMBER: Final = re.compile(r"\d{1,12}(?:\.\d{1,6})?", re.ASCII)
_SECTION: Final = re.compile(r"^\[[A-Za-z_][\w.-]*(?::children|:vars)?\]\s*$", re.MULTILINE)
_HEAD: Final = 64 * 1024


def _is_in_sections(source: Path) -> bool:
    """Whether it is an inventory as a person writes it, in INI: `[web]`, `[db:children]`."""
    file = open_text(source, source, Problems())
    if file is None:
        return False
    with file, suppress(UnicodeDecodeError):
        return _SECTION.search(file.read(_HEAD)) is not None
    return False


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this says, if it is a source of this kind."""
    return "placed" if '"_meta"' in head and '"hostvars"' in head else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of an inventory; problems are added."""
    imported = Imported()
    tree = None if _is_in_sections(source) else read_values(source, problems)
    if tree is None and problems.has_errors:
        return imported
    if tree is None or tree.kind != MAP or at(tree, "_meta") is None:
        problems.add(
            "import-shape",
            f"{source.name} is not the output of ansible-inventory",
            Place(source.name, 1, 1) if tree is None else tree.place,
            f"create it with: ansible-inventory -i {source.name} --list > inventory.json",
        )
        return imported
    hosts: dict[str, Host] = {}
    places: dict[str, Place] = {}
    for name, key, variables in _hosts(tree):
        if name not in hosts and is_id_of_host(name, key.place, problems):
            hosts[name] = Host(_facts(variables, problems))
            places[name] = key.place
    for group, key, node in entries(tree):
        _take_group(group, key.place, node, hosts, problems)
    _leave_places(hosts, places, problems)
    for name, host in hosts.items():
        if options.site is not None:
            host.facts.setdefault("site", options.site)
        if "site" not in host.facts:
            message = f"{shown(name)} has no site; it and its replicas are left out"
            hint = "give it a variable such as datacenter, put it in a group such as site_fra, or use --site"
            problems.add("import-host-nowhere", message, places[name], hint)
    add_hosts(hosts, imported)
    imported.examples = host_examples(imported)
    return imported


def is_id_of_host(name: str, place: Place, problems: Problems) -> bool:
    """Whether a name can be that of a host; one that cannot is skipped with a word."""
    scratch = Problems()
    if is_id(name, place, scratch) and "/" not in name:
        return True
    problems.add(
        "import-skipped",
        f"host {shown(name)} is skipped: its name is not valid in an estate",
        place,
        "letters, digits and . _ - : @",
    )
    return False


def _hosts(tree: Node) -> Iterator[tuple[str, Node, Node | None]]:
    """Every host with its variables; hosts without any are named by groups only."""
    yield from entries(tree, "_meta", "hostvars")
    for _, _, group in entries(tree):
        for item in items_in(group, "hosts"):
            yield item.text, item, None


def _take_group(group: str, place: Place, node: Node, hosts: Mapping[str, Host], problems: Problems) -> None:
    if group in _EVERYTHING or items_in(node, "children"):
        return
    members = [hosts[item.text] for item in items_in(node, "hosts") if item.text in hosts]
    where = _PLACE.fullmatch(group)
    if where is not None and is_id(where[1], place, Problems()):
        for host in members:
            host.facts.setdefault("site", where[1])
    elif members and is_id_of_host(group, place, problems):
        for host in members:
            host.services.add(group)


def _leave_places(hosts: Mapping[str, Host], places: Mapping[str, Place], problems: Problems) -> None:
    """A group of all hosts of one site, each of which has another service, is the site and no service."""
    at_site: dict[str, set[str]] = {}
    members: dict[str, set[str]] = {}
    for name, host in hosts.items():
        at_site.setdefault(host.facts.get("site", ""), set()).add(name)
        for service in host.services:
            members.setdefault(service, set()).add(name)
    whole = {frozenset(names): site for site, names in at_site.items() if site}
    found = {group: whole[frozenset(names)] for group, names in members.items() if frozenset(names) in whole}
    for group, site in sorted(found.items()):
        if all(hosts[name].services - found.keys() for name in members[group]):
            for name in members[group]:
                hosts[name].services.discard(group)
            message = (
                f"the group {shown(group)} holds exactly the hosts of {site}, so it "
                "is not imported as a service"
            )
            hint = "if it is a service, describe it in the overlay"
            problems.add("import-ignored", message, places[min(members[group])], hint)


def _facts(variables: Node | None, problems: Problems) -> dict[str, str]:
    """What the variables of a host say, of those that mean something here."""
    found: dict[str, str] = {}
    for meaning in (*_NAMED, "state", *_AMOUNTS):
        for name in NAMES[meaning]:
            node = next((value for key, _, value in entries(variables) if bare(key) == name), None)
            value = None if node is None else _fact(meaning, "", node, problems)
            if value is not None:
                found[meaning] = value
                break
    for name, (meaning, unit) in _GATHERED.items():
        node = at(variables, name) or at(variables, "ansible_facts", name.removeprefix("ansible_"))
        value = None if node is None or meaning in found else _fact(meaning, unit, node, problems)
        if value is not None:
            found[meaning] = value
    return found


def _fact(meaning: str, unit: str, node: Node, problems: Problems) -> str | None:
    text = (word(node) or "").strip()
    if not text:
        return None
    if meaning == "state":
        state = STATES.get(bare(text))
        if state is None:
            hint = "its capacity does not count until its state is known"
            problems.add("import-word-unknown", f"unknown state {shown(text)}", node.place, hint)
        return state or "condemned"
    if meaning == "serial":
        return text if _SERIAL.fullmatch(text) else None
    if meaning in _AMOUNTS:
        plain = unit or ("cores" if meaning == "cpu" else "")
        written = f"{text} {plain}" if plain and _PLAIN_NUMBER.fullmatch(text) else text
        try:
            return str(q.parse(_AMOUNTS[meaning], written))
        except QuantityError as error:
            problems.add("import-word-unknown", error.message, node.place, error.hint)
            return None
    name = "-".join(text.split())
    scratch = Problems()
    return name if is_id(name, node.place, scratch) and ("/" not in name or meaning == "rack") else None
