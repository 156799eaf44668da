"""A client that a kept generator makes of the OpenAPI document: it reads a real room, and changes it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_socket

from tests.conftest import PROJECT_ROOT

DOCUMENT = PROJECT_ROOT / "docs" / "reference" / "openapi.json"
NAME = "evac_generated_client"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Imports a module of the generated client by its name; the generator has nothing to warn of."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "settings.yaml").write_text(f"package_name_override: {NAME}\npost_hooks: []\n")
    program = str(Path(sys.executable).with_name("openapi-python-client"))
    command = [program, "generate", "--path", str(DOCUMENT), "--config", str(folder / "settings.yaml")]
    command += ["--meta", "none", "--output-path", str(folder / NAME), "--fail-on-warning"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield lambda module: importlib.import_module(f"{NAME}.{module}")
    for name in [one for one in sys.modules if one.partition(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def client(generated: Any, served: tuple[str, str]) -> Iterator[Any]:
    pytest_socket.enable_socket()
    with generated("client").Client(base_url=served[0], raise_on_unexpected_status=True) as made:
        yield made
    pytest_socket.disable_socket(allow_unix_socket=True)


def test_it_reads_the_room(generated: Any, client: Any) -> None:
    def read(module: str, *path: str, **more: Any) -> Any:
        return generated(f"api.{module}").sync(*path, client=client, **more)

    assert read("health.readyz_readyz_get").ready
    estate = read("estate.estate_v1_estate_get")
    assert "north" in {site.id for site in estate.sites}
    first = read("estate.services_v1_services_get", limit=1)
    rest = read("estate.services_v1_services_get", limit=1_000, after=first.next_)
    assert first.total == len(first.items) + len(rest.items)
    one = read("estate.service_v1_services_service_get", first.items[0].id)
    assert one.to_dict() == first.items[0].to_dict()
    assert read("situation.situation_v1_situation_get").estate == estate.digest
    assert read("access.me_v1_me_get").role == "admin"
    assert read("runs.runs_v1_runs_get").items == []
    site = estate.sites[0].id
    body = generated("models.what_if_body").WhatIfBody(domains=[site])
    assert read("what_if.what_if_v1_what_if_post", body=body).domains == [site]
    missing = read("runs.run_v1_runs_run_get", "nothing")
    assert (missing.code, missing.kind, missing.status) == ("run-unknown", "run", 404)


def test_it_changes_something_once(generated: Any, client: Any) -> None:
    begin = generated("api.incidents.begin_v1_incidents_post")
    body = generated("models.incident_body").IncidentBody(
        incident="fire-1", text="smoke in hall 2", who="kim"
    )
    told = [begin.sync(client=client, body=body, idempotency_key="once") for _ in range(2)]
    assert (told[0].incident, told[0].who) == ("fire-1", "kim")
    assert told[0].to_dict() == told[1].to_dict()
    notes = generated("api.incidents.notes_v1_incidents_incident_notes_get").sync("fire-1", client=client)
    assert [note.text for note in notes.items] == ["smoke in hall 2"]
    other = begin.sync(client=client, body=body)
    assert other.code == "store-conflict", "without a key it is asked again, and is there already"
