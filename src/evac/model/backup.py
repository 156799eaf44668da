"""What is known of backups, and what is made of it: copies as tools list them, proofs, verdicts.

A proof has a level: 0 it exists; 1 its structure was checked; 2 its bytes were read and hashed; 3 it was
restored and its engine accepts it; 4 its content equals what an independent witness recorded; 5 a request of
the application was answered from it. A check that could not run is neither good nor bad.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from evac.model.estate import BackupPolicy

ProofOutcome = Literal["passed", "too-slow", "too-old", "damaged", "could-not-run"]
EXISTS, STRUCTURE, READ, RESTORED, COMPARED, SERVED = range(6)
WHOLE: Final = 1_000_000
"""All bytes of a repository, in parts per million."""


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """One check of one copy, and what it showed."""

    data_set: str
    copy: str
    """Name of the copy among those of its data set: `Backup.name`."""
    level: int
    outcome: ProofOutcome
    at_ms: int
    """When the check ended."""
    bytes_read: int | None = None
    """None where a person states the proof and nothing measured it."""
    share_read: int = 0
    """Of all bytes of the repository, in parts per million."""
    part: int = 1
    of: int = 1
    """Which part of how many was read (level 2)."""
    took_ms: int = 0
    place: str = ""
    """Where it was checked."""
    tool: str = ""
    version: str = ""
    snapshot: str = ""
    """The tool's id of what was checked; empty for the whole repository."""
    code: str = ""
    """Why it did not pass, for programs."""
    detail: str = ""
    """The same, for people."""
    by: str = ""
    """Who asked for it; empty for the schedule."""


@dataclass(frozen=True, slots=True)
class CopySeen:
    """What the tool of one copy last listed."""

    data_set: str
    copy: str
    at_ms: int
    """When it was listed."""
    taken_at_ms: int | None
    """When the newest backup began that did not fail; None where there is none."""
    bytes: int | None = None
    count: int = 0
    """How many backups can be restored."""
    oldest_at_ms: int | None = None
    deletable: bool | None = None
    tool: str = ""
    version: str = ""
    repository: str = ""
    """Its own id."""
    new_share: int | None = None
    """Of the newest backup, what no backup before it had, in parts per million."""
    usual_share: int | None = None
    """The most of that in the backups before it, without the first of all, in which everything is new."""
    packing: int | None = None
    """Into how much of its size what is new was packed, in parts per million: encrypted data, into all."""
    usual_packing: int | None = None
    """The same of everything before it."""
    refused: int | None = None
    """Deletions that the repository has refused, as its log says."""
    deletable_why: str = ""
    """How `deletable` was found out, or why it could not be. Where it is stated, a declaration counts for
    nothing.
    """


AlarmCode = Literal[
    "backups-gone",
    "newest-backup-gone",
    "backup-size-jumped",
    "backup-rewritten",
    "backup-incompressible",
    "deletion-refused",
]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What changed between two listings of one backup as no schedule changes it: an attack, or a mistake."""

    data_set: str
    copy: str
    code: AlarmCode
    at_ms: int
    """When it was seen."""
    words: str


@dataclass(frozen=True, slots=True)
class Stray:
    """Backups in a repository that belong to no data set of the estate."""

    endpoint: str
    source: str
    count: int
    at_ms: int


EventKind = Literal["listed", "taken", "copied", "proven", "restored", "missed"]
"""listed: what the tool said it holds; restored: into a folder that a person named, where it stays; missed: a
window in which nothing was done.
"""
EventOutcome = Literal["done", "failed", "unknown"]
"""unknown: it may have been done; the next listing shows it."""


@dataclass(frozen=True, slots=True)
class BackupEvent:
    """One thing that happened to one backup, as the journal keeps it. Nothing in it is secret."""

    kind: EventKind
    at_ms: int
    data_set: str
    copy: str
    who: str = ""
    """Who asked for it; empty for the schedule."""
    outcome: EventOutcome = "done"
    tool: str = ""
    version: str = ""
    snapshot: str = ""
    """The tool's id of what was made."""
    bytes_read: int | None = None
    bytes_stored: int | None = None
    took_ms: int = 0
    seen: CopySeen | None = None
    """Of `listed`."""
    proof: ProofRecord | None = None
    """Of `proven`."""
    facts: Mapping[str, str | int] = field(default_factory=dict)
    """Of `taken`: what an independent witness saw in the data then."""
    code: str = ""
    """Why it failed or was missed, for programs."""
    detail: str = ""
    """The same, for people."""


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What was seen and proven so far. proofs: in the order in which they ended."""

    copies: tuple[CopySeen, ...] = ()
    proofs: tuple[ProofRecord, ...] = ()
    strays: tuple[Stray, ...] = ()
    alarms: tuple[Alarm, ...] = ()


NOTHING_SEEN: Final = BackupFacts()


def measured_restores(facts: BackupFacts) -> tuple[tuple[str, str, int], ...]:
    """(data set, backup, milliseconds): how long a restore takes now, by its last test that came to an end
    and the size since, sorted. A damaged backup measures nothing. Rounded up to two digits, so that no plan
    goes stale because one test took a little longer than the one before it.
    """
    sizes = {(one.data_set, one.copy): one.bytes for one in facts.copies}
    last: dict[tuple[str, str], ProofRecord] = {}
    for proof in facts.proofs:
        ended = proof.level >= RESTORED and proof.outcome in ("passed", "too-slow", "too-old")
        if ended and proof.bytes_read and proof.took_ms > 0:
            last[proof.data_set, proof.copy] = proof
    found = []
    for (data_set, copy), proof in sorted(last.items()):
        read = proof.bytes_read or 1
        takes_ms = -(-proof.took_ms * (sizes.get((data_set, copy)) or read) // read)
        step = 10 ** max(0, len(str(takes_ms)) - 2)
        found.append((data_set, copy, -(-takes_ms // step) * step))
    return tuple(found)


State = Literal["met", "missed", "unknown"]
"""unknown: what is known allows both; it never counts as met."""
DataState = Literal["met", "missed", "unknown", "undecided", "waived"]
"""undecided: there is no policy; waived: the policy says why no backup is needed."""
DigitName = Literal["copies", "systems", "outside", "undeletable", "errors"]


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit of 3-2-1-1-0: how many copies it asks for, and how many there are."""

    name: DigitName
    state: State
    asked: int
    """Of `errors`, how many copies have to be proven: all."""
    known: int
    """Copies that are known to count."""
    possible: int
    """Copies that count if everything unknown turns out well."""


@dataclass(frozen=True, slots=True)
class CopyState:
    """One backup of a data set at one time."""

    name: str
    at: str
    exists: bool | None
    """None where nothing says that there is one."""
    lost: bool
    """Whether its place is lost."""
    outside: bool | None
    """Whether no loss of one domain takes it together with the original."""
    deletable: bool | None
    """Whether the credentials of the source can delete it."""
    system: str | None
    age_ms: int | None
    """Of the newest backup."""
    bytes: int | None
    restore_ms: int | None
    """How long a restore takes, as far as size and rate are known."""
    level: int | None
    """Highest proof level within the age that the policy allows; None where nothing is proven."""
    proof: ProofRecord | None
    """What reached that level; of parts, the one that was read first."""
    last: ProofRecord | None
    """The last proof that passed, however old."""
    failed: ProofRecord | None
    """The last error that no later check has cleared."""
    not_run: ProofRecord | None
    """The last check, if it could not run."""
    coverage: int
    """Share that was read within the age that the policy allows, in parts per million."""
    proven: State
    """Whether the level that the policy asks for was reached recently enough."""
    deletable_why: str = ""
    """How `deletable` was found out, or why it could not be, where the repository was asked."""

    @property
    def damaged(self) -> bool:
        return self.failed is not None and self.failed.outcome == "damaged"

    @property
    def usable(self) -> bool | None:
        """Whether it counts as a copy; None where nothing says that it exists."""
        return False if self.lost or self.damaged else self.exists


@dataclass(frozen=True, slots=True)
class DataVerdict:
    """What the backups of one data set are worth."""

    data_set: str
    kind: str
    """`store`, or the kind of a data set."""
    state: DataState
    policy: BackupPolicy
    """What is asked; the defaults where the estate has no policy."""
    digits: tuple[Digit, ...]
    """In the order of 3-2-1-1-0; empty where no policy is to be met."""
    rpo: State | None
    """Whether the newest backup is new enough; None where the policy does not ask."""
    age_ms: int | None
    """Of the newest backup that the rpo is judged by."""
    copies: tuple[CopyState, ...]
    taken_by: tuple[str, ...] = ()
    """Sites and groups whose loss takes the original, sorted; empty where its place is not known."""
