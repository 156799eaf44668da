"""Traces of runs: the process beside a controller that reads journals and sends spans of them.

`python -m evac.app.traces_process` is what `evac serve` starts where the environment names a collector. It
sends what the runs do that its controller leads, and writes one key a run, so that whoever goes on does not
send the same again:

    traces/<run>    number of the last event whose spans were handed over

The key is there for as long as the run is open. One of a run that ended while nobody looked is worked off:
what was not sent yet is sent, and then the key goes.

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

from evac.app.side_process import led_by_parent, until_ended
from evac.app.tracing import tracer_of
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import decode_all
from evac.engine.stores.sightings import pages
from evac.model.errors import Corrupt, EvacError, Unavailable
from evac.store.anchors import Anchor
from evac.store.journal import read
from evac.store.opening import open_store
from evac.store.port import Delete, Entry, Put, Store
from evac.views.run_spans import RunSpan, RunSpans

PREFIX: Final = "traces/"
LOOK_S: Final = 1.0
RUNS_MOST: Final = 64
"""Open runs that are followed, and runs that are worked off in one look."""
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
        """One look at all runs that are open, and a last one at those that ended. Raises Unavailable."""
        opened = [entry.key.removeprefix(OPEN) for entry in await pages(self._store, OPEN)]
        kept = {entry.key.removeprefix(PREFIX): _number(entry) for entry in await pages(self._store, PREFIX)}
        ended = sorted(kept.keys() - set(opened))[:RUNS_MOST]
        for run in [*opened[:RUNS_MOST], *ended]:
            if run not in self._following:
                number = kept.get(run, 0)
                self._following[run] = _Following(RunSpans(run), None, number, number)
        for run, one in list(self._following.items()):
            with contextlib.suppress(Corrupt):
                await self._read(run, one)
            if run in opened:
                await self._keep(run, one)
            else:
                await self._store.transact((), (Delete(PREFIX + run),))
                del self._following[run]

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
        if one.sent != one.kept:
            await self._store.transact((), (Put(PREFIX + run, str(one.sent).encode()),))
            one.kept = one.sent

    def forget(self) -> None:
        """Another controller leads: its process goes on."""
        self._following.clear()


def _number(entry: Entry) -> int:
    return int(entry.value) if entry.value.isdigit() and len(entry.value) < 19 else 0


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
