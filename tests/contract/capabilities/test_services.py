"""What every driver of services keeps: RunsUnits, ReportsReplicas, RoutesTraffic, ReportsTraffic, Verifies,
ReportsHealth, AnswersProbe.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.drivers.capabilities import (
    AnswersProbe,
    ReportsHealth,
    ReportsReplicas,
    ReportsTraffic,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.port import Action, Order
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from tests.contract.capabilities.asked import (
    TIMEOUT_S,
    ask,
    good,
    refuses_hostile_answers,
    silently,
)
from tests.contract.capabilities.story import Case, assert_keeps_contract
from tests.contract.capabilities.suites import (
    AskedHealth,
    AskedProbe,
    AskedReplicas,
    AskedTraffic,
    acting,
    asking,
)

TOKEN = 1_000
"""Of a leader after all those in these tests."""


@acting(RunsUnits, "start", "scale", "stop")
def test_units(case: Case) -> None:
    """As many as the plan says run (the world counts), and as many as before once it is undone. Starts of a
    service run at once: one that asks for fewer is done, and ends nothing that another started.
    """

    async def a_start_ends_nothing(case: Case) -> None:
        fewer = replace(case.action, verb="start", parameters={"replicas": 1, "from_replicas": 0})
        another = replace(case.order, step="step-2", key="run-1/step-2")
        assert (await case.driver.observe(fewer, another)).outcome == "done"
        await case.driver.execute(fewer, another)
        assert (await case.driver.observe(fewer, another)).outcome == "done"
        assert await case.is_done()

    async def starts_are_undone_in_either_order(case: Case) -> None:
        """Or the driver says which must be undone first. What follows finds the action done again."""
        fewer = replace(case.action, verb="start", parameters={"replicas": 1, "from_replicas": 0})
        both = [(case.action, case.order), (fewer, replace(case.order, step="step-2", key="run-1/step-2"))]

        async def do(action: Action, its: Order) -> None:
            await case.driver.observe(action, its)
            await case.driver.execute(action, its)

        for order in (both, both[::-1]):
            for action, its in both:
                await do(action, its)
            refused = []
            for action, its in order:
                code = ""
                try:
                    await case.driver.undo(action, its)
                except Permanent as error:
                    code = error.code
                    refused.append((action, its))
                assert code in ("", "undo-moved-on")
            for action, its in refused:
                await case.driver.undo(action, its)
            assert not await case.is_done()
        await do(*both[0])

    assert case.undo == "done"
    promises = [] if case.action.verb == "stop" else [a_start_ends_nothing]
    if case.action.verb == "start" and not case.undo_is_theirs:
        promises.append(starts_are_undone_in_either_order)
    assert_keeps_contract(case, *promises)


@asking(ReportsReplicas)
def test_replicas(asked: AskedReplicas) -> None:
    """What it is set to run, none included; silence and nonsense are no number."""

    async def story() -> None:
        for count in (2, 3, 0, 1):
            if count != 2:
                await asked.set_to(count)
            assert await ask(asked, "report_replicas", TIMEOUT_S, TOKEN) == count
        if asked.untold is not None:
            assert await ask(asked, "report_replicas", TIMEOUT_S, TOKEN, action=asked.untold) is None
        await refuses_hostile_answers(asked, "report_replicas", TOKEN)
        async with silently(asked) as within_s:
            assert isinstance(await ask(asked, "report_replicas", within_s, TOKEN), Exception)

    asked.run(story())


@acting(RoutesTraffic, "shift", "drain", "ready")
def test_traffic(case: Case) -> None:
    """Traffic goes where it shall, and back; never to a site that no endpoint names."""

    async def an_unknown_site_gets_none(case: Case) -> None:
        before = await case.state()
        key = "to" if case.action.verb == "shift" else "site"
        nowhere = replace(case.action, parameters={**case.action.parameters, key: "nowhere"})
        another = replace(case.order, step="step-2", key="run-1/step-2")
        assert not (await case.driver.check(nowhere, another)).ready
        with pytest.raises(Permanent) as raised:
            await case.driver.execute(nowhere, another)
        case.hear(raised.value)
        assert await case.state() == before

    assert case.undo == "done"
    assert_keeps_contract(case, an_unknown_site_gets_none)


@asking(ReportsTraffic)
def test_where_users_are_sent(asked: AskedTraffic) -> None:
    """To the sites that were set, whoever did it; what is not clear, silence and nonsense are no sites."""

    async def story() -> None:
        assert await ask(asked, "report_traffic", TIMEOUT_S) == ("pangyo",)
        for sites in (("anyang", "pangyo"), ("anyang",), ("pangyo",)):
            await asked.send_to(sites)
            assert await ask(asked, "report_traffic", TIMEOUT_S) == sites
        for why, action in asked.unclear.items():
            assert await ask(asked, "report_traffic", TIMEOUT_S, action=action) is None, why
        await asked.send_to(())
        assert await ask(asked, "report_traffic", TIMEOUT_S) is None
        await asked.send_to(("pangyo",))
        await refuses_hostile_answers(asked, "report_traffic")
        async with silently(asked) as within_s:
            assert isinstance(await ask(asked, "report_traffic", within_s), Exception)

    asked.run(story())


@acting(RoutesTraffic, "drain")
def test_the_last_site_is_never_drained(case: Case) -> None:
    """Before `prepare`, the site of the action is the only one with traffic."""

    async def story() -> None:
        before = await case.state()
        try:
            assert not (await case.driver.check(case.action, case.order)).ready
            with pytest.raises(Permanent):
                await case.driver.execute(case.action, case.order)
            assert await case.state() == before
        finally:
            await case.driver.close()

    case.run(story())


@acting(Verifies, "verify")
def test_verify(case: Case) -> None:
    """What does not work is never called good, and a look changes nothing. `prepare` makes it work."""

    async def story() -> None:
        driver, action = case.driver, case.action
        brief = replace(case.order, timeout_s=case.silent_timeout_s)
        try:
            before = await case.state()
            with pytest.raises((Retryable, OutcomeUnknown)) as raised:
                await driver.execute(action, brief)
            assert raised.value.code
            assert (await driver.observe(action, case.order)).outcome in ("absent", "unclear")
            assert await case.state() == before, "a look changed the world"
            await case.prepare()
            before = await case.state()
            assert (await driver.check(action, case.order)).ready
            assert await driver.execute(action, case.order)
            assert (await driver.observe(action, case.order)).outcome == "done"
            with pytest.raises(Permanent):
                await driver.undo(action, case.order)
            assert await case.state() == before, "a look changed the world"
            if case.silence is not None:
                await case.silence()
                with pytest.raises(ActionError):
                    await driver.execute(action, brief)
                assert (await driver.observe(action, brief)).outcome == "unclear"
                await case.speak()
        finally:
            await driver.close()

    case.run(story())


@asking(ReportsHealth)
def test_health(asked: AskedHealth) -> None:
    """Good answers are no errors; what fails, or is silent, is counted or left out, and is never raised."""

    async def story() -> None:
        assert await asked.driver.report_health(asked.action, TIMEOUT_S, 5) == asked.seen
        await refuses_hostile_answers(asked, "report_health", 5)
        async with silently(asked) as within_s:
            silent = await ask(asked, "report_health", within_s, 5)
            assert silent.requests == silent.errors, "silence was counted as good"
        await asked.fails()
        assert await ask(asked, "report_health", TIMEOUT_S, 5) == asked.failed

    asked.run(story())


@asking(AnswersProbe)
def test_probe(asked: AskedProbe) -> None:
    """What lives is up; what accepts and says nothing, and what is not there, never is."""

    async def story() -> None:
        assert (await asked.driver.probe(asked.action, TIMEOUT_S)).up
        assert not good(await ask(asked, "probe", TIMEOUT_S, action=asked.gone))
        await refuses_hostile_answers(asked, "probe")
        async with silently(asked) as within_s:
            assert not good(await ask(asked, "probe", within_s))

    asked.run(story())
