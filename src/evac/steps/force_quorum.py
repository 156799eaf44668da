"""Force quorum: people force a new cluster of a store from the surviving minority.

Writes acknowledged by the lost majority may be missing there, so it is planned only if someone waives the
store's data by name. People do it after proving that the lost members cannot return by themselves: a run asks
for an attestation.
"""

from __future__ import annotations

from evac.steps.kind import Entry
from evac.steps.promote import Promote


class ForceQuorum(Promote):
    name = "force-quorum"
    planned_as = "promote"
    title = "force a new cluster from the surviving members"
    work = "force new clusters"
    sentence = "force a new cluster for {target}{where}"
    entry = Entry("forced", "a new cluster was forced for {target}{where}", "main")
    precheck = "the lost members are fenced and cannot rejoin on their own"
    gate = "the new cluster accepts writes"
    undo = "none: the lost members have to join the new cluster"
    takes_people = True
    performed_by = None

    def approval(self, target: str, loss: str | None) -> str:
        most = "an unknown part of its newest writes" if loss is None else "its newest writes"
        most += f", up to {loss}" if loss else ""
        return f"forcing a new cluster for {target} from a minority may lose {most}"
