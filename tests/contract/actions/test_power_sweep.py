"""The power of every server at a glance: through the driver, the estate, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.actions.redfish_world import SERVERS, action, done, fleet_of, name_of

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def observe(estate: str, *options: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "evac", "observe", estate, "--power", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_every_server_is_on_off_or_unknown_for_a_reason(tmp_path: Path) -> None:
    broken = {"dead": "bmc-silent", "hanging": "bmc-hanging", "half-dead": "bmc-half-dead",
              "wrong-serial": "bmc-wrong-serial", "sessions-full": "bmc-busy"}  # fmt: skip
    with fleet_of(tmp_path) as fleet:
        done(*(action(fleet, server) for server in range(10)))
        for number, fault in enumerate(broken, 20):
            fleet.admin("faults", {"fault": fault, "servers": [name_of(fleet, number)]})
        estate = str(fleet.about["estate"])
        power = json.loads(observe(estate, "--output", "json"))["power"]
        fleet.admin("faults", {"fault": "none", "servers": [name_of(fleet, 21)]})
        text = observe(estate)
        stats = fleet.admin("stats")
    site = next(one for one in power["sites"] if one["site"] == "pangyo")
    assert power["observed_at"].startswith("20")
    assert site["asked"] == SERVERS
    assert site["counts"]["on"] == 10
    assert site["counts"]["off"] == SERVERS - 15
    servers = {one["server"]: one for one in site["servers"]}
    for number, code in enumerate(broken.values(), 20):
        one = servers[name_of(fleet, number)]
        assert (one["power"], one["why"]) == ("", code)
    assert servers[name_of(fleet, 3)]["progress"] == "OSRunning"
    assert stats["requests"]["most_at_once_to_one"] == 1
    assert stats["resets"]["all"] == 10, "a look switches nothing"
    assert "another machine answers at this address" in text
