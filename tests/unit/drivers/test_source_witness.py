"""The witness of a source reads it once, and again as soon as anything in it changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac.drivers import places
from evac.drivers.places import SourceWitness, facts_of, manifest_of


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count = [0]

    def counted(
        path: Path, real: Callable[[Path], tuple[int, str]] = places.length_and_digest
    ) -> tuple[int, str]:
        count[0] += 1
        return real(path)

    monkeypatch.setattr(places, "length_and_digest", counted)
    return count


def source(folder: Path) -> Path:
    """A folder whose files were written long ago, as far as the witness can tell."""
    made = folder / "source"
    (made / "sub").mkdir(parents=True)
    (made / "a").write_bytes(b"one")
    (made / "sub" / "b").write_bytes(b"two")
    (made / "link").symlink_to("a")
    return made


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the last write were long ago."""
    monkeypatch.setattr(places, "SETTLED_NS", -1 << 60)


def test_what_has_not_changed_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    made, witness = source(tmp_path), SourceWitness()
    settle(monkeypatch)
    first = witness.facts([str(made)])
    assert (reads[0], first) == (2, facts_of(manifest_of(made)))
    reads[0] = 0
    assert witness.facts([str(made)]) == first
    assert reads[0] == 0
    alone = witness.facts([str(made / "a")])
    assert alone == {"files": 1, "bytes": 3, "manifest": alone["manifest"]}
    (made / "a").write_bytes(b"two")
    assert witness.facts([str(made / "a")])["manifest"] != alone["manifest"]
    assert witness.facts([str(made / "link")]) == {}, "a tool backs up the link, and not what it names"


def test_what_was_just_written_is_read_again(tmp_path: Path, reads: list[int]) -> None:
    """Two writes within a tick of the clock of the kernel have the same times."""
    made, witness = source(tmp_path), SourceWitness()
    newest = max(path.lstat().st_ctime_ns for path in made.rglob("*"))
    witness.facts([str(made)])
    if time.time_ns() < newest + places.SETTLED_NS:  # else this machine was too slow to ask
        reads[0] = 0
        witness.facts([str(made)])
        assert reads[0] == 2


def _same_size_same_times(made: Path) -> None:
    before = (made / "a").stat()
    (made / "a").write_bytes(b"ONE")
    os.utime(made / "a", ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(made: Path) -> None:
    (made / "new").write_bytes(b"ONE")
    (made / "new").replace(made / "a")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content of the same size, its time of writing set back": _same_size_same_times,
    "another file under the name": _replaced,
    "a longer file": lambda made: (made / "sub" / "b").write_bytes(b"two!"),
    "a new file": lambda made: (made / "sub" / "c").touch(),
    "a new folder": lambda made: (made / "empty").mkdir(),
    "a file less": lambda made: (made / "sub" / "b").unlink(),
    "a link to elsewhere": lambda made: ((made / "link").unlink(), (made / "link").symlink_to("sub/b")),
    "another name": lambda made: (made / "a").rename(made / "z"),
}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3, unique=True))
def test_no_change_is_overlooked(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    made, witness = source(tmp_path_factory.mktemp("w")), SourceWitness()
    settle(monkeypatch)
    witness.facts([str(made)])
    for name in names:
        until_the_clock_moves(made)
        try:
            CHANGES[name](made)
        except FileNotFoundError:  # an earlier change took it away
            continue
        assert witness.facts([str(made)]) == facts_of(manifest_of(made)), name


def until_the_clock_moves(made: Path) -> None:
    """The next write gets another time than the last one."""
    probe = made.parent / "probe"
    newest = max(path.lstat().st_ctime_ns for path in (made, *made.rglob("*")))
    probe.touch()
    while probe.stat().st_ctime_ns <= newest:
        os.utime(probe)


def test_a_source_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, witness = source(tmp_path), SourceWitness()
    settle(monkeypatch)
    real = places.length_and_digest

    def changing(path: Path) -> tuple[int, str]:
        found = real(path)
        if path.name == "a":
            until_the_clock_moves(made)
            path.write_bytes(b"ONE")
        return found

    with monkeypatch.context() as while_reading:
        while_reading.setattr(places, "length_and_digest", changing)
        seen = witness.facts([str(made)])
    assert witness.facts([str(made)]) == facts_of(manifest_of(made)) != seen
