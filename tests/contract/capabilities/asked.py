"""What every question of a capability keeps: an answer in time, silence and nonsense that are no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from evac.drivers.capabilities import CopyReport
from evac.drivers.port import Checked
from evac.model.errors import ActionError
from tests.contract.capabilities.hostile import attacks
from tests.contract.capabilities.story import timed
from tests.contract.capabilities.suites import Asked

TIMEOUT_S: Final = 10.0
BRIEF_S: Final = 0.8


async def unrecorded(source: CopyReport, there: Sequence[CopyReport]) -> None:
    """For a copy whose begin no one records."""


async def ask(asked: Asked, question: str, within_s: float, *more: Any, action: Any = None) -> Any:
    """The answer, or the error that it ended with, in time; a probe may raise errors of the network."""
    how = asked.action if action is None else action
    call = getattr(asked.driver, question)(how, within_s, *more)
    if question == "probe":  # the witness ends it at its deadline
        call = asyncio.wait_for(call, within_s)
    try:
        return await timed(f"{how.driver} {question}", call, within_s)
    except (ActionError, OSError, TimeoutError, aiohttp.ClientError) as error:
        words = f"{error!s} {error!r} {error.__cause__!r}"
        assert not any(secret in words for secret in asked.secrets), "a secret was said"
        return error


@asynccontextmanager
async def silently(asked: Asked) -> AsyncIterator[float]:
    """While the server accepts connections but does not answer; yields a short time to ask within."""
    await asked.silence()
    try:
        yield BRIEF_S
    finally:
        await asked.speak()


async def refuses_hostile_answers(asked: Asked, question: str, *more: Any) -> None:
    """Each ends in time: in an answer, or in an error with a code that is no internal one."""
    wrong: list[str] = []
    for wire in asked.wires:
        async for attack, action in attacks(wire, asked.action, (question,)):
            try:
                found = await ask(asked, question, BRIEF_S, *more, action=action)
            except Exception as error:
                found, problem = error, f"raised {error!r}"
            else:
                problem = _problem_of(question, found)
                if attack.hopeless and good(found) and not (question == "probe" and attack.kind.alive):
                    problem = f"was believed: {found}"
            wrong += [f"{action.driver} {attack}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


def _problem_of(question: str, found: Any) -> str:
    match question:
        case "probe":
            return ""
        case "precheck_sync":
            return "" if isinstance(found, Checked) else f"raised {found!r}"
        case _:
            fine = isinstance(found, ActionError) or not isinstance(found, Exception)
            return "" if fine else f"raised {found!r}"


def good(found: Any) -> bool:
    """Whether an answer says that something is well."""
    return not isinstance(found, Exception) and any(
        getattr(found, name, False) for name in ("ready", "up", "matches")
    )
