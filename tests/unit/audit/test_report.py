"""Rows, headlines, pairs and pages: what a reader of an audit relies on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import RULES, audit, headline, summary
from evac.audit.context import listed
from evac.audit.reasons import duration
from evac.model.estate import Estate, Service, Site
from evac.model.fleet import AT_SITE
from evac.model.units import amount
from tests.unit.audit.estates import HOUR, bindings, found, manual, service, sound, with_service
from tests.unit.audit.flaws import hidden, no_copy, shared_fate, single_site, tool_inside


def test_every_rule_has_its_own_code_slug_and_page(project_root: Path) -> None:
    pages = project_root / "docs" / "reference" / "rules"
    assert len({r.id for r in RULES}) == len({r.code for r in RULES}) == len(RULES)
    for rule in RULES:
        text = (pages / f"{rule.id}.md").read_text(encoding="utf-8")
        assert rule.code in text.splitlines()[0]
        for part in ("## What it finds", "## Severity", "## What to do"):
            assert part in text, f"{rule.id} has no {part}"


def test_a_row_says_what_is_down_and_when_it_is_back() -> None:
    rows = {row.domain: row for row in audit(sound()).rows}
    report = audit(sound())
    north = rows["north"]
    assert (north.down, north.recovered, north.lost, north.verdict) == (1, 1, 0, "degraded")
    assert north.worst_ready_ms == 60_000 + 60_000 + 5_000 + 10_000
    fates = {f.service: f for f in north.fates(report.services)}
    assert (fates["shop"].fate, fates["shop"].recovery_ms) == ("recovers", 135_000)
    assert (fates["deploy"].fate, fates["deploy"].recovery_ms) == ("degraded", None)


def test_a_headline_says_why_something_never_comes_back() -> None:
    report = audit(single_site(sound()))
    west = next(row for row in report.rows if row.domain == "west")
    assert headline(report, west).text == (
        "west: 1 service down, 1 never comes back,"
        " because island: does not run outside west, and no capacity for it is known"
    )
    assert len(summary(report)) == 3


def test_a_chain_is_shown_from_the_service_to_the_cause() -> None:
    (finding,) = [f for f in found(audit(hidden(sound())), "hidden-single-site") if f.subject == "high"]
    assert finding.chain == ("high", "middle", "low (at south only)")


def test_a_tool_that_waits_for_itself_shows_the_circle() -> None:
    (finding,) = found(audit(tool_inside(sound())), "recovery-tool-lost")
    assert finding.chain == ("deployer", "deployer (for start)")
    assert "never comes back" in finding.message


def test_a_tool_that_waits_for_itself_is_started_by_hand_where_people_can() -> None:
    report = audit(manual(tool_inside(sound()), start=HOUR // 3))
    north = next(row for row in report.rows if row.domain == "north")
    fates = {f.service: f for f in north.fates(report.services)}
    assert fates["deployer"].recovery_ms == 120_000 + HOUR // 3
    (finding,) = found(report, "recovery-tool-lost")
    assert finding.severity == "warning"


def test_what_may_be_shed_is_no_error() -> None:
    flawed = with_service(sound(), service("batch", eligible_sites=("west",), sheddable=True), [("west", 2)])
    (finding,) = found(audit(flawed), "single-site-service")
    assert finding.severity == "warning"


def test_without_an_objective_only_what_never_returns_is_an_error() -> None:
    slow = with_service(sound(), service("slow", rto_ms=None, start_ms=20 * HOUR), [("west", 2)])
    assert not [f for f in audit(slow).findings if f.severity == "error"]
    stuck = with_service(sound(), service("stuck", rto_ms=None, eligible_sites=("west",)), [("west", 2)])
    assert {f.rule for f in audit(stuck).findings if f.severity == "error"} == {
        "service-lost",
        "single-site-service",
    }


def test_pairs_name_only_what_no_single_loss_does() -> None:
    estate = with_service(
        sound(), service("two", eligible_sites=("north", "south")), [("north", 2), ("south", 2)]
    )
    alone, paired = audit(estate), audit(estate, pairs=True)
    assert len(paired.rows) == len(alone.rows) + 3
    more = [f for f in paired.findings if f not in alone.findings]
    assert ("service-lost", "two") in {(f.rule, f.subject) for f in more}
    assert {f.severity for f in more} <= {"warning", "note"}
    both = next(row for row in paired.rows if row.domain == "north + south")
    assert (both.kind, both.verdict) == ("pair", "loss")


def test_named_losses_are_tried_alone() -> None:
    report = audit(no_copy(shared_fate(sound())), domains=("south", "campus"))
    assert [row.domain for row in report.rows] == ["south", "campus"]
    assert {d for f in report.findings for d in f.domains} <= {"south", "campus"}


def test_an_estate_of_which_almost_nothing_is_known_is_judged_without_guessing() -> None:
    services = (Service("a", "a", sites=("x",)), Service("b", "b", sites=("x", "y")), Service("c", "c"))
    estate = Estate(name="bare", sites=(Site("x"), Site("y")), services=services)
    report = audit(estate)
    rows = {row.domain: {f.service: f.fate for f in row.fates(report.services)} for row in report.rows}
    assert rows == {
        "x": {"a": "unknown", "b": "unknown", "c": "unknown"},
        "y": {"b": "unknown", "c": "unknown"},
    }
    assert "unknown-facts" in {f.rule for f in report.findings}


def test_a_share_that_cannot_be_filled_up_for_lack_of_facts_is_unknown() -> None:
    bare = Service("a", "a", replicas=4)
    estate = Estate(name="bare", sites=(Site("x"), Site("y")), services=(bare,))
    estate = replace(estate, replicas=bindings(estate, [("a", AT_SITE, "x", 2), ("a", AT_SITE, "y", 2)]))
    report = audit(estate)
    assert [row.verdict for row in report.rows] == ["unknown", "unknown"]


def test_an_empty_estate_is_audited() -> None:
    report = audit(Estate(name="nothing"))
    assert report.rows == ()


def test_the_same_estate_gives_the_same_report() -> None:
    one, other = audit(tool_inside(sound())), audit(tool_inside(sound()))
    assert one.findings == other.findings


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0 s"),
        (1, "1 ms"),
        (999, "999 ms"),
        (61_000, "1 min 1 s"),
        (90_000_000, "1 d 1 h"),
        (2**31 - 1, "never"),
    ],
)
def test_times_read_well(ms: int, words: str) -> None:
    assert duration(ms) == words


def test_amounts_and_lists_read_well() -> None:
    assert amount("cpu", 227_340_500) == "227,341 cores"
    assert amount("memory", 512) == "512 MiB"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
