"""Permits: how long this site may be the primary of a store, by this machine's own clock. Acts on nothing.

A permit counts from a mark that the agent itself handed out, so that neither the sender's clock nor a message
that was held up can make it last longer. Without a first permit a store is not watched at all: when evac is
gone, nothing changes but for stores that were permitted and whose policy chose to be fenced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from evac.agent.config import FenceConfig
from evac.agent.memory import read_values, write_values
from evac.model.errors import Permanent

MAX_TTL_MS: Final = 600_000
State = Literal["unwatched", "permitted", "fencing", "fenced", "failed"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One store. until_ms: end of its permit, on the clock of this boot. tries: of the fence that is due."""

    epoch: int = 0
    until_ms: int = 0
    boot: str = ""
    state: State = "unwatched"
    tries: int = 0
    why: str = ""


class Permits:
    """What is permitted now; a permit is on disk before it is told. May be used from any thread."""

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
        """The present moment, to be given back with the next permit."""
        return f"{self._boot}:{self._now_ms()}"

    def grant(self, store: str, epoch: int, ttl_ms: int, mark: str) -> Standing:
        """Permits the store for `ttl_ms` from `mark`; a permit never gets shorter within its epoch. Raises
        `Permanent`.
        """
        with self._guard:
            before = self._of(store, epoch)
            if not 0 < ttl_ms <= MAX_TTL_MS:
                raise Permanent("permit-wrong", f"a permit lasts from 1 to {MAX_TTL_MS} ms")
            until = self._moment(mark) + ttl_ms
            if before.boot == self._boot and before.epoch == epoch:
                until = max(until, before.until_ms)
            if self._now_ms() >= until - self._fences[store].margin_ms:
                raise Permanent("permit-late", "the permit is over already, or about to be", "send it again")
        return self._keep(store, Standing(epoch, until, self._boot, "permitted"))

    def release(self, store: str, epoch: int) -> Standing:
        """The store is not watched any more until its next permit. Raises `Permanent` for an older epoch."""
        with self._guard:
            self._of(store, epoch)
        return self._keep(store, Standing(epoch, 0, self._boot, "unwatched"))

    @property
    def fences(self) -> tuple[FenceConfig, ...]:
        return tuple(self._fences.values())

    def due(self, stores: Iterable[str] | None = None) -> tuple[FenceConfig, ...]:
        """Stores, of these or of all, whose fence must begin now. Each is named once, until `settle` or a new
        permit.

        Nothing is written and no disk is waited for: one that is full or hangs must not stop a fence. What is
        on disk says that the permit is over, so the next agent fences again.
        """
        with self._guard:
            asked = self._fences if stores is None else stores
            found = [self._fences[store] for store in asked if self._is_due(store)]
            for fence in found:
                before = self._standings[fence.store]
                self._set(fence.store, replace(before, state="fencing", tries=before.tries + 1))
            return tuple(found)

    def settle(self, store: str, why: str = "") -> None:
        """The fence of a store is complete; with `why` it is not, and will be due again soon. What was
        permitted or released meanwhile stays so. Nothing is written: that is for `write`.
        """
        with self._guard:
            before = self._standings[store]
            if before.state != "fencing":
                return
            self._again_ms[store] = self._now_ms() + self._fences[store].again_ms
            self._set(store, replace(before, state="failed" if why else "fenced", why=why[:200]))

    def write(self) -> None:
        """Writes down what is true now. Raises `OSError`."""
        self._write({})

    def epoch(self, store: str) -> int:
        """The highest epoch told for a store; 0 for one that no permit ever named."""
        with self._guard:
            standing = self._standings.get(store)
            return 0 if standing is None else standing.epoch

    def report(self) -> list[dict[str, Any]]:
        """Every store, for people and controllers. left_ms: of its permit, never below 0."""
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
                f"no fence of {store} is configured here",
                "write its fence into the agent's file",
            )
        if epoch < standing.epoch:
            raise Permanent("stale-epoch", f"{store} has the epoch {standing.epoch}; {epoch} is older")
        return standing

    def _moment(self, mark: str) -> int:
        boot, _, moment = mark.rpartition(":")
        if boot != self._boot or not moment.isdigit() or int(moment) > self._now_ms():
            raise Permanent(
                "mark-unknown", "the permit names no moment of this agent", "ask for a mark first"
            )
        return int(moment)

    def _keep(self, store: str, standing: Standing) -> Standing:
        """On disk first, then true: what was told is never forgotten."""
        self._write({store: standing})
        self._set(store, standing)
        return standing

    def _set(self, store: str, standing: Standing) -> None:
        with self._guard:
            self._standings = {**self._standings, store: standing}

    def _write(self, changed: Mapping[str, Standing]) -> None:
        """Holds up other writers, and nobody who only asks what is due."""
        with self._writing:
            with self._guard:
                standings = {**self._standings, **changed}
            write_values(self._path, {name: asdict(one) for name, one in standings.items()})


def _found(values: Mapping[str, Any] | None) -> Standing:
    """What an earlier agent wrote. A fence that it began and nobody saw end is begun again."""
    if values is None:
        return Standing()
    standing = Standing(**values)
    return replace(standing, state="failed") if standing.state == "fencing" else standing
