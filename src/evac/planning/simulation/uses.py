"""Which limits a step of a plan uses, from the instance alone."""

from __future__ import annotations

import numpy as np

from evac.model.instance import Instance, Use
from evac.model.plan import Step


class StepUses:
    """Names of one instance to what steps on them use."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.service = {name: n for n, name in enumerate(instance.services.id)}
        self.store = {store.id: store for store in instance.stores}
        self.pool = {pool.id: pool for pool in instance.pools}
        dark = np.flatnonzero(instance.rows.boot_kind >= 0).tolist()
        self.power = {step.target: step for step in instance.power_steps}
        self.boot = {instance.row_names[v]: int(instance.rows.boot_kind[v]) for v in dark}

    def of(self, step: Step) -> tuple[Use, ...]:
        if step.kind == "power":
            return self.power[step.target].uses
        if step.kind in ("attest", "reprotect"):
            return ()
        need = self.instance.tools.get(step.kind)
        if step.kind == "boot" and self.instance.boot_kinds[self.boot[step.target]].by_hand:
            return self._regular(step)
        return self._regular(step) + (need.manual_uses if step.manual and need is not None else ())

    def _regular(self, step: Step) -> tuple[Use, ...]:
        if step.kind == "fence":
            return self.store[step.target].fence_uses
        if step.kind == "promote":
            return next(c.uses for c in self.store[step.target].candidates if c.id == step.candidate)
        if step.kind == "boot":
            return self.instance.boot_kinds[self.boot[step.target]].uses
        if step.kind == "start":
            return self.pool[step.pool].start_uses
        if step.kind == "shed":
            return self.pool[step.pool].shed_uses
        if step.kind == "shift":
            return self.instance.services.shift_uses[self.service[step.target]]
        return ()
