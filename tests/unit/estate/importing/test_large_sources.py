"""Terraform states and Ansible inventories of any size are read in parts, with the same result."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evac.estate import load
from evac.estate.format import document
from evac.estate.importers import SourceError, ansible, import_estate, json_stream, terraform

MODULES = {"ansible": ansible, "terraform": terraform}
SECRET = "hunter2"


def machine(number: int) -> dict[str, Any]:
    values = {
        "availability_zone": f"eu-1{'abc'[number % 3]}",
        "instance_type": "m6i.large",
        "tags": {"Name": f"srv-{number}", "Service": f"svc {number % 2}"},
        "root_block_device": [{"volume_size": 100, "tags": {"Service": "wrong"}}],
        "password": SECRET,
        "user_data": "x" * 3_000,
    }
    address = f"module.m.aws_instance.a[{number}]"
    return {"address": address, "mode": "managed", "type": "aws_instance", "name": "a", "values": values}


def others() -> list[dict[str, Any]]:
    """Managed data in every form that is read, and a kind that is not."""
    found = [
        ("aws_rds_cluster", {"cluster_identifier": "orders", "engine": "aurora-postgresql"}),
        (
            "aws_rds_cluster_instance",
            {"cluster_identifier": "orders", "availability_zone": "eu-1a", "writer": True},
        ),
        (
            "aws_rds_cluster_instance",
            {"cluster_identifier": "orders", "availability_zone": "eu-1b", "writer": False},
        ),
        (
            "aws_elasticache_replication_group",
            {"replication_group_id": "cache", "preferred_cache_cluster_azs": ["eu-1a", "eu-1b"]},
        ),
        (
            "azurerm_cosmosdb_account",
            {
                "name": "docs",
                "geo_location": [
                    {"location": "west", "failover_priority": 1},
                    {"location": "north", "failover_priority": 0},
                ],
            },
        ),
        (
            "azurerm_postgresql_flexible_server",
            {
                "name": "pg",
                "location": "west",
                "zone": "1",
                "high_availability": [{"mode": "ZoneRedundant", "standby_availability_zone": "2"}],
            },
        ),
        ("aws_vpc", {"cidr_block": "10.0.0.0/16", "tags": {"Name": "net"}}),
    ]
    return [
        {"address": f"{kind}.a[{number}]", "mode": "managed", "type": kind, "name": "a", "values": values}
        for number, (kind, values) in enumerate(found)
    ]


def state(machines: int = 6) -> dict[str, Any]:
    """A plan: what is planned in nested modules, and what is there, which is not read."""
    inner = [
        {"address": f"module.m{m}", "resources": [machine(n) for n in range(m, machines, 3)]}
        for m in range(3)
    ]
    root = {
        "resources": others(),
        "child_modules": [{"address": "module.all", "resources": [], "child_modules": inner}],
    }
    before = {"root_module": {"resources": [machine(99)], "child_modules": inner}}
    return {
        "format_version": "1.2",
        "terraform_version": "1.9.0",
        "planned_values": {"outputs": {"secret": {"value": SECRET}}, "root_module": root},
        "resource_changes": [{"change": {"after": {"tags": {"Name": "no"}}}}],
        "prior_state": {"values": before},
        "configuration": {"root_module": {"module_calls": {"m": {"module": {"resources": [machine(98)]}}}}},
    }


def inventory(hosts: int = 6) -> dict[str, Any]:
    variables = {
        f"srv-{number}": {
            "datacenter": ["fra", "muc"][number % 2],
            "Rack": f"r{number}",
            "cpus": "{{ cores_of_row }}",
            "cores_of_row": "{{ half }}2",
            "half": 1,
            "ansible_memtotal_mb": 64_000,
            "ansible_facts": {"processor_vcpus": 8, "product_serial": f"S{number}", "mounts": ["x"] * 30},
            "db_password": SECRET,
            "vaulted": {"__ansible_vault": SECRET},
            "words": ["x"] * 30,
            "memory": "{{ lookup('file', 'x') }}" if number == 1 else None,
        }
        for number in range(hosts)
    }
    web = {"hosts": [name for name in variables if not name.endswith("0")]}
    groups = {"all": {"children": ["web", "dc_fra"]}, "web": web, "dc_fra": {"hosts": ["srv-0", "srv-2"]}}
    return {"_meta": {"hostvars": variables}, **groups}


BODIES: dict[str, Callable[[int], dict[str, Any]]] = {"ansible": inventory, "terraform": state}


def written(kind: str, folder: Path, text: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Files of the estate, and codes and messages."""
    folder.mkdir()
    (folder / "source.json").write_text(text)
    result = import_estate(kind, folder / "source.json", folder / "estate")
    files = {path.name: path.read_text() for path in sorted((folder / "estate").iterdir())}
    return files, sorted((one.code, one.message) for one in result.diagnostics)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_source_that_is_read_in_parts_gives_the_same_estate(
    kind: str, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(BODIES[kind](6), indent=indent)
    whole = written(kind, tmp_path / "whole", text)
    monkeypatch.setattr(MODULES[kind], "PARTS_FROM_BYTES", 0)
    for window in (64, 2**22):
        monkeypatch.setattr(json_stream, "_WINDOW", window)
        assert written(kind, tmp_path / str(window), text) == whole
    files, _ = whole
    assert files["servers.csv"].count("srv-") == 6
    assert SECRET not in "".join(files.values())


def test_a_small_inventory_and_state_say_what_they_should(tmp_path: Path) -> None:
    files, _ = written("ansible", tmp_path / "ansible", json.dumps(inventory()))
    assert "srv-3,muc,muc/r3,12000,64000,S3" in files["servers.csv"]
    files, _ = written("terraform", tmp_path / "terraform", json.dumps(state()))
    stores = files["imported-terraform.yaml"]
    assert (
        "orders: {engine: postgresql, members: [{at: eu-1a, mode: primary}, {at: eu-1b, mode: sync}]"
        in stores
    )
    assert (
        "docs: {engine: cosmosdb, members: [{at: north, mode: primary}, {at: west, mode: async}]}" in stores
    )
    assert (
        "pg: {engine: postgresql, members: [{at: west-1, mode: primary}, {at: west-2, mode: sync}]}" in stores
    )


@pytest.mark.parametrize("kind", MODULES)
def test_a_source_larger_than_a_file_of_evac_is_read_within_the_bounds_of_what_is_kept(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = BODIES[kind](300)
    size = len(json.dumps(body))
    monkeypatch.setattr(MODULES[kind], "PARTS_FROM_BYTES", 0)
    monkeypatch.setattr(document, "YAML_BYTES_MAX", size // 4)
    monkeypatch.setattr(document, "NODES_MAX", 1_000)
    monkeypatch.setattr(json_stream, "OBJECT_CHARACTERS_MAX", size // 4)
    monkeypatch.setattr(json_stream, "_WINDOW", 2**12)
    files, _ = written(kind, tmp_path / "read", json.dumps(body))
    assert files["servers.csv"].count("srv-") == 300
    monkeypatch.setattr(json_stream, "VALUES_MAX", 1_000)
    with pytest.raises(SourceError) as caught:
        written(kind, tmp_path / "refused", json.dumps(body))
    assert [one.code for one in caught.value.diagnostics] == ["too-many-values"]


BROKEN: dict[str, Callable[[str], str]] = {
    "the end is missing": lambda text: text[:-300],
    "signs after the end": lambda text: text + "}}} oops",
    "a second value": lambda text: text + "\n" + text,
    "a key twice at the root": lambda text: text[:-1] + f", {text[1 : text.index(':')]}: 1}}",
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("change", BROKEN)
def test_a_broken_source_gives_the_same_code_in_parts(
    kind: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = BROKEN[change](json.dumps(BODIES[kind](6)))
    found = []
    for name, most in (("whole", 2**40), ("parts", 0)):
        monkeypatch.setattr(MODULES[kind], "PARTS_FROM_BYTES", most)
        try:
            found.append(written(kind, tmp_path / name, text)[0].get("servers.csv", ""))
        except SourceError as error:
            found.append(" ".join(one.code for one in error.diagnostics))
    assert found[0] == found[1]
    assert "srv-" not in found[0]


def test_a_variable_in_a_template_of_several_lines_is_kept_of_a_large_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a line is two characters in the text of JSON, `\\` and `n`."""
    variables = {"datacenter": "{{\n  home\t}}", "home": "{{ nested\r\n}}", "nested": "fra", "rack": "r1"}
    body = {"_meta": {"hostvars": {"web-1": variables}}, "web": {"hosts": ["web-1"]}}
    source = tmp_path / "inventory.json"
    source.write_text(json.dumps(body))
    for most in (0, ansible.PARTS_FROM_BYTES):
        monkeypatch.setattr(ansible, "PARTS_FROM_BYTES", most)
        result = import_estate("ansible", source, tmp_path / f"estate-{most}")
        assert [site.id for site in load(tmp_path / f"estate-{most}").sites] == ["fra"]
        assert not result.partial
