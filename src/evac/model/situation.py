"""What is known beyond the files, and the resulting estate as it is now.

    Situation = declared estate + observations + effects of runs, at one time

The files declare *home*. Each ended run leaves one `Moved`, which says in full where the services that it
affected have run since. Neither its journal nor its plan is needed again, and the last run to move a thing
decides. `derive.situation.of` combines the three; code that reasons about an estate uses `Situation.estate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Final, Literal

from evac.model.backup import NOTHING_SEEN, BackupFacts
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.model.scenario import ScenarioKind

DomainState = Literal["evacuating", "evacuated", "lost"]
Source = Literal["files", "observed", "run"]
Counts = tuple[tuple[str, int], ...]
"""(server, pool, or `site:` and a site; replicas), sorted."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Where a fact comes from."""

    source: Source = "files"
    by: str = ""
    """The driver that reported it, or the run."""
    step: str = ""
    at_ms: int = 0
    """When it became known; 0 for facts from the files."""


@dataclass(frozen=True, slots=True)
class LostNow:
    """A fault domain that cannot be relied on: it is lost or was evacuated."""

    domain: str
    state: DomainState
    since_ms: int = 0
    run: str = ""
    """The run that marked it; empty if none did."""


@dataclass(frozen=True, slots=True)
class Rivals:
    """A store with two or more writable members."""

    store: str
    sites: tuple[str, ...]
    since_ms: int = 0
    unheard: tuple[str, ...] = ()
    """Sites of members that took writes when last seen and are silent now: they may still take writes."""


BUSY: Final = "busy"
"""Of a member that answers, but accepts no connections: too many, or it is starting."""


@dataclass(frozen=True, slots=True)
class Silent:
    """A store that takes no writes although its site is not lost: its primary does not answer, accepts no
    connections, or answers in another role.
    """

    store: str
    site: str
    at: str
    """Where the files place that member: the site, or a hall, rack or server in it."""
    since_ms: int = 0
    services: int = 0
    """Number of services that cannot serve without it, directly or through others."""
    people: int = 0
    answers: bool = False
    """Whether anything else at the site answers."""
    unstated: int = 0
    """How many of these services do not state their number of users."""
    role: str = ""
    """The role in which it answers, or `BUSY`; empty if it does not answer."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What one run left behind when it ended, stated in full, not as a difference."""

    run: str
    scenario: ScenarioKind
    domains: tuple[str, ...]
    began_ms: int
    ended_ms: int
    phase: str
    """How the run ended."""
    placed: Mapping[str, Counts] = field(default_factory=dict)
    """Service -> where its replicas are, including those that wait for a lost domain."""
    traffic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Service -> sites that its users are sent to."""
    servers: Mapping[str, bool] = field(default_factory=dict)
    """Server -> whether it is on, for servers that the run switched or left off."""
    roles: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Store -> (member, mode) of each of its members."""
    steps: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Service or store -> the last step that changed it, and when that step ended."""
    since: Mapping[str, int] = field(default_factory=dict)
    """Domain -> when the run first took it as left; empty in older records."""
    stayed: tuple[str, ...] = ()
    """Services in `traffic` whose users no step of the run sent anywhere; empty in older records."""
    number: int = 0
    """Its number among all ended runs, from 1, as the clocks of two leaders may be hours apart. 0: not known.
    """


@dataclass(frozen=True, slots=True)
class Effects:
    """What runs did, and which domains are lost. `moved` is in the order in which the runs ended."""

    lost: tuple[LostNow, ...] = ()
    moved: tuple[Moved, ...] = ()


def recorded(effects: Effects) -> Effects | None:
    """What the records of a store say. None if there are none: the store may be new or have lost its history,
    so it does not say that no run moved anything.
    """
    return effects if effects.lost or effects.moved else None


@dataclass(frozen=True, slots=True)
class Away:
    """A service that is not where the files declare it: (site, replicas), sorted by site."""

    service: str
    home: Counts
    now: Counts
    traffic: tuple[str, ...]
    cause: Cause
    in_lost: Counts = ()
    """Replicas that were not moved away from a site that counts as lost; after a drill they may still run."""

    @property
    def surplus(self) -> Counts:
        """Replicas beyond what the files declare, no more than are too many in all; first where none are
        declared.
        """
        home, found = dict(self.home), []
        left = sum(n for _, n in self.now) - sum(home.values())
        for site, n in sorted(self.now, key=lambda one: one[0] in home):
            if (over := min(n - home.get(site, 0), left)) > 0:
                found.append((site, over))
                left -= over
        return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class StoreAway:
    """A store whose primary is not where the files declare it. `home` and `now` are sites; empty if there is
    none.
    """

    store: str
    home: str
    now: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Routed:
    """A service whose users are sent elsewhere than to all sites where it runs, as drivers report. It is not
    away for that: it may be meant to serve at one of two sites.
    """

    service: str
    sites: tuple[str, ...]
    rest: tuple[str, ...]
    """Other sites where it runs."""
    cause: Cause


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """The estate at one time."""

    home: Estate
    """As declared in the files."""
    estate: Estate
    """As it is now; the same object as `home` if nothing differs and no run is recorded."""
    at_ms: int
    lost: tuple[LostNow, ...] = ()
    services: tuple[Away, ...] = ()
    stores: tuple[StoreAway, ...] = ()
    rivals: tuple[Rivals, ...] = ()
    backups: BackupFacts = NOTHING_SEEN
    """What was observed and proven about backups; ages count to `at_ms`."""
    silent: tuple[Silent, ...] = ()
    routed: tuple[Routed, ...] = ()
    """Only services that are not in `services`."""


class Draft:
    """Where things are while the steps of a run are applied one by one.

    `count_of`: service -> its replicas by place before the first step. `left`: whether a place is in a domain
    that the run evacuates. `pool_of`: the pool that owns a server; empty if none does. `sent`: service ->
    sites that its users were sent to before the first step, if that is known.
    """

    def __init__(
        self,
        count_of: Callable[[str], Mapping[str, int]],
        left: Callable[[str], bool],
        pool_of: Callable[[str], str],
        sent: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._count_of, self._left, self._pool_of, self.sent = count_of, left, pool_of, sent
        self.placed: dict[str, dict[str, int]] = {}
        self.traffic: dict[str, tuple[str, ...]] = {}
        self.servers: dict[str, bool] = {}
        self.primaries: dict[str, str] = {}
        """Store -> the member that became its primary."""
        self.rebuilt: dict[str, str] = {}
        """Store -> the service that recreated it, where most of its replicas are."""
        self.following: dict[str, set[str]] = {}
        """Store -> members that follow its primary again."""

    def of(self, service: str) -> dict[str, int]:
        """Replicas by place, for the caller to change."""
        if service not in self.placed:
            self.placed[service] = dict(self._count_of(service))
        return self.placed[service]

    def add(self, service: str, places: Iterable[tuple[str, int]], sign: int) -> None:
        """Starts (`sign` 1) or stops (-1) replicas; a count never drops below zero. What stops in a pool and
        is not counted there stops on its servers, first by name.
        """
        counts = self.of(service)
        for place, count in places:
            here = counts.get(place, 0) + sign * count
            counts[place] = max(0, here)
            for server in sorted(counts) if here < 0 else ():
                if here < 0 and self._pool_of(server) == place and not self._left(server):
                    stops = min(counts[server], -here)
                    counts[server], here = counts[server] - stops, here + stops

    def leave(self, service: str) -> None:
        """Stops all replicas of a service in the domains that the run evacuates."""
        counts = self.of(service)
        for place in [place for place in counts if self._left(place)]:
            del counts[place]
