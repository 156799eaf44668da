"""A service loses what the stores that it needs lose, so its `rpo` limits theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import AuditReport, audit
from evac.derive import lost_stores
from evac.estate.coverage import coverage
from evac.model.estate import Estate
from evac.model.instance import LostStore
from evac.model.scenario import Policy, lose
from evac.office.reckoning import verdict_of
from evac.planning.plan import plan
from evac.verify import check
from evac.views.plan_text import plan_text
from tests.unit.truth.written import written

ESTATE = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {people: 9, tier: 1, replicas: {pb: 1}, start: 1 s, needs: [NEED], SHOP, REST}
  desk: {people: 9, tier: 1, replicas: {pb: 1}, start: 1 s, needs: [shop], REST}
  bill: {people: 9, tier: 1, replicas: {pb: 1}, start: 1 s, needs: [NEED], BILL, REST}
stores:
  orders: {engine: x, fence: 1 s, promote: 1 s, sync_timeout: 0 s, members: MEMBERS, ORDERS}
""".replace("REST", "demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}")
BEHIND = "[{at: a, mode: primary}, {at: b, mode: async, lag: 10 min}]"
SILENT = "[{at: a, mode: primary}, {at: b, mode: async}]"
SYNC = "[{at: a, mode: primary}, {at: b, mode: sync}]"
HARD, SOFT = "{store: orders}", "{store: orders, hard: false}"


def estate_of(
    folder: Path, shop: str, bill: str, orders: str, members: str = BEHIND, need: str = HARD
) -> Estate:
    text = ESTATE.replace("NEED", need).replace("MEMBERS", members)
    for word, stated in (("SHOP", shop), ("BILL", bill), ("ORDERS", orders)):
        text = text.replace(f", {word}", f", {stated}" if stated else "")
    return written(folder, text)


def states(estate: Estate, policy: Policy = Policy()) -> set[str]:  # noqa: B008 - frozen
    """What a checked plan of the loss of a says of the services that need the store."""
    made = plan(estate, lose("a"), policy=policy)
    assert check(estate, made).holds
    return {one.state for one in made.outcomes}


def about(report: AuditReport, code: str) -> list[tuple[str, str]]:
    return [(one.severity, one.message) for one in report.findings if one.code == code]


@pytest.mark.parametrize(
    ("shop", "bill", "orders", "whose"),
    [
        ("rpo: 5 s", "", "rpo: 1 h", "the RPO of shop"),
        ("rpo: 5 s", "rpo: 1 min", "rpo: unlimited", "the RPO of shop"),
        ("rpo: 5 s", "rpo: 1 s", "", "the RPO of bill"),
        ("rpo: 5 s", "rpo: 1 h", "rpo: 1 s", "its RPO"),
        (
            "rpo: 1 h, objectives: {site: {rpo: 1 s}}",
            "",
            "rpo: 1 h",
            "the RPO of shop for the loss of a site",
        ),
    ],
)
def test_the_strictest_rpo_decides(tmp_path: Path, shop: str, bill: str, orders: str, whose: str) -> None:
    estate = estate_of(tmp_path, shop, bill, orders)
    assert states(estate) == {"unplaced"}
    assert states(estate, Policy(waivers=("orders",))) == {"restored"}
    made, report = plan(estate, lose("a")), audit(estate)
    waived = plan(estate, lose("a"), policy=Policy(waivers=("orders",)))
    assert [one.waiver for one in waived.stores] == ["orders"]
    named = whose.removesuffix(" for the loss of a site")
    reason = f"store orders: its copy at b may lack more than {named} allows; --waive orders accepts this"
    assert reason in {one.reason for one in made.outcomes}
    found = about(report, "EV105")
    assert [severity for severity, _ in found] == ["error"]
    assert found[0][1].startswith(f"orders loses 10 min of data with a; {whose} allows ")
    assert not [words for _, words in about(report, "EV120") if "RPO" in words]
    lost = [words for _, words in about(report, "EV100") if "orders" in words]
    assert lost
    assert all(f"no copy that meets {named} outside a" in words for words in lost)


@pytest.mark.parametrize(
    ("shop", "bill", "orders", "members", "need", "state"),
    [
        ("rpo: 1 h", "rpo: 1 h", "", BEHIND, HARD, "restored"),
        ("rpo: 1 h", "", "", BEHIND, HARD, "unknown"),
        ("rpo: 1 h", "", "rpo: 1 h", BEHIND, HARD, "restored"),
        ("rpo: 0 s", "", "", SYNC, HARD, "restored"),
        ("rpo: 0 s", "", "rpo: 1 h", SILENT, HARD, "unknown"),
        ("rpo: 0 s", "rpo: 0 s", "", SILENT, HARD, "unknown"),
        ("rpo: 1 h, objectives: {region: {rpo: 1 s}}", "", "rpo: 1 h", BEHIND, HARD, "restored"),
    ],
)
def test_an_rpo_that_holds_misses_nothing(
    tmp_path: Path, shop: str, bill: str, orders: str, members: str, need: str, state: str
) -> None:
    estate = estate_of(tmp_path, shop, bill, orders, members, need)
    assert states(estate) == {state}
    report = audit(estate)
    fates = {one.fate for row in report.rows if row.domain == "a" for one in row.fates(report.services)}
    assert fates == {{"restored": "recovers", "unplaced": "lost"}.get(state, state)}


def test_only_stores_that_a_service_cannot_serve_without_are_limited(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, "rpo: 0 s", "", "rpo: 1 h", need=SOFT)
    assert states(estate) <= {"restored"}
    assert about(audit(estate), "EV105") == []


def test_an_unknown_lag_is_neither_within_an_rpo_nor_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody promotes such a copy without a waiver, and nobody calls what needs it lost."""
    estate = estate_of(tmp_path, "", "", "rpo: 1 h", SILENT)
    made, report = plan(estate, lose("a")), audit(estate)
    waived = plan(estate, lose("a"), policy=Policy(waivers=("orders",)))
    assert check(estate, made).holds
    words = "store orders: it is unknown how much data its copy lacks; --waive orders accepts this"
    assert {one.reason for one in made.outcomes} == {words}
    assert [step for step in made.steps if step.target == "orders"] == []
    assert "stores/orders/lag" in made.attest
    assert {one.state for one in waived.outcomes} == {"restored"}
    assert about(report, "EV100") == []
    assert "1 store: how far its copies are behind" in " ".join(words for _, words in about(report, "EV129"))
    row = next(row for row in report.rows if row.domain == "a")
    found, shown = verdict_of("", made), plan_text(made, "d", 200, False)
    for one in (row, found):
        assert (one.verdict, one.stores_gone, one.stores_open, one.data_loss_ms) == ("unknown", 0, 1, None)
    assert "Stores not restored" not in shown
    assert "Not restored, because it is unknown how much data the copies lack: orders" in shown
    monkeypatch.setattr(LostStore, "in_doubt", None)
    made = plan(estate, lose("a"))
    assert {one.state for one in made.outcomes} == {"unplaced"}
    found_alone = {(one.rule, one.subject) for one in check(estate, made).violations}
    assert {("F1", "orders"), ("F1", "shop"), ("F1", "bill")} <= found_alone


def test_a_store_needs_no_rpo_if_all_that_needs_it_states_one(tmp_path: Path) -> None:
    for bill, missing in (("rpo: 1 h", False), ("", True)):
        estate = estate_of(tmp_path / f"{missing}", "rpo: 1 h", bill, "")
        paths = {one.path for one in coverage(estate).missing}
        assert bool(paths & {"stores/*/rpo", "stores/orders/rpo"}) == missing


def test_the_checker_finds_the_limit_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever planner and checker share accepts any loss."""
    estate = estate_of(tmp_path, "rpo: 5 s", "", "rpo: 1 h")
    limits = lost_stores.rpos
    monkeypatch.setattr(
        lost_stores,
        "rpos",
        lambda top, of_class: tuple(replace(one, limit_ms=None, whose="") for one in limits(top, of_class)),
    )
    made = plan(estate, lose("a"))
    assert {one.state for one in made.outcomes} == {"restored"}
    assert ("F2", "orders") in {(one.rule, one.subject) for one in check(estate, made).violations}
