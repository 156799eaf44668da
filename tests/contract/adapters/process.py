"""A real agent with real processes, for the suites."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evac.agent.config import AgentConfig, UnitConfig
from evac.drivers.capabilities import AnswersProbe, ReportsReplicas, RunsUnits, Verifies
from evac.drivers.port import Action, Value, Verb
from evac.drivers.process import DRIVER
from evac.drivers.process.driver import ProcessDriver
from evac_lab.process import Process
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import Case, order, until_stopped
from tests.contract.capabilities.suites import Adapter, Asked, AskedProbe, AskedReplicas
from tests.contract.ports import free_port
from tests.unit.engine import agents


class Site:
    """A site with an agent in a process of its own, and one service of two instances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unit: UnitConfig = agents.service(folder, count=2)
        self.config: AgentConfig = agents.config(folder, self.unit)
        argv = json.dumps(list(self.unit.argv))
        self.text = agents.header(self.config) + (
            'drivers = ["manual", "command"]\n'
            'allow = {bin = ["/bin/sh", "/usr/bin/test", "/bin/rm"]}\n'
            f'[[units]]\nname = "chat"\nargv = {argv}\nport = {self.unit.port}\n'
            f'check_url = "{self.unit.check_url}"\ncount = 2\nmost = 4\nstop_ms = 500\n'
            f'[[units]]\nname = "mail"\nargv = {argv}\nport = {self.unit.port + 10}\n'
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

    def action(self, verb: str, *, unit: str = "chat", **parameters: Value) -> Action:
        settings = {
            "agent": f"http://127.0.0.1:{self.config.port}",
            "secret": agents.REFERENCE,
            "unit": unit,
        }
        return Action(verb, "chat", "process", "pangyo", settings, parameters)  # type: ignore[arg-type]

    async def silence(self) -> None:
        self.process.signal(signal.SIGSTOP)
        await until_stopped(self.process.pid, children=False)

    async def speak(self) -> None:
        self.process.signal(signal.SIGCONT)

    @property
    def wire(self) -> TcpWire:
        return TcpWire("127.0.0.1", self.config.port, "http", with_settings(agent="http://{host}:{port}"))


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    made = Site(folder)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with site(folder) as world:
        given: dict[str, dict[str, Value]] = {
            "start": {},
            "scale": {"replicas": 3, "from_replicas": 0},
            "stop": {"replicas": 0, "from_replicas": 2},
            "verify": {"expect": 2},
        }
        wanted = {"start": 2, "scale": 3, "stop": 0, "verify": 2}[verb]

        async def prepare() -> None:
            if verb in ("stop", "verify"):
                driver = ProcessDriver()
                await driver.execute(world.action("start"), order())
                await driver.close()

        async def state() -> object:
            pids = [agents.pid_of(world.config, "chat", index) for index in range(4)]
            return world.answering(), pids, agents.health(world.config)["units"]

        async def is_done() -> bool:
            return world.answering() == wanted

        yield Case(
            ProcessDriver(),
            world.action(verb, **given[verb]),
            state,
            is_done,
            prepare,
            world.silence,
            world.speak,
            tokens=True,
            undo="done",
            secrets=(agents.KEY,),
            silent_codes=("agent-no-answer",),
            wires=(world.wire,),
        )


@contextmanager
def _probe(folder: Path) -> Iterator[Asked]:
    with site(folder) as world:
        alive = world.action("verify")
        gone = {**alive.settings, "agent": f"http://127.0.0.1:{free_port()}"}
        yield AskedProbe(
            ProcessDriver(),
            alive,
            world.silence,
            world.speak,
            (agents.KEY,),
            (world.wire,),
            gone=replace(alive, settings=gone),
        )


@contextmanager
def _replicas(folder: Path) -> Iterator[Asked]:
    with site(folder) as world:

        async def set_to(count: int) -> None:
            driver = ProcessDriver()
            await driver.execute(world.action("scale", replicas=count, from_replicas=0), order())
            await driver.close()

        asyncio.run(set_to(2))
        yield AskedReplicas(
            ProcessDriver(),
            world.action("verify"),
            world.silence,
            world.speak,
            (agents.KEY,),
            (world.wire,),
            set_to=set_to,
            untold=world.action("verify", unit="mail"),
        )


ADAPTER = Adapter(
    DRIVER,
    acts=dict.fromkeys((RunsUnits, Verifies), _acts),
    asks={AnswersProbe: _probe, ReportsReplicas: _replicas},
)
