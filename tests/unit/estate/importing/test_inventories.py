"""Ansible, NetBox and Terraform: machines as servers where they are, and nothing secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from evac.estate import load
from evac.estate.importers import ImportResult, Options, SourceError, import_estate
from evac.model.estate import Estate
from evac.model.fleet import SERVER_STATES


def imported(tmp_path: Path, kind: str, body: Any, **options: Any) -> tuple[Estate, ImportResult, str]:
    source = tmp_path / f"{kind}.json"
    source.write_text(json.dumps(body, indent=2))
    result = import_estate(kind, source, tmp_path / "estate", options=Options(**options))
    written = "".join(path.read_text() for path in sorted((tmp_path / "estate").iterdir()))
    return load(tmp_path / "estate"), result, written


INVENTORY: dict[str, Any] = {
    "_meta": {
        "hostvars": {
            "web-1": {
                "datacenter": "fra",
                "rack": "r1",
                "ansible_processor_vcpus": 16,
                "db_password": "hunter2",
            },
            "web-2": {"ansible_memtotal_mb": 64_000, "status": "levitating", "long": "x" * 9_000},
            "db-1": {"cpus": "32", "memory": "512 GiB", "model": "R 740"},
            "lost": {},
            "no/name": {"datacenter": "fra"},
        }
    },
    "all": {"children": ["ungrouped", "site_muc", "web", "databases"]},
    "site_muc": {"hosts": ["web-2", "db-1"]},
    "web": {"hosts": ["web-1", "web-2", "lost"]},
    "databases": {"children": ["postgres"]},
    "postgres": {"hosts": ["db-1"]},
}


def test_an_inventory_has_its_hosts_where_variables_and_groups_say(tmp_path: Path) -> None:
    estate, result, written = imported(tmp_path, "ansible", INVENTORY)
    assert [site.id for site in estate.sites] == ["fra", "muc"]
    assert estate.fleet.name.tolist() == [b"db-1", b"web-1", b"web-2"]
    assert estate.fleet.capacity[:, :2].tolist() == [[32_000, 524_288], [16_000, 0], [0, 64_000]]
    assert [SERVER_STATES[code] for code in estate.fleet.state] == ["serving", "serving", "condemned"]
    assert [(s.id, s.replicas) for s in estate.services] == [("postgres", 1), ("web", 2)]
    assert {d.code for d in result.diagnostics} == {
        "import-host-nowhere",
        "import-name-changed",
        "import-skipped",
        "import-word-unknown",
        "replicas-do-not-add-up",
    }
    assert all(d.place.line > 1 for d in result.diagnostics)
    assert "hunter2" not in written


def test_a_group_of_a_place_whose_hosts_name_another_place_is_said(tmp_path: Path) -> None:
    variables = {"a": {"datacenter": "dd"}, "b": {}}
    body = {
        "_meta": {"hostvars": variables},
        "rz_dresden": {"hosts": ["a", "b"]},
        "web": {"hosts": ["a", "b"]},
    }
    estate, result, _ = imported(tmp_path, "ansible", body)
    assert [site.id for site in estate.sites] == ["dd", "dresden"]
    assert [service.id for service in estate.services] == ["web"]
    assert [one.code for one in result.diagnostics] == ["import-conflict"]
    variables["b"] = variables["a"]
    _, result, _ = imported(tmp_path, "ansible", body)
    assert result.diagnostics == ()


def test_a_group_of_all_hosts_of_a_site_is_no_service(tmp_path: Path) -> None:
    """It is one where its hosts have nothing else, as it may be all that the company runs there."""
    places = {"web-1": "fra", "db-1": "fra", "web-2": "ber", "solo-1": "muc"}
    inventory = {
        "_meta": {"hostvars": {name: {"datacenter": site} for name, site in places.items()}},
        "all": {"children": ["production"]},
        "production": {"children": ["frankfurt", "berlin", "web", "databases", "solo"]},
        "frankfurt": {"hosts": ["web-1", "db-1"]},
        "berlin": {"hosts": ["web-2"]},
        "web": {"hosts": ["web-1", "web-2"]},
        "databases": {"hosts": ["db-1"]},
        "solo": {"hosts": ["solo-1"]},
    }
    estate, result, _ = imported(tmp_path, "ansible", inventory)
    assert [service.id for service in estate.services] == ["databases", "solo", "web"]
    assert [one.code for one in result.diagnostics] == ["import-ignored"] * 2


def test_a_project_sets_variables_as_ansible_ranks_them_and_groups_in_a_place_are_there(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    files = {
        "inventory.json": {
            "_meta": {
                "hostvars": {
                    "w1": {
                        "cpus": "{{ size }}",
                        "size": 8,
                        "model": "old",
                        "serial": {"__ansible_vault": "x"},
                    },
                    "w2": {"cpus": "{{ nothing }}", "model": "old"},
                    "d1": {"memory": "{{ gigs }} GiB", "cpus": "{{ 2 * 4 }}"},
                }
            },
            "region_eu": {"children": ["site_fra", "site_muc"]},
            "site_fra": {"children": ["web_fra", "db"]},
            "site_muc": {"children": ["web_muc"]},
            "web": {"children": ["web_fra", "web_muc"]},
            "web_fra": {"hosts": ["w1"]},
            "web_muc": {"hosts": ["w2"]},
            "db": {"hosts": ["d1"]},
        },
        "site.yml": [
            {
                "hosts": "web",
                "vars": {"model": "play", "rack": "r1"},
                "vars_files": ["vars/all.yml", "../up.yml"],
            },
            {"hosts": "db,other", "roles": ["pg"], "vars_files": ["vars/gone.yml"]},
            {"hosts": "web:!web_muc", "vars": {"rack": "r9"}},
        ],
        "vars/all.yml": {"model": "file"},
        "roles/pg/defaults/main.yml": {"gigs": 4, "cpus": 2, "status": "spare"},
        "roles/pg/vars/main.yaml": {"gigs": 16},
    }
    for name, body in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(json.dumps(body))
    (project / "roles/pg/vars/main.yaml").write_text(
        "gigs: 16\npassword: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n"
    )
    (tmp_path / "up.yml").write_text("model: outside")
    result = import_estate("ansible", project, tmp_path / "estate", options=Options())
    rows = (tmp_path / "estate" / "servers.csv").read_text().splitlines()
    assert rows == [
        "server,site,rack,class,state,cpu_millicores,memory_mib",
        "d1,fra,,,spare,,16384",
        "w1,fra,fra/r1,file,,8000,",
        "w2,muc,muc/r1,file,,,",
    ]
    assert [(s.id, s.replicas) for s in load(tmp_path / "estate").services] == [("db", None), ("web", 2)]
    said = sorted((one.code, one.message.partition("'")[2].partition("'")[0]) for one in result.diagnostics)
    assert said == [
        ("import-skipped", "gone.yml"),
        ("import-skipped", "up.yml"),
        ("import-skipped", "web:!web_muc"),
        ("import-word-unknown", "{{ 2 * 4 }}"),
        ("import-word-unknown", "{{ nothing }}"),
    ]


def project_of(tmp_path: Path, files: dict[str, Any]) -> Path:
    """A project with two servers in the group web; its files are JSON, which is YAML."""
    hosts = {name: {"datacenter": "fra"} for name in ("w1", "d1")}
    inventory = {"_meta": {"hostvars": hosts}, "web": {"hosts": ["w1"]}, "db": {"hosts": ["d1"]}}
    for name, body in {"inventory.json": inventory, **files}.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body))
    return tmp_path / "project"


def test_a_later_file_or_role_of_a_play_overrides_an_earlier_one_for_a_list_of_hosts(tmp_path: Path) -> None:
    files = {
        "site.yml": [
            {"hosts": ["web", "db"], "vars_files": ["one.yaml_", "two.yaml_"], "roles": ["a", {"role": "b"}]},
            {"hosts": ["web", ["db"]], "vars": {"model": "odd"}},
            {"hosts": {"web": 1}, "vars": {"model": "odd"}},
        ],
        "one.yaml_": {"rack": "r1"},
        "two.yaml_": {"rack": "r2"},
        "roles/a/vars/main.yml": {"model": "a"},
        "roles/b/vars/main.yml": {"model": "b"},
        "roles/a/defaults/main.yml": {"cpus": 1},
        "roles/b/defaults/main.yml": {"cpus": 2},
    }
    result = import_estate("ansible", project_of(tmp_path, files), tmp_path / "estate", options=Options())
    rows = (tmp_path / "estate" / "servers.csv").read_text().splitlines()
    assert rows == [
        "server,site,rack,class,cpu_millicores",
        *(f"{n},fra,fra/r2,b,2000" for n in ("d1", "w1")),
    ]
    assert [one.code for one in result.diagnostics] == ["import-skipped"] * 2


@pytest.mark.parametrize(
    ("role", "why"),
    [
        ("../../outside", "it is outside the folder"),
        ("{outside}", "it is outside the folder"),
        ("linked", "it is outside the folder"),
        ("x" * 300, "File name too long"),
        ("a\0b", "its name is not valid"),
        ("loop", "Too many levels of symbolic links"),
        ("missing", None),
    ],
)
def test_a_role_is_read_in_the_project_only_and_a_name_that_cannot_be_read_is_said(
    tmp_path: Path, role: str, why: str | None
) -> None:
    outside = tmp_path / "outside"
    (outside / "vars").mkdir(parents=True)
    (outside / "vars" / "main.yml").write_text("model: outside")
    name = role.format(outside=outside)
    project = project_of(tmp_path, {"site.yml": [{"hosts": "web", "roles": [name]}]})
    (project / "roles").mkdir()
    (project / "roles" / "linked").symlink_to(outside)
    (project / "roles" / "loop").symlink_to("loop")
    result = import_estate("ansible", project, tmp_path / "estate", options=Options())
    assert "outside" not in (tmp_path / "estate" / "servers.csv").read_text()
    assert {(one.code, one.hint) for one in result.diagnostics} == (
        {("import-skipped", why)} if why else set()
    )


def test_hosts_without_a_place_are_at_the_site_that_is_named(tmp_path: Path) -> None:
    estate, _, _ = imported(tmp_path, "ansible", INVENTORY, site="ham")
    assert "ham" in {site.id for site in estate.sites}
    assert b"lost" in estate.fleet.name.tolist()


def resource(kind: str, name: str, /, **values: Any) -> dict[str, Any]:
    return {"address": f"{kind}.{name}", "mode": "managed", "type": kind, "name": name, "values": values}


def test_a_replica_in_a_state_is_a_copy_and_never_a_primary_of_its_own(tmp_path: Path) -> None:
    def database(name: str, **values: Any) -> dict[str, Any]:
        values = {"identifier": name, "engine": "mysql", **values}
        return {"mode": "managed", "type": "aws_db_instance", "address": f"m.{name}", "values": values}

    root = {
        "resources": [
            database("copy", availability_zone="west-1a", replicate_source_db="arn:aws:rds:x:1:db:shop"),
            database("shop", availability_zone="east-1a"),
            database("wide", multi_az=True),
            database("wide-copy", availability_zone="west-1a", replicate_source_db="wide"),
            database("stray", availability_zone="west-1a", replicate_source_db="elsewhere"),
        ]
    }
    estate, result, _ = imported(tmp_path, "terraform", {"values": {"root_module": root}})
    members = {store.id: [(one.at, one.mode) for one in store.members] for store in estate.stores}
    assert members == {"shop": [("east-1a", "primary"), ("west-1a", "async")], "wide": []}
    assert sorted(one.code for one in result.diagnostics) == ["import-host-nowhere", "import-skipped"]


@pytest.mark.parametrize(
    ("writers", "zones"),
    [
        ((True, False, False), ("e-1b", "e-1a", "e-1a")),
        ((False, False, False), ("e-1b", "e-1a", "e-1a")),
        ((True, True, False), ("e-1b", "e-1a", "e-1a")),
        ((True, False), ("e-1b", "e-1b")),
        ((True,), ("e-1b",)),
    ],
)
def test_a_cluster_is_where_its_instances_are_if_one_of_them_writes(
    tmp_path: Path, writers: tuple[bool, ...], zones: tuple[str, ...]
) -> None:
    found = [
        resource(
            "aws_rds_cluster_instance",
            f"i{at}",
            cluster_identifier="shop",
            availability_zone=zone,
            writer=is_one,
        )
        for at, (zone, is_one) in enumerate(zip(zones, writers, strict=True))
    ]
    cluster = resource("aws_rds_cluster", "shop", cluster_identifier="shop", engine="aurora-mysql")
    azs = {
        "preferred_cache_cluster_azs": ["e-1a", "e-1b", "e-1a", "e-1b"],
        "automatic_failover_enabled": True,
    }
    cache = resource("aws_elasticache_replication_group", "sess", replication_group_id="sess", **azs)
    shards = resource(
        "aws_elasticache_replication_group", "s2", replication_group_id="s2", num_node_groups=2, **azs
    )
    root = {"resources": [*found, cluster, cache, shards]}
    estate, _, _ = imported(tmp_path, "terraform", {"values": {"root_module": root}})
    stores = {store.id: store for store in estate.stores}
    members = {name: [(one.at, one.mode) for one in store.members] for name, store in stores.items()}
    # The storage of a cluster is in several zones, even if its instances are in one.
    is_known = sum(writers) == 1 and len(set(zones)) > 1
    assert members == {
        "shop": [("e-1b", "primary"), ("e-1a", "sync")] if is_known else [],
        "sess": [("e-1a", "primary"), ("e-1b", "async")],
        "s2": [],
    }
    assert stores["shop"].automatic == (True if is_known else None)
    assert stores["sess"].automatic


def test_terraform_keeps_machines_and_data_and_no_secret(tmp_path: Path) -> None:
    child = {
        "resources": [
            resource(
                "aws_db_instance",
                "main",
                identifier="orders",
                engine="postgres",
                availability_zone="eu-1b",
                password="hunter2",
                backup_retention_period=7,
            ),
            resource("aws_db_instance", "wide", identifier="users", engine="mysql", multi_az=True),
            resource("aws_s3_bucket", "files", bucket="files", arn="arn:secret"),
        ]
    }
    root = {
        "resources": [
            resource(
                "aws_instance",
                "web[0]",
                availability_zone="eu-1a",
                instance_type="m5.large",
                tags={"Name": "web"},
                user_data="hunter2",
            ),
            resource("aws_instance", "web[1]", availability_zone="eu-1b", tags={"Name": "web"}),
            resource("aws_instance", "nowhere", tags={"Name": "nowhere"}),
            resource("aws_iam_user", "ci"),
            {"mode": "data", "type": "aws_ami", "address": "data.aws_ami.x", "values": {}},
        ],
        "child_modules": [child],
    }
    estate, result, written = imported(tmp_path, "terraform", {"values": {"root_module": root}})
    assert estate.fleet.name.tolist() == [b"aws_instance.web.1", b"web"]
    stores = {store.id: store for store in estate.stores}
    assert {name: store.engine for name, store in stores.items()} == {
        "files": "s3",
        "orders": "postgresql",
        "users": "mysql",
    }
    assert [(m.at, m.mode) for m in stores["orders"].members] == [("eu-1b", "primary")]
    assert stores["users"].members == ()
    assert "backups kept for 7 days" in written
    assert [d.code for d in result.diagnostics] == ["import-host-nowhere"]
    assert "hunter2" not in written
    assert "arn:secret" not in written


@pytest.mark.parametrize(
    ("kind", "values", "service"),
    [
        ("aws_instance", {"availability_zone": "a", "tags": {"Name": "x", "Service": "shop"}}, "shop"),
        ("google_compute_instance", {"zone": "a", "labels": {"role": "old", "app": "shop"}}, "shop"),
        ("openstack_compute_instance_v2", {"availability_zone": "a", "metadata": {"role": "shop"}}, "shop"),
        ("digitalocean_droplet", {"region": "a", "tags": ["prod", "service:shop"]}, "shop"),
        ("scaleway_instance_server", {"zone": "a", "tags": ["app=shop"]}, "shop"),
        ("hcloud_server", {"location": "a", "labels": {"service": "", "team": "shop"}}, None),
        ("hcloud_server", {"location": "a", "labels": {"service": "not, a name"}}, None),
        ("hcloud_server", {"location": "a", "tags": "service:shop", "labels": None}, "shop"),
        ("hcloud_server", {"location": "a"}, None),
    ],
)
def test_what_people_wrote_about_a_machine_names_its_service(
    tmp_path: Path, kind: str, values: dict[str, Any], service: str | None
) -> None:
    machines = [resource(kind, f"m{n}", name=f"m{n}", **values) for n in range(2)]
    if kind == "aws_instance":
        machines[1]["values"]["tags"] = {"Name": "y", "Service": "shop"}
    body = {"values": {"root_module": {"resources": machines}}}
    estate, _, _ = imported(tmp_path, "terraform", body)
    assert [(one.id, one.replicas) for one in estate.services] == ([(service, 2)] if service else [])


def test_the_service_of_a_machine_is_named_as_in_a_host_list(tmp_path: Path) -> None:
    named = ["Order Service", "order-service", "Order Service", "not, a name", "team/shop"]
    machines = [
        resource("aws_instance", f"m{n}", availability_zone="a", tags={"Name": f"m{n}", "Service": name})
        for n, name in enumerate(named)
    ]
    body = {"values": {"root_module": {"resources": machines}}}
    estate, result, _ = imported(tmp_path, "terraform", body)
    assert [(one.id, one.replicas) for one in estate.services] == [("Order-Service", 3), ("team/shop", 1)]
    assert sorted((one.code, one.message.split("'")[1]) for one in result.diagnostics) == [
        ("import-name-changed", "Order Service"),
        ("import-name-changed", "order-service"),
        ("import-skipped", "not, a name"),
    ]


def test_azure_names_zones_within_a_location_and_groups_hide_their_machines(tmp_path: Path) -> None:
    europe = {"location": "eu", "zone": "1"}
    copy = "/subscriptions/x/providers/Microsoft.DBforPostgreSQL/flexibleServers/pg"
    places = [{"location": "us", "failover_priority": 10}, {"location": "eu", "failover_priority": 0}]
    root = {
        "resources": [
            resource("azurerm_linux_virtual_machine", "app", name="app", size="D4", **europe),
            resource("hcloud_server", "web", name="web", location="eu-1", status="off"),
            resource(
                "azurerm_postgresql_flexible_server",
                "pg",
                name="pg",
                high_availability=[{"mode": "ZoneRedundant", "standby_availability_zone": "2"}],
                **europe,
            ),
            resource(
                "azurerm_postgresql_flexible_server",
                "ro",
                name="ro",
                create_mode="Replica",
                source_server_id=copy,
                location="us",
                zone="3",
            ),
            resource(
                "azurerm_postgresql_flexible_server",
                "old",
                name="old",
                create_mode="PointInTimeRestore",
                source_server_id=copy,
                location="eu",
            ),
            resource("azurerm_cosmosdb_account", "docs", name="docs", geo_location=places),
            resource(
                "azurerm_kubernetes_cluster", "aks", name="aks", location="eu", kube_config_raw="hunter2"
            ),
        ]
    }
    estate, result, written = imported(tmp_path, "terraform", {"values": {"root_module": root}})
    assert {store.id: [(one.at, one.mode) for one in store.members] for store in estate.stores} == {
        "docs": [("eu", "primary"), ("us", "async")],
        "old": [],
        "pg": [("eu-1", "primary"), ("eu-2", "sync"), ("us-3", "async")],
    }
    assert sorted(site.id for site in estate.sites) == ["eu", "eu-1", "eu-2", "us", "us-3"]
    assert [SERVER_STATES[code] for code in estate.fleet.state] == ["serving", "dark"]
    assert [one.code for one in result.diagnostics] == ["import-skipped"]
    assert "hunter2" not in written


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("ansible", '{"all": {}}', "ansible-inventory -i source.json --list"),
        (
            "ansible",
            "h0\n\n[web]\nh1 ansible_port=22\n\n[all:children]\nweb\n",
            "--list > inventory.json",
        ),
        ("ansible", '{"_meta": {"hostvars": {"a"', "ends in the middle"),
        ("netbox", '{"results": [{"name": "a"}, {"name": "b"}', "ends in the middle"),
        ("netbox", '{"results": [{"name": "a"} {"name": "b"}]}', "is not JSON: Expecting ',' delimiter"),
        ("netbox", '{{- if .Values.on }}\n{"results": []}\n{{- end }}', "source.json is a template"),
        ("terraform", '{% if on %}\n{"values": {}}', "source.json is a template"),
        ("backstage", "kind: {{ kind }}\napiVersion: backstage.io/v1", "source.json is a template"),
        ("compose", "services:\n  web: {image: {{ image }}}\n", "source.json is a template"),
        ("catalogue", "services:\n  {{ name }}: {tier: 1}\n", "source.json is a template"),
        ("netbox", "{}", "/api/dcim/devices/"),
        ("terraform", '{"lineage": "x", "resources": []}', "terraform show -json"),
        ("terraform", '{"values": {"root_module": {}}}', "docs/how-to/import.md"),
    ],
)
def test_a_source_of_another_kind_is_refused_with_the_way_to_make_one(
    tmp_path: Path, kind: str, text: str, words: str
) -> None:
    source = tmp_path / "source.json"
    source.write_text(text)
    with pytest.raises(SourceError) as caught:
        import_estate(kind, source, tmp_path / "estate")
    (problem,) = caught.value.diagnostics
    assert words in f"{problem.message} {problem.hint}"
    assert not (tmp_path / "estate").exists()


@pytest.mark.parametrize("kind", ["csv", "ansible"])
def test_a_kind_of_machine_is_no_service_in_lists_and_inventories(tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        source: Any = "host;site;role\na;fra;Server\nb;fra;SERVER, shop\nc;fra;bare-metal\n"
    else:
        hosts = {name: {"site": "fra"} for name in "abc"}
        groups = {"servers": {"hosts": ["a", "b"]}, "linux": {"hosts": ["c"]}, "shop": {"hosts": ["b"]}}
        source = {"_meta": {"hostvars": hosts}, **groups}
    (tmp_path / kind).write_text(source if isinstance(source, str) else json.dumps(source))
    result = import_estate(kind, tmp_path / kind, tmp_path / "estate")
    estate = load(tmp_path / "estate")
    assert [one.id for one in estate.services] == ["shop"]
    assert len(estate.fleet) == 3
    ignored = [one.message for one in result.diagnostics if one.code == "import-ignored"]
    assert len(ignored) == 2, "each role is reported once"
