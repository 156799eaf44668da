"""Maps a Compose file to an estate: services with their needs, and volumes of databases as stores.

A Compose file states no sites, people, tiers or objectives: these are unknown until the overlay states them.
Variables come from the `.env` file next to it, never from this process's environment, so that the same files
give the same estate everywhere. Source of the rules: the Compose Specification (interpolation, depends_on,
deploy).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.document import LIST, MAP, SCALAR, Node, Tagged
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.importers import containers
from evac.estate.importers.imported import Imported, Options, Sign, Value
from evac.estate.importers.source_files import at, entries, is_id, items_in, read_text, read_tree, word
from evac.model.diagnostic import Place
from evac.model.units import QUANTITY_LIMIT

NAMES: Final = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
LIST_OF_FILES: Final = "COMPOSE_FILE"
"""The variable in `.env` that lists the files of a project."""
RESET: Final = "!reset"
_TAGS: Final = frozenset({RESET, "!override"})
ENV_BYTES_MAX: Final = 2**20
REPLICAS_MAX: Final = 10_000
FILES_MAX: Final = 50
EXTENDS_MAX: Final = 20
_LINKS: Final = ("links", "external_links")
_BY_NAME: Final = frozenset({"environment", "depends_on"})
"""Lists of a service that are merged by name."""

_VARIABLE: Final = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-?+])(?P<other>[^{}]*))?\})",
    re.ASCII,
)
_ENV_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)", re.ASCII)
_BYTES: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([bkmgt]?)b?", re.ASCII | re.IGNORECASE)
_CORES: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_BYTES_OF: Final = {letter: 2 ** (10 * power) for power, letter in enumerate("bkmgt")}
_TEXT_MAX: Final = 65_536


@dataclass(slots=True)
class _Variables:
    """Values of variables, and those requested that have none."""

    values: Mapping[str, str]
    problems: Problems
    unset: set[str] = field(default_factory=set)

    def text(self, node: Node | None) -> str | None:
        """The text of a value with its variables filled in; None if it has none, or one is not set."""
        if node is None or node.kind != SCALAR or node.is_unknown:
            return None
        missing: list[str] = []

        def fill(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "$"
            name, how, other = match["bare"] or match["name"], match["how"] or "", match["other"] or ""
            value = self.values.get(name)
            is_set = value is not None and (bool(value) or not how.startswith(":"))
            if how.endswith("+"):
                return other if is_set else ""
            if is_set:
                return value or ""
            if how.endswith("-"):
                return other
            missing.append(name)
            return ""

        filled = _VARIABLE.sub(fill, node.text[:_TEXT_MAX])
        for name in missing:
            if name not in self.unset:
                self.unset.add(name)
                self.problems.add(
                    "import-word-unknown",
                    f"the variable {shown(name)} is not set",
                    node.place,
                    f"values that use it stay unknown; set {name} in the .env file next to the Compose file",
                )
        return None if missing else filled


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    if name in NAMES:
        return "unplaced"
    is_one = re.search(r"^services:\s*$", head, re.MULTILINE) and re.search(r"^\s+image:", head, re.MULTILINE)
    return "unplaced" if is_one else None


def only_parts(folder: Path, paths: Collection[str]) -> dict[str, str]:
    """Files that are no source by themselves, each with what to do. Parts of others need nothing: of files
    that name each other, one is no part, and a usual name is only one of a file that is read. Compose reads
    any other file only if its name is usual, or the user names it.
    """
    parts = {where: _parts_of(folder / where, folder.resolve()) for where in sorted(paths)}
    usual = {PurePosixPath(where): where for where in parts if PurePosixPath(where).name in NAMES}
    found: dict[str, str] = {}
    for where in parts:
        if where not in usual.values() and any(
            PurePosixPath(where).with_name(name) in usual for name in NAMES
        ):
            found[where] = f"if it is part of the project, list it in {LIST_OF_FILES} in .env"
    for where in (*found, *usual.values(), *parts):
        reached = [] if found.get(where) == "" else [where]
        for one in reached:
            reached += parts.get(one, set()).difference(reached)
        root = PurePosixPath(where).parent
        stay = {name for path, name in usual.items() if where in found or not path.is_relative_to(root)}
        found |= dict.fromkeys({*reached[1:]} - stay, "")
    return found


def _parts_of(path: Path, root: Path) -> set[str]:
    """The files below `root` that a file includes, or whose services its services extend."""
    tree = read_tree(path, path.parent, Problems(), _TAGS)
    names = [word(service, "extends", "file") for _, _, service in entries(tree, "services")]
    for item in items_in(tree, "include"):
        named = [item] if item.kind == SCALAR else [at(item, "path"), *items_in(item, "path")]
        names += [one.text for one in named if one is not None]
    found = [_beside(path, name) for name in names if name]
    return {one.relative_to(root).as_posix() for one in found if one is not None and one.is_relative_to(root)}


def _beside(path: Path, name: str) -> Path | None:
    """The file that another one names; None if no file can have that name."""
    return None if "\0" in name else (path.parent / name).resolve()


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a Compose file, or of the project in a folder; problems are added."""
    imported = Imported()
    path = _file(source, problems)
    if path is None:
        return imported
    files = _Files(path.parent.resolve(), problems, _env(path.parent / ".env", problems))
    tree = files.project() if source.is_dir() and files.env.get(LIST_OF_FILES) else files.whole(path)
    if source.is_dir():
        files.name_the_others()
    if tree is None:
        return imported
    found = at(tree, "services")
    if found is None or found.kind != MAP or not found.fields:
        problems.add("import-shape", f"{path.name} has no services", tree.place, "give a Compose file")
        return imported
    variables = _Variables(files.env, problems)
    services = {
        name: files.environment(node)
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


def _file(source: Path, problems: Problems) -> Path | None:
    if not source.is_dir():
        return source
    if _env(source / ".env", Problems()).get(LIST_OF_FILES):
        return source / ".env"
    for name in NAMES:
        if (source / name).is_file():
            return source / name
    problems.add(
        "import-source-missing",
        f"no Compose file in {source.name or source}",
        Place(str(source)),
        f"it looks for {', '.join(NAMES)}",
    )
    return None


@dataclass(slots=True)
class _Files:
    """The files of one project: includes, overrides, and files that services extend. Only files in the first
    one's folder are read.
    """

    root: Path
    problems: Problems
    env: dict[str, str]
    trees: dict[Path, Node | None] = field(default_factory=dict)

    def whole(self, path: Path) -> Node | None:
        """The project as Compose sees it: `extends` is resolved in each file, then others are merged."""
        tree = self._tree(path)
        if tree is None:
            return None
        override = path.with_name(f"{path.stem}.override{path.suffix}")
        if path.name in NAMES and override.is_file() and (over := self._tree(override)) is not None:
            tree = _merged(tree, over)
        return self._included(self._resolved(tree, path), path)

    def _included(self, tree: Node, path: Path) -> Node:
        for item in items_in(tree, "include"):
            stated = at(item, "path") if item.kind == MAP else item
            for one in stated.items if stated is not None and stated.kind == LIST else [stated]:
                other = self._other(one, path) if one is not None else None
                found = None if other is None else self._tree(other)
                if other is not None and found is not None:
                    theirs = _env(other.parent / ".env", self.problems)
                    self.env |= {k: v for k, v in theirs.items() if k not in self.env}
                    if items_in(found, "include"):
                        message = f"{other.name} includes other files, which are not read"
                        self.problems.add(
                            "import-ignored", message, found.place, "include those files in the first file"
                        )
                    tree = _merged(self._resolved(found, other), tree)
        return tree

    def project(self) -> Node | None:
        """The files that `.env` lists, as Compose merges them: `COMPOSE_FILE`."""
        text, whole = self.env[LIST_OF_FILES], None
        line = Node(SCALAR, ".env", 1, 1, text)
        for name in text.split(self.env.get("COMPOSE_PATH_SEPARATOR") or ":"):
            other = self._other(Node(SCALAR, ".env", 1, 1, name.strip()), self.root / ".env")
            found = None if other is None else self._tree(other)
            if other is None or found is None:
                continue
            found = self._included(self._resolved(found, other), other)
            whole = found if whole is None else _merged(whole, found)
        if whole is None:
            self.problems.add("import-source-missing", f"{LIST_OF_FILES} lists no files", line.place, "")
        return whole

    def environment(self, node: Node) -> Node:
        """A service with its `env_file` values merged below its own `environment`."""
        stated, fields = at(node, "env_file"), dict[str, tuple[Node, Node]]()
        for item in [] if stated is None else stated.items if stated.kind == LIST else [stated]:
            named = at(item, "path") if item.kind == MAP else item
            other = None if named is None else self._other(named, self.root / ".env")
            if other is None or named is None:
                continue
            if not other.is_file() and word(item, "required") != "false":
                message = f"{shown(other.name)} does not exist, so the values that it sets are unknown"
                self.problems.add("import-skipped", message, named.place, "put it next to the Compose file")
            for key, value in _env(other, self.problems).items():
                text = Node(SCALAR, other.name, 1, 1, value)
                fields[key] = (Node(SCALAR, other.name, 1, 1, key), text)
        if not fields:
            return node
        name = Node(SCALAR, node.file, node.line, node.column, "environment")
        below = _with(Node(MAP, node.file, node.line, node.column), fields)
        own = at(node, "environment")
        whole = below if own is None else _merged(below, _as_map(own))
        return _with(node, {**node.fields, "environment": (name, whole)})

    def name_the_others(self) -> None:
        """Notes files in the folder that look like parts of the project and are not read."""
        read, others = {path.name for path in self.trees}, []
        for path in sorted({*self.root.glob("*.yaml"), *self.root.glob("*.yml")}):
            with contextlib.suppress(OSError):
                if path.name not in read and path.is_file():
                    with path.open("rb") as file:
                        is_part = re.search(rb"^services:", file.read(4_096), re.MULTILINE)
                    others += [path.name] if is_part else []
        if others:
            message = f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}: not read"
            names = ":".join((*(path.name for path in self.trees), *others[:5]))
            hint = f"if they are parts of the project, list all in .env: {LIST_OF_FILES}={names}"
            self.problems.add("import-ignored", message, Place(str(self.root.name)), hint)

    def _tree(self, path: Path) -> Node | None:
        if path not in self.trees:
            self.trees[path] = read_tree(path, self.root, self.problems, _TAGS)
        return self.trees[path]

    def _other(self, node: Node, path: Path) -> Path | None:
        """A file named by another, if it may be read."""
        name = _Variables(self.env, self.problems).text(node)
        other = None if not name else _beside(path, name)
        if other is not None and other.is_relative_to(self.root) and len(self.trees) < FILES_MAX:
            return other
        message = f"{shown(name or node.text)} is not read, so everything that it describes is missing"
        hint = "put it in the folder of the first file, or import the output of docker compose config"
        self.problems.add("import-skipped", message, node.place, hint)
        return None

    def _resolved(self, tree: Node, path: Path) -> Node:
        services = at(tree, "services")
        if services is None or not any(at(node, "extends") for _, _, node in entries(services)):
            return tree
        fields = {name: (key, self._service(name, tree, path, ())) for name, key, node in entries(services)}
        return _with(tree, {**tree.fields, "services": (tree.fields["services"][0], _with(services, fields))})

    def _service(self, name: str, tree: Node, path: Path, chain: tuple[tuple[Path, str], ...]) -> Node:
        """A service with what it extends merged below it."""
        node = tree.fields["services"][1].fields[name][1]
        stated = at(node, "extends")
        if stated is None or node.kind != MAP:
            return node
        own = _with(node, {key: pair for key, pair in node.fields.items() if key != "extends"})
        base = stated.text if stated.kind == SCALAR else word(stated, "service") or ""
        file = at(stated, "file")
        other = path if file is None else self._other(file, path)
        found = tree if other == path else None if other is None else self._tree(other)
        if other is None or found is None:
            return own
        if at(found, "services", base) is None or (path, name) in chain or len(chain) >= EXTENDS_MAX:
            message = f"{shown(name)} extends {shown(base)}, which does not exist, or extends it in turn"
            self.problems.add("import-dangling", message, stated.place, "only its own settings are used")
            return own
        return _merged(self._service(base, found, other, (*chain, (path, name))), own)


def _with(node: Node, fields: dict[str, tuple[Node, Node]]) -> Node:
    made = Node(node.kind, node.file, node.line, node.column)
    made.fields = fields
    return made


def _merged(base: Node, over: Node) -> Node:
    """Merges as Compose does: mappings key by key, lists appended, otherwise the later value. `!reset`
    removes a value, and `!override` replaces everything before it.
    """
    if base.kind == MAP and over.kind == MAP:
        fields = {
            key: (name, _as_map(value) if key in _BY_NAME else value) for key, name, value in entries(base)
        }
        for key, name, value in entries(over):
            new = _as_map(value) if key in _BY_NAME else value
            tag = value.tag if isinstance(value, Tagged) else ""
            if tag:
                fields.pop(key, None)
            if tag == RESET:
                continue
            fields[key] = (name, _merged(fields[key][1], new) if key in fields else new)
        return _with(over, fields)
    if base.kind == LIST and over.kind == LIST:
        made = Node(LIST, over.file, over.line, over.column)
        made.items = [*base.items, *over.items]
        return made
    return over


def _as_map(node: Node) -> Node:
    """A list of `NAME=VALUE` or names as a mapping."""
    if node.kind != LIST:
        return node
    fields: dict[str, tuple[Node, Node]] = {}
    for item in node.items:
        name, _, value = item.text.partition("=")
        fields[name] = (item, Node(SCALAR, item.file, item.line, item.column, value))
    made = Node(MAP, node.file, node.line, node.column)
    made.fields = fields
    return made


def _is_service(name: str, node: Node, problems: Problems) -> bool:
    if node.kind == MAP:
        return True
    problems.add("import-shape", f"the service {shown(name)} is not a mapping", node.place, "it is left out")
    return False


def _env(path: Path, problems: Problems) -> dict[str, str]:
    """The values in a file such as `.env`; none if it does not exist. Values may be quoted; `#` after a blank
    begins a comment.
    """
    if not path.is_file():
        return {}
    values: dict[str, str] = {}
    for line in (read_text(path, path.parent, ENV_BYTES_MAX, problems) or "").splitlines():
        match = _ENV_LINE.fullmatch(line.strip())
        if match is None:
            continue
        value = match[2].strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        else:
            value = re.split(r"\s#", value, maxsplit=1)[0].rstrip()
        values[match[1]] = value
    return values


def _service(node: Node, variables: _Variables) -> tuple[dict[str, Value], list[str]]:
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


def _demand(node: Node, variables: _Variables) -> dict[str, Value]:
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


def _names(services: Mapping[str, Node], variables: _Variables) -> dict[str, str]:
    """Name in the project's networks -> the service with that name."""
    names: dict[str, str] = {}
    for service, node in services.items():
        aliases = [one for _, _, how in entries(node, "networks") for one in items_in(how, "aliases")]
        for stated in (at(node, "container_name"), at(node, "hostname"), *aliases):
            names.setdefault(variables.text(stated) or service, service)
    return names | {service: service for service in services}


def _needs(
    name: str, node: Node, known: Mapping[str, str], variables: _Variables, outside: set[str]
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
            variables.problems.add("import-dangling", message, place, hint_here)
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
                variables.problems.add("import-dangling", message, place, hint_here)
            outside.add(host)
            found.setdefault(host, {"service": host, "hard": False})
    return [dict(found[target]) for target in sorted(found)]


def _depends_on(node: Node, variables: _Variables) -> Iterator[tuple[str, Place, bool, bool]]:
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


def _addresses(node: Node, variables: _Variables) -> Iterator[tuple[str, Place, bool]]:
    """(host, place, whether it certainly is one) of every address in variables and commands."""
    environment = at(node, "environment")
    for name, _, value in entries(None if environment is None else _as_map(environment)):
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


def _stores(name: str, node: Node, tree: Node, variables: _Variables, imported: Imported) -> list[str]:
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
