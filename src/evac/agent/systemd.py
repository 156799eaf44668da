"""Units that systemd runs: moves them, and asks it what they are. What cannot be asked is not known.

A unit that the agent did not start is there all the same: systemd knows it, and a fence must reach it. Down
is what is `inactive` or `failed` and has no process left; one that starts or ends still runs.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from evac.agent.config import UnitConfig
from evac.agent.instance import check, filled
from evac.drivers.command.driver import environment, run_program
from evac.model.errors import ActionError, OutcomeUnknown, Permanent
from evac.net.http_calls import Caller

QUIET: Final = ("--no-pager", "--no-ask-password")
ASK: Final = ("show", "--property=Id,LoadState,ActiveState,TasksCurrent")
WORDS_MOST: Final = 200
_DOWN: Final = frozenset({"inactive", "failed"})
_UP: Final = frozenset({"active", "reloading", "refreshing"})
_THERE: Final = frozenset({"loaded", "masked"})
_NONE: Final = frozenset({"", "0", "[not set]", str(2**64 - 1)})


@dataclass(frozen=True, slots=True)
class SystemdState:
    """load, active: as systemd says. tasks: whether a process of the unit is left."""

    load: str
    active: str
    tasks: bool

    @property
    def down(self) -> bool:
        return self.active in _DOWN and not self.tasks

    @property
    def up(self) -> bool:
        return self.active in _UP


async def states(
    systemctl: Sequence[str], names: Mapping[str, bool], timeout_s: float
) -> dict[str, SystemdState]:
    """What systemd says of each unit. names: unit -> whether it must be there. Raises OutcomeUnknown where it
    cannot be asked, Permanent for a unit that must be there and that it does not know: a misspelt name must
    not pass for a unit that is down.
    """
    argv = (*systemctl, *QUIET, *ASK, "--", *names)
    ended = await run_program(argv, env=environment({}), timeout_s=timeout_s)
    if ended.code != 0:
        raise _unseen(names, ended.output if ended.code is not None else "it does not answer")
    return _read(names, ended.output)


def states_now(
    systemctl: Sequence[str], names: Mapping[str, bool], timeout_s: float
) -> dict[str, SystemdState]:
    """The same without a loop, from any thread."""
    try:
        ended = subprocess.run(
            [*systemctl, *QUIET, *ASK, "--", *names],
            check=False,
            timeout=timeout_s,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment({}),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unseen(names, type(error).__name__) from error
    if ended.returncode != 0:
        raise _unseen(names, ended.stderr.decode("utf-8", "replace"))
    return _read(names, ended.stdout.decode("utf-8", "replace"))


def kill_now(systemctl: Sequence[str], names: Sequence[str], timeout_s: float) -> None:
    """SIGKILL to all of these units; systemd then leaves them alone, because stop was asked for as well.
    Whether it helped is for `states_now` to say.
    """
    for words in (("stop", "--no-block"), ("kill", "--signal=SIGKILL")):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*systemctl, *QUIET, *words, "--", *names],
                check=False,
                timeout=timeout_s,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env=environment({}),
            )


class SystemdInstance:
    """An instance that systemd runs and starts again by itself."""

    restarts_itself = True

    def __init__(self, unit: UnitConfig, index: int, systemctl: tuple[str, ...], caller: Caller) -> None:
        self._unit, self._index, self._caller = unit, index, caller
        self._systemctl = systemctl
        self.name = filled(unit, index, unit.systemd)
        # Beyond what a plain start means there may be fewer units than `most` allows.
        self.needed = index < max(1, unit.count)

    async def running(self) -> bool:
        """Raises OutcomeUnknown, Permanent."""
        return not (await self._state()).down

    async def start(self) -> None:
        await self._obeyed("start")

    async def stop(self, timeout_s: float) -> None:
        await self._obeyed("stop", timeout_s)

    async def works(self) -> bool:
        """Raises OutcomeUnknown, Permanent."""
        return (await self._state()).up and await self.passes()

    async def passes(self) -> bool:
        """Whether it works, if it is up."""
        return await check(self._unit, self._index, self._caller)

    def kill_now(self) -> None:
        kill_now(self._systemctl, [self.name], 2.0)

    def is_gone(self) -> bool:
        """Raises OutcomeUnknown, Permanent."""
        return states_now(self._systemctl, {self.name: self.needed}, 2.0)[self.name].down

    async def _state(self) -> SystemdState:
        wanted = {self.name: self.needed}
        return (await states(self._systemctl, wanted, self._unit.check_ms / 1_000))[self.name]

    async def _obeyed(self, verb: str, timeout_s: float = 0.0) -> None:
        argv = (*self._systemctl, *QUIET, verb, "--", self.name)
        within_s = timeout_s or self._unit.stop_ms / 1_000
        ended = await run_program(argv, env=environment({}), timeout_s=within_s)
        if ended.code is None:
            raise OutcomeUnknown("unit-unknown", f"systemctl {verb} {self.name} did not end in time")
        if ended.code != 0:
            why = f"systemctl {verb} {self.name} ended with {ended.code}: {_line(ended.output)}"
            raise Permanent(
                "unit-refused", why, "name the unit in the rules of polkit, and look at its journal"
            )


def _read(names: Mapping[str, bool], output: str) -> dict[str, SystemdState]:
    """One block for each unit, in the order in which they were asked for."""
    blocks = [block for block in output.split("\n\n") if block.strip()]
    if len(blocks) != len(names):
        raise _unseen(names, f"it tells of {len(blocks)} of {len(names)}")
    found = {}
    for (name, needed), block in zip(names.items(), blocks, strict=True):
        told = dict(line.partition("=")[::2] for line in block.strip().splitlines())
        load, active = told.get("LoadState", ""), told.get("ActiveState", "")
        if load not in _THERE and (needed or load != "not-found"):
            raise Permanent(
                "unit-not-there",
                f"systemd knows no unit {name} ({_line(load) or 'it says nothing'})",
                "mend its name in the agent's file",
            )
        if not active:
            raise _unseen([name], "it does not say how the unit is")
        found[name] = SystemdState(load, active, told.get("TasksCurrent", "") not in _NONE)
    return found


def _unseen(names: Collection[str], why: str) -> ActionError:
    said = f"systemd cannot be asked of {next(iter(names))}: {_line(why) or 'it says nothing'}"
    return OutcomeUnknown("unit-unseen", said)


def _line(words: str) -> str:
    """The first line that says something."""
    first = next((line for line in words.splitlines() if line.strip()), "")
    return "".join(c if c.isprintable() else " " for c in first).strip()[:WORDS_MOST]
