"""Kinds of values in estate files: how each is read, written, described and put into a schema.

A kind knows text and values only; nodes, places and facts are the reader's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, Final, Literal

from cronsim import CronSim, CronSimError

from evac.estate.format import quantities
from evac.estate.format.quantities import Quantity, QuantityError
from evac.model import objectives as by_class
from evac.model.records import dataclass

TEXT_MAX: Final = 500
ID_MAX: Final = 200
ID: Final = re.compile(r"[^\W_][\w.:@-]*(?:/[^\W_][\w.:@-]*)*")
"""Ids begin with a letter or digit; `/` separates the parts of a path."""

_FLAGS: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "true": True,
        "True": True,
        "TRUE": True,
        "yes": True,
        "Yes": True,
        "false": False,
        "False": False,
        "FALSE": False,
        "no": False,
        "No": False,
    }
)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_NOTHING: Final[tuple[Any, ...]] = (None, "unknown")

Worse = Literal["", "high", "low"]
"""The end of an interval that a plan uses: the high one for durations and demands, the low one for capacity
and limits. Empty: decisions rather than measurements have no interval.
"""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. `read` raises QuantityError; `show` gives text that `read` reads back the same.

    `names`: what a reference refers to, for the check that it exists; `pattern`: JSON Schema of the
    value; `quoted`: text that must be quoted where YAML might read it otherwise; `worse`: an interval may
    be written, and this end of it is planned with.
    """

    words: str
    read: Callable[[str], Any]
    show: Callable[[Any], str]
    pattern: Mapping[str, Any]
    names: str | None = None
    quoted: bool = False
    worse: Worse = ""

    def schema(self) -> dict[str, Any]:
        if not self.worse:
            return dict(self.pattern)
        pair = {"type": "array", "items": dict(self.pattern), "minItems": 2, "maxItems": 2}
        return {"anyOf": [dict(self.pattern), pair]}


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of scalars. `ordered` False: a set, sorted and without duplicates."""

    item: Scalar
    ordered: bool = False
    one_allowed: bool = False

    @property
    def words(self) -> str:
        return f"list, each: {self.item.words}" + (", or just one" if self.one_allowed else "")

    def schema(self) -> dict[str, Any]:
        many = {"type": "array", "items": self.item.schema()}
        return {"anyOf": [self.item.schema(), many]} if self.one_allowed else many


@dataclass(frozen=True, slots=True)
class Choices:
    """A set of names, or just one. In place of a name, `{any_of: [...]}` lists alternatives, of which one is
    enough.
    """

    item: Scalar

    @property
    def words(self) -> str:
        return f"list, each: {self.item.words}, or `{{any_of: [NAME, OTHER]}}`; or just one"

    def schema(self) -> dict[str, Any]:
        names = {"type": "array", "items": self.item.schema(), "minItems": 2, "uniqueItems": True}
        group = {"type": "object", "properties": {"any_of": names}, "required": ["any_of"]}
        one = {"anyOf": [self.item.schema(), {**group, "additionalProperties": False}]}
        return {"anyOf": [*one["anyOf"], {"type": "array", "items": one}]}


@dataclass(frozen=True, slots=True)
class Field:
    """One key. `attr` names the attribute; `slot` its position in a vector; `default`: the value
    that stands for unknown where the model has no None."""

    key: str
    attr: str
    kind: Scalar | Listed | Choices | Record | Records | Mapped | Placed
    doc: str
    slot: int | None = None
    required: bool = False
    default: Any = None
    was: str = ""
    """Its key in version 1 of the format, if different."""

    def of(self, thing: Any) -> Any:
        """The value of this field in a model object."""
        value = getattr(thing, self.attr) if self.attr else thing
        return value if self.slot is None else value[self.slot]


@dataclass(frozen=True, slots=True)
class Record:
    """A nested mapping with fixed keys; `make` builds its value from attributes."""

    fields: tuple[Field, ...]
    make: Callable[..., Any]
    short: Scalar | None = None
    by_key: Mapping[str, Field] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_key", MappingProxyType({f.key: f for f in self.fields}))

    @property
    def words(self) -> str:
        return "mapping"

    def schema(self) -> dict[str, Any]:
        full = record_schema(self.fields)
        return full if self.short is None else {"anyOf": [self.short.schema(), full]}


@dataclass(frozen=True, slots=True)
class Records:
    """A list of nested mappings, in the order of the file."""

    item: Record

    @property
    def words(self) -> str:
        return "list of mappings"

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping whose keys are of one kind and whose values are of another."""

    key: Scalar
    value: Scalar | Listed | Choices
    known: frozenset[str] = frozenset()
    """Keys that people write one level too high."""

    @property
    def words(self) -> str:
        return f"mapping from {self.key.words} to {self.value.words}"

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": self.key.schema(),
            "additionalProperties": with_fact(self.value),
        }


@dataclass(frozen=True, slots=True)
class Placed:
    """Replicas: a plain number, or counts by site or pool."""

    count: Scalar

    @property
    def words(self) -> str:
        return "count, or mapping of site or pool to count"

    def schema(self) -> dict[str, Any]:
        counts = {"type": "object", "additionalProperties": with_fact(self.count)}
        return {"anyOf": [self.count.schema(), counts]}


def with_fact(kind: Scalar | Listed | Choices | Record | Records | Mapped | Placed) -> dict[str, Any]:
    """The schema of a value that may be unknown or carry its provenance inline."""
    if isinstance(kind, Record | Records | Mapped):
        return {"anyOf": [kind.schema(), {"enum": list(_NOTHING)}]}
    return {
        "anyOf": [
            kind.schema(),
            {"enum": list(_NOTHING)},
            {
                "$ref": "#/$defs/fact",
                "required": ["value"],
                "properties": {"value": {"anyOf": [kind.schema(), {"enum": list(_NOTHING)}]}},
            },
        ]
    }


def record_schema(fields: tuple[Field, ...]) -> dict[str, Any]:
    """The schema of a mapping with exactly these keys."""
    properties = {}
    for f in fields:
        properties[f.key] = {"description": f.doc, **with_fact(f.kind)}
        if f.was:
            properties[f.was] = {**properties[f.key], "deprecated": True}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [f.key for f in fields if f.required]
    return {**schema, "required": required} if required else schema


def objectives(*fields: Field) -> Record:
    """Objectives by class of loss, each with these fields."""
    each = Record(fields, by_class.Objective)
    docs = {
        "software": "a provider is down, but nothing of your own is lost",
        "server": "one server is lost",
        "rack": "a rack is lost",
        "hall": "a hall, a power feed, or a group within one site is lost",
        "site": "a site is lost",
        "region": "several sites are lost at once",
    }
    nothing = by_class.Objective()
    classes = tuple(Field(one, one, each, docs[one], default=nothing) for one in by_class.LOSS_CLASSES)
    return Record(classes, by_class.Objectives)


def text() -> Scalar:
    return Scalar("text", _read_text, str, {"type": ["string", "number", "boolean"]}, quoted=True)


def reference(names: str, words: str | None = None) -> Scalar:
    """The name of another entry of the estate; `names` says of which kind."""
    return Scalar(
        words or f"name of {'an' if names[0] in 'aeiou' else 'a'} {names}",
        _read_id,
        str,
        _NAME_SCHEMA,
        names,
        quoted=True,
    )


def measure(quantity: Quantity, worse: Worse = "", named: Mapping[str, int] = MappingProxyType({})) -> Scalar:
    """named: words that stand for a value."""
    words = quantity.name.removeprefix("a ") + f", such as `{quantity.example}`"
    shown = {value: word for word, value in named.items()}
    schema = _schema_of(quantity)
    return Scalar(
        "".join(f"`{word}` or " for word in named) + _or_interval(words, worse),
        lambda t: named[t] if t in named else quantities.parse(quantity, t),
        lambda v: shown[v] if v in shown else quantities.show(quantity, v),
        {"anyOf": [{"enum": list(named)}, schema]} if named else schema,
        worse=worse,
    )


def _or_interval(words: str, worse: Worse) -> str:
    return f"{words}, or an interval" if worse else words


def small_count(low: int, high: int) -> Scalar:
    """A plain whole number within bounds."""

    def read(raw: str) -> int:
        value = quantities.parse(quantities.COUNT, raw)
        if not low <= value <= high:
            raise QuantityError("out-of-range", f"{raw} is not between {low:,} and {high:,}")
        return value

    schema = {
        "anyOf": [
            {"type": "integer", "minimum": low, "maximum": high},
            _schema_of(quantities.COUNT)["anyOf"][1],
        ]
    }
    return Scalar(f"number from {low} to {high:,}", read, str, schema)


def did_you_mean(raw: str, options: tuple[str, ...]) -> str:
    """Suggests the nearest of some words, with a trailing space; empty if none is near."""
    near = difflib.get_close_matches(raw[:40].lower(), options, 1, 0.6)
    return f"did you mean '{near[0]}'? " if near else ""


def choice(options: tuple[str, ...]) -> Scalar:
    def read(raw: str) -> str:
        if raw in options:
            return raw
        raise QuantityError(
            "not-a-choice",
            f"'{raw[:40]}' is not allowed here",
            f"{did_you_mean(raw, options)}one of: {', '.join(options)}",
        )

    words = " or ".join(", ".join(f"`{o}`" for o in options).rsplit(", ", 1))
    return Scalar(words, read, str, {"enum": list(options)}, quoted=True)


def share() -> Scalar:
    schema = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)? *%|[0-9]+ */ *[0-9]+)$"}
    return Scalar("share, such as `60 %` or `3/5`", quantities.parse_share, quantities.show_share, schema)


def permille(worse: Worse = "") -> Scalar:
    return Scalar(
        _or_interval("share, such as `98 %`", worse),
        quantities.parse_permille,
        quantities.show_permille,
        share().pattern,
        worse=worse,
    )


def rate(worse: Worse = "") -> Scalar:
    schema = {"type": "string", "pattern": r"^[0-9.]+ ?[KkMG]? +per +.+$"}
    words = _or_interval("rate, such as `600 per minute`", worse)
    return Scalar(words, quantities.parse_rate, quantities.show_rate, schema, worse=worse)


def flag() -> Scalar:
    return Scalar(
        "`true` or `false`",
        _read_flag,
        lambda v: "true" if v else "false",
        {"enum": [True, False, "yes", "no"]},
    )


def day() -> Scalar:
    schema = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
    return Scalar("date, such as `2026-11-25`", _read_day, date.isoformat, schema)


def cron() -> Scalar:
    return Scalar(
        "cron expression in UTC, such as `15 1 * * *`",
        _read_cron,
        str,
        {"type": "string", "pattern": r"^\S+( +\S+){4}$"},
        quoted=True,
    )


def _read_cron(raw: str) -> str:
    fields = raw.split()
    try:
        if len(fields) == 5:
            next(CronSim(" ".join(fields), datetime(2026, 1, 1, tzinfo=UTC)))
            return " ".join(fields)
        problem = f"it has {len(fields)} fields instead of 5"
    except CronSimError as error:
        problem = str(error).lower()
    except StopIteration:
        problem = "it never matches a date"
    raise QuantityError(
        "not-a-schedule",
        f"'{raw[:40]}' is not a schedule: {problem}",
        "minute, hour, day, month, weekday, such as 15 1 * * * for 01:15 UTC every day",
    )


_NAME_SCHEMA: Final = MappingProxyType({"type": ["string", "integer"], "maxLength": ID_MAX})


def _schema_of(quantity: Quantity) -> dict[str, Any]:
    units = "|".join(re.escape(unit) for unit in quantity.units)
    optional = "?" if quantity.bare else ""
    text_form = {"type": "string", "pattern": rf"^[0-9]+(\.[0-9]+)?( *({units})){optional}$"}
    return {"anyOf": [{"type": "integer", "minimum": 0}, text_form]} if quantity.bare else text_form


def _read_text(raw: str) -> str:
    if len(raw) > TEXT_MAX:
        raise QuantityError("text-too-long", f"the text has {len(raw):,} characters", f"at most {TEXT_MAX}")
    return raw


def _read_id(raw: str) -> str:
    if len(raw) > ID_MAX or not ID.fullmatch(raw):
        raise QuantityError(
            "id-invalid",
            f"'{raw[:60]}' is not an id",
            "letters, digits and . _ - : @, with / between path parts",
        )
    return raw


def _read_flag(raw: str) -> bool:
    value = _FLAGS.get(raw)
    if value is None:
        raise QuantityError(
            "not-a-flag", f"'{raw[:40]}' is neither true nor false", "write true, false or unknown"
        )
    return value


def _read_day(raw: str) -> date:
    try:
        if _DAY.fullmatch(raw):
            return date.fromisoformat(raw)
    except ValueError:
        pass
    raise QuantityError("not-a-date", f"'{raw[:40]}' is not a date", "use a value like 2026-11-25")
