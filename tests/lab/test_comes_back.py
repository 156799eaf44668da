"""The whole story with evac's own controllers: a site burns, evac brings the service back, the site returns
and is burnt no worse than before; then the next one burns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from evac.cli import console
from evac.cli.main import run
from evac_lab import episodes, restoring, status
from evac_lab.episodes import Fire, Patience
from evac_lab.state import LabFolder
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[LabFolder]:
    with running_lab() as folder:
        yield folder


def stores(lab: LabFolder) -> dict[str, str]:
    """Site -> what its PostgreSQL says it is."""
    return {site.name: site.postgres for site in status.look(lab, lab.need()).sites}


def is_good(fire: Fire) -> None:
    assert (fire.state, fire.lost, fire.double_primary_seconds) == ("succeeded", 0, 0.0)
    assert fire.clients_recovered == fire.clients
    found = [fire.seconds.get(name) for name in ("detected", "decided", "promoted", "ended")]
    assert None not in found
    assert found == sorted(found, key=lambda at: at or 0.0)
    assert fire.first_write_seconds is not None


def test_a_site_burns_comes_back_and_the_next_one_burns(
    lab: LabFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert writes(lab) >= 5
    episodes.move(lab, "pangyo")
    assert status.leader_site(lab.need().topology, "ansan") == "pangyo"
    first = episodes.burn(lab, "pangyo", Patience(45), reason="a test")
    is_good(first)
    assert first.leader_burnt
    assert stores(lab)["anyang"].startswith("primary")

    back = restoring.restore(lab, "pangyo")
    assert back.whole, back.as_text()
    assert "postgres" in back.started
    assert stores(lab)["pangyo"] == "replica"
    assert "dc-pangyo" in stores(lab)["anyang"]
    assert lab.need().burnt == {}
    assert writes(lab) >= 5

    second = episodes.burn(lab, "anyang", Patience(45))
    is_good(second)
    assert second.number == 2
    assert run(["lab", "report", "--output", "json", "--folder", str(lab.path)]) == console.DONE
    rows = json.loads(capsys.readouterr().out)["fires"]
    assert [(row["lost_site"], row["lost"]) for row in rows] == [("pangyo", 0), ("anyang", 0)]
