"""A bundle that shows nothing to anyone who carries it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from evac.bundle import contents, sealing
from evac.cli import console
from evac.cli.main import run
from evac.estate.codecs.bundle import Source, open_bundle, write_bundle
from evac.model.errors import InvalidInput
from tests.unit.bundle.test_bundle import NOW_MS, estate, fill, make, opening

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def made(tmp_path: Path) -> Path:
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite")
    (tmp_path / "shares").mkdir()
    return make(tmp_path, shares=(2, 3), shares_to=(tmp_path / "shares",), encrypt=True)


def shares_of(folder: Path) -> list[sealing.Share]:
    return [sealing.read_share_file(path) for path in sorted((folder / "shares").iterdir())[:2]]


def test_it_shows_nothing_of_the_estate_and_opens_as_any_other(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        names = set(archive.namelist())
        readable = b"".join(archive.read(name) for name in names if not name.startswith("sealed/"))
    assert names == {"manifest.json", "START.txt", "sealed/break-glass.bin", "sealed/bundle.bin"}
    for word in (b"north", b"south", b"web", b"somebody", b"EVAC_TEST_AGENT_KEY", b"chat", b"sqlite"):
        assert word not in readable
    assert run(["bundle", "verify", str(made)]) == console.DONE
    told = contents.look(made, NOW_MS)
    assert (told["encrypted"], told["estate"]) == (True, {"name": "", "digest": ""})
    opened = opening(tmp_path, made, shares=shares_of(tmp_path), digest="")
    assert (opened.estate / "estate.yaml").is_file()
    assert opened.policy is not None
    assert opened.policy.read_text() == "mode: advise\n"
    assert opened.secrets is not None
    assert not list(opened.folder.rglob("inside*"))
    again = opening(tmp_path, made, digest="")
    assert (again.again, again.policy, again.estate) == (True, opened.policy, opened.estate)


def test_nothing_of_it_opens_without_shares_or_when_it_was_changed(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="everything in this bundle is encrypted"):
        opening(tmp_path, made)
    with open_bundle(made) as found:
        parts = {name: found.read(name) for name in found.parts}
        kept = {key: value for key, value in found.values.items() if key not in ("kind", "version", "parts")}
    for name, data in (
        ("START.txt", b"run this instead"),
        ("sealed/bundle.bin", parts["sealed/break-glass.bin"]),
        ("sealed/bundle.bin", parts["sealed/bundle.bin"][:-1] + b"x"),
    ):
        changed = tmp_path / "changed.bundle"
        write_bundle(changed, kept, [Source(key, one) for key, one in {**parts, name: data}.items()])
        with pytest.raises(InvalidInput, match="do not open the bundle"):
            opening(tmp_path, changed, shares=shares_of(tmp_path), digest="")
        assert not (tmp_path / "laptop").exists()


def test_it_needs_people_who_can_open_it(tmp_path: Path) -> None:
    estate(tmp_path)
    with pytest.raises(InvalidInput, match="no one could open it"):
        make(tmp_path, store=None, encrypt=True)
