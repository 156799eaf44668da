"""Unprotect: a primary continues without the synchronous copies that a loss took.

Until then it holds its commits. Its timeout ends the wait, or a person changes who confirms its commits: in
evac's own run for that store, or at the database.
"""

from __future__ import annotations

from evac.model.estate import NO_TIMEOUT_MS, Store
from evac.steps.elect import Elect
from evac.steps.kind import Entry, PeopleTimes


class Unprotect(Elect):
    name = "unprotect"
    title = "let the primary continue without its lost synchronous replicas"
    work = "release blocked commits"
    sentence = "{target} continues without its synchronous replicas"
    entry = Entry("unprotected", "{target} continues without its synchronous replicas", "main")
    precheck = "its primary answers"
    undo = "let a replica confirm its commits again"
    awaits_commits = True

    def way_ms(self, store: Store, people: PeopleTimes) -> int | None:
        """Its timeout. Without one, a person's time: the change needs an approval of its own, after that of
        the plan. If a policy acts automatically, a person's time is unknown.
        """
        if store.sync_timeout_ms != NO_TIMEOUT_MS:
            return store.sync_timeout_ms
        return people.manual_ms.get(self.name, people.approval_ms)

    def way_fact(self, store: Store) -> str:
        own = store.sync_timeout_ms != NO_TIMEOUT_MS
        return f"stores/{store.id}/sync_timeout" if own else f"limits/manual/{self.name}"
