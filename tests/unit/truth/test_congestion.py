"""Audit, plan, checker and pages say the same about links and ingress that are too small after a loss."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import audit
from evac.derive.congestion import congested, maybe_congested, maybe_congested_after
from evac.derive.domains import lost_in, topology
from evac.derive.pools import without_lost
from evac.estate.codecs.plan import decode, document_of, encode
from evac.model.errors import PlanError
from evac.model.estate import Estate
from evac.model.plan import Congestion, Plan
from evac.model.scenario import Scenario, lose
from evac.office.facts import loss_facts
from evac.office.reckoning import verdict_of
from evac.planning.plan import plan
from evac.verify import check
from evac.views.json_out import PLAN_SCHEMA
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, answer, cards, outcome_rows, verdict_words
from tests.unit.truth.written import written

ESTATE = """
sites: {a: {ingress: 1 Gbit/s}, b: {LIMIT}, c: {ingress: 1 Gbit/s}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
links: [{ends: [b, c], LINK}]
services:
  shop: {people: 9, start: 1 s, rto: 1 h, replicas: {pa: 1, pb: 1}, share: 50 %, eligible_sites: [a, b],
         demand: {cpu: 1 core, memory: 1 GiB}, needs: [cart],
         traffic: {kind: load_balancer, settle: 1 s, peak: 300 Mbit/s, connections: 40}}
  cart: {people: 0, start: 1 s, rto: 1 h, replicas: {pa: 1, pc: 1}, share: 50 %, eligible_sites: [a, c],
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""
ALL_MEET = "both meet their RTO"
CASES = [
    ("ingress: 299 Mbit/s", "bandwidth: 1 Gbit/s", [(("b",), 300, 299)]),
    ("ingress: 300 Mbit/s", "bandwidth: 1 Gbit/s", []),
    ("", "bandwidth: 1 Gbit/s", [(("b",), 300, None)]),
    ("ingress: 1 Gbit/s", "bandwidth: 299 Mbit/s", [(("b", "c"), 300, 299)]),
    ("ingress: 1 Gbit/s", "connections: 39", [(("b", "c"), 40, 39)]),
    ("ingress: 1 Gbit/s", "connections: 40", []),
]


def of_case(folder: Path, limit: str, link: str) -> Estate:
    return written(folder, ESTATE.replace("LIMIT", limit).replace("LINK", link))


@pytest.mark.parametrize(("limit", "link", "wanted"), CASES)
def test_audit_and_plan_name_the_same_links_and_ingress(
    tmp_path: Path, limit: str, link: str, wanted: list[tuple[tuple[str, ...], int, int | None]]
) -> None:
    estate = of_case(tmp_path, limit, link)
    made = plan(estate, lose("a"))
    assert [(one.at, one.arriving, one.limit) for one in made.congestion] == wanted
    assert check(estate, made).violations == ()
    met = {one.service: one.meets_rto for one in made.outcomes}
    assert met["shop"] is (None if wanted else True)
    assert (ALL_MEET in plan_text(made, "sha256:0", 100, False)) is not bool(wanted)
    report = audit(estate)
    found = [one.subject for one in report.findings if one.code == "EV122" and "a" in one.domains]
    assert len(found) == sum(known is not None for _, _, known in wanted)
    row = next(row for row in report.rows if row.domain == "a")
    assert ("in time" in loss_facts(report, row).because) is not bool(wanted)


def test_every_view_says_that_it_is_unknown_whether_it_meets_its_rto(tmp_path: Path) -> None:
    made = plan(of_case(tmp_path, *CASES[0][:2]), lose("a"))
    text, (told, state) = plan_text(made, "sha256:0", 100, False), answer(Planned(made, "sha256:0"))
    assert ALL_MEET not in text
    assert "300 Mbit/s would come through the ingress of b, which can carry 299 Mbit/s" in " ".join(
        text.split()
    )
    assert "it is unknown whether shop meets its RTO" in told
    assert state != "ok"
    row = next(row for row in outcome_rows(made) if row["service"] == "shop")
    assert (row["met"], row["why"]) == ("unknown", "too much traffic for the ingress of b")
    assert "the traffic may be too much for the ingress of b" in verdict_of("sha256:0", made).words
    assert "ingress" not in verdict_of("sha256:0", made, made).words


def hidden(made: Plan) -> dict[str, Plan]:
    """Plans that hide or distort what arrives."""
    one, clean = made.congestion[0], tuple(replace(o, congested=False) for o in made.outcomes)
    return {
        "nothing": replace(made, congestion=(), outcomes=clean),
        "no mark": replace(made, outcomes=clean),
        "no row": replace(made, congestion=()),
        "less": replace(made, congestion=(replace(one, arriving=one.arriving - 1),)),
        "a wider one": replace(made, congestion=(replace(one, limit=10_000),)),
        "twice": replace(made, congestion=(one, one)),
        "for no one": replace(made, congestion=(replace(one, services=()),)),
        "elsewhere": replace(made, congestion=(one, replace(one, at=("c",)))),
    }


def test_a_plan_that_hides_it_is_refused(tmp_path: Path) -> None:
    estate = of_case(tmp_path, *CASES[0][:2])
    made = plan(estate, lose("a"))
    for how, false in hidden(made).items():
        assert {one.rule for one in check(estate, false).violations} & {"F1", "F19"}, how


def test_plans_of_earlier_versions_stay_readable(tmp_path: Path) -> None:
    made = plan(of_case(tmp_path, *CASES[0][:2]), lose("a"))
    assert encode(decode(encode(made))) == encode(made)
    document: dict[str, Any] = document_of(made)
    del document["congestion"]
    for row in document["services"]:
        row.pop("congested", None)
    old = decode(json.dumps(document).encode())
    assert old.congestion == ()
    assert not any(one.congested for one in old.outcomes)


def test_the_schema_of_plans_describes_it(tmp_path: Path) -> None:
    document = json.loads(encode(plan(of_case(tmp_path, *CASES[0][:2]), lose("a"))))
    jsonschema.validate(document, PLAN_SCHEMA)
    document["congestion"][0]["measure"] = "people"
    with pytest.raises(jsonschema.ValidationError, match="people"):
        jsonschema.validate(document, PLAN_SCHEMA)


@pytest.mark.parametrize("at", [[], ["a", "b", "c"], [""], ["a", ""]])
def test_a_plan_names_one_site_or_the_two_ends_of_a_link(tmp_path: Path, at: list[str]) -> None:
    document = json.loads(encode(plan(of_case(tmp_path, *CASES[0][:2]), lose("a"))))
    document["congestion"][0]["at"] = at
    with pytest.raises(PlanError, match=r"congestion\.0\.at: name one site or the two ends of a link"):
        decode(json.dumps(document).encode())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, PLAN_SCHEMA)


def test_a_plan_where_nothing_goes_down_names_whose_traffic_may_not_get_through(tmp_path: Path) -> None:
    made = plan(of_case(tmp_path, *CASES[0][:2]), lose("a"))
    many = ("cart", "mail", "maps", "shop", "wiki")
    still = replace(made, outcomes=(), congestion=(replace(made.congestion[0], services=many),))
    text, (told, state) = plan_text(still, "d", 100, False), answer(Planned(still, "d"))
    verdict = verdict_of("d", still)
    for words in (text, told, verdict.words, verdict_words(still)):
        assert "no service is affected" not in words
        assert "the ingress of b" in " ".join(words.split())
    assert "(traffic of cart, mail, maps and 2 more)" in " ".join(text.split())
    assert "this affects the traffic of cart, mail, maps and 2 more" in told
    assert state == cards(Planned(still, "d"))[0].state == "warning"
    assert verdict.verdict != "ok"
    none = replace(still, congestion=())
    assert verdict_of("d", none).verdict == "ok"
    assert "no service is affected" in plan_text(none, "d", 100, False)


def test_the_text_names_three_links_and_ingress_and_counts_the_rest(tmp_path: Path) -> None:
    made = plan(of_case(tmp_path, *CASES[0][:2]), lose("a"))
    unknown = [replace(made.congestion[0], at=(f"a{row}",), limit=None) for row in range(9)]
    text = plan_text(replace(made, congestion=(*unknown, made.congestion[0])), "d", 100, False)
    told = [line.strip() for line in text.splitlines()]
    told = [line.removeprefix("traffic").strip() for line in told if line.startswith("traffic")]
    assert len(told) == 4
    assert told[0].startswith("300 Mbit/s would come through the ingress of b,")
    assert told[3] == "7 more; `congestion` in the plan file names them all"


def test_verify_says_what_the_plan_says_and_what_is_true(tmp_path: Path) -> None:
    estate = of_case(tmp_path, *CASES[0][:2])
    made = plan(estate, lose("a"))
    again = "make a new plan: evac plan"
    wanted = {
        "no row": f"the plan says that the traffic fits, but 300 Mbit/s arrives and 299 Mbit/s fits; {again}",
        "less": "the plan says: 299 Mbit/s would come through the ingress of b, which can carry 299 Mbit/s;"
        f" but 300 Mbit/s arrives and 299 Mbit/s fits; {again}",
        "for no one": f"the plan names other services than those whose traffic arrives; {again}",
        "elsewhere": "the plan says: 300 Mbit/s would come through the ingress of c, which can carry"
        f" 299 Mbit/s; but all that arrives fits; {again}",
        "no mark": "the plan says that its traffic gets through, but it comes through a link or ingress that"
        f" is too small or may be; {again}",
    }
    for how, words in wanted.items():
        assert words in [one.message for one in check(estate, hidden(made)[how]).violations], how
    (one,) = made.congestion
    (refused,) = check(estate, replace(made, congestion=(replace(one, at_most=True),))).violations
    assert refused.message == (
        "the plan says: up to 300 Mbit/s may come through the ingress of b, which can carry 299 Mbit/s;"
        f" but all of it is certain to arrive; {again}"
    )


def test_what_comes_back_is_congested_by_nothing(tmp_path: Path) -> None:
    estate = of_case(tmp_path, *CASES[0][:2])
    assert maybe_congested_after(topology(estate), Scenario("failback", ("a",))) == ()


MOVES = """
sites:
  a: {ingress: 1 Gbit/s}
  b: {ingress: 1 Gbit/s}
  c: {ingress: LIMIT}
  e: {role: edge, ingress: 1 Mbit/s}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 0 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
services:
  shop: {people: 9, start: 1 s, rto: 1 h, replicas: REPLICAS, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: KIND, settle: 1 s, peak: 300 Mbit/s}}
"""


@pytest.mark.parametrize(
    ("replicas", "kind", "limit", "arriving"),
    [
        ("{pa: 1}", "load_balancer", 299, 300),
        ("{pa: 1}", "load_balancer", 300, None),
        ("{pa: 3, pc: 1}", "anycast", 299, 300),
    ],
)
def test_traffic_arrives_where_the_plan_starts_the_service(
    tmp_path: Path, replicas: str, kind: str, limit: int, arriving: int | None
) -> None:
    text = MOVES.replace("REPLICAS", replicas).replace("KIND", kind).replace("LIMIT", f"{limit} Mbit/s")
    estate = written(tmp_path, text)
    made = plan(estate, lose("a"))
    wanted = [] if arriving is None else [Congestion(("c",), "bandwidth", arriving, limit, ("shop",))]
    assert list(made.congestion) == wanted
    assert check(estate, made).violations == ()
    (shop,) = made.outcomes
    assert shop.meets_rto is (None if wanted else True)
    even = replace(made, congestion=(), outcomes=(replace(shop, congested=False),))
    assert ({one.rule for one in check(estate, even).violations} == {"F19"}) is bool(wanted)
    report = audit(estate)
    row = next(row for row in report.rows if row.domain == "a")
    because = loss_facts(report, row).because
    assert ("up to 300 Mbit/s may come through the ingress of c" in because) is bool(wanted)
    assert ("in time" in because) is not bool(wanted)
    found = [one for one in report.findings if one.code == "EV122" and "a" in one.domains]
    assert [one.message for one in found] == [
        f"up to 300 Mbit/s may arrive, depending on the plan, at c after the loss of a;"
        f" its ingress can carry {limit} Mbit/s"
    ] * len(wanted)


def test_replicas_that_the_plan_adds_take_their_part_of_the_traffic(tmp_path: Path) -> None:
    text = MOVES.replace("REPLICAS", "{pa: 3, pb: 1, pc: 1}").replace("KIND", "anycast")
    text = text.replace("pb: {site: b, cpu: 0 cores", "pb: {site: b, cpu: 1 core")
    estate = written(tmp_path, text.replace("LIMIT", "239 Mbit/s"))
    made = plan(estate, lose("a"))
    assert [(one.at, one.arriving) for one in made.congestion] == [(("c",), 240)]
    assert check(estate, made).violations == ()


NAMES = ("a", "b", "c", "d")
LIMITS = st.one_of(st.none(), st.integers(1, 400))
SERVICE = st.tuples(
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 7), max_size=4),
    st.one_of(st.none(), st.integers(0, 500)),
    st.integers(-1, 5),
)


@settings(max_examples=60, deadline=None)
@given(
    limits=st.lists(LIMITS, min_size=4, max_size=4),
    wires=st.lists(LIMITS, min_size=6, max_size=6),
    services=st.lists(SERVICE, min_size=1, max_size=6),
    lost=st.sets(st.sampled_from(NAMES), min_size=1, max_size=3),
    already=st.sets(st.sampled_from(NAMES), max_size=1),
    roles=st.fixed_dictionaries(
        {name: st.sampled_from(("full", "full", "edge", "witness")) for name in NAMES}
    ),
    kinds=st.lists(st.sampled_from(("load_balancer", "dns", "anycast", "none")), min_size=6, max_size=6),
    cores=st.lists(st.sampled_from((0, 3, 900)), min_size=4, max_size=4),
)
def test_audit_planner_and_checker_agree_with_the_end_of_the_plan(
    tmp_path_factory: pytest.TempPathFactory,
    limits: list[int | None],
    wires: list[int | None],
    services: list[tuple[dict[str, int], int | None, int]],
    lost: set[str],
    already: set[str],
    roles: dict[str, str],
    kinds: list[str],
    cores: list[int],
) -> None:
    def at_most(key: str, limit: int | None) -> dict[str, str]:
        return {} if limit is None else {key: f"{limit} Mbit/s"}

    pairs = [(one, other) for one in NAMES for other in NAMES if one < other]
    document = {
        "sites": {
            name: {"role": roles[name]} | at_most("ingress", limit)
            for name, limit in zip(NAMES, limits, strict=True)
        },
        "pools": {
            f"p{name}": {"site": name, "cpu": f"{many} cores", "memory": "900 GiB"}
            for name, many in zip(NAMES, cores, strict=True)
        },
        "links": [
            {"ends": list(ends)} | at_most("bandwidth", w) for ends, w in zip(pairs, wires, strict=True)
        ],
        "services": {
            f"s{row}": {
                "start": "1 s",
                "people": 1,
                "demand": {"cpu": "1 core", "memory": "1 GiB"},
                "replicas": {f"p{name}": count for name, count in places.items()} or 1,
                "traffic": {"kind": kinds[row]} | ({} if peak is None else {"peak": f"{peak} Mbit/s"}),
                "needs": [f"s{need}"] if 0 <= need < row else [],
            }
            for row, (places, peak, need) in enumerate(services)
        },
    }
    estate = written(
        tmp_path_factory.mktemp("random") / "e",
        "\n".join(f"{key}: {json.dumps(value)}" for key, value in document.items()),
    )
    estate = replace(estate, lost=tuple(sorted(already - lost)))
    made = plan(estate, lose(*sorted(lost)))
    lost_here, lost = lost, lost | already
    assert [one for one in check(estate, made).violations if one.rule == "F19"] == []
    left = [name for name in NAMES if name not in lost]
    serving = [name for name in left if roles[name] != "witness"]
    ends = [at_the_end(made, f"s{row}", one[0], set(serving)) for row, one in enumerate(services)]
    rows = [(*one, kind) for one, kind in zip(services, kinds, strict=False)]
    now = {name for name in NAMES if name not in already - lost_here and roles[name] != "witness"}
    wanted = too_much(serving, dict(zip(NAMES, limits, strict=True)), rows, ends, now)
    found = {one.at[0]: (one.arriving, one.unstated) for one in made.congestion if len(one.at) == 1}
    assert found == wanted
    unmarked = {o.service for o in made.outcomes if not o.congested}
    assert unmarked.isdisjoint(name for one in made.congestion for name in one.services)
    top = topology(estate)
    gone = lost_in(top, lose(*sorted(lost)))
    sure, possible = (
        {(one.at, one.measure) for one in after(top, gone)} for after in (congested, maybe_congested)
    )
    assert sure <= possible
    assert {(one.at, one.measure) for one in made.congestion} <= possible, "the audit says that it fits"
    if not any(o.state in ("unplaced", "shed", "degraded") for o in made.outcomes):
        assert not sure or made.congestion, "the audit says too small, the plan says that it fits"


def too_much(
    serving: list[str],
    limit_of: dict[str, int | None],
    services: list[tuple[dict[str, int], int | None, int, str]],
    ends: list[dict[str, int]],
    now: set[str],
) -> dict[str, tuple[int, int]]:
    """Site -> what arrives there and how many services state no peak, if that is too much or nobody knows,
    and may be more than today; added up by hand. now: sites that serve users today.
    """
    found = {}
    for name in serving if any(limit_of[name] is not None for name in serving) else ():
        total, unstated, more, may_be_more = Fraction(0), 0, Fraction(0), False
        for (places, peak, _, kind), end in zip(services, ends, strict=True):
            here = {site: count for site, count in end.items() if site in serving}
            here = here if places else dict.fromkeys(serving, 1)
            whole = sum(here.values()) if places else 1  # all of it may run anywhere
            part, today = (
                Fraction(here.get(name, 0), whole or 1),
                {s: n for s, n in places.items() if s in now},
            )
            before = Fraction(today.get(name, 0), sum(today.values()) or 1)
            total += (peak or 0) * part
            more += (peak or 0) * (part - before)
            may_be_more |= peak is None and kind != "none" and part > before
            unstated += peak is None and kind != "none" and part > 0
        if (unstated or ceil(total) > (limit_of[name] or 0)) and (more > 0 or may_be_more):
            found[name] = ceil(total), unstated
    return found


def at_the_end(made: Plan, service: str, places: dict[str, int], left: set[str]) -> dict[str, int]:
    """Site -> parts of the users of a service when the plan has ended, from its text."""
    found = {name: count for name, count in places.items() if name in left}
    for step in made.steps:
        if step.target == service and step.kind in ("start", "shed", "stop"):
            for pool, count in step.servers:
                site = pool.removeprefix("p")
                found[site] = found.get(site, 0) + (count if step.kind == "start" else -count)
    found = {name: count for name, count in found.items() if count > 0}
    if found and any(step.target == service and step.kind == "shift" for step in made.steps):
        return {min(found, key=lambda name: (-found[name], name)): 1}
    return found


BURNT = """
sites: {a: {ingress: 1 Gbit/s}, b: {ingress: 290 Mbit/s}, c: {ingress: 1 Gbit/s}, d: {ingress: 290 Mbit/s}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
  pd: {site: d, cpu: 8 cores, memory: 64 GiB}
links: [{ends: [a, b], bandwidth: 1 Mbit/s}, {ends: [b, d], bandwidth: 1 Mbit/s}]
services:
  shop: {people: 9, start: 1 s, replicas: {PLACES}, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: load_balancer, settle: 1 s, peak: 600 Mbit/s}}
  mail: {people: 9, start: 1 s, replicas: {pa: 2}, sites: [a, b], demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: load_balancer, settle: 1 s, peak: 6 Mbit/s}, needs: [disk]}
  disk: {people: 9, start: 1 s, replicas: 2, sites: [a, d], demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
"""


@pytest.mark.parametrize("places", ["pc: 1", "pb: 1, pc: 1, pd: 1", "pa: 1, pc: 1"])
def test_no_traffic_goes_to_a_site_that_is_already_lost(tmp_path: Path, places: str) -> None:
    estate = replace(written(tmp_path, BURNT.replace("PLACES", places)), lost=("a",))
    top = topology(without_lost(estate))
    for more in ("b", "c", "d"):
        found = maybe_congested(top, lost_in(top, lose(more)))
        assert not any("a" in one.at for one in found), more
    named = {one.subject: one for one in audit(estate).findings if one.code == "EV122"}
    assert {"b: bandwidth", "d: bandwidth"} <= named.keys()
    assert "c" in named["d: bandwidth"].domains
    assert {one.severity for one in named.values() if one.subject != "b - d"} == {"error"}
