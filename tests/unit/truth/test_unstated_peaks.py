"""A service that states no peak may be too much for a link or ingress with a stated limit: nobody knows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from evac.audit import audit
from evac.audit.impacts.losses import losses
from evac.derive.congestion import congested_today, maybe_congested
from evac.derive.domains import lost_in, topology
from evac.estate.codecs.plan import decode, document_of, encode
from evac.model.estate import Estate, Service
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check
from evac.views.json_out import PLAN_SCHEMA
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, answer, outcome_rows
from tests.unit.truth.networked import networked
from tests.unit.truth.test_congestion import ALL_MEET, of_case
from tests.unit.truth.written import written

DESK = """
  desk: {people: PEOPLE, start: 1 s, rto: 1 h, replicas: {pa: 1, pb: 1}, share: 50 %, eligible_sites: [a, b],
         demand: {cpu: 1 core, memory: 1 GiB}, TRAFFIC}
"""
LIMITS = "sites: {a: {ingress: 1 Gbit/s}, b: {ingress: 300 Mbit/s}, c: {ingress: 1 Gbit/s}}"
POOLS = """
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
services:
  shop: {people: 9, start: 1 s, rto: 1 h, replicas: {pa: 1, pb: 1}, share: 50 %, eligible_sites: [a, b],
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: dns, settle: 1 s, peak: 300 Mbit/s}}
"""


def with_desk(folder: Path, traffic: str = "traffic: {kind: dns, settle: 1 s}", people: str = "5") -> Estate:
    text = LIMITS + POOLS + DESK.replace("TRAFFIC", traffic).replace("PEOPLE", people)
    return written(folder, text)


def of_b(estate: Estate) -> list[tuple[int, int | None, bool, int]]:
    made = plan(estate, lose("a"))
    assert check(estate, made).violations == ()
    return [(o.arriving, o.limit, o.is_too_small, o.unstated) for o in made.congestion if o.at == ("b",)]


@pytest.mark.parametrize(
    "traffic",
    ["traffic: {kind: dns, settle: 1 s}", "traffic: {kind: anycast}", "traffic: {settle: 1 s}", "rpo: 0 s"],
)
def test_nobody_knows_if_it_fits(tmp_path: Path, traffic: str) -> None:
    estate = with_desk(tmp_path, traffic)
    assert of_b(estate) == [(300, 300, False, 1)]
    made = plan(estate, lose("a"))
    assert {one.service: one.meets_rto for one in made.outcomes} == {"shop": None, "desk": None}
    text, (told, state) = plan_text(made, "sha256:0", 100, False), answer(Planned(made, "sha256:0"))
    words = "at least 300 Mbit/s would come through the ingress of b, which can carry 300 Mbit/s; 1 of 2"
    assert f"{words} services states no peak" in " ".join(text.split())
    assert ALL_MEET not in text
    assert "1 of 2 services states no peak" in told
    assert state != "ok"
    row = next(row for row in outcome_rows(made) if row["service"] == "desk")
    assert row["why"].startswith("perhaps too much traffic for the ingress of ")
    report = audit(estate)
    (found,) = (one for one in report.findings if one.code == "EV122")
    assert (found.severity, found.subject) == ("warning", "services/*/traffic/peak")
    assert "it is unknown whether" in found.message
    assert "1 of 2 services states no peak" in found.message
    assert "desk" in found.fix
    assert "ok" not in {row.verdict for row in report.rows if row.domain in ("a", "b")}
    jsonschema.validate(json.loads(encode(made)), PLAN_SCHEMA)
    assert decode(encode(made)).congestion == made.congestion
    hides = replace(made, congestion=tuple(replace(one, unstated=0) for one in made.congestion))
    assert "F19" in {one.rule for one in check(estate, hides).violations}


@pytest.mark.parametrize(
    ("traffic", "people"),
    [
        ("traffic: {kind: none}", "5"),
        ("rpo: 0 s", "0"),
        ("traffic: {kind: dns, settle: 1 s, peak: 0 Mbit/s}", "5"),
    ],
)
def test_what_has_no_traffic_needs_no_peak(tmp_path: Path, traffic: str, people: str) -> None:
    estate = with_desk(tmp_path, traffic, people)
    assert of_b(estate) == []
    assert {one.meets_rto for one in plan(estate, lose("a")).outcomes} == {True}
    assert [one for one in audit(estate).findings if one.code == "EV122"] == []


def test_what_is_known_to_be_too_much_is_too_much_whatever_the_rest_is(tmp_path: Path) -> None:
    text = LIMITS.replace("300 Mbit", "299 Mbit") + POOLS
    estate = written(
        tmp_path, text + DESK.replace("TRAFFIC", "traffic: {kind: dns, settle: 1 s}").replace("PEOPLE", "5")
    )
    assert of_b(estate) == [(300, 299, True, 1)]
    (found,) = (one for one in audit(estate).findings if one.subject == "b: bandwidth")
    assert "at least 300 Mbit/s would arrive at b" in found.message


def test_where_no_limit_is_stated_no_peak_is_missing(tmp_path: Path) -> None:
    text = "sites: {a: {}, b: {}}" + POOLS
    estate = written(
        tmp_path, text + DESK.replace("TRAFFIC", "traffic: {kind: dns, settle: 1 s}").replace("PEOPLE", "5")
    )
    assert plan(estate, lose("a")).congestion == ()
    assert [one for one in audit(estate).findings if one.code == "EV122"] == []


def test_calls_that_nobody_has_counted_may_be_too_much_for_a_link(tmp_path: Path) -> None:
    stated = of_case(tmp_path / "stated", "ingress: 1 Gbit/s", "bandwidth: 300 Mbit/s")
    assert plan(stated, lose("a")).congestion == ()
    traffic = [replace(s, traffic=replace(s.traffic, mbps=None)) for s in stated.services]
    estate = replace(
        stated, services=tuple(traffic), sites=tuple(replace(s, ingress_mbps=None) for s in stated.sites)
    )
    made = plan(estate, lose("a"))
    assert [(one.at, one.arriving, one.unstated) for one in made.congestion] == [(("b", "c"), 0, 1)]
    assert "an unknown amount of traffic would come through the link b - c" in made.congestion[0].words
    assert check(estate, made).violations == ()


def test_plans_without_the_count_are_read_as_if_all_were_stated(tmp_path: Path) -> None:
    made = plan(with_desk(tmp_path), lose("a"))
    document = document_of(made)
    for one in document["congestion"]:
        one.pop("unstated", None)
    assert {one.unstated for one in decode(json.dumps(document).encode()).congestion} == {0}


def may_have_users(service: Service) -> bool:
    return service.traffic.kind != "none" and not service.external


@pytest.mark.parametrize("seed", range(24))
def test_no_value_of_an_unknown_peak_is_worse_than_not_knowing_it(tmp_path: Path, seed: int) -> None:
    """What fits although some peaks are not stated fits for every value of them; what is too small without
    them is too small with them, or was before the loss, and gets no more.
    """
    estate = networked(tmp_path, seed, stated=0.6)
    top = topology(estate)
    for value in (0, 1, 10**6):
        services = tuple(
            replace(one, traffic=replace(one.traffic, mbps=value))
            if one.traffic.mbps is None and may_have_users(one)
            else one
            for one in estate.services
        )
        stated = topology(replace(estate, services=services))
        for members in losses(top).members:
            asked = lose(*members)
            unknown = maybe_congested(top, lost_in(top, asked))
            known = maybe_congested(stated, lost_in(stated, asked))
            assert {(one.at, one.measure) for one in known} <= {(one.at, one.measure) for one in unknown}
            too_small = {(one.at, one.measure) for one in unknown if one.is_too_small}
            already = {(one.at, one.measure) for one in congested_today(stated) if one.is_too_small}
            named = {(one.at, one.measure) for one in known if one.is_too_small}
            assert too_small <= named | already, members
