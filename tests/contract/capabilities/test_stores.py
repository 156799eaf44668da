"""What every driver of stores keeps: ReportsRole, Promotes, Fences, ProvesSync, Follows, Protects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.drivers.capabilities import Fences, Follows, Promotes, Protects, ProvesSync, ReportsRole
from evac.drivers.parameters import many
from evac.drivers.registry import DRIVERS
from evac.model.errors import ActionError, Permanent, Retryable
from tests.contract.capabilities.asked import TIMEOUT_S, ask, refuses_hostile_answers, silently
from tests.contract.capabilities.story import Case, assert_keeps_contract
from tests.contract.capabilities.suites import AskedRole, AskedSync, acting, asking, has


async def refused(case: Case) -> ActionError:
    """The action is neither called ready nor done now; returns what execute raises."""
    before = await case.state()
    checked = await case.driver.check(case.action, case.order)
    case.hear(checked)
    assert not checked.ready, "was called ready"
    with pytest.raises(ActionError) as raised:
        await case.driver.execute(case.action, replace(case.order, timeout_s=case.refused_timeout_s))
    case.hear(raised.value)
    assert await case.state() == before
    assert not await case.is_done()
    if checked.error is not None:
        assert checked.error.code == raised.value.code, "check foretells another error"
    return raised.value


@acting(Promotes, "promote")
def test_promote(case: Case) -> None:
    """While another primary takes writes no copy is promoted; once promoted, it is the primary and stays."""
    made_ready = case.prepare

    async def prepare() -> None:
        await refused(case)
        await made_ready()

    async def it_says_that_it_is_the_primary(case: Case) -> None:
        if has(case.driver, ReportsRole):
            assert (await case.driver.report_role(case.action, TIMEOUT_S)).role == "primary"  # type: ignore[attr-defined]

    case.prepare = prepare
    assert case.undo == "refused", "a store that moved stays moved"
    assert_keeps_contract(case, it_says_that_it_is_the_primary)


@acting(Promotes, "demote", hostile=False)
def test_demote(case: Case) -> None:
    """What gave its role up takes no write (the world says), and is called no primary."""

    async def it_is_called_no_primary(case: Case) -> None:
        if has(case.driver, ReportsRole) and not case.demotes_later:
            assert (await case.driver.report_role(case.action, TIMEOUT_S)).role != "primary"  # type: ignore[attr-defined]

    assert_keeps_contract(case, it_is_called_no_primary)


@acting(Fences, "fence")
def test_fence(case: Case) -> None:
    """Evidence names the proof; a proof that the driver does not declare is never given."""
    declared = DRIVERS[case.action.driver].proofs
    wanted = case.action.parameters["proof"]
    assert wanted in declared

    async def evidence_names_the_proof(case: Case) -> None:
        seen = await case.driver.observe(case.action, case.order)
        again = await case.driver.execute(case.action, replace(case.order, attempt=3))
        assert (again["proof"], seen.evidence["proof"]) == (wanted, wanted)

    assert_keeps_contract(case, evidence_names_the_proof)


@acting(Fences, "fence")
def test_no_fence_by_an_undeclared_proof(case: Case) -> None:
    declared = DRIVERS[case.action.driver].proofs
    (other, *_) = (one for one in ("network", "power", "sync", "lease") if one not in declared)

    async def story() -> None:
        await case.prepare()
        case.action = replace(case.action, parameters={**case.action.parameters, "proof": other})
        try:
            assert isinstance(await refused(case), Permanent)
        finally:
            await case.driver.close()

    case.run(story())


@acting(Follows, "rejoin")
def test_rejoin(case: Case) -> None:
    """A copy is never made to follow what is no primary; then it follows, and says so."""
    made_ready = case.prepare

    async def prepare() -> None:
        await refused(case)
        await made_ready()

    async def it_says_that_it_follows(case: Case) -> None:
        if has(case.driver, ReportsRole):
            assert (await case.driver.report_role(case.action, TIMEOUT_S)).role == "replica"  # type: ignore[attr-defined]

    case.prepare = prepare
    assert_keeps_contract(case, it_says_that_it_follows)


@acting(Protects, "protect", hostile=False)
def test_protect(case: Case) -> None:
    """The copies that shall confirm commits do."""

    async def those_named_confirm(case: Case) -> None:
        wanted = many(case.action.parameters, "synchronous")
        if has(case.driver, ReportsRole) and has(case.driver, ProvesSync):
            assert (await case.driver.report_role(case.action, TIMEOUT_S)).confirms == wanted  # type: ignore[attr-defined]

    assert_keeps_contract(case, those_named_confirm)


@asking(ReportsRole)
def test_roles(asked: AskedRole) -> None:
    """Of a healthy store: who is what, how far, and who confirms; a silent copy has no role."""

    async def story() -> None:
        first = await asked.driver.report_role(asked.action, TIMEOUT_S)
        second = await asked.driver.report_role(asked.replica, TIMEOUT_S)
        assert (first.role, second.role) == ("primary", "replica")
        assert (first.confirms, first.waits_for) == (asked.confirms, ())
        assert second.lag_ms is not None
        assert second.confirms == second.waits_for == ()
        assert (first.position is None) == (second.position is None)
        if first.position is not None and second.position is not None:
            assert first.position >= 0
            assert second.position >= 0
            assert first.history == second.history != ""
        await refuses_hostile_answers(asked, "report_role")
        async with silently(asked) as within_s:
            error = await ask(asked, "report_role", within_s)
            assert isinstance(error, Retryable), repr(error)

    asked.run(story())


@asking(ProvesSync)
def test_a_synchronous_copy_as_the_fence(asked: AskedSync) -> None:
    """Ready for the copy that every commit needs, and for no other; never raises."""
    lost = asked.action.at

    async def story() -> None:
        for_it = (asked.candidate, asked.sites, lost)
        assert (await asked.driver.precheck_sync(asked.action, TIMEOUT_S, *for_it)).ready
        assert not (await asked.driver.precheck_sync(asked.action, TIMEOUT_S, "no-one", *for_it[1:])).ready
        await refuses_hostile_answers(asked, "precheck_sync", *for_it)
        async with silently(asked) as within_s:
            checked = await ask(asked, "precheck_sync", within_s, *for_it)
            assert not checked.ready

    asked.run(story())
