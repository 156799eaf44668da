"""Runs as the war room follows them: open ones replayed as they progress, ended ones summarised in a line.

Memory is bounded: views of open runs and of the few ended ones viewed last; for all others one line each, the
newest `LINES_MOST`. For a run that ended earlier, only the first and the last segment are read.

A run of 100,000 steps takes seconds to read, bind and replay, and its forecast takes another: that is done on
a separate thread, while pages and streams continue. Only store requests return to the event loop, and data
that the thread reads is never changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

from evac.app import runs
from evac.engine.runs.binding import was_bound_again
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import decode_all, run_of_incident
from evac.model.access import Grant
from evac.model.errors import Corrupt, EvacError, RunError, Unavailable
from evac.office.values import Hub, News, RunShort, Silence
from evac.run.state import apply
from evac.run.values import CORRUPT, ENDED, Event, left_of, left_words
from evac.run.view import RunView
from evac.run.waits import Wait, waiting
from evac.store.journal import head_of, read, records_after, tail
from evac.store.port import Entry, Store, all_entries
from evac.views.documents import end_words
from evac.views.wait_words import FORECASTS, LARGE, words_of
from evac.views.words import moment

ANSWER_S: Final = 60.0
Answer = TypeVar("Answer")


class Borrowed:
    """What a thread reads from a store that belongs to another thread's event loop. Never waits for a loop
    that has ended: `end` abandons pending requests, and each one has a timeout.
    """

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        self._asked: set[Future[Any]] = set()
        self._over = threading.Event()

    def end(self) -> None:
        self._over.set()
        for one in tuple(self._asked):
            one.cancel()

    async def get(self, key: str) -> Entry | None:
        return await self._ask(self._store.get(key))

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        return await self._ask(self._store.list(prefix, after, limit))

    async def _ask(self, question: Coroutine[Any, Any, Answer]) -> Answer:
        if self._over.is_set() or self._loop.is_closed():
            question.close()
            raise Unavailable("the war room is shutting down")
        asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        self._asked.add(asked)
        if self._over.is_set():  # `end` may have looked before this was there to be found
            asked.cancel()
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.wrap_future(asked)
        except TimeoutError as error:
            raise Unavailable(f"the store did not answer within {ANSWER_S:.0f} s") from error
        finally:
            self._asked.discard(asked)


class Replayer:
    """One task at a time; callers that want what is already in progress wait for that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "replaying")
        self._under_way: dict[str, asyncio.Future[RunView]] = {}
        self._borrowed: Borrowed | None = None

    async def view_of(self, run: str) -> RunView:
        """The run replayed from its journal. Raises as `runs.view_of`."""
        asked = self._under_way.get(run)
        if asked is None:
            loop = asyncio.get_running_loop()
            self._borrowed = self._borrowed or Borrowed(self._store, loop)
            asked = loop.run_in_executor(self._thread, _view_of, self._borrowed, run)
            self._under_way[run] = asked
            asked.add_done_callback(lambda done: self._over(run, done))
        return await asyncio.shield(asked)

    def _over(self, run: str, done: asyncio.Future[RunView]) -> None:
        self._under_way.pop(run, None)
        if not done.cancelled():
            done.exception()  # whoever asked may be gone

    async def foretell(self, view: RunView, now_ms: int) -> None:
        """Ensures that the run has a current forecast, computed on a copy."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, FORECASTS.of, view.fork(), now_ms)

    def close(self) -> None:
        if self._borrowed is not None:
            self._borrowed.end()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _view_of(store: Borrowed, run: str) -> RunView:
    return asyncio.run(runs.view_of(cast(Store, store), run))


LINES_MOST: Final = 10_000
VIEWS_MOST: Final = 4
OPEN_MOST: Final = 64
WAITS_MOST: Final = 20
LAST_RECORDS: Final = 256
"""How many of the last events to search for the one that ended the run; drift and attestations
may follow it.
"""
AGAIN_S: Final = 1.0


def topic_of(run: str) -> str:
    return f"run/{run}"


def short_of(view: RunView, created_ms: int, waits: Sequence[Wait] = ()) -> RunShort:
    """The line of a replayed run. `waits`: for an open one."""
    ended = view.phase in ENDED
    return RunShort(
        run=view.spec.run,
        incident=view.spec.incident,
        state=view.phase,
        scenario=view.spec.labels.get("scenario", ""),
        plan=view.plans[-1],
        created_ms=created_ms,
        started_ms=max(0, view.started_ms),
        ended_ms=view.last_ms if ended else 0,
        events=view.events,
        steps=len(view.steps),
        counts=dict(sorted(view.counts.items())),
        waits=() if ended else tuple(words_of(one) for one in waits[:WAITS_MOST]),
        why=end_words(view),
        held=view.held,
        open=not ended,
    )


def _why(end: Event) -> str:
    """Like `end_words`, from the last event alone."""
    return "; ".join(filter(None, (left_words(left_of(end.data.get("left", ()))), end.data.get("why", ""))))


def _unread_line(run: str, incident: str, why: str, is_open: bool) -> RunShort:
    """The line of a run whose journal cannot be read."""
    return RunShort(
        run=run,
        incident=incident,
        state=CORRUPT,
        scenario="",
        plan="",
        created_ms=0,
        started_ms=0,
        ended_ms=0,
        events=0,
        steps=0,
        counts={},
        waits=(),
        why=why,
        held="",
        open=is_open,
    )


class RunFollower:
    """One open run. `view`: as replayed so far; None until the journal is first read. `waits`: as
    in `short`.
    """

    def __init__(
        self, store: Store, run: str, hub: Hub, changed: Callable[[], None], replayer: Replayer
    ) -> None:
        self._store, self.run, self._hub, self._changed = store, run, hub, changed
        self._replayer = replayer
        self.view: RunView | None = None
        self.created_ms = 0
        self.waits: tuple[Wait, ...] = ()
        self._short: RunShort | None = None
        self._events = -1
        self.problem = ""

    async def follow(self) -> None:
        """Follows the run until it has ended. Read errors are stored in `problem` and retried."""
        while self.view is None or self.view.phase not in ENDED:
            try:
                await self._replay()
                self.problem = ""
            except Unavailable:
                pass
            except EvacError as error:
                self.problem = error.message
            await asyncio.sleep(AGAIN_S)

    async def _replay(self) -> None:
        """From the start, and onwards; a new plan needs its steps, so then from the start again."""
        head = await head_of(self._store, self.run)
        view = await self._replayer.view_of(self.run)
        self.created_ms = self.created_ms or await self._first_ms()
        self.view, self.problem = view, ""
        self._changed()
        begin = max(0, head.segment - 1) if head else 0
        async with aclosing(tail(self._store, self.run, begin)) as segments:
            async for segment in segments:
                for number, event in enumerate(decode_all(segment.records), segment.first):
                    if number <= view.events:
                        continue
                    self._hub.tell(News(topic_of(self.run), "event", number, event))
                    if event.kind == "plan_replaced":
                        return
                    apply(view, event)
                self._changed()
                if view.phase in ENDED:
                    return

    async def _first_ms(self) -> int:
        """When the run was created."""
        async with aclosing(read(self._store, self.run)) as segments:
            async for segment in segments:
                return decode_all(segment.records[:1])[0].at_ms
        return 0

    @property
    def short(self) -> RunShort | None:
        """The current line of the run, computed once per event."""
        if self.view is None:
            return None
        if self._short is None or self._events != self.view.events:
            self.waits = tuple(waiting(self.view)) if self.view.phase not in ENDED else ()
            self._short, self._events = short_of(self.view, self.created_ms, self.waits), self.view.events
        return self._short


async def is_spent(register: Register, grant: Grant) -> bool:
    """Whether the journal of its run has all uses of a break-glass credential. Never raises."""
    try:
        marks = (await register.view(grant.run or grant.incident)).marks
    except EvacError:
        return False
    return all(grant.is_used(number, marks) for number in range(1, grant.uses + 1))


class Register:
    """All runs. `look` finds new ones and starts followers, `lines` lists them."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        changed: Callable[[], None],
        silence: Callable[[], Silence | None] = lambda: None,
    ) -> None:
        self._store, self._hub, self._changed, self._silence = store, hub, changed, silence
        self._following: dict[str, tuple[RunFollower, asyncio.Task[None]]] = {}
        self._ended: OrderedDict[str, RunShort] = OrderedDict()
        self._replayer = Replayer(store)
        self._views: OrderedDict[str, tuple[RunView, float]] = OrderedDict()
        self._incidents: dict[str, str] = {}

    async def look(self) -> None:
        """Reads the store once. Raises Unavailable."""
        open_runs = {entry.key.removeprefix(OPEN) for entry in await all_entries(self._store, OPEN)}
        for run in sorted(open_runs - set(self._following))[: max(0, OPEN_MOST - len(self._following))]:
            self._ended.pop(run, None)
            follower = RunFollower(self._store, run, self._hub, self._changed, self._replayer)
            self._following[run] = (follower, asyncio.create_task(follower.follow(), name=f"follow {run}"))
        for run in [run for run, (_, task) in self._following.items() if task.done() or run not in open_runs]:
            await self._close(run)
        await self._read_incidents(open_runs)

    async def _read_incidents(self, open_runs: set[str]) -> None:
        """Lines of runs that ended before this process began, and of those that it never followed."""
        for entry in await all_entries(self._store, runs.INCIDENT):
            incident = entry.key.removeprefix(runs.INCIDENT)
            if incident in self._incidents:
                continue
            if run := run_of_incident(entry.value):
                self._incidents[incident] = run
                if run not in open_runs and run not in self._ended:
                    self._add(await self._read_line(run, incident))

    async def _close(self, run: str) -> None:
        """Closes a run that is no longer open. It stays listed throughout; if the store is unavailable, the
        next look continues.
        """
        follower, task = self._following[run]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        line = follower.short
        if line is None:
            line = await self._read_line(run, self._incident_of(run))
        elif line.open:
            with contextlib.suppress(RunError, Corrupt):
                line = replace(await self._line_of(run, line.incident), open=False)
        self._add(line)
        self._following.pop(run, None)
        self._changed()

    def _add(self, line: RunShort) -> None:
        self._ended[line.run] = line
        while len(self._ended) > LINES_MOST:
            self._ended.popitem(last=False)

    async def _read_line(self, run: str, incident: str) -> RunShort:
        """An unreadable run hides no other. Raises Unavailable."""
        try:
            return await self._line_of(run, incident)
        except (RunError, Corrupt) as error:
            return _unread_line(run, incident, error.message, is_open=False)

    async def _line_of(self, run: str, incident: str) -> RunShort:
        """From the two ends of its journal; from all of it if another plan may have replaced the first."""
        first, last, head = await self._ends(run)
        ended = last.kind == "run_ended"
        line = RunShort(
            run=run,
            incident=incident or str(first.data.get("incident", "")),
            state=str(last.data.get("phase", "")) if ended else "unfinished",
            scenario=str(first.data.get("scenario", "")),
            plan=str(first.data.get("plan", "")),
            created_ms=first.at_ms,
            started_ms=0,
            ended_ms=last.at_ms if ended else 0,
            events=head,
            steps=0,
            counts={},
            waits=(),
            why=_why(last) if ended else "",
            held="",
            open=False,
        )
        if await was_bound_again(self._store, run, line.plan):
            with contextlib.suppress(RunError, Corrupt):
                view = await self._replayer.view_of(run)
                line = replace(line, plan=view.plans[-1], scenario=view.spec.labels.get("scenario", ""))
        return line

    async def _ends(self, run: str) -> tuple[Event, Event, int]:
        head = await head_of(self._store, run)
        if head is None:
            raise RunError("run-unknown", f"no such run: {run[:80]}", "evac run list")
        found: list[Event] = []
        async with aclosing(read(self._store, run)) as segments:
            async for segment in segments:
                found += decode_all(segment.records[:1])
                break
        begin = max(0, head.records - LAST_RECORDS)
        last = decode_all(
            [record async for _, record in records_after(self._store, run, begin, LAST_RECORDS)]
        )
        found.append(next((event for event in reversed(last) if event.kind == "run_ended"), last[-1]))
        return found[0], found[1], head.records

    @property
    def unread(self) -> tuple[RunShort, ...]:
        """Lines of open runs that could not be read at all yet, sorted by name."""
        found = ((f.run, f.problem) for f, _ in self._following.values() if f.view is None and f.problem)
        return tuple(
            _unread_line(run, self._incident_of(run), why, is_open=True) for run, why in sorted(found)
        )

    def _incident_of(self, run: str) -> str:
        return next((incident for incident, known in self._incidents.items() if known == run), "")

    @property
    def lines(self) -> tuple[tuple[RunShort, ...], tuple[RunShort, ...]]:
        """Open runs, oldest first, and ended ones, newest first."""
        shorts = (follower.short for follower, _ in self._following.values())
        open_runs = sorted((s for s in shorts if s is not None), key=lambda s: (s.created_ms, s.run))
        ended = sorted(self._ended.values(), key=lambda s: (-s.created_ms, s.run))
        return tuple(open_runs), tuple(ended)

    @property
    def waits(self) -> Mapping[str, tuple[Wait, ...]]:
        """Open runs that were read -> what only a person can do for them now."""
        return {run: one.waits for run, (one, _) in self._following.items() if one.short is not None}

    def resolve(self, name: str) -> str:
        """A run by its own name or that of its incident. Raises RunError, and Unavailable if it may be one
        that was made while the store does not answer.
        """
        if name in self._following or name in self._ended:
            return name
        if name in self._incidents:
            return self._incidents[name]
        if silence := self._silence():
            raise Unavailable(f"{silence.words}: whether there is a run {name[:80]} is not known")
        raise RunError("run-unknown", f"no such run or incident: {name[:80]}", "to list them: GET /v1/runs")

    @property
    def problems(self) -> dict[str, str]:
        """Open run -> why the rest of its journal cannot be read."""
        return {run: one.problem for run, (one, _) in self._following.items() if one.problem}

    def follows(self, run: str) -> bool:
        """Whether the run is open and its journal is followed."""
        return run in self._following

    async def view(self, name: str) -> RunView:
        """The replayed run: the live view of an open one (never change it). Raises RunError, and Unavailable
        with what is known of a run whose journal cannot be read now.
        """
        run = self.resolve(name)
        live = self._following[run][0].view if run in self._following else None
        if live is not None:
            return live
        try:
            view = await self._kept(run) or await self._replayer.view_of(run)
        except Unavailable as error:
            raise self._unreadable(run, error) from error
        if run in self._ended:
            self._views[run] = (view, asyncio.get_running_loop().time())
            self._ended[run] = short_of(view, self._ended[run].created_ms)
            while len(self._views) > VIEWS_MOST:
                self._views.popitem(last=False)
        return view

    def _unreadable(self, run: str, error: Unavailable) -> Unavailable:
        """Says what is known of the run, although its journal cannot be read."""
        silence, line = self._silence(), self._ended.get(run)
        known = "open"
        if line is not None:
            known = line.state.replace("_", " ") + (f" ({line.why})" if line.why else "")
            known += f", ended {moment(line.ended_ms, 'seconds')}" if line.ended_ms else ""
        why = silence.words if silence else error.message
        return Unavailable(f"{why}, so the journal of {run} cannot be read. Last known state: {known}")

    async def _kept(self, run: str) -> RunView | None:
        """A view of an ended run, if nothing was written since: people may attest what it left in doubt."""
        if run not in self._views:
            return None
        view, looked = self._views[run]
        now = asyncio.get_running_loop().time()
        if now - looked >= AGAIN_S:
            head = await head_of(self._store, run)
            if head is None or head.records != view.events:
                self._views.pop(run, None)
                return None
            self._views[run] = (view, now)
        self._views.move_to_end(run)
        return view

    async def foretell(self, view: RunView, now_ms: int) -> None:
        """Computes the forecast of a large run before it is shown, so that pages do not wait."""
        if len(view.steps) >= LARGE and view.phase not in ENDED:
            await self._replayer.foretell(view, now_ms)

    async def events(self, name: str, after: int, limit: int) -> list[tuple[int, Event]]:
        """Events after a number, with their numbers. Raises RunError."""
        run, found = self.resolve(name), []
        async for number, record in records_after(self._store, run, after, limit):
            found.append((number, decode_all([record])[0]))
        return found

    async def close(self) -> None:
        for _, task in self._following.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in self._following.values()), return_exceptions=True)
        self._following.clear()
        self._replayer.close()
