"""Manifests become services, needs and stores; what they do not say stays unknown."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from evac.estate import load
from evac.estate.importers import ImportResult, SourceError, import_estate, import_recipe
from evac.estate.importers.kubernetes.amounts import parse_amount
from evac.model.estate import Dependency, Estate


def imported(tmp_path: Path, text: str, overlay: str = "") -> tuple[Estate, ImportResult, str]:
    source = tmp_path / "manifests.yaml"
    source.write_text(text)
    given = None
    if overlay:
        given = tmp_path / "given.yaml"
        given.write_text(overlay)
    result = import_estate("kubernetes", source, tmp_path / "estate", overlay=given)
    return load(tmp_path / "estate"), result, (tmp_path / "estate" / "imported-kubernetes.yaml").read_text()


def deployment(
    name: str,
    pod: str = "containers: [{name: main}]",
    spec: str = "",
    kind: str = "Deployment",
    meta: str = "",
) -> str:
    return (
        f"---\napiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}{meta}}}\n"
        f"spec: {{{spec} template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{{pod}}}}}}}\n"
    )


def service(name: str, kind: str = "ClusterIP", selects: str = "") -> str:
    return (
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{type: {kind}, selector: {{app: {selects or name}}}}}\n"
    )


@pytest.fixture(scope="module")
def boutique(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Estate, ImportResult]:
    source = Path(request.getfixturevalue("shared_data")) / "online-boutique" / "kubernetes-manifests.yaml"
    if not source.is_file():
        pytest.skip("the manifests in ../shared/data/online-boutique are not on this machine")
    target = tmp_path_factory.mktemp("boutique") / "estate"
    result = import_estate("kubernetes", source, target)
    return load(target), result


@pytest.mark.data
def test_boutique_has_twelve_services_and_sixteen_calls(boutique: tuple[Estate, ImportResult]) -> None:
    estate, result = boutique
    assert (result.services, result.servers) == (13, 0), "twelve, and one that is called from outside"
    needs = [(s.id, need) for s in estate.services for need in s.needs]
    calls = [(name, need.target) for name, need in needs if need.kind == "service"]
    assert len(calls) == 17
    assert ("cartservice", "redis-cart") in calls
    assert ("loadgenerator", Dependency("frontend", "service", needed_to="start")) in needs
    services = {s.id: s for s in estate.services}
    assert {s.replicas for name, s in services.items() if name != "shoppingassistantservice"} == {1}
    assert services["redis-cart"].demand == (70, 200, None, None)
    assert services["adservice"].demand == (200, 180, None, None)
    assert services["frontend"].traffic.kind == "load_balancer"
    assert services["cartservice"].traffic.kind is None


@pytest.mark.data
def test_boutique_call_to_a_service_that_is_not_deployed_is_reported(
    boutique: tuple[Estate, ImportResult],
) -> None:
    estate, result = boutique
    (dangling,) = [d for d in result.diagnostics if d.code == "import-dangling"]
    assert str(dangling.place) == "kubernetes-manifests.yaml:90:20"
    assert "shoppingassistantservice" in dangling.message
    frontend = next(s for s in estate.services if s.id == "frontend")
    assert Dependency("shoppingassistantservice", "service", hard=False) in frontend.needs
    assert next(u for u in result.unknown if u.what.startswith("services with an internal name")).count == 1


@pytest.mark.data
def test_boutique_cart_has_a_store_that_nothing_can_back_up(boutique: tuple[Estate, ImportResult]) -> None:
    estate, _ = boutique
    (store,) = estate.stores
    assert (store.id, store.engine, store.members, store.backups) == (
        "redis-cart-redis-data",
        "redis",
        (),
        (),
    )
    redis = next(s for s in estate.services if s.id == "redis-cart")
    assert redis.needs == (Dependency(store.id, "store"),)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100m", Fraction(1, 10)),
        ("2", 2),
        ("0.5", Fraction(1, 2)),
        ("1.", 1),
        (".5", Fraction(1, 2)),
        ("64Mi", 64 * 2**20),
        ("1e3", 1_000),
        ("2E2", 200),
        ("3E", 3 * 10**18),
        ("1Ki", 1_024),
        ("5k", 5_000),
        ("7n", Fraction(7, 10**9)),
        ("1.5Gi", 3 * 2**29),
        ("", None),
        ("1 Gi", None),
        ("-1", None),
        ("NaN", None),
        ("1e999", None),
        ("1GB", None),
    ],
)
def test_amounts(text: str, value: Fraction | None) -> None:
    assert parse_amount(text) == value


def test_what_a_pod_asks_for(tmp_path: Path) -> None:
    pod = (
        "containers: [{name: a, resources: {requests: {cpu: 100m, memory: 1Mi, ephemeral-storage: 1Gi},"
        " limits: {cpu: 4, nvidia.com/gpu: 2}}},"
        " {name: b, resources: {requests: {cpu: 1500u, memory: 100}}}],"
        " initContainers: [{name: first, resources: {requests: {cpu: 3}}},"
        " {name: mesh, restartPolicy: Always, resources: {requests: {cpu: 50m, memory: 1Mi}}}]"
    )
    estate, _, _ = imported(tmp_path, deployment("web", pod))
    assert estate.services[0].demand == (3_000, 3, None, 2)


def test_a_request_that_is_no_amount_stays_unknown(tmp_path: Path) -> None:
    pod = "containers: [{name: a, resources: {requests: {cpu: lots, memory: 1Gi}}}]"
    estate, result, _ = imported(tmp_path, deployment("web", pod))
    assert estate.services[0].demand == (None, 1_024, None, None)
    assert [d.code for d in result.diagnostics] == ["import-word-unknown"]


def test_kinds_of_workloads(tmp_path: Path) -> None:
    job = (
        "---\nkind: CronJob\nmetadata: {name: billing}\nspec: {schedule: '0 3 * * *', jobTemplate: "
        "{spec: {template: {spec: {containers: [{name: a}], priorityClassName: low}}}}}\n"
    )
    text = deployment("agent", kind="DaemonSet") + job + deployment("idle", spec="replicas: 0,")
    text += deployment("db", kind="StatefulSet", spec="replicas: 3,") + deployment("web")
    estate, _, written = imported(tmp_path, text)
    services = {s.id: s for s in estate.services}
    assert {name: s.replicas for name, s in services.items()} == {
        "agent": None,
        "billing": 1,
        "db": 3,
        "idle": None,
        "web": 1,
    }
    assert [name for name, s in services.items() if s.single_run] == ["billing"]
    assert "# CronJob in default; schedule 0 3 * * *; priority class low" in written
    assert "one replica on every node" in written
    assert "scaled to zero" in written


@pytest.mark.parametrize("count", ["three", "-1", "1.5", "[1]", "{}"])
def test_a_count_of_replicas_that_is_no_number_stays_unknown(tmp_path: Path, count: str) -> None:
    estate, result, text = imported(tmp_path, deployment("web", spec=f"replicas: {count}, "))
    assert [d.code for d in result.diagnostics] == ["import-word-unknown"]
    assert "replicas" not in text
    assert estate.services[0].replicas is None


def test_calls_by_address_url_and_config(tmp_path: Path) -> None:
    pod = (
        "containers: [{name: a, env: [{name: CART_ADDR, value: 'cart:70'},"
        " {name: DB, value: 'postgres://u:p@db.default:5432/x'},"
        " {name: SEARCH_URL, valueFrom: {configMapKeyRef: {name: urls, key: search}}},"
        " {name: MAIL_HOST, value: smtp.example.com}, {name: SELF_ADDR, value: 'localhost:1'},"
        " {name: OWN_ADDR, value: web},"
        " {name: BROKERS, value: 'x:1'}, {name: KAFKA_BROKERS, value: 'log:9092,log2:9092'}],"
        " envFrom: [{configMapRef: {name: rest}}], args: ['--ads=http://ads.default.svc.cluster.local:80/x']}]"
    )
    text = deployment("web", pod)
    for name in ("cart", "db", "search", "ads", "log", "tax"):
        text += deployment(name) + service(name)
    text += service("web")
    text += "---\nkind: ConfigMap\nmetadata: {name: urls}\ndata: {search: 'http://search:9200'}\n"
    text += "---\nkind: ConfigMap\nmetadata: {name: rest}\ndata: {TAX_ADDR: 'tax:1'}\n"
    estate, result, _ = imported(tmp_path, text)
    web = next(s for s in estate.services if s.id == "web")
    inside = [need for need in web.needs if need.hard]
    assert [need.target for need in inside] == ["ads", "cart", "db", "log", "search", "tax"]
    assert all(need.needed_to == "serve" for need in web.needs)
    assert [need.target for need in web.needs if not need.hard] == ["log2", "smtp.example.com", "x"]
    assert [d.message for d in result.diagnostics] == [
        "'web' calls 'x' (BROKERS), but no manifest describes that service",
        "'web' calls 'log2' (KAFKA_BROKERS), but no manifest describes that service",
    ]
    named = {u.what.partition(":")[0]: u.names for u in result.unknown if "needed, but" in u.what}
    assert named == {
        "external services": ("smtp.example.com",),
        "services with an internal name": ("log2", "x"),
    }


def test_a_service_that_selects_nothing_and_one_that_selects_two(tmp_path: Path) -> None:
    pod = "containers: [{name: a, env: [{name: A_ADDR, value: 'void:1'}, {name: B_ADDR, value: 'both:1'}]}]"
    text = deployment("web", pod) + service("void", selects="nobody")
    text += deployment("blue").replace("app: blue", "app: both") + deployment("green").replace(
        "app: green", "app: both"
    )
    estate, result, _ = imported(tmp_path, text + service("both"))
    web = next(s for s in estate.services if s.id == "web")
    assert [(need.target, need.hard) for need in web.needs] == [
        ("blue", False),
        ("green", False),
        ("void", False),
    ]
    assert [d.message for d in result.diagnostics] == [
        "'web' calls 'void' (A_ADDR), but no workload is behind that service"
    ]


def test_disruption_budgets_autoscalers_and_spread(tmp_path: Path) -> None:
    affinity = (
        "containers: [{name: a}],"
        " affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector:"
        " {matchExpressions: [{key: app, operator: In, values: [web]}]},"
        " topologyKey: kubernetes.io/hostname}]}}"
    )
    skew = (
        "containers: [{name: a}], topologySpreadConstraints: ["
        "{topologyKey: kubernetes.io/hostname, maxSkew: 2, whenUnsatisfiable: DoNotSchedule},"
        " {topologyKey: topology.kubernetes.io/zone, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway}]"
    )
    text = (
        deployment("web", affinity, "replicas: 5,")
        + deployment("api", skew, "replicas: 8,")
        + deployment("db", spec="replicas: 4,")
    )
    for name, rule in (("web", "minAvailable: 3"), ("api", "minAvailable: 40%"), ("db", "maxUnavailable: 1")):
        text += (
            f"---\nkind: PodDisruptionBudget\nmetadata: {{name: {name}}}\n"
            f"spec: {{{rule}, selector: {{matchLabels: {{app: {name}}}}}}}\n"
        )
    text += (
        "---\nkind: HorizontalPodAutoscaler\nmetadata: {name: web}\n"
        "spec: {scaleTargetRef: {kind: Deployment, name: web}, minReplicas: 2, maxReplicas: 20}\n"
    )
    estate, _, written = imported(tmp_path, text)
    services = {s.id: s for s in estate.services}
    assert {n: s.share for n, s in services.items()} == {
        "web": Fraction(3, 5),
        "api": Fraction(2, 5),
        "db": Fraction(3, 4),
    }
    assert {n: s.spread.per_server for n, s in services.items()} == {"web": 1, "api": 2, "db": 4}
    assert "autoscaled up to 20 replicas at peak" in written
    assert "spread over topology.kubernetes.io/zone with a skew of 1, if possible" in written
    assert (
        next(f for f in estate.facts if f.path == "services/web/share").source
        == "PodDisruptionBudget web, minAvailable 3"
    )


def test_volumes(tmp_path: Path) -> None:
    volumes = "volumes: [{name: v, persistentVolumeClaim: {claimName: books}}, {name: tmp, emptyDir: {}}]"
    claim = "containers: [{name: a, image: 'registry.example:5000/lib/postgres:16@sha256:abc'}], " + volumes
    claim = claim.replace(", {name: tmp, emptyDir: {}}", "")
    reader = "containers: [{name: a}], " + volumes
    own = "volumeClaimTemplates: [{metadata: {name: data}}],"
    text = deployment("books", claim) + deployment("reports", reader)
    text += deployment("log", "containers: [{name: a, image: kafka}]", own, "StatefulSet")
    estate, _, written = imported(tmp_path, text)
    assert [(s.id, s.engine) for s in estate.stores] == [("books", "postgresql"), ("log-data", "kafka")]
    needs = {s.id: [need.target for need in s.needs] for s in estate.services}
    assert needs == {"books": ["books"], "log": ["log-data"], "reports": ["books"]}
    assert "volume claim data of each replica of log" in written


def test_names_stay_short_and_never_clash(tmp_path: Path) -> None:
    text = (
        deployment("web") + deployment("web", meta=", namespace: shop") + deployment("job", kind="DaemonSet")
    )
    text += deployment("job", kind="StatefulSet") + deployment("one", meta=", namespace: shop")
    estate, _, _ = imported(tmp_path, text)
    assert [s.id for s in estate.services] == [
        "default.job.daemonset",
        "default.job.statefulset",
        "default.web",
        "one",
        "shop.web",
    ]


def test_lists_folders_and_what_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    (folder / "apps").mkdir(parents=True)
    (folder / "apps" / "web.yaml").write_text(deployment("web"))
    items = (
        "{kind: Deployment, metadata: {name: api}, spec: {template: {spec: {containers: [{name: a}]}}}}, "
        "{kind: Secret, metadata: {name: s}}"
    )
    (folder / "list.json").write_text(f"{{kind: List, items: [{items}]}}")
    (folder / ".hidden.yaml").write_text(deployment("hidden"))
    result = import_estate("kubernetes", folder, tmp_path / "estate")
    assert [s.id for s in load(tmp_path / "estate").services] == ["api", "web"]
    assert [(d.code, d.message) for d in result.diagnostics] == [
        ("import-ignored", "1 of kind Secret: evac does not use them")
    ]


def test_sites_come_from_the_overlay(tmp_path: Path) -> None:
    overlay = (
        "evac: 1\nsites: {east: {}}\npools: {east-k8s: {site: east}}\n"
        "services: {web: {replicas: {east-k8s: 2}, tier: 1}}\n"
    )
    estate, result, _ = imported(tmp_path, deployment("web", spec="replicas: 2,"), overlay)
    assert estate.services[0].replicas == 2
    assert len(estate.replicas) == 1
    assert not any("nowhere" in u.what for u in result.unknown)


def test_the_example_overlay_is_valid_once_its_signs_are_gone(tmp_path: Path) -> None:
    pod = "containers: [{name: a, image: redis}], volumes: [{name: v, emptyDir: {}}]"
    imported(tmp_path, deployment("web", pod, "replicas: 2,"))
    overlay = tmp_path / "estate" / "overlay.yaml"
    overlay.write_text("\n".join(line.removeprefix("# ") for line in overlay.read_text().splitlines()[3:]))
    estate = load(tmp_path / "estate")
    assert len(estate.replicas) == 1
    assert estate.stores[0].primary is not None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("kind: Deployment\n", "import-shape"),
        ("a: {{ .Values.name }}\n", "import-shape"),
        ("kind: [", "yaml-syntax"),
        (deployment("'a b'"), "import-name"),
        ("kind: Deployment\nmetadata: {name: web}\nspec: 3\n", "import-shape"),
        ("kind: Deployment\nmetadata: {name: web}\nspec: {template: [x]}\n", "import-shape"),
        ("kind: Pod\nmetadata: {name: web}\nspec: {containers: 3}\n", "import-shape"),
        ("kind: !!python/object:x {}\n", "yaml-tag"),
        ("[" * 60, "too-deep"),
        ('{"kind": "List", "items": [{"kind": "Pod", "spec": ' + "[" * 300 + "]" * 300 + "}]}", "too-deep"),
        ('{"kind": "List", "items": [{"kind": "Pod", "spec": ' + "[" * 100_000, "too-deep"),
    ],
)
def test_sources_that_cannot_be_imported(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, text)
    assert code in {d.code for d in caught.value.diagnostics}
    assert not (tmp_path / "estate").exists()


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        import_estate("kubernetes", tmp_path / "nothing.yaml", tmp_path / "estate")
    assert [d.code for d in caught.value.diagnostics] == ["import-source-missing"]


def test_bombs_of_many_documents_are_refused_together(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 5)]
    documents = [f"kind: Ingress\nmetadata: {{name: x{n}}}\n" + "\n".join(rows) + "\n" for n in range(40)]
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, "---\n".join(documents))
    assert [d.code for d in caught.value.diagnostics] == ["too-many-values"]


def test_a_cluster_that_follows_another_one_has_no_primary(tmp_path: Path) -> None:
    """One database over two Kubernetes clusters: one primary, and nobody promotes across by themselves."""
    for site in ("east", "west"):
        (tmp_path / f"{site}.yaml").write_text(f"""\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata: {{name: {site}-n1}}
  status: {{allocatable: {{cpu: "4", memory: 8Gi}}}}
- apiVersion: postgresql.cnpg.io/v1
  kind: Cluster
  metadata: {{name: orders, namespace: shop}}
  spec: {{instances: 1, replica: {{primary: orders-east, source: orders-east, self: orders-{site}}}}}
- apiVersion: v1
  kind: Pod
  metadata:
    name: orders-1
    namespace: shop
    labels: {{cnpg.io/cluster: orders, cnpg.io/instanceRole: primary}}
    ownerReferences: [{{apiVersion: postgresql.cnpg.io/v1, kind: Cluster, name: orders, controller: true}}]
  spec: {{nodeName: {site}-n1, containers: [{{name: postgres, image: "postgres:16"}}]}}
  status: {{phase: Running}}
""")
    (tmp_path / "estate.yaml").write_text("""\
recipe: 1
into: company
sources:
  east: {kind: kubernetes, from: east.yaml, site: east}
  west: {kind: kubernetes, from: west.yaml, site: west}
""")
    import_recipe(tmp_path / "estate.yaml")
    (store,) = load(tmp_path / "company").stores
    assert {one.at: one.mode for one in store.members} == {"east-n1": "primary", "west-n1": "async"}
    assert store.automatic is None


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("levels", [300, 50_000])
@pytest.mark.parametrize("as_list", [True, False])
def test_an_object_that_is_nested_too_deeply_stops_no_other_one(
    tmp_path: Path, levels: int, as_list: bool
) -> None:
    deep = [
        f'{{"kind": "Workflow", "metadata": {{"name": "w"}}, "spec": {nested(levels)}}}',
        f'{{"kind": "Deployment", "metadata": {{"name": "odd"}}, "spec": {nested(levels)}}}',
    ]
    good = [
        f'{{"kind": "Deployment", "metadata": {{"name": "{name}"}}, "spec": {{}}}}' for name in ("a", "b")
    ]
    objects = [good[0], *deep, good[1]]
    text = '{"kind": "List", "items": [\n' + ",\n".join(objects) + "]}" if as_list else "\n".join(objects)
    estate, result, _ = imported(tmp_path, text)
    assert {one.id for one in estate.services} == {"a", "b"}
    assert result.partial
    skipped = [(one.message, one.place.line) for one in result.diagnostics if one.code == "import-skipped"]
    assert all("nested more than 256 levels deep" in words for words, _ in skipped)
    assert max(line for _, line in skipped) == 3 + as_list
    if levels == 300:
        assert [words.partition(" is skipped")[0] for words, _ in skipped] == ["Deployment 'odd'"]
        assert any("1 of kind Workflow" in one.message for one in result.diagnostics)


def test_use_of_nodes_is_unknown_if_a_skipped_object_may_be_a_pod(tmp_path: Path) -> None:
    pod = {"metadata": {"name": "dns", "namespace": "kube-system"}, "spec": {"nodeName": "n"}}
    labels = {"topology.kubernetes.io/zone": "fra"}
    node = {
        "kind": "Node",
        "metadata": {"name": "n", "labels": labels},
        "status": {"allocatable": {"cpu": "4"}},
    }
    objects = [json.dumps({"kind": "Pod", **pod, "status": {"phase": "Running"}}), json.dumps(node)]
    (tmp_path / "whole").mkdir()
    (tmp_path / "deep").mkdir()
    _, result, _ = imported(tmp_path / "whole", "\n".join(objects))
    assert "import-use-unknown" not in {one.code for one in result.diagnostics}
    odd = f'{{"kind": "Pod", "metadata": {{"name": "x"}}, "spec": {nested(300)}}}'
    _, result, _ = imported(tmp_path / "deep", "\n".join([*objects, odd]))
    assert "import-use-unknown" in {one.code for one in result.diagnostics}
