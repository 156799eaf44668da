"""The columns of the table `servers` by which a server is reached and found: BMC address, serial, position.

Checked for all rows at once. An address is a host name, an IPv4 address or an IPv6 address in brackets,
each with a port if it wants one; whatever else stands in a cell never becomes part of a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from evac.estate.format.problems import Problems
from evac.estate.format.provenance import FactBook
from evac.estate.tables.reading import UNKNOWN, Table, mask_of, text_of
from evac.model.fleet import BMC_NO, BMC_YES, BoolColumn, CodeColumn, Fleet, NameColumn, no_names

BMC_COLUMNS: Final = ("bmc_address", "serial", "position")

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HEX: Final = "[0-9A-Fa-f]{1,4}"
_IPV6: Final = "|".join(
    [f"(?:{_HEX}:){{7}}{_HEX}", f"(?:{_HEX}:){{1,7}}:", f":(?::{_HEX}){{1,7}}", "::"]
    + [f"(?:{_HEX}:){{1,{7 - after}}}(?::{_HEX}){{1,{after}}}" for after in range(1, 7)]
)
_PORT: Final = r"(?::([0-9]{1,5}))?"
_HOST: Final = rf"^(?:{_LABEL}(?:\.{_LABEL})*|\[(?:{_IPV6})\]){_PORT}$"
_NUMERIC: Final = rf"^[0-9.]+{_PORT}$"
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_IPV4: Final = rf"^{_OCTET}(?:\.{_OCTET}){{3}}{_PORT}$"
_HOST_MAX: Final = 253
_ADDRESS_MAX: Final = _HOST_MAX + len(":65535")
_SERIAL: Final = r"^[A-Za-z0-9](?:[A-Za-z0-9 ._:/#-]{0,62}[A-Za-z0-9])?$"
_POSITION: Final = r"^[A-Za-z0-9](?:[A-Za-z0-9 ._/-]{0,14}[A-Za-z0-9])?$"
_ADDRESS_HINT: Final = "NAME, 10.1.2.3 or [fd00::1], with :PORT if it is not the usual one"


@dataclass(frozen=True, slots=True, eq=False)
class Reached:
    """How to reach and find each server; V bytes each, empty where unknown."""

    address: NameColumn
    serial: NameColumn
    position: NameColumn


def read_bmcs(
    table: Table, bmc: CodeColumn, facts: FactBook, problems: Problems
) -> tuple[CodeColumn, Reached]:
    """(V,) codes of BMCs, where an address says yes, and the three columns; wrong cells are noted."""
    address = _cells(table, "bmc_address", facts).str.to_lowercase()
    serial, position = _cells(table, "serial", facts), _cells(table, "position", facts)
    known = mask_of(address.is_not_null())
    _check_addresses(table, address, problems)
    _check_shape(
        table, serial, "serial", _SERIAL, "letters, digits, blanks and . _ : / # -, at most 64", problems
    )
    _check_shape(
        table, position, "position", _POSITION, "the rack unit, such as 17; at most 16 signs", problems
    )
    _note_twice(table, address, "bmc_address", "bmc-address-twice", "BMC address", problems)
    _note_twice(table, serial, "serial", "serial-twice", "serial number", problems)
    contradicts = known & (bmc == BMC_NO)
    message = "a server without BMC whose BMC is at {}"
    table.report(
        problems, contradicts, "bmc_address", "bmc-contradiction", message, "write bmc yes, or no address"
    )
    found = Reached(_column(address), _column(serial), _column(position))
    return np.where(known, BMC_YES, bmc).astype(np.uint8), found


def bmc_columns(fleet: Fleet) -> dict[str, NameColumn]:
    """The three columns of a fleet by name."""
    return {"bmc_address": fleet.bmc_address, "serial": fleet.serial, "position": fleet.position}


def as_bytes(names: pl.Series, width: int) -> np.ndarray[Any, np.dtype[np.bytes_]]:
    """Text to fixed-width UTF-8, through the bytes of the column, without a loop."""
    return np.array(names.cast(pl.Binary).to_list(), dtype=f"S{width}") if len(names) else no_names(0)


def _cells(table: Table, column: str, facts: FactBook) -> pl.Series:
    """The texts of a column; null where unknown, said to be unknown, or past its shelf life."""
    if facts.is_expired("servers") or facts.is_expired(f"servers/{column}"):
        return pl.Series(column, np.full(len(table), None), dtype=pl.String)
    cells = text_of(table, column)
    return cells if cells.null_count() == len(cells) else cells.replace([UNKNOWN, ""], [None, None])


def _column(cells: pl.Series) -> NameColumn:
    if cells.null_count() == len(cells):
        return no_names(len(cells))
    width = max(int(cells.str.len_bytes().max() or 1), 1)  # type: ignore[arg-type]
    return as_bytes(cells.fill_null(""), width)


def _check_shape(
    table: Table, cells: pl.Series, column: str, pattern: str, hint: str, problems: Problems
) -> None:
    if cells.null_count() < len(cells):
        bad = mask_of(~cells.str.contains(pattern))
        table.report(problems, bad, column, "cell-invalid", f"{{}} is no {column}", hint)


def _check_addresses(table: Table, cells: pl.Series, problems: Problems) -> None:
    """Host names and addresses by their shape; numbers with dots must be an IPv4 address; ports are ports."""
    if cells.null_count() == len(cells):
        return
    port = cells.str.extract(_PORT + "$", 1).cast(pl.Int32)
    numeric = mask_of(cells.str.contains(_NUMERIC))
    good = mask_of(cells.str.contains(_HOST)) & mask_of(cells.str.len_bytes() <= _ADDRESS_MAX)
    good &= ~numeric | mask_of(cells.str.contains(_IPV4))
    good &= ~mask_of(~port.is_between(1, 65_535))
    good &= mask_of(cells.str.replace(_PORT + "$", "").str.len_bytes() <= _HOST_MAX)
    bad: BoolColumn = mask_of(cells.is_not_null()) & ~good
    table.report(problems, bad, "bmc_address", "cell-invalid", "{} is no address of a BMC", _ADDRESS_HINT)


def _note_twice(
    table: Table, cells: pl.Series, column: str, code: str, words: str, problems: Problems
) -> None:
    if cells.null_count() == len(cells):
        return
    twice = mask_of(cells.is_duplicated() & ~cells.is_first_distinct() & cells.is_not_null())
    table.report(problems, twice, column, code, f"a second server with the {words} {{}}", "keep the true one")
