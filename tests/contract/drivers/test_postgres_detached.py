"""A copy that receives nothing in the moment of a look, on real servers: what it counts as, and that a fire
leads it to the new primary like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evac import estate as estates
from evac.app.observed_stores import merged
from evac.app.observing import observe
from evac.derive.stores import observed
from evac.drivers.postgres.driver import PostgresDriver
from evac.drivers.registry import Drivers
from evac.engine.runs.binding import bind
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.model.scenario import lose
from evac.planning.compiled import interpreted
from evac.planning.plan import plan
from evac_lab.servers.postgres import PostgresServer
from tests.contract.adapters.postgres import SITES, DataSet, data_set, query
from tests.contract.capabilities.story import order
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
POLICY = RunPolicy(stores={"messages": StorePolicy("messages", ("sync",), on_sync_loss="next")})


def _estate(folder: Path, world: DataSet) -> Estate:
    ends = ""
    for name, one in world.members.items():
        reached = f"host: {one.host}, port: {one.port}, user: {one.user}, dbname: postgres, name: {name}"
        settings = f"{{{reached}, password: 'env:EVAC_TEST_PASSWORD'}}"
        at = SITES[name]
        ends += f"  m-{at}: {{for: messages, at: {at}, driver: postgres, settings: {settings}}}\n"
    (folder / "estate.yaml").write_text(
        "evac: 1\nsites: {pangyo: {}, anyang: {}, ansan: {}}\n"
        "services: {chat: {needs: [{store: messages}]}}\nstores:\n  messages:\n"
        "    {engine: postgresql, rpo: 0 s, promote: 1 s, members: [{at: pangyo, mode: primary}, "
        "{at: anyang, mode: sync}, {at: ansan, mode: async, lag: 1 s}]}\n"
        f"endpoints:\n{ends}"
    )
    return estates.load(folder)


async def _detach(server: PostgresServer) -> None:
    """As after its primary, or the way there, died: it asks at an address where nobody is."""
    gone = f"host=127.0.0.1 port={free_port()} application_name={server.name}"
    await query(server, f"ALTER SYSTEM SET primary_conninfo = '{gone}'")
    await query(server, "SELECT pg_reload_conf()")


async def _look(estate: Estate, wanted: dict[str, str]) -> Observation:
    """A look at the real servers, once it finds this."""
    drivers, found = Drivers(), Observation(0)
    deadline = time.monotonic() + 15.0
    try:
        while time.monotonic() < deadline:
            found = await observe(estate, drivers, 0)
            if {one.site: one.role for one in found.members} == wanted:
                return found
            await asyncio.sleep(0.1)
    finally:
        await drivers.close()
    raise AssertionError(found)


def test_a_copy_that_follows_nobody_is_led_to_the_new_primary_and_confirms_its_commits(
    server_folder: Path,
) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        estate, ansan = _estate(server_folder, world), world.members["dc-ansan"]

        async def story() -> None:
            await _detach(ansan)
            now = await _look(estate, {"pangyo": "primary", "anyang": "sync", "ansan": "detached"})
            seen = observed(estate, merged(Observation(0), now))
            with interpreted():  # these tests run while the kernels are compiled elsewhere
                planned = plan(seen, lose("pangyo"))
            bound = bind(seen, planned, POLICY, run="r", incident="i", digest="sha256:0")
            (promote,), (rejoin,) = bound.actions["promote:messages"], bound.actions["rejoin:messages:ansan"]
            world.pangyo.kill()
            driver = PostgresDriver()
            vouched = replace(promote, parameters={**promote.parameters, "proof": "attest"})
            await driver.execute(vouched, order())
            await driver.execute(rejoin, order())
            insert = "INSERT INTO messages VALUES (1, 0, 'after') RETURNING id"
            await query(world.anyang, insert, 15.0)
            (names,) = (await query(world.anyang, "SHOW synchronous_standby_names"))[0]
            assert "dc-ansan" in str(names), "a commit is confirmed by the copy that was detached"
            assert await query(ansan, "SELECT id FROM messages") == [(1,)]

        asyncio.run(story())


@pytest.mark.parametrize("names", ["FIRST 1 (*)", "ANY 1 (*)", "ANY 2 (*)", "*"])
def test_a_primary_that_lets_any_copy_confirm_waits_once_too_few_follow(
    server_folder: Path, names: str
) -> None:
    """As its own commits show, with a copy or without one."""
    with data_set(server_folder) as world:
        two, driver = "2" in names, PostgresDriver()

        async def hangs(expected: bool) -> bool:
            insert = "INSERT INTO messages SELECT count(*), 0, '' FROM messages"
            try:
                await query(world.pangyo, insert, 1.0 if expected else 20.0)
            except TimeoutError:
                return True
            return False

        async def story() -> None:
            ask_it = world.action("verify", "dc-pangyo")
            await query(world.pangyo, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            await query(world.pangyo, "SELECT pg_reload_conf()")
            async with asyncio.timeout(10):
                while (await query(world.pangyo, "SHOW synchronous_standby_names"))[0] != (names,):
                    await asyncio.sleep(0.02)
            said = (await driver.report_role(ask_it, 5.0)).waits_for
            assert (await hangs(two), said) == (two, ("any copy",) if two else ())
            world.anyang.kill()
            async with asyncio.timeout(10):
                while not (report := await driver.report_role(ask_it, 5.0)).waits_for:
                    await asyncio.sleep(0.02)
            assert (await hangs(True), report.waits_for) == (True, ("any copy",))

        asyncio.run(story())


def test_a_synchronous_copy_that_reconnects_is_one_while_its_primary_waits_for_it(
    server_folder: Path,
) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        estate = _estate(server_folder, world)

        async def story() -> None:
            healthy = {"pangyo": "primary", "anyang": "sync", "ansan": "async"}
            before = merged(Observation(0), await _look(estate, healthy))
            await _detach(world.anyang)
            flaps = {"pangyo": "primary", "anyang": "detached", "ansan": "async"}
            waits = merged(before, await _look(estate, flaps))
            assert waits.members == before.members, "nothing was acknowledged without it"
            with contextlib.suppress(TimeoutError):
                await query(world.pangyo, "INSERT INTO messages VALUES (1, 0, 'x') RETURNING id", 1.0)
                raise AssertionError("acknowledged without its synchronous copy")
            await query(world.pangyo, "ALTER SYSTEM SET synchronous_standby_names = ''")
            await query(world.pangyo, "SELECT pg_reload_conf()")
            goes_on = merged(before, await _look(estate, flaps))
            assert {one.site: one.role for one in goes_on.members} == flaps

        asyncio.run(story())
