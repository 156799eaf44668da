"""The port of real systems: check, execute, observe, undo.

A driver changes one kind of real system and nothing else. It never sees the store, so it cannot write
history. It is idempotent: executing something already done succeeds and changes nothing. It is bounded: every
call ends within the order's timeout. It never puts a secret into evidence, an error or a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from types import MappingProxyType
from typing import Final, Literal, Protocol, get_args

from evac.model.errors import ActionError
from evac.model.records import dataclass

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
"""fence: the old primary cannot acknowledge a write. protect: make a replica synchronous, or asynchronous as
policy says. rejoin: make a former primary a replica of the new one. drain, ready: take a backend out, put it
back.
"""

BY_SCRIPT: Final[frozenset[Verb]] = frozenset(get_args(Verb)) - {"protect", "restore", "attest"}
"""What a program or service of yours can do for evac."""

Value = str | int | bool | tuple[str, ...]
Evidence = Mapping[str, str | int | bool]
"""Observations as small plain values, written to the journal, so never a secret."""

NO_EVIDENCE: Final[Evidence] = MappingProxyType({})


PowerTurn = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Action:
    """One action. driver: name in the registry. at: the site where it happens.

    settings: how to reach the system, from the estate: addresses, names, references of secrets (`env:NAME`,
    `file:/path`), never secrets. parameters: decided by the plan: candidate, share, replicas.
    """

    verb: Verb
    target: str
    driver: str
    at: str = ""
    settings: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    parameters: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Order:
    """The authority for an action.

    token: the leader's fencing token; a driver that can, refuses a token lower than one it has seen. epoch:
    of the data set, for fence, promote, protect. key: the same for every try of a step. power: entered around
    the one request that draws power, so that its inrush is counted from before it is sent until long enough
    after the response. switched_on: called when the controller confirms a boot started by this order. Neither
    is sent anywhere.
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
    """Whether it can be done now. What cannot be checked is not ready; each problem is one sentence. error:
    the error that execute would raise, if known: its code, and whether to retry.
    """

    problems: tuple[str, ...] = ()
    evidence: Evidence = field(default_factory=lambda: NO_EVIDENCE)
    error: ActionError | None = None

    @property
    def ready(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Observed:
    """Observed state: `done`, `absent` (not done, and not in progress), or `unclear`."""

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
        """Do it, or in a dry run describe what it would do. Raises `Retryable`, `Permanent`,
        `OutcomeUnknown`.
        """
        ...

    async def observe(self, action: Action, order: Order) -> Observed:
        """Check with the real system whether it is done. Never raises for an unreachable system: that is
        `unclear`.
        """
        ...

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Undo one action. Raises `Permanent` if that is not safe (a store that moved stays moved)."""
        ...

    async def close(self) -> None: ...
