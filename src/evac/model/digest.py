"""Canonical JSON, and the digest of an estate: over values, not over the bytes of the files that said them.

Canonical JSON is RFC 8785, the subset without floating point: keys sorted by UTF-16 code units, no white
space, shortest escapes. Plans and estates hold integers, strings, booleans, nulls, lists and objects only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date
from fractions import Fraction
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import orjson

from evac.model.backup_policy import BackupPolicy
from evac.model.errors import InvalidInput
from evac.model.estate import (
    Backup,
    BootServer,
    DataSet,
    Dependency,
    Endpoint,
    Estate,
    Feed,
    Hall,
    Limits,
    Service,
    Site,
    Store,
    StoreMember,
)
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, np
from evac.model.units import QUANTITY_LIMIT

_FEW_KEYS: Final = 64
_PLAIN: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_LEFT_OUT = frozenset({"fleet", "replicas", "places", "facts", "as_of", "intervals", "waits_for_people"})
_NOW = frozenset({"lost", "home", "traffic", "surplus", "unsure", "sent_away", "as_routed"})
"""Fields that only an estate as it is now has."""
_LATER = frozenset({"bmc_address", "serial", "position"})
"""Columns that estates of older versions do not have; they count if any value is known."""


_WORKED_OUT: Final[WeakKeyDictionary[Estate, str]] = WeakKeyDictionary()
"""Digests of estates in memory. Estates never change: an estate with another fact is another object."""


def canonical_json(value: Any, *, exact: bool = False) -> bytes:
    """UTF-8 bytes of the canonical form.

    exact: write integers beyond 2**53 in full. RFC 8785 knows no such numbers, so a reader must keep
    integers exact (Python, Go, Rust and jq 1.7 do). Raises InvalidInput for a float, a key that is
    not a string, or, unless `exact`, an integer beyond 2**53.
    """
    limit = None if exact else QUANTITY_LIMIT
    return written(ordered(value, limit))


def written(value: Any) -> bytes:
    """The bytes of plain lists and objects whose keys are already in canonical order and that contain no
    floats.
    """
    try:
        return orjson.dumps(value, option=_PLAIN)
    except orjson.JSONEncodeError:  # integers beyond 64 bits, which `exact` allows
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def fields_in_order(record: type[Any]) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """Field names of a dataclass in canonical order, and a getter for all of them."""
    names = tuple(sorted((f.name for f in fields(record)), key=_utf16))
    if len(names) > 1:
        return names, attrgetter(*names)
    return names, lambda value: tuple(getattr(value, name) for name in names)


def digest(value: Any) -> str:
    """`sha256:` and the hexadecimal digest of the canonical form."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def ordered(value: Any, limit: int | None = QUANTITY_LIMIT) -> Any:
    """Plain lists and objects with keys in canonical order. Raises as `canonical_json`. `limit`: largest
    integer.
    """
    # By exact type first: a plan has hundreds of thousands of values, nearly all of these five.
    kind = type(value)
    if kind is str:
        return value
    if kind is dict:
        return {key: ordered(value[key], limit) for key in keys_in_order(tuple(value))}
    if kind is list or kind is tuple:
        return [ordered(item, limit) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if limit is not None and abs(value) > limit:
            raise InvalidInput(
                "canonical-integer", f"integer {value} is beyond 2**53", "write it as a string"
            )
        return value
    if isinstance(value, Mapping):
        return {key: ordered(value[key], limit) for key in keys_in_order(tuple(value))}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [ordered(item, limit) for item in value]
    raise InvalidInput("canonical-type", f"{type(value).__name__} has no canonical form")


def keys_in_order(keys: tuple[Any, ...]) -> Sequence[str]:
    """Keys sorted by UTF-16 code units. Raises InvalidInput for a key that is not a string."""
    return _known_order(keys) if len(keys) <= _FEW_KEYS else sorted(keys, key=_utf16)


@lru_cache(maxsize=1024)
def _known_order(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Cached, because records of one kind have the same keys."""
    return tuple(sorted(keys, key=_utf16))


def _utf16(key: object) -> bytes:
    if not isinstance(key, str):
        raise InvalidInput("canonical-key", f"key {key!r} is not a string")
    return key.encode("utf-16-be")


def estate_digest(estate: Estate) -> str:
    """`sha256:...` over the canonical JSON of all values and the raw columns of both tables.

    Provenance and places are left out; a fact that expired is unknown, so it does count. Worked out once
    for each estate in memory. Raises InvalidInput for an integer beyond 2**53.
    """
    found = _WORKED_OUT.get(estate)
    if found is None:
        found = _WORKED_OUT[estate] = _digest(estate)
    return found


def _digest(estate: Estate) -> str:
    apart = _LEFT_OUT | _NOW
    summary = {f.name: _plain(getattr(estate, f.name)) for f in fields(estate) if f.name not in apart}
    at_home = estate.home is None or estate.replicas.same(estate.home)
    sent = _sent_elsewhere(estate) if estate.home is not None and at_home else estate.traffic
    if estate.lost or sent:
        summary["now"] = [list(estate.lost), _plain(sent)]
    if estate.surplus:
        summary["surplus"] = list(estate.surplus)
    if estate.unsure:
        summary["unsure"] = list(estate.unsure)
    if meant := [service for service in estate.as_routed if service in sent]:
        summary["as_routed"] = meant  # a way home lets a site in again only if a run took it out
    if estate.sent_away:
        summary["sent_away"] = list(estate.sent_away)
    summary["stores"] = [_store(store) for store in estate.stores]
    for section in ("data_sets", "providers"):
        if not summary[section]:
            del summary[section]
    if estate.intervals:
        summary["intervals"] = _plain(estate.intervals)
    state = hashlib.sha256(written({name: summary[name] for name in keys_in_order(tuple(summary))}))
    away = () if at_home or estate.home is None else (estate.home,)
    for table in (estate.fleet, estate.replicas, *away):
        for column in fields(table):
            values = getattr(table, column.name)
            if column.name not in _LATER or values.any():
                data = np.ascontiguousarray(values)
                state.update(f"{column.name}:{data.dtype.str}:{data.shape}".encode())
                state.update(data.tobytes())
    return "sha256:" + state.hexdigest()


def _sent_elsewhere(estate: Estate) -> dict[str, tuple[str, ...]]:
    """Of services at home, those whose users are not sent to all sites that have their replicas: what came
    home is what the files say, whatever moved it once.
    """
    fleet, r = estate.fleet, estate.replicas
    site_of: dict[int, Callable[[int], str]] = {
        ON_SERVER: lambda row: estate.sites[fleet.site[row]].id,
        ON_POOL: lambda row: estate.pools[row].site,
        AT_SITE: lambda row: estate.sites[row].id,
    }
    found = {}
    for row, service in enumerate(estate.services):
        if service.id in estate.traffic:
            mine = range(*np.searchsorted(r.service, (row, row + 1)).tolist())
            runs = {site_of[int(r.kind[i])](int(r.target[i])) for i in mine}
            if runs != set(estate.traffic[service.id]):
                found[service.id] = estate.traffic[service.id]
    return found


def _store(store: Store) -> dict[str, Any]:
    """Where its home is counts once the primary is elsewhere; seen as the files say, it is as they say."""
    told: dict[str, Any] = _plain(store)
    if not store.home or (store.primary is not None and store.primary.at == store.home):
        del told["home"]
    return told


_LATER_FIELDS: Final = MappingProxyType(
    {
        Backup: frozenset(
            {
                "copied_from",
                "credentials_changed",
                "deletable",
                "endpoint",
                "proven",
                "repository",
                "restore_ms",
                "schedule",
                "system",
                "unusable",
            }
        ),
        BackupPolicy: frozenset({"keep_count", "proof_ages", "request"}),
        BootServer: frozenset({"boots"}),
        DataSet: frozenset({"data_in"}),
        Dependency: frozenset({"any_of"}),
        Endpoint: frozenset({"hall"}),
        Feed: frozenset({"close_ms"}),
        Hall: frozenset({"bmc_requests_at_once", "cooling_watts", "network_up_ms"}),
        Limits: frozenset({"backups_at_once", "power_margin_permille"}),
        Service: frozenset(
            {
                "data_in",
                "external",
                "movable",
                "objectives",
                "owner_phone",
                "provider",
                "public_name",
                "purges",
            }
        ),
        Site: frozenset({"phone", "region"}),
        Store: frozenset(
            {
                "backup_before_move",
                "backup_policy",
                "backup_time_ms",
                "data_in",
                "objectives",
                "rebuild_ms",
                "rebuilt_from",
                "sync_timeout_ms",
            }
        ),
        StoreMember: frozenset({"detached", "left"}),
    }
)
"""Facts that estates of older versions do not have; they count if they are not empty."""
_NOTHING_IS_KNOWN: Final = frozenset({"deletable", "sync_timeout_ms"})
"""Of these, false and zero count as well."""

_AS_THEY_ARE: Final = frozenset({str, bool, type(None)})


@lru_cache(maxsize=256)
def _record(
    kind: Hashable,
) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]], frozenset[str]] | None:
    """Field names of a dataclass, their getter, and the fields that were added later."""
    if not isinstance(kind, type) or not is_dataclass(kind):
        return None
    return (*fields_in_order(kind), _LATER_FIELDS.get(kind, frozenset()))


def _plain(value: Any) -> Any:
    """Lists and objects with keys in canonical order."""
    kind = type(value)
    if kind in _AS_THEY_ARE or (kind is int and -QUANTITY_LIMIT <= value <= QUANTITY_LIMIT):
        return value
    if kind is tuple:
        return list(value) if _AS_THEY_ARE.issuperset(map(type, value)) else [_plain(item) for item in value]
    record = _record(cast("Hashable", kind))
    if record is not None:
        names, values, later = record
        return {
            name: item if type(item) in _AS_THEY_ARE else _plain(item)
            for name, item in zip(names, values(value), strict=True)
            if item or name not in later or (item is not None and name in _NOTHING_IS_KNOWN)
        }
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in keys_in_order(tuple(value))}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Fraction):
        return [ordered(value.numerator), ordered(value.denominator)]
    return value.isoformat() if isinstance(value, date) else ordered(value)
