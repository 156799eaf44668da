"""EV130 to EV135: what goes wrong when power comes back to a dark site."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from types import MappingProxyType

import pytest

from evac.audit import audit
from evac.audit.findings import Finding
from evac.estate.examples import pangyo
from evac.model.estate import Automation, Dependency, Estate
from evac.model.fleet import no_names
from tests.unit.planning.dark import dark_site


def findings(estate: Estate, rule: str) -> list[Finding]:
    return [f for f in audit(estate).findings if f.rule == rule]


def mended() -> Estate:
    return pangyo(servers=1_000, mended=True, as_of=date(2026, 11, 1))


def test_the_mended_company_has_none_of_them_and_the_flawed_one_has() -> None:
    rules = {"trips-when-power-returns", "dark-site-alone", "bmc-unreachable", "purges-by-itself"}
    assert not [f for f in audit(mended()).findings if f.rule in rules and f.severity != "note"]
    flawed = {f.rule for f in audit(pangyo(servers=3_000)).findings if f.severity != "note"}
    assert {"dark-site-alone", "purges-by-itself"} <= flawed


@pytest.mark.parametrize(
    ("policy", "feed", "severity", "words"),
    [
        ("dark", "inrush_budget: 700 W", None, ""),
        ("on", "inrush_budget: 700 W", "error", "the inrush alone would be 800 W"),
        ("on", "inrush_budget: 1 kW", "warning", "4 racks"),
        ("last", "inrush_budget: 2 kW", None, ""),
        (
            "unknown",
            "inrush_budget: 700 W",
            "note",
            "it is unknown what 4 servers of a will do when power returns",
        ),
    ],
)
def test_power_on_policies_that_trip(
    policy: str, feed: str, severity: str | None, words: str, tmp_path: Path
) -> None:
    found = findings(dark_site(tmp_path, POLICY=policy, FEED=feed), "trips-when-power-returns")
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all(words in f.message and f.subject == "a" for f in found)


def test_a_tool_that_a_dark_site_needs_and_only_it_has(tmp_path: Path) -> None:
    estate = replace(dark_site(tmp_path), tools=MappingProxyType({"time": ("shop",)}))
    (found,) = findings(estate, "dark-site-alone")
    assert (found.severity, found.subject, found.domains) == ("error", "a", ("a",))
    assert "shop (time)" in found.message
    by_hand = replace(estate.limits, manual_ms=MappingProxyType({"boot": 60_000}))
    assert [f.severity for f in findings(replace(estate, limits=by_hand), "dark-site-alone")] == ["warning"]


def test_doubles_and_gaps_of_bmcs() -> None:
    estate = mended()
    address, serial = estate.fleet.bmc_address.copy(), estate.fleet.serial.copy()
    address[1], serial[2] = address[0], b""
    fleet = replace(estate.fleet, bmc_address=address, serial=serial)
    found = findings(replace(estate, fleet=fleet), "bmc-unreachable")
    assert [(f.severity, f.message.split(" of ")[0]) for f in found] == [
        ("warning", "2 servers"),
        ("note", "1 server"),
    ]


def test_a_column_that_nobody_keeps_is_no_gap() -> None:
    estate = mended()
    none = no_names(len(estate.fleet))
    bare = replace(estate, fleet=replace(estate.fleet, bmc_address=none, serial=none))
    assert findings(bare, "bmc-unreachable") == []


def test_a_clock_that_waits_for_what_checks_certificates() -> None:
    estate = mended()
    clock = estate.tools["time"][0]
    services = tuple(
        replace(s, needs=(*s.needs, Dependency("secrets", "service"))) if s.id == clock else s
        for s in estate.services
    )
    assert findings(estate, "clock-needs-certificates") == []
    (found,) = findings(replace(estate, services=services), "clock-needs-certificates")
    assert found.chain[:2] == (clock, "secrets")


def test_a_purge_that_automation_starts() -> None:
    estate = mended()
    robot = Automation("robot", "gitops", ("stop",), ("job-scheduler",), can_be_paused=False)
    estate = replace(estate, automations=tuple(sorted((*estate.automations, robot), key=lambda a: a.id)))
    (found,) = findings(estate, "purges-by-itself")
    assert (found.subject, "robot would start it again" in found.message) == ("job-scheduler", True)


@pytest.mark.parametrize(
    ("feed", "margin", "words"),
    [
        ("inrush_budget: 2 kW", "0 %", " 0 W left for inrush"),
        ("inrush_budget: 2 kW", "39 %", "780 W left for inrush"),
        ("inrush_budget: 2 kW", "40 %", ""),
        ("inrush_budget: 2 kW, boots_at_once: 1", "0 %", ""),
        ("inrush_budget: 2 kW, boots_at_once: 2", "0 %", "400 W left for inrush"),
        ("power_budget: 2 kW", "0 %", ""),
    ],
)
def test_what_starts_again_by_itself_must_fit_beside_the_wave(
    feed: str, margin: str, words: str, tmp_path: Path
) -> None:
    found = findings(dark_site(tmp_path, FEED=feed, LIMITS=f"power_margin: {margin}"), "margin-too-small")
    assert [f.severity for f in found] == (["warning"] if words else [])
    assert all(words in f.message and "they draw up to 800 W" in f.message for f in found)
    assert all("power_margin: 40 %" in f.fix for f in found)
