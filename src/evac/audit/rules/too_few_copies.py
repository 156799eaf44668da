"""EV144: fewer copies, systems or places than the backup policy requires."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import Context, Rule, data_paths
from evac.audit.findings import Finding

_WORDS: Final = {"copies": "copies", "systems": "systems", "outside": "backups outside the domain"}


def check(context: Context) -> Iterator[Finding]:
    """Warning if the policy is missed whatever is unknown, note if it depends on that."""
    for verdict in context.data:
        short = [one for one in verdict.digits if one.name in _WORDS and one.state != "met"]
        if not short:
            continue
        missed = any(one.state == "missed" for one in short)
        words = ", ".join(
            f"{one.known} of {one.asked} {_WORDS[one.name]}"
            + (f" ({one.possible - one.known} unknown)" if one.possible > one.known else "")
            for one in short
        )
        yield RULE.finding(
            context,
            "warning" if missed else "note",
            verdict.data_set,
            f"{verdict.data_set} misses its backup policy: {words}"
            if missed
            else f"it is unknown whether {verdict.data_set} meets its backup policy: {words}",
            "Add a backup on another system at another site, or state the unknown "
            "facts of the existing ones.",
            paths=data_paths(verdict),
        )


RULE = Rule("too-few-copies", "EV144", "Fewer copies than the policy requires", check, per_loss=False)
