"""Tables become columns: defaults from classes and racks, names to indices, every spelling of a file."""

import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evac.estate import check, load, write
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, SERVER_STATES
from tests.unit.estate.large import large_estate

YAML = """evac: 1
sites: {a: {}, b: {}}
halls: {a/h: {}}
feeds: {a/f1: {}, a/f2: {}}
classes: {web: {cpu: 8 cores, memory: 16 GiB, watts: 200 W}}
pools: {p: {site: b}}
services: {x: {demand: {cpu: 1 core}, spread: {per_server: 3}}, y: {replicas: 9}}
"""
RACKS = (
    "rack,hall,feeds,power_budget_watts\n"
    "a/h/r1,,a/f2+a/f1,12000\n"
    "a/h/r2,unknown,,\n"
    "a/r3,a/h,unknown,unknown\n"
)
SERVERS = (
    "server,rack,class,state,pool,cpu_millicores,memory_mib,watts,bmc,site\n"
    "s2,a/h/r1,web,spare,,,,,yes,\n"
    "s1,a/r3,web,,,4000,unknown,0,no,a\n"
    "s3,,,condemned,p,,,,,\n"
)
REPLICAS = "service,target,count\nx,s1,2\ny,b,4\nx,p,3\nx,s2,1\ny,a,5\nx,a,0\n"


def folder_of(path: Path, servers: str = SERVERS) -> Path:
    (path / "estate.yaml").write_text(YAML)
    (path / "racks.csv").write_text(RACKS)
    (path / "servers.csv").write_bytes(servers.encode())
    (path / "replicas.csv").write_text(REPLICAS)
    return path


def test_tables_become_columns(tmp_path: Path) -> None:
    estate = load(folder_of(tmp_path))
    fleet = estate.fleet
    assert [fleet.server_name(row) for row in range(3)] == ["s1", "s2", "s3"]
    assert [estate.sites[site].id for site in fleet.site] == ["a", "a", "b"]
    assert [estate.racks[rack].id if rack >= 0 else None for rack in fleet.rack] == ["a/r3", "a/h/r1", None]
    assert [SERVER_STATES[code] for code in fleet.state] == ["serving", "spare", "condemned"]
    assert fleet.pool.tolist() == [-1, -1, 0]
    assert fleet.capacity[:, :2].tolist() == [[4_000, 0], [8_000, 16_384], [0, 0]]
    assert fleet.capacity_known[:, :2].tolist() == [[True, False], [True, True], [False, False]]
    assert fleet.watts.tolist() == [0, 200, 0]
    assert fleet.watts_known.tolist() == [True, True, False]
    assert fleet.bmc.tolist() == [0, 1, 2]


def test_racks_take_hall_and_site_from_their_path(tmp_path: Path) -> None:
    racks = {rack.id: rack for rack in load(folder_of(tmp_path)).racks}
    first = racks["a/h/r1"]
    assert (first.site, first.hall, first.feeds, first.power_budget_watts) == (
        "a",
        "a/h",
        ("a/f1", "a/f2"),
        12_000,
    )
    assert (racks["a/h/r2"].hall, racks["a/h/r2"].feeds) == (None, ())
    assert (racks["a/r3"].hall, racks["a/r3"].power_budget_watts) == ("a/h", None)


def test_bindings_are_sorted_and_fill_in_the_count(tmp_path: Path) -> None:
    estate = load(folder_of(tmp_path))
    replicas = estate.replicas
    columns = (replicas.service, replicas.kind, replicas.target, replicas.count)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert rows == [
        (0, ON_SERVER, 0, 2),
        (0, ON_SERVER, 1, 1),
        (0, ON_POOL, 0, 3),
        (1, AT_SITE, 0, 5),
        (1, AT_SITE, 1, 4),
    ]
    assert [service.replicas for service in estate.services] == [6, 9]


@pytest.mark.parametrize(
    "text",
    [
        SERVERS.replace("\n", "\r\n"),
        "\ufeff" + SERVERS,
        SERVERS.rstrip("\n"),
        SERVERS.replace("\n", "\n\n") + "\n\n",
        SERVERS.replace("s1", '"s1"').replace("web", '"web"'),
    ],
    ids=["windows", "byte order mark", "no last line end", "blank lines", "quotes"],
)
def test_every_spelling_of_a_file_is_the_same_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    plain, spelled = load(folder_of(tmp_path / "one")), load(folder_of(tmp_path / "two", text))
    assert estate_digest(plain) == estate_digest(spelled)


@given(
    table=st.sampled_from(("racks", "servers", "replicas")),
    after=st.sets(st.integers(0, 6)),
    end=st.sampled_from(("\n", "\r\n", "\r")),
    closed=st.booleans(),
)
@example(table="racks", after={3}, end="\n", closed=True)
@example(table="servers", after={3}, end="\r\n", closed=True)
@example(table="replicas", after={6}, end="\n", closed=True)
def test_blank_lines_take_no_row_away(
    tmp_path_factory: pytest.TempPathFactory, table: str, after: set[int], end: str, closed: bool
) -> None:
    """Wherever they are: between rows, after the last one, or both; with or without a last line end. after:
    the lines that a blank one follows.
    """
    plain, spaced = (folder_of(tmp_path_factory.mktemp(name)) for name in ("plain", "spaced"))
    lines = (spaced / f"{table}.csv").read_text().splitlines()
    text = "".join(f"{line}{end * (1 + (number in after))}" for number, line in enumerate(lines))
    (spaced / f"{table}.csv").write_bytes((text if closed else text.rstrip("\r\n")).encode())
    (found,) = check(spaced).diagnostics
    assert (found.code, found.place.file) == ("replicas-on-dark-server", "estate.yaml")
    assert estate_digest(load(spaced)) == estate_digest(load(plain))


def test_the_order_of_rows_and_columns_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    plain = load(folder_of(tmp_path / "one"))
    folder = folder_of(tmp_path / "two")
    for name in ("racks", "servers", "replicas"):
        frame = pl.read_csv(folder / f"{name}.csv", infer_schema=False)
        frame.reverse().select(reversed(frame.columns)).write_csv(folder / f"{name}.csv")
    assert estate_digest(plain) == estate_digest(load(folder))


def test_empty_tables_are_tables(tmp_path: Path) -> None:
    folder_of(tmp_path)
    for name in ("racks", "servers", "replicas"):
        file = tmp_path / f"{name}.csv"
        for text in (file.read_text().split("\n")[0], file.read_text().split("\n")[0] + "\n\n"):
            file.write_text(text)
            result = check(tmp_path)
            assert {d.code for d in result.diagnostics} <= {"name-unknown"}
    assert load(tmp_path).replicas.count.tolist() == []


def test_places_in_blank_and_quoted_files(tmp_path: Path) -> None:
    folder_of(tmp_path, 'server,rack,class,site\n\n"s1","a/h/r1",wab,a\n')
    wrong = next(d for d in check(tmp_path).diagnostics if d.code == "name-unknown")
    assert str(wrong.place) == "servers.csv:3:15"


def test_parquet_names_row_and_column(tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "servers.csv").unlink()
    frame = pl.DataFrame(
        {"server": ["s1", "s2"], "class": ["web", "wab"], "site": ["a", "a"], "bmc": [True, None]}
    )
    frame.with_columns(pl.col("class").cast(pl.Categorical)).write_parquet(tmp_path / "servers.parquet")
    wrong = next(d for d in check(tmp_path).diagnostics if d.code == "name-unknown")
    assert str(wrong.place) == "servers.parquet:2:2"


@pytest.fixture(scope="module")
def company() -> Estate:
    return large_estate(90_000, 200_000, 1_200)


@pytest.mark.parametrize("tables", ["csv", "parquet"])
def test_a_large_estate_is_checked_in_seconds(company: Estate, tables: str, tmp_path: Path) -> None:
    """Bench measures; this holds the order of magnitude on a busy machine."""
    write(company, tmp_path / "out", tables=tables)  # type: ignore[arg-type]
    start = time.process_time()
    result = check(tmp_path / "out")
    seconds = time.process_time() - start
    assert result.estate is not None
    assert len(result.estate.fleet) == 90_000
    assert seconds < 8


def test_a_large_estate_full_of_errors_is_checked_in_seconds(company: Estate, tmp_path: Path) -> None:
    write(company, tmp_path / "out")
    servers = tmp_path / "out" / "servers.csv"
    servers.write_text(servers.read_text().replace("web", "wed").replace("pangyo", "pangjo"))
    services = tmp_path / "out" / "services.yaml"
    services.write_text(services.read_text().replace(" min", " mins").replace("store-", "stroe-"))
    start = time.process_time()
    result = check(tmp_path / "out")
    assert time.process_time() - start < 10
    assert {"name-unknown", "unit-unknown", "more-problems"} <= {d.code for d in result.diagnostics}
    assert len(result.diagnostics) < 1_000
