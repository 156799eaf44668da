"""What is particular to the driver `ipmi`: boot sources, liars, accounts, no password in arguments."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.ipmi.driver import IpmiDriver
from evac.drivers.port import Action
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from tests.contract.adapters import ipmi
from tests.contract.adapters.ipmi import PASSWORD, Simulator
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with ipmi.simulator(tmp_path) as made:
        yield made


def done(action: Action, timeout_s: float = 15.0, step: str = "execute") -> Any:
    try:
        return asyncio.run(getattr(IpmiDriver(), step)(action, order(timeout_s=timeout_s)))
    except ActionError as error:
        return error


def test_the_boot_source_is_set_once_before_the_power(simulator: Simulator) -> None:
    assert done(simulator.action(settings={"boot_source": "pxe"}))["state"] == "up"
    assert simulator.wishes() == ["boot pxe", "power 1"]


def test_another_machine_at_the_address_is_left_alone(simulator: Simulator) -> None:
    error = done(simulator.action(serial="SN0000043"))
    assert isinstance(error, Permanent)
    assert error.code == "bmc-wrong-serial"
    assert simulator.wishes() == []


def test_a_controller_that_lies_is_found_out(simulator: Simulator) -> None:
    simulator.lie()
    error = done(simulator.action(), timeout_s=10.0)
    assert isinstance(error, Permanent)
    assert error.code == "bmc-lying"
    assert simulator.wishes() == ["power 1"]


def test_silence_before_power_may_be_tried_again_and_after_it_is_unknown(simulator: Simulator) -> None:
    error = done(simulator.action(address="127.0.0.1:9"), timeout_s=12.0)
    assert isinstance(error, Retryable)
    assert error.code == "bmc-silent"

    async def story() -> None:
        boot = asyncio.create_task(
            IpmiDriver().execute(simulator.action(boot_ms=60_000), order(timeout_s=14.0))
        )
        while simulator.power() != "1":
            await asyncio.sleep(0.02)
        os.killpg(simulator.process.pid, signal.SIGSTOP)
        with pytest.raises(OutcomeUnknown):
            await boot

    asyncio.run(story())


def test_wrong_passwords_stop_after_a_handful(simulator: Simulator) -> None:
    simulator.secret.write_text("wrong", encoding="ascii")

    async def story() -> list[Any]:
        driver = IpmiDriver()
        actions = [simulator.action(settings={"refusals_at_most": 2}) for _ in range(8)]
        return await asyncio.gather(*(driver.check(one, order()) for one in actions))

    found = asyncio.run(story())
    assert {one.error.code for one in found} == {"credentials-refused"}
    assert sum("rejects the user name or password" in one.error.message for one in found) <= 2


def test_the_password_is_no_argument(simulator: Simulator) -> None:
    """Whoever lists processes sees arguments."""
    seen: set[str] = set()

    async def story() -> None:
        boot = asyncio.create_task(IpmiDriver().execute(simulator.action(), order()))
        while not boot.done():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = entry.read_bytes()
                except OSError:
                    continue
                if line.startswith(b"ipmitool"):
                    seen.add(line.replace(b"\0", b" ").decode())
            await asyncio.sleep(0)
        await boot

    asyncio.run(story())
    assert seen, "ipmitool was not caught running"
    assert not any(PASSWORD in line for line in seen)
