"""The digest of an estate: over values, not over the bytes of the files that said them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import numpy as np

from evac.model.canonical import fields_in_order, keys_in_order, ordered, written
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
from evac.model.units import QUANTITY_LIMIT

_LEFT_OUT = frozenset({"fleet", "replicas", "places", "facts", "as_of", "intervals", "waits_for_people"})
_NOW = frozenset({"lost", "home", "traffic"})
"""What only an estate as it is now has."""
_LATER = frozenset({"bmc_address", "serial", "position"})
"""Columns that estates of older versions do not have: they count where anything is known."""


_WORKED_OUT: Final[WeakKeyDictionary[Estate, str]] = WeakKeyDictionary()
"""Digests of estates in memory, which nobody changes: an estate with another fact is another object."""


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
    if estate.lost or estate.traffic:
        summary["now"] = [list(estate.lost), _plain(estate.traffic)]
    summary["stores"] = [_store(store) for store in estate.stores]
    for section in ("data_sets", "providers"):
        if not summary[section]:
            del summary[section]
    if estate.intervals:
        summary["intervals"] = _plain(estate.intervals)
    state = hashlib.sha256(written({name: summary[name] for name in keys_in_order(tuple(summary))}))
    tables = (
        (estate.fleet, estate.replicas)
        if estate.home is None
        else (estate.fleet, estate.replicas, estate.home)
    )
    for table in tables:
        for column in fields(table):
            values = getattr(table, column.name)
            if column.name not in _LATER or values.any():
                data = np.ascontiguousarray(values)
                state.update(f"{column.name}:{data.dtype.str}:{data.shape}".encode())
                state.update(data.tobytes())
    return "sha256:" + state.hexdigest()


def _store(store: Store) -> dict[str, Any]:
    """Where its home is counts once the primary is elsewhere; seen as the files say, it is as they say."""
    told: dict[str, Any] = _plain(store)
    if not store.home or (store.primary is not None and store.primary.at == store.home):
        del told["home"]
    return told


_LATER_FIELDS: Final = MappingProxyType(
    {
        Backup: frozenset(
            {"copied_from", "deletable", "endpoint", "proven", "restore_ms", "schedule", "system"}
        ),
        BootServer: frozenset({"boots"}),
        DataSet: frozenset({"data_in"}),
        Dependency: frozenset({"any_of"}),
        Endpoint: frozenset({"hall"}),
        Feed: frozenset({"close_ms"}),
        Hall: frozenset({"bmc_requests_at_once", "cooling_watts", "network_up_ms"}),
        Limits: frozenset({"backups_at_once", "power_margin_permille"}),
        Service: frozenset({"data_in", "external", "objectives", "provider", "public_name", "purges"}),
        Site: frozenset({"region"}),
        Store: frozenset(
            {"backup_policy", "data_in", "objectives", "rebuild_ms", "rebuilt_from", "sync_timeout_ms"}
        ),
        StoreMember: frozenset({"detached", "left"}),
    }
)
"""Facts that estates of older versions do not have: they count where they are more than nothing."""
_NOTHING_IS_KNOWN: Final = frozenset({"deletable", "sync_timeout_ms"})
"""Of these, false and zero are more than nothing."""

_AS_THEY_ARE: Final = frozenset({str, bool, type(None)})


@lru_cache(maxsize=256)
def _record(
    kind: Hashable,
) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]], frozenset[str]] | None:
    """Names of the fields of a dataclass, what reads them, and which of them came later."""
    if not isinstance(kind, type) or not is_dataclass(kind):
        return None
    return (*fields_in_order(kind), _LATER_FIELDS.get(kind, frozenset()))


def _plain(value: Any) -> Any:
    """Lists and objects with their keys in canonical order."""
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
