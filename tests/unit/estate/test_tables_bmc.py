"""BMC addresses, serial numbers and positions: read, checked, written, counted in the digest."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from evac.estate import check, load, write
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.fleet import BMC_YES, no_names
from tests.unit.estate.large import large_estate

YAML = "evac: 1\nsites: {a: {}}\n"
GOOD = (
    "10.64.1.2",
    "10.64.1.2:8443",
    "bmc-s1",
    "BMC-s1.mgmt.example.net:443",
    "[fd00::1]",
    "[fd00::1]:443",
    "[::]",
    "[1:2:3:4:5:6:7:8]",
    "[1::8]",
    "a" * 63 + ".example",
    "0x1.example",
)
BAD = (
    "10.64.1.256",
    "10.64.1",
    "10.64.1.2.3",
    "10.64.1.2:0",
    "10.64.1.2:65536",
    "10.64.1.2:",
    "fd00::1",
    "[fd00::1",
    "[fd00:::1]",
    "[1:2:3:4:5:6:7:8:9]",
    "[fd00::1]x",
    "-s1",
    "s1-",
    "a..b",
    "a" * 64,
    "a b",
    "https://s1",
    "s1/redfish",
    "user@s1",
    "s1:port",
    "s1\u00e9",
    "s1\x00",
    "%31",
    ".".join(["a" * 60] * 5),
    "[fe80::1%eth0]",
    "s1:8443:9",
)


def folder_of(path: Path, servers: str, yaml: str = YAML) -> Path:
    (path / "estate.yaml").write_text(yaml)
    (path / "servers.csv").write_text(servers)
    return path


def codes(path: Path) -> list[str]:
    return [d.code for d in check(path).diagnostics if d.code != "facts-never-expire"]


def test_the_columns_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    rows = "s2,a,,BMC-2:8443,0017,\ns1,a,yes,10.0.0.1,,U17\ns3,a,,unknown,,\n"
    rows = "server,site,bmc,bmc_address,serial,position\n" + rows
    fleet = load(folder_of(tmp_path, rows)).fleet
    assert [fleet.bmc_of(row) for row in range(3)] == [
        ("10.0.0.1", "", "U17"),
        ("bmc-2:8443", "0017", ""),
        ("", "", ""),
    ]
    assert fleet.bmc.tolist() == [BMC_YES, BMC_YES, 2]


@pytest.mark.parametrize("address", GOOD)
def test_an_address_is_taken(address: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, f"server,site,bmc_address\ns1,a,{address}\n")
    assert codes(folder) == []
    assert load(folder).fleet.bmc_of(0)[0] == address.lower()


@pytest.mark.parametrize("address", BAD)
def test_what_is_no_address_is_refused_with_its_place(address: str, tmp_path: Path) -> None:
    result = check(folder_of(tmp_path, f"server,site,bmc_address\ns1,a,{address}\n"))
    found = [d for d in result.diagnostics if d.severity == "error"]
    assert found
    assert result.estate is None
    assert str(found[0].place).startswith("servers.csv")


@pytest.mark.parametrize(
    ("serial", "position"),
    [
        ("x" * 65, "1"),
        ("=cmd()", "1"),
        ("a\tb", "1"),
        (" a", "1"),
        ("ok", "x" * 17),
        ("ok", "-1"),
        ("ok", "u;1"),
    ],
)
def test_serials_and_positions_are_bounded(serial: str, position: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, f"server,site,serial,position\ns1,a,{serial},{position}\n")
    assert codes(folder) == ["cell-invalid"]


def test_doubles_are_said_and_kept(tmp_path: Path) -> None:
    rows = "server,site,bmc_address,serial\ns1,a,bmc-1,A\ns2,a,BMC-1,B\ns3,a,bmc-3,A\n"
    result = check(folder_of(tmp_path, rows))
    assert {(d.code, d.severity, str(d.place)) for d in result.diagnostics if "twice" in d.code} == {
        ("bmc-address-twice", "warning", "servers.csv:3:6"),
        ("serial-twice", "warning", "servers.csv:4:12"),
    }
    assert result.estate is not None


def test_no_bmc_and_an_address_contradict_each_other(tmp_path: Path) -> None:
    assert codes(folder_of(tmp_path, "server,site,bmc,bmc_address\ns1,a,no,bmc-1\n")) == ["bmc-contradiction"]


def test_an_address_past_its_shelf_life_is_unknown(tmp_path: Path) -> None:
    yaml = YAML + "as_of: 2026-11-01\nfacts: {servers/bmc_address: {observed: 2025-01-01, good_for: 30 d}}\n"
    fleet = load(folder_of(tmp_path, "server,site,bmc_address,serial\ns1,a,bmc-1,A\n", yaml)).fleet
    assert fleet.bmc_of(0) == ("", "A", "")


def test_parquet_may_count_positions_and_serials(tmp_path: Path) -> None:
    folder_of(tmp_path, "")
    (tmp_path / "servers.csv").unlink()
    frame = pl.DataFrame(
        {"server": ["s1"], "site": ["a"], "serial": [4711], "position": [17], "bmc_address": ["b"]}
    )
    frame.write_parquet(tmp_path / "servers.parquet")
    assert load(tmp_path).fleet.bmc_of(0) == ("b", "4711", "17")


@pytest.fixture(scope="module")
def company() -> Estate:
    return large_estate(90_000, 1_000, 10)


@pytest.mark.parametrize("tables", ["csv", "parquet"])
def test_ninety_thousand_come_back_the_same_in_seconds(company: Estate, tables: str, tmp_path: Path) -> None:
    write(company, tmp_path / "out", tables=tables)  # type: ignore[arg-type]
    start = time.process_time()
    found = load(tmp_path / "out")
    assert time.process_time() - start < 6
    assert found.fleet.bmc_of(89_999) == company.fleet.bmc_of(89_999)
    assert estate_digest(found) == estate_digest(company)


def test_the_digest_counts_what_is_known_and_nothing_else(company: Estate) -> None:
    digests = {estate_digest(company)}
    for column in ("bmc_address", "serial", "position"):
        fleet = replace(company.fleet, **{column: no_names(90_000)})
        digests.add(estate_digest(replace(company, fleet=fleet)))
    assert len(digests) == 4
    swapped = company.fleet.serial[np.r_[1, 0, 2:90_000]]
    assert estate_digest(replace(company, fleet=replace(company.fleet, serial=swapped))) not in digests
