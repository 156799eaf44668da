"""A server that two sources name with and without its domain is one; if that is not certain, it is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from evac.estate import load
from evac.estate.importers import ImportResult, import_estate, import_recipe
from evac.model.estate import Estate


def made(
    tmp_path: Path, sources: dict[str, str | dict[str, Any]], more: str = ""
) -> tuple[Estate, ImportResult]:
    """An estate of these sources: text is a host list, an object an inventory."""
    lines = ""
    for name, content in sources.items():
        is_list = isinstance(content, str)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        lines += f"  {name}: {{kind: {'csv' if is_list else 'ansible'}, from: {name}}}\n"
    (tmp_path / "estate.yaml").write_text(f"recipe: 1\ninto: company\nsources:\n{lines}{more}")
    into, result = import_recipe(tmp_path / "estate.yaml")
    return load(into), result


def names(estate: Estate) -> list[str]:
    return sorted(name.decode() for name in estate.fleet.name.tolist())


def said(result: ImportResult, code: str) -> list[str]:
    return [one.message for one in result.diagnostics if one.code == code]


SHORT = "host;site;cores;memory;serial\nsrv-n01;fra;32;64 GiB;A1\nsrv-n02;fra;32;64 GiB;A2\n"
FULL = "host;site;rack;serial\nsrv-n01.klinik.intern;fra;r1;A1\nsrv-n02.klinik.intern;fra;r1;a2\n"


@pytest.mark.parametrize("order", ["short full", "full short"])
def test_a_server_with_and_without_its_domain_counts_once(tmp_path: Path, order: str) -> None:
    lists = {"short": SHORT, "full": FULL}
    estate, result = made(tmp_path, {name: lists[name] for name in order.split()})
    first = lists[order.split(maxsplit=1)[0]]
    assert names(estate) == sorted(line.partition(";")[0] for line in first.splitlines()[1:])
    assert estate.fleet.capacity[:, 0].tolist() == [32_000, 32_000]
    assert [rack.id for rack in estate.racks] == ["fra/r1"], "what only the other source knows is added"
    (message,) = said(result, "import-name-changed")
    assert message.startswith("2 servers have another name in ")
    assert "srv-n01.klinik.intern" in message
    _, again = import_recipe(tmp_path / "estate.yaml", update=True)
    assert again.diff == ()


@pytest.mark.parametrize("order", ["hosts inventory", "inventory hosts"])
def test_what_runs_on_a_server_runs_there_by_either_name(tmp_path: Path, order: str) -> None:
    inventory = {"_meta": {"hostvars": {}}, "srv-n01": {"hosts": ["srv-n01.klinik.intern"]}}
    sources: dict[str, str | dict[str, Any]] = {"hosts": SHORT, "inventory": inventory}
    estate, result = made(tmp_path, {name: sources[name] for name in order.split()})
    assert len(estate.fleet) == 2
    (service,) = estate.services
    assert service.id == "srv-n01", "a service may have the name of a server"
    assert service.replicas == 1
    (row,) = (tmp_path / "company" / "replicas.csv").read_text().splitlines()[1:]
    assert row.split(",")[1] in names(estate)
    assert not said(result, "import-host-nowhere")


@pytest.mark.parametrize(
    ("full", "why"),
    [
        ("host;site;serial\nsrv-n01.klinik.intern;fra;B9\n", "their serial numbers differ"),
        ("host;site;serial\nsrv-n01.klinik.intern;muc;A1\n", "their sites differ"),
        (
            "host;site;serial\nsrv-n01.klinik.intern;fra;A1\nsrv-n01.dmz.klinik.intern;fra;\n",
            "3 names begin like that",
        ),
    ],
)
def test_servers_that_may_be_two_stay_two_and_it_is_said(tmp_path: Path, full: str, why: str) -> None:
    estate, result = made(tmp_path, {"short": SHORT, "full": full})
    assert len(estate.fleet) == len(SHORT.splitlines()) - 1 + len(full.splitlines()) - 1
    (message,) = [one for one in said(result, "import-conflict") if "may be one server" in one]
    assert why in message
    (hint,) = [one.hint for one in result.diagnostics if one.message == message]
    line = hint.partition("names: ")[2]
    one, _ = made(tmp_path, {"short": SHORT, "full": full}, f"names: {line}\n")
    assert len(one.fleet) == len(estate.fleet) - 1, "the line of the hint makes them one"


def test_a_source_that_has_both_names_has_two_servers(tmp_path: Path) -> None:
    both = f"{SHORT}srv-n01.klinik.intern;fra;16;32 GiB;C1\n"
    estate, result = made(tmp_path, {"both": both, "short": SHORT})
    assert len(estate.fleet) == 3
    assert not said(result, "import-name-changed")
    assert not [one for one in said(result, "import-conflict") if "may be one server" in one]


BOTH = ("srv-n01", "srv-n01.klinik.intern"), ("srv-n02.lan", "SRV-N02"), ("srv-n03", "SRV-n03")


@pytest.mark.parametrize("other", ["", "host;site\nother;fra\n"])
def test_both_names_in_one_source_are_said_unless_it_shows_that_they_are_two(
    tmp_path: Path, other: str
) -> None:
    """Each pair, also among others, is said with the line that makes one server of it."""
    rows = "".join(f"{one};fra;A{number}\n" for number, pair in enumerate(BOTH) for one in pair)
    two = "web;fra;B1\nweb.corp;fra;B2\ndb;fra;\ndb.corp;muc;\n"
    sources: dict[str, str | dict[str, Any]] = {"hosts": f"host;site;serial\n{rows}{two}"}
    sources |= {"more": other} if other else {}
    estate, result = made(tmp_path, sources)
    (message,) = [one for one in said(result, "import-conflict") if "may be one server" in one]
    assert all(repr(name) in message for pair in BOTH for name in pair)
    assert "web" not in message, "their serial numbers differ"
    assert "db" not in message, "their sites differ"
    (hint,) = [one.hint for one in result.diagnostics if one.message == message]
    one, _ = made(tmp_path, sources, f"names: {hint.partition('names: ')[2]}\n")
    assert len(one.fleet) == len(estate.fleet) - len(BOTH)
    alone = import_estate("csv", tmp_path / "hosts", tmp_path / "alone")
    assert [one for one in said(alone, "import-conflict") if "may be one server" in one]


@pytest.mark.parametrize(("serials", "is_said"), [(("A1", "a1"), True), (("A1", "A2"), False), ((), False)])
def test_a_device_that_is_listed_twice_is_said_if_its_serial_number_is_the_same(
    tmp_path: Path, serials: tuple[str, ...], is_said: bool
) -> None:
    device = {"name": "db", "site": {"slug": "fra"}, "device_type": {"slug": "r640"}, "role": {"slug": "a"}}
    devices = [{**device, "serial": one} for one in serials] or [device, device]
    (tmp_path / "netbox.json").write_text(json.dumps({"results": devices}))
    result = import_estate("netbox", tmp_path / "netbox.json", tmp_path / "company")
    assert bool(said(result, "import-conflict")) is is_said


def test_the_line_of_a_hint_names_every_pair_that_the_message_names(tmp_path: Path) -> None:
    short = "host;site;serial\n" + "".join(f"srv-n0{n};fra;A{n}\n" for n in range(3))
    full = "host;site;serial\n" + "".join(f"srv-n0{n}.corp;fra;B{n}\n" for n in range(3))
    estate, result = made(tmp_path, {"short": short, "full": full})
    (hint,) = [one.hint for one in result.diagnostics if "may be one server" in one.message]
    one, _ = made(tmp_path, {"short": short, "full": full}, f"names: {hint.partition('names: ')[2]}\n")
    assert (len(estate.fleet), len(one.fleet)) == (6, 3)


def test_servers_of_one_label_in_two_domains_are_two_without_a_word(tmp_path: Path) -> None:
    one = "host;site\ndb1.east.corp;fra\n10.0.0.1;fra\n"
    estate, result = made(tmp_path, {"one": one, "two": "host;site\ndb1.west.corp;fra\n10.0.0.2;fra\n"})
    assert len(estate.fleet) == 4
    assert not said(result, "import-name-changed")
    assert not said(result, "import-conflict")
