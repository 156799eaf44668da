"""Maps names in plan steps to rows of the instance, and gives the steps' uses."""

from __future__ import annotations

import numpy as np

from evac.model.instance import Instance, Use
from evac.model.plan import Step
from evac.steps.kind import Place
from evac.steps.registry import kind_of


class Places:
    """Names of one instance as rows."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._service = {name: row for row, name in enumerate(instance.services.id)}
        self._store = {store.id: row for row, store in enumerate(instance.stores)}
        self._pool = {pool.id: row for row, pool in enumerate(instance.pools)}
        self._power = {step.target: row for row, step in enumerate(instance.power_steps)}
        dark = np.flatnonzero(instance.rows.boot_kind >= 0).tolist()
        self._server = {instance.row_names[row]: row for row in dark}

    def at(self, step: Step) -> Place:
        """Where a step acts. Raises KeyError for a name that the instance lacks."""
        match kind_of(step.kind).target:
            case "service":
                service = self._service[step.target]
                return Place(step, service=service, pool=self._pool.get(step.pool, -1))
            case "store":
                return Place(step, store=self._store[step.target])
            case "server":
                return Place(step, row=self._server[step.target])
            case "supply":
                return Place(step, power=self._power[step.target])
        return Place(step)

    def uses(self, step: Step) -> tuple[Use, ...]:
        """What one unit action of a step holds."""
        return kind_of(step.kind).uses(self.instance, self.at(step))
