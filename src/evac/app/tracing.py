"""Sends spans to a collector by OTLP, where the environment says so. Never waits for it, and never fails.

`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` turns it on; headers, certificates and
time limits are read from the environment by OpenTelemetry itself. What a collector that is away does not take
is lost: spans are a view, the journal is the record.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from evac import __version__
from evac.model import extras
from evac.views.run_spans import RunSpan

LIBRARIES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
QUEUE_MOST: Final = 20_000
END_S: Final = 3.0
_NS: Final = 1_000_000


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a collector, and does not turn tracing off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return any(environment.get(name, "").strip() for name in ENDPOINTS)


def missing() -> str:
    """What is not installed, in words; empty where everything is."""
    try:
        found = all(importlib.util.find_spec(name) is not None for name in LIBRARIES)
    except ModuleNotFoundError:
        found = False
    return "" if found else extras.needs("otel", "sending traces").message


class Tracer:
    """One for a process. say: is told once when spans do not get through, and when they do again."""

    def __init__(self, part: str, site: str, say: Callable[[str], None]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it is said here, once, in few words
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
        """A span of a run. Returns at once."""
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
        """A span of a request. route: its template, so that no name of a thing is in it."""
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
        """Sends what waits; for tests, and before the end."""
        self._processor.force_flush(int(END_S * 1_000))

    def close(self) -> None:
        """Sends what it can within `END_S`. A collector that is away holds nobody up."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces end", daemon=True)
        ending.start()
        ending.join(END_S)


def tracer_of(part: str, site: str, say: Callable[[str], None]) -> Tracer | None:
    """A tracer where the environment asks for one; None where it does not, or libraries are missing."""
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
    """An exporter that says when it stops and begins to work."""

    def __init__(self, exporter: Any, say: Callable[[str], None]) -> None:
        self._exporter, self._say = exporter, say
        self._fails = False

    def export(self, spans: Sequence[Any]) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            result = self._exporter.export(spans)
        except Exception:  # whatever it is, it is of the collector, and no reason to end
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
