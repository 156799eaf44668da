"""The person of a story: approves, attests, pauses, cancels, errs; and at the end answers everything.

What a person vouches for is true: they make it so first. What they do goes through the store, as requests and
proposals do, and reaches it at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from evac.engine.plans.library import digest_of
from evac.engine.runs import requests
from evac.engine.runs.proposals import PROPOSAL
from evac.engine.runs.requests import Request, RequestVerb
from evac.engine.stores.datasets import key_of
from evac.engine.stores.guards import HOLD_KEY, SITES_KEY
from evac.model.errors import EvacError
from evac.run.agenda import fences_of, is_fenced
from evac.run.values import ENDED, RunStep
from evac.run.view import RunView
from evac.store.port import Delete, Put
from tests.sim import plans
from tests.sim.faulty_store import at_once

if TYPE_CHECKING:
    from tests.sim.fires import FireStory

DUE: Final = ("pending", "ready", "running", "unknown")
AHEAD_MS: Final = 4_000_000_000_000
"""When proposals say that they were made: clocks of a story differ by hours, and none finds them old."""
REFUSED_MOST: Final = 10
"""How often somebody asks for the same in vain before they do what the refusal says, and cancel."""


class Person:
    """One person, and all that they do."""

    def __init__(self, story: FireStory) -> None:
        self.story, self.world, self.loop = story, story.world, story.loop
        self._number = 0
        self._every_ms, self._helpful = 0, False

    def begin(self, every_ms: int, helpful: bool = False) -> None:
        running = self._every_ms > 0
        self._every_ms, self._helpful = every_ms, helpful
        if not running:
            self._turn()

    def _turn(self) -> None:
        for name in self.story.open_runs():
            books = self.story.referee.books.get(name)
            if books is not None and books.view.phase not in ENDED:
                if self._helpful or self.loop.random.random() < 0.6:
                    self._answer(name, books.view)
                else:
                    self._meddle(name, books.view)
        self.loop.in_world(self._every_ms / 1_000 * (0.7 + 0.6 * self.loop.random.random()), self._turn)

    def is_asked(self, name: str) -> bool:
        """Whether a run waits for a person, and says so."""
        books = self.story.referee.books.get(name)
        if books is None:
            return False
        view = books.view
        return view.phase in ("awaiting_approval", "paused") or bool(view.manual_running or view.doubtful)

    def _answer(self, name: str, view: RunView) -> None:
        """What the run needs."""
        if view.phase == "awaiting_approval":
            self.ask(name, "cancel" if self._helpful and self._is_refused(name) else "approve")
        elif view.phase == "paused" and view.pause is not None and view.pause.by in ("operator", "pace"):
            self.ask(name, "resume")
        for i, step in enumerate(view.steps):
            phase = view.phases[i]
            if step.gate and i not in view.gates_open and phase in ("pending", "ready"):
                self.ask(name, "approve", step.id)
            elif i in view.manual_running or (phase == "unknown" and i in view.doubtful):
                self._vouch(name, view, i)
            elif phase == "failed":
                self._mend(name, view, i)
            elif phase == "ready" and step.kind == "promote" and view.phase == "paused":
                self._fences_again(name, view, step.data_set)

    def _is_refused(self, name: str) -> bool:
        """Whether the run refuses whatever is asked, as one does for a loss that is none any more."""
        last = self.story.referee.books[name].events[-REFUSED_MOST:]
        return len(last) == REFUSED_MOST and all(event.kind == "request_refused" for event in last)

    def _fences_again(self, name: str, view: RunView, store: str) -> None:
        """A fence was skipped: nothing is promoted until it is made after all, or vouched for."""
        for i, step in enumerate(view.steps):
            if step.kind == "fence" and step.data_set == store and view.phases[i] in ("skipped", "undone"):
                self.ask(name, "retry", step.id)

    def _mend(self, name: str, view: RunView, i: int) -> None:
        step = view.steps[i]
        draw = self.loop.random.random()
        if step.kind == "fence":
            if draw < 0.4:
                self.ask(name, "retry", step.id)
            elif draw < 0.5:  # a mistake: nothing may be promoted because of it
                self.ask(name, "skip", step.id)
            elif "attest" in self.story.policy.store(step.data_set).proofs:
                self._vouch(name, view, i)
            elif draw > 0.8:
                self.ask(name, "cancel")
        elif draw < 0.5:
            self.ask(name, "retry", step.id)
        elif draw < 0.9 or step.kind == "promote":
            self.ask(name, "skip", step.id)
        else:
            self.ask(name, "cancel")

    def _vouch(self, name: str, view: RunView, i: int) -> None:
        """Makes a fact true, then attests it; what cannot be made true is skipped."""
        step = view.steps[i]
        if step.kind == "fence" and "attest" in self.story.policy.store(step.data_set).proofs:
            self._isolate(step)
            self.ask(name, "attest", step.id, evidence={"fenced": " ".join(self.story.options.sites)})
        elif i in view.manual_running:
            self.ask(name, "cancel")
        elif step.kind == "fence" and self._holder(step.data_set) not in ("", step.site):
            self.ask(name, "skip", step.id)  # another copy is the primary by now, whatever came of this
        elif step.data_set:  # it is seen sooner or later; to skip that would claim the store for ever
            self._switch_on(view, step)
        elif step.kind == "rejoin":
            self.ask(name, "skip", step.id)
        else:
            self.ask(name, "attest", step.id)

    def _switch_on(self, view: RunView, step: RunStep) -> None:
        """A machine whose power a fence took, where nothing was promoted in its place: nobody can tell what
        was done there until it runs again. Not while another fence of the run proves that it is off, and a
        copy is to be promoted by that.
        """
        fences = fences_of(view)
        for i, other in enumerate(view.steps):
            due = other.kind == "promote" and other.data_set == step.data_set and view.phases[i] in DUE
            if due and is_fenced(view, i, fences):
                return
        members = self.world.databases[step.data_set].members
        off = [one for one in members.values() if one.site == step.site and not one.powered]
        others = any(one.writable for one in members.values() if one.site != step.site)
        epoch = self._epoch(step.data_set)
        claimed = epoch.get("begun") and epoch["candidate"] != step.site
        if off and not others and epoch.get("holder") == step.site and not claimed:
            self.world.say(f"a person switches {off[0].name} on again")
            off[0].powered = True

    def _epoch(self, store: str) -> dict[str, Any]:
        value = self.world.cluster.value(key_of(store))
        return dict(orjson.loads(value)) if value is not None else {}

    def _holder(self, store: str) -> str:
        """Who holds the epoch of a store, while it is theirs alone; empty otherwise."""
        epoch = self._epoch(store)
        return str(epoch["holder"]) if epoch and epoch["candidate"] in ("", epoch["holder"]) else ""

    def _isolate(self, step: RunStep) -> None:
        """Goes there and pulls the plug of whatever still takes writes, or may begin to."""
        store = step.data_set
        epoch = self._epoch(store)
        begun = epoch["candidate"] if epoch.get("begun") else ""
        for site, member in self.world.databases[store].members.items():
            if member.role == "primary" or (site == begun and site != step.site):
                member.path = False
        self.world.say(f"a person isolates the primary of {store}")

    def _meddle(self, name: str, view: RunView) -> None:
        """What people do in an emergency."""
        draw = self.loop.random.random()
        steps = [step.id for step in view.steps]
        step = steps[int(self.loop.random.random() * len(steps))]
        if draw < 0.25 and self.story.options.pause_verbs:
            then = ("resume", "cancel", "stay")[int(self.loop.random.random() * 3)]
            self.ask(name, "pause", for_ms=int(self.loop.random.random() * 3_000), then=then)
        elif draw < 0.45 and self.story.options.pause_verbs:
            self.ask(name, "resume")
        elif draw < 0.6:
            self.ask(name, "retry", step)
        elif draw < 0.7 and not (
            view.steps[view.number(step)].data_set and step in view.named("unknown", 99)
        ):
            self.ask(name, "skip", step)
        elif draw < 0.74:
            self.ask(name, "cancel")
        elif draw < 0.80:
            self.ask(name, "undo")
        elif draw < 0.9:
            self.ask(name, "undo", step)

    def ask(self, name: str, verb: RequestVerb, step: str = "", **more: Any) -> None:
        step = "" if verb == "cancel" else step
        if verb == "approve" and not step:  # whoever approves types every name that is asked for
            more["typed"] = self.story.options.sites
            self.story.referee.typed.update(self.story.options.sites)
        self._number += 1
        request = Request(f"r{self._number:06d}", verb, "park", "it burns", step, **more)
        self.world.say(f"a person asks {name}: {verb} {step}")
        with contextlib.suppress(EvacError):
            self._put(requests.key_of(name, request.id), requests.encode(request))

    def _put(self, key: str, value: bytes) -> None:
        at_once(self.world.cluster.transact((), (Put(key, value),)))

    def release(self) -> None:
        if self.world.cluster.value(HOLD_KEY) is not None:
            at_once(self.world.cluster.transact((), (Delete(HOLD_KEY),)))

    def does(self, what: str, site: str) -> None:
        """Something larger: an evacuation, the return of a site, another plan, a hold."""
        match what:
            case "hold":
                self._put(HOLD_KEY, orjson.dumps({"who": "park", "reason": "wait", "at_ms": 0}))
                self.loop.in_world(0.5 + 3 * self.loop.random.random(), self.release)
            case "evacuate":
                self._propose_evacuation(site)
            case "restore run":
                self._propose_return()
            case "replan":
                self._replan()

    def _propose(self, data: bytes, told: dict[str, Any]) -> None:
        self._number += 1
        digest = digest_of(data)
        if self.world.cluster.value(f"plan/{digest}/000000") is None:
            self._put(f"plan/{digest}/000000", data)
        told |= {"plan": digest, "incident": f"park-{self._number}", "reason": "a drill", "mode": "hold"}
        self.world.say(f"a person proposes {told}")
        self._put(f"{PROPOSAL}{AHEAD_MS}-{self._number:012x}", orjson.dumps(told))

    def _propose_evacuation(self, site: str) -> None:
        story = self.story
        data = plans.loss_plan(story.shape, story.policy, story.roles(), (site,), healthy=True)
        self._propose(data, {"leaving": [site], "mark": "evacuating", "ends": {site: "evacuated"}})

    def _left(self) -> list[str]:
        """Sites that are not active, as the register says."""
        value = self.world.cluster.value(SITES_KEY)
        register = orjson.loads(value) if value else {}
        return [site for site, mark in sorted(register.items()) if mark != "active"]

    def _propose_return(self) -> None:
        for site in self._left():
            if site not in self.world.burnt and site not in self.world.gone_since_ms:
                data = plans.restore_plan(self.story.shape, self.story.roles(), site)
                self._propose(data, {"leaving": [], "mark": "evacuating", "ends": {site: "active"}})

    def _replan(self) -> None:
        """A new loss in the middle of a run: the leader gets another plan for all that is left or lost."""
        story = self.story
        node = story.nodes.get(story.leader)
        term = None if node is None else node.controller._term
        if node is None or term is None:
            return
        for name, one in list(term.conductor._runs.items()):
            books = story.referee.books.get(name)
            if one.execution is None or books is None or not one.spec.incident.endswith(tuple("0123456789")):
                continue
            gone = sorted(story.world.gone_since_ms)
            lost = sorted({*gone, *self._left()})
            if not lost or len(lost) >= len(story.options.sites):
                continue
            data = plans.loss_plan(story.shape, story.policy, story.roles(), lost)
            ask = partial(term.conductor.replace_plan, name, data, "a loss", lost, gone)
            node.process.spawn(_quietly(ask))


async def _quietly(work: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(EvacError):
        await work()
