"""Rows of a small CSV or JSON file that a person made, as cells that know their places."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evac.estate.format.document import LIST, MAP, SCALAR, YAML_BYTES_MAX, Node, read_document, read_text
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError, parse_moment
from evac.model.diagnostic import Diagnostic, Place

Row = tuple[Place, dict[str, tuple[str, Place]]]


@dataclass(slots=True)
class CellReader:
    """Reads the rows of one file. noun: what a row is, in messages; many: the key of the list in JSON."""

    path: Path
    noun: str
    many: str
    columns: Sequence[str]
    needed: Sequence[str]
    problems: Problems = field(default_factory=Problems)
    found: list[Diagnostic] = field(default_factory=list)
    """Problems of the table itself."""

    def rows(self) -> list[Row]:
        """All rows; what is wrong is in `problems` and `found`."""
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
                    self.problems.add(
                        "value-missing", f"{key} of a {self.noun} is missing", place, f"add {key}"
                    )
        return rows

    def everything(self) -> tuple[Diagnostic, ...]:
        """All problems so far."""
        return (*self.problems.all(), *self.found)

    def moment(self, cell: tuple[str, Place]) -> int | None:
        """Milliseconds since 1970; None, and a problem, for what is not a moment."""
        raw, place = cell
        try:
            return parse_moment(raw)
        except QuantityError as error:
            self.problems.add(error.code, error.message, place, error.hint)
            return None

    def _csv(self, content: str) -> Iterator[Row]:
        """Columns of a cell count letters from 1, as far as they can be known: quotes shift them by one."""
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
                Diagnostic("table-unreadable", message, place, hint="check quotes and line ends")
            )

    def _json(self, content: str) -> Iterator[Row]:
        """JSON is YAML, so its nodes know their places."""
        root = read_document(content, self.path.name, self.problems)
        if root is None:
            return
        listed = root.fields[self.many][1] if root.kind == MAP and self.many in root.fields else root
        if listed.kind != LIST:
            hint = f'write {{"{self.many}": [...]}}'
            self.problems.add("wrong-type", f"a list of {self.many} is needed", listed.place, hint)
            return
        for item in listed.items:
            if item.kind != MAP:
                hint = f"keys: {', '.join(self.columns)}"
                self.problems.add("wrong-type", f"a {self.noun} is an object", item.place, hint)
                continue
            yield item.place, dict(self._cells(item))

    def _cells(self, item: Node) -> Iterator[tuple[str, tuple[str, Place]]]:
        for key, (key_node, value) in item.fields.items():
            if key not in self.columns:
                hint = self.problems.suggest(key, self.columns) or f"keys: {', '.join(self.columns)}"
                self.problems.add("key-unknown", f"unknown key {shown(key)}", key_node.place, hint)
            elif value.kind != SCALAR:
                self.problems.add("wrong-type", f"{key} is a single value", value.place, "write it as text")
            elif not value.is_unknown:
                yield key, (value.text, value.place)
