"""The estate that a fleet writes, and a fleet out of an estate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evac.estate.loading import load
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac_lab.fleet import estates
from evac_lab.fleet.estates import Reach
from evac_lab.fleet.fleet import Fleet, Settings
from evac_lab.fleet.ground import Shares, address_of

REACH = Reach(8_000, "evac", "env:FLEET", "ab" * 32)
SERVERS = 460


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    folder = tmp_path_factory.mktemp("estate")
    fleet = Fleet(estates.make_up(SERVERS), Shares({}), Settings(), "evac", "secret-word")
    estates.write(folder, fleet, REACH)
    assert "secret-word" not in "".join(path.read_text(encoding="utf-8") for path in folder.iterdir())
    return load(folder)


def test_it_has_every_server_with_address_serial_and_position(estate: Estate) -> None:
    ground = estates.make_up(SERVERS)
    row = estate.fleet.name.tolist().index(ground.name[300])
    assert estate.fleet.bmc_of(row) == (address_of(300), "SN0000300", ground.position_of(300))
    assert len(estate.fleet) == SERVERS


def test_each_feed_has_an_endpoint_for_its_circuit(estate: Estate) -> None:
    subjects = {one.subject: one for one in estate.endpoints}
    assert set(subjects) == {"pangyo", *(feed.id for feed in estate.feeds)}
    feed = subjects[estate.feeds[1].id].settings
    assert feed["circuit"] == "/redfish/v1/PowerEquipment/Switchgear/1/Feeders/2"
    assert (feed["address"], feed["label"], feed["pin"]) == ("127.64.255.1", estate.feeds[1].id, "ab" * 32)


def test_replicas_fit_into_their_servers(estate: Estate) -> None:
    used = np.zeros(len(estate.fleet), np.int64)
    demand = np.array([one.demand[0] or 0 for one in estate.services], np.int64)
    on_servers = estate.replicas.target >= 0
    at = estate.replicas.target[on_servers]
    placed = np.array(
        [estate.services[row].eligible_sites is not None for row in estate.replicas.service[on_servers]]
    )
    np.add.at(used, at[placed], demand[estate.replicas.service[on_servers]][placed])
    assert (used <= estate.fleet.capacity[:, 0]).all()
    assert placed.sum() > SERVERS


def test_the_way_back_gives_the_same_fleet(estate: Estate) -> None:
    there, back = estates.make_up(SERVERS), estates.ground_of(estate, "pangyo")
    for column in ("name", "serial", "position", "watts", "boot_server"):
        assert (getattr(there, column) == getattr(back, column)).all(), column
    racks = [[ground.racks[row].id for row in ground.rack.tolist()] for ground in (there, back)]
    assert racks[0] == racks[1]
    kinds = [[ground.kinds[row] for row in ground.kind.tolist()] for ground in (there, back)]
    assert [(one.watts, one.boot_ms, one.inrush_ms, one.policy) for one in kinds[0]] == [
        (one.watts, one.boot_ms, one.inrush_ms, one.policy) for one in kinds[1]
    ]
    limits = [
        {one.id: (one.power_watts, one.inrush_watts) for one in ground.domains if one.power_watts}
        for ground in (there, back)
    ]
    assert limits[0] == limits[1]


def test_addresses_that_cannot_be_served_are_named(estate: Estate) -> None:
    address = estate.fleet.bmc_address.astype("S24")
    address[5] = b"10.0.0.7"
    other = replace(estate, fleet=replace(estate.fleet, bmc_address=address))
    with pytest.raises(InvalidInput, match=r"10\.0\.0\.7"):
        estates.ground_of(other, "pangyo")


def test_servers_without_addresses_are_served_in_the_order_of_their_names(estate: Estate) -> None:
    unknown = np.zeros(len(estate.fleet), "S1")
    other = replace(estate, fleet=replace(estate.fleet, bmc_address=unknown))
    assert (estates.ground_of(other, "pangyo").name == estate.fleet.name).all()


@pytest.mark.parametrize(("site", "words"), [("nowhere", "no such site:"), ("anyang", "has no servers")])
def test_a_site_that_cannot_be_a_fleet_is_refused(estate: Estate, site: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        estates.ground_of(estate, site)


def test_only_a_folder_of_ours_is_written_over(tmp_path: Path) -> None:
    estates.check_folder(tmp_path / "new")
    estates.check_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput):
        estates.check_folder(tmp_path)
    (tmp_path / "estate.yaml").write_text(estates.MARK, encoding="utf-8")
    estates.check_folder(tmp_path)
