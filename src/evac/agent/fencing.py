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
from evac.agent.permits import Permits
from evac.agent.units import Units
from evac.drivers.command.driver import environment
from evac.drivers.port import Action, Driver, Order
from evac.model.errors import EvacError

TICK_S: Final = 0.05
_END_S: Final = 5.0

_log = logging.getLogger("evac.agent")


class FenceFailed(EvacError):
    """The primary may still take writes."""


class FenceHand:
    """Fences every store whose permit runs out, each in its own thread: one that hangs delays no other."""

    def __init__(self, permits: Permits, units: Units, make: Callable[[str], Driver], site: str) -> None:
        self._permits, self._units, self._make, self._site = permits, units, make, site
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="evac-fence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the watching. A fence under way is not cut short; the next agent goes on with what is due."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _watch(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                for fence in self._permits.due():
                    threading.Thread(target=self._fence, args=(fence,), daemon=True).start()
            except Exception:  # no mistake may end the only thing that fences
                _log.exception("the fence cannot begin")

    def _fence(self, fence: FenceConfig) -> None:
        try:
            self._do(fence)
        except Exception as error:  # whatever it is, the store is not fenced, and it is tried again
            _log.error("the fence of %s is not complete: %s", fence.store, error)
            self._settle(fence.store, str(error) or type(error).__name__)
        else:
            _log.warning("the permit of %s ran out; it is fenced", fence.store)
            self._settle(fence.store)

    def _settle(self, store: str, why: str = "") -> None:
        with contextlib.suppress(OSError):
            self._permits.settle(store, why)

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
        if fence.units:
            with contextlib.suppress(OSError):
                self._units.keep_wanted()
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
