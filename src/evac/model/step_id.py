"""Ids of steps and of limits as values with fields. Plan files, journals and requests carry them as text.

    power:pangyo/feed-a    boot:srv-17    fence:orders    promote:orders    shift:pay    stop:old-pay
    start:pay:base:2       verify:pay:top        shed:search:1      reprotect:orders:dc-anyang
    start:search:moved:1   verify:search:moved
    promote:orders~2       the second act of that id in a run that got another plan

This module alone knows how they are written. A text of another form is read as a kind without a target, and
is written as it was.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from evac.model.records import dataclass

_AGAIN: Final = "~"
MOVED: Final = "moved"
MILES: Final = ("base", "top", MOVED)
"""Milestones that starts and verifies reach: the smallest share that serves, all replicas, and replicas that
were shed and start again elsewhere.
"""
TOOL_ROLES: Final = (
    "deploy",
    "registry",
    "identity",
    "vpn",
    "dns-control",
    "registrar",
    "monitoring",
    "paging",
    "chat",
    "inventory",
    "secrets",
    "time",
    "boot",
    "evac",
    "dhcp",
    "images",
    "licences",
    "management-network",
    "unseal",
)
"""What recovery itself needs. A company names the service that fills each role."""

HUMAN_ROLES: Final = ("chat", "paging", "registrar", "vpn")
"""Roles that no single step waits for, but people do: audited, never scheduled."""

DARK_ROLES: Final = ("dhcp", "images", "licences", "management-network", "unseal")
"""Roles that only a dark site needs before its servers serve; a company need not have a service for them."""

FENCE_RUNGS: Final = ("none", "demote", "isolate", "power-off", "destroy")
"""How drastically an old primary is stopped, weakest first (rung of a fence)."""


class _Fields(NamedTuple):
    kind: str
    target: str = ""
    milestone: str = ""
    batch: int | None = None
    member: str = ""
    turn: int = 1


class StepId(str):
    """What a step is about; the same in every plan. It is equal to its text, which journals, plan files and
    requests have; its fields are read from that once they are asked for.
    """

    __slots__ = ("_fields",)
    _fields: _Fields | None

    def __new__(
        cls,
        kind: str,
        target: str = "",
        milestone: str = "",
        batch: int | None = None,
        member: str = "",
        turn: int = 1,
    ) -> StepId:
        fields = _Fields(kind, target, milestone, batch, member, turn)
        made = str.__new__(cls, _written(fields))
        made._fields = fields
        return made

    @classmethod
    def parse(cls, written: str) -> StepId:
        if type(written) is cls:
            return written
        made = str.__new__(cls, written)
        made._fields = None
        return made

    def __reduce__(self) -> tuple[object, ...]:
        return StepId.parse, (str(self),)

    @property
    def kind(self) -> str:
        return self._read().kind

    @property
    def target(self) -> str:
        return self._read().target

    @property
    def milestone(self) -> str:
        """base or top, for a start and a verify."""
        return self._read().milestone

    @property
    def batch(self) -> int | None:
        """Which of several steps for the same target, for a start, a shed and the shares of a shift."""
        return self._read().batch

    @property
    def member(self) -> str:
        """The copy of the store, for a reprotect; the site, for a rejoin."""
        return self._read().member

    @property
    def turn(self) -> int:
        """Which action with this ID in a run: a later plan may mean another one by it."""
        return self._read().turn

    @property
    def in_plan(self) -> StepId:
        """The id that the step has in its plan."""
        return self if self.turn == 1 else self.of_turn(1)

    @property
    def whole(self) -> StepId:
        """The ID of the step that it is a batch of."""
        return StepId(*self._read()._replace(batch=None))

    def of_batch(self, batch: int) -> StepId:
        return StepId(*self._read()._replace(batch=batch))

    def of_turn(self, turn: int) -> StepId:
        return StepId(*self._read()._replace(turn=turn))

    def _read(self) -> _Fields:
        if self._fields is None:
            self._fields = _fields_of(str(self))
        return self._fields


def _written(fields: _Fields) -> str:
    parts = [fields.kind, fields.target, fields.milestone, fields.member]
    parts.append("" if fields.batch is None else str(fields.batch))
    id = ":".join(part for part in parts if part)
    return id if fields.turn == 1 else f"{id}{_AGAIN}{fields.turn}"


def _fields_of(written: str) -> _Fields:
    id, _, turn = written.partition(_AGAIN)
    kind, _, rest = id.partition(":")
    target, milestone, member = rest, "", ""
    batch: int | None = None
    if kind in ("start", "shed", "shift"):
        before, _, last = rest.rpartition(":")
        if before and last.isascii() and last.isdecimal() and str(int(last)) == last:
            target, batch = before, int(last)
    if kind in ("start", "verify"):
        before, _, last = target.rpartition(":")
        if before and last in MILES:
            target, milestone = before, last
    if kind in ("reprotect", "rejoin"):
        target, _, member = rest.partition(":")
    number = int(turn) if turn.isascii() and turn.isdecimal() and int(turn) > 1 else 1
    found = _Fields(kind, target, milestone, batch, member, number)
    return found if _written(found) == written else _Fields(written)


def plan_id(step: str) -> str:
    """The id that a step of a run has in its plan."""
    return str(StepId.parse(step).in_plan) if is_another_act(step) else str(step)


def is_another_act(step: str) -> bool:
    """Whether only a later plan of a run made this ID; cheap, for a hundred thousand of them."""
    return _AGAIN in step


def act(step: str, turn: int) -> StepId:
    """The id of the `turn`-th act of a step of a plan, from 1."""
    return StepId.parse(step).of_turn(turn)


def target_step(kind: str, target: str) -> str:
    """The ID of the only step of its kind for a target. It is plain text, like the three below, because a
    plan of a fleet has a hundred thousand of them.
    """
    return f"{kind}:{target}"


def batch_step(kind: str, service: str, batch: int, milestone: str = "") -> str:
    """The id of one of several steps that start or shed a service."""
    return f"{kind}:{service}:{milestone}:{batch}" if milestone else f"{kind}:{service}:{batch}"


def milestone_step(kind: str, service: str, milestone: str) -> str:
    """The id of the step that checks a milestone."""
    return f"{kind}:{service}:{milestone}"


def member_step(kind: str, store: str, member: str) -> str:
    """The id of a step of one copy of a store."""
    return f"{kind}:{store}:{member}"


def power_step(supply: str) -> str:
    """The id of the step that switches a feed or a rack on."""
    return target_step("power", supply)


def boot_step(server: str) -> str:
    return target_step("boot", server)


@dataclass(frozen=True, slots=True)
class LimitId:
    """The kind of limit, and its subject: `power:pangyo/feed-a`, `boots:images-1`, `hands`."""

    kind: str
    of: str = ""

    @classmethod
    def parse(cls, written: str) -> LimitId:
        kind, colon, of = written.partition(":")
        return cls(kind, of) if of or not colon else cls(written)

    def __str__(self) -> str:
        return f"{self.kind}:{self.of}" if self.of else self.kind

    @property
    def is_watts(self) -> bool:
        """Whether it is measured in watts; others are in units."""
        return self.kind in _WATTS

    @property
    def is_inrush(self) -> bool:
        """Whether it limits what servers draw while they are switched on, which lasts only a moment."""
        return self.kind == _INRUSH


def limit_id(kind: str, *of: str) -> str:
    """`boots:images-1`, `promotions:postgresql:seoul`, `hands`."""
    return ":".join((kind, *of))


_INRUSH: Final = "inrush"
_WATTS: Final = frozenset({"power", _INRUSH})
