"""Findings a company has decided to live with, as a YAML file: a list, each entry with reason and end.

A missing reason or end is no error here: the audit reports it as a finding, where people look for findings.

Also the baseline file that a company starts from: only findings that are not in it fail.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any, Final

from evac.audit.findings import Baseline, Suppression
from evac.estate.format.document import LIST, MAP, SCALAR, Node, read_root
from evac.estate.format.problems import Problems, shown
from evac.model.diagnostic import SEVERITIES
from evac.model.digest import canonical_json
from evac.model.errors import EstateError, EvacError

BASELINE_VERSION: Final = 1
BASELINE_BYTES_MAX: Final = 64 * 2**20


def encode_baseline(baseline: Baseline) -> bytes:
    """Canonical JSON, one line."""
    known = [list(row) for row in baseline.known]
    body = {"kind": "evac-baseline", "schema_version": BASELINE_VERSION, "known": known}
    return canonical_json(body) + b"\n"


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. Raises EvacError `baseline-invalid` where it is none."""
    try:
        if path.stat().st_size > BASELINE_BYTES_MAX:
            raise ValueError("too large")
        document = json.loads(path.read_bytes())
        if document.get("kind") != "evac-baseline" or document.get("schema_version") != BASELINE_VERSION:
            raise ValueError("it was not written by evac audit --write-baseline")
        known = tuple(
            (_fingerprint(row[0]), SEVERITIES[SEVERITIES.index(row[1])]) for row in document["known"]
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        hint = "create one: evac audit ESTATE --write-baseline FILE"
        why = error.strerror if isinstance(error, OSError) else str(error)[:200]
        raise EvacError("baseline-invalid", f"{path} is not a baseline: {why}", hint) from error
    return Baseline(known)


def _fingerprint(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError("a fingerprint is not text")
    return value


FIELDS: Final = ("rule", "subject", "domain", "reason", "until")
ENTRIES_MAX: Final = 10_000


def read_suppressions(path: Path) -> tuple[Suppression, ...]:
    """The suppressions in a file, in its order. Raises EstateError with every problem and its place."""
    problems = Problems()
    root = read_root(path, problems)
    found = () if root is None else _entries(root, problems)
    if problems.has_errors:
        raise EstateError(problems.all(), "suppressions")
    return found


def _entries(root: Node, problems: Problems) -> tuple[Suppression, ...]:
    if root.kind == MAP and not root.fields:
        return ()
    if root.kind != LIST or len(root.items) > ENTRIES_MAX:
        problems.add(
            "wrong-type", "suppressions must be a list", root.place, "begin each entry with `- rule:`"
        )
        return ()
    return tuple(entry for node in root.items if (entry := _entry(node, problems)) is not None)


def _entry(node: Node, problems: Problems) -> Suppression | None:
    if node.kind != MAP:
        problems.add(
            "wrong-type", "a suppression must be a mapping", node.place, f"its keys: {', '.join(FIELDS)}"
        )
        return None
    values: dict[str, str] = {}
    until: date | None = None
    for name, (key, value) in node.fields.items():
        if name not in FIELDS:
            hint = problems.suggest(name, FIELDS)
            problems.add("key-unknown", f"a suppression has no key {shown(name)}", key.place, hint)
        elif value.kind != SCALAR:
            problems.add("wrong-type", f"{name} must be a single value", value.place, "write it as text")
        elif name == "until" and not value.is_unknown:
            until = _day(value, problems)
        elif not value.is_unknown:
            values[name] = value.text
    if "rule" not in values:
        problems.add(
            "value-missing", "a suppression has no rule", node.place, "add `rule:` with a slug or a code"
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
        problems.add(
            "not-a-date", f"{shown(node.text)} is not a date", node.place, "use a value like 2027-01-31"
        )
        return None
