"""The whole story: a fire, an evacuation, a day without power, a cold start, and the return home.

Every hour of it is planned, checked and executed by the program that would do it in reality. Times are
milliseconds since the fire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from evac import estate as estates
from evac.app.planner.plans import Made, Question, make_plan, scenario_of
from evac.derive.situation import estate_after
from evac.estate.examples import pangyo
from evac.model.errors import RunError
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.run_policy import SUCCEEDED
from evac.model.scenario import Scenario, lose
from evac.model.step_id import StepId
from evac.steps.registry import kind_of
from evac.verify import check
from evac.views.october_page import PUBLISHED_POWER_MS, Assumption, Chapter, October, Wave
from evac.views.words import duration, number, percent, plural
from evac_lab.fleet.ground import DEFAULT_SHARES
from evac_lab.october import booting

SITE: Final = "pangyo"
MESSENGER: Final = "messenger-chat-front"
POWER_PERMILLE: Final = 900
"""Nine tenths of the power returned first; that all of the site's share did is assumed."""
FAULT_WORDS: Final = MappingProxyType(
    {
        "dead": "servers with a dead controller",
        "slow": "controllers that answer slowly",
        "boot-loop": "servers in a boot loop",
        "wrong-serial": "addresses where another server answers",
    }
)


@dataclass(frozen=True, slots=True)
class Setting:
    """folder: for all generated files. speed: seconds of the cold start per real second."""

    folder: Path
    servers: int
    speed: int
    seed: int
    budget_ms: int


@dataclass(slots=True)
class _Book:
    """The story so far. back: service -> when it was restored."""

    chapters: list[Chapter] = field(default_factory=list)
    back: dict[str, int] = field(default_factory=dict)


def october(setting: Setting, say: Say) -> October:
    """Plays everything; generated files go to the folder. Raises EvacError."""
    book = _Book()
    estate = _company(setting)
    say(f"{number(len(estate.fleet))} servers, {number(_at(estate))} of them in Pangyo; the building burns")
    released = estate.lead.ms
    gone = _evacuate(estate, setting, book, released)
    say(f"evacuated: {book.chapters[-2].facts[0]} {book.chapters[-1].facts[0]}")
    dark = estate_after(estate, gone.made.plan)
    booted, stats, bound_ms = _cold_start(dark, setting, book, say)
    say(f"cold start: {book.chapters[-1].facts[0]}")
    away = replace(estate, stores=estate_after(dark, booted.plan).stores)
    home = _fail_back(away, setting, book)
    say(f"fail back: {book.chapters[-1].facts[0]}")
    wave = _wave(booted, stats, bound_ms, book.chapters[-2], setting.speed)
    return _told(estate, gone.made.plan, book, wave, home)


def _at(estate: Estate) -> int:
    row = next(n for n, one in enumerate(estate.sites) if one.id == SITE)
    return int((estate.fleet.site == row).sum())


def _company(setting: Setting) -> Estate:
    """The fixed company with its BMCs at the addresses of the simulated fleet, written and read back."""
    folder = setting.folder / "company"
    made = booting.with_addresses(pangyo(servers=setting.servers, mended=True), SITE)
    estates.write(made, folder, tables="parquet", replace=True)
    return estates.load(folder)


def _evacuate(estate: Estate, setting: Setting, book: _Book, released: int) -> Told:
    told = tell(estate, lose(SITE), setting.budget_ms, setting.seed)
    (setting.folder / "evacuation.plan.json").write_bytes(told.made.data)
    book.back |= {service: released + at for service, at in told.back.items()}
    affected = len(told.made.plan.outcomes)
    book.chapters.append(
        Chapter(
            "The fire",
            0,
            released,
            "gone",
            (
                f"{number(_at(estate))} servers and {plural(affected, 'service')} are hit.",
                f"Witnesses agree after {duration(estate.lead.detection_ms)}; "
                f"the plan is approved after another {duration(estate.lead.approval_ms)}.",
            ),
            "facts of the estate",
            0,
        )
    )
    book.chapters.append(
        Chapter(
            "Evacuation",
            released,
            released + told.played.ended_ms,
            "start",
            (
                f"{number(len(told.back))} of {plural(affected, 'service')} are back elsewhere.",
                *_messenger(book),
            ),
            "planned, checked, and executed by the engine in virtual time",
            told.real_ms,
        )
    )
    ended = released + told.played.ended_ms
    book.chapters.append(
        Chapter(
            "No power",
            ended,
            max(ended, PUBLISHED_POWER_MS),
            "wait",
            (f"{plural(affected - len(told.back), 'service')} wait for Pangyo.",),
            "skipped",
            0,
        )
    )
    return told


def _messenger(book: _Book) -> tuple[str, ...]:
    at = book.back.get(MESSENGER)
    return () if at is None else (f"Messages can be sent again after {duration(at)}.",)


def _cold_start(
    dark: Estate, setting: Setting, book: _Book, say: Say
) -> tuple[booting.Booted, Mapping[str, Any], int]:
    """Boots the site with real requests while the fleet counts."""
    began = time.monotonic()
    begin = book.chapters[-1].end_ms
    folder = setting.folder / "fleet"
    with booting.serving(setting.folder / "company", SITE, folder, setting.seed, setting.speed) as fleet:
        estate = booting.with_endpoints(dark, SITE, fleet)
        scenario = scenario_of(estate, Question(restore=(SITE,), power=(f"{SITE}={POWER_PERMILLE // 10}%",)))
        # Limits the simulated feeds to what the plan assumed, so that a bad plan trips them.
        for domain, watts in scenario.power:
            fleet.limit(domain, watts)
        made = planned(estate, scenario, setting.budget_ms, setting.seed)
        (setting.folder / "cold-start.plan.json").write_bytes(made.data)
        wave = made.plan.wave
        bound_ms = 0 if wave is None else wave.bound_ms
        wave_ms = max((step.end_ms for step in made.plan.steps if kind_of(step.kind).boots), default=0)
        say(
            f"power is back, {POWER_PERMILLE // 10} % of it; the wave takes {duration(wave_ms)}, "
            f"here {duration(wave_ms // setting.speed)}"
        )
        booted = booting.boot(estate, made, folder, setting.seed, setting.speed)
        stats = fleet.ask("stats")
    back = restored(booted.plan, {name: end for name, (_, end) in booted.played.steps.items()})
    for service, at in back.items():
        book.back.setdefault(service, begin + at)
    book.chapters.append(
        Chapter(
            "Cold start",
            begin,
            begin + max(booted.wave_ms, booted.played.ended_ms),
            "boot",
            (
                f"{number(booted.came_up)} of {plural(booted.servers, 'server')} are up "
                f"after {duration(booted.wave_ms)}.",
                f"Power: {percent(POWER_PERMILLE)} of what the site has.",
                *_stays_off(made.plan),
            ),
            f"every boot and breaker by Redfish over HTTP, through engine and journal, "
            f"{setting.speed} times as fast",
            int((time.monotonic() - began) * 1_000),
        )
    )
    return booted, stats, bound_ms


def _stays_off(plan: Plan) -> Iterator[str]:
    """How many servers are not booted, for each reason."""
    reasons: dict[str, int] = {}
    for entry in plan.left_off:
        reasons[entry.reason] = reasons.get(entry.reason, 0) + len(entry.servers)
    for reason, count in sorted(reasons.items()):
        stay = "stays" if count == 1 else "stay"
        yield f"{plural(count, 'server')} {stay} off, as planned: {reason}."


def _fail_back(estate: Estate, setting: Setting, book: _Book) -> int:
    told = tell(estate, Scenario("failback", (SITE,)), setting.budget_ms, setting.seed)
    (setting.folder / "fail-back.plan.json").write_bytes(told.made.data)
    begin = book.chapters[-1].end_ms
    end = begin + told.played.ended_ms
    moved = sum(1 for outcome in told.made.plan.outcomes if outcome.state in ("restored", "degraded"))
    book.chapters.append(
        Chapter(
            "Fail back",
            begin,
            end,
            "shift",
            (f"{plural(moved, 'service')} run in Pangyo again; no one notices.",),
            "planned, checked, and executed by the engine in virtual time",
            told.real_ms,
        )
    )
    return end


def _wave(
    booted: booting.Booted, stats: Mapping[str, Any], bound_ms: int, chapter: Chapter, speed: int
) -> Wave:
    begin = chapter.begin_ms
    return Wave(
        booted.servers,
        booted.came_up,
        booted.degraded,
        booted.servers - booted.came_up,
        int(stats["trips"]["count"]),
        int(stats["resets"]["power_ons_more_than_one"]),
        begin,
        begin + booted.wave_ms,
        bound_ms,
        tuple((begin + at, count) for at, count in booted.up),
        speed,
    )


def _told(estate: Estate, plan: Plan, book: _Book, wave: Wave, home: int) -> October:
    affected = {outcome.service for outcome in plan.outcomes}
    back = {service: at for service, at in book.back.items() if service in affected}
    missing = tuple(sorted(affected - back.keys()))
    points, left = [(0, len(affected))], len(affected)
    for at in sorted(back.values()):
        left -= 1
        points.append((at, left))
    people = {service.id: service.people or 0 for service in estate.services}
    shares = {
        FAULT_WORDS.get(name, f"servers with the fault {name}"): round(1_000 * of)
        for name, of in DEFAULT_SHARES.items()
    }
    return October(
        servers=len(estate.fleet),
        burnt=_at(estate),
        services=len(affected),
        people=max(people[name] for name in affected),
        chapters=tuple(book.chapters),
        back=tuple(points),
        wave=wave,
        messenger_ms=book.back.get(MESSENGER),
        last_ms=None if missing else max(back.values()),
        home_ms=home,
        missing=missing,
        assumptions=assumptions(estate, SITE, POWER_PERMILLE, shares),
    )


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Told:
    """One executed plan. back: service -> milliseconds since the run began; real_ms: time spent here."""

    made: Made
    played: booting.Played
    back: Mapping[str, int]
    real_ms: int


def planned(estate: Estate, scenario: Scenario, budget_ms: int, seed: int) -> Made:
    """A plan accepted by the independent checker. Raises RunError if it is refused."""
    made = make_plan(estate, scenario, budget_ms=budget_ms, seed=seed)
    verdict = check(estate, made.plan)
    if not verdict.holds:
        raise RunError("story-plan-broken", f"the plan breaks a rule: {verdict.violations[0]}")
    return made


def tell(estate: Estate, scenario: Scenario, budget_ms: int, seed: int) -> Told:
    """Plans, verifies and plays one scenario. Raises RunError if the run does not end well."""
    began = time.monotonic()
    made = planned(estate, scenario, budget_ms, seed)
    outcome = booting.play(booting.timed(booting.bound_plan(estate, made.plan, made.digest)), seed)
    if outcome.phase not in SUCCEEDED:
        raise RunError("story-run-ended", f"the run of {scenario.title} ended {outcome.phase}")
    back = restored(made.plan, {name: end for name, (_, end) in outcome.steps.items()})
    return Told(made, outcome, back, int((time.monotonic() - began) * 1_000))


def restored(plan: Plan, ended: Mapping[str, int]) -> dict[str, int]:
    """Service -> when its smallest share serves with its traffic there, for those that the plan restores.

    ended: step id -> end. Services whose last step failed are left out.
    """
    found: dict[str, int] = {}
    steps = {step.id for step in plan.steps}
    for outcome in plan.outcomes:
        if outcome.base_ms is None or outcome.state in ("shed", "unplaced"):
            continue
        shift = str(StepId("shift", outcome.service))
        last = shift if shift in steps else str(StepId("verify", outcome.service, "base"))
        if last in ended:
            found[outcome.service] = ended[last]
        elif last not in steps:
            found[outcome.service] = 0
    return found


_PRESS: Final = "published: reports on the outage of 15 October 2022"
UNKNOWN_SOURCE: Final = "assumed"


def assumptions(
    estate: Estate, site: str, share_permille: int, faults: Mapping[str, int]
) -> tuple[Assumption, ...]:
    """share_permille: of the power that is back; faults: words -> permille of servers."""
    sources = {fact.path: fact.source or UNKNOWN_SOURCE for fact in estate.facts}

    def source(path: str) -> str:
        parts = path.split("/")
        found = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((sources[one] for one in found if one in sources), UNKNOWN_SOURCE)

    row = next(n for n, one in enumerate(estate.sites) if one.id == site)
    servers = int((estate.fleet.site == row).sum())
    return (
        Assumption("servers in the building", number(servers), source(f"sites/{site}")),
        Assumption("power is back after", duration(PUBLISHED_POWER_MS), f"{_PRESS}: most of it, after a day"),
        Assumption(
            "power available at first",
            percent(share_permille),
            f"{_PRESS}; assumed: all feeds get the same share",
        ),
        Assumption("until the loss is confirmed", duration(estate.lead.detection_ms), source("detection")),
        Assumption("until a plan is approved", duration(estate.lead.approval_ms), source("approval")),
        *_classes(estate, source),
        *_hands(estate, source),
        *(
            Assumption(words, percent(permille), "assumed: no figure was published; drawn from the seed")
            for words, permille in sorted(faults.items())
        ),
        Assumption(
            "how long steps take compared with the plan",
            f"{booting.FASTEST_PERMILLE / 10:g} to {booting.SLOWEST_PERMILLE / 10:g} %",
            "assumed: drawn from the seed for each step; boots are timed by the simulated fleet",
        ),
        Assumption("messages can be sent", "messenger-chat-front", source("services/messenger-chat-front")),
    )


def _classes(estate: Estate, source: Callable[[str], str]) -> Iterator[Assumption]:
    for one in estate.classes:
        if one.boot_ms is not None:
            where = source(f"classes/{one.id}")
            yield Assumption(f"boot of a {one.id} server", duration(one.boot_ms), where)


def _hands(estate: Estate, source: Callable[[str], str]) -> Iterator[Assumption]:
    limits = estate.limits
    if limits.hands_at_once:
        where = source("limits")
        yield Assumption("on-site staff", number(limits.hands_at_once), where)
        for kind, least in sorted(limits.manual_ms.items()):
            yield Assumption(f"{kind} by hand takes at least", duration(least), where)
