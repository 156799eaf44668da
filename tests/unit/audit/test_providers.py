"""External services and their providers: what falls, what a plan says, what the checker finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.auditing import audit_together
from evac.estate.codecs.estate_writer import write
from evac.estate.loading import check as check_estate
from evac.estate.loading import load
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify.check import check
from evac.views.plan_text import plan_text
from tests.kernels import fastest

FILE = """\
evac: 1
as_of: 2026-11-25
sites: {east: {}, west: {}}
pools:
  east-k8s: {site: east, cpu: 100 cores, memory: 400 GiB, disk: 1 TiB}
  west-k8s: {site: west, cpu: 100 cores, memory: 400 GiB, disk: 1 TiB}
providers:
  stripe: {contact: desk, status_page: "https://status.example"}
  okta: {}
services:
  shop: {RUNS, tier: 1, people: 2 K, needs: [checkout]}
  checkout: {RUNS, tier: 0, people: 1 K, needs: [cards, {service: mailer, hard: false}]}
  deploy: {RUNS, needs: [login]}
  wiki: {RUNS}
  cards: {external: true, provider: stripe}
  wallets: {external: true, provider: stripe, needs: [cards]}
  mailer: {external: true}
  login: {external: true, provider: okta}
tools: {deploy: deploy, identity: login}
""".replace(
    "RUNS",
    "demand: {cpu: 1 core, memory: 1 GiB}, replicas: {east-k8s: 2, west-k8s: 2}, share: 50 %, start: 9 s,"
    " traffic: {kind: none}",
)


def estate_of(folder: Path, text: str = FILE) -> Estate:
    path = folder / "estate.yaml"
    path.write_text(text)
    return load(path)


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    return estate_of(tmp_path_factory.mktemp("providers"))


@pytest.fixture(scope="module")
def lost(estate: Estate) -> Plan:
    with fastest():
        return plan(estate, lose("provider:stripe"))


def test_no_loss_of_ours_takes_an_external_service(estate: Estate) -> None:
    report = audit(estate)
    for row in report.rows:
        taken = {one.service for one in row.fates(report.services)} & {"cards", "wallets", "mailer", "login"}
        assert not taken or row.kind == "provider", row.domain


def test_the_audit_lists_what_falls_with_each_provider_tools_included(estate: Estate) -> None:
    found = {f.subject: f for f in audit(estate).findings if f.rule == "provider-lost"}
    assert {name: f.severity for name, f in found.items()} == {
        "provider:stripe": "warning",
        "provider:okta": "warning",
        "provider:mailer": "note",
    }
    assert "(cards, wallets): 2 services down (checkout, shop)" in found["provider:stripe"].message
    assert (
        "Only the provider (desk, https://status.example) can restore it" in found["provider:stripe"].message
    )
    assert "Only the provider can restore it" in found["provider:okta"].message
    assert found["provider:stripe"].chain[:2] == ("checkout", "cards")
    assert "recovery tools lost: deploy (deploy), identity (login)" in found["provider:okta"].message
    assert "1 service degraded (checkout)" in found["provider:mailer"].message


def test_a_provider_that_fails_with_a_site_is_not_restored(estate: Estate) -> None:
    (row,) = audit_together(audit(estate), ("east", "provider:stripe")).rows
    names = tuple(service.id for service in estate.services)
    fates = {one.service: one.fate for one in row.fates(names)}
    assert (fates["shop"], fates["checkout"], fates["wiki"]) == ("lost", "lost", "degraded")


def test_the_plan_says_that_only_the_provider_can_restore_it(estate: Estate, lost: Plan) -> None:
    outcomes = {one.service: one for one in lost.outcomes}
    assert set(outcomes) == {"cards", "wallets", "checkout", "shop"}
    assert {one.state for one in outcomes.values()} == {"unplaced"}
    assert {one.recovery_ms for one in outcomes.values()} == {None}
    assert outcomes["cards"].reason == "only its provider stripe can restore it, and the time is unknown"
    assert outcomes["shop"].reason == "needs checkout, which is not restored"
    assert lost.steps == ()
    assert check(estate, lost).holds


def test_a_plan_that_restores_what_a_provider_took_is_refused(estate: Estate, lost: Plan) -> None:
    """The checker walks the needs by itself, whatever it was given of the loss."""
    for name in ("cards", "shop"):
        lie = tuple(
            replace(one, state="restored", recovery_ms=0, why=None) if one.service == name else one
            for one in lost.outcomes
        )
        rules = {(v.rule, v.subject) for v in check(estate, replace(lost, outcomes=lie)).violations}
        assert ("F12", name) in rules
    silent = tuple(replace(one, why=None) for one in lost.outcomes)
    rules = {(v.rule, v.subject) for v in check(estate, replace(lost, outcomes=silent)).violations}
    assert rules == {("F19", "cards"), ("F19", "wallets")}


def test_what_is_written_is_read_back_the_same(estate: Estate, tmp_path: Path) -> None:
    write(estate, tmp_path / "again")
    again = load(tmp_path / "again")
    assert estate_digest(again) == estate_digest(estate)
    assert again.providers == estate.providers
    ours = replace(estate, providers=())
    assert estate_digest(ours) != estate_digest(estate)


def test_replicas_and_domains_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "estate.yaml"
    path.write_text(
        FILE.replace("login: {", "login: {replicas: {east: 1}, ").replace(
            "sites: {", "sites: {'provider:x': {}, "
        )
    )
    found = {one.code: one for one in check_estate(path).diagnostics}
    assert found["external-runs-here"].message == "'login' is external, so it cannot have replicas here"
    assert "reserved for providers" in found["id-taken"].message
    assert found["id-taken"].place.line == 3


def test_a_provider_falls_with_a_group_that_names_it(tmp_path: Path) -> None:
    grouped = FILE.replace(
        "services:", "groups: {cloud: {kind: cloud, members: [east, 'provider:stripe']}}\nservices:", 1
    )
    estate = estate_of(tmp_path, grouped)
    report = audit(estate)
    (row,) = [row for row in report.rows if row.domain == "cloud"]
    fates = {one.service: one.fate for one in row.fates(report.services)}
    assert {name for name, fate in fates.items() if fate == "lost"} == {
        "cards",
        "wallets",
        "checkout",
        "shop",
    }
    assert not [one for one in report.findings if one.rule == "sites-share-fate"], "it takes one site only"
    with fastest():
        made = plan(estate, lose("cloud"))
    outcomes = {one.service: one for one in made.outcomes}
    why = outcomes["cards"].why
    assert why is not None
    assert (why.kind, why.provider) == ("provider", "stripe")
    assert outcomes["wiki"].recovery_ms is not None
    assert check(estate, made).holds
    forged = replace(made, outcomes=tuple(one for one in made.outcomes if one.service != "cards"))
    assert "F12" in {one.rule for one in check(estate, forged).violations}


def test_a_group_of_an_unknown_provider_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "estate.yaml"
    path.write_text(FILE.replace("services:", "groups: {cloud: {members: ['provider:strip']}}\nservices:", 1))
    (found,) = check_estate(path).diagnostics
    assert (found.code, found.hint) == ("name-unknown", "did you mean 'provider:stripe'?")


def test_a_service_of_a_provider_without_stated_users_is_not_said_to_have_none(lost: Plan) -> None:
    rows = {line.split()[0]: line.split() for line in plan_text(lost, "x", 120, False).splitlines() if line}
    assert rows["cards"][:4] == ["cards", "tier", "3", "-"]
    assert rows["shop"][3] == "2,000"
