"""The file of a bundle: stable bytes, parts that are what was written, and no trust in an enemy's file."""

from __future__ import annotations

import contextlib
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac.estate.codecs import bundle as bundle_format
from evac.estate.codecs.bundle import MANIFEST, BundleDamaged, Source, open_bundle, write_bundle
from evac.model.errors import InvalidInput

SOURCES = [
    Source("estate/estate.yaml", b"evac: 1\n"),
    Source("store/entries.jsonl", b'["sites","e30="]\n' * 20),
    Source("plans/pangyo%2Fhall-1.json", b"{}"),
]


def made(folder: Path, name: str = "b.zip") -> Path:
    write_bundle(folder / name, {"made_at_ms": 1}, SOURCES)
    return folder / name


def test_the_same_parts_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    one = made(tmp_path)
    other = tmp_path / "other.zip"
    beside = tmp_path / "part"
    beside.write_bytes(SOURCES[1].data)  # type: ignore[arg-type]
    write_bundle(other, {"made_at_ms": 1}, [SOURCES[2], Source(SOURCES[1].name, beside), SOURCES[0]])
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.zip", "other.zip", "part"]
    with open_bundle(one) as bundle:
        assert {name: bundle.read(name) for name in bundle.parts} == {s.name: s.data for s in SOURCES}
        assert bundle.problems() == []
    # Any program opens it: the Python of a bare laptop does.
    with zipfile.ZipFile(one) as plain:
        assert plain.testzip() is None


def damage(path: Path, name: str) -> None:
    """Changes one bit in the middle of a part."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(name) + info.compress_size // 2] ^= 4
    path.write_bytes(data)


def test_a_damaged_part_is_named_and_no_other(tmp_path: Path) -> None:
    path = made(tmp_path)
    damage(path, "estate/estate.yaml")
    with open_bundle(path) as bundle:
        assert [problem.part for problem in bundle.problems()] == ["estate/estate.yaml"]
        with pytest.raises(BundleDamaged, match="estate/estate"):
            bundle.read("estate/estate.yaml")
        assert bundle.read("plans/pangyo%2Fhall-1.json") == b"{}"


def test_no_part_is_in_a_folder_that_is_a_part(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"estate/estate\.yaml/x is inside a folder that is itself a part"):
        write_bundle(tmp_path / "b.zip", {}, [*SOURCES, Source("estate/estate.yaml/x", b"")])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_changed_is_an_error_in_words_or_changes_nothing(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = made(tmp_path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    path.write_bytes(bytes(whole[:end]))
    with contextlib.suppress(InvalidInput), open_bundle(path) as bundle:
        if not bundle.problems():
            assert {name: bundle.read(name) for name in bundle.parts} == {s.name: s.data for s in SOURCES}


def _archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _listing(parts: list[dict[str, object]]) -> bytes:
    return orjson.dumps({"kind": "evac-bundle", "version": 1, "parts": parts})


def _bomb(path: Path) -> Path:
    return _archive(path, {MANIFEST: _listing([]), "big": bytes(10 << 20)}, zipfile.ZIP_DEFLATED)


def _named(name: str) -> Callable[[Path], Path]:
    return lambda path: _archive(path, {name: b"x"})


def _too_many(path: Path) -> Path:
    _archive(path, {MANIFEST: _listing([])})
    data = bytearray(path.read_bytes())
    data[-14:-10] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    return path


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "no archive": lambda path: path.write_bytes(b"PK nothing" * 10) and path,  # type: ignore[return-value]
    "empty": lambda path: path.write_bytes(b"") or path,
    "bomb": _bomb,
    "more entries than bytes": _too_many,
    "no manifest": lambda path: _archive(path, {"a": b""}),
    "another manifest": lambda path: _archive(path, {MANIFEST: b'{"kind":"else"}'}),
    "manifest of a list": lambda path: _archive(path, {MANIFEST: b"[]"}),
    "a part in no list": lambda path: _archive(path, {MANIFEST: _listing([]), "a": b"x"}),
    "a part that is missing": lambda path: _archive(
        path, {MANIFEST: _listing([{"name": "a", "size": 1, "sha256": "0"}])}
    ),
    "parts that are not a list": lambda path: _archive(
        path, {MANIFEST: b'{"kind":"evac-bundle","version":1,"parts":{"a":1}}'}
    ),
    "another size": lambda path: _archive(
        path, {MANIFEST: _listing([{"name": "a", "size": 9, "sha256": "0"}]), "a": b"x"}
    ),
    **{
        f"a name that leads away: {name!r}": _named(name)
        for name in ("../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a/./b", "a//b", "a\nb", "x" * 500)
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_an_enemy_made_is_refused_in_words(tmp_path: Path, name: str) -> None:
    path = HOSTILE[name](tmp_path / "hostile.zip")
    with pytest.raises(InvalidInput) as refused, open_bundle(path):
        pass
    assert refused.value.code == "bundle-damaged"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hostile.zip"]


def test_a_file_that_changes_while_it_is_read_leaves_no_bundle(tmp_path: Path) -> None:
    class Growing(type(Path())):  # type: ignore[misc]
        def open(self, mode: str = "r"):  # type: ignore[no-untyped-def]
            Path(self).write_bytes(Path(self).read_bytes() + b"x")
            return super().open(mode)

    part = Growing(tmp_path / "part")
    Path(part).write_bytes(b"x")
    with pytest.raises(InvalidInput, match="changed"):
        write_bundle(tmp_path / "b.zip", {}, [Source("a", part)])
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_what_shrinks_too_much_is_stored_so_that_it_can_be_read(tmp_path: Path) -> None:
    dense = Source("store/entries.jsonl", b"0" * (5 << 20))
    write_bundle(tmp_path / "b.zip", {}, [*SOURCES[:1], dense])
    with open_bundle(tmp_path / "b.zip") as bundle:
        assert bundle.read(dense.name) == dense.data
    with zipfile.ZipFile(tmp_path / "b.zip") as plain:
        packed = {info.filename: info.compress_type for info in plain.infolist()}
    assert packed[dense.name] == zipfile.ZIP_STORED
    assert packed[SOURCES[0].name] == zipfile.ZIP_DEFLATED


def test_nothing_takes_its_place_that_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = made(tmp_path)
    before = good.read_bytes()
    noise = random.Random(1).randbytes(1_000)

    def refused(*sources: Source) -> str:
        with pytest.raises(InvalidInput) as error:
            write_bundle(good, {}, list(sources))
        assert good.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b.zip", "part"]
        return error.value.code

    assert zipfile.ZIP64_LIMIT == bundle_format.MAX_FILE_BYTES
    with (tmp_path / "part").open("wb") as file:
        file.truncate(1 << 31)
    assert refused(Source("wheelhouse/a.whl", tmp_path / "part")) == "bundle-size"
    assert refused(Source("a", tmp_path / "missing")) == "bundle-source"
    for limit in (1_000, 1_500):
        # A part that deflating makes larger than a part may be, then a file of parts that each are allowed.
        monkeypatch.setattr(bundle_format, "MAX_FILE_BYTES", limit)
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
        assert refused(Source("a", noise), Source("b", noise)) == "bundle-size"
    monkeypatch.undo()
    monkeypatch.setattr(bundle_format, "MAX_DIRECTORY_BYTES", 10)
    assert refused(*SOURCES) == "bundle-unreadable"
