"""Which database engine a container image holds, by its name alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_ENGINES: Final[Mapping[str, str]] = {
    "cassandra": "cassandra",
    "clickhouse": "clickhouse",
    "cockroach": "cockroachdb",
    "consul": "consul",
    "couchdb": "couchdb",
    "elasticsearch": "elasticsearch",
    "etcd": "etcd",
    "influxdb": "influxdb",
    "kafka": "kafka",
    "mariadb": "mariadb",
    "memcached": "memcached",
    "minio": "minio",
    "mongo": "mongodb",
    "mongodb": "mongodb",
    "mysql": "mysql",
    "nats": "nats",
    "neo4j": "neo4j",
    "opensearch": "opensearch",
    "postgis": "postgresql",
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "rabbitmq": "rabbitmq",
    "redis": "redis",
    "scylla": "scylla",
    "solr": "solr",
    "timescaledb": "postgresql",
    "valkey": "valkey",
    "vault": "vault",
    "zookeeper": "zookeeper",
}
"""Name of an image, without registry and tag, -> engine."""

_IMAGE_NAME: Final = re.compile(r"(?:.*/)?([^/:@]+)(?::[^/]*)?(?:@.*)?")


def engine_of_image(image: str) -> str | None:
    """The engine of an image such as `docker.io/library/postgres:15`; None for any other."""
    match = _IMAGE_NAME.fullmatch(image)
    return None if match is None else _ENGINES.get(match[1].lower())
