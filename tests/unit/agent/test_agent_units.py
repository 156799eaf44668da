"""Units under a real agent: they outlive it, are found again, started again, and ended whole."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evac.agent import instance
from evac.agent.acting import Acting
from evac.agent.config import AgentConfig, UnitConfig
from evac.agent.fencing import Permits
from evac.agent.instance import OwnInstance
from evac.agent.memory import TokenLedger, write_values
from evac.agent.units import Units, UnitSeen
from evac.drivers.registry import Drivers
from evac.model.errors import InvalidInput, OutcomeUnknown, Permanent
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
        mine = instance.identify(other.pid)
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


async def burnt(made: AgentConfig, name: str) -> None:
    """An agent that runs an instance, and ends with it."""
    units = await started(made)
    await units.set(name, 1, 5)
    await units.close()
    os.killpg(agents.pid_of(made, name), signal.SIGKILL)
    await agents.until(lambda: not agents.alive(agents.pid_of(made, name)))


@pytest.mark.parametrize("store", ["", "db"])
def test_what_ended_while_no_agent_ran_is_held_until_a_leader_says_that_it_runs_here(
    tmp_path: Path, store: str
) -> None:
    """Its site may have burnt, and its work may have moved."""
    made = agents.config(tmp_path, agents.sleeper(store=store), agents.sleeper(name="guard"))

    async def story() -> None:
        await burnt(made, "sleeper")
        units = await started(made)
        assert units.held == ["sleeper"]
        await units.set("guard", 1, 5)
        os.killpg(agents.pid_of(made, "guard"), signal.SIGKILL)
        await agents.until(lambda: agents.alive(agents.pid_of(made, "guard")))
        assert (await units.see("sleeper")).running == 0, "looked after like the guard, but held"
        units.resume(["guard"], ["other"])
        units.resume(["sleeper"] if store else [], [] if store else ["sleeper"])
        assert units.held == ["sleeper"]
        units.resume([] if store else ["sleeper"], [store])
        await agents.until(lambda: agents.alive(agents.pid_of(made, "sleeper")))
        await units.set("sleeper", 0, 5)
        await units.set("guard", 0, 5)
        await units.close()

    asyncio.run(story())


@pytest.mark.parametrize(("survivors", "wanted"), [((0, 1), 2), ((0, 2), 3), ((), 1)])
def test_a_start_of_a_held_unit_ends_no_instance_that_runs(
    tmp_path: Path, survivors: tuple[int, ...], wanted: int
) -> None:
    made = agents.config(tmp_path, agents.sleeper())
    values = {
        "what": "execute",
        "verb": "start",
        "unit": "sleeper",
        "replicas": 1,
        "order": {"run": "r", "step": "s", "key": "r/s", "token": 1, "timeout_ms": 5_000},
    }

    async def story() -> None:
        first = await started(made)
        await first.set("sleeper", 3, 5)
        await first.close()
        pids = [agents.pid_of(made, "sleeper", index) for index in range(3)]
        for index in {0, 1, 2} - set(survivors):
            os.killpg(pids[index], signal.SIGKILL)
            await agents.until(lambda index=index: not agents.alive(pids[index]))
        units = await started(made)
        assert units.held == ["sleeper"]
        ledger = TokenLedger(tmp_path / "token")
        acting = Acting(made, units, Permits((), tmp_path / "permits", "boot", lambda: 0), ledger, Drivers())
        done = await acting.unit(values)
        assert all(agents.alive(pids[index]) for index in survivors)
        assert (done["outcome"], done["evidence"]["wanted"]) == ("done", wanted)
        assert not units.held
        await units.set("sleeper", 0, 5)
        await units.close()

    asyncio.run(story())


def test_an_order_to_start_ends_the_hold_and_one_that_may_resume_alone_has_none(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper(), agents.sleeper(name="edge", resume_alone=True))

    async def story() -> None:
        for name in ("sleeper", "edge"):
            await burnt(made, name)
        units = await started(made)
        assert units.held == ["sleeper"]
        await agents.until(lambda: agents.alive(agents.pid_of(made, "edge")))
        assert (await units.set("sleeper", 1, 5)).running == 1
        assert not units.held
        for name in ("sleeper", "edge"):
            await units.set(name, 0, 5)
        await units.close()

    asyncio.run(story())


def test_a_unit_of_a_store_cannot_resume_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only a leader may restart it"):
        agents.config(tmp_path, agents.sleeper(store="db", resume_alone=True))


def test_units_are_looked_after_again_after_a_look_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = agents.config(tmp_path, agents.sleeper())
    known, failed = OwnInstance.shorten_log, list[str]()

    def shorten(self: OwnInstance) -> None:
        if len(failed) < 4:
            failed.append("disk" if len(failed) < 2 else "mistake")
            raise OSError(28, "No space left on device") if failed[-1] == "disk" else KeyError("hunter2")
        known(self)

    async def story() -> None:
        units = await started(made)
        await units.set("sleeper", 1, 5)
        pid = agents.pid_of(made, "sleeper")
        monkeypatch.setattr(OwnInstance, "shorten_log", shorten)
        os.killpg(pid, signal.SIGKILL)
        await agents.until(lambda: agents.pid_of(made, "sleeper") not in (0, pid))
        await units.set("sleeper", 0, 5)
        await units.close()

    asyncio.run(story())
    said = [one.getMessage() for one in caplog.records if "is not supervised" in one.getMessage()]
    assert said[0] == "sleeper is not supervised: [Errno 28] No space left on device"
    assert said[1].startswith("sleeper is not supervised: internal error (KeyError at agent/")
    assert len(said) == 2, "each is said once"


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
verb, units = words[0], words[1:]
if state.get("gone"): print("Transport endpoint is not connected", file=sys.stderr); sys.exit(1)
if verb == "show":
    for unit in units:
        active = state.get(unit, "active" if unit in state["active"] else "inactive")
        load = "not-found" if "misspelt" in unit or unit in state.get("missing", ()) else "loaded"
        tasks = "1" if unit in state.get("tasks", ()) else "[not set]"
        print(f"LoadState={load}\\nActiveState={active}\\nId={unit}\\nTasksCurrent={tasks}\\n")
    sys.exit(0)
state["calls"].append(words)
if units == ["refused.service"]: print("Interactive authentication required."); sys.exit(5)
if verb == "start": state["active"] = sorted({*state["active"], *units})
if verb in ("stop", "kill") and not state.get("stays"):
    state["active"] = [unit for unit in state["active"] if unit not in units]
new = path.with_suffix(".new"); new.write_text(json.dumps(state)); new.replace(path)
"""


PATIENT_MS = 30_000
"""Its systemctl is a Python program, which a busy machine takes longer than a second to start."""


class Systemd:
    """A program that does as systemctl, over a file that holds what there is."""

    def __init__(self, folder: Path, **state: object) -> None:
        program, self.file = folder / "systemctl.py", folder / "systemd.json"
        program.write_text(SYSTEMCTL, encoding="utf-8")
        self.argv = (sys.executable, str(program), str(self.file))
        self.says(**state)

    def says(self, **state: object) -> None:
        self.file.write_text(json.dumps({"active": [], "calls": [], **state}))

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found


def test_systemds_units_are_moved_by_systemctl_and_left_to_it(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    made = agents.config(
        tmp_path,
        UnitConfig("chat", systemd="chat@{index}.service", most=3, check_ms=PATIENT_MS),
        UnitConfig("refused", systemd="refused.service", check_ms=PATIENT_MS),
        systemctl=systemd.argv,
    )

    async def story() -> None:
        units = await started(made)
        seen = await units.set("chat", 2, 5)
        assert (seen.running, seen.working) == (2, 2)
        assert systemd.state["active"] == ["chat@0.service", "chat@1.service"]
        seen = await units.set("chat", 1, 5)
        assert (seen.running, systemd.state["active"]) == (1, ["chat@0.service"])
        with pytest.raises(Permanent, match="ended with 5: Interactive authentication required"):
            await units.set("refused", 1, 5)
        with pytest.raises(Permanent, match="at most 1"):
            units.counts("refused", 2)
        await asyncio.to_thread(units.fence, ("chat",))
        every = [f"chat@{index}.service" for index in range(3)]
        assert systemd.state["calls"][-2:] == [["stop", *every], ["kill", *every]]
        await units.close()

    asyncio.run(story())


def test_a_unit_that_systemd_ran_before_the_agent_is_seen_stopped_and_fenced(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, active=["postgres.service"])
    made = agents.config(
        tmp_path, UnitConfig("db", systemd="postgres.service", check_ms=PATIENT_MS), systemctl=systemd.argv
    )

    async def story() -> None:
        units = await started(made)
        assert (await units.see("db")) == UnitSeen(0, 1, 1)
        await asyncio.to_thread(units.fence, ("db",))
        assert systemd.state["active"] == []
        assert (await units.see("db")) == UnitSeen(0, 0, 0, is_set=True)
        systemd.says(active=["postgres.service"])
        assert (await units.set("db", 0, 5)).running == 0
        assert systemd.state["active"] == []
        await units.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    "state",
    [
        {"gone": True},
        {"postgres.service": "deactivating"},
        {"postgres.service": "activating"},
        {"tasks": ["postgres.service"]},
        {"active": ["postgres.service"], "stays": True},
    ],
)
def test_what_is_not_seen_to_be_down_is_no_fence(tmp_path: Path, state: dict[str, object]) -> None:
    """Neither a systemd that cannot be asked, nor a unit that starts, ends, or left a process behind."""
    systemd = Systemd(tmp_path, **state)
    made = agents.config(
        tmp_path, UnitConfig("db", systemd="postgres.service", check_ms=PATIENT_MS), systemctl=systemd.argv
    )

    async def story() -> None:
        units = await started(made)
        with pytest.raises(
            OutcomeUnknown, match=r"cannot ask systemd|still running after being killed: postgres"
        ):
            await asyncio.to_thread(units.fence, ("db",), 0.2)
        if state.get("gone"):
            with pytest.raises(OutcomeUnknown, match="Transport endpoint is not connected"):
                await units.see("db")
        else:
            assert (await units.see("db")).running == 1
        await units.close()

    asyncio.run(story())


def test_units_beyond_those_that_a_start_means_need_not_be_there(tmp_path: Path) -> None:
    """`most` only bounds; one question to systemd tells of all of them."""
    systemd = Systemd(tmp_path, active=["chat-1.service"], missing=["chat-2.service"])
    unit = UnitConfig("chat", systemd="chat-{index}.service", count=2, most=3, check_ms=PATIENT_MS)
    made = agents.config(tmp_path, unit, systemctl=systemd.argv)

    async def story() -> None:
        units = await started(made)
        assert await units.see("chat") == UnitSeen(0, 1, 1)
        await asyncio.to_thread(units.fence, ("chat",))
        assert await units.see("chat") == UnitSeen(0, 0, 0, is_set=True)
        systemd.says(active=["chat-1.service"], missing=["chat-1.service"])
        with pytest.raises(Permanent, match=r"systemd has no unit chat-1\.service"):
            await units.see("chat")
        await units.close()

    asyncio.run(story())


def test_a_misspelt_unit_does_not_pass_for_one_that_is_down(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    made = agents.config(
        tmp_path, UnitConfig("db", systemd="misspelt.service", check_ms=PATIENT_MS), systemctl=systemd.argv
    )

    async def story() -> None:
        units = await started(made)
        with pytest.raises(Permanent, match=r"systemd has no unit misspelt\.service"):
            await units.see("db")
        with pytest.raises(Permanent, match=r"systemd has no unit misspelt\.service"):
            await asyncio.to_thread(units.fence, ("db",), 0.2)
        await units.close()

    asyncio.run(story())


def test_a_systemd_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    unit = UnitConfig("chat", systemd="chat.service", stop_ms=300, check_ms=300)
    made = agents.config(tmp_path, unit, systemctl=("/bin/sh", "-c", "sleep 30", "systemctl"))

    async def story() -> None:
        units = await started(made)
        with pytest.raises(OutcomeUnknown, match="did not finish in time"):
            await units.set("chat", 1, 5)
        await units.close()

    asyncio.run(story())
