"""Steps that are longer than the horizon, cut to one tick more than it: they never end within it either way.

Keeps what planner, bound and checker lay out by ticks in proportion to the horizon, whatever an
estate says of durations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from evac.model.instance import Candidate, Instance, LostStore, Services, ToolNeed, Use

_DURATIONS: Final = ("start", "verify", "change", "settle", "shed")


def cut_to_horizon(instance: Instance) -> Instance:
    """The same instance with every duration, hold and offset at most one tick above the horizon."""
    most = instance.horizon + 1
    return replace(
        instance,
        services=_services(instance.services, most),
        pools=tuple(
            replace(p, start_uses=_uses(p.start_uses, most), shed_uses=_uses(p.shed_uses, most))
            for p in instance.pools
        ),
        boot_kinds=tuple(
            replace(k, duration=min(k.duration, most), uses=_uses(k.uses, most)) for k in instance.boot_kinds
        ),
        stores=tuple(_store(store, most) for store in instance.stores),
        tools=_tools(instance.tools, most),
    )


def _services(services: Services, most: int) -> Services:
    columns = {name: np.minimum(getattr(services, name), most) for name in _DURATIONS}
    return replace(services, **columns, shift_uses=tuple(_uses(u, most) for u in services.shift_uses))


def _store(store: LostStore, most: int) -> LostStore:
    found = tuple(_candidate(candidate, most) for candidate in store.candidates)
    return replace(store, fence=min(store.fence, most), candidates=found)


def _candidate(candidate: Candidate, most: int) -> Candidate:
    return replace(candidate, duration=min(candidate.duration, most), uses=_uses(candidate.uses, most))


def _tools(tools: Mapping[str, ToolNeed], most: int) -> dict[str, ToolNeed]:
    return {
        kind: need if need.manual is None else replace(need, manual=min(need.manual, most))
        for kind, need in tools.items()
    }


def _uses(uses: tuple[Use, ...], most: int) -> tuple[Use, ...]:
    if all(use.hold <= most and use.offset <= most for use in uses):
        return uses
    return tuple(replace(use, hold=min(use.hold, most), offset=min(use.offset, most)) for use in uses)
