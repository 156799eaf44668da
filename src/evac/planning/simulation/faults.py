"""How uncertain a step is: spread of its duration, odds of failing, and what is common to a trial.

The defaults are assumptions, named as such in the report; every one can be set. A failed step is
tried again after a pause; a server that stays dead is replaced by the next spare of its kind, which
takes as long again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from evac.model.errors import InvalidInput
from evac.steps.kind import Uncertainty
from evac.steps.registry import PLANNED

ATTEMPTS: Final = 5
PAUSE_TICKS: Final = 30


DEFAULTS: Final[dict[str, Uncertainty]] = {
    kind.name: kind.uncertainty for kind in PLANNED.values() if kind.uncertainty is not None
}

_FIELDS: Final = ("fail", "slow", "spread", "common")


def parse_faults(specs: Iterable[str]) -> dict[str, Uncertainty]:
    """`KIND:FIELD=NUMBER` over the defaults, for example `boot:fail=0.1` or `start:slow=2`.

    Raises InvalidInput naming every spec that cannot be read.
    """
    table = dict(DEFAULTS)
    wrong = []
    for spec in specs:
        kind, _, rest = spec.partition(":")
        name, _, text = rest.partition("=")
        value = _number(text)
        limit = 0.99 if name == "fail" else 100.0
        if kind not in PLANNED or name not in _FIELDS or value is None or not 0.0 <= value <= limit:
            wrong.append(spec[:80])
            continue
        table[kind] = _with(table.get(kind, Uncertainty()), name, value)
    if wrong:
        kinds, names = ", ".join(DEFAULTS), ", ".join(_FIELDS)
        hint = f"write KIND:FIELD=NUMBER; kinds: {kinds}; fields: {names} (fail below 1)"
        raise InvalidInput("fault-spec", f"cannot read fault {', '.join(wrong)}", hint)
    return table


def _with(found: Uncertainty, name: str, value: float) -> Uncertainty:
    if name == "fail":
        return replace(found, fail=value)
    if name == "slow":
        return replace(found, slow=value)
    return replace(found, spread=value) if name == "spread" else replace(found, common=value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value else None
