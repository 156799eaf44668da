"""Text for a terminal: calm, aligned, the result first; and plain sheets as such text, as Markdown, and
as one printable page. Every state is a word; colour only repeats it. A sheet is a title, facts and
tables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, Literal

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evac.model.errors import InvalidInput
from evac.model.foreign_text import without_controls
from evac.model.records import dataclass
from evac.views import rendered
from evac.views.words import wall_clock_here

STYLES: Final = {
    "error": "bold red",
    "warning": "yellow",
    "note": "blue",
    "ok": "green",
    "loss": "bold red",
    "degraded": "yellow",
    "unknown": "magenta",
    "restored": "green",
    "shed": "yellow",
    "unplaced": "bold red",
    "running": "green",
    "dim": "dim",
}


NAMES: Final = ("next: ", "to print: ")
"""How lines begin that show a command."""


GAP: Final = 2
"""Between two columns."""
INDENT: Final = 2
"""Before each line of a page."""
WORD: Final = 26
"""Words longer than this may be broken."""
JOINTS: Final = re.compile(r"[^:/.@+_-]*[:/.@+_-]|[^:/.@+_-]+")
"""The parts of a name, each with the sign after which a line may end."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, as far as its width depends on it."""

    head: str
    cells: Sequence[str]
    right: bool = False
    whole: bool = False

    @property
    def natural(self) -> int:
        return max(map(cell_len, (self.head, *self.cells)))

    @property
    def least(self) -> int:
        """The longest word; the longest cell if cells are not broken."""
        head = max(map(cell_len, self.head.split()), default=0)
        if self.right or self.whole:
            return max(head, *map(cell_len, self.cells)) if self.cells else head
        words = [min(WORD, cell_len(word)) for cell in self.cells for word in cell.split()]
        return max(head, *words) if words else head


def fitted(columns: Sequence[Column], width: int, optional: Sequence[int]) -> dict[int, int | None]:
    """The columns that are shown, each with its width; None: the remaining width, if the minimum does not
    fit.
    """
    kept, spare = list(range(len(columns))), list(optional)

    def room() -> int:
        return width - GAP * (len(kept) - 1)

    while spare and sum(columns[n].least for n in kept) > room():
        kept.remove(spare.pop())
    least = {n: columns[n].least for n in kept}
    rest, wanted = room() - sum(least.values()), {n: columns[n].natural - least[n] for n in kept}
    if rest < 0:
        return dict.fromkeys(kept)
    if sum(wanted.values()) <= rest:
        return {n: columns[n].natural for n in kept}
    shares: dict[int, int | None] = {}
    for n in sorted(kept, key=lambda n: wanted[n]):  # what asks for little gets it whole
        given = min(wanted[n], rest // (len(kept) - len(shares)))
        shares[n], rest = least[n] + given, rest - given
    return {n: shares[n] for n in kept}


def at_joints(words: str, width: int) -> str:
    """The words, with names that are wider than a column broken after a sign such as `:` or `.`."""
    found = []
    for word in words.split(" "):
        lines = [""]
        for part in JOINTS.findall(word) if cell_len(word) > width else (word,):
            if lines[-1] and cell_len(lines[-1] + part) > width:
                lines.append("")
            lines[-1] += part
        found.append("\n".join(lines))
    return " ".join(found)


class Whole(Text):
    """A line that is never broken."""


class Page:
    """Lines and tables in order, rendered once at a width, with or without colour."""

    def __init__(self, width: int, colour: bool) -> None:
        self._width = width
        self._colour = colour
        self._parts: list[RenderableType] = []

    def title(self, words: str) -> None:
        self._parts.append(Text(without_controls(words), style="bold"))

    def line(self, words: str = "", style: str = "") -> None:
        """A line. One that shows the next command is never broken, because people copy it."""
        colour = STYLES.get(style, style)
        if words.startswith(NAMES):
            self._parts.append(Whole(f"  {without_controls(words)}", colour))
        else:
            self._parts.append(Padding(Text(without_controls(words), colour), (0, 0, 0, 2 if words else 0)))

    def facts(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Rows of (name, value, style), names aligned. A single word that is wider than its column, such as
        a digest, has its own line and is not broken, because people copy it.
        """
        found = [
            (without_controls(name), without_controls(value), STYLES.get(style, style))
            for name, value, style in rows
        ]
        names = max((cell_len(name) for name, _, _ in found), default=0)
        room = self._width - INDENT - names - GAP
        table = self._grid(names)
        for name, value, style in found:
            if " " in value or cell_len(value) <= room:
                table.add_row(Text(name), Text(value, style=style))
                continue
            table.add_row(Text(name), Text(""))
            self._parts += [Padding(table, (0, 0, 0, INDENT)), Whole(f"    {value}", style)]
            table = self._grid(names)
        if table.row_count:
            self._parts.append(Padding(table, (0, 0, 0, INDENT)))

    @staticmethod
    def _grid(names: int) -> Table:
        """Two columns: names of at most this width, and values."""
        table = Table.grid(padding=(0, GAP))
        table.add_column(no_wrap=True, style="dim", min_width=names)
        table.add_column(overflow="fold")
        return table

    def table(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[str]],
        right: Iterable[int] = (),
        whole: Iterable[int] = (),
        optional: Iterable[int] = (),
    ) -> None:
        """A table. Cells are plain words; a cell that is a state gets its colour. Words and amounts are
        not broken. whole: columns that are never broken, because people copy from them. optional: columns
        that a narrow screen leaves out, the last one first.
        """
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
        rights, wholes = set(right), set(whole)
        cells = [[without_controls(cell) for cell in row] for row in rows]
        columns = [
            Column(head, [row[n] for row in cells], n in rights, n in wholes) for n, head in enumerate(heads)
        ]
        widths = fitted(columns, self._width - INDENT, list(optional))
        for n, width in widths.items():
            column = columns[n]
            justify: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(
                Text(column.head), justify=justify, overflow="fold", no_wrap=column.whole, width=width
            )
        for row in cells:
            table.add_row(
                *(
                    Text(at_joints(row[n], width or self._width), style=STYLES.get(row[n], ""))
                    for n, width in widths.items()
                )
            )
        self._parts.append(Padding(table, (0, 0, 0, 2)))

    def text(self) -> str:
        """Without trailing white space, ending with a newline."""
        stream = io.StringIO()
        console = Console(
            file=stream,
            width=self._width,
            force_terminal=self._colour,
            no_color=not self._colour,
            color_system="standard" if self._colour else None,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        for part in self._parts:
            console.print(part, soft_wrap=isinstance(part, Whole))
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


@dataclass(frozen=True, slots=True)
class SheetPart:
    """One part of a sheet."""

    title: str
    words: str = ""
    """A sentence above the facts and the table."""
    facts: Sequence[tuple[str, str]] = ()
    """(name, value)"""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """A table."""
    whole: Sequence[int] = ()
    """The columns that a terminal does not break."""


@dataclass(frozen=True, slots=True)
class Sheet:
    title: str
    lead: str
    parts: tuple[SheetPart, ...]
    footer: str = ""


def sheet_data(sheet: Sheet) -> dict[str, Any]:
    """A sheet as plain values, to be shown elsewhere."""
    return asdict(sheet)


def sheet_of(data: Any) -> Sheet:
    """The sheet for plain values. Raises InvalidInput if they are not one."""
    try:
        parts = tuple(
            SheetPart(
                str(part["title"]),
                str(part["words"]),
                [(str(name), str(value)) for name, value in part["facts"]],
                [str(one) for one in part["head"]],
                [[str(cell) for cell in row] for row in part["rows"]],
                [int(column) for column in part.get("whole", ())],
            )
            for part in data["parts"]
        )
        return Sheet(str(data["title"]), str(data["lead"]), parts, str(data["footer"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            "sheet-invalid",
            "unexpected response from server: not a sheet",
            "upgrade the server or this command",
        ) from error


def utc(at_ms: int | None) -> str:
    """`2026-11-25 06:30:12 UTC`; a dash for never."""
    if at_ms is None or at_ms <= 0:
        return "-"
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def local_and_utc(at_ms: int | None, seconds: bool = True) -> str:
    """`2026-11-25 15:30:12 KST (06:30:12 UTC)`, for people; a dash for never."""
    return "-" if at_ms is None or at_ms <= 0 else wall_clock_here().both(at_ms, 0, seconds)


def sheet_text(sheet: Sheet, width: int, colour: bool) -> str:
    page = Page(width, colour)
    page.title(sheet.title)
    if sheet.lead:
        page.line(sheet.lead)
    for part in sheet.parts:
        page.line()
        if part.title:
            page.line(part.title, "bold")
        if part.words:
            page.line(part.words, "dim")
        if part.facts:
            page.facts((name, value, "") for name, value in part.facts)
        if part.rows:
            page.table(part.head, part.rows, whole=part.whole)
    if sheet.footer:
        page.line()
        page.line(sheet.footer, "dim")
    return page.text()


def sheet_markdown(sheet: Sheet) -> str:
    """Every cell is escaped."""
    lines = [f"# {_cell(sheet.title)}", "", _cell(sheet.lead), ""]
    for part in sheet.parts:
        lines += [f"## {_cell(part.title)}", ""] if part.title else []
        lines += [_cell(part.words), ""] if part.words else []
        lines += [f"- {_cell(name)}: {_cell(value)}" for name, value in part.facts]
        lines += [""] if part.facts else []
        if part.rows:
            lines.append("| " + " | ".join(map(_cell, part.head)) + " |")
            lines.append("|" + "---|" * len(part.head))
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in part.rows]
            lines.append("")
    lines += [_cell(sheet.footer), ""] if sheet.footer else []
    return "\n".join(lines)


def _cell(words: str) -> str:
    for character in "\\`*_<>[]|#":
        words = words.replace(character, "\\" + character if character != "<" else "&lt;")
    return " ".join(words.split())


def sheet_page(sheet: Sheet) -> str:
    """One self-contained page without scripts; prints on A4. Same input, same bytes."""
    return rendered("sheet.html.j2", sheet=sheet)
