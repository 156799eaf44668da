"""The port of real systems: check, execute, observe, undo.

A driver changes one kind of real system and nothing else. It never sees the store: it cannot write history.
It is idempotent: execute on what is done already succeeds and changes nothing. It is bounded: every call
ends within the order's timeout. It never puts a secret into evidence, an error or a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol

from evac.model.errors import ActionError

Verb = Literal[
    "fence",
    "unfence",
    "promote",
    "demote",
    "rejoin",
    "protect",
    "boot",
    "start",
    "stop",
    "scale",
    "drain",
    "ready",
    "shift",
    "verify",
    "restore",
    "attest",
    "run",
]
"""fence: the old primary cannot acknowledge a write. protect: make a replica synchronous, or fall back as
policy says. rejoin: make what was a primary a replica of the new one. drain, ready: take a backend out, put
it back.
"""

Value = str | int | bool | tuple[str, ...]
Evidence = Mapping[str, str | int | bool]
"""What was seen, in small plain values; it goes into the journal, so never a secret."""

NO_EVIDENCE: Final[Evidence] = MappingProxyType({})


PowerTurn = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. driver: name in the registry. at: the site where it happens.

    settings: how to reach the system, from the estate: addresses, names, references of secrets (`env:NAME`,
    `file:/path`), never secrets. parameters: what the plan decided: candidate, share, replicas.
    """

    verb: Verb
    target: str
    driver: str
    at: str = ""
    settings: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    parameters: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Order:
    """Under which authority it is done. token: the leader's fencing token; a driver that can, refuses a
    lower one than it has seen. epoch: of the data set, for fence, promote, protect. key: the same for every
    try of a step. power: entered around the one request that draws power, so that its inrush is counted from
    before it is sent until long enough after it was answered. switched_on: called where a boot that was begun
    by this order has its controller's word for it. Neither is sent anywhere.
    """

    run: str
    step: str
    attempt: int
    token: int
    epoch: int
    reason: str
    timeout_s: float
    key: str
    ticket: str = ""
    dry_run: bool = False
    power: PowerTurn | None = field(default=None, compare=False, repr=False)
    switched_on: Callable[[], None] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether it can be done now. What cannot be checked is not ready: problems say so, one sentence each.
    error: what execute would raise, where the driver knows: its code, and whether to try again.
    """

    problems: tuple[str, ...] = ()
    evidence: Evidence = field(default_factory=lambda: NO_EVIDENCE)
    error: ActionError | None = None

    @property
    def ready(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Observed:
    """What the world says: `done`, `absent` (not done, and nothing of it under way), or `unclear`."""

    outcome: Literal["done", "absent", "unclear"]
    evidence: Evidence = field(default_factory=lambda: NO_EVIDENCE)


class Driver(Protocol):
    """One kind of real system. verbs: what it can do."""

    name: str
    verbs: frozenset[Verb]

    async def check(self, action: Action, order: Order) -> Checked:
        """Whether execute would work now. Changes nothing; never raises for what it finds."""
        ...

    async def execute(self, action: Action, order: Order) -> Evidence:
        """Does it, or says in a dry run what it would do. Raises `Retryable`, `Permanent`,
        `OutcomeUnknown`.
        """
        ...

    async def observe(self, action: Action, order: Order) -> Observed:
        """Asks the real system whether it is done. Never raises for an unreachable system: that is
        `unclear`.
        """
        ...

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Takes one action back. Raises `Permanent` if that is not safe (a store that moved stays
        moved).
        """
        ...

    async def close(self) -> None: ...
