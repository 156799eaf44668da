"""Places in files, and the problems found there. A diagnostic is a value: estate packages create them, report
packages render them.
"""

from __future__ import annotations

from typing import Final, Literal

from evac.model.foreign_text import one_line
from evac.model.records import dataclass

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


IMPORTED: Final = "imported-"
"""Prefix of files that an import overwrites each time; what people know belongs in the overlay."""
OVERLAY: Final = "overlay.yaml"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a fact is stated: `line` and `column` count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.line else self.name

    @property
    def name(self) -> str:
        """The name of the file, on one line and printable."""
        return one_line(self.file)

    @property
    def to_change(self) -> Place:
        """Where a person has to change this: an import overwrites its own files."""
        return Place(OVERLAY) if self.file.startswith(IMPORTED) else self


NOWHERE: Final = Place("")
"""The place of a value that is in no file."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem in an input file: a stable code, a message, a place and what to do next."""

    code: str
    message: str
    place: Place
    severity: Severity = "error"
    hint: str = ""

    @property
    def sort_key(self) -> tuple[str, int, int, str, str]:
        return (self.place.file, self.place.line, self.place.column, self.code, self.message)
