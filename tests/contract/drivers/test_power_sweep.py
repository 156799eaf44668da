"""The power of every server at a glance: through the driver, the estate, and the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evac.cli import console
from tests.contract.adapters.redfish import SERVERS, action, done, fleet_of, name_of

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def observe(estate: str, *options: str, code: int = console.DONE) -> subprocess.CompletedProcess[str]:
    """What the command prints, and that it ends with this code."""
    command = [sys.executable, "-m", "evac", "observe", estate, "--power", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_every_server_is_on_off_or_unknown_for_a_reason(tmp_path: Path) -> None:
    broken = {
        "dead": "bmc-silent",
        "hanging": "bmc-hanging",
        "half-dead": "bmc-half-dead",
        "wrong-serial": "bmc-wrong-serial",
        "sessions-full": "bmc-busy",
    }
    with fleet_of(tmp_path) as fleet:
        done(*(action(fleet, server) for server in range(10)))
        for number, fault in enumerate(broken, 20):
            fleet.admin("faults", {"fault": fault, "servers": [name_of(fleet, number)]})
        estate = str(fleet.about["estate"])
        power = json.loads(observe(estate, "--output", "json", code=console.UNKNOWN).stdout)["power"]
        fleet.admin("faults", {"fault": "none", "servers": [name_of(fleet, 21)]})
        text = observe(estate, code=console.UNKNOWN)
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
    assert "another machine answers at this address" in text.stdout
    said = text.stderr
    assert re.search(f"the power of [34] of {SERVERS} servers is unknown: ", said), "sessions end by then"
    assert "another machine answers at this address (1)" in said
    assert "next: " in said


def test_all_is_well_where_every_server_was_told(tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet:
        assert observe(str(fleet.about["estate"])).stderr == ""


def test_a_refused_password_fails_and_is_tried_a_handful_of_times(tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet:
        secret = Path(str(fleet.about["password"]).removeprefix("file:"))
        secret.write_text("not-the-password", encoding="utf-8")
        estate = str(fleet.about["estate"])
        said = observe(estate, code=console.FAILED)
        told = json.loads(observe(estate, "--output", "json", code=console.FAILED).stdout)["power"]
        stats = fleet.admin("stats")
    assert f"error: the power of {SERVERS} of {SERVERS} servers is unknown: " in said.stderr
    assert "user name or password rejected (5)" in said.stderr
    assert f"it was not queried after that ({SERVERS - 5})" in said.stderr
    assert "next: fix evac's password" in said.stderr
    assert "unknown  75       it was not queried after that" in said.stdout
    (site,) = [one for one in told["sites"] if one["asked"]]
    assert site["counts"] == {"not-asked": SERVERS - 5, "credentials-refused": 5}
    assert stats["requests"]["unauthorized"] <= 10, "five by each of the two looks"
    assert stats["lockouts"] == 0
