"""The known state of the backups of one data set: a fold of its events that stays small.

Invariant: the verdict on this state is the verdict on all events (`derive.backups`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeVar

from evac.derive.backups import counts, open_errors
from evac.drivers.capabilities import CopyReport
from evac.model.backup import (
    COMPARED,
    READ,
    RESTORED,
    Alarm,
    AlarmCode,
    BackupEvent,
    CopySeen,
    CredentialsChange,
    Doubt,
    EventKind,
    Incomplete,
    Lacking,
    Lacks,
    MeasuredRestore,
    ProofOutcome,
    ProofRecord,
)
from evac.model.records import dataclass
from evac.model.restore_times import measured_of, newest_of_each_size

Job = Literal["list", "take", "copy", "prove", "restore-test", "restore"]
"""What a job does with one copy. restore: into a person's folder, where it stays."""
MAKING: Final[tuple[Job, ...]] = ("take", "copy")
"""The jobs that make a copy."""
INCOMPLETE_KEPT: Final = 2_500
"""Number of incomplete backups of a data set that are remembered by their id; the time of older ones is."""
DOUBTS_KEPT: Final = 400
"""Number of times of doubt of a copy that are remembered one by one; beyond it the closest two are joined."""
WHOLE_KEPT: Final = 1_000
"""Number of complete backups that are remembered of one time of doubt."""
BEFORE_ALL: Final = frozenset({"backup-other-repository", "backup-locked"})
"""Codes of jobs that ended before their tool wrote anything."""
SKEW_S: Final = 300
"""How far the clock of a tool may differ from the clock that recorded when it was started."""
MADE_KEPT: Final = 8
CHANGES_KEPT: Final = 100
"""Number of changes of credentials of a copy that are kept."""
WITNESSES_KEPT: Final = 8
"""Number of newest backups of a copy whose witness is kept; older ones are in the journal."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What an independent witness saw in the data when a backup of it was taken."""

    copy: str
    snapshot: str
    at_ms: int
    facts: Mapping[str, str | int]


def judged(witnessed: Witnessed | None, facts: Mapping[str, str | int]) -> tuple[int, ProofOutcome, str]:
    """The level that a restore reached, its outcome, and why. Without something to compare, a witness proves
    only that the engine accepts the data; a mismatch proves damage.
    """
    if witnessed is None or not witnessed.facts:
        return RESTORED, "passed", ""
    missing = sorted(witnessed.facts.keys() - facts.keys())
    wrong = [
        name for name in sorted(witnessed.facts.keys() & facts.keys()) if witnessed.facts[name] != facts[name]
    ]
    if wrong:
        words = "; ".join(
            f"{name} is {facts[name]}, but was {witnessed.facts[name]} when the backup was taken"
            for name in wrong[:5]
        )
        words += "; use another backup until you know why"
        return COMPARED, "damaged", words
    if missing:
        return RESTORED, "passed", f"not compared: {', '.join(missing[:5])}"
    return COMPARED, "passed", ""


@dataclass(frozen=True, slots=True)
class NotMade:
    """When a copy should have been made and was not."""

    copy: str
    at_ms: int
    busy: bool = False
    """Whether another process was working on it; else the job failed."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """When a job of one copy last ended, scheduled or by a person."""

    copy: str
    job: Job
    at_ms: int
    part: int = 0
    """Part number of the last partial check."""
    failures: int = 0
    """Consecutive failures."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A backup whose tool was started, and whose end is not recorded yet."""

    copy: str
    at_ms: int
    originals: tuple[str, ...] = ()
    """For a copy: the ids that it may state as its original."""
    taken_s: int | None = None
    """For a copy: when its original began."""
    there: tuple[str, ...] = ()
    """For a copy: ids of complete copies of the same original that are already there."""


@dataclass(frozen=True, slots=True)
class Made:
    """A complete backup."""

    copy: str
    snapshot: str
    began_s: int | None = None
    """When it began, as its tool lists it."""


@dataclass(frozen=True, slots=True)
class Known:
    """State of one data set."""

    data_set: str
    copies: tuple[CopySeen, ...] = ()
    proofs: tuple[ProofRecord, ...] = ()
    """Those that the verdict still depends on, oldest first."""
    witnesses: tuple[Witnessed, ...] = ()
    runs: tuple[LastRun, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    """Sudden changes of the last weeks, oldest first; for each code of a copy the newest."""
    incomplete: tuple[Incomplete, ...] = ()
    begun: tuple[Begun, ...] = ()
    """At most one of each copy."""
    doubts: tuple[Doubt, ...] = ()
    made: tuple[Made, ...] = ()
    """The newest complete backups of each copy, oldest first."""
    measured: tuple[MeasuredRestore, ...] = ()
    """Completed restores, oldest first: of each copy, the newest of each order of size."""
    credentials: tuple[CredentialsChange, ...] = ()
    """Those recorded and not withdrawn; of each copy, the one recorded last is the last one."""

    @property
    def lacks(self) -> Lacks:
        """A backup that is being made is not known to be complete either."""
        now = (_doubt(self, one, None) for one in self.begun)
        return Lacks(self.incomplete, (*self.doubts, *now))

    def whole(self, copy: str, from_s: int | None = None) -> tuple[str, ...]:
        """Ids of the newest complete backups of a copy; from_s: without those known to have begun before."""
        mine = (one for one in self.made if one.copy == copy)
        late = (one for one in mine if from_s is None or one.began_s is None or one.began_s >= from_s)
        return tuple(one.snapshot for one in late)

    def seen(self, copy: str) -> CopySeen | None:
        return next((one for one in self.copies if one.copy == copy), None)

    def run(self, copy: str, job: Job) -> LastRun | None:
        return next((one for one in self.runs if (one.copy, one.job) == (copy, job)), None)

    def failed(self, copies: Iterable[str]) -> NotMade | None:
        """The newest of the last runs that should have made these copies and failed."""
        last = [self.making(copy) for copy in copies]
        failed = [NotMade(one.copy, one.at_ms) for one in last if one and one.failures]
        return max(failed, key=lambda one: one.at_ms, default=None)

    def lacking(self, copy: str) -> Lacking:
        """Which backups of a copy lack something, or may."""
        return self.lacks.of(copy)

    def making(self, copy: str) -> LastRun | None:
        """The last run that made a copy, or should have."""
        runs = (one for one in self.runs if one.copy == copy and one.job in MAKING)
        return max(runs, key=lambda one: one.at_ms, default=None)

    def witness(self, copies: Iterable[str], snapshot: str) -> Witnessed | None:
        """The witness of a backup, or of the one that it was copied from."""
        names = set(copies)
        return next(
            (one for one in reversed(self.witnesses) if one.copy in names and one.snapshot == snapshot), None
        )


JUMP: Final = 2
"""A size change by this factor from the previous backup is suspicious."""
GONE_LEAST: Final = 3
"""This many backups that vanish at once are more than routine pruning."""
NEW_MOST, NEW_USUAL = 500_000, 100_000
"""In parts per million: this much new data is a rewrite, if so little is usual."""
PACKED_LEAST, PACKED_USUAL = 970_000, 900_000
"""In parts per million: compression ratios of incompressible and of compressible data."""
ALARM_MS: Final = 30 * 86_400_000
"""How long a sudden change is shown; after that it counts as normal."""


One = TypeVar("One", CopySeen, ProofRecord, LastRun, Alarm, MeasuredRestore)


def sudden_changes(before: CopySeen | None, now: CopySeen) -> list[tuple[AlarmCode, str]]:
    """Changes between two listings that no schedule explains: codes and messages."""
    if before is not None and is_another(before, now):
        words = (
            f"this is a listing of {now.repository[-36:]}, and the last one was of "
            f"{before.repository[-36:]}: nothing in it has been proven yet"
        )
        return [("repository-changed", words)]
    if before is None or before.taken_at_ms is None:
        return []
    found: list[tuple[AlarmCode, str]] = []
    gone = before.count - now.count
    if now.taken_at_ms is None:
        found.append(("backups-gone", f"all {before.count} backups are gone"))
    elif now.taken_at_ms < before.taken_at_ms:
        found.append(("newest-backup-gone", "the newest backup is gone"))
    elif gone >= GONE_LEAST and gone * 2 > before.count:
        found.append(("backups-gone", f"{gone} of {before.count} backups are gone"))
    if now.refused is not None and before.refused is not None and now.refused > before.refused:
        count = now.refused - before.refused
        words = f"its server refused {count} {'deletion' if count == 1 else 'deletions'}: someone tried"
        found.append(("deletion-refused", words))
    if now.taken_at_ms is None or not _has_newer(before, now):
        return found
    if before.bytes and now.bytes and not before.bytes <= now.bytes * JUMP <= before.bytes * JUMP * JUMP:
        words = f"the newest backup has {now.bytes:,} bytes, and the one before it had {before.bytes:,}"
        found.append(("backup-size-jumped", words))
    new, usual = now.new_share, now.usual_share
    if new is not None and usual is not None and new >= NEW_MOST and usual <= NEW_USUAL:
        words = (
            f"{new // 10_000} % of the newest backup is new data; usually it is at most {usual // 10_000} %"
        )
        found.append(("backup-rewritten", words))
    packed, usual = now.packing, now.usual_packing
    if packed is not None and usual is not None and packed >= PACKED_LEAST and usual <= PACKED_USUAL:
        words = (
            "the new data in the newest backup does not compress, as if it were encrypted; "
            f"earlier data compressed to {usual // 10_000} % of its size"
        )
        found.append(("backup-incompressible", words))
    return found


def _has_newer(before: CopySeen, now: CopySeen) -> bool:
    """Whether the newest backup is another one. Times are whole seconds: two may have begun in the same."""
    if before.taken_at_ms != now.taken_at_ms:
        return (now.taken_at_ms or 0) > (before.taken_at_ms or 0)
    newest = [(one.bytes, one.new_share, one.packing) for one in (before, now)]
    return now.count > before.count and newest[0] != newest[1]


def is_another(before: CopySeen, now: CopySeen) -> bool:
    """Whether two listings of a copy are of two repositories; a tool that states no id does not say so."""
    return bool(before.repository and now.repository) and before.repository != now.repository


def after(known: Known, event: BackupEvent) -> Known:
    """The state after an event, which is new: `Evidence` keeps each one once."""
    if event.kind == "credentials-changed":
        return replace(known, credentials=_credentials(known, event))
    known = _no_later(known, event.copy, event.at_ms)
    known = _made(replace(_incomplete(known, event), runs=_runs(known, event)), event)
    known = _timed(known, event)
    if event.seen is not None:
        return _listed(known, event.seen)
    if event.kind == "listed":
        return _unlisted(known, event)
    if event.proof is not None:
        if event.proof in known.proofs or _of_another(known, event.proof):
            return known
        if counts(event.proof) and event.proof.level >= READ:
            known = replace(known, copies=_accepted(known, event.copy))
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


def _no_later(known: Known, copy: str, at_ms: int) -> Known:
    """With nothing of a copy dated long after the event that follows it: one of the clocks was wrong. The
    listings and checks that follow would otherwise count for nothing until the clock gets there.
    """
    return replace(
        known,
        copies=_dated(known.copies, copy, at_ms),
        proofs=_dated(known.proofs, copy, at_ms),
        runs=_dated(known.runs, copy, at_ms),
        alarms=_dated(known.alarms, copy, at_ms),
        measured=_dated(known.measured, copy, at_ms),
    )


def _dated(found: tuple[One, ...], copy: str, at_ms: int) -> tuple[One, ...]:
    return tuple(
        replace(one, at_ms=at_ms - 1) if one.copy == copy and one.at_ms > at_ms + SKEW_S * 1_000 else one
        for one in found
    )


def _credentials(known: Known, event: BackupEvent) -> tuple[CredentialsChange, ...]:
    """Those recorded, in that order. Beyond the limit, the later of the two oldest of a copy remains."""
    mine = [one for one in known.credentials if one.copy == event.copy]
    others = (one for one in known.credentials if one.copy != event.copy)
    if event.changed_at_ms is None:
        return (*others, *mine[:-1])
    mine.append(CredentialsChange(event.data_set, event.copy, event.changed_at_ms, event.at_ms))
    if len(mine) > CHANGES_KEPT:
        mine[:2] = [max(mine[:2], key=lambda one: one.at_ms)]
    return (*others, *mine)


def _listed(known: Known, seen: CopySeen) -> Known:
    before = known.seen(seen.copy)
    if before is not None and before.at_ms > seen.at_ms:
        return known
    if before is not None and not seen.repository:  # the next listing is compared with the last stated id
        seen = replace(seen, repository=before.repository)
    seen = replace(seen, expected=_expected(before, seen))
    found = [
        Alarm(seen.data_set, seen.copy, code, seen.at_ms, words)
        for code, words in sudden_changes(before, seen)
    ]
    again = {(one.copy, one.code) for one in found} | {(seen.copy, "backup-unlisted")}
    kept = (
        one for one in known.alarms if (one.copy, one.code) not in again and seen.at_ms - one.at_ms < ALARM_MS
    )
    if before is not None and is_another(before, seen):
        # Checks and witnesses of the other repository say nothing about this one.
        proofs = tuple(one for one in known.proofs if one.copy != seen.copy)
        witnesses = tuple(one for one in known.witnesses if one.copy != seen.copy)
        measured = tuple(one for one in known.measured if one.copy != seen.copy)
        known = replace(known, proofs=proofs, witnesses=witnesses, measured=measured)
    copies = (*(one for one in known.copies if one.copy != seen.copy), seen)
    return replace(known, copies=tuple(sorted(copies, key=lambda one: one.copy)), alarms=(*kept, *found))


def _unlisted(known: Known, event: BackupEvent) -> Known:
    """The state after a listing that failed. If a backup was made since the last one, no one has looked for
    sudden changes in it; that is raised once, until a listing succeeds.
    """
    made, seen = known.making(event.copy), known.seen(event.copy)
    if made is None or made.failures or (seen is not None and seen.at_ms >= made.at_ms):
        return known
    if any((one.copy, one.code) == (event.copy, "backup-unlisted") for one in known.alarms):
        return known
    words = (
        "a backup was made, but its repository could not be listed afterwards, so a sudden change in it "
        f"would go unnoticed: {event.detail}"
    )
    alarm = Alarm(event.data_set, event.copy, "backup-unlisted", event.at_ms, words)
    return replace(known, alarms=(*known.alarms, alarm))


def _expected(before: CopySeen | None, now: CopySeen) -> str:
    """`CopySeen.expected` after a listing: a listing alone does not accept another repository."""
    if before is None:
        return ""
    expected = before.expected or (before.repository if is_another(before, now) else "")
    return "" if expected == now.repository else expected


def _accepted(known: Known, copy: str) -> tuple[CopySeen, ...]:
    """The copies, after a backup in the repository of one of them was proven."""
    return tuple(replace(one, expected="") if one.copy == copy else one for one in known.copies)


def _of_another(known: Known, proof: ProofRecord) -> bool:
    """Whether a proof was made before the listing that showed another repository."""
    changed = (
        one.at_ms for one in known.alarms if (one.copy, one.code) == (proof.copy, "repository-changed")
    )
    return any(proof.at_ms < at_ms for at_ms in changed)


def _timed(known: Known, event: BackupEvent) -> Known:
    """With what a restore measured."""
    found = None if event.proof is None else measured_of(event.proof)
    if event.kind == "restored" and event.outcome == "done" and event.bytes_read and event.took_ms > 0:
        facts = (event.tool, event.bytes_read, event.took_ms, event.at_ms)
        found = MeasuredRestore(event.data_set, event.copy, *facts)
    if found is None or (event.proof is not None and _of_another(known, event.proof)):
        return known
    return replace(known, measured=newest_of_each_size((*known.measured, found)))


def _runs(known: Known, event: BackupEvent) -> tuple[LastRun, ...]:
    job = job_of(event)
    before = known.run(event.copy, job)
    if event.kind == "missed" or event.goes_on or (before is not None and before.at_ms >= event.at_ms):
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


def _incomplete(known: Known, event: BackupEvent) -> Known:
    if job_of(event) not in MAKING or event.outcome == "done" or not event.snapshot:
        return known
    return with_incomplete(known, Incomplete(event.copy, event.snapshot, _began_s(event)))


def with_incomplete(known: Known, *added: Incomplete) -> Known:
    """Remember incomplete backups. The oldest beyond the limit are remembered by their time only."""
    there = {(one.copy, one.snapshot) for one in known.incomplete}
    every = [*known.incomplete, *(one for one in added if (one.copy, one.snapshot) not in there)]
    dated = [one for one in every if one.began_s is not None]
    for old in dated[: max(0, len(every) - INCOMPLETE_KEPT)]:
        every.remove(old)
        from_s, until_s = (old.began_s or 0) - SKEW_S, (old.began_s or 0) + SKEW_S
        known = _doubted(known, Doubt(old.copy, from_s, until_s, known.whole(old.copy, from_s)))
    return replace(known, incomplete=tuple(every))


def begin(known: Known, begun: Begun) -> Known:
    """The state before a tool is started. What it started before that and never recorded is in doubt."""
    for one in known.begun:
        if one.copy == begun.copy:
            known = _doubted(known, _doubt(known, one, begun.at_ms))
    others = (one for one in known.begun if one.copy != begun.copy)
    return replace(known, begun=(*others, begun))


def begun_copy(known: Known, copy: str, at_ms: int, source: CopyReport, there: Sequence[CopyReport]) -> Begun:
    """A copy of a backup that is about to be made. A copy of a copy may state either as its original. there:
    its copies that are listed before, which this one does not make: they are as complete as they were.
    """
    originals = tuple(dict.fromkeys(one for one in (source.original, source.id) if one))
    lacking = known.lacking(copy)
    whole = (one for one in there if not one.failed and not lacking(one.id, one.original, one.taken_at))
    return Begun(copy, at_ms, originals, source.taken_at, tuple(one.id for one in whole))


def _made(known: Known, event: BackupEvent) -> Known:
    """The state after the end of a backup or a copy."""
    if event.kind not in ("taken", "copied"):
        return known
    begun = next((one for one in known.begun if one.copy == event.copy), None)
    if begun is not None and event.at_ms >= begun.at_ms:
        wrote_nothing = event.outcome == "failed" and event.code in BEFORE_ALL
        if event.outcome != "done" and not event.snapshot and not wrote_nothing:
            # Its tool may have left one behind.
            known = _doubted(known, _doubt(known, begun, event.at_ms))
        known = replace(known, begun=tuple(one for one in known.begun if one != begun))
    stated_s = None if event.taken_at_ms is None else event.taken_at_ms // 1_000
    made = Made(event.copy, event.snapshot, stated_s)
    if event.outcome != "done" or not event.snapshot or event.snapshot in known.whole(event.copy):
        return known
    began_s, originals = _began_s(event) or 0, ("",) if begun is None else begun.originals or ("",)
    doubts = tuple(
        replace(one, whole=(*one.whole, event.snapshot)[-WHOLE_KEPT:])
        if one.copy == event.copy and any(one.covers(event.snapshot, id_, began_s) for id_ in originals)
        else one
        for one in known.doubts
    )
    mine = [one for one in known.made if one.copy == event.copy][-(MADE_KEPT - 1) :]
    others = (one for one in known.made if one.copy != event.copy)
    return replace(known, doubts=doubts, made=(*others, *mine, made))


def _began_s(event: BackupEvent) -> int | None:
    """When a backup began, as its tool lists it. Of a copy, older versions did not record it."""
    if event.taken_at_ms is not None:
        return event.taken_at_ms // 1_000
    return (event.at_ms - event.took_ms) // 1_000 if event.kind == "taken" else None


def _doubt(known: Known, begun: Begun, until_ms: int | None) -> Doubt:
    """What its tool may have made. until_ms: None while it is running."""
    if begun.originals:
        at_s = begun.taken_s or 0
        whole = tuple(dict.fromkeys((*known.whole(begun.copy), *begun.there)))
        return Doubt(begun.copy, at_s, at_s, whole, begun.originals)
    from_s = begun.at_ms // 1_000 - SKEW_S
    until_s = None if until_ms is None else max(until_ms, begun.at_ms) // 1_000 + SKEW_S
    return Doubt(begun.copy, from_s, until_s, known.whole(begun.copy, from_s))


def _doubted(known: Known, doubt: Doubt) -> Known:
    """One more time of doubt. Beyond the limit the closest two of a copy are joined, with what is between.
    Copies of the same backup are one doubt.
    """
    mine = [one for one in known.doubts if one.copy == doubt.copy]
    for one in mine:
        if doubt.originals and one.originals == doubt.originals:
            mine.remove(one)
            doubt = replace(doubt, whole=tuple(dict.fromkeys((*one.whole, *doubt.whole)))[-WHOLE_KEPT:])
            break
    mine.append(doubt)
    mine.sort(key=lambda one: one.from_s)
    if len(mine) > DOUBTS_KEPT:
        row = min(range(len(mine) - 1), key=lambda row: _between_s(mine[row], mine[row + 1]))
        first, second = mine[row : row + 2]
        ends = [one.until_s for one in (first, second) if one.until_s is not None]
        until_s = max(ends) if len(ends) == 2 else None
        every = (*first.whole, *second.whole, *known.whole(doubt.copy, first.from_s))
        whole = tuple(dict.fromkeys(every))[-WHOLE_KEPT:]
        mine[row : row + 2] = [Doubt(doubt.copy, first.from_s, until_s, whole)]
    return replace(known, doubts=(*(one for one in known.doubts if one.copy != doubt.copy), *mine))


def _between_s(first: Doubt, second: Doubt) -> int:
    """The time between two times of doubt; 0 if they overlap."""
    return 0 if first.until_s is None else max(0, second.from_s - first.until_s)


def after_listing(known: Known, copy: str, ids: Mapping[str, str]) -> Known:
    """Remember copies of incomplete backups by their own ids. ids: of all backups of a copy -> the id of its
    original. Nothing is forgotten: a listing may be of another repository, or of one that was briefly empty.
    """
    every = {one.snapshot: one for one in known.incomplete}
    return with_incomplete(
        known,
        *(
            replace(every[original], copy=copy, snapshot=own)
            for own, original in ids.items()
            if original in every
        ),
    )


def job_of(event: BackupEvent) -> Job:
    """The kind of job that an event ends."""
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
    """For one copy: the newest pass of each level and part, open errors, and the last check."""
    passes: dict[tuple[int, int, int], ProofRecord] = {}
    for proof in proofs:
        if counts(proof):
            passes[proof.level, proof.part, proof.of] = proof
    errors = {(one.outcome, one.level, one.part, one.of): one for one in open_errors(proofs)}
    kept = {*passes.values(), *errors.values(), proofs[-1]}
    return [one for one in proofs if one in kept]
