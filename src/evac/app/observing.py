"""Looking at the real systems through the estate's endpoints: roles of stores now, and probes for a witness.

Composition: it chooses drivers and hands their answers on as values. Every look is bounded; what does not
answer is unreachable, which is an answer too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from evac.drivers.capabilities import AnswersProbe, ProbeReport, ProvesSync, ReportsRole
from evac.drivers.port import Action
from evac.drivers.process.client import agent_endpoints, agent_of
from evac.drivers.registry import Drivers, can, spec_of
from evac.drivers.spec import ProbeKind
from evac.engine.runs.live_actions import Standing
from evac.engine.stores.datasets import Epoch
from evac.model.domain import site_of, topology
from evac.model.errors import ActionError, Permanent
from evac.model.estate import Endpoint, Estate, Store
from evac.model.observation import MemberSeen, Observation
from evac.model.run_policy import RunPolicy
from evac.watch import probes
from evac.watch.witness import Probe

LOOK_S: Final = 2.0
AT_ONCE: Final = 32


def store_endpoints(estate: Estate) -> tuple[Endpoint, ...]:
    """Endpoints of copies of stores, sorted by store, then site."""
    stores = {store.id for store in estate.stores}
    found = [e for e in estate.endpoints if e.subject in stores and can(e.driver, ReportsRole)]
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
    try:
        driver = drivers.able(endpoint.driver, ReportsRole)
        async with asyncio.timeout(timeout_s):
            report = await driver.report_role(action_of(endpoint), timeout_s)
    except Permanent as error:  # it answers, and to nobody that we are; or what we say of it is wrong
        return replace(unreachable, error=(error.code, error.message, error.hint))
    except (ActionError, TimeoutError, OSError):
        return unreachable
    name = str(endpoint.settings.get("name", ""))
    return MemberSeen(
        endpoint.subject,
        endpoint.at,
        "async" if report.role == "replica" else report.role,
        report.lag_ms,
        ",".join(report.confirms) if report.role == "primary" else name,
        report.waits_for,
        report.position,
        report.history,
    )


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
    ends = {e.at: e for e in store_endpoints(estate) if e.subject == store.id and can(e.driver, ProvesSync)}
    top = topology(estate)
    sites = {m.mode: site_of(top, m.at) or "" for m in store.members if m.mode in ("primary", "sync")}
    primary, candidate = ends.get(sites.get("primary", "")), ends.get(sites.get("sync", ""))
    if primary is None or candidate is None:
        return None
    names = {str(e.settings["name"]): e.at for e in ends.values() if "name" in e.settings}
    member = str(candidate.settings.get("name", ""))
    at_ms = now_ms()
    driver = drivers.able(primary.driver, ProvesSync)
    try:
        async with asyncio.timeout(timeout_s):
            checked = await driver.precheck_sync(action_of(primary), timeout_s, member, names, primary.at)
    except (ActionError, TimeoutError, OSError):
        return None
    if not checked.ready:
        return None
    return Standing(store.id, member, candidate.at, primary.at, at_ms, epoch.changes)


def probes_of(estate: Estate, drivers: Drivers, timeout_s: float) -> Mapping[str, tuple[Probe, ...]]:
    """Site -> its probes: of its endpoints whose drivers answer one, and one of its agent."""
    found: dict[str, list[Probe]] = {site.id: [] for site in estate.sites}
    for end in estate.endpoints:
        spec = spec_of(end.driver)
        if spec is None or spec.probe is None or end.settings.get("probe", True) is False:
            continue
        if spec.probe != "agent":
            found[end.at].append(_probe(spec.probe, end.id, end, drivers, timeout_s))
    for site, end in agent_endpoints(estate).items():
        found[site].append(_probe("agent", "agent", end, drivers, timeout_s))
    return {site: tuple(sorted(rows, key=lambda p: (p.kind, p.name))) for site, rows in found.items()}


def control_of(estate: Estate, site: str, drivers: Drivers, timeout_s: float) -> Probe | None:
    """What must answer while this site's own network works: its agent."""
    end = agent_of(estate, site)
    return None if end is None else _probe("agent", "control", end, drivers, timeout_s)


def _probe(kind: ProbeKind, name: str, end: Endpoint, drivers: Drivers, timeout_s: float) -> Probe:
    async def ask() -> ProbeReport:
        return await drivers.able(end.driver, AnswersProbe).probe(action_of(end), timeout_s)

    return Probe(kind, name, probes.asked(kind, ask))
