"""Fires as they are remembered and measured: one JSON file each, figures from the clients' ledger.

What evac did and when comes from its journal (`milestones`); what people noticed comes from the ledger. Both
are seconds since the fire.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from evac_lab import ledger
from evac_lab.faults import Struck
from evac_lab.ledger import Record
from evac_lab.state import LabFolder

MILESTONES: Final = ("detected", "decided", "fenced", "promoted", "shifted", "ended")
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire. seconds: of each milestone, None where it did not happen. lost_ids: at most 100 of them."""

    number: int
    kind: str
    lost_site: str
    burnt_at: float
    ledger_offset: int
    leader_burnt: bool = False
    reason: str = ""
    run: str = ""
    state: str = "burning"
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    first_write_seconds: float | None = None
    last_client_seconds: float | None = None
    clients: int = 0
    clients_recovered: int = 0
    acknowledged: int = 0
    failed_tries: int = 0
    lost: int | None = None
    lost_ids: tuple[str, ...] = ()
    longest_gap_seconds: float = 0.0
    double_primary_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The contract: one flat object."""
        row = asdict(self)
        seconds = row.pop("seconds")
        row.pop("ledger_offset")
        return {**row, **{f"{name}_seconds": seconds.get(name) for name in MILESTONES}}


def begin(folder: LabFolder, struck: Struck, offset: int, leader_burnt: bool, reason: str = "") -> Fire:
    """Remembers a fire the moment it is lit. offset: size of the ledger just before."""
    numbers = [fire.number for fire in read_all(folder)]
    number = max(numbers, default=0) + 1
    fire = Fire(number, struck.kind, struck.site, struck.at, offset, leader_burnt, reason)
    write(folder, fire)
    return fire


def measured(fire: Fire, records: Sequence[Record], until: float = 0.0) -> Fire:
    """The fire with what its clients have noticed. records: of the ledger, since it was lit; until: when
    nothing of the site lived any more.
    """
    found = ledger.measure(records, fire.burnt_at, until)
    return replace(
        fire,
        first_write_seconds=found.first_write_seconds,
        last_client_seconds=found.last_client_seconds,
        clients=found.clients,
        clients_recovered=found.recovered,
        acknowledged=found.acknowledged,
        failed_tries=found.failed,
        longest_gap_seconds=found.longest_gap_seconds,
        double_primary_seconds=found.double_primary_seconds,
    )


def with_losses(fire: Fire, lost: Sequence[str]) -> Fire:
    """The fire with the acknowledged messages that the database does not have."""
    return replace(fire, lost=len(lost), lost_ids=tuple(sorted(lost)[:100]))


def write(folder: LabFolder, fire: Fire) -> None:
    folder.fires.mkdir(parents=True, exist_ok=True)
    path = _path(folder, fire.number)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(fire), indent=1), encoding="utf-8")
    fresh.replace(path)


def read_all(folder: LabFolder) -> list[Fire]:
    """All fires of the lab, the first one first."""
    found = []
    for path in sorted(folder.fires.glob("fire-*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        found.append(Fire(**{**data, "lost_ids": tuple(data["lost_ids"])}))
    return sorted(found, key=lambda fire: fire.number)


def _path(folder: LabFolder, number: int) -> Path:
    return folder.fires / f"fire-{number:04d}.json"
