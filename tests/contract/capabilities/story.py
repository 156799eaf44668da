"""The contract that every driver keeps for every verb, as one story: check, do, observe, undo.

A `Case` says how its world is made ready, what is done to it, how the world itself (never the driver) shows
whether it is done, and how it falls silent. Real servers and simulated worlds are cases alike: the story
waits by the running loop's clock. What a capability promises beyond it is in the suites next to this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from evac.drivers.port import Action, Driver, Evidence, Order
from evac.engine.clock import SystemClock
from evac.engine.lead.generations import Generations, GuardedDriver
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable, Superseded
from evac.model.generation import token_in
from evac.store.port import MemoryStore
from evac_lab.process import family
from tests.contract.capabilities.hostile import Attack, Wire, attacks
from tests.promptness import Stopwatch

_T = TypeVar("_T")
Step = Callable[[], Awaitable[None]]
SLACK_S = 2.0
"""What a call may take beyond its order's timeout, not counting how long a busy machine kept us waiting."""
ENDLESS_S = 60.0
"""On no machine does a call take as long that knows an end."""
BEAT_S = 0.05


async def until_stopped(pid: int, children: bool = True) -> None:
    """After SIGSTOP: each thread of a process, and of its children, stops when it is next scheduled."""

    def runs(thread: Path) -> bool:
        try:
            return (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "TtZX"
        except OSError:
            return False

    async with asyncio.timeout(20.0):
        for one in family(pid) if children else (pid,):
            while any(runs(thread) for thread in Path(f"/proc/{one}/task").glob("*")):
                await asyncio.sleep(0.01)


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
    """One action of one driver in one world."""

    driver: Driver
    action: Action
    state: Callable[[], Awaitable[object]]
    """What the world holds, in a value that compares equal while nothing changed."""
    is_done: Callable[[], Awaitable[bool]]
    """Asked of the world, never of the driver."""
    prepare: Step = nothing
    """Brings the world from where the capability's suite found it to where the action can be done."""
    silence: Step | None = None
    """The server accepts connections but does not answer (SIGSTOP); None where there is no server."""
    speak: Step = nothing
    """Ends the silence."""
    before: tuple[Literal["absent", "unclear", "done"], ...] = ("absent",)
    """What observe says before anything was done: `unclear` where a driver waits for a person, or `done`
    where the system may get there by itself.
    """
    tokens: bool = False
    """Whether the system keeps tokens, and refuses a lower one."""
    epochs: bool = False
    """Whether it keeps the epoch of a data set, and refuses a lower one."""
    undo: Literal["done", "refused"] = "refused"
    """Whether undo takes the action back, or raises `Permanent`."""
    undo_is_theirs: bool = False
    """Whether a program of others takes it back, from notes of its own."""
    secrets: tuple[str, ...] = ()
    """Plain texts that must appear nowhere."""
    silent_errors: tuple[type[ActionError], ...] = (Retryable, OutcomeUnknown)
    """What execute raises in the silence."""
    silent_codes: tuple[str, ...] = ()
    """With which codes it ends in the silence, as the reference of drivers says."""
    refusals: tuple[str, ...] = ()
    """Codes with which a system of others refuses an older generation, besides `superseded`."""
    demotes_later: bool = False
    """Whether a primary that was demoted is one until another takes over in order."""
    silent_timeout_s: float = 0.8
    refused_timeout_s: float = 2.0
    """Of an order that must be refused: some drivers wait until then for what keeps it back to end."""
    wires: tuple[Wire, ...] = ()
    """Ways to its servers over which answers can be exchanged for hostile ones."""
    order: Order = field(default_factory=order)
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    """Plays a story: a simulated world has a loop of its own."""
    heard: list[str] = field(default_factory=list)

    def hear(self, words: object) -> None:
        """Keeps what a driver said, to be searched for secrets at the end."""
        self.heard.append(f"{words!s} {words!r}")


class _Ear(logging.Handler):
    """Hears every log record while the story runs, and every error that no one waited for."""

    def __init__(self, case: Case) -> None:
        super().__init__(logging.DEBUG)
        self.case = case
        self.lost: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.case.hear(record.getMessage())

    def lose(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "never retrieved" in context["message"]:  # what a library says of a broken connection is its own
            self.lost.append(f"{context['message']}: {context.get('exception')!r}")


def assert_keeps_contract(case: Case, *promises: Callable[[Case], Awaitable[None]]) -> None:
    """Plays the whole story; the name of the function that fails is the sentence that is broken.

    promises: of the capability, each asked after the action was done.
    """
    case.run(_keep(case, promises))


async def _keep(case: Case, promises: tuple[Callable[[Case], Awaitable[None]], ...]) -> None:
    if case.tokens:
        case.order = replace(case.order, token=token_in(1, case.order.token))
    ear, root, loop = _Ear(case), logging.getLogger("evac"), asyncio.get_running_loop()
    level, handler = root.level, loop.get_exception_handler()
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    loop.set_exception_handler(ear.lose)
    try:
        await case.prepare()
        await a_ready_world_is_called_ready(case)
        await a_dry_run_changes_nothing(case)
        await what_is_not_done_is_observed_absent(case)
        await hostile_answers_are_never_believed(case, done=False)
        await execute_does_it_and_says_what_it_saw(case)
        await what_is_done_is_observed_done(case)
        await doing_it_again_changes_nothing(case)
        for promise in promises:
            await promise(case)
        await hostile_answers_are_never_believed(case, done=True)
        if case.tokens:
            await a_lower_token_is_refused(case)
            await an_older_generation_is_refused(case)
        if case.epochs:
            await a_lower_epoch_is_refused(case)
        await a_superseded_controller_changes_nothing(case)
        await undo_takes_it_back_or_refuses(case)
        if case.silence is not None:
            await silence_is_never_taken_for_an_answer(case, case.silence)
        no_secret_was_said(case)
        assert not ear.lost, ear.lost
    finally:
        root.removeHandler(ear)
        root.setLevel(level)
        loop.set_exception_handler(handler)
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
    assert "done" in case.before or not await case.is_done()


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


async def a_lower_epoch_is_refused(case: Case) -> None:
    """The same leader, under an epoch of the data set that is over."""
    before = await case.state()
    stale = replace(case.order, epoch=case.order.epoch - 1)
    error = await _error_of(case, case.driver.execute(case.action, stale))
    assert isinstance(error, Permanent), f"an epoch that is over was obeyed: {error!r}"
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
    """Whether or not the system keeps tokens: what an agent has seen is known before anything begins."""
    before = await case.state()
    known = Generations(MemoryStore(lambda: 0), SystemClock(), {"there": _Newer()})
    driver = GuardedDriver(case.driver, known)
    for call in (driver.execute, driver.undo):
        try:
            await call(case.action, case.order)
        except Superseded as error:
            case.hear(error)
        else:
            raise AssertionError("a superseded controller acted")
    assert await case.state() == before


class _Newer:
    """An agent that has seen a newer generation."""

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str, int]:
        return 2, "laptop", 0


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
    await case.driver.observe(case.action, brief)  # uses up what a driver knows from its own last change
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
        assert error.code in case.silent_codes, f"{error!r} ends in {error.code}, which is not documented"
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


async def timed(words: str, call: Awaitable[_T], timeout_s: float) -> _T:
    """The call ends by itself within its order's timeout: the suite does not cut it short. What a busy
    machine takes from this loop, or from the programs that the call started, is not counted; a call that
    knows no end takes longer than any machine.
    """
    loop = asyncio.get_running_loop()
    late = 0.0

    async def beat() -> None:
        nonlocal late
        while True:
            before = loop.time()
            await asyncio.sleep(BEAT_S)
            late += loop.time() - before - BEAT_S

    heart = asyncio.create_task(beat())
    watch = Stopwatch()
    try:
        return await call
    finally:
        heart.cancel()
        counted_s = min(watch.counted_s, watch.took_s - late)
        assert counted_s <= timeout_s + SLACK_S, f"{words} took {counted_s:.1f} s"
        assert watch.took_s <= ENDLESS_S, f"{words} took {watch.took_s:.1f} s"


async def _timed(case: Case, call: Awaitable[_T], timeout_s: float) -> _T:
    return await timed(f"{case.action.driver} {case.action.verb}", call, timeout_s)


async def hostile_answers_are_never_believed(case: Case, done: bool) -> None:
    """Huge, deep, slow, cut, of the wrong type: an error with a code, in time, and the world as it was."""
    brief = replace(case.order, timeout_s=case.silent_timeout_s)
    before = await case.state()
    wrong: list[str] = []
    for wire in case.wires:
        async for attack, action in attacks(wire, case.action, ("check", "observe", "execute")[: 2 + done]):
            problem = await _problem_of(case, attack, action, brief, "absent" if done else "done")
            wrong += [f"{action.driver} {action.verb}: {attack}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)
    assert await case.state() == before, "a hostile answer changed the world"


async def _problem_of(case: Case, attack: Attack, action: Action, brief: Order, opposite: str) -> str:
    """What was wrong about a call whose answer was exchanged; empty if nothing was."""
    call = getattr(case.driver, attack.call)(action, brief)
    try:
        found = await _timed(case, call, brief.timeout_s)
    except ActionError as error:
        case.hear(error)
        return "" if attack.call == "execute" and error.code else f"raised {error!r}"
    except Exception as error:
        return f"raised {error!r}"
    case.hear(found)
    if attack.call == "observe" and found.outcome == opposite and opposite not in case.before:
        return f"was believed: {found}"
    if attack.call == "check" and attack.hopeless and found.ready:
        return f"was called ready: {found}"
    return ""


def _plain(evidence: Evidence) -> None:
    """Evidence goes into the journal: small plain values."""
    for key, value in evidence.items():
        assert isinstance(key, str)
        assert isinstance(value, str | int | bool), (key, value)
        assert len(str(value)) <= 1_000, key
