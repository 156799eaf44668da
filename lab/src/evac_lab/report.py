"""Fires as text, as a table and as JSON. Pure: values in, words out."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from evac_lab.fires import MILESTONES, SCHEMA_VERSION, Fire

_WORDS: Final = {
    "detected": "detected",
    "decided": "decided",
    "fenced": "old primary fenced",
    "promoted": "every primary can acknowledge",
    "shifted": "traffic shifted",
    "ended": "run ended",
}
_COLUMNS: Final[tuple[tuple[str, Callable[[Fire], float | None]], ...]] = (
    ("detected", lambda fire: fire.seconds.get("detected")),
    ("promoted", lambda fire: fire.seconds.get("promoted")),
    ("first write", lambda fire: fire.first_write_seconds),
    ("last client", lambda fire: fire.last_client_seconds),
)


def as_json(fires: Sequence[Fire]) -> str:
    """The machine-readable contract."""
    document = {"schema_version": SCHEMA_VERSION, "fires": [fire.to_json() for fire in fires]}
    return json.dumps(document, indent=2) + "\n"


def as_text(fires: Sequence[Fire]) -> str:
    """The last fire in full; all of them in a table when there were several."""
    if not fires:
        return "no fire yet\nnext: evac lab burn pangyo\n"
    parts = [timeline(fires[-1])]
    if len(fires) > 1:
        parts.append(table(fires))
    return "\n".join(parts)


def timeline(fire: Fire) -> str:
    """What happened when, in seconds since the fire."""
    when = datetime.fromtimestamp(fire.burnt_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    leader = ", evac's leader with it" if fire.leader_burnt else ""
    lines = [f"Fire {fire.number}: {fire.lost_site} ({fire.kind}){leader}, {when}", ""]
    if fire.reason:
        lines[1:1] = [f"  why: {fire.reason}"]
    rows = [(_WORDS[name], fire.seconds.get(name)) for name in MILESTONES]
    rows += [
        ("first write acknowledged", fire.first_write_seconds),
        (f"last of {fire.clients} clients writes again", fire.last_client_seconds),
    ]
    known = sorted(((at, words) for words, at in rows if at is not None), key=lambda row: row[0])
    lines += [f"  {at:>8.2f} s  {words}" for at, words in known]
    whole = fire.state in ("succeeded", "succeeded_with_exceptions")
    missing = [words for words, at in rows if at is None and not (whole and words == _WORDS["fenced"])]
    if missing:
        lines += [f"  {'-':>10}  {words}: not seen" for words in missing]
    lines += ["", *_counts(fire)]
    return "\n".join(lines) + "\n"


def _counts(fire: Fire) -> list[str]:
    lost = "not counted yet" if fire.lost is None else f"{fire.lost:,}"
    lines = [
        f"  acknowledged   {fire.acknowledged:,} messages since the fire; lost of all acknowledged: {lost}",
        f"  clients        {fire.clients_recovered} of {fire.clients} write again; "
        f"{fire.failed_tries:,} tries failed; longest silence {fire.longest_gap_seconds:.2f} s",
        f"  two primaries  {fire.double_primary_seconds:.2f} s",
    ]
    if fire.lost_ids:
        lines.append(f"  lost           {', '.join(fire.lost_ids[:5])}" + (" ..." if fire.lost else ""))
    return lines


def table(fires: Sequence[Fire]) -> str:
    """One line a fire, then the medians."""
    head = f"  {'fire':>4}  {'lost':<8}" + "".join(f"{name:>13}" for name, _ in _COLUMNS)
    lines = [head + f"{'lost msgs':>11}{'2 primaries':>13}"]
    for fire in fires:
        cells = "".join(f"{_seconds(value(fire)):>13}" for _, value in _COLUMNS)
        lost = "?" if fire.lost is None else str(fire.lost)
        double = _seconds(fire.double_primary_seconds)
        lines.append(f"  {fire.number:>4}  {fire.lost_site:<8}{cells}{lost:>11}{double:>13}")
    cells = "".join(f"{_seconds(_median(fires, value)):>13}" for _, value in _COLUMNS)
    lines.append(f"  {'median':<14}{cells}")
    return "\n".join(lines) + "\n"


def _median(fires: Sequence[Fire], value: Callable[[Fire], float | None]) -> float | None:
    found = [seconds for fire in fires if (seconds := value(fire)) is not None]
    return statistics.median(found) if found else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
