"""A recipe: a repeatable list of the sources of an estate.

    recipe: 1
    into: estate
    sources:
      east: {kind: kubernetes, from: east.json, site: fra}
      hosts: {kind: csv, from: hosts.csv, observed: 2026-11-01, good_for: 90 d}
    names: {hosts: {frankfurt: fra}}

A source can also be a server, or a cluster that a kubeconfig names; both are asked when the recipe runs:

      assets: {kind: netbox, from: "https://netbox.example", token: "env:NETBOX_TOKEN"}
      east: {kind: kubernetes, context: prod-eu1, site: fra}

Paths are relative to the recipe. Undated sources get the day on which their file was last changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from evac.estate.format.document import MAP, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import Live, Options
from evac.estate.importers.source_files import at, entries, is_id, read_tree, word, words
from evac.model.diagnostic import Place
from evac.model.records import dataclass

RECIPE_VERSION: Final = "1"
SOURCES_MAX: Final = 100
_TOP: Final = ("recipe", "into", "sources", "names")
_OF_SOURCE: Final = (
    "kind",
    "from",
    "token",
    "context",
    "kubeconfig",
    "exec",
    "site",
    "namespaces",
    "observed",
    "good_for",
)
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_SHELF_LIFE: Final = re.compile(r"\d{1,5} ?[dw]", re.ASCII)


@dataclass(frozen=True, slots=True)
class RecipeSource:
    """One source of a recipe."""

    name: str
    kind: str
    path: Path
    options: Options
    names: Mapping[str, str]
    """Name in the source -> name in the estate."""
    observed: str | None
    good_for: str | None
    place: Place
    live: Live | None = None
    """How to query it; `path` is then unused."""

    def fetched(self, path: Path) -> RecipeSource:
        """The same source with its answers in a file or folder."""
        return replace(self, path=path, observed=self.observed or changed_on(path))


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to import, and the target folder."""

    path: Path
    into: Path
    sources: tuple[RecipeSource, ...]


def read_recipe(path: Path, kinds: tuple[str, ...], problems: Problems) -> Recipe | None:
    """The recipe in a file; None, with every problem, if it cannot be run."""
    tree = read_tree(path, path.parent, problems, skip_deep=False)
    if tree is None:
        return None
    _check_keys(tree, _TOP, problems)
    if word(tree, "recipe") != RECIPE_VERSION:
        message = f"{path.name} does not start with recipe: {RECIPE_VERSION}"
        problems.add("import-shape", message, tree.place, "a recipe must start with that line; see evac init")
        return None
    listed = entries(tree, "sources")
    if not listed or len(listed) > SOURCES_MAX:
        message = f"a recipe must have 1 to {SOURCES_MAX} sources; this one has {len(listed)}"
        problems.add("import-shape", message, tree.place, "sources: {hosts: {kind: csv, from: hosts.csv}}")
        return None
    names = {
        name: {old: new.text for old, _, new in entries(value)} for name, _, value in entries(tree, "names")
    }
    for name, key, _ in entries(tree, "names"):
        if name not in {source for source, _, _ in listed}:
            hint = problems.suggest(name, [source for source, _, _ in listed])
            problems.add("name-unknown", f"no such source: {shown(name)}", key.place, hint)
    sources = [
        found
        for name, key, node in listed
        if (found := _source(name, key, node, path.parent, names.get(name, {}), kinds, problems)) is not None
    ]
    for mapping in names.values():
        for new in mapping.values():
            is_id(new, tree.place, problems, "error")
    into = path.parent / (word(tree, "into") or "estate")
    return None if problems.has_errors else Recipe(path, into, tuple(sources))


def _check_keys(node: Node, known: tuple[str, ...], problems: Problems) -> None:
    for name, key, _ in entries(node):
        if name not in known:
            hint = problems.suggest(name, known) or f"known keys: {', '.join(known)}"
            problems.add("key-unknown", f"unknown key {shown(name)}", key.place, hint)


def _source(
    name: str,
    key: Node,
    node: Node,
    folder: Path,
    names: Mapping[str, str],
    kinds: tuple[str, ...],
    problems: Problems,
) -> RecipeSource | None:
    if node.kind != MAP:
        message = f"the source {shown(name)} must be a mapping"
        problems.add("wrong-type", message, node.place, "use a value like {kind: csv, from: hosts.csv}")
        return None
    _check_keys(node, _OF_SOURCE, problems)
    kind, where = word(node, "kind"), word(node, "from")
    if kind not in kinds:
        hint = problems.suggest(kind or "", kinds) or f"kinds: {', '.join(kinds)}"
        message = f"the source {shown(name)} is of a kind that evac cannot import"
        problems.add("not-a-choice", message, (at(node, "kind") or node).place, hint)
    live = _live(node, kind, where, folder)
    if where is not None and word(node, "context") is not None:
        message = f"the source {shown(name)} has both a file and a context"
        problems.add("wrong-type", message, node.place, "keep one of them: from or context")
    if where is None and live is None:
        message = f"the source {shown(name)} has no location"
        problems.add(
            "value-missing",
            message,
            node.place,
            "add from: with a file or folder relative to the recipe, or context: NAME for a cluster",
        )
    if where is not None and "\0" in where:
        message = f"the source {shown(name)} has an empty path"
        problems.add("import-shape", message, (at(node, "from") or node).place, "give a file or a folder")
        return None
    if kind not in kinds or (where is None and live is None):
        return None
    observed, good_for = word(node, "observed"), word(node, "good_for")
    for text, pattern, field, like in (
        (observed, _DAY, "observed", "2026-11-25"),
        (good_for, _SHELF_LIFE, "good_for", "90 d"),
    ):
        if text is not None and not pattern.fullmatch(text):
            place = (at(node, field) or node).place
            problems.add(
                "not-a-date",
                f"{shown(text)} is not a valid value for {field}",
                place,
                f"use a value like {like}",
            )
    site = word(node, "site")
    if site is not None and not is_id(site, (at(node, "site") or node).place, problems, "error"):
        return None
    options = Options(site=site, namespaces=words(node, "namespaces"))
    path = folder if where is None or live is not None else folder / where
    day = observed or (changed_on(path) if live is None else None)
    return RecipeSource(name, kind, path, options, names, day, good_for, key.place, live)


def _live(node: Node, kind: str | None, where: str | None, folder: Path) -> Live | None:
    """How to query a source; None if it is a file or folder."""
    if where is not None and where.startswith(("http://", "https://")):
        return Live(address=where, token=word(node, "token"))
    context, kubeconfig = word(node, "context"), word(node, "kubeconfig")
    if kind != "kubernetes" or where is not None or context is None:
        return None
    path = None if kubeconfig is None else folder / Path(kubeconfig).expanduser()
    return Live(context=context, kubeconfig=path, plugins=words(node, "exec"))


def changed_on(path: Path) -> str | None:
    """The day on which a file, or the newest file directly in a folder, was last changed, in UTC."""
    try:
        times = [one.stat().st_mtime for one in (path.iterdir() if path.is_dir() else (path,))]
    except OSError:
        return None
    return datetime.fromtimestamp(max(times), UTC).date().isoformat() if times else None
