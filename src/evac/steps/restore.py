"""Restore: a store is restored from a backup, whose copy becomes the primary.

The backup's driver does it if its endpoint names a place; otherwise a run asks a person to restore the backup
and attest it.
"""

from __future__ import annotations

from evac.model.plan import Step
from evac.model.situation import Draft
from evac.model.units import moment_words
from evac.steps.kind import Capability, Entry
from evac.steps.promote import Promote


class Restore(Promote):
    name = "restore"
    planned_as = "promote"
    title = "restore the store from its backup"
    work = "restore stores from backups"
    sentence = "restore {target}{where} from its backup"
    entry = Entry("restored", "{target} was restored from its backup{where} and accepts writes", "main")
    precheck = "the old primary is fenced; the backup is readable; the target is empty"
    planner_code = -1
    bound_code = -1
    performed_by = Capability.RESTORES_DATA
    restores = True
    doing = "restoring"

    def approval_to(self, target: str, moment_s: int) -> str:
        """What a person must approve first if the store is restored to a requested point in time."""
        return f"{self.doing} {target} to {moment_words(moment_s)} loses everything written after it"

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        """Its candidate is the place of a backup, which is no member's place."""
