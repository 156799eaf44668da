"""Plans as canonical JSON, and back: the published shape of docs/reference/plan-format.md.

Fields of a step that hold their default are left out. Reading is bounded in size and depth, refuses unknown
keys, and checks that redundant values agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evac import __version__
from evac.model.digest import fields_in_order, keys_in_order, written
from evac.model.errors import InvalidInput, PlanFileError
from evac.model.instance import LeftOff
from evac.model.plan import Outcome, Plan, Step
from evac.steps.registry import PLANNED

if TYPE_CHECKING:  # it takes a fifth of a second to load: only what reads a plan does
    from pydantic import TypeAdapter, ValidationError

SCHEMA_VERSION: Final = 1
SIZE_LIMIT_BYTES: Final = 512 * 2**20
DEPTH_LIMIT: Final = 12
WEIGHT_MAX: Final = 10**6
_SHOWN: Final = 20
_BACKUP: Final = "backup@"
_MAKE_ONE: Final = "create one: evac plan ESTATE --lose SITE -o PLAN"
_FIRST: Final = "name the plan first, then the estate; create one: evac plan ESTATE --lose SITE -o PLAN"


def encode(plan: Plan) -> bytes:
    """Canonical bytes of a plan, with a final newline. Same plan, same bytes."""
    return written(document_of(plan)) + b"\n"


def document_of(plan: Plan) -> dict[str, Any]:
    """A plan as a JSON document: objective, bound and heads in tier-weighted user-milliseconds.

    Every object in it has its keys in canonical order.
    """
    tick = plan.tick_ms
    body = {f.name: _plain(getattr(plan, f.name)) for f in fields(plan) if f.name not in _SPELLED_OUT}
    body["left_off"] = [_left_off(entry) for entry in plan.left_off]
    for name in ("assumed", "congestion", "intervals", "left_off", "passed_over", "wave", "worst"):
        if not body[name]:
            del body[name]
    if plan.unweighted_before is None:
        del body["unweighted_before"]
    if plan.scenario.power:
        body["power"] = _in_order(dict(plan.scenario.power))
    if plan.scenario.on:
        body["on"] = list(plan.scenario.on)
    if plan.scenario.moments:
        body["moments"] = _in_order(dict(plan.scenario.moments))
        body["asked_s"] = plan.scenario.asked_s
    whole = body | {
        "kind": "evac-plan",
        "schema_version": SCHEMA_VERSION,
        "lost": list(plan.scenario.domains),
        "question": plan.scenario.kind,
        "deadline_ms": plan.scenario.deadline_ms,
        "placements": _placements(plan),
        "steps": [_step(step) for step in plan.steps],
        "shed": _sheds(plan),
        "unplaced": [
            {"reason": o.reason, "service": o.service} for o in plan.outcomes if o.state == "unplaced"
        ],
        "services": [_service(outcome) for outcome in plan.outcomes],
        "objective": plan.objective * tick,
        "bound": plan.bound * tick,
        "heads": plan.heads * tick,
        "unweighted": plan.unweighted * tick,
    }
    return _in_order(whole)


_PRICES: Final = ("objective", "bound", "heads", "unweighted")
_SPELLED_OUT: Final = frozenset({"scenario", "steps", "outcomes", *_PRICES})
_DERIVED: Final = frozenset(
    {
        "kind",
        "schema_version",
        "lost",
        "question",
        "deadline_ms",
        "power",
        "on",
        "moments",
        "asked_s",
        "placements",
        "shed",
        "unplaced",
    }
)


def _placements(plan: Plan) -> list[dict[str, Any]]:
    """Where replicas are started: one entry per service and server (or pool)."""
    found: dict[tuple[str, str], int] = {}
    for step in plan.steps:
        if PLANNED[step.kind].replicas > 0:
            for server, count in step.servers:
                found[(step.target, server)] = found.get((step.target, server), 0) + count
    return [{"count": n, "server": v, "service": s} for (s, v), n in sorted(found.items())]


def _sheds(plan: Plan) -> list[dict[str, Any]]:
    """Replicas shed: one entry per service."""
    found: dict[str, int] = {}
    for step in plan.steps:
        if PLANNED[step.kind].frees_capacity:
            found[step.target] = found.get(step.target, 0) + step.count
    return [{"replicas": n, "service": s} for s, n in sorted(found.items())]


_SAID_APART: Final = ("duration_ms", "uses")
_ALWAYS: Final = frozenset({"after", "duration_ms", "uses"})
_NEVER: Final = object()


@lru_cache(maxsize=1)
def _of_steps() -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]], tuple[Any, ...]]:
    """The fields of a step in canonical order; their getter, with a number in place of fields encoded
    separately; and the defaults that are left out.
    """
    default = dict(zip(fields_in_order(Step)[0], _defaults(Step), strict=True))
    names = tuple(keys_in_order(tuple({*default, "duration_ms"} - {"end_ms"})))
    read = attrgetter(*("start_ms" if name in _SAID_APART else name for name in names))
    return names, read, tuple(_NEVER if name in _ALWAYS else default[name] for name in names)


def _step(step: Step) -> dict[str, Any]:
    """Encodes a step in one pass, because a plan has thousands."""
    names, read, unsaid = _of_steps()
    body = {
        name: item if type(item) in _AS_THEY_ARE else _plain(item)
        for name, item, default in zip(names, read(step), unsaid, strict=True)
        if item is not default and item != default
    }
    body["duration_ms"] = step.end_ms - step.start_ms
    body["uses"] = _in_order(dict(step.uses))
    return body


def _service(outcome: Outcome) -> dict[str, Any]:
    body: dict[str, Any] = _plain(outcome)
    back = outcome.state not in ("shed", "unplaced", "unknown")
    body["restored_ms"] = outcome.base_ms if back else None
    if outcome.why is not None:
        body["reason"] = outcome.reason
        if outcome.why.kind == "text":
            del body["why"]
    return _in_order(body)


def _left_off(entry: LeftOff) -> dict[str, Any]:
    body: dict[str, Any] = _plain(entry) | {"reason": entry.reason}
    if entry.why.kind == "text":
        del body["why"]
    return _in_order(body)


def _in_order(body: dict[str, Any]) -> dict[str, Any]:
    return {key: body[key] for key in keys_in_order(tuple(body))}


def plan_digest(data: bytes) -> str:
    """The digest by which a plan is approved and named: over its canonical bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def decode(data: bytes, name: str = "plan", own: bool = False) -> Plan:
    """The plan in `data`. Raises PlanFileError with every problem named, at most twenty. own: evac wrote it
    or has read it in full before; skips the check of redundant values, which takes half of the time.
    """
    from pydantic import ValidationError

    document = _document(data, name, own)
    if document.get("kind") != "evac-plan":
        raise PlanFileError("plan-format", f"{name} is not an evac plan", _FIRST)
    if document.get("schema_version") != SCHEMA_VERSION:
        version = str(document.get("schema_version"))[:40]
        raise PlanFileError(
            "plan-version",
            f"{name} has schema version {version}; this evac reads {SCHEMA_VERSION}",
            "create a new one: evac plan",
        )
    _name_restores(document)
    try:
        plan = _adapter().validate_python(_arguments(document))
        _check_congestion(plan)
    except ValidationError as error:
        raise PlanFileError("plan-invalid", _problems(name, error), "create a new one: evac plan") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        words = f"{name} is not a valid plan: {_shape(error)}"
        raise PlanFileError("plan-invalid", words, "create a new one: evac plan") from error
    if not own and not _agrees(document_of(plan), document):
        raise PlanFileError(
            "plan-inconsistent",
            f"{name} contradicts itself",
            "create a new one: evac plan",
        )
    return plan


def _check_congestion(plan: Plan) -> None:
    """Raises ValueError with every place that is neither a site nor a link."""
    wrong = [row for row, one in enumerate(plan.congestion) if len(one.at) not in (1, 2) or not all(one.at)]
    if wrong:
        rows = [f"congestion.{row}.at" for row in wrong[:_SHOWN]]
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(f"{', '.join(rows)}{more}: name one site or the two ends of a link")


def _agrees(ours: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether the document equals what evac writes for its plan. Reasons are worded from `why`, which is read
    as well: another version may word them differently, this one may not.
    """
    if document["planner_version"] == __version__:
        return ours == document
    return _without_words(ours) == _without_words(document)


def _without_words(document: dict[str, Any]) -> dict[str, Any]:
    found = dict(document)
    for name in ("services", "left_off", "unplaced"):
        if isinstance(rows := document.get(name), list):
            found[name] = [
                {key: row[key] for key in row if key != "reason"} if isinstance(row, dict) else row
                for row in rows
            ]
    return found


def _name_restores(document: dict[str, Any]) -> None:
    """Plans of earlier versions promote a store at `backup@PLACE`; that is a restore.

    Ids stay, because run journals name them.
    """
    with contextlib.suppress(TypeError, AttributeError):  # anything but a list of mappings is reported later
        for step in document.get("steps", ()):
            if str(step.get("candidate", "")).startswith(_BACKUP):
                step["kind"] = "restore"
                step["candidate"] = step["candidate"].removeprefix(_BACKUP)
        for store in document.get("stores", ()):
            if str(store.get("candidate", "")).startswith(_BACKUP):
                store["candidate"] = store["candidate"].removeprefix(_BACKUP)
                store["restored"] = True


def _arguments(document: dict[str, Any]) -> dict[str, Any]:
    """The document as arguments of Plan; integers are checked by the adapter, shapes here."""
    body = {key: value for key, value in document.items() if key not in _DERIVED | {"steps", "services"}}
    tick = _whole(document, "tick_ms")
    for name in _PRICES:
        body[name], rest = divmod(_whole(document, name), max(tick, 1))
        if rest:
            raise ValueError(f"{name} is not a multiple of tick_ms")
    weights = document["tier_weights"]
    if not weights or not all(type(w) is int and 0 <= w <= WEIGHT_MAX for w in weights):
        raise ValueError(f"tier_weights must be numbers from 0 to {WEIGHT_MAX:,}")
    body["scenario"] = {
        "kind": document["question"],
        "domains": document["lost"],
        "deadline_ms": document["deadline_ms"],
        "power": sorted(document.get("power", {}).items()),
        "on": document.get("on", []),
        "moments": sorted(document.get("moments", {}).items()),
        "asked_s": document.get("asked_s", 0),
    }
    body["steps"] = [_step_arguments(step) for step in document["steps"]]
    body["outcomes"] = [_outcome_arguments(row) for row in document["services"]]
    if "left_off" in document:
        body["left_off"] = [_left_off_arguments(row) for row in document["left_off"]]
    return body


def _whole(document: dict[str, Any], name: str) -> int:
    value = document[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} is not an integer")
    return value


def _step_arguments(step: dict[str, Any]) -> dict[str, Any]:
    if step["kind"] not in PLANNED:
        raise ValueError(f"unknown step kind: {str(step['kind'])[:40]}")
    body = {key: value for key, value in step.items() if key not in ("duration_ms", "uses")}
    body["end_ms"] = _whole(step, "start_ms") + _whole(step, "duration_ms")
    body["uses"] = sorted(step["uses"].items())
    return body


def _outcome_arguments(row: dict[str, Any]) -> dict[str, Any]:
    """Plans of earlier versions give reasons only in words: these are kept."""
    body = {key: value for key, value in row.items() if key not in ("restored_ms", "reason")}
    if "reason" in row and "why" not in row:
        body["why"] = {"kind": "text", "text": row["reason"]}
    return body


def _left_off_arguments(row: dict[str, Any]) -> dict[str, Any]:
    """Like outcomes."""
    body = {key: value for key, value in row.items() if key != "reason"}
    return body | {"why": row.get("why") or {"kind": "text", "text": row["reason"]}}


def read(path: Path) -> tuple[Plan, str]:
    """The plan in a file and its digest. Raises PlanFileError if it cannot be read."""
    try:
        if not path.is_file():
            raise PlanFileError("plan-missing", f"{path} is not a file", _MAKE_ONE)
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise PlanFileError(
                "plan-too-large", f"{path} is larger than {SIZE_LIMIT_BYTES >> 20} MiB", _MAKE_ONE
            )
        data = path.read_bytes()
    except OSError as error:
        raise PlanFileError(
            "plan-unreadable", f"{path}: {error.strerror}", "give this user read permission"
        ) from error
    return decode(data, str(path)), plan_digest(data)


def _document(data: bytes, name: str, own: bool) -> dict[str, Any]:
    try:
        if _depth(data) > DEPTH_LIMIT:
            raise PlanFileError(
                "plan-too-deep",
                f"{name} is nested deeper than {DEPTH_LIMIT} levels",
                "create a new one: evac plan",
            )
        document = json.loads(
            data.decode(),
            parse_float=_no_float,
            parse_constant=_no_float,
            object_pairs_hook=None if own else _once_each,
        )
    except _TwiceError as error:
        words = f"{name}: the key {error} appears twice"
        raise PlanFileError("plan-format", words, "create a new one: evac plan") from error
    except (ValueError, RecursionError) as error:
        raise PlanFileError("plan-format", f"{name} is not JSON: {_words(error)}", _FIRST) from error
    if not isinstance(document, dict):
        raise PlanFileError("plan-format", f"{name} is not an evac plan", _FIRST)
    return document


def _words(error: Exception) -> str:
    """The problem with the text, without internal names."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1:,} is not UTF-8 text"
    words = str(error)
    return "it contains a number with thousands of digits" if "digits" in words else words[:200]


def _shape(error: Exception) -> str:
    """The problem with a document's shape, without internal names."""
    if isinstance(error, KeyError):
        return f"{str(error.args[0])[:80]} is missing"
    return str(error)[:200] if isinstance(error, ValueError) else "its structure is invalid"


class _TwiceError(Exception):
    """One key with two values: which was meant is unknown."""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _TwiceError(repr(counts.most_common(1)[0][0][:80]))
    return found


def _no_float(text: str) -> Any:
    raise ValueError(f"number {text[:40]} is not an integer")


def _depth(data: bytes) -> int:
    """An upper bound of the nesting, without parsing; brackets in strings only raise it."""
    depth = deepest = 0
    for byte in data.translate(None, delete=bytes(set(range(256)) - set(b"[]{}"))):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _problems(name: str, error: ValidationError) -> str:
    rows = [
        f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors(include_input=False)
    ]
    more = f"; and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"{name} is not a valid plan: " + "; ".join(rows[:_SHOWN]) + more


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Plan]:
    """Unknown keys are refused: a plan contains nothing that evac does not read."""
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.dataclasses import dataclass as as_checked

    checked: type[Plan] = as_checked(Plan, frozen=True, config=ConfigDict(extra="forbid"))  # type: ignore[assignment]
    return TypeAdapter(checked)


_AS_THEY_ARE: Final = frozenset({str, int, bool, type(None)})


def _plain(value: Any) -> Any:
    """Lists, objects with keys in order, and JSON scalars; refuses anything else."""
    kind: Any = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is tuple or isinstance(value, tuple | list):
        if _AS_THEY_ARE.issuperset(map(type, value)):
            return list(value)
        # Most of a plan are lists of pairs: they are made here, without another call for each.
        return [
            list(item) if type(item) is tuple and _AS_THEY_ARE.issuperset(map(type, item)) else _plain(item)
            for item in value
        ]
    if is_dataclass(value) and not isinstance(value, type):
        names, values = fields_in_order(kind)
        rows = zip(names, values(value), _defaults(kind), strict=True)
        return {
            name: item if type(item) in _AS_THEY_ARE else _plain(item)
            for name, item, default in rows
            if item is not default and item != default
        }
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in keys_in_order(tuple(value))}
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str | int):
        return value
    raise InvalidInput("canonical-type", f"{kind.__name__} is not allowed in a plan")


@lru_cache(maxsize=64)
def _defaults(record: Any) -> tuple[Any, ...]:
    """The default of each field in canonical order; for fields without one, a value that nothing equals."""
    found = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(record)
    }
    return tuple(found[name] for name in fields_in_order(record)[0])
