"""What the leader wrote of the situation: roles, replicas, what is lost, which runs moved something. Every
controller, command and war room reads it, so all reason from the same facts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.engine.runs.effects import EFFECTS, moved_from
from evac.engine.runs.effects import decode as moved_in
from evac.model.backup import ListedBackup
from evac.model.errors import Corrupt
from evac.model.observation import MemberSeen, Observation, TrafficSeen, UnitsSeen
from evac.model.situation import Effects, LostNow, Moved, Rivals, Silent, recorded
from evac.store.port import Store

KEY: Final = "observed"
_MOST: Final = 10_000


def encode(observation: Observation, digest: str, changes: Mapping[str, int]) -> bytes:
    """Encode an observation. digest: of the current estate, so that readers without files know which plans
    fit. changes: store -> epoch changes known before the observation. What runs moved is stored by run and
    only named here.
    """
    rows = [[m.store, m.site, m.role, *([] if m.lag_ms is None else [m.lag_ms])] for m in observation.members]
    told: dict[str, Any] = {
        "at_ms": observation.at_ms,
        "estate": digest,
        "members": rows,
        "changes": dict(changes),
    }
    if observation.units:
        told["units"] = [[one.service, one.site, one.replicas, one.driver] for one in observation.units]
    if observation.traffic:
        told["traffic"] = [[one.service, one.sites, one.driver] for one in observation.traffic]
    if observation.effects is not None:
        told["lost"] = [[o.domain, o.state, o.since_ms, o.run] for o in observation.effects.lost]
        told["runs"] = [one.run for one in observation.effects.moved]
    if observation.rivals:
        told["rivals"] = [[o.store, o.sites, o.since_ms, o.unheard] for o in observation.rivals]
    if observation.silent:
        told["silent"] = [asdict(one) for one in observation.silent]
    backups = {"restores": observation.restores, "repositories": observation.repositories}
    told |= {key: rows for key, rows in backups.items() if rows}
    if observation.listed:
        told["listed"] = [asdict(one) for one in observation.listed]
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)


def changes_in(value: bytes) -> dict[str, int] | None:
    """Epochs known to the observation; None if not recorded. Raises Corrupt."""
    try:
        found = orjson.loads(value).get("changes")
        return None if found is None else {str(name): int(count) for name, count in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise Corrupt("the recorded observation cannot be read from the store") from error


def digest_in(value: bytes) -> str:
    """Digest of the observed estate; "" if none was written. Raises Corrupt."""
    try:
        return str(orjson.loads(value).get("estate", ""))
    except (ValueError, AttributeError) as error:
        raise Corrupt("the recorded observation cannot be read from the store") from error


def _rivals_in(store: str, sites: list[str], since_ms: int, unheard: Collection[str] = ()) -> Rivals:
    return Rivals(store, tuple(sites), since_ms, tuple(unheard))


def decode(value: bytes, moved: Mapping[str, Moved] = MappingProxyType({})) -> Observation:
    """Decode an observation. moved: what each named run left behind. Raises Corrupt if it is not one."""
    try:
        found: Mapping[str, Any] = orjson.loads(value)
        rows = found["members"][:_MOST]
        effects = None
        if "runs" in found:
            lost = tuple(LostNow(*row) for row in found.get("lost", ()))
            effects = recorded(Effects(lost, tuple(moved[run] for run in found["runs"] if run in moved)))
        return Observation(
            int(found["at_ms"]),
            tuple(MemberSeen(*row) for row in rows),
            _units_in(found),
            _traffic_in(found),
            rivals=tuple(_rivals_in(*one) for one in found.get("rivals", ())),
            silent=tuple(Silent(**one) for one in found.get("silent", ())),
            effects=effects,
            restores=_rows_in(found, "restores", int),
            repositories=_rows_in(found, "repositories", str),
            listed=_listed_in(found),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt("the recorded observation cannot be read from the store") from error


def _units_in(found: Mapping[str, Any]) -> tuple[UnitsSeen, ...]:
    """Leaders of older versions write none. Raises TypeError and ValueError if invalid."""
    rows, at_ms = found.get("units", ())[:_MOST], int(found["at_ms"])
    return tuple(
        UnitsSeen(str(service), str(site), int(count), str(driver), at_ms)
        for service, site, count, driver in rows
    )


def _traffic_in(found: Mapping[str, Any]) -> tuple[TrafficSeen, ...]:
    """The same, of where users are sent."""
    rows, at_ms = found.get("traffic", ())[:_MOST], int(found["at_ms"])
    return tuple(
        TrafficSeen(str(service), tuple(map(str, sites)), str(driver), at_ms)
        for service, sites, driver in rows
    )


def _rows_in(found: Mapping[str, Any], key: str, kind: type) -> tuple[tuple[str, str, Any], ...]:
    """Rows of backups. Raises TypeError and ValueError if invalid. Leaders of older versions write none."""
    rows = found.get(key, ())[:_MOST]
    return tuple((str(data_set), str(copy), kind(value)) for data_set, copy, value in rows)


def _listed_in(found: Mapping[str, Any]) -> tuple[ListedBackup, ...]:
    """The same, of backups as listed."""
    return tuple(
        ListedBackup(
            str(one["data_set"]),
            str(one["copy"]),
            int(one["at_ms"]),
            None if one["taken_at_ms"] is None else int(one["taken_at_ms"]),
            bool(one["unusable"]),
        )
        for one in found.get("listed", ())[:_MOST]
    )


class Published:
    """What the leader wrote of the situation, for readers of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._moved: dict[str, Moved] = {}

    async def read(self, value: bytes) -> Observation:
        """Parse the value of `KEY`. Raises Corrupt, Unavailable."""
        try:
            runs = [str(run) for run in orjson.loads(value).get("runs", ())]
        except (ValueError, AttributeError, TypeError) as error:
            raise Corrupt("the recorded observation cannot be read from the store") from error
        for run in runs:
            if run not in self._moved and (entry := await self._store.get(EFFECTS + run)) is not None:
                self._moved[run] = moved_in(entry.value)
        return decode(value, self._moved)

    async def get(self) -> Observation | None:
        """Read the observation; None if no leader has written any. Raises Corrupt, Unavailable."""
        entry = await self._store.get(KEY)
        return None if entry is None else await self.read(entry.value)


def facts_from(found: Mapping[str, Any]) -> Observation:
    """An observation from its fields, as the API shows it. Servers of newer versions may state more of a
    member. Raises Corrupt if invalid.
    """
    try:
        effects, kept = found.get("effects"), None
        if effects is not None:
            lost = tuple(LostNow(**one) for one in effects["lost"])
            kept = recorded(Effects(lost, tuple(moved_from(one) for one in effects["moved"])))
        lists = ("waits_for", "confirms")  # servers of older versions do not state the second
        members = (
            {**m, **{name: tuple(m.get(name, ())) for name in lists}, "error": None} for m in found["members"]
        )
        known = {one.name for one in fields(MemberSeen)}
        return Observation(
            int(found["at_ms"]),
            tuple(MemberSeen(**{k: v for k, v in one.items() if k in known}) for one in members),
            tuple(UnitsSeen(**one) for one in found["units"]),
            tuple(TrafficSeen(**{**one, "sites": tuple(one["sites"])}) for one in found["traffic"]),
            tuple(_rivals_in(**one) for one in found["rivals"]),
            kept,
            restores=_rows_in(found, "restores", int),
            repositories=_rows_in(found, "repositories", str),
            listed=_listed_in(found),
            silent=tuple(Silent(**one) for one in found.get("silent", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt("cannot read the situation that the server reports") from error
