"""What is known beside the files, and what follows from it: the estate as it is now.

    Situation = declared estate + observations + effects of runs, at one time

The files declare *home*. A run that has ended leaves one `Moved`: where the services that it touched run
since, in full, so that neither its journal nor its plan is needed again, and the last run that moved a thing
decides. `derive.situation.of` puts the three together; what reasons about an estate reasons about
`Situation.estate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evac.model.backup import NOTHING_SEEN, BackupFacts
from evac.model.estate import Estate
from evac.model.scenario import ScenarioKind

DomainState = Literal["evacuating", "evacuated", "lost"]
Source = Literal["files", "observed", "run"]
Counts = tuple[tuple[str, int], ...]
"""(server, pool, or `site:` and a site; replicas), sorted."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Where a fact is from."""

    source: Source = "files"
    by: str = ""
    """The driver that said so, or the run."""
    step: str = ""
    at_ms: int = 0
    """When it was known; 0 for what the files say."""


@dataclass(frozen=True, slots=True)
class LostNow:
    """A fault domain that nothing can count on: it is lost, or was evacuated."""

    domain: str
    state: DomainState
    since_ms: int = 0
    run: str = ""
    """The run that marked it; empty where none did."""


@dataclass(frozen=True, slots=True)
class Rivals:
    """A store that has two writable members or more."""

    store: str
    sites: tuple[str, ...]
    since_ms: int = 0
    unheard: tuple[str, ...] = ()
    """Sites of those that took writes when last heard, and are silent now: nobody knows that they stopped."""


@dataclass(frozen=True, slots=True)
class Silent:
    """A store that takes no writes, at a site that is not lost: its primary does not answer, or answers as
    something else.
    """

    store: str
    site: str
    at: str
    """Where the files place that member: the site, or a hall, a rack or a server in it."""
    since_ms: int = 0
    services: int = 0
    """How many cannot serve without it, through others too."""
    people: int = 0
    answers: bool = False
    """Whether something else at the site answers."""
    unstated: int = 0
    """Of these services, those of which nobody states how many people use them."""
    role: str = ""
    """As what it answers; empty where it does not answer."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What one run left behind when it ended. Everything is stated in full, not as a difference."""

    run: str
    scenario: ScenarioKind
    domains: tuple[str, ...]
    began_ms: int
    ended_ms: int
    phase: str
    """How the run ended."""
    placed: Mapping[str, Counts] = field(default_factory=dict)
    """Service -> where its replicas are, those included that wait for a lost domain."""
    traffic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Service -> sites that its users are sent to."""
    servers: Mapping[str, bool] = field(default_factory=dict)
    """Server -> whether it is on, where the run switched it or left it off."""
    roles: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Store -> (member, mode) of each of its members."""
    steps: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Service or store -> the last step that changed it, and when that ended."""
    number: int = 0
    """Which it is of all runs that ended, from 1: clocks of two leaders may be hours apart. 0: not known."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What runs did, and what is lost by them. moved: in the order in which the runs ended."""

    lost: tuple[LostNow, ...] = ()
    moved: tuple[Moved, ...] = ()


@dataclass(frozen=True, slots=True)
class Away:
    """A service that is not where the files declare it: (site, replicas), sorted by site."""

    service: str
    home: Counts
    now: Counts
    traffic: tuple[str, ...]
    cause: Cause
    in_lost: Counts = ()
    """Replicas that were not moved from a site that counts as lost: after a drill they may well run."""


@dataclass(frozen=True, slots=True)
class StoreAway:
    """A store whose primary is not where the files declare it. home, now: sites, empty if there is none."""

    store: str
    home: str
    now: str
    cause: Cause


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """The estate at one time."""

    home: Estate
    """As the files declare it."""
    estate: Estate
    """As it is now; the same object where nothing differs."""
    at_ms: int
    lost: tuple[LostNow, ...] = ()
    services: tuple[Away, ...] = ()
    stores: tuple[StoreAway, ...] = ()
    rivals: tuple[Rivals, ...] = ()
    backups: BackupFacts = NOTHING_SEEN
    """What was seen and proven of backups; ages count to `at_ms`."""
    silent: tuple[Silent, ...] = ()


class Draft:
    """Where things are while the steps of a run are counted one after the other.

    count_of: service -> its replicas by place before the first step. left: whether a place is in a domain
    that the run leaves.
    """

    def __init__(self, count_of: Callable[[str], Mapping[str, int]], left: Callable[[str], bool]) -> None:
        self._count_of, self._left = count_of, left
        self.placed: dict[str, dict[str, int]] = {}
        self.traffic: dict[str, tuple[str, ...]] = {}
        self.servers: dict[str, bool] = {}
        self.primaries: dict[str, str] = {}
        """Store -> the member that became its primary."""
        self.rebuilt: dict[str, str] = {}
        """Store -> the service that made it again, where most of its replicas are."""
        self.following: dict[str, set[str]] = {}
        """Store -> members that follow its primary again."""

    def of(self, service: str) -> dict[str, int]:
        """Replicas by place, to be changed."""
        if service not in self.placed:
            self.placed[service] = dict(self._count_of(service))
        return self.placed[service]

    def add(self, service: str, places: Iterable[tuple[str, int]], sign: int) -> None:
        """Starts (1) or stops (-1) replicas; never below none."""
        counts = self.of(service)
        for place, count in places:
            counts[place] = max(0, counts.get(place, 0) + sign * count)

    def leave(self, service: str) -> None:
        """Stops everything of a service in the domains that the run leaves."""
        counts = self.of(service)
        for place in [place for place in counts if self._left(place)]:
            del counts[place]
