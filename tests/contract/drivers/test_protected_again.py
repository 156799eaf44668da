"""A synchronous copy whose server was down, while commits went on without it: seen as following again, and
made to confirm again, on real servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.app.commits import Commits
from evac.app.observing import observe
from evac.drivers.registry import Drivers
from evac.engine.stores.stalled_commits import bound_of
from evac.model.estate import Estate
from evac.model.run_policy import PROFILES, RunPolicy, StorePolicy
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
    (folder / "estate.yaml").write_text(
        "evac: 1\nsites: {pangyo: {}, anyang: {}}\nstores:\n"
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
            await drivers.get(action.driver).execute(action, order())

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
