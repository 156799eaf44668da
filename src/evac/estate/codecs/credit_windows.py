"""Outage windows from CSV or JSON: every problem at once, with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from evac.credit.windows import KINDS, Window, problems_of
from evac.estate.codecs.cells import CellReader, Row
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError, parse_permille
from evac.model.diagnostic import Place
from evac.model.errors import EstateError

COLUMNS: Final = ("id", "service", "from", "to", "site", "kind", "users")
NEEDED: Final = ("service", "from", "to")


def load_windows(path: Path) -> tuple[Window, ...]:
    """Raises EstateError with every problem: values, reversed, empty and overlapping windows."""
    reader = CellReader(path, "window", "windows", COLUMNS, NEEDED)
    windows = [
        window
        for number, row in enumerate(reader.rows(), 1)
        if (window := _window(row, number, reader)) is not None
    ]
    everything = (*reader.everything(), *problems_of(windows))
    if any(one.severity == "error" for one in everything):
        raise EstateError(tuple(sorted(everything, key=lambda d: d.sort_key)), "windows")
    return tuple(windows)


def _window(row: Row, number: int, reader: CellReader) -> Window | None:
    (place, cells), problems = row, reader.problems
    times = {key: reader.moment(cells[key]) for key in ("from", "to") if cells.get(key, ("",))[0]}
    kind, where = cells.get("kind", ("", place))
    if kind and kind not in KINDS:
        problems.add(
            "not-a-choice", f"{shown(kind)} is not a kind of window", where, f"one of: {', '.join(KINDS)}"
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
        reader.path.name,
        place,
    )


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
