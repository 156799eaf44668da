"""EV134: automatic deletion of old data would run before anyone has checked a restored site."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.model.fleet import ON_SERVER


def check(context: Context) -> Iterator[Finding]:
    """Warning if its servers power on by themselves, or automation that cannot be paused starts it."""
    estate = context.estate
    rises = np.array([c.power_on in ("on", "last") for c in estate.classes] + [False], np.bool_)
    purging = np.array([s.purges for s in estate.services], np.bool_)
    here = np.flatnonzero(purging[estate.replicas.service] & (estate.replicas.kind == ON_SERVER))
    service, server = estate.replicas.service[here], estate.replicas.target[here]
    alone = np.zeros(len(estate.services), np.bool_)
    alone[service[rises[estate.fleet.server_class[server]]]] = True
    for row, entry in enumerate(estate.services):
        if not entry.purges:
            continue
        robots = [
            robot.id
            for robot in estate.automations
            if entry.id in robot.manages and robot.can_be_paused is not True and "stop" in robot.undoes
        ]
        why = ["its servers power on by themselves when power returns"] if alone[row] else []
        why += [f"{listed(robots)} would start it again, and cannot be paused"] if robots else []
        if why:
            yield RULE.finding(
                context,
                "warning",
                entry.id,
                f"{entry.id} deletes old data automatically, and {' and '.join(why)}",
                "Let it start only on a person's approval: after a restore, old data may be all there is.",
                paths=(f"services/{entry.id}/purges", f"services/{entry.id}"),
            )


RULE = Rule(
    "purges-by-itself",
    "EV134",
    "A purge would run by itself after a restore",
    check,
    per_loss=False,
)
