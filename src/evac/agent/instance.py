"""One instance of a unit: start it, find it again after an agent restart, check it, stop all of it.

Across agent restarts a process is identified by pid, start time and boot ID together. For systemd units,
systemd is queried; if that fails, the state is unknown. A unit that the agent did not start still counts:
systemd knows it, and a fence must reach it. Down means `inactive` or `failed` with no process left; a unit
that is starting or stopping is running.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from evac.agent.config import UnitConfig
from evac.agent.memory import boot_id, read_values, write_values
from evac.drivers.programs import environment, run_program
from evac.model.errors import ActionError, OutcomeUnknown, Permanent
from evac.model.records import dataclass
from evac.net.http_calls import Caller, NotAnswered, NotReached

MARK: Final = "EVAC_INSTANCE"
"""Variable set in every instance, to find one whose start was not written down."""
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Running:
    """One process. ticks: its start, in clock ticks since boot."""

    pid: int
    ticks: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether exactly this process is running. A process that cannot be inspected counts as running: a
        fence is complete only when the process is known to be gone.
        """
        if self.boot != boot_id():
            return False
        try:
            return start_ticks(self.pid) == self.ticks
        except OSError:
            return _exists(self.pid)

    @property
    def same(self) -> bool:
        """Whether exactly this process is certainly running, so that a signal reaches no other."""
        try:
            return self.boot == boot_id() and start_ticks(self.pid) == self.ticks
        except OSError:
            return False

    def send(self, number: int) -> None:
        """Send a signal to its whole process group; does nothing if exactly this process is gone."""
        if self.same:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def identify(pid: int) -> Running | None:
    """The process that has this pid now; None if there is none or it is a zombie."""
    ticks = start_ticks(pid)
    return None if ticks is None else Running(pid, ticks, boot_id())


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks. Raises `OSError` if it cannot be read."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def family(running: Running) -> tuple[Running, ...]:
    """The process and all its descendants, parents first: children may lead their own process groups."""
    if not running.alive:
        return ()
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found = [running]
    for member in found:
        kin = (identify(pid) for pid in children.get(member.pid, ()))
        found.extend(one for one in kin if one is not None)
    return tuple(found)


def kill(members: Iterable[Running]) -> None:
    """Send SIGKILL to each process that is still the same one."""
    for member in members:
        if member.same:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member.pid, signal.SIGKILL)


def find_marked(mark: str) -> Running | None:
    """The oldest process with the mark in its environment that does not descend from another such process."""
    wanted = f"{MARK}={mark}".encode()
    marked = {pid for pid in _pids() if wanted in _environment(pid)}
    heads = [one for pid in marked if _parent(pid) not in marked and (one := identify(pid)) is not None]
    return min(heads, key=lambda one: one.ticks, default=None)


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return 0 if fields is None else int(fields[1])


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the name, which may contain anything; None if there is no such process.
    Raises `OSError` if it cannot be read, for example without a free descriptor.
    """
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _exists(pid: int) -> bool:
    """Whether any process has this pid; needs no file descriptor."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


MAX_LOG_BYTES: Final = 16 << 20
_PAUSE_S: Final = 0.02
_GONE_S: Final = 2.0


class Instance(Protocol):
    """One instance as a supervisor needs it, whatever runs it."""

    restarts_itself: bool

    async def running(self) -> bool: ...
    async def start(self) -> None: ...
    async def stop(self, timeout_s: float) -> None: ...
    async def works(self) -> bool: ...
    def kill_now(self) -> None: ...
    def is_gone(self) -> bool: ...


class _Child(subprocess.Popen[bytes]):
    """A process that may outlive the agent, so dropping it while it runs is not an error."""

    def __del__(self, *_: object) -> None:
        """Emit no warning; the process that inherits this one reaps it."""


class OwnInstance:
    """An instance that the agent runs itself, in its own session, so that it outlives the agent.

    State is written before acting: the file says `starting` before the process exists, and names it
    afterwards. A process that was started but never named is found by the mark in its environment.
    """

    restarts_itself = False

    def __init__(self, unit: UnitConfig, index: int, folder: Path, caller: Caller) -> None:
        self._unit, self._index, self._caller = unit, index, caller
        self._file = folder / f"{unit.name}.{index}.json"
        self._log = folder / f"{unit.name}.{index}.log"
        self._mark = f"{folder.resolve()}:{unit.name}.{index}"
        self._running: Running | None = None
        self._child: _Child | None = None
        self._killed: tuple[Running, ...] = ()
        self._adopt()

    @property
    def pid(self) -> int:
        return 0 if self._running is None else self._running.pid

    async def running(self) -> bool:
        self._reap()
        return self._running is not None and self._running.alive

    async def start(self) -> None:
        """Start it if it is not running. Raises `Permanent` if it cannot be started."""
        if await self.running():
            return
        write_values(self._file, {"state": "starting"})
        try:
            self._child = self._spawn()
        except (OSError, ValueError, KeyError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise Permanent("unit-not-started", f"{self._unit.name} cannot be started: {why}") from error
        self._running = identify(self._child.pid)
        if self._running is not None:
            self._remember(self._running)

    async def stop(self, timeout_s: float) -> None:
        """Ask it to stop, then kill it and all its descendants. Raises `OutcomeUnknown`."""
        self._reap()
        running = self._running
        if running is None or not running.alive:
            self._forget()
            return
        members = family(running)
        running.send(signal.SIGTERM)
        await self._until_gone(members, min(timeout_s, self._unit.stop_ms / 1_000))
        if running.alive:
            members = (*members, *family(running))
        kill(members)
        await self._until_gone(members, _GONE_S)
        if any(member.alive for member in members):
            raise OutcomeUnknown(
                "unit-not-stopped", f"{self._unit.name} is still running after it was killed"
            )
        self._forget()

    def kill_now(self) -> None:
        """Send SIGKILL to all its processes at once. Thread-safe, for fences. Raises `OSError` or
        `MemoryError` if some of them could not be found.
        """
        running = self._running
        if running is None:
            return
        try:
            self._killed = family(running)
        except (OSError, MemoryError):
            # Its descendants cannot be found now. A child of ours that was not reaped keeps its pid.
            self._killed = (running,)
            if self._child is not None and self._child.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(running.pid, signal.SIGKILL)
            raise
        kill(self._killed)

    def is_gone(self) -> bool:
        """Whether none of its processes is left. Thread-safe."""
        running = self._running
        left = (*self._killed, *(() if running is None else (running,)))
        return not any(member.alive for member in left)

    async def works(self) -> bool:
        return await self.running() and await check(self._unit, self._index, self._caller)

    def shorten_log(self) -> None:
        """Truncate a log that grew too large; its writers append, so they continue at the start."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > MAX_LOG_BYTES:
                os.truncate(self._log, 0)

    def _spawn(self) -> _Child:
        unit = self._unit
        passed = {name: os.environ[name] for name in unit.pass_env if name in os.environ}
        variables = environment(
            {**passed, **{key: filled(unit, self._index, value) for key, value in unit.env.items()}}
        )
        variables |= {MARK: self._mark, "EVAC_INDEX": str(self._index)}
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            return _Child(
                [filled(unit, self._index, word) for word in unit.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=unit.cwd or None,
                env=variables,
                start_new_session=True,
                **_as_user(unit.user),
            )

    def _adopt(self) -> None:
        """The process that the file of an earlier agent names, if exactly that process still runs."""
        values = read_values(self._file)
        if not values:
            return
        named: Running | None = None
        if values.get("pid"):
            named = Running(int(values["pid"]), int(values["ticks"]), str(values["boot"]))
        else:
            named = find_marked(self._mark)
        if named is not None and named.alive:
            self._running = named
            self._remember(named)

    def _remember(self, running: Running) -> None:
        write_values(self._file, {"pid": running.pid, "ticks": running.ticks, "boot": running.boot})

    def _forget(self) -> None:
        self._running = None
        self._file.unlink(missing_ok=True)

    def _reap(self) -> None:
        """Reap a child that ended, which stays a zombie until then."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    async def _until_gone(self, members: tuple[Running, ...], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while loop.time() < deadline:
            self._reap()
            if not any(member.alive for member in members):
                return
            await asyncio.sleep(_PAUSE_S)


async def check(unit: UnitConfig, index: int, caller: Caller) -> bool:
    """Whether the instance passes its check; without a check, whether it runs."""
    timeout_s = unit.check_ms / 1_000
    if unit.check_url:
        try:
            answer = await caller.call("GET", filled(unit, index, unit.check_url), timeout_s=timeout_s)
        except (NotReached, NotAnswered, ActionError):
            return False
        return 200 <= answer.status < 300
    if unit.check_argv:
        argv = [filled(unit, index, word) for word in unit.check_argv]
        try:
            return (await run_program(argv, env=environment({}), timeout_s=timeout_s)).code == 0
        except ActionError:
            return False
    return True


def filled(unit: UnitConfig, index: int, words: str) -> str:
    """Fill in `{index}` and `{port}` of this instance; other braces stay."""
    return words.replace("{index}", str(index)).replace("{port}", str(unit.port + index))


def _as_user(user: str) -> dict[str, Any]:
    """The user to run as. Raises `KeyError` for an unknown user. Without root, the agent's own user."""
    if not user or os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


QUIET: Final = ("--no-pager", "--no-ask-password")
ASK: Final = ("show", "--property=Id,LoadState,ActiveState,TasksCurrent")
WORDS_MOST: Final = 200
_DOWN: Final = frozenset({"inactive", "failed"})
_UP: Final = frozenset({"active", "reloading", "refreshing"})
_THERE: Final = frozenset({"loaded", "masked"})
_NONE: Final = frozenset({"", "0", "[not set]", str(2**64 - 1)})


@dataclass(frozen=True, slots=True)
class SystemdState:
    """load, active: as systemd reports them. tasks: whether the unit has a process left."""

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
    """State of each unit according to systemd. names: unit -> whether it must exist. Raises OutcomeUnknown if
    systemd cannot be queried, Permanent if a unit that must exist is unknown: a misspelt name must not pass
    for a unit that is down.
    """
    argv = (*systemctl, *QUIET, *ASK, "--", *names)
    ended = await run_program(argv, env=environment({}), timeout_s=timeout_s)
    if ended.code != 0:
        raise _unseen(names, ended.output if ended.code is not None else "it does not answer")
    return _read(names, ended.output)


def states_now(
    systemctl: Sequence[str], names: Mapping[str, bool], timeout_s: float
) -> dict[str, SystemdState]:
    """The same without an event loop. Thread-safe."""
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
    """Send SIGKILL to all processes of these units and request a stop, so that systemd does not restart them.
    Check the result with `states_now`.
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
    """An instance that systemd runs and restarts."""

    restarts_itself = True

    def __init__(self, unit: UnitConfig, index: int, systemctl: tuple[str, ...], caller: Caller) -> None:
        self._unit, self._index, self._caller = unit, index, caller
        self._systemctl = systemctl
        self.name = filled(unit, index, unit.systemd)
        # Above the count of a plain start, fewer units may exist than `most` allows.
        self.needed = index < max(1, unit.count)

    async def running(self) -> bool:
        """Whether the unit is not down. Raises OutcomeUnknown, Permanent."""
        return not (await self._state()).down

    async def start(self) -> None:
        await self._obeyed("start")

    async def stop(self, timeout_s: float) -> None:
        await self._obeyed("stop", timeout_s)

    async def works(self) -> bool:
        """Whether the unit is up and passes its check. Raises OutcomeUnknown, Permanent."""
        return (await self._state()).up and await self.passes()

    async def passes(self) -> bool:
        """Whether it works, given that it is up."""
        return await check(self._unit, self._index, self._caller)

    def kill_now(self) -> None:
        kill_now(self._systemctl, [self.name], 2.0)

    def is_gone(self) -> bool:
        """Whether the unit is down. Raises OutcomeUnknown, Permanent."""
        return states_now(self._systemctl, {self.name: self.needed}, 2.0)[self.name].down

    async def _state(self) -> SystemdState:
        wanted = {self.name: self.needed}
        return (await states(self._systemctl, wanted, self._unit.check_ms / 1_000))[self.name]

    async def _obeyed(self, verb: str, timeout_s: float = 0.0) -> None:
        argv = (*self._systemctl, *QUIET, verb, "--", self.name)
        within_s = timeout_s or self._unit.stop_ms / 1_000
        ended = await run_program(argv, env=environment({}), timeout_s=within_s)
        if ended.code is None:
            raise OutcomeUnknown("unit-unknown", f"systemctl {verb} {self.name} did not finish in time")
        if ended.code != 0:
            why = f"systemctl {verb} {self.name} ended with {ended.code}: {_line(ended.output)}"
            raise Permanent("unit-refused", why, "allow the unit in the polkit rules, and check its journal")


def _read(names: Mapping[str, bool], output: str) -> dict[str, SystemdState]:
    """Parse one block for each unit, in the order of the query."""
    blocks = [block for block in output.split("\n\n") if block.strip()]
    if len(blocks) != len(names):
        raise _unseen(names, f"it reported {len(blocks)} of {len(names)}")
    found = {}
    for (name, needed), block in zip(names.items(), blocks, strict=True):
        told = dict(line.partition("=")[::2] for line in block.strip().splitlines())
        load, active = told.get("LoadState", ""), told.get("ActiveState", "")
        if load not in _THERE and (needed or load != "not-found"):
            raise Permanent(
                "unit-not-there",
                f"systemd has no unit {name} ({_line(load) or 'no output'})",
                "fix its name in the agent's file",
            )
        if not active:
            raise _unseen([name], "it did not report the state of the unit")
        found[name] = SystemdState(load, active, told.get("TasksCurrent", "") not in _NONE)
    return found


def _unseen(names: Collection[str], why: str) -> ActionError:
    said = f"cannot ask systemd about {next(iter(names))}: {_line(why) or 'no output'}"
    return OutcomeUnknown("unit-unseen", said)


def _line(words: str) -> str:
    """The first line that is not empty."""
    first = next((line for line in words.splitlines() if line.strip()), "")
    return "".join(c if c.isprintable() else " " for c in first).strip()[:WORDS_MOST]
