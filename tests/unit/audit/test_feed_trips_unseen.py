"""EV136: feeds that nobody would see trip. The audit says beforehand what a run says when it begins."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random

import numpy as np
import pytest

from evac.audit import audit
from evac.audit.findings import Finding
from evac.audit.rules import feed_trips_unseen
from evac.engine.boots import feed_watch
from evac.engine.runs.binding import bind
from evac.estate import load
from evac.estate.examples import pangyo
from evac.model.estate import Estate
from evac.model.fleet import BMC_NO, BMC_YES, CONDEMNED
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Scenario
from evac.planning.plan import plan
from evac.run.view import RunView
from tests.unit.engine.test_boot_binding import ESTATE, SERVERS

BMCS = '  bmc: {for: pangyo, at: pangyo, driver: redfish, settings: {user: evac, password: "env:BMC"}}\n'
CIRCUIT = ESTATE[ESTATE.index("  a: {for: pangyo/a") :]


def estate_of(folder: Path, *without: str) -> Estate:
    text = ESTATE
    for part in without:
        assert part in text
        text = text.replace(part, "")
    text = text.replace("endpoints:\n", "") if text.endswith("endpoints:\n") else text
    (folder / "estate.yaml").write_text(text)
    (folder / "servers.csv").write_text(SERVERS)
    return load(folder)


def reaching(estate: Estate, *names: str) -> Estate:
    """Only these servers have an address that can be asked."""
    fleet = estate.fleet
    address = fleet.bmc_address.copy()
    for row in range(len(fleet)):
        if fleet.server_name(row) not in names:
            address[row] = b""
    return replace(estate, fleet=replace(fleet, bmc_address=address))


def found(estate: Estate) -> list[Finding]:
    return [f for f in audit(estate).findings if f.code == "EV136"]


def feeds_in(estate: Estate) -> tuple[str, ...]:
    return tuple(feed.id for feed in estate.feeds if any(feed.id in f.message for f in found(estate)))


def feeds_of_a_run(estate: Estate) -> tuple[str, ...]:
    """As the run of a restore says when it begins."""
    made = plan(estate, Scenario("restore", ("pangyo",)))
    bound = bind(estate, made, RunPolicy(), run="r", incident="i", digest="d")
    return feed_watch.unwatched(RunView(bound.spec), lambda step: bound.actions.get(step, ()))


def test_the_audit_and_the_run_mean_the_same_by_watched() -> None:
    assert feed_trips_unseen.LEAST == feed_watch.LEAST


def test_a_circuit_or_two_servers_behind_it_are_enough(tmp_path: Path) -> None:
    estate = estate_of(tmp_path)
    assert found(estate) == [], "feed a has a circuit, and s0 and s1 behind feed b can be asked"
    (one,) = found(reaching(estate, "s0", "s4", "s5"))
    assert (one.severity, one.subject, one.domains) == ("warning", "pangyo", ("pangyo",))
    assert "1 feed of pangyo could trip unnoticed in a cold start: pangyo/b: " in one.message
    assert one.path == "feeds/pangyo/b"


def test_without_a_circuit_only_servers_count_that_go_dark_with_the_feed(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, CIRCUIT)
    assert feeds_in(estate) == ()
    assert feeds_in(reaching(estate, "s0", "s1")) == (), "on two feeds, as few as any that can be asked"
    assert feeds_in(reaching(estate, "s0", "s1", "s4")) == ("pangyo/a",), "s4 hangs on feed a alone"


def test_where_nobody_boots_from_afar_it_is_a_note(tmp_path: Path) -> None:
    (one,) = found(estate_of(tmp_path, CIRCUIT, BMCS))
    assert one.severity == "note"
    assert "2 feeds of pangyo" in one.message
    assert "no endpoint for the BMCs of the site" in one.message


@pytest.mark.parametrize("seed", range(24))
def test_it_names_what_a_run_would_name(seed: int, tmp_path: Path) -> None:
    """Some BMCs and addresses at random, with and without a circuit."""
    chance = Random(seed)
    estate = estate_of(tmp_path, *((CIRCUIT,) if seed % 2 else ()))
    fleet = estate.fleet
    bmc, address = fleet.bmc.copy(), fleet.bmc_address.copy()
    for row in range(len(fleet)):
        bmc[row] = BMC_NO if chance.random() < 0.3 else BMC_YES
        if chance.random() < 0.4:
            address[row] = b""
    estate = replace(estate, fleet=replace(fleet, bmc=bmc, bmc_address=address))
    assert feeds_in(estate) == feeds_of_a_run(estate)


def test_a_feed_with_too_few_servers_left_to_ask_cannot_be_watched(tmp_path: Path) -> None:
    estate = estate_of(tmp_path)
    state = estate.fleet.state.copy()
    state[[0, 1, 4]] = CONDEMNED
    report = audit(replace(estate, fleet=replace(estate.fleet, state=state)))
    assert [f.severity for f in report.findings if f.code == "EV136"] == ["warning"]


def test_a_feed_without_servers_trips_nothing(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, CIRCUIT)
    state = np.full(len(estate.fleet), CONDEMNED, estate.fleet.state.dtype)
    assert found(replace(estate, fleet=replace(estate.fleet, state=state))) == []


def test_the_example_companies_name_no_endpoint_and_get_a_note() -> None:
    for is_mended in (True, False):
        company = pangyo(servers=1_000, mended=is_mended, as_of=date(2026, 11, 1))
        assert {f.severity for f in found(company)} == {"note"}
