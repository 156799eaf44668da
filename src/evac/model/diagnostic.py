"""Places in files and the problems found there.

A diagnostic is a value: estate rooms make them, report rooms draw them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


IMPORTED: Final = "imported-"
"""How the files begin that an import writes again each time; what people know is in the overlay."""
OVERLAY: Final = "overlay.yaml"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a fact stands: `line` and `column` count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    @property
    def to_change(self) -> Place:
        """Where a person changes what is here: an import writes its own files again."""
        return Place(OVERLAY) if self.file.startswith(IMPORTED) else self


NOWHERE: Final = Place("")
"""Of a value that no file holds."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem of an input file: a stable code, words, a place and what to do next."""

    code: str
    message: str
    place: Place
    severity: Severity = "error"
    hint: str = ""

    @property
    def sort_key(self) -> tuple[str, int, int, str, str]:
        return (self.place.file, self.place.line, self.place.column, self.code, self.message)
