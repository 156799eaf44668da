"""A recipe: several sources become one estate, conflicts name both, and a second run changes nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evac.cli.program import cli
from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import ImportResult, SourceError, import_recipe
from evac.estate.importers.combining import combine
from evac.estate.importers.imported import Imported, SourcePart
from evac.model.diagnostic import Place
from evac.model.errors import InvalidInput
from evac.model.estate import Estate

RECIPE = """\
recipe: 1
into: company
sources:
  services: {kind: catalogue, from: services.csv, observed: 2026-11-01, good_for: 180 d}
  hosts: {kind: csv, from: hosts.csv, observed: 2026-11-20}
  inventory: {kind: ansible, from: inventory.json, observed: 2026-11-21}
  east: {kind: kubernetes, from: east.yaml, site: fra, observed: 2026-11-22}
  west: {kind: kubernetes, from: west.yaml, site: muc, observed: 2026-11-22}
names:
  inventory: {munich: muc, frontends: shop}
"""
CLUSTER = """\
kind: Deployment
metadata: {name: shop}
spec:
  replicas: %d
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: a, env: [{name: LOGIN_HOST, value: login}]}]}
"""
INVENTORY = {
    "_meta": {"hostvars": {"db-1": {"dc": "munich", "cpus": 16}, "web-9": {"dc": "fra"}}},
    "frontends": {"hosts": ["web-9"]},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "services.csv").write_text("service;tier;owner;needs\nshop;1;web;store:orders\nlogin;0;id;\n")
    (tmp_path / "hosts.csv").write_text("host;site;cores;role;owner\ndb-1;fra;32;login;ann\n")
    (tmp_path / "inventory.json").write_text(json.dumps(INVENTORY))
    (tmp_path / "east.yaml").write_text(CLUSTER % 3)
    (tmp_path / "west.yaml").write_text(CLUSTER % 2)
    path = tmp_path / "estate.yaml"
    path.write_text(RECIPE)
    return path


def made(recipe: Path, **how: Any) -> tuple[Estate, ImportResult]:
    into, result = import_recipe(recipe, **how)
    return load(into), result


def test_sources_add_up_under_the_names_of_the_estate(recipe: Path) -> None:
    estate, _ = made(recipe)
    shop, login = (next(s for s in estate.services if s.id == name) for name in ("shop", "login"))
    assert (shop.tier, shop.owner, shop.replicas) == (1, "web", 6), "three, two, and one on a host"
    assert {(n.kind, n.target, n.hard) for n in shop.needs} == {
        ("store", "orders", True),
        ("service", "login", True),
    }, "what one source does not describe, another one does"
    assert login.replicas == 1
    rows = (recipe.parent / "company" / "replicas.csv").read_text().splitlines()
    assert rows == ["service,target,count", "login,db-1,1", "shop,fra,3", "shop,muc,2", "shop,web-9,1"]
    assert [site.id for site in estate.sites] == ["fra", "muc"]


def test_an_address_of_another_cluster_can_be_mapped_to_its_store(recipe: Path) -> None:
    text = (CLUSTER % 1).replace("login}", "orders.fra.example}")
    (recipe.parent / "west.yaml").write_text(text)
    recipe.write_text(RECIPE + "  west: {orders.fra.example: orders}\n")
    estate, _ = made(recipe)
    shop = next(s for s in estate.services if s.id == "shop")
    assert ("store", "orders", True) in {(n.kind, n.target, n.hard) for n in shop.needs}
    assert "orders" not in {s.id for s in estate.services}


PUBLISHED = """\
---
kind: Deployment
metadata: {name: login}
spec: {template: {metadata: {labels: {app: login}}, spec: {containers: [{name: a, image: x}]}}}
---
kind: Service
metadata: {name: login}
spec: {selector: {app: login}}
---
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}}
---
kind: Gateway
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: web}
spec: {listeners: [{name: shop, hostname: shop.acme.example}, {name: login, hostname: login.acme.example}]}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: edge}
spec: {servers: [{hosts: [default/login.acme.example]}]}
---
kind: %s
metadata: {name: login}
spec: %s
"""


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (
            "Ingress",
            "{rules: [{host: login.acme.example, http: {paths: [{backend: {service: {name: login}}}]}}]}",
        ),
        ("Route", "{host: Login.acme.example, to: {kind: Service, name: login}}"),
        ("HTTPRoute", "{hostnames: [login.acme.example], rules: [{backendRefs: [{name: login}]}]}"),
        (
            "HTTPRoute",
            "{parentRefs: [{name: web, sectionName: login}], rules: [{backendRefs: [{name: login}]}]}",
        ),
        (
            "VirtualService",
            "{gateways: [mesh, edge], hosts: [Login.acme.example],"
            " http: [{route: [{destination: {host: login}}]}]}",
        ),
        (
            "VirtualService",
            "{gateways: [edge], hosts: ['*'], tcp: [{route: [{destination: {host: login.default}}]}]}",
        ),
        (
            "IngressRoute",
            "{routes: [{match: 'Host(`login.acme.example`) && Path(`/x`)', services: [{name: login}]}]}",
        ),
        ("HTTPProxy", "{virtualhost: {fqdn: login.acme.example}, routes: [{services: [{name: login}]}]}"),
    ],
)
def test_a_name_that_another_cluster_publishes_is_its_service(recipe: Path, kind: str, spec: str) -> None:
    (recipe.parent / "east.yaml").write_text(CLUSTER % 3 + PUBLISHED % (kind, spec))
    west = (CLUSTER % 2).replace("value: login", "value: login.acme.example")
    (recipe.parent / "west.yaml").write_text(west)
    estate, result = made(recipe)
    assert not [service.id for service in estate.services if service.external]
    shop, login = (next(one for one in estate.services if one.id == name) for name in ("shop", "login"))
    assert {(need.target, need.hard) for need in shop.needs} == {("orders", True), ("login", True)}
    assert not [one for one in result.diagnostics if one.code == "import-ignored"]
    assert login.traffic is not None
    assert login.traffic.kind == "load_balancer"
    told = [one for one in result.diagnostics if one.code == "import-name-changed"]
    assert len(told) == 1
    assert "east publishes it" in told[0].message


@pytest.mark.parametrize(
    ("kind", "group", "spec"),
    [
        (
            "VirtualService",
            "networking.istio.io",
            "{hosts: [login.acme.example], http: [{route: [{destination: {host: login}}]}]}",
        ),
        ("Route", "serving.knative.dev", "{host: login.acme.example, to: {kind: Service, name: login}}"),
    ],
)
def test_a_route_inside_the_mesh_or_of_an_unknown_group_publishes_nothing(
    recipe: Path, kind: str, group: str, spec: str
) -> None:
    route = (PUBLISHED % (kind, spec)).replace(f"kind: {kind}", f"apiVersion: {group}/v1\nkind: {kind}")
    (recipe.parent / "east.yaml").write_text(CLUSTER % 3 + route)
    west = (CLUSTER % 2).replace("value: login", "value: login.acme.example")
    (recipe.parent / "west.yaml").write_text(west)
    estate, _ = made(recipe)
    assert [service.id for service in estate.services if service.external] == ["login.acme.example"]
    assert {s.traffic.kind for s in estate.services if s.id != "login.acme.example" and s.traffic} == {None}


def test_a_public_name_that_leads_to_several_services_stays_external(recipe: Path) -> None:
    two = "{hostnames: [login.acme.example], rules: [{backendRefs: [{name: login}, {name: shop}]}]}"
    (recipe.parent / "east.yaml").write_text(CLUSTER % 3 + PUBLISHED % ("HTTPRoute", two))
    west = (CLUSTER % 2).replace("value: login", "value: login.acme.example")
    (recipe.parent / "west.yaml").write_text(west)
    estate, _ = made(recipe)
    assert [service.id for service in estate.services if service.external] == ["login.acme.example"]


def test_two_sources_that_disagree_are_named_and_the_first_counts(recipe: Path) -> None:
    estate, result = made(recipe)
    conflicts = {d.message: d for d in result.diagnostics if d.code == "import-conflict"}
    assert set(conflicts) == {
        "owner of service login is id in services, but ann in hosts",
        "1 server at fra in hosts, but at muc in inventory: db-1",
        "cpu_millicores of server db-1 is 32000 in hosts, but 16000 in inventory",
    }
    assert {d.place.file for d in conflicts.values()} == {"estate.yaml"}
    assert all(d.place.line > 3 and "overlay" in d.hint for d in conflicts.values())
    assert estate.fleet.capacity[estate.fleet.name.tolist().index(b"db-1"), 0] == 32_000


def test_a_site_with_two_names_is_said_once_and_racks_stay_at_their_site(recipe: Path) -> None:
    folder = recipe.parent
    (folder / "a.csv").write_text("host;site;rack;pool\nw1;fra1;;\nw2;fra1;;\ndb;muc;;\n")
    (folder / "b.csv").write_text(
        "host;site;hall;rack;feed;u;pool\nw1;Frankfurt;h1;r1;a;7;p\nw2;Frankfurt;h1;r1;b;8;p\nx;Ulm;h1;r1;a;1;p\n"
    )
    text = (
        "recipe: 1\ninto: company\nsources:\n  a: {kind: csv, from: a.csv}\n  b: {kind: csv, from: b.csv}\n"
    )
    recipe.write_text(text)
    estate, result = made(recipe)
    assert {(one.code, one.message) for one in result.diagnostics} == {
        ("import-conflict", "2 servers at fra1 in a, but at Frankfurt in b: w1, w2"),
    }
    names = {one.hint.partition("to the recipe: ")[2].partition(";")[0] for one in result.diagnostics}
    (name,) = names
    recipe.write_text(f"{text}{name}\n")
    estate, result = made(recipe)
    assert result.diagnostics == ()
    assert [site.id for site in estate.sites] == ["Ulm", "fra1", "muc"]
    assert [rack.id for rack in estate.racks] == ["Ulm/h1/r1", "fra1/h1/r1"]
    assert [hall.id for hall in estate.halls] == ["Ulm/h1", "fra1/h1"]
    assert sorted(feed.id for feed in estate.feeds) == ["Ulm/a", "fra1/a", "fra1/b"]
    assert made(recipe)[1].diff == ()


def test_what_another_source_describes_is_not_said_to_be_undescribed(recipe: Path) -> None:
    """Warnings of one source about names that another one knows hid those that matter."""
    (recipe.parent / "services.csv").write_text("service;tier;needs\npay;1;shop,ghost,store:orders\n")
    estate, result = made(recipe)
    told = [one.message for one in result.diagnostics if one.code == "import-dangling"]
    assert [one for one in told if "'pay' needs" in one] == [
        "'pay' needs 'ghost', which the source does not describe"
    ]
    open_names = {name for one in result.unknown if one.undescribed for name in one.names}
    assert "ghost" in open_names
    assert "shop" not in open_names
    pay = next(one for one in estate.services if one.id == "pay")
    assert {need.target: need.hard for need in pay.needs} == {"shop": True, "ghost": False, "orders": True}


@pytest.mark.parametrize(
    "domain", ["corp.internal", "acme.intern", "acme.intranet", "home.arpa", "node.consul"]
)
def test_an_address_on_a_server_that_another_source_lists_is_there(recipe: Path, domain: str) -> None:
    for name in ("east", "west"):
        (recipe.parent / f"{name}.yaml").write_text((CLUSTER % 1).replace("login}", f"DB-1.{domain}}}"))
    estate, result = made(recipe)
    host = next(one for one in estate.services if one.id.lower() == f"db-1.{domain}")
    assert (host.replicas, host.external) == (1, False)
    assert f"{host.id},db-1,1" in (recipe.parent / "company" / "replicas.csv").read_text().splitlines()
    shop = next(one for one in estate.services if one.id == "shop")
    assert {need.target: need.hard for need in shop.needs}[host.id] is True
    told = [one.message for one in result.diagnostics if "is on server db-1" in one.message]
    assert len(told) == 2
    assert not any(host.id in one.names for one in result.unknown if one.undescribed)


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("orders.fra.example", "orders"),  # a store of the catalogue
        ("db-1.dc1.internal", "db-1.dc2.internal"),
        ("db", "db.shop"),
        ("10.0.0.1", "10.9.9.9"),
    ],
)
def test_an_address_that_only_begins_like_a_server_is_not_on_it(
    recipe: Path, server: str, address: str
) -> None:
    (recipe.parent / "hosts.csv").write_text(f"host;site\n{server};fra\n")
    (recipe.parent / "inventory.json").write_text(json.dumps({"_meta": {"hostvars": {"x": {"dc": "fra"}}}}))
    (recipe.parent / "east.yaml").write_text((CLUSTER % 1).replace("login}", f"'{address}'}}"))
    estate, result = made(recipe)
    assert not any("is on server" in one.message for one in result.diagnostics)
    assert not (recipe.parent / "company" / "replicas.csv").exists()
    shop = next(one for one in estate.services if one.id == "shop")
    assert address != "orders" or "orders" in {need.target for need in shop.needs}
    assert "orders" not in {one.id for one in estate.services}


def test_an_address_without_a_domain_is_on_the_server_with_one(recipe: Path) -> None:
    (recipe.parent / "hosts.csv").write_text("host;site\ndb-9.dc1.internal;fra\n")
    (recipe.parent / "east.yaml").write_text((CLUSTER % 1).replace("login}", "db-9}"))
    made(recipe)
    rows = (recipe.parent / "company" / "replicas.csv").read_text().splitlines()
    assert "db-9,db-9.dc1.internal,1" in rows


def test_a_rack_of_a_name_in_two_halls_is_put_in_neither(recipe: Path) -> None:
    (recipe.parent / "hosts.csv").write_text("host;site;hall;rack\ndb-1;fra;h1;R1\ndb-2;fra;h2;R1\n")
    hosts = {"db-1": {"dc": "fra", "rack": "R1"}, "x": {"dc": "fra", "rack": "R1"}}
    (recipe.parent / "inventory.json").write_text(
        json.dumps({"_meta": {"hostvars": hosts}, "all": {"hosts": [*hosts]}})
    )
    made(recipe)
    rows = (recipe.parent / "company" / "servers.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0]: row.split(",")[2] for row in rows}["x"] == "fra/R1"


def test_a_rack_whose_hall_one_source_knows_is_one_rack(recipe: Path) -> None:
    """It used to be two racks, one without a hall, and the loss of either missed servers of the other."""
    (recipe.parent / "hosts.csv").write_text("host;site;hall;rack\ndb-1;fra;h1;R1\ndb-2;fra;h1;R1\n")
    hosts = {
        "db-1": {"dc": "fra", "rack": "R1"},
        "web-9": {"dc": "fra", "rack": "R1"},
        "x": {"dc": "fra", "rack": "R2"},
    }
    (recipe.parent / "inventory.json").write_text(
        json.dumps({"_meta": {"hostvars": hosts}, "all": {"hosts": [*hosts]}})
    )
    estate, result = made(recipe)
    assert [(rack.id, rack.hall) for rack in estate.racks] == [("fra/R2", None), ("fra/h1/R1", "fra/h1")]
    rows = (recipe.parent / "company" / "servers.csv").read_text().splitlines()[1:]
    assert [row.split(",")[2] for row in rows] == ["fra/h1/R1", "fra/h1/R1", "fra/h1/R1", "fra/R2"]
    assert not [one for one in result.diagnostics if one.code == "import-conflict"]


def test_two_lists_that_differ_in_many_rows_are_one_conflict(recipe: Path) -> None:
    rows = "".join(f"s{number};fra;32\n" for number in range(50))
    (recipe.parent / "hosts.csv").write_text(f"host;site;cores\n{rows}")
    hosts = {f"s{number}": {"dc": "fra", "cpus": 16 + number % 3} for number in range(50)}
    (recipe.parent / "inventory.json").write_text(
        json.dumps({"_meta": {"hostvars": hosts}, "all": {"hosts": [*hosts]}})
    )
    _, result = made(recipe)
    (told,) = [one.message for one in result.diagnostics if one.code == "import-conflict"]
    assert told.startswith("cpu_millicores of server s0 is")
    assert told.endswith("the two also differ about s1, s2, s3 and 46 more")


def test_the_overlay_settles_a_conflict(recipe: Path) -> None:
    made(recipe)
    overlay = recipe.parent / "company" / "overlay.yaml"
    overlay.write_text("services: {login: {owner: eve}}\n")
    estate, result = made(recipe)
    assert next(s for s in estate.services if s.id == "login").owner == "eve"
    assert overlay.read_text() == "services: {login: {owner: eve}}\n"
    assert result.diff == ()


def test_every_fact_keeps_its_source_and_day(recipe: Path) -> None:
    estate, _ = made(recipe)
    facts = {fact.path: fact for fact in estate.facts}
    assert facts["services/shop"].source == "services"
    assert str(facts["services/shop"].observed) == "2026-11-01"
    assert facts["services/shop"].good_for_days == 180
    assert facts["servers"].source == "hosts, inventory"


def test_a_source_without_a_day_is_of_the_day_its_file_was_changed(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace(", observed: 2026-11-01, good_for: 180 d", ""))
    os.utime(recipe.parent / "services.csv", (1_790_000_000, 1_790_000_000))
    estate, _ = made(recipe)
    assert str(next(f for f in estate.facts if f.path == "services/shop").observed) == "2026-09-21"


def test_a_second_run_writes_the_same_bytes_and_a_changed_source_shows(recipe: Path) -> None:
    made(recipe)
    company = recipe.parent / "company"
    before = {path.name: path.read_bytes() for path in company.iterdir()}
    _, again = made(recipe, update=True)
    assert again.diff == ()
    assert {path.name: path.read_bytes() for path in company.iterdir()} == before
    (recipe.parent / "services.csv").write_text("service;tier;owner\nshop;2;web\npay;0;web\n")
    _, changed = made(recipe, update=True)
    assert "~ service shop: tier: 1 -> 2" in changed.diff
    assert "+ service pay" in changed.diff
    assert "- store orders" in changed.diff


def test_update_needs_something_to_update(recipe: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        made(recipe, update=True)
    assert caught.value.code == "import-nothing-before"


def test_what_is_most_worth_adding_is_listed_at_most_ten(recipe: Path) -> None:
    _, result = made(recipe)
    assert 0 < len(result.worth) <= 10
    assert all(one.what and one.count > 0 and one.why for one in result.worth)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("kind: csv", "kind: cvs"), "not-a-choice"),
        (("recipe: 1", "recipe: 7"), "import-shape"),
        (("from: hosts.csv", "form: hosts.csv"), "key-unknown"),
        (("2026-11-20", "yesterday"), "not-a-date"),
        (("inventory: {munich", "inventry: {munich"), "name-unknown"),
        (("hosts.csv", "nothing.csv"), "import-source-missing"),
        (("{kind: csv, from: hosts.csv, observed: 2026-11-20}", "hosts.csv"), "wrong-type"),
    ],
)
def test_mistakes_in_a_recipe_have_a_place_and_write_nothing(
    recipe: Path, change: tuple[str, str], code: str
) -> None:
    recipe.write_text(RECIPE.replace(*change))
    with pytest.raises(SourceError) as caught:
        made(recipe)
    assert code in {d.code for d in caught.value.diagnostics}
    assert not (recipe.parent / "company").exists()


def test_the_command_takes_a_recipe(recipe: Path) -> None:
    first = CliRunner().invoke(cli, ["import", str(recipe)])
    assert first.exit_code == 0, first.output
    assert "most worth adding 1:" in first.output
    again = CliRunner().invoke(cli, ["import", str(recipe), "--update"])
    assert again.exit_code == 0
    assert "nothing has changed since the last import" in again.output
    missing = CliRunner().invoke(cli, ["import", "csv"])
    assert missing.exit_code != 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{kind: kubernetes, context: a, from: east.yaml}", "has both a file and a context"),
        ("{kind: csv, context: a}", "has no location"),
        ("{kind: kubernetes, context: a}", "would be read over the network"),
    ],
)
def test_a_live_source_is_a_context_or_a_server_and_nothing_else(
    recipe: Path, source: str, words: str
) -> None:
    recipe.write_text(f"recipe: 1\nsources:\n  live: {source}\n")
    with pytest.raises((SourceError, InvalidInput)) as caught:
        import_recipe(recipe)
    found = caught.value
    assert words in (found.message if not isinstance(found, SourceError) else str(found.diagnostics))


class ReadRows(list[tuple[str, ...]]):
    """Rows that count how often someone goes through all of them."""

    times = 0

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        self.times += 1
        return super().__iter__()


def _times_read(services: int) -> int:
    """How often the replicas of a source are read that also states a number, or places, of each service."""
    names = [f"s{n}" for n in range(services)]
    imported, other = Imported(), Imported()
    imported.tables["replicas"] = ReadRows((name, "fra", "1") for name in names)
    for n, name in enumerate(names):
        imported.add("services", name, {"replicas": {"muc": 1}} if n % 2 else {"replicas": 1})
        other.add("services", name)
    problems = Problems()
    combine([SourcePart(n, i, Place("estate.yaml")) for n, i in (("a", imported), ("b", other))], problems)
    assert not problems.all()
    rows = imported.tables["replicas"]
    assert isinstance(rows, ReadRows)
    return rows.times


def test_replicas_of_many_services_are_not_read_once_for_each() -> None:
    assert _times_read(40) == _times_read(4)


COMPANY = {
    "hosts.csv": "host;site;model;role\na1;fra;R760 (2U);shop\nb1;muc;R760;mail\nc1;ulm;;shop\n",
    "services.csv": "service,tier,needs\nshop,1,login store:orders\nlogin,,\nmail,2,\n",
    "cluster.yaml": (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: login}\nspec:\n  replicas: 2\n"
        "  template: {spec: {containers: [{name: a, env: [{name: DB_HOST, value: users}]}]}}\n---\n"
        "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {name: users}\nspec: {instances: 3}\n"
    ),
    "compose.yaml": "services: {till: {image: x, depends_on: [tilldb]}, tilldb: {image: 'postgres:16'}}\n",
}
KINDS_OF = {"hosts": "csv", "services": "catalogue", "cluster": "kubernetes", "compose": "compose"}


@pytest.mark.parametrize(
    "used",
    [
        ["hosts.csv", "services.csv", "cluster.yaml", "compose.yaml"],
        ["compose.yaml", "cluster.yaml", "services.csv"],
        ["services.csv", "compose.yaml", "hosts.csv"],
    ],
    ids=" ".join,
)
def test_the_example_overlay_of_several_sources_is_valid_once_its_signs_are_gone(
    used: list[str], tmp_path: Path
) -> None:
    """Each section once: a second heading would replace the first, or a line state something else."""
    lines = ["recipe: 1", "into: company", "sources:"]
    for name in used:
        (tmp_path / name).write_text(COMPANY[name])
        stem = name.partition(".")[0]
        lines.append(f"  {stem}: {{kind: {KINDS_OF[stem]}, from: {name}}}")
    (tmp_path / "estate.yaml").write_text("\n".join(lines) + "\n")
    import_recipe(tmp_path / "estate.yaml")
    folder = tmp_path / "company"
    before = load(folder)
    overlay = folder / "overlay.yaml"
    overlay.write_text("\n".join(line.removeprefix("# ") for line in overlay.read_text().splitlines()[3:]))
    estate = load(folder)
    assert {one.id for one in estate.services} == {one.id for one in before.services}
    assert {one.id: one.replicas for one in before.services if one.replicas}.items() <= {
        one.id: one.replicas for one in estate.services
    }.items()
    assert {one.id for one in estate.stores} == {one.id for one in before.stores}
    assert {one.id for one in estate.sites} == {one.id for one in before.sites} or not before.sites
    for one in estate.services:
        assert one.external or None not in (one.tier, one.people, one.rto_ms), one.id
    assert all(store.members for store in estate.stores)
    assert len(estate.links) == 1
