"""Simulated databases: members of a store with a log, roles, a synchronous set, and disks that may lie.

A member is what the server holds on its machine; every method is what the server does at one instant. The
rules are those of the real servers as the real drivers use them: a standby that is cut off receives nothing
more, a primary acknowledges only what its synchronous members hold, and the highest token and epoch obeyed
are kept with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from evac.drivers.parameters import stale_token
from evac.drivers.port import Order
from evac.model.errors import Permanent, Retryable

Engine = Literal["postgres", "redis"]
NOBODY: Final = "evac-fence"


@dataclass(slots=True, eq=False)
class Member:
    """One copy of a store. upstream: the site it follows, empty for none; kept: whom it followed before a
    fence. fence: the epoch for which it was cut off. powered, path: whether its machine runs and clients
    reach it; a fence by power or network takes these.
    """

    store: str
    site: str
    engine: Engine
    role: Literal["primary", "standby"] = "standby"
    upstream: str = ""
    kept: str = ""
    sync: tuple[str, ...] = ()
    read_only: bool = False
    powered: bool = True
    path: bool = True
    lies: bool = False
    token: int = 0
    epoch: int = 0
    fence: int = 0
    timeline: int = 1
    log: list[int] = field(default_factory=list)
    alone: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        """As its primary knows it."""
        self.name = f"dc-{self.site}"

    @property
    def writable(self) -> bool:
        return self.role == "primary" and not self.read_only

    @property
    def cut_off(self) -> bool:
        return self.role == "standby" and not self.upstream and self.fence > 0

    @property
    def demoted(self) -> bool:
        return self.role == "standby" or self.read_only

    def evidence(self) -> dict[str, str | int | bool]:
        return {"role": self.role, "lsn": f"0/{len(self.log):X}", "timeline": self.timeline}

    def refuse_stale(self, order: Order) -> None:
        if order.token < self.token:
            raise stale_token(self.name, self.token, order)
        if order.epoch and order.epoch < self.epoch:
            raise Permanent("stale-epoch", f"{self.name} has seen epoch {self.epoch}")

    def obey(self, order: Order) -> None:
        self.refuse_stale(order)
        self.token, self.epoch = max(order.token, self.token), max(order.epoch, self.epoch)


@dataclass(slots=True, eq=False)
class Database:
    """All members of one store. reach: whether two sites reach each other now. fenced: whether two primaries
    are a disaster (policy may not mind, for a cache). acked: writes that a client was told are safe, while
    the set that acknowledged them was synchronous; excused: those a lying disk forgot.
    """

    store: str
    engine: Engine
    members: dict[str, Member]
    reach: Callable[[str, str], bool]
    fenced: bool = True
    acked: set[int] = field(default_factory=set)
    excused: set[int] = field(default_factory=set)
    waiting: list[tuple[Member, int]] = field(default_factory=list)

    def of(self, site: str) -> Member:
        return self.members[site]

    def alive(self, member: Member) -> bool:
        return member.powered and self.reach(member.site, member.site)

    def streams(self, primary: Member, member: Member) -> bool:
        """Whether the member receives from this primary now."""
        if member.role != "standby" or member.upstream != primary.site or primary.role != "primary":
            return False
        return (
            self.reach(primary.site, member.site)
            and self.alive(member)
            and self.alive(primary)
            and _is_prefix(member.log, primary.log)
        )

    def acknowledges(self, member: Member) -> bool:
        """Whether a client that reaches this member would be told that its write is safe."""
        if not (self.alive(member) and member.path and member.writable):
            return False
        if not member.sync:
            return True
        return any(self.streams(member, one) for one in self.members.values() if one.name in member.sync)

    def primaries(self) -> list[Member]:
        return [member for member in self.members.values() if self.acknowledges(member)]

    def write(self, number: int) -> list[Member]:
        """A client writes wherever something says that it is a primary; that is as bad as it can be."""
        written = []
        for member in self.members.values():
            if member.writable and member.path and self.alive(member):
                member.log.append(number)
                self.waiting.append((member, number))
                written.append(member)
        return written

    def flow(self, lazy: Callable[[], bool]) -> None:
        """The log goes on to who follows, and what is confirmed is acknowledged. lazy: whether an
        asynchronous member stays behind this time.
        """
        members = self.members.values()
        for primary in members:
            if primary.role != "primary":
                continue
            for member in members:
                behind = member.name not in primary.sync and lazy()
                if not behind and self.streams(primary, member):
                    member.log.extend(primary.log[len(member.log) :])
                    member.timeline = primary.timeline
        if self.waiting:
            self._settle()

    def _settle(self) -> None:
        """What waits no more: what is acknowledged, and what was asked in a session that is gone."""
        members = dict.fromkeys(member for member, _ in self.waiting)
        confirmed = {member: self._confirmed(member) for member in members}
        waiting = []
        for member, number in self.waiting:
            held = confirmed[member]
            if held is None:
                continue
            if number in held:
                self.acked.add(number)
            else:
                waiting.append((member, number))
        self.waiting = waiting

    def _confirmed(self, member: Member) -> set[int] | None:
        """What its synchronous members hold of the newest; None where nobody waits for them."""
        if not (member.sync and member.writable and member.path and self.alive(member)):
            return None
        held: set[int] = set()
        for one in self.members.values():
            if one.name in member.sync and self.streams(member, one):
                held.update(one.log[-64:])
        return held

    def burn(self, site: str, forget: Callable[[], int]) -> None:
        """The machine stops. A disk that lies has not kept the newest of what it confirmed."""
        member = self.members.get(site)
        if member is None:
            return
        self.waiting = [row for row in self.waiting if row[0] is not member]
        if member.lies and member.log:
            lost = member.log[len(member.log) - forget() :]
            del member.log[len(member.log) - len(lost) :]
            self.excused.update(lost)

    def catch_up(self, site: str, copies: Iterable[str]) -> None:
        """A member that receives nothing takes over what the fullest copy that answers holds beyond it."""
        member = self.members[site]
        fuller = [
            one.log
            for one in (self.members[name] for name in copies)
            if one.role == "standby"
            and self.alive(one)
            and self.reach(site, one.site)
            and one.timeline == member.timeline
            and _is_prefix(member.log, one.log)
        ]
        fullest = max(fuller, key=len, default=member.log)
        if not any(self.streams(one, member) for one in self.members.values()):
            member.log.extend(fullest[len(member.log) :])

    def promote(self, site: str, sync: Iterable[str]) -> None:
        member = self.members[site]
        member.role, member.upstream, member.read_only = "primary", "", False
        member.sync = tuple(sync)
        member.timeline = 1 + max(one.timeline for one in self.members.values())
        member.fence = max(member.fence, member.epoch)

    def follow(self, site: str, primary: str, by_hand: bool) -> None:
        """Makes a member follow a primary; what it had alone is archived where hands are there."""
        member, theirs = self.members[site], self.members[primary]
        if not (theirs.writable and self.alive(theirs)):
            raise Retryable(
                "not-a-primary", f"{theirs.name} is not a primary that accepts writes", after_ms=200
            )
        if not self.reach(site, primary):
            raise Retryable("postgres-silent", f"{theirs.name} does not answer {member.name}", after_ms=200)
        if member.role == "primary" or not _is_prefix(member.log, theirs.log):
            if not by_hand:
                raise Permanent("needs-hands", f"{member.name} must be rewound on its own machine")
            common = _common(member.log, theirs.log)
            member.alone += len(member.log) - common
            del member.log[common:]
        member.role, member.upstream, member.kept = "standby", primary, ""
        member.fence, member.read_only, member.sync, member.path = 0, False, (), True

    def missing(self, member: Member) -> set[int]:
        """Acknowledged writes that a member does not hold."""
        return self.acked - self.excused - set(member.log)

    def roles(self) -> Mapping[str, str]:
        """Site -> primary, sync, async or none, as somebody who looks at all members sees it."""
        found = {}
        names: set[str] = set()
        for member in self.members.values():
            if member.sync and member.writable:
                names.update(member.sync)
        for site, member in self.members.items():
            if not self.alive(member):
                found[site] = "none"
            elif member.role == "primary":
                found[site] = "primary" if member.writable else "none"
            else:
                found[site] = "sync" if member.name in names else "async"
        return found


def _is_prefix(log: list[int], longer: list[int]) -> bool:
    """Numbers of writes are never used twice, so the last one tells."""
    return not log or (len(log) <= len(longer) and longer[len(log) - 1] == log[-1])


def _common(log: list[int], other: list[int]) -> int:
    for place, (one, two) in enumerate(zip(log, other, strict=False)):
        if one != two:
            return place
    return min(len(log), len(other))
