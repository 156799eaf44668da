"""A value that is nested too deeply in a source: it is skipped and said, and everything around it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evac.estate.importers import ImportResult, SourceError, import_estate
from evac.estate.importers import ansible as ansible_module
from evac.estate.importers import netbox as netbox_module
from evac.estate.importers import terraform as terraform_module


def text_of(body: Any, levels: int) -> str:
    """JSON with `DEEP` as a value of so many levels; json.dumps itself stops at about a thousand."""
    return json.dumps(body, indent=1).replace('"DEEP"', '{"a":[' * (levels // 2) + "1" + "]}" * (levels // 2))


def netbox(deep: Any) -> Any:
    devices = [
        {
            "id": number,
            "name": f"srv-{number}",
            "device_type": {"slug": "r650"},
            "site": {"slug": "fra"},
            "role": {"slug": "web"},
            "local_context_data": deep if number == 1 else None,
        }
        for number in range(3)
    ]
    return {"count": 3, "results": devices}


def ansible(deep: Any) -> Any:
    hosts = {f"srv-{n}": {"datacenter": "fra", "settings": deep if n == 1 else 1} for n in range(3)}
    return {"_meta": {"hostvars": hosts}, "web": {"hosts": sorted(hosts)}}


def terraform(deep: Any) -> Any:
    resources = [
        {
            "address": f"hcloud_server.srv-{n}",
            "mode": "managed",
            "type": "hcloud_server",
            "name": f"srv-{n}",
            "values": {"name": f"srv-{n}", "location": "fra", "policy": deep if n == 1 else 1},
        }
        for n in range(3)
    ]
    state = {"format_version": "1.0", "terraform_version": "1.9.0"}
    return {**state, "values": {"root_module": {"resources": resources}}}


BODIES: dict[str, Callable[[Any], Any]] = {"ansible": ansible, "netbox": netbox, "terraform": terraform}
LIMITS: dict[str, tuple[Any, str]] = {
    "ansible": (ansible_module, "PARTS_FROM_BYTES"),
    "netbox": (netbox_module, "PRUNED_FROM_BYTES"),
    "terraform": (terraform_module, "PARTS_FROM_BYTES"),
}


def imported(kind: str, folder: Path, text: str, **options: Any) -> tuple[dict[str, str], ImportResult]:
    folder.mkdir()
    (folder / "source.json").write_text(text)
    result = import_estate(kind, folder / "source.json", folder / "estate", **options)
    return {path.name: path.read_text() for path in sorted((folder / "estate").iterdir())}, result


@pytest.mark.parametrize("levels", [40, 400, 2_000, 300_000])
@pytest.mark.parametrize("kind", BODIES)
def test_a_deep_value_costs_nothing_else(
    kind: str, levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estate is that of the same source without the value, however large the source is."""
    flat, _ = imported(kind, tmp_path / "flat", json.dumps(BODIES[kind](1), indent=1))
    for name, most in (("small", 2**40), ("large", 0)):
        monkeypatch.setattr(*LIMITS[kind], most)
        files, result = imported(kind, tmp_path / name, text_of(BODIES[kind]("DEEP"), levels))
        assert files == flat
        said = [one for one in result.diagnostics if one.code == "import-skipped"]
        assert [one.message for one in said] == ["1 value is nested more than 32 levels deep: it is skipped"]
        assert said[0].place.line > 1
        assert result.partial


@pytest.mark.parametrize("kind", BODIES)
def test_strict_refuses_a_source_with_a_deep_value(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        imported(kind, tmp_path / "a", text_of(BODIES[kind]("DEEP"), 40), strict=True)
    assert "import-skipped" in {one.code for one in caught.value.diagnostics}


def test_a_deep_site_is_unknown_and_not_another_site(tmp_path: Path) -> None:
    """The value itself is what evac would read: the host has no place, and no other one."""
    body = {"_meta": {"hostvars": {"srv-0": {"datacenter": "DEEP"}, "srv-1": {"datacenter": "fra"}}}}
    body |= {"web": {"hosts": ["srv-0", "srv-1"]}}
    files, result = imported("ansible", tmp_path / "a", text_of(body, 80))
    assert "srv-0" not in files["servers.csv"]
    assert {"import-skipped", "import-host-nowhere"} <= {one.code for one in result.diagnostics}


def test_a_key_twice_is_found_next_to_a_deep_value(tmp_path: Path) -> None:
    text = text_of(netbox("DEEP"), 300_000)
    for source in (text, text + " " * netbox_module.PRUNED_FROM_BYTES):
        twice = source.replace('"name": "srv-1"', '"name": "srv-1", "name": "srv-9"', 1)
        with pytest.raises(SourceError) as caught:
            imported("netbox", tmp_path / str(len(twice)), twice)
        assert [one.code for one in caught.value.diagnostics] == ["key-twice"]


COMPOSE = """
x-deep: &deep {levels}
services:
  web: {{image: nginx, labels: *deep, depends_on: [db]}}
  db: {{image: "postgres:16", volumes: ["data:/var/lib/postgresql/data"]}}
volumes: {{data: {{}}}}
"""


def test_yaml_of_others_is_read_around_a_deep_value_and_its_anchors(tmp_path: Path) -> None:
    levels = "[" * 40 + "&inner {a: 1}" + "]" * 40
    source = tmp_path / "compose.yaml"
    source.write_text(COMPOSE.format(levels=levels) + "x-more: *inner\n")
    result = import_estate("compose", source, tmp_path / "estate")
    assert (result.services, result.stores) == (2, 1)
    said = [one for one in result.diagnostics if one.code == "import-skipped"]
    assert [(one.message.split(":")[0], one.place.line) for one in said] == [
        ("1 value is nested more than 32 levels deep", 2)
    ]


def test_a_deep_entity_of_a_catalogue_stops_no_other_one(tmp_path: Path) -> None:
    head = "apiVersion: backstage.io/v1alpha1\nkind: Component\n"
    entities = [
        f"{head}metadata: {{name: {name}, annotations: {deep}}}\nspec: {{type: service}}\n"
        for name, deep in (("a", "[" * 40 + "]" * 40), ("b", "{}"))
    ]
    (tmp_path / "catalog-info.yaml").write_text("---\n".join(entities))
    for source in (tmp_path / "catalog-info.yaml", tmp_path):
        result = import_estate("backstage", source, tmp_path / f"estate-{source.suffix}")
        assert result.services == 2
        said = [one.message for one in result.diagnostics if one.code == "import-skipped"]
        assert said == ["1 value is nested more than 32 levels deep: it is skipped"]
