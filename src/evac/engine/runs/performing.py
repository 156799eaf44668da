"""One try of one step on the real systems: its actions in order, each checked, executed and observed.

Authority is checked once more before each effect. A second try looks first and does only what is missing.
Anything in doubt is reported as unknown; nothing here retries by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from evac.drivers.capabilities import BootsServers
from evac.drivers.port import Action, Driver, Evidence, Observed, Order
from evac.drivers.registry import can
from evac.drivers.store_driver import ANOTHER_PRIMARY
from evac.engine.boots.binding import NoTurn
from evac.engine.pool import Within
from evac.model.boot_codes import BOOT_CODES, BOOTING
from evac.model.errors import EvacError, LeaseLost, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.model.run_policy import Patience
from evac.run.patience import NO_MORE, again_ms, deadline_ms
from evac.run.values import RunStep
from evac.steps.registry import kind_of
from evac.views.words import duration

Outcome = tuple[str, dict[str, Any]]
"""Kind of event, and its data."""

Boundary = Callable[[], None]
"""Called between every journal record and effect. Tests stop the world there."""


class Gate(Protocol):
    """turn: wraps the request of a boot that draws power. seen_on: someone looked. may_arrive: whether a
    request of an earlier leader may still be on its way.
    """

    def turn(self, step: RunStep) -> AbstractAsyncContextManager[None]: ...

    def seen_on(self, step: RunStep) -> None: ...

    def may_arrive(self, step: RunStep) -> bool: ...


TEXT_MOST: Final = 500
EVIDENCE_MOST: Final = 32
OBSERVE_LEAST_MS: Final = 5_000
LATE_AGAIN_MS: Final = 100
FENCE_GONE: Final = "fence-gone"
_OF_AGENTS: Final = "agent-"
OFF_SHARE: Final = 0.5
"""The share of a try's time that switching off may take."""


class Authority(Protocol):
    """The lease that acts. check: raises `LeaseLost` unless it is certainly held."""

    @property
    def token(self) -> int: ...

    def check(self) -> None: ...


class Try(NamedTuple):
    """One try of one step."""

    step: RunStep
    """Whether its undo is what is in doubt."""
    name: str
    attempt: int
    tries: int = 1
    """Tries since a person last said retry, including this one."""
    epoch: int = 0
    in_undo: bool = False
    """Of an unknown outcome."""
    cycle: bool = False
    """A boot found on but not up is switched off."""
    unseen: bool = False
    """A person asked for it although the result of the previous try cannot be observed."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every order of a run contains."""

    run: str
    actions: Callable[[str], Sequence[Action]]
    """Actions by step id in the run."""
    driver: Callable[[str], Driver]
    authority: Authority
    patience: Patience
    reason: str = ""
    ticket: str = ""
    dry_run: bool = False
    yields: Callable[[str], Sequence[Action]] = lambda step: ()
    """How the old primary of a promotion gives up its role."""
    proofs: Callable[[str], Sequence[str]] = lambda step: ()
    """Its fences that something can switch back."""


def _unseen(seen: Observed) -> str:
    words = str(seen.evidence.get("why") or seen.evidence.get("problem") or "")
    return "cannot tell what the previous attempt did" + (f": {_short(words)}" if words else "")


class Performer:
    """Performs tries. Every call ends within the deadline of its step.

    switched_on: called during a boot, once its controller has taken the request.
    """

    def __init__(
        self,
        terms: Terms,
        boundary: Boundary,
        gate: Gate | None = None,
        switched_on: Callable[[Try], None] = lambda one: None,
    ) -> None:
        self._terms, self._boundary, self._gate, self._switched_on = terms, boundary, gate, switched_on

    async def start(self, one: Try) -> Outcome:
        """The result event: step_succeeded, step_failed or step_unknown. Raises `LeaseLost`.

        A promotion reported as failed is checked before that is believed: otherwise another candidate could
        be promoted.
        """
        acting = _Acting()
        outcome = await self._tried(one, acting)
        if outcome[0] != "step_failed" or not acting.begun:
            return outcome
        if not kind_of(one.step.kind).makes_primary or self._terms.dry_run:
            return outcome
        seen = (await self.observe(one))[1]
        if seen["outcome"] == "absent":
            return outcome
        if seen["outcome"] == "done":
            return "step_succeeded", {"evidence": seen["evidence"]}
        return "step_unknown", {"message": outcome[1]["message"], "code": outcome[1]["code"]}

    async def _tried(self, one: Try, acting: _Acting) -> Outcome:
        """As the drivers report it."""
        limit_ms = deadline_ms(self._terms.patience, one.step)
        within = Within(self._do_all(one, limit_ms, acting), limit_ms / 1_000)
        try:
            return await within
        except (LeaseLost, asyncio.CancelledError):
            raise
        except OutcomeUnknown as error:
            return "step_unknown", {"message": _short(error.message), "code": error.code}
        except Permanent as error:
            return await self._gave_up(one, error)
        except NoTurn as error:
            return _failed(error.code, error.message, LATE_AGAIN_MS)
        except Retryable as error:
            return self._again(one, error.code, error.message, error.after_ms)
        except Exception as error:  # late; or a driver that breaks its contract: in doubt, whatever it meant
            late = within.expired()
            words = _late(acting.action, limit_ms) if late else _broken(acting.action, error)
            if acting.begun:
                return "step_unknown", {"message": words}
            return self._again(one, "timeout" if late else "driver-broken", words)

    async def _gave_up(self, one: Try, error: Permanent) -> Outcome:
        """It failed for good. A server that may still draw power is checked at once: off is off."""
        kind, data = _failed(error.code, words_of(error), NO_MORE)
        known = BOOT_CODES.get(error.code)
        if known is not None and known.draws and not self._terms.dry_run:
            seen = await self.observe(one)
            if seen[1]["outcome"] == "absent":
                data["off"] = True
        return kind, data

    async def _do_all(self, one: Try, limit_ms: int, acting: _Acting) -> Outcome:
        evidence: dict[str, Any] = {}
        for number, action in enumerate(self._terms.actions(one.name)):
            acting.action = action
            driver = self._terms.driver(action.driver)
            order = self._order(one, number, limit_ms)
            if one.attempt > 1 and not self._terms.dry_run:
                seen = await driver.observe(action, order)
                if seen.outcome == "done":
                    _collect(evidence, seen.evidence)
                    continue
                if seen.outcome == "unclear":
                    code = str(seen.evidence.get("code", ""))
                    if kind_of(one.step.kind).boots and (code == "bmc-silent" or code.startswith(_OF_AGENTS)):
                        why = str(seen.evidence.get("why", "it does not answer"))  # it was tried: it failed
                        return self._again(one, code, why)
                    if one.cycle and _hangs(seen):
                        return await self._switched_off(one, driver, action, order)
                    if not one.unseen:
                        return "step_unknown", {"message": _unseen(seen)}
            outcome = await self._do_one(one, driver, action, order, evidence, acting)
            if outcome is not None:
                return outcome if outcome[0] != "step_failed" else self._again(one, *_why(outcome))
        return "step_succeeded", {"evidence": evidence} if evidence else {}

    async def _unfenced(self, one: Try, order: Order) -> str:
        """Why nothing may be promoted, checked last: a device that held the old primary reports that it no
        longer does, and the old primary has not given up its role. A device that is silent by now or cannot
        report revokes nothing: its proof is recorded.
        """
        fences = () if order.dry_run else self._terms.proofs(one.name)
        parts = [(step, *part) for step in fences for part in enumerate(self._terms.actions(step))]
        for step, number, action in parts:
            told = replace(order, step=step, key=_key(order.run, step, number))
            if await self._seen(action, told) != "absent":
                continue
            yields = self._terms.yields(one.name)
            if yields and all([await self._seen(each, order) == "done" for each in yields]):
                continue
            return (
                f"the fence of {action.target} at {action.at or '-'} was rolled back after it "
                f"was proven; nothing was promoted: fence it again, then retry"
            )
        return ""

    async def _seen(self, action: Action, order: Order) -> str:
        try:
            async with asyncio.timeout(min(order.timeout_s, OBSERVE_LEAST_MS / 1_000)):
                return (await self._terms.driver(action.driver).observe(action, order)).outcome
        except LeaseLost:
            raise
        except (EvacError, TimeoutError):
            return "unclear"

    async def _switched_off(self, one: Try, driver: Driver, action: Action, order: Order) -> Outcome:
        """Switches off a server that hangs in its boot and confirms it is off: its next try switches it
        on.
        """
        self._boundary()
        self._terms.authority.check()
        await driver.undo(action, replace(order, timeout_s=order.timeout_s * OFF_SHARE))
        self._boundary()
        seen = await driver.observe(action, order)
        if seen.outcome != "absent":
            return "step_unknown", {"message": "it was switched off, but was never observed to be off"}
        words = "it was on but did not come up: it was switched off and is being booted again"
        kind, data = _failed("not-done", words, LATE_AGAIN_MS)
        return kind, data | {"off": True}

    async def _do_one(
        self,
        one: Try,
        driver: Driver,
        action: Action,
        order: Order,
        evidence: dict[str, Any],
        acting: _Acting,
    ) -> Outcome | None:
        """Performs one action; None if it is done."""
        self._terms.authority.check()
        checked = await driver.check(action, order)
        code = "" if checked.error is None else checked.error.code
        if code == ANOTHER_PRIMARY and await self._yielded(one, order, acting):
            checked = await driver.check(action, order)
        if checked.error is not None:
            raise checked.error
        if checked.problems:
            return _failed("not-ready", "; ".join(checked.problems), 0)
        if kind_of(one.step.kind).makes_primary and (gone := await self._unfenced(one, order)):
            return _failed(FENCE_GONE, gone, 0)
        self._boundary()
        self._terms.authority.check()
        acting.begun = True
        found = await self._execute(one, driver, action, order)
        self._boundary()
        if found:
            _collect(evidence, found)
        if order.dry_run:
            return None
        seen = await driver.observe(action, order)
        if seen.evidence:
            _collect(evidence, seen.evidence)
        if seen.outcome == "unclear":
            return "step_unknown", {"message": f"{action.verb} {action.target}: cannot observe it"}
        if seen.outcome == "absent":
            return _failed(
                "not-done", f"{action.verb} {action.target} reported success, but it is not done", 0
            )
        return None

    async def _yielded(self, one: Try, order: Order, acting: _Acting) -> bool:
        """Whether the old primary of a promotion gave up its role: it was taken for lost, answers again, and
        is the only obstacle to the new one.
        """
        gave_up = False
        for action in () if order.dry_run else self._terms.yields(one.name):
            driver = self._terms.driver(action.driver)
            told = replace(order, key=f"{order.key}/old")
            if not (await driver.check(action, told)).ready:
                continue
            self._boundary()
            self._terms.authority.check()
            acting.begun = True
            await driver.execute(action, told)
            self._boundary()
            gave_up = True
        return gave_up

    async def _execute(self, one: Try, driver: Driver, action: Action, order: Order) -> Evidence:
        """Executes an action. A boot waits for its turn to draw power: around the single request if the
        driver knows which that is.
        """
        if self._gate is None or action.verb != "boot" or order.dry_run:
            return await driver.execute(action, order)
        gate, step = self._gate, one.step
        if can(action.driver, BootsServers):
            told = replace(order, power=lambda: gate.turn(step), switched_on=lambda: self._switched_on(one))
            return await driver.execute(action, told)
        async with gate.turn(step):
            return await driver.execute(action, order)

    async def observe(self, one: Try) -> Outcome:
        """step_observed: done when every action is; absent when something is certainly missing."""
        limit_ms = max(OBSERVE_LEAST_MS, deadline_ms(self._terms.patience, one.step))
        boot_gate = self._gate if kind_of(one.step.kind).boots else None
        early = boot_gate is not None and boot_gate.may_arrive(one.step)
        seen: list[Observed] = []
        acting, limit = _Acting(), asyncio.timeout(limit_ms / 1_000)
        try:
            async with limit:
                for number, action in enumerate(self._terms.actions(one.name)):
                    acting.action = action
                    order = self._order(one, number, limit_ms)
                    seen.append(await self._terms.driver(action.driver).observe(action, order))
        except (LeaseLost, asyncio.CancelledError):
            raise
        except Exception as error:  # a system that cannot be asked gives no answer
            why = _late(acting.action, limit_ms) if limit.expired() else _broken(acting.action, error)
            seen.append(Observed("unclear", {"why": why}))
        evidence: dict[str, Any] = {}
        for one_seen in seen:
            _collect(evidence, one_seen.evidence)
        outcome = _together([one_seen.outcome for one_seen in seen], one.in_undo)
        if boot_gate is not None and evidence.get("power") == "on":
            boot_gate.seen_on(one.step)
        elif outcome == "absent" and early:
            outcome = "unclear"
            evidence["why"] = "a request from the previous leader may still arrive"
        return "step_observed", {"outcome": outcome, "evidence": evidence}

    async def undo(self, one: Try) -> Outcome:
        """undo_done, undo_failed or step_unknown; the last action is undone first."""
        limit_ms = deadline_ms(self._terms.patience, one.step)
        actions = list(enumerate(self._terms.actions(one.name)))
        evidence: dict[str, Any] = {}
        acting, limit = _Acting(), asyncio.timeout(limit_ms / 1_000)
        try:
            async with limit:
                for number, action in reversed(actions):
                    acting.action = action
                    self._boundary()
                    self._terms.authority.check()
                    order = self._order(one, number, limit_ms)
                    _collect(evidence, await self._terms.driver(action.driver).undo(action, order))
                    self._boundary()
        except (LeaseLost, asyncio.CancelledError):
            raise
        except Permanent as error:
            return "undo_failed", _failed(error.code, words_of(error), NO_MORE)[1]
        except Retryable as error:
            wait_ms = again_ms(self._terms.patience, one.tries, error.after_ms)
            return "undo_failed", _failed(error.code, error.message, wait_ms)[1]
        except Exception as error:  # a timeout, or a doubt
            if isinstance(error, EvacError):
                return "step_unknown", {"message": _short(error.message)}
            words = _late(acting.action, limit_ms) if limit.expired() else _broken(acting.action, error)
            return "step_unknown", {"message": words}
        return "undo_done", {"evidence": evidence}

    def _again(self, one: Try, code: str, message: str, after_ms: int = 0) -> Outcome:
        return _failed(code, message, again_ms(self._terms.patience, one.tries, after_ms))

    def _order(self, one: Try, number: int, limit_ms: int) -> Order:
        terms = self._terms
        return Order(
            terms.run,
            one.step.id,
            one.attempt,
            terms.authority.token,
            one.epoch,
            terms.reason,
            limit_ms / 1_000,
            _key(terms.run, one.step.id, number),
            terms.ticket,
            terms.dry_run,
        )


class _Acting:
    """Tracks whether an effect may have begun, and which action is being performed or observed."""

    __slots__ = ("action", "begun")

    def __init__(self) -> None:
        self.begun = False
        self.action: Action | None = None


def _late(action: Action | None, limit_ms: int) -> str:
    return f"{_whose(action)}did not finish within {duration(limit_ms)}"


def _broken(action: Action | None, error: Exception) -> str:
    """An error that no driver may raise."""
    what = str(error)
    return _short(f"{_whose(action)}{type(error).__name__}" + (f": {what}" if what else ""))


def _whose(action: Action | None) -> str:
    if action is None:
        return ""
    return f"{action.driver} at {action.at}: " if action.at else f"{action.driver}: "


def _key(run: str, step: str, number: int) -> str:
    """Key of an action of a step, the same on every try."""
    return f"{run}/{step}/{number}" if number else f"{run}/{step}"


def _hangs(seen: Observed) -> bool:
    """Whether the right server answers, is on, and its controller reports that its system is not up."""
    return seen.evidence.get("power") == "on" and seen.evidence.get("state") == BOOTING


def words_of(error: EvacError) -> str:
    """Why a step failed for good, and what to do next: people read both where the run is shown. What is too
    long is cut before the hint.
    """
    if not error.hint:
        return _short(error.message)
    hint = _short(f"; next: {error.hint}")
    return _short(error.message, TEXT_MOST - len(hint)) + hint


def _why(outcome: Outcome) -> tuple[str, str]:
    return outcome[1]["code"], outcome[1]["message"]


def _failed(code: str, message: str, wait_ms: int) -> Outcome:
    return "step_failed", {"code": code, "message": _short(message), "again_ms": wait_ms}


def _together(outcomes: Iterable[str], in_undo: bool) -> str:
    """The outcome over all actions of a step. An undo is complete when nothing of any action remains."""
    found = set(outcomes)
    if "unclear" in found:
        return "unclear"
    if in_undo:
        return "done" if "done" in found else "absent"
    return "absent" if "absent" in found else "done"


def _collect(evidence: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds small plain values; later ones win. Evidence is bounded, because it goes into the journal."""
    for key, value in more.items():
        if len(evidence) >= EVIDENCE_MOST and key not in evidence:
            break
        evidence[key] = value if isinstance(value, bool | int) else _short(str(value))


def _short(text: str, most: int = TEXT_MOST) -> str:
    return text if len(text) <= most else text[: max(0, most - 1)] + "…" * (most > 0)
