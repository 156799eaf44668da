"""When certificates end, for Prometheus: read off their files at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evac.app.certificates import end_of


class Certificates(Collector):
    """files: what a certificate is for -> its file."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)

    def collect(self) -> Iterator[Metric]:
        found = GaugeMetricFamily(
            "evac_certificate_ends_timestamp_seconds",
            "When a certificate ends; 0 where it cannot be read.",
            labels=("certificate",),
        )
        for name, path in sorted(self._files.items()):
            found.add_metric((name,), end_of(path) / 1_000)
        yield found
