"""Turns the table `servers` into a Fleet, fully vectorised.

Names become indices by lookup tables; values missing for a server come from its class. The address of a
management controller is a host name, an IPv4 address or an IPv6 address in brackets, each with an optional
port; anything else never becomes part of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from evac.estate.format.bindings import ServerRows
from evac.estate.format.kinds import ID_MAX
from evac.estate.format.problems import Problems
from evac.estate.format.reading import FactBook
from evac.estate.tables.reading import UNKNOWN, Table, mask_of, text_of, whole_numbers
from evac.model.fleet import (
    BMC_NO,
    BMC_UNKNOWN,
    BMC_YES,
    SERVER_STATES,
    BoolColumn,
    CodeColumn,
    Fleet,
    IndexColumn,
    IntColumn,
    NameColumn,
    no_names,
)
from evac.model.records import dataclass
from evac.model.units import RESOURCES

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
_ADDRESS_HINT: Final = "NAME, 10.1.2.3 or [fd00::1], with :PORT if it is not the default"


@dataclass(frozen=True, slots=True, eq=False)
class Reached:
    """How to reach and find each server; V bytes each, empty if unknown."""

    address: NameColumn
    serial: NameColumn
    position: NameColumn


def read_bmcs(
    table: Table, bmc: CodeColumn, facts: FactBook, problems: Problems
) -> tuple[CodeColumn, Reached]:
    """(V,) codes of BMCs (yes where there is an address), and the three columns; notes invalid cells."""
    address = _cells(table, "bmc_address", facts).str.to_lowercase()
    serial, position = _cells(table, "serial", facts), _cells(table, "position", facts)
    known = mask_of(address.is_not_null())
    _check_addresses(table, address, problems)
    _check_shape(
        table, serial, "serial", _SERIAL, "letters, digits, blanks and . _ : / # -, at most 64", problems
    )
    _check_shape(
        table, position, "position", _POSITION, "the rack unit, such as 17; at most 16 characters", problems
    )
    _note_twice(table, address, "bmc_address", "bmc-address-twice", "BMC address", problems)
    _note_twice(table, serial, "serial", "serial-twice", "serial number", problems)
    contradicts = known & (bmc == BMC_NO)
    message = "a server without a BMC has the BMC address {}"
    table.report(
        problems,
        contradicts,
        "bmc_address",
        "bmc-contradiction",
        message,
        "set bmc to yes, or remove the address",
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
    """The texts of a column; null if missing, explicitly unknown, or past its shelf life."""
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
        table.report(problems, bad, column, "cell-invalid", f"{{}} is not a {column}", hint)


def _check_addresses(table: Table, cells: pl.Series, problems: Problems) -> None:
    """Checks the shape of host names and addresses: dotted numbers must be an IPv4 address, ports must be
    valid.
    """
    if cells.null_count() == len(cells):
        return
    port = cells.str.extract(_PORT + "$", 1).cast(pl.Int32)
    numeric = mask_of(cells.str.contains(_NUMERIC))
    good = mask_of(cells.str.contains(_HOST)) & mask_of(cells.str.len_bytes() <= _ADDRESS_MAX)
    good &= ~numeric | mask_of(cells.str.contains(_IPV4))
    good &= ~mask_of(~port.is_between(1, 65_535))
    good &= mask_of(cells.str.replace(_PORT + "$", "").str.len_bytes() <= _HOST_MAX)
    bad: BoolColumn = mask_of(cells.is_not_null()) & ~good
    table.report(
        problems, bad, "bmc_address", "cell-invalid", "{} is not the address of a BMC", _ADDRESS_HINT
    )


def _note_twice(
    table: Table, cells: pl.Series, column: str, code: str, words: str, problems: Problems
) -> None:
    if cells.null_count() == len(cells):
        return
    twice = mask_of(cells.is_duplicated() & ~cells.is_first_distinct() & cells.is_not_null())
    table.report(
        problems, twice, column, code, f"a second server with the {words} {{}}", "keep the correct one"
    )


COLUMNS: Final = (
    "server",
    "site",
    "rack",
    "class",
    "state",
    "pool",
    *RESOURCES,
    "watts",
    "boot_server",
    "bmc",
    *BMC_COLUMNS,
)
_NAME: Final = r"^[\p{L}\p{N}][\w.:@-]*$"
_YES: Final = ("yes", "true")
_NO: Final = ("no", "false")


def read_servers(
    table: Table, values: dict[str, Any], facts: FactBook, problems: Problems
) -> ServerRows | None:
    """The fleet of a table; None, with diagnostics, if rows are invalid.

    `values`: the assembled sections, whose positions the indices refer to.
    """
    before = problems.count
    _check_names(table, problems)
    rack, _ = lookup(table, "rack", [r.id for r in values["racks"]], problems)
    pool, _ = lookup(table, "pool", [p.id for p in values["pools"]], problems)
    classes, _ = lookup(table, "class", [c.id for c in values["classes"]], problems)
    boot, _ = lookup(table, "boot_server", [b.id for b in values["boot_servers"]], problems)
    site = _sites(table, values, rack, pool, problems)
    state = _states(table, problems)
    bmc, reached = read_bmcs(table, _bmcs(table, facts, problems), facts, problems)
    capacity, capacity_known = _capacity(table, classes, values["classes"], facts, problems)
    watts, watts_known = _with_class(
        table, "watts", classes, [c.watts for c in values["classes"]], facts, problems
    )
    if problems.count != before and problems.has_errors:
        return None
    names = text_of(table, "server")
    order = names.arg_sort().to_numpy().astype(np.int64)
    width = max(int(names.str.len_bytes().max() or 1), 1)  # type: ignore[arg-type]
    fleet = Fleet(
        name=as_bytes(names.gather(order), width),
        site=site[order],
        rack=rack[order],
        server_class=classes[order],
        pool=pool[order],
        boot_server=boot[order],
        state=state[order],
        capacity=capacity[order],
        capacity_known=capacity_known[order],
        watts=watts[order],
        watts_known=watts_known[order],
        bmc=bmc[order],
        bmc_address=reached.address[order],
        serial=reached.serial[order],
        position=reached.position[order],
    )
    return ServerRows(fleet, table, order)


def _check_names(table: Table, problems: Problems) -> None:
    names = text_of(table, "server")
    empty = mask_of(names.is_null())
    table.report(
        problems, empty, "server", "cell-missing", "a server without a name", "every row needs a server name"
    )
    bad = ~mask_of(names.str.contains(_NAME)) | mask_of(names.str.len_bytes() > ID_MAX)
    hint = "letters, digits and . _ - : @"
    table.report(problems, bad & ~empty, "server", "id-invalid", "{} is not a valid server name", hint)
    twice = mask_of(names.is_duplicated() & ~names.is_first_distinct())
    table.report(
        problems, twice & ~empty, "server", "row-twice", "a second row for server {}", "keep one of the two"
    )


def lookup(
    table: Table, column: str, names: Sequence[str], problems: Problems
) -> tuple[IndexColumn, BoolColumn]:
    """(V,) position in `names`, -1 if empty or unknown; (V,) which are explicitly unknown. Notes unknown
    names.
    """
    cells = text_of(table, column)
    if cells.null_count() == len(cells):
        return np.full(len(cells), -1, np.int32), np.zeros(len(cells), np.bool_)
    known = pl.DataFrame(
        {"name": list(names), "row": np.arange(len(names), dtype=np.int32)},
        schema_overrides={"name": pl.String},
    )
    rows = cells.to_frame("name").join(known, on="name", how="left", maintain_order="left")["row"]
    said = mask_of(cells == UNKNOWN)
    bad = mask_of(rows.is_null() & cells.is_not_null()) & ~said
    if bad.any():
        first = str(cells[int(np.flatnonzero(bad)[0])])
        hint = problems.suggest(first, names) or "define it in the YAML file, or leave the cell empty"
        what = column.replace("_", " ")
        table.report(problems, bad, column, "name-unknown", f"no {what} is named {{}}", hint)
    return rows.fill_null(-1).to_numpy().astype(np.int32), said


def _sites(
    table: Table, values: dict[str, Any], rack: IndexColumn, pool: IndexColumn, problems: Problems
) -> IndexColumn:
    """(V,) the site given for a server, else its rack's, else its pool's."""
    index = {site.id: row for row, site in enumerate(values["sites"])}
    said, _ = lookup(table, "site", list(index), problems)
    of_rack = _gather([index.get(r.site, -1) for r in values["racks"]], rack)
    of_pool = _gather([index.get(p.site, -1) for p in values["pools"]], pool)
    site = np.where(said >= 0, said, np.where(of_rack >= 0, of_rack, of_pool)).astype(np.int32)
    for other, column in ((of_rack, "rack"), (of_pool, "pool")):
        wrong = (other >= 0) & (site >= 0) & (other != site)
        table.report(
            problems,
            wrong,
            column,
            "site-contradiction",
            f"the {column} {{}} is not at the site of the server",
        )
    named = [
        pl.col(column).cast(pl.String).fill_null(UNKNOWN) != UNKNOWN for column in ("site", "rack", "pool")
    ]
    placed = mask_of(table.frame.select(pl.any_horizontal(named)).to_series())
    hint = "give a site, a rack or a pool"
    table.report(problems, (site < 0) & ~placed, "site", "cell-missing", "the server has no site", hint)
    return site


def _gather(values: list[int], rows: IndexColumn) -> IndexColumn:
    """values[rows], -1 if a row is -1."""
    return np.array([*values, -1], np.int32)[rows]


def _states(table: Table, problems: Problems) -> np.ndarray[Any, np.dtype[np.uint8]]:
    state, _ = lookup_words(table, "state", {word: code for code, word in enumerate(SERVER_STATES)}, problems)
    return np.where(state < 0, 0, state).astype(np.uint8)


def _bmcs(table: Table, facts: FactBook, problems: Problems) -> np.ndarray[Any, np.dtype[np.uint8]]:
    words = dict.fromkeys(_YES, BMC_YES) | dict.fromkeys(_NO, BMC_NO) | {UNKNOWN: BMC_UNKNOWN}
    bmc, _ = lookup_words(table, "bmc", words, problems)
    if facts.is_expired("servers") or facts.is_expired("servers/bmc"):
        bmc = np.full_like(bmc, BMC_UNKNOWN)
    return np.where(bmc < 0, BMC_UNKNOWN, bmc).astype(np.uint8)


def lookup_words(
    table: Table, column: str, words: dict[str, int], problems: Problems
) -> tuple[IndexColumn, BoolColumn]:
    """(V,) codes of words, -1 if empty; (V,) which are invalid, noted."""
    cells = text_of(table, column)
    codes = cells.replace_strict(list(words), list(words.values()), default=None, return_dtype=pl.Int32)
    wrong = mask_of(codes.is_null() & cells.is_not_null())
    table.report(
        problems,
        wrong,
        column,
        "not-a-choice",
        "{} is not allowed here",
        f"one of: {', '.join(words)}",
    )
    return codes.fill_null(-1).to_numpy().astype(np.int32), wrong


def _capacity(
    table: Table, classes: IndexColumn, known: Sequence[Any], facts: FactBook, problems: Problems
) -> tuple[IntColumn, BoolColumn]:
    amounts, masks = [], []
    for resource, column in enumerate(RESOURCES):
        values, stated = _with_class(
            table, column, classes, [c.capacity[resource] for c in known], facts, problems
        )
        amounts.append(values)
        masks.append(stated)
    return np.ascontiguousarray(np.stack(amounts, 1)), np.ascontiguousarray(np.stack(masks, 1))


def _with_class(
    table: Table,
    column: str,
    classes: IndexColumn,
    of_class: list[int | None],
    facts: FactBook,
    problems: Problems,
) -> tuple[IntColumn, BoolColumn]:
    """(V,) values and which are known: the server's own, else its class's; unknown if expired."""
    values, stated, said = whole_numbers(table, column, problems)
    if facts.is_expired("servers") or facts.is_expired(f"servers/{column}"):
        return np.zeros_like(values), np.zeros_like(stated)
    defaults = np.array([*(v or 0 for v in of_class), 0], np.int64)[classes]
    has_default = np.array([*(v is not None for v in of_class), False], np.bool_)[classes]
    borrowed = ~stated & ~said & has_default
    return np.where(stated, values, np.where(borrowed, defaults, 0)), stated | borrowed
