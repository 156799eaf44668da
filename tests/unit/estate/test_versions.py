"""Version 1 of the format is read for ever, and upgraded without a change of anything but its words."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.cli.main import run
from evac.estate import check, load, write
from evac.estate.format.problems import Problems
from evac.estate.format.versions import upgrade
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from tests.unit.estate.wild import estates

SMALL = Path(__file__).resolve().parents[2] / "fixtures" / "estates" / "small"
OLD = """\ufeff# the first file\r
evac: "1"  # quoted\r
'sites':\r
  fra: &site {ingress: 1 Gbit/s, "people": Kim}  # hands_at_once and people stay here\r
  muc:\r
    # before people\r
    people: the guard\r
limits: {hands_at_once: {value: 4, source: Kim}}\r
services: {shop: {people: 5, replicas: {fra: 1}}}\r
facts:\r
  sites/muc/people: {source: letter}\r
  services/shop/people: {source: survey}\r
"""


def in_version_1(folder: Path) -> None:
    """The files of an estate as version 1 writes them."""
    for path in folder.glob("*.yaml"):
        text = (
            path.read_text()
            .replace("evac: 2\n", "evac: 1\n")
            .replace("manual_steps_at_once", "hands_at_once")
        )
        path.write_text(
            re.sub(r"\bstaff:|\b(sites/\S+/)staff\b", lambda m: f"{m[1] or ''}people{':' * (not m[1])}", text)
        )


def upgraded(path: Path) -> dict[str, bytes]:
    problems = Problems()
    files = upgrade(path, problems)
    assert problems.all() == ()
    return {file.path.name: file.data for file in files}


@given(estate=estates())
@settings(max_examples=12)
def test_any_estate_means_the_same_in_both_versions(
    estate: Estate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("estate")
    folder.rmdir()
    write(estate, folder)
    newest = {path.name: path.read_bytes() for path in folder.glob("*.yaml")}
    in_version_1(folder)
    assert check(folder).estate is not None
    assert estate_digest(load(folder)) == estate_digest(estate)
    files = upgraded(folder)
    assert files == newest
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert upgraded(folder) == {}, "there is nothing more to do"


def test_only_the_words_that_change_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "estate.yaml"
    path.write_text(OLD, newline="")
    before = check(path)
    assert before.estate is not None
    assert (before.estate.sites[0].people, before.estate.limits.hands_at_once) == ("Kim", 4)
    new = upgraded(path)["estate.yaml"].decode()
    words = (
        ('evac: "1"', 'evac: "2"'),
        ('"people": Kim', '"staff": Kim'),
        ("    people: the", "    staff: the"),
        ("{hands_at_once:", "{manual_steps_at_once:"),
        ("sites/muc/people", "sites/muc/staff"),
    )
    expected = OLD
    for old, now in words:
        assert expected.count(old) == 1
        expected = expected.replace(old, now)
    assert new == expected
    path.write_bytes(new.encode())
    after = check(path)
    assert after.estate is not None
    assert estate_digest(after.estate) == estate_digest(before.estate)
    assert [one.code for one in after.diagnostics] == [one.code for one in before.diagnostics]


def test_files_of_both_versions_are_one_estate(tmp_path: Path) -> None:
    (tmp_path / "imported-csv.yaml").write_text("evac: 2\nsites: {fra: {staff: nobody}, muc: {}}\n")
    (tmp_path / "more.yaml").write_text("sites: {ham: {people: Ann}}\n")
    (tmp_path / "overlay.yaml").write_text("evac: 1\nsites: {fra: {people: Kim}}\n")
    people = {site.id: site.people for site in load(tmp_path).sites}
    assert people == {"fra": "Kim", "ham": "Ann", "muc": None}
    assert set(upgraded(tmp_path)) == {"more.yaml", "overlay.yaml"}


@pytest.mark.parametrize(
    ("text", "code", "place", "hint"),
    [
        (
            "evac: 2\nsites: {a: {people: Kim}}\n",
            "key-unknown",
            (2, 13),
            "since version 2 it is called staff",
        ),
        (
            "evac: 2\nsites: {a: {}}\nlimits: {hands_at_once: 1}\n",
            "key-unknown",
            (3, 10),
            "manual_steps_at_once",
        ),
        ("evac: 1\nsites: {a: {people: Kim, staff: Ann}}\n", "key-unknown", (2, 13), "called staff"),
    ],
)
def test_an_old_key_in_a_new_file_is_named_with_its_new_one(
    tmp_path: Path, text: str, code: str, place: tuple[int, int], hint: str
) -> None:
    path = tmp_path / "estate.yaml"
    path.write_text(text)
    (found,) = [one for one in check(path).diagnostics if one.severity == "error"]
    assert (found.code, (found.place.line, found.place.column)) == (code, place)
    assert hint in found.hint


@pytest.mark.parametrize(
    "text",
    [
        'evac: 1\nsites: {a: {"pe\\u006fple": Kim}}\n',
        "evac: &one 1\nsites: {a: {people: Kim}}\n",
        "evac: 1\nsites: {a: &x {people: 4}}\nservices: {s: *x}\n",
    ],
)
def test_a_file_that_cannot_be_upgraded_word_by_word_is_left_alone(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("evac: 1\nsites: {b: {people: Kim}}\n")
    (tmp_path / "b.yaml").write_text(text)
    before = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert check(tmp_path).estate is not None, "and yet it is read"
    assert run(["estate", "upgrade", str(tmp_path), "--write"]) == 2
    assert "not-upgraded" in capsys.readouterr().err
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == before


def test_the_command_shows_writes_and_has_nothing_more_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "estate"
    shutil.copytree(SMALL, folder)
    before = (folder / "estate.yaml").read_bytes()
    assert run(["estate", "upgrade", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "estate.yaml:24:34: hands_at_once -> manual_steps_at_once" in shown.out
    assert "--write" in shown.err
    assert (folder / "estate.yaml").read_bytes() == before
    written = []
    for _ in range(2):
        (folder / "estate.yaml").write_bytes(before)
        assert run(["estate", "upgrade", str(folder), "--write"]) == 0
        written.append((folder / "estate.yaml").read_bytes())
    assert written[0] == written[1] != before
    capsys.readouterr()
    assert run(["estate", "upgrade", str(folder), "--write"]) == 0
    assert "newest format" in capsys.readouterr().err
    assert (folder / "estate.yaml").read_bytes() == written[0]


@given(text=st.text(alphabet="evac: 12\n{}[]&*'\"#people staff,<sites/", max_size=80))
@settings(max_examples=200)
def test_any_text_is_upgraded_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, newline="")
    for file in upgrade(path, Problems()):
        path.write_bytes(file.data)
        assert upgrade(path, Problems()) == ()
