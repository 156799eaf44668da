"""Outage windows from CSV or JSON: every problem at once, with its place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from evac.credit.windows import KINDS, Window, problems_of
from evac.estate.format.document import LIST, MAP, SCALAR, YAML_BYTES_MAX, Node, read_document, read_text
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError, parse_moment, parse_permille
from evac.model.diagnostic import Diagnostic, Place
from evac.model.errors import EstateError

COLUMNS: Final = ("id", "service", "from", "to", "site", "kind", "users")
NEEDED: Final = ("service", "from", "to")


def load_windows(path: Path) -> tuple[Window, ...]:
    """Raises EstateError with every problem: values, reversed, empty and overlapping windows."""
    problems = Problems()
    found: list[Diagnostic] = []
    content = read_text(path, path, YAML_BYTES_MAX, False, problems)
    windows: list[Window] = []
    if content is not None:
        rows = (
            _json(content, path.name, problems) if path.suffix == ".json" else _csv(content, path.name, found)
        )
        windows = [
            window
            for number, row in enumerate(rows, 1)
            if (window := _window(row, number, path.name, problems)) is not None
        ]
    if not windows and not problems.has_errors and not found:
        found.append(
            Diagnostic("value-missing", f"{path.name} has no window", Place(path.name), hint="add one")
        )
    everything = (*problems.all(), *found, *problems_of(windows))
    if any(one.severity == "error" for one in everything):
        raise EstateError(tuple(sorted(everything, key=lambda d: d.sort_key)), "windows")
    return tuple(windows)


_Row = tuple[Place, dict[str, tuple[str, Place]]]


def _csv(content: str, name: str, found: list[Diagnostic]) -> Iterator[_Row]:
    """Columns of a cell count letters from 1, as far as they can be known: quotes shift them by one."""
    reader = csv.reader(io.StringIO(content))
    head = [cell.strip() for cell in next(reader, [])]
    unknown = [column for column in head if column not in COLUMNS]
    missing = [column for column in NEEDED if column not in head]
    for code, columns in (("column-unknown", unknown), ("column-missing", missing)):
        if columns:
            message = (
                f"{'no' if code == 'column-missing' else 'unknown'} column {', '.join(map(shown, columns))}"
            )
            hint = f"columns: {', '.join(COLUMNS)}"
            found.append(Diagnostic(code, message, Place(name, 1, 1), hint=hint))
    if unknown or missing:
        return
    for cells in reader:
        if not cells:
            continue
        line, column = reader.line_num, 1
        if len(cells) != len(head):
            message = f"{len(cells)} cells, but the header has {len(head)}"
            found.append(Diagnostic("row-length", message, Place(name, line, 1), hint="check the commas"))
            continue
        row = {}
        for key, cell in zip(head, cells, strict=True):
            row[key] = cell.strip(), Place(name, line, column)
            column += len(cell) + 1
        yield Place(name, line, 1), row


def _json(content: str, name: str, problems: Problems) -> Iterator[_Row]:
    """JSON is YAML, so its nodes know their places."""
    root = read_document(content, name, problems)
    if root is None:
        return
    listed = root.fields["windows"][1] if root.kind == MAP and "windows" in root.fields else root
    if listed.kind != LIST:
        problems.add("wrong-type", "a list of windows is needed", listed.place, 'write {"windows": [...]}')
        return
    for item in listed.items:
        if item.kind != MAP:
            problems.add("wrong-type", "a window is an object", item.place, f"keys: {', '.join(COLUMNS)}")
            continue
        yield item.place, dict(_cells(item, problems))


def _cells(item: Node, problems: Problems) -> Iterator[tuple[str, tuple[str, Place]]]:
    for key, (key_node, value) in item.fields.items():
        if key not in COLUMNS:
            hint = problems.suggest(key, COLUMNS) or f"keys: {', '.join(COLUMNS)}"
            problems.add("key-unknown", f"unknown key {shown(key)}", key_node.place, hint)
        elif value.kind != SCALAR:
            problems.add("wrong-type", f"{key} is a single value", value.place, "write it as text")
        elif not value.is_unknown:
            yield key, (value.text, value.place)


def _window(row: _Row, number: int, name: str, problems: Problems) -> Window | None:
    place, cells = row
    for key in NEEDED:
        if not cells.get(key, ("", place))[0]:
            problems.add("value-missing", f"{key} of a window is missing", place, f"add {key}")
    times = {key: _moment(cells[key], problems) for key in ("from", "to") if cells.get(key, ("",))[0]}
    kind, where = cells.get("kind", ("", place))
    if kind and kind not in KINDS:
        problems.add(
            "not-a-choice", f"{shown(kind)} is no kind of window", where, f"one of: {', '.join(KINDS)}"
        )
        return None
    users = _permille(cells, problems)
    if not cells.get("service", ("", place))[0] or len(times) < 2 or None in times.values() or users is None:
        return None
    values: Mapping[str, Any] = {key: cells.get(key, ("", place))[0] for key in ("id", "service", "site")}
    return Window(
        values["id"] or f"w{number}",
        values["service"],
        times["from"] or 0,
        times["to"] or 0,
        values["site"],
        kind or "outage",
        users,
        name,
        place,
    )


def _moment(cell: tuple[str, Place], problems: Problems) -> int | None:
    raw, place = cell
    try:
        return parse_moment(raw)
    except QuantityError as error:
        problems.add(error.code, error.message, place, error.hint)
        return None


def _permille(cells: Mapping[str, tuple[str, Place]], problems: Problems) -> int | None:
    """Share of users, `45.5 %`; all of them where nothing is said."""
    raw, place = cells.get("users", ("", Place("")))
    if not raw:
        return 1_000
    try:
        return parse_permille(raw)
    except QuantityError as error:
        problems.add(error.code, error.message, place, error.hint)
        return None
