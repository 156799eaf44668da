"""A synchronous copy whose server was down, while commits went on without it: seen as following again, and
made to confirm again, on real servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.app.commits import Commits, never_confirm_in
from evac.app.observing import observe
from evac.drivers.registry import Drivers
from evac.engine.runs.binding import bind
from evac.engine.stores.stalled_commits import bound_of
from evac.model.errors import Retryable
from evac.model.estate import NO_TIMEOUT_MS, Estate
from evac.model.run_policy import PROFILES, RunPolicy, StorePolicy
from evac.model.scenario import lose
from evac.planning.compiled import interpreted
from evac.planning.plan import plan
from tests.contract.adapters import mariadb, postgres
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
PROFILE = PROFILES["lab"]
POLICY = RunPolicy(stores={"orders": StorePolicy("orders", ("sync",), on_sync_loss="async")})
WORLDS: Mapping[str, Callable[..., AbstractContextManager[Any]]] = {
    "postgres": postgres.data_set,
    "mariadb": mariadb.data_set,
}


class SteppedClock:
    at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


def _estate(folder: Path, driver: str, world: Any) -> Estate:
    ends = "".join(
        f"  o-{name}: {{for: orders, at: {name.removeprefix('dc-')}, driver: {driver}, "
        f"settings: {json.dumps(world.settings(name))}}}\n"
        for name in world.members
    )
    members = "{at: pangyo, mode: primary}, {at: anyang, mode: sync}"
    if "dc-ansan" in world.members:
        members += ", {at: ansan, mode: async, lag: 1 s}"
    (folder / "estate.yaml").write_text(
        "evac: 1\nsites: {pangyo: {}, anyang: {}, ansan: {}}\nstores:\n"
        f"  orders: {{engine: {driver}, rpo: 0 s, members: [{members}]}}\nendpoints:\n{ends}"
    )
    return estates.load(folder)


@pytest.mark.parametrize("driver", WORLDS)
def test_a_copy_whose_server_was_down_confirms_again(server_folder: Path, driver: str) -> None:
    with WORLDS[driver](server_folder) as world:
        estate, clock, drivers = _estate(server_folder, driver, world), SteppedClock(), Drivers()
        commits = Commits(clock, lambda: estate, tuple, lambda: PROFILE)

        async def look(seen: Callable[[], bool]) -> None:
            """Observes, a second of the leader's clock apart, until it sees this."""
            deadline = time.monotonic() + 60.0
            while not seen():
                assert time.monotonic() < deadline
                clock.at_ms += 1_000
                commits.note(await observe(estate, drivers, 0))

        async def protect(data: bytes) -> None:
            bound = bound_of(data, POLICY, run="r", incident="i", digest="sha256:0")
            (action,) = bound.actions["protect:orders"]
            async with asyncio.timeout(60.0):
                while True:  # a copy may be listed a moment before it confirms; a run tries again
                    with contextlib.suppress(Retryable):
                        await drivers.get(action.driver).execute(action, order())
                        return
                    await asyncio.sleep(0.1)

        async def story() -> None:
            try:
                await look(lambda: "orders" in commits.confirmed())
                assert commits.unconfirmed() == {}
                alone = world.action("protect", "dc-pangyo")
                world.anyang.kill()
                await drivers.get(alone.driver).execute(alone, order())
                await look(lambda: "orders" in commits.unconfirmed())
                assert dict(commits.unconfirmed()["orders"].copies) == {}, "there is none that could"
                await asyncio.to_thread(world.anyang.start)
                await look(lambda: "anyang" in commits.unconfirmed()["orders"].copies)
                await protect(commits.unconfirmed()["orders"].copies["anyang"])
                await look(lambda: "orders" in commits.confirmed())
                assert commits.unconfirmed() == {}
            finally:
                await drivers.close()

        asyncio.run(story())


def test_a_copy_that_is_set_not_to_confirm_is_not_asked_to(server_folder: Path) -> None:
    """Its MariaDB has `rpl_semi_sync_slave_enabled` off: a run that names it is refused for ever."""
    with mariadb.data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        estate, clock, drivers = _estate(server_folder, "mariadb", world), SteppedClock(), Drivers()
        commits = Commits(clock, lambda: estate, tuple, lambda: PROFILE)

        async def story() -> None:
            try:
                world.anyang.kill()
                await drivers.get("mariadb").execute(world.action("protect", "dc-pangyo"), order())
                deadline = time.monotonic() + 60.0
                while "orders" not in commits.unconfirmed():
                    assert time.monotonic() < deadline
                    clock.at_ms += 1_000
                    now = await observe(estate, drivers, 0)
                    commits.note(now)
                assert never_confirm_in(now) == {("orders", "ansan")}
                assert dict(commits.unconfirmed()["orders"].copies) == {}
            finally:
                await drivers.close()

        asyncio.run(story())


@pytest.mark.parametrize("semi", [False, True])
def test_one_of_several_copies_of_a_mariadb_confirms_each_commit(server_folder: Path, semi: bool) -> None:
    """semi: whether the second one may confirm as well. Neither is certain, and none is missing."""
    with mariadb.data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        estate, clock, drivers = _estate(server_folder, "mariadb", world), SteppedClock(), Drivers()
        commits = Commits(clock, lambda: estate, tuple, lambda: PROFILE)
        if semi:
            again = ("STOP ALL SLAVES", "START ALL SLAVES")
            world.members["dc-ansan"].sql("SET GLOBAL rpl_semi_sync_slave_enabled = 1", *again)
        status = "SELECT variable_value FROM information_schema.global_status WHERE variable_name ="
        deadline = time.monotonic() + 60.0
        # A copy starts in the background: until it has come back, the primary lists its old connection.
        while int(world.pangyo.sql(f"{status} 'RPL_SEMI_SYNC_MASTER_CLIENTS'")) != 1 + semi:
            assert time.monotonic() < deadline
            time.sleep(0.05)

        async def story() -> None:
            try:
                deadline = time.monotonic() + 60.0
                while "orders" not in commits.confirmed():
                    assert time.monotonic() < deadline
                    clock.at_ms += 1_000
                    now = await observe(estate, drivers, 0)
                    if len([one for one in now.members if one.role == "async"]) == 2:
                        commits.note(now)
                        assert commits.unconfirmed() == {}
            finally:
                await drivers.close()

        asyncio.run(story())


@pytest.mark.parametrize(("driver", "on_sync_loss"), [("postgres", "next"), ("mariadb", "async")])
def test_an_approved_run_in_mode_advise_releases_the_commits_of_a_primary_that_lost_its_copy(
    server_folder: Path, driver: str, on_sync_loss: Any
) -> None:
    """Nobody has to type SQL: the run that a person approved has a step that the driver executes. The second
    copy of this MariaDB is not set to confirm commits.
    """
    with WORLDS[driver](server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        found, drivers = _estate(server_folder, driver, world), Drivers()
        estate = replace(found, stores=(replace(found.stores[0], sync_timeout_ms=NO_TIMEOUT_MS),))
        with interpreted():  # these tests run while the kernels are compiled elsewhere
            planned = plan(estate, lose("anyang"))
        policy = RunPolicy(stores={"orders": StorePolicy("orders", ("sync",), on_sync_loss=on_sync_loss)})
        assert policy.mode == "advise"
        run = bind(estate, planned, policy, run="r", incident="i", digest="sha256:0")
        assert not [step.id for step in run.spec.steps if step.manual and step.target == "orders"]
        (action,) = run.actions["protect:orders"]

        async def story() -> None:
            try:
                world.anyang.kill()
                statement = "CREATE SCHEMA after_the_fire"
                commit = asyncio.create_task(asyncio.to_thread(world.pangyo.sql, statement))
                await asyncio.sleep(1.0)
                assert not commit.done(), "it waits for the copy that burnt"
                async with asyncio.timeout(30.0):
                    while True:
                        with contextlib.suppress(Retryable):
                            await drivers.get(action.driver).execute(action, order())
                            break
                        await asyncio.sleep(0.1)
                    await commit
            finally:
                await drivers.close()

        asyncio.run(story())
