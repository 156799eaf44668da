"""Errors every room may raise: a stable code, a message in plain words, and what to do next.

Families of them are named as the API and the store name them: whoever asked makes the same error again. This
module knows nothing of files, rendering or exit codes.
"""

from __future__ import annotations

from typing import Final

from evac.model.diagnostic import Diagnostic


class EvacError(Exception):
    """An error a user sees: `code` is a stable slug, `hint` says what to do next."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class EstateError(EvacError):
    """An estate, or its policy, that cannot be used; carries every diagnostic, not only the first."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...], where: str = "estate") -> None:
        errors = sum(1 for d in diagnostics if d.severity == "error")
        noun = "problem" if errors == 1 else "problems"
        super().__init__(
            f"{where}-invalid",
            f"{errors} {noun} in the {where}",
            _remedy(where, any(d.place.line for d in diagnostics)),
        )
        self.diagnostics = diagnostics


def _remedy(where: str, has_lines: bool) -> str:
    """Where no line is to blame, nothing was read: another file or folder must be given."""
    if where != "estate":
        return "fix these lines" if has_lines else "fix what the message names"
    if has_lines:
        return "fix these lines, then: evac check"
    return "give the folder of an estate, or create one: evac init FOLDER"


class UnknownDomain(EvacError):
    """A fault domain named by the user that the estate does not have."""


class PlanError(EvacError):
    """A plan that cannot be made, read or used."""


class UnsafePlan(PlanError):
    """A plan that policy refuses: no capacity, no fence, too much lost, too much at once."""


class StalePlan(PlanError):
    """A plan made from another estate or another observation than the present one."""


class InvalidInput(EvacError):
    """Arguments of a public function that contradict its contract."""


class NotAllowed(EvacError):
    """Somebody asked for what policy does not let them do."""


class RunError(EvacError):
    """A run that cannot be made, or a request that its present state does not allow."""


class LockHeld(EvacError):
    """Somebody else leads, or holds a data set. Times in milliseconds; 0 where unknown."""

    def __init__(self, name: str, owner: str, since_ms: int = 0, ttl_ms: int = 0) -> None:
        super().__init__(
            "lock-held", f"{name} is held by {owner}", "wait for it to end, or ask its owner to release it"
        )
        self.name, self.owner, self.since_ms, self.ttl_ms = name, owner, since_ms, ttl_ms


class StoreError(EvacError):
    """The store of journals and leases could not do what was asked."""


class Conflict(StoreError):
    """A key is not as the caller believed, so nothing was written."""

    def __init__(self, key: str, message: str = "") -> None:
        super().__init__("store-conflict", message or f"{key} was changed by someone else", "read it again")
        self.key = key


class LeaseLost(StoreError):
    """The caller's lease is over or taken: it must stop acting at once."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "lease-lost", f"the lease {name} is no longer ours", "stop; the current holder continues"
        )
        self.name = name


class Superseded(LeaseLost):
    """A newer generation of the house was opened: nothing of an older one acts any more."""

    def __init__(self, own: int, newer: int) -> None:
        EvacError.__init__(
            self,
            "superseded",
            f"generation {newer} was opened; this store is of generation {own} and acts no more",
            "continue with the controller that opened it; leave this one stopped",
        )
        self.name, self.own, self.newer = "generation", own, newer


class Unavailable(StoreError):
    """No answer in time. What was asked may have been done: read before trying again."""

    def __init__(self, message: str) -> None:
        super().__init__("store-unavailable", message, "check that a majority of the members can be reached")


class Flooded(Unavailable):
    """Someone else wrote more entries than are passed over: what evac wrote there is not known until they are
    gone, as where the store does not answer.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code, self.hint = "store-flooded", "find out who writes to the store, and remove them"


class Corrupt(StoreError):
    """What was read is not what was written: a hash, a length or an order is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__("store-corrupt", message, "keep the files as they are; run: evac run verify RUN")


class ActionError(EvacError):
    """A real system refused or failed."""


class Retryable(ActionError):
    """Nothing was done; trying again may help, at the earliest after `after_ms`."""

    def __init__(self, code: str, message: str, hint: str = "", after_ms: int = 0) -> None:
        super().__init__(code, message, hint)
        self.after_ms = after_ms


class Permanent(ActionError):
    """Nothing was done, and trying again will not help."""


class OutcomeUnknown(ActionError):
    """It may have been done or not: the world is observed before anything is tried again."""


KINDS: Final[tuple[tuple[str, type[EvacError]], ...]] = (
    ("stale-plan", StalePlan),
    ("unsafe-plan", UnsafePlan),
    ("unknown-domain", UnknownDomain),
    ("invalid-input", InvalidInput),
    ("not-allowed", NotAllowed),
    ("lock-held", LockHeld),
    ("outcome-unknown", OutcomeUnknown),
    ("run", RunError),
    ("store", StoreError),
    ("error", EvacError),
)
_BY_STATUS: Final = {401: "not-allowed", 403: "not-allowed", 422: "invalid-input", 400: "invalid-input"}


def kind_of(error: EvacError) -> str:
    return next(name for name, kind in KINDS if isinstance(error, kind))


def error_of(kind: str, status: int, code: str, message: str, hint: str) -> EvacError:
    """The error of a problem. kind: as `kind_of` wrote it; where it is not known, the status says it."""
    if status in (401, 403):
        kind = "not-allowed"
    known = dict(KINDS)
    found = known.get(kind) or known[_BY_STATUS.get(status, "error")]
    if found is LockHeld:
        held = LockHeld("", "")
        held.code, held.message, held.hint = code, message, hint
        return held
    return found(code, message, hint)
