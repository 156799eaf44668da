"""What a company lets evac do on its own, and when evac must ask: modes, approvers, envelopes, fences,
watching.

Read from a policy file at the edge. Durations are integer milliseconds. The defaults are cautious: advise
only, one approver, no asynchronous promotion without a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Final, Literal

from evac.model.records import dataclass

SUCCEEDED: Final = frozenset({"succeeded", "succeeded_with_exceptions"})
"""Phases of a run that did what its plan promises, with or without skipped steps."""
Mode = Literal["advise", "hold", "act"]
"""advise: report what evac would do. hold: prepare the run and wait for approval. act: proceed without
asking.
"""

Proof = Literal["lease", "sync", "network", "power", "attest", "none"]
FENCE_PROOFS: Final[tuple[Proof, ...]] = ("lease", "sync", "network", "power", "attest", "none")
"""Kinds of fence proofs. lease: the members' own lease has ended, and they fence themselves. sync: a
synchronous replica takes over, and the old primary cannot acknowledge (only if checked in advance; it
never fences reads). network: devices outside have closed the path. power: it was observed to be off.
attest: a person confirms it. none: the policy accepts two primaries of this store (a cache that fills
itself again); it must say so explicitly.
"""

SyncLoss = Literal["next", "async", "ask"]
"""When the synchronous replica is lost: make the next one synchronous, fall back to asynchronous, or ask."""


GenerationCheck = Literal["told", "asked"]
"""told: nothing is done any more once any agent has reported a newer generation. asked: in addition, an
effect waits until the agent of its site has said, within seconds, that it knows of none.
"""


@dataclass(frozen=True, slots=True)
class WatchProfile:
    """How fast to believe a loss. A probe is missed if it gets no application answer within
    `deadline_ms`. misses: in a row until a witness reports down. confirm_ms: how long a quorum must hold
    before a site counts as lost; clear_ms: how long it must answer before it counts as healthy again.
    kinds: independent kinds of evidence that must agree. lag_ms: loop lag above which a witness distrusts
    itself.
    """

    name: str
    period_ms: int
    deadline_ms: int
    misses: int
    suspect_ms: int
    confirm_ms: int
    clear_ms: int
    kinds: int = 2
    lag_ms: int = 250
    vote_ttl_ms: int = 10_000


PROFILES: Final[Mapping[str, WatchProfile]] = MappingProxyType(
    {
        "cautious": WatchProfile("cautious", 1_000, 800, 5, 5_000, 60_000, 60_000, 2, 500, 15_000),
        "fast": WatchProfile("fast", 1_000, 800, 3, 3_000, 10_000, 30_000, 2, 400, 10_000),
        "lab": WatchProfile("lab", 500, 250, 3, 1_500, 0, 5_000, 2, 200, 5_000),
    }
)
"""cautious is the default: a 43-second partition once cost a company a day of repair."""


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """proofs: the fence proofs that are good enough for this store; a store without an entry needs `network`,
    `power` or `attest`. self_fence: members become read-only when their lease ends. async_promotion: for a
    replica that may have lost writes, `ask` a person, `allow` within `most_lost_ms`, or `never`.
    """

    store: str
    proofs: tuple[Proof, ...] = ("network", "power", "attest")
    self_fence: bool = False
    lease_ttl_ms: int = 15_000
    on_sync_loss: SyncLoss = "ask"
    async_promotion: Literal["ask", "allow", "never"] = "ask"
    most_lost_ms: int = 0


@dataclass(frozen=True, slots=True)
class Approver:
    """Who may approve: an ed25519 public key (32 bytes, base64). The private key never reaches evac."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an approval covers. A replan within it continues; one outside it needs a new approval.

    `sites`: that may be evacuated; `stores`: that may be promoted; `most_lost_ms`: the most data loss of any
    one store; `most_shed`: the most people whose services are shed.
    """

    sites: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    most_lost_ms: int = 0
    most_shed: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Maintenance: from and to in milliseconds since 1970 (UTC). No new effect on these sites inside it."""

    begin_ms: int
    end_ms: int
    sites: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """How steps are attempted. deadline_factor: multiple of the predicted duration; attempts: maximum in
    total, not counting those that a change of leader interrupted; backoff_ms doubles up to
    backoff_most_ms; stuck_factor: multiple of the predicted duration until an alarm.
    """

    attempts: int = 4
    deadline_factor: int = 4
    deadline_least_ms: int = 10_000
    backoff_ms: int = 500
    backoff_most_ms: int = 30_000
    stuck_factor: int = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """Health-gated traffic steps: shares in permille, and the wait between two of them. errors_permille: of
    requests to what was moved; above it evac slows down, above twice that it stops.
    """

    shares: tuple[int, ...] = (1_000,)
    wait_ms: int = 0
    errors_permille: int = 50


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """The whole policy. driver_limits: driver -> simultaneous actions. approvals: number of people needed."""

    mode: Mode = "advise"
    approvals: int = 1
    approvers: tuple[Approver, ...] = ()
    envelope: Envelope = Envelope()
    profile: WatchProfile = field(default_factory=lambda: PROFILES["cautious"])
    stores: Mapping[str, StorePolicy] = field(default_factory=lambda: MappingProxyType({}))
    windows: tuple[Window, ...] = ()
    patience: Patience = Patience()
    pace: Pace = Pace()
    driver_limits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    pause_most_ms: int = 3_600_000
    generation: GenerationCheck = "told"
    rooms: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """War rooms whose logins prove a person -> their ed25519 public keys. Empty: those that the store
    names, if it is sealed or no approvers are listed.
    """
    controllers: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Sites whose controllers sign the heads of journals -> their ed25519 public keys, including those
    that signed older heads.
    """
    four_eyes: bool = False
    """The person who proposed a run may not approve it, however many approvals it needs."""

    access_log_ms: int = 0
    """How long the records of who did what at war rooms are kept; 0: forever."""

    @property
    def proposer_approves(self) -> bool:
        """Whether the person who proposed a run may approve it: never if two people must agree."""
        return not self.four_eyes and self.approvals < 2

    def store(self, name: str) -> StorePolicy:
        """The policy of a store; the cautious default if none is written."""
        return self.stores.get(name) or StorePolicy(name)
