"""The referee of a story: sees every transaction that the cluster accepts, and says what must never be.

It keeps books of its own (what runs, what is finished, which limits are taken, which epoch is whose), so that
a mistake in the engine is not repeated in its judge. The state machine is asked only for the present phases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import orjson

from evac.engine.runs.reading import decode_all
from evac.engine.stores.datasets import names_in
from evac.engine.stores.guards import HOLD_KEY, POOLED_KEY, SITES_KEY
from evac.model.run_policy import RunPolicy
from evac.run.patience import INTERRUPTIONS_MOST
from evac.run.state import RunView, alike, apply, replay
from evac.run.values import Event, RunLimit, RunSpec
from evac.run.view import BUSY
from evac.store.port import Change, Compare, Delete, Lease, Put
from tests.sim.world import Broken, World

GONE_LATELY_MS: Final = 8_000
WOKE: Final = "the pause ended"
CLOCKS_MS: Final = 1_500
"""How far two moments of different leaders may be apart from what their clocks say: messages take time."""


Began = tuple[int, int, str, int, int, str]
"""What began of a rate limit: at_ms by the leader's clock, in truth, limit, units, leader's token, step."""


@dataclass(slots=True)
class Books:
    """Of one run. until_ms: of the present pause. compared: leader and event up to which its state was."""

    view: RunView
    events: list[Event] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    begun: list[Began] = field(default_factory=list)
    until_ms: int = 0
    paused: bool = False
    compared: tuple[int, int] = (0, 0)
    under_way: set[str] = field(default_factory=set)
    """Steps that were begun and have no result yet."""
    tried: Counter[str] = field(default_factory=Counter)
    """Starts of a step since a person last asked for it, without those that a change of leader cut short."""
    cut_short: Counter[str] = field(default_factory=Counter)


class Referee:
    """Watches one world. typed: sites whose names a person typed."""

    def __init__(
        self, world: World, policy: RunPolicy, spec_of: Callable[[str, str], RunSpec], kinds: Counter[str]
    ) -> None:
        """spec_of: (run, plan digest) -> what the run executes of it. kinds: counts the events by kind."""
        self.world, self.policy, self._spec_of, self._kinds = world, policy, spec_of, kinds
        self.books: dict[str, Books] = {}
        self.typed: set[str] = set()
        self.incidents: dict[str, bytes] = {}
        self._epochs: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        self._journal: dict[str, bytes] = {}
        self._register: dict[str, str] = {}
        self._vouched: frozenset[str] = frozenset()
        world.cluster.seen.append(self.saw)

    def saw(self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None) -> None:
        """One transaction, at the instant at which it was accepted."""
        self._vouched = frozenset()
        if len(changes) > 1:
            changes = sorted(changes, key=lambda one: not one.key.startswith("journal/"))
        for change in changes:
            key = change.key
            if isinstance(change, Delete):
                if key.startswith("journal/"):
                    raise Broken(f"{key} of a journal was deleted")
                continue
            if key.startswith("journal/"):
                self._segment(change)
            elif key.startswith("epoch/"):
                self._epoch(key.removeprefix("epoch/"), orjson.loads(change.value))
            elif key == SITES_KEY:
                self._sites(orjson.loads(change.value))
            elif key == POOLED_KEY:
                self._pooled(orjson.loads(change.value))
            elif key.startswith("incident/") and self.incidents.setdefault(key, change.value) != change.value:
                raise Broken(f"{key} got a second run")

    def _segment(self, change: Put) -> None:
        if self._journal.setdefault(change.key, change.value) != change.value:
            raise Broken(f"{change.key} was written twice, and differently")
        stream = change.key.split("/")[1]
        if stream in ("watch", "control"):
            return
        _, *records = change.value.split(b"\n")  # whether the chain holds is asked at the end
        for event in decode_all(records):
            self._event(stream, event)
            if event.kind == "step_attested":
                self._vouched |= names_in(str(event.data.get("evidence", {}).get("fenced", "")))

    def _event(self, run: str, event: Event) -> None:
        self._kinds[event.kind] += 1
        if self.world.tracing:
            self.world.say(f"  {run}: {event.kind} {event.step} {event.attempt or ''} {dict(event.data)}")
        books = self.books.get(run)
        if books is None:
            books = self.books[run] = Books(RunView(self._spec_of(run, event.data["plan"])))
        if event.kind == "plan_replaced":
            plan = event.data["plan"]
            books.view.specs.setdefault(plan, self._spec_of(run, plan))
        self._before(run, books, event)
        books.events.append(event)
        try:
            apply(books.view, event)
        except Exception as error:
            raise Broken(f"the journal of {run} holds what cannot be: {error}") from error
        self._after(run, books, event)

    def _before(self, run: str, books: Books, event: Event) -> None:
        kind, step = event.kind, event.step
        begins = kind in ("step_started", "undo_started")
        if begins and self.world.cluster.value(HOLD_KEY) is not None:
            raise Broken(f"{kind} of {step} under a hold")
        if begins and books.cut_short[step] >= INTERRUPTIONS_MOST:
            raise Broken(f"{step} of {run} ended {books.cut_short[step]} controllers, and is begun again")
        if event.data.get("code") == "tries-spent" and books.tried[step] < self.policy.patience.attempts:
            raise Broken(f"{step} of {run} is given up after {books.tried[step]} tries")
        if kind == "step_started":
            if step in books.finished:
                raise Broken(f"{step} of {run} is started again, and it was finished")
            if books.view.steps[books.view.number(step)].kind == "promote":
                self._promoting(books.view, step)
        woke = kind in ("resumed", "cancelled") and event.data.get("reason") == WOKE
        if woke and (not books.paused or not books.until_ms or event.at_ms < books.until_ms):
            raise Broken(f"{run} woke from a pause whose time is not over")

    def _promoting(self, view: RunView, step: str) -> None:
        """What was proved before a promotion begins: every fence done, and a rung that policy takes."""
        i = view.number(step)
        store = view.steps[i].data_set
        fences = [j for j, one in enumerate(view.steps) if one.kind == "fence" and one.data_set == store]
        done = [j for j in fences if view.phases[j] == "succeeded"]
        epoch = self._epochs.get(store, {})
        taken = epoch.get("rung") == "demote" or epoch.get("rung") in self.policy.store(store).proofs
        if not done or not taken:
            raise Broken(f"{store} is promoted without a fence proof (rung {epoch.get('rung')!r})")

    def _after(self, run: str, books: Books, event: Event) -> None:
        kind, step = event.kind, event.step
        if kind in ("step_succeeded", "step_attested") or (
            kind == "step_observed" and event.data["outcome"] == "done"
        ):
            books.finished.add(step)
        elif kind in ("step_retried", "undo_started"):
            books.finished.discard(step)
        elif kind == "paused":
            books.paused, books.until_ms = True, event.data.get("until_ms", 0)
        elif kind in ("resumed", "cancelled", "rollback_started", "run_ended"):
            books.paused, books.until_ms = False, 0
        elif kind == "plan_replaced":
            books.begun = []
        elif kind == "step_failed" and event.data.get("code") == "late":  # it never began
            books.begun = [row for row in books.begun if row[5] != step]
            books.tried[step] -= 1
        self._tries(books, event)
        if kind in ("step_started", "undo_started"):
            self._limits(run, books, event)

    def _tries(self, books: Books, event: Event) -> None:
        kind, step = event.kind, event.step
        if kind in ("step_started", "undo_started"):
            books.under_way.add(step)
            books.tried[step] += kind == "step_started"
        elif kind == "leader_changed":
            books.cut_short.update(books.under_way)
            books.tried.subtract(books.under_way)
            books.under_way.clear()
        elif kind.startswith(("step_", "undo_")) and kind not in ("step_stuck", "step_waits"):
            books.under_way.discard(step)
        if kind in ("step_retried", "undo_asked") or step in books.finished:
            books.tried[step] = books.cut_short[step] = 0

    def _limits(self, run: str, books: Books, event: Event) -> None:
        """What is held, counted anew from the phases of all steps; and what was begun in each window."""
        view = books.view
        now_ms = self.world.loop.now_ms()
        for limit in view.spec.limits:
            if limit.kind == "slots":
                held = sum(
                    units
                    for i, step in enumerate(view.steps)
                    if view.phases[i] in BUSY
                    for name, units, hold_ms in step.uses
                    if name == limit.id and not hold_ms
                )
                if held > limit.capacity:
                    raise Broken(f"{run} holds {held} of {limit.id}, and {limit.capacity} are the most")
                continue
            mine = sum(
                units for name, units, _ in view.steps[view.number(event.step)].uses if name == limit.id
            )
            if not mine:
                continue
            began = (event.at_ms, now_ms, limit.id, mine, view.token, event.step)
            books.begun.append(began)
            lately = sum(row[3] for row in books.begun if _same_window(row, began, limit))
            if lately > limit.capacity:
                raise Broken(f"{run} began {lately} of {limit.id} in one window")

    def _epoch(self, store: str, new: Mapping[str, Any]) -> None:
        """Epochs only grow; a claim is a new number; what was begun is only its own until it is settled, or
        until the same transaction holds the word of a person that it can write no more.
        """
        old = self._epochs.get(store, {"epoch": 0, "candidate": "", "run": "", "begun": False})
        if new["epoch"] < old["epoch"]:
            raise Broken(f"the epoch of {store} fell from {old['epoch']} to {new['epoch']}")
        same = (new["candidate"], new["run"]) == (old["candidate"], old["run"])
        if new["candidate"] and not same and new["epoch"] <= self._numbers.get(store, 0):
            raise Broken(f"epoch {new['epoch']} of {store} is used a second time")
        if old["begun"] and new["candidate"] and not same and old["candidate"] not in self._vouched:
            raise Broken(f"{new['candidate']} claims {store}, and {old['candidate']} was begun")
        self._numbers[store] = max(new["epoch"], self._numbers.get(store, 0))
        self._epochs[store] = dict(new)

    def _sites(self, register: Mapping[str, str]) -> None:
        left = {site for site, mark in register.items() if mark != "active"}
        new = left - {site for site, mark in self._register.items() if mark != "active"}
        if new and len(left) > 1 and not left <= self.typed:
            raise Broken(f"{', '.join(sorted(left))} are left at the same time, and nobody typed their names")
        if not set(register) - left:
            raise Broken("every site is left")
        for site in new:
            if register[site] == "lost" and not self._was_gone(site):
                raise Broken(f"{site} is taken for lost, and it was not")
        self._register = dict(register)

    def _was_gone(self, site: str) -> bool:
        now_ms = self.world.loop.now_ms()
        back_ms = self.world.back_since_ms.get(site)
        return site in self.world.gone_since_ms or (back_ms is not None and now_ms - back_ms < GONE_LATELY_MS)

    def _pooled(self, pooled: Mapping[str, Sequence[str]]) -> None:
        for service, sites in pooled.items():
            if not sites:
                raise Broken(f"{service} gets its traffic nowhere")

    def compare(self, live: RunView) -> None:
        """The state that a leader has in hand is what the journal says, whenever it is as far."""
        books = self.books.get(live.spec.run)
        if books is None or live.events != books.view.events or books.compared == (live.token, live.events):
            return
        books.compared = live.token, live.events
        # Holds that a clock ended are in nobody's journal: they are left out on both sides.
        clocks, live.limits._timed = live.limits._timed, []
        mine, books.view.limits._timed = books.view.limits._timed, []
        same = alike(live, books.view)
        live.limits._timed, books.view.limits._timed = clocks, mine
        if not same:
            raise Broken(f"{live.spec.run}: the leader's state is not what its journal says")

    def replay_prefixes(self, random: Random, most: int = 1) -> None:
        """From every prefix (a sample), replayed and continued, the journal leads to the state that it led to
        while it was written.
        """
        for run, books in self.books.items():
            specs = list(books.view.specs.values())
            for _ in range(most):
                cut = random.randrange(len(books.events)) + 1
                view = replay(specs[0], books.events[:cut], specs[1:])
                for event in books.events[cut:]:
                    apply(view, event)
                if not alike(view, books.view):
                    raise Broken(f"{run}: replayed from event {cut} it leads to another state")


def _same_window(one: Began, now: Began, limit: RunLimit) -> bool:
    """Of one leader by its own clock; of two leaders in truth, as near as messages allow to say."""
    if one[2] != limit.id:
        return False
    if one[4] == now[4]:
        return 0 <= now[0] - one[0] < limit.window_ms
    return now[1] - one[1] < limit.window_ms - CLOCKS_MS
