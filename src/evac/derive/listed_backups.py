"""Backups of stores as they were listed and checked: these facts decide, before what the files declare.

A listed age is never younger than it is. It is rounded up, so that plans do not go stale every minute: to the
age that the files state while it is within that, as every new backup would make it younger for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from evac.derive.backups import SKEW_MS, open_errors
from evac.derive.domains import Topology
from evac.derive.objectives import rpos
from evac.model.backup import BackupFacts, ListedBackup, ProofRecord, expected_repositories
from evac.model.estate import Backup, Store
from evac.model.objectives import LOSS_CLASSES
from evac.model.observation import Observation
from evac.model.restore_times import measured_restores
from evac.model.units import UNLIMITED

LOOK_MS: Final = 300_000
"""Ages count to the end of a period of this length."""
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_STEPS_MS: Final = (_HOUR_MS // 4, _HOUR_MS, 6 * _HOUR_MS, *(n * _DAY_MS for n in (1, 2, 7, 31, 92, 366)))


def with_backups(seen: Observation, facts: BackupFacts, now_ms: int) -> Observation:
    """The observation with what plans and runs need of backups, as measured, listed and checked."""
    return replace(
        seen,
        restores=measured_restores(facts),
        repositories=expected_repositories(facts),
        listed=tuple(_listed(facts, now_ms)),
    )


def _listed(facts: BackupFacts, now_ms: int) -> Iterable[ListedBackup]:
    """Sorted. The listing of a repository in which nothing has been proven says nothing about the expected
    one.
    """
    at_ms = -(-now_ms // LOOK_MS) * LOOK_MS
    proofs: dict[tuple[str, str], list[ProofRecord]] = {}
    for proof in sorted(facts.proofs, key=lambda one: one.at_ms):
        proofs.setdefault((proof.data_set, proof.copy), []).append(proof)
    damaged = {
        name for name, found in proofs.items() if any(e.outcome == "damaged" for e in open_errors(found))
    }
    for one in sorted(facts.copies, key=lambda one: (one.data_set, one.copy)):
        taken_ms, name = one.taken_at_ms, (one.data_set, one.copy)
        if one.expected:
            yield ListedBackup(*name, at_ms, None, name in damaged)
            continue
        plausible = taken_ms is not None and taken_ms <= now_ms + SKEW_MS
        yield ListedBackup(*name, at_ms, taken_ms if plausible else None, taken_ms is None or name in damaged)


def with_listed(
    store: Store,
    top: Topology,
    measured: Mapping[tuple[str, str], int],
    expected: Mapping[tuple[str, str], str],
    listed: Mapping[tuple[str, str], ListedBackup],
) -> Store:
    """The store with what is known of its backups; the same object if nothing is."""
    if not any(
        (store.id, one.name) in known for one in store.backups for known in (measured, expected, listed)
    ):
        return store
    limits_ms = _limits_ms(store, top)
    backups = tuple(
        _aged(
            replace(
                one,
                restore_ms=measured.get((store.id, one.name), one.restore_ms),
                repository=expected.get((store.id, one.name), one.repository),
            ),
            listed.get((store.id, one.name)),
            limits_ms,
        )
        for one in store.backups
    )
    return store if backups == store.backups else replace(store, backups=backups)


def _aged(backup: Backup, listed: ListedBackup | None, limits_ms: Sequence[int]) -> Backup:
    if listed is None:
        return backup
    if listed.taken_at_ms is None:
        return replace(backup, age_ms=None, unusable=listed.unusable)
    age_ms = max(0, listed.at_ms - listed.taken_at_ms)
    usual_ms, whole = backup.age_ms or 0, -(-age_ms // _DAY_MS) * _DAY_MS
    steps = (*limits_ms, usual_ms, *(step for step in _STEPS_MS if step > usual_ms))
    up_to = min((step for step in steps if step >= age_ms), default=whole)
    return replace(backup, age_ms=up_to, unusable=listed.unusable)


def _limits_ms(store: Store, top: Topology) -> tuple[int, ...]:
    """Limits of data loss: rounding never exceeds one that the age itself does not exceed."""
    numbers = top.once("rows of stores", lambda: {one.id: row for row, one in enumerate(top.estate.stores)})
    limits = [rpos(top, of_class)[numbers[store.id]].limit_ms for of_class in LOSS_CLASSES]
    limits.append(None if store.backup_policy is None else store.backup_policy.rpo_ms)
    return tuple(one for one in limits if one is not None and one < UNLIMITED)
