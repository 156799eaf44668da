"""The IPMI driver against OpenIPMI's simulator, through the real `ipmitool`: contract, identity, accounts."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import BootsServers, Fences
from evac.drivers.ipmi.driver import IpmiDriver
from evac.drivers.port import Action, Value, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from tests.contract.drivers.suite import Case, covers, keep_contract, order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

PASSWORD = "of-the-simulator"
SERIAL = "SN0000042"

CONFIG = """\
name "{name}"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{control} 0x20"
  user 1 true "" "none" user 10 none md2 md5 straight
  user 2 true "evac" "{password}" admin 10 none md2 md5 straight
"""
COMMANDS = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_add_fru_data 0x20 0 {size} file 0 "{fru}"
mc_enable 0x20
"""
# What the simulator asks about the power of its server, and tells; a liar notes the wish and does nothing.
CONTROL = """\
#!/bin/sh
here=$(dirname "$0")
what=$2
shift 2
[ "$what" = check ] && exit 0
if [ "$what" = get ]; then
    for name in "$@"; do
        if [ "$name" = power ]; then echo "power:$(cat "$here/power")"; else echo "$name:0"; fi
    done
    exit 0
fi
while [ $# -gt 1 ]; do
    echo "$1 $2" >> "$here/wishes"
    if [ ! -e "$here/lies" ]; then
        case $1 in
            power) echo "$2" > "$here/power" ;;
            shutdown) echo 0 > "$here/power" ;;
        esac
    fi
    shift 2
done
"""


def fru_of(serial: str) -> bytes:
    """An inventory with one product area that names a serial number (Platform Management FRU, 1.0)."""
    fields = (b"Contoso", b"Server", b"P1", b"1", serial.encode())
    area = b"".join(bytes([0xC0 | len(field)]) + field for field in fields) + b"\xc0\xc0\xc1"
    length = -(-(3 + len(area) + 1) // 8)
    product = (bytes([1, length, 0]) + area).ljust(length * 8 - 1, b"\0")
    header = bytes([1, 0, 0, 0, 1, 0, 0])
    return b"".join(part + bytes([-sum(part) % 256]) for part in (header, product))


class Simulator:
    """One management controller; its server is a file that says 0 or 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        (folder / "state").mkdir()
        (folder / "power").write_text("0\n", encoding="ascii")
        self.control = folder / "control"
        self.control.write_text(CONTROL, encoding="ascii")
        self.control.chmod(0o755)
        fru = fru_of(SERIAL)
        (folder / "fru").write_bytes(fru)
        words = {"name": f"evac{self.port}", "port": self.port, "control": self.control, "password": PASSWORD}
        (folder / "lan.conf").write_text(CONFIG.format(**words), encoding="ascii")
        (folder / "commands").write_text(COMMANDS.format(size=len(fru), fru=folder / "fru"), encoding="ascii")
        self.secret = folder / "password"
        self.secret.touch(mode=0o600)
        self.secret.write_text(PASSWORD, encoding="ascii")
        self.process = subprocess.Popen(
            ["ipmi_sim", "-c", folder / "lan.conf", "-f", folder / "commands", "-s", folder / "state", "-n"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait()

    def _wait(self) -> None:
        """A presence ping of ASF: answered once it listens."""
        ping = bytes([6, 0, 255, 6, 0, 0, 0x11, 0xBE, 0x80, 0, 0, 0])
        deadline = time.monotonic() + 10
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(0.1)
            link.connect(("127.0.0.1", self.port))
            while time.monotonic() < deadline:
                try:
                    link.send(ping)
                    link.recv(64)
                    return
                except OSError:
                    time.sleep(0.05)
        raise AssertionError("ipmi_sim does not answer")

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def power(self) -> str:
        return (self.folder / "power").read_text(encoding="ascii").strip()

    def wishes(self) -> list[str]:
        """What it was asked to set, in order."""
        file = self.folder / "wishes"
        return file.read_text(encoding="ascii").splitlines() if file.exists() else []

    def lie(self) -> None:
        (self.folder / "lies").touch()

    def action(self, verb: Verb = "boot", settings: dict[str, Value] | None = None, **more: Value) -> Action:
        given: dict[str, Value] = {"user": "evac", "password": f"file:{self.secret}", **(settings or {})}
        told: dict[str, Value] = {
            "server": "web-1",
            "address": f"127.0.0.1:{self.port}",
            "serial": SERIAL,
            "network": "hall",
            "boot_ms": 300,
            **more,
        }
        return Action(verb, "web-1", "ipmi", "pangyo", given, told)


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    for program in ("ipmi_sim", "ipmitool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    made = Simulator(tmp_path)
    yield made
    made.close()


def done(action: Action, timeout_s: float = 15.0, step: str = "execute") -> Any:
    try:
        return asyncio.run(getattr(IpmiDriver(), step)(action, order(timeout_s=timeout_s)))
    except ActionError as error:
        return error


def case_of(simulator: Simulator, action: Action, done_at: str) -> Case:
    async def state() -> object:
        return simulator.power(), simulator.wishes()

    async def is_done() -> bool:
        return simulator.power() == done_at

    async def signal_it(number: int) -> None:
        os.killpg(simulator.process.pid, number)

    return Case(
        IpmiDriver(),
        action,
        state,
        is_done,
        silence=lambda: signal_it(signal.SIGSTOP),
        speak=lambda: signal_it(signal.SIGCONT),
        secrets=(PASSWORD,),
        silent_timeout_s=1.5,
    )


@covers("ipmi", BootsServers)
def test_the_contract_is_kept_by_a_boot(simulator: Simulator) -> None:
    asyncio.run(keep_contract(replace(case_of(simulator, simulator.action(), "1"), undo="done")))
    assert simulator.wishes().count("power 1") == 1


@covers("ipmi", Fences)
def test_the_contract_is_kept_by_a_fence(simulator: Simulator) -> None:
    done(simulator.action())
    action = simulator.action("fence", proof="power")
    asyncio.run(keep_contract(case_of(simulator, action, "0")))


def test_a_fence_says_what_it_proves(simulator: Simulator) -> None:
    done(simulator.action())
    evidence = done(simulator.action("fence", proof="power"))
    assert (evidence["power"], evidence["proof"]) == ("off", "power")


def test_that_the_controller_took_the_request_is_told_once(simulator: Simulator) -> None:
    told: list[str] = []
    how = replace(order(), switched_on=lambda: told.append(simulator.power()))
    for _ in range(2):
        asyncio.run(IpmiDriver().execute(simulator.action(), how))
    assert told == ["1"], "not where it is on"


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
    assert sum("refuses user or password" in one.error.message for one in found) <= 2


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
