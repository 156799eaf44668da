"""Makers' ways, each in a row of the table, and controllers that mean us harm: over a real connection."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace
from typing import Any

import pytest

from evac.drivers.redfish.driver import RedfishDriver
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from tests.contract.capabilities.story import order
from tests.contract.drivers.odd_bmc import RESET, SYSTEM, SYSTEMS, OddBmc, http, serving

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_PASSWORD", "of-the-odd-one")


def boot(bmc: OddBmc, timeout_s: float = 4.0, **more: Any) -> Any:
    """Evidence, or the error."""

    async def story() -> Any:
        driver = RedfishDriver()
        async with serving(bmc):
            try:
                return await driver.execute(bmc.action(**more), order(timeout_s=timeout_s))
            except ActionError as error:
                return error
            finally:
                await driver.close()

    return asyncio.run(story())


def test_dell_names_the_tag_on_the_box_in_its_sku() -> None:
    bmc = OddBmc()
    bmc.system.update({"Manufacturer": "Dell Inc.", "SerialNumber": "CN74751900F5", "SKU": "5WZ1234"})
    evidence = boot(bmc, serial="5wz1234")
    assert evidence["serial"] == "5WZ1234"
    assert bmc.resets == ["On"]


def test_dell_whose_sessions_are_used_up_is_busy_and_left_alone() -> None:
    words = {"error": {"@Message.ExtendedInfo": [{"MessageId": "IDRAC.2.8.RAC0218"}]}}
    for status in (503, 400):
        bmc = OddBmc()
        bmc.odd[("GET", SYSTEMS)] = http(status, words, "Retry-After: 7")
        error = boot(bmc)
        assert isinstance(error, Retryable)
        assert (error.code, error.after_ms) == ("bmc-busy", 7_000)
        assert "RAC0218" in error.message


def test_older_controllers_have_their_sessions_elsewhere() -> None:
    bmc = OddBmc()
    bmc.odd[("POST", "/redfish/v1/SessionService/Sessions")] = http(405)
    own = ("X-Auth-Token: abc", "Location: /redfish/v1/Sessions/9")
    bmc.odd[("POST", "/redfish/v1/Sessions")] = http(201, {}, *own)
    bmc.odd[("DELETE", "/redfish/v1/Sessions/9")] = http(204)
    assert boot(bmc, settings={"login": "session"})["state"] == "up"
    deleted = [path for method, path in bmc.asked if method == "DELETE"]
    opened = [path for method, path in bmc.asked if (method, path) == ("POST", "/redfish/v1/Sessions")]
    assert len(deleted) == len(opened) > 0


def test_a_power_button_is_pressed_where_there_is_nothing_else_and_never_on_an_older_look() -> None:
    bmc = OddBmc()
    bmc.allow("PushPowerButton", "ForceOff")

    async def story() -> Any:
        driver = RedfishDriver()
        async with serving(bmc):
            assert (await driver.check(bmc.action(), order())).ready
            bmc.system.update({"PowerState": "On", **bmc.up_with})  # somebody was faster
            evidence = await driver.execute(bmc.action(), order())
            await driver.close()
            return evidence

    assert asyncio.run(story())["found"] == "on"
    assert bmc.resets == []
    fresh = OddBmc()
    fresh.allow("PushPowerButton", "ForceOff")
    assert boot(fresh)["state"] == "up"
    assert fresh.resets == ["PushPowerButton"]


def test_force_on_is_taken_where_on_is_not_allowed() -> None:
    bmc = OddBmc()
    bmc.allow("ForceOn", "ForceOff")
    boot(bmc)
    assert bmc.resets == ["ForceOn"]


def test_what_cannot_be_switched_on_is_unsupported_before_anything_is_sent() -> None:
    bmc = OddBmc()
    bmc.allow("ForceRestart", "Nmi")
    error = boot(bmc)
    assert isinstance(error, Permanent)
    assert error.code == "bmc-unsupported"
    assert not [one for one in bmc.asked if one[0] != "GET"]


def test_hpe_takes_its_boot_source_at_the_pending_settings_and_says_post_in_its_own_words() -> None:
    bmc = OddBmc()
    pending = f"{SYSTEM}/Settings"
    del bmc.system["BootProgress"]
    bmc.system.update(
        {
            "Manufacturer": "HPE",
            "Oem": {"Hpe": {"PostState": "PowerOff"}},
            "@Redfish.Settings": {"SettingsObject": {"@odata.id": pending}},
        }
    )
    bmc.up_with = {"Oem": {"Hpe": {"PostState": "FinishedPost"}}}
    assert boot(bmc, settings={"boot_source": "pxe"})["state"] == "up"
    wanted = {"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}}
    assert bmc.patches == [(pending, wanted)]
    stuck = OddBmc()
    del stuck.system["BootProgress"]
    stuck.system.update({"Manufacturer": "HPE", "Oem": {"Hpe": {"PostState": "PowerOff"}}})
    stuck.up_with = {"Oem": {"Hpe": {"PostState": "InPost"}}}
    error = boot(stuck, timeout_s=2.0)
    assert error.code == "server-no-boot"
    assert stuck.resets == ["On", "ForceOff"]


def test_lenovo_wants_the_mode_beside_the_boot_source() -> None:
    bmc = OddBmc()
    bmc.system.update({"Manufacturer": "Lenovo", "Boot": {"BootSourceOverrideMode": "UEFI"}})
    boot(bmc, settings={"boot_source": "disk"})
    boot_part = bmc.patches[0][1]["Boot"]
    assert (boot_part["BootSourceOverrideTarget"], boot_part["BootSourceOverrideMode"]) == ("Hdd", "UEFI")


def test_ami_changes_only_what_it_is_told_the_etag_of() -> None:
    bmc = OddBmc()
    bmc.system.update({"Manufacturer": "American Megatrends Inc.", "@odata.etag": 'W/"77"'})
    boot(bmc, settings={"boot_source": "pxe"})
    sent = [
        headers.get("if-match")
        for headers, one in zip(bmc.headers, bmc.asked, strict=True)
        if one[0] == "PATCH"
    ]
    assert sent == ['W/"77"']


def test_a_controller_without_boot_progress_is_believed_after_the_time_of_a_boot() -> None:
    bmc = OddBmc()
    del bmc.system["BootProgress"]
    bmc.system["Oem"] = {"OpenBmc": {}}
    bmc.up_with = {"Status": {"Health": "OK", "State": "Enabled"}}
    evidence = boot(bmc, boot_ms=400)
    assert evidence["state"] == "up"
    assert evidence["boot_ms"] >= 400


def test_a_failed_drive_is_found_where_the_system_does_not_say_how_it_is() -> None:
    storage, drive = f"{SYSTEM}/Storage", f"{SYSTEM}/Storage/1/Drives/0"
    bmc = OddBmc()
    bmc.resources |= {
        storage: {"Members": [{"@odata.id": f"{storage}/1"}]},
        f"{storage}/1": {"Drives": [{"@odata.id": drive}]},
        drive: {"Status": {"Health": "Critical"}},
    }
    bmc.system.update({"Status": {}, "Storage": {"@odata.id": storage}})
    evidence = boot(bmc)
    assert (evidence["state"], evidence["why"]) == ("degraded", "a drive is critical")


def test_the_right_one_of_several_systems_is_found_by_its_serial_number() -> None:
    bmc = OddBmc()
    bmc.resources[f"{SYSTEMS}/Other"] = {**bmc.system, "SerialNumber": "S0"}
    bmc.resources[SYSTEMS] = {"Members": [{"@odata.id": f"{SYSTEMS}/Other"}, {"@odata.id": SYSTEM}]}
    assert boot(bmc)["serial"] == "S1"
    error = boot(bmc, serial="")
    assert error.code == "bmc-unsupported"


def test_what_somebody_else_switched_on_is_not_switched_off_though_it_is_the_wrong_image() -> None:
    bmc = OddBmc()
    bmc.system.update({"PowerState": "On", "HostName": "other", **bmc.up_with})
    error = boot(bmc)
    assert isinstance(error, Permanent)
    assert error.code == "server-wrong-image"
    assert bmc.resets == []
    ours = OddBmc()
    ours.up_with = {**ours.up_with, "HostName": "other.example"}
    assert boot(ours).code == "server-wrong-image"
    assert ours.resets == ["On", "ForceOff"]


HOSTILE: dict[str, tuple[bytes | None, str]] = {
    "another place": (http(307, None, "Location: http://127.0.0.1:1/redfish/v1/Systems"), "bmc-unsupported"),
    "links to another host": (
        http(200, {"Members": [{"@odata.id": "http://evil.example/redfish/v1/Systems/1"}]}),
        "bmc-half-dead",
    ),
    "links upwards": (http(200, {"Members": [{"@odata.id": "/redfish/v1/../admin"}]}), "bmc-half-dead"),
    "links with a request in them": (
        http(200, {"Members": [{"@odata.id": "/redfish/v1/Systems/1 HTTP/1.1\r\nX: y"}]}),
        "bmc-half-dead",
    ),
    "no JSON": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "bmc-half-dead"),
    "a list": (http(200, [1, 2]), "bmc-half-dead"),
    "deep": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000, "bmc-half-dead"),
    "large": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "bmc-half-dead"),
    "endless": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "bmc-half-dead"),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "bmc-half-dead",
    ),
    "chunks and a length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "bmc-half-dead",
    ),
    "packed": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(b"{}"))
        + gzip.compress(b"{}"),
        "bmc-half-dead",
    ),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "bmc-half-dead"),
    "nothing": (None, "bmc-silent"),
    "half": (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "bmc-hanging"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_means_us_harm_is_refused_in_time_and_nothing_is_switched(name: str) -> None:
    reply, code = HOSTILE[name]
    bmc = OddBmc()
    bmc.odd[("GET", SYSTEMS)] = reply
    error = boot(bmc)
    assert isinstance(error, ActionError), error
    assert error.code == code, error.message
    assert bmc.resets == []
    assert len(error.message) < 300


def test_words_of_a_controller_are_cut_and_made_printable() -> None:
    bmc = OddBmc()
    bmc.system.update(
        {"SerialNumber": "S1\x1b[2J\u202e" + "x" * 5_000, "HostName": ["a"], "PowerState": {"On": 1}}
    )
    error = boot(bmc, serial="S1")
    assert error.code == "bmc-wrong-serial"
    assert error.message.isprintable()
    assert len(error.message) < 300


def test_a_chunked_answer_and_one_without_a_length_are_read_whole() -> None:
    bmc = OddBmc()
    body = b'{"Members": [{"@odata.id": "/redfish/v1/Systems/Self"}]}'
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    bmc.odd[("GET", SYSTEMS)] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    assert boot(bmc)["state"] == "up"
    plain = OddBmc()
    plain.odd[("GET", SYSTEMS)] = b"HTTP/1.1 200 OK\r\n\r\n" + body
    assert boot(plain)["state"] == "up"


def test_a_reset_that_is_not_answered_is_looked_for_and_never_sent_again() -> None:
    taken = OddBmc()

    def take_and_drop() -> None:
        taken.resets.append("On")
        taken.system.update({"PowerState": "On", **taken.up_with})

    taken.odd[("POST", RESET)] = take_and_drop
    assert boot(taken, timeout_s=8.0)["state"] == "up"
    assert taken.resets == ["On"]
    lost = OddBmc()
    lost.odd[("POST", RESET)] = None
    error = boot(lost, timeout_s=20.0)
    assert isinstance(error, Retryable)
    assert [one for one in lost.asked if one[0] == "POST"] == [("POST", RESET)]


FEEDER = "/redfish/v1/PowerEquipment/Switchgear/1/Feeders/1"
BREAKER = f"{FEEDER}/Actions/Circuit.BreakerControl"


def closed(answer: bytes | None, does_it: bool) -> tuple[Any, list[str]]:
    """Evidence or error of a breaker that is closed, and the requests. answer: to the one that closes it;
    None: the connection ends without one.
    """
    circuit: dict[str, Any] = {
        "UserLabel": "feed-1",
        "PowerState": "Off",
        "BreakerState": "Off",
        "Actions": {"#Circuit.BreakerControl": {"target": BREAKER}},
    }
    bmc = OddBmc({FEEDER: circuit})

    def told() -> bytes | None:
        if does_it:
            circuit.update(PowerState="On", BreakerState="Normal")
        return answer

    bmc.odd[("POST", BREAKER)] = told

    async def story() -> Any:
        driver = RedfishDriver()
        async with serving(bmc):
            what = replace(bmc.action({"label": "feed-1"}, circuit=FEEDER), verb="start", target="feed-1")
            try:
                assert (await driver.check(what, order(timeout_s=4.0))).ready
                return await driver.execute(what, order(timeout_s=4.0))
            except ActionError as error:
                return error
            finally:
                await driver.close()

    return asyncio.run(story()), [method for method, _ in bmc.asked]


def test_a_breaker_whose_request_is_not_answered_is_looked_at_and_never_told_twice() -> None:
    for answer in (None, http(500)):
        evidence, asked = closed(answer, does_it=True)
        assert evidence["power"] == "on"
        assert asked == ["GET", "POST", "GET"]
        unknown, asked = closed(answer, does_it=False)
        assert isinstance(unknown, OutcomeUnknown)
        assert asked == ["GET", "POST", "GET"]


def test_a_controller_of_breakers_that_wants_no_requests_gets_none() -> None:
    unknown, asked = closed(http(503, None, "Retry-After: 30"), does_it=False)
    assert isinstance(unknown, OutcomeUnknown)
    assert unknown.code == "bmc-busy"
    assert asked == ["GET", "POST"]
