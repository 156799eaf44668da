"""A fleet from its ready line to its end: folder, ports, estate, power, admin interface."""

from __future__ import annotations

import base64
import json
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.lab.fleets import Running, command, end, running, start

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

RESET = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"
FAST = ("--faults", "none", "--latency", "0")


def _call(fleet: Running, url: str, body: object = None) -> dict[str, object]:
    word = base64.b64encode(f"evac:{fleet.password}".encode()).decode()
    sent = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), sent)
    with urllib.request.urlopen(request, timeout=5) as answer:
        content = answer.read()
    return json.loads(content) if content else {}


def _on(fleet: Running, server: int) -> None:
    _call(fleet, fleet.url(server) + RESET, {"ResetType": "On"})


def _refused(folder: Path, *options: str) -> str:
    done = subprocess.run(command(folder, *options), timeout=30, check=False, stderr=subprocess.PIPE)
    assert done.returncode != 0
    return done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_when_it_is_told_to(tmp_path: Path, number: int) -> None:
    fleet = start(tmp_path, "--servers", "5", *FAST)
    state = tmp_path / "state" / "fleet.json"
    assert json.loads(state.read_text())["pid"] == fleet.process.pid
    assert end(fleet, number) == 0
    assert not state.exists()
    assert "Traceback" not in (tmp_path / "errors").read_text()


def test_a_second_fleet_in_the_same_folder_is_refused_and_a_killed_one_is_not_in_the_way(
    tmp_path: Path,
) -> None:
    fleet = start(tmp_path, "--servers", "5", *FAST)
    assert "a fleet is already running here" in _refused(tmp_path, "--servers", "5")
    fleet.process.kill()
    end(fleet)
    with running(tmp_path, "--servers", "5", *FAST) as again:
        assert again.about["servers"] == 5


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = _refused(tmp_path, "--servers", "5", "--admin-port", port)
        assert f"127.0.0.1:{port} is not available" in words
        assert f"port {port} is not available" in _refused(tmp_path, "--servers", "5", "--port", port)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "estate.yaml").write_text("evac: 1\n")
    assert "contains something else" in _refused(tmp_path, "--servers", "5", "-o", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "estate.yaml").read_text() == "evac: 1\n"


def test_the_password_and_the_key_are_for_their_owner_alone(tmp_path: Path) -> None:
    estate = tmp_path / "estate"
    with running(tmp_path, "--servers", "5", "--tls", "-o", str(estate), *FAST) as fleet:
        assert fleet.password not in json.dumps(fleet.about)
    assert (estate / "ca.pem").read_bytes() == (tmp_path / "state" / "ca.pem").read_bytes()
    for name in ("bmc-password", "bmc-key.pem"):
        assert (tmp_path / "state" / name).stat().st_mode & 0o077 == 0


def test_tls_is_signed_by_its_own_authority_and_has_the_pin_it_says(tmp_path: Path) -> None:
    import hashlib

    with running(tmp_path, "--servers", "5", "--tls", *FAST) as fleet:
        trust = ssl.create_default_context(cafile=fleet.about["ca"])
        with (
            socket.create_connection((fleet.about["first"], fleet.about["port"]), timeout=5) as plain,
            trust.wrap_socket(plain, server_hostname=fleet.about["first"]) as one,
        ):
            shown = one.getpeercert(binary_form=True)
            assert shown is not None
            assert hashlib.sha256(shown).hexdigest() == fleet.about["pin"]


def until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            urllib.request.urlopen(url + "/redfish", timeout=5).close()
            return
        except (TimeoutError, ConnectionError, urllib.error.URLError):
            assert time.monotonic() < deadline, "it stays silent"
            time.sleep(0.05)


def test_a_wave_that_asks_too_much_burns_and_the_rest_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "--servers", "420", "--speed", "50", *FAST) as fleet:
        _on(fleet, 400)
        budget = {"inrush_watts": 4_500}
        fleet.admin("budget/pangyo/hall-1/feed-01a", budget, "PUT")
        for server in range(6):
            _on(fleet, server)
        trips = fleet.admin("stats")["trips"]
        assert [(trip["domain"], trip["account"], trip["lost"]) for trip in trips["list"]] == [
            ("pangyo/hall-1/feed-01a", "inrush", 0)
        ]
        assert trips["list"][0]["watts"] == 4_800
        found = fleet.admin("feeds/pangyo/hall-1/feed-01b/open", {})
        assert found["lost"] == 6
        with pytest.raises((TimeoutError, ConnectionError, urllib.error.URLError)):
            urllib.request.urlopen(fleet.url(0) + "/redfish", timeout=0.3)
        fleet.wait_until("on", 1)
        fleet.admin("feeds/pangyo/hall-1/feed-01b/close", {})
        until_it_answers(fleet.url(0))
        assert _call(fleet, fleet.url(0) + "/redfish/v1/Systems/1")["PowerState"] == "Off"
        fleet.wait_until("up", 1)


def test_the_switchgear_closes_a_breaker_by_redfish(tmp_path: Path) -> None:
    options = ("--servers", "20", "--at-start", "open", "--power-on", "on", "--speed", "500", *FAST)
    with running(tmp_path, *options) as fleet:
        feeders = f"{fleet.circuits}/redfish/v1/PowerEquipment/Switchgear/1/Feeders"
        assert _call(fleet, feeders)["Members@odata.count"] == 2
        circuit = _call(fleet, f"{feeders}/1")
        assert (circuit["BreakerState"], circuit["PowerState"]) == ("Off", "Off")
        assert circuit["Name"] == "pangyo/hall-1/feed-01a"
        fleet.admin("budget/pangyo/hall-1/feed-01a", {"inrush_watts": 16_000}, "PUT")
        action = f"{feeders}/1/Actions/Circuit.BreakerControl"
        _call(fleet, action, {"PowerState": "On"})
        fleet.wait_until("up", 20)
        circuit = _call(fleet, f"{feeders}/1")
        assert (circuit["BreakerState"], circuit["PowerWatts"]) == ("Normal", {"Reading": 9_000})


def test_servers_that_come_on_by_themselves_trip_a_feed_that_cannot_carry_them(tmp_path: Path) -> None:
    options = ("--servers", "20", "--at-start", "open", "--power-on", "on", *FAST)
    with running(tmp_path, *options) as fleet:
        found = fleet.admin("feeds/pangyo/hall-1/feed-01a/close", {})
        assert found == {"id": "pangyo/hall-1/feed-01a", "closed": False, "lost": 0, "trips": 1}
        assert fleet.admin("stats")["servers"]["on"] == 0


def test_its_estate_is_well_formed_and_can_be_served_again(tmp_path: Path) -> None:
    import sys

    estate = tmp_path / "estate"
    with running(tmp_path, "--servers", "45", "-o", str(estate), *FAST) as fleet:
        first = fleet.admin("servers?from=44")["servers"][0]
    done = subprocess.run(
        [sys.executable, "-m", "evac", "check", str(estate)],
        timeout=60,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout.decode()
    assert fleet.password not in "".join(path.read_text() for path in estate.iterdir())
    with running(tmp_path, "--estate", str(estate), "--site", "pangyo", *FAST) as again:
        assert again.about["servers"] == 45
        assert again.admin("servers?from=44")["servers"][0] == first
        _on(again, 44)
        assert again.admin("stats")["resets"]["all"] == 1


def test_the_same_seed_gives_the_same_faults(tmp_path: Path) -> None:
    found = []
    for seed in ("7", "7", "8"):
        with running(tmp_path, "--servers", "400", "--seed", seed, "--faults", "dead=5%,lying=1%") as fleet:
            found.append([one["server"] for one in fleet.admin("servers?fault=dead")["servers"]])
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 20


def test_it_ends_by_itself_and_its_estate_is_as_fast_as_it_is(tmp_path: Path) -> None:
    options = ("--servers", "40", "--speed", "100", "--for", "0.5", "-o", str(tmp_path / "estate"))
    fleet = start(tmp_path, *options, "--racks-down", "1", "--dies", "pangyo-boot-1@10", "--faults", "none")
    assert fleet.process.wait(15) == 0
    end(fleet)
    assert "boot: 3 s" in (tmp_path / "estate" / "estate.yaml").read_text()
    assert "no such boot server: nobody" in _refused(tmp_path, "--servers", "5", "--dies", "nobody@10")
    assert "nobody is not a time" in _refused(tmp_path, "--servers", "5", "--dies", "nobody")


def test_without_uvloop_it_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running(tmp_path, "--servers", "5", "--tls", *FAST) as fleet:
        trust = ssl.create_default_context(cafile=fleet.about["ca"])
        with urllib.request.urlopen(f"{fleet.url(0)}/redfish", timeout=5, context=trust) as answer:
            assert json.load(answer) == {"v1": "/redfish/v1/"}


@pytest.mark.parametrize(
    ("path", "body", "method", "words"),
    [
        ("nothing", None, "", "not found: GET /nothing"),
        ("servers?state=flying", None, "", "flying is not a state"),
        ("faults", {"fault": "tired"}, "", "tired is not a fault"),
        ("faults", {"fault": "dead"}, "", "the request does not say what has the fault"),
        ("faults", {"fault": "dead", "servers": ["nobody"]}, "", "no such server: nobody"),
        ("feeds/none/open", {}, "", "there is no none"),
        ("budget/pangyo", {"power_watts": -1}, "PUT", "power_watts is not a number of watts"),
        ("budget/pangyo", {"volts": 1}, "PUT", "volts is not part of a budget"),
        ("boot-servers/none/kill", {}, "", "no such boot server: none"),
    ],
)
def test_the_admin_interface_says_what_is_wrong(
    small: Running, path: str, body: object, method: str, words: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        small.admin(path, body, method)
    with raised.value as answer:
        assert answer.code in (400, 404)
        assert words in json.load(answer)["message"]


def test_a_boot_server_that_dies_stalls_the_boots_that_need_it(small: Running) -> None:
    assert small.admin("boot-servers/pangyo-boot-1/kill", {})["down"]
    _on(small, 3)
    deadline = time.monotonic() + 40
    while [one["progress"] for one in small.admin("servers?state=stalled")["servers"]] != [
        "MemoryInitializationStarted"
    ]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert small.admin("stats")["servers"]["stalled"] == 1
    small.admin("boot-servers/pangyo-boot-1/revive", {})
    small.wait_until("up", 1)
    assert small.admin("timeline")["up"][-1]["servers"] == 1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with running(tmp_path_factory.mktemp("fleet"), "--servers", "20", "--speed", "1000", *FAST) as found:
        yield found


@pytest.mark.slow
def test_32_000_servers_start_at_once_and_are_small(tmp_path: Path) -> None:
    began = time.monotonic()
    with running(tmp_path, "--servers", "32000") as fleet:
        assert time.monotonic() - began < 15
        status = Path(f"/proc/{fleet.process.pid}/status").read_text()
        kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        assert kib < 100 * 1024
        assert fleet.admin("stats")["servers"]["all"] == 32_000
