"""Families of errors, as the API and the store name them: whoever asked makes the same error again."""

from __future__ import annotations

from typing import Final

from evac.model import errors as e

KINDS: Final[tuple[tuple[str, type[e.EvacError]], ...]] = (
    ("stale-plan", e.StalePlan),
    ("unsafe-plan", e.UnsafePlan),
    ("unknown-domain", e.UnknownDomain),
    ("invalid-input", e.InvalidInput),
    ("not-allowed", e.NotAllowed),
    ("lock-held", e.LockHeld),
    ("outcome-unknown", e.OutcomeUnknown),
    ("run", e.RunError),
    ("store", e.StoreError),
    ("error", e.EvacError),
)
_BY_STATUS: Final = {401: "not-allowed", 403: "not-allowed", 422: "invalid-input", 400: "invalid-input"}


def kind_of(error: e.EvacError) -> str:
    return next(name for name, kind in KINDS if isinstance(error, kind))


def error_of(kind: str, status: int, code: str, message: str, hint: str) -> e.EvacError:
    """The error of a problem. kind: as `kind_of` wrote it; where it is not known, the status says it."""
    if status in (401, 403):
        kind = "not-allowed"
    known = dict(KINDS)
    found = known.get(kind) or known[_BY_STATUS.get(status, "error")]
    if found is e.LockHeld:
        held = e.LockHeld("", "")
        held.code, held.message, held.hint = code, message, hint
        return held
    return found(code, message, hint)
