"""Sends spans to a collector over OTLP, if the environment configures one. Never waits for it, and never
fails.

`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` enables it; OpenTelemetry itself reads
headers, certificates and time limits from the environment. Spans that an unavailable collector does not
accept are lost: spans are a view, the journal is the record.

`evac serve` starts `python -m evac.app.tracing` if the environment configures a collector. It sends the
actions of the runs that its controller leads, and writes one key for each run, so that its successor does not
send the same again:

traces/<run>    number of the last event whose spans were sent

The key exists while the run is open. If a run ended while no process was watching, the unsent spans are sent
first, and then the key is deleted. The engine is independent of this, and waits for nothing here.

There is one span for the run, one for each attempt of a step, and one for each time that it waited for
people. Attribute names follow the semantic conventions of OpenTelemetry for CI/CD; others begin with `evac.`.
Ids depend only on the run, so that reading a journal twice gives the same spans. Texts of people and of
drivers stay in the journal: no attribute contains a reason, a message or evidence.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final

from evac import __version__
from evac.app.side_process import end_of, led_by_parent, until_ended
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import decode_all
from evac.model import extras
from evac.model.errors import Corrupt, EvacError, Unavailable
from evac.model.records import dataclass
from evac.model.step_id import StepId
from evac.run.values import Event
from evac.store.anchors import Anchor
from evac.store.journal import read
from evac.store.opening import open_store
from evac.store.port import Delete, Put, Store, all_entries

OPEN_MOST: Final = 200_000
_RESULTS: Final = MappingProxyType(
    {
        "succeeded": "success",
        "succeeded_with_exceptions": "success",
        "failed": "failure",
        "cancelled": "cancellation",
        "timed_out": "timeout",
    }
)
_UNDO: Final = frozenset({"undo_asked", "undo_done", "undo_failed"})
"""Events of an attempt to undo a step, after its start."""
_WAITS: Final = MappingProxyType(
    {
        "approval_needed": ("approval", ("run_started",)),
        "paused": ("pause", ("resumed", "cancelled")),
        "held": ("hold", ("released",)),
    }
)
"""What starts a wait -> its name, and what ends it."""
LIBRARIES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
QUEUE_MOST: Final = 20_000
END_S: Final = 3.0
_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class RunSpan:
    """A completed span."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    """16, 8 and 8 bytes; parent is empty for the run itself."""
    begin_ms: int
    end_ms: int
    attributes: Mapping[str, str | int]
    error: str = ""
    """An error class, empty if there was none."""
    moments: tuple[tuple[int, str], ...] = ()
    """(when, name) of events within the span."""


@dataclass(slots=True)
class _Open:
    name: str
    key: str
    begin_ms: int
    attributes: dict[str, str | int]
    moments: list[tuple[int, str]] = field(default_factory=list)


class RunSpans:
    """The fold of one run. Feed it every event from the first one on."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.trace = hashlib.sha256(f"evac run {run}".encode()).digest()[:16]
        self._root = _Open("RUN", "", 0, {"cicd.pipeline.run.id": run, "cicd.pipeline.action.name": "RUN"})
        self._steps: dict[tuple[str, str], _Open] = {}
        self._waits: dict[str, _Open] = {}
        self._fed = 0
        self.over = False

    def feed(self, event: Event) -> list[RunSpan]:
        """The spans completed by this event."""
        self._fed += 1
        if event.step:
            return self._of_step(event)
        if event.kind == "run_created":
            self._created(event)
        elif event.kind == "plan_replaced":
            self._root.moments.append((event.at_ms, "plan replaced"))
            self._root.attributes["evac.plan"] = _digest(event.data.get("plan"))
        elif event.kind == "leader_changed":
            self._root.moments.append((event.at_ms, "leader changed"))
        found = self._of_wait(event)
        if event.kind == "run_ended":
            found += self._ended(event)
        return found

    def _created(self, event: Event) -> None:
        data, about = event.data, self._root.attributes
        self._root.begin_ms = event.at_ms
        scenario = str(data.get("scenario", ""))
        if scenario:
            about["cicd.pipeline.name"] = scenario[:200]
            self._root.name = f"RUN {scenario}"[:200]
        about |= {
            "evac.incident": str(data.get("incident", ""))[:200],
            "evac.plan": _digest(data.get("plan")),
        }
        if data.get("mode"):
            about["evac.mode"] = str(data["mode"])[:40]

    def _of_wait(self, event: Event) -> list[RunSpan]:
        """Spans of waiting for people; a second pause does not start a second span."""
        found = []
        for began, (name, ends) in _WAITS.items():
            if event.kind == began and began not in self._waits and not self.over:
                key = f"{name}/{self._fed}"
                self._waits[began] = _Open(f"wait for {name}", key, event.at_ms, {"evac.wait": name})
            elif event.kind in ends and began in self._waits:
                found.append(self._close(self._waits.pop(began), event.at_ms))
        return found

    def _of_step(self, event: Event) -> list[RunSpan]:
        if event.kind in ("step_started", "undo_started"):
            return self._begins(event, "undo" if event.kind == "undo_started" else "")
        way, known = "", self._steps.get((event.step, ""))
        if known is None or event.kind in _UNDO:
            way = "undo"
            known = self._steps.get((event.step, way))
        if known is None:
            return []
        result, error = _result(event)
        if not result:
            known.moments.append((event.at_ms, event.kind.removeprefix("step_")))
            return []
        del self._steps[event.step, way]
        known.attributes["cicd.pipeline.task.run.result"] = result
        return [self._close(known, event.at_ms, error)]

    def _begins(self, event: Event, way: str) -> list[RunSpan]:
        """A new attempt; one that was still open has ended, with an unknown result."""
        before = self._steps.pop((event.step, way), None)
        found = [] if before is None else [self._lost(before, event.at_ms)]
        if len(self._steps) < OPEN_MOST:
            step = StepId.parse(event.step)
            word, target = f"{way} {step.kind}".strip(), step.target
            self._steps[event.step, way] = _Open(
                word,
                f"{event.step}/{self._fed}",
                event.at_ms,
                {
                    "cicd.pipeline.run.id": self.run,
                    "cicd.pipeline.task.name": event.step[:200],
                    "cicd.pipeline.task.run.id": f"{event.step}/{event.attempt}"[:200],
                    "cicd.pipeline.task.type": "deploy",
                    "evac.step.kind": word,
                    "evac.target": target[:200],
                    "evac.attempt": event.attempt,
                },
            )
        return found

    def _lost(self, known: _Open, at_ms: int) -> RunSpan:
        known.attributes["cicd.pipeline.task.run.result"] = "error"
        return self._close(known, at_ms, "outcome-unknown")

    def _ended(self, event: Event) -> list[RunSpan]:
        phase = str(event.data.get("phase", ""))
        found = [self._lost(one, event.at_ms) for one in self._steps.values()]
        found += [self._close(one, event.at_ms) for one in self._waits.values()]
        self._steps.clear()
        self._waits.clear()
        result = _RESULTS.get(phase, "error")
        self._root.attributes |= {"cicd.pipeline.result": result, "evac.run.phase": phase[:40]}
        self.over = True
        return [*found, self._close(self._root, event.at_ms, "" if result == "success" else phase or "error")]

    def _close(self, one: _Open, at_ms: int, error: str = "") -> RunSpan:
        if error:
            one.attributes["error.type"] = error[:100]
        parent = _id(self.run, "") if one.key else b""
        return RunSpan(
            one.name,
            self.trace,
            _id(self.run, one.key),
            parent,
            one.begin_ms,
            max(one.begin_ms, at_ms),
            MappingProxyType(one.attributes),
            error,
            tuple(one.moments[:100]),
        )


def _result(event: Event) -> tuple[str, str]:
    """(result by the conventions, class of error) of the end of an attempt; ("", "") if it continues."""
    match event.kind:
        case "step_succeeded" | "undo_done" | "step_attested":
            return "success", ""
        case "step_failed" | "undo_failed":
            return "failure", str(event.data.get("code") or "failed")
        case "step_skipped":
            return "skip", ""
        case "step_observed":
            outcome = str(event.data.get("outcome", ""))
            return {"done": ("success", ""), "absent": ("failure", "absent")}.get(outcome, ("", ""))
    return "", ""


def _id(run: str, key: str) -> bytes:
    return hashlib.sha256(f"evac span {run}\0{key}".encode()).digest()[:8]


def _digest(plan: object) -> str:
    return str(plan or "")[:80]


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment configures a collector and does not disable tracing."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return any(environment.get(name, "").strip() for name in ENDPOINTS)


def missing() -> str:
    """What is not installed, in words; empty if nothing is missing."""
    try:
        found = all(importlib.util.find_spec(name) is not None for name in LIBRARIES)
    except ModuleNotFoundError:
        found = False
    return "" if found else extras.needs("otel", "sending traces").message


class Tracer:
    """The tracer of a process. say: receives one message when spans are not accepted, and one when they are
    again.
    """

    def __init__(self, part: str, site: str, say: Callable[[str], None]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # reported here, once and briefly
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "evac"}
        more = {
            "service.version": __version__,
            "service.instance.id": f"{site or '-'}/{part}",
            "evac.site": site,
        }
        self._resource = Resource.create(named | more)
        self._scope = InstrumentationScope("evac", __version__)
        self._processor = BatchSpanProcessor(_Telling(OTLPSpanExporter(), say), max_queue_size=QUEUE_MOST)

    def run_span(self, one: RunSpan) -> None:
        """Send a span of a run. Returns at once."""
        from opentelemetry.sdk.trace import Event
        from opentelemetry.trace import SpanKind

        kind = SpanKind.INTERNAL if one.parent else SpanKind.SERVER
        moments = [Event(name, timestamp=at_ms * _NS) for at_ms, name in one.moments]
        self._end(
            one.name,
            one.trace,
            one.id,
            one.parent,
            kind,
            one.begin_ms * _NS,
            one.end_ms * _NS,
            dict(one.attributes),
            one.error,
            moments,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Send a span of a request. route: its template, so that it contains no names of things."""
        from opentelemetry.trace import SpanKind

        end_ns = time.time_ns()
        about: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        error = str(status) if status >= 500 else ""
        if error:
            about["error.type"] = error
        begin_ns = end_ns - int(seconds * 1e9)
        self._end(
            f"{method} {route}",
            secrets.token_bytes(16),
            secrets.token_bytes(8),
            b"",
            SpanKind.SERVER,
            begin_ns,
            end_ns,
            about,
            error,
            [],
        )

    def _end(
        self,
        name: str,
        trace: bytes,
        number: bytes,
        parent: bytes,
        kind: Any,
        begin_ns: int,
        end_ns: int,
        attributes: dict[str, str | int],
        error: str,
        moments: Sequence[Any],
    ) -> None:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace.status import Status, StatusCode

        status = Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET)
        self._processor.on_end(
            ReadableSpan(
                name,
                _context(trace, number),
                _context(trace, parent) if parent else None,
                self._resource,
                attributes,
                moments,
                kind=kind,
                status=status,
                start_time=begin_ns,
                end_time=end_ns,
                instrumentation_scope=self._scope,
            )
        )

    def flush(self) -> None:
        """Send pending spans; for tests, and before the end."""
        self._processor.force_flush(int(END_S * 1_000))

    def close(self) -> None:
        """Send what it can within `END_S`. An unavailable collector delays no one."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces end", daemon=True)
        ending.start()
        ending.join(END_S)


def tracer_of(part: str, site: str, say: Callable[[str], None]) -> Tracer | None:
    """A tracer if the environment asks for one; None if it does not, or libraries are missing."""
    if not wanted():
        return None
    if words := missing():
        say(words)
        return None
    return Tracer(part, site, say)


def _context(trace: bytes, number: bytes) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    whole, part = int.from_bytes(trace, "big"), int.from_bytes(number, "big")
    return SpanContext(whole, part, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


class _Telling:
    """An exporter that reports when it stops and starts working."""

    def __init__(self, exporter: Any, say: Callable[[str], None]) -> None:
        self._exporter, self._say = exporter, say
        self._fails = False

    def export(self, spans: Sequence[Any]) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            result = self._exporter.export(spans)
        except Exception:  # an error of the collector is no reason to end
            result = SpanExportResult.FAILURE
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            self._say("traces do not reach the collector; spans are lost until they do")
        elif self._fails and not fails:
            self._say("traces reach the collector again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))


PREFIX: Final = "traces/"
LOOK_S: Final = 1.0
RUNS_MOST: Final = 64
"""Maximum number of open runs to follow, and of ended runs to finish in one pass."""


@dataclass(slots=True)
class _Following:
    """One run: how far its journal was read, and up to which event spans were sent."""

    spans: RunSpans
    head: Anchor | None
    sent: int
    kept: int


class RunTraces:
    """Follows open runs and sends their spans. emit: returns at once."""

    def __init__(self, store: Store, emit: Callable[[RunSpan], None]) -> None:
        self._store, self._emit = store, emit
        self._following: dict[str, _Following] = {}

    async def look(self) -> None:
        """Read all open runs, and a last time those that ended. Raises Unavailable."""
        opened = [entry.key.removeprefix(OPEN) for entry in await all_entries(self._store, OPEN)]
        kept = {
            entry.key.removeprefix(PREFIX): (
                int(entry.value) if entry.value.isdigit() and len(entry.value) < 19 else 0
            )
            for entry in await all_entries(self._store, PREFIX)
        }
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
        """A hint for the next process; if it cannot be written, some spans are sent twice."""
        if one.sent != one.kept:
            await self._store.transact((), (Put(PREFIX + run, str(one.sent).encode()),))
            one.kept = one.sent

    def forget(self) -> None:
        """Another controller leads: its process continues."""
        self._following.clear()


async def follow(traces: RunTraces, leads: Callable[[], Awaitable[bool]]) -> None:
    """Run until cancelled. Failed store reads are retried."""
    while True:
        with contextlib.suppress(EvacError):
            if await leads():
                await traces.look()
            else:
                traces.forget()
        await asyncio.sleep(LOOK_S)


async def trace(store: str, site: str) -> None:
    """Run until SIGTERM, SIGINT, or the end of the parent. Raises StoreError."""

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    tracer = tracer_of("runs", site, say)
    if tracer is None:
        raise Unavailable("no collector is configured, or libraries are missing")
    opened = open_store(store)
    leads = led_by_parent(opened, site, os.getppid())
    try:
        await until_ended(follow(RunTraces(opened, tracer.run_span), leads))
    finally:
        await opened.close()
        await asyncio.to_thread(tracer.close)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evac.app.tracing")
    parser.add_argument("--store", required=True)
    parser.add_argument("--site", required=True)
    told = parser.parse_args(arguments)
    return end_of(lambda: trace(told.store, told.site))


if __name__ == "__main__":
    sys.exit(main())
