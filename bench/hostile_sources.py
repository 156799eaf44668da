"""Sources of every kind, broken in many ways by a seed, and what the readers make of them.

A reader may refuse a source, or skip a part of it, but it ends in time and never in a traceback.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from evac.app.fetching.kubeconfig import read_access
from evac.estate.format.problems import Problems
from evac.estate.importers import KINDS, Options
from evac.estate.importers.recipe import read_recipe
from evac.estate.importers.running import read_source
from evac.model.errors import EvacError

FIXTURES: Final = Path(__file__).parents[1] / "tests" / "fixtures" / "first-hour"
LIMIT_S: Final = 5.0
"""A source of a few KiB takes longer than that only if reading it explodes."""
_METRICS: Final = {
    "data": {
        "resultType": "vector",
        "result": [{"metric": {"namespace": "a", "pod": "shop-6d4b75cb6d-abcde"}, "value": [1, "0.5"]}],
    }
}
_DATABASE: Final = {
    "type": "aws_db_instance",
    "name": "orders",
    "mode": "managed",
    "address": "aws_db_instance.orders",
    "values": {"engine": "postgres", "availability_zone": "eu-1a"},
}
_BACKSTAGE: Final = """\
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: shop}
spec: {type: service, owner: web, dependsOn: ['component:login', 'resource:orders']}
"""
_COMPOSE: Final = """\
services:
  web:
    image: nginx:1.27
    deploy: {replicas: 3, resources: {reservations: {cpus: "0.5", memory: 256M}}}
    depends_on: {db: {condition: service_healthy}}
  db: {image: "postgres:15", volumes: ["data:/var/lib/postgresql/data"]}
"""
_RECIPE: Final = """\
recipe: 1
sources:
  hosts: {kind: csv, from: hosts.csv, good_for: 90 d}
  east: {kind: kubernetes, context: prod, site: fra, exec: [aws]}
names: {hosts: {frankfurt: fra}}
"""
_KUBECONFIG: Final = """\
clusters:
- {name: c, cluster: {server: "https://a", certificate-authority-data: YQ==}}
users: [{name: u, user: {token: t, client-key-data: YQ==, client-certificate-data: YQ==}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""
_DEVICE: Final = {
    "id": 1,
    "name": "srv-1",
    "site": {"slug": "fra"},
    "rack": {"id": 2, "name": "r1"},
    "position": 4,
}
_CIRCUIT: Final = {"id": 3, "power_panel": {"name": "A"}, "rack": {"id": 2}, "status": {"value": "active"}}
_POWER_PORT: Final = {
    "device": {"id": 1},
    "maximum_draw": 800,
    "connected_endpoints": [{"id": 3, "power_panel": {"name": "A"}}],
}
_NETBOX: Final = {"devices": [_DEVICE], "power_feeds": [_CIRCUIT], "power_ports": [_POWER_PORT]}
_SAMPLES: Final = {
    ("backstage", "catalog.yaml"): _BACKSTAGE,
    ("compose", "compose.yaml"): _COMPOSE,
    ("netbox", "netbox.json"): json.dumps(_NETBOX),
    ("prometheus", "prometheus.json"): json.dumps({"cpu": _METRICS, "memory": _METRICS, "calls": _METRICS}),
    ("terraform", "terraform.json"): json.dumps({"values": {"root_module": {"resources": [_DATABASE]}}}),
    ("recipe", "estate.yaml"): _RECIPE,
    ("kubeconfig", "config"): _KUBECONFIG,
}
_PIECES: Final = (
    *(b"{", b"}", b"[", b"]", b":", b",", b"\n", b"\t", b'"', b"'", b"&a ", b"*a", b"<<: *a\n", b"\x00"),
    *(b"!!python/object:os.system x", b"\xff\xfe", b"\xe2\x80\xae", b"null", b"-1", b"1e999", b"9" * 400),
    *(b"[" * 300, b'{"a":' * 300, b"- " * 200, b"{{ .Values.x }}", b"=cmd|' /C calc'!A0", b"%(x)s"),
    *(b"${jndi:ldap://x}", b"../../etc/passwd"),
)
_SIGNS: Final = b"abcxyzAZ019 -_.:,;/@#{}[]()<>*&!|%'\"\\\n\t="


def samples() -> list[tuple[str, str, bytes]]:
    """Kind, name of the file and content of a good source of each kind but wikimedia's, which is a folder."""
    files = (
        ("csv", "hosts.csv"),
        ("catalogue", "services.csv"),
        ("ansible", "inventory.json"),
        ("kubernetes", "cluster-fra.json"),
    )
    found = [(kind, name, (FIXTURES / name).read_bytes()) for kind, name in files]
    return found + [(kind, name, text.encode()) for (kind, name), text in _SAMPLES.items()]


def broken(seed: int, count: int) -> Iterator[tuple[str, str, bytes]]:
    """So many broken sources, the same for the same seed."""
    chance, known = random.Random(seed), samples()
    for number in range(count):
        kind, name, content = known[number % len(known)]
        data = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
            match chance.randrange(8):
                case 0 if chance.random() < 0.2:
                    del data[at:]
                case 1:
                    del data[at : min(to, at + 20)]
                case 2:
                    data[at:at] = chance.choice(_PIECES)
                case 3:
                    data[at:at] = data[at : min(to, at + 200)] * chance.choice((1, 2, 8))
                case 4:
                    data[at : at + 1] = chance.randbytes(1)
                case _ if data:
                    data[at % len(data)] = chance.choice(_SIGNS)
        yield kind, name, bytes(data)


@dataclass(slots=True)
class Outcomes:
    """What became of the sources."""

    read: Counter[str] = field(default_factory=Counter)
    """Kind -> sources of which something was read."""
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Tracebacks, and sources that took too long; with what brings them back."""
    slowest_s: float = 0.0


def outcomes(seed: int, count: int) -> Outcomes:
    """Read so many broken sources."""
    found = Outcomes()
    with TemporaryDirectory() as folder:
        for number, (kind, name, data) in enumerate(broken(seed, count)):
            path = Path(folder) / name
            path.write_bytes(data)
            began, problems = time.perf_counter(), Problems()
            try:
                if kind == "kubeconfig":
                    read_access((path,), "")
                elif kind == "recipe":
                    read_recipe(path, KINDS, problems)
                else:
                    read_source(kind, path, problems, Options())
                (found.refused if problems.has_errors else found.read)[kind] += 1
            except EvacError:
                found.refused[kind] += 1
            except Exception as error:
                found.wrong.append(
                    f"seed {seed}, source {number}, {kind}: {type(error).__name__}: {error}"[:300]
                )
            took_s = time.perf_counter() - began
            found.slowest_s = max(found.slowest_s, took_s)
            if took_s > LIMIT_S:
                found.wrong.append(f"seed {seed}, source {number}, {kind}: took {took_s:.1f} s")
    return found
