"""Maps an Ansible inventory to an estate: hosts become servers, groups the services they run.

The source is what `ansible-inventory --list` prints: every group with its hosts, and under `_meta` the
variables of each host, those of its groups included; or the folder of a project that has it next to the
playbooks, whose `vars`, `vars_files` and roles then count as Ansible ranks them. Variables are recognised by
the column names of host lists, and gathered facts by their own names. Hosts of a group named after a place
(`site_fra`, `dc-east`), and of its subgroups, are at that site. Every other group without subgroups is a
service, unless it contains exactly the hosts of one site and these have other services. Other variables are
not read: an inventory may hold passwords.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, Final, TypeAlias

from evac.estate.format import quantities as q
from evac.estate.format.document import LIST, MAP, SCALAR, YAML_BYTES_MAX, Node, open_text, read_documents
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import Quantity, QuantityError
from evac.estate.importers.csv import bare
from evac.estate.importers.host_words import NAMES, STATES, is_general_role
from evac.estate.importers.hosts import Host, Renames, add_hosts, host_examples, id_of_text, unplaced_of
from evac.estate.importers.imported import Imported, Options, Sign
from evac.estate.importers.json_stream import PARTS_FROM_BYTES, Parts, is_large, read_in_parts
from evac.estate.importers.source_files import (
    VALUE_SIZE,
    Growth,
    at,
    entries,
    is_id,
    items_in,
    read_text,
    read_values,
    word,
)
from evac.model.diagnostic import Place
from evac.model.records import dataclass

_PLACE: Final = re.compile(
    r"(?:site|dc|datacent(?:er|re)|location|region|facility|rz|rechenzentrum|standort)[_-](.+)", re.IGNORECASE
)
_EVERYTHING: Final = frozenset({"all", "ungrouped", "_meta"})
_NAMED: Final = ("site", "hall", "rack", "class", "pool")
_GATHERED: Final[Mapping[str, tuple[str, str]]] = {
    "ansible_processor_vcpus": ("cpu", "cores"),
    "ansible_memtotal_mb": ("memory", "MiB"),
    "ansible_product_serial": ("serial", ""),
    "ansible_product_name": ("class", ""),
}
"""Facts gathered by Ansible -> their meaning and unit."""

_AMOUNTS: Final[Mapping[str, Quantity]] = {
    "cpu": q.CORES_HELD,
    "memory": q.MEMORY_HELD,
    "disk": q.DISK_HELD,
    "watts": q.POWER_NEEDED,
}
_READ: Final = (*_NAMED, "state", *_AMOUNTS)
_VARIABLES: Final = frozenset(name for meaning in _READ for name in NAMES[meaning])
_FACTS_READ: Final = tuple(name.removeprefix("ansible_") for name in _GATHERED)
_WINDOW: Final = 2**22
_SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,62}", re.ASCII)
_PLAIN_NUMBER: Final = re.compile(r"\d{1,12}(?:\.\d{1,6})?", re.ASCII)
_SECTION: Final = re.compile(r"^\[[A-Za-z_][\w.-]*(?::children|:vars)?\]\s*$", re.MULTILINE)
_HEAD: Final = 64 * 1024
_REFERENCE: Final = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}", re.ASCII)
_BLANK_IN_JSON: Final = r"(?:\s|\\[nrt])*"
_REFERENCE_IN_JSON: Final = re.compile(
    rf"\{{\{{{_BLANK_IN_JSON}([A-Za-z_]\w*?){_BLANK_IN_JSON}\}}\}}", re.ASCII
)
"""The same in the text of a JSON file, where the end of a line is two characters."""
_IN_TEMPLATE: Final = re.compile(r"\{[{%]")
_PATTERN: Final = re.compile(r"[\w.@-]+(?:[,:][\w.@-]+)*", re.ASCII)
_ROUNDS_MAX: Final = 8
_TEXT_MAX: Final = 1_000
_TAGS: Final = frozenset({"!vault", "!unsafe", "!vault-encrypted"})

Variables: TypeAlias = "Mapping[str, Node]"


def _is_in_sections(source: Path) -> bool:
    """Whether it is a hand-written inventory in INI: `[web]`, `[db:children]`."""
    file = open_text(source, source, Problems())
    if file is None:
        return False
    with file, suppress(UnicodeDecodeError):
        return _SECTION.search(file.read(_HEAD)) is not None
    return False


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    return "placed" if '"_meta"' in head and '"hostvars"' in head else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of an inventory; problems are added."""
    imported = Imported()
    project = source if source.is_dir() else None
    if project is not None:
        found = (path for path in sorted(project.glob("*.json")) if _is_inventory(path))
        source = next(found, project / "inventory.json")
    tree = None if _is_in_sections(source) else _inventory(source, project is not None, problems)
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
    growth = Growth(problems)
    groups = _Groups({name: node for name, _, node in entries(tree) if name != "_meta"}, growth)
    plays = [] if project is None else list(_plays(project, groups, problems))
    ranked = _Ranked(plays, growth)
    hosts: dict[str, Host] = {}
    places: dict[str, Place] = {}
    odd = _Odd()
    for name, key, variables in _hosts(tree):
        if name not in hosts and is_id_of_host(name, key.place, problems):
            hosts[name] = Host(_facts(*ranked.of(name, key, variables), odd, growth, problems))
            places[name] = key.place
    for text, stated in sorted(odd.templates.items()):
        count = f"{len(stated):,} host{'' if len(stated) == 1 else 's'}"
        message = f"{shown(text)} is a template that only Ansible can fill in: unknown for {count}"
        hint = "set the value for the host or its group, or import the folder of the playbooks that set it"
        problems.add("import-word-unknown", message, stated[0], hint)
    around = groups.around_places()
    for group, node in groups.nodes.items():
        if group not in around:
            _take_place(group, node.place, groups, hosts, problems)
    for group, node in groups.nodes.items():
        _take_service(group, node, hosts, problems)
    _leave_places(hosts, places, problems)
    for host in hosts.values():
        if options.site is not None:
            host.facts.setdefault("site", options.site)
    add_hosts(hosts, imported)
    imported.unplaced = unplaced_of(hosts, places)
    imported.examples = host_examples(imported)
    return imported


@dataclass(slots=True)
class _Odd:
    """Values that many hosts share and that are reported once."""

    templates: dict[str, list[Place]] = field(default_factory=dict)
    """Template that nothing here fills in -> its places."""
    renames: Renames = field(default_factory=Renames)


def _inventory(source: Path, has_plays: bool, problems: Problems) -> Node | None:
    """The value in an inventory. Of a large one, only variables that are read, or that others refer to, are
    kept; plays may refer to any.
    """
    if not is_large(source, PARTS_FROM_BYTES):
        return read_values(source, problems)
    named = None if has_plays else _referred_to(source)

    def is_needed(name: str) -> bool:
        return named is None or name in named or name in _GATHERED or bare(name) in _VARIABLES

    def pruned(around: str, value: Any) -> Any:
        if around != "hostvars" or not isinstance(value, dict):
            return value
        kept = {key: one for key, one in value.items() if not isinstance(one, list | dict) and is_needed(key)}
        facts = value.get("ansible_facts")
        if isinstance(facts, dict):
            kept["ansible_facts"] = {key: facts[key] for key in _FACTS_READ if key in facts}
        return kept

    return read_in_parts(source, Parts(frozenset({"_meta", "hostvars"}), lambda _: True, pruned), problems)


def _referred_to(source: Path) -> frozenset[str]:
    """Variables to which values refer, by a pass over the text; it ends where that cannot be JSON."""
    file = open_text(source, source, Problems())
    found: set[str] = set()
    if file is None:
        return frozenset()
    with file, suppress(UnicodeDecodeError):
        end = ""
        while text := file.read(_WINDOW):
            found.update(match[1] for match in _REFERENCE_IN_JSON.finditer(end + text))
            if "\0" in text:
                break
            end = text[-_TEXT_MAX:]
    return frozenset(found)


def _is_inventory(path: Path) -> bool:
    file = open_text(path, path, Problems())
    if file is None:
        return False
    with file, suppress(UnicodeDecodeError):
        return looks_like(path.name, file.read(_HEAD)) is not None
    return False


@dataclass(frozen=True, slots=True)
class _Groups:
    """The groups of an inventory."""

    nodes: Mapping[str, Node]
    growth: Growth

    def below(self, group: str) -> tuple[set[str], set[str]]:
        """Subgroups of a group at any depth, and all its hosts; some are missing if the source is refused."""
        found, hosts, left = {group}, set[str](), [group]
        while left:
            node = self.nodes.get(left.pop())
            own, children = items_in(node, "hosts"), items_in(node, "children")
            if node is None or not self.growth.takes(1 + len(own) + len(children), node.place):
                continue
            hosts |= {item.text for item in own}
            new = {item.text for item in children} - found
            found |= new
            left += new
        return found - {group}, hosts

    def around_places(self) -> set[str]:
        """Groups that have a place below them."""
        above: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            for item in items_in(node, "children"):
                above.setdefault(item.text, []).append(name)
        found, left = set[str](), [name for name in (*self.nodes, *above) if _PLACE.fullmatch(name)]
        while left:
            new = set(above.get(left.pop(), ())) - found
            found |= new
            left += new
        return found


@dataclass(slots=True)
class _Play:
    """What a play sets for its hosts, with higher and lower precedence than the inventory; highest first."""

    hosts: set[str]
    everywhere: bool
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)


def _plays(project: Path, groups: _Groups, problems: Problems) -> Iterator[_Play]:
    """The plays of a project's playbooks. Reads only the project's files."""
    root, below = project.resolve(), dict[str, set[str]]()
    for path in sorted((*root.glob("*.yml"), *root.glob("*.yaml"))):
        book = _tree(path, root, Place(path.name), problems)
        for play in book.items if book is not None and book.kind == LIST else ():
            pattern = _pattern(play)
            if pattern is None:
                continue
            if not _PATTERN.fullmatch(pattern):
                message = (
                    f"the hosts of a play are {shown(pattern)}, so the variables that it sets are not used"
                )
                problems.add("import-skipped", message, play.place, "name groups and hosts in the play")
                continue
            names = re.split("[,:]", pattern)
            for name in names:
                if name not in below:
                    below[name] = {name, *groups.below(name)[1]}
            size = sum(len(below[name]) for name in names) if len(names) > 1 else 1
            is_small = groups.growth.takes(size, play.place)
            known = set[str]().union(*(below[name] for name in names)) if is_small else set[str]()
            known = below[names[0]] if len(names) == 1 else known
            made = _Play(known, "all" in names)
            # A later role or file overrides an earlier one.
            for role in reversed(items_in(play, "roles")):
                _add_role(role, root, made, problems)
            for item in reversed(items_in(play, "vars_files")):
                for one in item.items[:1] if item.kind == LIST else [item]:
                    tree = _tree(path.parent / one.text, root, one.place, problems)
                    made.above += [tree] if tree is not None else []
            stated = at(play, "vars")
            made.above += [stated] if stated is not None else []
            yield made


def _pattern(play: Node) -> str | None:
    """The hosts of a play, a list as its items with commas; None if it names none."""
    found = at(play, "hosts")
    if found is None or found.is_unknown:
        return None
    if found.kind == MAP:
        return "{...}"
    parts = found.items if found.kind == LIST else [found]
    return ",".join(one.text if one.kind == SCALAR else "[...]" for one in parts)


def _add_role(role: Node, root: Path, play: _Play, problems: Problems) -> None:
    """Adds what a role sets. Most roles lack some of these files."""
    name = role.text if role.kind == SCALAR else word(role, "role") or word(role, "name") or ""
    folder = root / "roles" / name
    for part, into in (("vars", play.above), ("defaults", play.below)):
        for ending in ("yml", "yaml"):
            tree = _tree(folder / part / f"main.{ending}", root, role.place, problems, is_optional=True)
            into += [tree] if tree is not None else []


def _tree(
    path: Path, root: Path, place: Place, problems: Problems, *, is_optional: bool = False
) -> Node | None:
    """The value in a file of the project, links resolved; None if there is none, with a note unless the file
    is optional and missing.
    """
    scratch, text, roots, why = Problems(), None, None, "it is outside the folder"
    try:
        real = Path(os.path.realpath(path))
        is_inside = real.is_relative_to(root)
        if is_inside or is_optional:
            real.stat()
        text = read_text(real, root, YAML_BYTES_MAX, scratch) if is_inside else None
    except (FileNotFoundError, NotADirectoryError):
        if is_optional:
            return None
        why = f"not found: {path.name}"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its name is not valid"
    if text is not None:
        roots = read_documents(text, path.name, scratch, several=False, kept_tags=_TAGS, skip_deep=True)
    if roots is None:
        message = f"{shown(path.name)} cannot be read, so the variables that it sets are unknown"
        problems.add("import-skipped", message, place, next((one.message for one in scratch.all()), why))
    return roots[0] if roots else None


class _Ranked:
    """The variables of hosts; the one that Ansible prefers if a variable is set twice."""

    def __init__(self, plays: list[_Play], growth: Growth) -> None:
        self._plays, self._growth = plays, growth
        self._known: dict[tuple[int, ...], tuple[_Layer, _Layer]] = {}
        """Plays -> what they set above and below the inventory."""

    def of(self, host: str, key: Node, variables: Node | None) -> tuple[Variables, Variables]:
        """Those of one host by their names, and by their bare names, from the inventory (variables) and the
        plays that the host is in.
        """
        if not self._growth.takes(1 + len(self._plays) // VALUE_SIZE, key.place):
            return {}, {}
        mine = tuple(i for i, play in enumerate(self._plays) if play.everywhere or host in play.hosts)
        if mine not in self._known:
            plays = [self._plays[i] for i in mine]
            self._known[mine] = (
                self._merged([node for play in plays for node in play.above]),
                self._merged([node for play in plays for node in play.below]),
            )
        above, below = self._known[mine]
        names, bare_names = zip(
            above, _layer([variables] if variables is not None else []), below, strict=True
        )
        return ChainMap(*names), ChainMap(*bare_names)

    def _merged(self, layers: list[Node]) -> _Layer:
        return _layer([node for node in layers if self._growth.takes(1 + len(node.fields), node.place)])


_Layer: TypeAlias = "tuple[dict[str, Node], dict[str, Node]]"


def _layer(nodes: list[Node]) -> _Layer:
    """Variables by their names and by their bare names; the first that sets one counts."""
    found = {name: value for node in reversed(nodes) for name, _, value in entries(node)}
    return found, {bare(name): value for name, value in found.items()}


def is_id_of_host(name: str, place: Place, problems: Problems) -> bool:
    """Whether a name is valid for a host; invalid ones are skipped with a note."""
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


def _take_place(
    group: str, place: Place, groups: _Groups, hosts: Mapping[str, Host], problems: Problems
) -> None:
    """Puts the hosts of a place there that contains no other place, unlike a region."""
    where = _PLACE.fullmatch(group)
    if where is None or not is_id(where[1], place, Problems()):
        return
    members = groups.below(group)[1] & hosts.keys()
    at_other = {hosts[name].facts.get("site", where[1]) for name in members} - {where[1]}
    new = sorted(name for name in members if "site" not in hosts[name].facts)
    for name in new:
        hosts[name].facts["site"] = where[1]
    if at_other and new:
        sites = ", ".join(sorted(at_other))
        message = (
            f"{shown(group)} puts {', '.join(new[:4])} at {where[1]}, but its other hosts are at {sites}"
        )
        hint = "if they are the same place, use one name, or map one to the other in a recipe, under names:"
        problems.add("import-conflict", message, place, hint)


def _take_service(group: str, node: Node, hosts: Mapping[str, Host], problems: Problems) -> None:
    """A group without subgroups is a service. One also named after its site is that service's part there."""
    if group in _EVERYTHING or items_in(node, "children") or _PLACE.fullmatch(group):
        return
    members = [hosts[item.text] for item in items_in(node, "hosts") if item.text in hosts]
    if members and is_general_role(group):
        message = (
            f"the group {shown(group)} does not say what runs on its hosts: it is imported as no service"
        )
        problems.add("import-ignored", message, node.place, "if it is a service, describe it in the overlay")
        return
    sites = {host.facts.get("site", "") for host in members}
    for site in sites if len(sites) == 1 else ():
        part = (
            re.fullmatch(rf"(.+)[-_.]{re.escape(site)}|{re.escape(site)}[-_.](.+)", group) if site else None
        )
        group = (part[1] or part[2]) if part is not None else group
    if members and is_id_of_host(group, node.place, problems):
        for host in members:
            host.services.add(group)


def _leave_places(hosts: Mapping[str, Host], places: Mapping[str, Place], problems: Problems) -> None:
    """A group of all hosts of one site that all have other services is the site, not a service."""
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
                f"the group {shown(group)} contains exactly the hosts of {site}, so it "
                "is not imported as a service"
            )
            hint = "if it is a service, describe it in the overlay"
            problems.add("import-ignored", message, places[min(members[group])], hint)


def _facts(
    variables: Variables,
    known: Variables,
    odd: _Odd,
    growth: Growth,
    problems: Problems,
) -> dict[str, str]:
    """Meaningful facts in a host's variables. known: by their bare names."""
    found: dict[str, str] = {}
    asked = [(meaning, "", [known.get(name) for name in NAMES[meaning]]) for meaning in _READ]
    gathered = variables.get("ansible_facts")
    asked += [
        (meaning, unit, [variables.get(name), at(gathered, name.removeprefix("ansible_"))])
        for name, (meaning, unit) in _GATHERED.items()
    ]
    for meaning, unit, nodes in asked:
        for node in nodes if meaning not in found else ():
            text = "" if node is None else _filled(node, variables, growth)
            if node is not None and _IN_TEMPLATE.search(text):
                odd.templates.setdefault(text, []).append(node.place)
            elif node is not None and (value := _fact(meaning, unit, text, node, problems)) is not None:
                if meaning == "class":
                    odd.renames.note("class", text, value, node.place, problems)
                found[meaning] = value
                break
    return found


def _filled(node: Node, variables: Variables, growth: Growth) -> str:
    """The text of a value; replaces a variable that it names if that is a single value, and no long one."""
    text = (word(node) or "").strip()

    def fill(match: re.Match[str]) -> str:
        return word(variables.get(match[1])) or match[0]

    for _ in range(_ROUNDS_MAX):
        filled = growth.filled(_REFERENCE, fill, text, _TEXT_MAX, node.place)
        if filled in (None, text, "") or len(text) > _TEXT_MAX:
            break
        text = filled
    return text.strip()


def _fact(meaning: str, unit: str, text: str, node: Node, problems: Problems) -> str | None:
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
    name = id_of_text(text) if meaning == "class" else "-".join(text.split())
    if is_id(name, node.place, Problems()) and ("/" not in name or meaning == "rack"):
        return name
    message = f"{shown(text)} is not a valid {meaning} name; it stays unknown"
    problems.add("import-name", message, node.place, "letters, digits and . _ - : @")
    return None
