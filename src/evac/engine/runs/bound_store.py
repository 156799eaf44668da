"""Bound runs in the store, so that every leader and every reader sees the same steps and actions.

    bound/<run>/<plan digest>/<part:06d>     canonical JSON of spec and actions, written before the run is

A run is bound once for each of its plans. Estate and policy may change afterwards; what a journal means may
not. The journal names the digest of the document, and whoever reads the document compares it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.drivers.port import Action, Value
from evac.engine.runs.binding import Bound
from evac.model.errors import Corrupt, InvalidInput
from evac.model.run_policy import Pace, Patience
from evac.run import envelope
from evac.run.values import RunLimit, RunSpec, RunStep
from evac.store.port import Compare, Delete, Lease, Put, Store

PART_BYTES: Final = 512 * 1024
PARTS_MOST: Final = 1_024
_VERSION: Final = 1


def encode_bound(bound: Bound) -> bytes:
    """Bytes that are the same for the same run."""
    spec = bound.spec
    settings = _Settings()
    actions = {
        step: [_action_row(one, settings) for one in found] for step, found in sorted(bound.actions.items())
    }
    return orjson.dumps(
        {
            "version": _VERSION,
            "run": spec.run,
            "incident": spec.incident,
            "plan": spec.plan,
            "envelope": envelope.to_data(spec.envelope),
            "approvals": spec.approvals,
            "monitor_ms": spec.monitor_ms,
            "horizon_ms": spec.horizon_ms,
            "mend_ms": spec.mend_ms,
            "labels": dict(spec.labels),
            "patience": _fields(spec.patience),
            "pace": _fields(spec.pace),
            "limits": [_limit_row(limit) for limit in spec.limits],
            "steps": [_step_row(step) for step in spec.steps],
            "actions": actions,
            "settings": settings.rows,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def decode_bound(data: bytes) -> Bound:
    """Raises Corrupt for what this program did not write."""
    try:
        found = orjson.loads(data)
        if found["version"] != _VERSION:
            raise Corrupt(f"a bound run of version {found['version']} cannot be read here")
        pace = found["pace"]
        spec = RunSpec(
            run=found["run"],
            incident=found["incident"],
            plan=found["plan"],
            steps=tuple(_step_of(row) for row in found["steps"]),
            limits=tuple(RunLimit(*row) for row in found["limits"]),
            envelope=envelope.from_data(found["envelope"]),
            patience=Patience(**found["patience"]),
            pace=Pace(**{**pace, "shares": tuple(pace["shares"])}),
            approvals=found["approvals"],
            monitor_ms=found["monitor_ms"],
            horizon_ms=found["horizon_ms"],
            mend_ms=found.get("mend_ms", 0),
            labels=MappingProxyType(found["labels"]),
        )
        settings = [_values(one) for one in found.get("settings", ())]
        actions = {
            step: tuple(_action_of(row, settings) for row in rows) for step, rows in found["actions"].items()
        }
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Corrupt("a bound run in the store cannot be read") from error
    return Bound(spec, MappingProxyType(actions))


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _limit_row(limit: RunLimit) -> list[Any]:
    row = [limit.id, limit.kind, limit.capacity, limit.window_ms]
    return [*row, limit.whole, limit.beside] if limit.whole or limit.beside else row


def _step_row(step: RunStep) -> list[Any]:
    row = [
        step.id,
        step.kind,
        step.target,
        step.start_ms,
        step.duration_ms,
        list(step.after),
        [list(use) for use in step.uses],
        step.deadline_ms,
        step.gate,
        step.manual,
        step.safe_undo,
        step.data_set,
        step.site,
        step.paced,
        step.act,
    ]
    of_boot = [step.rack, list(step.feeds), step.boot_server, step.lag_ms]
    if step.cold:
        return [*row, *of_boot, step.words, True]
    if step.words:
        return [*row, *of_boot, step.words]
    return [*row, *of_boot] if any(of_boot) else row


def _step_of(row: list[Any]) -> RunStep:
    id, kind, target, start_ms, duration_ms, after, uses, *rest = row
    if len(rest) > _FEEDS:
        rest[_FEEDS] = tuple(rest[_FEEDS])
    return RunStep(
        id, kind, target, start_ms, duration_ms, tuple(after), tuple(tuple(use) for use in uses), *rest
    )


_FEEDS: Final = 9
"""Place of the feeds in a row, counted from behind the uses."""


class _Settings:
    """Settings are of an endpoint and so of many actions: what is the same stands once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._seen: dict[int, tuple[Mapping[str, Value], int]] = {}
        self._numbers: dict[bytes, int] = {}

    def number(self, settings: Mapping[str, Value]) -> int:
        seen = self._seen.get(id(settings))
        if seen is not None:
            return seen[1]
        plain = _plain(settings)
        number = self._numbers.setdefault(orjson.dumps(plain), len(self.rows))
        if number == len(self.rows):
            self.rows.append(plain)
        self._seen[id(settings)] = settings, number  # held, so that no other takes its id
        return number


def _action_row(action: Action, settings: _Settings) -> list[Any]:
    number = settings.number(action.settings)
    return [action.verb, action.target, action.driver, action.at, number, _plain(action.parameters)]


def _plain(values: Mapping[str, Value]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(values.items())}


def _action_of(row: list[Any], shared: Sequence[Mapping[str, Value]]) -> Action:
    """Runs that are older have the settings in the row."""
    verb, target, driver, at, settings, parameters = row
    found = shared[settings] if isinstance(settings, int) else _values(settings)
    return Action(verb, target, driver, at, found, _values(parameters))


def _values(found: dict[str, Any]) -> Mapping[str, Value]:
    return MappingProxyType(
        {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    )


def _prefix(run: str, plan: str) -> str:
    return f"bound/{run}/{plan}/"


async def put_bound(
    store: Store, bound: Bound, guard: Lease | None, compares: Sequence[Compare] = ()
) -> Bound:
    """Writes it in parts, and gives it back with its digest. What lies there, of a leader who died before the
    run was made or of anybody else, is written over as long as the compares hold. Raises Conflict.
    """
    data = encode_bound(bound)
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)]
    if len(parts) > PARTS_MOST:
        raise InvalidInput("run-size", f"a run of {len(data):,} bytes cannot be stored", "split the scenario")
    prefix = _prefix(bound.spec.run, bound.spec.plan)
    there = {entry.key: entry for entry in await store.list(prefix, "", PARTS_MOST)}
    for number, part in enumerate(parts):
        key = f"{prefix}{number:06d}"
        entry = there.pop(key, None)
        if entry is None or entry.value != part:
            same = Compare(key, 0 if entry is None else entry.revision)
            await store.transact((same, *compares), (Put(key, part),), guard)
    for key, entry in there.items():
        await store.transact((Compare(key, entry.revision), *compares), (Delete(key),), guard)
    return replace(bound, digest=_digest(data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def was_bound_again(store: Store, run: str, plan: str) -> bool:
    """Whether a run was bound to another plan than its first one; that may never have taken over."""
    prefix = f"bound/{run}/"
    first = _prefix(run, plan)
    later = await store.list(prefix, f"{first}~", 1)
    return bool(later) or any(not entry.key.startswith(first) for entry in await store.list(prefix, "", 1))


async def get_bound(store: Store, run: str, plan: str, digest: str = "") -> Bound:
    """digest: as the journal names it; journals of older versions name none. Raises Corrupt where it is
    missing, not whole or another one.
    """
    parts: list[bytes] = []
    prefix, after = _prefix(run, plan), ""
    while page := await store.list(prefix, after, 8):
        for entry in page:
            if entry.key != f"{prefix}{len(parts):06d}" or len(parts) >= PARTS_MOST:
                raise Corrupt(f"part {len(parts)} of the run {run} is missing")
            parts.append(entry.value)
        after = page[-1].key
    if not parts:
        raise Corrupt(f"what the run {run} does is not in the store")
    data = b"".join(parts)
    found = _digest(data)
    if digest not in ("", found):
        raise Corrupt(f"what the run {run} does was changed in the store after the run was made")
    return replace(decode_bound(data), digest=found)
