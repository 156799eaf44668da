"""Load: a person confirms that budgets can carry servers. evac cannot tell, because their load is not fully
known. A run adds one for each site; what would draw from these budgets waits for it. It gives no power.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from evac.steps.kind import Entry, StepKind

BUDGETS_MOST: Final = 20
"""How many budgets an approval names."""


class Load(StepKind):
    name = "load"
    is_planned = False
    target = "site"
    title = "approve an unknown load"
    work = "approve unknown loads"
    sentence = "approve the load of {target}"
    entry = Entry("approved", "the load of {target} was approved", "detail")

    def approval_of(self, budgets: Sequence[tuple[str, int]]) -> str:
        """What a person must approve first. budgets: those whose load is not fully known, at least one, each
        with the number of servers that may draw from it in addition.
        """
        counts = [f"{count:,} more server{'' if count == 1 else 's'}" for _, count in budgets]
        if len(budgets) == 1:
            return f"what {budgets[0][0]} can still carry is unknown: check that it can carry {counts[0]}"
        named = [f"{more} on {name}" for (name, _), more in zip(budgets, counts, strict=True)][:BUDGETS_MOST]
        rest = len(budgets) - len(named)
        named += [f"and the servers behind {rest:,} more"] if rest else []
        return (
            f"what {len(budgets):,} power budgets can still carry is unknown:"
            f" check that they can carry {', '.join(named)}"
        )
