"""What is written is read back as the same estate, in the same bytes, whole or not at all."""

import shutil
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.estate import check, load, write
from evac.model.digest import estate_digest
from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Estate, Fact
from tests.unit.estate.large import large_estate
from tests.unit.estate.wild import estates

ESTATES = Path(__file__).resolve().parents[2] / "fixtures" / "estates"


def read_back(estate: Estate, folder: Path, tables: str) -> Estate:
    shutil.rmtree(folder, ignore_errors=True)
    write(estate, folder, tables=tables)  # type: ignore[arg-type]
    result = check(folder)
    errors = {d.code for d in result.diagnostics if d.severity == "error"}
    assert errors <= {"load-above-budget"}, "the files are read all the same"
    assert result.estate is not None
    return result.estate


def assert_same(first: Estate, second: Estate) -> None:
    for field in fields(Estate):
        if field.name not in ("fleet", "replicas", "places", "facts"):
            assert getattr(first, field.name) == getattr(second, field.name), field.name
    assert estate_digest(first) == estate_digest(second)


@given(estate=estates(), tables=st.sampled_from(["csv", "parquet"]))
@settings(max_examples=40)
def test_any_estate_is_read_back_the_same(
    estate: Estate, tables: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_same(estate, read_back(estate, tmp_path_factory.getbasetemp() / "wild", tables))


@pytest.mark.parametrize("name", ["first", "small"])
@pytest.mark.parametrize("tables", ["csv", "parquet"])
def test_fixture_estates_are_read_back_the_same(name: str, tables: str, tmp_path: Path) -> None:
    estate = load(ESTATES / name)
    again = read_back(estate, tmp_path / "out", tables)
    assert_same(estate, again)
    assert again.facts == estate.facts


@pytest.mark.parametrize("tables", ["csv", "parquet"])
def test_the_same_bytes_every_time(tables: str, tmp_path: Path) -> None:
    estate = large_estate(2_000, 5_000, 100)
    write(estate, tmp_path / "one", tables=tables)  # type: ignore[arg-type]
    write(load(tmp_path / "one"), tmp_path / "two", tables=tables)  # type: ignore[arg-type]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        "estate.schema.json",
        "estate.yaml",
        f"racks.{tables}",
        f"replicas.{tables}",
        f"servers.{tables}",
        "services.yaml",
        "stores.yaml",
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    estate = large_estate(500, 1_000, 50)
    digests = {estate_digest(read_back(estate, tmp_path / kind, kind)) for kind in ("csv", "parquet")}
    assert digests == {estate_digest(estate)}


def test_units_are_readable_and_exact(tmp_path: Path) -> None:
    write(load(ESTATES / "small"), tmp_path / "out")
    text = (tmp_path / "out" / "estate.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=estate.schema.json\nevac: 2\nname: small\n")
    for line in (
        "    rto: 12 h",
        "    rpo: 0 s",
        "memory: 1.5 TiB",
        "people: 1.5 M",
        "share: 60 %",
        "automatic: true",
    ):
        assert line in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_notes_become_facts(tmp_path: Path) -> None:
    notes = {"services/pay/rto": "published", "sites/north": "assumed", "services/pay/people": "a guess"}
    write(load(ESTATES / "small"), tmp_path / "out", notes=notes, heading="Made up.\nNothing here is real.")
    result = check(tmp_path / "out")
    assert result.estate is not None
    assert not result.diagnostics
    sources = {fact.path: fact.source for fact in result.estate.facts}
    assert sources == {
        "services/pay/people": "billing report",
        "services/pay/rto": "published",
        "sites/north": "assumed",
    }
    assert "# Made up.\n# Nothing here is real.\nevac: 2\n" in (tmp_path / "out" / "estate.yaml").read_text()


def test_expired_facts_stay_unknown(tmp_path: Path) -> None:
    estate = load(ESTATES / "small", date(2027, 6, 1))
    again = read_back(estate, tmp_path / "out", "csv")
    assert_same(estate, again)
    assert (
        again.facts
        == estate.facts
        == (Fact("services/pay/people", "billing report", date(2026, 10, 1), 90, True),)
    )


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(EvacError) as caught:
        write(load(ESTATES / "first"), tmp_path)
    assert caught.value.code == "folder-not-empty"
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]
    with pytest.raises(EvacError):
        write(load(ESTATES / "first"), tmp_path / "keep.txt")


def test_replacing_keeps_what_is_not_the_estate(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write(large_estate(100, 100, 70), target)
    (target / "overlay.yaml").write_text("name: first\n")
    (target / "notes").mkdir()
    (target / "notes" / "a.txt").write_text("x")
    write(replace(load(ESTATES / "first"), name="again"), target, replace=True)
    assert sorted(path.name for path in target.iterdir()) == [
        "estate.schema.json",
        "estate.yaml",
        "notes",
        "overlay.yaml",
    ]
    assert (target / "notes" / "a.txt").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    estate = large_estate(50, 50, 10)
    homeless = replace(estate, fleet=replace(estate.fleet, site=estate.fleet.site - 9))
    with pytest.raises(InvalidInput):
        write(homeless, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
