"""Where what an old primary had alone is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.drivers.port import Action, Value
from evac.drivers.postgres.archive import archive_folder, free_name, read_archive
from evac.model.errors import Permanent


def _action(**parameters: Value) -> Action:
    return Action("rejoin", "messages", "postgres", "pangyo", {"name": "dc-pangyo"}, parameters)


def test_each_fork_of_each_member_has_a_folder() -> None:
    for given in ("/archive", "file:/archive"):
        folder = archive_folder(_action(archive=given), 1, 0x3000148)
        assert folder == Path("/archive/dc-pangyo-00000001-0-3000148")


@pytest.mark.parametrize("given", ["", "archive", "env:ARCHIVE"])
def test_no_folder_is_no_archive(given: str) -> None:
    with pytest.raises(Permanent):
        archive_folder(_action(archive=given), 1, 0)


def test_an_earlier_archive_of_the_same_fork_is_never_written_over(tmp_path: Path) -> None:
    first = tmp_path / "dc-pangyo-1-0"
    assert free_name(first) == first
    first.mkdir()
    second = free_name(first)
    assert second == tmp_path / "dc-pangyo-1-0+2"
    second.mkdir()
    assert free_name(first) == tmp_path / "dc-pangyo-1-0+3"


def test_a_folder_without_a_manifest_is_no_archive(tmp_path: Path) -> None:
    assert read_archive(tmp_path) is None
