"""What the war room shows of the world as it is: one frozen value, replaced whole when anything changed.

Owned here: the values only. Names of fields are the names that the API shows. Times are milliseconds since
1970 (UTC) by the clock of this process, except where another clock is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evac.incident.values import Notice
from evac.model.generation import GENERATION_BITS

Standing = Literal["healthy", "suspect", "lost", "isolated", "unknown", "unwatched"]
"""As `watch.values.SiteState`; unwatched: nobody votes on the site, so that there is nothing to judge."""


@dataclass(frozen=True, slots=True)
class VoteSeen:
    """What one site's witness says of another. fresh: it counts now. since_ms: by the witness's clock."""

    witness: str
    opinion: str
    fresh: bool
    since_ms: int
    reason: str
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SiteSeen:
    """One site. state: the verdict of the votes, as read here; mark: what the register of sites calls it
    (`active`, `evacuating`, `evacuated`, `lost`; empty without a register). by: witnesses that carry it.
    """

    id: str
    role: str
    state: Standing
    since_ms: int
    reason: str
    by: tuple[str, ...]
    kinds: tuple[str, ...]
    mark: str
    votes: tuple[VoteSeen, ...]


@dataclass(frozen=True, slots=True)
class LeaderSeen:
    """owner: site/process/nonce, empty where nobody leads. term: its fencing token; it only grows."""

    owner: str
    term: int

    @property
    def site(self) -> str:
        return self.owner.partition("/")[0]

    @property
    def count(self) -> int:
        """The term as people count it: within its generation."""
        return self.term & ((1 << GENERATION_BITS) - 1)


@dataclass(frozen=True, slots=True)
class ControllerSeen:
    """The controller beside this room, as it says itself. state: `leads`, `follows`, or `neither`, with why:
    then what it shows may be old, and nothing that is asked here is done by it. since_ms: of this.
    """

    state: str
    why: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class NewerSeen:
    """A generation that took the place of this store: nothing of it acts any more. by: who told of it."""

    generation: int
    by: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class QuorumSeen:
    """store: its name. survives: whether it outlives any one site. voting: sites with a fresh vote; needed: a
    majority. answers: whether the store answered the last look; problem: why not, or why it cannot be read.
    """

    store: str
    survives: bool
    voting: tuple[str, ...]
    needed: int
    answers: bool
    since_ms: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HoldSeen:
    """Everything stops before its next effect. revision: of the store, for If-Match."""

    who: str
    reason: str
    at_ms: int
    revision: int


@dataclass(frozen=True, slots=True)
class ReadyPlan:
    """A plan in the drawer. plan: digest, empty where none could be made. current: whether it is of the
    estate as it is now; None while that is not known. at_ms: when it was made, or last confirmed for the
    estate as it was then; made_ms: when it was made; by the leader's clock. kind: of the domain, or `pair`;
    people: whom the loss leaves without a service; searched: no better one is looked for.
    """

    scenario: str
    lost: tuple[str, ...]
    plan: str
    estate: str
    at_ms: int
    took_ms: int
    problem: str
    current: bool | None
    kind: str = ""
    people: int = 0
    searched: bool = True
    made_ms: int = 0


@dataclass(frozen=True, slots=True)
class RunShort:
    """A run in one line. waits: what only a person can do now. events: number of the last event."""

    run: str
    incident: str
    state: str
    scenario: str
    plan: str
    created_ms: int
    started_ms: int
    ended_ms: int
    events: int
    steps: int
    counts: Mapping[str, int]
    waits: tuple[str, ...]
    why: str
    held: str
    open: bool


@dataclass(frozen=True, slots=True)
class ExportSeen:
    """How the public status page stands outside, as one site writes it. ok_ms: when it was last written;
    since_ms, problem: since when it cannot be, and why.
    """

    site: str
    ok_ms: int
    since_ms: int
    problem: str


@dataclass(frozen=True, slots=True)
class EstateOnDisk:
    """How the files of the estate stand to what evac goes by. taken_ms: when that was read; problems: how
    many keep the files from being taken; first: the first one, with file and line; restart: what of them is
    taken only by a new start; since_ms: since when either is so, 0: neither. words: a sentence, empty where
    all is well. policy_ms: when the policy in use was read; policy: whether it alone is not taken.
    """

    taken_ms: int
    problems: int
    first: str
    restart: str
    since_ms: int
    words: str
    policy_ms: int
    policy: bool


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything the page Now needs beside the facts of the estate. version grows with every change; at_ms:
    when this came to be. estate: digest of the estate as last seen, empty until it was reckoned; problem: why
    it could not be; on_disk: its files, where a controller watches them. notice: number of the last notice;
    noted: grows with every note of a person. generation: of the store; newer: the one that took its place.
    policy: digest of the policy in use, empty until it was read. controller: the one beside this room; None
    where none said anything.
    """

    version: int
    at_ms: int
    sites: tuple[SiteSeen, ...]
    leader: LeaderSeen
    quorum: QuorumSeen
    hold: HoldSeen | None
    drawer: tuple[ReadyPlan, ...]
    open_runs: tuple[RunShort, ...]
    ended_runs: tuple[RunShort, ...]
    notices: tuple[Notice, ...]
    notice: int
    estate: str
    problem: str
    noted: int = 0
    generation: int = 0
    newer: NewerSeen | None = None
    exports: tuple[ExportSeen, ...] = ()
    on_disk: EstateOnDisk | None = None
    policy: str = ""
    controller: ControllerSeen | None = None


NOBODY = LeaderSeen("", 0)
