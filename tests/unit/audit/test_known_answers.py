"""Known answers: the published causes at Pangyo, and a real estate of two core sites."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from evac.audit import AuditReport, audit
from evac.estate import load
from evac.estate.examples import pangyo
from evac.estate.importers import import_estate
from tests.unit.audit.estates import found

EQIAD = {
    "aux-k8s-ctrl",
    "k8s-ingress-aux",
    "jaeger-collector-grpc",
    "jaeger-collector-http",
    "jaeger-query",
    "cloudelastic-chi-https",
    "cloudelastic-chi-https-public",
    "cloudelastic-omega-https",
    "cloudelastic-omega-https-public",
    "cloudelastic-psi-https",
    "cloudelastic-psi-https-public",
    "datahubsearch",
    "druid-public-broker",
    "k8s-ingress-dse",
    "labweb-ssl",
    "dse-k8s-ctrl",
    "superset",
    "superset-next",
    "mpic",
    "mpic-next",
}
CODFW = {"k8s-ingress-ml-staging", "ml-staging-ctrl", "inference-staging"}
HIDDEN = {"eventgate-analytics", "eventgate-analytics-external", "mw-page-content-change-enrich"}


@pytest.fixture(scope="module")
def wikimedia(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wikimedia")
    import_estate("wikimedia", shared_data / "wikimedia", target)
    return target


def _swapped(folder: Path, target: Path) -> Path:
    """The same estate with the names of the two core sites exchanged everywhere."""
    for path in sorted(folder.iterdir()):
        text = path.read_text(encoding="utf-8")
        text = text.replace("eqiad", "\0").replace("codfw", "eqiad").replace("\0", "codfw")
        (target / path.name).write_text(text, encoding="utf-8")
    return target


def assert_answers(report: AuditReport, first: str, second: str) -> None:
    rows = {row.domain: row for row in report.rows}
    lost = {name: {f.service for f in rows[name].fates(report.services) if f.fate == "lost"} for name in rows}
    assert lost[first] == EQIAD | HIDDEN
    assert lost[second] == CODFW
    single = found(report, "single-site-service")
    assert {f.subject for f in single if first in f.domains} == EQIAD
    assert {f.subject for f in single if second in f.domains} == CODFW
    hidden = found(report, "hidden-single-site")
    assert {f.subject for f in hidden} == HIDDEN
    assert all(f.domains == (first,) and "jumbo" in f.chain[-1] for f in hidden)
    assert {f.severity for f in (*single, *hidden)} == {"error"}


@pytest.mark.data
def test_wikimedia_loses_what_is_known(wikimedia: Path) -> None:
    assert_answers(audit(load(wikimedia)), "eqiad", "codfw")


@pytest.mark.data
def test_wikimedia_with_sites_swapped_loses_the_same(wikimedia: Path, tmp_path: Path) -> None:
    assert_answers(audit(load(_swapped(wikimedia, tmp_path))), "codfw", "eqiad")


@cache
def company(mended: bool, servers: int = 3_000) -> AuditReport:
    return audit(pangyo(servers=servers, mended=mended))


@pytest.mark.parametrize("servers", [1_000, 3_000])
def test_the_mended_company_has_no_error(servers: int) -> None:
    report = company(True, servers)
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert all(row.lost == 0 and row.late == 0 for row in report.rows)


@pytest.mark.parametrize(
    "rule",
    [
        "recovery-tool-lost",  # the system that redistributes, and the work tools, stood in Pangyo only
        "capacity-short",  # too little spare capacity elsewhere
        "no-copy-outside",  # stores without a copy elsewhere
        "single-site-service",
        "hidden-single-site",
        "servers-by-hand",  # 32,000 servers booted by hand
        "power-budget-exceeded",
        "quorum-in-one-domain",
        "traffic-cannot-move",
    ],
)
def test_each_published_cause_is_an_error(rule: str) -> None:
    report = company(False)
    errors = [f for f in found(report, rule) if f.severity == "error"]
    assert errors
    if rule not in ("power-budget-exceeded",):
        assert any("pangyo" in f.domains for f in errors)


def test_the_redistribution_system_needs_itself() -> None:
    finding = next(f for f in found(company(False), "recovery-tool-lost") if f.subject == "redistribution")
    assert finding.severity == "error"
    assert finding.domains[0] == "pangyo"
    assert finding.chain[0] == "redistribution"
    assert any("redistribution (for start)" in link for link in finding.chain)


def test_the_loss_of_a_site_was_never_rehearsed() -> None:
    assert {f.subject for f in found(company(False), "never-rehearsed")} >= {"pangyo", "anyang"}
    assert not found(company(True), "never-rehearsed")
