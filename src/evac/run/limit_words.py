"""A limit as people say it: `90%` of what the estate says, `450 kW`, `200`. Pure."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Final

from evac.model.errors import RunError
from evac.run.limits import Limits

_VALUE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)\s*(%|W|kW|MW)?", re.ASCII)
_WATTS: Final = {"W": 1, "kW": 1_000, "MW": 1_000_000}
_WORDS: Final = "write a share of what the estate says (90%), watts (450 kW) or a plain number"


def capacity_of(limits: Limits, name: str, value: str) -> int:
    """What the run may hold of a limit when a person says `value`; what others hold of it is taken off.
    Raises RunError for a limit that the run does not have, and for words that are no value.
    """
    limit = next((one for one in limits.limits if one.id == name), None)
    if limit is None:
        near = get_close_matches(name, [one.id for one in limits.limits], 3)
        known = f"did you mean {' or '.join(near)}?" if near else "see the limits: evac run show RUN"
        raise RunError("limit-unknown", f"{name} is no limit of this run; {known}", known)
    found = _VALUE.fullmatch(value.strip())
    if found is None:
        raise RunError("limit-value", f"{value} is no value of a limit; {_WORDS}", _WORDS)
    thousandths, unit = round(float(found[1]) * 1_000), found[2] or ""
    if unit in _WATTS and not name.startswith(("power:", "inrush:")):
        raise RunError("limit-value", f"{name} is not counted in watts; {_WORDS}", _WORDS)
    if unit == "%":
        whole = (limit.whole or limit.capacity + limit.beside) * thousandths // 100_000
    else:
        whole = thousandths * _WATTS.get(unit, 1) // 1_000
    return max(0, whole - limit.beside)
