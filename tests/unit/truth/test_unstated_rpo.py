"""A store that comes back with a loss of data, and does not say how much it may lose: it is unknown whether
that will do. Only what needs the store is in doubt, and one line of the estate ends it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import AuditReport, audit
from evac.audit.auditing import headline
from evac.audit.impacts import planned
from evac.model.estate import Estate
from evac.model.scenario import Policy, lose
from evac.office.reckoning import loss_by, verdict_of, what_if_of
from evac.planning.plan import plan
from evac.verify import check
from evac.views.audit_view import audit_json
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, verdict_words
from evac.views.plan_view import answer as plan_answer
from evac.web.pages.what_if_view import _heading
from tests.unit.truth.written import written

ESTATE = """
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {people: 9, tier: 1, replicas: {pb: 1}, start: 1 s, needs: [{store: orders}], REST}
  desk: {people: 9, tier: 1, replicas: {pb: 1}, start: 1 s, needs: [shop], REST}
  mail: {people: 9, tier: 1, replicas: {pa: 1}, start: 1 s, REST}
stores:
  orders: {engine: x, fence: 1 s, promote: 1 s, sync_timeout: 0 s, members: MEMBERS, RPO}
""".replace("REST", "demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}")
BEHIND = "[{at: a, mode: primary}, {at: b, mode: async, lag: 10 min}]"
SILENT = "[{at: a, mode: primary}, {at: b, mode: async}]"
SILENT_AND_BEHIND = f"{SILENT[:-1]}, {{at: c, mode: async, lag: 10 min}}]"
SYNC = "[{at: a, mode: primary}, {at: b, mode: sync}]"
BACKUP = "[{at: a, mode: primary}], backups: [{at: b, size: 1 GiB, age: 1 h, restore: 1 Gbit/s}]"
OLD_OR_UNKNOWN = (
    "[{at: a, mode: primary}], backups: [{at: b, size: 1 GiB, age: 1 h, restore: 1 Gbit/s},"
    " {at: c, size: 1 GiB, restore: 1 Gbit/s}]"
)
WHY = "cannot be judged: rpo of store orders"


def estate_of(folder: Path, members: str, rpo: str) -> Estate:
    text = ESTATE.replace("MEMBERS", members).replace(", RPO", f", {rpo}" if rpo else "")
    return written(folder, text)


def states(estate: Estate, policy: Policy = Policy()) -> dict[str, str]:  # noqa: B008 - frozen
    """What a checked plan of the loss of a says of each service that it affects."""
    made = plan(estate, lose("a"), policy=policy)
    assert check(estate, made).holds
    assert [step.target for step in made.steps if step.kind == "promote"] == ["orders"] * any(
        one.candidate and not one.restored for one in made.stores
    )
    return {one.service: one.state for one in made.outcomes}


def fates(report: AuditReport) -> dict[str, str]:
    row = next(row for row in report.rows if row.domain == "a")
    return {one.service: one.fate for one in row.fates(report.services)}


@pytest.mark.parametrize(
    ("members", "rpo", "state"),
    [
        (BEHIND, "rpo: 1 h", "restored"),
        (BEHIND, "rpo: 5 s", "unplaced"),
        (BEHIND, "rpo: unlimited", "restored"),
        (BEHIND, "objectives: {site: {rpo: unlimited}}", "restored"),
        (BEHIND, "objectives: {region: {rpo: unlimited}}", "unknown"),
        (BEHIND, "", "unknown"),
        (SILENT, "rpo: 1 h", "unknown"),
        (SILENT_AND_BEHIND, "rpo: 1 h", "restored"),
        (SILENT_AND_BEHIND, "rpo: 5 s", "unknown"),
        (OLD_OR_UNKNOWN, "rpo: 1 min", "unknown"),
        (SILENT, "rpo: unlimited", "restored"),
        (SILENT, "", "unknown"),
        (SYNC, "", "restored"),
        (BACKUP, "rpo: 2 h", "restored"),
        (BACKUP, "rpo: unlimited", "restored"),
        (BACKUP, "", "unknown"),
    ],
)
def test_without_an_rpo_nobody_knows_whether_a_loss_of_data_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: str, rpo: str, state: str
) -> None:
    estate = estate_of(tmp_path, members, rpo)
    assert states(estate) == {"shop": state, "desk": state, "mail": "restored"}
    fate = {"restored": "recovers", "unplaced": "lost"}.get(state, state)
    assert fates(audit(estate)) == {"shop": fate, "desk": fate, "mail": "recovers"}
    for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
        monkeypatch.setattr(planned, most, 0)
    report = audit(estate)
    assert fates(report) == {"shop": fate, "desk": fate, "mail": "recovers"}
    said = [(f.severity, f.message, f.fix) for f in report.findings if f.subject == "stores/*/rpo"]
    stated = rpo.startswith("rpo:") or "site" in rpo
    assert [(severity, message) for severity, message, _ in said] == (
        []
        if stated
        else [
            (
                "warning" if state == "unknown" else "note",
                "unknown for 1 store: how much data may be lost (orders)",
            )
        ]
    )
    assert all(fix.endswith("Write `rpo: unlimited` if any loss is acceptable.") for _, _, fix in said)


@pytest.mark.parametrize("needs", ["", "needs: [{store: orders, hard: false}]"])
@pytest.mark.parametrize(
    ("members", "rpo", "verdict"),
    [
        (BEHIND, "", "unknown"),
        (SILENT, "", "unknown"),
        (BACKUP, "", "unknown"),
        (BEHIND, "objectives: {region: {rpo: unlimited}}", "unknown"),
        (BEHIND, "objectives: {site: {rpo: unlimited}}", "ok"),
        (BEHIND, "rpo: unlimited", "ok"),
        (SILENT, "rpo: 1 h", "unknown"),
        (SILENT, "rpo: unlimited", "ok"),
        (BEHIND, "rpo: 1 h", "ok"),
        (BEHIND, "rpo: 5 s", "loss"),
        (SYNC, "", "ok"),
    ],
)
def test_a_loss_of_data_is_in_doubt_although_no_service_waits_for_the_store(
    tmp_path: Path, members: str, rpo: str, verdict: str, needs: str
) -> None:
    text = ESTATE.replace("needs: [{store: orders}], ", f"{needs}, " if needs else "")
    text = text.replace("replicas: {pa: 1}", "replicas: {pb: 1}")
    text = text.replace("MEMBERS", members).replace(", RPO", f", {rpo}" if rpo else "")
    estate = written(tmp_path, text)
    made, report = plan(estate, lose("a")), audit(estate)
    assert check(estate, made).holds
    found = verdict_of("", made)
    row = next(row for row in report.rows if row.domain == "a")
    assert (found.verdict, row.verdict) == (verdict, verdict)
    if verdict == "unknown":
        words = "1 store may lose too much data: its rpo or lag is not stated"
        assert words in found.words
        assert words in headline(report, row).what
        answer = what_if_of(report, ("a",))
        planned = replace(answer, loss=loss_by(answer.loss, found))
        none = needs == ""
        for loss in (answer.loss, planned.loss):
            assert (loss.verdict, loss.stores_open) == ("unknown", 1)
        assert answer.loss.because == words
        for heading in (_heading(answer), _heading(planned)):
            assert heading.endswith(f" {words}.")
            assert heading.startswith("Losing a affects no service.") or not none
        assert verdict_words(made).endswith(f"; {words}")
        assert not none or verdict_words(made) == f"no service is affected; {words}"
        assert plan_answer(Planned(made, "d"))[1] == "unknown"
        assert f"{words}." in plan_answer(Planned(made, "d"))[0]
        scenario = next(
            one for one in json.loads(audit_json(report, ()))["scenarios"] if one["domain"] == "a"
        )
        assert scenario["stores_open"] == 1
        shown = plan_text(made, "d", 200, False)
        fact = "lag" if rpo.startswith("rpo") else "rpo"
        said = {
            "rpo": "May lose data, and no rpo states how much may be lost: orders",
            "lag": "Not restored, because it is unknown how much data the copies lack: orders",
        }
        assert said[fact] in shown
        assert not [line for line in shown.splitlines() if "favourable" in line and "rpo" in line]
        assert made.attest == made.unknown
        assert f"stores/orders/{fact}" in made.unknown
        assert (verdict_of("", made, made).verdict, verdict_of("", made, made).stores_open) == ("ok", 0)
        waived = plan(estate, lose("a"), policy=Policy(waivers=("orders",)))
        assert verdict_of("", waived).verdict == "ok"


@pytest.mark.parametrize("members", [BEHIND, SILENT, BACKUP])
def test_the_checker_finds_alone_what_may_lose_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: str
) -> None:
    """Whatever planner and checker share says that any loss is accepted."""
    estate = estate_of(tmp_path, members, "")
    monkeypatch.setattr("evac.derive.lost_stores.rpo_is_open", lambda rpo, ways: False)
    made = plan(estate, lose("a"))
    assert {one.service: one.state for one in made.outcomes}["desk"] == "restored"
    found = {(one.rule, one.subject) for one in check(estate, made).violations}
    assert found == {("F1", "orders"), ("F1", "shop"), ("F1", "desk")}


def test_a_plan_promotes_the_copy_all_the_same_and_says_what_is_not_stated(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, BEHIND, "")
    made = plan(estate, lose("a"))
    assert [step.candidate for step in made.steps if step.kind == "promote"] == ["b"]
    assert {one.reason for one in made.outcomes if one.state == "unknown"} == {WHY}
    assert "stores/orders/rpo" in made.unknown
    assert verdict_words(made).endswith(f"2 {WHY}")


def test_who_waives_the_data_by_name_has_said_that_its_loss_will_do(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, BEHIND, "")
    assert states(estate, Policy(waivers=("orders",)))["shop"] == "restored"
