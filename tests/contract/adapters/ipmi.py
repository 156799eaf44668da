"""OpenIPMI's simulator behind the real `ipmitool`, for the suites."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.capabilities import BootsServers, Fences
from evac.drivers.ipmi import DRIVER
from evac.drivers.ipmi.driver import IpmiDriver
from evac.drivers.port import Action, Value, Verb
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.story import Case, order, until_stopped
from tests.contract.capabilities.suites import Adapter, Asked, AskedPower
from tests.contract.ports import free_port

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
        self.port = free_port()
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

    async def silence(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)
        await until_stopped(self.process.pid)

    async def speak(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

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
        parameters: dict[str, Value] = {
            "server": "web-1",
            "address": f"127.0.0.1:{self.port}",
            "serial": SERIAL,
            "network": "hall",
            "boot_ms": 300,
            **more,
        }
        return Action(verb, "web-1", "ipmi", "pangyo", given, parameters)


@contextmanager
def simulator(folder: Path) -> Iterator[Simulator]:
    for program in ("ipmi_sim", "ipmitool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder.mkdir(exist_ok=True)
    made = Simulator(folder)
    try:
        yield made
    finally:
        made.close()


def _wire(folder: Path) -> ProgramWire:
    def through(action: Action, program: str) -> Action:
        return replace(action, settings={**action.settings, "program": program})

    there = folder / "hostile"
    there.mkdir()
    return ProgramWire(shutil.which("ipmitool") or "ipmitool", there, through)


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with simulator(folder) as made:
        done_at = {"boot": "1", "fence": "0"}[verb]

        async def prepare() -> None:
            if verb == "fence":
                await IpmiDriver().execute(made.action(), order())

        async def state() -> object:
            return made.power(), made.wishes()

        async def is_done() -> bool:
            return made.power() == done_at

        yield Case(
            IpmiDriver(),
            made.action(verb, proof="power") if verb == "fence" else made.action(),
            state,
            is_done,
            prepare,
            made.silence,
            made.speak,
            undo="done" if verb == "boot" else "refused",
            secrets=(PASSWORD,),
            silent_codes=("bmc-silent",),
            silent_timeout_s=1.5,
            wires=(_wire(folder),),
        )


@contextmanager
def _looks(folder: Path) -> Iterator[Asked]:
    with simulator(folder / "off") as made, simulator(folder / "on") as other:
        asyncio.run(IpmiDriver().execute(other.action(), order()))
        yield AskedPower(
            IpmiDriver(),
            made.action(),
            made.silence,
            made.speak,
            (PASSWORD,),
            (_wire(folder),),
            on=other.action(),
            another=made.action(serial="SN0000043"),
        )


ADAPTER = Adapter(DRIVER, acts=dict.fromkeys((BootsServers, Fences), _acts), asks={BootsServers: _looks})
