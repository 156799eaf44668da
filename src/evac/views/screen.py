"""Text for a terminal: calm, aligned, the answer first. Every state is a word; colour only repeats it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evac.views.words import shown

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
"""How lines begin that name a command."""


class Page:
    """Lines and tables in order, rendered once at a width, with or without colour."""

    def __init__(self, width: int, colour: bool) -> None:
        self._width = width
        self._colour = colour
        self._parts: list[RenderableType] = []

    def title(self, words: str) -> None:
        self._parts.append(Text(shown(words), style="bold"))

    def line(self, words: str = "", style: str = "") -> None:
        """A line; one that names the next command is never broken, because people copy it."""
        colour = STYLES.get(style, style)
        if words.startswith(NAMES):
            self._parts.append(Text(f"  {shown(words)}", colour))
        else:
            self._parts.append(Padding(Text(shown(words), colour), (0, 0, 0, 2 if words else 0)))

    def facts(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Rows of (name, value, style), names aligned."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for name, value, style in rows:
            table.add_row(Text(shown(name)), Text(shown(value), style=STYLES.get(style, style)))
        self._parts.append(Padding(table, (0, 0, 0, 2)))

    def table(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[str]],
        right: Iterable[int] = (),
        whole: Iterable[int] = (),
    ) -> None:
        """A table; the cells are plain words, a cell that is a state gets its colour. whole: columns that are
        never broken, because people copy what stands in them.
        """
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        rights, wholes = set(right), set(whole)
        for n, head in enumerate(heads):
            justify: Literal["left", "right"] = "right" if n in rights else "left"
            table.add_column(Text(head), justify=justify, overflow="fold", no_wrap=n in wholes)
        for row in rows:
            table.add_row(*(Text(shown(cell), style=STYLES.get(cell, "")) for cell in row))
        self._parts.append(Padding(table, (0, 0, 0, 2)))

    def text(self) -> str:
        """Without trailing white space, ending in a newline."""
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
            console.print(part, soft_wrap=isinstance(part, Text) and part.plain.lstrip().startswith(NAMES))
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
