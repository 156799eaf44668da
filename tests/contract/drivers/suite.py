"""The contract that every driver keeps, as one story told in one world.

A `Case` says how its world is made ready, what is done to it, how the world itself (never the driver) tells
whether it is done, and how it falls silent. Real servers and simulated worlds are cases alike: the story
waits by the running loop's clock and opens no socket.

    async def test() -> None:
        await keep_contract(case)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from evac.drivers.port import Action, Driver, Evidence, Order
from evac.drivers.registry import DRIVERS
from evac.engine.clock import SystemClock
from evac.engine.lead.generations import Generations, GuardedDriver
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable, Superseded
from evac.model.generation import token_in
from evac.store.memory import MemoryStore

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., object])
Step = Callable[[], Awaitable[None]]
SLACK_S = 2.0
"""What a call may take beyond its order's timeout: the machine is shared."""


def covers(driver: str, *capabilities: type) -> Callable[[_F], _F]:
    """Says which capabilities of a driver a test holds to their contract, on a real server.

    Read from the source by `tests/contract/capabilities/test_coverage.py`.
    """
    spec = DRIVERS[driver]
    assert all(one in spec.capabilities for one in capabilities), f"{driver} does not declare all of these"
    return lambda test: test


async def nothing() -> None:
    """A world that is ready as it is."""


def order(**changes: object) -> Order:
    """An ordinary order of an ordinary leader."""
    base = Order(
        run="run-1",
        step="step-1",
        attempt=1,
        token=7,
        epoch=3,
        reason="contract",
        timeout_s=15.0,
        key="run-1/step-1",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@dataclass(slots=True)
class Case:
    """One action of one driver in one world.

    state: what the world holds, in a value that compares equal while nothing changed. is_done: asked of the
    world. before: what observe says before anything was done; a driver that waits for a person says
    `unclear`. silence: the server takes connections and answers nothing (SIGSTOP); None where there is no
    server. speak: ends the silence. tokens: whether a lower token or epoch is refused. undo: `done` when it
    takes the action back and observe then says so, `refused` when it raises `Permanent`. secrets: plain
    texts that must appear nowhere. silent_errors: what execute raises in the silence. refusals:
    codes with which a system of others refuses an older generation, beside `superseded`.
    """

    driver: Driver
    action: Action
    state: Callable[[], Awaitable[object]]
    is_done: Callable[[], Awaitable[bool]]
    prepare: Step = nothing
    silence: Step | None = None
    speak: Step = nothing
    before: tuple[Literal["absent", "unclear"], ...] = ("absent",)
    tokens: bool = False
    undo: Literal["done", "refused"] = "refused"
    secrets: tuple[str, ...] = ()
    silent_errors: tuple[type[ActionError], ...] = (Retryable, OutcomeUnknown)
    refusals: tuple[str, ...] = ()
    silent_timeout_s: float = 0.8
    order: Order = field(default_factory=order)
    heard: list[str] = field(default_factory=list)

    def hear(self, words: object) -> None:
        """Keeps what a driver said, to be searched for secrets at the end."""
        self.heard.append(f"{words!s} {words!r}")


class _Ear(logging.Handler):
    """Hears every log record while the story is told."""

    def __init__(self, case: Case) -> None:
        super().__init__(logging.DEBUG)
        self.case = case

    def emit(self, record: logging.LogRecord) -> None:
        self.case.hear(record.getMessage())


async def keep_contract(case: Case) -> None:
    """Tells the whole story; the name of the function that fails is the sentence that is broken."""
    if case.tokens:
        case.order = replace(case.order, token=token_in(1, case.order.token))
    ear, root = _Ear(case), logging.getLogger("evac")
    level = root.level
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    try:
        await case.prepare()
        await a_ready_world_is_called_ready(case)
        await a_dry_run_changes_nothing(case)
        await what_is_not_done_is_observed_absent(case)
        await execute_does_it_and_says_what_it_saw(case)
        await what_is_done_is_observed_done(case)
        await doing_it_again_changes_nothing(case)
        if case.tokens:
            await a_lower_token_is_refused(case)
            await an_older_generation_is_refused(case)
        await a_superseded_controller_changes_nothing(case)
        await undo_takes_it_back_or_refuses(case)
        if case.silence is not None:
            await silence_is_never_taken_for_an_answer(case, case.silence)
        no_secret_was_said(case)
    finally:
        root.removeHandler(ear)
        root.setLevel(level)
        await case.driver.close()


async def a_ready_world_is_called_ready(case: Case) -> None:
    assert case.action.verb in case.driver.verbs
    assert case.action.driver == case.driver.name
    before = await case.state()
    checked = await case.driver.check(case.action, case.order)
    case.hear(checked)
    assert checked.ready, checked.problems
    _plain(checked.evidence)
    assert await case.state() == before, "check changed the world"


async def a_dry_run_changes_nothing(case: Case) -> None:
    before = await case.state()
    evidence = await case.driver.execute(case.action, replace(case.order, dry_run=True))
    case.hear(evidence)
    _plain(evidence)
    assert await case.state() == before
    assert not await case.is_done()


async def what_is_not_done_is_observed_absent(case: Case) -> None:
    before = await case.state()
    observed = await case.driver.observe(case.action, case.order)
    case.hear(observed)
    assert observed.outcome in case.before, observed
    assert await case.state() == before, "observe changed the world"


async def execute_does_it_and_says_what_it_saw(case: Case) -> None:
    evidence = await _timed(case, case.driver.execute(case.action, case.order), case.order.timeout_s)
    case.hear(evidence)
    assert await case.is_done()
    assert evidence, "nothing was said about what was done"
    _plain(evidence)


async def what_is_done_is_observed_done(case: Case) -> None:
    observed = await case.driver.observe(case.action, case.order)
    case.hear(observed)
    assert observed.outcome == "done", observed
    _plain(observed.evidence)


async def doing_it_again_changes_nothing(case: Case) -> None:
    before = await case.state()
    again = replace(case.order, attempt=case.order.attempt + 1)
    case.hear(await case.driver.execute(case.action, again))
    assert await case.state() == before
    assert await case.is_done()


async def a_lower_token_is_refused(case: Case) -> None:
    before = await case.state()
    for stale in (
        replace(case.order, token=case.order.token - 1),
        replace(case.order, token=case.order.token - 1, epoch=case.order.epoch - 1),
    ):
        error = await _error_of(case, case.driver.execute(case.action, stale))
        assert isinstance(error, Permanent), f"an older leader was obeyed or asked to try again: {error!r}"
    assert await case.state() == before


async def an_older_generation_is_refused(case: Case) -> None:
    """However often the lost store elected somebody: its tokens are all below those of the newer one."""
    before = await case.state()
    stale = replace(case.order, token=token_in(1, 0) - 1)
    error = await _error_of(case, case.driver.execute(case.action, stale))
    assert isinstance(error, Permanent), f"an older generation was obeyed: {error!r}"
    assert error.code in ("superseded", *case.refusals), error.code
    assert await case.state() == before


async def a_superseded_controller_changes_nothing(case: Case) -> None:
    """Whether or not the system keeps tokens: what an agent told is known before anything begins."""
    before = await case.state()
    known = Generations(MemoryStore(lambda: 0), SystemClock(), {"there": _Told()})
    driver = GuardedDriver(case.driver, known)
    for call in (driver.execute, driver.undo):
        try:
            await call(case.action, case.order)
        except Superseded as error:
            case.hear(error)
        else:
            raise AssertionError("a superseded controller acted")
    assert await case.state() == before


class _Told:
    """An agent that was told of a newer generation."""

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str]:
        return 2, "laptop"


async def undo_takes_it_back_or_refuses(case: Case) -> None:
    before = await case.state()
    if case.undo == "refused":
        error = await _error_of(case, case.driver.undo(case.action, case.order))
        assert isinstance(error, Permanent), error
        assert await case.state() == before
        return
    case.hear(await case.driver.undo(case.action, case.order))
    assert not await case.is_done()
    observed = await case.driver.observe(case.action, case.order)
    case.hear(observed)
    assert observed.outcome in case.before, observed
    undone = await case.state()
    case.hear(await case.driver.undo(case.action, case.order))
    assert await case.state() == undone, "undoing it again changed something"


async def silence_is_never_taken_for_an_answer(case: Case, silence: Step) -> None:
    brief = replace(case.order, timeout_s=case.silent_timeout_s)
    await silence()
    try:
        checked = await _timed(case, case.driver.check(case.action, brief), brief.timeout_s)
        case.hear(checked)
        assert not checked.ready, "what could not be checked was called ready"
        observed = await _timed(case, case.driver.observe(case.action, brief), brief.timeout_s)
        case.hear(observed)
        assert observed.outcome == "unclear", observed
        error = await _timed(case, _error_of(case, case.driver.execute(case.action, brief)), brief.timeout_s)
        assert isinstance(error, case.silent_errors), repr(error)
    finally:
        await case.speak()


def no_secret_was_said(case: Case) -> None:
    for secret in case.secrets:
        assert secret not in "\n".join(case.heard), "a secret was said"


async def _error_of(case: Case, call: Awaitable[object]) -> ActionError | None:
    """The error a call ends with; every word of it and of its causes is heard."""
    try:
        case.hear(await call)
    except ActionError as error:
        chain: BaseException | None = error
        while chain is not None:
            case.hear(chain)
            case.hear(getattr(chain, "hint", ""))
            chain = chain.__cause__
        return error
    return None


async def _timed(case: Case, call: Awaitable[_T], timeout_s: float) -> _T:
    """The call ends by itself within its order's timeout: the suite does not cut it short."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    result = await call
    took = loop.time() - began
    assert took <= timeout_s + SLACK_S, f"{case.action.driver} {case.action.verb} took {took:.1f} s"
    return result


def _plain(evidence: Evidence) -> None:
    """Evidence goes into the journal: small plain values."""
    for key, value in evidence.items():
        assert isinstance(key, str)
        assert isinstance(value, str | int | bool), (key, value)
        assert len(str(value)) <= 1_000, key
