"""Errors every room may raise: a stable code, a message in plain words, and what to do next.

This module owns the hierarchy only; it knows nothing of files, rendering or exit codes.
"""

from __future__ import annotations

from evac.model.diagnostic import Diagnostic


class EvacError(Exception):
    """An error a user sees: `code` is a stable slug, `hint` says what to do next."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class EstateError(EvacError):
    """An estate that cannot be used; carries every diagnostic found, not only the first."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        errors = sum(1 for d in diagnostics if d.severity == "error")
        noun = "problem" if errors == 1 else "problems"
        super().__init__(
            "estate-invalid", f"{errors} {noun} in the estate", "mend the lines named, then: evac check"
        )
        self.diagnostics = diagnostics


class UnknownDomain(EvacError):
    """A fault domain named by the user that the estate does not have."""


class PlanError(EvacError):
    """A plan that cannot be made, read or used."""


class Infeasible(PlanError):
    """No plan exists: for example a tool that needs itself, with no manual path."""


class UnsafePlan(PlanError):
    """A plan that policy refuses: no capacity, no fence, too much lost, too much at once."""


class StalePlan(PlanError):
    """A plan made from another estate or another observation than the present one."""


class InvalidInput(EvacError):
    """Arguments of a public function that contradict its contract."""
