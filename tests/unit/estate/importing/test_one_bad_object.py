"""One bad object never stops the rest: it is named with its place, everything else is imported, and the
result says that it is partial.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from evac.cli import console
from evac.cli.main import run
from evac.estate import load
from evac.estate.importers import KINDS, SourceError, import_estate
from evac.model.fleet import SERVER_STATES

DEVICE = {"device_type": {"slug": "r640"}, "site": {"slug": "fra"}, "role": {"slug": "shop"}}
RESOURCE = {"mode": "managed", "type": "aws_instance"}


def deployment(name: str, containers: Any) -> str:
    spec = {"replicas": 2, "template": {"spec": {"containers": containers}}}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
    return json.dumps(body)


def sample(pod: str, value: str) -> dict[str, Any]:
    return {"metric": {"namespace": "prod", "pod": pod}, "value": [1, value]}


def component(name: str) -> str:
    return f"apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{}}\n"


SOURCES: dict[str, dict[str, str]] = {
    "ansible": {
        "inventory.json": json.dumps(
            {
                "_meta": {
                    "hostvars": {
                        "good": {"dc": "fra", "rack": "r1", "cpus": 4},
                        "odd": {"dc": "fra", "rack": "r(1)", "cpus": 8},
                        "a/b": {"dc": "fra"},
                    }
                },
                "shop": {"hosts": ["good", "odd"]},
            }
        )
    },
    "backstage": {
        "a.yaml": component("good"),
        "b.yaml": "kind: [Component\n",
        "c.yaml": component("'a b'"),
    },
    "catalogue": {
        "services.yaml": "services:\n  good: {tier: 1, needs: ['a b', login]}\n  odd: 5\n  login: {}\n"
    },
    "compose": {"compose.yaml": "services:\n  good: {image: nginx}\n  odd: 5\n"},
    "csv": {"hosts.csv": "host,site,cores,role\ngood,fra,4,good\nodd,fra,lots,good\nlost,fra\n"},
    "kubernetes": {
        "a.json": deployment("good", [{"name": "a"}]),
        "b.json": deployment("odd", {"name": "a"}),
        "c.json": deployment("a b", [{"name": "a"}]),
    },
    "netbox": {
        "devices.json": json.dumps(
            {
                "results": [
                    {**DEVICE, "name": "good", "rack": {"name": "r1"}},
                    {**DEVICE, "name": "odd", "rack": {"name": "r(1)"}},
                    {**DEVICE, "name": "a/b"},
                ]
            }
        )
    },
    "prometheus": {
        "answers.json": json.dumps(
            {
                "cpu": {"data": {"result": [sample("good-7d9f8b6c5d-x2x4z", "0.5"), sample("a b", "0.5")]}},
                "calls": {"data": {"result": []}},
            }
        )
    },
    "terraform": {
        "show.json": json.dumps(
            {
                "values": {
                    "root_module": {
                        "resources": [
                            {
                                **RESOURCE,
                                "address": "aws_instance.good",
                                "values": {"availability_zone": "eu-1a", "tags": {"Name": "good"}},
                            },
                            {**RESOURCE, "address": "aws_instance.odd", "values": {"tags": {"Name": "odd"}}},
                        ]
                    }
                }
            }
        )
    },
    "wikimedia": {
        "puppet/service.yaml": (
            "service::catalog:\n"
            "  good: {description: x, sites: [fra], ip: {fra: {default: 10.0.0.1}}, state: production,\n"
            "    lvs: {conftool: {cluster: web, service: good}}}\n"
        ),
        "puppet/conftool-data/node/fra.yaml": "fra:\n  web:\n    good1: [good]\n    odd1: [good]\n",
        "puppet/conftool-data/node/muc.yaml": "muc:\n  web:\n    odd1: [good]\n    good2: [good]\n",
        "puppet/conftool-data/dbconfig-section/sections.yaml": "fra: [s1]\nmuc: [s1]\n",
    },
}
"""Kind -> files of a source, with one thing or more that cannot be used."""

NAMED = {
    "ansible": {"r(1)": "inventory.json:1:", "a/b": "inventory.json:1:"},
    "backstage": {"b.yaml": "b.yaml:", "a b": "c.yaml:"},
    "catalogue": {"a b": "services.yaml:2:", "odd": "services.yaml:3:"},
    "compose": {"odd": "compose.yaml:3:"},
    "csv": {"lots": "hosts.csv:3:9", "cells in this row": "hosts.csv:4:1"},
    "kubernetes": {"odd": "b.json:1:", "a b": "c.json:1:"},
    "netbox": {"r(1)": "devices.json:1:", "a/b": "devices.json:1:"},
    "prometheus": {"a b": "answers.json:1:"},
    "terraform": {"odd": "show.json:1:"},
    "wikimedia": {"odd1": "muc.yaml:3:"},
}
"""Kind -> what a message names, and the place that it gives."""


def written(kind: str, folder: Path) -> Path:
    files = SOURCES[kind]
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / next(iter(files)) if len(files) == 1 else folder


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_object_is_named_and_the_rest_is_imported(kind: str, tmp_path: Path) -> None:
    source = written(kind, tmp_path / "source")
    result = import_estate(kind, source, tmp_path / "estate")
    estate = load(tmp_path / "estate")
    names = {service.id for service in estate.services} | {name.decode() for name in estate.fleet.name}
    assert any(name.startswith("good") for name in names)
    assert not names & {"a/b", "a b", "odd1", "lost"}
    assert result.partial
    for what, place in NAMED[kind].items():
        found = [one for one in result.diagnostics if what in one.message]
        assert any(str(one.place).startswith(place) and one.hint for one in found), what


@pytest.mark.parametrize("kind", KINDS)
def test_with_strict_one_bad_object_refuses_the_source(kind: str, tmp_path: Path) -> None:
    source = written(kind, tmp_path / "source")
    with pytest.raises(SourceError):
        import_estate(kind, source, tmp_path / "estate", strict=True)
    assert not (tmp_path / "estate").exists()


def test_the_exit_code_says_that_an_import_is_partial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = written("csv", tmp_path)
    words = ["import", "csv", str(hosts), "-o", str(tmp_path / "estate")]
    assert run(words) == console.PARTIAL
    assert "hosts.csv:3:9: warning: 'lots' is not an amount of cpu" in capsys.readouterr().err
    assert run([*words, "--output", "json"]) == console.PARTIAL
    assert json.loads(capsys.readouterr().out)["partial"] is True
    hosts.write_text("host,site,cores,role\ngood,fra,4,good\n")
    assert run([*words, "--output", "json"]) == console.DONE
    assert json.loads(capsys.readouterr().out)["partial"] is False


def host(**variables: Any) -> dict[str, Any]:
    hosts = {"good": {"dc": "fra"}, "odd": {"dc": "fra", **variables}}
    return {"_meta": {"hostvars": hosts}, "shop": {"hosts": ["good", "odd"]}}


def machine(name: str, /, **values: Any) -> dict[str, Any]:
    values = {"name": name, "datacenter": "fra", **values}
    return {"mode": "managed", "type": "hcloud_server", "address": f"hcloud_server.{name}", "values": values}


def state(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"values": {"root_module": {"resources": list(resources)}}}


def database(name: str, **values: Any) -> dict[str, Any]:
    kind = "google_filestore_instance"
    return {"mode": "managed", "type": kind, "address": name, "values": {"name": name, **values}}


def play(**play: Any) -> dict[str, Any]:
    return {"inventory.json": host(), "site.yml": [play]}


def objects(*metadata: dict[str, Any]) -> dict[str, Any]:
    items = [{**json.loads(deployment("good", [{"name": "a"}])), "metadata": one} for one in metadata]
    return {"kind": "List", "items": [json.loads(deployment("good", [{"name": "a"}])), *items]}


PARTIAL: dict[str, tuple[str, Any, str]] = {
    "an unknown state": ("ansible", host(state="moving"), "unknown state 'moving'"),
    "a template": ("ansible", host(rack="{{ rack_of(1) }}"), "a template that only Ansible can fill in"),
    "no amount": ("ansible", host(cpus="lots"), "lots"),
    "hosts of a play": ("ansible", play(hosts="shop:!odd", vars={"rack": "r1"}), "shop:!odd"),
    "state of a machine": ("terraform", state(machine("a"), machine("b", status="moved")), "'moved'"),
    "a resource without values": ("terraform", state(machine("a"), {**machine("b"), "values": None}), ".b'"),
    "a resource twice": ("terraform", state(machine("a"), machine("a"), machine("a")), "appears twice"),
    "a store twice": ("terraform", state(machine("a"), *[database("b")] * 3), "appears twice"),
    "a zone": (
        "terraform",
        state(machine("a"), database("b", location="eu(1)")),
        "'eu(1)' is not a valid site",
    ),
    "no number": ("catalogue", {"services": {"good": {"tier": "very"}}}, "'very' is not a valid tier"),
    "an object without a name": ("kubernetes", objects({"namespace": "a"}), "Deployment is skipped"),
    "an object with a name for a server to make": (
        "kubernetes",
        objects({"generateName": "a-"}),
        "Deployment is skipped",
    ),
    "an unset variable": ("compose", {"services": {"good": {"image": "a", "cpus": "${CPUS}"}}}, "'CPUS'"),
}
"""What cannot be used -> kind of source, its content, and what a message names."""


def source_of(kind: str, body: Any, folder: Path) -> Path:
    names = {"catalogue": "services.yaml", "compose": "compose.yaml"}
    files = body if "inventory.json" in body else {names.get(kind, "source.json"): body}
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder if len(files) > 1 else folder / next(iter(files))


@pytest.mark.parametrize("what", PARTIAL)
def test_what_a_source_states_and_evac_cannot_use_makes_an_import_partial(what: str, tmp_path: Path) -> None:
    kind, body, named = PARTIAL[what]
    source = source_of(kind, body, tmp_path / "source")
    result = import_estate(kind, source, tmp_path / "estate")
    assert result.partial
    assert [one for one in result.diagnostics if named in one.message and one.place.line and one.hint]
    with pytest.raises(SourceError):
        import_estate(kind, source, tmp_path / "strict", strict=True)


MODEL = "Standard PC (Q35 + ICH9, 2009)"
DEVICES = [{**DEVICE, "name": name, "device_type": {"model": MODEL}} for name in ("good", "odd")]
WHOLE: dict[str, tuple[str, Any]] = {
    "a gathered model": ("ansible", host(ansible_facts={"product_name": MODEL})),
    "a model": ("ansible", host(model=MODEL)),
    "a model in NetBox": ("netbox", {"results": DEVICES}),
    "a size": ("terraform", state(machine("good"), machine("odd", server_type=MODEL))),
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_model_with_brackets_is_a_class_and_makes_no_import_partial(what: str, tmp_path: Path) -> None:
    kind, body = WHOLE[what]
    result = import_estate(kind, source_of(kind, body, tmp_path / "source"), tmp_path / "estate", strict=True)
    assert not result.partial
    estate = load(tmp_path / "estate")
    assert [one.id for one in estate.classes] == ["Standard-PC-Q35-ICH9-2009"]
    assert len(estate.fleet) == 2
    assert len([one for one in result.diagnostics if MODEL in one.message]) == 1


PAIR = ("X 1", "X (1)")
FIVE = (*PAIR, "X-1", "X 1", "Y")
HOSTS = {f"h{n}": {"dc": "fra", "model": model} for n, model in enumerate(FIVE)}
MERGED: dict[str, tuple[str, Any]] = {
    "ansible": ("ansible", {"_meta": {"hostvars": HOSTS}, "shop": {"hosts": list(HOSTS)}}),
    "netbox": (
        "netbox",
        {"results": [{**DEVICE, "name": f"h{n}", "device_type": {"model": m}} for n, m in enumerate(FIVE)]},
    ),
    "terraform": ("terraform", state(*(machine(f"h{n}", server_type=m) for n, m in enumerate(FIVE)))),
}


@pytest.mark.parametrize("what", [*MERGED, "csv"])
def test_models_that_become_one_class_are_reported(what: str, tmp_path: Path) -> None:
    if what == "csv":
        source = tmp_path / "hosts.csv"
        source.write_text("host,site,model\n" + "".join(f"h{n},fra,{m}\n" for n, m in enumerate(FIVE)))
    else:
        source = source_of(*MERGED[what], tmp_path / "source")
    result = import_estate(what, source, tmp_path / "estate", strict=True)
    assert [one.id for one in load(tmp_path / "estate").classes] == ["X-1", "Y"]
    assert [one.message for one in result.diagnostics if one.code == "import-name-changed"] == [
        "'X 1' is taken as the class 'X-1'",
        "'X (1)' is taken as the class 'X-1', as is 'X 1'",
        "'X-1' is taken as the class 'X-1', as is 'X 1'",
    ]


def test_the_state_of_a_machine_that_evac_does_not_know_is_no_capacity(tmp_path: Path) -> None:
    body = state(machine("a", status="running"), machine("b", status="moved"), machine("c"))
    import_estate("terraform", source_of("terraform", body, tmp_path / "source"), tmp_path / "estate")
    fleet = load(tmp_path / "estate").fleet
    states = [SERVER_STATES[code] for code in fleet.state]
    assert dict(zip(fleet.name.tolist(), states, strict=True)) == {
        b"a": "serving",
        b"b": "condemned",
        b"c": "serving",
    }


@pytest.mark.parametrize("quiet", [True, False])
def test_why_an_import_failed_is_the_last_that_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    (tmp_path / "a.csv").write_text("host,site,cores\nz-1,fra,lots\nz-2,fra,4\n")
    (tmp_path / "b.json").write_text('{"kind": "List", "items": [')
    (tmp_path / "c.csv").write_text("host,site,cores\ny-1,fra,lots\ny-2,fra,4\n")
    (tmp_path / "estate.yaml").write_text("""\
recipe: 1
sources:
  a: {kind: csv, from: a.csv}
  b: {kind: kubernetes, from: b.json}
  c: {kind: csv, from: c.csv}
""")
    assert run(["import", str(tmp_path / "estate.yaml"), *(["--quiet"] if quiet else [])]) == console.USAGE
    lines = [line for line in capsys.readouterr().err.splitlines() if line[0] != " "]
    assert ("warning" in " ".join(lines)) is not quiet
    assert lines[-3].startswith("b.json:")
    assert [
        one for one in ("import-truncated", "import-impossible", "next: ") if one in "".join(lines[-3:])
    ] == [
        "import-truncated",
        "import-impossible",
        "next: ",
    ]


def graph(*calls: tuple[str, str]) -> dict[str, Any]:
    found = [{"metric": {"client": client, "server": server}, "value": [1, "9"]} for client, server in calls]
    return {"cpu": {"data": {"result": []}}, "calls": {"data": {"resultType": "vector", "result": found}}}


def test_an_address_in_a_service_graph_is_no_service(tmp_path: Path) -> None:
    calls = (
        ("shop", "db.corp.internal:5432"),
        ("shop", "pay.example.com:443"),
        ("shop", "pay.example.com"),
        ("shop", "192.168.7.9:6379"),
        ("shop", "[2001:db8::7]:443"),
        ("shop", "cache.prod.svc.cluster.local:6379"),
        ("shop", "search:9200"),
        ("shop", "com.example.billing"),
        ("shop", "Stock.Api"),
        ("10.0.0.9:55555", "shop"),
        ("shop:8080", "shop"),
        ("edge.example.com", "shop"),
        ("shop", "edge.example.com"),
    )
    (tmp_path / "answers.json").write_text(json.dumps(graph(*calls)))
    result = import_estate("prometheus", tmp_path / "answers.json", tmp_path / "estate")
    estate = load(tmp_path / "estate")
    (shop,) = [one for one in estate.services if one.id == "shop"]
    needs = {one.target: one.hard for one in shop.needs}
    assert needs == {
        "Stock.Api": True,
        "cache": True,
        "com.example.billing": True,
        "edge.example.com": True,
        "search": True,
        "2001:db8::7": False,
        "192.168.7.9": False,
        "db.corp.internal": False,
        "pay.example.com": False,
    }
    external = {one.id for one in estate.services if one.external}
    assert "pay.example.com" in external
    assert not external & {"db.corp.internal", "192.168.7.9", "cache", "search", "Stock.Api"}
    assert "10.0.0.9" not in {one.id for one in estate.services}
    assert any("calls from IP addresses" in gap.what and gap.names == ("10.0.0.9",) for gap in result.unknown)
