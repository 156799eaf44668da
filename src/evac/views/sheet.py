"""A plain sheet: a title, facts and tables, as text for a terminal, as Markdown, as one printable page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, Template
from markupsafe import Markup

from evac.model.errors import InvalidInput
from evac.views.screen import Page

_NAME = "sheet.html.j2"


@dataclass(frozen=True, slots=True)
class SheetPart:
    """One part of a sheet."""

    title: str
    words: str = ""
    """A sentence above."""
    facts: Sequence[tuple[str, str]] = ()
    """(name, value)"""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """A table."""


@dataclass(frozen=True, slots=True)
class Sheet:
    title: str
    lead: str
    parts: tuple[SheetPart, ...]
    footer: str = ""


def sheet_data(sheet: Sheet) -> dict[str, Any]:
    """A sheet as plain values, for whoever shows it elsewhere."""
    return asdict(sheet)


def sheet_of(data: Any) -> Sheet:
    """The sheet of plain values. Raises InvalidInput for what is none."""
    try:
        parts = tuple(
            SheetPart(
                str(part["title"]),
                str(part["words"]),
                [(str(name), str(value)) for name, value in part["facts"]],
                [str(one) for one in part["head"]],
                [[str(cell) for cell in row] for row in part["rows"]],
            )
            for part in data["parts"]
        )
        return Sheet(str(data["title"]), str(data["lead"]), parts, str(data["footer"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("sheet-invalid", "this is no sheet", "ask a server of this version") from error


def utc(at_ms: int | None) -> str:
    """`2026-11-25 06:30:12 UTC`; a dash for never."""
    if at_ms is None or at_ms <= 0:
        return "-"
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


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
            page.table(part.head, part.rows)
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
    return _template().render(sheet=sheet, style=Markup(_file("report.css")))


def _file(name: str) -> str:
    return resources.files("evac.views").joinpath("templates", name).read_text("utf-8")


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=DictLoader({_NAME: _file(_NAME)}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_NAME)
