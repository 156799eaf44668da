"""Host lists of any company: columns by many names, units, several rows a host, and hostile tables."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import ImportResult, Options, SourceError, import_estate
from evac.estate.importers.csv import plain_number, understand
from evac.estate.importers.host_words import NAMES, STATES
from evac.estate.importers.source_files import CELL_MAX, COLUMNS_MAX, read_cells, western
from evac.model.estate import Estate
from evac.model.fleet import SERVER_STATES


def imported(tmp_path: Path, text: str | bytes) -> tuple[Estate, ImportResult]:
    source = tmp_path / "hosts.csv"
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = import_estate("csv", source, tmp_path / "estate")
    return load(tmp_path / "estate"), result


def refused(tmp_path: Path, text: str) -> dict[str, list[str]]:
    """Code -> places of what is wrong with a list that cannot be imported."""
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, text)
    assert not (tmp_path / "estate").exists()
    found: dict[str, list[str]] = {}
    for d in caught.value.diagnostics:
        if d.severity == "error":
            found.setdefault(d.code, []).append(str(d.place).removeprefix("hosts.csv:"))
    return found


def test_a_usual_list(tmp_path: Path) -> None:
    estate, result = imported(
        tmp_path,
        "\ufeffHostname;Data Center;Rack;Role;vCPUs;RAM (GiB);Disk;GPUs;Model;Status;Power;Owner\r\n"
        "web-1;fra;r1;shop, login;32;128;2 TB;0;R640;Active;350 W;joe\r\n"
        "web-2;fra;r2;shop;32;128;2 TB;;R640;standby;0.5 kW;joe\r\n"
        "db-1;muc;r1;db;64;1024;4TiB;2;R740;retired;-;ann\r\n",
    )
    assert (result.services, result.servers) == (3, 3)
    assert [s.id for s in estate.sites] == ["fra", "muc"]
    assert [r.id for r in estate.racks] == ["fra/r1", "fra/r2", "muc/r1"]
    assert [c.id for c in estate.classes] == ["R640", "R740"]
    fleet = estate.fleet
    assert fleet.name.tolist() == [b"db-1", b"web-1", b"web-2"]
    assert fleet.capacity.tolist() == [
        [64_000, 2**20, 4_096, 2],
        [32_000, 131_072, 1_862, 0],
        [32_000, 131_072, 1_862, 0],
    ]
    assert fleet.capacity_known[:, 3].tolist() == [True, True, False]
    assert [SERVER_STATES[code] for code in fleet.state] == ["condemned", "serving", "spare"]
    assert (fleet.watts.tolist(), fleet.watts_known.tolist()) == ([0, 350, 500], [False, True, True])
    assert [(s.id, s.replicas) for s in estate.services] == [("db", None), ("login", 1), ("shop", 1)]
    assert [(s.id, s.owner) for s in estate.services] == [("db", "ann"), ("login", "joe"), ("shop", "joe")]
    assert result.diagnostics == ()
    assert "db-1" in next(u for u in result.unknown if u.what == "servers whose power is not known").names


@pytest.mark.parametrize(
    ("cells", "gib"),
    [
        (("7,68", "1,5"), (7, 1)),
        (("7,68", "1.024"), (7, 1_024)),
        (("7.68", "1,024"), (7, 1_024)),
        (("1,048,576", "1,024"), (1_048_576, 1_024)),
        (("1.048.576", "1.024"), (1_048_576, 1_024)),
        (("1'024", "12'288,5"), (1_024, 12_288)),
        (("1.024,5", "2,25"), (1_024, 2)),
        (("1,024.5", "2.25"), (1_024, 2)),
    ],
)
def test_a_number_is_read_as_its_column_writes_it(
    tmp_path: Path, cells: tuple[str, str], gib: tuple[int, int]
) -> None:
    rows = "".join(f"h{n};x;{cell}\n" for n, cell in enumerate(cells))
    estate, _ = imported(tmp_path, f"host;site;disk (GiB)\n{rows}")
    assert tuple(estate.fleet.capacity[:, 2].tolist()) == gib


@pytest.mark.parametrize("cells", [("1,024",), ("1.024",), ("1,024", "512"), ("1,024", "2,5", "2.5")])
def test_a_number_with_two_readings_is_unknown_and_reported_with_both(
    tmp_path: Path, cells: tuple[str, ...]
) -> None:
    rows = "".join(f"h{n};x;{cell}\n" for n, cell in enumerate(cells))
    estate, result = imported(tmp_path, f"host;site;disk (GiB)\n{rows}")
    (found,) = (one for one in result.diagnostics if one.code == "import-cell")
    assert found.place.line == 2
    assert found.hint == "write 1024 or 1.024"
    assert estate.fleet.capacity_known[:, 2].tolist() == [False, *[True] * (len(cells) - 1)]


def test_other_columns_say_what_a_comma_is_and_headers_may_be_german_or_korean(tmp_path: Path) -> None:
    german = (
        "Servername;Standort;Schrank;HE;CPU-Kerne;Arbeitsspeicher (GiB);Leistung (W);Status;Eigentümer\n"
        "web-1;München;R1;12;1.024;128,5;1.200;in Betrieb;Café\n"
        "web-2;Köln;R2;3;32;64;300;defekt;Café\n"
    )
    estate, result = imported(tmp_path, german)
    fleet = estate.fleet
    assert fleet.capacity[:, :2].tolist() == [[1_024_000, 131_584], [32_000, 65_536]]
    assert fleet.watts.tolist() == [1_200, 300]
    assert [SERVER_STATES[code] for code in fleet.state] == ["serving", "condemned"]
    assert {site.id for site in estate.sites} == {"München", "Köln"}
    assert result.diagnostics == ()


def test_korean_headers_are_read_and_an_unknown_state_is_no_capacity(tmp_path: Path) -> None:
    estate, result = imported(
        tmp_path,
        "서버명,센터,랙,코어수,메모리(GiB),상태\nweb-1,판교,A-1,32,128,운영\nweb-2,평촌,B-1,32,128,미사용\n",
    )
    assert [SERVER_STATES[code] for code in estate.fleet.state] == ["serving", "condemned"]
    assert estate.fleet.capacity[:, :2].tolist() == [[32_000, 131_072]] * 2
    assert {one.code for one in result.diagnostics} == {"import-word-unknown"}


@given(whole=st.integers(0, 10**9), fraction=st.integers(0, 99))
def test_a_decimal_comma_is_never_read_as_thousands(whole: int, fraction: int) -> None:
    assert plain_number(f"{whole},{fraction:02}", None) == f"{whole}.{fraction:02}"
    assert plain_number(f"{whole},{fraction:03}", ",") == f"{whole}.{fraction:03}"


@pytest.mark.parametrize("word", ["Planned", "Staged", "Inventory", "levitating", "unknown", "?"])
def test_a_server_whose_state_is_not_known_is_no_capacity(tmp_path: Path, word: str) -> None:
    estate, result = imported(tmp_path, f"host;site;state\na;x;{word}\nb;x;active\nc;x;\n")
    assert [SERVER_STATES[code] for code in estate.fleet.state] == ["condemned", "serving", "serving"]
    reported = [one for one in result.diagnostics if one.code == "import-word-unknown"]
    assert bool(reported) == (word in ("levitating", "unknown", "?"))


def test_one_unknown_state_is_one_warning_with_its_number_of_rows(tmp_path: Path) -> None:
    rows = "".join(f"h{number};x;{'levitating' if number % 2 else 'Gone!'}\n" for number in range(90))
    _, result = imported(tmp_path, f"host;site;state\n{rows}")
    told = [(one.message, one.place.line) for one in result.diagnostics if one.code == "import-word-unknown"]
    assert told == [("unknown state 'Gone!' in 45 rows", 2), ("unknown state 'levitating' in 45 rows", 3)]


@pytest.mark.parametrize("meaning", sorted(NAMES))
def test_every_documented_name_is_recognised(meaning: str) -> None:
    for name in NAMES[meaning]:
        found = understand(name.upper())
        assert found is not None
        assert found[0] == meaning


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("memory_gb", ("memory", "GB")),
        ("RAM [MiB]", ("memory", "MiB")),
        ("Disk (TB)", ("disk", "TB")),
        ("power_kw", ("watts", "kW")),
        ("Power (watts)", ("watts", "W")),
        ("watts", ("watts", "W")),
        ("Host Name", ("host", None)),
        ("data-center", ("site", None)),
        ("rack_gb", None),
        ("colour", None),
        ("cpu_gb", None),
        ("", None),
    ],
)
def test_units_in_the_names_of_columns(name: str, meaning: tuple[str, str | None] | None) -> None:
    assert understand(name) == meaning


def test_names_mean_one_thing_only() -> None:
    known = [name for names in NAMES.values() for name in names]
    assert len(known) == len(set(known))
    assert set(STATES.values()) == set(SERVER_STATES)


def test_the_first_line_of_excel_says_what_parts_the_cells(tmp_path: Path) -> None:
    estate, _ = imported(tmp_path, "sep=;\r\nname;site;app\r\nh1;x;a,b\r\n")
    assert estate.fleet.name.tolist() == [b"h1"]
    assert [service.id for service in estate.services] == ["a", "b"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    estate, _ = imported(tmp_path, 'name,site,app\nh1,x,"a b"\nh2,x,\n'.replace(",", delimiter))
    assert len(estate.fleet) == 2
    assert [s.id for s in estate.services] == ["a", "b"]


def test_several_rows_of_one_host_are_one_host_with_several_services(tmp_path: Path) -> None:
    estate, _ = imported(tmp_path, "host,site,cores,service\nh1,x,4,a\nh1,x,,b\nh1,,4,a\n")
    assert len(estate.fleet) == 1
    assert estate.fleet.capacity[0, 0] == 4_000
    assert [(s.id, s.replicas) for s in estate.services] == [("a", 1), ("b", 1)]


def test_the_surer_of_two_columns_counts(tmp_path: Path) -> None:
    text = "name,fqdn,dc,location,Hersteller,note\nshort,h1.example,x,Rome,Dell,new\n"
    estate, result = imported(tmp_path, text)
    assert estate.fleet.name.tolist() == [b"h1.example"]
    assert [s.id for s in estate.sites] == ["x"]
    assert [d.message for d in result.diagnostics] == [
        "the column 'name' also means host; another column was used",
        "evac does not recognise the columns 'Hersteller', 'note'",
    ]
    assert [hall.id for hall in estate.halls] == ["x/Rome"], "a location in a site is a hall"


def test_spellings_blanks_and_states_are_changed_only_with_a_word(tmp_path: Path) -> None:
    estate, result = imported(tmp_path, "host,site,state\nh1,FRA 1,on\nh2,fra 1,moving\nh3,FRA 1,\nh4,,on\n")
    assert [s.id for s in estate.sites] == ["FRA-1"]
    assert [(d.code, str(d.place)) for d in result.diagnostics] == [
        ("import-name-changed", "hosts.csv:2:4"),
        ("import-name-changed", "hosts.csv:3:4"),
        ("import-word-unknown", "hosts.csv:3:10"),
        ("import-host-nowhere", "hosts.csv:5:4"),
    ]
    assert len(estate.fleet) == 3
    assert next(u for u in result.unknown if u.what.startswith("hosts without a site")).names == ("h4",)


def test_names_with_blanks_are_one_note_for_each_column(tmp_path: Path) -> None:
    rows = "".join(f"h{n},FRA 1,A {n:02},on\n" for n in range(30))
    estate, result = imported(tmp_path, f"host,site,rack,state\n{rows}")
    assert len(estate.racks) == 30
    assert [(d.code, str(d.place), d.message) for d in result.diagnostics] == [
        ("import-name-changed", "hosts.csv:2:4", "'FRA 1' is taken as the site 'FRA-1'"),
        (
            "import-name-changed",
            "hosts.csv:2:10",
            "'A 00' is taken as the rack 'A-00'; names like this in this column: 30",
        ),
    ]


@pytest.mark.parametrize("state", ["off", "spare", "Wartung", "geplant", "moving"])
def test_a_server_that_is_not_in_service_runs_no_replica(tmp_path: Path, state: str) -> None:
    """Else the loss of the other site would leave the service running on a server that is off."""
    text = f"host,site,role,state\nh1,fra,shop,on\nh2,muc,shop,{state}\nh3,muc,mail,{state}\n"
    estate, result = imported(tmp_path, text)
    assert [(one.id, one.replicas) for one in estate.services] == [("mail", None), ("shop", 1)]
    rows = (tmp_path / "estate" / "replicas.csv").read_text().splitlines()
    assert rows == ["service,target,count", "shop,h1,1"]
    (idle,) = (one for one in result.unknown if one.what.startswith("servers that have a service"))
    assert idle.names == ("h2", "h3")


def test_french_headers_and_indian_numbers_are_read(tmp_path: Path) -> None:
    text = "Serveur;Emplacement;Salle;Baie;Cœurs;Mémoire (GiB);Disque (GiB);Puissance (W);État;Rôle\n"
    text += "s1;gva;S1;C01;32;1,28,000;2,00,000;650;actif;shop\ns2;gva;S1;C01;32;64;500;650;éteint;shop\n"
    estate, result = imported(tmp_path, text)
    assert [d.code for d in result.diagnostics] == []
    assert estate.fleet.capacity[:, :3].tolist() == [[32_000, 131_072_000, 200_000], [32_000, 65_536, 500]]
    assert [SERVER_STATES[code] for code in estate.fleet.state] == ["serving", "dark"]
    assert [(one.id, one.replicas) for one in estate.services] == [("shop", 1)]


def test_every_problem_at_once_with_its_place(tmp_path: Path) -> None:
    estate, result = imported(
        tmp_path,
        "host,site,memory,cpu,power_w\n"
        "h1,x,64,4,1\n"
        "h2,x,lots,4,1\n"
        '"h 3",x,64 GiB,4,1\n'
        "h4,x,64 GiB,4 W,NaN\n"
        "h5,x,64 GiB,-4,1e9\n"
        "h6,x\n"
        ",x,64 GiB,4,1\n"
        "h7,a/b,99999999999999999999 PiB,4,1\n"
        "h8,x,1 GiB,4,1\n"
        "h8,y,1 GiB,4,1\n"
        "h9,x,1 GiB,4,1\n",
    )
    problems: dict[str, list[str]] = {}
    for one in result.diagnostics:
        problems.setdefault(one.code, []).append(str(one.place).removeprefix("hosts.csv:"))
    assert problems == {
        "import-unit-missing": ["2:6"],
        "import-cell": ["3:6", "5:13", "5:17", "6:13", "6:16", "8:1", "9:8"],
        "import-name": ["4:1", "9:4"],
        "import-row-length": ["7:1"],
        "import-host-twice": ["11:4"],
        "import-host-nowhere": ["9:4", "10:4"],
    }
    assert {one.severity for one in result.diagnostics} == {"warning"}
    assert result.partial
    assert estate.fleet.name.tolist() == [b"h1", b"h2", b"h4", b"h5", b"h9"]
    assert estate.fleet.capacity_known[:, :2].tolist() == [
        [True, False],
        [True, False],
        [False, True],
        [False, True],
        [True, True],
    ]
    assert estate.fleet.watts_known.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("rows", "unknown"),
    [
        ("a,x,4,on,shop,joe,1,2 GiB\n", ()),
        ("a,x,lots,on,shop,joe,1,2 GiB\n", ("cpu",)),
        ("a,x,4,on,shop,joe,many,2 GiB\n", ("cpu demand",)),
        ("a,x,4,on,shop,joe,1,2 GiB\na,x,8,on,shop,joe,1,2 GiB\na,x,4,on,shop,joe,1,2 GiB\n", ("cpu",)),
        ("a,x,4,on,shop,joe,1,2 GiB\na,x,4,on,shop,joe,1,3 GiB\n", ("memory demand",)),
        ("a,x,4,on,shop,joe,1,2 GiB\na,x,4,on,shop,ann,1,2 GiB\n", ("owner",)),
        ("a,x,4,on,shop,joe,1,2 GiB\na,x,4,spare,shop,joe,1,2 GiB\n", ("state",)),
        ("a,x,4,on,shop,joe,1,2 GiB\na,y,4,on,shop,joe,1,2 GiB\n", ("site",)),
        ("a,x,4,on,shop,joe,1,2 GiB\na,y,4,on,shop,joe,1,2 GiB\na,x,4,on,shop,joe,1,2 GiB\n", ("site",)),
    ],
)
def test_a_fact_that_cannot_be_used_is_unknown_and_never_the_better_one(
    tmp_path: Path, rows: str, unknown: tuple[str, ...]
) -> None:
    """A second server of the same service is listed before and after, with smaller demands."""
    header = "host,site,cpu,state,role,owner,cpu demand,memory demand\n"
    other = "b,y,4,on,shop,joe,0.5,1 GiB\n"
    for text in (header + other + rows, header + rows + other):
        estate, result = imported(tmp_path, text)
        names = estate.fleet.name.tolist()
        assert (b"a" in names) == ("site" not in unknown)
        if b"a" in names:
            row = names.index(b"a")
            assert estate.fleet.capacity_known[row, 0] == ("cpu" not in unknown)
            wanted = "condemned" if "state" in unknown else "serving"
            assert SERVER_STATES[estate.fleet.state[row]] == wanted
        (shop,) = estate.services
        assert shop.demand[0] == (None if "cpu demand" in unknown else 1_000)
        assert shop.demand[1] == (None if "memory demand" in unknown else 2_048)
        assert shop.owner == (None if "owner" in unknown else "joe")
        assert result.partial == bool(unknown)


def test_a_host_whose_site_cannot_be_used_is_not_put_at_the_site_of_the_others(tmp_path: Path) -> None:
    source = tmp_path / "hosts.csv"
    source.write_text("host,site\na,x/y\nb,\nc,fra\n")
    result = import_estate("csv", source, tmp_path / "estate", options=Options(site="muc"))
    assert (tmp_path / "estate" / "servers.csv").read_text().splitlines()[1:] == [
        "b,muc",
        "c,fra",
    ]
    assert [(one.code, str(one.place)) for one in result.diagnostics] == [
        ("import-host-nowhere", "hosts.csv:2:3"),
        ("import-name", "hosts.csv:2:3"),
    ]


@pytest.mark.parametrize("rows", ["h1\nh2\n", "a b,x\n", ",x\n"])
def test_a_list_of_which_no_row_can_be_used_is_refused(tmp_path: Path, rows: str) -> None:
    assert refused(tmp_path, f"host,site\n{rows}") == {"import-shape": ["1:1"]}


def servers_in(tmp_path: Path) -> list[str]:
    with (tmp_path / "estate" / "servers.csv").open(newline="") as table:
        return [row["server"] for row in csv.DictReader(table)]


def test_a_list_of_which_most_rows_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """It would replace an estate of a hundred servers by one of one."""
    rows = "h0,fra\n" + "".join(f"h{n},fra,\n" for n in range(1, 100))
    assert refused(tmp_path, f"host,site\n{rows}") == {"import-shape": ["1:1"]}
    rows = "".join(f"h{n},\n" for n in range(1, 100))
    assert refused(tmp_path, f"host,site\nh0,fra\n{rows}") == {"import-shape": ["1:1"]}
    _, result = imported(tmp_path, "host,site\nh0,fra\nh1,fra\nh2,fra,\n")
    assert result.partial
    assert servers_in(tmp_path) == ["h0", "h1"]


@pytest.mark.parametrize("cells", [("fra", "x/y", "muc"), ("x/y", "fra", "fra"), ("fra", "fra", "x/y")])
def test_one_bad_cell_of_a_host_makes_the_fact_unknown_in_any_order(
    tmp_path: Path, cells: tuple[str, ...]
) -> None:
    rows = "".join(f"a,{cell}\n" for cell in cells)
    _, result = imported(tmp_path, f"host,site\n{rows}b,fra\nc,fra\nd,fra\ne,fra\n")
    assert servers_in(tmp_path) == ["b", "c", "d", "e"]
    assert result.partial


@pytest.mark.parametrize("rows", ["h2,fra,r1,A\nh2,fra,r1,B\n", "h2,fra,r1,A\u2192B\n"])
def test_a_doubtful_feed_of_a_host_makes_those_of_its_rack_unknown(tmp_path: Path, rows: str) -> None:
    estate, result = imported(tmp_path, f"host,site,rack,feed\nh1,fra,r1,A\n{rows}h3,fra,r2,A\n")
    assert {rack.id: tuple(rack.feeds) for rack in estate.racks} == {"fra/r1": (), "fra/r2": ("fra/A",)}
    assert result.partial


def test_with_strict_a_row_that_cannot_be_used_refuses_the_list(tmp_path: Path) -> None:
    source = tmp_path / "hosts.csv"
    source.write_text("host,site,cores\na,x,4\nb,x,lots\nc,x\n")
    with pytest.raises(SourceError) as caught:
        import_estate("csv", source, tmp_path / "estate", strict=True)
    assert not (tmp_path / "estate").exists()
    assert [(d.code, str(d.place)) for d in caught.value.diagnostics] == [
        ("import-cell", "hosts.csv:3:5"),
        ("import-row-length", "hosts.csv:4:1"),
    ]


def test_lists_without_hosts_or_sites(tmp_path: Path) -> None:
    assert refused(tmp_path, "a,b\n1,2\n") == {"import-column-missing": ["1:1", "1:1"]}
    assert refused(tmp_path, "host,b\n1,2\n") == {"import-column-missing": ["1:1"]}
    assert refused(tmp_path, "\n# nothing\n") == {"import-shape": ["hosts.csv"]}


def test_the_example_overlay_is_valid_once_its_signs_are_gone(tmp_path: Path) -> None:
    imported(tmp_path, "host,site,model,app\nh1,x,R1,a\nh2,y,R1,b\n")
    overlay = tmp_path / "estate" / "overlay.yaml"
    overlay.write_text("\n".join(line.removeprefix("# ") for line in overlay.read_text().splitlines()[3:]))
    estate = load(tmp_path / "estate")
    assert estate.services[0].tier == 1
    assert estate.links[0].ends == ("x", "y")


@pytest.mark.parametrize(
    "text",
    [
        'host,site\n"h1,x\n' + "y,z\n" * 200,
        ",".join(["host", "site", *("c" * (COLUMNS_MAX + 1))]) + "\n",
        "host,site\nh1," + "x" * (CELL_MAX + 1) + "\n",
        "host,site\nh1,x\0\n",
        "host,site\nh1," + "x" * 200_000 + "\n",
        "host,site\n" + "h1\n" * 5_000,
        "host,site\n" + "a b,x\n" * 50_000,
    ],
    ids=["open quote", "columns", "cell", "nul", "line", "short rows", "bad names"],
)
def test_hostile_lists_get_a_bounded_answer(tmp_path: Path, text: str) -> None:
    assert sum(map(len, refused(tmp_path, text).values())) <= 50


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, b"host,site\nh\xff,x\n")
    assert [(d.code, str(d.place)) for d in caught.value.diagnostics] == [("not-utf-8", "hosts.csv:2:2")]


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("호스트,센터\n웹-1,판교\n", "cp949", "CP949"),
        ("Rechner,Gebäude\nw1,Nürnberg-Süd\n", "cp850", "WINDOWS-1252"),
        ("host,site\nw1,Wrocław\n", "cp1250", "WINDOWS-1252"),
        ("host,site\nw1,Orléans\n", "mac-roman", "WINDOWS-1252"),
        ("host,site\nw1,Тула\n", "cp1251", "WINDOWS-1252"),
        ("host,site\nw1,Poznań\n", "cp1250", "WINDOWS-1252"),
        ("host,site\nw1,Eskişehir\n", "cp1254", "WINDOWS-1252"),
        ("host,site\nw1,ДЦ-1\n", "cp1251", "CP949"),
        ("host,site\nw1,Köln\n", "cp850", "WINDOWS-1252"),
        ("host,site\nw1,Orléans – été\n", "cp1252", "WINDOWS-1252"),
    ],
)
def test_text_of_another_encoding_names_it_and_how_to_convert_it(
    tmp_path: Path, text: str, encoding: str, named: str
) -> None:
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, text.encode(encoding))
    (told,) = caught.value.diagnostics
    assert told.code == "not-utf-8"
    assert f"iconv -f {named} " in (told.hint or "")


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("Rechner;Rechenzentrum;Arbeitsspeicher (GiB)\nw1;Nürnberg-Süd;7,5\n", "cp1252", "Windows-1252"),
        ("host;site;mémoire (GiB)\nw1;Orléans-Prés;7,5\n", "cp1252", "Windows-1252"),
        ("Rechner;Standort;RAM (GiB)\nw1;Größe-Süd;7,5\n", "cp1250", "Windows-1252"),
        ("host;site;ram (GiB)\nw1;판교;7,5\n", "utf-16", "UTF-16"),
        ("host;site;ram (GiB)\nw1;Süd;7,5\n", "utf-8-sig", None),
    ],
)
def test_a_table_of_a_spreadsheet_is_read_in_its_encoding(
    tmp_path: Path, text: str, encoding: str, named: str | None
) -> None:
    estate, result = imported(tmp_path, text.encode(encoding))
    assert estate.sites[0].id == text.splitlines()[1].split(";")[1].replace(" ", "-")
    assert estate.fleet.capacity[0, 1] == 7_680
    said = [one for one in result.diagnostics if one.code == "import-encoding"]
    assert len(said) == (encoding != "utf-8-sig")
    assert all("it is read as " in one.message and one.place.line in (1, 2) for one in said)
    assert named is None or f"read as {named}" in said[0].message
    assert not result.partial


@pytest.mark.parametrize("extra", [b"\x81", b"\x8d", b"\xb3", "é".encode(), b"\0"])
def test_a_table_with_one_byte_that_no_western_text_has_is_refused(tmp_path: Path, extra: bytes) -> None:
    """A file that is damaged, or of two encodings, would give wrong names."""
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, "host;site\nw1;Süd\nw2;Nord".encode("cp1252") + extra + b"\n")
    assert {one.code for one in caught.value.diagnostics} <= {"not-utf-8", "nul-byte"}


CITIES = {
    "cp1250": "Poznań Łódź Győr Pécs Plzeň České-Budějovice Cluj Košice Wrocław Ústí Kraków Gdańsk Brăila",
    "cp1251": "Тула Орёл ДЦ-1 Київ София д1 Б-Юг",
    "cp1252": "Köln Zürich Málaga Orléans Århus Malmö Nîmes Évora Logroño Größe Ängelholm Brønnøysund",
    "cp1253": "Αθήνα Πάτρα Δ-1",
    "cp1254": "Eskişehir İzmir Muğla Köyceğiz Üsküdar Şırnak",
    "cp1257": "Rīga Šiauliai Kärdla Pärnu Klaipėda Jūrmala Jõhvi",
    "cp850": "Köln Zürich Málaga Orléans Århus Malmö Nîmes Évora",
    "cp437": "Köln Zürich Málaga Orléans",
    "mac_roman": "Köln Zürich Málaga Orléans Nîmes Évora",
}


@given(st.data())
def test_no_name_of_another_encoding_is_read_wrong(data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(sorted(CITIES)))
    names = data.draw(st.lists(st.sampled_from(CITIES[encoding].split()), min_size=1, max_size=4))
    text = "host,site\n" + "".join(f"w{number},{name}\n" for number, name in enumerate(names))
    known = western(text.encode(encoding))
    assert known is None or known[0] == text
    german = set("ÄÉÓÖÜßäéóöü") | set(map(chr, range(128)))
    assert known is not None or encoding not in ("cp1250", "cp1252", "cp1254", "cp1257") or set(text) - german


CELL = st.text(st.characters(codec="ascii", exclude_characters="\r\0"), max_size=12).map(str.strip)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=6))
def test_cells_are_read_as_other_programs_write_them(rows: list[list[str]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["host", "site"], *rows])
    problems = Problems()
    table = read_cells(out.getvalue(), "t.csv", problems)
    assert table is not None
    assert [list(row.cells) for row in table.rows] == [[cell.strip() for cell in row] for row in rows]
    assert problems.all() == ()
    lines = out.getvalue().split("\n")
    for row in table.rows:
        assert lines[row.line - 1].startswith('"')


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    problems = Problems()
    table = read_cells(text, "t.csv", problems)
    assert table is not None or problems.has_errors


def test_where_a_host_is_and_how_it_is_reached(tmp_path: Path) -> None:
    estate, result = imported(
        tmp_path,
        "Name;Site;Location;Rack;U;Serial Number;iDRAC IP;Cluster;Power Feeds;Role;CPU demand;"
        "Memory demand (GiB)\n"
        "k1;fra;h1;r1;17;ABC-1;10.0.0.7;prod;A,B;shop;0,5;2\n"
        "k2;fra;h1;r2;3;ABC-2;10.0.0.8;prod;A;shop;1,5;1\n"
        "k3;muc;h9;r1;4;ABC-3;10.1.0.8;prod;A;;;\n",
    )
    assert [hall.id for hall in estate.halls] == ["fra/h1", "muc/h9"]
    assert [rack.id for rack in estate.racks] == ["fra/h1/r1", "fra/h1/r2", "muc/h9/r1"]
    assert [feed.id for feed in estate.feeds] == ["fra/A", "fra/B", "muc/A"]
    assert [pool.id for pool in estate.pools] == ["fra-prod", "muc-prod"]
    assert estate.fleet.serial.tolist() == [b"ABC-1", b"ABC-2", b"ABC-3"]
    assert estate.fleet.bmc_address.tolist() == [b"10.0.0.7", b"10.0.0.8", b"10.1.0.8"]
    assert estate.fleet.position.tolist() == [b"17", b"3", b"4"]
    assert estate.services[0].demand[:2] == (1_500, 2_048), "the highest of what the rows say"
    assert not [d for d in result.diagnostics if d.severity == "error"]


def test_one_site_for_a_list_without_a_column_of_sites(tmp_path: Path) -> None:
    source = tmp_path / "hosts.csv"
    source.write_text("host;cores\na;4\nb;8\n")
    import_estate("csv", source, tmp_path / "estate", options=Options(site="fra"))
    assert [site.id for site in load(tmp_path / "estate").sites] == ["fra"]


def test_the_total_of_a_pool_is_of_servers_that_run_and_is_not_stated_where_more_may_boot(
    tmp_path: Path,
) -> None:
    estate, _ = imported(
        tmp_path,
        "host;site;pool;cores;RAM (GiB);state\n"
        "a1;fra;a;8;16;serving\na2;fra;a;8;16;spare\na3;fra;a;8;16;retired\n"
        "b1;fra;b;8;16;retired\n"
        "c1;fra;c;8;16;serving\nc2;fra;c;8;16;dark\n",
    )
    assert {pool.id: pool.capacity[:2] for pool in estate.pools} == {
        "a": (16_000, 32_768),
        "b": (None, None),
        "c": (None, None),
    }
