"""The lab as an estate: its sites, stores and endpoints, with a policy that lets evac act."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from evac.model.run_policy import PROFILES
from evac_lab import authorities, orders, receipts, site_servers
from evac_lab.orders_database import STORE as ORDERS
from evac_lab.site_servers import KEY_NAME, Endpoint, Ground
from evac_lab.state import HALLS, PORTS, SERVICE, SITES, ZONE, Site

ROUND_TRIPS: Final = 20
"""Time for a fence or promotion of a PostgreSQL at another site, including its connection."""
PROBE_ROUND_TRIPS: Final = 2
"""Time for a probe: connection and question."""
_POOL: Final = {"cpu": "8 cores", "memory": "8 GiB", "disk": "20 GiB"}
_POLICY: Final = """\
mode: %(mode)s
envelope: {sites: [pangyo, anyang, ansan], stores: [messages, presence%(stores)s], most_lost: 60 s}
watch: %(watch)s
stores:
  messages: {fence_proofs: [sync, attest], on_sync_loss: next, async_promotion: ask}
  presence: {fence_proofs: [none], async_promotion: allow, most_lost: 60 s}
%(second)spatience: {backoff: 100 ms, backoff_most: 2 s}
pace: {shares: [10 %%, 50 %%, 100 %%], wait: 1 s}
"""


def write(
    ground: Ground,
    delay_ms: float = 0,
    *,
    ask: bool = False,
    halls: bool = False,
    second: bool = False,
    mariadb: bool = False,
) -> Path:
    """Writes estate and policy; returns the folder. delay_ms: one way between sites; slows everything. ask:
    nothing begins without a person. halls: the estate includes halls. second: includes the database without a
    live copy. mariadb: includes the MariaDB.
    """
    folder = ground.folder.estate
    folder.mkdir(parents=True, exist_ok=True)
    ground.folder.archive.mkdir(exist_ok=True)
    heading = "# The lab as an estate: written by `evac lab up`.\n"
    files = {
        "estate.yaml": document(ground, delay_ms, ask=ask),
        "endpoints.yaml": {"endpoints": endpoints(ground)},
    }
    if second:
        receipts.in_estate(ground, files["estate.yaml"])
        for site in ground.topology.sites:
            files["endpoints.yaml"]["endpoints"] |= _named(site, receipts.endpoints(ground, site))
    if mariadb:
        orders.in_estate(files["estate.yaml"], _seconds(delay_ms))
        for site in ground.topology.sites:
            files["endpoints.yaml"]["endpoints"] |= _named(site, orders.endpoints(ground, site))
    if halls:
        _place_in_halls(files["estate.yaml"], files["endpoints.yaml"]["endpoints"])
        rows = [f"{site}-1,{site}/hall-2/rack-1,{site}-pool,8000,8192,20" for site in SITES]
        head = "server,rack,pool,cpu_millicores,memory_mib,disk_gib"
        (folder / "servers.csv").write_text("\n".join((head, *rows, "")), encoding="utf-8")
    for name, content in files.items():
        text = yaml.safe_dump(content, sort_keys=False, width=110)
        (folder / name).write_text(heading + text, encoding="utf-8")
    policy = _POLICY % {
        "mode": "hold" if ask else "act",
        "watch": watch(delay_ms),
        "stores": (f", {receipts.STORE}" if second else "") + (f", {ORDERS}" if mariadb else ""),
        "second": (receipts.POLICY if second else "") + (orders.POLICY if mariadb else ""),
    }
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    return folder


def _place_in_halls(estate: dict[str, Any], ends: dict[str, Any]) -> None:
    """Assigns everything to its hall, so that the loss of one can be judged and planned."""
    hall_of = {role: hall for hall, roles in HALLS.items() for role in roles}
    estate["halls"] = {f"{site}/{hall}": {} for site in SITES for hall in HALLS}
    estate["racks"] = {f"{site}/hall-2/rack-1": {} for site in SITES}
    estate["services"][SERVICE]["replicas"] = {f"{site}-pool": 1 for site in SITES}
    for store, role in (("messages", "postgres"), ("presence", "redis"), (ORDERS, ORDERS)):
        for member in estate["stores"].get(store, {"members": []})["members"]:
            member["at"] += f"/{hall_of[role]}"
    for name, end in ends.items():
        server = _ROLE_OF.get(name.rpartition("-")[0])
        if server is not None:
            end["hall"] = f"{end['at']}/{hall_of[server]}"


def watch(delay_ms: float) -> str:
    """Watch settings for links of that delay, one way.

    A probe connects and asks, which is two round trips: distant sites need that much more time, or they look
    dead whenever the machine is slightly late. A lost site is then detected that much later.
    """
    profile = PROFILES["lab"]
    if not delay_ms:
        return f"{{profile: {profile.name}}}"
    deadline_ms = profile.deadline_ms + math.ceil(PROBE_ROUND_TRIPS * 2 * delay_ms)
    period_ms = max(profile.period_ms, deadline_ms)
    return f"{{profile: {profile.name}, deadline: {deadline_ms} ms, period: {period_ms} ms}}"


def document(ground: Ground, delay_ms: float = 0, *, ask: bool = False) -> dict[str, Any]:
    """Sites, pools, services and stores."""
    sites = [site.name for site in ground.topology.sites]
    return {
        "evac": 1,
        "name": "lab",
        "detection": "2 s",
        "approval": "1 min" if ask else "0 s",
        "limits": {"manual": {"unprotect": "5 s"}},
        "sites": {site: {"people": "nobody; a lab"} for site in sites},
        "pools": {f"{site}-pool": {"site": site, **_POOL} for site in sites},
        "services": _services(sites),
        "stores": _stores(_seconds(delay_ms)),
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


def _seconds(delay_ms: float) -> int:
    """Duration of a fence or promotion."""
    return 1 + math.ceil(ROUND_TRIPS * 2 * delay_ms / 1_000)


def _stores(seconds: int) -> dict[str, Any]:
    """Messages lose nothing between the first two sites; presence may lose what it can learn again. seconds:
    duration of a fence or promotion.
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
            "sync_timeout": "never",
            **times,
            "members": messages,
        },
        "presence": {"engine": "redis", "rpo": "60 s", "fence_rung": "none", **times, "members": presence},
    }


def endpoints(ground: Ground) -> dict[str, Any]:
    """How to reach each real server, one site at a time."""
    found: dict[str, Any] = {}
    for site in ground.topology.sites:
        found |= _named(site, (*_data(ground, site), *_traffic(ground, site)))
    return found


def _named(site: Site, ends: Sequence[Endpoint]) -> dict[str, Any]:
    return {
        f"{name}-{site.name}": {"for": subject, "driver": driver, "settings": dict(settings), "at": site.name}
        for name, subject, driver, settings in ends
    }


_ROLE_OF: Final = {
    "member": "etcd",
    "unit": "agent",
    "names": "dns",
    "balancer": "haproxy",
    "door": "haproxy",
}
"""Endpoint, without its site -> the server that it reaches; for stores the members say where they are."""


def _data(ground: Ground, site: Site) -> list[Endpoint]:
    """Endpoints of stores and of what runs the service."""
    secrets = ground.secrets
    messages = site_servers.reach_of_messages(ground, site)
    password = secrets.reference("redis")
    presence = {"host": site.host("redis"), "port": PORTS["redis"], "password": password}
    unit = {"agent": site.url("agent"), "secret": secrets.reference(f"agent-{site.name}"), "unit": SERVICE}
    return [
        ("messages", "messages", "postgres", messages),
        ("presence", "presence", "redis", presence),
        ("member", site.name, "etcd", {"url": site.url("etcd"), **_shown_to_etcd(ground)}),
        ("unit", SERVICE, "process", unit),
    ]


def _shown_to_etcd(ground: Ground) -> Mapping[str, str]:
    """A witness presents the same certificate as an operator: it asks whether the member is alive, and has no
    user.
    """
    files = authorities.store_files(ground.folder.certificates)
    return {"ca": f"file:{files.ca}", "cert": f"file:{files.cert}", "key": f"file:{files.key}"}


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
