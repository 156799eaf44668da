"""Values of notices: what should worry people now, what they are told of it, and who is told.

Times are milliseconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, get_args

Kind = Literal[
    "site", "run", "break-glass", "trouble", "tool", "lag", "plan", "finding", "status-page", "update"
]
"""site: suspect, lost, or lost and what is done about it. run: it waits for a person, or ended. trouble: what
evac could not do, or was refused. tool: one that stands in a single site. lag: a copy beyond the `rpo`.
update: what somebody published for users.
"""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
UPDATE: Final[Kind] = "update"
"""For people outside: it goes as it was published, and only where a channel names this kind and no other."""

Severity = Literal["info", "warning", "error", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
"""The mildest first."""

State = Literal["begins", "worse", "over", "once"]
"""Of a message: a concern begins, became graver, or is over; or something happened that has no end."""

Way = Literal["apprise", "webhook"]


def rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that people should know for as long as it lasts. key: begins with its kind, and is the same
    for the same thing. patience_ms: it is told once it has lasted so long.
    """

    key: str
    kind: Kind
    severity: Severity
    words: str
    hint: str = ""
    patience_ms: int = 0
    run: str = ""
    """The run that it is about; empty where it is about none."""


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened, and is not over at any time."""

    kind: Kind
    severity: Severity
    words: str
    hint: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What one look found. holds: kind -> its concerns; a kind that could not be looked at is not there."""

    holds: Mapping[Kind, tuple[Concern, ...]] = field(default_factory=lambda: MappingProxyType({}))
    news: tuple[News, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """A concern that is open. told: how grave it was told to be; None: not told yet. gone_ms: since when it
    holds no more; None: it holds.
    """

    concern: Concern
    since_ms: int
    told: Severity | None = None
    gone_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What was known before. adopted: kind -> keys of what held at the first look at that kind, which nobody
    is told of. news: digest of what was told once -> when.
    """

    open: Mapping[str, Held] = field(default_factory=lambda: MappingProxyType({}))
    adopted: Mapping[Kind, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    news: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Message:
    """What people are told. id: the same on every try to every channel. keys: of the concerns it is about.
    title: of an update, as it was published.
    """

    id: str
    kind: Kind
    state: State
    severity: Severity
    words: str
    hint: str
    at_ms: int
    keys: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to people or programs. url, secret: references, never the thing itself. kinds: empty for all.
    least: milder messages do not go there. clear: an address that TLS does not hide is allowed.
    """

    name: str
    way: Way
    url: str
    secret: str = ""
    kinds: frozenset[Kind] = frozenset()
    least: Severity = "warning"
    clear: bool = False

    @property
    def public(self) -> bool:
        """Whether people outside are at its other end."""
        return UPDATE in self.kinds

    def wants(self, message: Message) -> bool:
        if self.public or message.kind == UPDATE:
            return self.public and message.kind == UPDATE
        of_kind = not self.kinds or message.kind in self.kinds
        return of_kind and rank(message.severity) >= rank(self.least)


@dataclass(frozen=True, slots=True)
class NoticeRules:
    """All of a notices file. room: address of the war room, page: of the public status page, for links in
    messages; may be empty.
    """

    channels: Mapping[str, Channel] = field(default_factory=lambda: MappingProxyType({}))
    room: str = ""
    page: str = ""
