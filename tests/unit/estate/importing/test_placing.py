"""An inventory says what runs on a host, another source where the host is: a recipe of both says both."""

import json
from pathlib import Path
from typing import Any

import pytest

from evac.estate import load
from evac.estate.format.problems import KEPT_MAX
from evac.estate.importers import ImportResult, SourceError, import_estate, import_recipe
from evac.estate.importers.hosts import NOWHERE
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import plan

HOSTS = "host;site;rack;cores;state\nweb-1;fra;r1;32;active\nweb-2;muc;r1;32;active\ndb-1;fra;r2;64;off\n"
INVENTORY = {
    "_meta": {"hostvars": {"web-1": {"memory": "64 GiB"}, "lone": {}, "web-2": {"model": "R640"}}},
    "shop": {"hosts": ["web-1", "web-2", "lone"]},
    "orders": {"hosts": ["db-1"]},
}


def made(
    tmp_path: Path, order: str, names: str = "", inventory: Any = INVENTORY
) -> tuple[Estate, ImportResult]:
    (tmp_path / "hosts.csv").write_text(HOSTS)
    (tmp_path / "inventory.json").write_text(json.dumps(inventory))
    kinds = {"hosts": "{kind: csv, from: hosts.csv}", "inventory": "{kind: ansible, from: inventory.json}"}
    sources = "".join(f"  {name}: {kinds[name]}\n" for name in order.split())
    (tmp_path / "estate.yaml").write_text(f"recipe: 1\ninto: company\nsources:\n{sources}{names}")
    into, result = import_recipe(tmp_path / "estate.yaml")
    return load(into), result


def rows(tmp_path: Path, table: str) -> list[str]:
    return (tmp_path / "company" / f"{table}.csv").read_text().splitlines()[1:]


@pytest.mark.parametrize("order", ["hosts inventory", "inventory hosts"])
def test_a_host_is_where_another_source_has_the_server(tmp_path: Path, order: str) -> None:
    estate, result = made(tmp_path, order)
    assert len(estate.fleet) == 3
    assert rows(tmp_path, "replicas") == ["shop,web-1,1", "shop,web-2,1"]
    (web_1,) = (row for row in rows(tmp_path, "servers") if row.startswith("web-1,"))
    assert web_1.startswith("web-1,fra,fra/r1,")
    assert ",65536" in web_1, "and what only the inventory knows is added"
    assert [one.id for one in estate.classes] == ["R640"]
    nowhere = [one.message for one in result.diagnostics if one.code == "import-host-nowhere"]
    assert nowhere == ["'lone' has no site; it and its replicas are left out"]
    left = [one for one in result.unknown if one.what.endswith(NOWHERE)]
    assert [(one.count, one.names) for one in left] == [(1, ("lone",))]


def test_a_server_that_another_source_calls_off_runs_nothing(tmp_path: Path) -> None:
    estate, _ = made(tmp_path, "inventory hosts")
    (orders,) = (one for one in estate.services if one.id == "orders")
    assert orders.replicas is None
    assert not [row for row in rows(tmp_path, "replicas") if row.startswith("orders")]


def test_names_of_the_recipe_count_before_hosts_are_looked_for(tmp_path: Path) -> None:
    estate, _ = made(tmp_path, "hosts inventory", "names:\n  inventory: {lone: db-1, shop: store}\n")
    assert rows(tmp_path, "replicas") == ["store,web-1,1", "store,web-2,1"]
    assert {one.id for one in estate.services} >= {"store", "orders"}


def test_an_import_in_which_all_hosts_find_their_place_is_whole(tmp_path: Path) -> None:
    whole = {"_meta": {"hostvars": {}}, "shop": {"hosts": ["web-1", "web-2"]}}
    _, result = made(tmp_path, "inventory hosts", inventory=whole)
    assert not result.partial
    assert not [one for one in result.unknown if one.what.endswith(NOWHERE)]
    before = {path.name: path.read_bytes() for path in (tmp_path / "company").iterdir()}
    _, again = import_recipe(tmp_path / "estate.yaml", update=True)
    assert again.diff == ()
    assert {path.name: path.read_bytes() for path in (tmp_path / "company").iterdir()} == before


HALF = {"_meta": {"hostvars": {}}, "shop": {"hosts": ["web-1", "web-2", "lone-1", "lone-2", "lone-3"]}}


def _all_losses_are_unknown(estate: Estate) -> None:
    for loss in ("fra", "muc"):
        states = {one.service: one.state for one in plan(estate, lose(loss)).outcomes}
        assert states["shop"] == "unknown"


@pytest.mark.parametrize("order", ["hosts inventory", "inventory hosts"])
def test_replicas_on_hosts_without_a_site_count(tmp_path: Path, order: str) -> None:
    """2 of 5 have a place: the other three may be anywhere, so no loss can be judged."""
    estate, _ = made(tmp_path, order, inventory=HALF)
    (shop,) = (one for one in estate.services if one.id == "shop")
    assert shop.replicas == 5
    assert rows(tmp_path, "replicas") == ["shop,web-1,1", "shop,web-2,1"]
    _all_losses_are_unknown(estate)


def test_replicas_of_rows_without_a_site_count(tmp_path: Path) -> None:
    source = tmp_path / "hosts.csv"
    source.write_text(
        "host;site;role;state\nweb-1;fra;shop;active\nweb-2;muc;shop;active\nweb-3;;shop;active\nold;;shop;off\n"
    )
    import_estate("csv", source, tmp_path / "estate")
    estate = load(tmp_path / "estate")
    assert [one.replicas for one in estate.services] == [3], "one that is off runs none"
    _all_losses_are_unknown(estate)


def test_replicas_by_place_of_another_source_are_not_all_either(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(
        "kind: Deployment\nmetadata: {name: shop}\n"
        "spec: {replicas: 2, template: {spec: {containers: [{name: main, image: example/shop}]}}}\n"
    )
    (tmp_path / "hosts.csv").write_text("host;site;role\na;fra;other\nb;muc;other\nc;;shop\n")
    (tmp_path / "estate.yaml").write_text(
        "recipe: 1\ninto: company\nsources:\n"
        "  web: {kind: kubernetes, from: web.yaml, site: fra}\n  hosts: {kind: csv, from: hosts.csv}\n"
    )
    into, _ = import_recipe(tmp_path / "estate.yaml")
    (shop,) = (one for one in load(into).services if one.id == "shop")
    assert shop.replicas == 3
    assert "shop,fra,2" in rows(tmp_path, "replicas")
    _all_losses_are_unknown(load(into))


def test_a_host_whose_name_two_servers_have_is_not_placed(tmp_path: Path) -> None:
    """NetBox has `web` at two sites: the second is `web@muc`."""
    devices = [
        {
            "name": "web",
            "device_type": {"model": "R640"},
            "site": {"slug": site},
            "status": {"value": "active"},
        }
        for site in ("fra", "muc")
    ]
    (tmp_path / "netbox.json").write_text(json.dumps(devices))
    inventory = {"_meta": {"hostvars": {}}, "shop": {"hosts": ["web"]}}
    (tmp_path / "inventory.json").write_text(json.dumps(inventory))
    recipe = (
        "recipe: 1\ninto: company\nsources:\n"
        "  devices: {kind: netbox, from: netbox.json}\n  inventory: {kind: ansible, from: inventory.json}\n"
    )
    (tmp_path / "estate.yaml").write_text(recipe)
    into, result = import_recipe(tmp_path / "estate.yaml")
    assert not [one for one in load(into).services if one.id == "shop" and one.replicas]
    (nowhere,) = [one for one in result.diagnostics if one.code == "import-host-nowhere"]
    assert "web, web@muc" in nowhere.message
    assert "names:" in nowhere.hint
    assert result.partial
    (tmp_path / "estate.yaml").write_text(recipe + "names:\n  inventory: {web: web@muc}\n")
    import_recipe(tmp_path / "estate.yaml", update=True)
    assert rows(tmp_path, "replicas") == ["shop,web@muc,1"]


def test_a_host_with_another_name_in_the_recipe_is_placed_like_any(tmp_path: Path) -> None:
    inventory = {"_meta": {"hostvars": {"w1": {"model": "R640"}}}, "shop": {"hosts": ["w1"]}}
    names = "names:\n  inventory: {w1: web-1, R640: dell-r640, shop: store}\n"
    estate, result = made(tmp_path, "hosts inventory", names, inventory)
    assert [one.id for one in estate.classes] == ["dell-r640"]
    assert rows(tmp_path, "replicas") == ["store,web-1,1"]
    assert not [one for one in result.unknown if one.what.endswith(NOWHERE)]
    assert not [one for one in result.diagnostics if one.code == "import-host-nowhere"]
    assert not result.partial


def test_the_rack_of_a_host_that_another_source_places_is_listed_as_unknown(tmp_path: Path) -> None:
    facts = {"web-1": {"rack": "r7"}, "web-2": {"model": "R640"}}
    inventory = {"_meta": {"hostvars": facts}, "shop": {"hosts": ["web-1", "web-2"]}}
    _, result = made(tmp_path, "hosts inventory", inventory=inventory)
    (unused,) = [one for one in result.unknown if "rack, hall, feed" in one.what]
    assert (unused.count, unused.names) == (1, ("web-1",))


@pytest.mark.parametrize("server", ["web", "web-9"])
def test_a_host_that_is_placed_hides_no_other_of_its_name(tmp_path: Path, server: str) -> None:
    """Two inventories of one file name have `web` on one line, and the recipe calls the second `web-9`."""
    (tmp_path / "hosts.csv").write_text(f"host;site\n{server};fra\ndb;fra\n")
    for folder in "ab":
        (tmp_path / folder).mkdir()
        inventory = {"_meta": {"hostvars": {}}, "shop": {"hosts": ["web"]}}
        (tmp_path / folder / "inventory.json").write_text(json.dumps(inventory))
    (tmp_path / "estate.yaml").write_text(
        "recipe: 1\ninto: company\nsources:\n  hosts: {kind: csv, from: hosts.csv}\n"
        "  one: {kind: ansible, from: a/inventory.json}\n  two: {kind: ansible, from: b/inventory.json}\n"
        "names: {two: {web: web-9}}\n"
    )
    with pytest.raises(SourceError) as refused:
        import_recipe(tmp_path / "estate.yaml", strict=True)
    (nowhere,) = refused.value.diagnostics
    left = {"web": "'web', which is 'web-9' here,", "web-9": "'web'"}[server]
    assert (nowhere.code, nowhere.message.partition(" has no site")[0]) == ("import-host-nowhere", left)


def test_each_of_many_hosts_without_a_site_counts(tmp_path: Path) -> None:
    """More than are listed, in two inventories; of the second, one host is placed."""
    many = [f"lone-{number}" for number in range(KEPT_MAX)]
    (tmp_path / "hosts.csv").write_text("host;site\nmuc-0;fra\n")
    for folder in ("fra", "muc"):
        (tmp_path / folder).mkdir()
        inventory = {"_meta": {"hostvars": {}}, "shop": {"hosts": many}}
        (tmp_path / folder / "inventory.json").write_text(json.dumps(inventory))
    names = ", ".join(f"{name}: {name.replace('lone', 'muc')}" for name in many)
    (tmp_path / "estate.yaml").write_text(
        "recipe: 1\ninto: company\nsources:\n  hosts: {kind: csv, from: hosts.csv}\n"
        "  fra: {kind: ansible, from: fra/inventory.json}\n  muc: {kind: ansible, from: muc/inventory.json}\n"
        f"names: {{muc: {{{names}}}}}\n"
    )
    _, result = import_recipe(tmp_path / "estate.yaml")
    assert len([one for one in result.diagnostics if one.code == "import-host-nowhere"]) == KEPT_MAX
    (more,) = [one.message for one in result.diagnostics if one.code == "more-problems"]
    assert more.endswith(f"{KEPT_MAX - 1:,} import-host-nowhere")


@pytest.mark.parametrize(
    ("nowhere", "stated", "total"), [(0, 10, 10), (1, 10, 10), (0, 1, 2), (1, 2, 3), (1, 3, 3)]
)
@pytest.mark.parametrize("order", ["services hosts", "hosts services"])
def test_replicas_that_a_source_states_are_at_least_those(
    tmp_path: Path, nowhere: int, stated: int, total: int, order: str
) -> None:
    """The number in a catalogue, and two hosts with a place: those two passed for all ten."""
    (tmp_path / "services.csv").write_text(f"service;replicas\nshop;{stated}\n")
    (tmp_path / "hosts.csv").write_text("host;site;role\na;fra;shop\nb;muc;shop\n" + "c;;shop\n" * nowhere)
    kinds = {"services": "{kind: catalogue, from: services.csv}", "hosts": "{kind: csv, from: hosts.csv}"}
    sources = "".join(f"  {name}: {kinds[name]}\n" for name in order.split())
    (tmp_path / "estate.yaml").write_text(f"recipe: 1\ninto: company\nsources:\n{sources}")
    into, result = import_recipe(tmp_path / "estate.yaml")
    (shop,) = (one for one in load(into).services if one.id == "shop")
    assert shop.replicas == total
    assert rows(tmp_path, "replicas") == ["shop,a,1", "shop,b,1"]
    conflicts = [one.message for one in result.diagnostics if one.code == "import-conflict"]
    differ = f"replicas of service shop is {stated} in services, but other sources have {2 + nowhere}"
    assert conflicts == ([] if stated == 2 + nowhere else [differ])
