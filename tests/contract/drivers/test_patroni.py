"""What is particular to the driver `patroni`: what proves nothing, and what a cluster must not be called."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from pathlib import Path

import pytest

from evac.drivers.patroni.dcs import Dcs
from evac.drivers.patroni.driver import PatroniDriver, misread_name
from evac.drivers.port import Action, Value
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac_lab.servers.etcd import etcd, wait_for_all
from tests.contract.adapters.patroni import cluster, until_ready
from tests.contract.capabilities.story import order
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers, pytest.mark.slow]


def test_what_is_dead_is_not_fenced_and_without_a_proof_no_one_is_promoted(server_folder: Path) -> None:
    with cluster(server_folder) as world:
        promote = world.action("promote", world.anyang, proof="power", old_name="dc-pangyo")
        fence = world.action("fence", world.anyang, proof="lease", old_name="dc-pangyo")

        async def story() -> None:
            driver = PatroniDriver()
            await until_ready(driver, promote)
            early = await driver.check(promote, order())
            assert any("answers as a running primary" in problem for problem in early.problems)
            unproven = world.action("promote", world.anyang)
            assert not (await driver.check(unproven, order())).ready
            with pytest.raises(Permanent, match="no fence proof"):
                await driver.execute(unproven, order())
            world.pangyo.kill()
            with pytest.raises(OutcomeUnknown, match="in time"):
                await driver.execute(fence, order(timeout_s=3.0))  # its lease lasts longer
            assert world.key("/service/messages/leader") == "dc-pangyo"

        asyncio.run(story())


def test_a_member_whose_name_begins_with_any_is_never_called_ready(server_folder: Path) -> None:
    with cluster(server_folder, ("pangyo", "anyang")) as world:

        async def story() -> None:
            driver = PatroniDriver()
            await asyncio.sleep(3.0)
            checked = await driver.precheck(world.action("promote", world.anyang), 3.0)
            assert not checked.ready
            assert "/sync names no standby" in " ".join(checked.problems)
            assert "misreads the name anyang" in " ".join(checked.problems)
            assert "anyang can never take over" in str(checked.evidence["warnings"])
            # PostgreSQL itself counts it as synchronous: all looks healthy.
            assert "sync" in world.pangyo.sql("SELECT sync_state FROM pg_stat_replication")

        asyncio.run(story())


@pytest.mark.parametrize(
    ("name", "misread"),
    [
        ("anyang", True),
        ("ANYthing", True),
        ("first_floor", True),
        ("dc-anyang", False),
        ("any-yang", False),
        ("pangyo", False),
        ("many", False),
    ],
)
def test_which_names_are_misread(name: str, misread: bool) -> None:
    assert misread_name(name) is misread


def test_a_look_that_the_deadline_cuts_after_something_was_written_is_no_failure() -> None:
    async def look(changed: bool) -> None:
        settings: dict[str, Value] = {"scope": "messages", "etcd": "http://127.0.0.1:9"}
        async with Dcs(settings, 0.0).open() as dcs:
            dcs.changed = changed
            await dcs.read()

    with pytest.raises(OutcomeUnknown, match="in time"):
        asyncio.run(look(changed=True))
    with pytest.raises(Retryable, match="no etcd member answers"):
        asyncio.run(look(changed=False))


def test_a_member_follows_once_patroni_records_that_it_streams(server_folder: Path) -> None:
    """An old primary runs as a replica seconds before it receives anything: until then it has not rejoined.

    Only etcd runs here: the records are those of Patroni 4, which no one can hold at this moment.
    """
    store = etcd(server_folder / "etcd", "127.0.0.1", free_port(), free_port(), "only", frugal=True)

    def record(key: str, value: object) -> None:
        data = value if isinstance(value, str) else json.dumps(value)
        pair = {
            "key": base64.b64encode(f"/service/messages/{key}".encode()).decode(),
            "value": base64.b64encode(data.encode()).decode(),
        }
        request = urllib.request.Request(f"{store.url}/v3/kv/put", json.dumps(pair).encode(), method="POST")
        urllib.request.urlopen(request, timeout=5).close()

    async def said() -> tuple[str, str, str]:
        driver, settings = PatroniDriver(), {"scope": "messages", "etcd": store.url, "name": "dc-pangyo"}
        rejoin = Action("rejoin", "store-messages", "patroni", "anyang", settings, {})
        verify = Action("verify", "store-messages", "patroni", "anyang", settings, {"expect": "standby"})
        seen = [(await driver.observe(action, order())).outcome for action in (rejoin, verify)]
        return seen[0], seen[1], (await driver.report_role(rejoin, 5.0)).role

    store.start()
    try:
        wait_for_all([store])
        record("leader", "dc-anyang")
        record("config", {"synchronous_mode": True})
        record("members/dc-anyang", {"role": "primary", "state": "running", "timeline": 2})
        member = {"role": "replica", "state": "running", "timeline": 2}
        for more in ({}, {"replication_state": "in archive recovery"}):
            record("members/dc-pangyo", member | more)
            assert asyncio.run(said()) == ("absent", "absent", "detached"), more
        record("members/dc-pangyo", member | {"replication_state": "streaming"})
        assert asyncio.run(said()) == ("done", "done", "replica")
    finally:
        store.kill()
