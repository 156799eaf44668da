"""What is known of the backups of one data set: a fold of its events that stays small.

Invariant: the verdict on what is kept is the verdict on all events (`derive.backups`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from evac.derive.backups import counts, open_errors
from evac.model.backup import READ, BackupEvent, CopySeen, EventKind, ProofRecord

Job = Literal["list", "take", "copy", "prove", "restore-test", "restore"]
"""What is done with one copy. restore: into a folder of a person, where it stays."""
WITNESSES_KEPT: Final = 8
"""Newest backups of one copy whose witness is kept; older ones are in the journal."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What an independent witness saw in the data when a backup of it was taken."""

    copy: str
    snapshot: str
    at_ms: int
    facts: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class LastRun:
    """When a job of one copy last ended, by the schedule or by a person."""

    copy: str
    job: Job
    at_ms: int
    part: int = 0
    """Of the last check that read a part."""
    failures: int = 0
    """In a row."""


@dataclass(frozen=True, slots=True)
class Known:
    """Of one data set."""

    data_set: str
    copies: tuple[CopySeen, ...] = ()
    proofs: tuple[ProofRecord, ...] = ()
    """Those that the verdict still depends on, oldest first."""
    witnesses: tuple[Witnessed, ...] = ()
    runs: tuple[LastRun, ...] = ()
    previous: tuple[CopySeen, ...] = ()
    """What the listing before the last one said, by which sudden changes are seen."""

    def seen(self, copy: str) -> CopySeen | None:
        return next((one for one in self.copies if one.copy == copy), None)

    def run(self, copy: str, job: Job) -> LastRun | None:
        return next((one for one in self.runs if (one.copy, one.job) == (copy, job)), None)

    def witness(self, copies: Iterable[str], snapshot: str) -> Witnessed | None:
        """Of a backup, or of the one that it was copied from."""
        names = set(copies)
        return next(
            (one for one in reversed(self.witnesses) if one.copy in names and one.snapshot == snapshot), None
        )


JUMP: Final = 2
"""So many times larger or smaller, the newest backup is nothing like the one before it."""


def sudden_change(before: CopySeen | None, now: CopySeen | None) -> tuple[str, str]:
    """What changed between two listings as no schedule changes it: a code and words; empty for nothing."""
    if before is None or now is None or before.taken_at_ms is None:
        return "", ""
    if now.taken_at_ms is None:
        return "backups-gone", f"all {before.count} backups are gone"
    if now.taken_at_ms < before.taken_at_ms:
        return "newest-backup-gone", "the newest backup is gone"
    if before.bytes and now.bytes and not before.bytes <= now.bytes * JUMP <= before.bytes * JUMP * JUMP:
        words = f"the newest backup has {now.bytes:,} bytes, and the one before it had {before.bytes:,}"
        return "backup-size-jumped", words
    return "", ""


def after(known: Known, event: BackupEvent) -> Known:
    """What is known once an event has happened. The same event twice changes nothing the second time."""
    known = replace(known, runs=_runs(known, event))
    if event.seen is not None:
        return _listed(known, event.seen)
    if event.proof is not None:
        if event.proof in known.proofs:
            return known
        mine = [one for one in known.proofs if one.copy == event.copy]
        others = tuple(one for one in known.proofs if one.copy != event.copy)
        kept = _kept(sorted([*mine, event.proof], key=lambda one: one.at_ms))
        return replace(known, proofs=(*others, *kept))
    if event.facts and event.snapshot:
        made = Witnessed(event.copy, event.snapshot, event.at_ms, dict(event.facts))
        rest = [one for one in known.witnesses if (one.copy, one.snapshot) != (made.copy, made.snapshot)]
        mine_too = [one for one in rest if one.copy == event.copy][-(WITNESSES_KEPT - 1) :]
        return replace(known, witnesses=(*(one for one in rest if one.copy != event.copy), *mine_too, made))
    return known


def _listed(known: Known, seen: CopySeen) -> Known:
    before = known.seen(seen.copy)
    if before is not None and before.at_ms > seen.at_ms:
        return known
    previous = known.previous
    if before is not None and before.taken_at_ms != seen.taken_at_ms:
        previous = (*(one for one in previous if one.copy != seen.copy), before)
    copies = (*(one for one in known.copies if one.copy != seen.copy), seen)
    return replace(known, copies=tuple(sorted(copies, key=lambda one: one.copy)), previous=previous)


def _runs(known: Known, event: BackupEvent) -> tuple[LastRun, ...]:
    job = job_of(event)
    before = known.run(event.copy, job)
    if event.kind == "missed" or (before is not None and before.at_ms >= event.at_ms):
        return known.runs
    failed = event.outcome != "done" or (
        event.proof is not None and event.proof.outcome in ("could-not-run", "damaged")
    )
    part = event.proof.part if event.proof is not None else 0
    failures = (0 if before is None else before.failures) + 1 if failed else 0
    if event.proof is not None and event.proof.outcome == "could-not-run" and before is not None:
        part = before.part
    run = LastRun(event.copy, job, event.at_ms, part, failures)
    return (*(one for one in known.runs if (one.copy, one.job) != (event.copy, job)), run)


def job_of(event: BackupEvent) -> Job:
    """Which job an event ends."""
    if event.proof is not None:
        return "prove" if event.proof.level <= READ else "restore-test"
    return _JOBS[event.kind]


_JOBS: Final[Mapping[EventKind, Job]] = {
    "listed": "list",
    "taken": "take",
    "copied": "copy",
    "proven": "prove",
    "restored": "restore",
    "missed": "list",
}


def _kept(proofs: list[ProofRecord]) -> list[ProofRecord]:
    """Of one copy: the newest pass of each level and part, errors that are open, and the last check."""
    passes: dict[tuple[int, int, int], ProofRecord] = {}
    for proof in proofs:
        if counts(proof):
            passes[proof.level, proof.part, proof.of] = proof
    errors = {(one.outcome, one.level, one.part, one.of): one for one in open_errors(proofs)}
    kept = {*passes.values(), *errors.values(), proofs[-1]}
    return [one for one in proofs if one in kept]
