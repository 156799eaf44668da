"""What every driver keeps that declares a capability with an answer of its own: one story for each.

The other capabilities act by verbs of the port, and keep the story of `tests.contract.drivers.suite`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from evac.drivers.capabilities import AnswersProbe, HealthReport, ProvesSync, ReportsHealth, ReportsRole
from evac.drivers.port import Action
from evac.model.errors import ActionError, Retryable

Step = Callable[[], Awaitable[None]]
TIMEOUT_S = 3.0
BRIEF_S = 0.8


async def reports_roles(
    driver: ReportsRole, primary: Action, replica: Action, silence: Step, confirms: tuple[str, ...] = ()
) -> None:
    """Of a healthy store: who is what, how far, and who confirms; a silent member has no role."""
    first = await driver.report_role(primary, TIMEOUT_S)
    second = await driver.report_role(replica, TIMEOUT_S)
    assert (first.role, second.role) == ("primary", "replica")
    assert (first.confirms, first.waits_for) == (confirms, ())
    assert second.lag_ms is not None
    assert second.confirms == second.waits_for == ()
    assert (first.position is None) == (second.position is None)
    if first.position is not None and second.position is not None:
        assert first.position >= 0
        assert second.position >= 0
        assert first.history == second.history != ""
    await silence()
    with pytest.raises(Retryable):
        await asyncio.wait_for(driver.report_role(primary, BRIEF_S), BRIEF_S + 2.0)


async def answers_probe(driver: AnswersProbe, action: Action, silence: Step, gone: Action) -> None:
    """What lives is up; what accepts and says nothing, and what is not there, never is."""
    assert (await driver.probe(action, TIMEOUT_S)).up
    assert not await _is_up(driver, gone)
    await silence()
    assert not await _is_up(driver, action)


async def _is_up(driver: AnswersProbe, action: Action) -> bool:
    """As the witness reads it: an error of the network, and silence until its deadline, are no answer."""
    try:
        async with asyncio.timeout(BRIEF_S):
            return (await driver.probe(action, BRIEF_S)).up
    except (OSError, TimeoutError):
        return False


async def proves_sync(
    driver: ProvesSync, primary: Action, candidate: str, sites: Mapping[str, str], silence: Step
) -> None:
    """Ready for the copy that every commit needs, and for no other; never raises."""
    lost = primary.at
    assert (await driver.precheck_sync(primary, TIMEOUT_S, candidate, sites, lost)).ready
    assert not (await driver.precheck_sync(primary, TIMEOUT_S, "no-one", sites, lost)).ready
    await silence()
    assert not (await driver.precheck_sync(primary, BRIEF_S, candidate, sites, lost)).ready


async def reports_health(driver: ReportsHealth, action: Action, fails: Step) -> None:
    """Good answers are no errors; what fails is counted, and is never raised."""
    assert await driver.report_health(action, TIMEOUT_S, 5) == HealthReport(5, 0)
    await fails()
    try:
        report = await driver.report_health(action, BRIEF_S, 5)
    except ActionError as error:
        raise AssertionError("a failure of the service was raised") from error
    assert report == HealthReport(5, 5)
