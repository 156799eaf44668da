"""Messages, memory and boxes as JSON, and back. What cannot be read raises Corrupt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.model.errors import Corrupt
from evac.notices.rule import Reference
from evac.notices.values import Box, Concern, Held, Kind, Memory, Message, Waiting

STREAM: Final = "notices"
"""Of the journal that holds messages, and what became of each in each channel."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message in a channel. outcome: `delivered`, `given up`; why: of the latter."""

    number: int
    channel: str
    outcome: str
    tries: int
    at_ms: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All that is kept from one look to the next. watched: number of the last record of watching that was
    read; verdicts: site -> (verdict, reason). published: key of each update of the last days -> its time;
    None: nobody looked yet.
    """

    memory: Memory = field(default_factory=Memory)
    watched: int = -1
    verdicts: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    references: Mapping[str, Reference] = field(default_factory=lambda: MappingProxyType({}))
    published: Mapping[str, int] | None = None


def record_of(row: Message | Delivery) -> bytes:
    name = "message" if isinstance(row, Message) else "delivery"
    return orjson.dumps([name, asdict(row)])


def row_of(record: bytes) -> Message | Delivery:
    """Raises Corrupt."""
    try:
        name, told = orjson.loads(record)
        if name == "message":
            return Message(**told | {"keys": tuple(told["keys"])})
        return Delivery(**told)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt("a record of the journal of notices cannot be read") from error


def box_bytes(box: Box) -> bytes:
    return orjson.dumps(asdict(box))


def box_of(value: bytes) -> Box:
    """Raises Corrupt."""
    try:
        told: dict[str, Any] = orjson.loads(value)
        return Box(**told | {"waiting": tuple(Waiting(**row) for row in told["waiting"])})
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt("the box of a channel cannot be read") from error


def state_bytes(state: State) -> bytes:
    memory = state.memory
    return orjson.dumps(
        {
            "open": [asdict(held) for held in memory.open.values()],
            "adopted": {kind: sorted(keys) for kind, keys in memory.adopted.items()},
            "news": dict(memory.news),
            "watched": state.watched,
            "verdicts": {site: list(pair) for site, pair in state.verdicts.items()},
            "references": {loss: [one.least, one.worse, one.cost] for loss, one in state.references.items()},
            "published": None if state.published is None else dict(state.published),
        },
        option=orjson.OPT_SORT_KEYS,
    )


def state_of(value: bytes) -> State:
    """Raises Corrupt."""
    try:
        told: dict[str, Any] = orjson.loads(value)
        held = [Held(**row | {"concern": Concern(**row["concern"])}) for row in told["open"]]
        adopted: dict[Kind, frozenset[str]] = {k: frozenset(v) for k, v in told["adopted"].items()}
        published = told.get("published")
        memory = Memory(
            MappingProxyType({one.concern.key: one for one in held}),
            MappingProxyType(adopted),
            MappingProxyType({str(name): int(at_ms) for name, at_ms in told["news"].items()}),
        )
        return State(
            memory,
            int(told["watched"]),
            MappingProxyType({site: (str(a), str(b)) for site, (a, b) in told["verdicts"].items()}),
            MappingProxyType(
                {k: Reference(int(a), bool(b), int(c)) for k, (a, b, c) in told["references"].items()}
            ),
            None if published is None else {str(key): int(at_ms) for key, at_ms in published.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt("what was known of notices cannot be read") from error
