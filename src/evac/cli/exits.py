"""Exit codes: one meaning each, documented in docs/reference/exit-codes.md."""

from __future__ import annotations

from typing import Final

from evac.model.errors import EstateError, EvacError, InvalidInput, StalePlan, UnknownDomain, UnsafePlan

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
FINDINGS: Final = 3
NOT_ALLOWED: Final = 4
REFUSED: Final = 10
STALE: Final = 12
INTERRUPTED: Final = 130


def exit_code(error: EvacError) -> int:
    """The exit code of an error that reached the command line."""
    if isinstance(error, StalePlan):
        return STALE
    if isinstance(error, UnsafePlan):
        return REFUSED
    if isinstance(error, EstateError | UnknownDomain | InvalidInput):
        return USAGE
    return FAILED
