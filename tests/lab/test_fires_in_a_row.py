"""The third fire is as good as the first: a lab burns, comes back and fails back, and burns again."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from evac_lab.episodes import Patience
from evac_lab.state import LabFolder
from evac_lab.torture import play
from tests.lab.conftest import running_lab

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[LabFolder]:
    with running_lab() as folder:
        yield folder


def test_three_fires_in_a_row_end_by_themselves_and_lose_nothing(lab: LabFolder) -> None:
    rounds = list(play(lab, "leader", 3, Random(1), Patience(45)))
    assert [one.trouble for one in rounds] == ["", "", ""], [one.line() for one in rounds]
    assert [one.fire.lost for one in rounds] == [0, 0, 0]
    assert rounds[0].fire.leader_burnt
