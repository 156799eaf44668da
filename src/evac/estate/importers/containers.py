"""Facts in a container's settings, whatever runs it: the database engine, from the image name alone, and the
hosts in its variables and arguments.
"""

from __future__ import annotations

import ipaddress
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


_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?"
_URL: Final = re.compile(
    r"\b[A-Za-z][A-Za-z0-9+._-]{1,20}://"
    r"(?:[^\s/@]{1,200}@|[^\s:/@]{1,100}:(?!\d{1,5}[/?#])[^\s@\"']{1,200}@)?"
    rf"({_HOST}(?::\d{{1,5}})?(?:,{_HOST}(?::\d{{1,5}})?){{0,20}})(?=[/?#\s\"',;)\]\\]|:[$%{{<\s]|:?$)"
)
_WORDS: Final = re.compile(
    r"(?:^|[;(\s])(?:host|server|data source|address|addr|network address)\s*=\s*"
    rf"(?:tcp:|np:)?'?({_HOST}(?:,{_HOST}){{0,20}})(?=[:,;\s\\'\")]|$)",
    re.IGNORECASE,
)
"""Hosts in connection strings of libpq and of ADO: `host=pg dbname=x`, `Host=pg;Port=5432`."""

_ORACLE: Final = re.compile(rf"\bjdbc:oracle:thin:@(?://)?({_HOST})(?=[:/])")
_DSN: Final = re.compile(rf"@tcp[46]?\(({_HOST})(?=[:)])")
"""Hosts in the data source names of Go: `user:password@tcp(db:3306)/shop`."""

_ADDRESS: Final = re.compile(rf"({_HOST})(?::\d{{1,5}})?(?:/\S*)?")
_ADDRESS_NAME: Final = re.compile(
    r"(?:.*_)?(?:ADDR|ADDRS|ADDRESS|ADDRESSES|HOST|HOSTS|HOSTNAME|ENDPOINT|ENDPOINTS|SERVER|SERVERS|BROKERS)"
    r"|PGHOST|PGHOSTADDR"
)
_DIGITS: Final = re.compile(r"[0-9.]+", re.ASCII)


def hosts_in(text: str) -> list[str]:
    """Hosts of URLs and connection strings in a text."""
    found = [match[1] for pattern in (_URL, _ORACLE, _DSN) for match in pattern.finditer(text)]
    if "=" in text and "://" not in text:
        found += [match[1] for match in _WORDS.finditer(text)]
    return [one.partition(":")[0] for part in found for one in part.split(",")]


def hosts_of_variable(name: str, text: str) -> list[tuple[str, bool]]:
    """Hosts in a variable's value, and whether each is certainly an address; otherwise it counts only if
    something with that name is known.
    """
    hosts = [(host, True) for host in hosts_in(text)]
    if hosts or "://" in text:
        return hosts
    is_sure = _ADDRESS_NAME.fullmatch(name.upper()) is not None
    parts = [(part, _ADDRESS.fullmatch(part.strip())) for part in text.split(",")]
    return [(match[1], is_sure) for part, match in parts if match is not None and (is_sure or ":" in part)]


_INTERNAL: Final = re.compile(
    r"[^.]+|.+\.(?:internal|intern|intranet|private|corp|home|lan|local|localdomain|intra|home\.arpa|svc|consul)"
)
"""Names that no other company publishes: RFC 6762 (appendix G), RFC 8375, and what clusters use."""


PUBLIC: Final = re.compile(
    r"[a-z]{2}|aero|app|asia|biz|cloud|com|dev|edu|example|global|gov|info|int|mil|mobi|name|net|network|online"
    r"|org|pro|shop|site|store|systems|tech|test|xyz|zone"
)
"""Top-level domains in which companies publish `a.b`. Any other `a.b` is taken for a name in a cluster."""


def is_internal(host: str) -> bool:
    """Whether this host is known only inside a network: a bare name, an internal domain, a private
    address.
    """
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return _INTERNAL.fullmatch(host.lower().rstrip(".")) is not None


def hint_undescribed(name: str, is_host: bool) -> str:
    """What happens to a name that a source needs but does not describe."""
    if is_internal(name) and (is_host or "." in name):
        return "it is imported without a location, and the need for it is soft; describe it in the overlay"
    return "it is imported as an external service, and the need for it is soft; describe it in the overlay"


def is_own_machine(host: str) -> bool:
    """Whether an address points back to the machine that uses it, or is only a number."""
    if not _DIGITS.fullmatch(host):
        return host in ("localhost", "localhost.localdomain")
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return address.is_loopback or address.is_unspecified or address.is_link_local
