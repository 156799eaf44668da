"""Reads source files within the bounds of every file that evac reads.

Tables become rows of cells that know their place.

Lines without quotes are split at once; only lines with quotes are read character by character.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from evac.estate.format.document import (
    LIST,
    MAP,
    SCALAR,
    YAML_BYTES_MAX,
    Node,
    decode,
    read_bytes,
    read_document,
    read_documents,
)
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, more_rows, shown
from evac.estate.importers.json_stream import read_pruned
from evac.model.diagnostic import Place, Severity
from evac.model.records import dataclass

FILES_MAX: Final = 5_000
FOLDERS_MAX: Final = 5_000
ROWS_MAX: Final = 2_000_000
COLUMNS_MAX: Final = 500
CELL_MAX: Final = 4_096
DELIMITERS: Final = (",", ";", "\t", "|")
LISTED_MAX: Final = 20
_TEXT_MAX: Final = 2**20
"""Longest text in a file written by a program, such as a certificate or script."""
_SEPARATOR: Final = re.compile(r'"?sep=([,;\t|])"?')
_JSON: Final = re.compile(r'\s*(?:\{\s*"|\[\s*["{\[])')
_BY_TEMPLATES: Final = ("yaml-syntax", "key-not-text", "too-deep")
"""What a template that is read as YAML brings about."""
_ESCAPE: Final = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|.)", re.IGNORECASE | re.DOTALL)
"""An escape in a text of JSON; with groups: two that are one character together."""
_QUOTED_LINES_MAX: Final = 50
"""Most lines in one quoted cell, so that a forgotten quote does not swallow the file."""


GROWTH_MAX: Final = 256 * 2**20
VALUE_SIZE: Final = 32
"""Characters that a value counts as."""


Fill = Callable[[re.Match[str]], str]


class Growth:
    """How much a source may grow as its references are followed: a small file can name a large value, or a
    long list, any number of times. most: in characters.
    """

    def __init__(self, problems: Problems, most: int = GROWTH_MAX) -> None:
        self._problems, self._left = problems, most

    def takes(self, values: int, place: Place) -> bool:
        """Whether so many more values fit; if not, the source is refused."""
        return self._takes(values * VALUE_SIZE, place)

    def filled(
        self,
        pattern: re.Pattern[str],
        fill: Callable[[re.Match[str]], str],
        text: str,
        most: int,
        place: Place,
    ) -> str | None:
        """A text with its references replaced; None, before more is built, if that adds more than `most`
        characters, or more than the source may grow.
        """
        added = 0

        def bounded(match: re.Match[str]) -> str:
            nonlocal added
            new = fill(match)
            more = max(0, len(new) - len(match[0]))
            added += more
            if added > most or not self._takes(more, place):
                raise OverflowError
            return new

        try:
            return pattern.sub(bounded, text)
        except OverflowError:
            return None

    def refuse(self, place: Place) -> None:
        """Refuse the source because of what is at this place."""
        self._takes(self._left + 1, place)

    def _takes(self, characters: int, place: Place) -> bool:
        fits, self._left = self._left >= 0, self._left - characters
        if fits and self._left < 0:
            message = "what this source refers to makes it too large"
            hint = "import only the parts that evac needs"
            self._problems.add("too-many-values", message, place, hint)
        return self._left >= 0


@dataclass(frozen=True, slots=True)
class Row:
    """Cells of one row, without outer blanks. `starts`: column each begins in, None for unquoted lines."""

    file: str
    line: int
    cells: tuple[str, ...]
    raw: str
    starts: tuple[int, ...] | None = None

    def place(self, position: int = 0, delimiter: str = ",") -> Place:
        """Where the cell at `position` begins; lines and columns count from 1."""
        if self.starts is not None:
            column = self.starts[position] if position < len(self.starts) else 1
        else:
            parts = self.raw.split(delimiter)
            column = 1 + sum(len(part) + 1 for part in parts[:position])
        return Place(self.file, self.line, column)


@dataclass(frozen=True, slots=True)
class Cells:
    """A table: its header, rows and separator."""

    header: Row
    rows: tuple[Row, ...]
    delimiter: str
    left_out: int = 0
    """Rows that could not be read."""


def read_cells(text: str, file: str, problems: Problems, *, all_rows: bool = False) -> Cells | None:
    """The table in a text; blank lines and lines that begin with # are skipped. A first line `sep=;`, as
    Excel writes it, says what stands between cells.

    None, with diagnostics, where it has no header, too many rows or columns, or an open quote.
    Rows with another number of cells than the header, or with too long a cell, are noted and left out. With
    `all_rows` they are errors: a need that is left out would make its service look safe.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((n for n, line in enumerate(lines) if _counts(line)), None)
    if first is None:
        problems.add(
            "import-shape", "the table is empty", Place(file), "add a header and a row for each host"
        )
        return None
    said = _SEPARATOR.fullmatch(lines[first])
    first += said is not None
    delimiter = said[1] if said else _delimiter(lines[first])
    rows = _rows(lines, first, file, delimiter, problems)
    if not rows:
        return None
    header, body = rows[0], rows[1:]
    if len(header.cells) > COLUMNS_MAX:
        problems.add(
            "import-shape", f"{len(header.cells):,} columns; at most {COLUMNS_MAX} are read", header.place()
        )
        return None
    good = _checked(header, body, delimiter, problems, all_rows)
    return Cells(header, good, delimiter, len(body) - len(good))


def header_of(text: str, file: str) -> tuple[str, ...]:
    """Column names from the beginning of a table; none without a header."""
    lines = (line for line in text.splitlines() if _counts(line) and not _SEPARATOR.fullmatch(line))
    table = read_cells(next(lines, ""), file, Problems())
    return () if table is None else table.header.cells


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _delimiter(header: str) -> str:
    """The separator that splits the header into most cells; a comma if none does."""
    return max(DELIMITERS, key=lambda sign: (header.count(sign), -DELIMITERS.index(sign)))


def _rows(lines: list[str], first: int, file: str, delimiter: str, problems: Problems) -> list[Row]:
    rows: list[Row] = []
    number = first
    while number < len(lines):
        line = lines[number]
        if not _counts(line):
            number += 1
            continue
        if len(rows) > ROWS_MAX:
            problems.add(
                "import-shape", f"more than {ROWS_MAX:,} rows", Place(file, number + 1, 1), "split the table"
            )
            return []
        if '"' not in line:
            cells = tuple(cell.strip() for cell in line.split(delimiter))
            rows.append(Row(file, number + 1, cells, line))
            number += 1
            continue
        row, used = _quoted(lines, number, file, delimiter)
        if row is None:
            place = Place(file, number + 1, 1 + line.index('"'))
            hint = "close it, or double the quote to use it literally"
            problems.add("import-shape", "a quote is opened here but never closed", place, hint)
            return []
        rows.append(row)
        number += used
    return rows


def _quoted(lines: list[str], number: int, file: str, delimiter: str) -> tuple[Row | None, int]:
    """A row with quotes and the number of its lines; None if a quote stays open."""
    used = 1
    is_open = lines[number].count('"') % 2 == 1
    while is_open:
        if used >= _QUOTED_LINES_MAX or number + used >= len(lines):
            return None, used
        is_open = lines[number + used].count('"') % 2 == 0
        used += 1
    text = "\n".join(lines[number : number + used])
    cells, starts = _split_quoted(text, delimiter)
    return Row(file, number + 1, cells, text, starts), used


def _split_quoted(text: str, delimiter: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Cells, and the column in which each begins, of a row whose quotes are all closed."""
    cells: list[str] = []
    starts = [1]
    parts: list[str] = []
    inside = False
    for column, sign in enumerate(text, 1):
        if sign == '"':
            if not inside and column > 1 and text[column - 2] == '"':
                parts.append('"')
            inside = not inside
        elif sign == delimiter and not inside:
            cells.append("".join(parts).strip())
            parts = []
            starts.append(column + 1)
        else:
            parts.append(sign)
    cells.append("".join(parts).strip())
    return tuple(cells), tuple(starts)


def _checked(
    header: Row, body: list[Row], delimiter: str, problems: Problems, all_rows: bool
) -> tuple[Row, ...]:
    wanted = len(header.cells)
    severity: Severity | None = "error" if all_rows else None
    left = "" if all_rows else "; the row is left out"
    good = []
    bad = 0
    for row in body:
        longest = max(map(len, row.cells))
        if len(row.cells) == wanted and longest <= CELL_MAX:
            good.append(row)
            continue
        bad += 1
        if bad > LISTED_MAX:
            continue
        if longest > CELL_MAX:
            position = next(i for i, cell in enumerate(row.cells) if len(cell) > CELL_MAX)
            message = f"a cell of {longest:,} characters; at most {CELL_MAX:,} are read{left}"
            problems.add("import-cell", message, row.place(position, delimiter), "shorten it", severity)
        else:
            message = f"cells in this row: {len(row.cells)}; in the header: {wanted}{left}"
            hint = "one cell for every column; empty means unknown"
            problems.add("import-row-length", message, row.place(), hint, severity)
    if bad > LISTED_MAX:
        problems.add("import-row-length", more_rows(bad - LISTED_MAX), header.place())
    return tuple(good)


def files_below(source: Path, endings: tuple[str, ...], problems: Problems) -> list[Path]:
    """Files of a folder with one of these endings, sorted by name, without dot files. An unreadable folder is
    noted; from a folder with too many files nothing is read.
    """

    def skipped(error: OSError) -> None:
        name = Path(error.filename).relative_to(source).as_posix()
        message = f"folder {source.name if name == '.' else name} is skipped: {error.strerror}"
        problems.add("import-skipped", message, Place(name), "let this user read it, then import again")

    found: list[Path] = []
    for visited, (folder, folders, names) in enumerate(os.walk(source, onerror=skipped)):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "node_modules")
        found += [Path(folder) / name for name in sorted(names) if name.endswith(endings) and name[0] != "."]
        if len(found) > FILES_MAX or visited > FOLDERS_MAX:
            message = f"more than {FILES_MAX:,} files in {source.name}"
            problems.add("too-many-files", message, Place(source.name), "give a smaller folder")
            return []
    return found


def read_text(
    path: Path, root: Path, limit: int, problems: Problems, *, lines_checked: bool = True
) -> str | None:
    """The text of a regular file inside `root`; otherwise None, with diagnostics."""
    if not os.path.lexists(path):
        problems.add(
            "import-source-missing",
            f"not found: {path.name}",
            Place(str(path)),
            "check the path of the source",
        )
        return None
    data = read_bytes(path, root, limit, lines_checked, problems)
    return None if data is None else decode(data, path.name, problems)


def read_table(path: Path, root: Path, limit: int, problems: Problems) -> str | None:
    """The text of a table, as `read_text`. Spreadsheets also save UTF-16, which begins with a mark, and the
    encodings of Windows: such a text is read with a note, if its letters are certain.
    """
    if not os.path.lexists(path):
        return read_text(path, root, limit, problems)
    data = read_bytes(path, root, limit, True, problems)
    known = None if data is None else western(data)
    if data is None or known is None:
        return None if data is None else decode(data, path.name, problems)
    text, encoding = known
    first = next((n for n, line in enumerate(text.split("\n"), 1) if not line.isascii()), 1)
    message = f"this is not UTF-8 text; it is read as {encoding}"
    hint = "if names in the estate look wrong, save the table again, as CSV UTF-8"
    problems.add("import-encoding", message, Place(path.name, first, 1), hint)
    return text


def western(data: bytes) -> tuple[str, str] | None:
    """The text of bytes that are not UTF-8, and its encoding, if they are UTF-16 with a mark, or a Windows
    encoding of Latin script in which every letter beyond ASCII is one that all of these encodings have at the
    same place, and stands next to an ASCII letter, unlike letters of Greek or Russian words. None otherwise:
    a wrong guess makes two sites of one.
    """
    is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf_16 else "utf-8-sig")
        return (text, "UTF-16") if is_utf_16 and "\0" not in text else None
    except UnicodeDecodeError:
        if is_utf_16 or b"\0" in data or not _SAME_EVERYWHERE.sub(b"", data).isascii():
            return None
        return data.decode("cp1252"), "Windows-1252"


_LETTERS: Final = "ÄÉÓÖÜßäéóöü".encode("cp1252")
"""Letters that Windows-1250, 1252, 1254 and 1257 have at the same place: those of German, and a few more."""
_SAME_EVERYWHERE: Final = re.compile(rb"(?<=[A-Za-z])[%b]\xdf?|[%b]\xdf?(?=[A-Za-z])" % (_LETTERS, _LETTERS))


def explain(found: Problems, text: str, name: str, problems: Problems) -> None:
    """Adds the problems found in a text, with their likely cause: a template, or JSON that ends early."""
    lines = text.split("\n") if any(one.code in _BY_TEMPLATES for one in found.all()) else []
    for one in found.all():
        code, message, place, hint = one.code, one.message, one.place, one.hint
        line = "".join(lines[place.line - 1 : place.line]) if place.line else ""
        is_deep_json = code == "too-deep" and _JSON.match(text) is not None
        if code in _BY_TEMPLATES and not is_deep_json and re.search(r"\{\{|\{%|<%", line):
            code, message = "import-shape", f"{name} is a template"
            hint = "render it first, then import the result"
        elif code == "yaml-syntax" and _JSON.match(text):
            try:
                json.loads(text)
            except json.JSONDecodeError as error:
                here = Place(place.file, error.lineno, error.colno)
                if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
                    code, message, place = "import-truncated", f"{name} ends in the middle", here
                    hint = "export the file again, and check that the disk is not full"
                elif not name.endswith((".yaml", ".yml")):
                    code, message, place = "import-shape", f"{name} is not JSON: {error.msg}", here
                    hint = "export the file again"
            except RecursionError:
                pass
        problems.add(code, message, place, hint, one.severity if code == one.code else None)


def without_pairs(text: str) -> str:
    """A text of JSON with characters written as two escapes written as one, since YAML knows no others."""

    def whole(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        sign = 0x10000 + (int(match[1], 16) - 0xD800) * 0x400 + int(match[2], 16) - 0xDC00
        return f"\\U{sign:08x}"

    return _ESCAPE.sub(whole, text) if _JSON.match(text) and "\\ud" in text.lower() else text


def read_tree(
    path: Path,
    root: Path,
    problems: Problems,
    kept_tags: frozenset[str] = frozenset(),
    *,
    skip_deep: bool = True,
) -> Node | None:
    """The mapping in a YAML file; None, with diagnostics, if there is none. skip_deep: as for
    `read_documents`.
    """
    text = read_text(path, root, YAML_BYTES_MAX, problems)
    scratch = Problems()
    whole = without_pairs(text or "")
    node = None
    if text is not None:
        node = read_document(whole, path.name, scratch, kept_tags, skip_deep=skip_deep)
    explain(scratch, text or "", path.name, problems)
    if node is not None and node.kind != MAP:
        problems.add(
            "import-shape", f"{path.name} is not a mapping", node.place, "check that this is the right file"
        )
        return None
    return node


def read_values(path: Path, problems: Problems) -> Node | None:
    """The value in a JSON or YAML file written by a program, including long texts; None, with diagnostics, if
    unreadable. What is nested too deeply is unknown.
    """
    text = read_text(path, path, YAML_BYTES_MAX, problems, lines_checked=False)
    if text is None:
        return None
    scratch = Problems()
    whole = without_pairs(text)
    roots = read_documents(
        whole, path.name, scratch, _TEXT_MAX, several=False, core_tags=True, skip_deep=True
    )
    if _JSON.match(text) and any(one.code == "too-deep" for one in scratch.all()):
        return read_pruned(path, lambda item: item, problems)
    explain(scratch, text, path.name, problems)
    if roots is None or scratch.has_errors:
        return None
    return roots[0] if roots else Node(MAP, path.name, 1, 1)


def items_in(node: Node | None, *keys: str) -> list[Node]:
    """Items of the list under the keys; none if there is no list."""
    found = at(node, *keys)
    return found.items if found is not None and found.kind == LIST else []


def at(node: Node | None, *keys: str) -> Node | None:
    """The value under the keys, one below the other; None if one is missing."""
    for key in keys:
        if node is None or node.kind != MAP or key not in node.fields:
            return None
        node = node.fields[key][1]
    return node


def word(node: Node | None, *keys: str) -> str | None:
    """The text under the keys; None if it is missing, unknown or no single value."""
    found = at(node, *keys)
    return None if found is None or found.kind != SCALAR or found.is_unknown else found.text


def texts_of(node: Node | None) -> dict[str, str]:
    """The single values of a mapping."""
    return {name: value.text for name, _, value in entries(node) if value.kind == SCALAR}


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


def is_id(name: str, place: Place, problems: Problems, severity: Severity | None = None) -> bool:
    """Whether a name is a valid estate id; notes it if not. severity: if it is not a name of one object."""
    if len(name) <= ID_MAX and ID.fullmatch(name) and "," not in name:
        return True
    hint = "IDs start with a letter or digit and contain letters, digits and . _ - : @ /"
    problems.add("import-name", f"{shown(name)} is not a valid name in an estate", place, hint, severity)
    return False
