"""Dumps of clusters: nodes, pods and volumes say where things are; one broken object costs itself only."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import ImportResult, SourceError, import_estate
from evac.estate.importers.imported import Options
from evac.estate.importers.kubernetes.reader import read
from evac.model.estate import Dependency, Estate

ZONE = "topology.kubernetes.io/zone"


def node(name: str, zone: str = "eu-1a", **more: Any) -> dict[str, Any]:
    labels = {ZONE: zone, "node.kubernetes.io/instance-type": "m5.large"} if zone else {}
    status = {
        "allocatable": {"cpu": "1930m", "memory": "7Gi", "ephemeral-storage": "50Gi"},
        "conditions": [{"type": "Ready", "status": more.pop("ready", "True")}],
    }
    return thing("Node", name, "", "v1", labels=labels, status=status, spec=more)


def thing(
    kind: str, name: str, namespace: str = "shop", version: str = "v1", *, owner: str = "", **more: Any
) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "labels": more.pop("labels", {})}
    if namespace:
        meta["namespace"] = namespace
    if owner:
        owner_kind, _, owner_name = owner.partition("/")
        meta["ownerReferences"] = [{"kind": owner_kind, "name": owner_name, "controller": True}]
    return {"apiVersion": version, "kind": kind, "metadata": meta, **more}


def pod(
    name: str, owner: str, at: str, claim: str = "", phase: str = "Running", **labels: str
) -> dict[str, Any]:
    spec: dict[str, Any] = {"nodeName": at, "containers": [{"name": "main", "image": "example/app"}]}
    namespace = "kube-system" if owner.startswith("Node/") else "shop"
    if claim:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return thing("Pod", name, namespace, owner=owner, labels=labels, spec=spec, status={"phase": phase})


def workload(kind: str, name: str, count: int, image: str = "example/app", **spec: Any) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }
    return thing(kind, name, version="apps/v1", spec={"replicas": count, "template": template, **spec})


def shop() -> list[dict[str, Any]]:
    """Two zones and a control plane; a Deployment, a database on volumes, and one of an operator."""
    taint = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    claims = [{"metadata": {"name": "data"}}]
    affinity = {
        "required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": ZONE, "values": ["eu-1b"]}]}]}
    }
    return [
        node("cp-1", taints=taint),
        node("n1"),
        node("n2", "eu-1b"),
        node("n3", "eu-1b", ready="Unknown"),
        workload("Deployment", "web", 3),
        thing("ReplicaSet", "web-6d4b75cb6d", owner="Deployment/web", spec={"replicas": 3}),
        pod("web-1", "ReplicaSet/web-6d4b75cb6d", "n1"),
        pod("web-2", "ReplicaSet/web-6d4b75cb6d", "n2"),
        pod("web-3", "ReplicaSet/web-6d4b75cb6d", "n2"),
        pod("web-old", "ReplicaSet/web-6d4b75cb6d", "n1", phase="Failed"),
        pod("api-1", "ReplicaSet/api-5f9c7d8b9f", "n1"),
        workload("StatefulSet", "db", 1, "postgres:16", volumeClaimTemplates=claims),
        pod("db-0", "StatefulSet/db", "n2", claim="data-db-0"),
        thing("PersistentVolumeClaim", "data-db-0", spec={"volumeName": "pv-7"}),
        thing("PersistentVolume", "pv-7", "", spec={"nodeAffinity": affinity}),
        thing("Cluster", "pay", version="postgresql.cnpg.io/v1", spec={"instances": 2}),
        pod("pay-1", "Cluster/pay", "n1", role="primary"),
        pod("pay-2", "Cluster/pay", "n2", role="replica"),
        thing("Job", "import-1", version="batch/v1", owner="CronJob/import"),
        pod("import-1-x", "Job/import-1", "n1"),
        *(pod(f"kube-proxy-{name}", f"Node/{name}", name) for name in ("cp-1", "n1", "n2", "n3")),
    ]


def dumped(items: list[dict[str, Any]], form: str = "json") -> str:
    body = {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}
    return json.dumps(body, indent=4) + "\n" if form == "json" else yaml.safe_dump(body, sort_keys=True)


def imported(
    tmp_path: Path, text: str, form: str = "json", **options: Any
) -> tuple[Estate, ImportResult, str]:
    source = tmp_path / f"dump.{form}"
    source.write_text(text)
    result = import_estate("kubernetes", source, tmp_path / "estate", options=Options(**options))
    return load(tmp_path / "estate"), result, (tmp_path / "estate" / "imported-kubernetes.yaml").read_text()


@pytest.mark.parametrize(("asked", "told"), [(3, ()), (5, ("web",)), (2, ("web",))])
def test_another_number_of_pods_than_is_asked_for_is_said(
    tmp_path: Path, asked: int, told: tuple[str, ...]
) -> None:
    items = [workload("Deployment", "web", asked) if one["kind"] == "Deployment" else one for one in shop()]
    estate, result, _ = imported(tmp_path, dumped(items))
    assert next(one.replicas for one in estate.services if one.id == "web") == 3
    found = [one.names for one in result.unknown if "running than requested" in one.what]
    assert found == ([told] if told else [])


def lost(
    why: str, living: int, gone: int, kind: str = "Deployment", asked: int | None = None
) -> list[dict[str, Any]]:
    """A workload with pods on one node, and others that are gone. asked: how many are, if not all."""
    items = [node("n1"), node("n2", "eu-1b", ready="Unknown" if why == "not ready" else "True")]
    items.append(workload(kind, "web", living + gone if asked is None else asked))
    if kind == "DaemonSet":
        del items[-1]["spec"]["replicas"]
    pods = [pod(f"web-{n}", f"{kind}/web", "n1" if n < living else "n2") for n in range(living + gone)]
    for one in pods[living:] if why == "deleted" else ():
        one["metadata"]["deletionTimestamp"] = "2026-12-01T09:00:00Z"
    return [*items, *pods]


@pytest.mark.parametrize("why", ["not ready", "deleted"])
@pytest.mark.parametrize(
    ("living", "gone", "kind"),
    [(0, 2, "Deployment"), (1, 1, "Deployment"), (1, 9, "Deployment"), (1, 1, "DaemonSet")],
)
def test_a_pod_that_is_gone_is_no_replica_and_its_service_is_no_smaller(
    tmp_path: Path, living: int, gone: int, kind: str, why: str
) -> None:
    """The API server reports the pods of a lost node as running for minutes."""
    estate, result, _ = imported(tmp_path, dumped(lost(why, living, gone, kind)))
    assert [one.replicas for one in estate.services] == [living + gone]
    rows = tmp_path / "estate" / "replicas.csv"
    assert (rows.read_text().splitlines()[1:] if rows.exists() else []) == [f"web,n1,{living}"][:living]
    assert [one.names for one in result.unknown if "pods on lost nodes" in one.what] == [("web",)]
    assert not [one for one in result.unknown if "running than requested" in one.what]


@pytest.mark.parametrize("scaled", [True, False])
def test_the_number_of_replicas_of_an_autoscaled_service_with_lost_pods(tmp_path: Path, scaled: bool) -> None:
    """What the autoscaler wants is in the Deployment; with lost pods, such a service is always named."""
    items = lost("not ready", 3, 2, asked=2)
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 9}
    if scaled:
        items.append(thing("HorizontalPodAutoscaler", "web", version="autoscaling/v2", spec=spec))
    estate, result, _ = imported(tmp_path, dumped(items))
    assert [one.replicas for one in estate.services] == [3]
    assert [one.names for one in result.unknown if "pods on lost nodes" in one.what] == [("web",)] * scaled


@pytest.mark.parametrize("why", ["not ready", "deleted"])
@pytest.mark.parametrize(
    ("pods", "members"),
    [
        ([("n2", "primary"), ("n1", "primary")], [("n1", "primary")]),
        ([("n2", "primary"), ("n1", "replica")], [("n1", "async")]),
        ([("n2", "replica"), ("n1", "primary")], [("n1", "primary")]),
        ([("n2", "primary")], []),
        ([("n1", "primary"), ("n3", "primary"), ("n2", "replica")], [("n1", "async"), ("n3", "async")]),
    ],
)
def test_a_pod_that_is_gone_is_no_copy_of_a_database(
    tmp_path: Path, pods: list[tuple[str, str]], members: list[tuple[str, str]], why: str
) -> None:
    """Two that are labelled as primary were an estate that evac itself refused."""
    items = [node("n1"), node("n2", "eu-1b", ready="Unknown" if why == "not ready" else "True"), node("n3")]
    items.append(thing("Cluster", "pay", version="postgresql.cnpg.io/v1", spec={"instances": 2}))
    for n, (at, role) in enumerate(pods):
        items.append(pod(f"pay-{n}", "Cluster/pay", at, role=role))
        if why == "deleted" and at == "n2":
            items[-1]["metadata"]["deletionTimestamp"] = "2026-12-01T09:00:00Z"
    estate, _, _ = imported(tmp_path, dumped(items))
    assert [(one.at, one.mode) for store in estate.stores for one in store.members] == members


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_nodes_become_servers_and_pods_say_where_replicas_are(tmp_path: Path, form: str) -> None:
    estate, result, written = imported(tmp_path, dumped(shop(), form), form)
    assert [site.id for site in estate.sites] == ["eu-1a", "eu-1b"]
    assert [pool.id for pool in estate.pools] == ["eu-1a-control-plane", "eu-1a-k8s", "eu-1b-k8s"]
    assert {pool.id: pool.capacity[0] for pool in estate.pools}["eu-1b-k8s"] == 1_930, "n3 is not ready"
    rows = (tmp_path / "estate" / "replicas.csv").read_text().splitlines()
    assert rows == ["service,target,count", "api,n1,1", "db,n2,1", "web,n1,1", "web,n2,2"]
    servers = (tmp_path / "estate" / "servers.csv").read_text().splitlines()
    assert "n1,eu-1a,m5.large,serving,eu-1a-k8s,1930,7168,50" in servers
    assert any(line.startswith("n3,eu-1b,m5.large,dark") for line in servers)
    assert {d.code for d in result.diagnostics} == {"import-node-unavailable"}
    assert not result.partial, "what the dump says of the node is known"
    assert "Deployment in shop" in written, "the owner of a pod whose Deployment is not in the dump"


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_volumes_and_operators_say_where_data_is(tmp_path: Path, form: str) -> None:
    estate, _, _ = imported(tmp_path, dumped(shop(), form), form)
    stores = {store.id: store for store in estate.stores}
    assert [(m.at, m.mode) for m in stores["db-data"].members] == [("eu-1b", "primary")]
    assert [(m.at, m.mode) for m in stores["pay"].members] == [("n1", "primary"), ("n2", "async")]
    assert stores["pay"].automatic is True


LEFT_OUT: Any = [
    (),
    ("PersistentVolumeClaim",),
    ("PersistentVolume",),
    ("PersistentVolumeClaim", "PersistentVolume"),
]


@pytest.mark.parametrize("kinds", LEFT_OUT)
@pytest.mark.parametrize("pods", [True, False])
def test_a_store_is_located_by_what_the_dump_has_or_named_as_nowhere(
    tmp_path: Path, kinds: tuple[str, ...], pods: bool
) -> None:
    items = [
        one
        for one in shop()
        if one["kind"] not in kinds and (pods or not one["metadata"]["name"].startswith(("db-0", "pay-")))
    ]
    estate, result, _ = imported(tmp_path, dumped(items))
    named = {d.message.rsplit("'", 2)[1]: d for d in result.diagnostics if d.code == "import-store-nowhere"}
    stores = {store.id: {member.at for member in store.members} for store in estate.stores}
    assert {name for name, places in stores.items() if not places} == named.keys()
    assert stores["db-data"] == ({"eu-1b"} if pods or not kinds else set())
    assert stores["pay"] == ({"n1", "n2"} if pods else set())
    assert all(one.place.line > 1 and "overlay" in one.hint for one in named.values())


def test_an_address_of_the_cluster_is_its_service_and_another_one_is_external(tmp_path: Path) -> None:
    front = workload("Deployment", "front", 1)
    env = [{"name": "WEB_ADDR", "value": "10.96.0.7:80"}, {"name": "DB_HOST", "value": "192.168.7.9"}]
    front["spec"]["template"]["spec"]["containers"][0]["env"] = env
    web = thing("Service", "web", spec={"selector": {"app": "web"}, "clusterIP": "10.96.0.7"})
    estate, result, _ = imported(tmp_path, dumped([*shop(), front, web]))
    (found,) = [one for one in estate.services if one.id == "front"]
    assert {(need.target, need.hard) for need in found.needs} == {("web", True), ("192.168.7.9", False)}
    assert ("192.168.7.9",) in [one.names for one in result.unknown]


def test_a_named_site_holds_the_whole_cluster(tmp_path: Path) -> None:
    estate, _, _ = imported(tmp_path, dumped([node("n1", ""), node("n2", "")]), site="fra")
    assert [site.id for site in estate.sites] == ["fra"]
    assert len(estate.fleet) == 2


def test_nodes_without_a_zone_ask_for_the_site(tmp_path: Path) -> None:
    _, result, _ = imported(tmp_path, dumped([node("n1", ""), workload("Deployment", "web", 1)]))
    (nowhere,) = [d for d in result.diagnostics if d.code == "import-host-nowhere"]
    assert "--site" in nowhere.hint
    assert nowhere.place.line > 1


def test_namespaces_can_be_chosen(tmp_path: Path) -> None:
    text = dumped([*shop(), thing("Pod", "lone", "other", spec={"containers": []})])
    estate, _, _ = imported(tmp_path, text, namespaces=("shop",))
    assert "lone" not in {service.id for service in estate.services}
    assert len(estate.fleet) == 4


def test_workloads_without_pods_run_in_the_only_pool(tmp_path: Path) -> None:
    estate, _, _ = imported(tmp_path, dumped([node("n1"), workload("Deployment", "web", 2)]))
    assert estate.services[0].replicas == 2
    assert len(estate.replicas) == 1


def test_one_broken_object_is_skipped_with_its_place(tmp_path: Path) -> None:
    text = yaml.safe_dump(workload("Deployment", "web", 1)) + "---\nkind: Deployment\nmetadata: [\n---\n"
    text += "kind: ConfigMap\nmetadata: {name: a}\ndata: {x: *nothing}\n---\n"
    text += "kind: StatefulSet\nmetadata: {name: db}\nspec: 3\n"
    estate, result, _ = imported(tmp_path, text, "yaml")
    assert [service.id for service in estate.services] == ["web"]
    skipped = [d for d in result.diagnostics if d.code == "import-skipped"]
    assert len(skipped) == 3
    assert all(d.severity == "warning" and d.place.line > 1 and d.hint for d in skipped)


def test_a_database_whose_name_no_store_can_have_is_named(tmp_path: Path) -> None:
    database = thing("Cluster", "ord[ers", version="postgresql.cnpg.io/v1", spec={"instances": 2})
    client = workload("Deployment", "web", 1)
    secret = {"name": "URI", "valueFrom": {"secretKeyRef": {"name": "ord[ers-app", "key": "uri"}}}
    client["spec"]["template"]["spec"]["containers"][0]["env"] = [secret]
    with pytest.raises(SourceError) as caught:  # without its store, `web` would need nothing
        imported(tmp_path, dumped([client, database]))
    assert "ord[ers" in caught.value.diagnostics[0].message


def test_merge_keys_and_tags_that_say_nothing_new(tmp_path: Path) -> None:
    text = (
        "kind: Deployment\nmetadata: {name: web}\nx: &base {replicas: 3}\n"
        "spec:\n  !!merge <<: *base\n  template: {spec: {containers: [{name: !!str a}]}}\n"
    )
    estate, _, _ = imported(tmp_path, text, "yaml")
    assert estate.services[0].replicas == 3


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_truncated_dump_is_refused_and_nothing_is_written(tmp_path: Path, form: str) -> None:
    text = dumped(shop(), form)
    source = tmp_path / f"dump.{form}"
    for part in (3, 2):
        source.write_text(text[: len(text) * (part - 1) // part])
        with pytest.raises(SourceError) as caught:
            import_estate("kubernetes", source, tmp_path / "estate")
        (problem,) = caught.value.diagnostics
        assert problem.code == "import-truncated"
        assert problem.place.line > 10
        assert "kubectl get" in problem.hint
        assert not (tmp_path / "estate").exists()


def test_a_template_names_the_place_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "chart.yaml"
    source.write_text("kind: Deployment\nmetadata:\n  name: {{ .Values.name }}\n")
    with pytest.raises(SourceError) as caught:
        import_estate("kubernetes", source, tmp_path / "estate")
    (problem,) = caught.value.diagnostics
    assert (problem.place.line, "helm template" in problem.hint) == (3, True)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_template_of_json_is_named_as_one(tmp_path: Path, indent: int | None) -> None:
    objects = [node(f"n{number}") for number in range(200)]
    text = json.dumps(
        {"kind": "List", "items": [*objects, {"kind": "Deployment", "spec": 4711}]}, indent=indent
    )
    source = tmp_path / "dump.json"
    source.write_text(text.replace("4711", "{{ .Values.spec }}"))
    with pytest.raises(SourceError) as caught:
        import_estate("kubernetes", source, tmp_path / "estate")
    (problem,) = caught.value.diagnostics
    assert problem.message == "dump.json is a template, not a manifest"
    assert "helm template" in problem.hint
    source.write_text(text.replace("4711", "{ 4711 }"))
    with pytest.raises(SourceError) as caught:
        import_estate("kubernetes", source, tmp_path / "estate")
    assert "is not JSON" in caught.value.diagnostics[0].message


def test_lists_of_the_api_server_name_no_kind_in_their_items(tmp_path: Path) -> None:
    items = [{key: value for key, value in node("n1").items() if key not in ("kind", "apiVersion")}]
    text = json.dumps({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items})
    estate, _, _ = imported(tmp_path, text)
    assert len(estate.fleet) == 1


def test_connection_strings_pod_names_and_secrets(tmp_path: Path) -> None:
    env = [
        {"name": "PGHOST_NAME", "value": "db"},
        {"name": "DSN", "value": "host=$(PGHOST_NAME) port=5432 dbname=x"},
        {"name": "ADO", "value": "Host=ado;Port=5432;Password=x"},
        {"name": "JDBC", "value": "jdbc:postgresql://jdbc-a:5432,jdbc-b:5432/x"},
        {"name": "CACHE", "value": "redis://:secret@cache:6379/0"},
        {"name": "FIRST", "value": "tcp://log-0.log.shop.svc.cluster.local:9092"},
        {"name": "MAIL_HOST", "value": "mail"},
        {"name": "PAY", "valueFrom": {"secretKeyRef": {"name": "pay-app", "key": "uri"}}},
        {"name": "SELF", "value": "https://kubernetes.default.svc"},
    ]
    web = workload("Deployment", "web", 1)
    web["spec"]["template"]["spec"]["containers"][0]["env"] = env
    items = [web, thing("Cluster", "pay", version="postgresql.cnpg.io/v1", spec={"instances": 2})]
    for name in ("db", "ado", "jdbc-a", "jdbc-b", "cache", "log"):
        items += [workload("Deployment", name, 1), thing("Service", name, spec={"selector": {"app": name}})]
    items.append(thing("Service", "mail", spec={"type": "ExternalName", "externalName": "smtp.example.com"}))
    estate, _, _ = imported(tmp_path, dumped(items))
    needs = next(s for s in estate.services if s.id == "web").needs
    hard = [(need.kind, need.target) for need in needs if need.hard]
    services = [("service", name) for name in ("ado", "cache", "db", "jdbc-a", "jdbc-b", "log")]
    assert hard == [*services, ("store", "pay")]
    assert [need.target for need in needs if not need.hard] == ["smtp.example.com"]


def test_a_name_in_a_namespace_or_of_a_pod_is_no_host_of_another_company(tmp_path: Path) -> None:
    web = workload("Deployment", "web", 1)
    hosts = [
        "gone.shop",
        "db-0.db",
        "db-1.db-headless",
        "api.example",
        "shop-1.io",
        "pg.databases",
        "nats.mq",
    ]
    env = [{"name": f"H{at}_HOST", "value": host} for at, host in enumerate(hosts)]
    web["spec"]["template"]["spec"]["containers"][0]["env"] = env
    empty = thing("Service", "nats", "mq", spec={"selector": {"app": "nats"}})
    estate, _, _ = imported(tmp_path, dumped([web, empty]))
    assert {one.id: one.external for one in estate.services if one.id != "web"} == {
        "pg.databases.svc": False,
        "nats.mq.svc": False,
        "gone.shop.svc": False,
        "db-0.db.shop.svc": False,
        "db-1.db-headless.shop.svc": False,
        "api.example": True,
        "shop-1.io": True,
    }


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_what_operators_of_others_run_is_a_store_or_is_named(tmp_path: Path, form: str) -> None:
    job = thing("Pod", "test-connection", spec={"containers": [{"name": "t", "image": "busybox"}]})
    job["metadata"]["annotations"] = {"helm.sh/hook": "test"}
    scaled = workload("Deployment", "web", 1)
    del scaled["spec"]["replicas"]
    span = {"minReplicaCount": 3, "maxReplicaCount": 20, "scaleTargetRef": {"name": "web"}}
    items = [
        node("n1"),
        node("n2", unschedulable=True),
        *(pod(f"kube-proxy-{name}", f"Node/{name}", name) for name in ("n1", "n2")),
        thing("Dragonfly", "cache", version="dragonflydb.io/v1alpha1", spec={"replicas": 2}),
        thing("Neo4jCluster", "graph", version="neo4j.com/v1"),
        thing("KafkaTopic", "orders", version="kafka.strimzi.io/v1"),
        thing("Cluster", "kb", version="apps.kubeblocks.io/v1"),
        job,
        scaled,
        thing("ScaledObject", "web", version="keda.sh/v1alpha1", spec=span),
        {**workload("CloneSet", "cs", 2), "apiVersion": "apps.kruise.io/v1alpha1"},
    ]
    estate, result, written = imported(tmp_path, dumped(items, form), form)
    assert [(one.id, one.engine) for one in estate.stores] == [("cache", "redis")]
    assert [(one.id, one.replicas) for one in estate.services] == [("cs", 2), ("web", 3)]
    assert "autoscaled up to 20 replicas" in written
    assert [pool.capacity[0] for pool in estate.pools] == [1_930], "n2 takes no pods"
    said = [one.message for one in result.diagnostics if one.code in ("import-skipped", "import-ignored")]
    assert sorted(words.partition(":")[0].removeprefix("1 of kind ") for words in said) == [
        "Cluster (apps.kubeblocks.io)",
        "KafkaTopic",
        "Neo4jCluster",
        "Pod (a test of its Helm chart)",
    ]
    assert [one.severity for one in result.diagnostics if "Neo4j" in one.message] == ["warning"]


def test_limits_count_where_nothing_is_requested_and_priority_gives_the_tier(tmp_path: Path) -> None:
    web = workload("Deployment", "web", 1)
    web["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "2"}}
    web["spec"]["template"]["spec"]["priorityClassName"] = "low"
    classes = [
        thing("PriorityClass", "high", "", "scheduling.k8s.io/v1", value=1000),
        thing("PriorityClass", "low", "", "scheduling.k8s.io/v1", value=10),
    ]
    estate, _, written = imported(tmp_path, dumped([web, *classes]))
    assert estate.services[0].demand[0] == 2_000
    assert estate.services[0].tier == 1
    assert "priority class low" in written


SHOP = dumped(shop())
SIGNS = ["", "{", "}", "[", "]", ":", "\n", "-", "\x00", "9" * 30, "é", '"', "null", "---\n"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_altered_dumps_never_end_in_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    text = list(data.draw(st.sampled_from([SHOP, dumped(shop()[:6], "yaml")])))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(
            st.sampled_from(
                ["", "{", "}", "[", "]", ":", "\n", "-", "\x00", "9" * 30, "é", '"', "null", "---\n"]
            )
        )
    source = tmp_path / "dump.json"
    source.write_text("".join(text))
    problems = Problems()
    read(source, problems, Options())
    assert all(one.code and one.message for one in problems.all())


KNATIVE = "serving.knative.dev"


def knative(name: str, *, visible: bool = True, **annotations: str) -> dict[str, Any]:
    template = {
        "metadata": {"annotations": {f"autoscaling.knative.dev/{key}": v for key, v in annotations.items()}},
        "spec": {"containers": [{"image": "example/app", "resources": {"requests": {"cpu": "500m"}}}]},
    }
    labels = {} if visible else {f"networking.{KNATIVE[8:]}/visibility": "cluster-local"}
    status = {"url": f"https://{name}.shop.example.com"}
    return thing(
        "Service", name, version=f"{KNATIVE}/v1", labels=labels, spec={"template": template}, status=status
    )


def test_a_service_of_knative_is_one_service_and_not_its_gateway(tmp_path: Path) -> None:
    """What Knative makes for a Service (revisions, Deployments, an alias of the gateway) is part of it."""
    made = {f"{KNATIVE}/service": "cart", f"{KNATIVE}/revision": "cart-00002"}
    caller = workload("Deployment", "web", 1)
    caller["spec"]["template"]["spec"]["containers"][0]["env"] = [
        {"name": "CART_URL", "value": "http://cart.shop.svc.cluster.local"},
        {"name": "PAY_URL", "value": "https://pay.shop.example.com"},
        {"name": "TAX_URL", "value": "http://tax.shop"},
    ]
    deployment = workload("Deployment", "cart-00002-deployment", 2)
    deployment["metadata"] |= {
        "labels": made,
        "ownerReferences": [{"kind": "Revision", "name": "cart-00002"}],
    }
    items = [
        node("n1"),
        caller,
        knative("cart", **{"min-scale": "1"}),
        knative("pay", visible=False, minScale="2", maxScale="9"),
        knative("tax"),
        thing("Service", "cart", spec={"type": "ExternalName", "externalName": "kourier.kourier-system.svc"}),
        thing("Revision", "cart-00002", version=f"{KNATIVE}/v1", owner="Configuration/cart", labels=made),
        deployment,
        thing(
            "ReplicaSet",
            "cart-00002-deployment-abc123",
            owner="Deployment/cart-00002-deployment",
            labels=made,
        ),
        pod("cart-1", "ReplicaSet/cart-00002-deployment-abc123", "n1", **made),
        pod("cart-2", "ReplicaSet/cart-00002-deployment-abc123", "n1", **made),
    ]
    estate, _, _ = imported(tmp_path, json.dumps({"kind": "List", "items": items}))
    services = {one.id: one for one in estate.services}
    assert {name: one.replicas for name, one in services.items()} == {
        "cart": 2,
        "pay": 2,
        "tax": None,
        "web": 1,
    }
    assert {name for name, one in services.items() if one.traffic.kind} == {"cart", "tax"}
    assert {one.target for one in services["web"].needs if isinstance(one, Dependency)} == {
        "cart",
        "pay",
        "tax",
    }
    assert all(one.hard for one in services["web"].needs if isinstance(one, Dependency))
    assert services["pay"].demand[0] == 500


def test_what_an_operator_of_a_platform_owns_are_services_of_their_own(tmp_path: Path) -> None:
    """They used to be folded into one service with the operator's name, or to vanish without pods."""
    items = [node("n1")]
    for name in ("web", "worker", "mail"):
        item = workload("Deployment", name, 3)
        item["metadata"]["ownerReferences"] = [{"kind": "GitLab", "name": "gitlab", "controller": True}]
        items.append(item)
    items += [pod(f"web-{n}", "ReplicaSet/web-abc123", "n1", app="web") for n in range(3)]
    items += [pod("worker-1", "ReplicaSet/worker-abc123", "n1", app="worker")]
    estate, _, _ = imported(tmp_path, json.dumps({"kind": "List", "items": items}))
    assert {one.id: one.replicas for one in estate.services} == {"mail": 3, "web": 3, "worker": 1}


def test_the_last_of_a_repeated_key_counts_as_it_does_for_helm(tmp_path: Path) -> None:
    """Charts render such objects, and clusters take them; the whole object used to be left out."""
    text = """\
kind: Deployment
metadata:
  name: shop
  labels: {app: a, app: b}
  name: shop-web
spec:
  template: {spec: {containers: [{env: [{name: DB, value: "redis://old"}, {name: DB, value: "redis://new.example"}]}]}}
"""
    (tmp_path / "rendered.yaml").write_text(text)
    result = import_estate("kubernetes", tmp_path / "rendered.yaml", tmp_path / "estate")
    assert [one.id for one in load(tmp_path / "estate").services] == ["new.example", "shop-web"]
    twice = [one for one in result.diagnostics if one.code == "key-twice"]
    assert [(one.place.line, one.severity) for one in twice] == [(4, "warning"), (5, "warning")]
    assert all("last one counts" in one.hint for one in twice)


def test_a_deployment_of_knative_without_its_service_in_the_dump_is_a_service(tmp_path: Path) -> None:
    deployments = []
    for revision in ("cart-00001", "cart-00002"):
        deployments.append(workload("Deployment", f"{revision}-deployment", 2))
        deployments[-1]["metadata"] |= {
            "labels": {f"{KNATIVE}/service": "cart"},
            "ownerReferences": [{"kind": "Revision", "name": revision}],
        }
    estate, _, _ = imported(tmp_path, json.dumps({"kind": "List", "items": [node("n1"), *deployments]}))
    assert [one.id for one in estate.services] == ["cart"]
