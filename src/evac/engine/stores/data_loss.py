"""The most that promotions may lose, as seen: before a plan is approved, and again when a fence stands.

Nobody agreed to more than was shown. Until the fence of a store is complete its old primary may acknowledge
writes that the candidate never gets, so what was shown can have grown; then the promotion waits for a person.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from evac.drivers.port import Action
from evac.engine.stores.sightings import PREFIX, Loss, Sighting, decode_sighting, loss_in, loss_of
from evac.model.domain import site_of, topology
from evac.model.errors import EvacError, Retryable
from evac.model.estate import Estate, ReplicationMode
from evac.model.estate import Store as DataSet
from evac.model.observation import primary_site
from evac.model.plan import Plan
from evac.model.run_policy import RunPolicy
from evac.run.values import RunSpec, RunStep
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.store.port import Entry, Store

LABEL: Final = "loss:"
AGAIN_MS: Final = 5_000


async def pages(store: Store, prefix: str) -> list[Entry]:
    """All entries under a prefix."""
    found: list[Entry] = []
    after = ""
    while page := await store.list(prefix, after):
        found += page
        after = page[-1].key
    return found


async def read_sightings(store: Store) -> dict[str, Sighting]:
    """What the leader last wrote of each data set; what cannot be read is left out, and proves nothing."""
    found: dict[str, Sighting] = {}
    for entry in await pages(store, PREFIX):
        name = entry.key.removeprefix(PREFIX)
        with contextlib.suppress(EvacError):
            found[name] = decode_sighting(name, entry.value)
    return found


def losses_of(estate: Estate, plan: Plan, sightings: Mapping[str, Sighting], now_ms: int) -> dict[str, Loss]:
    """Store -> the most that its promotion loses, where its fence is complete at the time that is planned.
    Only where a site is lost: an orderly way out loses nothing.
    """
    if plan.scenario.kind != "lose":
        return {}
    top = topology(estate)
    stores = {store.id: store for store in estate.stores}
    fenced = {step.target: step.end_ms for step in plan.steps if kind_of(step.kind).fences}
    found: dict[str, Loss] = {}
    for outcome in plan.stores:
        store = stores.get(outcome.store)
        if store is None or not outcome.candidate:
            continue
        primary, until_ms = primary_site(top, store), now_ms + fenced.get(store.id, 0)
        candidate = site_of(top, outcome.candidate) or ""
        # A backup holds what it was made with: its age is what the estate declares.
        sighting = None if outcome.restored else sightings.get(store.id)
        mode = "none" if outcome.restored else _mode(store, outcome.candidate)
        found[store.id] = loss_of(store.id, primary, candidate, mode, outcome.loss_ms, sighting, until_ms)
    return found


def _mode(store: DataSet, candidate: str) -> ReplicationMode:
    found: list[ReplicationMode] = [member.mode for member in store.members if member.at == candidate]
    return found[0] if found else "none"


def labels_of(losses: Mapping[str, Loss]) -> dict[str, str]:
    """As they are kept with a run."""
    return {LABEL + store: loss.label() for store, loss in losses.items()}


def known_losses(spec: RunSpec) -> dict[str, Loss]:
    """What was known when a run was bound. Raises NotAllowed for what cannot be read."""
    return {
        name.removeprefix(LABEL): loss_in(label)
        for name, label in spec.labels.items()
        if name.startswith(LABEL)
    }


def fenced_ms(view: RunView, store: str) -> int:
    """When the fence of a store was complete; 0 while it is not."""
    ends = [
        view.ended[i]
        for i, step in enumerate(view.steps)
        if kind_of(step.kind).fences and step.target == store and view.phases[i] == "succeeded"
    ]
    return max(ends, default=0)


class LossGuard:
    """Of one run. policy: what holds for it now. seen: a loss as it was known, an end, and how long ago that
    was -> by what is seen now. now_ms: by the clock of the run's journal.
    """

    def __init__(
        self,
        now: Callable[[], RunView],
        policy: Callable[[], RunPolicy],
        seen: Callable[[Loss, int, int], Loss],
        now_ms: Callable[[], int],
    ) -> None:
        self._now, self._policy, self._seen, self._now_ms = now, policy, seen, now_ms

    def __call__(self, step: RunStep, actions: Sequence[Action]) -> None:
        """Raises `Retryable` where it would lose more than policy allows, and no person agreed to it."""
        view = self._now()
        known = known_losses(view.specs[view.plans[-1]]).get(step.target)
        if known is None or step.gate or view.index[step.id] in view.gates_open:
            return
        if any(action.parameters.get("proof") == "demote" for action in actions):
            return
        now_ms = self._now_ms()
        until_ms = fenced_ms(view, step.target) or now_ms
        loss = self._seen(known, until_ms, max(0, now_ms - until_ms))
        if within(loss, self._policy()):
            return
        raise Retryable(
            "loss-grown",
            f"it would lose {loss.words}, and policy lets it go on by itself for less",
            f"agree to it: evac approve {view.spec.run} --step {step.id} --reason WHY",
            AGAIN_MS,
        )


def within(loss: Loss, policy: RunPolicy) -> bool:
    """Whether policy lets a promotion go on without asking a person."""
    if loss.most_ms is None:
        return False
    of = policy.store(loss.store)
    return loss.most_ms <= (of.most_lost_ms if of.async_promotion == "allow" else 0)
