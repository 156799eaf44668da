"""Feeds of racks from NetBox's power feeds and power ports, in the shape of its API."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import SourceError, import_estate, netbox
from evac.estate.importers.imported import ImportResult, Options
from evac.estate.importers.running import read_source
from evac.model.estate import Estate

API = "https://netbox.example/api/dcim"


def reference(path: str, number: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "url": f"{API}/{path}/{number}/", "display": name, "name": name, **more}


def device(number: int, name: str, rack: int, role: str = "web", **more: Any) -> dict[str, Any]:
    return {
        **reference("devices", number, name),
        "device_type": {**reference("device-types", 1, "R650"), "slug": "r650"},
        "role": {**reference("device-roles", 1, role), "slug": role},
        "site": {**reference("sites", 1, "Frankfurt"), "slug": "fra"},
        "rack": reference("racks", rack, f"R{rack}"),
        "position": 1.0 * number if role != "pdu" else None,
        "status": {"value": "active", "label": "Active"},
        **more,
    }


def feed(number: int, panel: str, rack: int | None, *ends: int, status: str = "active") -> dict[str, Any]:
    """A power feed of a rack, with a cable to the inlets of these power strips."""
    found = [
        reference("power-ports", 100 + strip, "Inlet", device=reference("devices", strip, f"pdu{strip}"))
        for strip in ends
    ]
    return {
        **reference("power-feeds", number, f"{panel}/{number}"),
        "power_panel": {**reference("power-panels", 1, panel), "powerfeed_count": 2},
        "rack": None if rack is None else reference("racks", rack, f"R{rack}"),
        "status": {"value": status, "label": status.title()},
        "type": {"value": "primary", "label": "Primary"},
        "supply": {"value": "ac", "label": "AC"},
        "phase": {"value": "single-phase", "label": "Single-phase"},
        "voltage": 230,
        "amperage": 32,
        "max_utilization": 80,
        "mark_connected": False,
        "cable": {"id": number, "url": f"{API}/cables/{number}/"} if found else None,
        "connected_endpoints": found or None,
        "connected_endpoints_type": "dcim.powerport" if found else None,
        "connected_endpoints_reachable": bool(found),
    }


def port(number: int, owner: int, strip: int | None = None, circuit: int | None = None) -> dict[str, Any]:
    """A power port of a device: to an outlet of a strip, to a circuit, or without a cable."""
    ends = []
    if strip is not None:
        on = reference("devices", strip, f"pdu{strip}")
        ends = [reference("power-outlets", 500 + number, f"Outlet {number}", device=on)]
    elif circuit is not None:
        ends = [{**reference("power-feeds", circuit, "A"), "power_panel": reference("power-panels", 1, "A")}]
    return {
        **reference("power-ports", number, f"PSU{number}", device=reference("devices", owner, f"d{owner}")),
        "type": {"value": "iec-60320-c14", "label": "C14"},
        "maximum_draw": 800,
        "allocated_draw": 400,
        "connected_endpoints": ends or None,
        "connected_endpoints_type": "dcim.poweroutlet" if strip is not None else None,
    }


def written(folder: Path, **lists: list[dict[str, Any]]) -> Path:
    """A folder with the responses of NetBox."""
    folder.mkdir()
    for name, results in lists.items():
        body = {"count": len(results), "next": None, "previous": None, "results": results}
        (folder / f"{name}.json").write_text(json.dumps(body))
    return folder


def imported(tmp_path: Path, **lists: list[dict[str, Any]]) -> tuple[Estate, ImportResult]:
    result = import_estate("netbox", written(tmp_path / "netbox", **lists), tmp_path / "estate")
    return load(tmp_path / "estate"), result


def feeds(estate: Estate) -> dict[str, list[str]]:
    return {rack.id: sorted(rack.feeds) for rack in estate.racks}


HOUSE: dict[str, list[dict[str, Any]]] = {
    "devices": [
        *(device(10 + n, f"web-{n}", 1 + n // 2) for n in range(4)),
        *(device(20 + n, f"pdu{20 + n}", 1 + n // 2, "pdu") for n in range(4)),
    ],
    "power-feeds": [
        feed(1, "Panel A (UPS 1)", 1, 20),
        feed(2, "Panel B", 1, 21),
        feed(3, "Panel A (UPS 1)", 2, 22),
        feed(4, "Panel B", None, 23),
    ],
    "power-ports": [
        *(port(30 + n, 20 + n, circuit=1 + n) for n in range(4)),
        *(port(40 + n, 10 + n // 2, strip=20 + n % 2 + 2 * (n // 4)) for n in range(8)),
        port(50, 12),
    ],
}


@pytest.mark.parametrize("limit", [0, netbox.PRUNED_FROM_BYTES], ids=["in parts", "whole"])
def test_a_panel_is_a_feed_of_the_racks_that_its_circuits_lead_to(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netbox, "PRUNED_FROM_BYTES", limit)
    estate, result = imported(tmp_path, **HOUSE)
    assert [one.id for one in estate.feeds] == ["fra/Panel-A-UPS-1", "fra/Panel-B"]
    both = ["fra/Panel-A-UPS-1", "fra/Panel-B"]
    assert feeds(estate) == {"fra/R1": both, "fra/R2": both}, "circuit 4 leads to R2 by its strip"
    assert [(one.code, one.message) for one in result.diagnostics] == [
        ("import-name-changed", "'Panel A (UPS 1)' is taken as the feed 'Panel-A-UPS-1'"),
        ("import-name-changed", "'Panel B' is taken as the feed 'Panel-B'"),
    ]
    assert not result.partial


def test_a_circuit_that_is_not_active_gives_a_rack_no_feed(tmp_path: Path) -> None:
    circuits = [
        feed(1, "A", 1),
        *(feed(n, f"B{n}", 1, status=s) for n, s in enumerate(("failed", "offline"), 2)),
    ]
    circuits += [feed(4, "C", 1, status="planned"), feed(5, "D", 1, status="melting"), feed(6, "E", None)]
    estate, result = imported(tmp_path, devices=HOUSE["devices"], power=circuits)
    assert feeds(estate) == {"fra/R1": ["fra/A"], "fra/R2": []}
    assert {one.what: one.count for one in result.unknown if "power feeds" in one.what} == {
        "power feeds that are not active; left out": 3,
        "power feeds without a rack; left out": 1,
    }
    (problem,) = [one for one in result.diagnostics if one.code == "import-word-unknown"]
    assert "'melting'" in problem.message
    assert result.partial


def test_a_rack_is_lost_with_the_feed_that_its_servers_with_one_power_supply_have(tmp_path: Path) -> None:
    ports = [*HOUSE["power-ports"][:-3], port(60, 13, strip=22), port(61, 12, strip=23)]
    house = {**HOUSE, "power-ports": [one for one in ports if one["id"] not in (44, 45)]}
    both = {**house, "power-ports": [*house["power-ports"], port(62, 12, strip=22)]}
    estate, result = imported(tmp_path, **both)
    assert feeds(estate)["fra/R2"] == ["fra/Panel-A-UPS-1"]
    (problem,) = [one for one in result.diagnostics if one.code == "import-feed-missing"]
    assert "web-3 in rack 'R2' is not known to have power from every feed of the rack" in problem.message
    assert "lost with Panel-A-UPS-1" in problem.message
    assert not result.partial
    assert feeds(estate)["fra/R1"] == ["fra/Panel-A-UPS-1", "fra/Panel-B"]
    # With another one on the other feed, no loss of one feed says what is lost in the rack.
    result = import_estate("netbox", written(tmp_path / "second", **house), tmp_path / "other")
    assert feeds(load(tmp_path / "other"))["fra/R2"] == []
    (problem,) = [one for one in result.diagnostics if one.code == "import-skipped"]
    assert "no feed is known to power all servers in rack 'R2' (web-2, web-3 are not" in problem.message
    assert result.partial


NO_FEED = "servers without a known power feed; the feeds of their racks stay unknown"
ASSUMED = "servers whose power ports are not in the source; they count as on every feed of their rack"


def one_rack(tmp_path: Path, *second: dict[str, Any], **more: Any) -> tuple[list[str], ImportResult]:
    """The feeds of a rack on two feeds with a server on both, and another one that is on the first and has
    these other ports.
    """
    devices = [device(10, "web-0", 1), device(11, "web-1", 1, **more)]
    devices += [device(20 + n, f"pdu{20 + n}", 1, "pdu") for n in range(3)]
    circuits = [feed(1, "A", 1, 20), feed(2, "B", 1, 21), feed(3, "B", 1, status="failed")]
    ports = [port(30, 10, strip=20), port(31, 10, strip=21), port(32, 22), *second]
    estate, result = imported(tmp_path, devices=devices, feeds=circuits, ports=ports)
    return feeds(estate)["fra/R1"], result


@pytest.mark.parametrize("state", ["active", "offline"])
@pytest.mark.parametrize(
    "other",
    [
        pytest.param([port(41, 11, circuit=3)], id="a failed circuit"),
        pytest.param([port(41, 11, circuit=9)], id="a circuit that the source does not have"),
        pytest.param([port(41, 11, strip=22)], id="a strip without a feed"),
        pytest.param([port(41, 11)], id="no cable"),
        pytest.param([], id="no second port"),
    ],
)
def test_a_second_power_supply_without_power_is_no_feed(
    other: list[dict[str, Any]], state: str, tmp_path: Path
) -> None:
    found, result = one_rack(tmp_path, port(40, 11, strip=20), *other, status={"value": state})
    assert found == ["fra/A"]
    (problem,) = [one for one in result.diagnostics if one.code == "import-feed-missing"]
    assert "web-1 in rack 'R1' is not known to have power from every feed" in problem.message


@pytest.mark.parametrize(
    "ports",
    [
        pytest.param([], id="no ports"),
        pytest.param([port(40, 11), port(41, 11)], id="no cables"),
        pytest.param([port(40, 11, circuit=3), port(41, 11, strip=22)], id="nothing has power"),
    ],
)
def test_a_server_without_a_known_feed_is_named_and_leaves_its_rack_unknown(
    ports: list[dict[str, Any]], tmp_path: Path
) -> None:
    found, result = one_rack(tmp_path, *ports)
    assert found == []
    assert [(one.count, one.names) for one in result.unknown if one.what == NO_FEED] == [(1, ("web-1",))]


@pytest.mark.parametrize("to_strips", [False, True], ids=["no cables", "strips without a feed"])
def test_power_ports_without_cables_to_feeds_are_one_warning(to_strips: bool, tmp_path: Path) -> None:
    """Many companies fill in power ports from a template and never connect them."""
    devices = [device(10 + n, f"web-{n}", 1 + n // 3) for n in range(9)]
    devices += [device(20 + n, f"pdu{20 + n}", 1 + n, "pdu") for n in range(3)]
    circuits = [feed(1 + n, "AB"[n % 2], 1 + n // 2) for n in range(6)]
    ports = [port(40 + n, 10 + n, strip=20 + n // 3 if to_strips else None) for n in range(9)]
    estate, result = imported(tmp_path, devices=devices, feeds=circuits, ports=ports)
    assert set(map(tuple, feeds(estate).values())) == {()}
    (problem,) = [one for one in result.diagnostics if one.code == "import-feed-missing"]
    assert "the feeds of all 3 racks with power feeds stay unknown" in problem.message
    assert problem.severity == "warning"
    assert "connect the power ports in NetBox" in problem.hint
    assert [one.count for one in result.unknown if one.what == NO_FEED] == [9]


def test_one_cable_to_a_feed_shows_that_cables_are_recorded(tmp_path: Path) -> None:
    found, result = one_rack(tmp_path, port(40, 11), port(41, 11))
    assert found == []
    assert not [one for one in result.diagnostics if one.code == "import-feed-missing"]


def test_without_power_ports_the_source_says_nothing_of_single_servers(tmp_path: Path) -> None:
    lists = {key: found for key, found in HOUSE.items() if key != "power-ports"}
    estate, result = imported(tmp_path, **lists)
    assert {tuple(found) for found in feeds(estate).values()} == {("fra/Panel-A-UPS-1", "fra/Panel-B")}
    (found,) = [one for one in result.unknown if one.what == ASSUMED]
    assert found.names == ("web-0", "web-1", "web-2", "web-3")


def test_servers_that_are_condemned_have_no_part_in_the_feeds_of_their_rack(tmp_path: Path) -> None:
    found, result = one_rack(tmp_path, port(40, 11, strip=20), status={"value": "planned"})
    assert found == ["fra/A", "fra/B"]
    assert not result.diagnostics
    assert not [one for one in result.unknown if one.what == NO_FEED]


@pytest.mark.parametrize("limit", [0, netbox.PRUNED_FROM_BYTES], ids=["in parts", "whole"])
def test_a_blade_has_the_power_of_its_chassis(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netbox, "PRUNED_FROM_BYTES", limit)
    inside = {"parent_device": reference("devices", 12, "chassis")}
    devices = [device(10, "blade-1", 1, **inside), device(11, "blade-2", 1, **inside), device(12, "c", 1)]
    devices += [device(20, "pdu20", 1, "pdu"), device(21, "pdu21", 1, "pdu")]
    circuits = [feed(1, "A", 1, 20), feed(2, "B", 1, 21)]
    ports = [port(30, 12, strip=20), port(31, 12, strip=21)]
    estate, result = imported(tmp_path, devices=devices, feeds=circuits, ports=ports)
    assert feeds(estate)["fra/R1"] == ["fra/A", "fra/B"]
    # One with a port of its own does not live on its chassis.
    result = import_estate(
        "netbox",
        written(tmp_path / "own", devices=devices, feeds=circuits, ports=[*ports, port(32, 11)]),
        tmp_path / "other",
    )
    assert feeds(load(tmp_path / "other"))["fra/R1"] == []
    assert [one.names for one in result.unknown if one.what == NO_FEED] == [("blade-2",)]


def test_racks_of_one_name_have_only_the_feeds_that_both_have(tmp_path: Path) -> None:
    devices = [device(10, "web-0", 1), {**device(11, "web-1", 2), "rack": reference("racks", 2, "R1")}]
    estate, _ = imported(tmp_path, devices=devices, feeds=[feed(1, "A", 1), feed(2, "B", 1), feed(3, "A", 2)])
    assert feeds(estate) == {"fra/R1": ["fra/A"]}


def test_a_panel_with_the_name_of_a_rack_is_another_thing(tmp_path: Path) -> None:
    estate, _ = imported(tmp_path, devices=HOUSE["devices"], feeds=[feed(1, "R1", 1), feed(2, "(!)", 1)])
    assert feeds(estate)["fra/R1"] == ["fra/panel-R1"]


def test_panels_that_become_one_feed_are_reported(tmp_path: Path) -> None:
    circuits = [feed(1, "UPS (1)", 1), feed(2, "UPS 1", 1), feed(3, "UPS (1)", 2), feed(4, "R1", 2)]
    _, result = imported(tmp_path, devices=HOUSE["devices"], feeds=circuits)
    assert [one.message for one in result.diagnostics if one.code == "import-name-changed"] == [
        "'UPS (1)' is taken as the feed 'UPS-1'",
        "'UPS 1' is taken as the feed 'UPS-1', as is 'UPS (1)'",
        "'R1' is taken as the feed 'panel-R1'",
    ]


def test_more_feeds_than_a_rack_can_have_stay_unknown(tmp_path: Path) -> None:
    circuits = [feed(n, f"P{n}", 1) for n in range(1, 66)]
    devices = [{**device(1, "web-0", 1), "rack": reference("racks", 1, "R7")}]
    estate, result = imported(tmp_path, devices=devices, feeds=circuits)
    assert feeds(estate)["fra/R7"] == []
    assert result.partial
    (problem,) = [one for one in result.diagnostics if one.code == "import-skipped"]
    assert "rack 'R7' has more than 64 feeds" in problem.message


def test_a_page_of_power_feeds_that_is_missing_refuses_the_source(tmp_path: Path) -> None:
    folder = written(tmp_path / "netbox", **HOUSE)
    page = {"count": 9, "next": f"{API}/power-feeds/?offset=4", "results": HOUSE["power-feeds"]}
    (folder / "power-feeds.json").write_text(json.dumps(page))
    with pytest.raises(SourceError) as caught:
        import_estate("netbox", folder, tmp_path / "estate")
    assert [one.code for one in caught.value.diagnostics if one.severity == "error"] == ["import-truncated"]


@pytest.mark.parametrize(
    "refused",
    [(netbox.FEEDS_REFUSED,), (netbox.PORTS_REFUSED,), (netbox.FEEDS_REFUSED, netbox.PORTS_REFUSED)],
)
def test_what_a_token_may_not_read_is_reported(refused: tuple[str, ...], tmp_path: Path) -> None:
    body: dict[str, Any] = {"devices": HOUSE["devices"], **dict.fromkeys(refused, True)}
    if netbox.FEEDS_REFUSED not in refused:
        body["power_feeds"] = HOUSE["power-feeds"]
    (tmp_path / "netbox.json").write_text(json.dumps(body))
    result = import_estate("netbox", tmp_path / "netbox.json", tmp_path / "estate")
    said = "".join(one.message for one in result.diagnostics if one.code == "import-skipped")
    assert ("power feeds: feeds of racks are unknown" in said) == (netbox.FEEDS_REFUSED in refused)
    assert ("power ports: servers with fewer feeds" in said) == (netbox.PORTS_REFUSED in refused)
    assert any(feeds(load(tmp_path / "estate")).values()) == (netbox.FEEDS_REFUSED not in refused)
    assert result.partial


def test_an_empty_list_is_called_empty(tmp_path: Path) -> None:
    _, result = imported(tmp_path, **{**HOUSE, "power-ports": [], "sites": [{"slug": "fra", "u_height": 1}]})
    assert [one.message for one in result.diagnostics if one.code == "import-ignored"] == [
        "power-ports.json is an empty list",
        "sites.json has no devices and no virtual machines: evac does not use it",
    ]


def test_a_server_on_another_feed_than_its_rack_does_not_have_fewer(tmp_path: Path) -> None:
    circuits = [feed(1, "A", 1), feed(2, "B", 1), feed(3, "C", 9)]
    ports = [port(30, 10, circuit=1), port(31, 10, circuit=2), port(32, 11, circuit=1)]
    devices = [device(10, "web-0", 1), device(11, "web-1", 1)]
    ports += [port(33, 11, strip=20), port(34, 20, circuit=3)]
    devices += [device(20, "pdu20", 9, "pdu")]
    estate, result = imported(tmp_path, devices=devices, feeds=circuits, ports=ports)
    assert feeds(estate) == {"fra/R1": ["fra/A"]}
    assert [one.message for one in result.diagnostics] == [
        "web-1 in rack 'R1' is not known to have power from every feed of the rack (A, B): the rack counts "
        "as lost with A"
    ]


def powered(ports: dict[int, list[int]], circuits: dict[int, str], lost: set[str]) -> set[int]:
    """Servers (below 100) with power when these panels are lost; strips are 100 to 199. A circuit without a
    panel, and a cable that leads nowhere, give no power.
    """

    def has(one: int) -> bool:
        return circuits[one] not in {"", *lost} if one in circuits else any(map(has, ports.get(one, [])))

    return {one for one in ports if one < 100 and has(one)}


STATES = ("active", "active", "active", "offline", "planned", "inventory")
NOWHERE = (0, 299)
"""A port without a cable, and one with a cable to a circuit that the source does not have."""


@pytest.mark.parametrize("seed", range(60))
def test_no_server_is_without_power_while_its_rack_counts_as_powered(seed: int, tmp_path: Path) -> None:
    """Random wiring: two racks, strips behind strips, circuits that are not active, loose cables, servers
    with no to three power supplies, and some that are off or condemned.
    """
    chance = random.Random(seed)
    circuits = {200 + n: chance.choice("ABC") for n in range(chance.randrange(1, 6))}
    status_of = {n: chance.choice(("active", "active", "active", "failed", "offline")) for n in circuits}
    loose = NOWHERE if chance.random() < 0.5 else ()
    wires: dict[int, list[int]] = {}
    for n in range(chance.randrange(1, 6)):
        choices = [*circuits, *(one for one in wires if one >= 100), *loose]
        wires[100 + n] = chance.choices(choices, k=chance.choice((1, 1, 2)))
    strips = list(wires)
    for n in range(1, chance.randrange(2, 8)):
        wires[n] = chance.choices([*strips, *circuits, *loose], k=chance.choice((0, 1, 1, 2, 2, 3)))
    rack_of = {n: chance.choice((1, 2)) for n in wires}
    state_of = {n: chance.choice(STATES) if n < 100 else "active" for n in wires}
    devices = [
        device(n, f"d{n}", rack_of[n], "web" if n < 100 else "pdu", status={"value": state_of[n]})
        for n in wires
    ]
    feeds_of = [
        feed(n, panel, chance.choice((None, 1, 2)), status=status_of[n]) for n, panel in circuits.items()
    ]
    ports = [port(999, 150)]
    for owner, ends in wires.items():
        for end in ends:
            made = {"circuit": end} if end >= 200 else {"strip": end} if end else {}
            ports.append(port(1_000 + len(ports), owner, **made))
    folder = written(tmp_path / "netbox", devices=devices, feeds=feeds_of, ports=ports)
    rows = read_source("netbox", folder, Problems(), Options()).tables["racks"]
    known = {rack: set(filter(None, found.split("+"))) for rack, _, found in rows}
    live = {n: panel if status_of[n] == "active" else "" for n, panel in circuits.items()}
    for size in range(4):
        for lost in itertools.combinations("ABC", size):
            alive = powered(wires, {**live, 299: ""}, set(lost))
            for n in (one for one in wires if one < 100 and state_of[one] in ("active", "offline")):
                found = known[f"fra/R{rack_of[n]}"]
                if found and not found <= {f"fra/{one}" for one in lost}:
                    assert n in alive, (n, lost, found)
