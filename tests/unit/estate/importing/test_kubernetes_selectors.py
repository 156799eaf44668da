"""A Service that selects the pods of an operator's database leads to its store, also without these pods."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import import_estate
from evac.estate.importers.imported import Options
from evac.estate.importers.kubernetes.operators import OPERATORS
from evac.estate.importers.running import read_source
from evac.model.estate import Estate

OBJECTS = {key: operator for known in OPERATORS.values() for key, operator in known.items()}
"""Group and kind -> its operator."""
SELECTABLE = sorted(key for key, operator in OBJECTS.items() if operator.labels)


def of(kind: str, name: str, spec: dict[str, Any], group: str = "v1") -> dict[str, Any]:
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": "prod"}, "spec": spec}


def imported(folder: Path, *objects: dict[str, Any]) -> Estate:
    folder.mkdir(exist_ok=True)
    source = folder / "objects.json"
    source.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": list(objects)}))
    import_estate("kubernetes", source, folder / "estate")
    return load(folder / "estate")


def caller(host: str) -> dict[str, Any]:
    containers = [{"name": "a", "image": "shop", "env": [{"name": "DATA_HOST", "value": host}]}]
    return of(
        "Deployment", "shop", {"replicas": 2, "template": {"spec": {"containers": containers}}}, "apps/v1"
    )


def stores_needed(estate: Estate) -> list[tuple[str, bool]]:
    (shop,) = (one for one in estate.services if one.id == "shop")
    return sorted((need.target, need.hard) for need in shop.needs if need.kind == "store")


@pytest.mark.parametrize(
    ("group", "kind", "selector"),
    [
        (
            "postgresql.cnpg.io/v1",
            "Cluster",
            {"cnpg.io/cluster": "orders", "cnpg.io/instanceRole": "primary"},
        ),
        ("postgresql.cnpg.io/v1", "Cluster", {"postgresql": "orders", "role": "primary"}),
        ("acid.zalan.do/v1", "postgresql", {"cluster-name": "orders", "spilo-role": "master"}),
        ("acid.zalan.do/v1", "postgresql", {"application": "spilo", "cluster-name": "orders"}),
        (
            "postgres-operator.crunchydata.com/v1beta1",
            "PostgresCluster",
            {
                "postgres-operator.crunchydata.com/cluster": "orders",
                "postgres-operator.crunchydata.com/role": "master",
            },
        ),
        (
            "pxc.percona.com/v1",
            "PerconaXtraDBCluster",
            {
                "app.kubernetes.io/instance": "orders",
                "app.kubernetes.io/name": "percona-xtradb-cluster",
            },
        ),
        (
            "psmdb.percona.com/v1",
            "PerconaServerMongoDB",
            {"app.kubernetes.io/instance": "orders", "app.kubernetes.io/name": "percona-server-mongodb"},
        ),
        ("mongodbcommunity.mongodb.com/v1", "MongoDBCommunity", {"app": "orders-svc"}),
        (
            "kafka.strimzi.io/v1beta2",
            "Kafka",
            {"strimzi.io/cluster": "orders", "strimzi.io/kind": "Kafka", "strimzi.io/name": "orders-kafka"},
        ),
        (
            "elasticsearch.k8s.elastic.co/v1",
            "Elasticsearch",
            {
                "common.k8s.elastic.co/type": "elasticsearch",
                "elasticsearch.k8s.elastic.co/cluster-name": "orders",
            },
        ),
        ("rabbitmq.com/v1beta1", "RabbitmqCluster", {"app.kubernetes.io/name": "orders"}),
        (
            "databases.spotahome.com/v1",
            "RedisFailover",
            {"app.kubernetes.io/name": "orders", "app.kubernetes.io/part-of": "redis-failover"},
        ),
        ("redis.redis.opstreelabs.in/v1beta2", "RedisReplication", {"app": "orders", "role": "replication"}),
    ],
)
def test_a_service_that_selects_an_operators_pods_leads_to_the_store(
    tmp_path: Path, group: str, kind: str, selector: dict[str, str]
) -> None:
    database = of(kind, "orders", {}, group)
    own = of("Service", "front", {"selector": selector})
    estate = imported(tmp_path / "one", database, own, caller("front"))
    assert stores_needed(estate) == [("orders", True)]
    other = of("Service", "front", {"selector": {**selector, "app.kubernetes.io/component": "website"}})
    assert stores_needed(imported(tmp_path / "two", database, other, caller("front"))) == []


@pytest.mark.parametrize("key", SELECTABLE, ids=[kind for _, kind in SELECTABLE])
def test_only_the_store_whose_name_the_selector_has_is_needed(key: tuple[str, str], tmp_path: Path) -> None:
    labels = OBJECTS[key].labels
    naming = {label: text for label, text in labels.items() if "{name}" in text}
    assert naming, "without one, every database of the kind would be selected"
    databases = [of(key[1], name, {}, f"{key[0]}/v1") for name in ("orders", "users")]
    for label, text in naming.items():
        for name in ("orders", "users", "others"):
            own = of("Service", "front", {"selector": {label: text.format(name=name)}})
            estate = imported(
                tmp_path / f"{list(naming).index(label)}-{name}", *databases, own, caller("front")
            )
            assert stores_needed(estate) == ([] if name == "others" else [(name, True)])
    for label in labels.keys() - naming.keys():
        own = of("Service", "front", {"selector": {label: labels[label]}})
        assert stores_needed(imported(tmp_path / "all", *databases, own, caller("front"))) == []


def test_a_workload_behind_a_service_counts_before_a_database_of_that_name(tmp_path: Path) -> None:
    labels = {"app.kubernetes.io/name": "orders"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "web"}]}}
    web = of("Deployment", "web", {"replicas": 2, "template": template}, "apps/v1")
    queue = of("RabbitmqCluster", "orders", {}, "rabbitmq.com/v1beta1")
    front = of("Service", "front", {"selector": labels})
    estate = imported(tmp_path / "one", queue, web, front, caller("front"))
    (shop,) = (one for one in estate.services if one.id == "shop")
    assert [(need.kind, need.target) for need in shop.needs] == [("service", "web")]


def test_a_service_of_a_pooler_and_one_in_another_namespace(tmp_path: Path) -> None:
    database = of("Cluster", "orders", {}, "postgresql.cnpg.io/v1")
    pooler = of("Pooler", "orders-pool", {"cluster": {"name": "orders"}}, "postgresql.cnpg.io/v1")
    front = of("Service", "front", {"selector": {"cnpg.io/poolerName": "orders-pool"}})
    assert stores_needed(imported(tmp_path / "one", database, pooler, front, caller("front"))) == [
        ("orders", True)
    ]
    away = of("Service", "front", {"selector": {"cnpg.io/cluster": "orders"}})
    away["metadata"]["namespace"] = "other"
    assert stores_needed(imported(tmp_path / "two", database, away, caller("front.other"))) == []


def calls_made(source: Path) -> int:
    """How many functions the import of a source calls."""
    count = 0

    def profile(*_: Any) -> None:
        nonlocal count
        count += 1

    problems = Problems()
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        read_source("kubernetes", source, problems, Options())
    finally:
        sys.setprofile(before)
    assert not problems.has_errors
    return count


@pytest.mark.parametrize("how", ["selector", "secret"])
def test_four_times_the_databases_take_four_times_the_work(how: str, tmp_path: Path) -> None:
    made = []
    for number in (50, 200):
        objects = []
        for name in (f"db{i}" for i in range(number)):
            objects.append(of("Cluster", name, {}, "postgresql.cnpg.io/v1"))
            objects.append(of("Service", f"to-{name}", {"selector": {"cnpg.io/cluster": name}}))
            env = {"name": "DATA_HOST", "value": f"to-{name}"}
            if how == "secret":
                env = {"name": "A", "valueFrom": {"secretKeyRef": {"name": f"{name}-app", "key": "uri"}}}
            template = {"spec": {"containers": [{"name": "a", "image": "shop", "env": [env]}]}}
            spec = {"replicas": 2, "template": template}
            objects.append(of("Deployment", f"app-{name}", spec, "apps/v1"))
        source = tmp_path / f"{number}.json"
        source.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}))
        made.append(calls_made(source))
    assert made[1] < 4.5 * made[0]


@pytest.mark.parametrize(
    ("group", "kind", "secret"),
    [
        ("postgresql.cnpg.io/v1", "Cluster", "orders-app"),
        ("acid.zalan.do/v1", "postgresql", "shop.orders.credentials"),
        ("acid.zalan.do/v1", "postgresql", "shop.orders.credentials.postgresql.acid.zalan.do"),
        ("postgres-operator.crunchydata.com/v1beta1", "PostgresCluster", "orders-pguser-shop"),
        ("mongodbcommunity.mongodb.com/v1", "MongoDBCommunity", "orders-admin-shop"),
    ],
)
def test_the_secret_of_an_operator_leads_to_the_store_of_its_name(
    group: str, kind: str, secret: str, tmp_path: Path
) -> None:
    databases = [of(kind, name, {}, group) for name in ("orders", "users")]
    for number, (name, expected) in enumerate(
        {secret: [("orders", True)], f"x{secret}x": [], secret.replace("orders", "others"): []}.items()
    ):
        env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": name, "key": "uri"}}}]
        template = {"spec": {"containers": [{"name": "a", "image": "shop", "env": env}]}}
        shop = of("Deployment", "shop", {"replicas": 2, "template": template}, "apps/v1")
        assert stores_needed(imported(tmp_path / f"{number}", *databases, shop)) == expected
