"""What changed between two imports: facts by name, compared and sorted.

Works on the texts of two imports, so that yesterday's files need no memory of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evac.estate.format.document import LIST, MAP, Node, read_document
from evac.estate.format.problems import Problems

_NOUNS: Final[Mapping[str, str]] = {
    "sites": "site",
    "classes": "class",
    "pools": "pool",
    "services": "service",
    "stores": "store",
}
_SHOWN_MAX: Final = 80


def facts_of(document: str, tables: Mapping[str, str]) -> dict[str, str]:
    """Name of a fact -> its value as text. `document`: an imported YAML file; `tables`: CSV texts by name.

    Names are `service pay`, `service pay: tier`, `need pay -> store ledger`, `replica pay on web-1`.
    """
    facts: dict[str, str] = {}
    root = read_document(document, "before", Problems())
    for section, (_, node) in root.fields.items() if root is not None and root.kind == MAP else ():
        if section in _NOUNS and node.kind == MAP:
            for name, (_, entry) in node.fields.items():
                _add_entry(_NOUNS[section], name, entry, facts)
    for table in ("racks", "servers"):
        _add_rows(table.removesuffix("s"), tables.get(table, ""), facts)
    for line in tables.get("replicas", "").splitlines()[1:]:
        service, _, rest = line.partition(",")
        target, _, count = rest.partition(",")
        facts[f"replica {service} on {target}"] = count
    return facts


def _add_entry(noun: str, name: str, entry: Node, facts: dict[str, str]) -> None:
    facts[f"{noun} {name}"] = ""
    for key, (_, value) in entry.fields.items():
        if key == "needs" and value.kind == LIST:
            for item in value.items:
                target, words = _need(item)
                facts[f"need {name} -> {target}"] = words
        elif key == "members" and value.kind == LIST:
            for item in value.items:
                at, words = _parts(item, "at")
                facts[f"copy of {name} at {at}"] = words
        elif key == "replicas" and value.kind == MAP:
            for target, (_, count) in value.fields.items():
                facts[f"replica {name} on {target}"] = _flow(count)
        else:
            facts[f"{noun} {name}: {key}"] = _flow(value)


def _need(item: Node) -> tuple[str, str]:
    kind = "store" if item.kind == MAP and "store" in item.fields else "service"
    target, words = _parts(item, kind)
    return f"{kind} {target}", words


def _parts(item: Node, key: str) -> tuple[str, str]:
    """The value of one key, and all others as text."""
    if item.kind != MAP:
        return item.text, ""
    others = [f"{k} {_flow(v)}" for k, (_, v) in item.fields.items() if k != key]
    return (_flow(item.fields[key][1]) if key in item.fields else "?"), ", ".join(others)


def _flow(node: Node) -> str:
    if node.kind == LIST:
        return f"[{', '.join(_flow(item) for item in node.items)}]"
    if node.kind == MAP:
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, (_, value) in node.fields.items()) + "}"
    return node.text


def _add_rows(noun: str, table: str, facts: dict[str, str]) -> None:
    """Imported tables quote nothing, so a comma always parts two cells."""
    lines = table.splitlines()
    columns = lines[0].split(",") if lines else []
    for line in lines[1:]:
        cells = line.split(",")
        facts[f"{noun} {cells[0]}"] = ""
        facts |= {
            f"{noun} {cells[0]}: {column}": cell
            for column, cell in zip(columns[1:], cells[1:], strict=False)
            if cell
        }


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """`+` added, `-` removed, `~` changed; a fact of a thing that came or went is not told apart."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        thing = name.partition(": ")[0]
        if thing != name and (thing in before) != (thing in after):
            continue
        if name not in before:
            lines.append(f"+ {name}{_tail(after[name])}")
        elif name not in after:
            lines.append(f"- {name}{_tail(before[name])}")
        elif before[name] != after[name]:
            lines.append(f"~ {name}: {_cut(before[name])} -> {_cut(after[name])}")
    return tuple(lines)


def _tail(value: str) -> str:
    return f" ({_cut(value)})" if value else ""


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN_MAX else value[: _SHOWN_MAX - 3] + "..."
