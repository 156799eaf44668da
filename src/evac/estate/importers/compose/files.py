"""The files of a Compose project, merged as Compose merges them; says nothing about what they mean.

Source of the rules: the Compose Specification (interpolation, include, extends, merge). Only files in the
folder of the first one are read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Final

from evac.estate.format.document import LIST, MAP, SCALAR, Node, Tagged
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.source_files import Growth, at, entries, items_in, read_text, read_tree, word
from evac.model.diagnostic import Place
from evac.model.records import dataclass

NAMES: Final = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
"""Names that Compose looks for, in its order."""
OVERRIDES: Final = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
"""The first of these is merged over the file with one of those names, whichever it is."""
LIST_OF_FILES: Final = "COMPOSE_FILE"
"""The variable in `.env` that lists the files of a project."""
RESET: Final = "!reset"
_TAGS: Final = frozenset({RESET, "!override"})
ENV_BYTES_MAX: Final = 2**20
FILES_MAX: Final = 50
EXTENDS_MAX: Final = 20
_BY_NAME: Final = frozenset({"environment", "depends_on"})
"""Lists of a service that are merged by name."""

_VARIABLE: Final = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-?+])(?P<other>[^{}]*))?\})",
    re.ASCII,
)
_ENV_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)", re.ASCII)
_TEXT_MAX: Final = 65_536
_GROWTH_MAX: Final = 32 * 2**20


@dataclass(slots=True)
class Variables:
    """Values of variables, and those requested that have none. growth: of the whole project."""

    values: Mapping[str, str]
    problems: Problems
    growth: Growth
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

        filled = self.growth.filled(_VARIABLE, fill, node.text, _TEXT_MAX, node.place)
        if filled is None:
            self.growth.refuse(node.place)
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
    """The files below `root` that are read with a file: it includes or extends them, or Compose adds them."""
    tree = read_tree(path, root, Problems(), _TAGS)
    names = [word(service, "extends", "file") for _, _, service in entries(tree, "services")]
    for item in items_in(tree, "include"):
        named = [item] if item.kind == SCALAR else [at(item, "path"), *items_in(item, "path")]
        names += [one.text for one in named if one is not None]
    found = [*(_beside(path, name) for name in names if name), *_read_with(path)]
    return {one.relative_to(root).as_posix() for one in found if one is not None and one.is_relative_to(root)}


def _beside(path: Path, name: str) -> Path | None:
    """The file that another one names; None if no file can have that name."""
    return None if "\0" in name else (path.parent / name).resolve()


def read_project(source: Path, problems: Problems) -> tuple[Node, Variables] | None:
    """The project of a file or a folder, and its variables; None, with diagnostics, if it has no services.

    If `.env` next to the file names other files, they are read as the project. Each service gets the values
    of its `env_file`.
    """
    path = _file(source, problems)
    if path is None:
        return None
    path = path.parent.resolve() / path.name
    env = _env(path.with_name(".env"), problems)
    files = _Files(path.parent, problems, env, Growth(problems, _GROWTH_MAX))
    listed = _listed_in(files.env)
    is_listed = bool(listed) and (source.is_dir() or path in _read_with(path))
    tree = files.project(listed) if is_listed else files.whole(path)
    if source.is_dir():
        files.name_the_others()
    if tree is None:
        return None
    services = at(tree, "services")
    if services is None or services.kind != MAP or not services.fields:
        problems.add("import-shape", f"{path.name} has no services", tree.place, "give a Compose file")
        return None
    filled = {name: (key, files.environment(node)) for name, key, node in entries(services)}
    key = tree.fields["services"][0]
    return _with(tree, {**tree.fields, "services": (key, _with(services, filled))}), Variables(
        files.env, problems, files.growth
    )


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


def _listed_in(env: Mapping[str, str]) -> list[str]:
    text = env.get(LIST_OF_FILES, "")
    return [name.strip() for name in text.split(env.get("COMPOSE_PATH_SEPARATOR") or ":")] if text else []


def _read_with(path: Path) -> list[Path | None]:
    """Files that Compose reads with this one although it does not name them."""
    listed = [_beside(path, name) for name in _listed_in(_env(path.with_name(".env"), Problems()))]
    override = _override_of(path)
    return listed if path.resolve() in listed else [] if override is None else [override.resolve()]


def _override_of(path: Path) -> Path | None:
    """The file that Compose merges over one with a usual name without being told."""
    usual = [path.with_name(name) for name in OVERRIDES] if path.name in NAMES else []
    return next((one for one in usual if one.is_file()), None)


@dataclass(slots=True)
class _Files:
    """The files of one project: includes, overrides, and files that services extend. Only files in the first
    one's folder are read.
    """

    root: Path
    problems: Problems
    env: dict[str, str]
    growth: Growth
    trees: dict[Path, Node | None] = field(default_factory=dict)
    envs: dict[Path, dict[str, str]] = field(default_factory=dict)
    included: set[Path] = field(default_factory=set)

    def whole(self, path: Path) -> Node | None:
        """The project as Compose sees it: `extends` is resolved in each file, then others are merged."""
        tree = self._tree(path)
        if tree is None:
            return None
        override = _override_of(path)
        if override is not None and (over := self._tree(override)) is not None:
            tree = _merged(tree, over)
        self.included.add(path)
        return self._included(self._resolved(tree, path), path, self.env)

    def _included(self, tree: Node, path: Path, known: Collection[str]) -> Node:
        """A file, merged over those that it includes, and which they include in turn; each is read once.

        known: names of the variables that its including files set, which win over those of an included one.
        """
        for item in items_in(tree, "include"):
            whole: Node | None = None
            given: dict[str, str] | None = None
            for one in _listed(at(item, "path") if item.kind == MAP else item):
                other = self._other(one, path)
                if other is None or other in self.included:
                    continue
                self.included.add(other)
                stated = at(item, "project_directory")
                base = other.parent if stated is None else self._other(stated, path) or other.parent
                if given is None:
                    files = [self._other(file, path) for file in _listed(at(item, "env_file"))]
                    theirs = [_env(file, self.problems) for file in files or [base / ".env"] if file]
                    given = {k: v for values in theirs for k, v in values.items() if k not in known}
                found = self._tree(other, base)
                if found is not None:
                    found = self._included(self._resolved(found, other), other, {*known, *given})
                    whole = found if whole is None else _merged(whole, found)
            if whole is not None:
                tree = _merged(self._filled(whole, given or {}), tree)
        return tree

    def project(self, listed: list[str]) -> Node | None:
        """The files that `.env` lists, as Compose merges them: `COMPOSE_FILE`."""
        whole = None
        for name in listed:
            other = self._other(Node(SCALAR, ".env", 1, 1, name), self.root / ".env")
            found = None if other is None else self._tree(other)
            if other is None or found is None:
                continue
            self.included.add(other)
            found = self._included(self._resolved(found, other), other, self.env)
            whole = found if whole is None else _merged(whole, found)
        if whole is None:
            self.problems.add(
                "import-source-missing", f"{LIST_OF_FILES} lists no files", Place(".env", 1, 1), ""
            )
        return whole

    def environment(self, node: Node) -> Node:
        """A service with its `env_file` values merged below its own `environment`."""
        stated, fields = at(node, "env_file"), dict[str, tuple[Node, Node]]()
        for item in _listed(stated):
            named = at(item, "path") if item.kind == MAP else item
            other = None if named is None else self._other(named, self.root / ".env")
            if other is None or named is None:
                continue
            if not other.is_file() and word(item, "required") != "false":
                message = f"{shown(other.name)} does not exist, so the values that it sets are unknown"
                self.problems.add("import-skipped", message, named.place, "put it next to the Compose file")
            if other not in self.envs:
                self.envs[other] = _env(other, self.problems)
            values = self.envs[other] if self.growth.takes(len(self.envs[other]), named.place) else {}
            for key, value in values.items():
                text = Node(SCALAR, other.name, 1, 1, value)
                fields[key] = (Node(SCALAR, other.name, 1, 1, key), text)
        if not fields:
            return node
        name = Node(SCALAR, node.file, node.line, node.column, "environment")
        below = _with(Node(MAP, node.file, node.line, node.column), fields)
        own = at(node, "environment")
        whole = below if own is None else _merged(below, as_map(own))
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

    def _tree(self, path: Path, base: Path | None = None) -> Node | None:
        """A file. base: the folder that its `env_file` entries are relative to; None: that of the project."""
        if path not in self.trees:
            tree = self.trees[path] = read_tree(path, self.root, self.problems, _TAGS)
            services = [] if base in (None, self.root) else entries(tree, "services")
            listed = [one for _, _, service in services for one in _listed(at(service, "env_file"))]
            named = [at(one, "path") if one.kind == MAP else one for one in listed]
            for one in {id(one): one for one in named if one is not None}.values():
                one.text = f"{base}/{one.text}" if one.text[:1] != "/" else one.text
        return self.trees[path]

    def _other(self, node: Node, path: Path) -> Path | None:
        """A file named by another, if it may be read."""
        name = Variables(self.env, self.problems, self.growth).text(node)
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
        if stated is None or node.kind != MAP or not self.growth.takes(1, node.place):
            return node
        own = _with(node, {key: pair for key, pair in node.fields.items() if key != "extends"})
        base = stated.text if stated.kind == SCALAR else word(stated, "service") or ""
        file = at(stated, "file")
        other = path if file is None else self._other(file, path)
        found = tree if other == path else None if other is None else self._tree(other, other.parent)
        if other is None or found is None:
            return own
        if at(found, "services", base) is None or (path, name) in chain or len(chain) >= EXTENDS_MAX:
            message = f"{shown(name)} extends {shown(base)}, which does not exist, or extends it in turn"
            self.problems.add("import-dangling", message, stated.place, "only its own settings are used")
            return own
        below = self._service(base, found, other, (*chain, (path, name)))
        return _merged(below, own) if self.growth.takes(_size(below), stated.place) else own

    def _filled(self, node: Node, values: Mapping[str, str]) -> Node:
        """The same value with these variables filled in, and all others as they are."""
        own = Variables(values, Problems(), self.growth)

        def fill(match: re.Match[str]) -> str:
            is_known = (match["bare"] or match["name"]) in values
            text = own.text(Node(SCALAR, "", 1, 1, match[0])) if is_known else None
            return match[0] if text is None else text.replace("$", "$$")

        rest, seen = [node] if values else [], {id(node)}
        while rest:
            one = rest.pop()
            text = self.growth.filled(_VARIABLE, fill, one.text, _TEXT_MAX, one.place)
            if text is None:
                self.growth.refuse(one.place)
                break
            one.text = text
            below = [*one.items, *(value for _, value in one.fields.values())]
            rest += [new for new in below if id(new) not in seen]
            seen |= {id(new) for new in below}
        return node


def _size(node: Node) -> int:
    """Number of values in a value, with itself."""
    size, rest = 0, [node]
    while rest:
        one = rest.pop()
        size += 1
        rest += [*one.items, *(value for _, value in one.fields.values())]
    return size


def _listed(node: Node | None) -> list[Node]:
    """The items of a list; a single value counts as a list of one."""
    return [] if node is None else node.items if node.kind == LIST else [node]


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
            key: (name, as_map(value) if key in _BY_NAME else value) for key, name, value in entries(base)
        }
        for key, name, value in entries(over):
            new = as_map(value) if key in _BY_NAME else value
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


def as_map(node: Node) -> Node:
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
