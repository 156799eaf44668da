"""Losses, runs and returns in sequence over random estates: `python -m bench sequences [--estates 500]`.

After each event, what evac knows of the estate must follow from what happened. Nothing lost runs, nothing
runs again by itself, and what is in doubt stays in doubt until a run moves it. What a plan promised runs
after its run. The checker finds the same replicas that wait, and accepts the plans of runs and those for what
may be lost next. The audit of a state says of each of these losses what its plan says.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bench.contradictions import of_row
from bench.random_estates import Chance, random_estate, strange_estate
from evac.app.planner.plans import Question, scenario_of
from evac.audit import audit
from evac.derive.domains import (
    can_be_lost,
    domains,
    lost_now,
    lost_with,
    resolve,
    site_of_replicas,
    stays_lost,
    topology,
)
from evac.derive.planning_instance import derive
from evac.derive.pools import loose_services, replicas_lost, replicas_running, without_lost
from evac.derive.situation import moved, of, promised
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, IntColumn, np
from evac.model.observation import Observation, UnitsSeen
from evac.model.plan import Plan
from evac.model.run_policy import SUCCEEDED
from evac.model.scenario import Scenario, lose
from evac.model.situation import Effects, LostNow, Moved
from evac.planning.plan import plan
from evac.verify import check
from evac.verify.waiting import check_waiting

SERVICES_MOST = 20
EVENTS = ("loss", "loss", "lose", "lose", "evacuate", "restore", "restore", "failback", "clear")
"""A loss without a run, and runs; `clear`: a person says that something was never lost."""
LOSSES_TRIED = 3
"""How many of the next losses are planned after each event."""
DEADLINES_MS = (None, None, 0, 5_000, 60_000, 600_000, 3_600_000)
"""Of evacuations; None: none, as if the site kept running for the whole plan."""


@dataclass(frozen=True, slots=True)
class Broken:
    """What does not follow from what happened."""

    after: str
    """The events so far."""
    rule: str
    what: str


@dataclass(slots=True)
class History:
    """What happened to an estate: as runs and people record it."""

    files: Estate
    lost: dict[str, LostNow] = field(default_factory=dict)
    runs: list[Moved] = field(default_factory=list)
    units: tuple[UnitsSeen, ...] = ()
    at_ms: int = 0
    told: list[str] = field(default_factory=list)
    promised: dict[str, int] = field(default_factory=dict)
    """Service -> replicas that run after the last event, if that was a run that did all of its plan."""
    refused: list[str] = field(default_factory=list)
    """What the checker refuses in the plan of the last event."""

    @property
    def seen(self) -> Observation:
        lost = tuple(one for _, one in sorted(self.lost.items()))
        return Observation(self.at_ms, units=self.units, effects=Effects(lost, tuple(self.runs)))

    @property
    def now(self) -> Estate:
        return of(self.files, self.seen).estate

    def run(self, chance: Chance, scenario: Scenario) -> Moved:
        """A run of a plan: of all of it, without some starts that people skipped, or cut short."""
        before = self.now
        made = plan(before, scenario)
        self.refused = [f"{one.rule} {one.subject}: {one.message}" for one in check(before, made).violations]
        steps = promised(before, made)
        end = chance.one_of("all", "all", "skipped", "cut")
        if end == "skipped":
            steps = [one for one in steps if one.step.kind != "start" or chance.often(0.5)]
        if end == "cut":
            steps = steps[: chance.between(0, len(steps))]
        phase = {"all": "succeeded", "skipped": "succeeded_with_exceptions", "cut": "failed"}[end]
        if end == "all":
            self.promised = _promises(before, made)
        number = len(self.runs) + 1
        began = self.at_ms
        self.at_ms += 5
        ended = moved(
            before, scenario, steps, run=f"r{number}", began_ms=began, ended_ms=self.at_ms, phase=phase
        )
        since = dict.fromkeys(scenario.domains, began)
        self.runs.append(replace(ended, since=since, number=number))
        self.told.append(f"{scenario.kind} {'+'.join(scenario.domains)} ({phase})")
        return self.runs[-1]


def _promises(estate: Estate, made: Plan) -> dict[str, int]:
    """Service -> replicas that run after a plan, for those that it restores."""
    services = derive(estate, made.scenario).services
    n, m = (dict(zip(services.id, counts.tolist(), strict=True)) for counts in (services.n, services.m))
    restored = (one for one in made.outcomes if one.state in ("restored", "degraded"))
    return {one.service: n[one.service] if one.top_ms is not None else m[one.service] for one in restored}


def _asked(now: Estate, question: Question) -> Scenario | None:
    """The scenario of a question; None if evac refuses it, because what returns would still be lost."""
    try:
        return scenario_of(now, question)
    except InvalidInput as refusal:
        if refusal.code != "plan-still-lost":
            raise
        return None


def happens(chance: Chance, history: History) -> str:
    """One more event; its kind, or nothing if there is none."""
    history.at_ms, history.promised, history.refused = history.at_ms + 10, {}, []
    now, top = history.now, topology(history.now)
    every = [one for one in domains(now) if one.kind != "provider"]
    left = [one.id for one in every if can_be_lost(top, one.id)]
    kind = chance.one_of(*EVENTS)
    back = sorted(history.lost)
    if kind in ("restore", "clear") and back:
        domain = chance.one_of(*back)
        if kind == "clear":
            del history.lost[domain]
            history.told.append(f"clear {domain}")
            return kind
        if (scenario := _asked(now, Question(restore=(domain,)))) is None:
            return "refused"
        if history.run(chance, scenario).phase in SUCCEEDED:
            history.lost = {name: history.lost[name] for name in stays_lost(history.lost, (domain,))}
        return kind
    if kind == "failback":
        sites = [site.id for site in now.sites if site.role == "full" and site.id not in history.lost]
        if sites and history.runs:
            if (scenario := _asked(now, Question(failback=(chance.one_of(*sites),)))) is None:
                return "refused"
            history.run(chance, scenario)
            return kind
    if not left:
        return ""
    domain = chance.one_of(*left)
    if kind == "evacuate":
        question = Question(evacuate=(domain,), deadline_ms=chance.one_of(*DEADLINES_MS))
        if history.run(chance, scenario_of(now, question)).phase in SUCCEEDED:
            history.lost[domain] = LostNow(domain, "evacuated", history.at_ms - 5, f"r{len(history.runs)}")
        return kind
    if kind == "lose":
        history.run(chance, lose(domain))
        history.lost[domain] = LostNow(domain, "lost", history.at_ms - 5, f"r{len(history.runs)}")
        return kind
    history.lost[domain] = LostNow(domain, "lost", history.at_ms)
    history.told.append(f"loss {domain}")
    return "loss"


def running(now: Estate) -> IntColumn:
    """(S,) replicas of each service that run outside of what is lost."""
    top = topology(now)
    table = replicas_running(top)
    left = table.count - replicas_lost(top, lost_now(top), replicas=table)
    return np.bincount(table.service, left, len(now.services)).astype(np.int64)


def _runs_in_lost(now: Estate) -> Iterator[str]:
    """Services that later losses count as running where all is lost."""
    after, top = without_lost(now), topology(now)
    gone = lost_now(top)
    for row in np.flatnonzero(replicas_running(topology(after)).count > 0).tolist():
        kind, target = int(after.replicas.kind[row]), int(after.replicas.target[row])
        lost = {ON_SERVER: gone.servers, ON_POOL: gone.pools, AT_SITE: gone.sites}[kind]
        if lost[target]:
            yield now.services[int(after.replicas.service[row])].id


def _in_doubt(now: Estate) -> set[tuple[str, str]]:
    """(loss, service) where it is unknown what the loss takes of what runs."""
    top = topology(now)
    table, found = replicas_running(top), set[tuple[str, str]]()
    for one in domains(now):
        if can_be_lost(top, one.id):
            loose = loose_services(top, lost_with(top, (one.id,)), table)
            found |= {(one.id, now.services[row].id) for row in np.flatnonzero(loose).tolist()}
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """What is known after an event."""

    now: Estate
    runs: IntColumn
    doubts: set[tuple[str, str]]

    def at(self, domain: str) -> set[str]:
        """Services with replicas at the site of a domain; all of them if it is in no single site."""
        top = topology(self.now)
        site, table = resolve(top, domain).site, self.now.replicas
        here = site_of_replicas(top) == (-1 if site is None else top.site_index[site])
        return {s.id for row, s in enumerate(self.now.services) if site is None or row in table.service[here]}


def _state(now: Estate) -> _State:
    return _State(now, running(now), _in_doubt(now))


def _of_facts(history: History, before: _State, after: _State, kind: str) -> Iterator[tuple[str, str]]:
    """(rule, what) that is wrong in what evac knows after an event."""
    now = after.now
    for what in history.refused:
        yield "run", what
    for wrong in check_waiting(history.files, history.seen, now):
        yield "waiting", f"{wrong.subject}: {wrong.message}"
    for name in _runs_in_lost(now):
        yield "lost runs", name
    later = of(history.files, replace(history.seen, at_ms=history.at_ms + 1_000_000)).estate
    if not later.replicas.same(now.replicas):
        yield "time moves", "replicas move by themselves"
    for row, service in enumerate(now.services):
        if after.runs[row] < history.promised.get(service.id, 0):
            yield "promised", f"{service.id}: {history.promised[service.id]} promised, {after.runs[row]} run"
        if kind == "loss" and after.runs[row] > before.runs[row]:
            yield "runs again", f"{service.id}: {before.runs[row]} ran, now {after.runs[row]}"
    if kind == "loss":
        top = topology(now)
        others = {s.id for s in now.services} - before.at(history.told[-1].removeprefix("loss "))
        for loss, name in sorted(before.doubts - after.doubts):
            if name in others and can_be_lost(top, loss):
                yield "judged again", f"{name} after {loss}"


def _of_plans(now: Estate) -> Iterator[tuple[str, str]]:
    """(rule, what) that is wrong in plans for what may be lost next."""
    top = topology(now)
    tried = [one.id for one in domains(now) if can_be_lost(top, one.id)]
    tried = tried[:: max(1, len(tried) // LOSSES_TRIED)][:LOSSES_TRIED]
    report = audit(now, domains=tuple(tried))
    for domain, row in zip(tried, report.rows, strict=True):
        made = plan(now, lose(domain))
        for wrong in check(now, made).violations:
            yield "plan", f"{domain}: {wrong.rule} {wrong.subject}: {wrong.message}"
        for one in of_row(report, row, made.outcomes):
            yield "verdict", f"{domain}: {one.service}: audit {one.audit}, plan {one.plan}"


def broken(estate: Estate, seed: int, events: int = 5) -> Iterator[Broken]:
    """What does not follow in one sequence of events."""
    chance, history = Chance(seed), History(estate)
    before = _state(history.now)
    for _ in range(events):
        if not (kind := happens(chance, history)):
            return
        after, story = _state(history.now), ", ".join(history.told)
        for rule, what in (*_of_facts(history, before, after, kind), *_of_plans(after.now)):
            yield Broken(story, rule, what)
        before = after


def main(arguments: list[str] | None = None) -> None:
    """Count what is broken in as many sequences as asked for, and print the first of each kind."""
    parser = argparse.ArgumentParser(prog="python -m bench sequences", description=__doc__)
    parser.add_argument("--estates", type=int, default=500)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--events", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="without more of what strangers write")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    asked = parser.parse_args(arguments)
    found, begin, done = Counter[str](), time.monotonic(), 0
    made = random_estate if asked.plain else strange_estate
    for seed in range(asked.first_seed, asked.first_seed + asked.estates):
        if time.monotonic() - begin > asked.seconds:
            break
        estate = made(seed)
        if len(estate.services) > SERVICES_MOST:
            continue
        done += 1
        for one in broken(estate, seed, asked.events):
            rule = one.rule.split(" (")[0]
            if not found[rule]:
                print(f"  seed {seed}: {one}", flush=True)
            found[rule] += 1
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
    print(f"{done:,} sequences, {sum(found.values())} broken{': ' + kinds if kinds else ''}")
