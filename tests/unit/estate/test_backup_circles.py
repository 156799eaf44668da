"""Backups that are copied from one another are refused, each circle once, at its first backup."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from evac.estate import check

ORIGINS = st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=6)


def _first_of_circle(origins: list[int | None], row: int) -> int | None:
    """The first backup of the circle that a backup is part of; None if it is part of none."""
    met, at = [row], origins[row]
    while at is not None and at < len(origins) and at not in met:
        met.append(at)
        at = origins[at]
    return min(met) if at == row else None


@given(ORIGINS)
def test_every_circle_is_named_once(origins: list[int | None]) -> None:
    lines = ["evac: 2", "sites: {a: {}}", "data_sets:", "  d:", "    at: a", "    backups:"]
    begin = len(lines) + 1
    for row, origin in enumerate(origins):
        copied = "" if origin is None else f", copied_from: e{origin}"
        lines.append(f"      - {{at: a, endpoint: e{row}{copied}}}")
    lines.append("endpoints:")
    lines += [f"  e{row}: {{for: d, at: a, driver: command, settings: {{verify: [x]}}}}" for row in range(6)]
    with TemporaryDirectory() as folder:
        (Path(folder) / "estate.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        result = check(Path(folder))
    firsts = {_first_of_circle(origins, row) for row in range(len(origins)) if origins[row] != row} - {None}
    found = [one.place.line for one in result.diagnostics if one.code == "backup-copy-circle"]
    assert found == sorted(begin + first for first in firsts if first is not None)
    assert not found or result.estate is None
