"""What is known about backups and what follows from it: copies as tools list them, proofs, verdicts.

A proof has a level: 0 it exists; 1 its structure was checked; 2 its bytes were read and hashed; 3 it was
restored and its engine accepts it; 4 its content equals what an independent witness recorded; 5 the
application served a request from it. A check that could not run counts neither for nor against the backup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final, Literal

from evac.model.backup_policy import BackupPolicy
from evac.model.records import dataclass

ProofOutcome = Literal["passed", "too-slow", "too-old", "answer-differs", "damaged", "could-not-run"]
"""answer-differs: the application answered the request of a restore test, but not as expected."""
EXISTS, STRUCTURE, READ, RESTORED, COMPARED, SERVED = range(6)
WHOLE: Final = 1_000_000
"""All bytes of a repository, in parts per million."""


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """One check of one copy, and its result."""

    data_set: str
    copy: str
    """Name of the copy within its data set: `Backup.name`."""
    level: int
    outcome: ProofOutcome
    at_ms: int
    """When the check ended."""
    bytes_read: int | None = None
    """None if a person states the proof and nothing measured it."""
    share_read: int = 0
    """Share of the repository's bytes, in parts per million."""
    part: int = 1
    of: int = 1
    """Which part was read, out of how many (level 2)."""
    took_ms: int = 0
    place: str = ""
    """Where the check ran."""
    tool: str = ""
    version: str = ""
    snapshot: str = ""
    """The tool's id of the checked snapshot; empty for the whole repository."""
    code: str = ""
    """Why it did not pass: a code for programs."""
    detail: str = ""
    """Why it did not pass: a sentence for people."""
    by: str = ""
    """Who requested it; empty for the schedule."""
    request: str = ""
    """For level 5: the endpoint whose request was answered from the restored data."""
    answer: str = ""
    """For level 5: the beginning of the answer."""


@dataclass(frozen=True, slots=True)
class CopySeen:
    """The last listing of one copy by its backup tool."""

    data_set: str
    copy: str
    at_ms: int
    """When it was listed."""
    taken_at_ms: int | None
    """When the newest backup that did not fail began; None if there is none."""
    bytes: int | None = None
    count: int = 0
    """Number of backups that can be restored."""
    oldest_at_ms: int | None = None
    deletable: bool | None = None
    tool: str = ""
    version: str = ""
    repository: str = ""
    """The repository's own id; in `Known`, the last one stated."""
    new_share: int | None = None
    """Share of the newest backup that no earlier backup contained, in parts per million."""
    usual_share: int | None = None
    """The largest such share among earlier backups, except the very first, in which everything is new."""
    packing: int | None = None
    """Stored size of the new data relative to its original size, in parts per million. Encrypted data does
    not shrink.
    """
    usual_packing: int | None = None
    """The same ratio for all earlier data."""
    refused: int | None = None
    """Deletions that the repository has refused, according to its log."""
    deletable_why: str = ""
    """How `deletable` was determined, or why it could not be. If it is set, declarations in the estate are
    ignored.
    """
    expected: str = ""
    """In `Known`, the id of an earlier repository while no backup of this one has been proven; else empty."""
    unusable: int = 0
    """Number of backups that failed, are incomplete, or are not known to be complete."""


AlarmCode = Literal[
    "backups-gone",
    "newest-backup-gone",
    "repository-changed",
    "backup-size-jumped",
    "backup-rewritten",
    "backup-incompressible",
    "deletion-refused",
    "backup-unlisted",
]
"""backup-unlisted: the repository could not be listed after a backup, so a change would go unnoticed."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change between two listings of a backup that no schedule explains (an attack or a mistake), or that
    there is no listing to look for one.
    """

    data_set: str
    copy: str
    code: AlarmCode
    at_ms: int
    """When it was detected."""
    words: str


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A backup that lacks something, as the job that made it reported. Its tool may list it as complete."""

    copy: str
    snapshot: str
    began_s: int | None = None
    """When it began; None if an older version recorded it."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A time in which a backup may have been made that is not known to be complete: evac was killed, the tool
    did not finish in time, or it failed and named no backup. Of a copy, it is the time of its original.
    """

    copy: str
    from_s: int
    until_s: int | None = None
    """None: until now."""
    whole: tuple[str, ...] = ()
    """Ids of backups of that time that are known to be complete."""
    originals: tuple[str, ...] = ()
    """If a copy was being made: the ids that it may state as its original. Nothing else is in doubt."""

    def covers(self, snapshot: str, original: str, taken_at_s: int) -> bool:
        """original: the id that it was copied from, or empty."""
        if self.originals:
            return original in self.originals and snapshot not in self.whole
        ended = self.until_s is not None and taken_at_s > self.until_s
        return taken_at_s >= self.from_s and not ended and not {snapshot, original} & {*self.whole}


@dataclass(frozen=True, slots=True)
class Lacks:
    """Which backups of a data set lack something, or may."""

    incomplete: tuple[Incomplete, ...] = ()
    doubts: tuple[Doubt, ...] = ()

    def of(self, copy: str) -> Lacking:
        """For the backups of one copy. An empty name is any copy."""
        mine = [one for one in self.incomplete if copy in ("", one.copy)]
        rest = [one for one in self.incomplete if copy not in ("", one.copy)]
        return Lacking(
            frozenset(one.snapshot for one in mine),
            frozenset(one.snapshot for one in rest),
            tuple(one for one in self.doubts if copy in ("", one.copy)),
            tuple(one for one in self.doubts if copy not in ("", one.copy)),
        )


@dataclass(frozen=True, slots=True)
class Lacking:
    """Which backups of one copy lack something, or may: by their ids, and by the time when they began. A copy
    lacks what its original lacks.
    """

    own: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    """Ids of incomplete backups of other copies of the data set."""
    doubts: tuple[Doubt, ...] = ()
    doubts_elsewhere: tuple[Doubt, ...] = ()
    """Of other copies. A copy states the time of its original."""

    def __bool__(self) -> bool:
        return bool(self.own or self.others or self.doubts or self.doubts_elsewhere)

    def __call__(self, snapshot: str, original: str, taken_at_s: int) -> bool:
        """snapshot: a backup's id; original: the id that it was copied from, or empty."""
        if snapshot in self.own or (original and original in self.own | self.others):
            return True
        elsewhere = original and any(one.covers(original, "", taken_at_s) for one in self.doubts_elsewhere)
        return bool(elsewhere) or any(one.covers(snapshot, original, taken_at_s) for one in self.doubts)


@dataclass(frozen=True, slots=True)
class CredentialsChange:
    """When the credentials of the repository of one copy were changed, as a person recorded it. The latest
    change of a copy counts.
    """

    data_set: str
    copy: str
    at_ms: int
    recorded_ms: int = 0
    """When it was recorded; 0 if an older version recorded it."""


@dataclass(frozen=True, slots=True)
class MeasuredRestore:
    """How long a completed restore of a backup took, as a test or by hand."""

    data_set: str
    copy: str
    tool: str
    bytes: int
    took_ms: int
    at_ms: int
    """When it ended."""


@dataclass(frozen=True, slots=True)
class Stray:
    """Backups in a repository that belong to no data set of the estate."""

    endpoint: str
    source: str
    count: int
    at_ms: int


EventKind = Literal["listed", "taken", "copied", "proven", "restored", "missed", "credentials-changed"]
"""listed: the tool's listing; restored: into a folder that a person named, where it stays; missed: a window
passed with nothing done; credentials-changed: a person recorded a change of the repository's credentials.
"""
EventOutcome = Literal["done", "failed", "unknown"]
"""unknown: it may have been taken; the next listing will show it."""


@dataclass(frozen=True, slots=True)
class BackupEvent:
    """One backup event from the journal. Contains no secrets."""

    kind: EventKind
    at_ms: int
    data_set: str
    copy: str
    who: str = ""
    """Who requested it; empty for the schedule."""
    outcome: EventOutcome = "done"
    tool: str = ""
    version: str = ""
    snapshot: str = ""
    """The tool's id of the new snapshot."""
    bytes_read: int | None = None
    bytes_stored: int | None = None
    took_ms: int = 0
    seen: CopySeen | None = None
    """For `listed`."""
    proof: ProofRecord | None = None
    """For `proven`."""
    facts: Mapping[str, str | int] = field(default_factory=dict)
    """For `taken`: what an independent witness saw in the data at that time."""
    code: str = ""
    """Why it failed or was missed: a code for programs."""
    detail: str = ""
    """Why it failed or was missed: a sentence for people."""
    taken_at_ms: int | None = None
    """For `taken` and `copied`: when the backup began, as its tool lists it."""
    changed_at_ms: int | None = None
    """For `credentials-changed`: when; None withdraws the record that was added last."""
    goes_on: bool = False
    """Whether its job went on after it: another event ends the job."""


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """Everything observed and proven so far. `proofs` is in the order in which they ended."""

    copies: tuple[CopySeen, ...] = ()
    proofs: tuple[ProofRecord, ...] = ()
    strays: tuple[Stray, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    credentials: tuple[CredentialsChange, ...] = ()
    measured: tuple[MeasuredRestore, ...] = ()


NOTHING_SEEN: Final = BackupFacts()


def expected_repositories(facts: BackupFacts) -> tuple[tuple[str, str, str], ...]:
    """(data set, backup, id of the repository that a run may restore it from), sorted, for every backup whose
    listing stated one. Another repository counts from the first check that proves a backup in it.
    """
    return tuple(
        sorted(
            (one.data_set, one.copy, one.expected or one.repository) for one in facts.copies if one.repository
        )
    )


@dataclass(frozen=True, slots=True)
class ListedBackup:
    """What plans need to know of a backup that its tool listed."""

    data_set: str
    copy: str
    at_ms: int
    """The time for which its age counts, a few minutes ahead so that it rarely changes."""
    taken_at_ms: int | None
    """When the newest backup in it began; None if that is unknown."""
    unusable: bool = False
    """Whether there is no backup to restore in it, or a check found damage that no later check cleared."""


State = Literal["met", "missed", "unknown"]
"""unknown: the facts allow both; it never counts as met."""
DataState = Literal["met", "missed", "unknown", "undecided", "waived"]
"""undecided: there is no policy; waived: the policy says why no backup is needed."""
DigitName = Literal["copies", "systems", "outside", "undeletable", "errors"]


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit of 3-2-1-1-0: how many copies it requires, and how many there are."""

    name: DigitName
    state: State
    asked: int
    """For `errors`: how many copies have to be proven, which is all of them."""
    known: int
    """Copies that certainly count."""
    possible: int
    """Copies that would count if everything unknown turned out well."""


@dataclass(frozen=True, slots=True)
class ProofDue:
    """A proof level that the policy requires, and whether a copy has reached it recently enough."""

    level: int
    age_ms: int
    """Maximum age."""
    state: State
    """missed: it was reached, but too long ago; unknown: never, or at an unknown time."""
    last: ProofRecord | None
    """The newest proof of that level or a higher one."""


@dataclass(frozen=True, slots=True)
class CopyState:
    """One backup of a data set at one time."""

    name: str
    at: str
    exists: bool | None
    """None if there is no evidence that it exists."""
    lost: bool
    """Whether its place is lost."""
    outside: bool | None
    """Whether no loss of a single domain destroys both it and the original."""
    deletable: bool | None
    """Whether the credentials of the source can delete it."""
    system: str | None
    age_ms: int | None
    """Of the newest backup."""
    bytes: int | None
    restore_ms: int | None
    """Estimated restore time, if size and rate are known."""
    level: int | None
    """Highest level for which a proof of it or a higher one is within the age that the policy allows for that
    level; None if nothing is proven.
    """
    proof: ProofRecord | None
    """The newest proof that reached that level or a higher one; of several parts, the one read first."""
    last: ProofRecord | None
    """The last proof that passed, however old."""
    failed: ProofRecord | None
    """The last error that no later check has cleared."""
    not_run: ProofRecord | None
    """The last check, if it could not run."""
    coverage: int
    """Share that was read within the age that the policy allows, in parts per million."""
    proven: State
    """Whether every proof level that the policy requires was reached recently enough."""
    deletable_why: str = ""
    """How `deletable` was determined, or why it could not be, if the repository was asked."""
    count: int | None = None
    """Number of backups that can be restored; None if no tool listed them."""
    reach_ms: int | None = None
    """Age of the oldest of them at the time of the listing: it may have been deleted since."""
    unusable: int = 0
    """Number of backups that failed, are incomplete, or are not known to be complete."""
    due: tuple[ProofDue, ...] = ()
    """Every level that the policy requires, the lowest first."""
    credentials_ms: int | None = None
    """When the credentials of its repository were last changed, at the earliest; None: no change is known."""
    renewed: State | None = None
    """Whether its newest backup began after that; None if no change is known."""
    listed_age_ms: int | None = None
    """Age of the last listing by its tool; None without one, or if it is from our future."""
    is_ahead: bool = False
    """Whether its newest backup is dated in our future, so that its age is unknown."""
    is_another: bool = False
    """Whether another repository answers than the one that was proven; so is its age."""

    @property
    def damaged(self) -> bool:
        return self.failed is not None and self.failed.outcome == "damaged"

    @property
    def usable(self) -> bool | None:
        """Whether it counts as a copy; None if there is no evidence that it exists."""
        return False if self.lost or self.damaged else self.exists


@dataclass(frozen=True, slots=True)
class DataVerdict:
    """Whether the backups of one data set meet its policy."""

    data_set: str
    kind: str
    """`store`, or the kind of a data set."""
    state: DataState
    policy: BackupPolicy
    """The requirements; defaults if the estate has no policy."""
    digits: tuple[Digit, ...]
    """In the order of 3-2-1-1-0; empty if no policy has to be met."""
    rpo: State | None
    """Whether the newest backup is recent enough; None if the policy does not require it."""
    age_ms: int | None
    """Age of the newest backup that counts towards the RPO."""
    copies: tuple[CopyState, ...]
    taken_by: tuple[str, ...] = ()
    """Sites and groups whose loss destroys the original, sorted; empty if its place is not known."""
    retention: State | None = None
    """Whether enough old backups exist; None if the policy does not require it."""
    renewed: State | None = None
    """Whether every copy has a backup that began after the last change of its credentials; None if no change
    is known.
    """
