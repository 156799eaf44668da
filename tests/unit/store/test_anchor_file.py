"""Anchors in a file: kept over crashes, never going back, and never silently replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.model.errors import Conflict, Corrupt
from evac.store.anchors import Anchor, AnchorFile

FIRST = Anchor("run-1", 1, 10, "a" * 64)
SECOND = Anchor("run-1", 2, 20, "b" * 64)
OTHER = Anchor("run-2", 1, 1, "c" * 64)


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    file = AnchorFile(tmp_path / "anchors")
    assert file.read() == []
    for anchor in (FIRST, OTHER, SECOND, SECOND):
        file.add(anchor)
    again = AnchorFile(tmp_path / "anchors")
    assert again.read() == [FIRST, OTHER, SECOND]
    assert again.read("run-1") == [FIRST, SECOND]
    assert (again.head("run-1"), again.head("run-3")) == (SECOND, None)


@pytest.mark.parametrize(
    "anchor", [FIRST, Anchor("run-1", 2, 20, "f" * 64), Anchor("run-1", 3, 19, "f" * 64)]
)
def test_a_journal_that_goes_back_or_differs_is_refused(tmp_path: Path, anchor: Anchor) -> None:
    file = AnchorFile(tmp_path / "anchors")
    file.add(FIRST)
    file.add(SECOND)
    with pytest.raises(Conflict, match="anchored"):
        file.add(anchor)
    assert file.read() == [FIRST, SECOND]


@pytest.mark.parametrize("kept", range(1, 40))
def test_a_torn_line_is_cut_away(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "anchors"
    AnchorFile(path).add(FIRST)
    whole = path.read_bytes()
    path.write_bytes(whole + SECOND.to_line()[:kept])
    file = AnchorFile(path)
    file.add(SECOND)
    assert AnchorFile(path).read() == [FIRST, SECOND]


@pytest.mark.parametrize("line", [b"{}", b"[1,2,3,4]", b'["a",1,2]', b"not json", b'["a",true,1,"h"]'])
def test_a_line_that_is_no_anchor_is_corrupt(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "anchors").write_bytes(FIRST.to_line() + b"\n" + line + b"\n")
    with pytest.raises(Corrupt):
        AnchorFile(tmp_path / "anchors")


def test_a_line_says_its_anchor() -> None:
    assert Anchor.from_line(SECOND.to_line()) == SECOND
