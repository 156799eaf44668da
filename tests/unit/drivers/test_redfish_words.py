"""The words of Redfish that the driver knows are those of the standard, as sushy has them; small rules."""

from __future__ import annotations

import pytest

from evac.drivers.redfish import boot, settings
from evac.drivers.redfish import system as redfish_system
from evac.drivers.redfish.settings import address_of, is_own_path, read_access
from evac.drivers.redfish.system import read
from evac.model.errors import Permanent

PIN = "ab" * 32


def test_every_word_is_one_of_the_standard() -> None:
    constants = pytest.importorskip("sushy").resources.constants
    system = pytest.importorskip("sushy.resources.system.constants")
    resets = {one.value for one in constants.ResetType}
    for row in (settings.PLAIN, *settings.VENDORS):
        assert {*row.on, *row.off, *row.graceful, *row.assumed} <= resets, row.name
    assert set(redfish_system._POWERS) == {one.value for one in constants.PowerState}
    states = {one.value for one in system.BootProgressStates}
    assert {*boot._STAGES, redfish_system.UP} <= states
    assert set(redfish_system.SOURCES.values()) <= {one.value for one in system.BootSource}


def test_a_maker_is_known_by_its_own_part_before_its_name() -> None:
    found = settings.quirks_of({"Manufacturer": "Supermicro", "Oem": {"OpenBmc": {}}})
    assert found.name == "openbmc"
    assert settings.quirks_of({"Manufacturer": "Dell Inc."}).name == "idrac"
    assert settings.quirks_of({"Manufacturer": 7, "Oem": ["Dell"]}).name == "plain"


def test_a_marks_belongs_to_one_row_only() -> None:
    marks = [mark for row in settings.VENDORS for mark in row.marks]
    assert len(marks) == len(set(marks))


@pytest.mark.parametrize(
    "words", [{}, {"PowerState": []}, {"Actions": 3, "Boot": "x", "Status": [], "Oem": 1}]
)
def test_a_resource_without_sense_is_unknown_in_everything(words: dict[str, object]) -> None:
    seen = read("/redfish/v1/Systems/1", words)
    assert (seen.power, seen.progress, seen.health, seen.serials, seen.reset_path) == ("", "", "", (), "")


@pytest.mark.parametrize(
    "path",
    [
        "http://x/redfish/v1/Systems/1",
        "//x/redfish/v1/a",
        "/redfish/v1/../x",
        "/redfish/v2/Systems/1",
        "/redfish/v1/a b",
        "/redfish/v1/a?b=c",
        "/redfish/v1/a\r\nX: y",
        "/redfish/v1/a//b",
        7,
        None,
    ],
)
def test_a_link_to_elsewhere_is_not_followed(path: object) -> None:
    assert not is_own_path(path)


def test_addresses_have_a_port_or_get_one() -> None:
    assert address_of("10.0.0.1", 443) == "10.0.0.1:443"
    assert address_of("bmc-1.example:8443", 443) == "bmc-1.example:8443"
    assert address_of("[2001:db8::1]", 443) == "[2001:db8::1]:443"
    for wrong in ("", "a b", "user@host", "host:0", "host:99999", "host/path", "2001:db8::1"):
        with pytest.raises(Permanent):
            address_of(wrong, 443)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"password": "env:X"}, "user"),
        ({"user": "u"}, "password"),
        ({"user": "u", "password": "env:X", "scheme": "ftp"}, "scheme"),
        ({"user": "u", "password": "env:X", "pin": "xyz"}, "pin"),
        ({"user": "u", "password": "env:X", "pin": PIN, "insecure": "why"}, "contradict"),
        ({"user": "u", "password": "env:X", "ca": "relative.pem"}, "ca"),
        ({"user": "u", "password": "env:X", "boot_source": "floppy"}, "boot_source"),
    ],
)
def test_a_setting_that_is_wrong_is_named(settings: dict[str, str], words: str) -> None:
    with pytest.raises(Permanent, match=words):
        read_access(settings)


def test_pins_are_found_by_address_with_and_without_port() -> None:
    base = {"user": "u", "password": "env:X"}
    listed = read_access({**base, "pin": f"10.0.0.1={PIN},10.0.0.2:8443={PIN}"}).trust
    assert listed.pin_of("10.0.0.1:443") == bytes.fromhex(PIN)
    assert listed.pin_of("10.0.0.2:8443") == bytes.fromhex(PIN)
    with pytest.raises(Permanent, match="no pin"):
        listed.pin_of("10.0.0.3:443")
    assert read_access({**base, "pin": PIN.upper()}).trust.pin_of("10.9.9.9:443") == bytes.fromhex(PIN)
