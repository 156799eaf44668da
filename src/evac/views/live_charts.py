"""Charts of a loss and its run on the wall clock, as SVG: people without a service, and a Gantt chart.

Geometry goes into attributes and colours come from classes, so that no `style` is needed. Pure. Each
chart is drawn twice, `WIDE` and `NARROW` units wide, so that its letters keep their size on a phone.
People who use several services are counted once for each, because no one knows how many do: every figure
is an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from html import escape
from typing import Final

from evac.model.plan import Outcome
from evac.model.records import dataclass
from evac.steps.kind import Colour
from evac.views.words import people, wall_clock_here

Line = tuple[tuple[int, int], ...]
"""(time, people from then on), in chronological order."""
WIDE: Final = 1120
NARROW: Final = 358
HALF: Final = 720
FLAGS: Final = 3
"""Services whose expected restoration is labelled in the chart."""
LETTER: Final = 6.4
"""Width of a letter in units, for labels that must not overlap."""
ROW: Final = 18
"""Height of a label in units."""
_STEPS_S: Final = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
LEGEND: Final[tuple[tuple[Colour, str], ...]] = (
    ("fence", "Fence"),
    ("shed", "Shed"),
    ("promote", "Promote"),
    ("start", "Start"),
    ("verify", "Check"),
    ("shift", "Move traffic"),
)
Span = tuple[int, int]
"""Moments of the wall clock, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Downtime:
    """One service that is or was down because of the loss. Times are wall clock, 0 for never."""

    service: str
    people: int | None
    """None if it is not stated; sums leave it out and say so."""
    tier: int
    since_ms: int
    planned_ms: int
    """When the plan restores it."""
    back_ms: int
    """When it was restored."""
    expected_ms: int
    """When it will be restored, if nothing changes and everything that waits for a person is done now."""
    limit_ms: int
    """The promised time of restoration; 0: none is promised."""

    @property
    def is_down(self) -> bool:
        return not self.back_ms


@dataclass(frozen=True, slots=True)
class Impact:
    """A loss and the services that it took down; those still down first."""

    lost_ms: int
    now_ms: int
    services: tuple[Downtime, ...]

    @property
    def down(self) -> tuple[Downtime, ...]:
        return tuple(one for one in self.services if one.is_down)

    @property
    def people_now(self) -> int:
        return sum(one.people or 0 for one in self.down)

    @property
    def unstated_now(self) -> int:
        """Services that are down and not in it."""
        return sum(one.people is None for one in self.down)

    @property
    def unstated(self) -> int:
        """Services without a known number of users, which are in no figure."""
        return sum(one.people is None for one in self.services)

    @property
    def people_left(self) -> int:
        """People for whom this run restores nothing."""
        return sum(one.people or 0 for one in self.down if not one.expected_ms)

    @property
    def peak(self) -> int:
        return max((people for _, people in self.actual), default=0)

    @property
    def end_ms(self) -> int:
        """When the last service that can be restored is restored; 0 if none is."""
        return max((one.expected_ms or one.back_ms for one in self.services), default=0)

    @property
    def planned(self) -> Line:
        return _line((one.since_ms, one.planned_ms, one.people or 0) for one in self.services)

    @property
    def actual(self) -> Line:
        """Up to now."""
        return _line((one.since_ms, one.back_ms, one.people or 0) for one in self.services)

    @property
    def expected(self) -> Line:
        """From now on."""
        line = _line((self.now_ms, one.expected_ms, one.people or 0) for one in self.down)
        return line or ((self.now_ms, 0),)


def _line(spans: Iterable[tuple[int, int, int]]) -> Line:
    """spans: (from, until, people); an until of 0 never comes."""
    changes: dict[int, int] = {}
    for begin, end, many in spans:
        changes[begin] = changes.get(begin, 0) + many
        if end:
            end = max(begin, end)
            changes[end] = changes.get(end, 0) - many
    found, total = [], 0
    for at_ms in sorted(changes):
        total += changes[at_ms]
        found.append((at_ms, total))
    return tuple(found)


def impact_of(
    outcomes: Iterable[Outcome],
    unstated: frozenset[str],
    lost_ms: int,
    begun_ms: int,
    back: Mapping[str, int],
    coming: Mapping[str, int],
    now_ms: int,
) -> Impact:
    """unstated: services that do not state how many people use them. back, coming: service -> when it was
    restored, and when it is expected to be. begun_ms: when the run began, 0 before that; a service that
    is shed is down from then on, and one that survives and is moved from when its replicas go.
    """
    rows = []
    for one in outcomes:
        lost = one.base_ms is None or one.state in ("shed", "unplaced")
        if one.state in ("running", "unknown") or not (lost or one.goes_down):
            continue
        since = begun_ms if one.state == "shed" else lost_ms
        stays_ms = 0 if one.recovery_ms is None else (one.base_ms or 0) - one.recovery_ms
        if stays_ms > 0:
            since = begun_ms + stays_ms if 0 < begun_ms <= now_ms - stays_ms else 0
        planned = 0
        if one.base_ms is not None and not lost:
            planned = begun_ms + one.base_ms if begun_ms else coming.get(one.service, 0)
        limit = lost_ms + one.rto_ms if one.rto_ms is not None else 0
        at, expected = (0, 0) if lost else (back.get(one.service, 0), coming.get(one.service, 0))
        if since:
            count, expected = None if one.service in unstated else one.people, 0 if at else expected
            rows.append(Downtime(one.service, count, one.tier, since, planned, at, expected, limit))
    rows.sort(key=_urgency)
    return Impact(lost_ms, now_ms, tuple(rows))


def _urgency(one: Downtime) -> tuple[bool, bool, int, int, str]:
    return (bool(one.back_ms), not one.expected_ms, one.expected_ms, one.tier, one.service)


@dataclass(frozen=True, slots=True)
class GanttBar:
    """Work of one kind, done or in progress."""

    colour: Colour
    span: Span
    words: str


@dataclass(frozen=True, slots=True)
class GanttRow:
    """One row of the Gantt chart."""

    label: str
    planned: tuple[Span, ...]
    bars: tuple[GanttBar, ...]
    waiting: Span | None = None
    """While it waits for a person."""
    expected: Span | None = None
    """Work still to come."""
    note: str = ""


def at(moment_ms: int, seconds: bool = True) -> str:
    """`03:18:26`, on the clock of the people who read."""
    return wall_clock_here().at(moment_ms).strftime("%H:%M:%S" if seconds else "%H:%M")


def short(count: int) -> str:
    """`1.9 M`, `32 k`."""
    if count >= 999_500:
        return f"{round(count / 1e6, 1):g} M"
    return f"{round(count / 1e3, 1):g} k" if count >= 1_000 else str(count)


@dataclass(slots=True)
class _Frame:
    """A time axis within a picture."""

    width: int
    left: float
    right: float
    span: Span
    narrow: bool
    parts: list[str] = field(default_factory=list)

    def x(self, at_ms: int) -> float:
        share = (min(max(at_ms, self.span[0]), self.span[1]) - self.span[0]) / (self.span[1] - self.span[0])
        return self.left + (self.width - self.left - self.right) * share

    def ticks(self) -> Iterator[tuple[float, str]]:
        most = 4 if self.narrow else 9
        length_s = (self.span[1] - self.span[0]) / 1_000
        step = next((s for s in _STEPS_S if length_s / s <= most), _STEPS_S[-1])
        first = -(-self.span[0] // (step * 1_000))
        for n in range(first, self.span[1] // (step * 1_000) + 1):
            yield self.x(n * step * 1_000), at(n * step * 1_000, step < 60)

    def now(self, now_ms: int, top: float, bottom: float) -> None:
        """The line of the present, labelled with the time."""
        middle = min(max(self.x(now_ms), 31), self.width - 31)
        self.parts.append(
            f'<path class="now" d="M{self.x(now_ms):.1f} {top:g}V{bottom:g}"/>'
            f'<rect class="nowbox" rx="4" x="{middle - 31:.1f}" y="2" width="62" height="19"/>'
            f'<text class="nowtext mid" x="{middle:.1f}" y="15.5">{at(now_ms)}</text>'
        )


def _open(width: int, height: float, name: str, title: str) -> str:
    hatch = (
        f'<defs><pattern id="{name}-h" width="7" height="7" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="hatchbg" width="7" height="7"/>'
        '<path class="hatchln" d="M0 0V7"/></pattern></defs>'
    )
    return (
        f'<svg class="pic" viewBox="0 0 {width} {height:g}" role="img" aria-labelledby="{name}-t">'
        f'<title id="{name}-t">{escape(title)}</title>{hatch}'
    )


def curve(impact: Impact, waiting: Span | None, name: str, width: int = WIDE, height: int = 250) -> str:
    """People without a service over time. waiting: whether something waits for a person."""
    narrow = width == NARROW
    end = max(impact.end_ms, impact.now_ms, *(moment for moment, _ in impact.planned))
    margin = max(15_000, (end - impact.lost_ms) // 20)
    frame = _Frame(
        width,
        40 if narrow else 54,
        12 if narrow else 110,
        (impact.lost_ms - margin // 2, end + margin),
        narrow,
    )
    top, foot = 30.0, height - 28.0
    highest = _highest(max(impact.peak, 1))

    def y(count: int) -> float:
        return top + (foot - top) * (1 - count / highest)

    out = frame.parts
    out.append(_open(width, height, name, _curve_words(impact)))
    out += _axes(frame, y, highest, height)
    if waiting is not None:
        out += _wait_mark(frame, waiting, foot, name)
    drawn = _steps(impact.actual, frame.x, y, impact.now_ms)
    out.append(f'<path class="area" d="{drawn}V{foot}H{frame.x(impact.lost_ms):.1f}Z"/>')
    out.append(f'<path class="plan" d="{_steps(impact.planned, frame.x, y, frame.span[1])}"/>')
    out.append(f'<path class="fore" d="{_steps(impact.expected, frame.x, y, frame.span[1])}"/>')
    out.append(f'<path class="real" d="{drawn}"/>')
    if not narrow:
        out += _flags(impact, frame, y)
    frame.now(impact.now_ms, top - 8, foot)
    here = frame.x(impact.now_ms)
    out.append(f'<circle class="f-bad" r="4.5" cx="{here:.1f}" cy="{y(impact.people_now):.1f}"/>')
    beside = here + 38
    anchor = "" if beside < width - 80 else " end"
    out.append(
        f'<text class="t1{anchor}" x="{beside if not anchor else beside - 76:.1f}" y="16">'
        f"{short(impact.people_now)} now</text>"
    )
    return "".join((*out, "</svg>"))


def _axes(frame: _Frame, y: Callable[[int], float], highest: int, height: int) -> Iterator[str]:
    foot = y(0)
    for n in range(4):
        count = highest * n // 3
        style, level = "gridl" if n else "axis", y(count)
        yield f'<path class="{style}" d="M{frame.left} {level:.1f}H{frame.width - frame.right}"/>'
        yield f'<text class="end" x="{frame.left - 7}" y="{level + 4:.1f}">{short(count)}</text>'
    for x, clock in frame.ticks():
        yield f'<path class="axis" d="M{x:.1f} {foot}v4"/>'
        yield f'<text class="mid" x="{x:.1f}" y="{height - 8}">{clock}</text>'


def _wait_mark(frame: _Frame, waiting: Span, foot: float, name: str) -> Iterator[str]:
    x, end = frame.x(waiting[0]), frame.x(waiting[1])
    wide = max(1.0, end - x)
    yield f'<rect fill="url(#{name}-h)" x="{x:.1f}" y="{foot - 9}" width="{wide:.1f}" height="9"/>'
    if not frame.narrow:
        side, anchor = (end - 6, " end") if end > frame.left + 160 else (x + 4, "")
        words = "waiting for a person"
        yield f'<text class="gatetext{anchor}" x="{side:.1f}" y="{foot - 14}">{words}</text>'


def _highest(count: int) -> int:
    """The end of the axis: a round number that is divisible by three."""
    size = 1
    while size * 30 < count:
        size *= 10
    return next(size * n for n in (3, 6, 9, 12, 15, 18, 24, 30) if size * n >= count)


def _steps(line: Line, x: Callable[[int], float], y: Callable[[int], float], end_ms: int) -> str:
    if not line:
        return f"M{x(end_ms):.1f} {y(0):.1f}"
    first = f"M{x(line[0][0]):.1f} {y(line[0][1]):.1f}"
    rest = "".join(f"H{x(moment):.1f}V{y(count):.1f}" for moment, count in line[1:] if moment <= end_ms)
    return f"{first}{rest}H{x(end_ms):.1f}"


def _flags(impact: Impact, frame: _Frame, y: Callable[[int], float]) -> Iterator[str]:
    """Which service is expected when; chosen so that the fewest labels must be moved."""
    after = dict(impact.expected)
    coming = sorted((one for one in impact.down if one.expected_ms), key=lambda one: one.expected_ms)
    taken: list[tuple[float, float, float]] = []
    for n, one in enumerate(coming[:FLAGS]):
        x, low = frame.x(one.expected_ms), y(after.get(one.expected_ms, 0))
        high = max(44.0, low - 34 - ROW * (FLAGS - n))
        right = x < frame.width - frame.right - 120
        side, anchor = (x + 6, "") if right else (x - 6, "end")
        wide = LETTER * (len(one.service[:24]) + 10)
        begin = side if right else side - wide
        end = begin + wide
        while any(begin < last and first < end and abs(high - row) < ROW for first, last, row in taken):
            high += ROW
        taken.append((begin, end, high))
        yield (
            f'<path class="flag" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
            f'<circle class="f-bad" r="3" cx="{x:.1f}" cy="{low:.1f}"/>'
            f'<text class="over {anchor}" x="{side:.1f}" y="{high + 9:.1f}">'
            f'<tspan class="t1">{escape(one.service[:24])}</tspan> {at(one.expected_ms)}</text>'
        )
    if impact.people_left:
        left = [one.service for one in impact.down if not one.expected_ms and one.people != 0]
        names = ", ".join(left[:2]) + (f" +{len(left) - 2}" if len(left) > 2 else "")
        x, low = frame.width - frame.right + 8, y(impact.people_left)
        yield (
            f'<text class="t1" x="{x}" y="{low - 2:.1f}">{short(impact.people_left)} left</text>'
            f'<text x="{x}" y="{low + 13:.1f}">{escape(names[:18])}</text>'
        )


def _curve_words(impact: Impact) -> str:
    zone = wall_clock_here().label(impact.lost_ms)
    words = (
        f"People without a service over time: {people(impact.peak, impact.unstated)} at most since "
        f"{at(impact.lost_ms)} {zone}, {people(impact.people_now, impact.unstated_now)} now"
    )
    if impact.down and impact.end_ms:
        words += f", {people(impact.people_left)} after {at(impact.end_ms)} {zone}"
    return f"{words}. The table below the picture has the same figures."


def gantt(
    rows: Sequence[GanttRow], span: Span, now_ms: int, name: str, title: str, narrow: bool = False
) -> str:
    """Rows on the wall clock: planned, done or running, expected, and waiting. now_ms 0: the run has
    ended.
    """
    width, pitch = (NARROW, 46) if narrow else (WIDE, 30)
    longest = max((len(row.label) for row in rows), default=0)
    left = 4 if narrow else min(300.0, max(110.0, 14 + longest * LETTER))
    top, shift = 32, 15 if narrow else 0
    height = top + pitch * len(rows) + 26
    frame = _Frame(width, left, 14, span, narrow)
    out = frame.parts
    out.append(_open(width, height, name, title))
    out += [
        f'<path class="gridl" d="M{x:.1f} {top - 6}V{height - 24}"/>'
        f'<text class="mid" x="{x:.1f}" y="{height - 8}">{clock}</text>'
        for x, clock in frame.ticks()
    ]
    for n, row in enumerate(rows):
        y = top + n * pitch
        if n:
            out.append(f'<path class="gridl" d="M0 {y - 3}H{width}"/>')
        note = f' <tspan class="gatetext">{escape(row.note)}</tspan>' if row.note and narrow else ""
        out.append(f'<text class="t1" x="0" y="{y + 13}">{escape(row.label[:44])}{note}</text>')
        out += _bars(row, frame, y + shift, name)
    if now_ms:
        frame.now(now_ms, top - 8, height - 24)
    return "".join((*out, "</svg>"))


def _bars(row: GanttRow, frame: _Frame, y: float, name: str) -> Iterator[str]:
    def rect(span: Span, shape: str, top: float, tall: float, inner: str = "") -> str:
        x = frame.x(span[0])
        wide = max(2.0, frame.x(span[1]) - x - 0.8)
        body = f'<rect {shape} rx="2" x="{x:.1f}" y="{y + top:g}" width="{wide:.1f}" height="{tall:g}"'
        return f"{body}>{inner}</rect>" if inner else f"{body}/>"

    for span in row.planned:
        yield rect(span, 'class="planbar"', 16, 6)
    if row.expected is not None:
        yield rect(row.expected, 'class="coming s-start"', 3.75, 9.5, "<title>expected</title>")
    for bar in row.bars:
        yield rect(bar.span, f'class="f-{bar.colour}"', 3, 11, f"<title>{escape(bar.words)}</title>")
    if row.waiting is not None:
        yield rect(row.waiting, f'fill="url(#{name}-h)" class="gateline"', 0.5, 15.5)
        if not frame.narrow:
            x = frame.x(row.waiting[0])
            room = x - frame.left > 140
            side, anchor = (x - 8, " end") if room else (frame.x(row.waiting[1]) + 8, "")
            words = escape(row.note)
            yield f'<text class="gatetext{anchor}" x="{side:.1f}" y="{y + 12.5}">{words}</text>'


def table_rows(impact: Impact) -> list[dict[str, str]]:
    """What the chart of people shows, service by service, in the order in which they are restored."""

    def key(one: Downtime) -> tuple[bool, int, str]:
        moment = one.back_ms or one.expected_ms
        return (not moment, moment, one.service)

    left = impact.peak
    found = []
    for one in sorted(impact.services, key=key):
        moment = one.back_ms or one.expected_ms
        left -= (one.people or 0) if moment else 0
        found.append(
            {
                "service": one.service,
                "people": "unknown" if one.people is None else short(one.people),
                "planned": at(one.planned_ms) if one.planned_ms else "-",
                "when": f"{at(moment)}{'' if one.back_ms else ' expected'}" if moment else "not in this plan",
                "left": short(max(0, left)) if moment else "-",
            }
        )
    return found
