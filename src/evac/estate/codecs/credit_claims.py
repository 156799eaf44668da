"""Claims from CSV or JSON: every problem at once, with its place.

Columns other than those of a claim are refused: a form has names and addresses, which stay where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from evac.credit.ledger import Claim, problems_of
from evac.estate.codecs.cells import CellReader, Row
from evac.estate.codecs.credit_rules import read_money
from evac.estate.format.quantities import QuantityError
from evac.model.errors import EstateError

COLUMNS: Final = ("id", "account", "service", "loss", "received", "cycle")
NEEDED: Final = ("id", "account", "service", "loss", "received")


def load_claims(path: Path) -> tuple[Claim, ...]:
    """Raises EstateError with every problem."""
    reader = CellReader(path, "claim", "claims", COLUMNS, NEEDED)
    claims = [claim for row in reader.rows() if (claim := _claim(row, reader)) is not None]
    everything = (*reader.everything(), *problems_of(claims))
    if everything:
        raise EstateError(tuple(sorted(everything, key=lambda d: d.sort_key)), "claims")
    return tuple(claims)


def _claim(row: Row, reader: CellReader) -> Claim | None:
    place, cells = row
    if any(not cells.get(key, ("",))[0] for key in NEEDED):
        return None
    received = reader.moment(cells["received"])
    try:
        loss = read_money(cells["loss"][0])
    except QuantityError as error:
        reader.problems.add(error.code, error.message, cells["loss"][1], error.hint)
        return None
    if received is None:
        return None
    id, account, service, cycle = (
        cells.get(key, ("", place))[0] for key in ("id", "account", "service", "cycle")
    )
    return Claim(id, account, service, loss.minor, loss.currency, received, cycle, place)
