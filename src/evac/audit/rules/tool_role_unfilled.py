"""EV104: a role needed for recovery has no stated service."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule
from evac.audit.findings import Finding
from evac.model.step_id import DARK_ROLES, TOOL_ROLES


def check(context: Context) -> Iterator[Finding]:
    """Warning: whether that tool survives is unknown, so no verdict on recovery is certain."""
    missing = [role for role in TOOL_ROLES if role not in DARK_ROLES and not context.estate.tools.get(role)]
    if missing:
        yield RULE.finding(
            context,
            "warning",
            "tools",
            f"no service is listed for {', '.join(missing)}: it is unknown whether "
            "recovery would still have it",
            "List the service that fills each role under `tools:`, including evac.",
            paths=("tools", ""),
        )


RULE = Rule(
    "tool-role-unfilled",
    "EV104",
    "No service fills a role that recovery needs",
    check,
    per_loss=False,
)
