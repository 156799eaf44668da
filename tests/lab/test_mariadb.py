"""A MariaDB burns with the PostgreSQL beside it: its copy takes over without a person and without loss."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from evac_lab import torture
from evac_lab.orders_database import STORE
from evac_lab.state import LabFolder
from evac_lab.world import Options
from tests.lab.conftest import free_offset, running_lab

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


@pytest.fixture
def lab() -> Iterator[LabFolder]:
    with running_lab(Options(offset=free_offset(), writers=4, pause_s=0.2, mariadb=True)) as folder:
        yield folder


def test_the_copy_takes_over_and_the_primary_comes_home(lab: LabFolder) -> None:
    (found,) = torture.play(lab, "primary", 1, Random(1))
    assert found.trouble == "", "no loss, one primary at a time, ended without help, home again"
    assert found.fire.lost_site == "pangyo"
    assert sorted(found.direct) == ["messages", STORE]
    assert f", {STORE} " in found.line()
    assert torture.summary([found]).count("first write") == 3
