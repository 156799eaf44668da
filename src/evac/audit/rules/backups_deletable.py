"""EV143: the credentials of the source can delete every backup."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, data_paths
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Warning if too few copies are safe from the source, note if that is unknown."""
    for verdict in context.data:
        digit = next((one for one in verdict.digits if one.name == "undeletable"), None)
        if digit is None or digit.state == "met" or not verdict.copies:
            continue
        severity: Severity = "warning" if digit.state == "missed" else "note"
        if digit.state == "unknown":
            words = f"it is unknown which backups of {verdict.data_set} its own credentials can delete"
        elif digit.known == 0:
            words = f"the credentials of {verdict.data_set} can delete every backup of it"
        else:
            counts = f"{digit.known} of {digit.asked}"
            words = f"{counts} backups of {verdict.data_set} are safe from its own credentials"
        found = [f"{one.name}: {one.deletable_why}" for one in verdict.copies if one.deletable_why]
        words = "; ".join([words, *found])
        yield RULE.finding(
            context,
            severity,
            verdict.data_set,
            words,
            "Use an append-only server, or object lock in compliance mode, with its own account.",
            paths=data_paths(verdict),
        )


RULE = Rule(
    "backups-deletable", "EV143", "The source can delete its backups", check, per_loss=False, alerts=True
)
