"""EV130 to EV135: what goes wrong when power comes back to a dark site."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from evac.audit import audit, update
from evac.audit.findings import Finding
from evac.estate.examples import pangyo
from evac.model.estate import Automation, Dependency, Estate
from evac.model.fleet import CONDEMNED, DARK, SERVING, SPARE, no_names
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
        ("on", "inrush_budget: 700 W", "error", "an inrush of 800 W"),
        ("on", "inrush_budget: 1 kW", "warning", "4 racks"),
        ("last", "inrush_budget: 2 kW", None, ""),
        ("unknown", "inrush_budget: 700 W", "note", "4 servers of a do when power returns is not known"),
    ],
)
def test_power_on_policies_that_trip(
    policy: str, feed: str, severity: str | None, words: str, tmp_path: Path
) -> None:
    found = findings(dark_site(tmp_path, POLICY=policy, FEED=feed), "trips-when-power-returns")
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all(words in f.message and f.subject == "a" for f in found)


def test_what_trips_after_one_change_and_another_is_what_a_new_audit_finds(tmp_path: Path) -> None:
    report = audit(dark_site(tmp_path, POLICY="last", FEED="inrush_budget: 700 W"))
    classes = [c.id for c in report.impacts.estate.classes]
    old = np.flatnonzero(report.impacts.estate.fleet.server_class == classes.index("old")).tolist()
    messages = set()
    for state, row in (
        *((DARK, row) for row in old),
        (SERVING, old[1]),
        (CONDEMNED, old[1]),
        (SPARE, old[2]),
    ):
        estate = report.impacts.estate
        states = estate.fleet.state.copy()
        states[row] = state
        report = update(report, replace(estate, fleet=replace(estate.fleet, state=states)))
        assert report.findings == audit(report.impacts.estate).findings
        messages |= {f.message for f in report.findings if f.rule == "trips-when-power-returns"}
    assert len(messages) > len(old) // 2


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


def _policy(estate: Estate) -> Estate:
    classes = tuple(replace(c, power_on="on") for c in estate.classes)
    return replace(estate, classes=classes)


def _no_serial(estate: Estate) -> Estate:
    serial = np.where(np.arange(len(estate.fleet)) == 7, b"", estate.fleet.serial)
    return replace(estate, fleet=replace(estate.fleet, serial=serial))


def _purges(estate: Estate) -> Estate:
    return replace(estate, services=tuple(replace(s, purges=s.id == "geo-ip") for s in estate.services))


def _margin(estate: Estate) -> Estate:
    return replace(estate, limits=replace(estate.limits, power_margin_permille=300))


def _tools(estate: Estate) -> Estate:
    return replace(estate, tools=MappingProxyType({**estate.tools, "dhcp": ("geo-ip",)}))


@pytest.mark.parametrize("flawed", [False, True])
@pytest.mark.parametrize("change", [_policy, _no_serial, _purges, _margin, _tools])
def test_an_update_says_what_an_audit_anew_says(change: Callable[[Estate], Estate], flawed: bool) -> None:
    before = pangyo(servers=1_000, mended=not flawed)
    after = change(before)
    assert update(audit(before), after).findings == audit(after).findings


@pytest.mark.parametrize(
    ("feed", "margin", "words"),
    [
        ("inrush_budget: 2 kW", "0 %", " 0 W of inrush free"),
        ("inrush_budget: 2 kW", "39 %", "780 W of inrush free"),
        ("inrush_budget: 2 kW", "40 %", ""),
        ("inrush_budget: 2 kW, boots_at_once: 1", "0 %", ""),
        ("inrush_budget: 2 kW, boots_at_once: 2", "0 %", "400 W of inrush free"),
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
