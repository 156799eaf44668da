"""The hand of the self-fence: a thread of its own, so that an agent whose loop hangs still fences in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from evac.agent.config import FenceConfig
from evac.agent.listening import Reserve
from evac.agent.permits import Permits
from evac.agent.units import Units
from evac.drivers.command.driver import environment
from evac.drivers.port import Action, Driver, Order
from evac.model.errors import EvacError

TICK_S: Final = 0.05
_END_S: Final = 5.0
AGAIN_S: Final = 0.5

_log = logging.getLogger("evac.agent")


class FenceFailed(EvacError):
    """The primary may still take writes."""


class FenceHand:
    """Fences every store whose permit runs out. Each store has a thread that is there from the start, so that
    one that hangs delays no other, and a process that can start no thread fences all the same. What was done
    is written down by one more thread: a disk that hangs stops no fence, and no second try.
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

    def start(self) -> None:
        """Begins to watch. Drivers are made once before: what they import is in memory when it is needed."""
        for fence in self._permits.fences:
            if fence.action:
                driver = self._make(action_of(fence.action, fence.store, self._site).driver)
                asyncio.get_running_loop().create_task(driver.close())
        for thread in (*self._threads, self._writer):
            thread.start()

    def close(self) -> None:
        """Ends the watching. A fence under way is not cut short; the next agent goes on with what is due."""
        self._stop.set()
        self._to_write.set()
        deadline = time.monotonic() + _END_S
        for thread in (*self._threads, self._writer):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _watch(self, fence: FenceConfig) -> None:
        while not self._stop.wait(TICK_S):
            try:
                if self._permits.due((fence.store,)):
                    self._fence(fence)
            except Exception as error:  # no mistake may end the only thing that fences
                self._permits.settle(fence.store, type(error).__name__)

    def _fence(self, fence: FenceConfig) -> None:
        try:
            with self._reserve.lend():
                self._do(fence)
        except Exception as error:  # whatever it is, the store is not fenced, and it is tried again
            self._permits.settle(fence.store, str(error) or type(error).__name__)
            self._to_write.set()
            _log.error("the fence of %s is not complete: %s", fence.store, error)
        else:
            self._permits.settle(fence.store)
            self._to_write.set()
            _log.warning("the permit of %s ran out; it is fenced", fence.store)

    def _write(self) -> None:
        """Writes what fences did, again and again until it is written."""
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
        """Units first, because nothing is faster or surer than SIGKILL; then the program; then the driver.
        Units that do not end keep neither of them from its turn. Raises what went wrong.
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
            reason="the permit ran out",
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
            raise FenceFailed("fence-not-seen", f"{action.driver} says {observed.outcome}")


def action_of(values: Mapping[str, Any], store: str, site: str) -> Action:
    """The action of a fence's table: verb (demote where none), driver, settings, parameters."""
    return Action(
        values.get("verb", "demote"),
        store,
        str(values.get("driver", "")),
        site,
        _plain(values.get("settings", {})),
        _plain(values.get("parameters", {})),
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _run(fence: FenceConfig, timeout_s: float, epoch: int) -> None:
    """The fence's program, with nothing of its group left when its time is over. Raises `FenceFailed`."""
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
            raise FenceFailed("fence-slow", f"{fence.argv[0]} did not end in time") from error
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if code != 0:
        raise FenceFailed("fence-refused", f"{fence.argv[0]} ended with {code}")
