"""Names of two sources that may mean one thing are noted, with a line for the recipe that makes them one."""

import itertools
import json
import unicodedata
from pathlib import Path

import pytest

from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import ImportResult, import_recipe
from evac.estate.importers.combining import combine
from evac.estate.importers.imported import Imported, SourcePart
from evac.model.diagnostic import Place
from evac.model.estate import Estate


def made(folder: Path) -> tuple[Estate, ImportResult]:
    into, result = import_recipe(folder / "estate.yaml")
    return load(into), result


@pytest.mark.parametrize(
    ("one", "two", "is_said"),
    [
        ("Train-Management", "train-management", True),
        ("train_management", "train.management", True),
        ("TrainManagement", "train-management", True),
        ("shop", "shop", False),
        ("shop", "shop2", False),
        ("shop", "shops", False),
        ("shop-1", "shop1", True),
        ("db1-1", "db-11", False),
        ("api-v1.1", "api-v11", False),
    ],
)
def test_names_that_look_like_one_service_are_said(tmp_path: Path, one: str, two: str, is_said: bool) -> None:
    (tmp_path / "a.csv").write_text(f"host;site;role\na;fra;{one}\n")
    (tmp_path / "b.csv").write_text(f"host;site;role\nb;muc;{two}\n")
    text = (
        "recipe: 1\ninto: company\nsources:\n  a: {kind: csv, from: a.csv}\n  b: {kind: csv, from: b.csv}\n"
    )
    (tmp_path / "estate.yaml").write_text(text)
    found = made(tmp_path)[1].diagnostics
    assert ["import-same-name"] * is_said == [one.code for one in found]
    if is_said:
        assert (found[0].message, found[0].place.line) == (f"{two} in b may be {one} in a", 5)
        (tmp_path / "estate.yaml").write_text(text + f"names: {{b: {{{two}: {one}}}}}\n")
        estate, result = made(tmp_path)
        assert [(service.id, service.replicas) for service in estate.services] == [(one, 2)]
        assert not result.diagnostics


@pytest.mark.parametrize(
    ("one", "two", "is_said"),
    [
        *[("muc", "München", True), ("NUE2", "nürnberg", True), ("DÜS", "dus", True)],
        *[("Barcelona", "bcn1", True), ("cgn", "Cologne", True), ("Zürich", "zrh", True)],
        *[
            ("fra1", "fra2", False),
            ("east", "west", False),
            ("eu-1a", "europe", False),
            ("f", "fulda", False),
            ("lon", "lisbon", False),
            ("ber", "bielefeld-rechen", False),
        ],
    ],
)
def test_names_that_look_like_one_place_are_said(tmp_path: Path, one: str, two: str, is_said: bool) -> None:
    (tmp_path / "a.csv").write_text(f"host;site\na;{one}\n")
    (tmp_path / "b.csv").write_text(f"host;site\nb;{two}\n")
    text = (
        "recipe: 1\ninto: company\nsources:\n  a: {kind: csv, from: a.csv}\n  b: {kind: csv, from: b.csv}\n"
    )
    (tmp_path / "estate.yaml").write_text(text)
    assert ["import-same-place"] * is_said == [found.code for found in made(tmp_path)[1].diagnostics]
    (tmp_path / "c.csv").write_text(f"host;site\nc;{one}\nd;{two}\n")
    (tmp_path / "estate.yaml").write_text(f"{text}  c: {{kind: csv, from: c.csv}}\n")
    assert made(tmp_path)[1].diagnostics == (), "a source that has both says that they are two"


def test_names_of_many_sites_are_compared_without_reading_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = unicodedata.normalize
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: read.append(text) or real(form, text))
    words = ["".join(one) for one in itertools.product("abcde", repeat=4)]
    parts = []
    for name, ending in (("a", "feld"), ("b", "stadt")):
        imported = Imported()
        for word in [*words, "Frankfurt" if name == "a" else "fra1"]:
            imported.add("sites", word if word[0] in "Ff" else f"{word}-{ending}")
        parts.append(SourcePart(name, imported, Place("estate.yaml")))
    problems = Problems()
    combine(parts, problems)
    assert [one.message for one in problems.all()] == ["fra1 in b may be Frankfurt in a"]
    assert len(read) == 2 * 2 * (len(words) + 1), "each name in its two forms"


def _two(folder: Path, first: str, second: str, names: str = "") -> None:
    """A recipe of two host lists."""
    (folder / "a.csv").write_text(first)
    (folder / "b.csv").write_text(second)
    sources = "sources:\n  a: {kind: csv, from: a.csv}\n  b: {kind: csv, from: b.csv}\n"
    (folder / "estate.yaml").write_text(f"recipe: 1\ninto: company\n{sources}{names}")


def _line(result: ImportResult) -> str:
    """The only line for the recipe that the import prints."""
    (line,) = {one.hint.partition("to the recipe: ")[2].partition(";")[0] for one in result.diagnostics}
    return line


ZONES = "host;site\nn1;kiel-a\nn2;kiel-b\nn3;kiel-b\n"


@pytest.mark.parametrize("second", ["host;site\nweb;kiel\n", "host;site\nn1;kiel\nn2;kiel\nweb;kiel\n"])
def test_zones_of_one_site_get_one_line_that_names_all_of_them(tmp_path: Path, second: str) -> None:
    """Two lines that map one name to two others cannot both be followed."""
    _two(tmp_path, ZONES, second)
    line = _line(made(tmp_path)[1])
    assert line == "names: {a: {kiel-a: kiel, kiel-b: kiel}}"
    _two(tmp_path, ZONES, second, line)
    estate, result = made(tmp_path)
    assert ([site.id for site in estate.sites], result.diagnostics) == (["kiel"], ())


HALLS = "host;site;hall;rack\nn1;fra;rz1;r1\nn2;fra;rz1;r2\n"


@pytest.mark.parametrize(
    "second",
    [
        "host;site;hall;rack\nn3;fra;RZ1;r1\n",
        "host;site;hall;rack\nn1;fra;RZ1;r1\nn3;fra;RZ1;r1\n",
        "host;site;hall;rack\nn1;fra;basement;r1\nn3;fra;basement;r1\n",
    ],
)
def test_halls_that_may_be_one_are_said_and_one_line_makes_them_one(tmp_path: Path, second: str) -> None:
    """They were two halls, so the loss of either left out servers that burn with it."""
    _two(tmp_path, HALLS, second)
    line = _line(made(tmp_path)[1])
    _two(tmp_path, HALLS, second, line)
    estate, result = made(tmp_path)
    assert [hall.id for hall in estate.halls] == ["fra/rz1"]
    assert [rack.id for rack in estate.racks] == ["fra/rz1/r1", "fra/rz1/r2"]
    assert result.diagnostics == ()


def test_a_server_that_moves_between_known_halls_gets_no_line(tmp_path: Path) -> None:
    _two(tmp_path, "host;site;hall;rack\na;f;h1;r\nb;f;h2;r\n", "host;site;hall;rack\na;f;x;r\nb;f;x;r\n")
    assert [one.code for one in made(tmp_path)[1].diagnostics] == ["import-conflict"]
    assert "names:" not in made(tmp_path)[1].diagnostics[0].hint


DATABASE = """\
kind: StatefulSet
metadata: {name: lab-db}
spec:
  template:
    metadata: {labels: {app: lab-db}}
    spec: {containers: [{name: a, image: "postgres:16"}]}
  volumeClaimTemplates: [{metadata: {name: data}}]
"""


def test_a_store_with_the_name_of_a_service_of_another_source_is_said(tmp_path: Path) -> None:
    """A database of a catalogue stayed without a location next to its own data in the cluster."""
    (tmp_path / "services.yaml").write_text(
        "services: {lab: {needs: [store:lab-db]}, lab-db: {type: database}}\n"
    )
    (tmp_path / "east.yaml").write_text(DATABASE)
    text = (
        "recipe: 1\ninto: company\nsources:\n  east: {kind: kubernetes, from: east.yaml, site: fra}\n"
        "  list: {kind: catalogue, from: services.yaml}\n"
    )
    (tmp_path / "estate.yaml").write_text(text)
    found = [one for one in made(tmp_path)[1].diagnostics if one.code == "import-same-name"]
    assert [one.hint.rpartition("recipe: ")[2] for one in found] == ["names: {list: {lab-db: lab-db-data}}"]
    (tmp_path / "estate.yaml").write_text(text + "names: {list: {lab-db: lab-db-data}}\n")
    estate, result = made(tmp_path)
    assert [store.id for store in estate.stores] == ["lab-db-data"]
    assert not [one for one in result.diagnostics if one.code == "import-same-name"]


def test_amounts_of_a_demand_are_facts_of_their_own(tmp_path: Path) -> None:
    """The memory that only one source states was lost with its CPU, and each service was a warning."""
    services = "".join(f"  s{n}: {{cpu: 500 mCPU, memory: 1 GiB}}\n" for n in range(6))
    (tmp_path / "list.yaml").write_text(f"services:\n{services}")
    measured = [{"metric": {"namespace": "x", "pod": f"s{n}-0"}, "value": [0, "1.5"]} for n in range(6)]
    (tmp_path / "peaks.json").write_text(
        json.dumps({"cpu": {"data": {"resultType": "vector", "result": measured}}})
    )
    (tmp_path / "estate.yaml").write_text(
        "recipe: 1\nsources:\n  peaks: {kind: prometheus, from: peaks.json}\n"
        "  list: {kind: catalogue, from: list.yaml}\n"
    )
    estate, result = made(tmp_path)
    assert {s.demand[:2] for s in estate.services} == {(1_500, 1_024)}
    (told,) = [one.message for one in result.diagnostics if one.code == "import-conflict"]
    assert told.startswith("cpu demand of service s0 is 1.5 cores in peaks, but 500 mCPU in list")
    assert told.endswith("the two also differ about s1, s2, s3 and 2 more")
