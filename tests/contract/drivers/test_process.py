"""The process driver, and any driver through an agent: real agents, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.agent.config import AgentConfig, UnitConfig
from evac.drivers.capabilities import AnswersProbe, RunsUnits, Verifies
from evac.drivers.port import Action, Value
from evac.drivers.process.driver import ProcessDriver, RemoteDriver
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac_lab.process import Process
from tests.contract.capabilities import questions
from tests.contract.drivers.ports import free_port
from tests.contract.drivers.suite import Case, covers, keep_contract, order
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


class Site:
    """A site with an agent in a process of its own, and one service of two instances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unit: UnitConfig = agents.service(folder, count=2)
        self.config: AgentConfig = agents.config(folder, self.unit)
        argv = json.dumps(list(self.unit.argv))
        self.text = agents.header(self.config) + (
            'drivers = ["manual", "command"]\n'
            f'[[units]]\nname = "chat"\nargv = {argv}\nport = {self.unit.port}\n'
            f'check_url = "{self.unit.check_url}"\ncount = 2\nmost = 4\nstop_ms = 500\n'
        )
        self.process: Process = agents.own_process(self.config, self.text)

    def close(self) -> None:
        self.process.signal(signal.SIGCONT)
        self.process.kill()
        for index in range(4):
            pid = agents.pid_of(self.config, "chat", index)
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def answering(self) -> int:
        return sum(self._answers(self.unit.port + index) for index in range(4))

    def _answers(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def action(self, verb: str, **parameters: Value) -> Action:
        settings = {
            "agent": f"http://127.0.0.1:{self.config.port}",
            "secret": agents.REFERENCE,
            "unit": "chat",
        }
        return Action(verb, "chat", "process", "pangyo", settings, parameters)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@covers("process", RunsUnits)
def test_the_contract_is_kept(site: Site) -> None:
    async def state() -> object:
        pids = [agents.pid_of(site.config, "chat", index) for index in range(4)]
        return site.answering(), pids, agents.health(site.config)["units"]

    async def is_done() -> bool:
        return site.answering() == 2

    async def silence() -> None:
        site.process.signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # a process stops when it is next scheduled

    async def speak() -> None:
        site.process.signal(signal.SIGCONT)

    case = Case(
        ProcessDriver(),
        site.action("start"),
        state,
        is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        undo="done",
        secrets=(agents.KEY,),
    )
    asyncio.run(keep_contract(case))


def test_a_scale_is_exact_and_goes_back_only_to_what_was_written_down(site: Site) -> None:
    async def story() -> None:
        driver = ProcessDriver()
        scale = site.action("scale", replicas=3)
        evidence = await driver.execute(scale, order())
        assert (evidence["working"], site.answering()) == (3, 3)
        with pytest.raises(Permanent, match="wrote down"):
            await driver.undo(scale, order())
        await driver.execute(site.action("start", replicas=1), order())
        assert site.answering() == 3
        await driver.undo(site.action("scale", replicas=3, from_replicas=1), order())
        assert site.answering() == 1
        await driver.execute(site.action("scale", replicas=2), order())
        with pytest.raises(Permanent, match="since then another step asked for 2"):
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


@covers("process", Verifies)
def test_what_runs_and_does_not_work_is_not_done(site: Site) -> None:
    async def story() -> None:
        driver = ProcessDriver()
        (site.folder / "sick").touch()
        with pytest.raises(OutcomeUnknown, match="0 of 2 work"):
            await driver.execute(site.action("start"), order(timeout_s=1.5))
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
    agent = f"http://127.0.0.1:{site.config.port}"
    driver = RemoteDriver("command", frozenset({"run"}), agent, agents.REFERENCE)

    async def state() -> object:
        return done.stat().st_mtime_ns if done.exists() else 0

    async def is_done() -> bool:
        return done.exists()

    async def silence() -> None:
        site.process.signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # a process stops when it is next scheduled

    async def speak() -> None:
        site.process.signal(signal.SIGCONT)

    case = Case(
        driver,
        Action("run", "router", "command", "pangyo", settings),
        state,
        is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        undo="done",
        secrets=(agents.KEY,),
    )
    asyncio.run(keep_contract(case))


def test_an_agent_does_only_what_its_file_allows(site: Site) -> None:
    async def story() -> None:
        agent = f"http://127.0.0.1:{site.config.port}"
        driver = RemoteDriver("redis", frozenset({"promote"}), agent, agents.REFERENCE)
        promote = Action("promote", "presence", "redis", "pangyo")
        assert "does nothing with redis" in (await driver.check(promote, order())).problems[0]
        with pytest.raises(Permanent, match="does nothing with redis"):
            await driver.execute(promote, order())
        people = RemoteDriver("manual", frozenset({"run"}), agent, agents.REFERENCE)
        with pytest.raises(OutcomeUnknown, match="a person must do this"):
            await people.execute(Action("run", "feed-a", "manual", "pangyo"), order())
        await driver.close()
        await people.close()

    asyncio.run(story())


@covers("process", AnswersProbe)
def test_probe(site: Site) -> None:
    async def silence() -> None:
        site.process.signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # a process stops when it is next scheduled

    asked = site.action("verify")
    gone = replace(asked, settings={**asked.settings, "agent": f"http://127.0.0.1:{free_port()}"})

    async def told() -> None:
        driver = ProcessDriver()
        try:
            await questions.answers_probe(driver, asked, silence, gone)
        finally:
            await driver.close()

    asyncio.run(told())
