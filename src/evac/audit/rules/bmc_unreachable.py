"""EV132: servers that a plan would boot remotely, but whose BMC is unreachable or ambiguous."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity
from evac.model.fleet import BMC_YES, CONDEMNED, BoolColumn, NameColumn

_NAMED: Final = 3
_WORDS: Final = {"bmc_address": "BMC address", "serial": "serial number"}


def check(context: Context) -> Iterator[Finding]:
    """Warning if two servers share an address or a serial number; note if either is unknown."""
    fleet = context.estate.fleet
    ready = (fleet.bmc == BMC_YES) & (fleet.state != CONDEMNED)
    for column in _WORDS:
        values: NameColumn = getattr(fleet, column)
        double, missing = _doubtful(values)
        for number, site in enumerate(context.estate.sites):
            here = ready & (fleet.site == number)
            yield from _found(context, site.id, column, here & double, "warning")
            yield from _found(context, site.id, column, here & missing, "note")


def _doubtful(values: NameColumn) -> tuple[BoolColumn, BoolColumn]:
    """(V,) whether another server has the same value, and (V,) whether it is unknown; both false in a column
    that is empty throughout.
    """
    known = values != b""
    if not known.any():
        return known, known
    return _doubles(values), ~known


def _doubles(values: NameColumn) -> BoolColumn:
    """(V,) whether another server has the same value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    same = np.r_[False, (ordered[1:] == ordered[:-1]) & (ordered[1:] != b"")]
    found = np.zeros(len(values), np.bool_)
    found[order] = same | np.r_[same[1:], False]
    return found


def _found(
    context: Context, site: str, column: str, rows: BoolColumn, severity: Severity
) -> Iterator[Finding]:
    count = int(rows.sum())
    if not count:
        return
    fleet = context.estate.fleet
    names = [fleet.server_name(row) for row in np.flatnonzero(rows)[:_NAMED].tolist()]
    words = _WORDS[column]
    what = f"share their {words} with another" if severity == "warning" else f"have no {words} in the estate"
    number = context.impacts.losses.index.get(site)
    yield RULE.finding(
        context,
        severity,
        f"{site}:{column}",
        f"{counted(count, 'server')} of {site} {what}: {listed(names, _NAMED, count)}",
        f"Correct the `{column}` column in the server table.",
        losses=[] if number is None else [number],
        paths=(f"sites/{site}", "servers"),
    )


RULE = Rule(
    "bmc-unreachable",
    "EV132",
    "BMCs that cannot be found or identified",
    check,
    per_loss=False,
)
