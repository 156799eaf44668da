"""What an import gives back, and the error of a source that cannot be imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from evac.model.diagnostic import Diagnostic
from evac.model.errors import EstateError

KINDS: Final = ("csv", "kubernetes", "wikimedia")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A group of facts that neither the source nor the overlay states: what, of how many, of which."""

    what: str
    count: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportResult:
    """One import. `files`: names written into the folder, sorted; `services`, `servers`: how many
    the estate has now, overlay included; `unknown`: what is still not known; `diagnostics`: what
    the source and the overlay say that cannot be used as it stands; `diff`: changes against the
    import before, sorted, empty on the first."""

    files: tuple[str, ...]
    services: int
    servers: int
    unknown: tuple[Unknown, ...]
    diagnostics: tuple[Diagnostic, ...]
    diff: tuple[str, ...]


class SourceError(EstateError):
    """A source that cannot be imported; carries every diagnostic found. Nothing was written."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        super().__init__(diagnostics)
        errors = sum(1 for d in diagnostics if d.severity == "error")
        noun = "problem" if errors == 1 else "problems"
        self.code = "import-impossible"
        self.message = f"{errors} {noun} in the source; nothing was written"
        self.hint = "mend the lines named, then run the import again"
        self.args = (self.message,)
