"""What a leader does about verdicts: reports changes and responds to lost and returning sites.

A lost site leads to a notice, a run that waits for approval, or an automatic run, by the policy's mode; if it
concerns an open run, that run gets another plan. A hall lost at a live site is handled alike, by a run for
exactly that hall that leaves no site.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from evac.engine.lead.leadership import Leadership
from evac.engine.lead.watch_journal import Notice, NoticeKind, of_verdict
from evac.engine.plans.library import Drawer, Ready
from evac.engine.runs.conductor import Conductor
from evac.engine.runs.desk import Desk
from evac.engine.runs.effects import EffectsReader
from evac.engine.runs.proposals import Concerned, Wanted
from evac.engine.runs.requests import to_apply, to_approve
from evac.engine.stores.guards import Mark, check_mode, read_register
from evac.engine.stores.stalled_commits import Hanging
from evac.model import errors
from evac.net.internal_errors import enduring
from evac.run import envelope
from evac.watch.verdict import Standing

Made = TypeVar("Made")
PROGRESS_S: Final = 10
"""How often to report that a plan is still being made while nothing can begin without it."""

UNREADABLE: Final = frozenset({"guard-unreadable", "register-missing", "epoch-unreadable"})
"""Codes of refusals that end when someone repairs a record in the store."""

Answer = Callable[[str], Awaitable[None]]


class _NotYet(errors.EvacError):
    """The response waits for a run that goes first, or starts over because a loss that it was about ended. It
    is retried soon if something is still lost.
    """

    def __init__(self) -> None:
        super().__init__(
            "not-yet", "another run goes first, or something is no longer lost; trying again soon"
        )


class VerdictAnswers:
    """One term's responses to verdicts. `run` continues until cancelled."""

    def __init__(
        self,
        desk: Desk,
        sites: Sequence[str],
        drawer: Drawer,
        leadership: Leadership,
        conductor: Conductor,
        hanging: Hanging,
        standings: Callable[[], Mapping[str, Standing]],
        halls: Callable[[], Mapping[str, Standing]],
        judged: asyncio.Event,
        tell: Callable[[Notice], None],
    ) -> None:
        """standings, halls: present verdicts; judged: set after each evaluation."""
        self._desk, self._sites, self._drawer = desk, sites, drawer
        self._leadership, self._conductor, self._hanging = leadership, conductor, hanging
        self._standings, self._halls = standings, halls
        self._judged, self._tell = judged, tell
        self._told: dict[str, str] = {}
        self._handled: dict[tuple[str, str], int | tuple[str, int] | None] = {}
        """(response, site) -> what was or is being answered."""
        self._back: dict[str, tuple[int, int] | None] = {}
        """Site or hall whose loss was answered -> how often it had come back by then; None if nothing had to
        move.
        """
        self._looking: set[str] = set()
        self._effects = EffectsReader(desk.store)  # it decodes each record once
        self._reported: set[str] = set()
        self._refused: dict[tuple[str, str], str] = {}
        """(response, site) -> why a damaged record refuses it, as reported."""
        self._answering = asyncio.Lock()

    async def run(self) -> None:
        """Reports changes and acts on losses."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for site, standing in self._standings().items():
                    state, told = standing.verdict.state, self._told.get(site, "unknown")
                    if told != state:
                        self._tell(of_verdict(standing, self._desk.clock.now_ms()))
                    self._told[site] = state
                    if state == "lost":
                        both = (self._protect, self._answer_loss)
                        self._answer(tasks, both, site, standing.lost_since_ms, just=told != state)
                    elif state == "healthy" and self._is_waited_for(site):
                        tasks.create_task(self._try(self._answer_return, site))
                for hall, standing in self._halls().items():
                    state, told = standing.verdict.state, self._told.get(hall, "unknown")
                    if told != state and "lost" in (told, state):
                        self._tell(of_verdict(standing, self._desk.clock.now_ms()))
                    self._told[hall] = state
                    if state == "lost":
                        only = (self._answer_hall,)
                        self._answer(tasks, only, hall, standing.lost_since_ms, just=told != state)
                await self._judged.wait()
                self._judged.clear()

    def _answer(
        self,
        tasks: asyncio.TaskGroup,
        answers: Sequence[Answer],
        what: str,
        since_ms: int | None,
        just: bool,
    ) -> None:
        """Start what answers a loss, once per loss. just: it only just counts as lost, perhaps once more."""
        names = [(answer.__name__, what) for answer in answers]
        again = what in self._back and any(self._handled.get(name) == since_ms for name in names)
        if again and what not in self._looking and (just or self._back[what] is not None):
            self._looking.add(what)
            tasks.create_task(self._answer_again(answers, what, self._back[what]))
        for name, answer in zip(names, answers, strict=True):
            if self._handled.get(name) != since_ms:
                self._handled[name] = since_ms
                if answer == answers[-1]:
                    self._back.pop(what, None)
                tasks.create_task(self._try(answer, what))

    async def _answer_again(
        self, answers: Sequence[Answer], what: str, known: tuple[int, int] | None
    ) -> None:
        """A site that is lost, suspect and lost again was lost once, unless it was healthy between. If it was
        restored or its mark was cleared meanwhile, this is another loss, also if that is recorded only while
        it is lost again. Looks once in ten periods at most: the records of all runs are read.
        """
        same = known is not None
        if same:
            with contextlib.suppress(errors.EvacError):
                same = await self._effects.times_back(what) == known
        if same or self._back.get(what, ()) != known:
            await asyncio.sleep(10 * self._desk.policy.profile.period_ms / 1_000)
        else:
            del self._back[what]
            for answer in answers:
                self._handled.pop((answer.__name__, what), None)
            self._judged.set()
        self._looking.discard(what)

    def _is_waited_for(self, site: str) -> bool:
        """Whether a run waits for the typed name of a site that is no longer lost; reported once per plan."""
        concerned = self._conductor.concerned(site) if self._conductor.asks_names else None
        handled = (self._answer_return.__name__, site)
        if concerned is None or self._handled.get(handled) == (concerned.run, concerned.plans):
            return False
        self._handled[handled] = (concerned.run, concerned.plans)
        return True

    async def _try(self, answer: Answer, site: str) -> None:
        """Responds once per loss. Store failures and conflicts are retried, and so is what a damaged record
        refuses: someone may repair it, and nothing else would respond to this loss then.
        """
        again, name = False, (answer.__name__, site)
        try:
            self._leadership.check()
            say = partial(self._say, "trouble", site)
            await enduring(f"response to the loss of {site}", partial(answer, site), say)
            self._refused.pop(name, None)
        except (errors.Conflict, errors.Unavailable, errors.StalePlan, _NotYet):
            again = True
        except errors.NotAllowed as error:
            again = error.code in UNREADABLE
            if not again or self._refused.get(name) != error.message:
                self._refused[name] = error.message
                words = f"{site} is lost; the response was refused: {error.message}"
                self._say("refused", site, words, {"code": error.code, "hint": error.hint})
        except errors.LeaseLost:
            raise
        except errors.EvacError as error:
            self._say("trouble", site, f"{site} is lost: {error.message}", {"code": error.code})
        if again:
            await asyncio.sleep(self._desk.policy.profile.period_ms / 1_000)
            self._handled.pop(name, None)
            self._judged.set()

    async def _answer_loss(self, site: str) -> None:
        """Responds to one lost site with a notice, a waiting run or an automatic run, by mode, or with
        another plan for the open run that it concerns.
        """
        async with self._answering:
            await self._conductor.ready()
            if self._is_healthy(site):
                raise _NotYet  # it came back while another response was made
            self._back[site] = await self._effects.times_back(site)
            register = await read_register(self._desk.store)
            concerned = self._conductor.concerned()
            if concerned is not None:
                await self._answer_in_run(site, concerned, register)
            elif register.get(site) != "active":
                words = f"{site} is lost; it is already {register.get(site, 'unknown')}"
                self._say("loss", site, words)
            else:
                await self._answer_with_run(site, register)

    async def _answer_hall(self, hall: str) -> None:
        """Creates one run for a hall lost at a live site."""
        site = hall.partition("/")[0]
        async with self._answering:
            await self._conductor.ready()
            standing = self._halls().get(hall)
            if standing is None or standing.verdict.state != "lost":
                raise _NotYet  # its site may be lost as well
            self._back[hall] = await self._effects.times_back(hall)
            register = await read_register(self._desk.store)
            effects = await self._effects.read(self._desk.clock.now_ms())
            concerned = self._conductor.concerned()
            if concerned is not None and (hall in concerned.halls or site in concerned.accounted):
                words = f"{hall} is lost; {concerned.run} takes this into account"
                self._say("loss", hall, words, {"run": concerned.run})
            elif concerned is not None:
                self._say_once(hall, f"{hall} is lost as well; {concerned.run} continues first")
                raise _NotYet
            elif register.get(site) != "active":
                words = f"{hall} is lost; {site} is already {register.get(site, 'unknown')}"
                self._say("loss", hall, words)
            elif all(one.domain != hall for one in effects.lost):
                await self._answer_with_run(site, register, hall)

    def _lost(self, register: Mapping[str, Mark]) -> tuple[str, ...]:
        """All sites that a plan cannot count on: evacuated or lost now."""
        left = {site for site, mark in register.items() if mark != "active"}
        return tuple(sorted(left | self._lost_now()))

    def _lost_now(self) -> set[str]:
        return {site for site, one in self._standings().items() if one.verdict.state == "lost"}

    async def _answer_with_run(self, site: str, register: Mapping[str, Mark], hall: str = "") -> None:
        """hall: what is lost, if not the whole site. Such a run begins automatically only while no site is
        evacuated.
        """
        what, left = hall or site, self._lost(register)
        found = await self._plan(what, tuple(sorted({*left, hall})) if hall else left, register)
        if found is None:
            return
        ready, data = found
        mode = self._desk.policy.mode
        check_mode(mode, self._desk.store.quorum, len(self._sites))
        acts = mode == "act" and not (hall and left)
        bound = await self._desk.bind(data, *["envelope"] * 3) if hall or acts else None
        if hall and bound is not None and not bound.spec.steps:
            self._say("loss", what, f"{what} is lost; nothing has to move", {"plan": ready.plan, "steps": 0})
            self._back[what] = None  # when it is lost again, something may have to
            return
        if mode == "advise":
            words = f"{what} is lost; the plan is ready: {to_apply(ready.plan, left)}"
            self._say("loss", what, words, {"plan": ready.plan})
            return
        agreed = bound is not None and envelope.covers(self._desk.policy.envelope, bound.spec.envelope)
        approvals = 0 if agreed and acts else None
        names = left if len(left) > 1 and not hall else ()
        leaving = () if hall else tuple(one for one in left if register.get(one) == "active")
        run = await self._conductor.create(self._wanted(site, leaving, data, approvals, names, hall))
        goes = approvals == 0 and not names
        words = "starts without approval" if goes else f"waits for approval: {to_approve(run, names)}"
        self._say("loss", what, f"{what} is lost; {run} {words}", {"run": run, "plan": ready.plan})

    async def _answer_in_run(self, site: str, concerned: Concerned, register: Mapping[str, Mark]) -> None:
        """Another loss during a run: one plan for all lost sites together, in the same run."""
        run = concerned.run
        if site in concerned.accounted:
            self._say("loss", site, f"{site} is lost; {run} takes this into account", {"run": run})
            return
        of_halls = {hall.partition("/")[0] for hall in concerned.halls}
        if site not in {*concerned.leaving, *concerned.places, *of_halls}:
            self._say_once(
                site, f"{site} is lost as well; {run} continues first, and does nothing at this site"
            )
            raise _NotYet
        lost = self._lost(register)
        halls = (hall for hall in concerned.halls if hall.partition("/")[0] not in lost)
        found = await self._plan(site, tuple(sorted({*lost, *halls})), register)
        if found is None:
            return
        ready, data = found
        if self._desk.policies.of(run).mode == "advise":
            words = f"{site} was lost while {run} was in progress; it continues as planned until you run "
            words += f"evac run cancel {run} --reason WHY; then: {to_apply(ready.plan, lost)}"
            self._say("loss", site, words, {"run": run, "plan": ready.plan})
            return
        await self._replace(site, run, data, f"{site} is lost", lost)

    async def _replace(self, site: str, run: str, data: bytes, why: str, lost: Sequence[str]) -> None:
        asks = await self._conductor.replace_plan(run, data, why, lost, sorted(self._lost_now()))
        words = f"{why}; {run} has a new plan and continues"
        if asks:
            names = tuple(lost) if len(lost) > 1 else ()
            words = f"{why}; {run} has a new plan and waits for {', '.join(asks)}: {to_approve(run, names)}"
        self._say("loss", site, words, {"run": run, "lost": list(lost)})

    async def _answer_return(self, site: str) -> None:
        """A site whose name a person was to type answers again: the plan counts on it again."""
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
            found = await self._plan(site, self._lost(register), register)
            if found is not None:
                why = f"{site} answers again"
                await self._replace(site, concerned.run, found[1], why, found[0].lost)

    async def _plan(
        self, site: str, lost: tuple[str, ...], register: Mapping[str, Mark]
    ) -> tuple[Ready, bytes] | None:
        """The plan from the library, or one made now if none fits. site: the site or hall that asks."""
        drawer, guard = self._drawer, self._leadership.lease
        if not set(self._sites) - set(lost):
            words = f"{site} is lost, and no site would be left: restore one first"
            self._say("refused", site, words, {"code": "every-site"})
            return None
        found = await drawer.take(lost)
        if found is None:
            took_ms = await drawer.longest_ms()
            usually = f"; the slowest one so far took {took_ms / 1_000:.0f} s" if took_ms else ""
            words = f"{site} is lost; no plan is ready for this, so one is being made now{usually}"
            self._say_once(site, words)
            judged = {one for one in lost if one == site or register.get(one) == "active"}
            found = await self._saying_so(site, lost, judged, drawer.plan_now(lost, guard))
        if found is None:
            ready = await drawer.look(lost)
            problem = ready.problem if ready is not None else "none was made"
            self._say("trouble", site, f"{site} is lost, and no plan could be made: {problem}")
        return found

    async def _saying_so(
        self, site: str, lost: Sequence[str], judged: Collection[str], work: Coroutine[Any, Any, Made]
    ) -> Made:
        """The result of the work; reports every `PROGRESS_S`. Gives it up when any of `judged`, lost by
        verdict only, is healthy again: the plan would leave a site that answers.
        """
        making, began_ms, said = asyncio.ensure_future(work), self._desk.clock.monotonic_ms(), 0
        period_s = self._desk.policy.profile.period_ms / 1_000
        try:
            while True:
                done, _ = await asyncio.wait((making,), timeout=period_s)
                if done and making.exception() is not None:
                    return making.result()
                if any(self._is_healthy(one) for one in judged):
                    raise _NotYet
                if done:
                    return making.result()
                spent_s, names = (self._desk.clock.monotonic_ms() - began_ms) // 1_000, ", ".join(lost)
                if spent_s >= said + PROGRESS_S:
                    said = spent_s
                    words = f"the plan for the loss of {names} is still being made: {spent_s} s so far"
                    self._say("run", site, words)
        finally:
            making.cancel()

    def _is_healthy(self, what: str) -> bool:
        standing = (self._halls() if "/" in what else self._standings()).get(what)
        return standing is not None and standing.verdict.state == "healthy"

    def _wanted(
        self,
        site: str,
        leaving: tuple[str, ...],
        data: bytes,
        approvals: int | None,
        names: tuple[str, ...],
        hall: str = "",
    ) -> Wanted:
        verdict = self._halls()[hall].verdict if hall else self._standings()[site].verdict
        what = hall or site
        reason = f"{what} is lost: {verdict.reason}; seen by {', '.join(verdict.by)}"
        incident = f"{what.replace('/', '-')}-lost-{self._desk.clock.now_ms()}"
        mode, halls = self._desk.policy.mode, (hall,) if hall else ()
        return Wanted(
            incident, data, reason, mode, leaving, "lost", approvals=approvals, names=names, halls=halls
        )

    async def _protect(self, site: str) -> None:
        """Creates a small run for each store that lost its synchronous replica with the site."""
        await self._hanging.protect(site)

    def _say(self, kind: NoticeKind, site: str, words: str, data: Mapping[str, Any] | None = None) -> None:
        self._tell(Notice(kind, self._desk.clock.now_ms(), site, words, data or {}))

    def _say_once(self, site: str, words: str) -> None:
        if words not in self._reported:
            self._reported.add(words)
            self._say("loss", site, words)
