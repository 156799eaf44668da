"""Units under a real agent: they outlive it, are found again, started again, and ended whole."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evac.engine import agent_processes
from evac.engine.agent_config import AgentConfig, UnitConfig
from evac.engine.agent_memory import write_values
from evac.engine.agent_units import Units
from evac.model.errors import OutcomeUnknown, Permanent
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


async def started(made: AgentConfig) -> Units:
    units = Units(made)
    await units.start()
    return units


def test_a_unit_outlives_its_agent_and_is_found_again(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        first = await started(made)
        await first.set("sleeper", 2, 5)
        pids = [agents.pid_of(made, "sleeper", index) for index in (0, 1)]
        await first.close()
        assert all(agents.alive(pid) for pid in pids)
        second = await started(made)
        assert (await second.see("sleeper")).running == 2
        assert [agents.pid_of(made, "sleeper", index) for index in (0, 1)] == pids
        assert (await second.set("sleeper", 0, 5)).running == 0
        assert not any(agents.alive(pid) for pid in pids)
        await second.close()

    asyncio.run(story())


def test_a_process_started_and_never_written_down_is_found_by_its_mark(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        first = await started(made)
        await first.set("sleeper", 1, 5)
        pid = agents.pid_of(made, "sleeper")
        await first.close()
        write_values(made.state / "units" / "sleeper.0.json", {"state": "starting"})
        second = await started(made)
        assert agents.pid_of(made, "sleeper") == pid
        assert (await second.see("sleeper")).running == 1
        await second.set("sleeper", 0, 5)
        assert not agents.alive(pid)
        await second.close()

    asyncio.run(story())


def test_a_pid_that_belongs_to_somebody_else_now_is_left_alone(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        mine = agent_processes.identify(other.pid)
        assert mine is not None
        write_values(
            made.state / "units" / "sleeper.0.json",
            {"pid": mine.pid, "ticks": mine.ticks - 1, "boot": mine.boot},
        )

        async def story() -> None:
            units = await started(made)
            assert (await units.see("sleeper")).running == 0
            await units.set("sleeper", 0, 1)
            units.fence(("sleeper",))
            await units.close()

        asyncio.run(story())
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_ends_by_itself_is_started_again(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        units = await started(made)
        await units.set("sleeper", 1, 5)
        pid = agents.pid_of(made, "sleeper")
        os.killpg(pid, signal.SIGKILL)
        await agents.until(lambda: agents.pid_of(made, "sleeper") not in (0, pid))
        assert (await units.see("sleeper")).running == 1
        await units.set("sleeper", 0, 5)
        await units.close()

    asyncio.run(story())


def test_what_ends_at_once_is_started_again_with_growing_pauses(tmp_path: Path) -> None:
    count = tmp_path / "count"
    unit = UnitConfig("broken", ("/bin/sh", "-c", f"echo x >> {count}; exit 1"))

    async def story() -> None:
        units = await started(agents.config(tmp_path, unit))
        await units.set("broken", 1, 5)
        await asyncio.sleep(3.2)
        await units.close()

    asyncio.run(story())
    assert 2 <= len(count.read_text().split()) <= 4


def test_a_stop_ends_children_that_lead_groups_of_their_own(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"trap '' TERM; setsid sleep 62 & echo $! > {pids}; sleep 63 & echo $! >> {pids}; wait; wait"
    made = agents.config(tmp_path, UnitConfig("family", ("/bin/sh", "-c", program), stop_ms=200))

    async def story() -> None:
        units = await started(made)
        await units.set("family", 1, 5)
        await agents.until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        await units.set("family", 0, 5)
        await units.close()

    asyncio.run(story())
    assert not any(agents.alive(int(pid)) for pid in pids.read_text().split())


def test_a_unit_gets_its_index_and_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hush")
    monkeypatch.setenv("REGION", "kr")
    program = f"env > {tmp_path}/env.$EVAC_INDEX; exec sleep 60"
    unit = UnitConfig(
        "speaks", ("/bin/sh", "-c", program), env={"PORT": "{port}"}, pass_env=("REGION",), port=9_000
    )

    async def story() -> None:
        units = await started(agents.config(tmp_path, unit))
        await units.set("speaks", 2, 5)
        await agents.until(
            lambda: (tmp_path / "env.1").exists() and "PORT" in (tmp_path / "env.1").read_text()
        )
        await units.set("speaks", 0, 5)
        await units.close()

    asyncio.run(story())
    said = (tmp_path / "env.1").read_text()
    assert "PORT=9001" in said
    assert "REGION=kr" in said
    assert "hush" not in said


def test_a_fence_kills_at_once_and_nobody_starts_it_again(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        units = await started(made)
        await units.set("sleeper", 2, 5)
        await asyncio.to_thread(units.fence, ("sleeper",))
        units.keep_wanted()
        await asyncio.sleep(1.2)
        assert (await units.see("sleeper")).running == 0
        await units.close()
        again = await started(made)
        await asyncio.sleep(0.6)
        assert (await again.see("sleeper")).running == 0
        await again.close()

    asyncio.run(story())


def test_a_program_that_is_not_there_is_said_and_not_tried_for_ever(tmp_path: Path) -> None:
    async def story() -> None:
        units = await started(agents.config(tmp_path, UnitConfig("nothing", ("/nowhere/program",))))
        with pytest.raises(Permanent, match="cannot be started: No such file"):
            await units.set("nothing", 1, 5)
        with pytest.raises(Permanent, match="no unit other"):
            await units.set("other", 1, 5)
        await units.close()

    asyncio.run(story())


SYSTEMCTL = """\
import json, pathlib, sys
path = pathlib.Path(sys.argv[1]); words = [w for w in sys.argv[2:] if not w.startswith("-")]
state = json.loads(path.read_text()) if path.exists() else {"active": [], "calls": []}
state["calls"].append(words)
verb, unit = words
if unit == "refused.service": sys.exit(5)
if verb == "start" and unit not in state["active"]: state["active"].append(unit)
if verb == "stop" and unit in state["active"]: state["active"].remove(unit)
new = path.with_suffix(".new"); new.write_text(json.dumps(state))
if verb != "is-active": new.replace(path)
sys.exit(0 if verb != "is-active" or unit in state["active"] else 3)
"""


def test_systemds_units_are_moved_by_systemctl_and_left_to_it(tmp_path: Path) -> None:
    program, state = tmp_path / "systemctl.py", tmp_path / "systemd.json"
    program.write_text(SYSTEMCTL, encoding="utf-8")
    made = agents.config(
        tmp_path, UnitConfig("chat", systemd="chat@{index}.service"),
        UnitConfig("refused", systemd="refused.service"),
        systemctl=(sys.executable, str(program), str(state)),
    )  # fmt: skip

    async def story() -> None:
        units = await started(made)
        seen = await units.set("chat", 2, 5)
        assert (seen.running, seen.working) == (2, 2)
        assert json.loads(state.read_text())["active"] == ["chat@0.service", "chat@1.service"]
        seen = await units.set("chat", 1, 5)
        assert (seen.running, json.loads(state.read_text())["active"]) == (1, ["chat@0.service"])
        with pytest.raises(Permanent, match="ended with 5"):
            await units.set("refused", 1, 5)
        await asyncio.to_thread(units.fence, ("chat",))
        assert json.loads(state.read_text())["calls"][-2:] == [
            ["stop", "chat@0.service"],
            ["kill", "chat@0.service"],
        ]
        await units.close()

    asyncio.run(story())


def test_a_systemd_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    unit = UnitConfig("chat", systemd="chat.service", stop_ms=300, check_ms=300)
    made = agents.config(tmp_path, unit, systemctl=("/bin/sh", "-c", "sleep 30", "systemctl"))

    async def story() -> None:
        units = await started(made)
        with pytest.raises(OutcomeUnknown, match="did not end in time"):
            await units.set("chat", 1, 5)
        await units.close()

    asyncio.run(story())
