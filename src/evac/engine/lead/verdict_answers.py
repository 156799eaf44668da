"""What a leader does about verdicts: it says what changed, and answers losses and returns of sites.

One lost site is a notice, a run that waits for approval, or one that goes on by itself, as the mode of the
policy says; where a run is under way that the loss concerns, it is another plan for that run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from evac.engine.lead.leadership import Leadership
from evac.engine.lead.watch_journal import Notice, NoticeKind, of_verdict
from evac.engine.plans.library import Drawer, Ready
from evac.engine.runs.conductor import Conductor
from evac.engine.runs.desk import Desk
from evac.engine.runs.proposals import Concerned, Wanted
from evac.engine.runs.requests import to_apply, to_approve
from evac.engine.stores.guards import Mark, check_mode, read_register
from evac.engine.stores.stalled_commits import Hanging
from evac.model.errors import Conflict, EvacError, LeaseLost, NotAllowed, StalePlan, Unavailable
from evac.net.internal_errors import enduring
from evac.run import envelope
from evac.watch.verdict import Standing

Answer = Callable[[str], Awaitable[None]]


class _NotYet(EvacError):
    """What is under way goes first; asked again soon."""

    def __init__(self) -> None:
        super().__init__("not-yet", "what is under way goes first")


class VerdictAnswers:
    """Of one time of leading. `run` goes on until it is cancelled."""

    def __init__(
        self,
        desk: Desk,
        sites: Sequence[str],
        drawer: Drawer,
        leadership: Leadership,
        conductor: Conductor,
        hanging: Hanging,
        standings: Callable[[], Mapping[str, Standing]],
        judged: asyncio.Event,
        tell: Callable[[Notice], None],
    ) -> None:
        """standings: verdicts as they are now; judged: set whenever they were looked at again."""
        self._desk, self._sites, self._drawer = desk, sites, drawer
        self._leadership, self._conductor, self._hanging = leadership, conductor, hanging
        self._standings, self._judged, self._tell = standings, judged, tell
        self._told: dict[str, str] = {}
        self._handled: dict[tuple[str, str], int | tuple[str, int]] = {}
        """(answer, site) -> what was answered, or is just being."""
        self._reported: set[str] = set()
        self._answering = asyncio.Lock()

    async def run(self) -> None:
        """Says what changed, and acts on losses."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for site, standing in self._standings().items():
                    state = standing.verdict.state
                    if self._told.get(site, "unknown") != state:
                        self._tell(of_verdict(standing, self._desk.clock.now_ms()))
                    self._told[site] = state
                    if state == "lost" and standing.lost_since_ms is not None:
                        for answer in (self._protect, self._answer_loss):
                            handled = (answer.__name__, site)
                            if self._handled.get(handled) != standing.lost_since_ms:
                                self._handled[handled] = standing.lost_since_ms
                                tasks.create_task(self._try(answer, site))
                    elif state == "healthy" and self._is_waited_for(site):
                        tasks.create_task(self._try(self._answer_return, site))
                await self._judged.wait()
                self._judged.clear()

    def _is_waited_for(self, site: str) -> bool:
        """Whether a run waits for the name of a site that is not lost any more; said once a plan."""
        concerned = self._conductor.concerned(site) if self._conductor.asks_names else None
        handled = (self._answer_return.__name__, site)
        if concerned is None or self._handled.get(handled) == (concerned.run, concerned.plans):
            return False
        self._handled[handled] = (concerned.run, concerned.plans)
        return True

    async def _try(self, answer: Answer, site: str) -> None:
        """Once a loss. What the store could not do, or what changed meanwhile, is tried again."""
        try:
            self._leadership.check()
            say = partial(self._say, "trouble", site)
            await enduring(f"what is done about {site}", partial(answer, site), say)
        except (Conflict, Unavailable, StalePlan, _NotYet):
            await asyncio.sleep(self._desk.policy.profile.period_ms / 1_000)
            self._handled.pop((answer.__name__, site), None)
            self._judged.set()
        except NotAllowed as error:
            words = f"{site} is lost, and this is refused: {error.message}"
            self._say("refused", site, words, {"code": error.code, "hint": error.hint})
        except LeaseLost:
            raise
        except EvacError as error:
            self._say("trouble", site, f"{site} is lost: {error.message}", {"code": error.code})

    async def _answer_loss(self, site: str) -> None:
        """One lost site: a notice, or a run that waits, or one that goes, as the mode says; where a run is
        under way that it concerns, another plan for that run.
        """
        async with self._answering:
            await self._conductor.ready()
            register = await read_register(self._desk.store)
            concerned = self._conductor.concerned()
            if concerned is not None:
                await self._answer_in_run(site, concerned, register)
            elif register.get(site) != "active":
                words = f"{site} is lost; it is {register.get(site, 'unknown')} already"
                self._say("loss", site, words)
            else:
                await self._answer_with_run(site, register)

    def _lost(self, register: Mapping[str, Mark]) -> tuple[str, ...]:
        """All sites that a plan cannot count on: those that are left, and those that are lost now."""
        left = {site for site, mark in register.items() if mark != "active"}
        return tuple(sorted(left | self._lost_now()))

    def _lost_now(self) -> set[str]:
        return {site for site, one in self._standings().items() if one.verdict.state == "lost"}

    async def _answer_with_run(self, site: str, register: Mapping[str, Mark]) -> None:
        lost = self._lost(register)
        found = await self._plan(site, lost)
        if found is None:
            return
        ready, data = found
        mode = self._desk.policy.mode
        check_mode(mode, self._desk.store.quorum, len(self._sites))
        if mode == "advise":
            words = f"{site} is lost; the plan is ready: {to_apply(ready.plan, lost)}"
            self._say("loss", site, words, {"plan": ready.plan})
            return
        approvals = await self._approvals(data) if mode == "act" else None
        names = lost if len(lost) > 1 else ()
        leaving = tuple(one for one in lost if register.get(one) == "active")
        run = await self._conductor.create(self._wanted(site, leaving, data, approvals, names))
        goes = approvals == 0 and not names
        words = "goes on by itself" if goes else f"waits for approval: {to_approve(run, names)}"
        self._say("loss", site, f"{site} is lost; {run} {words}", {"run": run, "plan": ready.plan})

    async def _answer_in_run(self, site: str, concerned: Concerned, register: Mapping[str, Mark]) -> None:
        """Another loss while a run is under way: one plan for all lost sites together, in the same run."""
        run = concerned.run
        if site in concerned.accounted:
            self._say("loss", site, f"{site} is lost; {run} takes that into account", {"run": run})
            return
        if site not in concerned.leaving and site not in concerned.places:
            self._say_once(site, f"{site} is lost as well; {run} does nothing there and goes on first")
            raise _NotYet
        found = await self._plan(site, self._lost(register))
        if found is None:
            return
        ready, data = found
        if self._desk.policies.of(run).mode == "advise":
            words = f"{site} is lost while {run} is under way; it goes on as planned until somebody says "
            words += f"evac run cancel {run} --reason WHY; the plan then: {to_apply(ready.plan, ready.lost)}"
            self._say("loss", site, words, {"run": run, "plan": ready.plan})
            return
        await self._replace(site, run, data, f"{site} is lost", ready.lost)

    async def _replace(self, site: str, run: str, data: bytes, why: str, lost: Sequence[str]) -> None:
        asks = await self._conductor.replace_plan(run, data, why, lost, sorted(self._lost_now()))
        words = f"{why}; {run} has a new plan and goes on"
        if asks:
            names = tuple(lost) if len(lost) > 1 else ()
            words = f"{why}; {run} has a new plan and waits for {', '.join(asks)}: {to_approve(run, names)}"
        self._say("loss", site, words, {"run": run, "lost": list(lost)})

    async def _answer_return(self, site: str) -> None:
        """A site answers again whose name a person was to type: the plan counts on it again."""
        async with self._answering:
            concerned = self._conductor.concerned(site)
            register = await read_register(self._desk.store)
            if concerned is None:
                return
            if register.get(site) != "active":  # it was left before, and may be on its way back
                raise _NotYet
            handled = (self._answer_return.__name__, site)
            if self._handled.get(handled) != (concerned.run, concerned.plans):
                self._handled.pop(handled, None)  # a newer run waits for the same: after it, the other one
            found = await self._plan(site, self._lost(register))
            if found is not None:
                why = f"{site} answers again"
                await self._replace(site, concerned.run, found[1], why, found[0].lost)

    async def _plan(self, site: str, lost: tuple[str, ...]) -> tuple[Ready, bytes] | None:
        """The plan from the drawer; one made now where it holds none that fits."""
        drawer, guard = self._drawer, self._leadership.lease
        if not set(self._sites) - set(lost):
            words = f"{site} is lost, and every site would be left: restore one first"
            self._say("refused", site, words, {"code": "every-site"})
            return None
        found = await drawer.take(lost)
        if found is None:
            self._say_once(site, f"{site} is lost; no plan for that lies ready: one is made now")
            found = await drawer.plan_now(lost, guard)
        if found is None:
            ready = await drawer.look(lost)
            problem = ready.problem if ready is not None else "none was made"
            self._say("trouble", site, f"{site} is lost, and there is no plan: {problem}")
        return found

    async def _approvals(self, data: bytes) -> int | None:
        """0 where policy agreed beforehand to all that the plan needs; None: as many as policy wants."""
        bound = await self._desk.bind(data, "envelope", "envelope", "envelope")
        agreed = envelope.covers(self._desk.policy.envelope, bound.spec.envelope)
        return 0 if agreed else None

    def _wanted(
        self, site: str, leaving: tuple[str, ...], data: bytes, approvals: int | None, names: tuple[str, ...]
    ) -> Wanted:
        verdict = self._standings()[site].verdict
        reason = f"{site} is lost: {verdict.reason}; seen by {', '.join(verdict.by)}"
        incident = f"{site}-lost-{self._desk.clock.now_ms()}"
        mode = self._desk.policy.mode
        return Wanted(incident, data, reason, mode, leaving, "lost", approvals=approvals, names=names)

    async def _protect(self, site: str) -> None:
        """Stores that lost their synchronous replica with the site: a small run each."""
        await self._hanging.protect(site)

    def _say(self, kind: NoticeKind, site: str, words: str, data: Mapping[str, Any] | None = None) -> None:
        self._tell(Notice(kind, self._desk.clock.now_ms(), site, words, data or {}))

    def _say_once(self, site: str, words: str) -> None:
        if words not in self._reported:
            self._reported.add(words)
            self._say("loss", site, words)
