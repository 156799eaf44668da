"""What the timeline says of single events."""

from __future__ import annotations

import pytest

from evac.incident.timeline import told
from evac.run.values import Event


@pytest.mark.parametrize(
    ("number", "words"), [(1, "1 server was"), (2, "2 servers were"), (1_200, "1,200 servers were")]
)
def test_servers_that_were_switched_on_are_counted_and_not_named(number: int, words: str) -> None:
    event = Event("switched_on", 0, data={"steps": [f"boot:s{n}" for n in range(number)]})
    assert told(event, None) == ("power", f"{words} switched on", "detail")
