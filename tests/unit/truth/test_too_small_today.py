"""What is too small without any loss is said once, about today; a loss counts only for what it brings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

import numpy as np
import pytest

from evac.audit import audit
from evac.audit.impacts import crowding
from evac.audit.impacts.losses import losses
from evac.derive.arrivals import may_lose
from evac.derive.congestion import congested_today, maybe_congested_after
from evac.derive.domains import loss, topology
from evac.derive.traffic import left_per_site
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.office.facts import EstateFacts, facts_of
from evac.planning.plan import plan
from evac.verify import check
from evac.web.pages.losses_view import can_lose
from tests.unit.truth.networked import networked
from tests.unit.truth.written import servers, written

SMALL: Final = """
sites: {a: {ingress: 1 Gbit/s}, b: {ingress: WIDTH}, c: {ingress: 1 Gbit/s}, d: {ingress: 1 Gbit/s}}
halls: {d/h: {}}
racks: {d/h/r: {}, d/h/q: {}}
classes: {k: {cpu: 4 cores, memory: 64 GiB}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
links: [{ends: [a, b], LINK}, {ends: [b, c], bandwidth: 9 Gbit/s}, {ends: [a, c], bandwidth: 9 Gbit/s}]
services:
  shop: {people: 9, start: 1 s, rto: 1 h, replicas: {PLACES}, share: 1/4, eligible_sites: [ELIGIBLE], NEEDS
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: KIND, settle: 1 s, PEAK}}
  disk: {people: 0, start: 1 s, rto: 1 h, replicas: {DISK}, share: 1/4, eligible_sites: [HOLDS],
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
WEB  batch: {people: 0, start: 1 s, rto: 1 h, share: 1/2, demand: {cpu: 1 core, memory: 1 GiB},
          traffic: {kind: none}}
"""
VALUES: Final = {
    "WIDTH": "100 Mbit/s",
    "LINK": "bandwidth: 9 Gbit/s",
    "PLACES": "pa: 1, pb: 1",
    "ELIGIBLE": "a, b, c",
    "NEEDS": "",
    "KIND": "anycast",
    "PEAK": "peak: 300 Mbit/s",
    "DISK": "pa: 1, pb: 1, pc: 1",
    "HOLDS": "a, b, c",
    "WEB": "",
}


def small(folder: Path, **changed: str) -> Estate:
    """shop brings 150 Mbit/s to b today, which carries 100. At d there is only batch."""
    text = SMALL
    for name, value in (VALUES | changed).items():
        text = text.replace(name, value)
    table = servers("d1,d,d/h/r,k,serving,", "d2,d,d/h/q,k,serving,")
    return written(folder, text, servers=table, replicas="service,target,count\nbatch,d1,1\nbatch,d2,1\n")


def named(made: Plan) -> set[tuple[str, ...]]:
    return {one.at for one in made.congestion}


def agreed(estate: Estate, lost: str) -> set[tuple[str, ...]]:
    """What a plan names; the checker says the same, and the audit no less."""
    made = plan(estate, lose(lost))
    assert check(estate, made).violations == ()
    if made.congestion:
        clean = tuple(replace(one, congested=False) for one in made.outcomes)
        hides = check(estate, replace(made, congestion=(), outcomes=clean)).violations
        assert "F19" in {one.rule for one in hides}
    report = audit(estate)
    found = {at for at, _ in report.impacts.crowding.at(report.impacts.losses.index[lost])}
    assert named(made) <= found
    row = next(row for row in report.rows if row.domain == lost)
    assert row.congested is bool(found)
    return named(made)


def now_says(facts: EstateFacts) -> dict[str, Any]:
    now: Any = SimpleNamespace(lost_sites=(), quorum=SimpleNamespace(answers=True, problem=""))
    found = can_lose(now, facts)
    assert found is not None
    return found


QUIET_LOSSES: Final = ("d", "d/h", "d/h/r")
CASES: Final = ("too small", "no peak", "no limit")


def with_case(folder: Path, case: str) -> Estate:
    estate = small(folder, **({"PEAK": ""} if case == "no peak" else {}))
    open_b = tuple(replace(one, ingress_mbps=None) if one.id == "b" else one for one in estate.sites)
    return replace(estate, sites=open_b) if case == "no limit" else estate


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lost", QUIET_LOSSES)
def test_a_loss_that_brings_nothing_is_not_judged_by_it(tmp_path: Path, case: str, lost: str) -> None:
    estate = with_case(tmp_path, case)
    assert agreed(estate, lost) == set()
    report = audit(estate)
    wide = replace(estate, sites=tuple(replace(s, ingress_mbps=None) for s in estate.sites))
    of_wide = {row.domain: row.verdict for row in audit(wide).rows}
    assert {row.domain: row.verdict for row in report.rows if row.domain in QUIET_LOSSES} == {
        name: of_wide[name] for name in QUIET_LOSSES
    }
    found = [one for one in report.findings if one.code == "EV122" and lost in one.domains]
    assert found == []


@pytest.mark.parametrize(
    ("case", "severity"), [("too small", "error"), ("no peak", "warning"), ("no limit", "warning")]
)
def test_today_is_a_finding_and_now_says_it(tmp_path: Path, case: str, severity: str) -> None:
    estate = with_case(tmp_path, case)
    (found,) = (one for one in audit(estate).findings if one.code == "EV152")
    assert found.severity == severity
    assert "the ingress of b" in found.message.lower()
    seen = facts_of(audit(estate), "sha256:0")
    assert (seen.crowded_today, bool(seen.unclear_today)) == (
        (("the ingress of b",), False) if case == "too small" else ((), True)
    )
    said = now_says(seen)
    assert not said["all"]
    assert "today's traffic" in said["more"].lower()


def test_where_all_fits_nothing_is_said_of_today(tmp_path: Path) -> None:
    estate = small(tmp_path, WIDTH="150 Mbit/s")
    assert [one for one in audit(estate).findings if one.code == "EV152"] == []
    seen = facts_of(audit(estate), "sha256:0")
    assert (seen.crowded_today, seen.unclear_today) == ((), ())
    assert "today" not in now_says(seen)["more"].lower()


@pytest.mark.parametrize("peak", ["peak: 300 Mbit/s", ""])
@pytest.mark.parametrize(
    ("changed", "lost", "where"),
    [
        ({}, "a", ("b",)),
        ({"PLACES": "pa: 1, pb: 1, pc: 1", "ELIGIBLE": "b, c"}, "c", ("b",)),
        ({"PLACES": "pa: 1", "ELIGIBLE": "a, b"}, "a", ("b",)),
        ({"KIND": "dns", "PLACES": "pa: 1, pb: 1"}, "a", ("b",)),
        (
            {
                "LINK": "bandwidth: 1 Mbit/s",
                "NEEDS": "needs: [disk],",
                "PLACES": "pa: 1",
                "DISK": "pb: 1, pc: 1",
                "HOLDS": "b, c",
            },
            "c",
            ("a", "b"),
        ),
    ],
    ids=["the rest of a site", "a part of a third", "a restart", "a shift", "calls to what is left"],
)
def test_a_loss_that_brings_more_counts(
    tmp_path: Path, changed: dict[str, str], lost: str, where: tuple[str, ...], peak: str
) -> None:
    estate = small(tmp_path, **changed, PEAK=peak)
    assert where in agreed(estate, lost)


@pytest.mark.parametrize("sent", [("a",), ("a", "b"), ("b",)])
def test_users_that_are_sent_elsewhere_today_arrive_in_addition(
    tmp_path: Path, sent: tuple[str, ...]
) -> None:
    """All of shop runs at b. Where name servers send its users to a, they arrive at b only after its loss."""
    estate = small(tmp_path, PLACES="pb: 1", KIND="dns", ELIGIBLE="b")
    estate = replace(estate, traffic=MappingProxyType({"shop": sent}))
    assert (("b",) in agreed(estate, "a")) is ("a" in sent)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (("a", "b"), {}),
        (("b",), {"b": ("error", "300 Mbit/s comes")}),
        (("a",), {}),
        (("b", "c"), {"b": ("warning", "300 Mbit/s may come")}),
        (("c",), {}),
        ((), {}),
        (("nowhere",), {}),
    ],
)
def test_all_users_arrive_today_where_they_are_sent(
    tmp_path: Path, sent: tuple[str, ...], said: dict[str, tuple[str, str]]
) -> None:
    """A run or a driver says where: to one site alone, whatever runs elsewhere."""
    estate = small(tmp_path, WIDTH="200 Mbit/s", KIND="dns")
    estate = replace(estate, traffic=MappingProxyType({"shop": sent}))
    found = [one for one in audit(estate).findings if one.code == "EV152"]
    assert {one.subject.partition(":")[0]: one.severity for one in found} == {
        site: severity for site, (severity, _) in said.items()
    }
    assert all(words in found[0].message for _, words in said.values())


@pytest.mark.parametrize(("sent", "arrives"), [(("a",), 0), (("b",), 300), (("a", "b"), 150), ((), 150)])
def test_calls_of_today_begin_where_users_arrive(tmp_path: Path, sent: tuple[str, ...], arrives: int) -> None:
    """disk answers at a alone."""
    estate = small(
        tmp_path, LINK="bandwidth: 1 Mbit/s", NEEDS="needs: [disk],", KIND="dns", DISK="pa: 1", HOLDS="a"
    )
    estate = replace(estate, traffic=MappingProxyType({"shop": sent}))
    found = [one for one in congested_today(topology(estate)) if one.at == ("a", "b")]
    assert [(one.arriving, one.at_most) for one in found] == [(arrives, False)] * bool(arrives)


WEB: Final = """  web: {people: 9, start: 1 s, rto: 1 h, replicas: {pc: 1}, share: 1/4,
        eligible_sites: [b, c], demand: {cpu: 1 core, memory: 1 GiB},
        traffic: {kind: dns, settle: 1 s, peak: 100 Mbit/s}}
"""


def with_web(folder: Path, sent: tuple[str, ...], **changed: str) -> Estate:
    """web moves from c to b; shop stays where it runs, and its users are sent to these sites."""
    estate = small(folder, **{"KIND": "dns", "DISK": "pa: 1", **changed}, WEB=WEB)
    return replace(estate, traffic=MappingProxyType({"shop": sent}))


@pytest.mark.parametrize("places", ["pa: 1, pb: 1", "pa: 1"])
@pytest.mark.parametrize(
    ("sent", "arrives"),
    [(("b",), 400), (("a",), 100), (("b", "d"), 400), (("a", "b"), None), (("d",), 100)],
)
def test_users_of_what_a_loss_does_not_touch_stay_where_they_are_sent(
    tmp_path: Path, places: str, sent: tuple[str, ...], arrives: int | None
) -> None:
    """The loss of c moves the 100 Mbit/s of web to b, where all of shop may arrive in addition."""
    estate = with_web(tmp_path, sent, PLACES=places, WIDTH="99 Mbit/s")
    made = plan(estate, lose("c"))
    (found,) = (one for one in made.congestion if one.at == ("b",))
    assert arrives in (None, found.arriving)
    wide = with_web(tmp_path, sent, PLACES=places, WIDTH=f"{found.arriving} Mbit/s")
    tight = with_web(tmp_path, sent, PLACES=places, WIDTH=f"{found.arriving - 1} Mbit/s")
    assert ("b",) not in agreed(wide, "c")
    assert ("b",) in agreed(tight, "c")
    assert ("b",) in {one.at for one in maybe_congested_after(topology(tight), lose("c"))}


@pytest.mark.parametrize("sent", [("a",), ("b",), ("d",), ("b", "d"), ("a", "b", "c")])
@pytest.mark.parametrize("lost", ["b", "c"])
def test_calls_of_what_a_loss_does_not_touch_begin_where_its_users_are_sent(
    tmp_path: Path, sent: tuple[str, ...], lost: str
) -> None:
    estate = with_web(
        tmp_path, sent, LINK="bandwidth: 1 Mbit/s", NEEDS="needs: [disk],", HOLDS="a, c", WIDTH="99 Mbit/s"
    )
    agreed(estate, lost)


@pytest.mark.parametrize(("room", "severity"), [("150 Mbit/s", "warning"), ("50 Mbit/s", "error")])
def test_a_loss_is_an_error_only_if_no_plan_can_keep_to_what_comes_today(
    tmp_path: Path, room: str, severity: str
) -> None:
    """Today 200 Mbit/s come through the ingress of b, which carries 100: a plan may send the rest to a."""
    text = SMALL.replace("a: {ingress: 1 Gbit/s}", f"a: {{ingress: {room}}}")
    for name, value in (VALUES | {"PLACES": "pb: 2, pc: 1"}).items():
        text = text.replace(name, value)
    for site in ("c", "d"):
        text = text.replace(f"{site}: {{ingress: 1 Gbit/s}}", f"{site}: {{ingress: 1 Mbit/s}}")
    table = servers("d1,d,d/h/r,k,serving,", "d2,d,d/h/q,k,serving,")
    estate = written(tmp_path, text, servers=table, replicas="service,target,count\nbatch,d1,1\nbatch,d2,1\n")
    found = [one for one in audit(estate).findings if one.code == "EV122" and one.subject.startswith("b:")]
    assert [(one.severity, "c" in one.domains) for one in found] == [(severity, True)]


@pytest.mark.parametrize("sent", [("a", "b"), ("a", "b", "c")])
def test_users_who_are_sent_to_several_sites_leave_no_hope_of_enough_ingress(
    tmp_path: Path, sent: tuple[str, ...]
) -> None:
    """All ingress that is left carries 202 of 300 Mbit/s, however they are divided."""
    estate = small(tmp_path, PLACES="pa: 1, pb: 1, pc: 1")
    limits = {"a": 101, "b": 100, "c": 1, "d": 1}
    sites = tuple(replace(one, ingress_mbps=limits[one.id]) for one in estate.sites)
    estate = replace(estate, sites=sites, traffic=MappingProxyType({"shop": sent}))
    found = [one for one in audit(estate).findings if one.code == "EV122" and "c" in one.domains]
    assert "error" in {one.severity for one in found}


def test_a_loss_that_takes_traffic_away_is_not_judged_by_it(tmp_path: Path) -> None:
    """b loses its replica: what still arrives there is no more than today."""
    estate = small(tmp_path, PLACES="pa: 1, pb: 1, pc: 2", WIDTH="60 Mbit/s", ELIGIBLE="a, c")
    assert ("b",) not in agreed(estate, "b")


def test_what_is_lost_already_is_no_part_of_today(tmp_path: Path) -> None:
    """a is lost and nothing was started yet: all of shop arrives at b today, and after any loss of d."""
    estate = replace(small(tmp_path, ELIGIBLE="a, b"), lost=("a",))
    top = topology(estate)
    assert [(one.at, one.arriving) for one in congested_today(top)] == [(("b",), 300)]


def moves_nothing(estate: Estate, members: tuple[str, ...]) -> bool:
    """Whether all replicas stay, for certain, and nothing is missing."""
    top = topology(estate)
    gone, now = loss(top, members), loss(top, ())
    left, before = left_per_site(top, gone), left_per_site(top, now)
    home = estate.replicas if estate.home is None else estate.home
    wanted = np.bincount(home.service, home.count, len(estate.services))
    is_whole = bool((left.sum(axis=0) >= wanted).all())
    return bool((left == before).all()) and is_whole and not may_lose(top, gone, True).any()


@pytest.mark.parametrize("seed", range(40))
def test_no_limit_changes_the_verdict_of_a_loss_that_moves_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the sums nor by the bound for many losses."""
    estate = networked(tmp_path, seed)
    open_sites = tuple(replace(site, ingress_mbps=None) for site in estate.sites)
    wide = replace(
        estate, sites=open_sites, links=tuple(replace(link, bandwidth_mbps=None) for link in estate.links)
    )
    every = losses(topology(estate))
    quiet = [number for number, members in enumerate(every.members) if moves_nothing(estate, members)]
    asked = tuple(every.ids[number] for number in quiet)
    of_wide = [row.verdict for row in audit(wide, domains=asked).rows]
    for most in (crowding.ADDED_MOST, 0):
        monkeypatch.setattr(crowding, "ADDED_MOST", most)
        rows = audit(estate, domains=asked).rows
        assert [row.domain for row in rows] == list(asked)
        assert [row.domain for row in rows if row.congested] == []
        assert [row.verdict for row in rows] == of_wide
