"""One controller answers one request: who may do what, and how a refusal is said."""

from __future__ import annotations

import re

import pytest

from evac_lab.fleet.accounts import LOCKOUT_MS, LOCKOUT_THRESHOLD, SESSION_IDLE_MS, SESSIONS_MOST
from evac_lab.fleet.answers import MESSAGES, Answer, encode
from evac_lab.fleet.changes import POSTS
from tests.unit.lab.fleet.fleets import PASSWORD, USER, Client, json_of, message_of

V1 = "/redfish/v1"
SYSTEM = f"{V1}/Systems/1"
SESSIONS = f"{V1}/SessionService/Sessions"
ACCOUNTS = f"{V1}/AccountService/Accounts"
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
    client.ask("POST", f"{V1}/EventService/Subscriptions", {"Destination": "http://x/"}, server=server)
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
        assert answer.link
        pending += _links(found)
    assert len(seen) > 25


@pytest.mark.parametrize("path", ["/redfish", V1, f"{V1}/", f"{V1}/odata", f"{V1}/$metadata"])
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
        ("FLY", SYSTEM, None, 501, "GeneralError"),
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
        ("PATCH", SYSTEM, {"AssetTag": 5}, 400, "PropertyValueTypeError"),
        ("POST", SESSIONS, {"UserName": USER}, 400, "PropertyMissing"),
        ("POST", SESSIONS, {"UserName": USER, "Password": "no"}, 401, "ResourceAtUriUnauthorized"),
        (
            "POST",
            ACCOUNTS,
            {"UserName": "new", "Password": "short", "RoleId": "ReadOnly"},
            400,
            "PropertyValueFormatError",
        ),
        (
            "POST",
            ACCOUNTS,
            {"UserName": USER, "Password": "long-enough", "RoleId": "ReadOnly"},
            400,
            "ResourceInUse",
        ),
        ("DELETE", f"{ACCOUNTS}/1", None, 403, "InsufficientPrivilege"),
        (
            "POST",
            f"{V1}/EventService/Subscriptions",
            {"Destination": "ftp://x"},
            400,
            "PropertyValueFormatError",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong(method: str, path: str, body: object, status: int, key: str) -> None:
    answer = Client().ask(method, path, body)
    assert (answer.status, message_of(answer)) == (status, key)


def test_what_is_no_json_is_refused_and_so_is_another_media_type() -> None:
    client = Client()
    answer = client.ask("PATCH", SYSTEM, {}, headers={"content-type": "text/plain"})
    assert (answer.status, message_of(answer)) == (415, "HeaderInvalid")


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


def test_a_write_with_an_old_etag_changes_nothing() -> None:
    client = Client()
    etag = client.ask("GET", SYSTEM).etag
    assert client.ask("PATCH", SYSTEM, {"AssetTag": "a"}, headers={"if-match": etag}).status == 204
    answer = client.ask("PATCH", SYSTEM, {"AssetTag": "b"}, headers={"if-match": etag})
    assert (answer.status, message_of(answer)) == (412, "PreconditionFailed")
    assert client.system()["AssetTag"] == "a"
    assert client.ask("PATCH", SYSTEM, {"AssetTag": "c"}, headers={"if-match": "*"}).status == 204


def test_what_has_not_changed_is_not_sent_again() -> None:
    client = Client()
    etag = client.ask("GET", SYSTEM).etag
    assert client.ask("GET", SYSTEM, headers={"if-none-match": etag}).status == 304


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


def _make(client: Client, role: str) -> str:
    body = {"UserName": "kim", "Password": "kim-password", "RoleId": role}
    answer = client.ask("POST", ACCOUNTS, body)
    assert answer.status == 201
    return dict(answer.headers)["Location"]


@pytest.mark.parametrize(("role", "status"), [("ReadOnly", 403), ("Operator", 204), ("Administrator", 204)])
def test_who_may_switch_the_power(role: str, status: int) -> None:
    client = Client()
    _make(client, role)
    path = f"{SYSTEM}/Actions/ComputerSystem.Reset"
    assert client.ask("GET", SYSTEM, user="kim", password="kim-password").status == 200
    assert client.ask("POST", path, {"ResetType": "On"}, user="kim", password="kim-password").status == status
    assert client.ask("GET", SYSTEM, server=1, user="kim", password="kim-password").status == 401


def test_one_who_must_change_his_password_may_do_nothing_else() -> None:
    client = Client()
    own = _make(client, "Operator")
    client.ask("PATCH", own, {"PasswordChangeRequired": True})
    answer = client.ask("GET", SYSTEM, user="kim", password="kim-password")
    assert (answer.status, message_of(answer)) == (403, "PasswordChangeRequired")
    assert (
        client.ask("PATCH", own, {"Password": "better-one"}, user="kim", password="kim-password").status
        == 200
    )
    assert client.ask("GET", SYSTEM, user="kim", password="better-one").status == 200


def test_nobody_but_an_administrator_changes_another_account() -> None:
    client = Client()
    own = _make(client, "Operator")
    for path, body in ((f"{ACCOUNTS}/1", {"Password": "stolen-it"}), (own, {"RoleId": "Administrator"})):
        assert client.ask("PATCH", path, body, user="kim", password="kim-password").status == 403
    assert client.ask("DELETE", own).status == 204
    assert client.ask("GET", SYSTEM, user="kim", password="kim-password").status == 401


def test_what_can_be_written_is_and_the_rest_is_told() -> None:
    client = Client()
    own = _make(client, "Operator")
    answer = client.ask("PATCH", own, {"Enabled": False, "Bogus": 1})
    assert answer.status == 200
    found = json_of(answer)
    assert found["Enabled"] is False
    assert "PropertyUnknown" in str(found["@Message.ExtendedInfo"])


def test_time_servers_are_replaced_kept_and_taken_away() -> None:
    client = Client()
    path = f"{V1}/Managers/1/NetworkProtocol"
    for sent, held in ((["a", "b"], ["a", "b"]), ([{}, "c"], ["a", "c"]), ([None, {}], ["c"])):
        assert client.ask("PATCH", path, {"NTP": {"NTPServers": sent}}).status == 204
        ntp = client.get(path)["NTP"]
        assert isinstance(ntp, dict)
        assert ntp["NTPServers"] == held


def test_a_controller_that_restarts_forgets_its_sessions() -> None:
    client = Client()
    _login(client)
    path = f"{V1}/Managers/1/Actions/Manager.Reset"
    assert client.ask("POST", path, {"ResetType": "GracefulRestart"}).status == 204
    assert client.fleet.accounts.sessions_open == 0
    assert client.fleet.machines.bmc_back_at[0] == 30_000


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
    for path in POSTS:
        if "Systems" in path:
            assert client.ask("POST", path, {"ResetType": "On"}, server=-1).status == 404


def test_bytes_of_an_answer() -> None:
    sent = encode(Answer(200, {"a": 1}, etag='"e"'), head_only=False, keep_alive=True)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"OData-Version: 4.0",
        b"Cache-Control: no-cache",
        b"Allow: GET, HEAD",
        b"Content-Type: application/json;charset=utf-8",
        b'ETag: "e"',
        b"Content-Length: 7",
    ]
    assert encode(Answer(200, {"a": 1}), head_only=True, keep_alive=True).endswith(
        b"Content-Length: 7\r\n\r\n"
    )
    assert b"Content-Length" not in encode(Answer(204), head_only=False, keep_alive=True)
