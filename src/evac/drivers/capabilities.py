"""Capabilities of drivers: small protocols, each named for what it does.

A driver lists its capabilities in its `DRIVER` (see `spec`), and its class inherits from them. The engine,
the audit, the witness and `evac check` look for a capability, never for a driver by name.

Most capabilities work through verbs of the port (`check`, `execute`, `observe`, `undo` with an `Action` of
that verb), which `ABOUT` lists. The others are queries with results of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Final, Literal, Protocol

from evac.drivers.port import Action, Checked, Driver, Verb
from evac.model.records import dataclass

MemberRole = Literal["primary", "replica", "detached", "none"]
"""primary: accepts writes. replica: currently receives from a primary. detached: configured to follow one but
receiving nothing. none: follows no one, or is a primary that gave up its role.
"""
Subject = Literal["store", "service", "site", "feed", "backup"]
"""What an endpoint can be for; `backup`: a data set that is not a store, such as the volumes of a tool."""


EXPECTED: Final = "expected"
"""Parameter of a restore: the id of the repository to restore from. A driver refuses another one."""
BACKUP: Final = "backup"
"""Parameter of a restore: the backup that it restores, as the estate names it."""
INCOMPLETE: Final = "incomplete"
"""Parameter of a restore: ids of incomplete backups, which are restored only by name."""
INCOMPLETE_ELSEWHERE: Final = "incomplete_elsewhere"
"""Parameter of a restore: ids of incomplete backups of other copies; a copy of one is incomplete."""
DOUBTS: Final = "doubts"
"""Parameter of a restore: times in which a backup began that is not known to be complete, as JSON."""
DOUBTS_ELSEWHERE: Final = "doubts_elsewhere"
"""Parameter of a restore: the same for other copies; a copy of such a backup is in doubt as well."""
ANY_COPY: Final = "any copy"
"""What a primary waits for if any copy may confirm its commits."""


@dataclass(frozen=True, slots=True)
class RoleReport:
    """Current state of one copy of a store, as it reports."""

    role: MemberRole
    lag_ms: int | None = None
    """Replication lag of a replica; None if unknown."""
    confirms: tuple[str, ...] = ()
    """For a primary: names of the copies that confirm its commits."""
    waits_for: tuple[str, ...] = ()
    """For a primary with hanging commits: names of the synchronous copies that do not follow it."""
    position: int | None = None
    """Bytes of log that it has, comparable within one `history`; None if the engine does not report it."""
    history: str = ""
    token: int = 0
    """The highest token that it has obeyed; 0 if the engine does not store it."""
    epoch: int = 0
    """The highest epoch that it has obeyed; 0 if the engine does not store it."""
    one_of_several: bool = False
    """For a primary: each commit is confirmed by one of several copies, so that `confirms` names none."""
    never_confirms: bool = False
    """For a replica: its own settings keep it from confirming commits."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Whether a system responded to a probe. detail: what was wrong, if it did not."""

    up: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Requests that a service served since the last report, and how many were errors."""

    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class PowerReport:
    """Whether one server is on."""

    server: str
    power: str
    """on, off, rising or falling; empty if the controller did not say."""
    progress: str = ""
    health: str = ""
    why: str = ""
    """Why the power state is unknown: a code of `boot_codes`, or `not-asked`."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """One backup of a data set in a repository, as its tool lists it."""

    id: str
    taken_at: int
    """Seconds since 1970 when the backup started: later writes are not in it."""
    bytes: int | None = None
    """Size of the restored data; None if the tool does not report it."""
    files: int | None = None
    paths: tuple[str, ...] = ()
    """The paths requested for it."""
    source: str = ""
    """Host or system it was taken from."""
    original: str = ""
    """The id it was copied from; empty if it was taken here."""
    tree: str = ""
    """Digest of the content, if the tool has one: equal in a true copy."""
    failed: bool = False
    """Whether the tool reports a failure, whatever its exit code."""
    consistent_at: int | None = None
    """For a backup that is recovered with the log after it: the earliest possible restore point; None if it
    is restored as taken.
    """
    added: int | None = None
    """Bytes of data not in any earlier backup; None if the tool does not report it, and for full backups."""
    packed: int | None = None
    """Size of these bytes in the repository. Data encrypted by an attacker does not compress."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Content of one repository for a data set."""

    repository: str
    """Its id, which distinguishes it from other repositories; empty if it has none."""
    copies: tuple[CopyReport, ...]
    """Oldest first."""
    tool: str
    version: str
    locked: bool = False
    """Whether another program has locked it, so that nothing can be written now."""
    deletable: bool | None = None
    """Whether these credentials can delete backups; None if that cannot be tested safely."""
    deletable_why: str = ""
    """How that was determined; if None, why it was not."""
    refused: int | None = None
    """Number of deletions refused according to its server's log; None if no log is read."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A backup that was just taken."""

    copy: CopyReport
    bytes_read: int
    bytes_stored: int
    took_ms: int
    missing: tuple[str, ...] = ()
    """What was requested and is not in it: paths, or the tree of the original. Any makes it incomplete."""
    wrong: tuple[CopyReport, ...] = ()
    """Other backups there that state the same original and differ from it, so they are incomplete."""


ProofOutcome = Literal["passed", "too-slow", "too-old", "damaged", "could-not-run"]
"""could-not-run is neither passed nor failed: nothing is known about the backup."""
EXISTS, STRUCTURE, READ, RESTORED, COMPARED, SERVED = range(6)
"""Levels of proof: it is listed; its structure was checked; its bytes were read and hashed; it was restored
and its engine accepts it; its content equals what a witness recorded; a request was served from it.
"""
PARTS_PER_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Proof:
    """Result of one check of a backup. Raises ValueError if it is passed but read nothing."""

    copy: str
    """Its id; empty if the whole repository was checked."""
    level: int
    outcome: ProofOutcome
    bytes_read: int
    """Bytes that the check itself read; 0 if the tool does not report it."""
    share_read: int
    """Share of all bytes of the repository, in parts per million."""
    took_ms: int
    place: str
    """Where it was checked."""
    tool: str
    version: str
    code: str = ""
    """Why it did not pass, for programs."""
    detail: str = ""
    """Why it did not pass, for people."""
    checked_at: int | None = None
    """Seconds since 1970 if another program checked it earlier; None: just now."""
    repository: str = ""
    """Id of the repository, as in `Listing`; empty if it was not determined."""

    def __post_init__(self) -> None:
        if self.outcome == "passed" and self.level >= READ and self.bytes_read <= 0:
            raise ValueError(f"a proof of level {self.level} that read nothing proves nothing")


@dataclass(frozen=True, slots=True)
class Restored:
    """A completed restore; an engine there has finished recovery."""

    copy: str
    place: str
    bytes: int
    took_ms: int
    reached_at: int | None = None
    """Newest time in the data, in seconds since 1970; None if the data does not say."""
    facts: Mapping[str, str | int] = field(default_factory=lambda: MappingProxyType({}))
    """For comparison by a witness: row counts, newest timestamp, digest of the manifest."""
    as_of: int | None = None
    """The restore point in seconds since 1970, if known; the newest time in the data may be older."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an application answered from restored data."""

    answer: str
    """Its beginning, without secrets."""
    expected: str
    """What the answer must contain."""
    matches: bool


class ReportsRole(Protocol):
    """Reports the role of a copy of a store."""

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        """Changes nothing. Raises `Retryable` if it does not respond, `Permanent` if it refuses access."""
        ...


class Promotes(Driver, Protocol):
    """Makes a copy the primary of its store, and makes a primary give up its role."""


class Fences(Driver, Protocol):
    """Prevents an old primary from acknowledging writes. `DriverSpec.proofs` says what its confirmation
    proves.
    """


class ProvesSync(Protocol):
    """Reports whether a synchronous copy can be the fence of its store: the proof `sync`."""

    async def precheck_sync(
        self, action: Action, timeout_s: float, candidate: str, sites: Mapping[str, str], may_be_lost: str
    ) -> Checked:
        """Check at the healthy primary whether every commit needs `candidate`, so that the copy proves a
        fence when `may_be_lost` is gone. sites: name of each copy -> its site. Never raises.
        """
        ...


class Follows(Driver, Protocol):
    """Makes a copy of a store follow another primary."""


class Protects(Driver, Protocol):
    """Sets which copies must confirm a primary's commits."""


class RunsUnits(Driver, Protocol):
    """Starts, scales and stops a service at a site."""


class ReportsReplicas(Protocol):
    """Reports how many replicas of a service it is set to run at a site."""

    async def report_replicas(self, action: Action, timeout_s: float, token: int) -> int | None:
        """None if no one has told it yet, so that what runs there is not its doing. Changes nothing. token:
        the leader's. Raises `Retryable` or `OutcomeUnknown` if it does not respond, `Permanent` if it refuses
        access.
        """
        ...


class RoutesTraffic(Driver, Protocol):
    """Moves the traffic of a service between sites."""


class ReportsTraffic(Protocol):
    """Reports which sites it sends the users of a service to."""

    async def report_traffic(self, action: Action, timeout_s: float) -> tuple[str, ...] | None:
        """As it is set, whether or not what is there is up; sorted. None if that is not clear: to nowhere, to
        places that the estate does not name, or some names of the service elsewhere than others. Changes
        nothing. Raises `Retryable` if it does not respond, `Permanent` if it refuses access.
        """
        ...


class Verifies(Driver, Protocol):
    """Checks whether a service works at a site."""


class ReportsHealth(Protocol):
    """Counts the requests and errors of a service at a site while traffic moves there in steps."""

    async def report_health(self, action: Action, timeout_s: float, samples: int) -> HealthReport:
        """Reports no requests if the service does not respond, or there is nothing to compare with yet.
        samples: number of requests to make if it has no counters of its own. Raises only `Permanent`, for
        wrong settings.
        """
        ...


class BootsServers(Driver, Protocol):
    """Powers servers on through their management controllers.

    It enters `Order.power` around the one request that draws power, and calls `Order.switched_on` once the
    controller has confirmed it.
    """

    async def look(self, action: Action, within_s: float) -> PowerReport:
        """Whether a server is on. Raises `ActionError`, also if a different machine responds."""
        ...


class SwitchesPower(Driver, Protocol):
    """Closes and opens the breaker of a power feed."""


class AnswersProbe(Protocol):
    """Checks whether a system is alive, as the witness of another site does continuously."""

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """Probe a system. Network errors are raised unchanged, because the witness knows which of them mean
        silence. Errors on our side, such as an unreadable secret, are raised too: they say nothing about the
        site.
        """
        ...


Begins = Callable[[CopyReport, Sequence[CopyReport]], Awaitable[None]]
"""Is called with the backup that will be copied, and the copies of it that are already there, before anything
is written.
"""


class TakesBackups(Driver, Protocol):
    """Lists, takes and checks backups of a data set in one repository.

    Every method raises `Retryable` if the repository does not respond or is locked, and `Permanent` for a
    wrong password, a corrupt catalogue, a missing program or a repository other than the pinned one.
    """

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        """List backups. Changes nothing."""
        ...

    async def take(self, action: Action, timeout_s: float) -> Taken:
        """Take a backup of what the settings name. Raises `OutcomeUnknown` if it may have been taken."""
        ...

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        """Check the repository: its structure (level 1), or the bytes of one part of several (level 2). part
        counts from 1. Damage, or being unable to check, is an outcome, not an error.
        """
        ...

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        """Current facts of the source, as in `Restored.facts`, queried without the backup tool; empty if
        unsupported. Changes nothing.
        """
        ...

    async def copy_on(self, action: Action, timeout_s: float, to: Action, begins: Begins) -> Taken:
        """Copy the newest backup to another repository, and compare it there. Raises `Permanent` if the tool
        cannot, and what `begins` raises: then nothing has been written.
        """
        ...


class RestoresData(Driver, Protocol):
    """Restores a backup into an empty folder, and for a database starts its engine there.

    The folder must be empty or not exist. It is filled under a temporary name and gets its own once complete,
    so that a partial restore cannot be mistaken for data.
    """

    async def restore(
        self, action: Action, timeout_s: float, copy: str, place: str, until: int | None
    ) -> Restored:
        """copy: its id; empty for the newest. until: the restore point in seconds since 1970; None: as late
        as possible.
        """
        ...

    async def clean_up(self, action: Action, timeout_s: float, place: str) -> None:
        """Stop what runs in a folder that `restore` filled or started to fill, and remove it. Does nothing if
        nothing is there; raises `Permanent` for a folder that no restore made.
        """
        ...


class AsksRestored(Protocol):
    """Puts a request of the application to restored data."""

    async def ask(self, action: Action, timeout_s: float, place: str) -> Reply:
        """Start the application on the data in a folder, ask, and stop it. The folder is removed afterwards.
        Raises `ActionError` if there is no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class About:
    """subjects: kinds of endpoints it applies to. verbs: of the port, through which it works."""

    meaning: str
    subjects: frozenset[Subject]
    verbs: frozenset[Verb] = frozenset()


def _about(meaning: str, subject: Subject, *verbs: Verb) -> About:
    return About(meaning, frozenset({subject}), frozenset(verbs))


ABOUT: Final[Mapping[type, About]] = MappingProxyType(
    {
        ReportsRole: _about("report the role of a copy", "store"),
        Promotes: _about("promote, demote", "store", "promote", "demote"),
        Fences: About("fence", frozenset({"store", "site"}), frozenset({"fence"})),
        ProvesSync: _about("report whether a synchronous copy can prove the fence", "store"),
        Follows: _about("follow another primary", "store", "rejoin"),
        Protects: _about("set which copies confirm commits", "store", "protect"),
        RunsUnits: _about("start, scale, stop", "service", "start", "scale", "stop"),
        ReportsReplicas: _about("report how many replicas it is set to run", "service"),
        RoutesTraffic: _about("shift traffic", "service", "shift", "drain", "ready"),
        ReportsTraffic: _about("report which sites it sends users to", "service"),
        Verifies: _about("verify", "service", "verify"),
        ReportsHealth: _about("report requests and errors while traffic moves in shares", "service"),
        BootsServers: _about("boot servers, report their power state", "site", "boot"),
        SwitchesPower: _about("switch the circuit", "feed", "start", "stop"),
        TakesBackups: About("list, take, check and copy backups", frozenset({"store", "backup"})),
        RestoresData: About("restore", frozenset({"store", "backup"}), frozenset({"restore"})),
        AsksRestored: About("send a request to restored data", frozenset({"store", "backup"})),
        AnswersProbe: About("report whether it is alive", frozenset({"store", "service", "site"})),
    }
)
"""Every capability."""
OF_A_DATABASE: Final = (ReportsRole, Promotes, Fences, ProvesSync, Follows, Protects, AnswersProbe)
"""Of a database whose copies have no other manager, and whose synchronous copy can be the fence."""
