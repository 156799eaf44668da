"""Values of watching: what a probe saw, what a witness says, and the verdict on a site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Opinion = Literal["up", "down", "unknown"]
EvidenceKind = Literal["user", "data", "member", "agent", "power"]
"""Independent kinds: user: a request as a user makes it. data: a database answered. member: the site's member
of the store answers its peers. agent: the site's agent. power: a BMC or outlet outside the network path.
"""

SiteState = Literal["healthy", "suspect", "lost", "isolated", "unknown"]
"""isolated: the site lives (some evidence says up) but is cut off from the others."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer, or its lack. took_ms: until the answer or the deadline. detail: for people, no secrets."""

    kind: EvidenceKind
    opinion: Opinion
    took_ms: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """What the witness of `witness` (a site) says of `target` (another site).

    evidence: one opinion a kind, sorted by kind. since_ms: when this opinion began; at_ms: when it was last
    confirmed, both by the witness's wall clock and used for display only: votes are aged by the reader's
    own clock from the moment they changed. number grows with every publication. Opinion `unknown` when the
    witness is slow itself or its control probe fails.
    """

    witness: str
    target: str
    opinion: Opinion
    evidence: tuple[tuple[EvidenceKind, Opinion], ...]
    since_ms: int
    at_ms: int
    number: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the quorum believes. since_ms: of the reader's clock. by: witnesses that carry it, sorted."""

    site: str
    state: SiteState
    since_ms: int
    by: tuple[str, ...] = ()
    kinds: tuple[EvidenceKind, ...] = ()
    reason: str = ""
