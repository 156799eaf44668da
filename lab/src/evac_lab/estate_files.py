"""The lab as an estate: the files that evac checks, audits and plans, and the policy that lets it act.

Written when the lab comes up, in the same format that any company writes. Figures are the lab's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from evac.model.run_policy import PROFILES
from evac_lab.servers import postgres
from evac_lab.site_servers import KEY_NAME, Ground
from evac_lab.state import PORTS, SERVICE, SITES, ZONE, Site

ROUND_TRIPS: Final = 20
"""Of a fence or a promotion of a PostgreSQL in another site, its connection included."""
PROBE_ROUND_TRIPS: Final = 2
"""Of a probe: its connection, and its question."""
_POOL: Final = {"cpu": "8 cores", "memory": "8 GiB", "disk": "20 GiB"}
_POLICY: Final = """\
mode: act
envelope: {sites: [pangyo, anyang, ansan], stores: [messages, presence], most_lost: 60 s}
watch: %(watch)s
stores:
  messages: {fence_proofs: [sync, attest], on_sync_loss: next, async_promotion: ask}
  presence: {fence_proofs: [none], async_promotion: allow, most_lost: 60 s}
patience: {backoff: 100 ms, backoff_most: 2 s}
pace: {shares: [10 %%, 50 %%, 100 %%], wait: 1 s}
"""


def write(ground: Ground, delay_ms: float = 0) -> Path:
    """Writes estate and policy; returns the folder. delay_ms: one way between sites; all is slower then."""
    folder = ground.folder.estate
    folder.mkdir(parents=True, exist_ok=True)
    ground.folder.archive.mkdir(exist_ok=True)
    heading = "# The lab as an estate: written by `evac lab up`.\n"
    files = {"estate.yaml": document(ground, delay_ms), "endpoints.yaml": {"endpoints": endpoints(ground)}}
    for name, content in files.items():
        text = yaml.safe_dump(content, sort_keys=False, width=110)
        (folder / name).write_text(heading + text, encoding="utf-8")
    policy = _POLICY % {"watch": watch(delay_ms)}
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    return folder


def watch(delay_ms: float) -> str:
    """How sites are watched over links of that delay, one way.

    A probe opens a connection and asks, two round trips: what is far away needs so much more time to answer,
    or it looks dead whenever the machine is a little late. A lost site is then believed that much later.
    """
    profile = PROFILES["lab"]
    if not delay_ms:
        return f"{{profile: {profile.name}}}"
    deadline_ms = profile.deadline_ms + math.ceil(PROBE_ROUND_TRIPS * 2 * delay_ms)
    period_ms = max(profile.period_ms, deadline_ms)
    return f"{{profile: {profile.name}, deadline: {deadline_ms} ms, period: {period_ms} ms}}"


def document(ground: Ground, delay_ms: float = 0) -> dict[str, Any]:
    """Sites, pools, services and stores."""
    sites = [site.name for site in ground.topology.sites]
    return {
        "evac": 1,
        "name": "lab",
        "detection": "2 s",
        "approval": "0 s",
        "sites": {site: {"people": "nobody; a lab"} for site in sites},
        "pools": {f"{site}-pool": {"site": site, **_POOL} for site in sites},
        "services": _services(sites),
        "stores": _stores(1 + math.ceil(ROUND_TRIPS * 2 * delay_ms / 1_000)),
    }


def _services(sites: list[str]) -> dict[str, Any]:
    return {
        SERVICE: {
            "owner": "lab",
            "tier": 0,
            "people": 1_000,
            "rto": "30 s",
            "rpo": "0 s",
            "demand": {"cpu": "100 mCPU", "memory": "64 MiB"},
            "replicas": dict.fromkeys(sites, 1),
            "share": "1/3",
            "start": "2 s",
            "verify": "1 s",
            "needs": [{"store": "messages"}, {"store": "presence", "hard": False}],
            "traffic": {"kind": "dns", "ttl": "1 s", "change": "1 s", "settle": "1 s"},
        },
    }


def _stores(seconds: int) -> dict[str, Any]:
    """Messages lose nothing between the first two sites; presence may lose what it can learn again. seconds:
    that a fence or a promotion takes.
    """
    messages: list[dict[str, str]] = [{"at": SITES[0], "mode": "primary"}]
    messages += [
        {"at": SITES[1], "mode": "sync", "lag": "0 s"},
        {"at": SITES[2], "mode": "async", "lag": "1 s"},
    ]
    presence: list[dict[str, str]] = [{"at": SITES[0], "mode": "primary"}]
    presence += [{"at": site, "mode": "async", "lag": f"{row} s"} for row, site in enumerate(SITES[1:], 1)]
    times = {"fence": f"{seconds} s", "promote": f"{seconds} s", "automatic": False}
    return {
        "messages": {
            "engine": "postgresql",
            "rpo": "0 s",
            "fence_rung": "isolate",
            **times,
            "members": messages,
        },
        "presence": {"engine": "redis", "rpo": "60 s", "fence_rung": "none", **times, "members": presence},
    }


def endpoints(ground: Ground) -> dict[str, Any]:
    """How each real server is reached, a site at a time."""
    found: dict[str, Any] = {}
    for site in ground.topology.sites:
        for name, subject, driver, settings in (*_data(ground, site), *_traffic(ground, site)):
            about = {"for": subject, "driver": driver, "settings": dict(settings), "at": site.name}
            found[f"{name}-{site.name}"] = about
    return found


Endpoint = tuple[str, str, str, Mapping[str, Any]]
"""Name without its site, subject, driver, settings."""


def _data(ground: Ground, site: Site) -> list[Endpoint]:
    """Of stores, and of what runs the service."""
    secrets = ground.secrets
    messages = {
        "host": site.host("postgres"),
        "port": PORTS["postgres"],
        "user": postgres.USER,
        "password": secrets.reference("postgres"),
        "dbname": ground.database.name,
        "name": site.member,
        "data": str(ground.folder.data(site.name, "postgres") / "data"),
        "bin": postgres.program_folder(),
        "system_user": postgres.USER,
        "archive": str(ground.folder.archive),
    }
    password = secrets.reference("redis")
    presence = {"host": site.host("redis"), "port": PORTS["redis"], "password": password}
    unit = {"agent": site.url("agent"), "secret": secrets.reference("agent"), "unit": SERVICE}
    return [
        ("messages", "messages", "postgres", messages),
        ("presence", "presence", "redis", presence),
        ("member", site.name, "etcd", {"url": site.url("etcd")}),
        ("unit", SERVICE, "process", unit),
    ]


def _traffic(ground: Ground, site: Site) -> list[Endpoint]:
    sites = ground.topology.sites
    balancers = ",".join(f"{one.name}:{one.host('haproxy')}" for one in sites)
    health = f"{site.url('haproxy')}/health"
    names = {
        "server": site.host("dns"),
        "port": PORTS["dns"],
        "zone": ZONE,
        "key_name": KEY_NAME,
        "key_secret": ground.secrets.reference("dns"),
        "key_algorithm": "hmac-sha256",
        "records": [f"{SERVICE}={balancers}"],
    }
    balancer = {
        "host": site.host("haproxy"),
        "port": PORTS["runtime"],
        "backend": SERVICE,
        "servers": [f"{one.name}={one.name}" for one in sites],
    }
    return [
        ("names", SERVICE, "dns", names),
        ("balancer", SERVICE, "haproxy", balancer),
        ("door", SERVICE, "http", {"url": health, "method": "GET", "observe_url": health}),
    ]
