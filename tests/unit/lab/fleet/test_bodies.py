"""Any JSON may be sent to any path: the answer is one of the service's own, never a mistake."""

from __future__ import annotations

import string

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac_lab.fleet.admin import AdminDoor
from evac_lab.fleet.resources import Request
from tests.unit.lab.fleet.fleets import Client, json_of

V1 = "/redfish/v1"
NAMES = (
    "ResetType",
    "PowerState",
    "Boot",
    "BootSourceOverrideTarget",
    "BootSourceOverrideEnabled",
    "UserName",
    "Password",
    "@odata.id",
)
WORDS = ("On", "Off", "Once", "Pxe", "None", "long-enough-password")
TARGETS = [
    ("POST", f"{V1}/Systems/1/Actions/ComputerSystem.Reset"),
    ("PATCH", f"{V1}/Systems/1"),
    ("POST", f"{V1}/SessionService/Sessions"),
    ("POST", f"{V1}/PowerEquipment/Switchgear/1/Feeders/1/Actions/Circuit.BreakerControl"),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(WORDS),
    st.text(string.printable, max_size=80),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), VALUES, max_size=6) | VALUES


@pytest.mark.parametrize(("method", "path"), TARGETS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=BODIES)
def test_the_answer_is_always_one_of_the_service(method: str, path: str, body: object) -> None:
    client = Client()
    server = -1 if "PowerEquipment" in path else 0
    answer = client.ask(method, path, body, server=server)
    assert answer.status in (200, 201, 204, 400, 401)
    if answer.status >= 400:
        assert json_of(answer)["error"]
    assert client.ask("GET", f"{V1}/Systems/1").status == 200


ADMIN = [
    "faults",
    "budget/s",
    "budget/s/h/a",
    "feeds/s/h/a/open",
    "feeds/s/h/close",
    "feeds//open",
    "boot-servers/boot-1/kill",
    "boot-servers/boot-1/revive",
    "servers",
    "",
    "x%00",
]
ADMIN_NAMES = ("fault", "servers", "rack", "hall", "feed", "share", "seed", "power_watts", "inrush_watts")
ADMIN_BODIES = st.dictionaries(st.sampled_from(ADMIN_NAMES), VALUES, max_size=5) | VALUES


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=st.sampled_from(ADMIN),
    body=ADMIN_BODIES,
    query=st.builds(str.__add__, st.sampled_from(["state=", "fault=", "from="]), st.text(max_size=9)),
)
def test_the_admin_interface_says_what_is_wrong_with_any_request(
    method: str, path: str, body: object, query: str
) -> None:
    door = AdminDoor(Client().fleet, {})
    answer = door.answer(0, Request(method, f"/{path}", query, {}, orjson.dumps(body)))
    assert answer is not None
    assert answer.status in (200, 400, 404)
    assert orjson.dumps(answer.body)
