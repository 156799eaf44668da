"""Exit codes: one meaning each, documented in docs/reference/exit-codes.md."""

from __future__ import annotations

from typing import Final

from evac.model.errors import (
    EstateError,
    EvacError,
    InvalidInput,
    LockHeld,
    NotAllowed,
    OutcomeUnknown,
    StalePlan,
    UnknownDomain,
    UnsafePlan,
)
from evac.run.values import ENDED, RunPhase

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
FINDINGS: Final = 3
NOT_ALLOWED: Final = 4
REFUSED: Final = 10
LOCKED: Final = 11
STALE: Final = 12
PAUSED: Final = 13
ROLLED_BACK: Final = 14
ROLL_BACK_FAILED: Final = 15
UNKNOWN: Final = 16
TWO_PRIMARIES: Final = 17
"""A store has two writable primaries: nothing is more urgent."""
INTERRUPTED: Final = 130


def exit_code(error: EvacError) -> int:
    """The exit code of an error that reached the command line."""
    if isinstance(error, StalePlan):
        return STALE
    if isinstance(error, UnsafePlan):
        return REFUSED
    if isinstance(error, NotAllowed):
        return NOT_ALLOWED
    if isinstance(error, LockHeld):
        return LOCKED
    if isinstance(error, OutcomeUnknown):
        return UNKNOWN
    if isinstance(error, EstateError | UnknownDomain | InvalidInput):
        return USAGE
    return FAILED


def run_exit_code(phase: RunPhase, undone: bool, in_doubt: bool, held: bool = False) -> int:
    """The exit code that says how a run stands. undone: what was to be taken back was; in_doubt: a step whose
    outcome nobody knows; held: a hold lets it begin nothing.
    """
    if in_doubt:
        return UNKNOWN
    if phase in ("succeeded", "succeeded_with_exceptions"):
        return DONE
    if phase in ("paused", "awaiting_approval") or (held and phase not in ENDED):
        return PAUSED
    if phase == "failed":
        return ROLLED_BACK if undone else ROLL_BACK_FAILED
    return FAILED if phase in ("cancelled", "timed_out") else DONE
