"""Sites that really burn: what dies, what clients notice, and that the figures can tell good from bad."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from evac_lab import clients, episodes, faults, restoring, status
from evac_lab.episodes import Patience
from evac_lab.state import LabError, LabFolder, living
from tests.lab import by_hand
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


@pytest.fixture
def lab() -> Iterator[LabFolder]:
    with running_lab(controllers=False) as folder:
        yield folder


def test_a_fire_that_people_put_out_by_hand(lab: LabFolder) -> None:
    assert writes(lab) >= 5
    before = len(living(lab.need(), lab, "pangyo"))
    told: list[str] = []

    def burn_and_mend() -> faults.Struck:
        struck = faults.burn(lab, "pangyo")
        by_hand.promote(lab, "anyang")
        by_hand.point_names(lab, "anyang", without="pangyo")
        return struck

    fire = episodes.fire(lab, "pangyo", burn_and_mend, Patience(20), told.append, "a test")
    assert before > 15
    assert living(lab.need(), lab, "pangyo") == set()
    assert (fire.state, fire.lost, fire.double_primary_seconds) == ("over", 0, 0.0)
    assert fire.first_write_seconds is not None
    assert fire.last_client_seconds is not None
    assert 0 < fire.first_write_seconds <= fire.last_client_seconds
    assert fire.clients == fire.clients_recovered == 6
    assert episodes.read_all(lab) == [fire]
    assert fire.reason == "a test"
    assert any("last client" in words for words in told)
    found = {site.name: site for site in status.look(lab, lab.need()).sites}
    assert (found["pangyo"].state, found["pangyo"].postgres) == ("burnt", "")
    assert found["anyang"].postgres == "primary"
    with pytest.raises(LabError, match="already burnt"):
        faults.burn(lab, "pangyo")
    # The site comes back, but not its old primary.
    assert set(restoring.start_site(lab, "pangyo")) == {"etcd", "dns", "haproxy", "agent", "redis"}
    again = {site.name: site for site in status.look(lab, lab.need()).sites}["pangyo"]
    assert (again.state, again.servers["postgres"], again.servers["etcd"]) == ("up", "down", "up")


def test_two_primaries_and_a_lost_message_are_found(lab: LabFolder) -> None:
    """The test of the tester: a primary promoted while the old one lives, and messages that only it had."""
    by_hand.sql(lab, "pangyo", "alter system set synchronous_standby_names = ''", "select pg_reload_conf()")

    def split() -> faults.Struck:
        by_hand.promote(lab, "anyang")
        by_hand.point_names(lab, "pangyo")
        # The messenger follows the newest timeline; whoever writes to the old primary loses it later.
        by_hand.sql(lab, "pangyo", "insert into messages values ('only-here', 'r', 's', 't') returning id")
        writer = clients.LedgerWriter(lab.ledger)
        writer.write("ack", time.time(), client=0, id="only-here", number=1, address="x", site="pangyo")
        writer.close()
        time.sleep(1.0)
        return faults.Struck("planted", "pangyo", time.time(), 0)

    fire = episodes.fire(lab, "pangyo", split, Patience(8))
    assert fire.double_primary_seconds > 0.5
    assert "only-here" in fire.lost_ids
