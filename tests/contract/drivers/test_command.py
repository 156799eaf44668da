"""What is particular to the driver `command`: exit codes, bounds, and what a program may not inherit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.command.driver import CommandDriver
from evac.drivers.port import Action, Value
from evac.drivers.programs import MAX_OUTPUT_BYTES
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from tests.contract.adapters.command import SECRET, script
from tests.contract.capabilities.story import order


def action(*argv: str, **settings: Value) -> Action:
    return Action("run", "router", "command", "pangyo", {"argv": argv, **settings}, {"to": "anyang"})


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 3
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return gone(pid)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (75, Retryable),
        (64, Permanent),
        (77, Permanent),
        (78, Permanent),
        (1, OutcomeUnknown),
        (3, OutcomeUnknown),
    ],
)
def test_the_exit_code_says_what_to_do_next(tmp_path: Path, code: int, error: type[Exception]) -> None:
    program = script(tmp_path, "do", "echo out of order", f"exit {code}")
    with pytest.raises(error, match="out of order"):
        asyncio.run(CommandDriver().execute(action(program), order()))


def test_nothing_of_the_group_is_left_when_its_time_is_over(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = script(
        tmp_path, "do", f"sleep 60 & echo $! > {pids}", f"echo $$ >> {pids}", "trap '' TERM", "wait"
    )

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Jumping)
        doing = asyncio.create_task(CommandDriver().execute(action(program), order(timeout_s=3_600.0)))
        while not pids.exists() or len(pids.read_text().split()) < 2:
            await asyncio.sleep(0.01)
        while not doing.done():  # it may begin to count only after the program has
            loop.ahead_s += 3_600.0
            await asyncio.sleep(0.01)
        with pytest.raises(OutcomeUnknown, match="timed out"):
            await doing

    with asyncio.Runner(loop_factory=_Jumping) as runner:
        runner.run(story())
    assert all(until_gone(int(pid)) for pid in pids.read_text().split())


class _Jumping(asyncio.SelectorEventLoop):
    """Its clock can be set forward, so that a time is over once what it is about has begun."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def test_a_child_that_stays_behind_is_ended_with_the_program(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = script(tmp_path, "do", f"sleep 60 & echo $! > {pid}", "exit 0")
    assert asyncio.run(CommandDriver().execute(action(program), order()))["exit_code"] == 0
    assert until_gone(int(pid.read_text()))


def test_a_child_in_a_session_of_its_own_does_not_hold_us_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = script(tmp_path, "do", f"setsid sleep 60 & echo $! > {pid}", "exit 0")
    asyncio.run(CommandDriver().execute(action(program), order()))
    child = int(pid.read_text())
    assert Path(f"/proc/{child}").exists(), "it was waited for until it ended"
    os.kill(child, signal.SIGKILL)


def test_output_without_end_is_read_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_KEY", SECRET)
    fill = MAX_OUTPUT_BYTES - len(SECRET) + 4
    program = script(tmp_path, "do", f"printf '%{fill}s' x", "printf $KEY", "head -c 5000000 /dev/zero")
    evidence = asyncio.run(CommandDriver().execute(action(program, env=("KEY=env:ROUTER_KEY",)), order()))
    assert evidence["output_whole"] is False
    assert len(str(evidence["output"])) <= 800
    assert "pass-word" not in str(evidence["output"])


def test_a_program_gets_the_order_and_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hush")
    evidence = asyncio.run(CommandDriver().execute(action(script(tmp_path, "do", "env")), order(token=41)))
    assert "EVAC_TOKEN=41" in str(evidence["output"])
    assert "EVAC_PARAMETER_TO=anyang" in str(evidence["output"])
    assert "hush" not in str(evidence["output"])


def test_an_argument_is_never_read_by_a_shell(tmp_path: Path) -> None:
    evidence = asyncio.run(
        CommandDriver().execute(action("/bin/echo", f"$(touch {tmp_path}/x); `id`"), order())
    )
    assert str(evidence["output"]).startswith("$(touch")
    assert not (tmp_path / "x").exists()


def test_what_is_not_there_is_a_problem_and_permanent(tmp_path: Path) -> None:
    missing = action("/nowhere/program")
    assert not asyncio.run(CommandDriver().check(missing, order())).ready
    with pytest.raises(Permanent, match="does not exist"):
        asyncio.run(CommandDriver().execute(missing, order()))
    relative = action("./program")
    assert "absolute path" in asyncio.run(CommandDriver().check(relative, order())).problems[0]
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    plain.chmod(0o755)
    with pytest.raises(Permanent, match="cannot be started"):
        asyncio.run(CommandDriver().execute(action(str(plain)), order()))


def test_without_a_program_that_observes_nothing_is_ever_clear(tmp_path: Path) -> None:
    blind = action(script(tmp_path, "do", "exit 0"))
    assert asyncio.run(CommandDriver().observe(blind, order())).outcome == "unclear"
    broken = replace(
        blind, settings={**blind.settings, "observe_argv": (script(tmp_path, "look", "exit 9"),)}
    )
    assert asyncio.run(CommandDriver().observe(broken, order())).outcome == "unclear"
    assert not asyncio.run(CommandDriver().check(broken, order())).ready
