"""Driver for octoDNS: moves names between sites through one of its providers, in a separate process that can
be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import field
from pathlib import Path
from typing import Any, Final

import orjson

from evac.drivers import parameters
from evac.drivers.dns.records import Answers, Names, RecordKey
from evac.drivers.dns.zone_driver import DEFAULT_TTL_S, MOST_TTL_S, TOKEN_NAME, SeenZone, ZoneDriver
from evac.drivers.octodns import DRIVER
from evac.drivers.port import Action
from evac.drivers.programs import environment, given
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net import secrets
from evac.net.secrets import Secret

WORKER: Final = Path(__file__).with_name("worker.py")
MOST_BYTES: Final = 1 << 20
_WORKERS_MOST: Final = 16


@dataclass(frozen=True, slots=True)
class _ProviderZone:
    config: str
    provider: str
    names: Names
    ttl: int
    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    hidden: tuple[Secret, ...]

    @property
    def token_name(self) -> str:
        return f"{TOKEN_NAME}.{self.names.zone}"


class OctoDnsDriver(ZoneDriver[_ProviderZone]):
    """Keeps one worker for each interpreter and environment, and kills those that miss a deadline."""

    name = DRIVER.name

    def __init__(self) -> None:
        self._workers: dict[tuple[Any, ...], _Worker] = {}

    async def close(self) -> None:
        for worker in self._workers.values():
            await worker.end()
        self._workers.clear()

    def _read(self, action: Action, names: Names) -> _ProviderZone:
        settings = action.settings
        env, hidden = given(settings)
        config = parameters.text(settings, "config")
        if not Path(config).is_file():
            raise Permanent(
                "setting-wrong", f"{config} is not a file", "use the absolute path of the configuration"
            )
        return _ProviderZone(
            config,
            parameters.text(settings, "provider"),
            names,
            parameters.whole(settings, "ttl", DEFAULT_TTL_S, MOST_TTL_S),
            parameters.many(settings, "python") or (sys.executable,),
            env,
            hidden,
        )

    async def _see(self, zone: _ProviderZone, timeout_s: float) -> SeenZone:
        said = await self._ask(zone, None, timeout_s)
        try:
            sets = {RecordKey(name, kind): (int(ttl), values) for name, kind, ttl, values in said["sets"]}
            return SeenZone(
                {key: frozenset(map(str, sets.get(key, (0, ()))[1])) for key in zone.names.records},
                {key: ttl for key, (ttl, _) in sets.items()},
                int(said["token"]),
                tuple(map(str, said["blocked"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            words = f"{zone.provider} returns no zone"
            raise Retryable("octodns-unreadable", words, after_ms=500) from error

    async def _write(
        self, zone: _ProviderZone, seen: SeenZone, wanted: Answers, token: int, timeout_s: float
    ) -> None:
        sets: list[list[object]] = [
            [key.name, key.kind, seen.ttls.get(key, zone.ttl), sorted(addresses)]
            for key, addresses in sorted(wanted.items())
            if addresses != seen.answers[key]
        ]
        if token != seen.token:
            sets.append([zone.token_name, "TXT", zone.ttl, [str(token)]])
        await self._ask(zone, sets, timeout_s)

    async def _ask(
        self, zone: _ProviderZone, sets: list[list[object]] | None, timeout_s: float
    ) -> dict[str, Any]:
        """sets: record sets to write; None: read. Raises `Retryable`, `Permanent`, `OutcomeUnknown`."""
        late = Retryable if sets is None else OutcomeUnknown
        asked = {
            "config": zone.config,
            "provider": zone.provider,
            "zone": zone.names.zone,
            "token_name": zone.token_name,
            "names": [[key.name, key.kind] for key in sorted(zone.names.records)],
            "sets": sets,
        }
        worker = await self._worker(zone)
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                said = await worker.ask(orjson.dumps(asked) + b"\n")
        except (TimeoutError, OSError, ValueError) as error:
            await worker.end()
            words = f"{zone.provider} did not answer within {timeout_s:.1f} s"
            if not isinstance(error, TimeoutError):
                words = f"octoDNS ended without an answer from {zone.provider}"
            raise late("octodns-silent", words) from error
        except asyncio.CancelledError:
            await worker.end()
            raise
        why = f"{zone.names.zone}: {secrets.scrub(str(said.get('why', '')), zone.hidden)}"
        match said.get("error"):
            case None:
                return said
            case "refused":
                raise Permanent("octodns-refused", why, "check the endpoint's config, provider and zone")
            case "again":
                raise Retryable("octodns-trouble", why, after_ms=500)
            case _:
                raise OutcomeUnknown("octodns-trouble", why, "check the zone")

    async def _worker(self, zone: _ProviderZone) -> _Worker:
        key = (asyncio.get_running_loop(), zone.argv, tuple(sorted(zone.env.items())))
        worker = self._workers.get(key)
        if worker is None or worker.is_over:
            if len(self._workers) >= _WORKERS_MOST:
                await self.close()
            worker = self._workers[key] = await _Worker.begin(zone.argv, environment(zone.env))
        return worker


class _Worker:
    """One process that handles one request after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._one = process, asyncio.Lock()

    @classmethod
    async def begin(cls, argv: tuple[str, ...], env: dict[str, str]) -> _Worker:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                "-I",
                str(WORKER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=env,
                limit=MOST_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            words = f"{argv[0]} cannot be started: {error.strerror}"
            raise Permanent("command-not-started", words) from error
        return cls(process)

    @property
    def is_over(self) -> bool:
        return self._process.returncode is not None

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Send a request. Raises OSError if the process ended, ValueError for an invalid or endless
        response.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._one:
            self._process.stdin.write(line)
            await self._process.stdin.drain()
            answer = await self._process.stdout.readline()
        if not answer:
            raise ConnectionResetError
        found = orjson.loads(answer)
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
