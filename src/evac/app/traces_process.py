"""Traces of runs: the process beside a controller that reads journals and sends spans of them.

`python -m evac.app.traces_process` is what `evac serve` starts where the environment names a collector. It
sends what the runs do that its controller leads, and writes one key a run, so that whoever goes on does not
send the same again:

    traces/<run>    number of the last event whose spans were handed over

The engine knows nothing of it, and waits for nothing here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from evac.app.parent import led_by_parent, until_ended
from evac.app.tracing import tracer_of
from evac.engine.codec import decode_all
from evac.engine.conducting import OPEN
from evac.engine.losing import pages
from evac.model.errors import Corrupt, EvacError, Unavailable
from evac.report.run_spans import RunSpan, RunSpans
from evac.store.anchors import Anchor
from evac.store.journal import read
from evac.store.opening import open_store
from evac.store.port import Change, Delete, Put, Store

PREFIX: Final = "traces/"
LOOK_S: Final = 1.0
RUNS_MOST: Final = 64
FAILED: Final = 1


@dataclass(slots=True)
class _Following:
    """One run: how far its journal was read, and up to which event spans were handed over."""

    spans: RunSpans
    head: Anchor | None
    sent: int
    kept: int


class RunTraces:
    """Follows open runs and hands their spans on. emit: returns at once."""

    def __init__(self, store: Store, emit: Callable[[RunSpan], None]) -> None:
        self._store, self._emit = store, emit
        self._following: dict[str, _Following] = {}

    async def look(self) -> None:
        """One look at all runs that are open, and once more at those that ended. Raises Unavailable."""
        for entry in (await pages(self._store, OPEN))[:RUNS_MOST]:
            run = entry.key.removeprefix(OPEN)
            if run not in self._following:
                kept = await self._store.get(PREFIX + run)
                number = int(kept.value) if kept is not None and kept.value.isdigit() else 0
                self._following[run] = _Following(RunSpans(run), None, number, number)
        for run, one in list(self._following.items()):
            with contextlib.suppress(Corrupt):
                await self._read(run, one)
            if one.spans.over:
                del self._following[run]
            await self._keep(run, one)

    async def _read(self, run: str, one: _Following) -> None:
        async for segment in read(self._store, run, one.head or 0):
            for number, event in enumerate(decode_all(segment.records), segment.first):
                for span in one.spans.feed(event):
                    if number > one.sent:
                        self._emit(span)
                one.sent = max(one.sent, number)
            one.head = Anchor(run, segment.number, segment.last, segment.hash)

    async def _keep(self, run: str, one: _Following) -> None:
        """A hint for whoever goes on; that it is not written costs spans that come twice."""
        if one.spans.over:
            change: Change = Delete(PREFIX + run)
        elif one.sent != one.kept:
            change = Put(PREFIX + run, str(one.sent).encode())
        else:
            return
        await self._store.transact((), (change,))
        one.kept = one.sent

    def forget(self) -> None:
        """Another controller leads: its process goes on."""
        self._following.clear()


async def follow(traces: RunTraces, leads: Callable[[], Awaitable[bool]]) -> None:
    """Until cancelled. What the store does not answer is asked again."""
    while True:
        with contextlib.suppress(EvacError):
            if await leads():
                await traces.look()
            else:
                traces.forget()
        await asyncio.sleep(LOOK_S)


async def trace(store: str, site: str) -> None:
    """Until SIGTERM, SIGINT, or the end of the parent. Raises StoreError."""

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    tracer = tracer_of("runs", site, say)
    if tracer is None:
        raise Unavailable("no collector is named, or libraries are missing")
    opened = open_store(store)
    leads = led_by_parent(opened, site, os.getppid())
    try:
        await until_ended(follow(RunTraces(opened, tracer.run_span), leads))
    finally:
        await opened.close()
        await asyncio.to_thread(tracer.close)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evac.app.traces_process")
    parser.add_argument("--store", required=True)
    parser.add_argument("--site", required=True)
    told = parser.parse_args(arguments)
    try:
        asyncio.run(trace(told.store, told.site))
    except EvacError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
