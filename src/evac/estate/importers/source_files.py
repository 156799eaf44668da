"""Files of a source, read within the bounds that hold for every file evac reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from evac.estate.format.document import MAP, SCALAR, Node, read_document
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.format.sources import YAML_BYTES_MAX, decode, read_bytes
from evac.model.diagnostic import Place

NAME_MAX: Final = 4_096


def read_text(
    path: Path, root: Path, limit: int, problems: Problems, *, lines_checked: bool = True
) -> str | None:
    """The text of a plain file inside `root`; None, with diagnostics, otherwise."""
    if not os.path.lexists(path):
        problems.add(
            "import-source-missing",
            f"there is no {path.name}",
            Place(str(path)),
            "check the path of the source",
        )
        return None
    data = read_bytes(path, root, limit, lines_checked, problems)
    return None if data is None else decode(data, path.name, problems)


def read_tree(path: Path, root: Path, problems: Problems) -> Node | None:
    """The mapping in a YAML file; None, with diagnostics, where there is none."""
    text = read_text(path, root, YAML_BYTES_MAX, problems)
    node = None if text is None else read_document(text, path.name, problems)
    if node is not None and node.kind != MAP:
        problems.add("import-shape", f"{path.name} is not a mapping", node.place, "is this the right file?")
        return None
    return node


def at(node: Node | None, *keys: str) -> Node | None:
    """What stands under the keys, one below the other; None where one is missing."""
    for key in keys:
        if node is None or node.kind != MAP or key not in node.fields:
            return None
        node = node.fields[key][1]
    return node


def word(node: Node | None, *keys: str) -> str | None:
    """The text under the keys; None where it is missing, unknown or no single value."""
    found = at(node, *keys)
    return None if found is None or found.kind != SCALAR or found.is_unknown else found.text


def words(node: Node | None, *keys: str) -> tuple[str, ...]:
    """The texts of the list under the keys; a single value counts as a list of one."""
    found = at(node, *keys)
    if found is None or found.is_unknown:
        return ()
    items = [found] if found.kind == SCALAR else found.items
    return tuple(item.text for item in items if item.kind == SCALAR)


def entries(node: Node | None, *keys: str) -> list[tuple[str, Node, Node]]:
    """Key, place of the key and value of every entry of the mapping under the keys."""
    found = at(node, *keys)
    if found is None or found.kind != MAP:
        return []
    return [(name, key, value) for name, (key, value) in found.fields.items()]


def is_id(name: str, place: Place, problems: Problems) -> bool:
    """Whether a name can be an id of an estate; noted where not."""
    if len(name) <= ID_MAX and ID.fullmatch(name) and "," not in name:
        return True
    hint = "ids begin with a letter or digit and hold letters, digits and . _ - : @ /"
    problems.add("import-name", f"{shown(name)} cannot be a name in an estate", place, hint)
    return False
