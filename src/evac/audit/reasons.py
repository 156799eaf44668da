"""Why a loss takes a service down, degrades it or keeps it down: data, and its words."""

from __future__ import annotations

from typing import Final, Literal

from evac.audit.impacts.stores import NEVER
from evac.model.records import dataclass

_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def duration(ms: int) -> str:
    """The duration of a recovery: `2 h 5 min`; `never` if infinite."""
    return "never" if ms >= NEVER else span(ms)


def span(ms: int) -> str:
    """A time of any length in its two largest units, such as the age of a backup: `34 d 2 h`."""
    parts: list[str] = []
    rest = ms
    for size, name in _UNITS:
        if rest >= size and len(parts) < 2:
            parts.append(f"{rest // size} {name}")
            rest %= size
    return " ".join(parts) or (f"{ms} ms" if ms else "0 s")


ReasonKind = Literal[
    "store-lost",
    "primary-lost",
    "votes-lost",
    "commits-wait",
    "store-rebuilt",
    "single-place",
    "too-few-replicas",
    "traffic",
    "fewer-replicas",
    "servers-off",
    "no-copy",
    "provider",
    "majority-lost",
    "no-headroom",
    "nowhere-else",
    "tools-lost",
    "start-cycle",
    "unjudged-need",
    "by-plan",
]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a loss takes a service down, degrades it, or keeps it down. Converted to words last."""

    kind: ReasonKind
    loss: str
    stores: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    """Of `start-cycle`: all that need each other."""
    replicas: int = 0
    """Replicas left; of `no-headroom`: replicas that cannot be placed."""
    of: int = 0
    """Replicas before the loss."""
    needed: int = 0
    """Replicas needed to serve."""
    servers: str = ""
    """Of `servers-off`: those that are off."""
    planned: str = ""
    """Of `by-plan`: the reason that the plan gives."""
    source: str = ""
    """Of `store-rebuilt`: the family it is rebuilt from."""
    takes_ms: int | None = None
    """Of `store-rebuilt`: how long that takes."""
    rpo: str = ""
    """Of `no-copy`: whose RPO no copy meets, such as `its RPO`; empty if no one states one."""

    @property
    def words(self) -> str:
        match self.kind:
            case "single-place":
                return f"runs only in {self.loss}"
            case "too-few-replicas":
                return f"{self.replicas} of {self.of} replicas left, {self.needed} needed"
            case "traffic":
                return f"its traffic is routed to {self.loss}"
            case "fewer-replicas":
                return f"{self.replicas:,} of {self.of:,} replicas left"
            case "servers-off":
                run = f"{self.replicas:,} of {self.of:,} replicas run"
                return f"{run}, the others are on servers that are off: {self.servers}"
            case "no-headroom":
                return f"no capacity for {self.replicas:,} of the replicas it needs"
            case "provider":
                return f"its provider is lost with {self.loss}, and only the provider can restore it"
            case "nowhere-else":
                return f"does not run outside {self.loss}, and no capacity for it is known"
            case "start-cycle":
                return f"start cycle: {', '.join(self.services)} need each other to start"
            case "unjudged-need":
                return f"{self.services[0]}, which it uses, cannot be judged"
            case "by-plan":
                return self.planned
            case "tools-lost":
                return f"nothing starts without {' and '.join(self.services)}; no manual way is stated"
            case _:
                return self._store_words

    @property
    def _store_words(self) -> str:
        stores = ", ".join(self.stores)
        match self.kind:
            case "primary-lost":
                return f"store {stores} loses its primary with {self.loss}"
            case "votes-lost":
                return f"store {stores} loses the majority of its votes with {self.loss}"
            case "commits-wait":
                return f"store {stores} waits for the copies lost with {self.loss} to confirm its commits"
            case "store-rebuilt":
                takes = "an unknown time" if self.takes_ms is None else duration(self.takes_ms)
                return (
                    f"store {stores} is rebuilt from {self.source} in {takes} after the loss of {self.loss}"
                )
            case "no-copy":
                meets = f" that meets {self.rpo}" if self.rpo else ""
                return f"store {stores} has no copy{meets} outside {self.loss}"
            case "majority-lost":
                return f"store {stores} loses the majority of its votes with {self.loss}, so writes stop"
            case _:
                return f"store {stores} is lost with {self.loss}"


@dataclass(frozen=True, slots=True)
class Cause:
    """What keeps services down: a reason, and the service that it is about."""

    service: str
    reason: Reason

    @property
    def general(self) -> Cause:
        """Key that is equal for causes reported as one, without names and numbers of the affected
        services.
        """
        if self.reason.kind == "no-headroom":
            return Cause("", Reason("no-headroom", self.reason.loss))
        return Cause("", self.reason) if self.reason.kind == "tools-lost" else self

    @property
    def words(self) -> str:
        if self.reason.kind == "no-headroom":
            return "there is no capacity for them"
        return f"{self.service}: {self.reason.words}" if self.service else self.reason.words


@dataclass(frozen=True, slots=True)
class Chain:
    """From a service along its dependencies to the one that is hit directly, and why that one is."""

    services: tuple[str, ...]
    reason: Reason | None

    @property
    def words(self) -> tuple[str, ...]:
        return self.services if self.reason is None else (*self.services, self.reason.words)

    @property
    def cause(self) -> Cause | None:
        return None if self.reason is None else Cause(self.services[-1], self.reason)
