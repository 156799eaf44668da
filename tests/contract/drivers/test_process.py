"""What is particular to the driver `process`, and any driver through an agent: real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.port import Action
from evac.drivers.process import driver as process_driver
from evac.drivers.process.driver import ProcessDriver, RemoteDriver
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from tests.contract.adapters import process
from tests.contract.adapters.process import Site
from tests.contract.capabilities.story import Case, assert_keeps_contract, order
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with process.site(tmp_path) as made:
        yield made


def test_a_scale_is_exact_and_goes_back_only_to_what_was_written_down(site: Site) -> None:
    async def story() -> None:
        driver = ProcessDriver()
        scale = site.action("scale", replicas=3)
        evidence = await driver.execute(scale, order())
        assert (evidence["working"], site.answering()) == (3, 3)
        with pytest.raises(Permanent, match="there is no record"):
            await driver.undo(scale, order())
        await driver.execute(site.action("start", replicas=1), order())
        assert site.answering() == 3
        await driver.undo(site.action("scale", replicas=3, from_replicas=1), order())
        assert site.answering() == 1
        await driver.execute(site.action("scale", replicas=2), order())
        with pytest.raises(Permanent, match="another step has since requested 2"):
            await driver.undo(site.action("scale", replicas=3, from_replicas=1), order())
        assert site.answering() == 2
        await driver.undo(site.action("scale", replicas=2, from_replicas=1), order())
        await driver.undo(site.action("scale", replicas=2, from_replicas=1), order())
        assert site.answering() == 1, "done twice, it is done"
        with pytest.raises(Permanent, match="at most 4"):
            await driver.execute(site.action("scale", replicas=9), order())
        await driver.execute(site.action("stop", replicas=0, from_replicas=3), order())
        assert site.answering() == 0
        await driver.undo(site.action("stop", replicas=0, from_replicas=3), order())
        assert site.answering() == 3
        await driver.execute(site.action("stop", replicas=0), order())
        await driver.undo(site.action("stop", replicas=0), order())
        assert site.answering() == 2, "nobody says how many there were: as many as the agent's file says"
        await driver.close()

    asyncio.run(story())


def test_what_runs_and_does_not_work_is_not_done(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_driver, "_PAUSE_S", 1_000.0)  # no time is left for another look

    async def story() -> None:
        driver = ProcessDriver()
        (site.folder / "sick").touch()
        with pytest.raises(OutcomeUnknown, match="0 of 2 work"):
            await driver.execute(site.action("start"), order())
        assert (await driver.observe(site.action("start"), order())).outcome == "unclear"
        (site.folder / "sick").unlink()
        await agents.until(lambda: site.answering() == 2)
        assert (await driver.observe(site.action("start"), order())).outcome == "done"
        assert (await driver.execute(site.action("verify", expect=2), order()))["working"] == 2
        await driver.close()

    asyncio.run(story())


def test_a_wrong_key_a_wrong_unit_and_no_agent_are_told_apart(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        driver = ProcessDriver()
        start = site.action("start")
        unknown = replace(start, settings={**start.settings, "unit": "nobody"})
        with pytest.raises(Permanent, match="no unit nobody"):
            await driver.execute(unknown, order())
        monkeypatch.setenv("EVAC_TEST_AGENT_KEY", "another-key-0123456789")
        with pytest.raises(Permanent, match="answers 401"):
            await driver.execute(start, order())
        site.process.kill()
        with pytest.raises(Retryable, match="cannot be reached"):
            await driver.execute(start, order())
        assert (await driver.observe(start, order())).outcome == "unclear"
        await driver.close()

    asyncio.run(story())
    assert site.answering() == 0


def test_a_driver_through_the_agent_keeps_the_contract_of_its_own(site: Site) -> None:
    done = site.folder / "done"
    settings: dict[str, Any] = {
        "argv": ("/bin/sh", "-c", f"[ -e {done} ] || touch {done}"),
        "observe_argv": ("/usr/bin/test", "-e", str(done)),
        "undo_argv": ("/bin/rm", "-f", str(done)),
    }
    driver = RemoteDriver("command", frozenset({"run"}), agents.at(site.config))

    async def state() -> object:
        return done.stat().st_mtime_ns if done.exists() else 0

    async def is_done() -> bool:
        return done.exists()

    case = Case(
        driver,
        Action("run", "router", "command", "pangyo", settings),
        state,
        is_done,
        silence=site.silence,
        speak=site.speak,
        tokens=True,
        undo="done",
        secrets=(agents.KEY,),
        silent_codes=("agent-no-answer",),
    )
    assert_keeps_contract(case)


def test_an_agent_does_only_what_its_file_allows(site: Site) -> None:
    async def story() -> None:
        driver = RemoteDriver("redis", frozenset({"promote"}), agents.at(site.config))
        promote = Action("promote", "presence", "redis", "pangyo")
        assert "does not support redis" in (await driver.check(promote, order())).problems[0]
        with pytest.raises(Permanent, match="does not support redis"):
            await driver.execute(promote, order())
        people = RemoteDriver("manual", frozenset({"run"}), agents.at(site.config))
        with pytest.raises(OutcomeUnknown, match="a person must do this"):
            await people.execute(Action("run", "feed-a", "manual", "pangyo"), order())
        await driver.close()
        await people.close()

    asyncio.run(story())
