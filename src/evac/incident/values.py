"""Values of an incident: records of journals as the room takes them, and what a record proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from evac.model.plan import Plan
from evac.run.values import Event, RunSpec

WATCH: Final = "watch"
"""Name of the stream that holds notices."""

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Notice:
    """One record of watching. number: its place in the stream, from 1. data: small plain values."""

    number: int
    kind: str
    at_ms: int
    site: str
    words: str
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of an incident. events: in the order of the journal, whose first record is number 1; others:
    specs of the plans that replaced the first; plans: digest -> plan, of those that are plans of services
    at all.
    """

    spec: RunSpec
    events: Sequence[Event]
    others: Sequence[RunSpec] = ()
    plans: Mapping[str, Plan] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def run(self) -> str:
        return self.spec.run

    @property
    def created_ms(self) -> int:
        return self.events[0].at_ms if self.events else 0

    @property
    def ended_ms(self) -> int | None:
        """When it ended; None while it goes on."""
        return next((e.at_ms for e in reversed(self.events) if e.kind == "run_ended"), None)

    @property
    def plan(self) -> Plan | None:
        """The plan that it began with."""
        return self.plans.get(self.spec.plan)


@dataclass(frozen=True, slots=True)
class StoreLoss:
    """The most that the promotion of a store lost. most_ms None: nobody knows."""

    store: str
    most_ms: int | None
    words: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a statement can be looked up: the stream, and the number of the record in it, from 1. A note is
    one key and has the number 0.
    """

    stream: str
    number: int

    def __str__(self) -> str:
        return f"{self.stream}#{self.number}" if self.number else self.stream


Weight = Literal["main", "detail"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a timeline. weight: whether a reader who wants the story needs it; at_ms: as the writer's
    clock had it.
    """

    at_ms: int
    kind: str
    words: str
    source: Source
    incident: str = ""
    run: str = ""
    step: str = ""
    weight: Weight = "main"
    service: str = ""
    """Of an entry about one service: which."""
