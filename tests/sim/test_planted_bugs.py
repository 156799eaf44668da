"""The test of the tester: each planted bug is found. Within how many seeds from the first one on says
`python -m bench.bench_sim`.
"""

from __future__ import annotations

import pytest

from tests.sim.planted_bugs import BUGS, RESTLESS_BUGS, ROW_BUGS, SILENT_BUGS, seeds_to_find

MOST = 600
"""A seed takes some 40 ms; whole stories, with witnesses, three times as long."""

BEGIN = {
    "promote without fence": 168,
    "count a lost vote as yes": 36,
    "wake a pause twice": 98,
    "believe clocks of what ended first": 21,
    "put right what a later run moved": 145,
}
"""Where to begin with the bugs that show late, so that a test does not play what is known to show nothing.
Where the stories have changed, the search goes on from there.
"""


@pytest.mark.slow
@pytest.mark.parametrize("bug", [*BUGS, *ROW_BUGS, *RESTLESS_BUGS, *SILENT_BUGS])
def test_it_is_found(bug: str) -> None:
    begin = BEGIN.get(bug, 0)
    seeds, error = seeds_to_find(bug, MOST - begin, begin)
    assert seeds, f"{bug} was not found in {MOST} seeds"
    assert error
