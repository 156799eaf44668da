"""EV131: something a dark site needs before its first server boots exists only there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity
from evac.model.step_id import DARK_ROLES
from evac.steps.registry import PLANNED

NEEDED: Final = tuple(sorted({*PLANNED["boot"].tools, *DARK_ROLES, "dns-control", "secrets"}))
"""Network, time, addresses, names, images, secrets and licences: roles a cold start begins with."""


def check(context: Context) -> Iterator[Finding]:
    """Error if people have no way to boot without it; else a warning: the first boots are manual."""
    impacts = context.impacts
    index = impacts.graph.index
    by_hand = "boot" in context.estate.limits.manual_ms
    for site in context.estate.sites:
        number = impacts.losses.index.get(site.id)
        if number is None or site.role != "full":
            continue
        gone = {
            role: [
                group
                for group in context.estate.tool_groups((role,))
                if all(impacts.down[number, index[name]] for name in group)
            ]
            for role in sorted(context.estate.tools)
            if role in NEEDED
        }
        missing = {role: groups[0] for role, groups in gone.items() if groups}
        if not missing:
            continue
        boots = [role for role in missing if role in PLANNED["boot"].tools]
        severity: Severity = "error" if boots and not by_hand else "warning"
        what = listed([f"{' or '.join(names)} ({role})" for role, names in missing.items()], 6)
        then = (
            "on-site staff must first boot the servers they run on" if by_hand else "nothing there can boot"
        )
        first = next(iter(missing))
        yield RULE.finding(
            context,
            severity,
            site.id,
            f"a cold start of {site.id} needs {what}, which is down with it: {then}",
            "Give each of them an instance that serves without this site, or a "
            "procedure that does not need it.",
            losses=[number],
            paths=(f"tools/{first}", f"services/{missing[first][0]}"),
        )


RULE = Rule(
    "dark-site-alone",
    "EV131",
    "A cold start needs something that runs only at the dark site",
    check,
)
