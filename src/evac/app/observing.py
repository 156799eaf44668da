"""Looking at the real systems through the estate's endpoints: roles of stores now, and probes for a witness.

Composition: it chooses drivers and hands their answers on as values. Every look is bounded; what does not
answer is unreachable, which is an answer too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import aiohttp

from evac.drivers.parameters import text, whole
from evac.drivers.port import Action
from evac.drivers.process.peers import Lines, peer_of
from evac.drivers.registry import Drivers
from evac.engine.runs.live_actions import Standing
from evac.engine.runs.step_actions import STORE_DRIVERS
from evac.engine.stores.datasets import Epoch
from evac.model.domain import site_of, topology
from evac.model.errors import ActionError, Permanent
from evac.model.estate import Endpoint, Estate, Store
from evac.model.observation import MemberSeen, Observation, Role, observed
from evac.model.run_policy import RunPolicy
from evac.watch import probes
from evac.watch.values import Seen
from evac.watch.witness import Probe

LOOK_S: Final = 2.0
REFUSED: Final = "postgres-refused"
"""Code of a PostgreSQL that answers, and to us says no."""
AT_ONCE: Final = 32
_FACTS: Final = frozenset({"patroni", "postgres", "redis"})


def as_it_stands(estate: Estate, now_ms: int) -> Estate:
    """The estate with the roles that its stores have now; where that is not certain, as the files say."""
    from evac.app.observed_stores import merged

    async def look() -> Observation:
        drivers = Drivers()
        try:
            return await observe(estate, drivers, now_ms)
        finally:
            await drivers.close()

    return observed(estate, merged(Observation(0), asyncio.run(look())))


def store_endpoints(estate: Estate) -> tuple[Endpoint, ...]:
    """Endpoints of copies of stores, sorted by store, then site."""
    stores = {store.id for store in estate.stores}
    found = [e for e in estate.endpoints if e.subject in stores and e.driver in STORE_DRIVERS]
    return tuple(sorted(found, key=lambda e: (e.subject, e.at, e.id)))


async def observe(estate: Estate, drivers: Drivers, now_ms: int, timeout_s: float = LOOK_S) -> Observation:
    """Roles and lags of all copies that have an endpoint, all asked at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def look(endpoint: Endpoint) -> MemberSeen:
        async with gate:
            return await _member(endpoint, drivers, timeout_s)

    found = await asyncio.gather(*(look(endpoint) for endpoint in store_endpoints(estate)))
    return Observation(now_ms, tuple(_with_sync(found)))


async def _member(endpoint: Endpoint, drivers: Drivers, timeout_s: float) -> MemberSeen:
    unreachable = MemberSeen(endpoint.subject, endpoint.at, "unreachable")
    if endpoint.driver not in _FACTS:
        return unreachable
    try:
        driver: Any = drivers.get(endpoint.driver)
        async with asyncio.timeout(timeout_s):
            facts = await driver.facts(action_of(endpoint), timeout_s)
    except Permanent as error:  # it answers, and to nobody that we are; or what we say of it is wrong
        return replace(unreachable, error=(error.code, error.message, error.hint))
    except (ActionError, TimeoutError, OSError):
        return unreachable
    return MemberSeen(
        endpoint.subject, endpoint.at, *_role(endpoint, facts), waits_for(facts), *_position(facts)
    )


def _position(facts: Any) -> tuple[int | None, str]:
    """How much of its log a copy holds, and of which history. Patroni's record of it is as old as its loop,
    and proves nothing.
    """
    if hasattr(facts, "system"):
        return facts.lsn, f"{facts.system}/{facts.timeline}"
    if hasattr(facts, "offset"):
        return facts.offset, facts.history
    return None, ""


def waits_for(facts: Any) -> tuple[str, ...]:
    """Names of the synchronous members that a primary waits for, because too few of them stream: until they
    do, or another set is written, every commit hangs. Nothing for a primary that was demoted by us.
    """
    wanted = getattr(facts, "sync", None)
    if facts.role != "primary" or wanted is None or not wanted.names or not facts.writable:
        return ()
    follow = {one.name for one in facts.standbys if one.state == "streaming"}
    if "*" in wanted.names or len(follow.intersection(wanted.names)) >= wanted.count:
        return ()
    return tuple(name for name in wanted.names if name not in follow)


def _role(endpoint: Endpoint, facts: Any) -> tuple[Role, int | None, str]:
    """What a driver's facts mean. A primary that was demoted is none; a copy that only reconnects, or whose
    primary died, is still one.
    """
    if facts.role in ("primary", "master"):
        confirms = [
            one.name for one in getattr(facts, "standbys", ()) if one.sync_state in ("sync", "quorum")
        ]
        writable = getattr(facts, "writable", True)
        return ("primary" if writable else "none"), 0, ",".join(confirms)
    name = str(endpoint.settings.get("name", ""))
    if facts.link_up if hasattr(facts, "link_up") else facts.receiver == "streaming":
        return "async", int(facts.lag_ms or 0), name
    is_set = getattr(facts, "has_upstream", True) or getattr(facts, "fetching", False)
    return ("detached" if is_set else "none"), None, name


def _with_sync(found: list[MemberSeen]) -> list[MemberSeen]:
    """A copy is synchronous when the primary of its store says so, by the name of the copy."""
    confirms: dict[str, set[str]] = {}
    for member in found:
        if member.role == "primary" and member.detail:
            confirms.setdefault(member.store, set()).update(member.detail.split(","))
    return [
        replace(m, role="sync") if m.role == "async" and m.detail in confirms.get(m.store, ()) else m
        for m in found
    ]


def action_of(endpoint: Endpoint) -> Action:
    """A question to an endpoint: no verb of it changes anything."""
    return Action("verify", endpoint.subject, endpoint.driver, endpoint.at, endpoint.settings)


async def standing_facts(
    estate: Estate,
    policy: RunPolicy,
    drivers: Drivers,
    now_ms: Callable[[], int],
    epochs: Mapping[str, Epoch],
    timeout_s: float = LOOK_S,
) -> tuple[Standing, ...]:
    """Stores whose synchronous replica is the fence today: asked of each healthy primary. Those that policy
    does not fence by `sync`, and those for which the check fails, are left out. epochs: read before this.
    """
    wanted = [store for store in estate.stores if "sync" in policy.store(store.id).proofs]
    calls = [
        _standing(estate, store, drivers, now_ms, epochs.get(store.id, Epoch(store.id)), timeout_s)
        for store in wanted
    ]
    found = await asyncio.gather(*calls)
    return tuple(fact for fact in found if fact is not None)


async def _standing(
    estate: Estate,
    store: Store,
    drivers: Drivers,
    now_ms: Callable[[], int],
    epoch: Epoch,
    timeout_s: float,
) -> Standing | None:
    ends = {e.at: e for e in store_endpoints(estate) if e.subject == store.id and e.driver == "postgres"}
    top = topology(estate)
    sites = {m.mode: site_of(top, m.at) or "" for m in store.members if m.mode in ("primary", "sync")}
    primary, candidate = ends.get(sites.get("primary", "")), ends.get(sites.get("sync", ""))
    if primary is None or candidate is None:
        return None
    names = {str(e.settings["name"]): e.at for e in ends.values() if "name" in e.settings}
    member = str(candidate.settings.get("name", ""))
    at_ms = now_ms()
    driver: Any = drivers.get("postgres")
    try:
        async with asyncio.timeout(timeout_s):
            checked = await driver.precheck_sync(action_of(primary), timeout_s, member, names, primary.at)
    except (ActionError, TimeoutError, OSError):
        return None
    if not checked.ready:
        return None
    return Standing(store.id, member, candidate.at, primary.at, at_ms, epoch.changes)


def probes_of(
    estate: Estate, session: aiohttp.ClientSession, drivers: Drivers, timeout_s: float
) -> Mapping[str, tuple[Probe, ...]]:
    """Site -> its probes, from the endpoints that the estate has of it."""
    found: dict[str, list[Probe]] = {site.id: [] for site in estate.sites}
    agents: dict[str, str] = {}
    lines = Lines(peer_of())
    for endpoint in estate.endpoints:
        probe = _probe(endpoint, session, drivers, timeout_s)
        if probe is not None:
            found[endpoint.at].append(probe)
        if endpoint.driver == "process" and "agent" in endpoint.settings:
            agents.setdefault(endpoint.at, str(endpoint.settings["agent"]))
    for site, url in agents.items():
        url = f"{url.rstrip('/')}/v1/health"
        found[site].append(Probe("agent", "agent", probes.agent(session, url, lines.to)))
    return {site: tuple(sorted(rows, key=lambda p: (p.kind, p.name))) for site, rows in found.items()}


def _probe(
    endpoint: Endpoint, session: aiohttp.ClientSession, drivers: Drivers, timeout_s: float
) -> Probe | None:
    settings = endpoint.settings
    match endpoint.driver:
        case "http" if settings.get("probe", True) is not False:
            url = str(settings.get("observe_url") or settings.get("url", ""))
            return Probe("user", endpoint.id, probes.http(session, url)) if url else None
        case "redis":
            return Probe("data", endpoint.id, _ping(endpoint))
        case "postgres":
            return Probe(
                "data", endpoint.id, probes.database(_answers(endpoint, drivers, timeout_s), endpoint.id)
            )
        case "etcd":
            return Probe("member", endpoint.id, probes.etcd_member(session, str(settings.get("url", ""))))
    return None


def _ping(endpoint: Endpoint) -> probes.Ask:
    """A port that is no number is told when it is asked, and says nothing of the site."""

    async def ask() -> Seen:
        host, port = text(endpoint.settings, "host"), whole(endpoint.settings, "port", 6_379, 65_535)
        return await probes.redis_ping(host, port)()

    return ask


def _answers(endpoint: Endpoint, drivers: Drivers, timeout_s: float) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        """Whoever refuses our password answers. What is wrong with us alone, such as a secret that cannot be
        read, is raised: it says nothing of the site.
        """
        driver: Any = drivers.get(endpoint.driver)
        try:
            await driver.facts(action_of(endpoint), timeout_s)
        except Permanent as error:
            if error.code != REFUSED:
                raise
        except ActionError:
            return False
        return True

    return answers
