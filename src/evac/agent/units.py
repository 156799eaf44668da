"""The units of one agent: how many instances of each must run, kept on disk and enforced.

A clean stop or a crash of the agent stops nothing; after a restart it continues with what runs. An instance
that should run and does not is held: the site may have burnt, and its work may have moved. The hold ends when
a leader that knows where the unit runs releases it, or when it is ordered to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Collection, Mapping
from typing import Final

from evac.agent.config import AgentConfig, UnitConfig
from evac.agent.instance import Instance, OwnInstance, SystemdInstance, kill_now, states, states_now
from evac.agent.memory import read_values, write_values
from evac.model.errors import ActionError, EvacError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net.http_calls import Caller
from evac.net.internal_errors import internal

WATCH_S: Final = 0.25
FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 30.0
STEADY_S: Final = 10.0
"""An instance that ran this long is restarted at once when it ends."""
CALL_S: Final = 1.0
GONE_S: Final = 0.01

_log = logging.getLogger("evac.agent")


@dataclass(frozen=True, slots=True)
class UnitSeen:
    """State of one unit. wanted: instances that must run; running: those that do; working: those that pass
    their check. is_set: whether an order or a fence set `wanted`, and no restart of the agent put it on hold.
    """

    wanted: int
    running: int
    working: int
    is_set: bool = False


class _Unit:
    """Instances of one unit, and when each may be restarted."""

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        self.lock = asyncio.Lock()
        self.instances: dict[int, Instance] = {}
        self.pauses: dict[int, float] = {}
        self.not_before: dict[int, float] = {}
        self.started_at: dict[int, float] = {}
        self.trouble = ""


class Units:
    """Starts, stops, scales, checks and supervises units. `fence` is thread-safe."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._folder = config.state / "units"
        self._file = config.state / "wanted.json"
        self._caller = Caller()
        self._units = {unit.name: _Unit(unit) for unit in config.units}
        self._guard = threading.Lock()
        self._wanted = {
            name: int(count) for name, count in read_values(self._file).items() if name in self._units
        }
        self._watching: asyncio.Task[None] | None = None
        self._fences = 0
        self._fenced: dict[str, int] = {}
        """Unit -> number of the last fence that stopped it."""
        self._held = set[str]()

    async def start(self) -> None:
        """Find what an earlier agent started, and start supervising."""
        for unit in self._units.values():
            for index in range(self._known(unit)):
                self._instance(unit, index)
            if not (unit.config.systemd or unit.config.resume_alone) and await self._is_short(unit):
                self._held.add(unit.config.name)
                _log.warning(
                    "%s ended while no agent was running; it is held until a leader confirms it",
                    unit.config.name,
                )
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop supervising; every instance keeps running."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        await self._caller.close()

    def config(self, name: str) -> UnitConfig:
        return self._unit(name).config

    def counts(self, name: str, replicas: int) -> int:
        """The number of instances that an order means. Raises `Permanent`."""
        unit = self._unit(name)
        count = unit.config.count if replicas < 0 else replicas
        if count > unit.config.room:
            raise Permanent("unit-too-many", f"{name} has at most {unit.config.room} instances here")
        return count

    async def set(self, name: str, replicas: int, timeout_s: float, at_least: bool = False) -> UnitSeen:
        """Set the wanted number of instances, and start or stop what is needed. Raises `ActionError`.

        at_least: end no instance that is wanted, or that runs while the unit is held.
        """
        unit = self._unit(name)
        async with unit.lock:
            begun = self._fences
            kept = await self._kept(unit) if at_least else 0
            count = self.counts(name, max(self.counts(name, replicas), kept))
            self._want({name: count}, begun)
            self._held.discard(name)
            unit.pauses.clear()
            unit.not_before.clear()
            for index in range(count):
                await self._begin(unit, index)
            await self._end_from(unit, count, timeout_s)
        return await self.see(name)

    async def _kept(self, unit: _Unit) -> int:
        """How many instances a start must leave. Only the last ones can be ended, so those of a held unit
        count up to the last that runs.
        """
        if unit.config.name not in self._held:
            return self.wanted(unit.config.name)
        return max([index + 1 for index, one in unit.instances.items() if await one.running()], default=0)

    async def see(self, name: str) -> UnitSeen:
        """Check all instances concurrently. Raises `ActionError` if one cannot be checked."""
        unit = self._unit(name)
        if unit.config.systemd:
            return await self._see_by_systemd(unit)
        instances = list(unit.instances.values())
        running = await asyncio.gather(*(one.running() for one in instances))
        working = await asyncio.gather(*(one.works() for one in instances))
        return self._seen(name, sum(running), sum(working))

    async def _see_by_systemd(self, unit: _Unit) -> UnitSeen:
        """Query systemd once for all instances; those that are up are also checked."""
        instances = _by_systemd(unit)
        names = {one.name: one.needed for one in instances}
        found = await states(self._config.systemctl, names, unit.config.check_ms / 1_000)
        working = await asyncio.gather(*(one.passes() for one in instances if found[one.name].up))
        running = sum(not found[name].down for name in names)
        return self._seen(unit.config.name, running, sum(working))

    def _seen(self, name: str, running: int, working: int) -> UnitSeen:
        is_set = name in self._wanted and name not in self._held
        return UnitSeen(self.wanted(name), running, working, is_set)

    def wanted(self, name: str) -> int:
        return self._wanted.get(name, 0)

    @property
    def held(self) -> list[str]:
        """Units that are not restarted until a leader agrees."""
        return sorted(self._held)

    def resume(self, names: Collection[str], stores: Collection[str]) -> None:
        """End the hold of these units, and of those that serve one of these stores."""
        for name in self.held:
            store = self._unit(name).config.store
            if store in stores if store else name in names:
                self._held.discard(name)

    def running_now(self) -> dict[str, int]:
        """Unit -> wanted instances, for the health page; checks nothing."""
        return {name: self._wanted.get(name, 0) for name in sorted(self._units)}

    def fence(self, names: tuple[str, ...], timeout_s: float = 2.0) -> None:
        """Kill every instance of these units, whatever started it, and set their wanted number to 0.

        Returns once all of them are gone. Waits for no lock and no disk; call `keep_wanted` afterwards to
        write it down. Raises `ActionError` for anything that may still run.
        """
        deadline = time.monotonic() + timeout_s
        self._fences += 1
        self._fenced |= dict.fromkeys(names, self._fences)
        self._wanted = {**self._wanted, **dict.fromkeys(names, 0)}
        own: list[tuple[str, Instance]] = []
        by_systemd: dict[str, bool] = {}
        for name in names:
            unit = self._unit(name)
            by_systemd |= {one.name: one.needed for one in _by_systemd(unit)}
            if not unit.config.systemd:
                own += [(name, instance) for instance in list(unit.instances.values())]
        trouble: list[str] = []
        for name, instance in own:
            try:
                instance.kill_now()
            except (OSError, MemoryError) as error:
                why = getattr(error, "strerror", None) or type(error).__name__
                trouble.append(f"{name} ({why})")
        if by_systemd:
            kill_now(self._config.systemctl, list(by_systemd), min(CALL_S, timeout_s))
        left = self._left(own, by_systemd)
        while left and time.monotonic() < deadline:
            time.sleep(GONE_S)
            left = self._left(own, by_systemd)
        if left:
            raise OutcomeUnknown("unit-not-stopped", f"still running after being killed: {', '.join(left)}")
        if trouble:
            raise OutcomeUnknown(
                "unit-not-seen", f"could not determine which processes they started: {', '.join(trouble)}"
            )

    def _left(self, own: list[tuple[str, Instance]], by_systemd: Mapping[str, bool]) -> list[str]:
        found = [name for name, instance in own if not instance.is_gone()]
        if by_systemd:
            seen = states_now(self._config.systemctl, by_systemd, CALL_S)
            found += [name for name in by_systemd if not seen[name].down]
        return found

    def keep_wanted(self) -> None:
        """Write the wanted numbers to disk. Raises `OSError`."""
        with self._guard:
            write_values(self._file, dict(self._wanted))

    def _unit(self, name: str) -> _Unit:
        unit = self._units.get(name)
        if unit is None:
            raise Permanent("unit-unknown", f"the agent of {self._config.site} has no unit {name}")
        return unit

    def _want(self, counts: Mapping[str, int], begun: int) -> None:
        """Write the wanted number to disk before acting on it, so that it survives a crash. Raises
        `Retryable` if a fence came since the one numbered `begun`: an order from before it must not restart
        anything.
        """
        with self._guard:
            wanted = {**self._wanted, **counts}
            if wanted != self._wanted:
                write_values(self._file, dict(wanted))
            late = sorted(
                name for name, count in counts.items() if count and self._fenced.get(name, 0) > begun
            )
            if late:
                raise Retryable("unit-fenced", f"{', '.join(late)} was fenced meanwhile", "ask again")
            # A fence may have come meanwhile: change only what was requested.
            self._wanted = {**self._wanted, **counts}

    def _known(self, unit: _Unit) -> int:
        """How many instances may exist: wanted, in a file of an earlier agent, or any that systemd may run on
        its own.
        """
        if unit.config.systemd:
            return unit.config.room
        files = [path.name for path in self._folder.glob(f"{unit.config.name}.*.json")]
        numbers = [name.removesuffix(".json").rpartition(".")[2] for name in files]
        last = max((int(number) + 1 for number in numbers if number.isdigit()), default=0)
        return max(self._wanted.get(unit.config.name, 0), last)

    async def _is_short(self, unit: _Unit) -> bool:
        """Whether fewer instances run than are wanted."""
        wanted = range(self._wanted.get(unit.config.name, 0))
        return not all([await self._instance(unit, index).running() for index in wanted])

    def _instance(self, unit: _Unit, index: int) -> Instance:
        instance = unit.instances.get(index)
        if instance is None:
            if unit.config.systemd:
                instance = SystemdInstance(unit.config, index, self._config.systemctl, self._caller)
            else:
                instance = OwnInstance(unit.config, index, self._folder, self._caller)
            unit.instances[index] = instance
        return instance

    async def _begin(self, unit: _Unit, index: int) -> None:
        """Start an instance that does not run, unless a fence forbids it in the meantime."""
        instance = self._instance(unit, index)
        if index >= self._wanted.get(unit.config.name, 0):
            return
        # A systemd unit may be stopping: always send the request, systemd knows what is left to do.
        if not instance.restarts_itself and await instance.running():
            return
        await instance.start()
        unit.started_at[index] = asyncio.get_running_loop().time()
        if index >= self._wanted.get(unit.config.name, 0):
            instance.kill_now()

    async def _end_from(self, unit: _Unit, count: int, timeout_s: float) -> None:
        """Stop all instances from `count` on concurrently. Raises the first error once all have ended."""
        extra = [index for index in unit.instances if index >= count]
        if unit.config.systemd and extra:
            names = {one.name: one.needed for one in _by_systemd(unit)}
            found = await states(self._config.systemctl, names, unit.config.check_ms / 1_000)
            named = dict(zip(unit.instances, names, strict=True))
            extra = [index for index in extra if not found[named[index]].down]
        ends = (unit.instances[index].stop(timeout_s) for index in extra)
        results = await asyncio.gather(*ends, return_exceptions=True)
        for index, result in zip(extra, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            if not unit.config.systemd:
                del unit.instances[index]

    async def _watch(self) -> None:
        """Restart what ended, with growing pauses. Never raises, so that supervision does not stop."""
        while True:
            await asyncio.sleep(WATCH_S)
            for unit in self._units.values():
                if unit.config.systemd or unit.lock.locked():
                    continue
                async with unit.lock:
                    await self._look_after(unit)

    async def _look_after(self, unit: _Unit) -> None:
        """Keep retrying one unit whatever happens to it, without affecting the others."""
        words = ""
        try:
            await self._tend(unit)
        except Exception as error:
            words = str(error) if isinstance(error, OSError | EvacError) else internal(error).message
        if words and words != unit.trouble:
            _log.error("%s is not supervised: %s", unit.config.name, words)
        unit.trouble = words

    async def _tend(self, unit: _Unit) -> None:
        now = asyncio.get_running_loop().time()
        if unit.config.name in self._held:
            return
        for index in range(self._wanted.get(unit.config.name, 0)):
            instance = self._instance(unit, index)
            if isinstance(instance, OwnInstance):
                instance.shorten_log()
            if await instance.running() or now < unit.not_before.get(index, 0.0):
                continue
            steady = now - unit.started_at.get(index, now) >= STEADY_S
            pause = FIRST_PAUSE_S if steady else unit.pauses.get(index, FIRST_PAUSE_S)
            unit.pauses[index] = min(2 * pause, LAST_PAUSE_S)
            unit.not_before[index] = now + pause
            _log.warning("%s.%d ended and is being restarted", unit.config.name, index)
            try:
                await self._begin(unit, index)
            except (ActionError, OSError) as error:
                _log.warning("%s.%d cannot be started: %s", unit.config.name, index, error)


def _by_systemd(unit: _Unit) -> list[SystemdInstance]:
    """Instances that systemd runs, in the order of their numbers."""
    return [one for one in list(unit.instances.values()) if isinstance(one, SystemdInstance)]
