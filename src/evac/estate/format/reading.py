"""Turns nodes into values, driven by the table of the format, and records their provenance: notes every
problem, none fatal.

Owns shelf lives: no other module knows what has expired on the day of the estate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from datetime import date, timedelta
from typing import Any, Final

from evac.estate.format.document import KIND_WORDS, LIST, MAP, SCALAR, Node
from evac.estate.format.kinds import Choices, Field, Listed, Mapped, Placed, Record, Records, Scalar
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError
from evac.estate.format.spec import FACT
from evac.model.diagnostic import Place
from evac.model.estate import Fact, Rate
from evac.model.records import dataclass

_CHOICES_SHOWN: Final = 8
"""Most words that a hint lists."""

TABLE_COLUMNS = {
    "servers": (
        "cpu_millicores",
        "memory_mib",
        "disk_gib",
        "accelerators",
        "watts",
        "bmc",
        "bmc_address",
        "serial",
        "position",
    ),
    "replicas": (),
    "racks": ("power_budget_watts",),
}
"""Paths of facts in tables: the whole table, and its columns that may be unknown."""


class FactBook:
    """Facts by path. `as_of` None: nothing expires."""

    def __init__(self, as_of: date | None, problems: Problems) -> None:
        self.as_of = as_of
        self._problems = problems
        self._facts: dict[str, tuple[Fact, Place]] = {}
        self._expired: set[str] = set()

    def record(self, path: str, values: dict[str, Any], place: Place) -> None:
        """Records the provenance of the value at `path`."""
        if path in self._facts:
            first = self._facts[path][1]
            message = f"the provenance of {shown(path)} is stated twice, first at {first}"
            self._problems.add("fact-twice", message, place, "keep one of the two")
            return
        observed, days = values.get("observed"), values.get("good_for_days")
        if days is not None and observed is None:
            message = f"{shown(path)} has a shelf life but no date"
            self._problems.add("fact-without-date", message, place, "add observed: YYYY-MM-DD")
        expired = self._is_past(observed, days)
        self._facts[path] = (Fact(path, values.get("source"), observed, days, expired), place)
        if expired:
            self._expired.add(path)
            message = (
                f"{shown(path)} was observed on {observed} and valid for {days} "
                f"{'day' if days == 1 else 'days'}; it now counts as unknown"
            )
            self._problems.add("fact-expired", message, place, "check the fact and update the date")

    def _is_past(self, observed: date | None, days: int | None) -> bool:
        if self.as_of is None or observed is None or days is None:
            return False
        try:
            return self.as_of > observed + timedelta(days=days)
        except OverflowError:
            return False

    def is_expired(self, path: str) -> bool:
        """Whether exactly this path is past its shelf life."""
        return path in self._expired

    @property
    def any_expired(self) -> bool:
        return bool(self._expired)

    def all(self) -> tuple[Fact, ...]:
        return tuple(self._facts[path][0] for path in sorted(self._facts))

    def check_paths(self, known: Iterable[str], stated: set[str]) -> None:
        """Warns about provenance of unstated values, and reports if nothing can expire."""
        paths = {
            *known,
            *TABLE_COLUMNS,
            *(f"{t}/{c}" for t, columns in TABLE_COLUMNS.items() for c in columns),
        }
        for path in sorted(stated - paths):
            hint = (
                self._problems.suggest(path, paths)
                or "write the path as SECTION/ID/KEY, such as services/pay/rto"
            )
            message = f"there is no value at {shown(path)}"
            self._problems.add("fact-unknown", message, self._facts[path][1], hint)
        dated = next((place for fact, place in self._facts.values() if fact.good_for_days is not None), None)
        if self.as_of is None and dated is not None:
            message = (
                "facts have a shelf life, but there is no date to judge them by, so none count as expired"
            )
            self._problems.add("facts-never-expire", message, dated, "add as_of: YYYY-MM-DD, or give --as-of")


Ends = tuple[int | Rate, int | Rate]
"""The worse and the better end of an interval."""


def amount_of(value: int | Rate) -> int:
    """The number by which two ends of an interval are compared."""
    return value.count if isinstance(value, Rate) else value


class _Bad:
    """Placeholder for a refused value, whose diagnostic is recorded."""


BAD: Final = _Bad()
_ITEMS_SHOWN: Final = 4
_TEXT_SHOWN: Final = 40
_INLINE: Final = frozenset({"value", *FACT.by_key})


class PlaceIndex(Mapping[str, Place]):
    """Fact path -> place; places are built when asked for, since most never are."""

    __slots__ = ("_rows",)

    def __init__(self, rows: dict[str, tuple[str, int, int]]) -> None:
        self._rows = rows

    def __getitem__(self, path: str) -> Place:
        return Place(*self._rows[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that an entry of the kind `names` must have."""

    names: str
    name: str
    path: str
    node: Node


@dataclass(frozen=True, slots=True)
class Placement:
    """`count` replicas of the service at `path` on a site or pool."""

    service: str
    target: str
    count: int
    node: Node


def _within(record: Record, key: str) -> str:
    """Where a key belongs that was written one level too high."""
    for one in record.fields:
        inside = one.kind.by_key if isinstance(one.kind, Record) else ()
        if key in (one.kind.known if isinstance(one.kind, Mapped) else inside):
            return f"write it under {one.key}:"
    return ""


@dataclass(slots=True)
class Reader:
    """State of reading all documents: what is collected in addition to the returned values."""

    problems: Problems
    facts: FactBook
    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    intervals: dict[str, Ends] = field(default_factory=dict)

    def place(self, *paths: str) -> Place:
        """Where the first of these paths is that the files have; nowhere if they have none."""
        row = next((self.places[path] for path in paths if path in self.places), None)
        return Place("") if row is None else Place(*row)

    def arguments(self, record: Record, node: Node, path: str, gone: bool = False) -> dict[str, Any] | _Bad:
        """The keyword arguments of `record.make`. `gone`: everything that may be unknown is (it expired)."""
        if node.kind == SCALAR and not node.text and node.plain:
            return self._finish(record, {}, {}, node, path)
        if node.kind != MAP:
            return self._wrong_type(node, "a mapping", f"keys: {', '.join(record.by_key)}")
        values: dict[str, Any] = {}
        refused: dict[str, Any] = {}
        for key, (key_node, value_node) in node.fields.items():
            spec = record.by_key.get(key)
            if spec is None:
                now = next((one.key for one in record.fields if one.was == key), None)
                hint = (
                    f"since version 2 it is called {now}"
                    if now
                    else _within(record, key) or self.problems.suggest(key, record.by_key)
                )
                if key.isdecimal() and len(key) == 3:
                    hint = "write numbers without commas between digits: 1000"
                hint = hint or f"keys: {', '.join(record.by_key)}"
                self.problems.add("key-unknown", f"unknown key {shown(key)}", key_node.place, hint)
                continue
            value = self.value(spec, value_node, f"{path}/{key}", gone)
            (refused if value is BAD else values)[key] = value
        return self._finish(record, values, refused, node, path)

    def _finish(
        self, record: Record, values: dict[str, Any], refused: dict[str, Any], node: Node, path: str
    ) -> dict[str, Any] | _Bad:
        """Combines vectors and notes missing keys."""
        arguments: dict[str, Any] = {}
        vectors: dict[str, list[int | None]] = {}
        usable = True
        for spec in record.fields:
            value = values.get(spec.key)
            if spec.required and value is None:
                usable = False
                if spec.key not in refused:
                    message, hint = f"{spec.key} is missing: {spec.doc}", f"add {spec.key}:{_values_of(spec)}"
                    self.problems.add("value-missing", message, node.place, hint)
            if spec.slot is not None:
                vectors.setdefault(spec.attr, [None] * 4)[spec.slot] = value
            elif value is not None or (spec.key in values and not isinstance(spec.kind, Record)):
                arguments[spec.attr] = spec.default if value is None else value
        for attr, amounts in vectors.items():
            arguments[attr] = tuple(amounts)
        return arguments if usable else BAD

    def value(self, spec: Field, node: Node, path: str, gone: bool = False) -> Any:
        """The value of one key; None if unknown or expired; BAD if refused."""
        self.places[path] = (node.file, node.line, node.column)
        kind = spec.kind
        if node.kind == MAP and "value" in node.fields and not isinstance(kind, Record | Mapped):
            node = self._inline(node, path)
        gone = gone or (self.facts.any_expired and self.facts.is_expired(path))
        if (gone and not spec.required and not isinstance(kind, Record | Records)) or node.is_unknown:
            if spec.default is not None and spec.default != () and not gone:
                message = f"{spec.key} cannot be unknown; its default is used"
                self.problems.add("default-taken", message, node.place, f"write the true value of {spec.key}")
            return None
        return self._known(kind, node, path, gone)

    def _known(self, kind: Any, node: Node, path: str, gone: bool) -> Any:
        if isinstance(kind, Scalar):
            return self.scalar(kind, node, path)
        if isinstance(kind, Listed):
            return self._listed(kind, node, path)
        if isinstance(kind, Choices):
            return self._choices(kind, node, path)
        if isinstance(kind, Record):
            arguments = self.arguments(kind, node, path, gone)
            return BAD if isinstance(arguments, _Bad) else kind.make(**arguments)
        if isinstance(kind, Records):
            return self._records(kind.item, node, path, gone)
        if isinstance(kind, Mapped):
            return self.mapped(kind, node, path)
        return self._placed(kind, node, path)

    def scalar(self, kind: Scalar, node: Node, path: str) -> Any:
        if node.kind == LIST and kind.worse:
            return self._interval(kind, node, path)
        if node.kind != SCALAR:
            return self._wrong_type(node, kind.words)
        try:
            value = kind.read(node.text)
        except QuantityError as error:
            self.problems.add(error.code, error.message, node.place, error.hint)
            return BAD
        if kind.names is not None:
            self.references.append(Reference(kind.names, value, path, node))
        return value

    def _interval(self, kind: Scalar, node: Node, path: str) -> Any:
        """The worse end of `[low, high]`; records both if they differ."""
        single = replace(kind, worse="")
        ends = [self.scalar(single, item, path) for item in node.items]
        if len(ends) != 2:
            message = f"an interval has two ends, but {len(ends)} were found"
            self.problems.add("interval-ends", message, node.place, "write [LOW, HIGH]")
            return BAD
        if BAD in ends:
            return BAD
        low, high = ends
        if isinstance(low, Rate) and low.window_ms != high.window_ms:
            message = "the two rates of an interval have different time windows"
            self.problems.add("interval-windows", message, node.place, "write both per minute, or per 10 s")
            return BAD
        if amount_of(low) > amount_of(high):
            message = f"the low end {kind.show(low)} is above the high end {kind.show(high)}"
            self.problems.add("interval-reversed", message, node.place, "write the smaller one first")
            return BAD
        worse, better = (high, low) if kind.worse == "high" else (low, high)
        if worse != better:
            self.intervals[path] = (worse, better)
        return worse

    def _inline(self, node: Node, path: str) -> Node:
        """The value node of `{value, source, observed, good_for}`; records its provenance."""
        values: dict[str, Any] = {}
        for key, (key_node, value_node) in node.fields.items():
            if key not in _INLINE:
                hint = self.problems.suggest(key, _INLINE) or f"keys: {', '.join(sorted(_INLINE))}"
                self.problems.add("key-unknown", f"unknown key {shown(key)}", key_node.place, hint)
            elif key != "value" and not value_node.is_unknown:
                spec = FACT.by_key[key]
                assert isinstance(spec.kind, Scalar)
                read = self.scalar(spec.kind, value_node, path)
                values[spec.attr] = None if read is BAD else read
        self.facts.record(path, values, node.place)
        return node.fields["value"][1]

    def _listed(self, kind: Listed, node: Node, path: str) -> Any:
        if node.kind == SCALAR and kind.one_allowed:
            value = self.scalar(kind.item, node, path)
            return BAD if value is BAD else (value,)
        if node.kind != LIST:
            return self._wrong_type(node, "a list", _in_brackets(node))
        values = [self.scalar(kind.item, item, f"{path}/{row}") for row, item in enumerate(node.items)]
        known = [value for value in values if value is not BAD]
        return tuple(known) if kind.ordered else tuple(sorted(set(known)))

    def _choices(self, kind: Choices, node: Node, path: str) -> Any:
        """Names, sorted, and tuples of alternatives in file order, of which one is enough."""
        group = Field("any_of", "any_of", Listed(kind.item, ordered=True), "", required=True)
        found: set[Any] = set()
        for row, item in enumerate(node.items if node.kind == LIST else [node]):
            if item.kind != MAP:
                found.add(self.scalar(kind.item, item, f"{path}/{row}"))
                continue
            arguments = self.arguments(Record((group,), dict), item, f"{path}/{row}")
            names = () if isinstance(arguments, _Bad) else arguments["any_of"]
            if not isinstance(arguments, _Bad) and len(set(names)) < max(2, len(names)):
                message = f"any of {', '.join(names) or 'nothing'} offers no alternative"
                hint = "list at least two different services, or write one name"
                self.problems.add("alternatives-alike", message, item.place, hint)
            found.add(names or BAD)
        return tuple(sorted(found - {BAD}, key=lambda one: (one,) if isinstance(one, str) else one))

    def _records(self, record: Record, node: Node, path: str, gone: bool) -> Any:
        if node.kind != LIST:
            keys = f"begin each entry with - ; its keys: {', '.join(record.by_key)}"
            return self._wrong_type(node, "a list", _in_brackets(node) if record.short is not None else keys)
        found: list[Any] = []
        for item in node.items:
            place = f"{path}/{len(found)}"
            self.places[place] = (item.file, item.line, item.column)
            value = self.one_record(record, item, place, gone)
            if value is not BAD:
                found.append(value)
        return tuple(found)

    def one_record(self, record: Record, node: Node, path: str, gone: bool = False) -> Any:
        """A record of a list, its short form included."""
        if node.kind == SCALAR and record.short is not None and not node.is_unknown:
            name = self.scalar(record.short, node, path)
            return BAD if name is BAD else record.make(name)
        gone = gone or (self.facts.any_expired and self.facts.is_expired(path))
        arguments = self.arguments(record, node, path, gone)
        if isinstance(arguments, _Bad):
            return BAD
        made = record.make(**arguments)
        if made is None:
            hint = "write {service: NAME}, {store: FAMILY} or {any_of: [NAME, OTHER]}"
            message = "a need must have exactly one of service, store and any_of"
            self.problems.add("target-ambiguous", message, node.place, hint)
            return BAD
        return made

    def mapped(self, kind: Mapped, node: Node, path: str) -> Any:
        if node.kind != MAP:
            return self._wrong_type(node, "a mapping", f"write {{KEY: VALUE}}, where KEY is {kind.key.words}")
        found = {}
        for key, (key_node, value_node) in node.fields.items():
            read = self.scalar(kind.key, key_node, path)
            value = self.value(Field(key, key, kind.value, ""), value_node, f"{path}/{key}")
            if read is not BAD and value is not BAD and value is not None:
                found[read] = value
        return found

    def _placed(self, kind: Placed, node: Node, path: str) -> Any:
        if node.kind == LIST:
            names = [item.text[:_TEXT_SHOWN] for item in node.items[:_ITEMS_SHOWN] if item.kind == SCALAR]
            each = ", ".join(f"{name}: 1" for name in names or ["SITE"])
            return self._wrong_type(
                node, kind.words, f"write {{{each}}}, with the number of replicas of each"
            )
        if node.kind != MAP:
            return self.scalar(kind.count, node, path)
        service = path.removeprefix("services/").removesuffix("/replicas")
        total: int | None = 0
        for key, (key_node, value_node) in node.fields.items():
            count = self.value(Field(key, key, kind.count, ""), value_node, f"{path}/{key}")
            self.references.append(Reference("site or pool", key, f"{path}/{key}", key_node))
            if count is BAD or count is None:
                total = None
                continue
            total = None if total is None else total + count
            if count:
                self.placements.append(Placement(service, key, count, key_node))
        return total

    def _wrong_type(self, node: Node, wanted: str, hint: str = "") -> _Bad:
        message = f"{KIND_WORDS[node.kind]} found, but {wanted} is expected"
        self.problems.add("wrong-type", message, node.place, hint)
        return BAD


def _values_of(spec: Field) -> str:
    """The words that a value may be, for a hint; empty if it is no choice, or one of too many."""
    words: list[str] = spec.kind.pattern.get("enum", []) if isinstance(spec.kind, Scalar) else []
    return f" {', '.join(words[:-1])} or {words[-1]}" if 1 < len(words) <= _CHOICES_SHOWN else ""


def _in_brackets(node: Node) -> str:
    """How to write one value as a list."""
    return (
        f"write [{node.text[:_TEXT_SHOWN]}]"
        if node.kind == SCALAR and node.text
        else "begin each entry with -"
    )
