"""A run that the leader has in hand, and what the store says of it until it has ended.

open/<run>    {"incident", "plan", "approvals", "ends", "leaving", "mark", "policy"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from evac.drivers.port import Action
from evac.engine.clock import Clock
from evac.engine.lead import policies
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.step_actions import old_of
from evac.engine.stores.guards import Mark
from evac.model.run_policy import RunPolicy
from evac.run.values import RunSpec
from evac.run.view import RunView
from evac.store.journal import Journal

OPEN: Final = "open/"


@dataclass(slots=True)
class InHand:
    """actions: plan -> its step -> what is done. policy: it was made under. leaving: sites that it leaves;
    mark: what the register says of them meanwhile. clock: since we have it in hand; no jump of the machine's.
    """

    spec: RunSpec
    ends: Mapping[str, Mark]
    actions: dict[str, Mapping[str, tuple[Action, ...]]]
    policy: RunPolicy
    leaving: tuple[str, ...] = ()
    mark: Mark = "lost"
    approvals: int = 1
    epochs: dict[str, int] = field(default_factory=dict)
    clock: Clock | None = None
    execution: RunExecution | None = None
    journal: Journal | None = None

    @property
    def accounted(self) -> frozenset[str]:
        """Sites that its present plan takes as lost."""
        view = None if self.execution is None else self.execution.view
        if view is not None and view.accounted:
            return frozenset(view.accounted)
        return frozenset(self.leaving if self.mark == "lost" else ())

    def actions_of(self, view: RunView, step: str) -> tuple[Action, ...]:
        plan, name = view.origin_of(step)
        return self.actions.get(plan, {}).get(name, ())

    def yields_of(self, view: RunView, step: str) -> tuple[Action, ...]:
        """How the old primary of a promotion gives its role up."""
        plan, name = view.origin_of(step)
        return self.actions.get(plan, {}).get(old_of(name), ())

    def opened(self) -> bytes:
        """The value under `open/`."""
        return orjson.dumps(
            {
                "incident": self.spec.incident,
                "plan": self.spec.plan,
                "approvals": self.approvals,
                "ends": dict(self.ends),
                "leaving": list(self.leaving),
                "mark": self.mark,
                "policy": policies.to_data(self.policy),
            }
        )


def read_opened(name: str, value: bytes, policy: RunPolicy) -> InHand:
    """A run without its actions. policy: where none lies with it, because an older version made it. Raises
    ValueError, KeyError, TypeError for what cannot be read.
    """
    told: dict[str, Any] = orjson.loads(value)
    spec = RunSpec(name, told["incident"], told["plan"], ())
    made = policies.from_data(told["policy"]) if "policy" in told else policy
    return InHand(
        spec,
        told["ends"],
        {},
        made,
        tuple(told.get("leaving", ())),
        told.get("mark", "lost"),
        int(told["approvals"]),
    )
