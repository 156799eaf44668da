"""The clients that people use, unchanged: sushy (OpenStack) and DMTF's own library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.fleets import Running, running

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

sushy = pytest.importorskip("sushy", reason="sushy is not installed")
redfish = pytest.importorskip("redfish", reason="DMTF's redfish library is not installed")


@pytest.fixture(scope="module", params=["plain", "tls"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = ["--servers", "60", "--faults", "none", "--speed", "100", "--latency", "0"]
    if request.param == "tls":
        options.append("--tls")
    with running(tmp_path_factory.mktemp("fleet"), *options) as found:
        yield found


@contextmanager
def _sushy(fleet: Running, server: int) -> Iterator[tuple[Any, Any]]:
    """The root and the system; its session is closed in any case, because it would try for minutes later."""
    root = sushy.Sushy(fleet.url(server), username=fleet.about["user"], password=fleet.password, verify=False)
    try:
        yield root, root.get_system("/redfish/v1/Systems/1")
    finally:
        root._auth.close()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_sushy_switches_a_server_on_and_off(fleet: Running) -> None:
    with _sushy(fleet, 1) as (_, system):
        assert system.power_state == sushy.PowerState.OFF
        assert system.serial_number == "SN0000001"
        assert sushy.ResetType.ON in system.get_allowed_reset_system_values()
        system.reset_system(sushy.ResetType.ON)
        fleet.wait_until("up", 1)
        system.refresh()
        assert system.power_state == sushy.PowerState.ON
        assert system.boot_progress.last_state == sushy.BootProgressStates.OS_RUNNING
        assert system.hostname == system.name
        system.reset_system(sushy.ResetType.FORCE_OFF)
        system.refresh()
        assert system.power_state == sushy.PowerState.OFF


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_sushy_boots_once_from_the_network(fleet: Running) -> None:
    with _sushy(fleet, 2) as (_, system):
        system.set_system_boot_options(
            target=sushy.BootSource.PXE, enabled=sushy.BootSourceOverrideEnabled.ONCE
        )
        system.refresh()
        assert system.boot["target"] == sushy.BootSource.PXE
        system.reset_system(sushy.ResetType.ON)
        system.refresh()
        assert system.boot["enabled"] == sushy.BootSourceOverrideEnabled.DISABLED
        system.reset_system(sushy.ResetType.FORCE_OFF)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_sushy_reads_without_lost_around_a_server(fleet: Running) -> None:
    with _sushy(fleet, 3) as (root, system):
        drives = system.storage.get_members()[0].drives
        assert [drive.status.health for drive in drives] == [sushy.Health.OK, sushy.Health.OK]
        chassis = root.get_chassis("/redfish/v1/Chassis/1")
        assert chassis.json["Location"]["Placement"]["RackOffset"] == 7
        assert root.get_manager("/redfish/v1/Managers/1").firmware_version == "2.11.0"
        assert root.get_chassis("/redfish/v1/Chassis/1").power_state == sushy.PowerState.OFF


@pytest.mark.parametrize("how", ["basic", "session"])
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_the_library_of_dmtf_does_it_too(fleet: Running, how: str) -> None:
    server = 4 if how == "basic" else 5
    client = redfish.redfish_client(
        base_url=fleet.url(server),
        username=fleet.about["user"],
        password=fleet.password,
        timeout=5,
        max_retry=1,
    )
    client.login(auth=how)
    try:
        path = "/redfish/v1/Systems/1"
        changed = client.patch(
            path, body={"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}}
        )
        assert changed.status == 204
        assert client.get(path).dict["Boot"]["BootSourceOverrideTarget"] == "Pxe"
        assert client.post(f"{path}/Actions/ComputerSystem.Reset", body={"ResetType": "On"}).status == 204
        assert client.get(path).dict["PowerState"] == "On"
        assert (
            client.post(f"{path}/Actions/ComputerSystem.Reset", body={"ResetType": "ForceOff"}).status == 204
        )
        assert client.get(path).dict["PowerState"] == "Off"
    finally:
        client.logout()
    assert fleet.admin("stats")["sessions"]["open"] == 0
