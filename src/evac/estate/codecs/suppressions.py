"""Findings a company has decided to live with, as a YAML file: a list, each entry with reason and end.

A missing reason or end is no error here: the audit makes a finding of it, so that it is seen where
findings are seen.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final

from evac.audit.suppression import Suppression
from evac.estate.format.document import LIST, MAP, SCALAR, Node, read_document
from evac.estate.format.problems import Problems, shown
from evac.estate.format.sources import YAML_BYTES_MAX, decode, read_bytes
from evac.model.errors import EstateError

FIELDS: Final = ("rule", "subject", "domain", "reason", "until")
ENTRIES_MAX: Final = 10_000


def read_suppressions(path: Path) -> tuple[Suppression, ...]:
    """The suppressions in a file, in its order. Raises EstateError with every problem and its place."""
    problems = Problems()
    data = read_bytes(path, path, YAML_BYTES_MAX, True, problems)
    text = None if data is None else decode(data, path.name, problems)
    root = None if text is None else read_document(text, path.name, problems)
    found = () if root is None else _entries(root, problems)
    if problems.has_errors:
        raise EstateError(problems.all(), "suppressions")
    return found


def _entries(root: Node, problems: Problems) -> tuple[Suppression, ...]:
    if root.kind == MAP and not root.fields:
        return ()
    if root.kind != LIST or len(root.items) > ENTRIES_MAX:
        problems.add("wrong-type", "suppressions are a list", root.place, "begin each entry with `- rule:`")
        return ()
    return tuple(entry for node in root.items if (entry := _entry(node, problems)) is not None)


def _entry(node: Node, problems: Problems) -> Suppression | None:
    if node.kind != MAP:
        problems.add("wrong-type", "a suppression is a mapping", node.place, f"its keys: {', '.join(FIELDS)}")
        return None
    values: dict[str, str] = {}
    until: date | None = None
    for name, (key, value) in node.fields.items():
        if name not in FIELDS:
            hint = problems.suggest(name, FIELDS)
            problems.add("key-unknown", f"a suppression has no key {shown(name)}", key.place, hint)
        elif value.kind != SCALAR:
            problems.add("wrong-type", f"{name} is a single value", value.place, "write it as text")
        elif name == "until" and not value.is_unknown:
            until = _day(value, problems)
        elif not value.is_unknown:
            values[name] = value.text
    if "rule" not in values:
        problems.add(
            "value-missing", "a suppression names no rule", node.place, "write `rule:`, a slug or a code"
        )
        return None
    return Suppression(
        rule=values["rule"],
        subject=values.get("subject", "*"),
        domain=values.get("domain", "*"),
        reason=values.get("reason", ""),
        until=until,
        place=node.place,
    )


def _day(node: Node, problems: Problems) -> date | None:
    try:
        return date.fromisoformat(node.text)
    except ValueError:
        problems.add("not-a-date", f"{shown(node.text)} is no date", node.place, "write it like 2027-01-31")
        return None
