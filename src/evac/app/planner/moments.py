"""Restore points of lost stores, as users write them: `orders=2026-11-25T02:55:00Z`.

The name of a recovery group means all of its stores, which return to the same moment or to none.
"""

from __future__ import annotations

from evac.derive.affected import stores_lost
from evac.derive.domains import loss, topology
from evac.estate.format.quantities import QuantityError, parse_moment
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.scenario import Scenario

_CODE = "plan-moment"


def moments_of(estate: Estate, stated: tuple[str, ...], now_s: int) -> tuple[tuple[str, int], ...]:
    """(store, seconds since 1970), sorted. Raises InvalidInput for an unknown store, an invalid or future
    moment, and for a store of a recovery group whose others return to a different moment.
    """
    stores = {store.id for store in estate.stores}
    groups = {group.id: group.stores for group in estate.recovery_groups}
    found: dict[str, int] = {}
    for entry in stated:
        name, _, words = entry.partition("=")
        if name not in stores and name not in groups:
            hint = "see stores: and recovery_groups: in the estate"
            raise InvalidInput(_CODE, f"no such store or recovery group: {name[:200]!r}", hint)
        try:
            moment_s = parse_moment(words.strip()) // 1_000
        except QuantityError as error:
            raise InvalidInput(_CODE, f"{name}: {error}", error.hint) from error
        if moment_s > now_s:
            hint = "check the time zone, or omit the moment to use the newest backup"
            raise InvalidInput(_CODE, f"{name}: {words.strip()} is in the future", hint)
        for store in groups.get(name, (name,)):
            if found.setdefault(store, moment_s) != moment_s:
                raise InvalidInput(_CODE, f"{store} is given two moments", "keep one of the two")
    _refuse_apart(estate, found)
    return tuple(sorted(found.items()))


def _refuse_apart(estate: Estate, found: dict[str, int]) -> None:
    for group in estate.recovery_groups:
        moments = [found[store] for store in group.stores if store in found]
        if not moments:
            continue
        apart_ms = (max(moments) - min(moments)) * 1_000
        if len(moments) < len(group.stores) or apart_ms > group.tolerance_ms:
            words = (
                f"{', '.join(group.stores)} must be restored to the same point in time: they "
                f"form recovery group {group.id}"
            )
            raise InvalidInput("plan-group", words, f"use the group: --moment {group.id}=MOMENT")


def refuse_unlost(estate: Estate, scenario: Scenario, instance: Instance) -> None:
    """Raise InvalidInput if a store to restore keeps or elects a primary, or has no backup left."""
    lost = {store.id: store for store in instance.stores}
    elects = {store.id for store in estate.stores if store.quorum}
    top = topology(estate)
    gone = loss(top, scenario.domains)
    keeps = {
        one.id for one, is_gone in zip(estate.stores, stores_lost(top, gone), strict=True) if not is_gone
    }
    for name, _ in scenario.moments:
        if name not in lost or name in keeps:
            words = f"{name} keeps its primary in the {scenario.title}, so nothing is restored"
            hint = "list every domain that must be lost with it, or omit the moment"
            raise InvalidInput(_CODE, words, hint)
        if name in elects and lost[name].has_majority:
            words = (
                f"the members of {name} keep a majority and elect a primary; a restored "
                "one would be a second primary"
            )
            raise InvalidInput(_CODE, words, "omit the moment, or stop the members and plan their loss")
        if not lost[name].candidates:
            words = f"no backup of {name} is left after the {scenario.title}, or its size or rate is unknown"
            raise InvalidInput(_CODE, words, "see `backups` of the store: at, size, restore")
