"""Faults of real sites that are no whole fire: cut off, flapping, slow, half burnt, without a replica, full.

One lab for all of them, in the order in which it is worn out: so they are one test.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from bench.bench_fence import MANY, MARGIN_MS, CannotHave, Pressure, Trial, limited, loop, no_memory, silent
from evac.agent.config import read_config
from evac.drivers.process.client import AgentAt
from evac.drivers.process.driver import AgentPermits
from evac_lab import authorities, faults, status
from evac_lab.site_servers import start_unit
from evac_lab.state import HALLS, PORTS, SERVICE, LabError, LabFolder, living
from tests.lab import by_hand
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


def test_faults_that_are_no_whole_fire() -> None:
    with running_lab(controllers=False) as lab:
        a_primary_whose_permit_ends_stops_whatever_its_agent_lacks(lab)
        a_site_that_is_cut_off_is_silent_and_lives_on(lab)
        writes_hang_without_the_synchronous_replica_and_no_second_try_is_acknowledged(lab)
        half_a_site_and_a_full_disk(lab)


PERMIT_MS = 9_000
BEGUN_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""Of TLS: a handshake that goes no further."""


def a_primary_whose_permit_ends_stops_whatever_its_agent_lacks(lab: LabFolder) -> None:
    """At once: 10,000 silent connections and no more descriptors at the agent of the primary, no more memory
    at the second one, and under the third one a disk that hangs, where this machine can have one. Nobody
    renews a permit.
    """
    ground = by_hand.ground_of(lab)
    with ExitStack() as held:
        pressures: dict[str, Pressure] = {"pangyo": crowded, "anyang": no_memory}
        with suppress(CannotHave):
            pressures["ansan"] = stopped_disk_below(held, lab)
        with ThreadPoolExecutor(len(pressures)) as pool:
            left = dict(zip(pressures, pool.map(partial(fenced, lab), pressures.items()), strict=True))
    late = {site: one for site, one in left.items() if not 0 < one < MARGIN_MS / 1_000 + 0.5}
    assert late == {}, left
    assert writes(lab, at_least=1, within_s=1.0) == 0
    synchronous = f"""'FIRST 1 ("{ground.topology.site("anyang").member}")'"""
    by_hand.sql(
        lab,
        "pangyo",
        "alter system reset default_transaction_read_only",
        f"alter system set synchronous_standby_names = {synchronous}",
        "select pg_reload_conf()",
    )
    for site in ground.topology.sites:
        start_unit(ground, site, SERVICE)
    assert writes(lab) >= 5


def fenced(lab: LabFolder, pressed: tuple[str, Pressure]) -> float:
    """How much of its permit is left when a site's messenger is gone, and the database there takes no more
    writes if it is the primary.
    """
    name, press = pressed
    ground = by_hand.ground_of(lab)
    site = ground.topology.site(name)
    made = read_config(lab.data(name, "agent") / "agent.toml")
    (agent,) = [one.pid for one in lab.need().of_site(name) if one.role == "agent"]
    at = AgentAt(name, site.url("agent"), ground.secrets.reference(f"agent-{name}"))

    def runs(pid: int) -> bool:
        with suppress(OSError):
            return b"evac_lab.messenger" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    async def permitted() -> float:
        keeper = AgentPermits(at, authorities.operator(lab.certificates))
        try:
            told = await keeper.renew("messages", 1, PERMIT_MS, 1, 10)
            return time.monotonic() + float(told["fences"][0]["left_ms"]) / 1_000
        finally:
            await keeper.close()

    def writes_end() -> bool:
        with suppress(Exception):  # sessions are ended, ours may be among them
            return by_hand.sql(lab, name, "show default_transaction_read_only") == ["on"]
        return False

    units = [pid for pid in living(lab.need(), lab, name) if runs(pid)]
    assert units
    end = asyncio.run(permitted())
    with press(Trial(made.state, made, agent)):
        while any(map(runs, units)) or (name == "pangyo" and not writes_end()):
            if time.monotonic() > end + 10:
                break
            time.sleep(0.02)
        return end - time.monotonic()


@contextmanager
def crowded(trial: Trial) -> Iterator[None]:
    """The agent may open no more than it has, and silent connections take what is free among that."""
    opened = [int(one.name) for one in Path(f"/proc/{trial.agent}/fd").iterdir()]
    most = max(opened) + 1
    with limited(trial.agent, resource.RLIMIT_NOFILE, most), silent(MANY, BEGUN_HELLO)(trial):
        yield


def stopped_disk_below(held: ExitStack, lab: LabFolder) -> Pressure:
    """A disk of its own takes the place of the state of ansan's agent; entering stops it. Raises
    CannotHave.
    """
    with tempfile.TemporaryDirectory(prefix="evac-disk-") as folder, ExitStack() as made:
        inside = loop(made, Path(folder))
        state = read_config(lab.data("ansan", "agent") / "agent.toml").state
        shutil.copytree(state, inside, dirs_exist_ok=True)
        placed = subprocess.run(["mount", "--bind", inside, state], check=False)
        if placed.returncode != 0:
            raise CannotHave("mount --bind is refused")
        held.callback(subprocess.run, ["umount", "--lazy", state], check=False)

    @contextmanager
    def press(trial: Trial) -> Iterator[None]:
        subprocess.run(["fsfreeze", "--freeze", trial.folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", trial.folder], check=True)

    return press


def a_site_that_is_cut_off_is_silent_and_lives_on(lab: LabFolder) -> None:
    alive = living(lab.need(), lab, "pangyo")
    faults.cut(lab, "pangyo")
    assert lab.need().cut == ("pangyo",)
    assert writes(lab, within_s=1.5) == 0
    url = f"http://{lab.need().topology.site('pangyo').host('messenger')}:{PORTS['messenger']}/health"
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        urllib.request.urlopen(url, timeout=0.5)
    faults.heal(lab, "pangyo")
    assert writes(lab) >= 5
    # Sessions of a database come and go; its servers are the ones that were there before.
    assert {one.pid for one in lab.need().of_site("pangyo")} <= alive
    faults.flap(lab, "pangyo", times=2, down_s=0.2, up_s=0.2)
    faults.slow(lab, "pangyo", for_s=1.0)
    assert writes(lab) >= 5


def writes_hang_without_the_synchronous_replica_and_no_second_try_is_acknowledged(
    lab: LabFolder,
) -> None:
    """A retry with the same id must not be acknowledged because the row of the first try is there locally."""
    faults.burn(lab, "anyang")
    site = lab.need().topology.site("pangyo")
    body = json.dumps({"id": "same", "room": "r", "sender": "s", "text": "t"}).encode()
    for _ in range(3):
        request = urllib.request.Request(
            f"http://{site.host('messenger')}:{PORTS['messenger']}/messages", body
        )
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=5)
        raised.value.close()
        assert raised.value.code == 503
    assert by_hand.sql(lab, "pangyo", "select count(*) from messages where id = 'same'") == ["1"]
    assert writes(lab, within_s=1.0) == 0
    name = lab.need().topology.site("ansan").member
    by_hand.sql(
        lab,
        "pangyo",
        f"""alter system set synchronous_standby_names = 'FIRST 1 ("{name}")'""",
        "select pg_reload_conf()",
    )
    assert writes(lab) >= 5


def half_a_site_and_a_full_disk(lab: LabFolder) -> None:
    struck = faults.half(lab, "ansan", "hall-2")
    assert struck.processes >= len(HALLS["hall-2"]) - 1
    servers = {site.name: site.servers for site in status.look(lab, lab.need()).sites}["ansan"]
    assert {role for role, state in servers.items() if state == "down"} == set(HALLS["hall-2"]) & set(servers)
    with pytest.raises(LabError, match="no such hall"):
        faults.half(lab, "ansan", "hall-9")
    assert writes(lab) >= 5
    # A database that cannot write its log ends itself: that is what a full disk does.
    assert faults.disk_full(lab, "pangyo").processes > 5
    assert any(writes(lab, within_s=1.5) == 0 for _ in range(20))
    faults.disk_full(lab, "pangyo", full=False)
