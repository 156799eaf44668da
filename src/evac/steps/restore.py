"""Restore: a store is restored from a backup, whose copy becomes the primary.

The backup's driver does it if its endpoint names a place; otherwise a run asks a person to restore the backup
and attest it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.model.estate import Backup
from evac.model.objectives import backups_fact
from evac.model.plan import Step
from evac.model.situation import Draft
from evac.model.units import moment_words
from evac.steps.kind import Capability, Entry, Left, Unstated, Way
from evac.steps.promote import Promote

MBIT_PER_GIB: Final = 8_590
"""Megabits in a GiB, rounded up: predicted restore times are never too short."""


class Restore(Promote):
    name = "restore"
    planned_as = "promote"
    title = "restore the store from its backup"
    work = "restore stores from backups"
    sentence = "restore {target}{where} from its backup"
    entry = Entry("restored", "{target} was restored from its backup{where} and accepts writes", "main")
    precheck = "the old primary is fenced; the backup is readable; the target is empty"
    performed_by = Capability.RESTORES_DATA
    restores = True
    doing = "restoring"

    def ways(self, left: Left) -> Iterator[Way | Unstated]:
        """By backups outside the loss with a known size and restore rate, if something is in them."""
        for backup, gone in zip(left.store.backups, left.backups_gone, strict=True):
            if not gone and not backup.unusable:
                yield restoration(backup) or Unstated(backups_fact(left.store.id))

    def approval_to(self, target: str, moment_s: int) -> str:
        """What a person must approve first if the store is restored to a requested point in time."""
        return f"{self.doing} {target} to {moment_words(moment_s)} loses everything written after it"

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        """Its candidate is the place of a backup, which is no member's place."""


def restoration(backup: Backup) -> Way | None:
    """The way through a backup: the duration of its restore test, else from the files; None if its size or
    the restore rate is unknown.
    """
    if backup.restore_ms is not None:
        return Way(Restore.name, backup.at, backup.restore_ms, backup.age_ms)
    if backup.size_gib is None or not backup.restore_mbps:
        return None
    duration = -(-backup.size_gib * MBIT_PER_GIB * 1_000 // backup.restore_mbps)
    return Way(Restore.name, backup.at, duration, backup.age_ms)
