"""Access, policy and notices count beside an estate that is a folder, and beside one that is a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evac.estate.codecs.access import access_beside
from evac.estate.codecs.notices import notices_beside
from evac.estate.codecs.policy import policy_beside

KINDS = [("access", access_beside), ("policy", policy_beside), ("notices", notices_beside)]


@pytest.mark.parametrize(("name", "find"), KINDS)
def test_it_is_found_beside_a_folder_and_beside_a_file(
    tmp_path: Path, name: str, find: Callable[[Path], Path | None]
) -> None:
    estate = tmp_path / "company.yaml"
    estate.write_text("evac: 1\n")
    assert find(tmp_path) is None
    assert find(estate) is None
    (tmp_path / f"{name}.yaml").write_text("")
    assert find(tmp_path) == find(estate) == tmp_path / f"{name}.yaml"


@pytest.mark.parametrize(("name", "find"), KINDS)
def test_a_link_that_leads_nowhere_is_found_so_that_reading_it_refuses(
    tmp_path: Path, name: str, find: Callable[[Path], Path | None]
) -> None:
    (tmp_path / f"{name}.yaml").symlink_to(tmp_path / "gone")
    assert find(tmp_path) == tmp_path / f"{name}.yaml"
