"""Backup: makes a fresh copy of a store before a planned move changes it.

A person takes it, with evac or the store's own tool, and attests it: the move then demotes the only primary,
and nothing proves that its last backup is good.
"""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.steps.kind import Entry, Place, StepKind


class Backup(StepKind):
    name = "backup"
    planned_as = "attest"
    target = "store"
    title = "take a fresh backup of the store, and check it"
    work = "take fresh backups"
    sentence = "take a fresh backup of {target}"
    entry = Entry("backed-up", "a fresh backup of {target} was taken", "main")
    precheck = "its repository has space and is not at a site that is being evacuated"
    gate = "the backup began after the run was created, and its check passed"
    undo = "nothing to undo: the backup stays in its repository"

    def ticks(self, instance: Instance, at: Place) -> int | None:
        return instance.stores[at.store].backup

    def uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """No shared limits."""
        return ()
