"""Check, without changing anything, whether each endpoint of an estate can do what plans will ask of it.

A driver declares what an endpoint can do; whether it can do it now, the real system shows: a role, an
observation, a probe. From this follows, for each service and store, who acts when a site is lost: evac, a
person, or no one. Endpoints are chosen as in `engine.runs.step_actions`.

`evac driver` tests one endpoint against the driver contract, with the same checks as evac's own drivers.
Actions there have token 0, so that a system that remembers a leader refuses them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from evac import estate as estates
from evac.app.agent_health import clocks_of, healths
from evac.app.anchoring import agents_of
from evac.app.controlling import hands_of, read_policy
from evac.app.observing import AT_ONCE, action_of, standing_facts, why_unproven
from evac.derive import situation
from evac.derive.domains import Topology, may_run_at, site_of, topology
from evac.drivers.capabilities import (
    ABOUT,
    AnswersProbe,
    BootsServers,
    Fences,
    Promotes,
    ProvesSync,
    ReportsRole,
    RestoresData,
    RoutesTraffic,
    RunsUnits,
    Subject,
    SwitchesPower,
    TakesBackups,
    Verifies,
)
from evac.drivers.parameters import sites
from evac.drivers.port import Action, Driver, Observed, Order, Value, Verb
from evac.drivers.process.client import agent_of
from evac.drivers.registry import Drivers, Maker, offers, proves, spec_of
from evac.drivers.spec import FENCE
from evac.engine.runs.dry_run import ASKING_TOKEN
from evac.engine.runs.step_actions import restorer
from evac.engine.stores.guards import WHOLE
from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Endpoint, Estate, Service, Store
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.views.doctor_view import Ability, Diagnosis, Tried, Verdict

ASK_S: Final = 5.0
_BY_OTHERS: Final = (BootsServers, SwitchesPower)
"""Capabilities checked by `evac observe --power` instead."""
_OBSERVED: Final[tuple[tuple[type, Verb], ...]] = (
    (RunsUnits, "scale"),
    (RoutesTraffic, "shift"),
    (Verifies, "verify"),
    (RestoresData, "restore"),
)

ADD_ENDPOINT: Final = "add an endpoint for it to the estate"
STATE_PRIMARY: Final = "write mode: primary at the member that accepts writes"
WITHIN_S: Final = 30.0
ACTS: Final = tuple(sorted(ABOUT[RunsUnits].verbs | ABOUT[RoutesTraffic].verbs | ABOUT[Fences].verbs))
"""Verbs that can be done and undone. A store that moved stays moved, and only a site is fenced here."""
_SAID_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of an endpoint to one check. Empty code: it works."""

    capability: type
    code: str = ""
    why: str = ""
    next: str = ""
    said: str = ""
    """Its current state, in words."""


NOT_ASKED: Final = Answer(
    object,
    "not-asked",
    "evac cannot test this endpoint without acting on it",
    "try it: evac driver test ESTATE ENDPOINT --act VERB",
)


async def ask(
    estate: Estate, endpoint: Endpoint, drivers: Drivers, within_s: float = ASK_S
) -> tuple[Answer, ...]:
    """Check each capability that plans use at the endpoint. Changes nothing and never raises."""
    spec, subject = spec_of(endpoint.driver), subject_of(estate, endpoint)
    found = () if spec is None else spec.serves(subject, endpoint.settings)
    answers = [await _answer(endpoint, one, drivers, within_s) for one in _questions(endpoint, found)]
    by_agents = spec is not None and RestoresData in found and "restore" in spec.agent_verbs
    if by_agents and endpoint.settings.get("place") and agent_of(estate, endpoint.at) is not None:
        # The agent restores on its own machine, if its file allows it.
        by_agent = replace(endpoint, driver=f"{endpoint.driver}@{endpoint.at}")
        answers.append(await _answer(by_agent, RestoresData, drivers, within_s))
    return tuple(answers)


def subject_of(estate: Estate, endpoint: Endpoint) -> Subject:
    """What an endpoint is for."""
    if any(store.id == endpoint.subject for store in estate.stores):
        return "store"
    if any(service.id == endpoint.subject for service in estate.services):
        return "service"
    return "site" if endpoint.subject == endpoint.at else "feed"


def _questions(endpoint: Endpoint, declared: Iterable[type]) -> tuple[type, ...]:
    """Capabilities to check, one check for each."""
    if FENCE in endpoint.settings:
        return (Fences,)
    asked = (ReportsRole, RunsUnits, RoutesTraffic, Verifies, TakesBackups)
    found = tuple(one for one in asked if one in declared)
    is_for_power = any(one in declared for one in _BY_OTHERS)
    return found or ((AnswersProbe,) if AnswersProbe in declared and not is_for_power else ())


async def _answer(endpoint: Endpoint, capability: type, drivers: Drivers, within_s: float) -> Answer:
    try:
        async with asyncio.timeout(within_s + 1):
            return await _asked(endpoint, capability, drivers, within_s)
    except EvacError as error:
        return Answer(capability, error.code, error.message, error.hint or _try(endpoint))
    except TimeoutError:
        why = f"{endpoint.driver} does not answer in {within_s:g} s"
        return Answer(capability, "no-answer", why, "check that it is running, and check the network")
    except OSError as error:
        why = f"{endpoint.driver} does not answer: {error.strerror or type(error).__name__}"
        return Answer(capability, "no-answer", why, "check that it is running, and check the network")


def _try(endpoint: Endpoint) -> str:
    return f"check that it is running, then test it: evac driver test ESTATE {endpoint.id}"


async def _asked(endpoint: Endpoint, capability: type, drivers: Drivers, within_s: float) -> Answer:
    action = action_of(endpoint)
    if capability is ReportsRole:
        report = await drivers.able(endpoint.driver, ReportsRole).report_role(action, within_s)
        return Answer(capability, said=report.role)
    if capability is TakesBackups:
        listing = await drivers.able(endpoint.driver, TakesBackups).list_copies(action, within_s)
        return Answer(capability, said=f"{len(listing.copies)} copies")
    if capability is AnswersProbe:
        probe = await drivers.able(endpoint.driver, AnswersProbe).probe(action, within_s)
        return (
            Answer(capability) if probe.up else Answer(capability, "probe-down", probe.detail, _try(endpoint))
        )
    driver = drivers.get(endpoint.driver)
    order = Order("doctor", endpoint.id, 1, ASKING_TOKEN, 0, "doctor", within_s, "doctor", dry_run=True)
    observed = await driver.observe(_observation(endpoint, capability), order)
    if observed.outcome != "unclear":
        return Answer(capability, said=observed.outcome)
    evidence = observed.evidence
    why = str(evidence.get("why") or evidence.get("problem") or "it cannot report its current state")
    return Answer(capability, str(evidence.get("code", "unclear")), why, _try(endpoint))


def _observation(endpoint: Endpoint, capability: type) -> Action:
    """The check whether the state that plans ask of such an endpoint is already reached."""
    if capability is Fences:
        verb: Verb = "fence"
        given: dict[str, Value] = {"proof": str(endpoint.settings[FENCE])}
    else:
        verb, given = dict(_OBSERVED)[capability], {}
    if verb == "scale":
        given = {"replicas": 1}
    elif verb == "shift":
        given = {"to": (endpoint.at,), "share": WHOLE}
    return Action(verb, endpoint.subject, endpoint.driver, endpoint.at, endpoint.settings, given)


Systems = Callable[[Estate], Mapping[str, Maker]]
"""Drivers besides those of this installation, by name."""


async def examine_files(
    path: Path,
    policy: Path | None,
    now_ms: int,
    known: Observation | None = None,
    systems: Systems = hands_of,
) -> Diagnosis:
    """`examine` for an estate and its policy on disk, with roles and places as a leader last saw them.
    Raises EvacError for unusable files.
    """
    loaded = estates.load(path)
    rules = read_policy(path, policy, loaded)
    now = loaded if known is None else situation.of(loaded, known).estate
    drivers = Drivers(systems(now))
    try:
        return await examine(now, rules, drivers, now_ms)
    finally:
        await drivers.close()


async def examine(estate: Estate, policy: RunPolicy, drivers: Drivers, now_ms: int) -> Diagnosis:
    """Who can act for each service and store of an estate, as its systems respond now."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(endpoint: Endpoint) -> tuple[Answer, ...]:
        async with gate:
            return await ask(estate, endpoint, drivers)

    answers = await asyncio.gather(*(one(endpoint) for endpoint in estate.endpoints))
    facts = await standing_facts(estate, policy, drivers, lambda: now_ms, {}, ASK_S)
    proven = frozenset(fact.store for fact in facts)
    others = {store.id for store in estate.stores if "sync" in policy.store(store.id).proofs} - proven
    known = _Asked(
        topology(estate),
        {end.id: found for end, found in zip(estate.endpoints, answers, strict=True)},
        proven,
        await why_unproven(estate, others, drivers, ASK_S),
    )
    abilities = [
        *(a for store in estate.stores for a in _of_store(store, policy, known)),
        *(a for service in estate.services if not service.external for a in _of_service(service, known)),
    ]
    asked = sum(1 for found in answers if found)
    try:
        agents = agents_of(estate)
    except EvacError:  # each endpoint of an agent already says so
        agents = {}
    clocks = clocks_of(await healths(agents, _wall_ms), "this machine")
    return Diagnosis(estate.name, now_ms, tuple(abilities), asked, tuple(clocks.values()))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Asked:
    top: Topology
    answers: Mapping[str, tuple[Answer, ...]]
    """Endpoint id -> its answers."""
    proven: frozenset[str]
    """Stores whose synchronous copy is the fence now."""
    unproven: Mapping[str, tuple[str, ...]]
    """Why others have none, as their primaries show."""

    def ends(self, subject: str, capability: type) -> dict[str, Endpoint]:
        """Site -> the endpoint that plans use there."""
        found: dict[str, Endpoint] = {}
        for end in sorted(self.top.estate.endpoints, key=lambda e: e.id):
            if end.subject == subject and offers(end.driver, end.settings, capability):
                found.setdefault(end.at, end)
        return found

    def answer(self, endpoint: Endpoint, *capabilities: type) -> Answer:
        """The first answer to one of these checks that shows a problem, else the first answer. A check that
        was not made does not count as passed.
        """
        mine = [a for a in self.answers[endpoint.id] if a.capability in capabilities]
        return next((a for a in mine if a.code), mine[0] if mine else NOT_ASKED)


def _ability(
    subject: Service | Store, what: str, endpoint: Endpoint | None, answer: Answer | None
) -> Ability:
    """evac, if an endpoint exists and responded well; else a person."""
    kind: Literal["service", "store"] = "store" if isinstance(subject, Store) else "service"
    if endpoint is None or answer is None:
        why = "no endpoint in the estate can do it"
        return Ability(subject.id, kind, what, "by hand", why=why, next=ADD_ENDPOINT)
    verdict: Verdict = "by hand" if answer.code else "automatic"
    return Ability(subject.id, kind, what, verdict, endpoint.id, answer.code, answer.why, answer.next)


def _of_store(store: Store, policy: RunPolicy, known: _Asked) -> list[Ability]:
    sites = {site_of(known.top, member.at): member for member in store.members if member.mode != "none"}
    primary = store.primary
    home = site_of(known.top, primary.at) if primary is not None else None
    others = sorted(site for site in sites if site and site != home)
    if not others:
        return _without_a_copy(store, home, known)
    what = "promote after a loss"
    if store.automatic:
        return [Ability(store.id, "store", what, "automatic", why="its own cluster elects a primary")]
    if primary is None:
        why = "it is not known which of its copies is primary, so no plan can promote another"
        return [Ability(store.id, "store", what, "nobody", why=why, next=STATE_PRIMARY)]
    ends = known.ends(store.id, Promotes)
    found = []
    for site in others:
        end = ends.get(site)
        answer = None if end is None else known.answer(end, ReportsRole)
        found.append(_ability(store, f"promote at {site}", end, answer))
    if home:
        end = ends.get(home)
        answer = None if end is None else known.answer(end, ReportsRole)
        found.append(_ability(store, f"step down at {home}", end, answer))
        found.append(_fence(store, home, policy, known))
    return found


def _without_a_copy(store: Store, home: str | None, known: _Asked) -> list[Ability]:
    """Each backup elsewhere is restored by evac if an endpoint names a place for it, else by a person."""
    if not store.members:
        why = "the estate does not state where its data is"
        return [
            Ability(store.id, "store", "recover after a loss", "nobody", why=why, next="list its members")
        ]
    where = _where(store, home, known)
    found = []
    for backup in store.backups:
        site = site_of(known.top, backup.at)
        ends = [end for end in known.top.estate.endpoints if (end.subject, end.at) == (store.id, site)]
        end = restorer(store, backup.at, sorted(ends, key=lambda end: end.id)) if site != home else None
        if end is not None:
            answer = known.answer(end, TakesBackups, RestoresData)
            found.append(_ability(store, f"restore its backup at {site}", end, answer))
    if found:
        return found
    if store.backups:
        why = f"{where}, so a backup must be restored"
        hint = "add a second copy, or give the backup an endpoint with a place to restore to"
        return [Ability(store.id, "store", "restore elsewhere", "by hand", why=why, next=hint)]
    why, hint = (
        f"{where}, and the estate lists no backup of it",
        "add a copy or a backup",
    )
    return [Ability(store.id, "store", "recover after a loss", "nobody", why=why, next=hint)]


def _where(store: Store, home: str | None, known: _Asked) -> str:
    """Where the copies of a store without one at another site are."""
    copies = [member for member in store.members if member.mode != "none"]
    home = home or next((site for one in copies if (site := site_of(known.top, one.at))), None)
    at = f"at {home}" if home else "in one place"
    if not copies:
        return "no member is known to have its data"
    several = "both copies" if len(copies) == 2 else f"all {len(copies)} copies"
    return f"its only copy is {at}" if len(copies) == 1 else f"{several} are {at}"


def _fence(store: Store, home: str, policy: RunPolicy, known: _Asked) -> Ability:
    """The first fencing proof that policy accepts and that is available now, in the order that a plan
    uses.
    """
    what = f"fence {home} if it is lost"
    rules, broken = policy.store(store.id), ""
    for proof in rules.proofs:
        if proof == "none":
            return Ability(store.id, "store", what, "automatic", why="the policy requires no proof")
        if proof == "lease" and rules.self_fence:
            return Ability(store.id, "store", what, "automatic", why="its lease ends")
        if proof == "sync" and store.id in known.proven:
            return Ability(
                store.id, "store", what, "automatic", why="every commit needs its synchronous replica"
            )
        if proof == "sync" and known.ends(store.id, ProvesSync):
            why = "; ".join(known.unproven.get(store.id, ()))
            broken = "no replica is currently proven to hold every commit" + (f" ({why})" if why else "")
        closers = [
            end
            for end in known.top.estate.endpoints
            if (end.subject, end.at) == (home, home)
            and end.settings.get(FENCE) == proof
            and proves(end.driver, proof)
        ]
        answers = [known.answer(end, Fences) for end in closers]
        if closers and not any(answer.code for answer in answers):
            return Ability(store.id, "store", what, "automatic", closers[0].id)
        for end, answer in zip(closers, answers, strict=True):
            if answer.code:
                return _ability(store, what, end, answer)
    accepted = ", ".join(rules.proofs) or "none"
    if "attest" in rules.proofs:
        why = (
            f"policy accepts {accepted}{f', and {broken}' if broken else ''}: a "
            "person must check and attest it"
        )
        hint = f"add an endpoint with fence for {home}, or make a replica synchronous"
        return Ability(store.id, "store", what, "by hand", why=why, next=hint)
    why = (
        f"the policy accepts {accepted} as proof, but nothing can provide it{f': {broken}' if broken else ''}"
    )
    hint = f"add an endpoint with fence for {home}, or accept attest in the policy"
    return Ability(store.id, "store", what, "nobody", why=why, next=hint)


def _of_service(service: Service, known: _Asked) -> list[Ability]:
    full = [site.id for site in known.top.estate.sites if site.role == "full"]
    may = may_run_at(known.top.estate, service)
    sites = [site for site in full if may is None or site in may]
    if not sites:
        why = "no site in the estate may run it"
        hint = "check eligible_sites and data_in"
        return [Ability(service.id, "service", "start", "nobody", why=why, next=hint)]
    found = []
    for capability, words in ((RunsUnits, "start"), (RoutesTraffic, "move traffic to"), (Verifies, "verify")):
        if capability is RoutesTraffic and service.traffic.kind == "none":
            continue
        ends = known.ends(service.id, capability)
        if not ends:
            found.append(
                _ability(service, words if words != "move traffic to" else "move traffic", None, None)
            )
            continue
        for site in sites:
            end = _router(ends, site, full) if capability is RoutesTraffic else ends.get(site)
            answer = None if end is None else known.answer(end, capability)
            at = f"{words} {site}" if capability is RoutesTraffic else f"{words} at {site}"
            found.append(_ability(service, at, end, answer))
    return found


def _router(ends: Mapping[str, Endpoint], site: str, full: Collection[str]) -> Endpoint | None:
    """What moves traffic to a site, whichever other site is lost: plans use every endpoint that is left,
    such as a load balancer at an edge site.
    """
    others = [ends[at] for at in sorted(ends, key=lambda at: (at in full, at))]
    if site in ends or not others:
        return ends.get(site)
    return others[0] if others[0].at not in full or len(others) > 1 else None


async def questions(estate: Estate, endpoint: Endpoint, drivers: Drivers) -> list[Tried]:
    """Every capability of the endpoint that can be checked without a change."""
    answers = await ask(estate, endpoint, drivers)
    return [
        Tried(
            one.capability.__name__,
            not one.code,
            f"{one.why} [{one.code}]" if one.code else one.said or "it answers",
        )
        for one in answers
    ]


def given_action(endpoint: Endpoint, verb: str, given: Mapping[str, str]) -> Action:
    """The action to test. Raises InvalidInput if the driver does not have it or it cannot be undone."""
    spec, fences = spec_of(endpoint.driver), FENCE in endpoint.settings
    capabilities: tuple[type, ...] = (Fences,) if fences else ()
    if spec is not None and not fences:
        capabilities = tuple(one for one in spec.capabilities if spec.offers(endpoint.settings, one))
    found = {one for capability in capabilities for one in ABOUT[capability].verbs}
    known = sorted(one for one in found & set(ACTS) if fences or one != "fence")
    if verb not in known:
        message = f"{endpoint.driver} has no verb {verb[:40]} that can be done and undone"
        raise InvalidInput("driver-verb", message, f"verbs: {', '.join(known) or 'none'}")
    usual: dict[str, Value] = {}
    if verb in ("start", "scale"):
        usual = {"replicas": 1}
    elif verb in ("drain", "ready"):
        usual = {"site": endpoint.at}
    elif verb == "shift":
        usual = {"to": (endpoint.at,)}
    elif verb == "fence":
        usual = {"proof": str(endpoint.settings[FENCE])}
    parameters = usual | {key: _value(key, value) for key, value in given.items()}
    chosen: Verb = next(one for one in ACTS if one == verb)
    return Action(chosen, endpoint.subject, endpoint.driver, endpoint.at, endpoint.settings, parameters)


def _value(key: str, given: str) -> Value:
    """The value as plans write it: a shift may have several sites."""
    if key in ("to", "away"):
        return sites({key: given}, key)
    return int(given) if given.isdigit() else given


async def done_and_undone(action: Action, drivers: Drivers) -> list[Tried]:
    """Test the whole action: stops at the first broken promise, with an undo if anything was done."""
    driver = drivers.get(action.driver)
    # Each test is a new step: a system that stores keys must not return an earlier result.
    step = f"step-{time.time_ns():x}"
    order = Order("driver-test", step, 1, 0, 0, "driver test", WITHIN_S, f"driver-test/{step}")
    asking = replace(order, token=ASKING_TOKEN)
    tried: list[Tried] = []
    try:
        checked = await driver.check(action, asking)
        tried.append(
            Tried("check reports whether it can be done", checked.ready, _said(checked.problems or "ready"))
        )
        before = await _observed(
            driver, action, asking, tried, "observe reports the current state", ("absent", "done")
        )
        dry = await driver.execute(action, replace(asking, dry_run=True))
        tried.append(Tried("a dry run reports what it would do", bool(dry), _said(dry)))
        after = await driver.observe(action, asking)
        same = after.outcome == before.outcome
        tried.append(Tried("a dry run changes nothing", same, f"{before.outcome}, then {after.outcome}"))
        if before.outcome == "done":
            why = f"{action.verb} is already done: choose other parameters with --set"
            tried.append(Tried("there is something to do", False, why))
        if not all(one.passed for one in tried):
            return tried
        await _act(driver, action, order, asking, tried)
    except EvacError as error:
        tried.append(Tried("it answers without an error", False, _said(f"{error.message} [{error.code}]")))
    except TimeoutError:
        tried.append(Tried("it finishes in time", False, f"no answer in {WITHIN_S:g} s"))
    return tried


async def _act(driver: Driver, action: Action, order: Order, asking: Order, tried: list[Tried]) -> None:
    """Do the action, repeat it, and undo it; the undo is tried whatever happened before."""
    try:
        async with asyncio.timeout(WITHIN_S + 5):
            evidence = await driver.execute(action, order)
            tried.append(Tried(f"{action.verb} is done", bool(evidence), _said(evidence)))
            await _observed(driver, action, asking, tried, "the result is observed as done", ("done",))
            again = await driver.execute(action, replace(order, attempt=2))
            tried.append(Tried("doing it again changes nothing", True, _said(again)))
    finally:
        async with asyncio.timeout(WITHIN_S + 5):
            undone = await driver.undo(action, order)
            tried.append(Tried("undo reverses it", True, _said(undone)))
    await _observed(
        driver, action, asking, tried, "after the undo, the action is observed as not done", ("absent",)
    )


async def _observed(
    driver: Driver, action: Action, order: Order, tried: list[Tried], what: str, wanted: tuple[str, ...]
) -> Observed:
    found = await driver.observe(action, order)
    tried.append(Tried(what, found.outcome in wanted, _said(found.evidence or found.outcome)))
    return found


def _said(value: object) -> str:
    """The response as one line of limited length."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {one}" for key, one in value.items() if one != "")
    elif isinstance(value, tuple):
        value = "; ".join(map(str, value))
    text = " ".join(str(value).split())
    return text if len(text) <= _SAID_MAX else f"{text[: _SAID_MAX - 3]}..."
