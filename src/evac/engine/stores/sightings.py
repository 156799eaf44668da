"""What was last seen of each copy of a store, which bounds the loss of a promotion. Pure.

sighting/<store> the primary's position at the last look, and up to when each copy holds everything

A copy that has reached the primary's position at a look has everything acknowledged before that look. So the
loss is at most what the primary may have acknowledged from the newest such look until it certainly could no
longer: the age of the sighting plus the lag seen then. This needs no server clock and no lag reported by the
engine. Sightings of another history prove nothing.

Times come from each controller's own monotonic clock. A reader converts them to its own clock, never to a
later time than the true one: see `Following`.

This bound is checked before a plan is approved and again when the fence is complete, because no one agreed to
more than was shown. Until then the old primary may acknowledge writes that the candidate never gets. If the
bound has grown, the promotion waits for a person.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Final

import orjson

from evac.derive.domains import site_of, topology
from evac.derive.objectives import loss_class, rpos
from evac.derive.stores import primary_site
from evac.drivers.port import Action
from evac.model.errors import EvacError, NotAllowed, Retryable
from evac.model.estate import Estate, ReplicationMode
from evac.model.estate import Store as DataSet
from evac.model.observation import MemberSeen
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.run.data_loss import Basis, Loss, fenced_ms, known_losses, later
from evac.run.values import RunStep
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.store.port import Store, all_entries

PREFIX: Final = "sighting/"
MARKS_MOST: Final = 64
"""Looks remembered: a copy that is further behind keeps the last position it was known to hold."""


@dataclass(frozen=True, slots=True)
class CopySeen:
    """A copy of a store as last seen."""

    site: str
    position: int
    at_ms: int
    """When it last answered."""
    holds_ms: int = 0
    """It has everything acknowledged until then; 0: unknown."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last look at which a store had a single primary that answered."""

    store: str
    primary: str
    history: str
    """Its line of history."""
    position: int
    """Log position in bytes."""
    at_ms: int
    copies: tuple[CopySeen, ...] = ()
    marks: tuple[tuple[int, int], ...] = ()
    """(when, position) of looks, oldest first."""
    token: int = 0
    """Of the leader that looked."""
    kept: tuple[int, int] = (0, 0)
    """Its previous look, and when that was certainly written; (0, 0): none."""

    @property
    def name(self) -> str:
        """The same for every reader, whatever the clock."""
        return f"{self.token}:{self.history}:{self.position}:{self.kept[0]}"

    def moved(self, by_ms: int) -> Sighting:
        """Converted to another clock."""
        copies = tuple(
            replace(one, at_ms=one.at_ms + by_ms, holds_ms=one.holds_ms + by_ms if one.holds_ms else 0)
            for one in self.copies
        )
        marks = tuple((when + by_ms, position) for when, position in self.marks)
        return replace(self, at_ms=self.at_ms + by_ms, copies=copies, marks=marks)

    def copy(self, site: str) -> CopySeen | None:
        return next((one for one in self.copies if one.site == site), None)

    def encode(self) -> bytes:
        copies = [[one.site, one.position, one.at_ms, one.holds_ms] for one in self.copies]
        return orjson.dumps(
            {
                "primary": self.primary,
                "history": self.history,
                "position": self.position,
                "at_ms": self.at_ms,
                "copies": copies,
                "token": self.token,
                "kept": list(self.kept),
            }
        )


def decode_sighting(store: str, value: bytes) -> Sighting:
    """Raises NotAllowed if unreadable: it proves nothing."""
    try:
        found: dict[str, Any] = orjson.loads(value)
        at_ms, position = int(found["at_ms"]), int(found["position"])
        copies = tuple(CopySeen(str(row[0]), *(int(one) for one in row[1:4])) for row in found["copies"])
        last_ms, kept_ms = (int(one) for one in found.get("kept", (0, 0)))
        return Sighting(
            store,
            str(found["primary"]),
            str(found["history"]),
            position,
            at_ms,
            copies,
            ((at_ms, position),),
            int(found.get("token", 0)),
            (last_ms, kept_ms),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise NotAllowed("guard-unreadable", f"cannot read the last observation of {store}") from error


def sighted(
    before: Sighting | None, store: str, members: Sequence[MemberSeen], at_ms: int
) -> Sighting | None:
    """The state after another look that began at `at_ms`; unchanged if no single primary reported its
    position.
    """
    primaries = [one for one in members if one.role == "primary" and one.position is not None]
    if len(primaries) != 1:
        return before
    (primary,) = primaries
    assert primary.position is not None
    same = before is not None and (before.primary, before.history) == (primary.site, primary.history)
    old = before if same else None
    marks = (*(old.marks if old is not None else ()), (at_ms, primary.position))[-MARKS_MOST:]
    known = {one.site: one for one in old.copies} if old is not None else {}
    for member in members:
        comparable = member.position is not None and member.history == primary.history
        if member.site == primary.site or not comparable:
            continue
        assert member.position is not None
        holds_ms = max((when for when, there in marks if there <= member.position), default=0)
        if member.site in known:
            holds_ms = max(holds_ms, known[member.site].holds_ms)
        known[member.site] = CopySeen(member.site, member.position, at_ms, holds_ms)
    copies = tuple(known[site] for site in sorted(known))
    return Sighting(store, primary.site, primary.history, primary.position, at_ms, copies, marks)


@dataclass(slots=True)
class Following:
    """Sightings of one store written by others, converted to the reader's clock.

    The writer's record of its previous write (`kept`), and when the reader last looked without finding it,
    bound how far the writer's clock is behind. A look is then never taken as newer than it is, and as older
    by no more than reading and writing take.
    """

    raw: Sighting | None = None
    """As written last."""
    absent_ms: int | None = None
    """When a read that did not find it began; None: the first read found it."""
    known: Sighting | None = None
    _behind: dict[int, int] = field(default_factory=dict)

    def read(self, found: Sighting, before_ms: int | None) -> None:
        """before_ms: when the previous read began; None: there was none."""
        raw = self.raw
        if raw is not None and raw.token == found.token and found.at_ms <= raw.at_ms:
            return
        self._bound(found)
        self.raw, self.absent_ms = found, before_ms
        behind_ms = self._behind.get(found.token)
        if behind_ms is not None:
            self.known = found.moved(behind_ms)
        elif self.known is None or _line(self.known) != _line(found):
            # No earlier sighting is known, so its writer's time must do, limited to the latest possible.
            late_ms = 0 if before_ms is None else max(0, found.at_ms - before_ms)
            self.known = found.moved(-late_ms)

    def wrote(self, one: Sighting) -> None:
        """The reader's own writes already use its clock."""
        self.raw, self.absent_ms, self.known, self._behind = one, None, one, {one.token: 0}

    def _bound(self, found: Sighting) -> None:
        raw, absent_ms = self.raw, self.absent_ms
        if raw is None or absent_ms is None or (raw.token, raw.at_ms) != (found.token, found.kept[0]):
            return
        behind_ms = absent_ms - found.kept[1]
        self._behind = {found.token: max(behind_ms, self._behind.get(found.token, behind_ms))}


def _line(sighting: Sighting) -> tuple[str, str]:
    return sighting.primary, sighting.history


def again(loss: Loss, sighting: Sighting | None, until_ms: int) -> Loss:
    """Recomputed for a later look at the same primary, or another end. What was never seen stays as
    declared.
    """
    moved = sighting is None or sighting.primary != loss.primary
    if loss.basis in ("synchronous", "moment") or (loss.basis != "unknown" and moved):
        return later(loss, until_ms)
    declared_ms = loss.most_ms if loss.basis == "declared" else None
    found = loss_of(loss.store, loss.primary, loss.candidate, "async", declared_ms, sighting, until_ms)
    return replace(found, rpo_ms=loss.rpo_ms)


def still(loss: Loss, sighting: Sighting, until_ms: int, now_ms: int) -> Loss:
    """From a look, as `again`. A primary seen after its intended end continues until now: its site was cut
    off and has rejoined.
    """
    return again(loss, sighting, now_ms if sighting.at_ms > until_ms else until_ms)


def loss_of(
    store: str,
    primary: str,
    candidate: str,
    mode: ReplicationMode,
    declared_ms: int | None,
    sighting: Sighting | None,
    until_ms: int,
    is_observed: bool = True,
) -> Loss:
    """The upper bound of the loss if the primary may have acknowledged writes until `until_ms`. mode: of the
    candidate; is_observed: seen, not only declared in files. Unknown if a clock went back and would make it
    too small, or if this primary was never seen but another was before.
    """
    if mode == "sync":
        sync: Basis = "synchronous" if is_observed else "declared"
        return Loss(store, primary, candidate, 0, sync, until_ms=until_ms)
    if sighting is not None and sighting.primary != primary:
        return Loss(store, primary, candidate, None, "unknown", until_ms=until_ms)
    copy = None if sighting is None else sighting.copy(candidate)
    if sighting is None or copy is None:
        basis: Basis = "unknown" if declared_ms is None else "declared"
        return Loss(store, primary, candidate, declared_ms, basis, until_ms=until_ms)
    if not copy.holds_ms or until_ms < sighting.at_ms:
        return Loss(store, primary, candidate, None, "unknown", sighting.at_ms, until_ms=until_ms)
    behind_ms = max(0, sighting.at_ms - copy.holds_ms)
    return Loss(
        store,
        primary,
        candidate,
        until_ms - copy.holds_ms,
        "seen",
        sighting.at_ms,
        behind_ms,
        until_ms,
        sighting.name,
    )


async def up_to_date(sites: Collection[str]) -> bool:
    """The roles of stores are known as they are, never behind."""
    return False


AGAIN_MS: Final = 5_000


async def read_sightings(store: Store) -> dict[str, Sighting]:
    """The leader's last record of each data set; unreadable ones are left out and prove nothing."""
    found: dict[str, Sighting] = {}
    for entry in await all_entries(store, PREFIX):
        name = entry.key.removeprefix(PREFIX)
        with contextlib.suppress(EvacError):
            found[name] = decode_sighting(name, entry.value)
    return found


def losses_of(
    estate: Estate,
    plan: Plan,
    sightings: Mapping[str, Sighting],
    now_ms: int,
    members: Sequence[MemberSeen] = (),
) -> dict[str, Loss]:
    """Store -> the most that its promotion loses if its fence completes as planned. Only if a site is lost: a
    planned evacuation loses nothing, nor does a primary that stays. members: as last seen with one primary; a
    copy missing from them is as the files declare it.
    """
    if plan.scenario.kind != "lose":
        return {}
    top = topology(estate)
    stores = {store.id: store for store in estate.stores}
    fenced = {step.target: step.end_ms for step in plan.steps if kind_of(step.kind).fences}
    moved = {step.target for step in plan.steps if kind_of(step.kind).makes_primary}
    observed = {(member.store, member.site) for member in members if member.role == "sync"}
    found: dict[str, Loss] = {}
    moments, limits = dict(plan.scenario.moments), rpos(top, loss_class(top, plan.scenario.domains))
    allowed = {store.id: rpo.limit_ms for store, rpo in zip(estate.stores, limits, strict=True)}
    for outcome in plan.stores:
        store = stores.get(outcome.store)
        if store is None or not outcome.candidate or (store.id not in moved and outcome.loss_ms == 0):
            continue
        primary, until_ms = primary_site(top, store), now_ms + fenced.get(store.id, 0)
        candidate, rpo_ms = site_of(top, outcome.candidate) or "", allowed[store.id]
        if store.id in moments:
            loss = Loss(store.id, primary, candidate, outcome.loss_ms, "moment", until_ms=until_ms)
            found[store.id] = replace(loss, rpo_ms=rpo_ms)
            continue
        # A backup has the data of its time: its age is what the estate declares.
        sighting = None if outcome.restored else sightings.get(store.id)
        mode = "none" if outcome.restored else _mode(store, outcome.candidate)
        is_observed = (store.id, candidate) in observed
        loss = loss_of(store.id, primary, candidate, mode, outcome.loss_ms, sighting, until_ms, is_observed)
        found[store.id] = replace(loss, rpo_ms=rpo_ms)
    return found


def _mode(store: DataSet, candidate: str) -> ReplicationMode:
    found: list[ReplicationMode] = [member.mode for member in store.members if member.at == candidate]
    return found[0] if found else "none"


LOSS_GROWN: Final = "loss-grown"
"""Code of the wait of a promotion that loses more by now than policy allows without a person."""


class LossGuard:
    """One run. policy: what applies to it now. seen: a loss as known, an end, and how long ago that was ->
    the present loss. now_ms: by the clock of the run's journal.
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
        """Raises `Retryable` if it would lose more than policy allows and no person agreed."""
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
            LOSS_GROWN,
            f"it would lose {loss.words}, more than the policy allows without approval",
            f"approve it: evac approve {view.spec.run} --step {step.id} --reason WHY",
            AGAIN_MS,
        )


def within(loss: Loss, policy: RunPolicy) -> bool:
    """Whether policy allows this loss without asking a person."""
    if loss.most_ms is None:
        return False
    of = policy.store(loss.store)
    return loss.most_ms <= (of.most_lost_ms if of.async_promotion == "allow" else 0)
