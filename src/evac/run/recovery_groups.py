"""Recovery groups of a run: stores that must return to one point in time, and the points reached.

Kept in the run's labels, so that a later change of the estate does not change what was requested. A store
recovered to a point in time is at that point, however old its newest write is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import orjson

from evac.model.estate import RecoveryGroup
from evac.model.records import dataclass
from evac.run.view import RunView
from evac.steps.registry import kind_of

LABEL: Final = "group:"
AS_OF: Final = "as_of"
"""Evidence key of a restore: the point in time of its data, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A recovery group after some of it was restored."""

    group: str
    state: Literal["waiting", "together", "apart", "unknown"]
    """waiting: some are not restored yet. unknown: a person restored one, and how far is unknown."""
    moments: Mapping[str, int | None]
    """Store -> seconds since 1970; None if not restored or unknown."""
    apart_ms: int | None
    """Between the earliest and the latest; None until all are known."""
    tolerance_ms: int


def labels_of(groups: Iterable[RecoveryGroup], restored: Collection[str]) -> dict[str, str]:
    """Labels of groups with at least one store that a plan restores."""
    return {
        LABEL + one.id: orjson.dumps([one.tolerance_ms, list(one.stores)]).decode()
        for one in groups
        if not set(one.stores).isdisjoint(restored)
    }


def returned(view: RunView) -> tuple[Returned, ...]:
    """Every group of a run."""
    restores = {step.target: i for i, step in enumerate(view.steps) if kind_of(step.kind).restores}
    done = {store: view.evidence.get(i, {}) for store, i in restores.items() if view.phases[i] == "succeeded"}
    return tuple(_groups(view.spec.labels, restores, done))


def _groups(
    labels: Mapping[str, str], restores: Collection[str], done: Mapping[str, Mapping[str, Any]]
) -> Iterator[Returned]:
    """done: evidence of successful restores."""
    for name, label in sorted(labels.items()):
        if not name.startswith(LABEL):
            continue
        tolerance_ms, stores = orjson.loads(label)
        moments = {store: done.get(store, {}).get(AS_OF) for store in stores}
        known = [at for at in moments.values() if at is not None]
        apart_ms = (max(known) - min(known)) * 1_000 if len(known) == len(stores) else None
        state: Literal["waiting", "together", "apart", "unknown"] = "unknown"
        if not set(stores) <= set(restores):
            state = "apart"  # a store that was not restored is at the present
        elif not set(stores) <= set(done):
            state = "waiting"
        elif apart_ms is not None:
            state = "together" if apart_ms <= tolerance_ms else "apart"
        yield Returned(name.removeprefix(LABEL), state, moments, apart_ms, tolerance_ms)
