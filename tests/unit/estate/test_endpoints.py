"""Endpoints: read, typed, written back the same; a secret in clear is refused with its place."""

from pathlib import Path

import pytest

from evac import estate as estates
from evac.model.digest import estate_digest

ESTATE = """evac: 1
sites: {anyang: {}, pangyo: {}}
services: {web: {tier: 0}}
stores:
  db: {engine: postgresql, members: [{at: pangyo, mode: primary}, {at: anyang, mode: sync}]}
endpoints:
  db-pangyo:
    for: db
    at: pangyo
    driver: postgres
    settings:
      {host: 127.0.0.1, port: 5432, password: "env:PW", archive_rows: [messages, "007"], name: "007"}
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "estate.yaml").write_text(text)
    return folder


def test_settings_are_typed_and_survive_being_written(tmp_path: Path) -> None:
    loaded = estates.load(write(tmp_path / "one", ESTATE))
    (endpoint,) = loaded.endpoints
    assert (endpoint.subject, endpoint.at, endpoint.driver) == ("db", "pangyo", "postgres")
    assert dict(endpoint.settings) == {
        "archive_rows": ("messages", "007"),
        "host": "127.0.0.1",
        "name": "007",
        "password": "env:PW",
        "port": 5432,
    }
    estates.write(loaded, tmp_path / "two")
    again = estates.load(tmp_path / "two")
    assert again.endpoints == loaded.endpoints
    assert estate_digest(again) == estate_digest(loaded)


@pytest.mark.parametrize(
    ("old", "new", "code", "line"),
    [
        ("for: db", "for: dv", "name-unknown", 8),
        ("at: pangyo\n    driver", "at: pangio\n    driver", "name-unknown", 9),
        ("    driver: postgres\n", "", "value-missing", 8),
        ('"env:PW"', "hunter2", "secret-in-clear", 12),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, old: str, new: str, code: str, line: int
) -> None:
    assert old in ESTATE
    found = estates.check(write(tmp_path / "one", ESTATE.replace(old, new)))
    (problem,) = found.diagnostics
    assert (problem.code, problem.place.line) == (code, line)
    assert "hunter2" not in problem.message + problem.hint


def test_every_problem_of_an_endpoint_is_said_at_once(tmp_path: Path) -> None:
    text = ESTATE.replace("host: 127.0.0.1, port: 5432", "hots: 127.0.0.1, port: many")
    found = estates.check(write(tmp_path / "one", text))
    assert {(one.code, one.place.line) for one in found.diagnostics} == {
        ("setting-unknown", 12),
        ("setting-missing", 7),
        ("setting-wrong", 12),
    }
    assert found.estate is None
