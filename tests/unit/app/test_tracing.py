"""Traces reach a real receiver of OTLP, and a collector that is away costs spans and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from evac.app import tracing
from evac.app.tracing import PREFIX, RunSpan, RunTraces, Tracer, tracer_of, wanted
from evac.engine.lead.leadership import LEADER
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import encode_all
from evac.office.office import Office
from evac.store.journal import Journal
from evac.store.opening import open_store
from evac.store.port import Delete, MemoryStore, Put, Store
from evac.web.serving import application
from tests.unit.views.test_run_spans import STORY
from tests.web.rooms import BASE, Loopback, WebSetting, office_of, primed

NAMES = ["wait for approval", "promote", "promote", "wait for pause", "start", "RUN lose pangyo"]


class Collector:
    """A receiver of OTLP over HTTP. spans: as they came, each with the attributes of its resource."""

    def __init__(self) -> None:
        self.spans: list[tuple[Any, dict[str, Any]]] = []
        self.refuses = False
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if not collector.refuses and self.path == "/v1/traces":
                    collector.take(body)  # before it is acknowledged: who sent it looks as soon as it is
                self.close_connection = True
                self.send_response(400 if collector.refuses else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        arguments = {"poll_interval": 0.02}
        threading.Thread(target=self.server.serve_forever, kwargs=arguments, daemon=True).start()

    def take(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {one.key: one.value.string_value for one in group.resource.attributes}
            self.spans += [(span, about) for scope in group.scope_spans for span in scope.spans]

    @property
    def names(self) -> list[str]:
        return [span.name for span, _ in self.spans]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2")
    yield made
    made.server.shutdown()
    made.server.server_close()


async def journalled(store: Store, run: str, count: int = len(STORY)) -> Journal:
    journal = await Journal.create(store, run, None, (), (Put(OPEN + run, b"{}"),))
    await journal.append(encode_all(STORY[:count]), None)
    return journal


@pytest.mark.enable_socket
def test_spans_of_a_run_reach_a_receiver(collector: Collector) -> None:
    tracer = tracer_of("runs", "north", lambda words: None)
    assert tracer is not None

    async def story() -> None:
        store = MemoryStore()
        await journalled(store, "run-1")
        traces = RunTraces(store, tracer.run_span)
        await traces.look()
        await store.transact((), (Delete(OPEN + "run-1"),))
        await traces.look()
        assert await store.get(PREFIX + "run-1") is None, "nothing is kept of a run that is over"

    asyncio.run(story())
    tracer.close()
    assert collector.names == NAMES
    root, about = collector.spans[-1]
    assert about["service.name"] == "evac"
    assert about["evac.site"] == "north"
    told = {one.key: one.value for one in root.attributes}
    assert told["cicd.pipeline.run.id"].string_value == "run-1"
    assert told["cicd.pipeline.result"].string_value == "success"
    assert root.kind == root.SPAN_KIND_SERVER
    for span, _ in collector.spans[:-1]:
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
    failed = collector.spans[4][0]
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert (failed.end_time_unix_nano - failed.start_time_unix_nano) == 100_000_000
    assert "hunter2" not in str(collector.spans)


@pytest.mark.enable_socket
def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    collector.refuses = True
    said: list[str] = []
    monkeypatch.setattr(tracing, "QUEUE_MOST", 1_000)
    tracer = Tracer("runs", "north", said.append)
    for number in range(3_000):
        tracer.run_span(RunSpan("x", bytes([1] * 16), number.to_bytes(8, "big"), b"", 1, 2, {}))
    tracer.flush()
    assert said == ["traces do not reach the collector; spans are lost until they do"]
    collector.refuses = False
    tracer.run_span(RunSpan("y", bytes([1] * 16), bytes([2] * 8), b"", 1, 2, {}))
    tracer.flush()
    assert said[1:] == ["traces reach the collector again"]
    tracer.close()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(tracing, "END_S", 0.2)
    gone = Tracer("runs", "north", said.append)
    gone.run_span(RunSpan("z", bytes([1] * 16), bytes([3] * 8), b"", 1, 2, {}))
    gone.close()  # returns, though nobody listens


def test_whoever_goes_on_sends_nothing_twice() -> None:
    async def story() -> None:
        store, first, second = MemoryStore(), list[RunSpan](), list[RunSpan]()
        journal = await journalled(store, "run-1", 8)
        await RunTraces(store, first.append).look()
        await journal.append(encode_all(STORY[8:12]), None)
        again = RunTraces(store, second.append)
        await again.look()
        await journal.append(encode_all(STORY[12:]), None)
        await store.transact((), (Delete(OPEN + "run-1"),))
        await again.look()
        assert [one.name for one in [*first, *second]] == NAMES

    asyncio.run(story())


def test_a_run_that_ended_is_sent_once_though_it_stays_open_and_nothing_is_kept_of_it_then() -> None:
    """Its end is in the journal before it stops to be open, and the two may be far apart."""

    async def story() -> None:
        store, sent = MemoryStore(), list[RunSpan]()
        await journalled(store, "run-1")
        traces = RunTraces(store, sent.append)
        for _ in range(3):
            await traces.look()
        await RunTraces(store, sent.append).look()
        assert [one.name for one in sent] == NAMES
        assert await store.get(PREFIX + "run-1") is not None
        await store.transact((), (Delete(OPEN + "run-1"),))
        for _ in range(2):
            await traces.look()
            await RunTraces(store, sent.append).look()
        assert [one.name for one in sent] == NAMES
        assert await store.list(PREFIX) == []

    asyncio.run(story())


def test_what_is_kept_of_runs_that_ended_unseen_is_worked_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one without a journal, or whose number nobody can read; a part of many at each look."""

    async def story() -> None:
        store, sent = MemoryStore(), list[RunSpan]()
        journal = await journalled(store, "run-1", 8)
        await RunTraces(store, sent.append).look()
        await journal.append(encode_all(STORY[8:]), None)
        await store.transact((), (Delete(OPEN + "run-1"), Put(PREFIX + "gone", b"7")))
        await store.transact((), (Put(PREFIX + "odd", b"x" * 40), Put(PREFIX + "old", b"9" * 40)))
        monkeypatch.setattr(tracing, "RUNS_MOST", 2)
        traces = RunTraces(store, sent.append)
        await traces.look()
        assert [entry.key for entry in await store.list(PREFIX)] == [PREFIX + "old", PREFIX + "run-1"]
        await traces.look()
        assert [one.name for one in sent] == NAMES
        assert await store.list(PREFIX) == []

    asyncio.run(story())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_it_is_off_unless_the_environment_asks_for_it(environment: dict[str, str], expected: bool) -> None:
    assert wanted(environment) is expected


def test_off_it_imports_nothing() -> None:
    code = "import sys, evac.app.tracing; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.enable_socket
def test_requests_of_the_war_room_are_spans_by_the_template_of_their_route(collector: Collector) -> None:
    tracer = Tracer("room", "north", lambda words: None)

    async def story() -> None:
        office: Office = await primed(office_of())
        app = application(office, Loopback("tester"), WebSetting())
        app.state.room.metrics.also = tracer.request
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
            await client.get("/v1/runs/hunter2?token=hunter2")
            await client.get("/healthz")
        await office.close()

    asyncio.run(story())
    tracer.close()
    assert collector.names == ["GET /v1/runs/{run}"]
    told = {one.key: one.value for one in collector.spans[0][0].attributes}
    assert told["http.response.status_code"].int_value == 404
    assert "hunter2" not in str(collector.spans)


@pytest.mark.enable_socket
def test_the_process_sends_what_its_controller_leads(collector: Collector, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'evac.sqlite'}"
    command = [sys.executable, "-m", "evac.app.tracing", "--store", url, "--site", "north"]

    async def fill() -> None:
        store = open_store(url)
        await store.acquire(LEADER, f"north/{os.getpid()}/x", 600_000)
        await journalled(store, "run-1")
        await store.close()

    asyncio.run(fill())
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    )
    try:
        deadline = time.monotonic() + 60
        while len(collector.spans) < len(NAMES):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.communicate()  # it ends with its parent
    assert collector.names == NAMES
    assert process.returncode == 0
