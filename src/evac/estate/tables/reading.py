"""Tables of an estate - CSV or Parquet - as columns of text or numbers, with places for every cell.

Owns the shape of tables: columns, cells per row, bounds. The meaning of cells belongs to `tables_servers`,
`tables_racks` and `tables_replicas`. Loops over rows only for diagnostics, or if a CSV file quotes its cells.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from evac.estate.format.document import TABLE_BYTES_MAX, decode, read_bytes
from evac.estate.format.problems import Problems, more_rows, shown
from evac.model.diagnostic import Place
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.records import dataclass
from evac.model.units import QUANTITY_LIMIT

ROWS_MAX: Final = 20_000_000
LISTED_MAX: Final = 20
"""Bad rows of one kind listed individually; the rest is counted."""

UNKNOWN: Final = "unknown"
_COMMA: Final = 44
_LINE_END: Final = 10
_HEADER_LINE: Final = 1
_STDERR: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """V rows of the requested columns; a column missing in the file is all null.

    `lines`: line of each row in a CSV file, None if row k is on line k + 2; `columns`: the file's columns in
    its order; `raw`: the bytes of a CSV file, to find columns of cells.
    """

    file: str
    frame: pl.DataFrame
    columns: tuple[str, ...]
    raw: bytes | None = None
    lines: IntColumn | None = None

    def __len__(self) -> int:
        return self.frame.height

    def place(self, row: int, column: str | None = None) -> Place:
        """Where a cell is. In Parquet: row and column, both counted from 1."""
        position = self.columns.index(column) if column in self.columns else 0
        if self.raw is None:
            return Place(self.file, row + 1, position + 1)
        line = row + 2 if self.lines is None else int(self.lines[row])
        return Place(self.file, line, _column_of_cell(self.raw, line, position))

    def report(
        self, problems: Problems, bad: BoolColumn, column: str | None, code: str, message: str, hint: str = ""
    ) -> None:
        """Notes the rows of a mask: the first twenty individually, the others as a number.

        `{}` in the message is replaced by the text of the cell.
        """
        rows = np.flatnonzero(bad)
        for row in rows[:LISTED_MAX].tolist():
            cell = shown(str(self.frame[column][row])) if column is not None else ""
            problems.add(code, message.format(cell), self.place(row, column), hint)
        if len(rows) > LISTED_MAX:
            place = self.place(int(rows[LISTED_MAX]), column)
            problems.add(code, f"{more_rows(len(rows) - LISTED_MAX)} in {self.file}", place, hint)


def read_table(
    path: Path, root: Path, columns: tuple[str, ...], required: tuple[str, ...], problems: Problems
) -> Table | None:
    """The table in a file; None, with diagnostics, where it cannot be used."""
    if path.suffix == ".parquet":
        data = read_bytes(path, root, TABLE_BYTES_MAX, False, problems)
        return None if data is None else _read_parquet(data, path.name, columns, required, problems)
    data = read_bytes(path, root, TABLE_BYTES_MAX, True, problems)
    if data is None or decode(data, path.name, problems) is None:
        return None
    return _read_csv(data.removeprefix(b"\xef\xbb\xbf"), path.name, columns, required, problems)


def _check_columns(
    found: list[str],
    columns: tuple[str, ...],
    required: tuple[str, ...],
    file: str,
    line: int,
    problems: Problems,
) -> bool:
    before = problems.count
    for position, name in enumerate(found):
        place = Place(file, line, 1 + sum(len(n) + 1 for n in found[:position]) if line else 0)
        if name not in columns:
            hint = problems.suggest(name, columns) or f"columns: {', '.join(columns)}"
            if ";" in name or "\t" in name:
                hint = "separate the cells with commas"
            problems.add("column-unknown", f"unknown column {shown(name)}", place, hint)
        elif name in found[:position]:
            problems.add("column-twice", f"the column {name} appears twice", place, "keep one of the two")
    for name in required:
        if name not in found:
            problems.add(
                "column-missing",
                f"the column {name} is missing",
                Place(file, line, 1 if line else 0),
                f"add {name}",
            )
    return problems.count == before


def _read_csv(
    data: bytes, file: str, columns: tuple[str, ...], required: tuple[str, ...], problems: Problems
) -> Table | None:
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    header = data.split(b"\n", 1)[0].decode()
    found = [name.strip().strip('"') for name in header.split(",")]
    if not _check_columns(found, columns, required, file, _HEADER_LINE, problems):
        return None
    if b'"' in data:
        cells, most = data.count(b",") + 1, ROWS_MAX * len(found)
        if _too_large(data.count(b"\n"), file, problems) or _too_large(cells, file, problems, most, "cells"):
            return None
        return _read_quoted(data, file, found, columns, problems)
    lines = _check_rows(data, len(found), file, problems)
    if lines is None:
        return None
    kept = data
    if data.count(b"\n") + (not data.endswith(b"\n")) != len(lines) + 1:
        kept = b"\n".join(line for line in data.split(b"\n") if line)
    body = kept.split(b"\n", 1)[1:] or [b""]
    if not body[0].strip(b"\n"):
        return Table(
            file, _complete(pl.DataFrame(schema=dict.fromkeys(found, pl.String)), columns), tuple(found), data
        )
    frame = _guarded(
        lambda: pl.read_csv(kept, infer_schema=False, quote_char=None, new_columns=found), file, problems
    )
    if frame is None:
        return None
    if frame.height != len(lines):
        message = f"rows read: {frame.height:,}; rows in the file: {len(lines):,}"
        problems.add("table-unreadable", message, Place(file), "remove blank lines and unusual line endings")
        return None
    return Table(file, _complete(frame, columns), tuple(found), data, lines)


def _too_large(count: int, file: str, problems: Problems, most: int = 0, what: str = "rows") -> bool:
    most = most or ROWS_MAX
    if count > most:
        problems.add("table-too-large", f"{count:,} {what}; at most {most:,} are read", Place(file))
    return count > most


def _check_rows(data: bytes, cells: int, file: str, problems: Problems) -> IntColumn | None:
    """Line number of every row that is not blank; None if a row has the wrong number of cells."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets == _LINE_END)
    if not len(octets) or octets[-1] != _LINE_END:
        ends = np.append(ends, len(octets))
    if _too_large(len(ends), file, problems):
        return None
    starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1] + 1])
    commas = np.searchsorted(np.flatnonzero(octets == _COMMA), ends)
    count = np.diff(commas, prepend=0)
    filled = ends > starts
    filled[0] = False
    bad = np.flatnonzero(filled & (count != cells - 1))
    for row in bad[:LISTED_MAX].tolist():
        message = f"cells in this row: {int(count[row]) + 1}; in the header: {cells}"
        problems.add(
            "row-length", message, Place(file, row + 1, 1), "one cell for every column; empty means unknown"
        )
    if len(bad) > LISTED_MAX:
        message = f"{more_rows(len(bad) - LISTED_MAX)} in {file}"
        problems.add("row-length", message, Place(file, int(bad[LISTED_MAX]) + 1, 1))
    return None if len(bad) else np.flatnonzero(filled).astype(np.int64) + 1


def _read_quoted(
    data: bytes, file: str, found: list[str], columns: tuple[str, ...], problems: Problems
) -> Table | None:
    """Reads a CSV file with quotes row by row: slower, but correct for cells with commas."""
    reader = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    bad = 0
    try:
        next(reader)
        for row in reader:
            if not row:
                continue
            if len(row) != len(found):
                bad += 1
                if bad <= LISTED_MAX:
                    message = f"cells in this row: {len(row)}; in the header: {len(found)}"
                    problems.add(
                        "row-length", message, Place(file, reader.line_num, 1), "one cell for every column"
                    )
                continue
            rows.append(row)
            lines.append(reader.line_num)
    except (csv.Error, StopIteration) as error:
        problems.add(
            "table-unreadable",
            f"not readable as CSV: {error}",
            Place(file, reader.line_num, 1),
            "check the quotes",
        )
        return None
    if bad:
        return None
    cells = [[row[position] or None for row in rows] for position in range(len(found))]
    frame = pl.DataFrame(dict(zip(found, cells, strict=True)), schema=dict.fromkeys(found, pl.String))
    return Table(file, _complete(frame, columns), tuple(found), data, np.array(lines, np.int64))


def _read_parquet(
    data: bytes, file: str, columns: tuple[str, ...], required: tuple[str, ...], problems: Problems
) -> Table | None:
    schema = _guarded(lambda: pl.read_parquet_schema(io.BytesIO(data)), file, problems)
    if schema is None or not _check_columns(list(schema), columns, required, file, 0, problems):
        return None
    rows = _guarded(
        lambda: pl.scan_parquet(io.BytesIO(data)).select(pl.len()).collect().item(), file, problems
    )
    if rows is None:
        return None
    if _too_large(rows, file, problems):
        return None
    frame = _guarded(lambda: pl.read_parquet(io.BytesIO(data), columns=list(schema)), file, problems)
    if frame is None:
        return None
    return _typed(Table(file, _complete(frame, columns), tuple(schema)), required, problems)


def _typed(table: Table, required: tuple[str, ...], problems: Problems) -> Table | None:
    """Columns of text, whole numbers or flags; refuses anything else and continues with the others."""
    casts = []
    usable = True
    for name, kind in table.frame.schema.items():
        if kind.is_integer() or kind.is_float() or kind == pl.String:
            continue
        if kind == pl.Boolean:
            casts.append(
                pl.when(pl.col(name)).then(pl.lit("yes")).when(~pl.col(name)).then(pl.lit("no")).alias(name)
            )
        elif kind in (pl.Categorical, pl.Enum, pl.Null):
            casts.append(pl.col(name).cast(pl.String))
        else:
            usable &= name not in required
            casts.append(pl.lit(None, pl.String).alias(name))
            place = Place(table.file, 1, table.columns.index(name) + 1)
            problems.add(
                "cell-invalid", f"the column {name} holds {kind}", place, "use text or whole numbers"
            )
    if not usable:
        return None
    return Table(table.file, table.frame.with_columns(casts), table.columns)


def _guarded(read: Any, file: str, problems: Problems) -> Any:
    """The result of `read`; None, with a diagnostic, if the library fails."""
    try:
        with _hushed():
            return read()
    except pl.exceptions.PanicException:
        words = "its contents are corrupt"
    except (pl.exceptions.PolarsError, OSError, ValueError, MemoryError, OverflowError) as error:
        words = (str(error).splitlines() or [""])[0][:160]
        words = "its contents are corrupt" if "Panic" in words else words
    problems.add("table-unreadable", f"{file} is not readable: {words}", Place(file), "write the table again")
    return None


@contextmanager
def _hushed() -> Iterator[None]:
    """Silences the library, which prints its own stack trace for damaged bytes; the diagnostic is in plain
    words.
    """
    try:
        kept = os.dup(_STDERR)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)


def _complete(frame: pl.DataFrame, columns: tuple[str, ...]) -> pl.DataFrame:
    absent = [pl.lit(None, pl.String).alias(name) for name in columns if name not in frame.columns]
    return frame.with_columns(absent)


def _column_of_cell(raw: bytes, line: int, position: int) -> int:
    """Column, from 1, at which a cell of a line of CSV begins. Linear in the file; for diagnostics."""
    start = 0
    for _ in range(line - 1):
        start = raw.index(b"\n", start) + 1
    end = raw.find(b"\n", start)
    text = raw[start : end if end >= 0 else len(raw)].decode("utf-8", "replace")
    quoted = False
    for column, char in enumerate(text):
        if position == 0:
            return column + 1
        quoted ^= char == '"'
        if char == "," and not quoted:
            position -= 1
    return len(text) + 1


def text_of(table: Table, column: str) -> pl.Series:
    """A column as text."""
    return table.frame[column].cast(pl.String)


def whole_numbers(table: Table, column: str, problems: Problems) -> tuple[IntColumn, BoolColumn, BoolColumn]:
    """(V,) values, (V,) which are known, (V,) which are explicitly unknown; notes bad cells."""
    cells = table.frame[column]
    said = np.zeros(len(cells), np.bool_)
    if cells.dtype == pl.String:
        said = mask_of(cells == UNKNOWN)
        numbers = cells.cast(pl.Int64, strict=False)
    elif cells.dtype.is_float():
        numbers = cells.cast(pl.Int64, strict=False)
        numbers = numbers.set(numbers.cast(pl.Float64) != cells, None)
    else:
        numbers = cells.cast(pl.Int64, strict=False)
    stated = mask_of(cells.is_not_null()) & ~said
    known = mask_of(numbers.is_not_null()) & stated
    values = numbers.fill_null(0).to_numpy()
    negative = known & (values < 0)
    large = known & (values > QUANTITY_LIMIT)
    table.report(
        problems,
        stated & ~known,
        column,
        "cell-invalid",
        "{} is not a whole number",
        f"{column}: base units, no unit",
    )
    table.report(problems, negative, column, "negative", "{} is below zero")
    table.report(problems, large, column, "quantity-too-large", "{} is more than 2^53")
    good = known & ~negative & ~large
    return np.where(good, values, 0).astype(np.int64), good, said


def mask_of(series: pl.Series) -> BoolColumn:
    """(V,) a Boolean column as a mask; null counts as False."""
    return np.asarray(series.fill_null(False).to_numpy(), np.bool_)
