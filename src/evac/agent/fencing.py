"""Self-fencing: how long this site may be the primary of a store, and the fence when that time ends.

The fence runs in its own thread, so that an agent whose loop hangs still fences in time. It uses this
machine's own clock.

A permit is measured from a mark that the agent itself issued, so neither the sender's clock nor a delayed
message can extend it. A store without a first permit is not watched: if evac disappears, only stores that had
a permit and whose policy chose fencing are affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Literal

from evac.agent.config import DEMOTE, FenceConfig, with_tuples
from evac.agent.memory import read_values, write_values
from evac.agent.units import Units
from evac.drivers.port import Action, Driver, Order
from evac.drivers.programs import environment
from evac.model.errors import EvacError, Permanent
from evac.model.records import dataclass
from evac.net.listening import Reserve

MAX_TTL_MS: Final = 600_000
State = Literal["unwatched", "permitted", "fencing", "fenced", "failed"]


@dataclass(frozen=True, slots=True)
class Standing:
    """State of one store. until_ms: end of its permit, on the clock of this boot. tries: attempts of the due
    fence.
    """

    epoch: int = 0
    until_ms: int = 0
    boot: str = ""
    state: State = "unwatched"
    tries: int = 0
    why: str = ""


class Permits:
    """Permits in force. A permit is written to disk before it is acknowledged. Thread-safe."""

    def __init__(
        self, fences: Iterable[FenceConfig], path: Path, boot: str, now_ms: Callable[[], int]
    ) -> None:
        self._fences: Mapping[str, FenceConfig] = {fence.store: fence for fence in fences}
        self._path, self._boot, self._now_ms = path, boot, now_ms
        self._guard = threading.RLock()
        self._writing = threading.Lock()
        kept = read_values(path)
        self._again_ms: dict[str, int] = {}
        self._standings = {store: _found(kept.get(store)) for store in self._fences}

    def mark(self) -> str:
        """The present moment, to be returned with the next permit."""
        return f"{self._boot}:{self._now_ms()}"

    def grant(self, store: str, epoch: int, ttl_ms: int, mark: str) -> Standing:
        """Permit the store for `ttl_ms` from `mark`. Within an epoch a permit never gets shorter. Raises
        `Permanent`.
        """
        with self._guard:
            before = self._of(store, epoch)
            if not 0 < ttl_ms <= MAX_TTL_MS:
                raise Permanent("permit-wrong", f"a permit must last from 1 to {MAX_TTL_MS} ms")
            until = self._moment(mark) + ttl_ms
            if before.boot == self._boot and before.epoch == epoch:
                until = max(until, before.until_ms)
            if self._now_ms() >= until - self._fences[store].margin_ms:
                raise Permanent("permit-late", "the permit has expired, or is about to", "send it again")
        return self._keep(store, Standing(epoch, until, self._boot, "permitted"))

    def release(self, store: str, epoch: int) -> Standing:
        """Stop watching the store until its next permit. Raises `Permanent` for an older epoch."""
        with self._guard:
            self._of(store, epoch)
        return self._keep(store, Standing(epoch, 0, self._boot, "unwatched"))

    @property
    def fences(self) -> tuple[FenceConfig, ...]:
        return tuple(self._fences.values())

    def due(self, stores: Iterable[str] | None = None) -> tuple[FenceConfig, ...]:
        """Stores, of these or of all, whose fence must start now. Each is returned once, until `settle` or a
        new permit.

        This never writes or waits for the disk: a full or hanging disk must not stop a fence. The expired
        permit is already on disk, so the next agent fences again.
        """
        with self._guard:
            asked = self._fences if stores is None else stores
            found = [self._fences[store] for store in asked if self._is_due(store)]
            for fence in found:
                before = self._standings[fence.store]
                self._set(fence.store, replace(before, state="fencing", tries=before.tries + 1))
            return tuple(found)

    def settle(self, store: str, why: str = "") -> None:
        """Record that the fence of a store is complete or, with `why`, that it failed and must be retried
        soon. Permits and releases that arrived in the meantime stay in force. Only `write` writes to disk.
        """
        with self._guard:
            before = self._standings[store]
            if before.state != "fencing":
                return
            self._again_ms[store] = self._now_ms() + self._fences[store].again_ms
            self._set(store, replace(before, state="failed" if why else "fenced", why=why[:200]))

    def write(self) -> None:
        """Write the current state to disk. Raises `OSError`."""
        self._write({})

    def epoch(self, store: str) -> int:
        """The highest epoch received for a store; 0 if no permit ever named it."""
        with self._guard:
            standing = self._standings.get(store)
            return 0 if standing is None else standing.epoch

    def report(self) -> list[dict[str, Any]]:
        """State of every store, for people and controllers. left_ms: rest of its permit, never below 0."""
        with self._guard:
            now = self._now_ms()
            return [
                {
                    "store": store,
                    "epoch": one.epoch,
                    "state": one.state,
                    "tries": one.tries,
                    "why": one.why,
                    "left_ms": max(0, one.until_ms - now) if one.boot == self._boot else 0,
                }
                for store, one in sorted(self._standings.items())
            ]

    def _is_due(self, store: str) -> bool:
        one = self._standings[store]
        if one.state not in ("permitted", "failed") or self._now_ms() < self._again_ms.get(store, 0):
            return False
        margin = self._fences[store].margin_ms
        return one.boot != self._boot or self._now_ms() >= one.until_ms - margin

    def _of(self, store: str, epoch: int) -> Standing:
        standing = self._standings.get(store)
        if standing is None:
            raise Permanent(
                "store-unknown",
                f"no fence for {store} is configured here",
                "add its fence to the agent's file",
            )
        if epoch < standing.epoch:
            raise Permanent("stale-epoch", f"{store} has the epoch {standing.epoch}; {epoch} is older")
        return standing

    def _moment(self, mark: str) -> int:
        boot, _, moment = mark.rpartition(":")
        if boot != self._boot or not moment.isdigit() or int(moment) > self._now_ms():
            raise Permanent(
                "mark-unknown", "the permit does not contain a mark from this agent", "ask for a mark first"
            )
        return int(moment)

    def _keep(self, store: str, standing: Standing) -> Standing:
        """Write to disk before changing memory, so that nothing acknowledged is lost."""
        self._write({store: standing})
        self._set(store, standing)
        return standing

    def _set(self, store: str, standing: Standing) -> None:
        with self._guard:
            self._standings = {**self._standings, store: standing}

    def _write(self, changed: Mapping[str, Standing]) -> None:
        """Write to disk. Blocks other writers, but not readers of `due`."""
        with self._writing:
            with self._guard:
                standings = {**self._standings, **changed}
            write_values(self._path, {name: asdict(one) for name, one in standings.items()})


def _found(values: Mapping[str, Any] | None) -> Standing:
    """Read what an earlier agent wrote. A fence that was started and never seen to finish is started
    again.
    """
    if values is None:
        return Standing()
    standing = Standing(**values)
    return replace(standing, state="failed") if standing.state == "fencing" else standing


TICK_S: Final = 0.05
_END_S: Final = 5.0
AGAIN_S: Final = 0.5

_log = logging.getLogger("evac.agent")


class FenceFailed(EvacError):
    """The primary may still accept writes."""


class FenceHand:
    """Fences every store whose permit expires.

    Each store has its own thread, started in advance, so a fence that hangs delays no other, and a process
    that can start no more threads still fences. One more thread writes results to disk and another logs them:
    a hanging disk or an unread log blocks no fence and no retry.
    """

    def __init__(
        self,
        permits: Permits,
        units: Units,
        make: Callable[[str], Driver],
        site: str,
        reserve: Reserve | None = None,
    ) -> None:
        self._permits, self._units, self._make, self._site = permits, units, make, site
        self._reserve = reserve or Reserve(0)
        self._stop = threading.Event()
        self._to_write = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(fence,), name="evac-fence", daemon=True)
            for fence in permits.fences
        ]
        self._writer = threading.Thread(target=self._write, name="evac-fence-file", daemon=True)
        self._words: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._logger = threading.Thread(target=self._say, name="evac-fence-log", daemon=True)

    def start(self) -> None:
        """Start watching. Drivers are created once in advance, so that their imports are loaded when
        needed.
        """
        for fence in self._permits.fences:
            if fence.action:
                driver = self._make(action_of(fence.action, fence.store, self._site).driver)
                asyncio.get_running_loop().create_task(driver.close())
        for thread in (*self._threads, self._writer, self._logger):
            thread.start()

    def close(self) -> None:
        """Stop watching. A running fence is not interrupted; the next agent continues with what is due."""
        self._stop.set()
        self._to_write.set()
        deadline = time.monotonic() + _END_S
        for thread in (*self._threads, self._writer):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._words.put((logging.NOTSET, ""))
        if self._logger.is_alive():
            self._logger.join(max(0.0, deadline - time.monotonic()))

    def _watch(self, fence: FenceConfig) -> None:
        while not self._stop.wait(TICK_S):
            try:
                if self._permits.due((fence.store,)):
                    self._fence(fence)
            except Exception as error:  # no error may end the only thread that fences
                with contextlib.suppress(Exception):  # without memory this fails too
                    self._permits.settle(fence.store, type(error).__name__)

    def _fence(self, fence: FenceConfig) -> None:
        try:
            with self._reserve.lend():
                self._do(fence)
        except Exception as error:  # the store is not fenced, so it is tried again
            self._permits.settle(fence.store, str(error) or type(error).__name__)
            self._to_write.set()
            self._words.put((logging.ERROR, f"the fence of {fence.store} is not complete: {error}"))
        else:
            self._permits.settle(fence.store)
            self._to_write.set()
            self._words.put((logging.WARNING, f"the permit of {fence.store} expired; it is fenced"))

    def _say(self) -> None:
        """Log what fences did, until an empty message arrives."""
        while True:
            level, words = self._words.get()
            if not words:
                return
            _log.log(level, "%s", words)

    def _write(self) -> None:
        """Write what fences did, retrying until it is written."""
        while True:
            self._to_write.wait()
            self._to_write.clear()
            try:
                self._units.keep_wanted()
                self._permits.write()
            except OSError:
                self._to_write.set()
                if self._stop.wait(AGAIN_S):
                    return
            if self._stop.is_set() and not self._to_write.is_set():
                return

    def _do(self, fence: FenceConfig) -> None:
        """Fence: units first, because SIGKILL is fastest and surest; then the program; then the driver. Units
        that do not stop prevent neither of the others. Raises whatever went wrong.
        """
        deadline = time.monotonic() + fence.timeout_ms / 1_000
        still: EvacError | None = None
        if fence.units:
            hands = 1 + bool(fence.argv) + bool(fence.action)
            try:
                self._units.fence(fence.units, fence.timeout_ms / 1_000 / hands)
            except EvacError as error:
                still = error
        if fence.argv:
            _run(fence, deadline - time.monotonic(), self._permits.epoch(fence.store))
        if fence.action:
            asyncio.run(self._act(fence, deadline - time.monotonic()))
        if still is not None:
            raise still

    async def _act(self, fence: FenceConfig, timeout_s: float) -> None:
        action = action_of(fence.action, fence.store, self._site)
        order = Order(
            run="self-fence",
            step=fence.store,
            attempt=1,
            token=0,
            epoch=self._permits.epoch(fence.store),
            reason="the permit expired",
            timeout_s=max(timeout_s, 0.1),
            key=f"self-fence/{fence.store}",
        )
        driver = self._make(action.driver)
        try:
            async with asyncio.timeout(order.timeout_s + 1.0):
                await driver.execute(action, order)
                observed = await driver.observe(action, order)
        finally:
            await driver.close()
        if observed.outcome != "done":
            raise FenceFailed("fence-not-seen", f"{action.driver} reports {observed.outcome}")


def action_of(values: Mapping[str, Any], store: str, site: str) -> Action:
    """The action in a fence's table: verb (default: demote), driver, settings, parameters."""
    return Action(
        values.get("verb", DEMOTE),
        store,
        str(values.get("driver", "")),
        site,
        with_tuples(values.get("settings", {})),
        with_tuples(values.get("parameters", {})),
    )


def _run(fence: FenceConfig, timeout_s: float, epoch: int) -> None:
    """Run the fence's program and kill its process group at the time limit. Raises `FenceFailed`."""
    variables = environment({"EVAC_STORE": fence.store, "EVAC_EPOCH": str(epoch)})
    with subprocess.Popen(
        fence.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=variables,
        start_new_session=True,
    ) as process:
        try:
            code = process.wait(max(timeout_s, 0.1))
        except subprocess.TimeoutExpired as error:
            raise FenceFailed("fence-slow", f"{fence.argv[0]} did not finish in time") from error
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if code != 0:
        raise FenceFailed("fence-refused", f"{fence.argv[0]} ended with {code}")
