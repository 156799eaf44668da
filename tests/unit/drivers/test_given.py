"""Settings and parameters as people write them: read, or refused with the key named."""

from __future__ import annotations

import pytest

from evac.drivers import parameters as given
from evac.drivers.dns import records as dns_records
from evac.drivers.dns.records import RecordKey
from evac.drivers.port import Action, Order, Value
from evac.model.errors import Permanent


def test_texts_and_numbers() -> None:
    assert given.text({"port": 53}, "port") == "53"
    assert given.text({}, "socket", "") == ""
    assert given.whole({"port": "53"}, "port") == 53
    assert given.whole({}, "port", 53) == 53
    assert given.many({"argv": ("a", "b")}, "argv") == ("a", "b")
    assert given.many({"argv": "a"}, "argv") == ("a",)
    assert given.many({}, "argv") == ()


@pytest.mark.parametrize("value", ["", "-1", "5.0", "ten", True, ("5",), -1, 70_000, "9" * 30, "\u0665"])
def test_a_number_that_is_none_is_refused_with_its_key(value: Value) -> None:
    with pytest.raises(Permanent, match="port"):
        given.whole({"port": value}, "port", most=65_535)


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a\nb", "-a", "a/b", "é", "a" * 129])
def test_a_name_cannot_carry_a_command(name: str) -> None:
    with pytest.raises(Permanent, match="is not allowed in a name"):
        given.plain_name(name, "server")


def test_sites_and_their_servers() -> None:
    found = given.by_site(("pangyo=a+b,anyang=c", "pangyo=d"), "servers", "=")
    assert found == {"pangyo": ("a", "b", "d"), "anyang": ("c",)}
    for wrong in ("pangyo", "pangyo=", "=a", "pangyo=a,,anyang=b"):
        with pytest.raises(Permanent, match="servers"):
            given.by_site((wrong,), "servers", "=")


def test_a_shift_names_two_sites_and_a_share() -> None:
    shift = Action("shift", "chat", "dns", parameters={"to": "a", "away": "b"})
    assert given.shares(shift) == (("a",), ("b",), 1_000)
    for wrong in ({"to": "a", "away": "b,a"}, {"away": "a"}, {"to": "a", "away": "b", "share": 1_001}):
        with pytest.raises(Permanent):
            given.shares(Action("shift", "chat", "dns", parameters=wrong))


def test_an_older_leader_is_told_to_stop() -> None:
    order = Order("r", "s", 1, 4, 0, "", 1.0, "k")
    error = given.stale_token("zone", 9, order)
    assert (error.code, "9" in error.message, "4" in error.message) == ("stale-token", True, True)


SETTINGS: dict[str, Value] = {
    "zone": "Evac.Test",
    "records": (
        "chat=pangyo:192.0.2.1,anyang:192.0.2.2+192.0.2.3",
        "chat=pangyo:2001:db8::1,anyang:2001:DB8:0::2",
        "@=pangyo:192.0.2.9,anyang:192.0.2.8",
        "img.evac.test.=pangyo:192.0.2.7,anyang:192.0.2.6",
    ),
}


def shift(**parameters: Value) -> Action:
    return Action("shift", "evac.test", "dns", parameters={"to": "anyang", "away": "pangyo", **parameters})


def test_records_are_names_types_and_addresses_of_sites() -> None:
    names = dns_records.read_names(SETTINGS)
    assert names.zone == "evac.test."
    assert set(names.records) == {
        RecordKey("chat.evac.test.", "A"),
        RecordKey("chat.evac.test.", "AAAA"),
        RecordKey("evac.test.", "A"),
        RecordKey("img.evac.test.", "A"),
    }
    wanted = dns_records.wanted(names, shift(), {})
    assert wanted[RecordKey("chat.evac.test.", "A")] == {"192.0.2.2", "192.0.2.3"}
    assert wanted[RecordKey("chat.evac.test.", "AAAA")] == {"2001:db8::2"}
    only = dns_records.read_names(SETTINGS, ("img",))
    assert [key.name for key in only.records] == ["img.evac.test."]


@pytest.mark.parametrize(
    "records", ["chat", "chat=pangyo", "chat=pangyo:not-an-address", "chat=pangyo:192.0.2.1,anyang", ""]
)
def test_records_that_are_none_are_refused(records: str) -> None:
    with pytest.raises(Permanent, match="records"):
        dns_records.read_names({"zone": "evac.test", "records": (records,)})


def test_a_name_is_never_left_without_an_answer_but_may_lose_one_type() -> None:
    lonely: dict[str, Value] = {"zone": "evac.test", "records": ("old=pangyo:192.0.2.1",)}
    with pytest.raises(Permanent, match="there would be no answer for old"):
        dns_records.wanted(dns_records.read_names(lonely), shift(), {})
    mixed: dict[str, Value] = {
        "zone": "evac.test",
        "records": ("chat=pangyo:192.0.2.1,anyang:192.0.2.2", "chat=pangyo:2001:db8::1"),
    }
    wanted = dns_records.wanted(dns_records.read_names(mixed), shift(), {})
    assert wanted[RecordKey("chat.evac.test.", "AAAA")] == frozenset()


@pytest.mark.parametrize(
    ("share", "addresses"),
    [
        (0, {"192.0.2.9"}),
        (499, {"192.0.2.9"}),
        (500, {"192.0.2.9", "192.0.2.8"}),
        (999, {"192.0.2.9", "192.0.2.8"}),
        (1_000, {"192.0.2.8"}),
    ],
)
def test_dns_never_gives_more_than_the_share_asked_for(share: int, addresses: set[str]) -> None:
    names = dns_records.read_names(SETTINGS, ("@",))
    assert dns_records.wanted(names, shift(share=share), {})[RecordKey("evac.test.", "A")] == addresses


def test_what_is_taken_back_is_what_was_there() -> None:
    back = given.reversed_traffic(shift(share=750, from_share=250))
    assert given.shares(back) == (("pangyo",), ("anyang",), 750)
    assert given.reversed_traffic(Action("drain", "x", "dns", "pangyo")).verb == "ready"
    with pytest.raises(Permanent, match="was not recorded"):
        given.reversed_traffic(shift(away="pangyo,ansan"))
    with pytest.raises(Permanent, match="nothing that can be rolled back"):
        given.reversed_traffic(Action("verify", "x", "dns"))
