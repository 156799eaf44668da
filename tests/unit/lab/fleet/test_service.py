"""One controller answers one request: who may do what, and how a refusal is said."""

from __future__ import annotations

import re

import pytest

from evac_lab.fleet.fleet import LOCKOUT_MS, LOCKOUT_THRESHOLD, SESSION_IDLE_MS, SESSIONS_MOST
from evac_lab.fleet.resources import MESSAGES, Answer, encode
from tests.unit.lab.fleet.fleets import PASSWORD, USER, Client, json_of, message_of

V1 = "/redfish/v1"
SYSTEM = f"{V1}/Systems/1"
SESSIONS = f"{V1}/SessionService/Sessions"
FEEDERS = f"{V1}/PowerEquipment/Switchgear/1/Feeders"


def _links(found: object) -> list[str]:
    """Every path that a resource points at."""
    if isinstance(found, dict):
        own = [value for key, value in found.items() if key in ("@odata.id", "target") and "#" not in value]
        return own + [path for value in found.values() for path in _links(value)]
    return [path for value in found for path in _links(value)] if isinstance(found, list) else []


@pytest.mark.parametrize("server", [0, -1])
def test_every_link_leads_to_a_resource_that_says_where_it_is(server: int) -> None:
    client = Client()
    _login(client, server)
    seen: set[str] = set()
    pending = [f"{V1}/"]
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = client.ask("GET", path, server=server)
        if "Actions/" in path:
            assert (answer.status, answer.allow) == (405, "POST")
            continue
        assert answer.status == 200, path
        found = json_of(answer)
        assert found["@odata.id"] == path
        assert str(found["@odata.type"]).startswith("#")
        pending += _links(found)
    assert len(seen) > 12


@pytest.mark.parametrize("path", ["/redfish", V1, f"{V1}/"])
def test_the_root_is_for_everybody(path: str) -> None:
    assert Client().ask("GET", path, password=None).status == 200


@pytest.mark.parametrize("path", [SYSTEM, f"{V1}/Chassis", f"{V1}/nothing", SESSIONS])
def test_the_rest_is_for_those_who_are_known(path: str) -> None:
    answer = Client().ask("GET", path, password=None)
    assert answer.status == 401
    assert answer.headers == (("WWW-Authenticate", 'Basic realm="Redfish"'),)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "key"),
    [
        ("GET", f"{V1}/nothing", None, 404, "ResourceMissingAtURI"),
        ("DELETE", SYSTEM, None, 405, "OperationNotAllowed"),
        ("PUT", SYSTEM, {}, 405, "OperationNotAllowed"),
        ("FLY", SYSTEM, None, 405, "OperationNotAllowed"),
        ("POST", f"{SYSTEM}/Actions/ComputerSystem.Reset", {}, 400, "ActionParameterMissing"),
        (
            "POST",
            f"{SYSTEM}/Actions/ComputerSystem.Reset",
            {"ResetType": "Up"},
            400,
            "ActionParameterValueNotInList",
        ),
        (
            "POST",
            f"{SYSTEM}/Actions/ComputerSystem.Reset",
            {"Type": "On"},
            400,
            "ActionParameterNotSupported",
        ),
        ("POST", f"{SYSTEM}/Actions/ComputerSystem.Reset", [], 400, "MalformedJSON"),
        ("PATCH", SYSTEM, {"PowerState": "On"}, 400, "PropertyNotWritable"),
        ("PATCH", SYSTEM, {"Boot": {"BootSourceOverrideTarget": "Tape"}}, 400, "PropertyValueNotInList"),
        ("PATCH", SYSTEM, {"Boot": 5}, 400, "PropertyValueTypeError"),
        ("POST", SESSIONS, {"UserName": USER}, 400, "PropertyMissing"),
        ("POST", SESSIONS, {"UserName": USER, "Password": "no"}, 401, "NoValidSession"),
    ],
)
def test_a_refusal_says_what_is_wrong(method: str, path: str, body: object, status: int, key: str) -> None:
    answer = Client().ask(method, path, body)
    assert (answer.status, message_of(answer)) == (status, key)


def test_every_key_that_is_used_is_a_message() -> None:
    for message in MESSAGES.values():
        places = {int(one) for one in re.findall(r"%(\d)", message.words)}
        assert places == set(range(1, message.arguments + 1))


def test_boot_once_from_the_network() -> None:
    client = Client()
    body = {"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}}
    assert client.ask("PATCH", SYSTEM, body).status == 204
    boot = client.system()["Boot"]
    assert isinstance(boot, dict)
    assert (boot["BootSourceOverrideTarget"], boot["BootSourceOverrideEnabled"]) == ("Pxe", "Once")
    client.reset("On")
    boot = client.system()["Boot"]
    assert isinstance(boot, dict)
    assert (boot["BootSourceOverrideTarget"], boot["BootSourceOverrideEnabled"]) == ("None", "Disabled")


def _login(client: Client, server: int = 0) -> Answer:
    return client.ask(
        "POST", SESSIONS, {"UserName": USER, "Password": PASSWORD}, server=server, password=None
    )


def test_a_session_holds_until_it_is_closed() -> None:
    client = Client()
    headers = dict(_login(client).headers)
    token = {"x-auth-token": headers["X-Auth-Token"]}
    assert client.ask("GET", SYSTEM, password=None, headers=token).status == 200
    assert client.ask("GET", SYSTEM, server=1, password=None, headers=token).status == 401
    assert client.ask("DELETE", headers["Location"], password=None, headers=token).status == 204
    assert client.ask("GET", SYSTEM, password=None, headers=token).status == 401


def test_the_ninth_session_is_refused_until_one_was_idle_for_long() -> None:
    client = Client()
    assert [_login(client).status for _ in range(SESSIONS_MOST)] == [201] * SESSIONS_MOST
    answer = _login(client)
    assert (answer.status, message_of(answer)) == (503, "SessionLimitExceeded")
    assert dict(answer.headers)["Retry-After"] == "10"
    assert _login(client, server=1).status == 201
    client.hand.seconds += SESSION_IDLE_MS / 1_000 + 1
    assert _login(client).status == 201
    assert client.fleet.stats.sessions_expired == SESSIONS_MOST


def test_wrong_passwords_lock_the_account_for_a_while() -> None:
    client = Client()
    for _ in range(LOCKOUT_THRESHOLD):
        assert client.ask("GET", SYSTEM, password="guess").status == 401
    assert client.ask("GET", SYSTEM).status == 401
    assert client.ask("GET", SYSTEM, server=1).status == 200
    assert client.fleet.stats.lockouts == 1
    client.hand.seconds += LOCKOUT_MS / 1_000 + 1
    assert client.ask("GET", SYSTEM).status == 200


def test_a_right_password_forgets_the_wrong_ones() -> None:
    client = Client()
    for _ in range(3):
        for _ in range(LOCKOUT_THRESHOLD - 1):
            client.ask("GET", SYSTEM, password="guess")
        assert client.ask("GET", SYSTEM).status == 200
    assert client.fleet.stats.lockouts == 0


@pytest.mark.parametrize("header", ["Basic", "Basic ???", "Bearer x", "Basic bm9jb2xvbg==", "Basic /w=="])
def test_credentials_that_are_none_are_refused(header: str) -> None:
    client = Client()
    assert client.ask("GET", SYSTEM, password=None, headers={"authorization": header}).status == 401


def test_the_switchgear_shows_and_moves_its_breakers() -> None:
    client = Client()
    client.reset("On")
    found = client.get(f"{FEEDERS}/2", server=-1)
    assert (found["UserLabel"], found["BreakerState"]) == ("s/h/b", "Normal")
    assert found["PowerWatts"] == {"Reading": 400}
    path = f"{FEEDERS}/2/Actions/Circuit.BreakerControl"
    assert client.ask("POST", path, {"PowerState": "Off"}, server=-1).status == 204
    assert client.get(f"{FEEDERS}/2", server=-1)["BreakerState"] == "Off"
    assert client.system()["PowerState"] == "On"
    assert client.ask("POST", path, {"PowerState": "On"}, server=-1).status == 204
    assert client.get(f"{FEEDERS}/2", server=-1)["PowerState"] == "On"


@pytest.mark.parametrize("circuit", ["0", "3", "-1", "x", "1e1", "²"])
def test_a_circuit_that_is_not_there_is_missing(circuit: str) -> None:
    client = Client()
    assert client.ask("GET", f"{FEEDERS}/{circuit}", server=-1).status == 404
    path = f"{FEEDERS}/{circuit}/Actions/Circuit.BreakerControl"
    assert client.ask("POST", path, {"PowerState": "Off"}, server=-1).status == 404


def test_the_switchgear_is_no_server_and_a_server_no_switchgear() -> None:
    client = Client()
    assert client.ask("GET", SYSTEM, server=-1).status == 404
    assert client.ask("GET", FEEDERS, server=0).status == 404
    path = f"{SYSTEM}/Actions/ComputerSystem.Reset"
    assert client.ask("POST", path, {"ResetType": "On"}, server=-1).status == 404


def test_bytes_of_an_answer() -> None:
    sent = encode(Answer(200, {"a": 1}), head_only=False, keep_alive=True)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"OData-Version: 4.0",
        b"Cache-Control: no-cache",
        b"Content-Type: application/json;charset=utf-8",
        b"Content-Length: 7",
    ]
    assert encode(Answer(200, {"a": 1}), head_only=True, keep_alive=True).endswith(
        b"Content-Length: 7\r\n\r\n"
    )
    assert b"Content-Length" not in encode(Answer(204), head_only=False, keep_alive=True)
