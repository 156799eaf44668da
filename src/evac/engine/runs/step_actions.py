"""What each step of a plan does on real systems: the actions of fences, promotions, starts and shifts. Pure.

A step without a known endpoint becomes manual work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from evac.derive.domains import Topology, loss, site_of
from evac.derive.stores import confirms_by_hand, primary_site, wants_confirming
from evac.drivers import manual
from evac.drivers.capabilities import (
    BACKUP,
    EXPECTED,
    Follows,
    Promotes,
    Protects,
    ProvesSync,
    ReportsRole,
    RestoresData,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.port import Action, Value, Verb
from evac.drivers.process.client import agent_of
from evac.drivers.registry import DRIVERS, can, offers, proves
from evac.drivers.spec import FENCE
from evac.engine.boots.binding import boot_endpoint, circuit_action, place_words
from evac.engine.runs.ground import Ground, sites_of
from evac.model.errors import StalePlan
from evac.model.estate import NO_TIMEOUT_MS, Endpoint, Estate, Store
from evac.model.plan import Step
from evac.model.step_id import StepId
from evac.model.units import moment_words
from evac.run.values import RunStep
from evac.steps.kind import Capability
from evac.steps.redirect import Redirect
from evac.steps.registry import kind_of

REDIRECT_MS: Final = 1_000
REDIRECT_DEADLINE_MS: Final = 60_000
BEFORE: Final = "from_replicas"
"""Parameter: the units before scaling. It does not change what the step does."""


def actions_of(ground: Ground, step: Step, totals: dict[tuple[str, str], int]) -> tuple[Action, ...]:
    """The actions of a step, in order; manual where no reachable endpoint can do it."""
    if kind_of(step.kind).is_awaited and not _asks_a_person(ground, step):
        at, gone = ground.candidates.get(step.target, ""), ""
        if kind_of(step.kind).awaits_commits:
            gone = " ".join(sorted(site for store, site in ground.dead if store == step.target))
        return (Action("verify", step.target, manual.NOOP.name, at, {}, {"without": gone} if gone else {}),)
    capability = kind_of(step.kind).performed_by
    found = () if capability is None else _ACTIONS[capability](ground, step, totals)
    return found or (_by_hand(ground, step),)


def _asks_a_person(ground: Ground, step: Step) -> bool:
    """Whether a primary holds its commits until a person acts at the database, or evac cannot see when they
    go on. For a store that evac protects, a run of its own releases them or, in mode advise, a step of this
    one. An unknown timeout may mean that commits wait forever.
    """
    store, site = ground.stores[step.target], ground.candidates.get(step.target, "")
    if site != primary_site(ground.top, store):
        return False
    if store.sync_timeout_ms in (None, NO_TIMEOUT_MS):
        by_us = is_protected_by_us(ground, store, site)
        return not by_us or (ground.policy.mode == "advise" and release_action(ground, store) is None)
    return kind_of(step.kind).awaits_commits and _first(ground, store.id, site, ReportsRole) is None


def _by_hand(ground: Ground, step: Step) -> Action:
    where = ", ".join(f"{count} on {name}" for name, count in step.servers)
    words = f"{kind_of(step.kind).title}: {step.target}" + (f" ({where})" if where else "")
    if step.candidate:
        words += f" at {step.candidate}"
    to = ground.serving.sites(step.target)[:1] if kind_of(step.kind).moves_traffic else ()
    words += "".join(f" to {site}" for site in to) + _confirming(ground, step)
    if step.rebuilds:
        words += f"; first {kind_of(step.kind).first(step)}"
    moment_s = dict(ground.plan.scenario.moments).get(step.target)
    if moment_s is not None and kind_of(step.kind).restores:
        words += f", as of {moment_words(moment_s)}"
    parameters: dict[str, Value] = {"instructions": words}
    if to:
        parameters["to"] = to[0]
    if kind_of(step.kind).fences:
        parameters["proof"] = "attest"
        old = ground.stores[step.target].primary
        parameters["instructions"] = words + (f", in {old.at}" if old is not None else "")
    return Action(
        "attest", step.target, manual.DRIVER.name, ground.candidates.get(step.target, ""), {}, parameters
    )


def _confirming(ground: Ground, step: Step) -> str:
    """What a person must also do so that a copy confirms the store's commits again."""
    store, kind = ground.stores.get(step.target), kind_of(step.kind)
    if store is None or not confirms_by_hand(ground.top, store):
        return ""
    if kind.follows:
        return ", and have it confirm each commit"
    old = primary_site(ground.top, store)
    if kind.makes_primary and ground.plan.scenario.kind == "failback" and old:
        return f"; then have {old} follow it and confirm each commit"
    return ""


def _first(ground: Ground, subject: str, site: str, *capabilities: type) -> Endpoint | None:
    """The first endpoint at the site whose driver has one of these capabilities."""
    found = ground.endpoints.get((subject, site), ())
    return next((one for one in found if offers(one.driver, one.settings, *capabilities)), None)


def _act(verb: Verb, endpoint: Endpoint, **parameters: Value) -> Action:
    return Action(
        verb,
        endpoint.subject,
        endpoint.driver,
        endpoint.at,
        endpoint.settings,
        MappingProxyType(dict(sorted(parameters.items()))),
    )


def _fence(ground: Ground, step: Step) -> tuple[Action, ...]:
    """The first proof that policy accepts and an endpoint here can give."""
    store = ground.stores[step.target]
    old, new = primary_site(ground.top, store), ground.candidates.get(step.target, "")
    old_end, new_end = (_first(ground, store.id, site, Promotes) for site in (old, new))
    if ground.plan.scenario.kind == "failback" and old == new:
        raise StalePlan(
            "plan-stale",
            f"{store.id} is already at home: its primary is at {new}",
            "run evac plan --observe and apply that plan",
        )
    where: dict[str, Value] = {"old": old, "candidate": new} | _peer("old", old_end)
    if old == new:
        # Nobody gives a role up to himself: a primary that goes on must not be stopped on the way.
        return (Action("demote", store.id, manual.NOOP.name, new, {}, {"proof": "demote", **where}),)
    if ground.healthy and old_end is not None:
        return (_act("demote", old_end, proof="demote", **where),)
    for proof in ground.policy.store(store.id).proofs:
        if proof == "none":
            return (Action("fence", store.id, manual.NOOP.name, new, {}, {"proof": proof, **where}),)
        if (
            proof == "sync"
            and new_end is not None
            and can(new_end.driver, ProvesSync)
            and any(m.mode == "sync" and site_of(ground.top, m.at) == new for m in store.members)
        ):
            return (_act("fence", new_end, proof=proof, **where),)
        if proof == "lease" and ground.policy.store(store.id).self_fence:
            ttl = ground.policy.store(store.id).lease_ttl_ms
            return (Action("fence", store.id, "lease", old, {}, {"proof": proof, "ttl_ms": ttl, **where}),)
        # What closes a site would take down what lives there: it is no fence of a hall.
        closers = [
            endpoint
            for endpoint in (ground.endpoints.get((old, old), ()) if old in ground.lost else ())
            if endpoint.settings.get(FENCE) == proof and proves(endpoint.driver, proof)
        ]
        if closers:
            return tuple(_act("fence", endpoint, proof=proof, **where) for endpoint in closers)
    return ()


def _peer(prefix: str, endpoint: Endpoint | None) -> dict[str, Value]:
    """How to reach another member, as parameters: `old_host`, `old_port`, `old_name`."""
    if endpoint is None:
        return {}
    return {
        f"{prefix}_{key}": endpoint.settings[key]
        for key in ("host", "name", "port")
        if key in endpoint.settings
    }


def _promote(ground: Ground, step: Step) -> tuple[Action, ...]:
    """Promote, with the members that must confirm its commits from the first one."""
    store = ground.stores[step.target]
    new, old = ground.candidates.get(step.target, ""), primary_site(ground.top, store)
    target = _first(ground, store.id, new, Promotes)
    if target is None:
        return ()
    old_end = _first(ground, store.id, old, Promotes)
    told: dict[str, Value] = {"candidate": new, "synchronous": synchronous_after(ground, store, new)}
    copies = [end.settings for end in followers(ground, store, new) if end.driver == target.driver]
    if DRIVERS[target.driver].fetches_from_copies and copies:
        told["copies"] = tuple(f"{one['host']}:{one.get('port', 5432)}" for one in copies if "host" in one)
    return (_act("promote", target, **told, **_peer("old", old_end)),)


def _restore(ground: Ground, step: Step) -> tuple[Action, ...]:
    """Restores the newest complete copy, or the requested point in time, to the place that the backup's
    endpoint names, and starts its engine there; on the machine of the site's agent, if there is one.
    """
    store, site = ground.stores[step.target], ground.candidates.get(step.target, "")
    end = restorer(store, step.candidate, ground.endpoints.get((store.id, site), ()))
    if end is None:
        return ()
    old_end = _first(ground, store.id, primary_site(ground.top, store), Promotes)
    moment_s = dict(ground.plan.scenario.moments).get(store.id)
    asked: dict[str, Value] = {BACKUP: end.id, **({} if moment_s is None else {"until": moment_s})}
    if repository := next((one.repository for one in store.backups if one.endpoint == end.id), ""):
        asked[EXPECTED] = repository
    action = _act("restore", end, candidate=site, synchronous=(), **asked, **_peer("old", old_end))
    if agent_of(ground.estate, site) is not None and "restore" in DRIVERS[end.driver].agent_verbs:
        action = replace(action, driver=f"{end.driver}@{site}")
    return (action,)


def restorer(store: Store, backup_at: str, ends: Sequence[Endpoint]) -> Endpoint | None:
    """The endpoint at a site that restores the backup there for use; None if people do it."""
    named = {one.endpoint for one in store.backups if one.at == backup_at and one.endpoint}
    able = (e for e in ends if offers(e.driver, e.settings, RestoresData) and e.settings.get("place"))
    return next((end for end in able if not named or end.id in named), None)


def old_of(step: str) -> str:
    """The name under which a run's actions hold how the old primary of a promotion gives up its role."""
    return f"{step}/old"


def yielding(ground: Ground, step: Step) -> tuple[Action, ...]:
    """How the old primary of a promotion gives up its role if it answers again: a site that was cut off may
    rejoin during its evacuation, and its primary would block the new one.
    """
    store = ground.stores[step.target]
    old, new = primary_site(ground.top, store), ground.candidates.get(step.target, "")
    old_end, new_end = (_first(ground, store.id, site, Promotes) for site in (old, new))
    if ground.healthy or (store.id, old) not in ground.dead or old_end is None or new_end is None:
        return ()
    if any(DRIVERS[end.driver].copies_follow_by_themselves for end in (old_end, new_end)):
        return ()
    return (_act("demote", old_end, old=old, candidate=new, **_peer("old", old_end)),)


def synchronous_after(ground: Ground, store: Store, new: str) -> tuple[str, ...]:
    """Members that confirm commits once `new` is the primary: the nearest surviving copy, if the store was
    synchronous or may lose nothing and policy says `next`; else none. A copy that was not seen confirming
    when the plan was made (one that reconnects does not) does not make the store asynchronous.
    """
    if not wants_confirming(ground.top, store) or ground.policy.store(store.id).on_sync_loss != "next":
        return ()
    names = [str(e.settings["name"]) for e in followers(ground, store, new) if "name" in e.settings]
    return tuple(names[:1])


def is_protected_by_us(ground: Ground, store: Store, primary: str) -> bool:
    """Whether evac, and not the store's own cluster, sets which copies confirm a primary's commits."""
    target = _first(ground, store.id, primary, Protects)
    return target is not None and not DRIVERS[target.driver].copies_follow_by_themselves


def protect_action(ground: Ground, store: Store, primary: str, copy: str) -> Action | None:
    """Makes the copy at a site confirm every commit of the primary; None if nothing here can."""
    target, member = (_first(ground, store.id, at, Protects) for at in (primary, copy))
    name = "" if member is None else str(member.settings.get("name", ""))
    if target is None or not name:
        return None
    return _act("protect", target, candidate=primary, synchronous=(name,))


_ORDER: Final = {"sync": 0, "async": 1, "primary": 2}


def next_copy(estate: Estate, top: Topology, store: Store, holder: str, gone: Collection[str]) -> str:
    """Name of the live copy closest to being synchronous; empty if none. holder: site of the primary; gone:
    sites whose copies are lost or left.
    """
    rows = []
    for member in store.members:
        site = site_of(top, member.at) or ""
        if site in gone or site == holder or member.mode not in _ORDER or member.detached:
            continue
        ends = (e for e in estate.endpoints if (e.subject, e.at) == (store.id, site))
        end = next((e for e in ends if offers(e.driver, e.settings, Promotes)), None)
        if end is not None and "name" in end.settings:
            rows.append((_ORDER[member.mode], site, str(end.settings["name"])))
    return min(rows)[2] if rows else ""


def release_action(ground: Ground, store: Store) -> Action | None:
    """In mode advise: lets a primary that stays continue without the copies that the plan takes from it, the
    next copy or none confirming its commits, as its policy says. None if evac does not set that, or if the
    policy asks people and no one approves this run.
    """
    holder, policy = primary_site(ground.top, store), ground.policy
    wanted = policy.store(store.id).on_sync_loss
    target = _first(ground, store.id, holder, Protects)
    asks = wanted == "ask" and not policy.approvals
    if policy.mode != "advise" or asks or target is None or not is_protected_by_us(ground, store, holder):
        return None
    gone = {*ground.lost, *(site for name, site in ground.dead if name == store.id)}
    name = "" if wanted == "async" else next_copy(ground.estate, ground.top, store, holder, gone)
    return _act("protect", target, candidate=holder, synchronous=(name,) if name else ())


def follow_actions(ground: Ground, step: Step) -> tuple[tuple[str, Action], ...]:
    """After a promotion: (site, action) that points each other copy to the new primary."""
    store = ground.stores[step.target]
    new = ground.candidates.get(step.target, "")
    target = _first(ground, store.id, new, Promotes)
    if target is None or kind_of(step.kind).restores:
        return ()  # a person copies the other members from a restored primary
    others = [
        end for end in followers(ground, store, new) if not DRIVERS[end.driver].copies_follow_by_themselves
    ]
    return tuple((end.at, rejoin_action(ground.estate, end, target)) for end in others)


def _reprotect(ground: Ground, step: Step) -> tuple[Action, ...]:
    """Makes a returned copy follow the primary, where it is or where this plan moves it."""
    store, site = ground.stores[step.target], site_of(ground.top, step.candidate) or ""
    primary = ground.candidates.get(store.id) or primary_site(ground.top, store)
    member, upstream = (_first(ground, store.id, at, Follows) for at in (site, primary))
    if member is None or upstream is None or site == primary:
        return ()
    return (rejoin_action(ground.estate, member, upstream),)


def rejoin_action(estate: Estate, member: Endpoint, primary: Endpoint) -> Action:
    """Makes a copy follow a primary: through its site's agent if its endpoint has what that needs (what
    only it has is archived, and it is rewound or rebuilt), else by repointing it only.
    """
    if DRIVERS[member.driver].rejoins_on_site(member.settings) and agent_of(estate, member.at) is not None:
        action = _act("rejoin", member, **_peer("primary", primary))
        return replace(action, driver=f"{member.driver}@{member.at}")
    return _act("rejoin", member, how="follow", **_peer("primary", primary))


def followers(ground: Ground, store: Store, new: str) -> tuple[Endpoint, ...]:
    """Endpoints of the other surviving copies, synchronous ones first, and last those that follow no primary
    just now: a copy that lost its primary is repointed like any other.
    """
    order = {"sync": 0, "async": 1, "primary": 2}
    rows: list[tuple[bool, int, str, Endpoint]] = []
    for member in store.members:
        site = site_of(ground.top, member.at) or ""
        endpoint = _first(ground, store.id, site, Promotes)
        if endpoint is None or site == new or (store.id, site) in ground.dead or member.mode == "none":
            continue
        rows.append((member.detached, order[member.mode], site, endpoint))
    return tuple(endpoint for *_, endpoint in sorted(rows, key=lambda row: row[:3]))


def _units(ground: Ground, step: Step, totals: dict[tuple[str, str], int]) -> tuple[Action, ...]:
    """Starts a service at a site up to the units this step promises, scales it down to that, or stops it
    where it is left. Includes the earlier units, so that undo can restore them. A start means "at least this
    many": starts of a service run concurrently, and the last one must not undo the others.
    """
    before: dict[str, int] = {}
    kind = kind_of(step.kind)
    if kind.replicas < 0 and not step.servers:
        sites = {site for service, site in totals if service == step.target and site in ground.left}
        sites |= {site for site in ground.left if (step.target, site) in ground.endpoints}
        changes = dict.fromkeys(sorted(sites), 0)
        before = {site: ground.serving.leaving.get((step.target, site), 0) for site in changes}
    else:
        changes = {}
        for name, count in step.servers:
            site = ground.serving.site_named(name)
            key = (step.target, site)
            before.setdefault(site, totals.get(key, 0))
            totals[key] = max(0, totals.get(key, 0) + kind.replicas * count)
            changes[site] = totals[key]
    found = [
        (_first(ground, step.target, site, RunsUnits), many, before[site])
        for site, many in sorted(changes.items())
    ]
    if not found or any(endpoint is None for endpoint, _, _ in found):
        return ()
    return tuple(
        _act(
            "stop" if many == 0 else "start" if kind.replicas > 0 else "scale",
            endpoint,
            replicas=many,
            **{BEFORE: there},
        )
        for endpoint, many, there in found
        if endpoint is not None
    )


def _verify(ground: Ground, step: Step) -> tuple[Action, ...]:
    """Asks the service where it will serve: base asks the first site, top every site. If its users were sent
    only to lost sites, proxies may still exclude the new place, and the check through them would wait for the
    traffic shift that waits for it. So the proxies admit the place first.
    """
    sites = ground.serving.sites(step.target)
    wanted = sites[:1] if step.milestone == "base" else sites
    ends = [_first(ground, step.target, site, Verifies) for site in wanted]
    if not ends or any(endpoint is None for endpoint in ends):
        return ()
    sent = ground.serving.users(step.target) if ground.plan.scenario.kind == "lose" else set()
    proxies = [
        _act("ready", end, site=end.at)
        for end in (_routers(ground, step.target, wanted) if sent and sent <= ground.lost else ())
        if not DRIVERS[end.driver].answers_are_cached
    ]
    return (*proxies, *(_act("verify", endpoint) for endpoint in ends if endpoint is not None))


def _shift(ground: Ground, step: Step) -> tuple[Action, ...]:
    """Makes every proxy and name server outside the lost site send traffic to where the service runs."""
    sites = ground.serving.sites(step.target)
    if not sites:
        return ()
    away = ",".join(sorted(ground.lost)) or _left_for_home(ground, step.target, sites[0])
    ends = _routers(ground, step.target, [s.id for s in ground.estate.sites if s.id not in ground.lost])
    return tuple(_act("shift", e, to=sites[0], away=away, share=1_000) for e in ends)


def redirects(ground: Ground, steps: Sequence[RunStep]) -> list[tuple[RunStep, tuple[Action, ...]]]:
    """For each service whose traffic a run moved away and this plan does not shift: routers of the returning
    sites do not know the new location yet, and proxies still exclude a site that has returned. In an
    evacuation, routers of the site that is left follow the shift, because they still answer; one of them
    that does not is no reason to stay.
    """
    found = []
    scenario = ground.plan.scenario.kind
    moved = {step.target for step in steps if kind_of(step.kind).moves_traffic}
    for service in sorted(moved if scenario == "evacuate" else ground.estate.traffic):
        own = [step for step in steps if step.target == service and kind_of(step.kind).replicas >= 0]
        actions: tuple[Action, ...] = ()
        if scenario == "evacuate":
            actions = _redirected(ground, service, ground.serving.sites(service)[:1])
        elif scenario == "failback" and service not in ground.estate.as_routed:
            actions = _let_in_again(ground, service, ground.estate.traffic[service])
        elif scenario == "restore" and service not in moved:
            actions = _redirected(ground, service, ground.estate.traffic[service])
        if actions:
            step = RunStep(
                id=StepId(Redirect.name, service),
                kind=Redirect.name,
                target=service,
                start_ms=max((one.start_ms + one.duration_ms for one in own), default=0),
                duration_ms=REDIRECT_MS,
                after=() if scenario == "restore" else tuple(one.id for one in own),
                site=actions[0].at,
                deadline_ms=REDIRECT_DEADLINE_MS,
                optional=scenario == "evacuate",
            )
            found.append((step, actions))
    return found


def stopped_last(ground: Ground, steps: Sequence[RunStep]) -> list[RunStep]:
    """In an evacuation, a service stops where it is left once all its users are sent elsewhere, or could not
    be. What frees capacity stops at other sites, and waits for nothing: the services to be moved need it.
    """
    sent = {step.target: step.id for step in steps if step.kind == Redirect.name}
    if ground.plan.scenario.kind != "evacuate":
        return list(steps)
    return [
        replace(step, after=(*step.after, sent[step.target]))
        if step.target in sent and _leaves(step)
        else step
        for step in steps
    ]


def _leaves(step: RunStep) -> bool:
    """Whether the step stops a service where it is left."""
    kind = kind_of(step.kind)
    return kind.replicas < 0 and not kind.frees_capacity


def _let_in_again(ground: Ground, service: str, now: Sequence[str]) -> tuple[Action, ...]:
    """Makes proxies send users again to a site that was left, once the service runs there again. A service
    that moves home as a whole is shifted instead; name servers name one place.
    """
    back = sites_of(ground.top, loss(ground.top, ground.plan.scenario.domains)) - set(now)
    again = sorted(back.intersection(ground.serving.sites(service)[1:]))
    ends = _routers(ground, service, [s.id for s in ground.estate.sites if s.id not in ground.lost])
    proxies = [end for end in ends if not DRIVERS[end.driver].answers_are_cached]
    return tuple(_act("ready", end, site=site) for site in again for end in proxies)


def _redirected(ground: Ground, service: str, now: Sequence[str]) -> tuple[Action, ...]:
    """Makes every proxy and name server of the scenario's sites send traffic to its present place."""
    back = sites_of(ground.top, loss(ground.top, ground.plan.scenario.domains)) - set(now)
    left = ground.lost if ground.plan.scenario.kind == "evacuate" else set()
    away = ",".join(sorted(left) or [site.id for site in ground.estate.sites if site.id not in now])
    ends = _routers(ground, service, sorted(back)) if now else []
    return tuple(_act("shift", e, to=",".join(now), away=away, share=1_000) for e in ends)


def _routers(ground: Ground, service: str, sites: Sequence[str]) -> list[Endpoint]:
    """What routes its users there, proxies first, because name server answers stay in caches."""
    ends = [
        endpoint
        for site in sites
        for endpoint in ground.endpoints.get((service, site), ())
        if offers(endpoint.driver, endpoint.settings, RoutesTraffic)
    ]
    return sorted(ends, key=lambda e: (DRIVERS[e.driver].answers_are_cached, e.id))


def _left_for_home(ground: Ground, service: str, home: str) -> str:
    """On the way home, in shares: the one site that traffic leaves, where the data is until then."""
    if ground.plan.scenario.kind != "failback" or len(ground.policy.pace.shares) < 2:
        return ""
    found = {
        primary_site(ground.top, store)
        for family in ground.families.get(service, ())
        for store in ground.by_family.get(family, ())
    } - {home, ""}
    return found.pop() if len(found) == 1 else ""


def _boot(ground: Ground, step: Step) -> tuple[Action, ...]:
    """Through the BMC; by hand if the server has none or it is not known how to reach it."""
    assert ground.boots is not None
    site = ground.serving.site_named(step.target)
    endpoint = boot_endpoint(ground.endpoints.get((site, site), ()))
    told = ground.boots.parameters(step.target)
    if endpoint is not None and not step.manual and ground.boots.reached_by(step.target, endpoint):
        return (replace(_act("boot", endpoint, **told), target=step.target),)
    place = place_words(told)
    words = f"{kind_of(step.kind).title}: {step.target}" + (f" ({place})" if place else "")
    told["instructions"] = words
    return (
        Action(
            "attest", step.target, manual.DRIVER.name, site, {}, MappingProxyType(dict(sorted(told.items())))
        ),
    )


def _power(ground: Ground, step: Step) -> tuple[Action, ...]:
    """The circuit of a feed, if an endpoint can switch it."""
    site = step.target.partition("/")[0]
    found = circuit_action(ground.endpoints.get((step.target, site), ()), step)
    return () if found is None or step.manual else (found,)


_ACTIONS: Final[
    Mapping[Capability, Callable[[Ground, Step, dict[tuple[str, str], int]], tuple[Action, ...]]]
] = MappingProxyType(
    {
        Capability.FENCES: lambda ground, step, totals: _fence(ground, step),
        Capability.PROMOTES: lambda ground, step, totals: _promote(ground, step),
        Capability.RESTORES_DATA: lambda ground, step, totals: _restore(ground, step),
        Capability.FOLLOWS: lambda ground, step, totals: _reprotect(ground, step),
        Capability.RUNS_UNITS: _units,
        Capability.VERIFIES: lambda ground, step, totals: _verify(ground, step),
        Capability.ROUTES_TRAFFIC: lambda ground, step, totals: _shift(ground, step),
        Capability.BOOTS_SERVERS: lambda ground, step, totals: _boot(ground, step),
        Capability.SWITCHES_POWER: lambda ground, step, totals: _power(ground, step),
    }
)
"""The request for each capability that plan steps need."""
