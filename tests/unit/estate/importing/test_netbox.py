"""NetBox: devices and virtual machines where they are, from one dump, pages or a folder of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evac.estate import load
from evac.estate.importers import SourceError, import_estate, netbox
from evac.model.fleet import SERVER_STATES
from tests.unit.estate.importing.test_inventories import imported


def device(name: str | None, site: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "site": {"slug": site}, "status": {"value": "active"}, **more}


def test_netbox_devices_in_their_racks_and_two_of_one_name(tmp_path: Path) -> None:
    devices = [
        device(
            "db-1",
            "fra",
            location={"slug": "hall-1"},
            rack={"name": "R 07"},
            position=17.0,
            serial="ABC-1",
            oob_ip={"address": "10.0.0.9/24"},
            device_type={"slug": "r740"},
            role={"slug": "database"},
        ),
        device("db-1", "muc", status={"value": "planned"}),
        device("db-1", "muc"),
        device("sw-1", "fra", role={"slug": "top-of-rack-switch"}),
        device(None, "fra"),
    ]
    estate, result, _ = imported(tmp_path, "netbox", {"count": 5, "results": devices})
    assert estate.fleet.name.tolist() == [b"db-1", b"db-1@muc"]
    assert [rack.id for rack in estate.racks] == ["fra/hall-1/R-07"]
    assert estate.fleet.bmc_address[0] == b"10.0.0.9"
    assert estate.fleet.position[0] == b"17"
    assert [SERVER_STATES[code] for code in estate.fleet.state] == ["serving", "condemned"]
    assert [d.code for d in result.diagnostics] == ["import-name-changed", "import-twice"]
    assert {u.what: u.count for u in result.unknown if "devices" in u.what} == {
        "devices without a name; left out": 1,
        "network devices": 1,
    }


@pytest.mark.parametrize("number", ["1", "2f9c0f1e-8a54-4b0c-9d0e-0a5b6c7d8e9f"])
def test_other_objects_of_netbox_are_no_servers(tmp_path: Path, number: str) -> None:
    url, fra = "https://nb.example/api/dcim", {"slug": "fra"}
    found = {
        "devices": device("db-1", "fra", url=f"{url}/devices/{number}/", device_type={"slug": "r740"}),
        "interfaces": {"name": "eth0", "url": f"{url}/interfaces/{number}/", "device": {"id": number}},
        "locations": {"name": "Hall", "slug": "hall", "site": fra, "parent": None},
        "racks": {"name": "R 07", "site": fra, "status": {"value": "active"}, "u_height": 42},
        "regions": {"name": "Hessen", "slug": "hessen", "parent": {"slug": "de"}},
        "sites": {
            "name": "Frankfurt",
            "slug": "fra",
            "region": {"slug": "hessen"},
            "status": {"value": "active"},
        },
    }
    folder = tmp_path / "dump"
    folder.mkdir()
    for name, one in found.items():
        (folder / f"{name}.json").write_text(json.dumps({"results": [one]}))
    result = import_estate("netbox", folder, tmp_path / "estate")
    assert load(tmp_path / "estate").fleet.name.tolist() == [b"db-1"]
    assert {one.place.file for one in result.diagnostics} == {f"{name}.json" for name in found} - {
        "devices.json"
    }
    assert {one.code for one in result.diagnostics} == {"import-ignored"}


def test_a_virtual_machine_is_a_replica_where_its_capacity_already_counts(tmp_path: Path) -> None:
    def machine(name: str, **more: Any) -> dict[str, Any]:
        return device(name, "fra", vcpus=2.5, memory=4096, role={"slug": "shop"}, **more)

    runs = {"role": {"slug": "hypervisor"}, "cluster": {"name": "c1"}}
    devices = [device("hv1", "fra", id=1, vcpus=32, **runs), device("hv2", "fra", id=2, vcpus=32, **runs)]
    devices += [
        device("leaf1", "fra", id=3, role={"slug": "leaf-switches"}),
        device("l2", "fra", role={"slug": "spine"}),
    ]
    machines = [
        machine("a", device={"id": 1}),
        machine("b", device={"id": 1}),
        {**machine("c", cluster={"name": "c1"}), "site": None, "vcpus": 4},
        {**machine("d", device={"id": 2}), "status": {"value": "paused"}},
        {**machine("hv1", device={"id": 2}), "role": None},
        machine("elsewhere", cluster={"name": "unknown"}),
    ]
    body = {"devices": devices, "virtual_machines": machines}
    estate, result, _ = imported(tmp_path, "netbox", body)
    assert estate.fleet.name.tolist() == [b"elsewhere", b"hv1", b"hv2"]
    assert estate.fleet.capacity[:, 0].tolist() == [2_500, 32_000, 32_000]
    assert [(s.id, s.replicas, s.demand[:2]) for s in estate.services] == [("shop", 4, (4_000, 4_096))]
    rows = (tmp_path / "estate" / "replicas.csv").read_text().splitlines()
    assert rows == ["service,target,count", "shop,c1,1", "shop,elsewhere,1", "shop,hv1,2"]
    assert {u.what: u.count for u in result.unknown if "left out" in u.what or "network" in u.what} == {
        "network devices": 2,
        "virtual machines that are not active; left out": 1,
        "virtual machines without a role; left out": 1,
    }
    _, result, _ = imported(tmp_path, "netbox", {"devices": devices, "virtual_machines_refused": True})
    assert [one.code for one in result.diagnostics] == ["import-skipped"]


def test_a_virtual_machine_without_a_device_is_not_on_a_device_without_an_id(tmp_path: Path) -> None:
    shop = {"role": {"slug": "shop"}, "vcpus": 2}
    body = {
        "devices": [device("hv1", "fra", vcpus=32)],
        "virtual_machines": [device("a", "fra", **shop), device("b", "fra", device={"id": ""}, **shop)],
    }
    estate, _, _ = imported(tmp_path, "netbox", body)
    assert estate.fleet.name.tolist() == [b"a", b"b", b"hv1"]


def test_rooms_of_one_name_in_two_buildings_are_two_halls_and_a_building_is_lost_as_a_whole(
    tmp_path: Path,
) -> None:
    """NetBox keeps names of locations unique only inside the location around them."""

    def location(number: int, slug: str, parent: int = 0) -> dict[str, Any]:
        url = f"https://nb.example/api/dcim/locations/{number}/"
        around = {"id": parent} if parent else None
        return {"id": number, "url": url, "slug": slug, "site": {"slug": "fra"}, "parent": around}

    def at(number: int, slug: str, name: str) -> dict[str, Any]:
        return device(name, "fra", location={"id": number, "slug": slug}, rack={"name": "R1"})

    locations = [location(1, "b1"), location(2, "b2"), location(3, "room", 1), location(4, "room", 2)]
    devices = [at(3, "room", "a"), at(4, "room", "b"), at(5, "lab", "c")]
    locations += [location(5, "lab", 1), location(6, "empty", 2)]
    body = {"devices": devices, "locations": {"results": locations}}
    estate, result, _ = imported(tmp_path, "netbox", body)
    assert not [one for one in result.diagnostics if one.code.startswith("import-")]
    assert [one.id for one in estate.halls] == ["fra/b1.room", "fra/b2.room", "fra/lab"]
    assert [rack.id for rack in estate.racks] == ["fra/b1.room/R1", "fra/b2.room/R1", "fra/lab/R1"]
    assert [(one.id, one.members) for one in estate.groups] == [("fra.b1", ("fra/b1.room", "fra/lab"))]
    # Without the list, two ids still tell two rooms apart.
    estate, _, _ = imported(tmp_path, "netbox", {"devices": devices})
    assert [one.id for one in estate.halls] == ["fra/lab", "fra/room.3", "fra/room.4"]


def test_amounts_in_custom_fields_are_facts_and_hosts_of_others_are_no_services(tmp_path: Path) -> None:
    devices = [
        device(
            "n1",
            "fra",
            custom_fields={"cpu_cores": 32, "RAM GB": "128", "cost_center": "7"},
            role={"slug": "k8s-node"},
        ),
        device(
            "n2", "fra", custom_fields={"ram": 256, "power_w": 350, "disk": None}, role={"slug": "kvm-host"}
        ),
        device(
            "n3",
            "fra",
            custom_fields={"ram": 512},
            role={"slug": "mail"},
            cluster={"name": "c"},
            vcpus=2,
            memory=1024,
        ),
    ]
    estate, result, _ = imported(tmp_path, "netbox", {"devices": devices})
    assert estate.fleet.capacity[:, :2].tolist() == [[32_000, 122_070], [0, 0], [2_000, 1_024]]
    assert estate.fleet.watts.tolist() == [0, 350, 0]
    assert [one.id for one in estate.services] == ["mail"]
    (problem,) = [one for one in result.diagnostics if one.code == "import-unit-missing"]
    assert "'ram'" in problem.message
    assert "ram_gib" in problem.hint or "memory_gib" in problem.hint
    assert [(one.id, one.capacity[:2]) for one in estate.pools] == [("c", (2_000, 1_024))]


def test_a_device_that_gets_another_name_in_netbox_is_told(tmp_path: Path) -> None:
    devices = [device("a", "x"), device("b", "x"), device("a", "x"), device("a", "y"), device("a", "x")]
    estate, result, _ = imported(tmp_path, "netbox", {"results": devices})
    assert sorted(estate.fleet.name.tolist()) == [b"a", b"a@x", b"a@y", b"b"]
    assert [one.code for one in result.diagnostics] == ["import-name-changed"] * 2 + ["import-twice"]
    assert "this one is called a@x" in result.diagnostics[0].message


def pages_of(kind: str, path: str, count: int | None, *pages: list[int]) -> list[dict[str, Any]]:
    """Responses of NetBox with machines of these numbers."""
    made = []
    for n, numbers in enumerate(pages):
        results = [
            device(f"{kind}{one}", "fra", id=one, url=f"https://nb.example/api/{path}/{one}/")
            for one in numbers
        ]
        more = f"https://nb.example/api/{path}/?offset=9" if n + 1 < len(pages) or count is None else None
        made.append({"next": more, "results": results} | ({} if count is None else {"count": count}))
    return made


DEVICES, MACHINES = "dcim/devices", "virtualization/virtual-machines"


@pytest.mark.parametrize("limit", [0, netbox.PRUNED_FROM_BYTES])
@pytest.mark.parametrize(
    ("pages", "missing"),
    [
        (pages_of("d", DEVICES, 500, [1, 2, 3, 4, 5]), ["500", "5"]),
        (pages_of("d", DEVICES, None, [1, 2]), ["3", "2"]),
        (pages_of("d", DEVICES, 4, [1, 2], [1, 2]), ["4", "2"]),
        (pages_of("d", DEVICES, 4, [1, 2], [3, 4]), None),
        (pages_of("d", DEVICES, 2, [1, 2]) + pages_of("v", MACHINES, 3, [1, 2]), ["3", "2"]),
        (pages_of("d", DEVICES, 2, [1, 2]) + pages_of("v", MACHINES, 2, [3, 4]), None),
        ([{"devices": pages_of("d", DEVICES, 3, [1, 2])[0]}], ["3", "2"]),
        ([{"devices": {"count": 3, "next": None, "results": []}}, device("x", "fra")], ["3", "0"]),
    ],
)
def test_some_pages_of_netbox_are_no_whole(
    tmp_path: Path, pages: list[Any], missing: list[str] | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netbox, "PRUNED_FROM_BYTES", limit)
    folder = tmp_path / "pages"
    folder.mkdir()
    for n, page in enumerate(pages):
        whole = page if {"results", "devices"} & page.keys() else [page]
        (folder / f"{n}.json").write_text(json.dumps(whole))
    source = folder if len(pages) > 1 else folder / "0.json"
    if missing is None:
        result = import_estate("netbox", source, tmp_path / "estate")
        assert [one.code for one in result.diagnostics] == []
        return
    with pytest.raises(SourceError) as caught:
        import_estate("netbox", source, tmp_path / "estate")
    (found,) = [one for one in caught.value.diagnostics if one.severity == "error"]
    assert found.code == "import-truncated"
    assert re.findall(r"\b\d+\b", found.message.partition("json")[2]) == missing
    assert not (tmp_path / "estate").exists()


def test_a_number_of_cores_that_is_no_number_needs_no_unit(tmp_path: Path) -> None:
    _, result, _ = imported(
        tmp_path, "netbox", {"devices": [device("n1", "fra", custom_fields={"cpu_cores": "many"})]}
    )
    (problem,) = [one for one in result.diagnostics if one.code == "import-unit-missing"]
    assert problem.hint == "give a plain number"


def test_a_list_of_something_else_is_no_list_of_devices(tmp_path: Path) -> None:
    """It used to become an estate of nothing, without a word."""
    source = tmp_path / "outages.json"
    source.write_text(json.dumps([{"company": "a", "lost": "a hall"}, {"company": "b", "lost": "a site"}]))
    with pytest.raises(SourceError) as caught:
        import_estate("netbox", source, tmp_path / "estate")
    assert [one.message for one in caught.value.diagnostics] == ["no devices in outages.json"]
    assert not (tmp_path / "estate").exists()


def test_a_role_that_is_a_kind_of_machine_is_no_service(tmp_path: Path) -> None:
    devices = [
        device("n1", "fra", id=1, role={"slug": "server"}),
        device("n2", "fra", id=2, role={"slug": "bare-metal"}),
        device("n3", "fra", id=3, role={"slug": "mail-server"}),
    ]
    machines = [
        {"name": name, "vcpus": 2, "device": {"id": 1}, "role": {"slug": role}, "status": {"value": "active"}}
        for name, role in (("vm1", "virtual-machine"), ("vm2", "shop"))
    ]
    estate, result, _ = imported(tmp_path, "netbox", {"devices": devices, "virtual_machines": machines})
    assert [one.id for one in estate.services] == ["mail-server", "shop"]
    unknown = {one.what: one.names or one.count for one in result.unknown if "does not say" in one.what}
    assert unknown == {
        "servers whose role, such as server, does not say what runs on them": ("n2",),
        "virtual machines whose role, such as server, does not say what they run; left out": 1,
    }
