"""Observe the real systems through the estate's endpoints: roles of stores, health of services, powered-on
servers, and probes for a witness.

Composition: chooses drivers and passes their answers on as values. Every observation has a time limit; a
system that does not respond is reported as unreachable. Also reads what `evac observe --power --output json`
wrote.

A loss plan that runs against a healthy site is an outage caused by evac, so the leader observes a site before
it makes a run of a plan that a person proposed, and a dry run shows the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from evac.derive.domains import Topology, halls_of_endpoints, site_of, site_of_replicas, topology
from evac.derive.situation import services_at
from evac.derive.stores import wants_confirming
from evac.drivers.capabilities import (
    AnswersProbe,
    BootsServers,
    PowerReport,
    ProbeReport,
    ProvesSync,
    ReportsHealth,
    ReportsReplicas,
    ReportsRole,
    RunsUnits,
)
from evac.drivers.credentials import sweep
from evac.drivers.port import Action, Checked
from evac.drivers.process.client import agent_endpoints, agent_of
from evac.drivers.process.driver import ProcessDriver
from evac.drivers.registry import Drivers, can, offers, spec_of
from evac.drivers.spec import ProbeKind
from evac.engine.boots.binding import boot_endpoint
from evac.engine.runs.live_actions import Standing
from evac.engine.stores.datasets import Epoch
from evac.model.errors import ActionError, Busy, InvalidInput, Permanent
from evac.model.estate import Endpoint, Estate, Store
from evac.model.fleet import BMC_NO, BoolColumn, np
from evac.model.observation import LeavingSite, MemberSeen, Observation, UnitsSeen
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.run.pacing import SAMPLES_LEAST, Health
from evac.watch import witness
from evac.watch.witness import Probe

OLDEST_MS: Final = 3_600_000
"""Maximum age of power facts: servers switched off since would never be booted."""
_LARGEST_BYTES: Final = 64 << 20
_ON: Final = frozenset({"on", "rising"})
_HINT: Final = "create a new one: evac observe ESTATE --power --output json"
LOOK_S: Final = 2.0
AGENT: Final = "agent"


def servers_on(path: Path, now_ms: int) -> tuple[str, ...]:
    """Names of the servers seen on or booting, sorted. Raises InvalidInput."""
    power = _read(path).get("power")
    if not isinstance(power, dict):
        raise InvalidInput("power-facts", f"{path} says nothing about the power state of servers", _HINT)
    age_ms = now_ms - _moment_ms(path, power.get("observed_at"))
    if abs(age_ms) > OLDEST_MS:
        words = "is more than an hour old" if age_ms > 0 else "is dated more than an hour in the future"
        raise InvalidInput("power-facts-old", f"{path} {words}", _HINT)
    try:
        rows = [row for site in power["sites"] for row in site["servers"]]
        found = {row["server"] for row in rows if row["power"] in _ON}
    except (KeyError, TypeError) as error:
        raise InvalidInput("power-facts", f"{path} does not list which servers are on", _HINT) from error
    if not all(isinstance(name, str) for name in found):
        raise InvalidInput("power-facts", f"{path} contains server names that are not valid", _HINT)
    return tuple(sorted(found))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InvalidInput("power-facts", f"{path} is larger than {_LARGEST_BYTES >> 20} MiB", _HINT)
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput("power-facts", f"{path} cannot be read: {error.strerror}", _HINT) from error
    except orjson.JSONDecodeError as error:
        raise InvalidInput("power-facts", f"{path} is not JSON: {error}", _HINT) from error
    if not isinstance(found, dict):
        raise InvalidInput("power-facts", f"{path} was not written by `evac observe`", _HINT)
    return found


def _moment_ms(path: Path, stated: object) -> int:
    try:
        moment = datetime.fromisoformat(str(stated))
    except ValueError as error:
        raise InvalidInput("power-facts", f"{path} does not say when it was observed", _HINT) from error
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)


def runs_at(files: Estate, seen: Observation, site: str) -> tuple[Collection[str], Collection[str]]:
    """Units that the agent of a site runs for services running there now, and stores with a member there."""
    services, stores = services_at(files, seen, site), {store.id for store in files.stores}
    here = [end for end in files.endpoints if end.at == site]
    units = {
        str(end.settings.get("unit", ""))
        for end in here
        if end.driver == ProcessDriver.name and end.subject in services
    }
    return units - {""}, {end.subject for end in here if end.subject in stores}


SWEEP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class SitePower:
    """Power at one site. asked: servers with a reachable controller; seen: their answers, in the order of the
    estate; beside: servers that cannot be queried.
    """

    site: str
    asked: int
    beside: int
    seen: tuple[PowerReport, ...]

    def counts(self) -> dict[str, int]:
        """Power state, or why it is unknown -> number of servers, largest first."""
        found: dict[str, int] = {}
        for one in self.seen:
            key = one.power or one.why
            found[key] = found.get(key, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, slots=True)
class PowerFacts:
    """at_ms: wall clock at the start of the observation."""

    at_ms: int
    sites: tuple[SitePower, ...]

    @property
    def asked(self) -> int:
        """Servers of all sites whose controller can be reached, according to the estate."""
        return sum(site.asked for site in self.sites)

    def unknown(self) -> dict[str, int]:
        """Why the power state of a queried server is unknown -> number of servers, largest first."""
        found: dict[str, int] = {}
        for site in self.sites:
            for one in site.seen:
                if not one.power:
                    found[one.why] = found.get(one.why, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


async def observe_power(
    estate: Estate, drivers: Drivers, now_ms: int, within_s: float = SWEEP_S
) -> PowerFacts:
    """Power of all sites that have an endpoint for their servers. Changes nothing."""
    actions = {site.id: _actions(estate, number) for number, site in enumerate(estate.sites)}
    asked: list[tuple[BootsServers, Action]] = []
    for found in actions.values():
        for action in found:
            asked.append((drivers.able(action.driver, BootsServers), action))
    seen = iter(await sweep(asked, within_s))
    sites = []
    for number, site in enumerate(estate.sites):
        count = len(actions[site.id])
        beside = int((estate.fleet.site == number).sum()) - count
        sites.append(SitePower(site.id, count, beside, tuple(next(seen) for _ in range(count))))
    return PowerFacts(now_ms, tuple(sites))


def _actions(estate: Estate, number: int) -> list[Action]:
    """A query for each server of a site whose controller has a known address."""
    site = estate.sites[number].id
    endpoint = boot_endpoint(e for e in estate.endpoints if e.subject == site and e.at == site)
    if endpoint is None:
        return []
    fleet = estate.fleet
    found = []
    for row in np.flatnonzero((fleet.site == number) & (fleet.bmc != BMC_NO)).tolist():
        address, serial, _ = fleet.bmc_of(row)
        if not address:
            continue
        name, rack = bytes(fleet.name[row]).decode(), int(fleet.rack[row])
        network = (estate.racks[rack].hall or "") if rack >= 0 else ""
        told = {"server": name, "address": address, "serial": serial, "network": network}
        found.append(Action("boot", name, endpoint.driver, endpoint.at, endpoint.settings, told))
    return found


AT_ONCE: Final = 32


def store_endpoints(estate: Estate) -> tuple[Endpoint, ...]:
    """Endpoints of copies of stores, sorted by store, then site."""
    stores = {store.id for store in estate.stores}
    found = [e for e in estate.endpoints if e.subject in stores and offers(e.driver, e.settings, ReportsRole)]
    return tuple(sorted(found, key=lambda e: (e.subject, e.at, e.id)))


async def observe(estate: Estate, drivers: Drivers, now_ms: int, timeout_s: float = LOOK_S) -> Observation:
    """Roles and lags of all copies that have an endpoint, queried concurrently."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def look(endpoint: Endpoint) -> MemberSeen:
        async with gate:
            return await seen_at(endpoint, drivers, timeout_s)

    found = await asyncio.gather(*(look(endpoint) for endpoint in store_endpoints(estate)))
    return Observation(now_ms, tuple(_with_sync(found)))


async def seen_at(endpoint: Endpoint, drivers: Drivers, timeout_s: float) -> MemberSeen:
    """One copy of a store, as its driver reports it."""
    unreachable = MemberSeen(endpoint.subject, endpoint.at, "unreachable")
    try:
        driver = drivers.able(endpoint.driver, ReportsRole)
        async with asyncio.timeout(timeout_s):
            report = await driver.report_role(action_of(endpoint), timeout_s)
    except (Permanent, Busy) as error:  # it responds but refuses us, or its settings are wrong
        told = (error.code, error.message, error.hint)
        return replace(unreachable, error=told, busy=isinstance(error, Busy))
    except (ActionError, TimeoutError, OSError):
        return unreachable
    return MemberSeen(
        endpoint.subject,
        endpoint.at,
        "async" if report.role == "replica" else report.role,
        report.lag_ms,
        str(endpoint.settings.get("name", "")),
        report.waits_for,
        report.position,
        report.history,
        token=report.token,
        epoch=report.epoch,
        confirms=report.confirms if report.role == "primary" else (),
        one_of_several=report.one_of_several and report.role == "primary",
        never_confirms=report.never_confirms and report.role != "primary",
    )


def units_endpoints(estate: Estate) -> tuple[Endpoint, ...]:
    """The endpoint of each service at each site that runs start and stop it through, where its driver reports
    how many replicas it runs; sorted by service, then site.
    """
    services = {service.id for service in estate.services}
    first: dict[tuple[str, str], Endpoint] = {}
    for end in sorted(estate.endpoints, key=lambda one: one.id):
        if end.subject in services and offers(end.driver, end.settings, RunsUnits):
            first.setdefault((end.subject, end.at), end)
    found = (first[key] for key in sorted(first))
    return tuple(end for end in found if offers(end.driver, end.settings, ReportsReplicas))


async def observe_units(
    estate: Estate, drivers: Drivers, now_ms: int, token: int, timeout_s: float = LOOK_S
) -> tuple[tuple[UnitsSeen, ...], frozenset[tuple[str, str]]]:
    """How many replicas each of these endpoints is set to run, queried concurrently; and (service, site) of
    those that do not answer. Left out is what was never told, or has nothing to run. token: the leader's.
    """
    gate, silent = asyncio.Semaphore(AT_ONCE), set[tuple[str, str]]()

    async def look(end: Endpoint) -> UnitsSeen | None:
        async with gate:
            try:
                driver = drivers.able(end.driver, ReportsReplicas)
                async with asyncio.timeout(timeout_s):
                    count = await driver.report_replicas(action_of(end), timeout_s, token)
            except Permanent:
                return None
            except (ActionError, TimeoutError, OSError):
                silent.add((end.subject, end.at))
                return None
        return None if count is None else UnitsSeen(end.subject, end.at, count, end.driver, now_ms)

    found = await asyncio.gather(*(look(end) for end in units_endpoints(estate)))
    return tuple(one for one in found if one is not None), frozenset(silent)


def confirming(members: Iterable[MemberSeen]) -> dict[str, set[str]]:
    """Store -> names of the copies that its primary counts on to confirm commits."""
    confirms: dict[str, set[str]] = {}
    for member in members:
        if member.role == "primary" and member.confirms:
            confirms.setdefault(member.store, set()).update(member.confirms)
    return confirms


def is_replaced(was: MemberSeen, now: MemberSeen, members: Mapping[str, MemberSeen]) -> bool:
    """Whether a silent copy that confirmed commits of a certain primary no longer does: another one confirms
    them now, and they wait for none.
    """
    others = any(one.role == "sync" for one in members.values())
    waits = any(one.waits_for for one in members.values())
    return was.role == "sync" and now.role == "unreachable" and others and not waits


def _with_sync(found: list[MemberSeen]) -> list[MemberSeen]:
    """Mark copies as synchronous if the primary of their store lists them as such, by name."""
    confirms = confirming(found)
    return [
        replace(m, role="sync") if m.role == "async" and m.detail in confirms.get(m.store, ()) else m
        for m in found
    ]


def action_of(endpoint: Endpoint) -> Action:
    """A query to an endpoint; its verb changes nothing."""
    return Action("verify", endpoint.subject, endpoint.driver, endpoint.at, endpoint.settings)


async def standing_facts(
    estate: Estate,
    policy: RunPolicy,
    drivers: Drivers,
    now_ms: Callable[[], int],
    epochs: Mapping[str, Epoch],
    timeout_s: float = LOOK_S,
) -> tuple[Standing, ...]:
    """Stores whose synchronous replica is the fence now, checked at each healthy primary. Omits stores that
    policy does not fence by `sync` and those that fail the check. epochs: read before this.
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
    asked, at_ms = _SyncAsked.of(estate, store), now_ms()
    if asked is None or not asked.is_sync:
        return None
    checked = await asked.check(drivers, timeout_s)
    if checked is None or not checked.ready:
        return None
    primary, candidate = asked.primary.at, asked.candidate
    return Standing(store.id, asked.member, candidate.at, primary, at_ms, epoch.changes)


@dataclass(frozen=True, slots=True)
class _SyncAsked:
    """Whether every commit of a store's primary needs one copy, as asked at the primary."""

    primary: Endpoint
    candidate: Endpoint
    is_sync: bool
    """Whether that copy is known to confirm commits."""
    names: Mapping[str, str]

    @classmethod
    def of(cls, estate: Estate, store: Store) -> _SyncAsked | None:
        """About its synchronous copy, or else about its first other one; None if evac cannot ask."""
        found = [e for e in store_endpoints(estate) if e.subject == store.id and can(e.driver, ProvesSync)]
        ends, top = {e.at: e for e in found}, topology(estate)
        sites = {m.mode: site_of(top, m.at) or "" for m in store.members if m.mode in ("primary", "sync")}
        primary, candidate = ends.get(sites.get("primary", "")), ends.get(sites.get("sync", ""))
        other = next((end for end in found if end is not primary), None)
        if primary is None or (candidate or other) is None:
            return None
        names = {str(e.settings["name"]): e.at for e in found if "name" in e.settings}
        asked = candidate or other
        assert asked is not None
        return cls(primary, asked, candidate is not None, names)

    @property
    def member(self) -> str:
        return str(self.candidate.settings.get("name", ""))

    async def check(self, drivers: Drivers, timeout_s: float) -> Checked | None:
        """None if the primary does not answer."""
        driver, at = drivers.able(self.primary.driver, ProvesSync), self.primary.at
        try:
            async with asyncio.timeout(timeout_s):
                return await driver.precheck_sync(
                    action_of(self.primary), timeout_s, self.member, self.names, at
                )
        except (ActionError, TimeoutError, OSError):
            return None


async def why_unproven(
    estate: Estate, stores: Collection[str], drivers: Drivers, timeout_s: float = LOOK_S
) -> dict[str, tuple[str, ...]]:
    """Of these stores, why no commit of the primary needs a copy: store -> what the primary shows, as its
    driver says it. Empty for one whose primary cannot be asked.
    """

    async def why(store: Store) -> tuple[str, ...]:
        asked = _SyncAsked.of(estate, store)
        checked = None if asked is None else await asked.check(drivers, timeout_s)
        return () if checked is None else checked.problems

    wanted = [store for store in estate.stores if store.id in stores]
    found = await asyncio.gather(*(why(store) for store in wanted))
    return {store.id: problems for store, problems in zip(wanted, found, strict=True)}


def unconfirmed_in(files: Estate, seen: Observation) -> tuple[str, ...]:
    """Stores whose commits a copy should confirm, and whose primary answers that none does."""
    top = topology(files)
    wanted = {store.id for store in files.stores if wants_confirming(top, store) and not store.quorum}
    primaries = [one for one in seen.members if one.role == "primary" and one.store in wanted]
    bare = (one for one in primaries if not (one.confirms or one.one_of_several or one.waits_for))
    return tuple(sorted({one.store for one in bare}))


def waited_for_in(seen: Observation) -> dict[str, tuple[str, ...]]:
    """Store -> names of the copies without which its primary acknowledges no commit now."""
    return {one.store: one.waits_for for one in seen.members if one.role == "primary" and one.waits_for}


def probes_of(estate: Estate, drivers: Drivers, timeout_s: float) -> Mapping[str, tuple[Probe, ...]]:
    """Site -> its probes: of its endpoints whose drivers provide one, and one of its agent."""
    found: dict[str, list[Probe]] = {site.id: [] for site in estate.sites}
    halls = halls_of_endpoints(topology(estate))
    for end in estate.endpoints:
        spec = spec_of(end.driver)
        if spec is None or spec.probe is None or end.settings.get("probe", True) is False:
            continue
        if not spec.offers(end.settings, AnswersProbe):
            continue
        if spec.probe != "agent":
            probe = _probe(spec.probe, end.id, end, drivers, timeout_s)
            found[end.at].append(replace(probe, hall=halls.get(end.id, "")))
    for site, end in agent_endpoints(estate).items():
        agent = _probe("agent", "agent", end, drivers, timeout_s)
        found[site].append(replace(agent, hall=halls.get(end.id, "")))
    return {site: tuple(sorted(rows, key=lambda p: (p.kind, p.name))) for site, rows in found.items()}


def control_of(estate: Estate, site: str, drivers: Drivers, timeout_s: float) -> Probe | None:
    """What must respond while this site's own network works: its agent."""
    end = agent_of(estate, site)
    return None if end is None else _probe("agent", "control", end, drivers, timeout_s)


def _probe(kind: ProbeKind, name: str, end: Endpoint, drivers: Drivers, timeout_s: float) -> Probe:
    async def ask() -> ProbeReport:
        return await drivers.able(end.driver, AnswersProbe).probe(action_of(end), timeout_s)

    return Probe(kind, name, witness.asked(kind, ask))


ASK_S: Final = 2.0


class ServiceHealth:
    """Queries the drivers of services on demand."""

    def __init__(self, estate: Estate, drivers: Drivers) -> None:
        self._drivers = drivers
        self._ends: dict[tuple[str, str], Endpoint] = {}
        self.adopt(estate)

    def adopt(self, estate: Estate) -> None:
        """Replace the known endpoints with those of an estate."""
        self._ends = {}
        for end in estate.endpoints:
            if offers(end.driver, end.settings, ReportsHealth):
                self._ends.setdefault((end.subject, end.at), end)

    async def __call__(self, service: str, site: str) -> Health | None:
        """What was seen since the last time; None if the service has no endpoint there."""
        end = self._ends.get((service, site))
        if end is None:
            return None
        driver = self._drivers.able(end.driver, ReportsHealth)
        report = await driver.report_health(action_of(end), ASK_S, SAMPLES_LEAST)
        return Health(report.requests, report.errors)


async def look_at(
    estate: Estate, drivers: Drivers, sites: Sequence[str], now_ms: int, timeout_s: float = LOOK_S
) -> tuple[LeavingSite, ...]:
    """Query everything at these sites concurrently. estate: its current state."""
    probes = probes_of(estate, drivers, timeout_s)
    return tuple(
        await asyncio.gather(
            *(_site(estate, drivers, site, sites, probes.get(site, ()), now_ms, timeout_s) for site in sites)
        )
    )


async def _site(
    estate: Estate,
    drivers: Drivers,
    site: str,
    leaving: Sequence[str],
    probes: Sequence[Probe],
    now_ms: int,
    timeout_s: float,
) -> LeavingSite:
    ends = [end for end in store_endpoints(estate) if end.at == site]
    subjects = {end.id: end.subject for end in estate.endpoints}
    members, ups = await asyncio.gather(
        asyncio.gather(*(seen_at(end, drivers, timeout_s) for end in ends)),
        asyncio.gather(*(_is_up(probe, timeout_s) for probe in probes)),
    )
    # Whether something is alive there, even if it refuses access.
    answering = {one.store for one in members if one.role != "unreachable" or one.error is not None}
    answering |= {subjects.get(probe.name, AGENT) for probe, up in zip(probes, ups, strict=True) if up}
    there = _served_from(topology(estate), site)
    counts = [service.people for service, is_there in zip(estate.services, there, strict=True) if is_there]
    others = {one.id for one in estate.sites if one.role == "full"} - {*estate.lost, *leaving}
    return LeavingSite(
        site,
        "answers" if answering else "silent" if ends or probes else "unknown",
        now_ms,
        tuple(sorted(answering)),
        tuple(sorted(one.store for one in members if one.role == "primary")),
        len(counts),
        sum(count or 0 for count in counts),
        not others,
        counts.count(None),
    )


async def _is_up(probe: Probe, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return (await probe.ask()).opinion == "up"
    except Exception:  # any error means that there was no response
        return False


def _served_from(top: Topology, site: str) -> BoolColumn:
    """(S,) services with replicas at this site."""
    estate, number = top.estate, [one.id for one in top.estate.sites].index(site)
    found = np.zeros(len(estate.services), np.bool_)
    found[estate.replicas.service[site_of_replicas(top) == number]] = True
    return found
