"""Broken controllers as a client meets them on the network."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from evac_lab.fleet.ground import address_of
from tests.lab.fleets import Running, running

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = ("--servers", "60", "--faults", "none", "--speed", "50", "--latency", "0", "--bmc-boot", "50")
    with running(tmp_path_factory.mktemp("fleet"), *options) as found:
        yield found


@pytest.fixture
def name(fleet: Running, request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of a server of the test's own; its fault is cleared afterwards."""
    number = sum(map(ord, request.node.name)) % 60
    yield number
    fleet.admin("faults", {"fault": "none", "servers": [_name(number)]})


def _name(server: int) -> str:
    return f"pan-h1-r{server // 20 + 1:03d}-s{server % 20 + 1:02d}"


def _strike(fleet: Running, server: int, fault: str) -> None:
    assert fleet.admin("faults", {"fault": fault, "servers": [_name(server)]}) == {
        "fault": fault,
        "servers": 1,
    }


def _ask(
    fleet: Running,
    server: int,
    path: str = SYSTEM,
    body: object = None,
    *,
    timeout: float = 1.0,
    password: str | None = None,
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body, headers."""
    word = base64.b64encode(f"evac:{password or fleet.password}".encode()).decode()
    connection = http.client.HTTPConnection(address_of(server), fleet.about["port"], timeout=timeout)
    try:
        sent = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content or b"{}"), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def _on(fleet: Running, server: int) -> int:
    return _ask(fleet, server, RESET, {"ResetType": "On"})[0]


@pytest.mark.parametrize("fault", ["dead", "refusing"])
def test_one_that_is_dead_or_refuses_closes_at_once(fleet: Running, name: int, fault: str) -> None:
    _strike(fleet, name, fault)
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        _ask(fleet, name)


def test_one_that_hangs_takes_the_connection_and_never_answers(fleet: Running, name: int) -> None:
    _strike(fleet, name, "hanging")
    with pytest.raises(TimeoutError):
        _ask(fleet, name, timeout=0.4)


def test_a_slow_one_answers_after_seconds(fleet: Running, name: int) -> None:
    _strike(fleet, name, "slow")
    began = time.monotonic()
    assert _ask(fleet, name)[0] == 200
    assert time.monotonic() - began >= 3 / 50


def test_of_one_that_is_half_dead_only_the_root_answers(fleet: Running, name: int) -> None:
    _strike(fleet, name, "half-dead")
    assert _ask(fleet, name, "/redfish/v1/")[0] == 200
    status, body, _ = _ask(fleet, name)
    assert status == 500
    assert body["error"]["@Message.ExtendedInfo"][0]["MessageId"] == "Base.1.18.InternalError"


def test_a_liar_says_done(fleet: Running, name: int) -> None:
    _strike(fleet, name, "lying")
    assert _on(fleet, name) == 204
    assert _ask(fleet, name)[1]["PowerState"] == "Off"


def test_another_machine_says_another_serial(fleet: Running, name: int) -> None:
    true = _ask(fleet, name)[1]["SerialNumber"]
    _strike(fleet, name, "wrong-serial")
    assert _ask(fleet, name)[1]["SerialNumber"] != true


@pytest.mark.parametrize(("fault", "field"), [("wrong-image", "HostName"), ("degraded", "Status")])
def test_it_comes_up_otherwise_than_it_should(fleet: Running, name: int, fault: str, field: str) -> None:
    _strike(fleet, name, fault)
    assert _on(fleet, name) == 204
    deadline = time.monotonic() + 40
    while (found := _ask(fleet, name)[1])["BootProgress"]["LastState"] != "OSRunning":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    if field == "HostName":
        assert found["HostName"] not in ("", None, _name(name))
    else:
        assert found["Status"]["Health"] == "Warning"
        drive = _ask(fleet, name, f"{SYSTEM}/Storage/1/Drives/1")[1]
        assert (drive["Status"]["Health"], drive["FailurePredicted"]) == ("Critical", True)
    _ask(fleet, name, RESET, {"ResetType": "ForceOff"})


def _until_it_answers(fleet: Running, name: int) -> Any:
    """Its system, once it says something again."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, http.client.RemoteDisconnected):
            status, body, _ = _ask(fleet, name)
            if status == 200:
                return body
        time.sleep(0.05)
    pytest.fail("it stays silent")


def test_where_all_sessions_are_taken_room_comes_after_a_while(fleet: Running, name: int) -> None:
    _strike(fleet, name, "sessions-full")
    status, body, headers = _ask(fleet, name)
    assert (status, headers["retry-after"]) == (503, "10")
    entries = body["error"]["@Message.ExtendedInfo"]
    assert [one["MessageId"] for one in entries] == ["Base.1.18.SessionLimitExceeded", "IDRAC.2.8.RAC0218"]
    assert entries[1]["Message"] == "The maximum number of user sessions is reached."
    _until_it_answers(fleet, name)


def test_a_controller_that_restarts_is_silent_and_comes_back(fleet: Running, name: int) -> None:
    _strike(fleet, name, "rebooting")
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        _ask(fleet, name)
    _until_it_answers(fleet, name)


def test_one_that_crashes_has_done_it_and_does_not_say_so(fleet: Running, name: int) -> None:
    _strike(fleet, name, "crashing")
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        _on(fleet, name)
    assert _until_it_answers(fleet, name)["PowerState"] == "On"
    _ask(fleet, name, RESET, {"ResetType": "ForceOff"})


def test_five_wrong_passwords_lock_the_account_and_are_seen(fleet: Running, name: int) -> None:
    before = fleet.admin("stats")["lockouts"]
    for _ in range(5):
        status, _, headers = _ask(fleet, name, password="guess")
        assert (status, headers["www-authenticate"]) == (401, 'Basic realm="Redfish"')
    assert _ask(fleet, name)[0] == 401
    assert fleet.admin("stats")["lockouts"] == before + 1


def test_of_a_changed_password_the_old_one_is_refused(fleet: Running, name: int) -> None:
    _strike(fleet, name, "changed-password")
    assert _ask(fleet, name)[0] == 401


def test_one_who_may_only_read_is_told_so(fleet: Running, name: int) -> None:
    _strike(fleet, name, "read-only")
    assert _ask(fleet, name)[0] == 200
    assert _on(fleet, name) == 403


def test_a_rack_switch_that_is_down_silences_its_rack(fleet: Running) -> None:
    assert fleet.admin("faults", {"fault": "dead", "rack": "pangyo/hall-1/r002"})["servers"] == 20
    try:
        for server in (20, 39):
            with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
                _ask(fleet, server)
        for server in (19, 40):
            assert _ask(fleet, server)[0] == 200
    finally:
        fleet.admin("faults", {"fault": "none", "rack": "pangyo/hall-1/r002"})
    assert _ask(fleet, 20)[0] == 200


def test_two_requests_at_once_to_one_controller_are_seen(fleet: Running, name: int) -> None:
    _strike(fleet, name, "slow")
    word = base64.b64encode(f"evac:{fleet.password}".encode()).decode()
    line = f"GET {SYSTEM} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {word}\r\n\r\n".encode()
    open_ones = [
        socket.create_connection((address_of(name), fleet.about["port"]), timeout=2) for _ in range(3)
    ]
    try:
        for one in open_ones:
            one.sendall(line)
        assert all(one.recv(15) == b"HTTP/1.1 200 OK" for one in open_ones)
    finally:
        for one in open_ones:
            one.close()
    assert fleet.admin("stats")["requests"]["most_at_once_to_one"] == 3


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + b"y" * 70_000, b"413"),
        (b"nonsense\r\n\r\n", b"501"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_ends(
    fleet: Running, sent: bytes, status: bytes
) -> None:
    with socket.create_connection((address_of(50), fleet.about["port"]), timeout=2) as one:
        one.sendall(sent)
        answer = b""
        while part := one.recv(65_536):
            answer += part
    assert answer.split(b" ")[1] == status
    assert b"Connection: close" in answer


@pytest.mark.parametrize("address", ["127.64.0.61", "127.0.0.1", "127.9.9.9"])
def test_whoever_calls_no_server_is_dropped(fleet: Running, address: str) -> None:
    before = fleet.admin("stats")["requests"]["nobody"]
    with (
        socket.create_connection((address, fleet.about["port"]), timeout=2) as one,
        contextlib.suppress(ConnectionError),
    ):
        one.sendall(b"GET /redfish HTTP/1.1\r\nHost: x\r\n\r\n")
        assert one.recv(1) == b""
    assert fleet.admin("stats")["requests"]["nobody"] == before + 1
