"""A whole agent: the fence in time, its own restart, hostile requests, its health, its file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from evac.agent.config import AgentConfig, FenceConfig, UnitConfig, read_config
from evac.agent.service import MAX_REQUEST_BYTES, run_agent
from evac.cli.program import cli
from evac.drivers.process import client as process_client
from evac.drivers.process.client import AgentClient
from evac.drivers.process.driver import AgentAnchors, AgentPermits
from evac.model.errors import InvalidInput, OutcomeUnknown, Permanent
from evac.net.secrets import Secret
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

STORE = "chat-store"


def fence(**changes: Any) -> FenceConfig:
    values: dict[str, Any] = {"store": STORE, "margin_ms": 500, "timeout_ms": 400, "again_ms": 100}
    return FenceConfig(**{**values, **changes})


def fences_of(made: AgentConfig) -> dict[str, Any]:
    found: dict[str, Any] = agents.health(made)["fences"][0]
    return found


async def start_unit(made: AgentConfig, token: int = 5, epoch: int = 3, replicas: int = 1) -> dict[str, Any]:
    client = AgentClient()
    order = {
        "run": "run-1",
        "step": "s",
        "attempt": 1,
        "token": token,
        "epoch": epoch,
        "reason": "test",
        "timeout_ms": 3_000,
        "key": "run-1/s",
        "ticket": "",
        "dry_run": False,
    }
    values = {"what": "execute", "verb": "start", "unit": "sleeper", "replicas": replicas, "order": order}
    try:
        return dict((await client.send(agents.at(made), "/v1/unit", values, 5))["evidence"])
    finally:
        await client.close()


def permits_of(made: AgentConfig) -> AgentPermits:
    return AgentPermits(agents.at(made))


def test_a_primary_is_fenced_before_its_permit_ends_and_not_while_it_is_renewed(tmp_path: Path) -> None:
    unit = agents.sleeper(store=STORE)
    made = agents.config(tmp_path, unit, fences=(fence(units=("sleeper",)),))

    async def story() -> None:
        async with agents.running(made):
            permits = permits_of(made)
            await start_unit(made)
            pid = agents.pid_of(made, "sleeper")
            for _ in range(6):
                renewed = time.monotonic()
                await permits.renew(STORE, 3, 1_500, 5, 2)
                await asyncio.sleep(0.3)
            assert agents.alive(pid)
            await agents.until(lambda: not agents.alive(pid), 3)
            assert time.monotonic() - renewed < 1.5
            async with asyncio.timeout(8):
                while (await asyncio.to_thread(fences_of, made))["state"] != "fenced":
                    await asyncio.sleep(0.05)
            with pytest.raises(Permanent, match="the epoch 3; 2 is older"):
                await start_unit(made, epoch=2)
            await permits.close()

    asyncio.run(story())
    assert agents.pid_of(made, "sleeper") == 0 or not agents.alive(agents.pid_of(made, "sleeper"))


def test_a_leader_says_over_the_wire_which_units_run_again_and_an_older_one_cannot(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        permits = permits_of(made)
        async with agents.running(made):
            await start_unit(made)
        pid = agents.pid_of(made, "sleeper")
        os.killpg(pid, signal.SIGKILL)
        await agents.until(lambda: not agents.alive(pid))
        async with agents.running(made):
            with pytest.raises(Permanent, match="older leader"):
                await permits.resume(["sleeper"], [], 1, 2)
            assert await permits.resume(["other"], [], 5, 2) == ["sleeper"]
            assert await permits.resume(["sleeper"], [], 5, 2) == []
            await agents.until(lambda: agents.pid_of(made, "sleeper") not in (0, pid))
            seen = await start_unit(made, token=5, replicas=2)
            assert (seen["wanted"], seen["running"]) == (2, 2)
            seen = await start_unit(made, token=5, replicas=1)
            assert (seen["wanted"], seen["running"]) == (2, 2), "a start ends nothing that runs"
        pids = [agents.pid_of(made, "sleeper", index) for index in (0, 1)]
        for each in pids:
            os.killpg(each, signal.SIGKILL)
        await agents.until(lambda: not any(agents.alive(each) for each in pids))
        async with agents.running(made):
            seen = await start_unit(made, token=5, replicas=1)
            assert (seen["wanted"], seen["running"]) == (1, 1), "what burnt does not count as running"
        os.killpg(agents.pid_of(made, "sleeper"), signal.SIGKILL)
        await permits.close()

    asyncio.run(story())


def _sync_state(made: AgentConfig) -> str:
    """From disk: the health page is in the same loop as the test."""
    values = json.loads((made.state / "permits.json").read_text())
    return str(values[STORE]["state"])


def test_a_loop_that_hangs_fences_in_time(tmp_path: Path) -> None:
    done = tmp_path / "fenced"
    made = agents.config(tmp_path, fences=(fence(argv=("/usr/bin/touch", str(done))),))

    async def story() -> None:
        async with agents.running(made):
            permits = permits_of(made)
            await permits.renew(STORE, 1, 1_200, 5, 2)
            deadline = time.monotonic() + 1.2
            while time.monotonic() < deadline and not done.exists():
                time.sleep(0.01)  # nothing of the loop runs meanwhile
            assert done.exists()
            await asyncio.sleep(0.2)
            await permits.close()

    asyncio.run(story())


def test_permits_go_on_after_a_pause_and_after_a_new_agent(tmp_path: Path) -> None:
    made = agents.config(tmp_path, fences=(fence(argv=("/bin/true",)),))

    async def story() -> None:
        permits = permits_of(made)
        async with agents.running(made):
            await permits.renew(STORE, 1, 800, 5, 2)
            await agents.until(lambda: _sync_state(made) == "fenced")
            await permits.renew(STORE, 2, 5_000, 5, 2)
            assert _sync_state(made) == "permitted"
        async with agents.running(made):
            said = await permits.renew(STORE, 2, 9_000, 5, 2)
            assert said["fences"][0]["left_ms"] > 5_000
            await permits.release(STORE, 2, 5, 2)
            assert _sync_state(made) == "unwatched"
        await permits.close()

    asyncio.run(story())


def test_a_disk_that_cannot_be_written_stops_no_fence(tmp_path: Path) -> None:
    done = tmp_path / "fenced"
    unit = agents.sleeper(store=STORE)
    made = agents.config(
        tmp_path, unit, fences=(fence(units=("sleeper",), argv=("/usr/bin/touch", str(done))),)
    )

    async def story() -> None:
        async with agents.running(made):
            permits = permits_of(made)
            await start_unit(made)
            pid = agents.pid_of(made, "sleeper")
            await permits.renew(STORE, 3, 1_200, 5, 2)
            made.state.rename(tmp_path / "lost")
            made.state.write_text("no folder any more")
            await agents.until(lambda: done.exists() and not agents.alive(pid))
            # A try whose process is not seen to be gone in its 200 ms is a failed one, and another follows.
            async with asyncio.timeout(8):
                while (await asyncio.to_thread(fences_of, made))["state"] != "fenced":
                    await asyncio.sleep(0.05)
            with pytest.raises(OutcomeUnknown, match="agent"):
                await permits.renew(STORE, 3, 1_200, 5, 2)
            await permits.close()

    asyncio.run(story())


def test_a_fence_that_fails_is_tried_again_until_it_holds(tmp_path: Path) -> None:
    tries, ready = tmp_path / "tries", tmp_path / "ready"
    argv = ("/bin/sh", "-c", f"echo $EVAC_STORE >> {tries}; test -e {ready}")
    made = agents.config(tmp_path, fences=(fence(argv=argv),))

    async def story() -> None:
        async with agents.running(made):
            permits = permits_of(made)
            await permits.renew(STORE, 1, 800, 5, 2)
            await agents.until(lambda: tries.exists() and len(tries.read_text().split()) >= 3)
            await agents.until(lambda: _sync_state(made) in ("failed", "fencing"))
            ready.touch()
            await agents.until(lambda: _sync_state(made) == "fenced")
            await permits.close()

    asyncio.run(story())
    assert set(tries.read_text().split()) == {STORE}


def test_a_driver_can_be_the_hand_of_the_fence(tmp_path: Path) -> None:
    done = tmp_path / "demoted"
    action = {
        "verb": "stop",
        "driver": "command",
        "settings": {
            "argv": ["/usr/bin/touch", str(done)],
            "observe_argv": ["/usr/bin/test", "-e", str(done)],
        },
    }
    made = agents.config(tmp_path, fences=(fence(action=action),))

    async def story() -> None:
        async with agents.running(made):
            permits = permits_of(made)
            await permits.renew(STORE, 1, 800, 5, 2)
            await agents.until(lambda: _sync_state(made) == "fenced")
            await permits.close()

    asyncio.run(story())
    assert done.exists()


def test_when_all_of_evac_is_gone_only_a_permitted_store_changes(tmp_path: Path) -> None:
    made = agents.config(
        tmp_path, agents.sleeper(), agents.sleeper(name="primary"), fences=(fence(units=("primary",)),)
    )

    async def story() -> None:
        async with agents.running(made):
            await start_unit(made)
            await asyncio.sleep(1.5)
            assert agents.alive(agents.pid_of(made, "sleeper"))

    asyncio.run(story())
    pid = agents.pid_of(made, "sleeper")
    assert agents.alive(pid)
    agent = agents.own_process(made, agents.header(made) + _unit_text(made.units[0]))
    agent.kill()
    assert agents.alive(pid)
    agents.own_process(made, agents.header(made) + _unit_text(made.units[0])).kill()
    assert agents.pid_of(made, "sleeper") == pid
    signal_group(pid)


def _unit_text(unit: UnitConfig) -> str:
    return f'[[units]]\nname = "{unit.name}"\nargv = {json.dumps(list(unit.argv))}\nstop_ms = 500\n'


def signal_group(pid: int) -> None:
    assert pid > 1
    os.killpg(pid, signal.SIGKILL)


def test_an_agent_that_was_paused_past_the_permit_fences_when_it_wakes(tmp_path: Path) -> None:
    done = tmp_path / "fenced"
    made = agents.config(tmp_path)
    text = agents.header(made) + (
        f'[[fences]]\nstore = "{STORE}"\nmargin_ms = 500\ntimeout_ms = 400\n'
        f'argv = ["/usr/bin/touch", "{done}"]\n'
    )
    agent = agents.own_process(made, text)
    try:

        async def permit() -> None:
            permits = permits_of(made)
            await permits.renew(STORE, 1, 1_500, 5, 2)
            await permits.close()

        asyncio.run(permit())
        agent.signal(signal.SIGSTOP)
        time.sleep(1.6)
        assert not done.exists()
        agent.signal(signal.SIGCONT)
        asyncio.run(agents.until(done.exists, 2))
    finally:
        agent.kill()


def test_a_permit_outlives_a_killed_agent_and_ends_in_time_all_the_same(tmp_path: Path) -> None:
    done = tmp_path / "fenced"
    made = agents.config(tmp_path)
    text = agents.header(made) + (
        f'[[fences]]\nstore = "{STORE}"\nmargin_ms = 500\ntimeout_ms = 400\n'
        f'argv = ["/usr/bin/touch", "{done}"]\n'
    )
    agent = agents.own_process(made, text)

    async def permit() -> None:
        permits = permits_of(made)
        await permits.renew(STORE, 1, 4_000, 5, 2)
        await permits.close()

    asyncio.run(permit())
    agent.kill()
    agent = agents.own_process(made, text)
    try:
        assert fences_of(made)["state"] == "permitted"
        assert not done.exists()
        asyncio.run(agents.until(done.exists, 5))
    finally:
        agent.kill()


def test_heads_of_journals_are_kept_and_never_go_back(tmp_path: Path) -> None:
    made = agents.config(tmp_path)

    async def story() -> None:
        async with agents.running(made):
            anchors = AgentAnchors(agents.at(made))
            await anchors.put("run-1", 0, 10, "a" * 64, 2)
            await anchors.put("run-1", 1, 20, "b" * 64, 2)
            with pytest.raises(Permanent, match="is older"):
                await anchors.put("run-1", 0, 10, "a" * 64, 2)
            assert [head["segment"] for head in await anchors.heads("run-1", 2)] == [0, 1]
            assert await anchors.heads("run-2", 2) == []
            await anchors.close()

    asyncio.run(story())


@pytest.mark.parametrize("ahead_ms", [3_600_000, -7_200_000])
def test_a_sender_whose_clock_jumped_is_obeyed_by_the_time_of_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    made = agents.config(tmp_path)

    async def story() -> None:
        async with agents.running(made):
            anchors = AgentAnchors(agents.at(made))
            await anchors.put("run-1", 0, 10, "a" * 64, 2)
            with monkeypatch.context() as patched:
                patched.setattr(process_client, "_wall_ms", lambda: time.time_ns() // 1_000_000 + ahead_ms)
                await anchors.put("run-1", 1, 20, "b" * 64, 2)
            await anchors.put("run-1", 2, 30, "c" * 64, 2)
            assert [head["segment"] for head in await anchors.heads("run-1", 2)] == [0, 1, 2]
            await anchors.close()

    asyncio.run(story())


def test_hostile_requests_change_nothing(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        async with agents.running(made) as agent, aiohttp.ClientSession() as session:
            body = b'{"what":"execute","verb":"start","unit":"sleeper","order":{"token":9}}'
            async with session.post(agent.url + "/v1/unit", data=body) as answer:
                assert answer.status == 401
            headers = signed(made, "/v1/unit", body)
            statuses = []
            for _ in range(2):
                async with session.post(agent.url + "/v1/unit", data=body, headers=headers) as answer:
                    statuses.append((answer.status, (await answer.json()).get("error", {}).get("code", "")))
            assert statuses == [(200, ""), (409, "order-repeated")]
            for wrong in (b"", b"[]", b"{", b"\xff", b'{"order":7}', b'{"order":{"token":"9"},"what":[]}'):
                async with session.post(
                    agent.url + "/v1/unit", data=wrong, headers=signed(made, "/v1/unit", wrong)
                ) as answer:
                    assert (answer.status, (await answer.json())["error"]["code"]) == (409, "order-wrong")
            large = b" " * (MAX_REQUEST_BYTES + 1)
            async with session.post(
                agent.url + "/v1/unit", data=io.BytesIO(large), headers=signed(made, "/v1/unit", large)
            ) as answer:
                assert answer.status == 413
            async with session.get(agent.url + "/v1/unit") as answer:
                assert answer.status == 405

    asyncio.run(story())
    signal_group(agents.pid_of(made, "sleeper"))


def signed(made: AgentConfig, path: str, body: bytes) -> dict[str, str]:
    at_ms, nonce = time.time_ns() // 1_000_000, f"{time.monotonic_ns():032d}"
    key = Secret(agents.KEY)
    to = agents.at(made).addressee
    return {
        process_client.TIMESTAMP: str(at_ms),
        process_client.NONCE: nonce,
        process_client.SITE: to.site,
        process_client.ADDRESS: to.address,
        process_client.SIGNATURE: process_client.order_signature(key, "POST", path, body, at_ms, nonce, to),
    }


def test_health_tells_how_late_the_loop_is_and_no_secret(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> dict[str, Any]:
        async with agents.running(made):
            await asyncio.sleep(0.2)
            time.sleep(0.4)
            await asyncio.sleep(0.15)
            return await asyncio.to_thread(agents.health, made)

    said = asyncio.run(story())
    assert (said["answer"], said["site"], said["units"]) == ("evac agent", "pangyo", {"sleeper": 0})
    assert said["lag_ms"] >= 300
    assert agents.KEY not in json.dumps(said)


def test_health_says_nothing_to_a_stranger(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> tuple[bytes, bytes]:
        async with agents.running(made) as agent, aiohttp.ClientSession() as session:
            stranger = {"Evac-Signature": "v2=" + "0" * 64, "Evac-Timestamp": "1", "Evac-Nonce": "a" * 32}
            answers = []
            for headers in ({}, stranger):
                async with session.get(agent.url + "/v1/health", headers=headers) as answer:
                    answers.append(await answer.read())
            return answers[0], answers[1]

    assert asyncio.run(story()) == (b'{"answer":"evac agent"}', b'{"answer":"evac agent"}')


async def heard(made: AgentConfig, task: asyncio.Task[None]) -> dict[str, Any]:
    """The health of an agent, as soon as it listens."""
    while not task.done():
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(agents.health, made)
        await asyncio.sleep(0.02)
    pytest.fail("the agent ended")


def test_it_stops_when_told_and_its_port_is_free_again(tmp_path: Path) -> None:
    made = agents.config(tmp_path)

    async def story() -> None:
        for _ in range(2):
            stop = asyncio.Event()
            task = asyncio.create_task(run_agent(made, stop))
            assert (await heard(made, task))["site"] == "pangyo"
            stop.set()
            await task

    asyncio.run(story())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[units]]\nname = "a"', "needs either argv or systemd"),
        ('[[units]]\nname = "a/b"\nargv = ["x"]', "not a valid unit name"),
        ('[[units]]\nname = "a"\nargv = ["x"]\ncount = 99', "between 0 and most"),
        ('[[units]]\nname = "a"\nargv = ["x"]\nshell = "x"', "unknown: shell"),
        ('[[units]]\nname = "a"\nargv = ["x"]\n[[units]]\nname = "a"\nargv = ["x"]', "the same name"),
        ('[[fences]]\nstore = "s"', "does nothing"),
        ('[[fences]]\nstore = "s"\nargv = ["x"]\nmargin_ms = 100', "longer than its margin"),
        ('[[fences]]\nstore = "s"\nunits = ["a"]', "stops a, which is not a unit"),
        ('[[fences]]\nargv = ["x"]', "missing"),
        ("[[fences]]\nargv = 1", "fences: argv must be a list of strings"),
        ('[[units]]\nname = "a"\nargv = ["x"]\nport = [6100]', "units: port must be a whole number"),
        ('[[units]]\nname = "a"\nargv = ["x"]\nstop_ms = -1', "stop_ms must be a whole number"),
        (
            '[[units]]\nname = "a"\nargv = "x"\nenv = {A = 1}',
            "a list of strings; env must be a table of strings",
        ),
        ('systemctl = "sudo systemctl"', "systemctl must be a list of strings"),
        ("units = 3", "units must be a list of tables"),
        ("units = [3]", "units must be a table"),
        ("[fences]\nstore = 's'", "fences must be a list of tables"),
        ("tls = 3", "tls must be a table"),
        ("allow = 3", "allow must be a table"),
        ('[[fences]]\nstore = "s"\naction = 3\nargv = ["x"]', "fences: action must be a table"),
        ("x = ", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(agents.header(agents.config(tmp_path)) + text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=words):
        read_config(path)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ('driver = "postgre"', "postgre cannot demote: use "),
        ('verb = "demote"', "no driver cannot demote: use "),
        ('driver = "noop"', "noop cannot demote"),
        ('driver = "dns"', "dns cannot demote"),
        ('driver = "postgres", verb = "promote"', "action cannot promote a primary: use demote, "),
        ('driver = ["postgres"]', "cannot demote"),
        ('driver = "postgres", verb = ["demote"]', "cannot .*demote.* a primary"),
        ('driver = "postgres", setings = {}', "action has no key setings, did you mean settings"),
        ('driver = "postgres"', "postgres needs the setting host"),
        ('driver = "command"', "command needs the setting argv"),
        ('driver = "postgres", settings = 3', "settings must be a table"),
        ('driver = "postgres", settings = {hots = "db"}', "postgres has no setting hots, did you mean host"),
        ('driver = "postgres", settings = {port = 70000}', "port must be a number"),
        ('driver = "postgres", settings = {host = {a = 1}}', "settings: host must be text"),
        ('driver = "postgres", settings = {password = "hunter2"}', "password is written in plain text"),
    ],
)
def test_a_fence_whose_action_could_not_work_is_refused_before_it_is_needed(
    tmp_path: Path, action: str, words: str
) -> None:
    path = tmp_path / "agent.toml"
    table = f'[[fences]]\nstore = "s"\naction = {{ {action} }}\n'
    path.write_text(agents.header(agents.config(tmp_path)) + table, encoding="utf-8")
    with pytest.raises(InvalidInput, match=f"the fence of s: .*{words}") as caught:
        read_config(path)
    assert "hunter2" not in str(caught.value)


def test_all_problems_of_a_file_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    head = agents.header(agents.config(tmp_path))
    tables = '[[units]]\nname = "a"\nargv = 1\n[[units]]\nname = "b"\nport = "x"\n[[fences]]\nargv = 1\n'
    tables += '[[fences]]\nstore = "s"\nunits = ["c"]\naction = { driver = "postgras" }\n'
    path.write_text("window_ms = true\n" + head + tables, encoding="utf-8")
    first = head.count("\n") + 2
    with pytest.raises(InvalidInput) as caught:
        read_config(path)
    for words in (
        "window_ms must be a whole number",
        f"units: argv must be a list of strings (line {first})",
        f"units: port must be a whole number (line {first + 3})",
        f"fences: argv must be a list of strings (line {first + 6})",
    ):
        assert words in str(caught.value)


def test_a_file_can_be_checked_without_starting_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    good = agents.header(agents.config(tmp_path)) + '[[fences]]\nstore = "s"\n'
    path.write_text(good + 'action = { driver = "postgres", settings = {host = "db"} }\n', encoding="utf-8")
    said = CliRunner().invoke(cli, ["agent", str(path), "--check"])
    assert (said.exit_code, "fences: 1" in said.output) == (0, True)
    path.write_text(good, encoding="utf-8")
    said = CliRunner().invoke(cli, ["agent", str(path), "--check"])
    assert "does nothing" in str(said.exception)


def test_the_agent_knows_no_store() -> None:
    program = "import sys, evac.agent.service; print([m for m in sys.modules if m.startswith('evac.store')])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
