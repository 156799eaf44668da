"""Errors that any package may raise: a stable code, a plain message, and what to do next.

Families are named as the API and the store name them, so that a client can raise the same error again. This
module knows nothing about files, rendering or exit codes.
"""

from __future__ import annotations

from typing import Final, Self

from evac.model.diagnostic import Diagnostic
from evac.model.foreign_text import without_controls


class EvacError(Exception):
    """An error shown to users: `code` is a stable slug, `hint` says what to do next. Both texts may quote
    what others wrote, so characters that control a terminal are replaced.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        self.message = without_controls(message)
        super().__init__(self.message)
        self.code = code
        self.hint = without_controls(hint)

    @property
    def with_hint(self) -> str:
        """The message, and what to do next if that is known."""
        return f"{self.message}; next: {self.hint}" if self.hint else self.message


class EstateError(EvacError):
    """An estate or policy that cannot be used; carries every diagnostic, not only the first."""

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
    """If no line is at fault, nothing was read: another file or folder is needed."""
    if where != "estate":
        return "fix these lines" if has_lines else "fix the problem that the message names"
    if has_lines:
        return "fix these lines, then: evac check"
    return "give the folder of an estate, or create one: evac init FOLDER"


class UnknownDomain(EvacError):
    """A fault domain that the user named and the estate does not have."""


class PlanError(EvacError):
    """A plan that cannot be made, read or used."""


class PlanFileError(PlanError):
    """A file that is missing or is no plan that this version reads."""


class UnsafePlan(PlanError):
    """A plan that the policy refuses: no capacity, no fence, too much data loss, too much at once."""


class StalePlan(PlanError):
    """A plan made from another estate or observation than the current one."""


class InvalidInput(EvacError):
    """Arguments of a public function that violate its contract."""


class NotAllowed(EvacError):
    """A request that the policy does not allow this caller."""


class RunError(EvacError):
    """A run that cannot be created, or a request that its current state does not allow."""


class LockHeld(EvacError):
    """Another process leads or holds the data set. Times in milliseconds; 0 if unknown."""

    def __init__(self, name: str, owner: str, since_ms: int = 0, ttl_ms: int = 0) -> None:
        when = f"within {-(-ttl_ms // 1_000)} s" if ttl_ms > 0 else "once its lease expires"
        hint = f"wait for it to end; if its process is gone, it is released {when}"
        super().__init__("lock-held", f"{name} is held by {owner}", hint)
        self.name, self.owner, self.since_ms, self.ttl_ms = name, owner, since_ms, ttl_ms


class StoreError(EvacError):
    """The store of journals and leases could not execute a request."""


class Conflict(StoreError):
    """A key was not in the expected state, so nothing was written."""

    def __init__(self, key: str, message: str = "") -> None:
        super().__init__("store-conflict", message or f"{key} was changed by someone else", "read it again")
        self.key = key


class LeaseLost(StoreError):
    """The caller's lease has expired or was taken: it must stop acting immediately."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "lease-lost", f"the lease {name} is no longer ours", "stop; the current holder continues"
        )
        self.name = name


class Superseded(LeaseLost):
    """A newer generation was opened: nothing in an older one has any effect."""

    def __init__(self, own: int, newer: int) -> None:
        EvacError.__init__(
            self,
            "superseded",
            f"generation {newer} was opened; this store is generation {own}, and its controllers stop",
            "continue with the controller that opened it; leave this one stopped",
        )
        self.name, self.own, self.newer = "generation", own, newer


class StoreNotObeyed(LeaseLost):
    """No one may lead in this store: systems have obeyed the leader of another one and would refuse its own,
    or it cannot be found out.
    """

    def __init__(self, code: str, message: str, hint: str) -> None:
        EvacError.__init__(self, code, message, hint)
        self.name = "store"


class StoreBehind(StoreNotObeyed):
    """An agent has obeyed a higher token than that of the leader of this store. own: its generation."""

    def __init__(self, site: str, token: int, ours: int, own: int) -> None:
        super().__init__(
            "store-behind",
            f"the agent at {site} has obeyed token {token}, but the leader of this store has token {ours}: "
            "another store's leader acts, or this store was restored from an older copy",
            "name the store whose leader acts with --store; if it is lost, stop the controllers and start "
            f"them again with --generation {own + 1}",
        )


class Unavailable(StoreError):
    """No answer in time. The request may have been executed: read before trying again."""

    def __init__(self, message: str) -> None:
        super().__init__("store-unavailable", message, "check that a majority of the members can be reached")


class Flooded(Unavailable):
    """The store has more foreign entries than evac skips. Until they are removed, what evac wrote there is
    unknown, as if the store did not answer.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code, self.hint = "store-flooded", "find out who writes to the store, and remove them"


class Corrupt(StoreError):
    """The data read is not the data written: a hash, a length or an order is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__("store-corrupt", message, "keep the files as they are; run: evac run verify RUN")


class ActionError(EvacError):
    """A real system refused or failed."""

    def said_as(self, code: str, message: str) -> Self:
        """The same error, with all that its class knows, under another code and message."""
        other = type(self).__new__(type(self), message)  # its class may need more than these two
        vars(other).update(vars(self), code=code, message=message)
        return other

    @property
    def words(self) -> str:
        """What went wrong, and what to do."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class Retryable(ActionError):
    """Nothing was done; a retry may help, after `after_ms` at the earliest."""

    def __init__(self, code: str, message: str, hint: str = "", after_ms: int = 0) -> None:
        super().__init__(code, message, hint)
        self.after_ms = after_ms


class Busy(Retryable):
    """It answers, but has no connection for us at the moment: it is alive."""


class Permanent(ActionError):
    """Nothing was done, and a retry will not help."""


class OutcomeUnknown(ActionError):
    """It may or may not have been done: the real state is observed before any retry."""


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
    """The exception for a problem. `kind`: as from `kind_of`; if it is not known, the status decides."""
    if status in (401, 403):
        kind = "not-allowed"
    known = dict(KINDS)
    found = known.get(kind) or known[_BY_STATUS.get(status, "error")]
    if found is LockHeld:
        held = LockHeld("", "")
        held.code, held.message, held.hint = code, message, hint
        return held
    return found(code, message, hint)
