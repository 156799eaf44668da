"""Prometheus metrics: of requests as they pass, and of the situation and certificates at each scrape.

Expiry times are read from the certificate files at each scrape.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evac.app.certificates import end_of
from evac.model.access import Tls
from evac.model.errors import EvacError
from evac.net.tls import Renewed, TlsFiles, stamp_of
from evac.notices.values import KINDS
from evac.office.notices.overview import NoticesSeen
from evac.office.office import Office
from evac.office.values import EstateOnDisk
from evac.web.access.opening import context_of

LOOK_S: Final = 5.0
_LOG: Final = logging.getLogger("evac.access")


class RoomCertificate:
    """Raises InvalidInput for unusable files, NotAllowed for a key that others can read."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        client_ca = Path(tls.client_ca) if tls.client_ca else None
        self._files = TlsFiles(client_ca, Path(tls.cert), Path(tls.key))
        self._stamp = stamp_of(self._files)
        self._renewed = Renewed(context_of(tls))

    @property
    def context(self) -> ssl.SSLContext:
        return self._renewed.context

    async def follow(self) -> None:
        """Checks for changes until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Loads changed files; if they are unusable, logs that and keeps the old ones."""
        stamp = stamp_of(self._files)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._renewed.take(context_of(self._tls))
        except EvacError as error:
            _LOG.error("the new certificate was not accepted: %s [%s]", error.message, error.code)
        else:
            _LOG.info("the certificate was reloaded")


class Certificates(Collector):
    """`files`: purpose of a certificate -> its file."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)

    def collect(self) -> Iterator[Metric]:
        found = GaugeMetricFamily(
            "evac_certificate_ends_timestamp_seconds",
            "When a certificate expires; 0 if it cannot be read.",
            labels=("certificate",),
        )
        for name, path in sorted(self._files.items()):
            found.add_metric((name,), end_of(path) / 1_000)
        yield found


MEDIA: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
QUIET: Final = ("/healthz", "/readyz", "/metrics")
"""Requested constantly by machines, and not worth logging."""
STATES: Final = ("healthy", "suspect", "lost", "isolated", "unknown", "unwatched")


class Metrics:
    """A separate registry for each application, so that tests and processes never share one."""

    def __init__(self, office: Office) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "evac_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "evac_http_request_seconds",
            "Time until the response was sent.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._counts: dict[tuple[str, str, int], Counter] = {}
        self._times: dict[str, Histogram] = {}
        self.also: Callable[[str, str, int, float], None] | None = None
        """Called for each request as well; must return immediately."""
        self.registry.register(_Situation(office))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route`: the path template, so that there are few values."""
        known = method if method in METHODS else "other"
        count = self._counts.get((known, route, status))
        if count is None:
            count = self._counts[known, route, status] = self._requests.labels(known, route, str(status))
        count.inc()
        if "stream" not in route:
            if self.also is not None and route not in QUIET:
                self.also(known, route, status, seconds)
            times = self._times.get(route)
            if times is None:
                times = self._times[route] = self._seconds.labels(route)
            times.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Situation(Collector):
    """Read from the office at each scrape; nothing is cached."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def collect(self) -> Iterator[Metric]:
        now, facts = self._office.situation, self._office.facts
        yield _one("evac_ready", "1 when the displayed data is current.", int(not self._office.ready))
        yield _one("evac_store_answers", "1 while the store answers.", int(now.quorum.answers))
        yield _one("evac_leader_term", "Fencing token of the leader, 0 without a leader.", now.leader.term)
        yield _one("evac_generation", "Generation of the store.", now.generation)
        yield _one("evac_superseded", "1 if a newer generation was opened.", int(now.newer is not None))
        yield _one("evac_held", "1 while a hold is in place.", int(now.hold is not None))
        yield _one("evac_viewers", "Viewers following a stream.", self._office.hub.viewers)
        yield _one("evac_runs_open", "Runs in progress.", len(now.open_runs))
        yield _one(
            "evac_runs_waiting", "Runs waiting for a person.", sum(1 for r in now.open_runs if r.waits)
        )
        yield _one("evac_notices_total", "Number of the last record in the watch journal.", now.notice)
        yield from _on_disk(now.on_disk)
        yield from self._sites()
        yield from _notices(self._office.board.seen)
        if facts is not None:
            yield from self._facts()

    def _sites(self) -> Iterator[Metric]:
        found = GaugeMetricFamily(
            "evac_site_state", "1 for the current state of the site.", labels=("site", "state")
        )
        for site in self._office.situation.sites:
            for state in STATES:
                found.add_metric((site.id, state), int(site.state == state))
        yield found

    def _facts(self) -> Iterator[Metric]:
        facts = self._office.facts
        assert facts is not None
        losses = GaugeMetricFamily("evac_losses", "Losses tried, by verdict.", labels=("kind", "verdict"))
        counts: dict[tuple[str, str], int] = {}
        for loss in facts.losses:
            counts[loss.kind, loss.verdict] = counts.get((loss.kind, loss.verdict), 0) + 1
        for labels, value in sorted(counts.items()):
            losses.add_metric(labels, value)
        yield losses
        findings = GaugeMetricFamily("evac_findings", "Audit findings to fix.", labels=("severity",))
        for severity in ("error", "warning", "note"):
            findings.add_metric((severity,), sum(1 for f in facts.findings if f.severity == severity))
        yield findings
        drawer = self._office.situation.drawer
        ready = sum(bool(one.plan and one.current) for one in drawer)
        yield _one("evac_drawer_plans", "Ready plans that fit the estate.", ready)


def _notices(seen: NoticesSeen) -> Iterator[Metric]:
    yield _one("evac_notices_telling", "1 while a process sends alerts.", int(bool(seen.by)))
    open_ones = GaugeMetricFamily("evac_notices_open", "Open concerns.", labels=("kind",))
    for kind in KINDS:
        open_ones.add_metric((kind,), sum(1 for one in seen.concerns if one.kind == kind))
    yield open_ones
    waiting = GaugeMetricFamily("evac_notices_waiting", "Messages waiting.", labels=("channel",))
    oldest = GaugeMetricFamily(
        "evac_notices_oldest_timestamp_seconds",
        "When the oldest one began to wait; 0: none.",
        labels=("channel",),
    )
    failing = GaugeMetricFamily("evac_notices_failing", "1 while messages fail.", labels=("channel",))
    sent = CounterMetricFamily("evac_notices_delivered", "Messages delivered.", labels=("channel",))
    lost = CounterMetricFamily("evac_notices_given_up", "Messages never delivered.", labels=("channel",))
    for one in seen.channels:
        waiting.add_metric((one.name,), one.waiting)
        oldest.add_metric((one.name,), one.oldest_ms / 1_000)
        failing.add_metric((one.name,), int(bool(one.problem)))
        sent.add_metric((one.name,), one.sent)
        lost.add_metric((one.name,), one.given_up)
    yield from (waiting, oldest, failing, sent, lost)


def _on_disk(seen: EstateOnDisk | None) -> Iterator[Metric]:
    """Empty if no controller watches the files."""
    if seen is None:
        return
    yield _one(
        "evac_estate_reload_timestamp_seconds", "When the estate in use was read.", seen.taken_ms / 1_000
    )
    yield _one(
        "evac_policy_reload_timestamp_seconds", "When the policy in use was read.", seen.policy_ms / 1_000
    )
    yield _one("evac_estate_reload_problems", "Problems that keep files from being loaded.", seen.problems)
    yield _one(
        "evac_estate_reload_restart", "1 while files on disk wait for a restart.", int(bool(seen.restart))
    )
    yield _one(
        "evac_estate_reload_since_timestamp_seconds",
        "When files began to wait; 0: none.",
        seen.since_ms / 1_000,
    )


def _one(name: str, words: str, value: float) -> Metric:
    found = GaugeMetricFamily(name, words)
    found.add_metric((), value)
    return found
