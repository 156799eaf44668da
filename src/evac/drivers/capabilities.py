"""What a driver can be asked for: small protocols, each named for what it does.

A driver lists the capabilities that it has in its `DRIVER` (see `spec`), and its class inherits from them.
The engine, the audit, the witness and `evac check` ask for a capability, never for a driver by its name.

Most capabilities act by verbs of the port (`check`, `execute`, `observe`, `undo` with an `Action` of that
verb): `ABOUT` says by which. The others are questions with an answer of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol

from evac.drivers.port import Action, Checked, Driver, Verb

MemberRole = Literal["primary", "replica", "detached", "none"]
"""primary: it takes writes. replica: it receives from a primary now. detached: it is set to follow one and
receives nothing. none: it follows no one, or is a primary that gave its role up.
"""
Subject = Literal["store", "service", "site", "feed", "backup"]
"""What an endpoint can be for; `backup`: a data set that is not a store, such as the volumes of a tool."""


@dataclass(frozen=True, slots=True)
class RoleReport:
    """What one copy of a store says of itself now."""

    role: MemberRole
    lag_ms: int | None = None
    """How far a replica is behind; None where that is not known."""
    confirms: tuple[str, ...] = ()
    """Of a primary: names of the copies that confirm its commits."""
    waits_for: tuple[str, ...] = ()
    """Of a primary whose commits hang: names of the synchronous copies that do not follow it."""
    position: int | None = None
    """Bytes of its log that it holds, comparable within one `history`; None where the engine does not say."""
    history: str = ""
    token: int = 0
    """The highest token that it has obeyed; 0 where the engine does not keep it."""
    epoch: int = 0
    """The highest epoch that it has obeyed, likewise."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Whether a system answered a probe. detail: what was wrong, if it did not."""

    up: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Requests that a service answered since it was last asked, and how many of them were errors."""

    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class PowerReport:
    """Whether one server is on."""

    server: str
    power: str
    """on, off, rising or falling; empty where the controller did not say."""
    progress: str = ""
    health: str = ""
    why: str = ""
    """Why the power is not known: a code of `boot_codes`, or `not-asked`."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """One copy of a data set in a repository, as its tool lists it."""

    id: str
    taken_at: int
    """Seconds since 1970, when the backup began: what was written later is not in it."""
    bytes: int | None = None
    """Of the data, once it is restored; None where the tool does not say."""
    files: int | None = None
    paths: tuple[str, ...] = ()
    """What was asked to be in it."""
    source: str = ""
    """Host or system that it was taken from."""
    original: str = ""
    """The id that it was copied from; empty for one that was taken here."""
    tree: str = ""
    """Digest of the content, where the tool keeps one: equal in a true copy."""
    failed: bool = False
    """The tool itself says that something went wrong, whatever it ended with."""
    consistent_at: int | None = None
    """Of a copy that is recovered with the log after it, the earliest moment that it can be recovered to;
    None for one that is restored as it was taken.
    """
    added: int | None = None
    """Bytes of the data that no copy before it had; None where the tool does not say, and for a copy that
    takes everything again.
    """
    packed: int | None = None
    """Bytes that they took in the repository. What was encrypted by someone does not get smaller."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What one repository holds of a data set."""

    repository: str
    """Its own id, by which the repository of another company is told apart; empty where it has none."""
    copies: tuple[CopyReport, ...]
    """Oldest first."""
    tool: str
    version: str
    locked: bool = False
    """Whether another program holds it, so that nothing can be written now."""
    deletable: bool | None = None
    """Whether these credentials can delete copies; None where that cannot be found out harmlessly."""
    deletable_why: str = ""
    """How that was found out; with None, why it was asked and not found out."""
    refused: int | None = None
    """How many deletions its server's log says that it refused; None where no log is read."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A copy that was made just now."""

    copy: CopyReport
    bytes_read: int
    bytes_stored: int
    took_ms: int
    missing: tuple[str, ...] = ()
    """Paths that were asked for and are not in it. A backup that lacks any is incomplete."""


ProofOutcome = Literal["passed", "too-slow", "too-old", "damaged", "could-not-run"]
"""could-not-run is neither good nor bad: nothing is known of the copy."""
EXISTS, STRUCTURE, READ, RESTORED, COMPARED, SERVED = range(6)
"""Levels of proof: it is listed; its structure was checked; its bytes were read and hashed; it was restored
and its engine accepts it; its content equals what a witness recorded; a request was answered from it.
"""
PARTS_PER_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Proof:
    """What one check of a copy showed. Raises ValueError if nothing was read and it is called passed."""

    copy: str
    """Its id; empty where the whole repository was checked."""
    level: int
    outcome: ProofOutcome
    bytes_read: int
    """That the check itself read; 0 where the tool does not say."""
    share_read: int
    """Of all bytes of the repository, in parts per million."""
    took_ms: int
    place: str
    """Where it was checked."""
    tool: str
    version: str
    code: str = ""
    """Why it did not pass, for programs."""
    detail: str = ""
    """The same, for people."""
    checked_at: int | None = None
    """Seconds since 1970, where another program checked it before; None: just now."""

    def __post_init__(self) -> None:
        if self.outcome == "passed" and self.level >= READ and self.bytes_read <= 0:
            raise ValueError(f"a proof of level {self.level} that read nothing proves nothing")


@dataclass(frozen=True, slots=True)
class Restored:
    """A copy that is complete in its place; an engine there has ended its recovery."""

    copy: str
    place: str
    bytes: int
    took_ms: int
    reached_at: int | None = None
    """Newest time in the data, in seconds since 1970; None where the data does not say."""
    facts: Mapping[str, str | int] = field(default_factory=lambda: MappingProxyType({}))
    """What a witness compares: counts of rows, newest timestamp, digest of the manifest."""


class ReportsRole(Protocol):
    """A copy of a store says which role it has."""

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        """Changes nothing. Raises `Retryable` if it does not answer, `Permanent` where it refuses us."""
        ...


class Promotes(Driver, Protocol):
    """Makes a copy the primary of its store, and makes a primary give its role up."""


class Fences(Driver, Protocol):
    """Keeps an old primary from acknowledging writes. `DriverSpec.proofs` says what its word proves."""


class ProvesSync(Protocol):
    """Tells whether a synchronous copy can be the fence of its store: the proof `sync`."""

    async def precheck_sync(
        self, action: Action, timeout_s: float, candidate: str, sites: Mapping[str, str], may_be_lost: str
    ) -> Checked:
        """Asks the healthy primary whether every commit needs `candidate`, so that the copy proves a fence
        when `may_be_lost` is gone. sites: name of each copy -> its site. Never raises.
        """
        ...


class Follows(Driver, Protocol):
    """Makes a copy of a store follow another primary."""


class Protects(Driver, Protocol):
    """Sets which copies must confirm the commits of a primary."""


class RunsUnits(Driver, Protocol):
    """Starts, scales and stops a service at a site."""


class RoutesTraffic(Driver, Protocol):
    """Moves the traffic of a service between sites."""


class Verifies(Driver, Protocol):
    """Tells whether a service works at a site."""


class ReportsHealth(Protocol):
    """Counts the requests and errors of a service at a site, while traffic moves there in shares."""

    async def report_health(self, action: Action, timeout_s: float, samples: int) -> HealthReport:
        """No requests where it does not answer, or has nothing to compare with yet. samples: how often it is
        asked if it counts nothing by itself. Raises only `Permanent`, for settings that are wrong.
        """
        ...


class BootsServers(Driver, Protocol):
    """Switches servers on through their management controllers.

    It enters `Order.power` around the one request that draws power, and calls `Order.switched_on` once the
    controller has confirmed it.
    """

    async def look(self, action: Action, within_s: float) -> PowerReport:
        """Whether a server is on. Raises `ActionError`, also where another machine answers."""
        ...


class SwitchesPower(Driver, Protocol):
    """Closes and opens the breaker of a power feed."""


class AnswersProbe(Protocol):
    """Asks a system whether it is alive, as the witness of another site does all the time."""

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """An error of the network is raised as it is: the witness knows which of them mean silence. What is
        wrong on our side, such as an unreadable secret, is raised too: it says nothing of the site.
        """
        ...


class TakesBackups(Driver, Protocol):
    """Lists, takes and checks copies of a data set in one repository.

    Every question raises `Retryable` where the repository does not answer or is locked, and `Permanent` for a
    wrong password, a corrupt catalogue, a missing program or a repository that is not the one pinned.
    """

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        """Changes nothing."""
        ...

    async def take(self, action: Action, timeout_s: float) -> Taken:
        """Makes a copy of what the settings name. Raises `OutcomeUnknown` if it may have been made."""
        ...

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        """Checks the repository: its structure (level 1), or the bytes of one part of so many (level 2). part
        counts from 1. What is damaged, or cannot be checked, is an outcome and not an error.
        """
        ...

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        """What the source holds now, in the words of `Restored.facts`, asked without the tool that makes the
        copies; empty if nothing can tell. Changes nothing.
        """
        ...

    async def copy_on(self, action: Action, timeout_s: float, to: Action) -> Taken:
        """Copies the newest copy into another repository, and compares it there. Raises `Permanent` if the
        tool cannot.
        """
        ...


class RestoresData(Driver, Protocol):
    """Restores a copy into an empty place, and starts its engine there where it is a database.

    A place is empty or does not exist; anything else is refused. It is filled under another name and gets
    its own once it is complete, so that nothing half-restored can be taken for data.
    """

    async def restore(
        self, action: Action, timeout_s: float, copy: str, place: str, until: int | None
    ) -> Restored:
        """copy: its id; empty for the newest. until: the moment to recover to, in seconds since 1970; None
        for all there is.
        """
        ...

    async def clean_up(self, action: Action, timeout_s: float, place: str) -> None:
        """Ends what runs in a place that `restore` filled or began to fill, and removes it. Does nothing if
        nothing is there; raises `Permanent` for a place that no restore made.
        """
        ...


@dataclass(frozen=True, slots=True)
class About:
    """subjects: what endpoints it is asked of. verbs: of the port, by which it acts."""

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
        RoutesTraffic: _about("shift traffic", "service", "shift", "drain", "ready"),
        Verifies: _about("verify", "service", "verify"),
        ReportsHealth: _about("report requests and errors while traffic moves in shares", "service"),
        BootsServers: _about("boot servers, report their power state", "site", "boot"),
        SwitchesPower: _about("switch the circuit", "feed", "start", "stop"),
        TakesBackups: About("list, take, check and copy backups", frozenset({"store", "backup"})),
        RestoresData: About("restore", frozenset({"store", "backup"}), frozenset({"restore"})),
        AnswersProbe: About("report whether it is alive", frozenset({"store", "service", "site"})),
    }
)
"""Every capability."""
