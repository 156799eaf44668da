"""Small hand-made CSV or JSON files for credits, claims and outage windows. They are read row by row: cells
know their places, and every problem is reported at once.

Columns other than those of a claim are refused: forms contain names and addresses, which must not be copied.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from evac.credit import ledger
from evac.credit import windows as outages
from evac.estate.codecs.credit_rules import read_money
from evac.estate.format.document import LIST, MAP, SCALAR, YAML_BYTES_MAX, Node, read_document, read_text
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError, parse_moment, parse_permille
from evac.model.diagnostic import Diagnostic, Place
from evac.model.errors import EstateError
from evac.model.records import dataclass

Row = tuple[Place, dict[str, tuple[str, Place]]]
CLAIM_COLUMNS: Final = ("id", "account", "service", "loss", "received", "cycle")
CLAIM_NEEDED: Final = ("id", "account", "service", "loss", "received")
WINDOW_COLUMNS: Final = ("id", "service", "from", "to", "site", "kind", "users")
WINDOW_NEEDED: Final = ("service", "from", "to")


@dataclass(slots=True)
class CellReader:
    """Reads the rows of one file. noun: what a row is called in messages; many: key of the list in JSON."""

    path: Path
    noun: str
    many: str
    columns: Sequence[str]
    needed: Sequence[str]
    problems: Problems = field(default_factory=Problems)
    found: list[Diagnostic] = field(default_factory=list)
    """Problems of the table itself."""

    def rows(self) -> list[Row]:
        """All rows; problems go to `problems` and `found`."""
        content = read_text(self.path, self.path, YAML_BYTES_MAX, False, self.problems)
        if content is None:
            return []
        rows = list(self._json(content) if self.path.suffix == ".json" else self._csv(content))
        if not rows and not self.problems.has_errors and not self.found:
            message = f"{self.path.name} has no {self.noun}"
            self.found.append(Diagnostic("value-missing", message, Place(self.path.name), hint="add one"))
        for place, cells in rows:
            for key in self.needed:
                if not cells.get(key, ("", place))[0]:
                    self.problems.add("value-missing", f"a {self.noun} has no {key}", place, f"add {key}")
        return rows

    def everything(self) -> tuple[Diagnostic, ...]:
        """All problems so far."""
        return (*self.problems.all(), *self.found)

    def moment(self, cell: tuple[str, Place]) -> int | None:
        """Milliseconds since 1970; None, with a problem, if it is not a time."""
        raw, place = cell
        try:
            return parse_moment(raw)
        except QuantityError as error:
            self.problems.add(error.code, error.message, place, error.hint)
            return None

    def _csv(self, content: str) -> Iterator[Row]:
        """Columns count characters from 1, as far as known: quotes shift them by one."""
        name = self.path.name
        reader = csv.reader(io.StringIO(content))
        try:
            head = [cell.strip() for cell in next(reader, [])]
            unknown = [column for column in head if column not in self.columns]
            missing = [column for column in self.needed if column not in head]
            for code, columns in (("column-unknown", unknown), ("column-missing", missing)):
                if columns:
                    words = "no" if code == "column-missing" else "unknown"
                    message = f"{words} column {', '.join(map(shown, columns))}"
                    hint = f"columns: {', '.join(self.columns)}"
                    self.found.append(Diagnostic(code, message, Place(name, 1, 1), hint=hint))
            if unknown or missing:
                return
            for cells in reader:
                if not cells:
                    continue
                line, column = reader.line_num, 1
                if len(cells) != len(head):
                    message = f"{len(cells)} cells, but the header has {len(head)}"
                    place = Place(name, line, 1)
                    self.found.append(Diagnostic("row-length", message, place, hint="check the commas"))
                    continue
                row = {}
                for key, cell in zip(head, cells, strict=True):
                    row[key] = cell.strip(), Place(name, line, column)
                    column += len(cell) + 1
                yield Place(name, line, 1), row
        except csv.Error as error:
            message, place = f"not readable as CSV: {error}", Place(name, reader.line_num, 1)
            self.found.append(
                Diagnostic("table-unreadable", message, place, hint="check the quotes and line endings")
            )

    def _json(self, content: str) -> Iterator[Row]:
        """JSON is valid YAML, so its nodes know their places."""
        root = read_document(content, self.path.name, self.problems)
        if root is None:
            return
        listed = root.fields[self.many][1] if root.kind == MAP and self.many in root.fields else root
        if listed.kind != LIST:
            hint = f'write {{"{self.many}": [...]}}'
            self.problems.add("wrong-type", f"a list of {self.many} is required", listed.place, hint)
            return
        for item in listed.items:
            if item.kind != MAP:
                hint = f"keys: {', '.join(self.columns)}"
                self.problems.add("wrong-type", f"a {self.noun} must be an object", item.place, hint)
                continue
            yield item.place, dict(self._cells(item))

    def _cells(self, item: Node) -> Iterator[tuple[str, tuple[str, Place]]]:
        for key, (key_node, value) in item.fields.items():
            if key not in self.columns:
                hint = self.problems.suggest(key, self.columns) or f"keys: {', '.join(self.columns)}"
                self.problems.add("key-unknown", f"unknown key {shown(key)}", key_node.place, hint)
            elif value.kind != SCALAR:
                self.problems.add(
                    "wrong-type", f"{key} must be a single value", value.place, "write it as text"
                )
            elif not value.is_unknown:
                yield key, (value.text, value.place)


def load_claims(path: Path) -> tuple[ledger.Claim, ...]:
    """Raises EstateError with every problem."""
    reader = CellReader(path, "claim", "claims", CLAIM_COLUMNS, CLAIM_NEEDED)
    claims = [claim for row in reader.rows() if (claim := _claim(row, reader)) is not None]
    everything = (*reader.everything(), *ledger.problems_of(claims))
    if everything:
        raise EstateError(tuple(sorted(everything, key=lambda d: d.sort_key)), "claims")
    return tuple(claims)


def _claim(row: Row, reader: CellReader) -> ledger.Claim | None:
    place, cells = row
    if any(not cells.get(key, ("",))[0] for key in CLAIM_NEEDED):
        return None
    received = reader.moment(cells["received"])
    try:
        loss = read_money(cells["loss"][0])
    except QuantityError as error:
        reader.problems.add(error.code, error.message, cells["loss"][1], error.hint)
        return None
    if received is None:
        return None
    id, account, service, cycle = (
        cells.get(key, ("", place))[0] for key in ("id", "account", "service", "cycle")
    )
    return ledger.Claim(id, account, service, loss.minor, loss.currency, received, cycle, place)


def load_windows(path: Path) -> tuple[outages.Window, ...]:
    """Raises EstateError with every problem: values, reversed, empty and overlapping windows."""
    reader = CellReader(path, "window", "windows", WINDOW_COLUMNS, WINDOW_NEEDED)
    windows = [
        window
        for number, row in enumerate(reader.rows(), 1)
        if (window := _window(row, number, reader)) is not None
    ]
    everything = (*reader.everything(), *outages.problems_of(windows))
    if any(one.severity == "error" for one in everything):
        raise EstateError(tuple(sorted(everything, key=lambda d: d.sort_key)), "windows")
    return tuple(windows)


def _window(row: Row, number: int, reader: CellReader) -> outages.Window | None:
    (place, cells), problems = row, reader.problems
    times = {key: reader.moment(cells[key]) for key in ("from", "to") if cells.get(key, ("",))[0]}
    kind, where = cells.get("kind", ("", place))
    if kind and kind not in outages.KINDS:
        problems.add(
            "not-a-choice",
            f"{shown(kind)} is not a kind of outage window",
            where,
            f"one of: {', '.join(outages.KINDS)}",
        )
        return None
    users = _permille(cells, problems)
    if not cells.get("service", ("", place))[0] or len(times) < 2 or None in times.values() or users is None:
        return None
    values: Mapping[str, Any] = {key: cells.get(key, ("", place))[0] for key in ("id", "service", "site")}
    return outages.Window(
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
    """Share of users, `45.5 %`; all if none is given."""
    raw, place = cells.get("users", ("", Place("")))
    if not raw:
        return 1_000
    try:
        return parse_permille(raw)
    except QuantityError as error:
        problems.add(error.code, error.message, place, error.hint)
        return None
