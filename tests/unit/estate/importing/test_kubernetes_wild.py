"""Manifests as projects publish them: all of it comes in, and every database is a store."""

from pathlib import Path

import pytest

from evac.estate import load
from evac.estate.importers import ImportResult, SourceError, import_estate
from evac.model.estate import Estate

pytestmark = pytest.mark.data


@pytest.fixture
def wild(shared_data: str) -> Path:
    folder = Path(shared_data) / "kubernetes-wild"
    if not folder.is_dir():
        pytest.skip("the manifests in ../shared/data/kubernetes-wild are not on this machine")
    return folder


def imported(source: Path, target: Path) -> tuple[Estate, ImportResult]:
    result = import_estate("kubernetes", source, target)
    assert not [d for d in result.diagnostics if d.severity == "error"]
    return load(target), result


def test_argo_cd_with_its_deep_definitions(wild: Path, tmp_path: Path) -> None:
    estate, _ = imported(wild / "argo-cd" / "install.yaml", tmp_path / "estate")
    assert len(estate.services) == 7
    assert [(store.id, store.engine) for store in estate.stores] == [("argocd-redis-data", "redis")]
    needs = {s.id: {need.target for need in s.needs} for s in estate.services}
    assert needs["argocd-redis"] == {"argocd-redis-data"}


def test_argo_cd_in_both_variants_keeps_the_first_and_reports_the_second(wild: Path, tmp_path: Path) -> None:
    _, result = imported(wild / "argo-cd", tmp_path / "estate")
    twice = [d for d in result.diagnostics if d.code == "import-twice"]
    assert any("'argocd-server' is described twice" in d.message for d in twice)
    assert all(d.place.line > 0 for d in twice)


def test_cloudnative_pg_clusters_are_stores_with_instances_and_backups(wild: Path, tmp_path: Path) -> None:
    estate, _ = imported(wild / "cloudnative-pg", tmp_path / "estate")
    stores = {store.id for store in estate.stores}
    assert {"cluster-example", "cluster-dc-a", "cluster-dc-b", "pg-backup"} <= stores
    assert len(stores) > 40
    assert {store.engine for store in estate.stores} == {"postgresql"}
    written = (tmp_path / "estate" / "imported-kubernetes.yaml").read_text()
    (comment,) = [
        before
        for before, line in zip(written.splitlines(), written.splitlines()[1:], strict=False)
        if line.startswith("  cluster-dc-b:")
    ]
    assert "3 instances" in comment
    assert "a replica of cluster-dc-a" in comment
    assert "backed up to s3://backups/" in comment


def test_strimzi_counts_the_brokers_of_its_node_pools(wild: Path, tmp_path: Path) -> None:
    estate, _ = imported(wild / "strimzi" / "kafka" / "kafka-jbod.yaml", tmp_path / "estate")
    assert [(store.id, store.engine) for store in estate.stores] == [("my-cluster", "kafka")]
    written = (tmp_path / "estate" / "imported-kubernetes.yaml").read_text()
    assert "Strimzi Kafka in default, 3 instances" in written, "controllers hold no data of users"


def test_zalando_clusters_and_roles_defined_twice(wild: Path, tmp_path: Path) -> None:
    estate, result = imported(wild / "zalando-postgres-operator", tmp_path / "estate")
    engines = {store.id: store.engine for store in estate.stores}
    assert engines["acid-test-cluster"] == "postgresql"
    assert set(engines.values()) == {"postgresql"}
    assert "postgres-operator" in {service.id for service in estate.services}
    assert all(d.code != "import-skipped" for d in result.diagnostics)


def test_bank_of_anthos_finds_databases_in_images_of_its_own(wild: Path, tmp_path: Path) -> None:
    estate, result = imported(wild / "bank-of-anthos", tmp_path / "estate")
    assert [(s.id, s.engine) for s in estate.stores] == [
        ("accounts-db-postgresdb", "postgresql"),
        ("ledger-db-postgresdb", "postgresql"),
    ]
    assert [str(d.place) for d in result.diagnostics if d.code == "import-no-volume"] == [
        "accounts-db.yaml:62:9",
        "ledger-db.yaml:63:9",
    ]
    needs = {s.id: {need.target for need in s.needs} for s in estate.services}
    assert "accounts-db" in needs["userservice"], "by the address in a ConfigMap"
    assert "ledger-db" in needs["balancereader"], "by a JDBC address"
    assert {"userservice", "balancereader", "ledgerwriter"} <= needs["frontend"]


def test_strict_refuses_what_would_be_left_out(wild: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        import_estate("kubernetes", wild / "argo-cd", tmp_path / "estate", strict=True)
    assert {d.code for d in caught.value.diagnostics if d.severity == "error"} == {"import-twice"}
    assert not (tmp_path / "estate").exists()
