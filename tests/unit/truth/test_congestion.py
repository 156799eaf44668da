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
from evac.derive.congestion import congested_after
from evac.derive.domains import topology
from evac.estate.codecs.plan import decode, document_of, encode
from evac.model.estate import Estate
from evac.model.plan import Congestion, Plan
from evac.model.scenario import Scenario, lose
from evac.office.facts import loss_facts
from evac.office.reckoning import verdict_of
from evac.planning.plan import plan
from evac.verify import check
from evac.views.json_out import PLAN_SCHEMA
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, answer, outcome_rows
from tests.unit.truth.written import written

ESTATE = """
sites: {a: {ingress: 1 Gbit/s}, b: {LIMIT}, c: {ingress: 1 Gbit/s}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
links: [{ends: [b, c], LINK}]
services:
  shop: {people: 9, start: 1 s, rto: 1 h, replicas: {pa: 1, pb: 1}, share: 50 %,
         demand: {cpu: 1 core, memory: 1 GiB}, needs: [cart],
         traffic: {kind: load_balancer, settle: 1 s, peak: 300 Mbit/s, connections: 40}}
  cart: {people: 0, start: 1 s, rto: 1 h, replicas: {pa: 1, pc: 1}, share: 50 %,
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


def test_what_comes_back_is_congested_by_nothing(tmp_path: Path) -> None:
    estate = of_case(tmp_path, *CASES[0][:2])
    assert congested_after(topology(estate), Scenario("failback", ("a",))) == ()


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
)
def test_planner_and_checker_find_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    limits: list[int | None],
    wires: list[int | None],
    services: list[tuple[dict[str, int], int | None, int]],
    lost: set[str],
) -> None:
    def at_most(key: str, limit: int | None) -> dict[str, str]:
        return {} if limit is None else {key: f"{limit} Mbit/s"}

    pairs = [(one, other) for one in NAMES for other in NAMES if one < other]
    document = {
        "sites": {name: at_most("ingress", limit) for name, limit in zip(NAMES, limits, strict=True)},
        "pools": {f"p{name}": {"site": name, "cpu": "900 cores", "memory": "900 GiB"} for name in NAMES},
        "links": [
            {"ends": list(ends)} | at_most("bandwidth", w) for ends, w in zip(pairs, wires, strict=True)
        ],
        "services": {
            f"s{row}": {
                "start": "1 s",
                "people": 1,
                "demand": {"cpu": "1 core", "memory": "1 GiB"},
                "replicas": {f"p{name}": count for name, count in places.items()} or 1,
                "traffic": {"kind": "load_balancer"} | ({} if peak is None else {"peak": f"{peak} Mbit/s"}),
                "needs": [f"s{need}"] if 0 <= need < row else [],
            }
            for row, (places, peak, need) in enumerate(services)
        },
    }
    estate = written(
        tmp_path_factory.mktemp("random") / "e",
        "\n".join(f"{key}: {json.dumps(value)}" for key, value in document.items()),
    )
    made = plan(estate, lose(*sorted(lost)))
    assert [one for one in check(estate, made).violations if "congest" in one.message] == []
    for one in (one for one in made.congestion if len(one.at) == 1):
        assert_ingress(one, services, set(NAMES) - lost)
    unmarked = {o.service for o in made.outcomes if not o.congested}
    assert unmarked.isdisjoint(name for one in made.congestion for name in one.services)


def assert_ingress(
    one: Congestion, services: list[tuple[dict[str, int], int | None, int]], left: set[str]
) -> None:
    """Everything that arrives at a site, added up by hand."""
    total = Fraction(0)
    for places, peak, _ in services:
        here = {name: count for name, count in places.items() if name in left} or dict.fromkeys(left, 1)
        total += Fraction((peak or 0) * here.get(one.at[0], 0), sum(here.values()))
    assert one.arriving == ceil(total)
    assert one.arriving > (one.limit or 0)
