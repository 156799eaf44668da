"""A limit as people state it: `90%` of the estate's value, `450 kW`, `200`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from evac.model.errors import RunError
from evac.model.step_id import LimitId
from evac.run.limits import Limits

_VALUE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)\s*(%|W|kW|MW)?", re.ASCII)
_WATTS: Final = {"W": 1, "kW": 1_000, "MW": 1_000_000}
KINDS_MOST: Final = 12
_WORDS: Final = "give a share of the estate's value (90%), watts (450 kW) or a plain number"


def capacity_of(limits: Limits, name: str, value: str) -> int:
    """The run's share of a limit when a person states `value`; what others hold is subtracted. Raises
    RunError for an unknown limit or an invalid value.
    """
    limit = next((one for one in limits.limits if one.id == name), None)
    if limit is None:
        names = sorted(one.id for one in limits.limits)
        near = get_close_matches(name, names, 3)
        known = f"did you mean {' or '.join(near)}?" if near else _of_each_kind(names)
        raise RunError("limit-unknown", f"{name} is not a limit of this run; {known}", known)
    found = _VALUE.fullmatch(value.strip())
    if found is None:
        raise RunError("limit-value", f"invalid limit value: {value}; {_WORDS}", _WORDS)
    thousandths, unit = round(float(found[1]) * 1_000), found[2] or ""
    if unit in _WATTS and not LimitId.parse(name).is_watts:
        raise RunError("limit-value", f"{name} is not measured in watts; {_WORDS}", _WORDS)
    if unit == "%":
        whole = (limit.whole or limit.capacity + limit.beside) * thousandths // 100_000
    else:
        whole = thousandths * _WATTS.get(unit, 1) // 1_000
    return max(0, whole - limit.beside)


def _of_each_kind(names: Sequence[str]) -> str:
    """The first of each kind and their number: a large run has thousands."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(LimitId.parse(name).kind, []).append(name)
    found = [own[0] + (f" and {len(own) - 1} more of its kind" if own[1:] else "") for own in kinds.values()]
    return f"it has {', '.join(found[:KINDS_MOST])}" if found else "it has none"
