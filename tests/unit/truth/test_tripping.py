"""A feed that gets more than it can supply when another is lost may trip: nothing behind it is safe."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.audit import audit
from evac.audit.impacts import planned
from evac.derive.domains import loss, topology
from evac.derive.tripping import tripped
from evac.model.scenario import lose
from evac.model.units import UNLIMITED
from evac.planning.plan import plan
from evac.verify import check
from evac.verify.overload import overloaded_feeds
from evac.views.plan_view import verdict_words
from tests.unit.truth.written import written

ESTATE = """
name: feeds
sites: {a: {}, b: {}}
feeds: {a/f1: {power_budget: FIRST}, a/f2: {power_budget: 2 kW}, a/f3: {power_budget: 2 kW}}
halls: {a/h1: {}}
racks: {a/h1/r1: {feeds: [a/f1, a/f2]}, a/h1/r2: {feeds: [a/f1]}, a/h1/r3: {feeds: [a/f2, a/f3]}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, watts: 400 W}}
limits: {power_margin: 10 %}
pools: {pb: {site: b, cpu: 64 cores, memory: 640 GiB}}
services:
  shop: {people: 9, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {people: 9, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}, needs: [shop]}
  docs: {people: 9, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  news: {people: 9, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none},
         needs: [{store: items}]}
stores:
  items: {engine: x, fence: 1 s, promote: 1 s, members: [{at: s3, mode: primary}, {at: b, mode: sync}]}
"""
SERVERS = "server,site,rack,class,state\n" + "".join(
    f"{name},a,a/h1/{rack},web,serving\n"
    for name, rack in (("s1", "r1"), ("s2", "r1"), ("s3", "r2"), ("s4", "r3"))
)
REPLICAS = "service,target,count\nshop,s1,1\nwiki,pb,1\ndocs,s4,1\nnews,pb,1\n"


@pytest.mark.parametrize(
    ("first", "open_ones"),
    [("1100 W", {"shop", "wiki", "news"}), ("1200 W", set()), ("2 kW", set())],
)
@pytest.mark.parametrize("method", ["plan", "estimate"])
def test_what_runs_behind_an_overloaded_feed_cannot_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, open_ones: set[str], method: str
) -> None:
    """Without a/f2, a/f1 carries all of r1 and r2: 1,200 W. The margin is not part of what it can supply."""
    estate = written(tmp_path, ESTATE.replace("FIRST", first), servers=SERVERS, replicas=REPLICAS)
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(planned, most, 0)
    made = plan(estate, lose("a/f2"))
    assert check(estate, made).holds
    assert {one.service for one in made.outcomes if one.state == "unknown"} == open_ones
    report = audit(estate)
    row = next(row for row in report.rows if row.domain == "a/f2")
    told = {one.service for one in row.fates(report.services) if one.fate == "unknown"}
    assert (row.method, told) == (method, open_ones)
    assert row.verdict == ("unknown" if open_ones else "ok")
    if open_ones:
        assert verdict_words(made) == "cannot be judged: whether feed a/f1 carries a load above its budget"


@pytest.mark.parametrize(("first", "wrong"), [("1100 W", {"shop"}), ("1200 W", set())])
def test_the_checker_finds_alone_what_is_behind_an_overloaded_feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, wrong: set[str]
) -> None:
    """Whatever planner and checker share says that no feed trips."""
    estate = written(tmp_path, ESTATE.replace("FIRST", first), servers=SERVERS, replicas=REPLICAS)
    monkeypatch.setattr("evac.derive.pools.tripped", lambda top, lost: None)
    made = plan(estate, lose("a/f2"))
    assert made.outcomes == ()
    found = {(one.rule, one.subject) for one in check(estate, made).violations}
    assert found == {("F1", name) for name in wrong}


@pytest.mark.parametrize(
    ("budget", "server", "answer"),
    [
        ("2 kW", "", "unaffected"),
        ("700 W", "", "unknown"),
        ("2 kW", "s5,a,,web,serving", "unknown"),
        ("2 kW", "s5,a,a/h1/r4,web,serving", "unknown"),
    ],
)
@pytest.mark.parametrize("method", ["plan", "estimate"])
def test_a_feed_that_takes_no_rack_takes_no_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, server: str, answer: str, method: str
) -> None:
    """Only the site of the replicas is known. s5 may hang on any feed: no rack or feed of it is known."""
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(planned, most, 0)
    text = f"""
sites: {{a: {{}}, b: {{}}}}
halls: {{a/h1: {{}}}}
feeds: {{a/f1: {{power_budget: {budget}}}, a/f2: {{power_budget: 2 kW}}}}
racks: {{a/h1/r1: {{feeds: [a/f1, a/f2]}}, a/h1/r4: {{}}}}
classes: {{web: {{cpu: 8 cores, memory: 32 GiB, watts: 400 W}}}}
services: {{shop: {{people: 9, start: 1 s, replicas: {{a: 2}}, traffic: {{kind: none}}}}}}
"""
    table = "server,site,rack,class,state\ns1,a,a/h1/r1,web,serving\ns2,a,a/h1/r1,web,serving\n"
    estate = written(tmp_path, text, servers=f"{table}{server}\n")
    made = plan(estate, lose("a/f2"))
    assert check(estate, made).holds
    assert [one.state for one in made.outcomes] == ([] if answer == "unaffected" else [answer])
    report = audit(estate)
    row = next(row for row in report.rows if row.domain == "a/f2")
    told = [one.fate for one in row.fates(report.services)]
    assert (row.method, told) == (method, [] if answer == "unaffected" else [answer])


def test_no_plan_counts_on_servers_behind_an_overloaded_feed(tmp_path: Path) -> None:
    """`docs` is lost with r3 and fits on s1 and s2 only, which hang on a/f1."""
    text = ESTATE.replace("FIRST", "1100 W").replace("site: b, cpu: 64 cores", "site: b, cpu: 2 cores")
    estate = written(tmp_path, text, servers=SERVERS, replicas=REPLICAS)
    made = plan(estate, lose("a/f2", "a/f3"))
    assert check(estate, made).holds
    states = {one.service: one.state for one in made.outcomes}
    assert states["docs"] == "unknown"
    assert "feeds/a/f1/load" in made.unknown


FEEDS = [f"a/f{number}" for number in range(4)]
Racks = list[tuple[int, list[str]]]


@given(
    racks=st.lists(
        st.tuples(st.integers(0, 4), st.lists(st.sampled_from(FEEDS), min_size=1, max_size=3, unique=True)),
        min_size=1,
        max_size=6,
    ),
    budgets=st.lists(st.none() | st.just(UNLIMITED) | st.integers(0, 20), min_size=4, max_size=4),
    lost=st.sets(st.sampled_from(FEEDS), min_size=1, max_size=2),
)
def test_feeds_trip_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, racks: Racks, budgets: list[int | None], lost: set[str]
) -> None:
    words = {None: "", UNLIMITED: "power_budget: unlimited"}
    feeds = ", ".join(
        f"{name}: {{{words.get(watts, f'power_budget: {watts}00 W')}}}"
        for name, watts in zip(FEEDS, budgets, strict=True)
    )
    rows = ", ".join(f"a/h1/r{n}: {{feeds: [{', '.join(of)}]}}" for n, (_, of) in enumerate(racks))
    table = "server,site,rack,class,state\n" + "".join(
        f"s{n}-{k},a,a/h1/r{n},web,serving\n" for n, (count, _) in enumerate(racks) for k in range(count)
    )
    text = "sites: {a: {}}\nhalls: {a/h1: {}}\nclasses: {web: {watts: 400 W}}\n"
    estate = written(
        tmp_path_factory.mktemp("estate"), f"{text}feeds: {{{feeds}}}\nracks: {{{rows}}}\n", servers=table
    )
    top = topology(estate)
    found = tripped(top, loss(top, sorted(lost)))
    names, dark = _by_hand(racks, dict(zip(FEEDS, budgets, strict=True)), lost)
    assert (set() if found is None else set(found.feeds)) == (names if dark else set())
    if found is not None:
        assert {n for n, gone in enumerate(found.lost.racks.tolist()) if gone} >= dark
        assert set(found.unstated) == {name for name in names if budgets[FEEDS.index(name)] is None}
    stated = {name: UNLIMITED if one is None else one for name, one in zip(FEEDS, budgets, strict=True)}
    names, dark = _by_hand(racks, stated, lost)
    assert overloaded_feeds(estate, lost) == (names if dark else set())


def _by_hand(racks: Racks, budgets: dict[str, int | None], lost: set[str]) -> tuple[set[str], set[int]]:
    """Feeds that may trip after a loss, and the racks that they take."""

    def loads(gone: set[str]) -> dict[str, Fraction]:
        found = dict.fromkeys(FEEDS, Fraction(0))
        for count, of in racks:
            left = [name for name in of if name not in gone]
            for name in left:
                found[name] += Fraction(400 * count, len(left))
        return found

    before, gone = loads(set()), set(lost)
    while True:
        now = loads(gone)
        over = {
            name
            for name, watts in budgets.items()
            if name not in gone and now[name] > max((watts or 0) * 100, before[name])
        }
        if not over:
            break
        gone |= over
    dark = {n for n, (_, of) in enumerate(racks) if gone.issuperset(of) and not lost.issuperset(of)}
    return gone - lost, dark


@pytest.mark.parametrize("method", ["plan", "estimate"])
@pytest.mark.parametrize(
    ("rack", "known"), [("a/h1/r1", True), ("", False)], ids=["all in racks", "one without a rack"]
)
def test_a_group_of_feeds_takes_what_its_feeds_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, rack: str, known: bool
) -> None:
    """The feeds of `one` and of `both` take no rack, and only the site of the replicas is known."""
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(planned, most, 0)
    text = """
sites: {a: {}, b: {}}
groups: {one: {members: [a/f2]}, both: {members: [a/f2, b/f1]}}
halls: {a/h1: {}, b/h1: {}}
feeds: {a/f1: {power_budget: 2 kW}, a/f2: {power_budget: 2 kW}, b/f1: {},
        b/f2: {power_budget: unlimited}}
racks: {a/h1/r1: {feeds: [a/f1, a/f2]}, b/h1/r1: {feeds: [b/f1, b/f2]}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, watts: 400 W}}
services: {shop: {people: 9, start: 1 s, replicas: {a: 2}, traffic: {kind: none}}}
"""
    table = f"server,site,rack,class,state\ns1,a,a/h1/r1,web,serving\ns2,a,{rack},web,serving\n"
    estate = written(tmp_path, text, servers=f"{table}s3,b,b/h1/r1,web,serving\n")
    report = audit(estate)
    for name in ("a/f2", "one", "both"):
        row = next(row for row in report.rows if row.domain == name)
        answer = [] if known else ["unknown"]
        assert [one.fate for one in row.fates(report.services)] == answer, name
        assert [one.state for one in plan(estate, lose(*row.members)).outcomes] == answer, name


LEFT_OUT = """
sites: {a: {}, b: {}}
halls: {a/h1: {}}
feeds: {a/f1: {BUDGET}, a/f2: {power_budget: 2 kW}}
racks: {a/h1/r1: {feeds: [a/f1, a/f2]}, a/h1/r2: {feeds: [a/f2]}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, WATTS}}
pools: {pb: {site: b, cpu: 64 cores, memory: 640 GiB}}
services:
  shop: {people: 9, start: 1 s, rto: 1 h, tier: 1, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
  wiki: {people: 9, start: 1 s, rto: 1 h, tier: 1, replicas: {pb: 1}, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
"""


@pytest.mark.parametrize("watts", ["watts: 400 W", ""])
@pytest.mark.parametrize(
    ("budget", "answer"), [("power_budget: 4 kW", ""), ("power_budget: unlimited", ""), ("", "unknown")]
)
@pytest.mark.parametrize("method", ["plan", "estimate"])
def test_a_budget_that_is_left_out_is_not_unlimited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, answer: str, watts: str, method: str
) -> None:
    """Only what runs behind the feed, once it carries more. Without watts, nobody knows what a stated budget
    still carries; with `unlimited`, nobody needs to.
    """
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(planned, most, 0)
    text = LEFT_OUT.replace("BUDGET", budget).replace(", WATTS", f", {watts}" if watts else "")
    table = "server,site,rack,class,state\ns1,a,a/h1/r1,web,serving\ns2,a,a/h1/r2,web,serving\n"
    estate = written(tmp_path, text, servers=table, replicas="service,target,count\nshop,s1,1\n")
    if not watts and "kW" in budget:
        answer = "unknown"
    made = plan(estate, lose("a/f2"))
    assert check(estate, made).holds
    assert [(one.service, one.state) for one in made.outcomes] == ([("shop", answer)] if answer else [])
    report = audit(estate)
    row = next(row for row in report.rows if row.domain == "a/f2")
    assert [(one.service, one.fate) for one in row.fates(report.services)] == (
        [("shop", answer)] if answer else []
    )
    said = [(f.subject, f.message) for f in report.findings if f.subject.startswith("feeds/")]
    unstated = "unknown for 1 feed: how much power it can supply (a/f1)"
    assert said == ([] if budget else [("feeds/*/power_budget", unstated)])
    if not budget:
        assert verdict_words(made) == "cannot be judged: power_budget of feed a/f1"
        assert next(f.fix for f in report.findings if f.subject.startswith("feeds/")).endswith(
            "Write `power_budget: unlimited` if a feed can carry all."
        )


def test_a_plan_names_the_budgets_without_which_it_may_not_count_on_servers(tmp_path: Path) -> None:
    """`docs` is lost with r3 and fits on s1 and s2 only, which hang on a/f1."""
    text = ESTATE.replace("{power_budget: FIRST}", "{}").replace(
        "site: b, cpu: 64 cores", "site: b, cpu: 2 cores"
    )
    estate = written(tmp_path, text, servers=SERVERS, replicas=REPLICAS)
    made = plan(estate, lose("a/f2", "a/f3"))
    assert check(estate, made).holds
    assert {one.service: one.state for one in made.outcomes}["docs"] == "unknown"
    assert "feeds/a/f1/power_budget" in made.unknown
