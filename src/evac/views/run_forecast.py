"""When everything is on, and each service back, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from evac.run.forecast import Forecast, forecast
from evac.run.values import ENDED
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.views.words import duration, listed, moment, number

AGAIN_MS: Final = 10_000
"""A forecast of a large run takes a second: it is made anew after so long."""
LARGE: Final = 2_000
SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class LearnedRow:
    """How long steps of a kind take in this run."""

    kind: str
    predicted_ms: int
    measured: int
    failed: int
    permille: int


@dataclass(frozen=True, slots=True)
class ForecastRow:
    """When everything is on, and each service back."""

    made_at: str | None
    servers: int
    up: int
    to_the_floor: int
    all_on_at: str | None
    planned_all_on_at: str | None
    ends_at: str | None
    waits_for_a_person: bool
    services: Mapping[str, str | None]
    learned: tuple[LearnedRow, ...] = ()


class Forecaster:
    """The last forecast of each run, made anew when it is old."""

    def __init__(self) -> None:
        self._made: dict[str, Forecast] = {}

    def of(self, view: RunView, now_ms: int) -> Forecast | None:
        """None where there is nothing to foretell: the run has ended, has not begun, or boots nothing."""
        if view.phase in ENDED or view.started_ms < 0 or not any(kind_of(s.kind).boots for s in view.steps):
            return None
        last = self._made.get(view.spec.run)
        if last is None or len(view.steps) < LARGE or now_ms - last.at_ms >= AGAIN_MS:
            last = self._made[view.spec.run] = forecast(view, now_ms)
        return last


FORECASTS: Final = Forecaster()
"""Of this process, which shows a run again and again."""


def forecast_facts(said: ForecastRow) -> Iterator[tuple[str, str, str]]:
    """Rows of (name, words, style), of the document of a forecast."""
    words, style = _servers(
        said.servers,
        said.up,
        said.to_the_floor,
        _ms(said.all_on_at),
        _ms(said.planned_all_on_at),
    )
    if said.waits_for_a_person:
        words, style = f"{words}; as if what waits for a person were done now", "warning"
    yield "servers", words, style
    back = sorted(said.services.items(), key=lambda one: (one[1] or "", one[0]))
    if back:
        named = listed([f"{name} {_hours(at)}" for name, at in back[:SHOWN]])
        more = f", and {len(back) - SHOWN} more" if len(back) > SHOWN else ""
        yield "back at", named + more, ""


def servers_words(said: Forecast) -> tuple[str, str]:
    """How many servers are up, when all are, how many go to the floor; and style. Empty without boots."""
    if not said.boots:
        return "", ""
    return _servers(said.boots, said.up, said.floor, said.on_ms, said.planned_on_ms)


def _servers(boots: int, ups: int, floor: int, on_ms: int, planned_ms: int) -> tuple[str, str]:
    up, late_ms = f"{number(ups)} of {number(boots)} up", on_ms - planned_ms
    if floor and ups + floor >= boots:
        words = f"{up}; the others do not come up and go to the floor"
    elif ups >= boots:
        words = up
    else:
        words = f"{up}; all on at {clock(on_ms)}, {_beside_plan(late_ms)}"
        words += f"; {number(floor)} of {number(boots - ups)} not up go to the floor" if floor else ""
    return words, "warning" if late_ms > 60_000 or floor else ""


def _ms(at: str | None) -> int:
    return 0 if at is None else round(datetime.fromisoformat(at).timestamp() * 1_000)


def _hours(at: str | None) -> str:
    return clock(_ms(at))


def _beside_plan(late_ms: int) -> str:
    if abs(late_ms) < 60_000:
        return "as planned"
    return f"{duration(abs(late_ms) // 60_000 * 60_000)} {'later' if late_ms > 0 else 'earlier'} than planned"


def clock(at_ms: int) -> str:
    """Hours and minutes, UTC."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%H:%M")


def forecast_row(said: Forecast | None) -> ForecastRow | None:
    if said is None:
        return None
    return ForecastRow(
        made_at=moment(said.at_ms, "seconds"),
        servers=said.boots,
        up=said.up,
        to_the_floor=said.floor,
        all_on_at=moment(said.on_ms, "seconds"),
        planned_all_on_at=moment(said.planned_on_ms, "seconds"),
        ends_at=moment(said.end_ms, "seconds"),
        waits_for_a_person=said.waits,
        services={name: moment(at_ms, "seconds") for name, at_ms in said.services.items()},
        learned=tuple(
            LearnedRow(one.kind, one.predicted_ms, one.measured, one.failed, one.permille)
            for one in said.learned
        ),
    )
