"""Taking a fact away from an estate never turns a verdict better: where a service runs, a start time, how
long a fence, a promotion or a boot takes, how far a replica lags, what a backup is, what a replica needs,
what a pool has, whether a store elects its primary or waits for a copy, what a server draws, and whether a
service may be stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.random_estates import random_document
from evac.audit import audit
from evac.derive.planning_instance import derive
from evac.estate import load
from evac.model.estate import Estate
from evac.model.scenario import Scenario, ScenarioKind, lose
from evac.model.units import UNBOUNDED
from evac.office import facts as office_facts
from evac.office.reckoning import what_if_of
from evac.planning.evacuation.board import SHEDS, STARTS
from evac.planning.evacuation.solve import solve
from evac.planning.plan import plan
from evac.verify import check
from evac.views.audit_view import audit_text
from evac.views.plan_view import root_reason
from evac.views.words import people
from tests.unit.truth.written import written

Place = tuple[str | int, ...]
SEEDS: Final = (2, 3, 11, 15, 17, 20, 26, 41, 52, 61, 64, 73)
"""Estates of few services that have such facts."""
KEYS: Final = {
    "services": ("start", "demand", "replicas", "sheddable"),
    "stores": ("fence", "promote", "members", "automatic", "sync_timeout", "rpo"),
    "classes": ("boot", "watts"),
    "pools": ("cpu", "memory"),
}
RANK: Final = {
    "unaffected": 5,
    "kept": 4,
    "recovers": 3,
    "degraded": 2,
    "unknown": 1,
    "not proved": 1,
    "lost": 1,
    "shed": 1,
}
"""kept: never down, with fewer replicas. That nobody can judge it is no better than that it is lost, and no
worse."""
Verdicts = dict[tuple[str, str], tuple[str, int | None]]


def facts_of(found: dict[str, Any]) -> Iterator[Place]:
    """Where facts are that can be taken away."""
    for kind, keys in KEYS.items():
        for name, one in found.get(kind, {}).items():
            yield from ((kind, name, key) for key in keys if key in one)
    for name, store in found.get("stores", {}).items():
        for part, keys in (("members", ("lag",)), ("backups", ("size", "age", "restore"))):
            for number, one in enumerate(store.get(part, ())):
                yield from (("stores", name, part, number, key) for key in keys if key in one)


def without(found: dict[str, Any], path: Place) -> dict[str, Any]:
    less = deepcopy(found)
    at: Any = less
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    return less


def verdicts(folder: Path, document: dict[str, Any], table: str) -> Verdicts:
    """(loss, service) -> its fate, and when it is back where that is known."""
    folder.mkdir()
    (folder / "estate.yaml").write_text(json.dumps(document), "utf-8")
    if table:
        (folder / "servers.csv").write_text(table, "utf-8")
    return verdicts_of(load(folder))


def verdicts_of(estate: Estate) -> Verdicts:
    """The same for an estate that was read."""
    report = audit(estate)
    found: Verdicts = {}
    for number, row in enumerate(report.rows):
        down = dict(zip(report.services, report.impacts.down[number].tolist(), strict=True))
        told = {
            one.service: (
                "kept" if one.fate == "degraded" and not down[one.service] else one.fate,
                one.recovery_ms,
            )
            for one in row.fates(report.services)
        }
        found |= {(row.domain, name): told.get(name, ("unaffected", None)) for name in report.services}
    return found


def is_better(now: tuple[str, int | None], before: tuple[str, int | None]) -> bool:
    """Whom a plan sheds is its choice: one that knows less may stop nobody, and leave open whom it helps."""
    if before[0] == "shed":
        return False
    if RANK[now[0]] != RANK[before[0]]:
        return RANK[now[0]] > RANK[before[0]]
    return now[0] == "recovers" and now[1] is not None and (before[1] is None or now[1] < before[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_not_known_never_improves_a_verdict(tmp_path: Path, seed: int) -> None:
    document, table = random_document(seed)
    before = verdicts(tmp_path / "whole", document, table)
    better = {}
    for number, path in enumerate(facts_of(document)):
        after = verdicts(tmp_path / f"{number}", without(document, path), table)
        better |= {(path, at): (before[at], now) for at, now in after.items() if is_better(now, before[at])}
    assert better == {}


LINE = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {people: 9, replicas: {pb: 1}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
         needs: [{store: orders}]}
  wiki: {people: 9, replicas: {pb: 1}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
         needs: [{store: pages}]}
stores:
  orders: {engine: postgresql, fence: 1 s, PROMOTE members: [{at: a, mode: primary}, {at: b, mode: sync}]}
  pages: {engine: postgresql, fence: 1 s, promote: 5 s,
          members: [{at: a, mode: primary}, {at: b, mode: sync}]}
limits: {LIMITS}
"""


@pytest.mark.parametrize(
    ("promote", "limits", "known"),
    [
        ("promote: 60 s,", "promotions_at_once: 1", True),
        ("", "promotions_at_once: 1", False),
        ("", "promotions_at_once: 2", True),
        ("", "", True),
    ],
)
def test_what_waits_for_a_promotion_of_unknown_length_comes_back_at_an_unknown_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promote: str, limits: str, known: bool
) -> None:
    estate = written(tmp_path, LINE.replace("PROMOTE", promote).replace("LIMITS", limits))
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    back = {outcome.service: outcome.recovery_ms for outcome in made.outcomes}
    assert (back["wiki"] is not None) == known
    assert (back["shop"] is not None) == bool(promote)
    row = next(row for row in audit(estate).rows if row.domain == "a")
    assert {one.service: one.recovery_ms for one in row.fates(("shop", "wiki"))} == back
    for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
        monkeypatch.setattr(f"evac.audit.impacts.planned.{most}", 0)
    row = next(row for row in audit(estate).rows if row.domain == "a")
    assert row.method == "estimate"
    estimated = {one.service: one.recovery_ms for one in row.fates(("shop", "wiki"))}
    assert known or estimated["wiki"] is None


@pytest.mark.parametrize("loss", ["a", "b"])
def test_a_store_whose_members_are_not_known_may_be_lost_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    nowhere = LINE.replace(" PROMOTE members: [{at: a, mode: primary}, {at: b, mode: sync}]", "")
    estate = written(tmp_path, nowhere.replace("LIMITS", ""))
    made = plan(estate, lose(loss))
    assert check(estate, made).holds
    (shop,) = (outcome for outcome in made.outcomes if outcome.service == "shop")
    assert shop.state == "unknown"
    assert shop.why is not None
    assert shop.why.words == "cannot be judged: where the members of store orders are"
    for method in ("plan", "estimate"):
        row = next(row for row in audit(estate).rows if row.domain == loss)
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(f"evac.audit.impacts.planned.{most}", 0)
        assert row.method == method
        assert {one.service: one.fate for one in row.fates(("shop", "wiki"))}["shop"] == "unknown"


NOWHERE = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {people: 9, replicas: {pb: 1}, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}, needs: [{store: orders}]}
  find: {people: 9, replicas: {pb: 1}, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}, needs: [{store: index}]}
  blog: {people: 9, replicas: {pb: 1}, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}, needs: [{service: shop, hard: false}]}
stores:
  orders: {engine: x, fence: 1 s, promote: 1 s}
  index: {engine: x, rebuilt_from: orders, rebuild: 10 min, members: [{at: a, mode: primary}]}
"""


@pytest.mark.parametrize(
    ("kind", "site", "find", "blog"),
    [
        ("lose", "a", "unknown", "degraded"),
        ("lose", "b", "restored", "degraded"),
        ("evacuate", "a", "unknown", "degraded"),
        ("evacuate", "b", "restored", "degraded"),
    ],
)
def test_what_is_rebuilt_or_softly_needs_what_cannot_be_judged_is_not_restored_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ScenarioKind, site: str, find: str, blog: str
) -> None:
    """Whoever needs `orders`, whose members nobody knows; `index` is rebuilt from it where it is lost."""
    estate = written(tmp_path, NOWHERE)
    made = plan(estate, Scenario(kind, (site,)))
    assert check(estate, made).holds
    states = {one.service: one.state for one in made.outcomes}
    assert states == {"shop": "unknown", "find": find, "blog": blog}
    assert "stores/orders/placement" in made.unknown
    for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
        monkeypatch.setattr(f"evac.audit.impacts.planned.{most}", 0)
    report = audit(estate)
    row = next(row for row in report.rows if row.domain == site)
    fates = {one.service: one.fate for one in row.fates(report.services)}
    assert row.method == "estimate"
    assert fates["shop"] == "unknown"
    assert (fates["find"] == "unknown") == (find == "unknown")
    assert fates["blog"] in ("degraded", "not proved")


HANDS = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  deploy: {people: 1, replicas: {pa: 1}, start: 60 s, demand: {cpu: 1 core, memory: 1 GiB},
           traffic: {kind: none}}
  shop: {people: 9, replicas: {pa: 1}, START demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {people: 9, replicas: {pa: 1}, start: 60 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
tools: {deploy: deploy}
limits: {HANDS manual: {start: 5 min}}
"""


@pytest.mark.parametrize(
    ("start", "hands", "known"),
    [
        ("start: 60 s,", "hands_at_once: 1,", True),
        ("", "hands_at_once: 1,", False),
        ("", "hands_at_once: 14,", False),
        ("", "hands_at_once: 15,", True),
        ("", "", True),
    ],
)
def test_what_waits_for_people_who_are_busy_for_an_unknown_time_comes_back_at_one(
    tmp_path: Path, start: str, hands: str, known: bool
) -> None:
    estate = written(tmp_path, HANDS.replace("START", start).replace("HANDS", hands))
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    back = {outcome.service: outcome.recovery_ms for outcome in made.outcomes}
    assert (back["wiki"] is not None) == known
    assert (back["shop"] is not None) == bool(start)


def known_capacity_left(estate: Estate) -> list[tuple[str, str, str]]:
    """(loss, service, pool): starts where nobody knows what is free, though a known pool has capacity left.

    Where something is shed, capacity can become free after a start was placed.
    """
    found = []
    for site in estate.sites:
        instance = derive(estate, lose(site.id))
        board = solve(instance, 0)
        if not instance.vague.rows or board.size[SHEDS]:
            continue
        for line in board.started[: board.size[STARTS]]:
            service = int(line["service"])
            wanted = instance.services.demand[service]
            known = np.array(
                [
                    not any(wanted[resource] for resource, _ in instance.vague.rows.get(row, ()))
                    for row in range(len(board.row))
                ]
            )
            left = known & board.row["is_pool"].astype(np.bool_) & (board.row["free"] >= wanted).all(axis=1)
            left &= board.eligible[service, board.row["pool"]]
            if not known[line["row"]] and board.service[service]["site_cap"] >= UNBOUNDED and left.any():
                pool = instance.row_names[int(np.flatnonzero(left)[0])]
                found.append((site.id, instance.services.id[service], pool))
    return found


@pytest.mark.parametrize("seed", [2, 4, 31, 44, 50, 52, 67, 78, 87, 90, 103, 104])
def test_what_is_known_to_be_free_is_used_before_what_is_not(tmp_path: Path, seed: int) -> None:
    document, table = random_document(seed)
    pools = document.get("pools", {})
    for pool in pools:
        for key in pools[pool].keys() & {"cpu", "memory"}:
            folder = tmp_path / f"{pool}-{key}"
            folder.mkdir()
            (folder / "estate.yaml").write_text(json.dumps(without(document, ("pools", pool, key))), "utf-8")
            if table:
                (folder / "servers.csv").write_text(table, "utf-8")
            assert known_capacity_left(load(folder)) == []


TWO_PLACES = """
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b}, pc: {site: c, cpu: CORES, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 90, replicas: {pa: 3}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {tier: 1, people: 5, replicas: {pa: 1}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("cores", "states"),
    [
        (1, {"shop": "unknown", "wiki": "restored"}),
        (3, {"shop": "restored", "wiki": "unknown"}),
        (4, {"shop": "restored", "wiki": "restored"}),
    ],
)
@pytest.mark.parametrize("work", [0, 120])
def test_a_plan_says_what_it_puts_where_nobody_knows(
    tmp_path: Path, cores: int, states: dict[str, str], work: int
) -> None:
    """One known core is not enough for shop, whose place stays unknown: it makes wiki certain."""
    estate = written(tmp_path, TWO_PLACES.replace("CORES", f"{cores} cores"))
    made = plan(estate, lose("a"), work=work)
    assert check(estate, made).holds
    assert {one.service: one.state for one in made.outcomes} == states
    assert all(("pool pb" in one.reason) == (one.state == "unknown") for one in made.outcomes)


AUDIENCES = """
sites: {a: {}, b: {}}
pools: {pb: {site: b, cpu: 64 cores, memory: 640 GiB}}
limits: {starts: 1 per 60 s}
services:
  SERVICES
"""


@given(st.lists(st.sampled_from([None, 0, 1, 10, 1_000]), min_size=1, max_size=5))
def test_an_unstated_audience_counts_like_others_and_is_never_called_nobody(
    tmp_path_factory: pytest.TempPathFactory, audiences: list[int | None]
) -> None:
    """In the order of a plan, in its words, and in those of the audit."""
    rows = [
        f"x{n}: {{tier: 1, {'' if count is None else f'people: {count}, '}replicas: {{a: 1}}, "
        "demand: {cpu: 1 core, memory: 1 GiB}, start: 60 s, traffic: {kind: none}}"
        for n, count in enumerate(audiences)
    ]
    estate = written(tmp_path_factory.mktemp("audience"), AUDIENCES.replace("SERVICES", "\n  ".join(rows)))
    made, report = plan(estate, lose("a")), audit(estate)
    unstated = [f"x{n}" for n, count in enumerate(audiences) if count is None]
    back = {one.service: one.base_ms or 0 for one in made.outcomes}
    nobody = [f"x{n}" for n, count in enumerate(audiences) if count == 0]
    assert all(back[late] > back[early] for late in nobody for early in unstated)
    assert made.unstated == set(unstated)
    row = next(row for row in report.rows if row.domain == "a")
    assert (row.people_down, row.people_unstated) == (sum(filter(None, audiences)), len(unstated))
    said = people(row.people_down, row.people_unstated)
    assert said.startswith(("at least", "unknown")) == bool(unstated)
    assert said in audit_text(report, report.findings, (), "estate", 120, False)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_audit_calls_nothing_late_or_harmless_of_which_it_knows_nothing(tmp_path: Path, seed: int) -> None:
    document, table = random_document(seed)
    for path in list(facts_of(document))[::3]:
        if path in facts_of(document):  # a store without members has no lag either
            document = without(document, path)
    (tmp_path / "estate.yaml").write_text(json.dumps(document), "utf-8")
    if table:
        (tmp_path / "servers.csv").write_text(table, "utf-8")
    report = audit(load(tmp_path))
    for row in report.rows:
        fates = list(row.fates(report.services))
        timed = sum(one.recovery_ms is not None for one in fates)
        assert row.late <= timed
        assert row.down_most <= row.down + sum(one.fate == "unknown" for one in fates)
        assert row.verdict != "unknown" or row.down or row.down_most or row.not_proved


CIRCLE = """
sites: {a: {}, b: {}}
pools: {pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  deploy: {tier: 2, people: 1, replicas: {a: 1}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
           needs: [{service: vault, needed_to: start}]}
  vault: {tier: 2, people: 1, replicas: {a: 1}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  core: {tier: 0, people: 9, replicas: {b: 1}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
         needs: [{store: ledger}, login]}
  login: {tier: 0, people: 9, replicas: {b: 1}, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
          needs: [core]}
stores:
  ledger: {engine: postgresql, fence: 1 s, promote: 1 s,
           members: [{at: a, mode: primary}, {at: b, mode: sync}]}
tools: {deploy: deploy, secrets: vault, registry: deploy}
"""


def test_what_waits_for_a_tool_that_never_comes_back_names_it_and_not_the_clock(tmp_path: Path) -> None:
    estate = written(tmp_path, CIRCLE)
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    by_service = {one.service: one for one in made.outcomes}
    assert {one.state for one in made.outcomes} == {"unplaced"}
    roots = {name: root_reason(one, by_service) for name, one in by_service.items()}
    assert all(words.startswith("circular dependency") for words in roots.values()), roots


def _placed(folder: Path, seed: int, known: bool) -> Estate:
    """A random company on the servers of two sites; of some services only the site is stated if not known."""
    rng = np.random.default_rng(seed)
    cores, count = rng.integers(2, 9, 8), int(rng.integers(3, 6))
    rows = [
        f"{'ab'[k % 2]}{k},{'ab'[k % 2]},,c{n},{'spare' if k == 7 else 'serving'},,"
        for k, n in enumerate(cores)
    ]
    classes = ", ".join(f"c{n}: {{cpu: {n} cores, memory: 64 GiB}}" for n in sorted(set(cores.tolist())))
    left, services, table = cores.copy(), [], ["service,target,count"]
    left[7] = 0
    rest = "start: 60 s, spread: {per_server: 4}, traffic: {kind: none}"
    for number in range(count):
        need, places = int(rng.integers(1, 4)), dict[str, int]()
        loose = not known and bool(number % 2)
        for _ in range(int(rng.integers(1, 4))):
            on = np.flatnonzero(left >= need)
            if len(on):
                server = int(rng.choice(on))
                left[server] -= need
                name = "ab"[server % 2] if loose else f"{'ab'[server % 2]}{server}"
                places[name] = places.get(name, 0) + 1
        at = (
            f"replicas: {{{', '.join(f'{name}: {n}' for name, n in places.items())}}}, "
            if loose and places
            else ""
        )
        table += [] if loose else [f"x{number},{name},{n}" for name, n in places.items()]
        shed = ("true", "false")[number % 4 > 1]
        services.append(
            f"  x{number}: {{tier: {number % 3}, people: 9, {at}sheddable: {shed},"
            f" demand: {{cpu: {need} cores, memory: 1 GiB}}, {rest}}}"
        )
    text = f"name: n\nsites: {{a: {{}}, b: {{}}}}\nclasses: {{{classes}}}\nservices:\n" + "\n".join(services)
    lines = "\n".join(("server,site,rack,class,state,pool,bmc", *rows)) + "\n"
    return written(folder, text, servers=lines, replicas="\n".join(table) + "\n")


def test_nobody_knows_what_is_free_on_servers_that_may_hold_replicas_of_known_site(tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    for seed in range(12):
        folders = [tmp_path / f"{seed}-{known}" for known in (True, False)]
        made = [plan(_placed(folder, seed, "True" in folder.name), lose("a"), work=0) for folder in folders]
        known, loose = ({o.service: o for o in one.outcomes} for one in made)
        assert check(load(folders[1]), made[1]).holds
        for service, outcome in loose.items():
            seen.add((known[service].state if service in known else "kept", outcome.state))
            if outcome.why is not None and outcome.why.kind == "no-capacity":
                assert known[service].state == "unplaced"
        if all(outcome.state == "restored" for outcome in loose.values()):
            assert all(outcome.state == "restored" for outcome in known.values())
    assert {("restored", "unknown"), ("unplaced", "unknown"), ("restored", "restored")} <= seen


def test_a_site_whose_servers_hold_nobody_knows_what_is_not_called_full(tmp_path: Path) -> None:
    text = """
name: n
sites: {a: {}, b: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {a: 1}, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB},
         traffic: {kind: none}}
  wiki: {tier: 1, people: 9, replicas: {b: 1}, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB},
         traffic: {kind: none}}
"""
    estate = written(
        tmp_path, text, servers="server,site,rack,class,state,pool\na1,a,,c,serving,\nb1,b,,c,serving,\n"
    )
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert made.outcomes[0].reason == "cannot be judged: which servers the replicas at b run on"
    assert [step.kind for step in made.steps] == ["start", "verify"]
    fates = {one.service: one.fate for one in audit(estate).rows[0].fates(("shop", "wiki"))}
    assert fates["shop"] == "unknown"


def test_the_only_pool_of_a_site_holds_what_runs_there(tmp_path: Path) -> None:
    text = """
name: n
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: CORES cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {a: 1}, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB},
         traffic: {kind: none}}
  wiki: {tier: 1, people: 9, replicas: {b: 1}, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB},
         traffic: {kind: none}}
"""
    for cores, state in ((3, "unplaced"), (4, "restored")):
        estate = written(tmp_path / str(cores), text.replace("CORES", str(cores)))
        made = plan(estate, lose("a"))
        assert check(estate, made).holds
        assert made.outcomes[0].state == state
        fates = {one.service: one.fate for one in audit(estate).rows[0].fates(("shop", "wiki"))}
        assert fates["shop"] == {"unplaced": "lost", "restored": "recovers"}[state]


BESIDE = """
name: n
sites: {a: {}, b: {}, c: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB, boot: 60 s}}
pools: {pc: {site: c, cpu: 3 cores, memory: 64 GiB}, pd: {site: c, cpu: 3 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {a: 1}, start: 60 s, ONLY demand: {cpu: 2 cores, memory: 1 GiB},
         traffic: {kind: none}}
  wiki: {tier: 1, people: 9, replicas: {b: 1}, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB},
         traffic: {kind: none}}
  mail: {tier: 1, people: 9, replicas: {c: 1}, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB},
         traffic: {kind: none}}
  base: {tier: 1, people: 9, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


def _beside(folder: Path, state: str, only: str = "") -> Estate:
    rows = f"server,site,rack,class,state,pool\na1,a,,c,{state},\nb1,b,,c,serving,\n"
    return written(
        folder, BESIDE.replace("ONLY", only), servers=rows, replicas="service,target,count\nbase,b1,1\n"
    )


def test_nothing_is_said_to_be_free_beside_replicas_of_known_site(tmp_path: Path) -> None:
    report = audit(_beside(tmp_path, "serving"))
    rooms = office_facts.facts_of(report, "").rooms
    assert not [room.name for room in rooms if room.kind == "class"]
    assert not any(amount.free for room in rooms for amount in room.amounts)
    assert what_if_of(report, ("a",)).capacity == ()


@pytest.mark.parametrize(("state", "verdict"), [("spare", "restored"), ("condemned", "unknown")])
def test_a_restore_knows_what_is_free_only_where_things_return(
    tmp_path: Path, state: str, verdict: str
) -> None:
    estate = _beside(tmp_path, state, "sites: [a, b],")
    made = plan(estate, Scenario("restore", ("a",)))
    assert check(estate, made).holds
    assert {one.service: one.state for one in made.outcomes} == {"shop": verdict}


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_lost_for_good_is_lost_whatever_else_is_unknown(tmp_path: Path, copy: bool) -> None:
    """The only data of `crew` burns, and whether `login` does is unknown: `crew` does not come back, and
    neither does what needs it. With a copy, it comes back if `login` does.
    """
    text = f"""
name: n
sites: {{a: {{}}, b: {{}}}}
halls: {{a/old: {{}}, a/new: {{}}}}
groups: {{cable: {{members: [b, a/old]}}}}
services:
  login: {{tier: 0, people: 9, replicas: {{a: 2}}, start: 60 s, traffic: {{kind: none}}}}
  crew: {{tier: 1, people: 9, replicas: {{b: 1}}, start: 60 s, needs: [login, {{store: rota}}],
         traffic: {{kind: none}}}}
  desk: {{tier: 1, people: 9, replicas: {{b: 1}}, start: 60 s, needs: [login, crew], traffic: {{kind: none}}}}
  wiki: {{tier: 1, people: 9, replicas: {{b: 1}}, start: 60 s, needs: [login], traffic: {{kind: none}}}}
stores:
  rota: {{engine: x, rpo: 0 s, fence: 0 s, promote: 1 s, sync_timeout: 0 s,
         members: [{{at: b, mode: primary}}{", {at: a/new, mode: sync}" if copy else ""}]}}
"""
    estate = written(tmp_path, text)
    made = plan(estate, lose("b", "a/old"))
    assert check(estate, made).holds
    lost = "unknown" if copy else "unplaced"
    states = {outcome.service: outcome.state for outcome in made.outcomes}
    assert states == {"login": "unknown", "crew": lost, "desk": lost, "wiki": "unknown"}
    report = audit(estate)
    (row,) = [row for row in report.rows if row.domain == "cable"]
    fates = {one.service: one.fate for one in row.fates(report.services)}
    lost = "unknown" if copy else "lost"
    assert fates == {"login": "unknown", "crew": lost, "desk": lost, "wiki": "unknown"}
